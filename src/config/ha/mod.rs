//! The section `[ha]`: this node as one of a pair, and the floating addresses that the pair holds.
//!
//! It decides what `[ha]` and `[virtual_routers]` mean, which values are sound, and that what cannot work is said with its
//! line. It must never know VRRP itself, the pair link, or an interface of this machine: these types are plain, and the
//! parts that act on them have their own.
//!
//! An address needs a virtual router (RFC 9568 section 1.5) of its family, so an entry with addresses of both families
//! becomes two [`VirtualRouter`]s with one number: the virtual router ids of the two families are independent.

mod address;
pub(super) mod diff;
mod pair;
pub(super) mod resolve;
mod table;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub use address::AddressList;
pub use diff::{HaPlan, RouterChange};
pub use table::HaSettings;

use super::settings::{SetError, Spec};
use super::suggest::did_you_mean;
use super::value::Caution;

/// The name of the virtual router that `[ha]` describes by itself, without an entry of `[virtual_routers]`.
pub const DEFAULT_ROUTER: &str = "default";

/// The section `[ha]`, whole and valid.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ha {
    /// Its settings.
    pub settings: HaSettings,
    /// The entries of `[virtual_routers]` as given.
    pub entries: BTreeMap<String, RouterEntry>,
    /// What settings and entries come to: one for each name and address family, in the order of their names.
    pub routers: Vec<VirtualRouter>,
}

impl Ha {
    /// The routers that a name of `SWITCHOVER name` means: an entry with both of its families, or one of them.
    pub fn routers_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a VirtualRouter> {
        self.routers.iter().filter(move |router| router.name == name || router.entry == name)
    }

    /// Every floating address.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.routers.iter().flat_map(|router| router.addresses.iter().copied())
    }

    /// How long the address helper keeps the addresses without a sign of life: `lease_ms`, or if that is 0 three of the
    /// shortest advertisement intervals, but from 100 ms to 1 s.
    #[must_use]
    pub fn lease(&self) -> Duration {
        if self.settings.lease_ms > 0 {
            return Duration::from_millis(self.settings.lease_ms.into());
        }
        let shortest = self.routers.iter().map(|router| router.interval).min().unwrap_or(MAX_AUTO_LEASE);
        shortest.saturating_mul(3).clamp(MIN_AUTO_LEASE, MAX_AUTO_LEASE)
    }

    /// Is there another node that is known by an address?
    #[must_use]
    pub fn has_peer(&self) -> bool {
        !self.settings.peer_address.is_empty()
    }
}

const MIN_AUTO_LEASE: Duration = Duration::from_millis(100);
const MAX_AUTO_LEASE: Duration = Duration::from_secs(1);

impl HaSettings {
    /// The whole table.
    #[must_use]
    pub fn specs() -> &'static [Spec<Self>] {
        table::SPECS
    }

    /// The row for a name.
    #[must_use]
    pub fn spec(name: &str) -> Option<&'static Spec<Self>> {
        Self::specs().iter().find(|spec| spec.name == name)
    }

    /// Give a setting the value that a file states.
    ///
    /// # Errors
    /// Unknown name or a value that does not do; then nothing has changed.
    pub fn assign(&mut self, name: &str, text: &str) -> Result<Caution, SetError> {
        let unknown = || SetError::Unknown(did_you_mean(name, Self::specs().iter().map(|spec| spec.name)));
        let spec = Self::spec(name).ok_or_else(unknown)?;
        (spec.set)(self, text, spec.bounds).map_err(SetError::Value)
    }

    /// The value of a setting as text; `None` for what was not given and for unknown names.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        (Self::spec(name)?.get)(self).map(|value| value.show())
    }

    /// Does the setting differ from its default?
    #[must_use]
    pub fn is_changed(&self, spec: &Spec<Self>) -> bool {
        !(spec.same)(self, &table::DEFAULTS)
    }
}

/// One entry of `[virtual_routers]`. `None` means: the setting of `[ha]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterEntry {
    /// The floating addresses. Those of `[ha]` belong to the router [`DEFAULT_ROUTER`] and to no other.
    pub address: Option<AddressList>,
    /// Instead of the setting.
    pub interface: Option<String>,
    /// The number, the same on both nodes. That of `[ha]` belongs to the router [`DEFAULT_ROUTER`] and to no other.
    pub virtual_router_id: Option<u8>,
    /// Instead of the setting.
    pub priority: Option<u8>,
    /// Instead of the setting.
    pub advertisement_interval_ms: Option<u32>,
    /// Instead of the setting.
    pub preempt: Option<bool>,
    /// Instead of the setting.
    pub preempt_delay: Option<Duration>,
    /// Instead of the setting.
    pub vrrp_version: Option<u8>,
    /// Instead of the setting.
    pub virtual_mac: Option<bool>,
}

/// One virtual router of one address family (RFC 9568 section 1.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualRouter {
    /// Its name: that of the entry, with `/v6` behind it for the IPv6 half of an entry with addresses of both families.
    pub name: String,
    /// The name of the entry.
    pub entry: String,
    /// The interface that bears the addresses.
    pub interface: String,
    /// The virtual router id, 1 to 255.
    pub vrid: u8,
    /// The family of its addresses.
    pub family: AddressFamily,
    /// The version of the protocol.
    pub version: VrrpVersion,
    /// The floating addresses, one or more, all of the family.
    pub addresses: Vec<IpAddr>,
    /// 1 to 255; 255 is the owner's.
    pub priority: u8,
    /// The time between two adverts.
    pub interval: Duration,
    /// Take the address from an active node of lower priority?
    pub preempt: bool,
    /// How long to wait with that after the start.
    pub preempt_delay: Duration,
    /// Hold the address on an interface with the virtual router's MAC address (RFC 9568 section 7.3)?
    pub virtual_mac: bool,
    /// Where adverts go instead of to the multicast group; empty = to the group.
    pub unicast_peers: Vec<IpAddr>,
}

/// The family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl AddressFamily {
    /// The family of this address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As it is shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// The version of VRRP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VrrpVersion {
    /// RFC 3768: IPv4 and whole seconds only.
    V2,
    /// RFC 9568.
    V3,
}

impl VrrpVersion {
    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

#[cfg(test)]
mod tests;
