//! What the helper has open for one virtual router while its interface can be used.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use super::interfaces;
use super::links::{Link, Links};
use super::menu::HardwareAddress;
use super::netlink::Netlink;
use super::packets::{Announcer, Watch};
use super::routers::HeldRouter;
use crate::vrrp::io::socket::VrrpSocket;
use crate::vrrp::{Advert, ChecksumVariant};

/// Sockets on an interface.
#[derive(Debug)]
pub(super) struct Port {
    /// The interface of the configuration.
    pub(super) parent: u32,
    /// The one that bears the addresses: the same, or the virtual router's own.
    pub(super) index: u32,
    /// Of the interface of the configuration.
    pub(super) mac: HardwareAddress,
    pub(super) announcer: Announcer,
    /// One for each address, in their order.
    pub(super) watches: Vec<Watch>,
    vrrp: VrrpSocket,
}

impl Port {
    /// Opens all, and makes the interface of the virtual router if it is to have one.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(netlink: &mut Netlink, links: &Links, router: &HeldRouter, link: &Link) -> io::Result<Self> {
        let mac = link.mac.ok_or_else(|| io::Error::other("it has no Ethernet address"))?;
        let (index, announced) = if router.virtual_mac {
            (virtual_interface(netlink, links, router, link)?, router.family.virtual_mac(router.vrid))
        } else {
            (link.index, mac)
        };
        // With a MAC of its own a claim by the same MAC is a rival's: what this node sends itself does not come back here.
        let watch = |address: &IpAddr| Watch::open(index, mac, *address);
        Ok(Self {
            parent: link.index,
            index,
            mac,
            announcer: Announcer::open(index, announced)?,
            watches: router.addresses.iter().map(watch).collect::<io::Result<_>>()?,
            vrrp: open_vrrp(router)?,
        })
    }

    /// Begins anew with an empty queue of adverts.
    ///
    /// # Errors
    /// The kernel's; then the old socket stays.
    pub(super) fn reopen_vrrp(&mut self, router: &HeldRouter) -> io::Result<()> {
        self.vrrp = open_vrrp(router)?;
        Ok(())
    }

    pub(super) fn vrrp(&self) -> BorrowedFd<'_> {
        self.vrrp.as_fd()
    }

    /// Sends an advert of this node, as the pooler would.
    ///
    /// # Errors
    /// The kernel's, of the last destination that did not work.
    pub(super) fn advertise(&self, router: &HeldRouter, source: IpAddr, priority: u8) -> io::Result<()> {
        let advert = Advert {
            version: router.version,
            vrid: router.vrid,
            priority,
            interval: router.interval,
            addresses: router.addresses.clone(),
            checksum: ChecksumVariant::default(),
        };
        let mut packet = Vec::new();
        let mut outcome = Ok(());
        for destination in destinations(router) {
            advert.encode(source, destination, &mut packet);
            outcome = self.vrrp.send(&packet, source, destination).and(outcome);
        }
        outcome
    }

    /// Forgets all claims that have come so far.
    pub(super) fn forget_claims(&self) {
        for watch in &self.watches {
            let _ = watch.claimant();
        }
    }
}

fn open_vrrp(router: &HeldRouter) -> io::Result<VrrpSocket> {
    VrrpSocket::open(&router.interface, router.family, router.unicast_peers.is_empty())
}

/// Where adverts go.
fn destinations(router: &HeldRouter) -> Vec<IpAddr> {
    if router.unicast_peers.is_empty() { vec![router.family.group()] } else { router.unicast_peers.clone() }
}

/// The virtual router's own interface: the one that a former helper has left, if it is right, or a new one.
fn virtual_interface(netlink: &mut Netlink, links: &Links, router: &HeldRouter, link: &Link) -> io::Result<u32> {
    let (name, mac) = (router.virtual_interface(), router.family.virtual_mac(router.vrid));
    if let Some(there) = links.named(&name) {
        if there.parent == Some(link.index) && there.mac == Some(mac) {
            return Ok(there.index);
        }
        interfaces::remove(netlink, there.index)?;
    }
    let index = interfaces::make_virtual(netlink, &name, link.index, mac)?;
    tracing::info!("interface {name} made on {}, for virtual router {}", router.interface, router.vrid);
    Ok(index)
}
