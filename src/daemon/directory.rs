//! Who is who: the configuration and the file of users as sessions ask for them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::admin;
use crate::auth::{Secret, UserList};
use crate::config::{AuthType, Config, Database, HostSpec, LoadBalanceHosts, PoolMode};
use crate::fault::{Culprit, Fault};
use crate::net::dial::Target;
use crate::net::listen::unix_path;
use crate::pool::{ClientLimits, DatabaseId, DatabaseParams, PoolParams, Registry, UserId, UserParams};
use crate::session::Mode;
use crate::session::io::route::{ConsoleEntry, DatabaseRoute, Directory, Entry, Host, Route, RouteLimits, Timeouts};

/// Ids of databases and users, kept for the whole life of the process so that a reload does not renumber them.
#[derive(Debug, Default)]
pub struct Numbers {
    databases: HashMap<String, DatabaseId>,
    /// The last id given to a database; none is ever given twice.
    last_database: u32,
    users: HashMap<String, UserId>,
}

/// The number of the console's own "database" and user.
pub const CONSOLE_DATABASE: DatabaseId = DatabaseId(0);

impl Numbers {
    /// The id of a database, given out at first sight.
    pub fn database(&mut self, name: &str) -> DatabaseId {
        if let Some(known) = self.databases.get(name) {
            return *known;
        }
        self.last_database = self.last_database.saturating_add(1);
        let next = DatabaseId(self.last_database);
        self.databases.insert(name.to_owned(), next);
        next
    }

    /// Forgets a database that nobody uses.
    pub(super) fn forget_database(&mut self, name: &str) {
        self.databases.remove(name);
    }

    /// The id of a user, given out at first sight.
    pub fn user(&mut self, name: &str) -> UserId {
        let next = UserId(u32::try_from(self.users.len()).unwrap_or(u32::MAX - 1) + 1);
        *self.users.entry(name.to_owned()).or_insert(next)
    }

    /// All databases seen so far, with their names.
    pub fn databases(&self) -> impl Iterator<Item = (&str, DatabaseId)> {
        self.databases.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// The user of an id.
    #[must_use]
    pub fn user_named(&self, name: &str) -> Option<UserId> {
        self.users.get(name).copied()
    }

    /// The database of a name.
    #[must_use]
    pub fn database_named(&self, name: &str) -> Option<DatabaseId> {
        self.databases.get(name).copied()
    }
}

/// The directory of one configuration.
pub struct ConfigDirectory {
    config: Arc<Config>,
    users: Arc<UserList>,
    numbers: Arc<Mutex<Numbers>>,
}

impl ConfigDirectory {
    /// Of this configuration and the users of its auth_file.
    #[must_use]
    pub fn new(config: Arc<Config>, users: Arc<UserList>, numbers: Arc<Mutex<Numbers>>) -> Self {
        Self { config, users, numbers }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The users of auth_file.
    #[must_use]
    pub fn users(&self) -> &Arc<UserList> {
        &self.users
    }

    fn with_numbers<R>(&self, call: impl FnOnce(&mut Numbers) -> R) -> R {
        call(&mut self.numbers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the registry and the client limits what holds for every database and user of the configuration.
    pub fn announce(&self, registry: &mut Registry, now: crate::clock::Time, limits: &mut ClientLimits) {
        limits.set_max_clients(self.config.settings.max_client_conn);
        for name in self.database_names() {
            if let Some(database) = self.config.database(&name) {
                self.announce_database(&name, database, registry, now, limits);
            }
        }
        for name in self.user_names() {
            self.announce_user(&name, registry, now, limits);
        }
    }

    /// The databases that there are: those of the configuration, and those that clients have made from `*`.
    pub fn database_names(&self) -> BTreeSet<String> {
        let made = self.with_numbers(|n| n.databases().map(|(name, _)| name.to_owned()).collect::<Vec<_>>());
        let made = made.into_iter().filter(|name| self.config.database(name).is_some());
        self.config.databases.keys().cloned().chain(made).collect()
    }

    /// The users that there are: those of the configuration, of auth_file, and those that have been here.
    pub fn user_names(&self) -> BTreeSet<String> {
        let been = self.with_numbers(|n| n.users.keys().cloned().collect::<Vec<_>>());
        let listed = self.users.iter().filter_map(|(name, _)| std::str::from_utf8(name).ok().map(str::to_owned));
        self.config.users.keys().cloned().chain(listed).chain(been).collect()
    }

    fn announce_database(
        &self,
        name: &str,
        database: &Database,
        registry: &mut Registry,
        now: crate::clock::Time,
        limits: &mut ClientLimits,
    ) {
        let id = self.with_numbers(|n| n.database(name));
        let max_db_connections = self.config.max_db_connections(database);
        registry.set_database(now, id, DatabaseParams { max_db_connections });
        limits.set_database(id, self.config.max_db_client_connections(database));
    }

    fn announce_user(&self, name: &str, registry: &mut Registry, now: crate::clock::Time, limits: &mut ClientLimits) {
        let id = self.with_numbers(|n| n.user(name));
        let user = self.config.users.get(name);
        registry.set_user(now, id, UserParams { max_user_connections: self.config.max_user_connections(user) });
        limits.set_user(id, self.config.max_user_client_connections(user));
    }

    /// Routes of all databases with a forced user: their pools are kept filled without clients.
    pub fn forced_routes(&self) -> Vec<Arc<Route>> {
        let forced = self.config.databases.iter().filter(|(_, database)| database.user.is_some());
        forced.map(|(name, database)| self.route(name, database, "")).collect()
    }

    /// The databases of the configuration, as far as they are known without a client.
    pub fn databases(&self) -> impl Iterator<Item = DatabaseRoute> {
        self.config.databases.iter().map(|(name, database)| self.database_route(name, database))
    }

    fn route(&self, name: &str, database: &Database, user: &str) -> Arc<Route> {
        let config = &self.config;
        let entry = config.users.get(user);
        let server_user = database.user.as_deref().unwrap_or(user);
        // A forced user's own entry counts for the pool, the client's for its session.
        let pool_entry = config.users.get(server_user);
        let password = database.password.as_ref().filter(|_| database.user.is_some());
        let server_secret = match password {
            Some(password) => Some(Secret::parse(password.expose().as_bytes())),
            None => self.users.get(server_user.as_bytes()).cloned(),
        };
        let pool = PoolParams {
            pool_size: config.pool_size(database, pool_entry),
            min_pool_size: config.min_pool_size(database),
            reserve_pool_size: config.reserve_pool_size(database, pool_entry),
            server_lifetime: config.server_lifetime(database),
            forced_user: database.user.is_some(),
        };
        let limits = RouteLimits {
            database_servers: config.max_db_connections(database),
            database_clients: config.max_db_client_connections(database),
            user_servers: config.max_user_connections(pool_entry),
            user_clients: config.max_user_client_connections(pool_entry),
        };
        let timeouts = Timeouts {
            query_wait: config.query_wait_timeout(database, entry),
            query: config.query_timeout(entry),
            query_in_queue: match (config.query_timeout(None), config.query_timeout(entry)) {
                (global, own) if global.is_zero() || own.is_zero() => Duration::ZERO,
                (global, own) => global.max(own),
            },
            transaction: config.transaction_timeout(entry),
            idle_transaction: config.idle_transaction_timeout(entry),
            client_idle: config.client_idle_timeout(entry),
        };
        let user_id = self.with_numbers(|n| n.user(server_user));
        Arc::new(Route {
            database: Arc::new(self.database_route(name, database)),
            user: user_id,
            server_user: server_user.to_owned(),
            client_user: user.to_owned(),
            server_secret,
            mode: mode(config.pool_mode(database, entry)),
            pool,
            limits,
            timeouts,
        })
    }

    fn database_route(&self, name: &str, database: &Database) -> DatabaseRoute {
        let startup = [
            ("client_encoding", &database.client_encoding),
            ("datestyle", &database.datestyle),
            ("timezone", &database.timezone),
            ("application_name", &database.application_name),
        ];
        DatabaseRoute {
            id: self.with_numbers(|n| n.database(name)),
            name: name.to_owned(),
            hosts: self.hosts(database),
            round_robin: database.load_balance_hosts == LoadBalanceHosts::RoundRobin,
            dbname: database.dbname.clone().unwrap_or_else(|| name.to_owned()),
            forced_user: database.user.clone(),
            startup: startup.into_iter().filter_map(|(n, v)| Some((n.to_owned(), v.clone()?))).collect(),
            connect_query: database.connect_query.clone(),
        }
    }

    fn hosts(&self, database: &Database) -> Vec<Host> {
        let port = database.port;
        let unix = |dir: &str| Target::Unix(unix_path(dir, port));
        let host = |spec: &HostSpec| {
            let target = match spec {
                HostSpec::UnixDir(dir) => unix(dir),
                HostSpec::Abstract(name) => unix(&format!("@{name}")),
                HostSpec::Ipv4(ip) => Target::Ip(IpAddr::V4(*ip), port),
                HostSpec::Ipv6(ip) => Target::Ip(IpAddr::V6(*ip), port),
                HostSpec::Name(name) => Target::Name(name.clone(), port),
            };
            Host { target, name: spec.to_string() }
        };
        if database.hosts.is_empty() {
            let dir = &self.config.settings.unix_socket_dir;
            let dir = if dir.is_empty() { "/tmp" } else { dir };
            return vec![Host { target: Target::Unix(unix_path(dir, port)), name: String::new() }];
        }
        database.hosts.iter().map(host).collect()
    }
}

fn mode(mode: PoolMode) -> Mode {
    match mode {
        PoolMode::Session => Mode::Session,
        PoolMode::Transaction => Mode::Transaction,
        PoolMode::Statement => Mode::Statement,
    }
}

impl Directory for ConfigDirectory {
    fn secret(&self, user: &str) -> Option<Secret> {
        self.users.get(user.as_bytes()).cloned()
    }

    fn find(&self, database: &str, user: &str) -> Entry {
        let Some(found) = self.config.database(database) else {
            return Entry::Fail(Fault::fatal(Culprit::Client, format!("no such database: {database}")));
        };
        if self.config.settings.auth_type == AuthType::Any && found.user.is_none() {
            // Nobody knows who the client is, so the entry must say who it is to the server.
            return Entry::Fail(Fault::fatal(Culprit::Config, "auth_type=any requires forced user"));
        }
        let is_new = self.with_numbers(|n| n.database_named(database).is_none());
        if is_new && !self.config.databases.contains_key(database) {
            tracing::info!("registered new auto-database: {database}");
        }
        Entry::Pool(self.route(database, found, user))
    }

    fn console(&self, user: &str, owner: bool) -> ConsoleEntry {
        match admin_entry(&self.config, user, owner) {
            admin::Entry::BackDoor => ConsoleEntry::BackDoor,
            admin::Entry::AfterLogin(_) => ConsoleEntry::AfterLogin,
            admin::Entry::Denied(fault) => ConsoleEntry::Denied(fault),
        }
    }

    fn renew(&self, route: &Route) -> Option<Arc<Route>> {
        let database = self.config.database(&route.database.name)?;
        Some(self.route(&route.database.name, database, &route.client_user))
    }
}

/// How the console receives this user.
#[must_use]
pub fn admin_entry(config: &Config, user: &str, owner: bool) -> admin::Entry {
    let names = |list: &crate::config::NameList| list.iter().map(str::to_owned).collect::<Vec<_>>();
    let (admin_users, stats_users) = (names(&config.settings.admin_users), names(&config.settings.stats_users));
    let access = admin::Access {
        admin_users: &admin_users,
        stats_users: &stats_users,
        auth_type_any: config.settings.auth_type == AuthType::Any,
    };
    access.entry(admin::Knock { user, same_uid_unix: owner })
}
