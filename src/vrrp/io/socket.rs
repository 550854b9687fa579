//! One raw socket for IP protocol 112 on one interface: adverts out and in, with what the IP header says of them.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvHopLimit, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg, setsockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::super::packet::ADVERT_LEN_MAX;
use super::super::{Family, PROTOCOL, Received, TTL};
use crate::sys::raw;

/// DSCP CS6, network control, as other implementations send it.
const TRAFFIC_CLASS: u32 = 0xc0;

/// The checksum's place in the message, which the kernel fills in and checks for IPv6.
const CHECKSUM_OFFSET: i32 = 6;

/// Room for the longest advert behind the longest IPv4 header.
pub const RECEIVE_LEN: usize = ADVERT_LEN_MAX + 60;

/// A socket for adverts.
#[derive(Debug)]
pub struct VrrpSocket {
    fd: OwnedFd,
    family: Family,
}

impl VrrpSocket {
    /// Opens one that hears and speaks on this interface only, which takes CAP_NET_RAW. `multicast`: it joins the group; without
    /// it only what is sent to this node itself is received. The interface must exist. If it is made anew the socket is dead.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(interface: &str, family: Family, multicast: bool) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        let protocol = Protocol::from(i32::from(PROTOCOL));
        let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        let ttl = u32::from(TTL);
        match family {
            Family::V4 => {
                socket.set_ttl_v4(ttl)?;
                socket.set_multicast_ttl_v4(ttl)?;
                socket.set_multicast_loop_v4(false)?;
                socket.set_multicast_all_v4(false)?;
                socket.set_tos_v4(TRAFFIC_CLASS)?;
                setsockopt(&socket, Ipv4PacketInfo, &true)?;
            }
            Family::V6 => {
                socket.set_unicast_hops_v6(ttl)?;
                socket.set_multicast_hops_v6(ttl)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_all_v6(false)?;
                socket.set_multicast_if_v6(index)?;
                socket.set_tclass_v6(TRAFFIC_CLASS)?;
                setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
                setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
                raw::set_ipv6_checksum(&socket, CHECKSUM_OFFSET)?;
            }
        }
        if multicast {
            match family.group() {
                IpAddr::V4(group) => socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?,
                IpAddr::V6(group) => socket.join_multicast_v6(&group, index)?,
            }
        }
        Ok(Self { fd: socket.into(), family })
    }

    /// One that another process has opened with [`VrrpSocket::open`].
    #[must_use]
    pub fn from_fd(fd: OwnedFd, family: Family) -> Self {
        Self { fd, family }
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Sends what stands behind the IP header, from this address of the interface. Never waits.
    ///
    /// # Errors
    /// The kernel's; among them that the interface has no such address, or is down.
    pub fn send(&self, message: &[u8], source: IpAddr, destination: IpAddr) -> io::Result<()> {
        let to = SockaddrStorage::from(SocketAddr::new(destination, 0));
        let (v4, v6);
        let control = match source {
            IpAddr::V4(source) => {
                let address = libc::in_addr { s_addr: u32::from(source).to_be() };
                v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: libc::in_addr { s_addr: 0 } };
                ControlMessage::Ipv4PacketInfo(&v4)
            }
            IpAddr::V6(source) => {
                let address = libc::in6_addr { s6_addr: source.octets() };
                v6 = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                ControlMessage::Ipv6PacketInfo(&v6)
            }
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = sendmsg(self.fd.as_raw_fd(), &[IoSlice::new(message)], &[control], flags, Some(&to))?;
        if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Receives one message, which `buffer` ([`RECEIVE_LEN`] bytes) then holds, and gives it without its IP header.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::WouldBlock`] if there is none, [`io::ErrorKind::InvalidData`] if what came has no IP header.
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<(&'b [u8], Received)> {
        let mut space = cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo, i32);
        let (len, received, source) = {
            let mut slices = [IoSliceMut::new(buffer)];
            let got = recvmsg::<SockaddrStorage>(
                self.fd.as_raw_fd(),
                &mut slices,
                Some(&mut space),
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
            )?;
            let source = got.address.as_ref().and_then(SockaddrStorage::as_sockaddr_in6).map(SockaddrIn6::ip);
            let mut received = Received {
                source: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                destination: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                ttl: 0,
                interface_index: 0,
            };
            for control in got.cmsgs()? {
                match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        received.interface_index = u32::try_from(info.ipi_ifindex).unwrap_or_default();
                    }
                    ControlMessageOwned::Ipv6PacketInfo(info) => {
                        received.interface_index = info.ipi6_ifindex;
                        received.destination = IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr));
                    }
                    ControlMessageOwned::Ipv6HopLimit(ttl) => received.ttl = u8::try_from(ttl).unwrap_or_default(),
                    _ => {}
                }
            }
            (got.bytes, received, source)
        };
        let bytes = buffer.get(..len).unwrap_or_default();
        match (self.family, source) {
            (Family::V4, _) => strip_v4(bytes, received).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            (Family::V6, Some(source)) => Ok((bytes, Received { source: IpAddr::V6(source), ..received })),
            (Family::V6, None) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Raw IPv4 sockets show the IP header (raw(7)): source, destination and TTL stand there.
fn strip_v4(packet: &[u8], received: Received) -> Option<(&[u8], Received)> {
    let address = |at: usize| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    };
    let header_len = usize::from(packet.first()? & 0xf) * 4;
    let message = packet.get(header_len.max(20)..)?;
    let received = Received { source: address(12)?, destination: address(16)?, ttl: *packet.get(8)?, ..received };
    Some((message, received))
}

impl AsFd for VrrpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<VrrpSocket> for OwnedFd {
    fn from(socket: VrrpSocket) -> Self {
        socket.fd
    }
}
