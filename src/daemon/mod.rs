//! Composition: decides in which order the parts start, stop and reload, as which user, and where log lines go.
//!
//! It wires the other parts together and owns what belongs to the process as a whole: command line, configuration, log,
//! pidfile, signals and the service manager. It must never know what a frame means or which client gets which server.

mod autodb;
pub mod cli;
pub mod configure;
pub mod console;
pub mod directory;
mod dns;
pub mod doctor;
pub mod files;
pub mod ha;
mod ha_console;
pub mod handover;
pub mod helper;
pub mod intake;
mod ldap;
pub mod listeners;
pub mod log;
pub mod picture;
pub mod pidfile;
pub mod places;
pub mod process;
mod rules;
pub mod run;
pub mod service;
pub mod shutdown;
pub mod signals;
mod sql;
pub mod start;
pub mod status;
pub mod watchdog;
mod why;
