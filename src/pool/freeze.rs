//! Standing still for a hand-over: while the registry is frozen no server is given to anybody, none is closed and none
//! opened but for logins under way, so that what is idle can be passed on to a successor; and how the successor enters in its books what it got.

use super::Action;
use super::registry::Registry;
use super::state::Place;
use crate::clock::Time;
use crate::ids::{ClientId, PoolId, ServerId};

/// A server that another process opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub server: ServerId,
    /// Its pool.
    pub pool: PoolId,
    /// Who holds it; none if it is idle.
    pub client: Option<ClientId>,
    /// When its login was over.
    pub opened_at: Time,
    /// When it was last given back.
    pub idle_since: Time,
    /// Some client has used it.
    pub used: bool,
    /// It is to be closed at its release.
    pub close_needed: bool,
}

impl Registry {
    /// From now on nothing is granted or closed, and opened only for logins that are under way; servers that come back stay.
    pub fn freeze(&mut self) {
        self.freezes += 1;
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.freezes > 0
    }

    /// The end of one [`Self::freeze`]. After the last it goes on as if nothing had been: those who wait get what is idle, and
    /// what fell due is done.
    pub fn thaw(&mut self, now: Time, out: &mut Vec<Action>) {
        self.freezes = self.freezes.saturating_sub(1);
        if self.is_frozen() {
            return;
        }
        for p in self.all_pools() {
            let d = self.pools[p].database;
            let before = self.load(d);
            for s in self.of_place(p, Place::Active) {
                self.servers[s].moving = false;
            }
            // What came back meanwhile has not been judged: PAUSE, RECONNECT, its lifetime, those who wait.
            for s in self.of_place(p, Place::Idle) {
                self.settle(now, s, out);
            }
            self.wake(now, p);
            self.supply(now, p, out);
            self.announce(d, before, out);
        }
    }

    /// Is it idle?
    #[must_use]
    pub fn is_idle(&self, server: ServerId) -> bool {
        self.server_slots.get(&server).is_some_and(|&s| self.servers[s].place == Place::Idle)
    }

    /// All servers that are idle.
    #[must_use]
    pub fn idle_servers(&self) -> Vec<Standing> {
        let of_pool = |p: u32| self.pools[p].list(Place::Idle).iter(&self.servers).map(|s| self.standing_of(s));
        self.pool_slots.values().flat_map(|&p| of_pool(p).collect::<Vec<_>>()).collect()
    }

    /// What is known of a server that a client holds and that is about to be passed on with it. None if it is not at rest:
    /// unknown, being checked, or with a cancel request on its way, which must not reach it when somebody else has it. From
    /// now on no cancel request is taken for it: its client has nothing to be cancelled.
    pub fn move_held(&mut self, server: ServerId) -> Option<Standing> {
        let &s = self.server_slots.get(&server)?;
        let entry = &mut self.servers[s];
        if entry.place != Place::Active || entry.cancels > 0 {
            return None;
        }
        entry.moving = true;
        Some(self.standing_of(s))
    }

    /// Is this server known at all?
    #[must_use]
    pub fn knows(&self, server: ServerId) -> bool {
        self.server_slots.contains_key(&server)
    }

    fn standing_of(&self, s: u32) -> Standing {
        let server = &self.servers[s];
        Standing {
            server: server.id,
            pool: self.pools[server.pool].id,
            client: server.client,
            opened_at: server.opened_at,
            idle_since: server.idle_since,
            used: server.used,
            close_needed: server.close_needed,
        }
    }

    /// Enters a server that a former process opened and this one has taken over. No limit stands against it; one too many
    /// goes at its next release. If nobody holds it, what is decided at a release is decided now. False if the pool is not
    /// known or the server is.
    #[must_use]
    pub fn adopt(&mut self, now: Time, standing: &Standing, out: &mut Vec<Action>) -> bool {
        let Some(&p) = self.pool_slots.get(&standing.pool) else { return false };
        if self.server_slots.contains_key(&standing.server) {
            return false;
        }
        self.ids.start_after(standing.server.0);
        let (s, d) =
            (self.enter_server(now, standing.server, p, Place::Active, standing.client), self.pools[p].database);
        let server = &mut self.servers[s];
        server.opened_at = standing.opened_at;
        server.idle_since = standing.idle_since.min(now);
        server.used = standing.used;
        server.close_needed = standing.close_needed;
        if standing.close_needed {
            self.pools[p].doomed += 1;
            self.databases[d].doomed += 1;
        }
        self.pools[p].welcome_fresh = true;
        self.pools[p].welcome_known = true;
        self.welcome_all(p, out);
        if standing.client.is_none() {
            self.settle(now, s, out);
        }
        true
    }

    /// The parameters that the servers of this pool report are known from a former process.
    pub fn set_welcome_known(&mut self, pool: PoolId) {
        if let Some(&p) = self.pool_slots.get(&pool) {
            self.pools[p].welcome_fresh = true;
            self.pools[p].welcome_known = true;
        }
    }
}
