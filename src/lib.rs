//! pgtandem: a PostgreSQL connection pooler in which two nodes act as one.
//!
//! The modules stand in dependency order: each may use only what stands above it (and not all of that: the table is in
//! `docs/ARCHITECTURE.md`, the test in `tests/tidy.rs`). Everything is pure (no socket, clock, file, randomness or spawn)
//! except files named `io.rs`, the folders `net/`, `sys/` and `daemon/`, and `clock.rs`.

pub mod fault;
pub mod ids;

pub mod clock;
pub mod handover;
pub mod sys;
pub mod wire;

pub mod auth;
pub mod net;
pub mod pair;
pub mod pool;
pub mod prepared;
pub mod session;
pub mod tls;
pub mod vrrp;

pub mod config;
pub mod ha;
pub mod snapshot;

pub mod admin;

pub mod daemon;
