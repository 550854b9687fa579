//! What the registry needs to know of the configuration. Plain numbers: precedence (user over database over global) is
//! resolved before they come here.

use std::time::Duration;

/// Settings that hold for every pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalParams {
    /// `reserve_pool_timeout`: how long the oldest client must have waited for the reserve to be used; zero = no reserve.
    pub reserve_pool_timeout: Duration,
    /// `server_idle_timeout`; zero = never.
    pub server_idle_timeout: Duration,
    /// `server_check_delay`: servers idle for longer are checked before use; zero = always.
    pub server_check_delay: Duration,
    /// Whether `server_check_query` is set at all (also when it is `<empty>`); without it nothing is ever checked.
    pub server_check: bool,
    /// `server_login_retry`: pause after a failed attempt to reach or log in to a server.
    pub server_login_retry: Duration,
    /// `server_round_robin`: take the server that has been idle for longest instead of the one used last.
    pub server_round_robin: bool,
    /// `pool_idle_timeout`: pools without clients and servers are forgotten after this; zero = never.
    pub pool_idle_timeout: Duration,
}

impl Default for GlobalParams {
    /// PgBouncer's defaults.
    fn default() -> Self {
        Self {
            reserve_pool_timeout: Duration::from_secs(5),
            server_idle_timeout: Duration::from_secs(600),
            server_check_delay: Duration::from_secs(30),
            server_check: true,
            server_login_retry: Duration::from_secs(15),
            server_round_robin: false,
            pool_idle_timeout: Duration::ZERO,
        }
    }
}

/// Settings of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseParams {
    /// `max_db_connections`: servers of all its pools together; 0 = no limit.
    pub max_db_connections: u32,
}

/// Settings of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserParams {
    /// `max_user_connections`: servers of all pools of this user together; 0 = no limit.
    pub max_user_connections: u32,
}

/// Settings of one pool, already resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolParams {
    /// `pool_size` or `default_pool_size`; 0 = no limit.
    pub pool_size: u32,
    /// `min_pool_size`: servers kept open while there are clients, or always if `forced_user`.
    pub min_pool_size: u32,
    /// `reserve_pool_size`: how many more after `reserve_pool_timeout`.
    pub reserve_pool_size: u32,
    /// `server_lifetime`; zero = use each server once.
    pub server_lifetime: Duration,
    /// The database entry names its `user=`.
    pub forced_user: bool,
}

impl Default for PoolParams {
    /// PgBouncer's defaults.
    fn default() -> Self {
        Self {
            pool_size: 20,
            min_pool_size: 0,
            reserve_pool_size: 0,
            server_lifetime: Duration::from_secs(3600),
            forced_user: false,
        }
    }
}
