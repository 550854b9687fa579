//! Who is connected: what SHOW CLIENTS and SHOW SERVERS tell, kept in atomics so that the relay pays a few plain stores.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::server::Server;
use super::subject::Subject;
use crate::clock::Time;
use crate::fault::Fault;
use crate::ids::{ClientId, PoolId, ServerId};
use crate::net::dial::Target;
use crate::net::stream::Peer;
use crate::pool::io::Mailbox;
use crate::session::replication::{Kind, Wanted};
use crate::wire::startup::CancelKey;

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// Still logging in; not listed.
    Login = 0,
    /// Has no server and wants none.
    Idle = 1,
    /// Waits for a server.
    Waiting = 2,
    /// Has a server.
    Active = 3,
}

const NO_POOL: u64 = u64::MAX;

/// One client as others see it.
#[derive(Debug)]
pub struct ClientInfo {
    /// Its id.
    pub id: ClientId,
    /// The database that it asked for.
    pub database: String,
    /// Its user name.
    pub user: String,
    /// Where it is.
    pub peer: Peer,
    /// Our end, if over IP.
    pub local: Option<SocketAddr>,
    /// When it came.
    pub connected_at: Time,
    /// `version/cipher`, or empty.
    pub tls: String,
    /// application_name at login.
    pub application_name: Mutex<String>,
    /// Where the pool reaches it.
    pub mailbox: Arc<Mailbox<Server>>,
    pool: AtomicU64,
    doing: AtomicU8,
    request_at: AtomicU64,
    link: AtomicU64,
    prepared: AtomicUsize,
    keeps_server: AtomicBool,
    replication: OnceLock<Wanted>,
    kicked: AtomicBool,
    ending: Mutex<Option<Ending>>,
}

/// Why a client must go.
#[derive(Clone, Debug)]
pub struct Ending {
    /// What it is told.
    pub fault: Fault,
    /// Now, or only when it has no transaction open.
    pub at_once: bool,
    /// Nothing reaches it any more, as its address is elsewhere: its connection is dropped without a word.
    pub unreachable: bool,
}

impl Ending {
    /// Now, whatever it is doing.
    #[must_use]
    pub fn at_once(fault: Fault) -> Self {
        Self { fault, at_once: true, unreachable: false }
    }

    /// When it has no transaction open.
    #[must_use]
    pub fn between_transactions(fault: Fault) -> Self {
        Self { fault, at_once: false, unreachable: false }
    }

    /// Now, and without last words: nothing reaches it any more. `fault` is for the log.
    #[must_use]
    pub fn unreachable(fault: Fault) -> Self {
        Self { fault, at_once: true, unreachable: true }
    }
}

impl ClientInfo {
    /// A client that begins to log in.
    #[must_use]
    pub fn new(
        id: ClientId,
        database: String,
        user: String,
        peer: Peer,
        local: Option<SocketAddr>,
        tls: String,
    ) -> Self {
        Self {
            id,
            database,
            user,
            peer,
            local,
            connected_at: Time::now(),
            tls,
            application_name: Mutex::default(),
            mailbox: Arc::default(),
            pool: AtomicU64::new(NO_POOL),
            doing: AtomicU8::new(Doing::Login as u8),
            request_at: AtomicU64::new(0),
            link: AtomicU64::new(0),
            prepared: AtomicUsize::new(0),
            keeps_server: AtomicBool::new(false),
            replication: OnceLock::new(),
            kicked: AtomicBool::new(false),
            ending: Mutex::default(),
        }
    }

    /// It came when a former process was there.
    #[must_use]
    pub fn with_connected_at(self, connected_at: Time) -> Self {
        Self { connected_at, ..self }
    }

    /// It as the subject of a log line.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject::client(self.id, &self.database, &self.user, &self.peer)
    }

    /// Notes its pool.
    pub fn set_pool(&self, pool: PoolId) {
        self.pool.store(pool.0.into(), Ordering::Relaxed);
    }

    /// Its pool; none on the console.
    #[must_use]
    pub fn pool(&self) -> Option<PoolId> {
        u32::try_from(self.pool.load(Ordering::Relaxed)).ok().map(PoolId)
    }

    /// Notes whether it is in session pooling.
    pub fn set_keeps_server(&self, keeps: bool) {
        self.keeps_server.store(keeps, Ordering::Relaxed);
    }

    /// Does it keep its server until it leaves?
    #[must_use]
    pub fn keeps_server(&self) -> bool {
        self.keeps_server.load(Ordering::Relaxed)
    }

    /// Notes that it replicates, and how; once.
    pub fn set_replication(&self, wanted: Wanted) {
        let _ = self.replication.set(wanted);
    }

    /// How it replicates, if it does.
    #[must_use]
    pub fn replication(&self) -> Option<&Wanted> {
        self.replication.get()
    }

    /// Notes what it is doing.
    pub fn set_doing(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    /// What it is doing.
    #[must_use]
    pub fn doing(&self) -> Doing {
        match self.doing.load(Ordering::Relaxed) {
            0 => Doing::Login,
            1 => Doing::Idle,
            2 => Doing::Waiting,
            _ => Doing::Active,
        }
    }

    /// Notes its server, and when it asked.
    pub fn set_link(&self, server: Option<ServerId>) {
        self.link.store(server.map_or(0, |s| s.0), Ordering::Relaxed);
    }

    /// Its server.
    #[must_use]
    pub fn link(&self) -> Option<ServerId> {
        Some(self.link.load(Ordering::Relaxed)).filter(|&id| id > 0).map(ServerId)
    }

    /// Notes when its last request came.
    pub fn set_request(&self, at: Time) {
        self.request_at.store(at.0, Ordering::Relaxed);
    }

    /// When its last request came.
    #[must_use]
    pub fn request_at(&self) -> Time {
        Time(self.request_at.load(Ordering::Relaxed))
    }

    /// Notes how many prepared statements it holds.
    pub fn set_prepared(&self, count: usize) {
        self.prepared.store(count, Ordering::Relaxed);
    }

    /// How many prepared statements it holds.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Makes it go; the first reason counts, unless the later one is more urgent.
    pub fn end(&self, ending: Ending) {
        let mut slot = lock(&self.ending);
        if slot.as_ref().is_none_or(|first| ending.at_once && !first.at_once) {
            *slot = Some(ending);
        }
        drop(slot);
        self.kicked.store(true, Ordering::Release);
        self.mailbox.wake();
    }

    /// Must it go?
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        if !self.kicked.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.ending).clone()
    }
}

/// One server as others see it.
#[derive(Debug)]
pub struct ServerInfo {
    /// Its id.
    pub id: ServerId,
    /// The database as clients name it.
    pub database: String,
    /// The user it is logged in as.
    pub user: String,
    /// Where it is.
    pub peer: Peer,
    /// Our end, if over IP.
    pub local: Option<SocketAddr>,
    /// When the connection was made.
    pub connected_at: Time,
    /// `version/cipher`, or empty.
    pub tls: String,
    /// Of which kind its replication is, if it replicates.
    pub replication: Option<Kind>,
    /// Where a cancel request for it goes, and its key.
    cancel: Option<(Target, CancelKey)>,
    link: AtomicU64,
    request_at: AtomicU64,
    prepared: AtomicUsize,
}

impl ServerInfo {
    /// A server just connected.
    #[must_use]
    pub fn new(
        id: ServerId,
        database: String,
        user: String,
        peer: Peer,
        local: Option<SocketAddr>,
        tls: String,
        cancel: Option<(Target, CancelKey)>,
    ) -> Self {
        Self {
            id,
            database,
            user,
            peer,
            local,
            connected_at: Time::now(),
            tls,
            replication: None,
            cancel,
            link: AtomicU64::new(0),
            request_at: AtomicU64::new(0),
            prepared: AtomicUsize::new(0),
        }
    }

    /// It was connected by a former process.
    #[must_use]
    pub fn with_connected_at(self, connected_at: Time) -> Self {
        Self { connected_at, ..self }
    }

    /// It replicates.
    #[must_use]
    pub fn with_replication(self, replication: Option<Kind>) -> Self {
        Self { replication, ..self }
    }

    /// Where it was dialled, if it gave a key for cancel requests.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        self.cancel.as_ref().map(|(target, _)| target)
    }

    /// It as the subject of a log line.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject::server(self.id, &self.database, &self.user, place(&self.peer))
    }

    /// Where a cancel request for it goes, and its key; none if it gave no key.
    #[must_use]
    pub fn cancel_address(&self) -> Option<(Target, CancelKey)> {
        self.cancel.clone()
    }

    /// Its process id on the server machine, 0 if it did not say.
    #[must_use]
    pub fn remote_pid(&self) -> u32 {
        self.cancel.as_ref().map_or(0, |(_, key)| key.pid)
    }

    /// Notes who has it from now on.
    pub fn set_link(&self, client: Option<ClientId>, at: Time) {
        self.link.store(client.map_or(0, |c| c.0), Ordering::Relaxed);
        self.request_at.store(at.0, Ordering::Relaxed);
    }

    /// Who has it.
    #[must_use]
    pub fn link(&self) -> Option<ClientId> {
        Some(self.link.load(Ordering::Relaxed)).filter(|&id| id > 0).map(ClientId)
    }

    /// When it was last handed out.
    #[must_use]
    pub fn request_at(&self) -> Time {
        Time(self.request_at.load(Ordering::Relaxed))
    }

    /// Notes how many prepared statements it has.
    pub fn set_prepared(&self, count: usize) {
        self.prepared.store(count, Ordering::Relaxed);
    }

    /// How many prepared statements it has.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.prepared.load(Ordering::Relaxed)
    }
}

/// `unix(PID)` or `address:port`, as the log names the other end of a connection.
#[must_use]
pub fn place(peer: &Peer) -> String {
    match peer {
        Peer::Inet(address) => address.to_string(),
        Peer::Unix { pid: Some(pid), .. } => format!("unix({pid})"),
        Peer::Unix { pid: None, .. } => "unix".to_owned(),
    }
}

impl fmt::Display for ClientInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C-{:#x}: {}/{}@{}", self.id.0, self.database, self.user, place(&self.peer))
    }
}

impl fmt::Display for ServerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S-{:#x}: {}/{}@{}", self.id.0, self.database, self.user, place(&self.peer))
    }
}

/// A TCP client that came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Movement {
    /// The client's end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// Which of them.
    pub what: Move,
}

/// What a TCP client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// It came.
    Came,
    /// It went, and knows so.
    Went,
    /// It was let go of, as the floating address by which it came is not here any more. It does not know.
    Lost,
}

/// Movements that may wait for whoever keeps the list of another node.
const MOVEMENTS_MAX: usize = 65_536;

/// Who came and went since somebody last asked, for those who keep a list elsewhere.
#[derive(Debug, Default)]
struct Journal {
    movements: Vec<Movement>,
    overflowed: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Roster {
    clients: Mutex<FxHashMap<ClientId, Arc<ClientInfo>>>,
    servers: Mutex<FxHashMap<ServerId, Arc<ServerInfo>>>,
    left: Notify,
    parting: AtomicUsize,
    journaled: AtomicBool,
    journal: Mutex<Journal>,
    moved: Notify,
}

/// A client that is no longer known and has not had its last words yet.
#[derive(Debug)]
pub struct Parting<'a>(&'a Roster);

impl Drop for Parting<'_> {
    fn drop(&mut self) {
        self.0.parting.fetch_sub(1, Ordering::Release);
        self.0.left.notify_waiters();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Roster {
    /// A client came.
    pub fn add_client(&self, client: Arc<ClientInfo>) {
        lock(&self.clients).insert(client.id, Arc::clone(&client));
        // After it is listed: whoever forgets what was noted and then lists all misses nobody.
        self.note(&client.peer, client.local, Move::Came);
    }

    /// A client left.
    pub fn remove_client(&self, id: ClientId) {
        if let Some(client) = lock(&self.clients).remove(&id) {
            let lost = client.ending().is_some_and(|ending| ending.unreachable);
            self.note(&client.peer, client.local, if lost { Move::Lost } else { Move::Went });
        }
        self.left.notify_waiters();
    }

    /// From now on who comes and goes over TCP is noted for [`Self::movements`].
    pub fn keep_journal(&self) {
        self.journaled.store(true, Ordering::Release);
    }

    /// Notes that a client came or went. One that is only logging in is not listed, and must learn of its node's death too.
    pub fn note(&self, peer: &Peer, local: Option<SocketAddr>, what: Move) {
        if !self.journaled.load(Ordering::Acquire) {
            return;
        }
        let (Peer::Inet(peer), Some(local)) = (peer, local) else { return };
        let mut journal = lock(&self.journal);
        if journal.movements.len() < MOVEMENTS_MAX {
            journal.movements.push(Movement { peer: *peer, local, what });
        } else {
            journal.overflowed = true;
        }
        drop(journal);
        self.moved.notify_one();
    }

    /// Waits until somebody has come or gone since [`Self::movements`] was called; may be early.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// Who came and went since the last call, in order. `None`: more than could be noted, so that only [`Self::clients`] tells.
    #[must_use]
    pub fn movements(&self) -> Option<Vec<Movement>> {
        let journal = std::mem::take(&mut *lock(&self.journal));
        (!journal.overflowed).then_some(journal.movements)
    }

    /// Waits for the next client to leave, or to have had its last words. Create the future before looking.
    pub fn departure(&self) -> impl Future<Output = ()> + '_ {
        self.left.notified()
    }

    /// Is no client left in any pool? Those on the console do not count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !lock(&self.clients).values().any(|client| client.pool().is_some())
    }

    /// Counts a client that is about to be removed, or never came in, until it has had its last words.
    pub fn part(&self) -> Parting<'_> {
        self.parting.fetch_add(1, Ordering::Relaxed);
        Parting(self)
    }

    /// Waits until everybody has left, those on the console too, and has had its last words.
    pub async fn deserted(&self) {
        loop {
            let left = self.left.notified();
            if lock(&self.clients).is_empty() && self.parting.load(Ordering::Acquire) == 0 {
                return;
            }
            left.await;
        }
    }

    /// One client.
    #[must_use]
    pub fn client(&self, id: ClientId) -> Option<Arc<ClientInfo>> {
        lock(&self.clients).get(&id).cloned()
    }

    /// All clients, by id.
    #[must_use]
    pub fn clients(&self) -> Vec<Arc<ClientInfo>> {
        let mut all: Vec<_> = lock(&self.clients).values().cloned().collect();
        all.sort_unstable_by_key(|c| c.id);
        all
    }

    /// How many clients are in pools.
    #[must_use]
    pub fn pooled(&self) -> usize {
        lock(&self.clients).values().filter(|client| client.pool().is_some()).count()
    }

    /// How many clients there are.
    #[must_use]
    pub fn client_count(&self) -> usize {
        lock(&self.clients).len()
    }

    /// A server came.
    pub fn add_server(&self, server: Arc<ServerInfo>) {
        lock(&self.servers).insert(server.id, server);
    }

    /// A server left.
    pub fn remove_server(&self, id: ServerId) {
        lock(&self.servers).remove(&id);
    }

    /// One server.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<Arc<ServerInfo>> {
        lock(&self.servers).get(&id).cloned()
    }

    /// All servers, by id.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<ServerInfo>> {
        let mut all: Vec<_> = lock(&self.servers).values().cloned().collect();
        all.sort_unstable_by_key(|s| s.id);
        all
    }
}
