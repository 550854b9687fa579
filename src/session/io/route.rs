//! What the driver needs of the configuration, resolved: plain data, built by the daemon, replaced as a whole on reload.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::ldap::LdapAccess;
use super::peers::Peers;
use crate::auth::hba::Rules;
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
    /// How clients prove who they are, if there are no rules.
    pub method: Method,
    /// The access rules that say it of each client.
    pub rules: Option<Arc<Rules>>,
    /// What asks LDAP servers, if any client may have to be asked about.
    pub ldap: Option<Arc<LdapAccess>>,
    /// PgBouncer setting scram_iterations.
    pub scram_iterations: NonZeroU32,
    /// What users who do not exist would have on file.
    pub mock_kind: SecretKind,
    /// Setting hide_unknown_users: whom auth_query does not find fails as with a wrong password.
    pub hide_unknown_users: bool,
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
    /// Who else listens on our port.
    pub peers: Peers,
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
    /// That user's id, under which clients are counted; with `auth_type=any` that of the server's user.
    pub client_id: UserId,
    /// Whether it serves `auth_query` and no client is ever lent a server of it: what one client leaves behind on a server
    /// must not reach the query that says who may log in.
    pub for_auth_query: bool,
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
    /// `max_user_client_connections` of the user that clients log in as.
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

/// Where the secret of a client that wants in is found.
pub enum Lookup {
    /// This is on file; `None`: no such user.
    OnFile(Option<Secret>),
    /// A server knows.
    Ask(Box<AuthQuery>),
    /// A server would have to be asked and cannot be: the reason for the log. The client hears `bouncer config error`.
    Impossible(String),
}

/// The question to a server who a user is.
pub struct AuthQuery {
    /// Where it is put, and as whom.
    pub route: Arc<Route>,
    /// With the user's name as its only parameter.
    pub sql: String,
    /// The database is one that settings name for this, not just the one that the client asked for.
    pub named: bool,
    /// The database is made from `*`, only because the client asked for it.
    pub made: bool,
    /// The same, and nobody has been there yet.
    pub stranger: bool,
}

/// Who a client of the console is counted as.
pub struct ConsoleSeat {
    /// Whether it is an admin, whom no limit of clients keeps out.
    pub is_admin: bool,
    /// The console's id among the databases.
    pub database: DatabaseId,
    /// Its user's id.
    pub user: UserId,
    /// `max_db_client_connections`; 0 = no limit.
    pub database_clients: u32,
    /// `max_user_client_connections`; 0 = no limit.
    pub user_clients: u32,
}

/// How a login to the admin console goes on.
pub enum ConsoleEntry {
    /// Without a password.
    BackDoor,
    /// As any login; then it is counted, and may be one too many.
    AfterLogin,
    /// Not at all.
    Denied(Fault),
}

/// Who is who; built by the daemon from the configuration and the file of users.
pub trait Directory: Send + Sync + 'static {
    /// Where the secret of a client is found that asked for `database` as `user`.
    fn lookup(&self, database: &str, user: &str) -> Lookup;

    /// Where a client that asked for `database` as `user` belongs.
    fn find(&self, database: &str, user: &str) -> Entry;

    /// How a login to the console as `user` goes on; `owner`: it comes over our Unix socket from our own user id.
    fn console(&self, user: &str, owner: bool) -> ConsoleEntry;

    /// Who this user is counted as on the console.
    fn console_seat(&self, user: &str) -> ConsoleSeat;

    /// The id under which a client of `route` is counted that logged in as `user`.
    fn client_id(&self, route: &Route, user: &str) -> UserId;

    /// Forgets a database that was made from `*`; the id that it had.
    fn forget(&self, database: &str) -> Option<DatabaseId>;

    /// The route again after a reload; `None` if it is gone.
    fn renew(&self, route: &Route) -> Option<Arc<Route>>;
}

/// The channel of a stream for SCRAM: our own certificate's hash towards clients.
#[must_use]
pub fn client_channel(acceptor: Option<&Acceptor>, tls: bool) -> Channel {
    if tls { Channel::Tls(acceptor.and_then(Acceptor::server_end_point).map(<[u8]>::to_vec)) } else { Channel::Clear }
}
