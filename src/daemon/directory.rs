//! Who is who: the configuration and the file of users as sessions ask for them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::admin;
use crate::auth::{Secret, SecretKind, UserList};
use crate::config::{AuthType, Config, Database, HostSpec, LoadBalanceHosts, PoolMode};
use crate::fault::{Culprit, Fault};
use crate::net::dial::Target;
use crate::net::listen::unix_path;
use crate::pool::{ClientLimits, DatabaseId, DatabaseParams, PoolParams, Registry, UserId, UserParams};
use crate::session::Mode;
use crate::session::io::login::CONSOLE;
use crate::session::io::route::{
    AuthQuery, ConsoleEntry, ConsoleSeat, DatabaseRoute, Directory, Entry, Host, Lookup, Route, RouteLimits, Timeouts,
};

/// Ids of databases and users, kept for the whole life of the process so that a reload does not renumber them.
#[derive(Debug, Default)]
pub struct Numbers {
    databases: HashMap<String, DatabaseId>,
    /// The last id given to a database; none is ever given twice.
    last_database: u32,
    users: HashMap<String, UserId>,
    /// Users for the pools of auth_query, which are nobody else's.
    auth_users: HashMap<String, UserId>,
    last_user: u32,
}

/// The number of the console's own "database" and user.
pub const CONSOLE_DATABASE: DatabaseId = DatabaseId(0);

impl Numbers {
    /// The id of a database, given out at first sight.
    pub fn database(&mut self, name: &str) -> DatabaseId {
        let last = &mut self.last_database;
        *self.databases.entry(name.to_owned()).or_insert_with(|| {
            *last += 1;
            DatabaseId(*last)
        })
    }

    /// The id of a user, given out at first sight.
    pub fn user(&mut self, name: &str) -> UserId {
        let last = &mut self.last_user;
        *self.users.entry(name.to_owned()).or_insert_with(|| {
            *last += 1;
            UserId(*last)
        })
    }

    /// The id of a user as whom `auth_query` is run.
    fn auth_user(&mut self, name: &str) -> UserId {
        let last = &mut self.last_user;
        *self.auth_users.entry(name.to_owned()).or_insert_with(|| {
            *last += 1;
            UserId(*last)
        })
    }

    /// Forgets a database; the next one of this name gets another number.
    pub(super) fn forget_database(&mut self, name: &str) -> Option<DatabaseId> {
        self.databases.remove(name)
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

/// At most so many servers of a database are used for `auth_query` at a time (never more than half of `max_db_connections`):
/// whoever knocks under made-up names must not take the servers of those who are in.
const AUTH_SERVERS_MAX: u32 = 4;

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
        // With auth_type=any it is not known who the client is.
        let nameless = config.settings.auth_type == AuthType::Any;
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
            user_clients: config.max_user_client_connections(if nameless { pool_entry } else { entry }),
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
        let client_id = if nameless || user.is_empty() { user_id } else { self.with_numbers(|n| n.user(user)) };
        Arc::new(Route {
            database: Arc::new(self.database_route(name, database)),
            user: user_id,
            server_user: server_user.to_owned(),
            client_user: user.to_owned(),
            client_id,
            for_auth_query: false,
            server_secret,
            mode: mode(config.pool_mode(database, entry)),
            pool,
            limits,
            timeouts,
        })
    }

    /// The way to the servers of this database for `auth_query`.
    fn auth_route(&self, name: &str, database: &Database, auth_user: &str) -> Arc<Route> {
        let config = &self.config;
        let entry = config.users.get(auth_user);
        let database_servers = config.max_db_connections(database);
        let sizes = [config.pool_size(database, entry), database_servers / 2];
        let pool_size = sizes.into_iter().filter(|size| *size > 0).fold(AUTH_SERVERS_MAX, u32::min);
        let user = self.with_numbers(|n| n.auth_user(auth_user));
        Arc::new(Route {
            database: Arc::new(self.database_route(name, database)),
            user,
            server_user: auth_user.to_owned(),
            client_user: auth_user.to_owned(),
            client_id: user,
            for_auth_query: true,
            server_secret: self.users.get(auth_user.as_bytes()).cloned(),
            mode: mode(config.pool_mode(database, entry)),
            pool: PoolParams {
                pool_size,
                min_pool_size: 0,
                reserve_pool_size: 0,
                server_lifetime: config.server_lifetime(database),
                forced_user: false,
            },
            limits: RouteLimits {
                database_servers,
                database_clients: config.max_db_client_connections(database),
                ..RouteLimits::default()
            },
            timeouts: Timeouts { query_wait: config.query_wait_timeout(database, entry), ..Timeouts::default() },
        })
    }

    /// Notes in the log that a database is made from `*`.
    fn note_database(&self, name: &str) {
        let is_new = self.with_numbers(|n| n.database_named(name).is_none());
        if is_new && !self.config.databases.contains_key(name) {
            tracing::info!("registered new auto-database: {name}");
        }
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
        if database.hosts.is_empty() {
            let dir = &self.config.settings.unix_socket_dir;
            let dir = if dir.is_empty() { "/tmp" } else { dir };
            return vec![Host { target: Target::Unix(unix_path(dir, port)), name: String::new() }];
        }
        database.hosts.iter().map(|spec| host(spec, port)).collect()
    }
}

/// Where to dial for a host as it is configured.
pub(super) fn host(spec: &HostSpec, port: u16) -> Host {
    let unix = |dir: &str| Target::Unix(unix_path(dir, port));
    let target = match spec {
        HostSpec::UnixDir(dir) => unix(dir),
        HostSpec::Abstract(name) => unix(&format!("@{name}")),
        HostSpec::Ipv4(ip) => Target::Ip(IpAddr::V4(*ip), port),
        HostSpec::Ipv6(ip) => Target::Ip(IpAddr::V6(*ip), port),
        HostSpec::Name(name) => Target::Name(name.clone(), port),
    };
    Host { target, name: spec.to_string() }
}

fn mode(mode: PoolMode) -> Mode {
    match mode {
        PoolMode::Session => Mode::Session,
        PoolMode::Transaction => Mode::Transaction,
        PoolMode::Statement => Mode::Statement,
    }
}

impl Directory for ConfigDirectory {
    fn lookup(&self, database: &str, user: &str) -> Lookup {
        let config = &self.config;
        let on_file = self.users.get(user.as_bytes());
        // As PgBouncer: a user without a password in auth_file is looked up as one who does not stand there.
        if on_file.is_some_and(|secret| secret.kind() != SecretKind::Empty)
            || config.settings.auth_type == AuthType::Any
        {
            return Lookup::OnFile(on_file.cloned());
        }
        let console = Database::default();
        let entry = if database == CONSOLE { Some(&console) } else { config.database(database) };
        let Some((entry, auth_user)) = entry.and_then(|entry| Some((entry, config.auth_user(entry)?))) else {
            return Lookup::OnFile(on_file.cloned());
        };
        let named = config.auth_dbname(entry);
        let asked = named.unwrap_or(database);
        if asked == CONSOLE {
            return Lookup::Impossible(format!("cannot use the reserved \"{CONSOLE}\" database as an auth_dbname"));
        }
        let Some(found) = config.database(asked) else {
            return Lookup::Impossible(format!("authentication database \"{asked}\" is not configured."));
        };
        let made = named.is_none() && !config.databases.contains_key(asked);
        let stranger = made && self.with_numbers(|n| n.database_named(asked).is_none());
        self.note_database(asked);
        let sql = config.auth_query(entry).to_owned();
        let route = self.auth_route(asked, found, auth_user);
        Lookup::Ask(Box::new(AuthQuery { route, sql, named: named.is_some(), made, stranger }))
    }

    fn find(&self, database: &str, user: &str) -> Entry {
        let Some(found) = self.config.database(database) else {
            return Entry::Fail(Fault::fatal(Culprit::Client, format!("no such database: {database}")));
        };
        if self.config.settings.auth_type == AuthType::Any && found.user.is_none() {
            // Nobody knows who the client is, so the entry must say who it is to the server.
            return Entry::Fail(Fault::fatal(Culprit::Config, "auth_type=any requires forced user"));
        }
        self.note_database(database);
        Entry::Pool(self.route(database, found, user))
    }

    fn console(&self, user: &str, owner: bool) -> ConsoleEntry {
        match admin_entry(&self.config, user, owner) {
            admin::Entry::BackDoor => ConsoleEntry::BackDoor,
            admin::Entry::AfterLogin(_) => ConsoleEntry::AfterLogin,
            admin::Entry::Denied(fault) => ConsoleEntry::Denied(fault),
        }
    }

    fn console_seat(&self, user: &str) -> ConsoleSeat {
        let config = &self.config;
        let rights = admin_entry(config, user, false).rights();
        ConsoleSeat {
            is_admin: rights == Some(admin::Rights::Admin),
            database: CONSOLE_DATABASE,
            user: self.with_numbers(|n| n.user(user)),
            database_clients: config.settings.max_db_client_connections,
            user_clients: config.max_user_client_connections(config.users.get(user)),
        }
    }

    fn client_id(&self, route: &Route, user: &str) -> UserId {
        if self.config.settings.auth_type == AuthType::Any {
            route.client_id
        } else {
            self.with_numbers(|n| n.user(user))
        }
    }

    fn forget(&self, database: &str) -> Option<DatabaseId> {
        let made = !self.config.databases.contains_key(database);
        made.then(|| self.with_numbers(|n| n.forget_database(database))).flatten()
    }

    fn renew(&self, route: &Route) -> Option<Arc<Route>> {
        let database = self.config.database(&route.database.name)?;
        if route.for_auth_query {
            return Some(self.auth_route(&route.database.name, database, &route.server_user));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    fn directory(ini: &str) -> ConfigDirectory {
        let (config, _) = load(std::path::Path::new("p.ini"), &mut |_| Ok(ini.as_bytes().to_vec())).unwrap();
        let (users, _) = UserList::parse(b"\"joe\" \"secret\"\n\"jim\" \"\"\n\"au\" \"x\"\n");
        ConfigDirectory::new(Arc::new(config), Arc::new(users), Arc::default())
    }

    /// What a lookup says, in a line.
    fn said(directory: &ConfigDirectory, database: &str, user: &str) -> String {
        match directory.lookup(database, user) {
            Lookup::OnFile(secret) => format!("{:?}", secret.map(|secret| secret.kind())),
            Lookup::Impossible(reason) => reason,
            Lookup::Ask(query) => {
                let AuthQuery { route, sql, named, made, stranger } = *query;
                assert!(route.for_auth_query && route.server_secret.is_some());
                let flags = [(named, " named"), (made, " made"), (stranger, " stranger")];
                let flags: String = flags.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
                format!("{} as {}: {sql}{flags}", route.database.name, route.server_user)
            }
        }
    }

    #[test]
    fn who_is_on_file_and_who_is_asked_about() {
        let directory = directory(
            "[databases]\na = host=h\nb = auth_user=joe auth_query='SELECT b' auth_dbname=a\n\
             c = auth_dbname=lost\nd = auth_dbname=pgbouncer\n[pgbouncer]\nauth_user=au\nauth_query=SELECT g\n",
        );
        let said = |database, user| said(&directory, database, user);
        assert_eq!(said("a", "joe"), "Some(Plain)");
        assert_eq!(said("a", "jim"), "a as au: SELECT g", "no password on file is as good as none");
        assert_eq!(said("a", "eve"), "a as au: SELECT g");
        assert_eq!(said("b", "eve"), "a as joe: SELECT b named");
        assert_eq!(said("c", "eve"), "authentication database \"lost\" is not configured.");
        let reserved = "cannot use the reserved \"pgbouncer\" database as an auth_dbname";
        assert_eq!((said("d", "eve"), said("pgbouncer", "eve")), (reserved.into(), reserved.into()));
        assert_eq!(said("nowhere", "eve"), "None", "who asks for what is not there finds out nothing");
        assert_eq!(said("pgbouncer", "joe"), "Some(Plain)");
    }

    #[test]
    fn without_auth_user_and_with_auth_type_any_nobody_is_asked() {
        let plain = directory("[databases]\na = host=h\n[pgbouncer]\n");
        assert_eq!((said(&plain, "a", "eve"), said(&plain, "a", "jim")), ("None".into(), "Some(Empty)".into()));
        let any = directory("[databases]\na = host=h user=u\n[pgbouncer]\nauth_type=any\nauth_user=au\n");
        assert_eq!(said(&any, "a", "eve"), "None");
    }

    #[test]
    fn databases_that_strangers_name_can_be_forgotten() {
        let directory = directory("[databases]\na = host=h\n* = host=h\n[pgbouncer]\nauth_user=au\nauth_query=Q\n");
        assert_eq!(said(&directory, "x", "eve"), "x as au: Q made stranger");
        assert_eq!(said(&directory, "x", "eve"), "x as au: Q made");
        let id = directory.forget("x").unwrap();
        assert_eq!(directory.forget("x"), None);
        assert_eq!(said(&directory, "x", "eve"), "x as au: Q made stranger");
        assert_ne!(directory.forget("x"), Some(id), "a number is never given out again");
        said(&directory, "a", "eve");
        assert_eq!(directory.forget("a"), None, "the configuration names it");
    }

    #[test]
    fn the_query_has_few_servers_of_its_own_and_clients_are_counted_under_their_own_name() {
        let directory = directory(
            "[databases]\na = host=h user=au pool_size=20\nb = max_db_connections=4\nc = pool_size=1\n\
             [users]\neve = max_user_client_connections=7\nau = max_user_client_connections=3\n\
             [pgbouncer]\nauth_user=au\nmax_user_client_connections=5\n",
        );
        let pool = |database| match directory.lookup(database, "eve") {
            Lookup::Ask(query) => (query.route.pool.pool_size, query.route.user),
            _ => panic!("{database}"),
        };
        assert_eq!([pool("a").0, pool("b").0, pool("c").0], [4, 2, 1]);
        let Entry::Pool(route) = directory.find("a", "eve") else { panic!() };
        assert_ne!(route.user, pool("a").1, "no client is lent a server of the query");
        assert_eq!((route.server_user.as_str(), route.limits.user_clients), ("au", 7));
        assert_eq!(route.client_id, directory.client_id(&route, "eve"));
        assert_ne!(route.client_id, route.user);
        let renewed = directory.renew(&directory.auth_route("a", &directory.config.databases["a"], "au")).unwrap();
        assert!(renewed.for_auth_query);
        let seat = directory.console_seat("eve");
        assert_eq!((seat.user, seat.user_clients, seat.is_admin), (route.client_id, 7, false));
    }
}
