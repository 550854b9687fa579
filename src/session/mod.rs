//! One client's session with the server that it has at the moment: which frame may pass, which is rewritten, held, answered or
//! swallowed, and when the server is free again. The cores here see frames and give verdicts; they must never know sockets,
//! time, pools or configuration.

pub mod cancel;
pub mod client;
pub mod drain;
pub mod io;
pub mod misuse;
pub mod params;
pub mod replication;
pub mod server;

/// When a server goes back to the pool (PgBouncer setting pool_mode).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When the client leaves.
    Session,
    /// At the end of each transaction.
    Transaction,
    /// As transaction, and a transaction block is an error.
    Statement,
}

#[cfg(test)]
mod tests;
