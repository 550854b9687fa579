//! Which client gets which server, when servers are opened and closed, and how many there may be.
//!
//! [`Registry`] holds every pool of the process. It decides by plain function calls with the time as an argument and
//! says what it wants done as [`Action`]s; the driver performs them and reports what came of it. [`ClientLimits`] counts
//! clients against the `max_*client*` settings.
//!
//! Life of a server (the names of SHOW POOLS):
//!
//! ```text
//!   Open -> login --ready--> idle <-> active ---release---> idle
//!             |                ^        |  \--begin_reset--> tested --release--> idle
//!           failed             |        v
//!                              +-- being_canceled (released while a cancel request for it is under way)
//! ```
//!
//! It must never know sockets, the PostgreSQL protocol, the configuration, names of databases or users, or the clock.

mod action;
mod cancel;
mod checkout;
mod control;
mod freeze;
pub mod io;
mod limits;
mod opening;
mod own;
mod params;
mod picture;
mod registry;
mod share;
mod slots;
mod state;
#[cfg(test)]
mod tests;
mod upkeep;
mod why;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use action::{Action, Checkout, Failure, Fate, PoolEnd, Welcome};
pub use control::Mode;
pub use freeze::Standing;
pub use limits::{ClientLimits, Seat};
pub use params::{DatabaseParams, GlobalParams, PoolParams, UserParams};
pub use picture::{PoolCounts, PoolView, ServerState, ServerView};
pub use registry::{Registry, Untold};
pub use share::LimitUse;
pub use why::{LimitReached, WaitCause, WaitView};

/// A database entry of the configuration (a name that clients connect to).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseId(pub u32);

/// The user a pool logs in to servers as, and that `max_user_connections` counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub u32);

/// The counter that clients and servers draw their ids from. Clones share it; the first id is 1.
#[derive(Clone, Debug, Default)]
pub struct Ids(Arc<AtomicU64>);

impl Ids {
    /// The next id, never given before. Draw one only for a socket that really comes into being: tools watch the numbers.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The last id given.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Makes the next id larger than `id` (after clients were taken over from a process that had counted so far).
    pub fn start_after(&self, id: u64) {
        self.0.fetch_max(id, Ordering::Relaxed);
    }
}
