//! From a configuration file to everything that is built of it: TLS, users, parameters of sessions and pools. All or nothing:
//! what is returned here is complete, and what fails leaves the running configuration as it was.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::directory::{ConfigDirectory, Numbers};
use super::files::{Files, Kind};
use super::ha::material::PairMaterial;
use super::{ldap, rules};
use crate::auth::hba::Rules;
use crate::auth::{Method, UserList};
use crate::config::{self, AuthType, Config, Problem, Settings, UnknownStatement};
use crate::net::dial::TcpOptions;
use crate::net::names::Ttls;
use crate::pool::GlobalParams;
use crate::session::io::ldap::LdapAccess;
use crate::session::io::peers::{PeerPool, Peers};
use crate::session::io::route::{LogParams, Params};
use crate::session::params::Tracked;
use crate::tls::{Acceptor, AcceptorParams, Connector, ConnectorParams, PemFile, SslMode, TlsError};
use zeroize::Zeroizing;

/// A configuration that can be put in force.
pub struct Setup {
    /// The configuration.
    pub config: Arc<Config>,
    /// Who is who.
    pub directory: Arc<ConfigDirectory>,
    /// Settings of sessions.
    pub params: Params,
    /// Settings of pools.
    pub globals: GlobalParams,
    /// By what the nodes of a pair know each other; `None` if there is no pair, or what is in force stays so.
    pub pair: Option<Arc<PairMaterial>>,
    /// What to log about its TLS files and access rules: what shows only when several of them are looked at together.
    pub tls_warnings: Vec<String>,
    /// What to log about the rest.
    pub warnings: Vec<String>,
}

/// The first configuration of a process, built before it gave up the privileges that reading it may take.
pub struct Boot {
    /// What was built.
    pub setup: Setup,
    /// Ids of databases and users, for later reloads.
    pub numbers: Arc<Mutex<Numbers>>,
    /// The parameters that follow clients, fixed at start.
    pub tracked: Arc<Tracked>,
    /// What has read the files, for later reloads.
    pub files: Files,
}

impl Boot {
    /// Builds everything of `config`, which `files` has read.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn new(config: Config, files: Files) -> Result<Self, SetupError> {
        let numbers = Arc::new(Mutex::new(Numbers::default()));
        let tracked = tracked(&config.settings);
        let setup = build(config, &numbers, &tracked, &files)?;
        Ok(Self { setup, numbers, tracked, files })
    }
}

/// Why a configuration cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Problem>),
    /// A TLS setting or file.
    #[error("TLS setup failed: {0}")]
    Tls(String),
    /// `auth_hba_file` or `auth_ident_file`, with every bad line, or `auth_ldap_options`.
    #[error("{0}")]
    Rules(String),
    /// The file of users.
    #[error("auth_file: could not open \"{path}\" ({reason}); create it or correct the setting auth_file")]
    AuthFile {
        /// As configured.
        path: String,
        /// The system's answer.
        reason: String,
    },
}

impl From<TlsError> for SetupError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error.to_string())
    }
}

/// Reads the file.
///
/// # Errors
/// [`SetupError::Config`], everything that is wrong at once.
pub fn read(path: &Path, files: &Files) -> Result<(Config, Vec<Problem>), SetupError> {
    files.begin();
    config::load(path, &mut |path| files.read(path, Kind::Configuration)).map_err(SetupError::Config)
}

/// Builds everything of a configuration.
///
/// # Errors
/// [`SetupError`].
pub fn build(
    config: Config,
    numbers: &Arc<Mutex<Numbers>>,
    tracked: &Arc<Tracked>,
    files: &Files,
) -> Result<Setup, SetupError> {
    let settings = &config.settings;
    let (mut tls_warnings, mut warnings) = (Vec::new(), Vec::new());
    let acceptor = acceptor(settings, files, &mut tls_warnings)?;
    let connector = Arc::new(connector(settings, files, &mut tls_warnings)?);
    let users = Arc::new(users(settings, files, &mut warnings)?);
    let rules = rules::read(settings, files, &mut tls_warnings)?;
    let ldap = ldap::access(settings, rules.as_deref(), files, &mut tls_warnings)?;
    let pair = config.ha.as_ref().map(|ha| PairMaterial::read(ha, files)).transpose().map_err(SetupError::Tls)?;
    let setup =
        assemble(config, (acceptor, connector), (users, rules, ldap), numbers, tracked, (tls_warnings, warnings));
    Ok(Setup { pair: pair.flatten().map(Arc::new), ..setup })
}

/// As [`build`], but where the TLS settings cannot be used those of `running` stay in force (PgBouncer: a SET of half of a new
/// set of files must not fail), and where the file of users cannot be read, as it is named now, so do its users, and likewise the
/// access rules. The second value tells why TLS was kept, if so.
///
/// # Errors
/// [`SetupError`], but for those of TLS.
pub fn build_keeping(
    config: Config,
    (running, directory): (&Params, &ConfigDirectory),
    numbers: &Arc<Mutex<Numbers>>,
    files: &Files,
) -> Result<(Setup, Option<SetupError>), SetupError> {
    let settings = &config.settings;
    let (mut tls_warnings, mut warnings) = (Vec::new(), Vec::new());
    let fresh = acceptor(settings, files, &mut tls_warnings)
        .and_then(|acceptor| Ok((acceptor, Arc::new(connector(settings, files, &mut tls_warnings)?))));
    let (tls, problem) = match fresh {
        Ok(tls) => (tls, None),
        Err(error) => ((running.acceptor.clone(), Arc::clone(&running.connector)), Some(error)),
    };
    let same_file = settings.auth_file.get() == directory.config().settings.auth_file.get();
    let users = match users(settings, files, &mut warnings) {
        Ok(users) => Arc::new(users),
        Err(_) if same_file => Arc::clone(directory.users()),
        Err(error) => return Err(error),
    };
    let before = &directory.config().settings;
    let same_files =
        (&settings.auth_hba_file, &settings.auth_ident_file) == (&before.auth_hba_file, &before.auth_ident_file);
    let rules = match rules::read(settings, files, &mut tls_warnings) {
        Ok(rules) => rules,
        Err(_) if same_files && running.rules.is_some() => running.rules.clone(),
        Err(error) => return Err(error),
    };
    let ldap = ldap::access(settings, rules.as_deref(), files, &mut tls_warnings)?;
    Ok((assemble(config, tls, (users, rules, ldap), numbers, &running.tracked, (tls_warnings, warnings)), problem))
}

fn assemble(
    config: Config,
    (acceptor, connector): (Option<Arc<Acceptor>>, Arc<Connector>),
    (users, rules, ldap): (Arc<UserList>, Option<Arc<Rules>>, Option<Arc<LdapAccess>>),
    numbers: &Arc<Mutex<Numbers>>,
    tracked: &Arc<Tracked>,
    (tls_warnings, warnings): (Vec<String>, Vec<String>),
) -> Setup {
    let peers = peers(&config);
    let params = Params { rules, ldap, peers, ..params(&config.settings, acceptor, connector, &users, tracked) };
    let globals = globals(&config.settings);
    let config = Arc::new(config);
    let directory = Arc::new(ConfigDirectory::new(Arc::clone(&config), users, Arc::clone(numbers)));
    Setup { config, directory, params, globals, pair: None, tls_warnings, warnings }
}

/// The parameters that follow clients, from the settings at start.
#[must_use]
pub fn tracked(settings: &Settings) -> Arc<Tracked> {
    Arc::new(Tracked::new(settings.track_extra_parameters.iter()))
}

fn tls_mode(mode: config::SslMode) -> SslMode {
    match mode {
        config::SslMode::Disable => SslMode::Disable,
        config::SslMode::Allow => SslMode::Allow,
        config::SslMode::Prefer => SslMode::Prefer,
        config::SslMode::Require => SslMode::Require,
        config::SslMode::VerifyCa => SslMode::VerifyCa,
        config::SslMode::VerifyFull => SslMode::VerifyFull,
    }
}

/// "No such file or directory (os error 2)" without the number, which is for programmers.
pub(super) fn system_text(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

/// A file named by a TLS setting; nothing if the setting is empty.
fn tls_file(setting: &str, path: &str, files: &Files) -> Result<Option<Zeroizing<Vec<u8>>>, SetupError> {
    if path.is_empty() {
        return Ok(None);
    }
    let describe =
        |error: io::Error| SetupError::Tls(format!("{setting}: could not read \"{path}\": {}", system_text(&error)));
    let kind = if setting.ends_with("_key_file") { Kind::PrivateKey } else { Kind::Plain };
    files.read(Path::new(path), kind).map(Zeroizing::new).map(Some).map_err(describe)
}

/// TLS towards clients; `None` if it is switched off. What should be logged is added to `warnings`.
///
/// # Errors
/// [`SetupError::Tls`].
pub(super) fn acceptor(
    settings: &Settings,
    files: &Files,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<Acceptor>>, SetupError> {
    let sslmode = tls_mode(settings.client_tls_sslmode);
    if sslmode == SslMode::Disable {
        return Ok(None);
    }
    let cert = tls_file("client_tls_cert_file", &settings.client_tls_cert_file, files)?;
    let key = tls_file("client_tls_key_file", &settings.client_tls_key_file, files)?;
    let ca = tls_file("client_tls_ca_file", &settings.client_tls_ca_file, files)?;
    let (Some(cert), Some(key)) = (&cert, &key) else {
        let text =
            "client_tls_sslmode needs client_tls_cert_file and client_tls_key_file; name both, or set it to disable";
        return Err(SetupError::Tls(text.into()));
    };
    let acceptor = Acceptor::new(&AcceptorParams {
        sslmode,
        cert: PemFile { path: &settings.client_tls_cert_file, bytes: cert },
        key: PemFile { path: &settings.client_tls_key_file, bytes: key },
        ca: ca.as_ref().map(|bytes| PemFile { path: &settings.client_tls_ca_file, bytes }),
        protocols: &settings.client_tls_protocols,
        ciphers: &settings.client_tls_ciphers,
        tls13_ciphers: settings.client_tls13_ciphers.get().unwrap_or_default(),
        ecdhcurve: &settings.client_tls_ecdhcurve,
        dheparams: &settings.client_tls_dheparams,
    })?;
    warnings.extend(acceptor.warnings().iter().map(ToString::to_string));
    Ok(Some(Arc::new(acceptor)))
}

/// TLS towards servers. What should be logged is added to `warnings`.
///
/// # Errors
/// [`SetupError::Tls`].
pub(super) fn connector(
    settings: &Settings,
    files: &Files,
    warnings: &mut Vec<String>,
) -> Result<Connector, SetupError> {
    let sslmode = tls_mode(settings.server_tls_sslmode);
    let (mut cert, mut key, mut ca) = (None, None, None);
    if sslmode != SslMode::Disable {
        cert = tls_file("server_tls_cert_file", &settings.server_tls_cert_file, files)?;
        key = tls_file("server_tls_key_file", &settings.server_tls_key_file, files)?;
        ca = tls_file("server_tls_ca_file", &settings.server_tls_ca_file, files)?;
    }
    let connector = Connector::new(&ConnectorParams {
        sslmode,
        ca: ca.as_ref().map(|bytes| PemFile { path: &settings.server_tls_ca_file, bytes }),
        cert: cert.as_ref().map(|bytes| PemFile { path: &settings.server_tls_cert_file, bytes }),
        key: key.as_ref().map(|bytes| PemFile { path: &settings.server_tls_key_file, bytes }),
        protocols: &settings.server_tls_protocols,
        ciphers: &settings.server_tls_ciphers,
        tls13_ciphers: settings.server_tls13_ciphers.get().unwrap_or_default(),
    })?;
    warnings.extend(connector.warnings().iter().map(ToString::to_string));
    Ok(connector)
}

fn users(settings: &Settings, files: &Files, warnings: &mut Vec<String>) -> Result<UserList, SetupError> {
    let Some(path) = settings.auth_file.get() else { return Ok(UserList::default()) };
    match files.read(Path::new(path), Kind::Users).map(Zeroizing::new) {
        Ok(bytes) => {
            let (users, odd) = UserList::parse(&bytes);
            warnings.extend(odd.iter().map(|w| format!("{path}:{}: {}", w.line, w.text)));
            Ok(users)
        }
        Err(error) => Err(SetupError::AuthFile { path: path.to_owned(), reason: system_text(&error) }),
    }
}

fn method(auth_type: AuthType) -> Method {
    match auth_type {
        AuthType::Any => Method::Any,
        AuthType::Trust => Method::Trust,
        AuthType::Plain => Method::Plain,
        AuthType::Md5 => Method::Md5,
        AuthType::Cert => Method::Cert,
        AuthType::ScramSha256 => Method::ScramSha256,
        AuthType::ScramSha256Plus => Method::ScramSha256Plus,
        AuthType::Peer => Method::Peer,
        AuthType::Ldap => Method::Ldap,
        // The rules say it of each client.
        AuthType::Hba => Method::Reject,
    }
}

fn params(
    settings: &Settings,
    acceptor: Option<Arc<Acceptor>>,
    connector: Arc<Connector>,
    users: &UserList,
    tracked: &Arc<Tracked>,
) -> Params {
    let check = &settings.server_check_query;
    let check = match check.as_str() {
        "" => None,
        "<empty>" => Some(Vec::new()),
        query => Some(query.as_bytes().to_vec()),
    };
    Params {
        tls_required: acceptor.as_ref().is_some_and(|a| a.sslmode().requires_tls()),
        acceptor,
        method: method(settings.auth_type),
        rules: None,
        ldap: None,
        scram_iterations: NonZeroU32::new(settings.scram_iterations).unwrap_or(NonZeroU32::MIN),
        mock_kind: users.prevailing_kind(),
        hide_unknown_users: settings.hide_unknown_users,
        client_login_timeout: settings.client_login_timeout,
        server_connect_timeout: settings.server_connect_timeout,
        cancel_wait_timeout: settings.cancel_wait_timeout,
        query_wait_notify: std::time::Duration::from_secs(settings.query_wait_notify.into()),
        max_prepared_statements: settings.max_prepared_statements as usize,
        unknown_name_ends: settings.unknown_prepared_statement == UnknownStatement::Disconnect,
        max_packet_len: settings.max_packet_size.0 as usize,
        server_check_query: check,
        server_reset_query: settings.server_reset_query.clone().into_bytes(),
        reset_always: settings.server_reset_query_always,
        server_fast_close: settings.server_fast_close,
        application_name_add_host: settings.application_name_add_host,
        refuse_simple_queries: settings.disable_pqexec,
        login_notify_message: settings.login_notify_message.clone(),
        ignored_startup_parameters: settings.ignore_startup_parameters.iter().map(str::to_owned).collect(),
        peers: Peers::default(),
        tracked: Arc::clone(tracked),
        name_ttls: Ttls { found: settings.dns_max_ttl, failed: settings.dns_nxdomain_ttl },
        tcp: tcp_options(settings),
        connector,
        log: LogParams {
            connections: settings.log_connections,
            disconnections: settings.log_disconnections,
            pooler_errors: settings.log_pooler_errors,
        },
    }
}

/// Who else listens on our port.
fn peers(config: &Config) -> Peers {
    let size = |peer: &config::Peer| peer.pool_size.unwrap_or(config.settings.default_pool_size);
    let pools = config.peers.iter().map(|(id, peer)| {
        let host = super::directory::host(&peer.host, peer.port);
        (*id, Arc::new(PeerPool::new(host, size(peer))))
    });
    Peers { own: config.settings.peer_id, pools: pools.collect() }
}

/// Options of TCP sockets on both sides.
pub(super) fn tcp_options(settings: &Settings) -> TcpOptions {
    TcpOptions {
        keepalive: settings.tcp_keepalive,
        keepidle_s: settings.tcp_keepidle,
        keepintvl_s: settings.tcp_keepintvl,
        keepcnt: settings.tcp_keepcnt,
        user_timeout_ms: settings.tcp_user_timeout,
        socket_buffer_len: settings.tcp_socket_buffer,
    }
}

fn globals(settings: &Settings) -> GlobalParams {
    GlobalParams {
        reserve_pool_timeout: settings.reserve_pool_timeout,
        server_idle_timeout: settings.server_idle_timeout,
        server_check_delay: settings.server_check_delay,
        server_check: !settings.server_check_query.is_empty(),
        server_login_retry: settings.server_login_retry,
        server_round_robin: settings.server_round_robin,
        pool_idle_timeout: settings.pool_idle_timeout,
    }
}
