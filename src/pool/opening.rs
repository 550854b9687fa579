//! Opening servers: when a pool may have another one, whose idle server must make room for it, and what follows when the
//! attempt succeeds or fails.

use super::action::reason;
use super::registry::{ROUND, Registry, Side};
use super::state::{Place, Pool, Waiter};
use super::{Action, Failure, Mode, PoolParams};
use crate::clock::Time;
use crate::fault::Fault;
use crate::ids::{ClientId, ServerId};

/// SQLSTATE cannot_connect_now: starting up, shutting down, in recovery. It passes, so clients go on waiting.
pub(super) const CANNOT_CONNECT_NOW: &str = "57P03";

/// May one more server be opened under `pool_size`?
pub(super) enum Room {
    Free,
    /// Out of the reserve, for this client.
    Reserve(ClientId),
    /// Not before this time, as long as no server goes.
    Full(Time),
}

impl Registry {
    /// The login of an [`Action::Open`] went well. The clients that wait to be welcomed are answered, the server goes to
    /// the first client in the queue, and if more wait the next attempt begins.
    ///
    /// False if the attempt was called off meanwhile: the driver must close the server.
    #[must_use]
    pub fn server_ready(&mut self, now: Time, server: ServerId, out: &mut Vec<Action>) -> bool {
        let Some(s) = self.in_login(server) else { return false };
        if self.servers[s].own {
            self.own_ready(now, s, out);
            return true;
        }
        let p = self.servers[s].pool;
        let pool = &mut self.pools[p];
        pool.failure = None;
        pool.welcome_fresh = true;
        pool.welcome_known = true;
        self.servers[s].idle_since = now;
        self.welcome_all(p, out);
        self.settle(now, s, out);
        // One more server may now be one too many for the idle timeout.
        if let Some(oldest) = self.pools[p].list(Place::Idle).last() {
            self.arm(p, self.idle_due(p, oldest));
        }
        self.plan_fill(now, p);
        self.supply(now, p, out);
        true
    }

    /// An [`Action::Open`] came to nothing. The next attempt follows after `server_login_retry` if clients wait then.
    pub fn server_failed(&mut self, now: Time, server: ServerId, failure: Failure, out: &mut Vec<Action>) {
        let Some(s) = self.in_login(server) else { return };
        let p = self.servers[s].pool;
        let own = self.servers[s].own.then_some(self.servers[s].client).flatten();
        self.forget(now, s, out);
        let failure = match own {
            Some(client) => match self.own_failed(p, client, failure, out) {
                Some(failure) => failure,
                None => return self.share(now, p, out),
            },
            None => failure,
        };
        let text = match failure {
            Failure::Connect(text) => text,
            Failure::Login(fault) => {
                let pool = &self.pools[p];
                if fault.sqlstate != CANNOT_CONNECT_NOW && pool.connected() == pool.doomed {
                    self.refuse_all(p, &fault, out);
                }
                fault.text.into_owned()
            }
        };
        self.pools[p].failure = Some(text);
        self.share(now, p, out);
    }

    /// A server is closed from the other side, in whatever state it was.
    pub fn server_gone(&mut self, now: Time, server: ServerId, out: &mut Vec<Action>) {
        let Some(&s) = self.server_slots.get(&server) else { return };
        if self.servers[s].place.is_cancel() {
            return;
        }
        let p = self.servers[s].pool;
        let d = self.pools[p].database;
        let before = self.load(d);
        self.forget(now, s, out);
        self.share(now, p, out);
        self.announce(d, before, out);
    }

    pub(super) fn in_login(&self, server: ServerId) -> Option<u32> {
        let s = *self.server_slots.get(&server)?;
        (self.servers[s].place == Place::Login).then_some(s)
    }

    pub(super) fn welcome_all(&mut self, p: u32, out: &mut Vec<Action>) {
        if self.pools[p].welcome_waiters == 0 {
            return;
        }
        let waiting: Vec<u32> =
            self.pools[p].waiters.iter(&self.waiters).filter(|&w| self.waiters[w].welcome).collect();
        for w in waiting {
            let Waiter { client, since, .. } = self.waiters[w];
            self.dequeue(w);
            out.push(Action::Welcome { client, waited_since: since });
        }
    }

    /// Opens a server for this pool if it needs one and may have one. One attempt at a time: a server that takes long to
    /// answer, or refuses us, is not to be stormed.
    pub(super) fn supply(&mut self, now: Time, p: u32, out: &mut Vec<Action>) {
        // Who is in the middle of a login cannot be passed on: it must be able to finish, for which its pool may have to tell
        // of itself. Nobody is lent that server here.
        if self.is_frozen() && self.pools[p].welcome_waiters == 0 {
            return;
        }
        let pool = &self.pools[p];
        let waiting = pool.is_waiting();
        if !waiting && (pool.params.min_pool_size == 0 || now < pool.fill_at || !self.wants_fill(p)) {
            return;
        }
        let pool = &self.pools[p];
        if pool.count(Place::Login) > 0 || self.is_halted(p) {
            return;
        }
        let retry_at = self.retry_at(pool);
        if now < retry_at {
            return self.arm(p, retry_at);
        }
        let owner = self.next_owner(p);
        let in_the_way = owner.map(|_| self.idle_in_the_way(p)).unwrap_or_default();
        let room = if waiting && in_the_way.is_empty() { self.room(now, pool) } else { Room::Free };
        if let Room::Full(until) = room {
            return self.arm(p, until);
        }
        // Both limits are looked at before either costs anybody a server.
        let sides = [Side::Database, Side::User];
        if let Some(side) = sides.into_iter().find(|&side| !self.can_make_room(p, side, waiting)) {
            return self.block(p, side, waiting);
        }
        for s in in_the_way {
            self.close(now, s, reason::EVICTED, out);
        }
        for side in sides {
            if !self.make_room(now, p, side, out) {
                return self.block(p, side, waiting);
            }
        }
        if let Room::Reserve(client) = room {
            out.push(Action::LogReserve { pool: self.pools[p].id, client });
        }
        self.unblock(p);
        self.touch(now, p);
        self.pools[p].last_attempt = now;
        let (s, server) = self.add_server(now, p, Place::Login);
        let pool = self.pools[p].id;
        out.push(match owner {
            Some(client) => {
                (self.servers[s].own, self.servers[s].client) = (true, Some(client));
                Action::OpenOwn { server, pool, client }
            }
            None => Action::Open { server, pool },
        });
    }

    /// When the next attempt may begin.
    pub(super) fn retry_at(&self, pool: &Pool) -> Time {
        match pool.failure {
            // Even without a pause between attempts, a refusal that comes at once must not be answered at once.
            Some(_) => pool.last_attempt + self.globals.server_login_retry.max(ROUND),
            None => Time::default(),
        }
    }

    pub(super) fn room(&self, now: Time, pool: &Pool) -> Room {
        let size = pool.params.pool_size;
        if size == 0 || pool.sessions() < size {
            return Room::Free;
        }
        let timeout = self.globals.reserve_pool_timeout;
        match pool.waiters.first() {
            Some(w) if !timeout.is_zero() && pool.sessions() - size < pool.params.reserve_pool_size => {
                let Waiter { client, since, .. } = self.waiters[w];
                if since + timeout <= now { Room::Reserve(client) } else { Room::Full(since + timeout) }
            }
            _ => Room::Full(Time::NEVER),
        }
    }

    /// When the reserve may be used, if the pool is full and that may help.
    pub(super) fn reserve_due(&self, now: Time, p: u32) -> Time {
        match self.room(now, &self.pools[p]) {
            Room::Full(until) => until,
            Room::Free | Room::Reserve(_) => now,
        }
    }

    /// A server that has just become free, or ready, is above what the pool may have.
    pub(super) fn is_one_too_many(&self, s: u32) -> bool {
        let pool = &self.pools[self.servers[s].pool];
        let size = pool.params.pool_size;
        let connected = pool.connected() + u32::from(self.servers[s].place == Place::Login);
        size > 0 && connected > size.saturating_add(pool.params.reserve_pool_size)
    }

    /// The limit of the pool's database or user leaves room for one more server, or for waiting clients (`evict`) an idle
    /// server of somebody else may give way. For `min_pool_size` none ever does.
    pub(super) fn can_make_room(&self, p: u32, side: Side, evict: bool) -> bool {
        let group = self.group(side, self.group_slot(p, side));
        !group.is_full() || (evict && group.idle > 0)
    }

    /// Closes idle servers, the one idle for longest first, until there is room for one.
    fn make_room(&mut self, now: Time, p: u32, side: Side, out: &mut Vec<Action>) -> bool {
        let slot = self.group_slot(p, side);
        while self.group(side, slot).is_full() {
            let Some(s) = self.oldest_idle(side, slot) else { return false };
            self.close(now, s, reason::EVICTED, out);
        }
        true
    }

    pub(super) fn oldest_idle(&self, side: Side, slot: u32) -> Option<u32> {
        let group = self.group(side, slot);
        if group.idle == 0 {
            return None;
        }
        let oldest_of = |&p: &u32| self.pools[p].list(Place::Idle).last();
        group.pools.iter().filter_map(oldest_of).min_by_key(|&s| self.servers[s].idle_since)
    }

    /// Notes the pool down, to be served when there is room under this limit.
    fn block(&mut self, p: u32, side: Side, for_clients: bool) {
        let slot = self.group_slot(p, side);
        if for_clients {
            if !std::mem::replace(&mut self.pools[p].blocked[side as usize], true) {
                self.group_mut(side, slot).blocked.push_back(p);
            }
        } else if !std::mem::replace(&mut self.pools[p].fill_blocked, true) {
            self.group_mut(side, slot).fill_blocked.push(p);
        }
    }

    /// Takes the pool out of the queues for limits.
    pub(super) fn unblock(&mut self, p: u32) {
        for side in [Side::Database, Side::User] {
            if std::mem::take(&mut self.pools[p].blocked[side as usize]) {
                let slot = self.group_slot(p, side);
                self.group_mut(side, slot).blocked.retain(|&other| other != p);
            }
        }
    }

    /// A server of this pool went: the pool itself and those that wait for the same limits may open one.
    pub(super) fn share(&mut self, now: Time, p: u32, out: &mut Vec<Action>) {
        self.supply(now, p, out);
        self.offer(now, p, out);
    }

    /// A server of this pool went or is idle: pools that wait for the same limits may profit.
    pub(super) fn offer(&mut self, now: Time, p: u32, out: &mut Vec<Action>) {
        for side in [Side::Database, Side::User] {
            let slot = self.group_slot(p, side);
            if !self.group(side, slot).blocked.is_empty() {
                self.serve_blocked(now, side, slot, out);
            }
        }
    }

    fn serve_blocked(&mut self, now: Time, side: Side, slot: u32, out: &mut Vec<Action>) {
        for _ in 0..self.group(side, slot).blocked.len() {
            let group = self.group_mut(side, slot);
            if group.is_full() && group.idle == 0 {
                break;
            }
            let Some(p) = group.blocked.pop_front() else { break };
            self.pools[p].blocked[side as usize] = false;
            self.supply(now, p, out);
        }
    }

    /// The pool should have more servers to reach `min_pool_size`.
    pub(super) fn wants_fill(&self, p: u32) -> bool {
        let pool = &self.pools[p];
        let PoolParams { pool_size, min_pool_size, forced_user, .. } = pool.params;
        let goal = if pool_size > 0 { min_pool_size.min(pool_size) } else { min_pool_size };
        goal > 0
            && pool.sessions() < goal
            && (forced_user || pool.clients > 0)
            && self.mode == Mode::Active
            && !self.is_halted(p)
    }

    /// Sees to it that a pool below `min_pool_size` gets its next server a round from now.
    pub(super) fn plan_fill(&mut self, now: Time, p: u32) {
        if self.pools[p].params.min_pool_size == 0 || !self.wants_fill(p) {
            return;
        }
        let pool = &mut self.pools[p];
        if pool.fill_at <= now {
            pool.fill_at = now + ROUND;
        }
        let at = pool.fill_at;
        self.arm(p, at);
    }

    /// There is room under the limit of this database or user again.
    pub(super) fn resume_fill(&mut self, now: Time, side: Side, slot: u32) {
        if self.group(side, slot).fill_blocked.is_empty() {
            return;
        }
        for p in std::mem::take(&mut self.group_mut(side, slot).fill_blocked) {
            self.pools[p].fill_blocked = false;
            self.plan_fill(now, p);
        }
    }

    /// Everybody in the queue is told this.
    pub(super) fn refuse_all(&mut self, p: u32, fault: &Fault, out: &mut Vec<Action>) {
        while let Some(w) = self.pools[p].waiters.first() {
            let client = self.waiters[w].client;
            self.dequeue(w);
            out.push(Action::Refuse { client, fault: fault.clone() });
        }
    }
}
