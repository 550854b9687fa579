//! What all sessions share: the pools, the roster, the keys, the statements, and the configuration of the moment.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustc_hash::FxHashMap;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

use super::floating::Floating;
use super::freeze::{Freeze, Parcel};
use super::host::{self, SessionHost};
use super::roster::Roster;
use super::route::{Directory, Params, Route};
use super::server::Server;
use crate::auth::{Entropy, PassThrough, ScramKeys, Secret, SecretKind};
use crate::clock::Time;
use crate::ids::{ClientId, PoolId, ServerId};
use crate::net::kernel_tls::Support;
use crate::net::names::Names;
use crate::pool::io::Pools;
use crate::pool::{ClientLimits, DatabaseId, DatabaseParams, GlobalParams, Ids, UserParams};
use crate::prepared::Statements;
use crate::session::cancel::{KEY_LEN_MAX, Keys};
use crate::session::params::Values;
use crate::wire::startup::{CancelKey, Param};

/// The one of these in the process.
pub struct Shared {
    /// The pools.
    pub pools: Arc<Pools<Server>>,
    /// Where ids come from.
    pub ids: Ids,
    /// Who is connected.
    pub roster: Roster,
    /// How many clients there may be.
    pub limits: Mutex<ClientLimits>,
    /// All prepared statements.
    pub statements: Mutex<Statements>,
    /// Cancel keys of clients.
    pub keys: Mutex<Keys>,
    /// Whether sessions are to come to rest.
    pub freeze: Freeze,
    /// The floating addresses of a pair.
    pub floating: Floating,
    /// Host names of servers.
    pub names: Arc<Names>,
    /// What the statistics count, by database.
    pub stats: Mutex<FxHashMap<DatabaseId, Arc<Stats>>>,
    /// Attempts to open a server, and since when they run.
    pub(super) opening: Mutex<FxHashMap<ServerId, (AbortHandle, Time)>>,
    pub(super) cancels: Mutex<FxHashMap<ClientId, AbortHandle>>,
    /// Cancel requests that are not over: the connections that brought them wait for the other end.
    pub(super) cancel_waits: Mutex<FxHashMap<ClientId, oneshot::Sender<()>>>,
    contexts: RwLock<FxHashMap<PoolId, Arc<PoolContext>>>,
    params: RwLock<Arc<Params>>,
    directory: RwLock<Arc<dyn Directory>>,
    generation: AtomicU64,
    arriving: AtomicUsize,
    /// Where cancel requests go whose keys are not known here: to a former process that still has busy clients.
    pub former: Mutex<Option<PassCancelOn>>,
    /// The same, to the other node of a pair.
    pub peer: Mutex<Option<PassCancelOn>>,
    /// Who asks servers about users of databases that nobody has vouched for.
    pub(super) strangers: Semaphore,
    /// Of what kind the last secret was that auth_query found: what somebody whom it does not find is made to look like.
    pub(super) found_kind: Mutex<Option<SecretKind>>,
    /// A freeze has begun.
    pub(super) frozen: Notify,
    scram_keys: Mutex<Vec<DerivedKeys>>,
    mock_key: Zeroizing<[u8; 32]>,
}

/// Counts a client that arrives, from its connection until it is known or turned away.
pub struct Arriving(Arc<Shared>);

impl Arriving {
    /// One more.
    #[must_use]
    pub fn begin(shared: &Arc<Shared>) -> Self {
        shared.arriving.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shared))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.arriving.fetch_sub(1, Ordering::AcqRel);
    }
}
/// Passes a cancel request on. Does not wait.
pub type PassCancelOn = Box<dyn Fn(&CancelKey) + Send>;

/// Keys of plain passwords, so that PBKDF2 is run once per password and salt and not once per login.
struct DerivedKeys {
    secret: Secret,
    salt: Vec<u8>,
    iterations: NonZeroU32,
    keys: ScramKeys,
}

/// Derived keys that are kept; the oldest go first.
const DERIVED_KEYS_MAX: usize = 1024;

/// Databases made from `*` that are asked about users at a time before anybody has logged in to them: whoever makes up names
/// of databases gets no further than this.
const STRANGERS_MAX: usize = 8;

/// What is known of a pool beside what the registry counts.
pub struct PoolContext {
    /// The pool.
    pub pool: PoolId,
    /// Statistics of its database.
    pub stats: Arc<Stats>,
    route: RwLock<Arc<Route>>,
    /// What the last server of the pool reported at its login.
    pub reported: Mutex<Option<Reported>>,
    /// The keys of the last client that logged in by a SCRAM secret.
    pub pass_through: Mutex<Option<PassThrough>>,
    /// What auth_query last found about the user of the pool, who is not in auth_file.
    pub found: Mutex<Option<Secret>>,
    /// Which of the hosts is next.
    pub host_turn: AtomicUsize,
}

/// The parameters of a server at its login.
#[derive(Clone, Debug)]
pub struct Reported {
    /// Every ParameterStatus, in order, tracked ones left out.
    pub fixed: Vec<Param>,
    /// The tracked ones.
    pub values: Values,
}

/// Counters of one database, for SHOW STATS; each only grows. Times in microseconds.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "named as the columns of SHOW STATS")]
pub struct Stats {
    pub server_assignments: AtomicU64,
    pub transactions: AtomicU64,
    pub queries: AtomicU64,
    pub received_bytes: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub transaction_us: AtomicU64,
    pub query_us: AtomicU64,
    pub wait_us: AtomicU64,
    pub client_parses: AtomicU64,
    pub server_parses: AtomicU64,
    pub binds: AtomicU64,
    pub logins: AtomicU64,
}

/// Adds to a counter.
pub(super) fn count(counter: &AtomicU64, by: u64) {
    if by > 0 {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// Locks; a panic under one of these locks leaves data behind that is still valid.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PoolContext {
    /// The route of the moment.
    #[must_use]
    pub fn route(&self) -> Arc<Route> {
        Arc::clone(&self.route.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    /// Nobody connected yet. `limits` are those of `directory`.
    #[must_use]
    pub fn new(
        ids: Ids,
        globals: GlobalParams,
        params: Params,
        directory: Arc<dyn Directory>,
        limits: ClientLimits,
    ) -> Arc<Self> {
        let shared = Arc::new(Self {
            pools: Pools::new(ids.clone(), globals),
            ids,
            roster: Roster::default(),
            limits: Mutex::new(limits),
            statements: Mutex::default(),
            keys: Mutex::default(),
            freeze: Freeze::default(),
            floating: Floating::default(),
            names: Arc::new(Names::default()),
            stats: Mutex::default(),
            opening: Mutex::default(),
            cancels: Mutex::default(),
            cancel_waits: Mutex::default(),
            contexts: RwLock::default(),
            params: RwLock::new(Arc::new(params)),
            directory: RwLock::new(directory),
            generation: AtomicU64::new(0),
            arriving: AtomicUsize::new(0),
            former: Mutex::default(),
            peer: Mutex::default(),
            strangers: Semaphore::new(STRANGERS_MAX),
            found_kind: Mutex::default(),
            frozen: Notify::new(),
            scram_keys: Mutex::default(),
            mock_key: Zeroizing::new(random_bytes()),
        });
        shared.pools.set_host(Arc::new(SessionHost::new(&shared)));
        shared.names.set_ttls(shared.params().name_ttls);
        let weak = Arc::downgrade(&shared);
        shared.names.watch(move |name, gone| {
            if let Some(shared) = weak.upgrade() {
                host::retire(&shared, name, gone);
            }
        });
        shared
    }

    /// The settings of the moment.
    #[must_use]
    pub fn params(&self) -> Arc<Params> {
        Arc::clone(&self.params.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The directory of the moment.
    #[must_use]
    pub fn directory(&self) -> Arc<dyn Directory> {
        Arc::clone(&self.directory.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts reloads: a session whose number is older looks at its settings again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Puts a new configuration in force for all sessions.
    pub fn reconfigure(&self, params: Params, directory: Arc<dyn Directory>) {
        self.names.set_ttls(params.name_ttls);
        *self.params.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(params);
        *self.directory.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&directory);
        for context in self.contexts() {
            let former = context.route();
            let Some(renewed) = directory.renew(&former) else { continue };
            self.pools.with(|r, now, _| r.ensure_pool(now, renewed.database.id, renewed.user, &renewed.pool));
            *context.route.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&renewed);
            if !former.leads_like(&renewed) {
                // Its servers are those of a former configuration (also where a `*` entry took over, or was taken over).
                self.pools.with(|r, now, out| r.reconnect(now, Some(renewed.database.id), out));
            }
        }
        self.rouse();
    }

    /// How many clients are between their connection and the end of their login.
    #[must_use]
    pub fn arriving(&self) -> usize {
        self.arriving.load(Ordering::Acquire)
    }

    /// Lets every session come to rest: those that have report at the other end of what is returned. No server is given out
    /// until [`Self::thaw`]. `support`: the TLS of the kernel, to which connections with TLS change.
    pub fn freeze(&self, support: Option<Support>) -> mpsc::UnboundedReceiver<Parcel> {
        let parcels = self.freeze.begin(support);
        self.pools.with(|registry, _, _| registry.freeze());
        self.frozen.notify_waiters();
        self.rouse();
        parcels
    }

    /// Sessions and pools go on. Those that rest must be told so themselves.
    pub fn thaw(&self) {
        self.freeze.end();
        self.pools.with(|registry, now, out| registry.thaw(now, out));
        self.rouse();
    }

    /// Makes every session look at what has changed.
    fn rouse(&self) {
        self.generation.fetch_add(1, Ordering::Release);
        for client in self.roster.clients() {
            client.mailbox.wake();
        }
    }

    /// The pool for this route, made if there is none.
    pub fn context_for(&self, route: &Arc<Route>) -> Arc<PoolContext> {
        let (database, user) = (route.database.id, route.user);
        let pool = self.pools.with(|r, now, _| {
            if r.pool_of(database, user).is_none() {
                r.set_database(now, database, DatabaseParams { max_db_connections: route.limits.database_servers });
                r.set_user(now, user, UserParams { max_user_connections: route.limits.user_servers });
            }
            r.ensure_pool(now, database, user, &route.pool)
        });
        if let Some(context) = self.context(pool) {
            return context;
        }
        let mut contexts = self.contexts.write().unwrap_or_else(PoisonError::into_inner);
        let context = contexts.entry(pool).or_insert_with(|| {
            Arc::new(PoolContext {
                pool,
                stats: self.stats_of(route.database.id),
                route: RwLock::new(Arc::clone(route)),
                reported: Mutex::default(),
                pass_through: Mutex::default(),
                found: Mutex::default(),
                host_turn: AtomicUsize::new(0),
            })
        });
        Arc::clone(context)
    }

    /// Forgets a database that was made from `*` if this is its only pool and is not in use.
    pub(super) fn forget_made(&self, context: &PoolContext) {
        let database = Arc::clone(&context.route().database);
        let dropped = self.pools.with(|registry, now, out| registry.drop_unused(now, context.pool, out));
        if dropped && self.directory().forget(&database.name) == Some(database.id) {
            lock(&self.stats).remove(&database.id);
        }
    }

    /// The counters of a database.
    #[must_use]
    pub fn stats_of(&self, database: DatabaseId) -> Arc<Stats> {
        Arc::clone(lock(&self.stats).entry(database).or_default())
    }

    /// What is known of a pool.
    #[must_use]
    pub fn context(&self, pool: PoolId) -> Option<Arc<PoolContext>> {
        self.contexts.read().unwrap_or_else(PoisonError::into_inner).get(&pool).cloned()
    }

    /// What is known of every pool.
    #[must_use]
    pub fn contexts(&self) -> Vec<Arc<PoolContext>> {
        self.contexts.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn forget_context(&self, pool: PoolId) {
        self.contexts.write().unwrap_or_else(PoisonError::into_inner).remove(&pool);
    }

    /// Randomness for one login.
    #[must_use]
    pub fn entropy(&self) -> Entropy {
        Entropy { nonce: random_bytes(), md5_salt: random_bytes(), mock_key: self.mock_key.clone() }
    }

    pub(super) fn random_key(&self) -> [u8; KEY_LEN_MAX] {
        random_bytes()
    }

    /// Keys derived before from this secret.
    pub(super) fn derived_keys(&self, secret: &Secret, salt: &[u8], iterations: NonZeroU32) -> Option<ScramKeys> {
        let known = lock(&self.scram_keys);
        known
            .iter()
            .find(|k| k.salt == salt && k.iterations == iterations && k.secret == *secret)
            .map(|k| k.keys.clone())
    }

    pub(super) fn keep_derived_keys(&self, secret: &Secret, salt: &[u8], iterations: NonZeroU32, keys: &ScramKeys) {
        let mut known = lock(&self.scram_keys);
        if known.len() >= DERIVED_KEYS_MAX {
            known.remove(0);
        }
        known.push(DerivedKeys { secret: secret.clone(), salt: salt.to_vec(), iterations, keys: keys.clone() });
    }
}

/// From the kernel: the TLS library's own generator takes a tenth of a second to begin with, which a restart would have to wait
/// for.
fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness nobody could be authenticated safely; the kernel's generator does not fail once the machine is up.
    if getrandom::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    bytes
}
