//! Composition: decides in which order the parts start, stop and reload, as which user, and where log lines go.
//!
//! It wires the other parts together and owns what belongs to the process as a whole: command line, log, pidfile, signals and
//! the service manager. It must never know the PostgreSQL protocol or how a pool, a login or a session decides.

pub mod cli;
pub mod log;
pub mod pidfile;
pub mod process;
