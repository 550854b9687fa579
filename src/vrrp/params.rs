//! What is configured of one virtual router.

use std::net::IpAddr;
use std::time::Duration;

use super::packet::ChecksumVariant;
use super::{Family, Version};

/// The settings of one virtual router on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// The virtual router identifier, 1 to 255.
    pub vrid: u8,
    /// The family of its addresses.
    pub family: Family,
    /// The version that is spoken. Adverts of the other one are discarded.
    pub version: Version,
    /// 1 to 255; 255 belongs to the owner of the addresses (RFC 9568 section 5.2.4).
    pub priority: u8,
    /// Between two adverts: 10 ms to 40.95 s, in version 2 whole seconds up to 255.
    pub interval: Duration,
    /// Take over from an Active Router of lower priority (Preempt_Mode, RFC 9568 section 6.1). An owner does so anyway.
    pub preempt: bool,
    /// How long an Active Router of lower priority is heard before it is preempted.
    pub preempt_delay: Duration,
    /// Exactly one other node can exist: nobody has to be waited for when it says goodbye.
    pub sole_peer: bool,
    /// The floating addresses, in the order in which they are advertised.
    pub addresses: Vec<IpAddr>,
    /// The other nodes' own addresses, if adverts go to them and not to the multicast group. Then nobody else is heard.
    pub unicast_peers: Vec<IpAddr>,
    /// Discard IPv6 adverts whose first address is not link-local, as RFC 9568 section 7.1 wants. keepalived and this program
    /// advertise what is configured, so that the check is off unless asked for, and such adverts are counted.
    pub link_local_first: bool,
    /// How the checksum is sent until a peer was heard; then as the peer does.
    pub checksum: ChecksumVariant,
}

impl Params {
    /// Values outside their bounds are brought to the nearest one, so that no timer ever runs at zero distance.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.priority = self.priority.max(1);
        self.vrid = self.vrid.max(1);
        self.interval = match self.version {
            Version::V2 => Duration::from_secs(self.interval.as_secs().clamp(1, 255)),
            Version::V3 => Duration::from_millis(10 * centiseconds(self.interval)),
        };
        self
    }

    /// Where adverts go.
    #[must_use]
    pub fn destinations(&self) -> Vec<IpAddr> {
        if self.unicast_peers.is_empty() { vec![self.family.group()] } else { self.unicast_peers.clone() }
    }

    /// Are both the same virtual router? Otherwise a reload is the end of one and the beginning of another.
    #[must_use]
    pub fn same_router(&self, other: &Self) -> bool {
        (self.vrid, self.family, self.version) == (other.vrid, other.family, other.version)
    }
}

/// An interval as version 3 carries it: 1 to 4095 hundredths of a second.
pub(super) fn centiseconds(interval: Duration) -> u64 {
    u64::try_from(interval.as_millis() / 10).unwrap_or(u64::MAX).clamp(1, 4095)
}
