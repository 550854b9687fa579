//! What SHOW and the metrics may ask of the registry.

use super::{DatabaseId, UserId};
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
