//! The address helper: the process that may touch interfaces. It holds the floating addresses while the pooler lives and says
//! so, announces them, and gives them up with a goodbye when the pooler does not. It decides nothing about who should hold
//! them, must never know a client or a frame, and parses no byte from any network: what it reads is its own configuration, the
//! pooler's packets ([`menu`]), and the kernel's word on interfaces.
//!
//! Two ways lead here. Under systemd it is a unit of its own (`pgtandem address-helper FILE` with a socket unit); otherwise the
//! pooler starts it as a child before it gives its own privileges up ([`start_child`]). Both are the same program with the same
//! command, so that nothing of the pooler's memory is in it.
//!
//! What ends how:
//!
//! | what happens | addresses | goodbye |
//! |---|---|---|
//! | the pooler dies, by whatever cause, or hangs up | removed at once | yes |
//! | the pooler is stopped or stuck: the lease ends | removed at once | yes |
//! | the pooler is replaced ([`menu::Request::Bridge`]) | stay, and are advertised | no |
//! | the helper is restarted (SIGTERM) or killed | stay for two seconds; the pooler asks for them again | no |
//! | both are restarted, the pooler with a successor | stay; the successor asks for them if they are still there | no |
//! | both die | gone within two seconds | no |

mod addresses;
mod child;
pub mod client;
mod holder;
mod interfaces;
pub mod lease;
mod links;
pub mod menu;
mod netlink;
mod packets;
mod port;
pub mod privileges;
mod routers;
pub mod run;
pub mod serve;
mod time_wait;

pub use self::child::start_child;
pub use self::client::HelperClient;
pub use self::routers::{HeldRouter, HelperConfig, RoutersError};
pub use self::run::{Options, run};
