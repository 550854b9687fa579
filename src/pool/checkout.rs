//! Clients: getting a server, waiting in the queue, giving the server back.

use super::action::reason;
use super::registry::{ROUND, Registry};
use super::slots::Links;
use super::state::{Place, Waiter};
use super::{Action, Checkout, Fate, Welcome};
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::ids::{ClientId, PoolId, ServerId};

/// What the clients of a pool are told that is removed under them.
pub(super) fn database_removed() -> Fault {
    Fault::fatal(Culprit::Us, reason::REMOVED)
}

/// What a client in the queue waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Any server of the pool.
    Server,
    /// To be shown the parameters of the pool's servers.
    Welcome,
    /// A server that nobody else had or will have.
    OwnServer,
}

impl Registry {
    /// A client needs a server: the one used last if any is free (the first used with `server_round_robin`), else a place
    /// at the end of the queue. It is refused if servers cannot be reached and the last attempt is not older than
    /// `server_login_retry`.
    pub fn checkout(&mut self, now: Time, pool: PoolId, client: ClientId, out: &mut Vec<Action>) -> Checkout {
        let Some(&p) = self.pool_slots.get(&pool) else {
            return Checkout::Refused(database_removed());
        };
        if let Some(granted) = self.take_idle(now, p, client) {
            return granted;
        }
        if let Some(fault) = self.ending.clone().or_else(|| self.cached_failure(now, p)) {
            return Checkout::Refused(fault);
        }
        self.enqueue(now, p, client, now, Wish::Server, out);
        Checkout::Queued
    }

    /// The same for a client whose server failed its check: it keeps the place in the queue that goes with `since`, and
    /// is not refused.
    pub fn checkout_again(
        &mut self,
        now: Time,
        pool: PoolId,
        client: ClientId,
        since: Time,
        out: &mut Vec<Action>,
    ) -> Checkout {
        let Some(&p) = self.pool_slots.get(&pool) else {
            return Checkout::Refused(database_removed());
        };
        if let Some(granted) = self.take_idle(now, p, client) {
            return granted;
        }
        if let Some(fault) = &self.ending {
            return Checkout::Refused(fault.clone());
        }
        self.enqueue(now, p, client, since.min(now), Wish::Server, out);
        Checkout::Queued
    }

    /// A client that has proved who it is needs to be shown the server parameters. If no server has ever told them, or
    /// RECONNECT made them stale, it waits for the next login. If there is no room for another login, stale ones do.
    pub fn await_welcome(&mut self, now: Time, pool: PoolId, client: ClientId, out: &mut Vec<Action>) -> Welcome {
        let Some(&p) = self.pool_slots.get(&pool) else {
            return Welcome::Refused(database_removed());
        };
        let pool = &self.pools[p];
        let size = pool.params.pool_size;
        let stuck = pool.welcome_known && size > 0 && pool.connected() >= size;
        if pool.welcome_fresh || stuck {
            return Welcome::Known;
        }
        if let Some(fault) = &self.ending {
            return Welcome::Refused(fault.clone());
        }
        self.enqueue(now, p, client, now, Wish::Welcome, out);
        Welcome::Queued
    }

    /// A client in the queue gives up. False if it is not in the queue; then a grant may be on its way, which is to be
    /// answered by a release with [`Fate::Unused`].
    pub fn leave(&mut self, client: ClientId) -> bool {
        match self.waiter_slots.get(&client) {
            Some(&w) => {
                self.dequeue(w);
                true
            }
            None => false,
        }
    }

    /// When this client began to wait, if it waits.
    #[must_use]
    pub fn waiting_since(&self, client: ClientId) -> Option<Time> {
        self.waiter_slots.get(&client).map(|&w| self.waiters[w].since)
    }

    /// The check of a server that was granted with `needs_check` went well.
    pub fn check_passed(&mut self, server: ServerId) {
        if let Some(&s) = self.server_slots.get(&server)
            && self.servers[s].place == Place::Tested
            && !self.servers[s].resetting
        {
            self.move_to(s, Place::Active);
        }
    }

    /// The client has let go of the server and the driver runs `server_reset_query` on it; a release follows. A cancel
    /// request that was sent before may hit the reset: then it fails, and [`Fate::Close`] is right.
    pub fn begin_reset(&mut self, server: ServerId, out: &mut Vec<Action>) {
        if let Some(&s) = self.server_slots.get(&server)
            && self.servers[s].place == Place::Active
        {
            if self.servers[s].cancels > 0 {
                self.detach_cancels(s, false, out);
            }
            self.move_to(s, Place::Tested);
            self.servers[s].client = None;
            self.servers[s].resetting = true;
            let p = self.servers[s].pool;
            self.pools[p].resetting += 1;
        }
    }

    /// A server comes back. What stands against its further use, in this order, closes it: its lifetime, RECONNECT, PAUSE,
    /// a pool made smaller. Then it waits for cancel requests on their way, goes to the first client in the queue, or
    /// is free.
    ///
    /// False if the registry does not know it as given out (it was killed meanwhile): the driver must close it.
    #[must_use]
    pub fn release(&mut self, now: Time, server: ServerId, fate: Fate, out: &mut Vec<Action>) -> bool {
        let Some(&s) = self.server_slots.get(&server) else { return false };
        if !matches!(self.servers[s].place, Place::Active | Place::Tested) {
            return false;
        }
        let p = self.servers[s].pool;
        let d = self.pools[p].database;
        let before = self.load(d);
        self.servers[s].client = None;
        if self.servers[s].cancels > 0 {
            self.detach_cancels(s, false, out);
        }
        match fate {
            Fate::Close(_) => {
                self.forget(now, s, out);
                self.share(now, p, out);
            }
            // Its client has gone before it had it.
            _ if self.servers[s].own => {
                self.close(now, s, reason::OWNER_GONE, out);
                self.share(now, p, out);
            }
            Fate::Idle => {
                self.servers[s].used = true;
                self.servers[s].idle_since = now;
                self.settle(now, s, out);
            }
            Fate::Unused => self.settle(now, s, out),
        }
        self.announce(d, before, out);
        true
    }

    /// Decides what becomes of a server that no client holds.
    pub(super) fn settle(&mut self, now: Time, s: u32, out: &mut Vec<Action>) {
        let p = self.servers[s].pool;
        let server = &self.servers[s];
        if self.is_frozen() {
            return self.move_to(s, if server.cancels_sent > 0 { Place::BeingCanceled } else { Place::Idle });
        }
        if server.used && self.is_worn(now, s) {
            self.pools[p].last_lifetime_close = Some(now);
            self.close(now, s, reason::LIFETIME, out);
        } else if server.close_needed {
            self.close(now, s, reason::CLOSE_NEEDED, out);
        } else if server.cancels_sent > 0 {
            self.move_to(s, Place::BeingCanceled);
            // Somebody may have counted on its coming back from the reset.
            return self.supply(now, p, out);
        } else if self.is_halted(p) {
            self.close(now, s, reason::PAUSE, out);
        } else if self.is_one_too_many(s) {
            self.close(now, s, reason::TOO_MANY, out);
        } else if self.is_over_share(s) {
            self.close(now, s, reason::SHARE, out);
        } else if self.must_give_way(now, p) {
            self.close(now, s, reason::EVICTED, out);
        } else if let Some(w) = self.next_for_free(p) {
            let Waiter { client, since, .. } = self.waiters[w];
            self.dequeue(w);
            let needs_check = self.hand_over(now, s, client);
            let server = self.servers[s].id;
            return out.push(Action::Grant { client, server, needs_check, waited_since: since });
        } else {
            self.move_to(s, Place::Idle);
            self.arm(p, self.idle_due(p, s));
            return self.offer(now, p, out);
        }
        self.share(now, p, out);
    }

    /// Takes the free server that is next in turn.
    fn take_idle(&mut self, now: Time, p: u32, client: ClientId) -> Option<Checkout> {
        if self.is_frozen() || self.is_halted(p) {
            return None;
        }
        let idle = self.pools[p].list(Place::Idle);
        let s = if self.globals.server_round_robin { idle.last() } else { idle.first() }?;
        let needs_check = self.hand_over(now, s, client);
        Some(Checkout::Granted { server: self.servers[s].id, needs_check })
    }

    /// Gives a server to a client; true if it is to be checked first.
    fn hand_over(&mut self, now: Time, s: u32, client: ClientId) -> bool {
        let needs_check = self.is_stale(now, s);
        self.move_to(s, if needs_check { Place::Tested } else { Place::Active });
        self.servers[s].client = Some(client);
        needs_check
    }

    /// It has been idle for longer than `server_check_delay`.
    pub(super) fn is_stale(&self, now: Time, s: u32) -> bool {
        let server = &self.servers[s];
        let delay = self.globals.server_check_delay;
        // A server has just proved itself by logging in, so even a delay of zero does not ask for a check at once.
        let trusted = if server.used { delay } else { delay.max(ROUND) };
        self.globals.server_check && now.since(server.idle_since) >= trusted
    }

    /// What a new client is told instead of waiting for servers that cannot be reached.
    pub(super) fn cached_failure(&self, now: Time, p: u32) -> Option<Fault> {
        let pool = &self.pools[p];
        let text = pool.failure.as_ref()?;
        let out_of_hope = pool.connected() == 0 && pool.count(Place::ActiveCancel) == 0 && !self.is_halted(p);
        if !out_of_hope || now.since(pool.last_attempt) >= self.globals.server_login_retry {
            return None;
        }
        let text = format!("server login has been failing, cached error: {text} (server_login_retry)");
        Some(Fault::fatal(Culprit::Server, text).retryable())
    }

    pub(super) fn enqueue(
        &mut self,
        now: Time,
        p: u32,
        client: ClientId,
        since: Time,
        wish: Wish,
        out: &mut Vec<Action>,
    ) {
        if self.waiter_slots.contains_key(&client) {
            return;
        }
        let (welcome, own) = (wish == Wish::Welcome, wish == Wish::OwnServer);
        let w = self.waiters.insert(Waiter { links: Links::default(), client, pool: p, since, welcome, own });
        self.waiter_slots.insert(client, w);
        let pool = &mut self.pools[p];
        pool.welcome_waiters += u32::from(welcome);
        pool.own_waiters += u32::from(own);
        match pool.waiters.last() {
            Some(last) if self.waiters[last].since > since => {
                pool.waiters.insert_before(&mut self.waiters, w, |other| other.since > since);
            }
            _ => pool.waiters.push_back(&mut self.waiters, w),
        }
        self.supply(now, p, out);
    }

    pub(super) fn dequeue(&mut self, w: u32) {
        let Waiter { client, pool: p, welcome, own, .. } = self.waiters[w];
        let pool = &mut self.pools[p];
        pool.welcome_waiters -= u32::from(welcome);
        pool.own_waiters -= u32::from(own);
        pool.waiters.remove(&mut self.waiters, w);
        self.waiter_slots.remove(&client);
        self.waiters.remove(w);
    }
}
