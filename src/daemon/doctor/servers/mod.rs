//! Servers: which logins are worth a try, trying them all at once, and what their outcome means. A login is tried as a pool
//! would make it, with the same secrets, host names and TLS. It must never print a secret, run a client's or an operator's
//! query, or wait longer than it was told.

mod login;
mod verdict;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub(super) use login::{Ending, ServerFacts};
pub(super) use verdict::judge;

use super::clock::Comparison;
use super::files::{Contents, line_of};
use super::words::{self, system_text};
use crate::auth::{Secret, UserList};
use crate::config::{Config, Places, Settings};
use crate::daemon::configure::tcp_options;
use crate::daemon::directory::{ConfigDirectory, Numbers};
use crate::net::dial::{Target, TcpOptions};
use crate::session::io::connect::{ConnectError, connect_for};
use crate::session::io::route::{Directory, Entry, Host};
use crate::tls::{Connector, ConnectorParams, SslMode};

/// Logins at the same moment.
const AT_ONCE: usize = 32;
/// The longest that one login may take, whatever time there is.
const PATIENCE: Duration = Duration::from_secs(5);
/// Users of auth_file that are tried at one database until one gets in.
const USERS_MAX: usize = 3;

/// Where the secret of a login comes from, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `password=` of the entry, with its `file:line`.
    Entry(Option<String>),
    /// A line of auth_file.
    Line(String, usize),
    /// There is none.
    Nowhere,
}

/// A user who is tried.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) user: String,
    secret: Option<Secret>,
    pub(super) source: Source,
}

/// One login that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) user: String,
    pub(super) source: Source,
    pub(super) ending: Ending,
}

/// Why nothing could be said to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreached {
    /// The name has no address.
    Name(String),
    /// Nobody listens there.
    Refused,
    /// There is no such Unix socket.
    NoSocket,
    /// This user may not use the Unix socket.
    Denied,
    /// No answer in time.
    Timeout(Duration),
    /// The server has no TLS.
    NoTls,
    /// The TLS handshake failed.
    Handshake(String),
    /// Anything else.
    Other(String),
}

/// What came of one host of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// The entry of `[databases]`.
    pub(super) database: String,
    /// `file:line` of the entry.
    pub(super) place: Option<String>,
    pub(super) dbname: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) unix: bool,
    /// Logs in as the same user for everybody.
    pub(super) forced: bool,
    /// Servers that its pool may have with one user, and with all.
    pub(super) servers: u64,
    pub(super) servers_of_all: u64,
    pub(super) reached: Result<(), Unreached>,
    /// Why no login was tried, if none was.
    pub(super) untried: &'static str,
    pub(super) attempts: Vec<Attempt>,
}

impl Probe {
    /// `127.0.0.1:5432`, or the socket's path.
    pub(super) fn server(&self) -> String {
        if self.unix { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// What the server said of itself, if a login worked.
    pub(super) fn facts(&self) -> Option<&ServerFacts> {
        self.attempts.iter().find_map(|attempt| match &attempt.ending {
            Ending::In(Ok(facts)) => Some(facts),
            _ => None,
        })
    }
}

/// Clocks of all servers that answered.
pub(super) fn clocks(probes: &[Probe]) -> Vec<Comparison> {
    let mut found: Vec<Comparison> = Vec::new();
    for probe in probes {
        let Some(facts) = probe.facts() else { continue };
        let server = probe.server();
        if found.iter().all(|one| one.server != server) {
            found.push(Comparison { server, ahead_ms: facts.ahead_ms, round_trip_ms: facts.round_trip_ms });
        }
    }
    found
}

/// Something to try: one host of one database.
struct Plan {
    probe: Probe,
    target: Target,
    name: String,
    candidates: Vec<Candidate>,
}

/// What was found out before.
pub(super) struct Known<'a> {
    pub(super) config: &'a Arc<Config>,
    /// The configuration file.
    pub(super) file: &'a Path,
    pub(super) places: &'a Places,
    pub(super) contents: &'a Contents,
}

/// Tries every host of every database, all at once, until `deadline`. The order is that of the configuration. Without a
/// connector (the TLS settings cannot be used) only the way to the servers is tried.
pub(super) async fn examine(known: &Known<'_>, connector: Option<Connector>, deadline: Instant) -> Vec<Probe> {
    let tcp = tcp_options(&known.config.settings);
    let mut plans = plans(known);
    if connector.is_none() {
        for plan in &mut plans {
            plan.candidates.clear();
            plan.probe.untried = "the TLS settings towards servers cannot be used";
        }
    }
    let Some(connector) = connector.or_else(without_tls) else { return Vec::new() };
    let (connector, turns) = (Arc::new(connector), Arc::new(Semaphore::new(AT_ONCE)));
    let mut tasks = JoinSet::new();
    for (index, plan) in plans.into_iter().enumerate() {
        let (connector, turns) = (Arc::clone(&connector), Arc::clone(&turns));
        tasks.spawn(async move { (index, run(plan, &tcp, &connector, &turns, deadline).await) });
    }
    let mut probes = Vec::new();
    while let Some(done) = tasks.join_next().await {
        probes.extend(done);
    }
    probes.sort_by_key(|(index, _)| *index);
    probes.into_iter().map(|(_, probe)| probe).collect()
}

/// Dials, and speaks no TLS.
fn without_tls() -> Option<Connector> {
    let defaults = Settings::default();
    Connector::new(&ConnectorParams {
        sslmode: SslMode::Disable,
        ca: None,
        cert: None,
        key: None,
        protocols: &defaults.server_tls_protocols,
        ciphers: &defaults.server_tls_ciphers,
        tls13_ciphers: "",
    })
    .ok()
}

fn plans(known: &Known<'_>) -> Vec<Plan> {
    let Known { config, file, places, contents } = *known;
    let numbers = Arc::new(std::sync::Mutex::new(Numbers::default()));
    let users = Arc::new(contents.users.clone());
    let directory = ConfigDirectory::new(Arc::clone(config), users, numbers);
    let mut plans = Vec::new();
    for (name, database) in &config.databases {
        let candidates = candidates(config, places, contents, name);
        let first = candidates.first().map_or("", |candidate| candidate.user.as_str());
        let Entry::Pool(route) = directory.find(name, first) else { continue };
        let one = u64::from(config.pool_size(database, None)) + u64::from(config.reserve_pool_size(database, None));
        let most = match config.max_db_connections(database) {
            0 => u64::MAX,
            most => u64::from(most),
        };
        let users = if database.user.is_some() { 1 } else { contents.users.len().max(1) as u64 };
        for Host { target, name: host } in &route.database.hosts {
            let unix = matches!(target, Target::Unix(_));
            let shown = match target {
                Target::Unix(path) => path.display().to_string(),
                _ => host.clone(),
            };
            plans.push(Plan {
                probe: Probe {
                    database: name.clone(),
                    place: places.database(name).map(|found| words::place(found, file)),
                    dbname: route.database.dbname.clone(),
                    host: shown,
                    port: database.port,
                    unix,
                    forced: database.user.is_some(),
                    servers: one.min(most),
                    servers_of_all: one.saturating_mul(users).min(most),
                    reached: Ok(()),
                    untried: "no user is known to log in with",
                    attempts: Vec::new(),
                },
                target: target.clone(),
                name: host.clone(),
                candidates: candidates.clone(),
            });
        }
    }
    plans
}

/// Who is tried at a database, best first.
fn candidates(config: &Config, places: &Places, contents: &Contents, name: &str) -> Vec<Candidate> {
    let Some(database) = config.database(name) else { return Vec::new() };
    let file = config.settings.auth_file.get().unwrap_or_default();
    let of_file = |user: &str| {
        let line = line_of(&contents.users_text, user.as_bytes());
        let source = line.map_or(Source::Nowhere, |line| Source::Line(file.to_owned(), line));
        Candidate { user: user.to_owned(), secret: contents.users.get(user.as_bytes()).cloned(), source }
    };
    match (&database.user, &database.password) {
        (Some(user), Some(password)) => vec![Candidate {
            user: user.clone(),
            secret: Some(Secret::parse(password.expose().as_bytes())),
            source: Source::Entry(places.database(name).map(ToString::to_string)),
        }],
        (Some(user), None) => vec![of_file(user)],
        (None, _) => {
            let console: Vec<&str> =
                config.settings.admin_users.iter().chain(config.settings.stats_users.iter()).collect();
            choose(&contents.users, &console).iter().map(|user| of_file(user)).collect()
        }
    }
}

/// Those whose secret is of most use first, and users of the console last: they need not exist at any server.
fn choose(users: &UserList, console: &[&str]) -> Vec<String> {
    let rank = |secret: &Secret| match secret {
        Secret::Plain(_) => 0,
        Secret::Md5(_) => 1,
        Secret::Scram(_) => 2,
        Secret::Empty => 3,
    };
    let mut found: Vec<(bool, u8, &str)> = users
        .iter()
        .filter_map(|(name, secret)| {
            let name = std::str::from_utf8(name).ok()?;
            Some((console.contains(&name), rank(secret), name))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().take(USERS_MAX).map(|(_, _, name)| name.to_owned()).collect()
}

async fn run(plan: Plan, tcp: &TcpOptions, connector: &Connector, turns: &Semaphore, deadline: Instant) -> Probe {
    let Plan { mut probe, target, name, candidates } = plan;
    let began = Instant::now();
    let Ok(Ok(_turn)) = timeout_at(deadline, turns.acquire()).await else {
        probe.reached = Err(Unreached::Timeout(began.elapsed()));
        return probe;
    };
    if candidates.is_empty() {
        let limit = deadline.min(Instant::now() + PATIENCE);
        probe.reached = match timeout_at(limit, connect_for(tcp, connector, &target, &name)).await {
            Ok(connected) => connected.map(drop).map_err(unreached),
            Err(_) => Err(Unreached::Timeout(began.elapsed())),
        };
        return probe;
    }
    for candidate in candidates {
        let began = Instant::now();
        let limit = deadline.min(began + PATIENCE);
        let attempt = async {
            let stream = connect_for(tcp, connector, &target, &name).await.map_err(unreached)?;
            Ok(login::log_in(stream, &candidate.user, &probe.dbname, candidate.secret.as_ref()).await)
        };
        let ending = match timeout_at(limit, attempt).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(unreached)) => {
                probe.reached = Err(unreached);
                return probe;
            }
            Err(_) => {
                probe.reached = Err(Unreached::Timeout(began.elapsed()));
                return probe;
            }
        };
        // Another user would be told the same, but where it is about the user.
        let goes_on = match &ending {
            Ending::Refused { sqlstate, .. } => sqlstate.starts_with("28") || sqlstate == "42501",
            Ending::Unprovable { .. } => true,
            _ => false,
        };
        probe.attempts.push(Attempt { user: candidate.user, source: candidate.source, ending });
        if !goes_on {
            break;
        }
    }
    probe
}

fn unreached(error: ConnectError) -> Unreached {
    match error {
        ConnectError::Dns(source) => Unreached::Name(system_text(&source)),
        ConnectError::Connect(source) => match source.kind() {
            io::ErrorKind::ConnectionRefused => Unreached::Refused,
            io::ErrorKind::NotFound => Unreached::NoSocket,
            io::ErrorKind::PermissionDenied => Unreached::Denied,
            io::ErrorKind::TimedOut => Unreached::Timeout(Duration::ZERO),
            _ => Unreached::Other(system_text(&source)),
        },
        ConnectError::Crashed(source) => Unreached::Other(format!("it broke off ({})", system_text(&source))),
        ConnectError::Refused => Unreached::NoTls,
        ConnectError::Handshake(reason) => Unreached::Handshake(reason),
        other @ (ConnectError::Unknown | ConnectError::Settings(_)) => Unreached::Other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn console_users_and_weak_secrets_come_last() {
        let text = b"\"adm\" \"p\"\n\"b\" \"p\"\n\"c\" \"md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\n\"a\" \"\"\n";
        let (users, _) = UserList::parse(text);
        assert_eq!(choose(&users, &["adm"]), ["b", "c", "a"]);
        assert_eq!(choose(&users, &[]), ["adm", "b", "c"]);
        assert!(choose(&UserList::default(), &[]).is_empty());
    }
}
