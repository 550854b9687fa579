//! What the registry remembers of each server, client in a queue, pool, database and user.

use super::registry::Untold;
use super::slots::{Linked, Links, List};
use super::{DatabaseId, PoolParams, UserId};
use crate::clock::Time;
use crate::ids::{ClientId, PoolId, ServerId};
use std::collections::VecDeque;
use std::time::Duration;

/// Which list of its pool a server is in. Moving it (`Registry::move_to`) is the only way to change its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Connecting or logging in.
    Login,
    /// Free. Kept in the order of `idle_since`, the newest first.
    Idle,
    /// Held by a client.
    Active,
    /// Held by a client that checks it, or by nobody while it is reset.
    Tested,
    /// Free but for a cancel request that is on its way to it.
    BeingCanceled,
    /// Connecting, to carry a cancel request.
    CancelLogin,
    /// Carries a cancel request.
    ActiveCancel,
}

impl Place {
    pub(super) const COUNT: usize = 7;
    pub(super) const ALL: [Self; Self::COUNT] = [
        Self::Login,
        Self::Idle,
        Self::Active,
        Self::Tested,
        Self::BeingCanceled,
        Self::CancelLogin,
        Self::ActiveCancel,
    ];

    /// PAUSE waits for it.
    pub(super) fn is_busy(self) -> bool {
        matches!(self, Self::Active | Self::Tested | Self::BeingCanceled)
    }

    /// It is no session: the server forgets it as soon as the key is read, so it counts for no limit on sessions.
    pub(super) fn is_cancel(self) -> bool {
        matches!(self, Self::CancelLogin | Self::ActiveCancel)
    }
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) links: Links,
    pub(super) id: ServerId,
    pub(super) pool: u32,
    pub(super) place: Place,
    pub(super) client: Option<ClientId>,
    pub(super) opened_at: Time,
    pub(super) idle_since: Time,
    /// Some client has used it since its login.
    pub(super) used: bool,
    pub(super) close_needed: bool,
    /// About to be passed on to another process, together with its client.
    pub(super) moving: bool,
    /// Being reset, held by no client.
    pub(super) resetting: bool,
    /// Opened for its client alone, and lent to nobody else.
    pub(super) own: bool,
    /// Cancel requests aimed at it.
    pub(super) cancels: u32,
    /// Those of them that were sent and are not over.
    pub(super) cancels_sent: u32,
}

impl Linked for Server {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
    fn neighbours(&self) -> &Links {
        &self.links
    }
}

/// A client in the queue of its pool.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) links: Links,
    pub(super) client: ClientId,
    pub(super) pool: u32,
    pub(super) since: Time,
    /// Wants to be welcomed, not a server.
    pub(super) welcome: bool,
    /// Wants a server of its own.
    pub(super) own: bool,
}

impl Linked for Waiter {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
    fn neighbours(&self) -> &Links {
        &self.links
    }
}

/// A cancel request under way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) pool: u32,
    /// None once it is too late.
    pub(super) target: Option<u32>,
    /// The server that carries it; none while it is queued.
    pub(super) carrier: Option<u32>,
    pub(super) sent: bool,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) id: PoolId,
    pub(super) database: u32,
    pub(super) user: u32,
    pub(super) params: PoolParams,
    lists: [List; Place::COUNT],
    /// The oldest first.
    pub(super) waiters: List,
    pub(super) welcome_waiters: u32,
    /// Clients in the queue that want a server of their own.
    pub(super) own_waiters: u32,
    pub(super) clients: u32,
    pub(super) resetting: u32,
    /// Servers with `close_needed`.
    pub(super) doomed: u32,
    /// The server parameters are known and belong to the present settings.
    pub(super) welcome_fresh: bool,
    /// They were known at some time.
    pub(super) welcome_known: bool,
    /// What the last attempt failed of, if it failed.
    pub(super) failure: Option<String>,
    pub(super) last_attempt: Time,
    pub(super) last_lifetime_close: Option<Time>,
    /// When it last had a client or a server.
    pub(super) last_used: Time,
    /// When the next server may be opened for `min_pool_size`.
    pub(super) fill_at: Time,
    pub(super) cancel_queue: VecDeque<ClientId>,
    /// In the queue of its database, or of its user, for a server that the limit does not allow.
    pub(super) blocked: [bool; 2],
    /// `min_pool_size` cannot be reached because of such a limit.
    pub(super) fill_blocked: bool,
}

impl Pool {
    pub(super) fn new(id: PoolId, database: u32, user: u32, params: PoolParams, now: Time) -> Self {
        Self {
            id,
            database,
            user,
            params,
            lists: [List::default(); Place::COUNT],
            waiters: List::default(),
            welcome_waiters: 0,
            own_waiters: 0,
            clients: 0,
            resetting: 0,
            doomed: 0,
            welcome_fresh: false,
            welcome_known: false,
            failure: None,
            last_attempt: Time::default(),
            last_lifetime_close: None,
            last_used: now,
            fill_at: Time::default(),
            cancel_queue: VecDeque::new(),
            blocked: [false; 2],
            fill_blocked: false,
        }
    }

    pub(super) fn list(&self, place: Place) -> &List {
        &self.lists[place as usize]
    }

    pub(super) fn list_mut(&mut self, place: Place) -> &mut List {
        &mut self.lists[place as usize]
    }

    pub(super) fn count(&self, place: Place) -> u32 {
        self.list(place).len()
    }

    /// Servers that are logged in.
    pub(super) fn connected(&self) -> u32 {
        [Place::Idle, Place::Active, Place::Tested, Place::BeingCanceled].iter().map(|&place| self.count(place)).sum()
    }

    /// Servers that count for `pool_size`.
    pub(super) fn sessions(&self) -> u32 {
        self.connected() + self.count(Place::Login)
    }

    /// Connections that carry cancel requests.
    pub(super) fn carriers(&self) -> u32 {
        self.count(Place::CancelLogin) + self.count(Place::ActiveCancel)
    }

    /// More clients wait than servers are about to come back from their reset, which help nobody who wants one of its own.
    pub(super) fn is_waiting(&self) -> bool {
        self.own_waiters > 0 || self.waiters.len() > self.resetting
    }

    /// Least time between two closes for `server_lifetime`, so that a pool opened at once is not closed at once.
    pub(super) fn lifetime_gap(&self) -> Duration {
        self.params.server_lifetime.checked_div(self.params.pool_size).unwrap_or_default()
    }

    /// It has neither clients nor servers.
    pub(super) fn is_unused(&self) -> bool {
        self.clients == 0 && self.waiters.is_empty() && self.sessions() == 0 && self.carriers() == 0
    }
}

/// The pools that share one limit: those of a database, or of a user.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// 0 = none.
    pub(super) limit: u32,
    /// What of the limit is for this process, if another node has a share of it.
    pub(super) share: Option<u32>,
    /// What it is while there is no word of the other node about this limit.
    pub(super) untold: Option<Untold>,
    pub(super) servers: u32,
    pub(super) idle: u32,
    pub(super) pools: Vec<u32>,
    /// Pools with waiting clients that get no server because of the limit, the first to ask first.
    pub(super) blocked: VecDeque<u32>,
    /// Pools below `min_pool_size` because of the limit.
    pub(super) fill_blocked: Vec<u32>,
}

impl Group {
    pub(super) fn is_full(&self) -> bool {
        self.limit > 0 && self.servers >= self.allowed()
    }

    /// Only a share makes servers go that are there: a limit that was lowered lets them be, as in PgBouncer.
    pub(super) fn is_over_share(&self) -> bool {
        self.limit > 0 && self.share.is_some() && self.servers > self.allowed()
    }

    pub(super) fn allowed(&self) -> u32 {
        let untold = || self.untold.map_or(u32::MAX, |of| of(self.limit));
        self.limit.min(self.share.unwrap_or_else(untold))
    }
}

#[derive(Debug)]
pub(super) struct Database {
    pub(super) id: DatabaseId,
    pub(super) group: Group,
    pub(super) busy: u32,
    pub(super) doomed: u32,
    pub(super) paused: bool,
    pub(super) disabled: bool,
}

#[derive(Debug)]
pub(super) struct User {
    pub(super) id: UserId,
    pub(super) group: Group,
}
