//! Servers of one client's own, as replication needs them: opened for that client with its parameters, counted like any other
//! of the pool, lent to nobody else, and closed when the client is done. Idle servers of the pool give way to them.

use super::action::reason;
use super::checkout::{Wish, database_removed};
use super::opening::{CANNOT_CONNECT_NOW, Room};
use super::registry::{Registry, Side};
use super::state::{Place, Waiter};
use super::{Action, Checkout, Failure};
use crate::clock::Time;
use crate::ids::{ClientId, PoolId};

impl Registry {
    /// A client needs a server of its own: [`Action::OpenOwn`] follows when its turn has come, then [`Action::Grant`] or
    /// [`Action::Refuse`]. The server is to be released with [`super::Fate::Close`].
    pub fn checkout_own(&mut self, now: Time, pool: PoolId, client: ClientId, out: &mut Vec<Action>) -> Checkout {
        let Some(&p) = self.pool_slots.get(&pool) else {
            return Checkout::Refused(database_removed());
        };
        if let Some(fault) = self.ending.clone().or_else(|| self.cached_failure(now, p)) {
            return Checkout::Refused(fault);
        }
        self.enqueue(now, p, client, now, Wish::OwnServer, out);
        Checkout::Queued
    }

    /// Whom the next server that is opened is for, if it is for one client alone. Who came first is first, but for those
    /// that servers on their way back from a reset are enough for.
    pub(super) fn next_owner(&self, p: u32) -> Option<ClientId> {
        let pool = &self.pools[p];
        if pool.own_waiters == 0 || self.is_frozen() {
            return None;
        }
        let mut coming = pool.resetting;
        for w in pool.waiters.iter(&self.waiters) {
            let Waiter { client, own, .. } = self.waiters[w];
            match (own, coming) {
                (true, _) => return Some(client),
                (false, 0) => return None,
                (false, _) => coming -= 1,
            }
        }
        None
    }

    /// The idle servers of this pool that must go so that one more fits under `pool_size`, the one idle for longest first. None
    /// if none need, or if all of them would not be enough.
    pub(super) fn idle_in_the_way(&self, p: u32) -> Vec<u32> {
        let pool = &self.pools[p];
        let size = pool.params.pool_size;
        if size == 0 || pool.sessions() < size {
            return Vec::new();
        }
        let excess = (pool.sessions() - size) as usize + 1;
        let idle = self.of_place(p, Place::Idle);
        if idle.len() < excess { Vec::new() } else { idle.into_iter().rev().take(excess).collect() }
    }

    /// Must a server that nobody holds be closed, so that the client that waits for longest can have one of its own?
    pub(super) fn must_give_way(&self, now: Time, p: u32) -> bool {
        let pool = &self.pools[p];
        if self.next_owner(p).is_none() || pool.count(Place::Login) > 0 || now < self.retry_at(pool) {
            return false;
        }
        let full = |side| self.group(side, self.group_slot(p, side)).is_full();
        !matches!(self.room(now, pool), Room::Free) || full(Side::Database) || full(Side::User)
    }

    /// The first client in the queue that a server of the pool is good for.
    pub(super) fn next_for_free(&self, p: u32) -> Option<u32> {
        let pool = &self.pools[p];
        if pool.own_waiters == 0 {
            return pool.waiters.first();
        }
        pool.waiters.iter(&self.waiters).find(|&w| !self.waiters[w].own)
    }

    /// The place in the queue of a client that waits there for a server of its own.
    fn own_waiter(&self, p: u32, client: ClientId) -> Option<u32> {
        let &w = self.waiter_slots.get(&client)?;
        (self.waiters[w].own && self.waiters[w].pool == p).then_some(w)
    }

    /// A server of one client's own is logged in.
    pub(super) fn own_ready(&mut self, now: Time, s: u32, out: &mut Vec<Action>) {
        let p = self.servers[s].pool;
        self.pools[p].failure = None;
        match self.servers[s].client.and_then(|client| self.own_waiter(p, client)) {
            Some(w) => {
                let Waiter { client, since, .. } = self.waiters[w];
                self.dequeue(w);
                self.servers[s].idle_since = now;
                self.servers[s].used = true;
                self.move_to(s, Place::Active);
                let server = self.servers[s].id;
                out.push(Action::Grant { client, server, needs_check: false, waited_since: since });
            }
            None => self.close(now, s, reason::OWNER_GONE, out),
        }
        self.plan_fill(now, p);
        self.share(now, p, out);
    }

    /// A server of one client's own could not be had. What the server says of this login concerns nobody else: only the client
    /// is told. Anything else is given back as a failure of the pool; the client waits on.
    pub(super) fn own_failed(
        &mut self,
        p: u32,
        client: ClientId,
        failure: Failure,
        out: &mut Vec<Action>,
    ) -> Option<Failure> {
        match failure {
            Failure::Login(fault) if fault.sqlstate != CANNOT_CONNECT_NOW => {
                if let Some(w) = self.own_waiter(p, client) {
                    self.dequeue(w);
                    out.push(Action::Refuse { client, fault });
                }
                None
            }
            Failure::Login(fault) => Some(Failure::Connect(fault.text.into_owned())),
            connect => Some(connect),
        }
    }
}
