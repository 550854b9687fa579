//! Composition: reads the configuration, builds every part from it, starts the drivers and stops them again. It decides the
//! order of things and what signals and the console may do to the whole; it must never know what a frame means or which client
//! gets which server.

pub mod cli;
pub mod configure;
pub mod console;
pub mod directory;
pub mod picture;
pub mod run;
pub mod shutdown;
pub mod start;
