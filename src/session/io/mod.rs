//! The driver of sessions: logs clients in, lends them servers, relays between the two, carries cancel requests, opens servers.
//! All files of this folder are impure, as a file named `io.rs` is. It decides by asking the cores, and must never know the
//! configuration: what it needs of it stands in [`route::Params`] and [`route::Route`], which the daemon builds.

pub mod admission;
pub mod adopt;
pub mod authenticate;
pub mod cancel;
pub mod client;
pub mod connect;
pub mod farewell;
pub mod floating;
pub mod freeze;
pub mod host;
pub mod ldap;
pub mod login;
pub mod lookup;
pub mod open;
pub mod parcel;
pub mod peers;
pub mod presence;
pub mod relay;
pub mod replication;
pub mod roster;
pub mod route;
pub mod server;
pub mod shared;
pub mod subject;
pub mod timer;
