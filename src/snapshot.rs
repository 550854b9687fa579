//! A plain-data picture of the process: what the console's SHOW commands and the metrics are made from.
//!
//! Nobody holds a whole picture at all times. A reader says with [`Needs`] which parts it wants, the daemon fills in
//! those and leaves the rest empty, so that SHOW VERSION does not walk fifty thousand clients. Rows may come in any
//! order (several threads may each hand in theirs): who prints them sorts them. Times of day are microseconds since
//! the Unix epoch, durations microseconds, unless a name says otherwise.

mod ha;
mod why;

use std::ops::{BitOr, BitOrAssign};
use std::sync::Arc;

pub use ha::{HaLinkState, HaPathRow, HaPeer, HaPicture, HaRouterRow, HaState, HaTransitionRow};
pub use why::{LimitUsed, SetBy, WhyCause, WhyRow};

/// Which parts of a [`Snapshot`] a reader wants: a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs(u32);

impl Needs {
    /// Nothing but the always present [`Snapshot::version`] and [`Snapshot::activity`].
    pub const NONE: Self = Self(0);
    /// [`Snapshot::databases`].
    pub const DATABASES: Self = Self(1);
    /// [`Snapshot::pools`].
    pub const POOLS: Self = Self(1 << 1);
    /// [`Snapshot::clients`], without those still logging in.
    pub const CLIENTS: Self = Self(1 << 2);
    /// [`Snapshot::servers`].
    pub const SERVERS: Self = Self(1 << 3);
    /// The clients still logging in, as part of [`Snapshot::clients`].
    pub const LOGINS: Self = Self(1 << 4);
    /// [`Snapshot::stats`] and [`Snapshot::stats_span_us`].
    pub const STATS: Self = Self(1 << 5);
    /// [`Snapshot::users`].
    pub const USERS: Self = Self(1 << 6);
    /// [`Snapshot::lists`].
    pub const LISTS: Self = Self(1 << 7);
    /// [`Snapshot::memory`].
    pub const MEMORY: Self = Self(1 << 8);
    /// [`Snapshot::dns_hosts`].
    pub const DNS_HOSTS: Self = Self(1 << 9);
    /// [`Snapshot::dns_zones`].
    pub const DNS_ZONES: Self = Self(1 << 10);
    /// [`Snapshot::peers`].
    pub const PEERS: Self = Self(1 << 11);
    /// [`Snapshot::peer_pools`].
    pub const PEER_POOLS: Self = Self(1 << 12);
    /// [`Snapshot::settings`].
    pub const SETTINGS: Self = Self(1 << 13);
    /// [`Snapshot::descriptors`].
    pub const DESCRIPTORS: Self = Self(1 << 14);
    /// [`Snapshot::ha`].
    pub const HA: Self = Self(1 << 15);
    /// [`Snapshot::why`].
    pub const WHY: Self = Self(1 << 16);
    /// Every part.
    pub const ALL: Self = Self(u32::MAX);

    /// Are all parts of `part` wanted?
    #[must_use]
    pub fn has(self, part: Self) -> bool {
        self.0 & part.0 == part.0
    }
}

impl BitOr for Needs {
    type Output = Self;
    fn bitor(self, rhs: Self) -> Self {
        Self(self.0 | rhs.0)
    }
}

impl BitOrAssign for Needs {
    fn bitor_assign(&mut self, rhs: Self) {
        self.0 |= rhs.0;
    }
}

/// The picture. Parts that were not asked for are empty.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The version line, equal to the first line that `--version` prints.
    pub version: String,
    /// Is the whole pooler at work, paused or suspended?
    pub activity: Activity,
    /// Databases, the console's own included.
    pub databases: Vec<DatabaseRow>,
    /// Pools, the console's own included.
    pub pools: Vec<PoolRow>,
    /// Clients, those of the console included.
    pub clients: Vec<SocketRow>,
    /// Servers, those for peers included.
    pub servers: Vec<SocketRow>,
    /// Counters. A database may stand in several rows (one per pool or thread): the reader adds them up.
    pub stats: Vec<StatsRow>,
    /// How long ago [`StatsRow::before`] was taken, in microseconds.
    pub stats_span_us: u64,
    /// Users.
    pub users: Vec<UserRow>,
    /// How many of what there are.
    pub lists: ListCounts,
    /// What is kept in memory.
    pub memory: Vec<MemoryRow>,
    /// Names that were looked up.
    pub dns_hosts: Vec<DnsHostRow>,
    /// Zones whose serial numbers are watched.
    pub dns_zones: Vec<DnsZoneRow>,
    /// `[peers]`.
    pub peers: Vec<PeerRow>,
    /// The pools that carry cancel requests to peers.
    pub peer_pools: Vec<PeerPoolRow>,
    /// Settings, in the order in which SHOW CONFIG prints them.
    pub settings: Vec<SettingRow>,
    /// Open sockets by descriptor number.
    pub descriptors: Vec<DescriptorRow>,
    /// The pair; `None` without a section `[ha]`.
    pub ha: Option<HaPicture>,
    /// Clients that wait, and what for.
    pub why: Vec<WhyRow>,
}

/// What the pooler as a whole is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// Serving.
    #[default]
    Active,
    /// PAUSE: no server is handed out.
    Paused,
    /// SUSPEND: nothing is read at all.
    Suspended,
}

/// PgBouncer's `pool_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// A server stays with its client until the client leaves.
    Session,
    /// Until the end of the transaction.
    Transaction,
    /// Until the end of the statement.
    Statement,
}

impl PoolMode {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
            Self::Statement => "statement",
        }
    }
}

/// PgBouncer's `load_balance_hosts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadBalanceHosts {
    /// Stay with a host as long as it answers.
    Disable,
    /// The next host for each new server.
    RoundRobin,
}

impl LoadBalanceHosts {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::RoundRobin => "round-robin",
        }
    }
}

/// One `[databases]` entry. Sizes and limits are the effective ones (defaults filled in), 0 is "no limit".
#[derive(Clone, Debug)]
pub struct DatabaseRow {
    /// The name clients ask for.
    pub name: Arc<str>,
    /// Host, host list or socket directory; `None` for the console and for the default Unix socket.
    pub host: Option<String>,
    /// TCP port.
    pub port: u16,
    /// The name on the server.
    pub dbname: String,
    /// The user all clients are turned into.
    pub force_user: Option<String>,
    /// `pool_size`.
    pub pool_size: u32,
    /// `min_pool_size`.
    pub min_pool_size: u32,
    /// `reserve_pool_size`.
    pub reserve_pool_size: u32,
    /// `server_lifetime`, in seconds.
    pub server_lifetime_s: u64,
    /// The entry's own mode; `None` if inherited.
    pub pool_mode: Option<PoolMode>,
    /// `None` unless `host` is a list.
    pub load_balance_hosts: Option<LoadBalanceHosts>,
    /// `max_db_connections`.
    pub max_connections: u32,
    /// Servers there are.
    pub current_connections: u32,
    /// `max_db_client_connections`.
    pub max_client_connections: u32,
    /// Clients there are.
    pub current_client_connections: u32,
    /// PAUSE db.
    pub paused: bool,
    /// DISABLE db.
    pub disabled: bool,
}

/// One pool: the servers and waiters of one (database, user).
#[derive(Clone, Debug, PartialEq)]
pub struct PoolRow {
    /// Database.
    pub database: Arc<str>,
    /// User.
    pub user: Arc<str>,
    /// Clients linked to a server, or idle.
    pub cl_active: u32,
    /// Clients that wait for a server.
    pub cl_waiting: u32,
    /// Cancel requests on their way.
    pub cl_active_cancel_req: u32,
    /// Cancel requests that wait for a server connection.
    pub cl_waiting_cancel_req: u32,
    /// Servers linked to a client.
    pub sv_active: u32,
    /// Servers that carry a cancel request.
    pub sv_active_cancel: u32,
    /// Servers whose query is being cancelled.
    pub sv_being_canceled: u32,
    /// Servers ready for use.
    pub sv_idle: u32,
    /// Servers to be checked before use.
    pub sv_used: u32,
    /// Servers under `server_reset_query` or `server_check_query`.
    pub sv_tested: u32,
    /// Servers logging in.
    pub sv_login: u32,
    /// How long the first waiting client has waited.
    pub maxwait_us: u64,
    /// The mode in effect.
    pub pool_mode: PoolMode,
    /// `None` unless the database's host is a list.
    pub load_balance_hosts: Option<LoadBalanceHosts>,
}

impl PoolRow {
    /// Counts what another pool of the same database and user has.
    pub fn add(&mut self, other: &Self) {
        let counts = [
            (&mut self.cl_active, other.cl_active),
            (&mut self.cl_waiting, other.cl_waiting),
            (&mut self.cl_active_cancel_req, other.cl_active_cancel_req),
            (&mut self.cl_waiting_cancel_req, other.cl_waiting_cancel_req),
            (&mut self.sv_active, other.sv_active),
            (&mut self.sv_active_cancel, other.sv_active_cancel),
            (&mut self.sv_being_canceled, other.sv_being_canceled),
            (&mut self.sv_idle, other.sv_idle),
            (&mut self.sv_used, other.sv_used),
            (&mut self.sv_tested, other.sv_tested),
            (&mut self.sv_login, other.sv_login),
        ];
        for (count, more) in counts {
            *count = count.saturating_add(more);
        }
        self.maxwait_us = self.maxwait_us.max(other.maxwait_us);
    }
}

/// Whether a connection was made for replication, and for which kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    /// An ordinary connection.
    #[default]
    None,
    /// `replication=database`.
    Logical,
    /// `replication=true`.
    Physical,
}

impl Replication {
    /// The word in column `replication`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Logical => "logical",
            Self::Physical => "physical",
        }
    }
}

/// On which list of PgBouncer's a client would stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientState {
    /// Linked to a server, or idle: [`SocketRow::link`] tells which.
    Active,
    /// Waits for a server.
    Waiting,
    /// A cancel request on its way.
    ActiveCancelReq,
    /// A cancel request that waits for a server connection.
    WaitingCancelReq,
    /// Not yet logged in.
    Login,
}

/// On which list of PgBouncer's a server would stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerState {
    /// Linked to a client.
    Active,
    /// Ready for use.
    Idle,
    /// To be checked before use.
    Used,
    /// Under `server_reset_query` or `server_check_query`.
    Tested,
    /// Connecting or logging in.
    New,
    /// Carries a cancel request.
    ActiveCancel,
    /// Its query is being cancelled.
    BeingCanceled,
}

/// Client or server, and its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketState {
    /// A client.
    Client(ClientState),
    /// A server.
    Server(ServerState),
}

/// One client or server.
#[derive(Clone, Debug)]
pub struct SocketRow {
    /// Client or server, and its state.
    pub state: SocketState,
    /// The user, once known.
    pub user: Option<Arc<str>>,
    /// The database, once known; `None` for what belongs to a peer.
    pub database: Option<Arc<str>>,
    /// Made for replication?
    pub replication: Replication,
    /// The far end: an address without port, or `unix`.
    pub addr: String,
    /// The far end's port; for a Unix socket the port that its name carries.
    pub port: u16,
    /// Our end.
    pub local_addr: String,
    /// Our end's port.
    pub local_port: u16,
    /// When it was connected.
    pub connect_time_us: i64,
    /// When the last request came in.
    pub request_time_us: i64,
    /// How long the request under way has been under way; 0 if there is none.
    pub wait_us: u64,
    /// Will be closed as soon as it is free.
    pub close_needed: bool,
    /// A number that names the socket in column `ptr` and in its partner's `link`.
    pub ptr: u64,
    /// The partner's [`Self::ptr`] while linked.
    pub link: Option<u64>,
    /// The process at the other end: the peer of a Unix socket, or the backend; 0 if unknown.
    pub remote_pid: u32,
    /// `version/cipher`, empty without TLS.
    pub tls: Arc<str>,
    /// `application_name`.
    pub application_name: Arc<str>,
    /// Prepared statements on it.
    pub prepared_statements: u64,
    /// The number from the counter that clients and servers share.
    pub id: u64,
    /// How its buffer stands.
    pub buffer: BufferMarks,
}

/// Positions in a connection's receive buffer, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferMarks {
    /// Received up to here.
    pub recv_pos: u64,
    /// Parsed up to here.
    pub pkt_pos: u64,
    /// What is yet to come of the message under way.
    pub pkt_remain: u64,
    /// Passed on up to here.
    pub send_pos: u64,
    /// What is yet to be sent of the message under way.
    pub send_remain: u64,
    /// Received but not parsed.
    pub pkt_avail: u64,
    /// Parsed but not passed on.
    pub send_avail: u64,
}

impl BufferMarks {
    /// Is nothing of a message left in the buffer or still to come? (Such sockets are not in SHOW ACTIVE_SOCKETS.)
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.recv_pos == self.send_pos && self.pkt_remain == 0
    }
}

/// The twelve counters of the statistics. Sums since the start, or averages of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times a server was given to a client.
    pub server_assignments: u64,
    /// Transactions.
    pub xacts: u64,
    /// Queries.
    pub queries: u64,
    /// Bytes received from clients.
    pub received_bytes: u64,
    /// Bytes sent to clients.
    pub sent_bytes: u64,
    /// Time in transactions.
    pub xact_time_us: u64,
    /// Time in queries.
    pub query_time_us: u64,
    /// Time clients waited for a server.
    pub wait_time_us: u64,
    /// Parse messages from clients.
    pub client_parses: u64,
    /// Parse messages to servers.
    pub server_parses: u64,
    /// Bind messages.
    pub binds: u64,
    /// Logins that succeeded.
    pub client_logins: u64,
}

impl Counters {
    /// The counters in the order of the columns of SHOW STATS.
    #[must_use]
    pub fn columns(&self) -> [u64; 12] {
        [
            self.server_assignments,
            self.xacts,
            self.queries,
            self.received_bytes,
            self.sent_bytes,
            self.xact_time_us,
            self.query_time_us,
            self.wait_time_us,
            self.client_parses,
            self.server_parses,
            self.binds,
            self.client_logins,
        ]
    }

    fn from_columns(c: [u64; 12]) -> Self {
        let [sa, x, q, rx, tx, xt, qt, wt, cp, sp, b, l] = c;
        Self {
            server_assignments: sa,
            xacts: x,
            queries: q,
            received_bytes: rx,
            sent_bytes: tx,
            xact_time_us: xt,
            query_time_us: qt,
            wait_time_us: wt,
            client_parses: cp,
            server_parses: sp,
            binds: b,
            client_logins: l,
        }
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut out = self.columns();
        for (a, b) in out.iter_mut().zip(other.columns()) {
            *a = f(*a, b);
        }
        Self::from_columns(out)
    }

    /// The sums of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// What `span_us` microseconds brought on average: counts and bytes per second, times per transaction, per query
    /// and (waiting) per assignment. `before` are the counters as they stood that long ago.
    #[must_use]
    pub fn average_since(&self, before: &Self, span_us: u64) -> Self {
        if span_us == 0 {
            return Self::default();
        }
        let gained = self.zip(before, u64::saturating_sub);
        let per_second = |n: u64| {
            let rate = u128::from(n) * 1_000_000 / u128::from(span_us);
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        let each = |time_us: u64, count: u64| time_us.checked_div(count).unwrap_or(0);
        let mut out = Self::from_columns(gained.columns().map(per_second));
        out.xact_time_us = each(gained.xact_time_us, gained.xacts);
        out.query_time_us = each(gained.query_time_us, gained.queries);
        out.wait_time_us = each(gained.wait_time_us, gained.server_assignments);
        out
    }
}

/// The counters of a database, or of a part of it.
#[derive(Clone, Debug)]
pub struct StatsRow {
    /// Database.
    pub database: Arc<str>,
    /// Since the start.
    pub now: Counters,
    /// As they stood at the end of the last whole period.
    pub last: Counters,
    /// As they stood at its beginning, [`Snapshot::stats_span_us`] earlier.
    pub before: Counters,
}

/// A user that pgtandem knows.
#[derive(Clone, Debug)]
pub struct UserRow {
    /// Name.
    pub name: Arc<str>,
    /// `pool_size` of `[users]`, if set there.
    pub pool_size: Option<u32>,
    /// `reserve_pool_size` of `[users]`, if set there.
    pub reserve_pool_size: Option<u32>,
    /// `pool_mode` of `[users]`, if set there.
    pub pool_mode: Option<PoolMode>,
    /// `max_user_connections` in effect, 0 is "no limit".
    pub max_user_connections: u32,
    /// Servers there are.
    pub current_connections: u32,
    /// `max_user_client_connections` in effect, 0 is "no limit".
    pub max_user_client_connections: u32,
    /// Clients there are.
    pub current_client_connections: u32,
}

/// How many of what there are (SHOW LISTS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListCounts {
    /// Databases.
    pub databases: u64,
    /// Users.
    pub users: u64,
    /// Peers.
    pub peers: u64,
    /// Pools.
    pub pools: u64,
    /// Pools towards peers.
    pub peer_pools: u64,
    /// Client slots kept ready.
    pub free_clients: u64,
    /// Clients.
    pub used_clients: u64,
    /// Clients still logging in.
    pub login_clients: u64,
    /// Server slots kept ready.
    pub free_servers: u64,
    /// Servers.
    pub used_servers: u64,
    /// Names in the DNS cache.
    pub dns_names: u64,
    /// Zones in the DNS cache.
    pub dns_zones: u64,
    /// DNS queries under way.
    pub dns_queries: u64,
    /// Connections that wait for DNS.
    pub dns_pending: u64,
}

/// One kind of object kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRow {
    /// What it is.
    pub name: &'static str,
    /// Bytes each.
    pub size_bytes: u64,
    /// In use.
    pub used: u64,
    /// Kept ready.
    pub free: u64,
}

/// One name in the DNS cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsHostRow {
    /// The name.
    pub hostname: String,
    /// Seconds until it is looked up anew.
    pub ttl_s: u64,
    /// Addresses, separated by commas.
    pub addrs: String,
}

/// One zone whose serial number is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsZoneRow {
    /// The zone.
    pub zonename: String,
    /// Its serial number (RFC 1035 section 3.3.13).
    pub serial: u32,
    /// Names in it.
    pub count: u64,
}

/// One `[peers]` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRow {
    /// `peer_id`.
    pub peer_id: u32,
    /// Host or socket directory.
    pub host: Option<String>,
    /// TCP port.
    pub port: u16,
    /// The effective `pool_size`.
    pub pool_size: u32,
}

/// The pool that carries cancel requests to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerPoolRow {
    /// `peer_id`.
    pub peer_id: u32,
    /// Cancel requests on their way.
    pub cl_active_cancel_req: u32,
    /// Cancel requests that wait for a connection.
    pub cl_waiting_cancel_req: u32,
    /// Connections that carry a cancel request.
    pub sv_active_cancel: u32,
    /// Connections being made.
    pub sv_login: u32,
}

/// One setting as SHOW CONFIG prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingRow {
    /// Name.
    pub key: String,
    /// The value in effect.
    pub value: Option<String>,
    /// The value if nothing is set.
    pub default: Option<String>,
    /// Does RELOAD or SET change it?
    pub changeable: bool,
}

/// One open socket as SHOW FDS lists it. Secrets (cancel keys, passwords, SCRAM keys) are left out on purpose: pgtandem's
/// own hand-over does not use this command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorRow {
    /// Descriptor number.
    pub fd: i32,
    /// `pooler` (a listening socket), `client` or `server`.
    pub task: &'static str,
    /// User.
    pub user: Option<Arc<str>>,
    /// Database.
    pub database: Option<Arc<str>>,
    /// The far end, or the address listened on.
    pub addr: String,
    /// Its port.
    pub port: u16,
    /// Descriptor number of the partner, 0 if none.
    pub link: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_a_set() {
        let some = Needs::CLIENTS | Needs::LOGINS;
        assert!(some.has(Needs::CLIENTS) && some.has(Needs::NONE) && !some.has(Needs::SERVERS));
        assert!(Needs::ALL.has(some) && Needs::ALL.has(Needs::DESCRIPTORS));
    }

    #[test]
    fn rows_of_one_database_and_user_add_up() {
        let row = |n: u32| PoolRow {
            database: "d".into(),
            user: "u".into(),
            cl_active: n,
            cl_waiting: n,
            cl_active_cancel_req: n,
            cl_waiting_cancel_req: n,
            sv_active: n,
            sv_active_cancel: n,
            sv_being_canceled: n,
            sv_idle: n,
            sv_used: n,
            sv_tested: n,
            sv_login: n,
            maxwait_us: n.into(),
            pool_mode: PoolMode::Session,
            load_balance_hosts: None,
        };
        let mut sum = row(2);
        sum.add(&row(3));
        assert_eq!(sum, PoolRow { maxwait_us: 3, ..row(5) });
    }

    #[test]
    fn averages_are_per_second_and_per_thing() {
        let before = Counters { xacts: 10, xact_time_us: 100, ..Counters::default() };
        let now = Counters { xacts: 30, xact_time_us: 1_100, received_bytes: u64::MAX, wait_time_us: 5, ..before };
        let avg = now.average_since(&before, 2_000_000);
        assert_eq!(avg.xacts, 10);
        assert_eq!(avg.xact_time_us, 50);
        assert_eq!(avg.received_bytes, u64::MAX / 2);
        assert_eq!(avg.wait_time_us, 0, "nothing was assigned");
        assert_eq!(now.average_since(&before, 0), Counters::default());
    }
}
