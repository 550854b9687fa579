//! What single values cannot show: settings that need each other, contradict each other, or cannot work.

use super::choice::{AuthType, SslMode};
use super::model::Config;
use super::problem::Problem;
use super::resolve::{Places, first_place};
use super::tls_versions::TlsVersions;
use super::value::RESERVED_DATABASE;

/// The longest path of a Unix socket (`sun_path` of unix(7), less the final NUL).
const MAX_SOCKET_PATH: usize = 107;

/// Look at the configuration as a whole.
pub(super) fn run(config: &Config, places: &Places, problems: &mut Vec<Problem>) {
    let mut checks = Checks { config, places, problems };
    checks.client_tls();
    checks.server_tls();
    checks.protocols();
    checks.authentication();
    checks.auth_databases();
    checks.sizes();
    checks.listening();
    checks.peering();
}

struct Checks<'a> {
    config: &'a Config,
    places: &'a Places,
    problems: &'a mut Vec<Problem>,
}

impl Checks<'_> {
    fn error(&mut self, settings: &[&str], text: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::error(first_place(self.places, settings), text).hint(hint));
    }

    fn warning(&mut self, settings: &[&str], text: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::warning(first_place(self.places, settings), text).hint(hint));
    }

    fn client_tls(&mut self) {
        let settings = &self.config.settings;
        let mode = settings.client_tls_sslmode;
        if mode != SslMode::Disable
            && (settings.client_tls_key_file.is_empty() || settings.client_tls_cert_file.is_empty())
        {
            let text =
                "To allow TLS connections from clients, client_tls_key_file and client_tls_cert_file must be set.";
            self.error(&["client_tls_sslmode"], text, "name both files, or set client_tls_sslmode=disable");
        }
        let lacks_ca = settings.client_tls_ca_file.is_empty();
        let ca_hint = "name the file of certificates that sign your clients' certificates";
        if settings.auth_type == AuthType::Cert {
            if mode != SslMode::VerifyFull {
                let text = "auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL";
                self.error(&["auth_type"], text, "set client_tls_sslmode=verify-full");
            }
            if lacks_ca {
                self.error(&["auth_type"], "auth_type=cert requires client_tls_ca_file", ca_hint);
            }
        } else if mode >= SslMode::VerifyCa && lacks_ca {
            self.error(&["client_tls_sslmode"], "client_tls_sslmode requires client_tls_ca_file", ca_hint);
        }
        if settings.auth_type == AuthType::ScramSha256Plus && mode == SslMode::Disable {
            let text = "auth_type=scram-sha-256-plus needs TLS: without it there is no channel to bind to";
            self.error(&["auth_type"], text, "set client_tls_sslmode=require, or auth_type=scram-sha-256");
        }
    }

    fn server_tls(&mut self) {
        let settings = &self.config.settings;
        let mode = settings.server_tls_sslmode;
        if mode >= SslMode::VerifyCa && settings.server_tls_ca_file.is_empty() {
            let text =
                format!("server_tls_sslmode={} without server_tls_ca_file: no certificate to trust", mode.as_str());
            self.warning(&["server_tls_sslmode"], text, "name the file of certificates that sign your servers'");
        }
        if settings.server_tls_key_file.is_empty() != settings.server_tls_cert_file.is_empty() {
            let text = "server_tls_key_file and server_tls_cert_file go together, but only one is set";
            self.warning(&["server_tls_key_file", "server_tls_cert_file"], text, "set both or neither");
        }
    }

    fn protocols(&mut self) {
        let settings = &self.config.settings;
        let lists = [
            ("client_tls_protocols", settings.client_tls_sslmode, settings.client_tls_protocols.clone()),
            ("server_tls_protocols", settings.server_tls_sslmode, settings.server_tls_protocols.clone()),
        ];
        for (name, mode, text) in lists {
            if mode == SslMode::Disable {
                continue;
            }
            // PgBouncer loads it, and servers without TLS can be reached.
            let optional = name == "server_tls_protocols" && matches!(mode, SslMode::Allow | SslMode::Prefer);
            match TlsVersions::parse(&text) {
                None => {
                    let problem = format!("invalid {name}: {text}");
                    let hint = "a list of tlsv1.0, tlsv1.1, tlsv1.2, tlsv1.3, or all, or secure";
                    self.error(&[name], problem, hint);
                }
                Some(versions) if !versions.v1_2 && !versions.v1_3 => {
                    let hint = "TLS 1.0 and 1.1 are not available; allow tlsv1.2 or tlsv1.3";
                    if optional {
                        let problem = format!(
                            "{name}: {text} leaves no usable TLS version: no server that offers TLS can be reached"
                        );
                        self.warning(&[name], problem, hint);
                    } else {
                        self.error(&[name], format!("invalid {name}: {text} leaves no usable TLS version"), hint);
                    }
                }
                // `all` means "whatever there is"; only a version asked for by name is missed.
                Some(versions) if versions.legacy && text.to_ascii_lowercase().contains("tlsv1") => {
                    let problem = format!("{name}: TLS 1.0 and 1.1 are not available and are left out");
                    self.problems.push(Problem::notice(self.places.setting(name), problem));
                }
                Some(_) => {}
            }
        }
    }

    fn authentication(&mut self) {
        let settings = &self.config.settings;
        let lacks_users = settings.auth_file.get().is_none();
        match settings.auth_type {
            AuthType::Hba if settings.auth_hba_file.is_empty() => {
                let hint = "name the file of access rules";
                self.error(&["auth_type"], "auth_type=hba needs auth_hba_file", hint);
            }
            AuthType::Any => {
                let unforced = self.config.databases.iter().filter(|(_, database)| database.user.is_none());
                for (name, _) in unforced {
                    let text = format!("auth_type=any requires forced user, but database \"{name}\" has none");
                    let problem = Problem::warning(self.places.database(name), text);
                    self.problems.push(problem.hint("add user=, or use auth_type=trust"));
                }
            }
            AuthType::Ldap if settings.auth_ldap_options.is_none() => {
                let hint = "say which server to ask, such as ldapurl=\"ldap://host/dc=example,dc=net?uid?sub\"";
                self.error(&["auth_type"], "auth_type=ldap needs auth_ldap_options", hint);
            }
            // An LDAP server may know who is a user.
            AuthType::Hba | AuthType::Ldap => {}
            // A database may bring its own auth_user.
            kind if lacks_users
                && settings.auth_user.get().is_none()
                && !self
                    .config
                    .databases
                    .values()
                    .chain(&self.config.autodb)
                    .any(|entry| entry.auth_user.is_some()) =>
            {
                let text = format!("auth_type={} without auth_file and auth_user: no user is known", kind.as_str());
                self.warning(&["auth_type"], text, "set auth_file, or auth_user for auth_query");
            }
            _ => {}
        }
    }

    fn auth_databases(&mut self) {
        for (name, database) in &self.config.databases {
            if database.auth_dbname.as_deref() == Some(RESERVED_DATABASE) {
                let text = format!("database \"{name}\": auth_dbname is the admin console, so no login can succeed");
                let problem = Problem::warning(self.places.database(name), text);
                self.problems.push(problem.hint("name the database that auth_query should ask"));
            }
        }
        let known = |name: &str| self.config.autodb.is_some() || self.config.databases.contains_key(name);
        let used = self.config.settings.auth_user.get().is_some();
        if let Some(name) = self.config.settings.auth_dbname.get().filter(|name| used && !known(name)) {
            let text = format!("auth_dbname={name} is not an entry of [databases], so auth_query cannot run");
            self.warning(&["auth_dbname"], text, "add the entry");
        }
    }

    fn sizes(&mut self) {
        let settings = &self.config.settings;
        if settings.default_pool_size == 0 {
            self.warning(&["default_pool_size"], "default_pool_size=0: no server can be opened", "set it to 1 or more");
        }
        if settings.max_client_conn == 0 {
            self.warning(&["max_client_conn"], "max_client_conn=0: no client can be let in", "set it to 1 or more");
        }
        if settings.reserve_pool_size > 0 && settings.reserve_pool_timeout.is_zero() {
            let text = "reserve_pool_timeout=0 switches the reserve pool off";
            self.warning(&["reserve_pool_timeout"], text, "set it to the seconds a client should wait first");
        }
        for (name, database) in &self.config.databases {
            let size = self.config.pool_size(database, None);
            let least = self.config.min_pool_size(database);
            let own = database.pool_size.is_some() || database.min_pool_size.is_some();
            if database.pool_size == Some(0) {
                let text = format!("database \"{name}\": pool_size=0: no server can be opened");
                self.problems.push(Problem::warning(self.places.database(name), text));
            } else if own && least > size {
                let text = format!("database \"{name}\": min_pool_size={least} is more than pool_size={size}");
                self.problems.push(Problem::warning(self.places.database(name), text));
            }
        }
        let (least, size) = (settings.min_pool_size, settings.default_pool_size);
        if least > size {
            let text = format!("min_pool_size={least} is more than default_pool_size={size}");
            self.warning(&["min_pool_size", "default_pool_size"], text, "raise default_pool_size");
        }
    }

    fn listening(&mut self) {
        let settings = &self.config.settings;
        if settings.listen_addr.is_empty() && settings.unix_socket_dir.is_empty() {
            let text = "nowhere to listen on: listen_addr and unix_socket_dir are both empty";
            self.warning(&["unix_socket_dir", "listen_addr"], text, "set one, unless systemd passes the sockets");
        }
        let path = format!("{}/.s.PGSQL.{}", settings.unix_socket_dir, settings.listen_port);
        if !settings.unix_socket_dir.is_empty() && path.len() > MAX_SOCKET_PATH {
            let text = format!("the Unix socket's path is longer than {MAX_SOCKET_PATH} bytes: {path}");
            self.error(&["unix_socket_dir"], text, "choose a shorter unix_socket_dir");
        }
    }

    fn peering(&mut self) {
        let peer_id = self.config.settings.peer_id;
        if peer_id == 0 && !self.config.peers.is_empty() {
            let text = "[peers] are given, but peer_id is 0, which switches peering off";
            let place = self.places.setting("peer_id").or(self.places.peers());
            self.problems.push(Problem::warning(place, text).hint("give this process its own peer_id"));
        }
    }
}
