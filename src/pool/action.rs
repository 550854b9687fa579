//! What goes in and out of the registry.

use super::{DatabaseId, UserId};
use crate::clock::Time;
use crate::fault::Fault;
use crate::ids::{ClientId, PoolId, ServerId};
use std::time::Duration;

/// Why servers are closed, as the log says it (`closing because: …`). The texts are PgBouncer's: tools match them.
pub(super) mod reason {
    pub(in crate::pool) const IDLE: &str = "server idle timeout";
    pub(in crate::pool) const LIFETIME: &str = "server lifetime over";
    pub(in crate::pool) const RECONFIGURED: &str = "database configuration changed";
    pub(in crate::pool) const LOGIN_OBSOLETE: &str = "connect string changed";
    pub(in crate::pool) const CLOSE_NEEDED: &str = "close_needed";
    pub(in crate::pool) const PAUSE: &str = "pause mode";
    pub(in crate::pool) const TOO_MANY: &str = "too many servers in the pool";
    pub(in crate::pool) const SHARE: &str = "the other node may have more servers now";
    pub(in crate::pool) const EVICTED: &str = "evicted";
    pub(in crate::pool) const OWNER_GONE: &str = "replication client was closed";
    pub(in crate::pool) const REMOVED: &str = "database removed";
    pub(in crate::pool) const CANCEL_LATE: &str = "not sending cancel request for client that is now idle";
}

/// What the registry wants done. Each is final when it is given: the registry has already counted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect and log in; then `server_ready` or `server_failed`.
    Open {
        /// Freshly drawn id.
        server: ServerId,
        /// Where it will belong.
        pool: PoolId,
    },
    /// As [`Self::Open`], for this client alone, as it asks for it at its login (replication).
    OpenOwn {
        /// Freshly drawn id.
        server: ServerId,
        /// Where it will be counted.
        pool: PoolId,
        /// Whose it will be.
        client: ClientId,
    },
    /// Connect without logging in, then ask `cancel_connected`, send the cancel key of `target` and wait for the end of
    /// the connection; in the end, whatever happened, `cancel_done`.
    OpenCancel {
        /// Id of the connection that carries the request.
        server: ServerId,
        /// Whose server address is to be used.
        pool: PoolId,
        /// The client connection that brought the request.
        request: ClientId,
        /// Whose statement is to be cancelled.
        target: ServerId,
    },
    /// This cancel request came too late or its pool is gone: close the client connection that brought it, silently.
    DropCancel {
        /// The client connection that brought the request.
        request: ClientId,
        /// For the log.
        reason: &'static str,
    },
    /// A waiting client has its server. If the client is gone, give the server back with [`Fate::Unused`].
    Grant {
        /// Who.
        client: ClientId,
        /// What.
        server: ServerId,
        /// Run `server_check_query` first, then `check_passed`, or release with [`Fate::Close`] and `checkout_again`.
        needs_check: bool,
        /// When it began to wait: wait time for the statistics, and the argument of `checkout_again`.
        waited_since: Time,
    },
    /// A client that waited with `await_welcome` may be welcomed now.
    Welcome {
        /// Who.
        client: ClientId,
        /// When it began to wait.
        waited_since: Time,
    },
    /// A waiting client gets this error.
    Refuse {
        /// Who.
        client: ClientId,
        /// What it is told.
        fault: Fault,
    },
    /// Close this server; the registry no longer knows it. It may be idle, logging in, or (KILL) in a client's hands.
    Close {
        /// Which.
        server: ServerId,
        /// For the log: `closing because: REASON`.
        reason: &'static str,
    },
    /// This server will be closed at its release; with `server_fast_close` it may be closed as soon as it is ready.
    CloseNeeded {
        /// Which.
        server: ServerId,
        /// Who holds it; none while it is being reset or a cancel request for it is under way.
        client: Option<ClientId>,
    },
    /// Log `taking connection from reserve_pool` as a warning of this client.
    LogReserve {
        /// Where.
        pool: PoolId,
        /// The client that has waited for longest.
        client: ClientId,
    },
    /// The pool is forgotten and its id will not be used again. All its servers were closed by actions before this one,
    /// its waiters refused. If it was removed, its other clients must be disconnected with `database removed`.
    PoolGone {
        /// Which.
        pool: PoolId,
        /// Its database.
        database: DatabaseId,
        /// Its user.
        user: UserId,
        /// Why.
        why: PoolEnd,
    },
    /// This database has no more busy servers while paused, or no more servers to be closed: whoever waits for PAUSE,
    /// WAIT_CLOSE or SHUTDOWN may look again (`Registry::busy`, `Registry::closing`).
    Settled {
        /// Which.
        database: DatabaseId,
    },
}

/// Why a pool is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolEnd {
    /// `pool_idle_timeout`; unused for this long.
    Idle(Duration),
    /// KILL, or its database is no longer configured.
    Removed,
}

/// Answer to a client that needs a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checkout {
    /// Here it is.
    Granted {
        /// The server.
        server: ServerId,
        /// As in [`Action::Grant`].
        needs_check: bool,
    },
    /// [`Action::Grant`] or [`Action::Refuse`] will follow, unless the client leaves.
    Queued,
    /// No; the client is told why and disconnected.
    Refused(Fault),
}

/// Answer to a client that has proved who it is and waits for the server parameters to be shown to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// The parameters that the last server of this pool sent are good.
    Known,
    /// [`Action::Welcome`] or [`Action::Refuse`] will follow, unless the client leaves.
    Queued,
    /// No; the client is told why and disconnected.
    Refused(Fault),
}

/// In what condition a server comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// In sync, outside of a transaction, reset if that is needed: good for the next client.
    Idle,
    /// As it was granted: nothing was sent to it. It counts as neither used nor checked.
    Unused,
    /// The driver closes it, for this reason.
    Close(&'static str),
}

/// Why a server did not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No answer that speaks of this user: refused, name not found, TLS, timeout. Clients go on waiting.
    Connect(String),
    /// The server answered with this error. Clients get it too, unless the pool has other servers or the server said
    /// that it cannot take connections now (57P03).
    Login(Fault),
}
