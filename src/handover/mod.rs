//! What a process leaves to its successor: the clients that are between frames, their servers and the idle ones, as plain
//! data in a versioned, length-checked form ([`mod@format`]), and the dialogue in which two processes agree on it
//! ([`dialogue`]). It decides what can be understood and what must be declined; it must never know sockets, sessions or
//! settings: descriptors are mere places in a list here.

pub mod dialogue;
pub mod format;
pub mod state;

#[cfg(test)]
mod tests;
