//! Packet sockets: what is announced to neighbours, and the sign that somebody else announces the same.
//!
//! No byte of a received packet is read here. A filter in the kernel (bpf(4), packet(7)) lets only those through that claim one
//! certain address for another network card; that one has come is all that the helper learns, and from whom, which the kernel
//! says beside it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, recvfrom, send, setsockopt, socket, sockopt,
};
use socket2::{Domain, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};

use super::menu::HardwareAddress;
use crate::clock::Time;
use crate::sys::packet::bind_packet_socket;
use crate::vrrp::frames::{self, ArpForm};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Claims that a watch keeps until they are looked at, in bytes; the kernel takes its least.
const WATCH_BUFFER_LEN: usize = 4096;

/// Claims that are looked at in one go; more is a flood, and one is enough to know of it.
const CLAIMS_MAX: usize = 64;

/// IPPROTO_RAW (raw(7)): the packets that are sent bring their IP header with them, and none is received.
const PROTOCOL_RAW: i32 = libc::IPPROTO_RAW;

/// Sends frames on one interface.
#[derive(Debug)]
pub(super) struct Announcer {
    socket: OwnedFd,
    mac: HardwareAddress,
}

impl Announcer {
    pub(super) fn open(interface_index: u32, mac: HardwareAddress) -> io::Result<Self> {
        let socket = packet_socket()?;
        bind_packet_socket(socket.as_fd(), interface_index, 0)?;
        Ok(Self { socket, mac })
    }

    /// Tells all neighbours where these addresses are: each three times at once, as one frame may be lost and hosts differ in
    /// which form of ARP they heed.
    ///
    /// # Errors
    /// The first that could not be sent, after all were tried.
    pub(super) fn announce(&self, addresses: &[IpAddr]) -> io::Result<()> {
        let frames = |round: usize, address: IpAddr| match address {
            IpAddr::V4(address) => {
                let form = if round == 1 { ArpForm::Reply } else { ArpForm::Request };
                frames::gratuitous_arp(form, self.mac, address)
            }
            // Not as a router, which this node is not: hosts that use it as one would lose their default route with it.
            IpAddr::V6(address) => frames::neighbour_advertisement(self.mac, address, false),
        };
        let each = (0..3).flat_map(|round| addresses.iter().map(move |address| (round, *address)));
        self.send_all(each.map(|(round, address)| frames(round, address)))
    }

    /// Asks whether somebody has one of these addresses, without claiming it.
    ///
    /// # Errors
    /// See [`Self::announce`].
    pub(super) fn ask(&self, addresses: &[IpAddr]) -> io::Result<()> {
        self.send_all(addresses.iter().map(|address| match address {
            IpAddr::V4(address) => frames::arp_probe(self.mac, *address),
            IpAddr::V6(address) => frames::duplicate_solicitation(self.mac, *address),
        }))
    }

    fn send_all(&self, frames: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
        let mut outcome = Ok(());
        for frame in frames {
            let sent = send(self.socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT);
            outcome = outcome.and(sent.map(drop).map_err(io::Error::from));
        }
        outcome
    }
}

fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Packet, SockType::Raw, flags, None)?)
}

/// Notices who else claims one address.
#[derive(Debug)]
pub(super) struct Watch {
    socket: OwnedFd,
    /// It is not looked at before.
    pub(super) muted_until: Time,
}

impl Watch {
    /// `own_mac`: whose claims are our own.
    pub(super) fn open(interface_index: u32, own_mac: HardwareAddress, address: IpAddr) -> io::Result<Self> {
        let socket = packet_socket()?;
        setsockopt(&socket, sockopt::RcvBuf, &WATCH_BUFFER_LEN)?;
        // Before it is bound, so that nothing else is ever received.
        SockRef::from(&socket).attach_filter(&claims(address, own_mac))?;
        let protocol = if address.is_ipv4() { ETHERTYPE_ARP } else { ETHERTYPE_IPV6 };
        bind_packet_socket(socket.as_fd(), interface_index, protocol)?;
        Ok(Self { socket, muted_until: Time::default() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes all claims that have come, and says whose the last one was.
    pub(super) fn claimant(&self) -> Option<HardwareAddress> {
        let mut last = None;
        for _ in 0..CLAIMS_MAX {
            // Into no room at all: the packet itself is thrown away.
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut []) {
                Ok((_, from)) => last = Some(from.and_then(|from| from.addr()).unwrap_or_default()),
                Err(_) => break,
            }
        }
        last
    }
}

/// One comparison of the filter: how much is loaded from where, and what it must be.
struct Field {
    load: u32,
    at: u32,
    value: u32,
}

/// Codes of classic BPF (linux/filter.h).
const LOAD_32: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_16: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_8: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Where the kernel keeps what is not in the packet: whether it bears a tag of a virtual network (SKF_AD_VLAN_TAG_PRESENT).
const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;

/// The filter: everything from an Ethernet header on that says "`address` is here" and comes from another card.
fn claims(address: IpAddr, own_mac: HardwareAddress) -> Vec<SockFilter> {
    let field = |load, at, value| Field { load, at, value };
    let mut fields = vec![field(LOAD_32, VLAN_TAG_PRESENT, 0)];
    let source_mac = match address {
        IpAddr::V4(address) => {
            // ARP (RFC 826) for Ethernet and IPv4; request or reply, its sender is `address`.
            fields.push(field(LOAD_16, 12, u32::from(ETHERTYPE_ARP)));
            fields.push(field(LOAD_32, 14, 0x0001_0800));
            fields.push(field(LOAD_16, 18, 0x0604));
            fields.push(field(LOAD_32, 28, address.to_bits()));
            22
        }
        IpAddr::V6(address) => {
            // A neighbour advertisement (RFC 4861 section 4.4) straight behind the IPv6 header, unrouted; its target is
            // `address`.
            fields.push(field(LOAD_16, 12, u32::from(ETHERTYPE_IPV6)));
            fields.push(field(LOAD_8, 20, 58));
            fields.push(field(LOAD_8, 21, 255));
            fields.push(field(LOAD_8, 54, 136));
            let words = address.octets();
            let (words, _) = words.as_chunks::<4>();
            fields.extend((62..).step_by(4).zip(words).map(|(at, word)| field(LOAD_32, at, u32::from_be_bytes(*word))));
            6
        }
    };
    let [a, b, c, d, e, f] = own_mac;
    let own = [
        field(LOAD_32, source_mac, u32::from_be_bytes([a, b, c, d])),
        field(LOAD_16, source_mac + 4, u32::from(u16::from_be_bytes([e, f]))),
    ];
    program(&fields, &own)
}

/// All of these equal, but not all of those.
fn program(equal: &[Field], unequal: &[Field; 2]) -> Vec<SockFilter> {
    let op = |code: u32, yes: u8, no: u8, value: u32| {
        SockFilter::new(u16::try_from(code).unwrap_or_default(), yes, no, value)
    };
    let mut program = Vec::new();
    for (index, Field { load, at, value }) in equal.iter().enumerate() {
        // To the last instruction: over two for each field that follows, four for the unequal ones, and one.
        let over = u8::try_from((equal.len() - 1 - index) * 2 + 5).unwrap_or(u8::MAX);
        program.extend([op(*load, 0, 0, *at), op(IF_EQUAL, 0, over, *value)]);
    }
    let [first, second] = unequal;
    program.extend([op(first.load, 0, 0, first.at), op(IF_EQUAL, 0, 2, first.value)]);
    program.extend([op(second.load, 0, 0, second.at), op(IF_EQUAL, 1, 0, second.value)]);
    // One byte is kept, as none would mean no; nobody reads it.
    program.extend([op(RETURN, 0, 0, 1), op(RETURN, 0, 0, 0)]);
    program
}

/// Sends segments with an IP header of their own. The kernel finds the way and the neighbour, as for all that this node sends.
#[derive(Debug)]
pub(super) struct Sweeper {
    v4: Socket,
    /// There are machines without IPv6.
    v6: Option<Socket>,
}

impl Sweeper {
    pub(super) fn open() -> io::Result<Self> {
        let raw = |domain| Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(Protocol::from(PROTOCOL_RAW)));
        Ok(Self { v4: raw(Domain::IPV4)?, v6: raw(Domain::IPV6).ok() })
    }

    /// A bare ACK from a floating address to each client; how many went out.
    pub(super) fn sweep(&self, source: SocketAddr, clients: &[(IpAddr, u16)], sequence: u32) -> u32 {
        let mut sent = 0;
        for (number, (address, port)) in (1..).zip(clients) {
            let client = SocketAddr::new(*address, *port);
            let numbers = (sequence.wrapping_mul(number), sequence.wrapping_add(number));
            let Some(packet) = frames::bare_ack(source, client, numbers.0, numbers.1) else { continue };
            let Some(socket) = (if address.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() }) else { continue };
            // The port of a raw socket's address means nothing, and IPv6 wants none.
            let to = SocketAddr::new(*address, 0);
            if is_unicast(*address) && socket.send_to(&packet, &SockAddr::from(to)).is_ok() {
                sent += 1;
            }
        }
        sent
    }
}

/// Can this be a client's address?
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address != Ipv4Addr::UNSPECIFIED
                && address != Ipv4Addr::BROADCAST
                && !address.is_multicast()
                && !address.is_loopback()
        }
        IpAddr::V6(address) => address != Ipv6Addr::UNSPECIFIED && !address.is_multicast() && !address.is_loopback(),
    }
}
