//! The configuration as the rest of the program uses it: typed, checked, the same whichever form of file it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::choice::{LoadBalanceHosts, PoolMode};
use super::ha::Ha;
use super::settings::Settings;
use super::value::Secret;

/// The port of a `[databases]` entry that names none (PgBouncer).
pub const DEFAULT_SERVER_PORT: u16 = 5432;
/// The port of a `[peers]` entry that names none (PgBouncer).
pub const DEFAULT_PEER_PORT: u16 = 6432;

/// A whole, valid configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Section `[pgbouncer]`.
    pub settings: Settings,
    /// The named entries of `[databases]`.
    pub databases: BTreeMap<String, Database>,
    /// The `*` entry of `[databases]`: the pattern for databases that are not named.
    pub autodb: Option<Database>,
    /// Section `[users]`.
    pub users: BTreeMap<String, User>,
    /// Section `[peers]`, by peer id.
    pub peers: BTreeMap<u16, Peer>,
    /// Sections `[ha]` and `[virtual_routers]`; `None` = this node is not one of a pair.
    pub ha: Option<Ha>,
    /// The tables of the TOML form that later versions give a meaning: `metrics`, `topology`.
    pub reserved: ReservedTables,
}

/// Where a server is reached (PgBouncer database parameter `host`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostSpec {
    /// A directory with the server's Unix socket.
    UnixDir(String),
    /// A socket in Linux's abstract namespace, without the `@`.
    Abstract(String),
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A name to look up.
    Name(String),
}

impl HostSpec {
    /// Read one host: `/dir`, `@abstract`, an address, a name. `None` for the empty text and for text with a colon that is
    /// not an IPv6 address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.starts_with('/') {
            return Some(Self::UnixDir(text.to_owned()));
        }
        if let Some(name) = text.strip_prefix('@') {
            return Some(Self::Abstract(name.to_owned()));
        }
        if text.contains(':') {
            return text.parse().ok().map(Self::Ipv6);
        }
        match text.parse() {
            Ok(address) => Some(Self::Ipv4(address)),
            Err(_) => (!text.is_empty()).then(|| Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for HostSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnixDir(dir) => f.write_str(dir),
            Self::Abstract(name) => write!(f, "@{name}"),
            Self::Ipv4(address) => write!(f, "{address}"),
            Self::Ipv6(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// One entry of `[databases]`. `None` means: the global setting, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    /// The servers; empty = the Unix socket in `unix_socket_dir`.
    pub hosts: Vec<HostSpec>,
    /// The servers' port.
    pub port: u16,
    /// The database on the server; `None` = the entry's (for `*`: the client's) own name.
    pub dbname: Option<String>,
    /// Log in as this user whoever the client is: one pool for all.
    pub user: Option<String>,
    /// The password of `user`.
    pub password: Option<Secret>,
    /// Instead of the setting `auth_user`.
    pub auth_user: Option<String>,
    /// Instead of the setting `auth_query`.
    pub auth_query: Option<String>,
    /// Instead of the setting `auth_dbname`.
    pub auth_dbname: Option<String>,
    /// Instead of the setting `default_pool_size`.
    pub pool_size: Option<u32>,
    /// Instead of the setting `min_pool_size`.
    pub min_pool_size: Option<u32>,
    /// Instead of the setting `reserve_pool_size`.
    pub reserve_pool_size: Option<u32>,
    /// Run on each new server before its first use.
    pub connect_query: Option<String>,
    /// Instead of the setting `pool_mode`.
    pub pool_mode: Option<PoolMode>,
    /// Instead of the setting `query_wait_timeout`; zero = never.
    pub query_wait_timeout: Option<Duration>,
    /// How the hosts of the list are used.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Instead of the setting `max_db_connections`; never 0.
    pub max_db_connections: Option<u32>,
    /// Instead of the setting `max_db_client_connections`; never 0.
    pub max_db_client_connections: Option<u32>,
    /// Instead of the setting `server_lifetime`; never zero.
    pub server_lifetime: Option<Duration>,
    /// Sent to the server at startup.
    pub client_encoding: Option<String>,
    /// Sent to the server at startup.
    pub datestyle: Option<String>,
    /// Sent to the server at startup.
    pub timezone: Option<String>,
    /// Sent to the server at startup.
    pub application_name: Option<String>,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            port: DEFAULT_SERVER_PORT,
            dbname: None,
            user: None,
            password: None,
            auth_user: None,
            auth_query: None,
            auth_dbname: None,
            pool_size: None,
            min_pool_size: None,
            reserve_pool_size: None,
            connect_query: None,
            pool_mode: None,
            query_wait_timeout: None,
            load_balance_hosts: LoadBalanceHosts::RoundRobin,
            max_db_connections: None,
            max_db_client_connections: None,
            server_lifetime: None,
            client_encoding: None,
            datestyle: None,
            timezone: None,
            application_name: None,
        }
    }
}

impl Database {
    /// The hosts as `SHOW DATABASES` prints them; `None` for the Unix socket of `unix_socket_dir`.
    #[must_use]
    pub fn host_text(&self) -> Option<String> {
        (!self.hosts.is_empty()).then(|| self.hosts.iter().map(HostSpec::to_string).collect::<Vec<_>>().join(","))
    }
}

/// One entry of `[users]`. `None` means: the setting of the database, or the global one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct User {
    /// Instead of the setting `pool_mode`.
    pub pool_mode: Option<PoolMode>,
    /// Instead of the setting `default_pool_size`.
    pub pool_size: Option<u32>,
    /// Instead of the setting `reserve_pool_size`.
    pub reserve_pool_size: Option<u32>,
    /// Instead of the setting `max_user_connections`; never 0.
    pub max_user_connections: Option<u32>,
    /// Instead of the setting `max_user_client_connections`; never 0.
    pub max_user_client_connections: Option<u32>,
    /// Instead of the setting `query_timeout`; never zero.
    pub query_timeout: Option<Duration>,
    /// Instead of the setting `query_wait_timeout`; zero = never.
    pub query_wait_timeout: Option<Duration>,
    /// Instead of the setting `idle_transaction_timeout`; never zero.
    pub idle_transaction_timeout: Option<Duration>,
    /// Instead of the setting `transaction_timeout`; never zero.
    pub transaction_timeout: Option<Duration>,
    /// Instead of the setting `client_idle_timeout`; never zero.
    pub client_idle_timeout: Option<Duration>,
}

/// One entry of `[peers]`: another process to which cancel requests are passed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Where it is.
    pub host: HostSpec,
    /// Its port.
    pub port: u16,
    /// Connections to it; `None` = default_pool_size.
    pub pool_size: Option<u32>,
}

/// TOML tables that are kept as they are.
#[derive(Clone, Default, PartialEq)]
pub struct ReservedTables(pub BTreeMap<String, toml::Table>);

impl fmt::Debug for ReservedTables {
    /// Only the names: the tables may hold keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What holds for one user in one database after PgBouncer's order of precedence. Pass the entries that exist; a database
/// made from `*` is the `*` entry.
impl Config {
    /// The entry that serves a database name: its own, or `*`.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.get(name).or(self.autodb.as_ref())
    }

    /// User before database before setting.
    #[must_use]
    pub fn pool_mode(&self, database: &Database, user: Option<&User>) -> PoolMode {
        user.and_then(|user| user.pool_mode).or(database.pool_mode).unwrap_or(self.settings.pool_mode)
    }

    /// User before database before setting.
    #[must_use]
    pub fn pool_size(&self, database: &Database, user: Option<&User>) -> u32 {
        user.and_then(|user| user.pool_size).or(database.pool_size).unwrap_or(self.settings.default_pool_size)
    }

    /// Database before setting.
    #[must_use]
    pub fn min_pool_size(&self, database: &Database) -> u32 {
        database.min_pool_size.unwrap_or(self.settings.min_pool_size)
    }

    /// User before database before setting.
    #[must_use]
    pub fn reserve_pool_size(&self, database: &Database, user: Option<&User>) -> u32 {
        user.and_then(|user| user.reserve_pool_size)
            .or(database.reserve_pool_size)
            .unwrap_or(self.settings.reserve_pool_size)
    }

    /// User before database before setting; zero = never.
    #[must_use]
    pub fn query_wait_timeout(&self, database: &Database, user: Option<&User>) -> Duration {
        user.and_then(|user| user.query_wait_timeout)
            .or(database.query_wait_timeout)
            .unwrap_or(self.settings.query_wait_timeout)
    }

    /// Database before setting; zero = use each server once.
    #[must_use]
    pub fn server_lifetime(&self, database: &Database) -> Duration {
        database.server_lifetime.unwrap_or(self.settings.server_lifetime)
    }

    /// Database before setting; 0 = no limit.
    #[must_use]
    pub fn max_db_connections(&self, database: &Database) -> u32 {
        database.max_db_connections.unwrap_or(self.settings.max_db_connections)
    }

    /// Database before setting; 0 = no limit.
    #[must_use]
    pub fn max_db_client_connections(&self, database: &Database) -> u32 {
        database.max_db_client_connections.unwrap_or(self.settings.max_db_client_connections)
    }

    /// User before setting; 0 = no limit.
    #[must_use]
    pub fn max_user_connections(&self, user: Option<&User>) -> u32 {
        user.and_then(|user| user.max_user_connections).unwrap_or(self.settings.max_user_connections)
    }

    /// User before setting; 0 = no limit.
    #[must_use]
    pub fn max_user_client_connections(&self, user: Option<&User>) -> u32 {
        user.and_then(|user| user.max_user_client_connections).unwrap_or(self.settings.max_user_client_connections)
    }

    /// User before setting; zero = never.
    #[must_use]
    pub fn query_timeout(&self, user: Option<&User>) -> Duration {
        user.and_then(|user| user.query_timeout).unwrap_or(self.settings.query_timeout)
    }

    /// User before setting; zero = never.
    #[must_use]
    pub fn idle_transaction_timeout(&self, user: Option<&User>) -> Duration {
        user.and_then(|user| user.idle_transaction_timeout).unwrap_or(self.settings.idle_transaction_timeout)
    }

    /// User before setting; zero = never.
    #[must_use]
    pub fn transaction_timeout(&self, user: Option<&User>) -> Duration {
        user.and_then(|user| user.transaction_timeout).unwrap_or(self.settings.transaction_timeout)
    }

    /// User before setting; zero = never.
    #[must_use]
    pub fn client_idle_timeout(&self, user: Option<&User>) -> Duration {
        user.and_then(|user| user.client_idle_timeout).unwrap_or(self.settings.client_idle_timeout)
    }

    /// Database before setting; `None` = there is no auth_query.
    #[must_use]
    pub fn auth_user<'a>(&'a self, database: &'a Database) -> Option<&'a str> {
        database.auth_user.as_deref().or(self.settings.auth_user.get())
    }

    /// Database before setting.
    #[must_use]
    pub fn auth_query<'a>(&'a self, database: &'a Database) -> &'a str {
        database.auth_query.as_deref().unwrap_or(&self.settings.auth_query)
    }

    /// Database before setting; `None` = the database that the client asked for.
    #[must_use]
    pub fn auth_dbname<'a>(&'a self, database: &'a Database) -> Option<&'a str> {
        database.auth_dbname.as_deref().or(self.settings.auth_dbname.get())
    }
}
