//! The link between the two nodes of a pair: what they say to each other ([`message`]), over which paths and for how long one
//! counts as there ([`link`]), how many server connections each may have of a limit that holds for both ([`budget`]), which
//! client connections the other has ([`flows`]), and in which settings they differ ([`drift`]). It decides who is heard and what
//! of it is believed. It must never know VRRP, PostgreSQL, pools or the configuration: statuses, commands and keys are mere data
//! that it carries, and what follows from them is decided elsewhere.

pub mod bounded;
pub mod budget;
pub mod drift;
pub mod event;
pub mod flows;
pub mod io;
pub mod link;
pub mod message;
pub mod picture;
mod requests;
