//! The interfaces of this machine and the addresses on them, as the kernel tells of them: followed by name, so that one that
//! is recreated is found again.
//!
//! Of a link's message only a handful of attributes is looked at, each by itself: what the kernel may add to it one day must
//! not blind the helper.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use nix::libc;

use super::addresses::{self, Found};
use super::menu::HardwareAddress;
use super::netlink::{Message, Netlink, attributes, u32_at};
use super::routers::HeldRouter;
use crate::vrrp::Family;

/// Groups of rtnetlink(7): links and addresses of both families.
const GROUPS: i32 = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;

/// Bytes of struct ifinfomsg.
const LINK_HEAD_LEN: usize = 16;

/// Places in the list of IPv4 settings of a link (linux/ip.h), which counts from 1.
pub(super) const DEVCONF_RP_FILTER: u16 = 8;
/// See [`DEVCONF_RP_FILTER`].
pub(super) const DEVCONF_ARP_ANNOUNCE: u16 = 18;
/// See [`DEVCONF_RP_FILTER`].
pub(super) const DEVCONF_ARP_IGNORE: u16 = 19;

/// IFLA_INET_CONF, in IFLA_AF_SPEC, AF_INET (linux/if_link.h).
pub(super) const IFLA_INET_CONF: u16 = 1;

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<HardwareAddress>,
    /// Switched on, and something is connected.
    pub(super) up: bool,
    /// The interface on which it stands, if on one.
    pub(super) parent: Option<u32>,
    pub(super) arp_ignore: u32,
    pub(super) arp_announce: u32,
}

impl Link {
    fn parse(body: &[u8]) -> Option<Self> {
        let (family, index, flags) = (*body.first()?, u32_at(body, 4)?, u32_at(body, 8)?.cast_signed());
        if i32::from(family) != libc::AF_UNSPEC {
            // A bridge tells of its ports in the same words.
            return None;
        }
        let up = flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0;
        let mut link = Self { index, name: String::new(), mac: None, up, parent: None, arp_ignore: 0, arp_announce: 0 };
        for (kind, value) in attributes(body.get(LINK_HEAD_LEN..)?) {
            match kind {
                libc::IFLA_IFNAME => {
                    link.name = String::from_utf8_lossy(&value).trim_end_matches('\0').to_owned();
                }
                libc::IFLA_ADDRESS => link.mac = value.as_slice().try_into().ok(),
                libc::IFLA_LINK => link.parent = u32_at(&value, 0),
                libc::IFLA_AF_SPEC => link.ipv4_settings(&value),
                _ => {}
            }
        }
        Some(link)
    }

    fn ipv4_settings(&mut self, families: &[u8]) {
        let of = |list: &[u8], wanted: u16| attributes(list).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let inet = u16::try_from(libc::AF_INET).unwrap_or(2);
        let Some(settings) = of(families, inet).and_then(|inet| of(&inet, IFLA_INET_CONF)) else { return };
        let setting = |place: u16| u32_at(&settings, usize::from(place - 1) * 4).unwrap_or(0);
        self.arp_ignore = setting(DEVCONF_ARP_IGNORE);
        self.arp_announce = setting(DEVCONF_ARP_ANNOUNCE);
    }
}

/// What is known of all interfaces.
#[derive(Debug)]
pub(super) struct Links {
    monitor: Netlink,
    links: BTreeMap<u32, Link>,
    /// In the kernel's order, in which the first comes first as a source too.
    addresses: Vec<Found>,
}

/// What is new.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Anything at all.
    pub(super) any: bool,
    /// Addresses that are gone, with the index of their interface.
    pub(super) removed: Vec<(u32, IpAddr)>,
    /// Interfaces that are gone.
    pub(super) removed_links: Vec<u32>,
}

impl Links {
    /// Reads all, and follows it from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(netlink: &mut Netlink) -> io::Result<Self> {
        // First listen, then read: nothing may happen in between.
        let monitor = Netlink::with_groups(GROUPS.cast_unsigned())?;
        let mut links = Self { monitor, links: BTreeMap::new(), addresses: Vec::new() };
        links.read(netlink)?;
        Ok(links)
    }

    fn read(&mut self, netlink: &mut Netlink) -> io::Result<()> {
        self.links.clear();
        self.addresses.clear();
        for message in netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
            self.take(&message, &mut Changes::default());
        }
        for message in netlink.dump(&addresses::everything())? {
            self.take(&message, &mut Changes::default());
        }
        Ok(())
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.monitor.fd()
    }

    /// Takes in what has changed.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn changes(&mut self, netlink: &mut Netlink) -> io::Result<Changes> {
        let mut changes = Changes::default();
        loop {
            match self.monitor.changes() {
                Ok(None) => return Ok(changes),
                Ok(Some(messages)) => messages.iter().for_each(|message| self.take(message, &mut changes)),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    let (before, links) = (self.addresses.clone(), self.links.clone());
                    self.read(netlink)?;
                    changes.any = true;
                    changes.removed_links.extend(links.keys().filter(|index| !self.links.contains_key(index)));
                    let gone = before.iter().filter(|old| self.addresses.iter().all(|new| !same_place(old, new)));
                    changes.removed.extend(gone.map(|old| (old.index, old.address)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, message: &Message, changes: &mut Changes) {
        match message.kind {
            libc::RTM_NEWLINK => {
                if let Some(link) = Link::parse(&message.body) {
                    changes.any |= self.links.get(&link.index) != Some(&link);
                    self.links.insert(link.index, link);
                }
            }
            libc::RTM_DELLINK => {
                if let Some(link) = Link::parse(&message.body) {
                    changes.any |= self.links.remove(&link.index).is_some();
                    changes.removed_links.push(link.index);
                    self.addresses.retain(|found| found.index != link.index);
                }
            }
            libc::RTM_NEWADDR => {
                let Some(new) = Found::parse(message) else { return };
                match self.addresses.iter_mut().find(|old| same_place(old, &new)) {
                    Some(old) => {
                        changes.any |= (old.tentative, old.secondary) != (new.tentative, new.secondary);
                        *old = new;
                    }
                    None => {
                        changes.any = true;
                        self.addresses.push(new);
                    }
                }
            }
            libc::RTM_DELADDR => {
                let Some(gone) = Found::parse(message) else { return };
                changes.any = true;
                self.addresses.retain(|old| !same_place(old, &gone));
                changes.removed.push((gone.index, gone.address));
            }
            _ => {}
        }
    }

    /// The interface of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Where an address stands now.
    pub(super) fn find(&self, address: IpAddr) -> impl Iterator<Item = &Found> {
        self.addresses.iter().filter(move |found| found.address == address)
    }

    /// The address from which a router on this interface advertises: of IPv4 the first, of IPv6 the link-local one (RFC 9568
    /// sections 5.1.1.1 and 5.1.2.1); to unicast peers, the one that shares their network. Never a floating one.
    pub(super) fn own_address(
        &self,
        router: &HeldRouter,
        index: u32,
        is_floating: &dyn Fn(IpAddr) -> bool,
    ) -> Option<IpAddr> {
        let usable = |found: &&Found| {
            found.index == index
                && Family::of(found.address) == router.family
                && !found.tentative
                && !is_floating(found.address)
        };
        let peers = &router.unicast_peers;
        let near = |found: &&Found| peers.iter().any(|peer| shares_network(found, *peer));
        let link_local = |found: &&Found| matches!(found.address, IpAddr::V6(it) if it.is_unicast_link_local());
        let own = || self.addresses.iter().filter(usable);
        let best = match (router.family, peers.is_empty()) {
            (Family::V6, true) => return own().find(link_local).map(|found| found.address),
            (Family::V6, false) => own().find(near).or_else(|| own().find(|found| !link_local(found))),
            (Family::V4, _) => own().find(near).or_else(|| own().find(|found| !found.secondary)),
        };
        best.or_else(|| own().next()).map(|found| found.address)
    }
}

fn same_place(one: &Found, other: &Found) -> bool {
    (one.index, one.address, one.prefix_len) == (other.index, other.address, other.prefix_len)
}

/// Does this address lie in the other one's network?
fn shares_network(found: &Found, other: IpAddr) -> bool {
    let same = |one: u128, other: u128, width: u8| {
        let host_bits = u32::from(width.saturating_sub(found.prefix_len));
        one.checked_shr(host_bits).unwrap_or(0) == other.checked_shr(host_bits).unwrap_or(0)
    };
    match (found.address, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => same(one.to_bits().into(), other.to_bits().into(), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => same(one.to_bits(), other.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_compared_by_their_prefix() {
        let found = |address: &str, prefix_len| Found {
            index: 1,
            address: address.parse().unwrap(),
            prefix_len,
            tentative: false,
            secondary: false,
            valid_s: None,
        };
        for (own, prefix_len, other, near) in [
            ("10.0.0.1", 24, "10.0.0.200", true),
            ("10.0.0.1", 24, "10.0.1.1", false),
            ("10.0.0.1", 32, "10.0.0.2", false),
            ("10.0.0.1", 0, "192.0.2.1", true),
            ("2001:db8::1", 64, "2001:db8::ffff", true),
            ("2001:db8::1", 64, "2001:db8:0:1::1", false),
            ("2001:db8::1", 0, "10.0.0.1", false),
        ] {
            assert_eq!(
                shares_network(&found(own, prefix_len), other.parse().unwrap()),
                near,
                "{own}/{prefix_len} {other}"
            );
        }
    }

    #[test]
    fn a_port_of_a_bridge_that_leaves_it_is_not_gone() {
        let mut body = vec![0; LINK_HEAD_LEN];
        body[0] = 7;
        body[4] = 3;
        assert_eq!(Link::parse(&body), None);
        body[0] = 0;
        assert_eq!(Link::parse(&body).map(|link| link.index), Some(3));
        assert_eq!(Link::parse(&[]), None);
    }
}
