//! Takes the picture of the process that SHOW is made from, and keeps what averages need.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use super::console::activity;
use super::directory::CONSOLE_DATABASE;
use super::run::Daemon;
use crate::clock::Time;
use crate::config::{LoadBalanceHosts, PoolMode};
use crate::ids::ServerId;
use crate::net::stream::Peer;
use crate::pool::{DatabaseId, PoolView, ServerState, ServerView};
use crate::session::Mode;
use crate::session::io::login::CONSOLE;
use crate::session::io::roster::{ClientInfo, Doing, ServerInfo};
use crate::session::io::shared::{Shared, Stats, lock};
use crate::session::replication::Kind;
use crate::snapshot::{
    ClientState, Counters, DatabaseRow, ListCounts, MemoryRow, Needs, PeerPoolRow, PeerRow, PoolRow, Replication,
    ServerState as Sv, SettingRow, Snapshot, SocketRow, SocketState, StatsRow, UserRow,
};

/// Statistics at the end of the last two periods (PgBouncer setting stats_period).
pub struct History {
    period: Duration,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last: HashMap<DatabaseId, Counters>,
    before: HashMap<DatabaseId, Counters>,
    last_at: Option<Time>,
    span: Duration,
}

impl History {
    /// Nothing kept yet.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        Self { period, kept: Mutex::default() }
    }

    /// Length of a period.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// A period is over.
    pub fn turn(&self, shared: &Shared, log: bool) {
        let now = Time::now();
        let current: HashMap<_, _> = all_counters(shared).collect();
        let mut kept = lock(&self.kept);
        kept.span = kept.last_at.map_or(self.period, |last| now.since(last));
        kept.before = std::mem::replace(&mut kept.last, current);
        kept.last_at = Some(now);
        if log {
            let span_us = micros(kept.span);
            let sum = |m: &HashMap<DatabaseId, Counters>| m.values().fold(Counters::default(), |a, b| a.plus(b));
            let average = sum(&kept.last).average_since(&sum(&kept.before), span_us);
            tracing::info!(
                "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, in {} B/s, \
                 out {} B/s, xact {} us, query {} us, wait {} us",
                average.xacts,
                average.queries,
                average.client_parses,
                average.server_parses,
                average.binds,
                average.received_bytes,
                average.sent_bytes,
                average.xact_time_us,
                average.query_time_us,
                average.wait_time_us
            );
        }
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn unix_micros(at: Time) -> i64 {
    let since = at.system().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn counters(stats: &Stats) -> Counters {
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Counters {
        server_assignments: read(&stats.server_assignments),
        xacts: read(&stats.transactions),
        queries: read(&stats.queries),
        received_bytes: read(&stats.received_bytes),
        sent_bytes: read(&stats.sent_bytes),
        xact_time_us: read(&stats.transaction_us),
        query_time_us: read(&stats.query_us),
        wait_time_us: read(&stats.wait_us),
        client_parses: read(&stats.client_parses),
        server_parses: read(&stats.server_parses),
        binds: read(&stats.binds),
        client_logins: read(&stats.logins),
    }
}

fn all_counters(shared: &Shared) -> impl Iterator<Item = (DatabaseId, Counters)> {
    let all: Vec<_> = lock(&shared.stats).iter().map(|(id, stats)| (*id, counters(stats))).collect();
    all.into_iter()
}

impl Daemon {
    /// A picture of the parts that are needed.
    #[must_use]
    pub fn picture(&self, needs: Needs) -> Snapshot {
        let now = Time::now();
        let (pools, servers, mode) = self.shared.pools.with(|r, _, _| {
            let servers = if needs.has(Needs::SERVERS) { r.servers(now) } else { Vec::new() };
            (r.pools(now), servers, r.mode())
        });
        let mut picture = Snapshot {
            version: super::cli::VERSION_LINE.to_owned(),
            activity: activity(mode),
            stats_span_us: micros(lock(&self.history.kept).span),
            ..Snapshot::default()
        };
        if needs.has(Needs::DATABASES) {
            picture.databases = self.database_rows();
        }
        if needs.has(Needs::POOLS) {
            picture.pools = self.pool_rows(&pools);
        }
        if needs.has(Needs::CLIENTS) {
            picture.clients = self.shared.roster.clients().iter().map(|c| client_row(&self.shared, c, now)).collect();
        }
        if needs.has(Needs::SERVERS) {
            let infos: HashMap<ServerId, _> = self.shared.roster.servers().into_iter().map(|s| (s.id, s)).collect();
            picture.servers = servers.iter().filter_map(|view| Some(server_row(infos.get(&view.id)?, view))).collect();
        }
        if needs.has(Needs::STATS) {
            picture.stats = self.stats_rows();
        }
        if needs.has(Needs::USERS) {
            picture.users = self.user_rows();
        }
        if needs.has(Needs::LISTS) {
            picture.lists = self.list_counts(pools.len());
        }
        if needs.has(Needs::PEERS) {
            picture.peers = self.peer_rows();
        }
        if needs.has(Needs::PEER_POOLS) {
            picture.peer_pools = self.peer_pool_rows();
        }
        if needs.has(Needs::MEMORY) {
            picture.memory = self.memory_rows();
        }
        if needs.has(Needs::WHY) {
            picture.why = self.why_rows();
        }
        if needs.has(Needs::DNS_HOSTS) {
            picture.dns_hosts = self.dns_hosts();
        }
        if needs.has(Needs::DNS_ZONES) {
            picture.dns_zones = self.dns_zones();
        }
        if needs.has(Needs::HA) {
            picture.ha = self.ha_picture();
        }
        if needs.has(Needs::SETTINGS) {
            let file = self.file();
            let rows = self.config().settings.show_config(&file.to_string_lossy());
            picture.settings = rows
                .into_iter()
                .map(|row| SettingRow {
                    key: row.key.to_owned(),
                    value: row.value,
                    default: row.default.map(str::to_owned),
                    changeable: row.changeable,
                })
                .collect();
        }
        picture
    }

    fn database_rows(&self) -> Vec<DatabaseRow> {
        let config = self.config();
        let limits = lock(&self.shared.limits);
        let numbers = lock(&self.numbers);
        let seen = numbers.databases().filter(|(name, _)| !config.databases.contains_key(*name));
        let autos = seen.filter_map(|(name, _)| Some((name.to_owned(), config.autodb.as_ref()?)));
        let all = config.databases.iter().map(|(name, d)| (name.clone(), d)).chain(autos);
        let mut rows: Vec<_> = all
            .map(|(name, database)| {
                let id = numbers.database_named(&name).unwrap_or(CONSOLE_DATABASE);
                let (connections, paused, disabled) =
                    self.shared.pools.with(|r, _, _| (r.of_database(id), r.is_paused(id), r.is_disabled(id)));
                DatabaseRow {
                    host: database.host_text(),
                    port: database.port,
                    dbname: database.dbname.clone().unwrap_or_else(|| name.clone()),
                    force_user: database.user.clone(),
                    pool_size: config.pool_size(database, None),
                    min_pool_size: config.min_pool_size(database),
                    reserve_pool_size: config.reserve_pool_size(database, None),
                    server_lifetime_s: config.server_lifetime(database).as_secs(),
                    pool_mode: database.pool_mode.map(config_mode),
                    load_balance_hosts: balance(database),
                    max_connections: config.max_db_connections(database),
                    current_connections: connections,
                    max_client_connections: config.max_db_client_connections(database),
                    current_client_connections: limits.of_database(id),
                    paused,
                    disabled,
                    name: name.into(),
                }
            })
            .collect();
        rows.push(DatabaseRow {
            name: CONSOLE.into(),
            host: None,
            port: config.settings.listen_port,
            dbname: CONSOLE.to_owned(),
            force_user: Some(CONSOLE.to_owned()),
            pool_size: 2,
            min_pool_size: 0,
            reserve_pool_size: 0,
            server_lifetime_s: config.settings.server_lifetime.as_secs(),
            pool_mode: Some(crate::snapshot::PoolMode::Statement),
            load_balance_hosts: None,
            max_connections: 0,
            current_connections: 0,
            max_client_connections: config.settings.max_db_client_connections,
            current_client_connections: self.console_clients(),
            paused: false,
            disabled: false,
        });
        rows
    }

    fn console_clients(&self) -> u32 {
        let count = self.shared.roster.clients().iter().filter(|c| c.pool().is_none()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn pool_rows(&self, pools: &[PoolView]) -> Vec<PoolRow> {
        let config = self.config();
        let mut rows: Vec<_> = pools
            .iter()
            .filter_map(|view| {
                let route = self.shared.context(view.id)?.route();
                let c = &view.counts;
                let row = PoolRow {
                    database: route.database.name.as_str().into(),
                    user: route.server_user.as_str().into(),
                    cl_active: c.clients_active,
                    cl_waiting: c.clients_waiting,
                    cl_active_cancel_req: c.cancels_active,
                    cl_waiting_cancel_req: c.cancels_waiting,
                    sv_active: c.active,
                    sv_active_cancel: c.active_cancel,
                    sv_being_canceled: c.being_canceled,
                    sv_idle: c.idle,
                    sv_used: c.used,
                    sv_tested: c.tested,
                    sv_login: c.login,
                    maxwait_us: micros(c.max_wait),
                    pool_mode: session_mode(route.mode),
                    load_balance_hosts: config.database(&route.database.name).and_then(balance),
                };
                Some((row, route.for_auth_query))
            })
            .collect();
        // The servers of auth_query are a pool of their own, but one row with those of its user's clients: tools take a
        // database and a user for a key.
        rows.sort_by(|(a, a_asks), (b, b_asks)| (&a.database, &a.user, a_asks).cmp(&(&b.database, &b.user, b_asks)));
        rows.dedup_by(|(other, _), (row, _)| {
            let same = other.database == row.database && other.user == row.user;
            if same {
                row.add(other);
            }
            same
        });
        let mut rows: Vec<_> = rows.into_iter().map(|(row, _)| row).collect();
        rows.push(PoolRow {
            database: CONSOLE.into(),
            user: CONSOLE.into(),
            cl_active: self.console_clients(),
            cl_waiting: 0,
            cl_active_cancel_req: 0,
            cl_waiting_cancel_req: 0,
            sv_active: 0,
            sv_active_cancel: 0,
            sv_being_canceled: 0,
            sv_idle: 0,
            sv_used: 0,
            sv_tested: 0,
            sv_login: 0,
            maxwait_us: 0,
            pool_mode: crate::snapshot::PoolMode::Statement,
            load_balance_hosts: None,
        });
        rows
    }

    fn stats_rows(&self) -> Vec<StatsRow> {
        let numbers = lock(&self.numbers);
        let mut names: HashMap<DatabaseId, String> = numbers.databases().map(|(n, id)| (id, n.to_owned())).collect();
        drop(numbers);
        names.insert(CONSOLE_DATABASE, CONSOLE.to_owned());
        // The console's row is there from the start.
        let _ = self.shared.stats_of(CONSOLE_DATABASE);
        let kept = lock(&self.history.kept);
        let earlier = |id, map: &HashMap<DatabaseId, Counters>| map.get(&id).copied().unwrap_or_default();
        let rows = all_counters(&self.shared).filter_map(|(id, now)| {
            let database = names.get(&id)?.as_str().into();
            // Averages are those of the last whole period, so the row's end is that of the period.
            let (last, before) = (earlier(id, &kept.last), earlier(id, &kept.before));
            Some(StatsRow { database, now, last, before })
        });
        rows.collect()
    }

    fn user_rows(&self) -> Vec<UserRow> {
        let (config, directory) = (self.config(), self.directory());
        // Those of the configuration and of auth_file, and whoever was here by auth_query.
        let mut names: Vec<String> = directory.user_names().into_iter().collect();
        names.extend(config.databases.values().filter_map(|d| d.user.clone()));
        names.extend(config.databases.values().filter_map(|d| d.auth_user.clone()));
        names.extend(config.settings.auth_user.get().map(str::to_owned));
        names.push(CONSOLE.to_owned());
        names.sort_unstable();
        names.dedup();
        let (limits, numbers) = (lock(&self.shared.limits), lock(&self.numbers));
        let row = |name: String| {
            let user = config.users.get(&name);
            let id = numbers.user_named(&name);
            UserRow {
                pool_size: user.and_then(|u| u.pool_size),
                reserve_pool_size: user.and_then(|u| u.reserve_pool_size),
                pool_mode: user.and_then(|u| u.pool_mode).map(config_mode),
                max_user_connections: config.max_user_connections(user),
                current_connections: id.map_or(0, |id| self.shared.pools.with(|r, _, _| r.of_user(id))),
                max_user_client_connections: config.max_user_client_connections(user),
                current_client_connections: id.map_or(0, |id| limits.of_user(id)),
                name: name.into(),
            }
        };
        names.into_iter().map(row).collect()
    }

    fn list_counts(&self, pools: usize) -> ListCounts {
        let config = self.config();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let (in_all, listed) = (lock(&self.shared.limits).clients(), self.shared.roster.client_count());
        ListCounts {
            databases: count(config.databases.len() + 1),
            users: count(self.user_rows().len()),
            peers: count(config.peers.len()),
            peer_pools: count(config.peers.len()),
            pools: count(pools + 1),
            used_clients: count(listed),
            login_clients: u64::from(in_all).saturating_sub(count(listed)),
            used_servers: count(self.shared.roster.servers().len()),
            dns_names: count(self.shared.names.view().len()),
            dns_zones: count(self.dns_zones().len()),
            dns_queries: count(self.shared.names.view().iter().filter(|name| name.pending).count()),
            ..ListCounts::default()
        }
    }

    fn peer_rows(&self) -> Vec<PeerRow> {
        let config = self.config();
        let row = |(&id, peer): (&u16, &crate::config::Peer)| PeerRow {
            peer_id: id.into(),
            host: Some(peer.host.to_string()),
            port: peer.port,
            pool_size: peer.pool_size.unwrap_or(config.settings.default_pool_size),
        };
        config.peers.iter().map(row).collect()
    }

    fn peer_pool_rows(&self) -> Vec<PeerPoolRow> {
        let params = self.shared.params();
        let rows = params.peers.pools.iter().map(|(&id, pool)| {
            let counts = pool.counts();
            PeerPoolRow {
                peer_id: id.into(),
                cl_active_cancel_req: counts.active,
                cl_waiting_cancel_req: counts.waiting,
                sv_active_cancel: counts.active,
                sv_login: counts.connecting,
            }
        });
        rows.collect()
    }

    fn memory_rows(&self) -> Vec<MemoryRow> {
        let row = |name, size_bytes: usize, used: usize| MemoryRow {
            name,
            size_bytes: u64::try_from(size_bytes).unwrap_or(u64::MAX),
            used: u64::try_from(used).unwrap_or(u64::MAX),
            free: 0,
        };
        let roster = &self.shared.roster;
        let users = self.user_rows().len();
        let statements = lock(&self.shared.statements).len();
        vec![
            row("user_cache", size_of::<crate::config::User>(), users),
            row("credentials_cache", size_of::<crate::auth::Secret>(), users),
            row("db_cache", size_of::<crate::config::Database>(), self.config().databases.len()),
            row("peer_cache", size_of::<crate::config::Peer>(), self.config().peers.len()),
            row("peer_pool_cache", size_of::<crate::session::io::peers::PeerPool>(), self.config().peers.len()),
            row("pool_cache", size_of::<PoolView>(), self.shared.contexts().len()),
            row("outstanding_request_cache", 0, 0),
            row("server_cache", size_of::<crate::session::io::server::Server>(), roster.servers().len()),
            row("client_cache", size_of::<crate::session::io::client::Session>(), roster.client_count()),
            row("iobuf_cache", crate::net::buffer::SMALL_LEN, 0),
            row("var_list_cache", 0, 0),
            row("server_prepared_statement_cache", size_of::<crate::prepared::Statement>(), statements),
        ]
    }
}

fn config_mode(mode: PoolMode) -> crate::snapshot::PoolMode {
    match mode {
        PoolMode::Session => crate::snapshot::PoolMode::Session,
        PoolMode::Transaction => crate::snapshot::PoolMode::Transaction,
        PoolMode::Statement => crate::snapshot::PoolMode::Statement,
    }
}

fn session_mode(mode: Mode) -> crate::snapshot::PoolMode {
    match mode {
        Mode::Session => crate::snapshot::PoolMode::Session,
        Mode::Transaction => crate::snapshot::PoolMode::Transaction,
        Mode::Statement => crate::snapshot::PoolMode::Statement,
    }
}

fn balance(database: &crate::config::Database) -> Option<crate::snapshot::LoadBalanceHosts> {
    (database.hosts.len() > 1).then_some(match database.load_balance_hosts {
        LoadBalanceHosts::Disable => crate::snapshot::LoadBalanceHosts::Disable,
        LoadBalanceHosts::RoundRobin => crate::snapshot::LoadBalanceHosts::RoundRobin,
    })
}

pub(super) fn address(peer: &Peer) -> (String, u16) {
    match peer {
        Peer::Inet(address) => (address.ip().to_string(), address.port()),
        Peer::Unix { .. } => ("unix".to_owned(), 0),
    }
}

fn replication(kind: Option<Kind>) -> Replication {
    match kind {
        None => Replication::None,
        Some(Kind::Logical) => Replication::Logical,
        Some(Kind::Physical) => Replication::Physical,
    }
}

fn client_row(shared: &Shared, client: &Arc<ClientInfo>, now: Time) -> SocketRow {
    let state = match client.doing() {
        Doing::Login => ClientState::Login,
        Doing::Waiting => ClientState::Waiting,
        Doing::Idle | Doing::Active => ClientState::Active,
    };
    let waited = match client.doing() {
        Doing::Waiting => shared.pools.with(|r, _, _| r.waiting_since(client.id)).map(|since| now.since(since)),
        _ => None,
    };
    let (addr, port) = address(&client.peer);
    let local = client.local.map(|a| (a.ip().to_string(), a.port()));
    let (local_addr, local_port) = local.unwrap_or_else(|| ("unix".to_owned(), 0));
    let request_at = client.request_at();
    SocketRow {
        state: SocketState::Client(state),
        user: Some(client.user.as_str().into()),
        database: Some(client.database.as_str().into()),
        replication: replication(client.replication().map(|wanted| wanted.kind)),
        addr,
        port,
        local_addr,
        local_port,
        connect_time_us: unix_micros(client.connected_at),
        request_time_us: unix_micros(if request_at.0 == 0 { client.connected_at } else { request_at }),
        wait_us: waited.map_or(0, micros),
        close_needed: client.ending().is_some(),
        ptr: client.id.0,
        link: client.link().map(|s| s.0),
        remote_pid: match client.peer {
            Peer::Unix { pid: Some(pid), .. } => u32::try_from(pid).unwrap_or(0),
            _ => 0,
        },
        tls: client.tls.as_str().into(),
        application_name: lock(&client.application_name).as_str().into(),
        prepared_statements: u64::try_from(client.prepared()).unwrap_or(u64::MAX),
        id: client.id.0,
        buffer: crate::snapshot::BufferMarks::default(),
    }
}

fn server_row(server: &Arc<ServerInfo>, view: &ServerView) -> SocketRow {
    let state = match view.state {
        ServerState::Active => Sv::Active,
        ServerState::Idle => Sv::Idle,
        ServerState::Used => Sv::Used,
        ServerState::Tested => Sv::Tested,
        ServerState::Login => Sv::New,
        ServerState::ActiveCancel => Sv::ActiveCancel,
        ServerState::BeingCanceled => Sv::BeingCanceled,
    };
    let (addr, port) = address(&server.peer);
    let local = server.local.map(|a| (a.ip().to_string(), a.port()));
    let (local_addr, local_port) = local.unwrap_or_else(|| ("unix".to_owned(), 0));
    let request_at = server.request_at();
    SocketRow {
        state: SocketState::Server(state),
        user: Some(server.user.as_str().into()),
        database: Some(server.database.as_str().into()),
        replication: replication(server.replication),
        addr,
        port,
        local_addr,
        local_port,
        connect_time_us: unix_micros(server.connected_at),
        request_time_us: unix_micros(if request_at.0 == 0 { server.connected_at } else { request_at }),
        wait_us: 0,
        close_needed: view.close_needed,
        ptr: server.id.0,
        link: server.link().map(|c| c.0),
        remote_pid: server.remote_pid(),
        tls: server.tls.as_str().into(),
        application_name: "".into(),
        prepared_statements: u64::try_from(server.prepared()).unwrap_or(u64::MAX),
        id: server.id.0,
        buffer: crate::snapshot::BufferMarks::default(),
    }
}
