//! The part of the picture that SHOW WHY is made from.

use std::sync::Arc;

/// A client that waits, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyRow {
    /// The client's id.
    pub client: u64,
    /// The database that it asked for.
    pub database: Arc<str>,
    /// Its user.
    pub user: Arc<str>,
    /// Where it is: an address without port, or `unix`.
    pub addr: String,
    /// Its port.
    pub port: u16,
    /// `application_name`.
    pub application_name: Arc<str>,
    /// Since when it waits, in microseconds since the Unix epoch.
    pub since_us: i64,
    /// How long it has waited, in microseconds.
    pub wait_us: u64,
    /// How many wait before it in its pool.
    pub ahead: u32,
    /// It is not yet let in: its login waits for the pool's first server.
    pub in_login: bool,
    /// What for.
    pub cause: WhyCause,
}

/// Where the value of a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetBy {
    /// The section `[pgbouncer]`, or the default.
    Everywhere,
    /// The database's entry.
    Database,
    /// The user's entry.
    User,
}

/// What a client waits for. Durations are in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyCause {
    /// Nothing is given out until a hand-over or a planned move is over.
    Frozen,
    /// PAUSE.
    Paused,
    /// PAUSE db.
    DatabasePaused,
    /// A server is being reset.
    Reset,
    /// A server is being connected to.
    Connecting {
        /// For so long.
        since_us: u64,
        /// What the attempt before failed of.
        failure: Option<String>,
    },
    /// The pause after a failed attempt.
    LoginRetry {
        /// What it failed of.
        failure: String,
        /// Until the next one.
        retry_in_us: u64,
    },
    /// The pool is full.
    PoolFull {
        /// `pool_size`.
        size: u32,
        /// Which entry sets it.
        set_by: SetBy,
        /// `reserve_pool_size`.
        reserve: u32,
        /// Servers there are.
        servers: u32,
        /// Until a server of the reserve may be opened.
        reserve_in_us: Option<u64>,
    },
    /// `max_db_connections`.
    DatabaseLimit(LimitUsed),
    /// `max_user_connections`.
    UserLimit(LimitUsed),
    /// Nothing any more.
    Next,
}

/// A limit that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitUsed {
    /// The setting.
    pub limit: u32,
    /// Which entry sets it.
    pub set_by: SetBy,
    /// What of it this node may use.
    pub allowed: u32,
    /// Servers there are.
    pub servers: u32,
}
