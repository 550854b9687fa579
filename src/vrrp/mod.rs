//! The Virtual Router Redundancy Protocol: who of several nodes holds an address, versions 3 (RFC 9568, IPv4 and IPv6) and 2
//! (RFC 3768, IPv4). [`Router`] is the state machine of one virtual router: it hears adverts, its timer and a few words of its
//! owner, and says as [`Action`]s what is to be sent, held and given up. It must never know poolers, sockets, a clock, the
//! configuration or how an address is put on an interface; only `io/` has seen a socket.
//!
//! Times come in as arguments, to the nanosecond. All that the driver has to do is in [`Event`] and [`Action`].

mod checksum;
mod discard;
pub mod frames;
mod fsm;
pub mod io;
pub mod packet;
mod params;
mod picture;
mod reason;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use discard::Discard;
pub use fsm::{Action, Event, Router, YIELD_INTERVALS};
pub use packet::{Advert, ChecksumVariant, Received};
pub use params::Params;
pub use picture::{Counters, Picture, Rival};
pub use reason::{Reason, Warning};

/// The IP protocol number of VRRP (RFC 9568 section 5.1.1.4).
pub const PROTOCOL: u8 = 112;

/// The TTL or hop limit of every advert: a packet that has passed a router has less (RFC 9568 section 5.1.1.3).
pub const TTL: u8 = 255;

/// The priority of a node that leaves (RFC 9568 section 5.2.4).
pub const PRIORITY_GOODBYE: u8 = 0;

/// The priority of a node that wants to be preempted: the lowest that still claims the address.
pub const PRIORITY_YIELD: u8 = 1;

/// The priority of the node to which the address belongs anyway; nobody wins against it (RFC 9568 section 5.2.4).
pub const PRIORITY_OWNER: u8 = 255;

/// An address family. The virtual router identifiers of the two are independent (RFC 9568 section 5.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Where adverts go: 224.0.0.18 or ff02::12 (RFC 9568 sections 5.1.1.2 and 5.1.2.2).
    #[must_use]
    pub fn group(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)),
        }
    }

    /// The link-layer address of a virtual router: 00-00-5E-00-01-VRID or 00-00-5E-00-02-VRID (RFC 9568 section 7.3).
    #[must_use]
    pub fn virtual_mac(self, vrid: u8) -> [u8; 6] {
        [0, 0, 0x5e, 0, if self == Self::V4 { 1 } else { 2 }, vrid]
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "IPv4" } else { "IPv6" })
    }
}

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// RFC 3768: IPv4 only, intervals in whole seconds.
    V2,
    /// RFC 9568: both families, intervals in hundredths of a second.
    V3,
}

impl Version {
    /// As it stands on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// The states of RFC 9568 section 6.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Takes no part.
    Initialize,
    /// Waits for the Active Router to fall silent.
    Backup,
    /// Holds the addresses.
    Active,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initialize => "initialize",
            Self::Backup => "backup",
            Self::Active => "active",
        })
    }
}
