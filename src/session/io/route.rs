//! What the driver needs of the configuration, resolved: plain data, built by the daemon, replaced as a whole on reload.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Channel, Method, Secret, SecretKind};
use crate::fault::Fault;
use crate::net::dial::{Target, TcpOptions};
use crate::net::names::Ttls;
use crate::pool::{DatabaseId, PoolParams, UserId};
use crate::session::Mode;
use crate::session::params::Tracked;
use crate::tls::{Acceptor, Connector};

/// Settings that hold for every session. Zero durations mean never.
pub struct Params {
    /// TLS towards clients, if there is any.
    pub acceptor: Option<Arc<Acceptor>>,
    /// Clients without TLS over TCP are refused.
    pub tls_required: bool,
    /// How clients prove who they are.
    pub method: Method,
    /// PgBouncer setting scram_iterations.
    pub scram_iterations: NonZeroU32,
    /// What users who do not exist would have on file.
    pub mock_kind: SecretKind,
    /// PgBouncer setting client_login_timeout.
    pub client_login_timeout: Duration,
    /// PgBouncer setting server_connect_timeout.
    pub server_connect_timeout: Duration,
    /// PgBouncer setting cancel_wait_timeout.
    pub cancel_wait_timeout: Duration,
    /// PgBouncer setting query_wait_notify.
    pub query_wait_notify: Duration,
    /// PgBouncer setting max_prepared_statements.
    pub max_prepared_statements: usize,
    /// Setting unknown_prepared_statement is `disconnect`.
    pub unknown_name_ends: bool,
    /// PgBouncer setting max_packet_size, in bytes.
    pub max_packet_len: usize,
    /// PgBouncer setting server_check_query; `None`: no check.
    pub server_check_query: Option<Vec<u8>>,
    /// PgBouncer setting server_reset_query; empty: none.
    pub server_reset_query: Vec<u8>,
    /// PgBouncer setting server_reset_query_always.
    pub reset_always: bool,
    /// PgBouncer setting server_fast_close.
    pub server_fast_close: bool,
    /// PgBouncer setting application_name_add_host.
    pub application_name_add_host: bool,
    /// PgBouncer setting disable_pqexec.
    pub refuse_simple_queries: bool,
    /// PgBouncer setting login_notify_message; empty: none.
    pub login_notify_message: String,
    /// PgBouncer setting ignore_startup_parameters.
    pub ignored_startup_parameters: Vec<String>,
    /// Parameters that follow clients; fixed at start.
    pub tracked: Arc<Tracked>,
    /// How long host names are kept.
    pub name_ttls: Ttls,
    /// Options of TCP sockets on both sides.
    pub tcp: TcpOptions,
    /// TLS towards servers.
    pub connector: Arc<Connector>,
    /// PgBouncer settings log_connections, log_disconnections, log_pooler_errors.
    pub log: LogParams,
}

/// Which events of sessions are logged.
#[derive(Clone, Copy, Debug)]
pub struct LogParams {
    /// Successful logins.
    pub connections: bool,
    /// Disconnections with their reasons.
    pub disconnections: bool,
    /// Errors that we send to clients.
    pub pooler_errors: bool,
}

/// A database as clients ask for it and as servers are reached for it.
#[derive(Debug, PartialEq)]
pub struct DatabaseRoute {
    /// Its id in the pools.
    pub id: DatabaseId,
    /// The name that clients use.
    pub name: String,
    /// Where its servers are; never empty.
    pub hosts: Vec<Host>,
    /// Next host in turn after each connection, or only after a failure.
    pub round_robin: bool,
    /// The database's name on the server.
    pub dbname: String,
    /// Log in as this user whoever the client is.
    pub forced_user: Option<String>,
    /// Startup parameters that the entry gives.
    pub startup: Vec<(String, String)>,
    /// Run once on every new server.
    pub connect_query: Option<String>,
}

/// One place of a host list.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// Where to dial.
    pub target: Target,
    /// The name for SNI and for sslmode=verify-full.
    pub name: String,
}

/// All about one (database, user): who it is on the server, and what holds for its sessions.
pub struct Route {
    /// The database.
    pub database: Arc<DatabaseRoute>,
    /// The user's id in the pools.
    pub user: UserId,
    /// The user that servers are logged in to as.
    pub server_user: String,
    /// The user that clients of this route logged in as.
    pub client_user: String,
    /// What is on file to log in to servers with.
    pub server_secret: Option<Secret>,
    /// When a server goes back.
    pub mode: Mode,
    /// Limits of the pool.
    pub pool: PoolParams,
    /// Limits of the database and the user.
    pub limits: RouteLimits,
    /// Timeouts of sessions; zero is never.
    pub timeouts: Timeouts,
}

/// What holds for all pools of the database, and all of the user; 0 = no limit. With the route, as a database may be made from
/// `*` and a user may stand in no file: nobody knows of them before a client names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteLimits {
    /// `max_db_connections`.
    pub database_servers: u32,
    /// `max_db_client_connections`.
    pub database_clients: u32,
    /// `max_user_connections`.
    pub user_servers: u32,
    /// `max_user_client_connections`.
    pub user_clients: u32,
}

impl Route {
    /// What its servers depend on, in words that mean the same in another process: where they are, as whom and how they are
    /// logged in to.
    #[must_use]
    pub fn leads_to(&self, connector: &Connector) -> String {
        let DatabaseRoute { hosts, dbname, forced_user, startup, connect_query, .. } = &*self.database;
        let (user, tls) = (&self.server_user, connector.fingerprint());
        format!("{hosts:?} {dbname:?} {user:?} {forced_user:?} {startup:?} {connect_query:?} {tls:?}")
    }

    /// Do both lead to the same servers under the same name? The password does not count: servers that are logged in stay so.
    #[must_use]
    pub fn leads_like(&self, other: &Self) -> bool {
        self.database == other.database && self.server_user == other.server_user
    }
}

/// Timeouts of one (database, user); zero is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// PgBouncer setting query_wait_timeout.
    pub query_wait: Duration,
    /// PgBouncer setting query_timeout.
    pub query: Duration,
    /// The same for a client that waits for a server. PgBouncer's own value there is the global one, whatever the user's
    /// entry says; here an entry may lengthen it.
    pub query_in_queue: Duration,
    /// PgBouncer setting transaction_timeout.
    pub transaction: Duration,
    /// PgBouncer setting idle_transaction_timeout.
    pub idle_transaction: Duration,
    /// PgBouncer setting client_idle_timeout.
    pub client_idle: Duration,
}

impl Timeouts {
    /// How long a client may wait for a server, and the name of the setting that says so.
    #[must_use]
    pub fn in_queue(&self) -> Option<(Duration, &'static str)> {
        let limits = [(self.query_in_queue, "query_timeout"), (self.query_wait, "query_wait_timeout")];
        limits.into_iter().filter(|(limit, _)| !limit.is_zero()).min_by_key(|(limit, _)| *limit)
    }
}

/// What the directory knows of a client that wants in.
pub enum Entry {
    /// A pool.
    Pool(Arc<Route>),
    /// It may log in as far as its password goes, and is then told this.
    Fail(Fault),
}

/// How a login to the admin console goes on.
pub enum ConsoleEntry {
    /// Without a password.
    BackDoor,
    /// As any login.
    AfterLogin,
    /// Not at all.
    Denied(Fault),
}

/// Who is who; built by the daemon from the configuration and the file of users.
pub trait Directory: Send + Sync + 'static {
    /// What a user has on file; `None`: no such user.
    fn secret(&self, user: &str) -> Option<Secret>;

    /// Where a client that asked for `database` as `user` belongs.
    fn find(&self, database: &str, user: &str) -> Entry;

    /// How a login to the console as `user` goes on; `owner`: it comes over our Unix socket from our own user id.
    fn console(&self, user: &str, owner: bool) -> ConsoleEntry;

    /// The route again after a reload; `None` if it is gone.
    fn renew(&self, route: &Route) -> Option<Arc<Route>>;
}

/// The channel of a stream for SCRAM: our own certificate's hash towards clients.
#[must_use]
pub fn client_channel(acceptor: Option<&Acceptor>, tls: bool) -> Channel {
    if tls { Channel::Tls(acceptor.and_then(Acceptor::server_end_point).map(<[u8]>::to_vec)) } else { Channel::Clear }
}
