//! Floating addresses on interfaces: added so that they die with their owner, and are never the source of what this node
//! says of its own accord.
//!
//! An IPv4 address is added with scope host: the kernel answers ARP for it and takes connections as for any other, but never
//! chooses it as a source, whatever other addresses come and go, nor announces it by its own ARP requests. An IPv6 address is
//! added as deprecated (preferred lifetime 0, RFC 6724 section 5 rule 3), for the same end. Both last [`LIFETIME_S`] unless
//! they are added again.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use super::netlink::{Message, Netlink};
use netlink_packet_core::Parseable;

/// Seconds that an address lasts if nobody adds it again. The kernel counts whole ones.
pub(super) const LIFETIME_S: u32 = 2;

/// The kernel's word for a lifetime without an end (INFINITY_LIFE_TIME).
const FOREVER_S: u32 = u32::MAX;

/// An address that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Of its interface.
    pub(super) index: u32,
    pub(super) address: IpAddr,
    pub(super) prefix_len: u8,
    /// It cannot be used: not proven unique, or proven not to be.
    pub(super) tentative: bool,
    /// Another one of its network comes first.
    pub(super) secondary: bool,
    /// It can die by itself within so many seconds.
    pub(super) valid_s: Option<u32>,
}

impl Found {
    /// Reads RTM_NEWADDR or RTM_DELADDR; `None`: of no interest.
    pub(super) fn parse(message: &Message) -> Option<Self> {
        let message = AddressMessage::parse(message.body.as_slice()).ok()?;
        let mut found = Self {
            index: message.header.index,
            address: IpAddr::from([0; 4]),
            prefix_len: message.header.prefix_len,
            tentative: false,
            secondary: false,
            valid_s: None,
        };
        let (mut local, mut address) = (None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(it) => local = Some(it),
                AddressAttribute::Address(it) => address = Some(it),
                AddressAttribute::Flags(flags) => {
                    found.tentative = flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed);
                    // To IPv6 the same bit says that an address is temporary, which does no harm here.
                    found.secondary = flags.contains(AddressFlags::Secondary);
                }
                AddressAttribute::CacheInfo(info) => {
                    found.valid_s = Some(info.ifa_valid).filter(|valid| *valid != FOREVER_S);
                }
                _ => {}
            }
        }
        // Of a point-to-point interface the other attribute is the peer's.
        found.address = local.or(address)?;
        Some(found)
    }
}

/// What all addresses are read with.
pub(super) fn everything() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// Adds addresses, or lets those that are there live on; a result for each.
///
/// # Errors
/// The socket's.
pub(super) fn add(netlink: &mut Netlink, wanted: &[(u32, IpAddr)]) -> io::Result<Vec<io::Result<()>>> {
    let request = |(index, address): &(u32, IpAddr)| {
        let mut message = message(*index, *address);
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        let lifetime = lifetime();
        if address.is_ipv4() {
            message.header.scope = AddressScope::Host;
        }
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.extend([AddressAttribute::Flags(flags), AddressAttribute::CacheInfo(lifetime)]);
        (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    };
    netlink.request(wanted.iter().map(request).collect())
}

/// Preferred 0 is not allowed for IPv4 beside a valid lifetime of another kind, and means deprecated to both.
fn lifetime() -> CacheInfo {
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = 0;
    lifetime.ifa_valid = LIFETIME_S;
    lifetime
}

/// Removes addresses; those that are not there are no error.
///
/// # Errors
/// The first one's that could not be removed, after all were tried.
pub(super) fn remove(netlink: &mut Netlink, unwanted: &[(u32, IpAddr, u8)]) -> io::Result<()> {
    let request = |(index, address, prefix_len): &(u32, IpAddr, u8)| {
        let mut message = message(*index, *address);
        message.header.prefix_len = *prefix_len;
        (RouteNetlinkMessage::DelAddress(message), 0)
    };
    let results = netlink.request(unwanted.iter().map(request).collect())?;
    results.into_iter().find_map(|result| result.err().filter(|error| !is_gone(error))).map_or(Ok(()), Err)
}

/// Address or interface are not there any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENXIO))
}

/// The length of the prefix that a floating address is added with: that of a single host.
pub(super) fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn message(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = host_prefix(address);
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}
