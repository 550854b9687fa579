//! What is changed about interfaces themselves: an interface of its own for the MAC of a virtual router, and who answers ARP.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use nix::libc;
use nix::net::if_::if_nametoindex;

use super::links::{DEVCONF_ARP_ANNOUNCE, DEVCONF_ARP_IGNORE, DEVCONF_RP_FILTER, IFLA_INET_CONF, Link};
use super::menu::HardwareAddress;
use super::netlink::Netlink;

/// How an interface that bears floating addresses should answer ARP: only for its own addresses, and never asking in the name
/// of one that does not fit the question (Documentation/networking/ip-sysctl.rst, arp_ignore and arp_announce).
const ARP: [(u16, u32); 2] = [(DEVCONF_ARP_IGNORE, 1), (DEVCONF_ARP_ANNOUNCE, 2)];

/// What comes for a floating address with a MAC of its own is answered over the interface below, so the way back is another
/// one: loose reverse path filtering (RFC 3704 section 2.4).
const LOOSE: (u16, u32) = (DEVCONF_RP_FILTER, 2);

/// IFLA_INET6_ADDR_GEN_MODE, and its value for: make no link-local address (linux/if_link.h).
const ADDRESS_GENERATION: (u16, u8) = (8, 1);

/// Has the interface answer ARP as [`ARP`] says, if it does not do so already. Stricter settings stay. By netlink, as /proc may
/// be read-only.
///
/// # Errors
/// The kernel's.
pub(super) fn set_arp(netlink: &mut Netlink, link: &Link) -> io::Result<bool> {
    let there = [link.arp_ignore, link.arp_announce];
    let wanted: Vec<_> = ARP.into_iter().zip(there).filter(|((_, want), is)| is < want).map(|(want, _)| want).collect();
    if wanted.is_empty() {
        return Ok(false);
    }
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.attributes.push(LinkAttribute::Other(DefaultNla::new(libc::IFLA_AF_SPEC, ipv4_settings(&wanted))));
    one(netlink, RouteNetlinkMessage::SetLink(message), 0)?;
    Ok(true)
}

/// Makes the interface of a virtual router (macvlan, private: nothing passes between it and others of its kind), and switches
/// it on.
///
/// # Errors
/// The kernel's; EOPNOTSUPP: it has no macvlan.
pub(super) fn make_virtual(netlink: &mut Netlink, name: &str, parent: u32, mac: HardwareAddress) -> io::Result<u32> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Link(parent),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Private)])),
        ]),
    ];
    one(netlink, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
    let index = if_nametoindex(name)?;
    // Its settings come before it is switched on: an interface that is up makes itself an address and asks for routers.
    let mut settings = ipv4_settings(&[ARP[0], ARP[1], LOOSE]);
    let inet6 = u16::try_from(libc::AF_INET6).unwrap_or(10);
    put(&mut settings, inet6, &attribute(ADDRESS_GENERATION.0, &[ADDRESS_GENERATION.1]));
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Other(DefaultNla::new(libc::IFLA_AF_SPEC, settings)));
    if let Err(error) = one(netlink, RouteNetlinkMessage::SetLink(message), 0) {
        // It works without, where nobody filters by the way back; that IPv6 is off here is one cause.
        tracing::warn!("the settings of {name} could not be changed: {error}");
    }
    refuse_router_advertisements(name);
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    one(netlink, RouteNetlinkMessage::SetLink(message), 0)?;
    Ok(index)
}

/// Without this, the interface may come by addresses and routes of its own where routers advertise. Netlink has no word for it.
fn refuse_router_advertisements(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    match std::fs::write(&path, "0") {
        Ok(()) => {}
        // There is no IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(
            "{path} could not be set to 0: {error}; set it by sysctl.d, as net.ipv6.conf.{name}.accept_ra"
        ),
    }
}

/// Removes an interface.
///
/// # Errors
/// The kernel's.
pub(super) fn remove(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    one(netlink, RouteNetlinkMessage::DelLink(message), 0)
}

fn one(netlink: &mut Netlink, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    netlink.request(vec![(message, flags)])?.into_iter().collect()
}

/// IFLA_AF_SPEC of IPv4: AF_INET, IFLA_INET_CONF, and there each setting under its place.
fn ipv4_settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut list = Vec::new();
    for (place, value) in settings {
        put(&mut list, *place, &value.to_ne_bytes());
    }
    let inet = u16::try_from(libc::AF_INET).unwrap_or(2);
    attribute(inet, &attribute(IFLA_INET_CONF, &list))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, kind, value);
    out
}

/// One attribute (netlink(7)): length, number, value, up to a multiple of four.
fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}
