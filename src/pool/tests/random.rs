//! Any order of events: a simulated driver keeps its own books of clients and servers and holds the registry to the
//! promises of its documentation after every call.

use super::super::checkout::Wish;
use super::super::registry::Side;
use super::super::slots::Slab;
use super::super::state::Place;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const POOLS: u32 = 4;
const CLIENTS: u64 = 12;

#[derive(Clone, Debug)]
enum Op {
    Checkout(u32, u64),
    Welcome(u32, u64),
    Own(u32, u64),
    Leave(usize),
    Release(usize, u8),
    Reset(usize),
    Ready(usize),
    Fail(usize, u8),
    Gone(usize),
    Cancel(usize),
    CancelConnected(usize),
    CancelDone(usize),
    Wait(u64),
    Pause(u32),
    Resume(u32),
    PauseAll,
    ResumeAll,
    Suspend,
    Reconnect(u32),
    Kill(u32),
    Drop(u32),
    Retire(usize),
    Adopt(u32),
    DatabaseLimit(u32, u32),
    UserLimit(u32, u32),
    Params(u32, u32, u32, u32),
    Globals(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let any = || 0..64usize;
    let op = prop_oneof![
        30 => (0..POOLS, 0..CLIENTS).prop_map(|(p, c)| Op::Checkout(p, c)),
        4 => (0..POOLS, 0..CLIENTS).prop_map(|(p, c)| Op::Welcome(p, c)),
        6 => (0..POOLS, 0..CLIENTS).prop_map(|(p, c)| Op::Own(p, c)),
        5 => any().prop_map(Op::Leave),
        25 => (any(), 0..6u8).prop_map(|(s, fate)| Op::Release(s, fate)),
        4 => any().prop_map(Op::Reset),
        20 => any().prop_map(Op::Ready),
        5 => (any(), 0..3u8).prop_map(|(s, how)| Op::Fail(s, how)),
        3 => any().prop_map(Op::Gone),
        4 => any().prop_map(Op::Cancel),
        4 => any().prop_map(Op::CancelConnected),
        4 => any().prop_map(Op::CancelDone),
        12 => prop_oneof![0..50u64, 300..4000u64, 10_000..90_000u64].prop_map(Op::Wait),
        1 => (0..2u32).prop_map(Op::Pause),
        3 => (0..2u32).prop_map(Op::Resume),
        1 => Just(Op::PauseAll),
        2 => Just(Op::ResumeAll),
        1 => Just(Op::Suspend),
        1 => (0..3u32).prop_map(Op::Reconnect),
        1 => (0..2u32).prop_map(Op::Kill),
        1 => (0..2u32).prop_map(Op::Drop),
        1 => any().prop_map(Op::Retire),
        1 => (0..POOLS).prop_map(Op::Adopt),
        2 => (0..2u32, 0..5u32).prop_map(|(d, n)| Op::DatabaseLimit(d, n)),
        2 => (0..2u32, 0..5u32).prop_map(|(u, n)| Op::UserLimit(u, n)),
        2 => (0..POOLS, 0..5u32, 0..4u32, 0..3u32).prop_map(|(p, s, m, r)| Op::Params(p, s, m, r)),
        1 => (0..=255u8).prop_map(Op::Globals),
    ];
    prop::collection::vec(op, 1..250)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Waiting { since: Time, turn: u64, wish: Wish },
    Holding(ServerId),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Login,
    Idle,
    Held(ClientId),
    Reset,
    Carrier,
}

#[derive(Clone, Debug)]
struct Known {
    pool: PoolId,
    state: State,
    doomed: bool,
    /// Opened for this client alone.
    own: Option<ClientId>,
}

/// The driver.
struct World {
    registry: Registry,
    now: Time,
    turn: u64,
    params: Vec<PoolParams>,
    limits: [[u32; 2]; 2],
    paused: [bool; 2],
    mode: Mode,
    /// With the pool that it asked.
    clients: BTreeMap<ClientId, (PoolId, Client)>,
    servers: BTreeMap<ServerId, Known>,
    owners: BTreeMap<PoolId, u32>,
    /// Cancel requests: target, carrier, sent.
    requests: BTreeMap<ClientId, (ServerId, Option<ServerId>, bool)>,
    next_request: u64,
    opened: usize,
    closed: usize,
    asked: usize,
    ended: usize,
    out: Vec<Action>,
}

/// Pool number → (database, user): two of each.
fn owner(pool: u32) -> (u32, u32) {
    (pool / 2, pool % 2)
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            registry: Registry::new(Ids::default(), GlobalParams::default()),
            now: Time(1),
            turn: 0,
            params: (0..POOLS).map(|p| PoolParams { pool_size: 2 + p, ..PoolParams::default() }).collect(),
            limits: [[0; 2]; 2],
            paused: [false; 2],
            mode: Mode::Active,
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            owners: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_request: 1000,
            opened: 0,
            closed: 0,
            asked: 0,
            ended: 0,
            out: vec![],
        };
        for p in 0..POOLS {
            world.pool(p);
        }
        world
    }

    fn pool(&mut self, p: u32) -> PoolId {
        let (d, u) = owner(p);
        let id = self.registry.ensure_pool(self.now, DatabaseId(d), UserId(u), &self.params[p as usize]);
        self.owners.insert(id, p);
        id
    }

    fn is_halted(&self, pool: PoolId) -> bool {
        self.mode == Mode::Paused || self.paused[owner(self.owners[&pool]).0 as usize]
    }

    fn pick(&self, n: usize, wanted: impl Fn(&Known) -> bool) -> Option<ServerId> {
        let fit: Vec<ServerId> = self.servers.iter().filter(|(_, s)| wanted(s)).map(|(&id, _)| id).collect();
        (!fit.is_empty()).then(|| fit[n % fit.len()])
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Checkout(p, c) => self.checkout(p, ClientId(c), None),
            Op::Welcome(p, c) => self.welcome(p, ClientId(c)),
            Op::Own(p, c) => self.checkout_own(p, ClientId(c)),
            Op::Leave(n) => {
                let waiting: Vec<ClientId> = self
                    .clients
                    .iter()
                    .filter(|(_, (_, c))| matches!(c, Client::Waiting { .. }))
                    .map(|(&id, _)| id)
                    .collect();
                if let Some(&client) = waiting.get(n % waiting.len().max(1)) {
                    assert!(self.registry.leave(client));
                    self.ended += 1;
                    self.part(client);
                }
            }
            Op::Release(n, how) => self.release(n, how),
            Op::Reset(n) => self.reset(n),
            Op::Ready(n) => {
                if let Some(server) = self.pick(n, |s| s.state == State::Login) {
                    self.set(server, State::Idle);
                    assert!(self.registry.server_ready(self.now, server, &mut self.out));
                }
            }
            Op::Fail(n, how) => {
                if let Some(server) = self.pick(n, |s| s.state == State::Login) {
                    self.lose(server);
                    let failure = match how {
                        0 => Failure::Connect("refused".into()),
                        1 => Failure::Login(Fault::fatal(Culprit::Server, "no")),
                        _ => Failure::Login(Fault::fatal(Culprit::Server, "not yet").with_sqlstate("57P03")),
                    };
                    self.registry.server_failed(self.now, server, failure, &mut self.out);
                }
            }
            Op::Gone(n) => {
                if let Some(server) = self.pick(n, |s| matches!(s.state, State::Idle | State::Reset)) {
                    self.lose(server);
                    self.registry.server_gone(self.now, server, &mut self.out);
                }
            }
            Op::Cancel(_) | Op::CancelConnected(_) | Op::CancelDone(_) => self.cancel(op),
            Op::Wait(ms) => self.wait(ms),
            _ => self.command(op),
        }
        self.perform();
    }

    fn command(&mut self, op: &Op) {
        let now = self.now;
        match *op {
            Op::Pause(d) => {
                self.paused[d as usize] = true;
                self.registry.pause(now, DatabaseId(d), &mut self.out);
            }
            Op::Resume(d) => {
                let was = std::mem::take(&mut self.paused[d as usize]);
                assert_eq!(self.registry.resume(now, DatabaseId(d)), was);
            }
            Op::PauseAll => {
                self.mode = Mode::Paused;
                self.registry.pause_all(now, &mut self.out);
            }
            Op::ResumeAll => {
                self.mode = Mode::Active;
                self.registry.resume_all(now);
            }
            Op::Suspend if self.mode == Mode::Active => {
                self.mode = Mode::Suspended;
                self.registry.suspend();
            }
            Op::Reconnect(d) => {
                let database = (d < 2).then_some(DatabaseId(d));
                self.registry.reconnect(now, database, &mut self.out);
                for server in self.servers.values_mut().filter(|s| s.state != State::Carrier) {
                    server.doomed |= d >= 2 || owner(self.owners[&server.pool]).0 == d;
                }
            }
            Op::Kill(d) => {
                self.paused[d as usize] = true;
                self.registry.kill(now, DatabaseId(d), &mut self.out);
            }
            Op::Drop(d) => {
                self.paused[d as usize] = false;
                self.limits[0][d as usize] = 0;
                self.registry.drop_database(now, DatabaseId(d), &mut self.out);
            }
            Op::Retire(n) => {
                if let Some(server) = self.pick(n, |s| s.state != State::Carrier) {
                    self.set_doomed(server);
                    self.registry.retire(now, server, &mut self.out);
                }
            }
            Op::Adopt(p) => {
                let pool = self.pool(p);
                let server = ServerId(self.registry.ids.draw());
                assert!(self.registry.adopt(now, &standing(server, pool, None, now), &mut self.out));
                self.opened += 1;
                self.servers.insert(server, Known { pool, state: State::Idle, doomed: false, own: None });
            }
            Op::DatabaseLimit(d, n) => {
                self.limits[0][d as usize] = n;
                self.registry.set_database(now, DatabaseId(d), DatabaseParams { max_db_connections: n });
            }
            Op::UserLimit(u, n) => {
                self.limits[1][u as usize] = n;
                self.registry.set_user(now, UserId(u), UserParams { max_user_connections: n });
            }
            Op::Params(p, size, min, reserve) => {
                self.params[p as usize] = PoolParams {
                    pool_size: size,
                    min_pool_size: min,
                    reserve_pool_size: reserve,
                    server_lifetime: Duration::from_secs(u64::from(size + min) * 20),
                    forced_user: reserve == 1,
                };
                self.pool(p);
            }
            Op::Globals(bits) => {
                let when = |bit: u8, on: u64, off: u64| Duration::from_secs(if bits & bit > 0 { on } else { off });
                let globals = GlobalParams {
                    reserve_pool_timeout: when(1, 5, 0),
                    server_idle_timeout: when(2, 30, 0),
                    server_check_delay: when(4, 3, 0),
                    server_check: bits & 8 > 0,
                    server_login_retry: when(16, 15, 0),
                    server_round_robin: bits & 32 > 0,
                    pool_idle_timeout: when(64, 2, 0),
                };
                self.registry.set_globals(now, globals);
            }
            _ => {}
        }
    }

    fn checkout(&mut self, p: u32, client: ClientId, since: Option<Time>) {
        if self.clients.contains_key(&client) {
            return;
        }
        let (pool, now) = (self.pool(p), self.now);
        self.registry.client_attached(now, pool);
        self.asked += 1;
        let free = self.servers.values().filter(|s| s.pool == pool && s.state == State::Idle).count();
        let answer = match since {
            Some(since) => self.registry.checkout_again(now, pool, client, since, &mut self.out),
            None => self.registry.checkout(now, pool, client, &mut self.out),
        };
        match answer {
            Checkout::Granted { server, .. } => {
                assert!(!self.is_halted(pool), "a grant while paused");
                assert!(free > 0);
                self.ended += 1;
                self.clients.insert(client, (pool, Client::Holding(server)));
                self.hand(client, server);
            }
            Checkout::Queued => {
                self.turn += 1;
                let since = since.unwrap_or(now);
                self.clients.insert(client, (pool, Client::Waiting { since, turn: self.turn, wish: Wish::Server }));
            }
            Checkout::Refused(_) => {
                assert!(since.is_none());
                self.ended += 1;
                self.registry.client_detached(now, pool);
            }
        }
    }

    fn welcome(&mut self, p: u32, client: ClientId) {
        if self.clients.contains_key(&client) {
            return;
        }
        let (pool, now) = (self.pool(p), self.now);
        self.registry.client_attached(now, pool);
        match self.registry.await_welcome(now, pool, client, &mut self.out) {
            Welcome::Queued => {
                self.asked += 1;
                self.turn += 1;
                let waiting = Client::Waiting { since: now, turn: self.turn, wish: Wish::Welcome };
                self.clients.insert(client, (pool, waiting));
            }
            _ => self.registry.client_detached(now, pool),
        }
    }

    fn checkout_own(&mut self, p: u32, client: ClientId) {
        if self.clients.contains_key(&client) {
            return;
        }
        let (pool, now) = (self.pool(p), self.now);
        self.registry.client_attached(now, pool);
        match self.registry.checkout_own(now, pool, client, &mut self.out) {
            Checkout::Queued => {
                self.asked += 1;
                self.turn += 1;
                let waiting = Client::Waiting { since: now, turn: self.turn, wish: Wish::OwnServer };
                self.clients.insert(client, (pool, waiting));
            }
            Checkout::Granted { .. } => panic!("a server that is not the client's own"),
            Checkout::Refused(_) => self.registry.client_detached(now, pool),
        }
    }

    fn release(&mut self, n: usize, how: u8) {
        let Some(server) = self.pick(n, |s| matches!(s.state, State::Held(_) | State::Reset)) else { return };
        let Known { pool, state, .. } = self.servers[&server];
        let fate = match how {
            0 => Fate::Close("broken"),
            1 => Fate::Unused,
            _ => Fate::Idle,
        };
        self.set(server, State::Idle);
        if fate == Fate::Close("broken") {
            self.lose(server);
        }
        if let State::Held(client) = state {
            self.clients.remove(&client);
        }
        assert!(self.registry.release(self.now, server, fate, &mut self.out));
        let back = self.registry.server(self.now, server);
        assert!(back.is_none_or(|view| view.state != ServerState::Active || view.client.is_some()));
        self.perform();
        if let State::Held(client) = state {
            match how {
                // Its check failed: it comes again, and does not lose its place.
                0 => {
                    let p = self.owners[&pool];
                    self.registry.client_detached(self.now, pool);
                    let since = Time(self.now.0.saturating_sub(1_000_000_000));
                    self.checkout(p, client, Some(since));
                }
                _ => self.registry.client_detached(self.now, pool),
            }
        }
    }

    fn reset(&mut self, n: usize) {
        let Some(server) = self.pick(n, |s| matches!(s.state, State::Held(_))) else { return };
        let Known { pool, state: State::Held(client), .. } = self.servers[&server] else { return };
        self.registry.check_passed(server);
        self.registry.begin_reset(server, &mut self.out);
        self.set(server, State::Reset);
        self.clients.remove(&client);
        self.registry.client_detached(self.now, pool);
    }

    fn cancel(&mut self, op: &Op) {
        let nth = |n: usize, of: &BTreeMap<ClientId, _>| of.keys().copied().nth(n % of.len().max(1));
        match *op {
            Op::Cancel(n) => {
                let Some(target) = self.pick(n, |s| matches!(s.state, State::Held(_))) else { return };
                self.next_request += 1;
                let request = ClientId(self.next_request);
                self.requests.insert(request, (target, None, false));
                if !self.registry.cancel(self.now, request, target, &mut self.out) {
                    self.requests.remove(&request);
                }
            }
            Op::CancelConnected(n) => {
                let Some(request) = nth(n, &self.requests) else { return };
                let (target, carrier, sent) = self.requests[&request];
                let go = self.registry.cancel_connected(request);
                assert!(!go || carrier.is_some());
                if go && !sent {
                    let held = matches!(self.servers[&target].state, State::Held(_));
                    assert!(held, "a cancel request for a server that was released");
                }
                self.requests.insert(request, (target, carrier, go));
            }
            Op::CancelDone(n) => {
                let Some(request) = nth(n, &self.requests) else { return };
                if let Some((_, Some(carrier), _)) = self.requests.remove(&request) {
                    self.lose(carrier);
                }
                self.registry.cancel_done(self.now, request, &mut self.out);
            }
            _ => {}
        }
    }

    /// Lets time go by, with every timer at its time.
    fn wait(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        let mut ticks = 0;
        while let Some(due) = self.registry.deadline().filter(|&due| due <= until) {
            self.now = self.now.max(due);
            self.registry.tick(self.now, &mut self.out);
            self.perform();
            self.inspect();
            ticks += 1;
            assert!(ticks <= 200 + ms * u64::from(POOLS) / 100, "timers without end");
        }
        self.now = until;
    }

    /// Does what it is told and checks that it may be asked.
    fn perform(&mut self) {
        let bound = 8 + 4 * (self.servers.len() + self.clients.len() + self.requests.len() + self.owners.len());
        assert!(self.out.len() <= bound, "{} actions from one call", self.out.len());
        for action in std::mem::take(&mut self.out) {
            match action {
                Action::Open { server, pool } => self.opened(server, pool, None),
                Action::OpenOwn { server, pool, client } => {
                    let waits = matches!(self.clients[&client].1, Client::Waiting { wish: Wish::OwnServer, .. });
                    assert!(waits, "a server for nobody");
                    self.opened(server, pool, Some(client));
                }
                Action::OpenCancel { server, pool, request, target } => {
                    assert!(matches!(self.servers[&target].state, State::Held(_)));
                    self.opened += 1;
                    self.servers.insert(server, Known { pool, state: State::Carrier, doomed: false, own: None });
                    self.requests.get_mut(&request).unwrap().1 = Some(server);
                }
                Action::DropCancel { request, .. } => assert!(self.requests.remove(&request).is_some()),
                Action::Grant { client, server, waited_since, .. } => self.granted(client, server, waited_since),
                Action::Welcome { client, .. } => {
                    assert!(matches!(self.clients[&client].1, Client::Waiting { wish: Wish::Welcome, .. }));
                    self.ended += 1;
                    self.part(client);
                }
                Action::Refuse { client, .. } => {
                    assert!(matches!(self.clients[&client].1, Client::Waiting { .. }));
                    self.ended += 1;
                    self.part(client);
                }
                Action::Close { server, .. } => self.lose(server),
                Action::CloseNeeded { server, .. } => self.servers.get_mut(&server).unwrap().doomed = true,
                Action::LogReserve { pool, client } => assert_eq!(self.clients[&client].0, pool),
                Action::PoolGone { pool, .. } => {
                    assert!(self.servers.values().all(|s| s.pool != pool), "a server outlives its pool");
                    self.clients.retain(|_, (of, client)| *of != pool || !matches!(client, Client::Holding(_)));
                    assert!(self.clients.values().all(|(of, _)| *of != pool));
                }
                Action::Settled { .. } => {}
            }
        }
    }

    fn opened(&mut self, server: ServerId, pool: PoolId, own: Option<ClientId>) {
        assert!(!self.is_halted(pool), "a server opened while paused");
        self.opened += 1;
        let known = Known { pool, state: State::Login, doomed: false, own };
        assert!(self.servers.insert(server, known).is_none());
        let p = self.owners[&pool];
        let (d, u) = owner(p);
        let count = |wanted: &dyn Fn(u32) -> bool| {
            let sessions = self.servers.values().filter(|s| s.state != State::Carrier);
            sessions.filter(|s| wanted(self.owners[&s.pool])).count() as u32
        };
        let PoolParams { pool_size, reserve_pool_size, .. } = self.params[p as usize];
        assert!(pool_size == 0 || count(&|other| other == p) <= pool_size + reserve_pool_size);
        for (limit, n) in [
            (self.limits[0][d as usize], count(&|other| owner(other).0 == d)),
            (self.limits[1][u as usize], count(&|other| owner(other).1 == u)),
        ] {
            assert!(limit == 0 || n <= limit, "{n} servers where {limit} may be");
        }
        let attempts = self.servers.values().filter(|s| s.pool == pool && s.state == State::Login).count();
        assert_eq!(attempts, 1, "one attempt at a time");
    }

    fn granted(&mut self, client: ClientId, server: ServerId, waited_since: Time) {
        let (pool, Client::Waiting { since, turn, wish }) = self.clients[&client] else {
            panic!("a grant to {client}, who does not wait for it");
        };
        assert_ne!(wish, Wish::Welcome);
        let own = (wish == Wish::OwnServer).then_some(client);
        assert_eq!(self.servers[&server].own, own, "a server that was opened for somebody else");
        assert_eq!(since, waited_since);
        let earlier = self.clients.values().any(|(of, other)| {
            matches!(other, Client::Waiting { since: s, turn: t, wish: w }
                if *of == pool && *w == wish && (*s, *t) < (since, turn))
        });
        assert!(!earlier, "somebody waited longer");
        assert!(!self.is_halted(pool), "a grant while paused");
        self.ended += 1;
        self.clients.insert(client, (pool, Client::Holding(server)));
        self.hand(client, server);
    }

    fn hand(&mut self, client: ClientId, server: ServerId) {
        let known = self.servers.get_mut(&server).expect("a grant of a server that is gone");
        assert!(!known.doomed, "a grant of a server from before RECONNECT");
        assert_eq!(known.state, State::Idle, "a server for two");
        assert_eq!(known.pool, self.clients[&client].0);
        known.state = State::Held(client);
        let aimed =
            self.requests.values().any(|&(target, carrier, sent)| target == server && carrier.is_some() && sent);
        assert!(!aimed, "somebody else's cancel request is on its way to it");
    }

    fn set_doomed(&mut self, server: ServerId) {
        self.servers.get_mut(&server).unwrap().doomed = true;
    }

    fn set(&mut self, server: ServerId, state: State) {
        self.servers.get_mut(&server).unwrap().state = state;
    }

    fn lose(&mut self, server: ServerId) {
        self.closed += 1;
        assert!(self.servers.remove(&server).is_some(), "closed twice");
        for request in self.requests.values_mut().filter(|request| request.0 == server) {
            request.2 = false;
        }
    }

    fn part(&mut self, client: ClientId) {
        if let Some((pool, _)) = self.clients.remove(&client) {
            self.registry.client_detached(self.now, pool);
        }
    }

    /// What must hold between any two calls.
    fn inspect(&self) {
        let known: BTreeSet<ServerId> = self.servers.keys().copied().collect();
        let views = self.registry.servers(self.now);
        assert_eq!(views.iter().map(|view| view.id).collect::<BTreeSet<_>>(), known);
        assert_eq!(self.opened - self.closed, known.len());
        for view in &views {
            let holder = match self.servers[&view.id].state {
                State::Held(client) => Some(client),
                State::Carrier => view.client,
                State::Login => self.servers[&view.id].own,
                _ => None,
            };
            assert_eq!(view.client, holder);
        }
        let waiting = self.clients.iter().filter(|(_, (_, c))| matches!(c, Client::Waiting { .. }));
        assert!(waiting.clone().all(|(&id, _)| self.registry.waiting_since(id).is_some()));
        assert_eq!(self.asked - self.ended, waiting.count(), "each request ends exactly once");
        books_are_right(&self.registry);
        self.nobody_is_forgotten();
    }

    /// Whoever waits, waits for something.
    fn nobody_is_forgotten(&self) {
        let registry = &self.registry;
        if registry.deadline().is_some_and(|due| due <= self.now) {
            return;
        }
        for &p in registry.pool_slots.values() {
            let pool = &registry.pools[p];
            if !pool.is_waiting() || registry.is_halted(p) {
                continue;
            }
            let others = pool.waiters.len() - pool.own_waiters;
            assert!(others == 0 || pool.count(Place::Idle) == 0, "idle servers, and clients wait");
            let size = pool.params.pool_size;
            let full = size > 0 && pool.sessions() >= size;
            let limited = [Side::Database, Side::User].into_iter().any(|side| {
                let group = registry.group(side, registry.group_slot(p, side));
                group.is_full() && group.idle == 0
            });
            if registry.next_owner(p).is_some() && pool.failure.is_none() && pool.count(Place::Login) == 0 && !limited {
                assert!(registry.idle_in_the_way(p).is_empty(), "an idle server is in the way");
            }
            let excused = full || limited || pool.failure.is_some() || pool.count(Place::Login) > 0;
            assert!(excused, "clients wait and no server is opened");
        }
    }

    /// Everybody goes and all works again: every pool shrinks to what it is to keep.
    fn quiet(&mut self) {
        self.registry.set_globals(self.now, GlobalParams { server_login_retry: secs("1"), ..GlobalParams::default() });
        for op in [Op::ResumeAll, Op::Resume(0), Op::Resume(1)] {
            self.step(&op);
        }
        for p in 0..POOLS {
            self.params[p as usize].server_lifetime = secs("100000");
            self.pool(p);
        }
        for _ in 0..64 {
            self.step(&Op::Leave(0));
            self.step(&Op::CancelDone(0));
            self.step(&Op::Release(0, 2));
            self.step(&Op::Wait(1000));
            self.step(&Op::Ready(0));
            self.inspect();
        }
        assert_eq!(self.asked, self.ended);
        for _ in 0..20 {
            self.step(&Op::Wait(100_000));
            for _ in 0..8 {
                self.step(&Op::Ready(0));
                self.step(&Op::Wait(2_000));
            }
            self.inspect();
        }
        let mut room = self.limits;
        for p in 0..POOLS {
            let (d, u) = owner(p);
            let view = self.registry.pool(self.now, self.registry.pool_of(DatabaseId(d), UserId(u)).unwrap()).unwrap();
            let PoolParams { pool_size, min_pool_size, forced_user, .. } = self.params[p as usize];
            let kept = view.counts.idle + view.counts.used;
            let goal = if pool_size == 0 { min_pool_size } else { min_pool_size.min(pool_size) };
            if !forced_user {
                // Nothing is opened for it, nothing below its minimum closed for idleness.
                assert!(kept <= min_pool_size, "{kept} servers left, {min_pool_size} to keep");
            } else if self.limits.iter().flatten().all(|&limit| limit == 0) {
                assert!(kept >= goal && kept <= min_pool_size, "{kept} servers left, {goal} to keep");
            }
            room[0][d as usize] = room[0][d as usize].saturating_sub(kept);
        }
    }
}

/// The counters agree with what they count.
fn books_are_right(registry: &Registry) {
    let live: Vec<u32> = registry.server_slots.values().copied().collect();
    for (&id, &d) in &registry.database_slots {
        let database = &registry.databases[d];
        assert_eq!(database.id, id);
        let mine: Vec<_> = live
            .iter()
            .map(|&s| &registry.servers[s])
            .filter(|server| registry.pools[server.pool].database == d && !server.place.is_cancel())
            .collect();
        let count = |wanted: &dyn Fn(&state::Server) -> bool| mine.iter().filter(|s| wanted(s)).count() as u32;
        assert_eq!(database.group.servers, mine.len() as u32);
        assert_eq!(database.group.idle, count(&|s| s.place == Place::Idle));
        assert_eq!(database.busy, count(&|s| s.place.is_busy()));
        assert_eq!(database.doomed, count(&|s| s.close_needed));
    }
    for &p in registry.pool_slots.values() {
        let pool = &registry.pools[p];
        for place in Place::ALL {
            let listed: Vec<u32> = pool.list(place).iter(&registry.servers).collect();
            assert!(listed.iter().all(|&s| registry.servers[s].place == place && registry.servers[s].pool == p));
            assert_eq!(listed.len() as u32, pool.count(place));
        }
        let idle: Vec<Time> = of(pool.list(Place::Idle).iter(&registry.servers), &registry.servers, |s| s.idle_since);
        assert!(idle.is_sorted_by(|a, b| a >= b), "idle servers out of order");
        let since: Vec<Time> = of(pool.waiters.iter(&registry.waiters), &registry.waiters, |w| w.since);
        assert!(since.is_sorted(), "waiters out of order");
        let own = pool.waiters.iter(&registry.waiters).filter(|&w| registry.waiters[w].own).count();
        assert_eq!(pool.own_waiters as usize, own);
        let resetting =
            live.iter().filter(|&&s| registry.servers[s].pool == p && registry.servers[s].resetting).count();
        assert_eq!(pool.resetting as usize, resetting);
        for side in [Side::Database, Side::User] {
            let queued = registry.group(side, registry.group_slot(p, side)).blocked.iter().filter(|&&q| q == p).count();
            assert_eq!(queued, usize::from(pool.blocked[side as usize]));
        }
    }
}

fn of<T, V>(slots: impl Iterator<Item = u32>, slab: &Slab<T>, part: impl Fn(&T) -> V) -> Vec<V> {
    slots.map(|slot| part(&slab[slot])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_promises_hold(ops in ops()) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
            world.inspect();
        }
        world.quiet();
    }
}
