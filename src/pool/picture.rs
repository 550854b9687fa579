//! What SHOW and the metrics may ask of the registry.

use super::state::Place;
use super::{DatabaseId, Registry, UserId};
use crate::clock::Time;
use crate::ids::{ClientId, PoolId, ServerId};
use std::time::Duration;

/// State of a server as SHOW SERVERS names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerState {
    /// Held by a client.
    Active,
    /// Ready for the next client.
    Idle,
    /// Idle for longer than `server_check_delay`; it will be checked before use.
    Used,
    /// Being checked or reset.
    Tested,
    /// Connecting or logging in.
    Login,
    /// Carries a cancel request.
    ActiveCancel,
    /// Free, but a cancel request aimed at it is still under way.
    BeingCanceled,
}

impl ServerState {
    /// The word in column `state` of SHOW SERVERS.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Used => "used",
            Self::Tested => "tested",
            Self::Login => "new",
            Self::ActiveCancel => "active_cancel",
            Self::BeingCanceled => "being_canceled",
        }
    }
}

/// The counts of SHOW POOLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Clients that belong to the pool and do not wait (`cl_active`).
    pub clients_active: u32,
    /// Clients that wait for a server (`cl_waiting`).
    pub clients_waiting: u32,
    /// Cancel requests that were passed on (`cl_active_cancel_req`).
    pub cancels_active: u32,
    /// Cancel requests that were not yet (`cl_waiting_cancel_req`).
    pub cancels_waiting: u32,
    /// `sv_active`.
    pub active: u32,
    /// `sv_active_cancel`.
    pub active_cancel: u32,
    /// `sv_being_canceled`.
    pub being_canceled: u32,
    /// `sv_idle`.
    pub idle: u32,
    /// `sv_used`.
    pub used: u32,
    /// `sv_tested`.
    pub tested: u32,
    /// `sv_login`.
    pub login: u32,
    /// `maxwait`: how long the client at the head of the queue has waited.
    pub max_wait: Duration,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolView {
    /// Its id.
    pub id: PoolId,
    /// Its database.
    pub database: DatabaseId,
    /// Its user.
    pub user: UserId,
    /// Who is in it.
    pub counts: PoolCounts,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerView {
    /// Its id.
    pub id: ServerId,
    /// Its pool.
    pub pool: PoolId,
    /// Its state.
    pub state: ServerState,
    /// Who holds it.
    pub client: Option<ClientId>,
    /// When the attempt to reach it began.
    pub opened_at: Time,
    /// When it last became idle, or logged in.
    pub idle_since: Time,
    /// It will be closed at its release (column `close_needed`).
    pub close_needed: bool,
}

impl Registry {
    /// `current_connections` of SHOW DATABASES.
    #[must_use]
    pub fn of_database(&self, database: DatabaseId) -> u32 {
        self.database_slots.get(&database).map_or(0, |&d| self.databases[d].group.servers)
    }

    /// `current_connections` of SHOW USERS.
    #[must_use]
    pub fn of_user(&self, user: UserId) -> u32 {
        self.user_slots.get(&user).map_or(0, |&u| self.users[u].group.servers)
    }

    /// One pool.
    #[must_use]
    pub fn pool(&self, now: Time, pool: PoolId) -> Option<PoolView> {
        self.pool_slots.get(&pool).map(|&p| self.view_pool(now, p))
    }

    /// All pools, in the order in which they were made.
    #[must_use]
    pub fn pools(&self, now: Time) -> Vec<PoolView> {
        let mut views: Vec<PoolView> = self.pool_slots.values().map(|&p| self.view_pool(now, p)).collect();
        views.sort_unstable_by_key(|view| view.id);
        views
    }

    /// One server.
    #[must_use]
    pub fn server(&self, now: Time, server: ServerId) -> Option<ServerView> {
        self.server_slots.get(&server).map(|&s| self.view_server(now, s))
    }

    /// All servers, in the order in which they were opened.
    #[must_use]
    pub fn servers(&self, now: Time) -> Vec<ServerView> {
        let mut views: Vec<ServerView> = self.server_slots.values().map(|&s| self.view_server(now, s)).collect();
        views.sort_unstable_by_key(|view| view.id);
        views
    }

    fn view_pool(&self, now: Time, p: u32) -> PoolView {
        let pool = &self.pools[p];
        let idle = pool.list(Place::Idle);
        let used = idle.iter(&self.servers).filter(|&s| self.is_stale(now, s)).count();
        let used = u32::try_from(used).unwrap_or(u32::MAX);
        let sent = pool.count(Place::ActiveCancel);
        let queued = u32::try_from(pool.cancel_queue.len()).unwrap_or(u32::MAX);
        let counts = PoolCounts {
            clients_active: pool.clients.saturating_sub(pool.waiters.len()),
            clients_waiting: pool.waiters.len(),
            cancels_active: sent,
            cancels_waiting: queued + pool.count(Place::CancelLogin),
            active: pool.count(Place::Active),
            active_cancel: sent,
            being_canceled: pool.count(Place::BeingCanceled),
            idle: idle.len() - used,
            used,
            tested: pool.count(Place::Tested),
            login: pool.count(Place::Login) + pool.count(Place::CancelLogin),
            max_wait: pool.waiters.first().map(|w| now.since(self.waiters[w].since)).unwrap_or_default(),
        };
        PoolView { id: pool.id, database: self.databases[pool.database].id, user: self.users[pool.user].id, counts }
    }

    fn view_server(&self, now: Time, s: u32) -> ServerView {
        let server = &self.servers[s];
        let state = match server.place {
            Place::Login | Place::CancelLogin => ServerState::Login,
            Place::Idle if self.is_stale(now, s) => ServerState::Used,
            Place::Idle => ServerState::Idle,
            Place::Active => ServerState::Active,
            Place::Tested => ServerState::Tested,
            Place::BeingCanceled => ServerState::BeingCanceled,
            Place::ActiveCancel => ServerState::ActiveCancel,
        };
        ServerView {
            id: server.id,
            pool: self.pools[server.pool].id,
            state,
            client: server.client,
            opened_at: server.opened_at,
            idle_since: server.idle_since,
            close_needed: server.close_needed,
        }
    }
}
