//! What time does: idle timeouts, lifetimes, retries, the reserve, `min_pool_size`, forgotten pools.
//!
//! Each pool has one `due` time before which nothing of it can happen. Events may only bring it nearer; a tick looks at
//! the pools that are due and computes it anew. So a busy pool costs no timer work, and a late or needless tick is harmless.

use super::action::reason;
use super::registry::{ROUND, Registry, Side};
use super::slots::List;
use super::state::Place;
use super::{Action, Mode, PoolEnd};
use crate::clock::Time;

impl Registry {
    /// When [`Self::tick`] is wanted. It may be earlier than necessary, never later.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        (self.next_due != Time::NEVER && !self.is_frozen()).then_some(self.next_due)
    }

    /// Does what the time has come for. Calling it late or without need does no harm.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Action>) {
        if now < self.next_due || self.is_frozen() {
            return;
        }
        for (p, at) in (0u32..).zip(0..self.due.len()) {
            if self.due[at] <= now {
                self.due[at] = Time::NEVER;
                self.maintain(now, p, out);
            }
        }
        let mut next = Time::NEVER;
        for due in &mut self.due {
            // Whatever was due and could not be done is looked at again in a round, so the deadline never stands still.
            if *due <= now {
                *due = now + ROUND;
            }
            next = next.min(*due);
        }
        self.next_due = next;
    }

    /// Nothing of the pool is forgotten before `at`.
    pub(super) fn arm(&mut self, p: u32, at: Time) {
        let due = &mut self.due[p as usize];
        if at < *due {
            *due = at;
            self.next_due = self.next_due.min(at);
        }
    }

    /// Has the pool looked at by the next tick.
    pub(super) fn wake(&mut self, now: Time, p: u32) {
        self.pools[p].fill_blocked = false;
        self.plan_fill(now, p);
        self.arm(p, now);
    }

    pub(super) fn wake_group(&mut self, now: Time, side: Side, slot: u32) {
        self.group_mut(side, slot).fill_blocked.clear();
        for p in self.group(side, slot).pools.clone() {
            self.wake(now, p);
        }
    }

    pub(super) fn wake_all(&mut self, now: Time) {
        for p in self.all_pools() {
            self.wake(now, p);
        }
    }

    fn maintain(&mut self, now: Time, p: u32, out: &mut Vec<Action>) {
        if self.mode == Mode::Active && !self.is_halted(p) {
            let closed = self.close_worn(now, p, out) | self.trim(now, p, out);
            if closed {
                self.offer(now, p, out);
            }
            if self.is_abandoned(now, p) {
                let idle_for = now.since(self.pools[p].last_used);
                return self.end_pool(now, p, PoolEnd::Idle(idle_for), out);
            }
        }
        self.supply(now, p, out);
        let due = self.pool_due(now, p);
        self.arm(p, due);
    }

    /// Closes free servers that have been idle or alive for too long; true if there were any.
    fn close_worn(&mut self, now: Time, p: u32, out: &mut Vec<Action>) -> bool {
        let mut closed = false;
        let mut next = self.pools[p].list(Place::Idle).last();
        while let Some(s) = next {
            next = List::previous(&self.servers, s);
            if self.is_idle_over(now, s) {
                self.close(now, s, reason::IDLE, out);
            } else if self.lifetime_due(s) <= now {
                self.pools[p].last_lifetime_close = Some(now);
                self.close(now, s, reason::LIFETIME, out);
            } else {
                continue;
            }
            closed = true;
        }
        closed
    }

    /// Closes free servers of a pool that was made smaller, those used last first as PgBouncer does.
    fn trim(&mut self, now: Time, p: u32, out: &mut Vec<Action>) -> bool {
        let mut closed = false;
        while let Some(s) = self.pools[p].list(Place::Idle).first() {
            if !self.is_one_too_many(s) {
                break;
            }
            self.close(now, s, reason::TOO_MANY, out);
            closed = true;
        }
        closed
    }

    /// `server_idle_timeout`, which never takes a pool below `min_pool_size`.
    fn is_idle_over(&self, now: Time, s: u32) -> bool {
        self.idle_timeout_due(s) <= now
    }

    fn idle_timeout_due(&self, s: u32) -> Time {
        let pool = &self.pools[self.servers[s].pool];
        let (timeout, min) = (self.globals.server_idle_timeout, pool.params.min_pool_size);
        if timeout.is_zero() || (min > 0 && pool.connected() <= min) {
            return Time::NEVER;
        }
        self.servers[s].idle_since + timeout
    }

    /// When a free server is to be closed for its age. One fresh from login is left alone for a round even if servers are
    /// used only once: it was opened for somebody.
    fn lifetime_due(&self, s: u32) -> Time {
        let server = &self.servers[s];
        let pool = &self.pools[server.pool];
        let mut due = server.opened_at + pool.params.server_lifetime;
        if let Some(last) = pool.last_lifetime_close {
            due = due.max(last + pool.lifetime_gap());
        }
        if server.used { due } else { due.max(server.idle_since + ROUND) }
    }

    /// `server_lifetime` is over, and the last close for that reason was long enough ago.
    pub(super) fn is_worn(&self, now: Time, s: u32) -> bool {
        let server = &self.servers[s];
        let pool = &self.pools[server.pool];
        let spread = |last| now.since(last) >= pool.lifetime_gap();
        now.since(server.opened_at) >= pool.params.server_lifetime && pool.last_lifetime_close.is_none_or(spread)
    }

    /// When this free server may have to be closed.
    pub(super) fn idle_due(&self, p: u32, s: u32) -> Time {
        if self.is_halted(p) || self.mode != Mode::Active {
            return Time::NEVER;
        }
        self.idle_timeout_due(s).min(self.lifetime_due(s))
    }

    fn is_abandoned(&self, now: Time, p: u32) -> bool {
        self.abandoned_due(p) <= now
    }

    /// When `pool_idle_timeout` is over. A pool that is to keep servers without clients is not forgotten.
    fn abandoned_due(&self, p: u32) -> Time {
        let pool = &self.pools[p];
        let timeout = self.globals.pool_idle_timeout;
        let kept = pool.params.forced_user && pool.params.min_pool_size > 0;
        if timeout.is_zero() || kept || !pool.is_unused() {
            return Time::NEVER;
        }
        pool.last_used + timeout
    }

    /// The first moment at which something may be to do for this pool.
    fn pool_due(&self, now: Time, p: u32) -> Time {
        let pool = &self.pools[p];
        if self.is_halted(p) {
            return Time::NEVER;
        }
        let retry_at = self.retry_at(pool);
        let mut due = Time::NEVER;
        if pool.count(Place::Login) == 0 {
            if pool.is_waiting() && pool.blocked == [false; 2] {
                due = retry_at.max(self.reserve_due(now, p));
            } else if !pool.fill_blocked && self.wants_fill(p) {
                due = retry_at.max(pool.fill_at);
            }
        }
        if self.mode != Mode::Active {
            return due;
        }
        for s in pool.list(Place::Idle).iter(&self.servers) {
            due = due.min(self.idle_due(p, s));
        }
        due.min(self.abandoned_due(p))
    }
}
