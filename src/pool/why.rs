//! What each client in a queue waits for: the same gates as those that open servers, in their order, asked without opening.

use std::time::Duration;

use super::Registry;
use super::opening::Room;
use super::registry::Side;
use super::state::Place;
use crate::clock::Time;
use crate::ids::{ClientId, PoolId};

/// A client in the queue of its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitView {
    /// Who waits.
    pub client: ClientId,
    /// In the queue of this pool.
    pub pool: PoolId,
    /// Since when.
    pub since: Time,
    /// It waits for the server parameters of its login, not yet for a server.
    pub welcome: bool,
    /// How many wait before it.
    pub ahead: u32,
    /// What for.
    pub cause: WaitCause,
}

/// What stands between a client in a queue and a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitCause {
    /// Nothing is given out: a hand-over, or a planned move of the floating address.
    Frozen,
    /// PAUSE of everything.
    Paused,
    /// PAUSE of its database.
    DatabasePaused,
    /// A server is under `server_reset_query` and will be free then.
    Reset,
    /// A server is being connected to.
    Connecting {
        /// For so long.
        since: Duration,
        /// What the attempt before failed of, if it failed.
        failure: Option<String>,
    },
    /// The last attempt failed, and the pause of `server_login_retry` is not over.
    LoginRetry {
        /// What it failed of.
        failure: String,
        /// Until the next attempt.
        retry_in: Duration,
    },
    /// Every server that the pool may have is in use.
    PoolFull {
        /// `pool_size`.
        size: u32,
        /// `reserve_pool_size`.
        reserve: u32,
        /// How many there are.
        servers: u32,
        /// Until a server of the reserve may be opened; `None`: never.
        reserve_in: Option<Duration>,
    },
    /// `max_db_connections` allows no more.
    DatabaseLimit(LimitReached),
    /// `max_user_connections` allows no more.
    UserLimit(LimitReached),
    /// Nothing: it is served with the next turn of the upkeep.
    Next,
}

/// A limit that several pools share, and that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached {
    /// The setting.
    pub limit: u32,
    /// What of it is for this node: less than `limit` if the other node of a pair has its share.
    pub allowed: u32,
    /// Servers of all its pools.
    pub servers: u32,
}

impl Registry {
    /// All who wait, pool by pool, the first in the queue first.
    #[must_use]
    pub fn why(&self, now: Time) -> Vec<WaitView> {
        let mut pools: Vec<u32> = self.pool_slots.values().copied().collect();
        pools.sort_unstable_by_key(|&p| self.pools[p].id);
        pools.into_iter().flat_map(|p| self.why_in(now, p)).collect()
    }

    fn why_in(&self, now: Time, p: u32) -> Vec<WaitView> {
        let pool = &self.pools[p];
        let mut ahead = 0;
        let views = pool.waiters.iter(&self.waiters).map(|w| {
            let waiter = &self.waiters[w];
            let cause = self.cause(now, p, ahead, waiter.welcome);
            let view = WaitView {
                client: waiter.client,
                pool: pool.id,
                since: waiter.since,
                welcome: waiter.welcome,
                ahead,
                cause,
            };
            ahead += 1;
            view
        });
        views.collect()
    }

    /// What the client waits for that has so many before it. Servers that will be free, or ready, without anybody's doing
    /// are for the first in the queue; the rest wait for what keeps the pool from opening another one.
    fn cause(&self, now: Time, p: u32, ahead: u32, welcome: bool) -> WaitCause {
        let pool = &self.pools[p];
        if self.is_frozen() {
            return WaitCause::Frozen;
        }
        if self.databases[pool.database].paused {
            return WaitCause::DatabasePaused;
        }
        if self.is_halted(p) {
            return WaitCause::Paused;
        }
        let logins = pool.count(Place::Login);
        let on_the_way = logins > 0 && (welcome || ahead < pool.resetting.saturating_add(logins));
        if ahead < pool.resetting && !welcome {
            return WaitCause::Reset;
        }
        if on_the_way {
            return self.connecting(now, p);
        }
        let retry_at = self.retry_at(pool);
        if let Some(failure) = pool.failure.as_ref().filter(|_| now < retry_at && logins == 0) {
            return WaitCause::LoginRetry { failure: failure.clone(), retry_in: retry_at.since(now) };
        }
        if let Room::Full(until) = self.room(now, pool) {
            return WaitCause::PoolFull {
                size: pool.params.pool_size,
                reserve: pool.params.reserve_pool_size,
                servers: pool.sessions(),
                reserve_in: (until != Time::NEVER).then(|| until.since(now)),
            };
        }
        for side in [Side::Database, Side::User] {
            if !self.can_make_room(p, side, true) {
                let group = self.group(side, self.group_slot(p, side));
                let reached = LimitReached { limit: group.limit, allowed: group.allowed(), servers: group.servers };
                return match side {
                    Side::Database => WaitCause::DatabaseLimit(reached),
                    Side::User => WaitCause::UserLimit(reached),
                };
            }
        }
        // One attempt at a time.
        if logins > 0 { self.connecting(now, p) } else { WaitCause::Next }
    }

    fn connecting(&self, now: Time, p: u32) -> WaitCause {
        let pool = &self.pools[p];
        let opened_at = pool.list(Place::Login).iter(&self.servers).map(|s| self.servers[s].opened_at).min();
        WaitCause::Connecting {
            since: opened_at.map(|at| now.since(at)).unwrap_or_default(),
            failure: pool.failure.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Culprit, Fault};
    use crate::ids::ServerId;
    use crate::pool::{
        Action, DatabaseId, DatabaseParams, Failure, Fate, GlobalParams, Ids, PoolParams, UserId, UserParams,
    };

    const DATABASE: DatabaseId = DatabaseId(1);
    const USER: UserId = UserId(1);

    struct World {
        registry: Registry,
        pool: PoolId,
        out: Vec<Action>,
        clients: u64,
    }

    impl World {
        fn new(pool_size: u32, reserve_pool_size: u32) -> Self {
            let mut registry = Registry::new(Ids::default(), GlobalParams::default());
            let params = PoolParams { pool_size, reserve_pool_size, ..PoolParams::default() };
            let pool = registry.ensure_pool(Time(0), DATABASE, USER, &params);
            Self { registry, pool, out: Vec::new(), clients: 1000 }
        }

        fn ask(&mut self, second: u64) -> ClientId {
            self.clients += 1;
            let client = ClientId(self.clients);
            let _ = self.registry.checkout(at(second), self.pool, client, &mut self.out);
            client
        }

        /// The server that was asked for last.
        fn opened(&mut self) -> ServerId {
            let mut opened = self.out.drain(..).filter_map(|action| match action {
                Action::Open { server, .. } => Some(server),
                _ => None,
            });
            opened.next_back().unwrap()
        }

        fn serve(&mut self, second: u64) -> ServerId {
            self.ask(second);
            let server = self.opened();
            assert!(self.registry.server_ready(at(second), server, &mut self.out));
            server
        }

        fn causes(&self, second: u64) -> Vec<WaitCause> {
            self.registry.why(at(second)).into_iter().map(|view| view.cause).collect()
        }
    }

    fn at(second: u64) -> Time {
        Time(0) + secs(second)
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn who_waits_for_a_login_and_who_for_room() {
        let mut world = World::new(2, 0);
        let (first, second, third) = (world.ask(1), world.ask(2), world.ask(3));
        let connecting = |n| WaitCause::Connecting { since: secs(n), failure: None };
        assert_eq!(world.causes(4), [connecting(3), connecting(3), connecting(3)]);
        let server = world.opened();
        assert!(world.registry.server_ready(at(5), server, &mut world.out));
        let full = WaitCause::PoolFull { size: 2, reserve: 0, servers: 2, reserve_in: None };
        let views = world.registry.why(at(6));
        assert_eq!(views.iter().map(|v| (v.client, v.ahead)).collect::<Vec<_>>(), [(second, 0), (third, 1)]);
        assert_eq!(views[0].since, at(2));
        assert_eq!(world.causes(6), [connecting(1), full], "the second login is for the next in the queue only");
        assert!(!views.iter().any(|view| view.client == first || view.welcome));
    }

    #[test]
    fn a_full_pool_and_its_reserve() {
        let mut world = World::new(1, 1);
        let server = world.serve(1);
        world.ask(2);
        let full = |reserve_in| WaitCause::PoolFull { size: 1, reserve: 1, servers: 1, reserve_in };
        assert_eq!(world.causes(3), [full(Some(secs(4)))]);
        world.registry.begin_reset(server, &mut world.out);
        assert_eq!(world.causes(3), [WaitCause::Reset]);
        assert!(world.registry.release(at(3), server, Fate::Idle, &mut world.out));
        assert!(world.causes(3).is_empty());
    }

    #[test]
    fn a_login_that_fails() {
        let mut world = World::new(1, 0);
        world.ask(1);
        let server = world.opened();
        let failure = Failure::Connect("connect failed".to_owned());
        world.registry.server_failed(at(1), server, failure, &mut world.out);
        let failure = "connect failed".to_owned();
        assert_eq!(world.causes(6), [WaitCause::LoginRetry { failure: failure.clone(), retry_in: secs(10) }]);
        world.registry.tick(at(16), &mut world.out);
        assert_eq!(world.causes(18), [WaitCause::Connecting { since: secs(2), failure: Some(failure) }]);
    }

    #[test]
    fn limits_of_several_pools() {
        let mut world = World::new(5, 0);
        let reached = |limit, allowed| LimitReached { limit, allowed, servers: 1 };
        world.registry.set_database(at(0), DATABASE, DatabaseParams { max_db_connections: 1 });
        world.serve(1);
        world.ask(2);
        assert_eq!(world.causes(3), [WaitCause::DatabaseLimit(reached(1, 1))]);
        world.registry.set_database(at(3), DATABASE, DatabaseParams { max_db_connections: 4 });
        world.registry.set_database_share(at(3), DATABASE, Some(1), &mut world.out);
        assert_eq!(world.causes(3), [WaitCause::DatabaseLimit(reached(4, 1))]);
        world.registry.set_user(at(3), USER, UserParams { max_user_connections: 1 });
        world.registry.set_database_share(at(3), DATABASE, None, &mut world.out);
        assert_eq!(world.causes(3), [WaitCause::UserLimit(reached(1, 1))]);
        world.registry.set_user(at(3), USER, UserParams { max_user_connections: 0 });
        assert_eq!(world.causes(3), [WaitCause::Next], "the upkeep has not come by yet");
    }

    #[test]
    fn pauses_and_freezes() {
        let mut world = World::new(1, 0);
        world.registry.pause(at(1), DATABASE, &mut world.out);
        world.ask(1);
        assert_eq!(world.causes(2), [WaitCause::DatabasePaused]);
        world.registry.resume(at(2), DATABASE);
        world.registry.pause_all(at(2), &mut world.out);
        assert_eq!(world.causes(2), [WaitCause::Paused]);
        world.registry.freeze();
        assert_eq!(world.causes(2), [WaitCause::Frozen]);
    }

    #[test]
    fn who_waits_to_be_let_in() {
        let mut world = World::new(1, 0);
        let client = ClientId(7);
        let _ = world.registry.await_welcome(at(1), world.pool, client, &mut world.out);
        world.ask(1);
        let views = world.registry.why(at(2));
        assert!(views[0].welcome && !views[1].welcome);
        let server = world.opened();
        let fault = Fault::fatal(Culprit::Server, "too many clients").with_sqlstate("57P03");
        world.registry.server_failed(at(2), server, Failure::Login(fault), &mut world.out);
        assert!(world.causes(3).iter().all(|cause| matches!(cause, WaitCause::LoginRetry { .. })));
    }
}
