//! Requests to the kernel about its network configuration (rtnetlink(7)) and its sockets (sock_diag(7)), and its answers, without
//! a runtime: the kernel has answered when the request's system call returns.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendmsg, setsockopt, socket,
    sockopt,
};

/// More than one packet of the kernel's (NLMSG_GOODSIZE; dumps take 32 KiB at most).
const BUFFER_LEN: usize = 64 * 1024;

/// Bytes of struct nlmsghdr.
const HEAD_LEN: usize = 16;

/// Requests in one system call: their answers must fit the socket's buffer, or the kernel drops them.
const BATCH_MAX: usize = 16;

/// The kernel answers before the system call returns; this is for a kernel that does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a list that changed while it was read is read again.
const DUMPS_MAX: usize = 4;

/// One message of the kernel's.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// RTM_NEWLINK and so on.
    pub(super) kind: u16,
    /// What stands behind the header.
    pub(super) body: Vec<u8>,
}

/// A socket to the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// For requests about the network's configuration.
    pub(super) fn open() -> io::Result<Self> {
        Self::for_requests(SockProtocol::NetlinkRoute)
    }

    /// For requests to one part of the kernel.
    pub(super) fn for_requests(protocol: SockProtocol) -> io::Result<Self> {
        let netlink = Self::bound(protocol, SockFlag::SOCK_CLOEXEC, 0)?;
        let patience = nix::sys::time::TimeVal::new(i64::try_from(PATIENCE.as_secs()).unwrap_or(2), 0);
        setsockopt(&netlink.socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(netlink)
    }

    /// For what changes: groups are bits (RTMGRP_LINK and so on).
    pub(super) fn with_groups(groups: u32) -> io::Result<Self> {
        Self::bound(SockProtocol::NetlinkRoute, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, groups)
    }

    fn bound(protocol: SockProtocol, flags: SockFlag, groups: u32) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; BUFFER_LEN] })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Has the kernel do all of this, in as few system calls as it takes; a result for each.
    ///
    /// # Errors
    /// The socket's own.
    pub(super) fn request<M: NetlinkSerializable>(&mut self, wanted: Vec<(M, u16)>) -> io::Result<Vec<io::Result<()>>> {
        let wanted = wanted.into_iter().map(|(message, flags)| (message, flags | NLM_F_ACK)).collect();
        let answers = self.ask(wanted)?;
        Ok(answers.into_iter().map(|answer| answer.map(drop)).collect())
    }

    /// Asks the kernel all of this; to each one message or an error, or an empty message where NLM_F_ACK asks for one.
    ///
    /// # Errors
    /// The socket's own.
    pub(super) fn ask<M: NetlinkSerializable>(
        &mut self,
        wanted: Vec<(M, u16)>,
    ) -> io::Result<Vec<io::Result<Message>>> {
        let mut results = Vec::with_capacity(wanted.len());
        let mut wanted = wanted.into_iter();
        loop {
            let mut packet = Vec::new();
            let first = self.sequence.wrapping_add(1);
            let mut count = 0;
            for (message, flags) in wanted.by_ref().take(BATCH_MAX) {
                self.sequence = self.sequence.wrapping_add(1);
                put(&mut packet, message, flags | NLM_F_REQUEST, self.sequence);
                count += 1;
            }
            if count == 0 {
                return Ok(results);
            }
            self.send(&packet)?;
            results.extend(self.answers(first, count)?);
        }
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(packet)], &[], MsgFlags::empty(), Some(&kernel))?;
        Ok(())
    }

    /// The answers to so many requests in a row.
    fn answers(&mut self, first: u32, count: usize) -> io::Result<Vec<io::Result<Message>>> {
        let mut results: Vec<Option<io::Result<Message>>> = (0..count).map(|_| None).collect();
        while results.iter().any(Option::is_none) {
            self.packet(|head, body| {
                let index = usize::try_from(head.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                if let Some(result) = results.get_mut(index) {
                    let message = |body: &[u8]| Message { kind: head.kind, body: body.to_vec() };
                    *result = Some(match head.kind {
                        NLMSG_ERROR => errno(body).map(|()| message(&[])),
                        _ => Ok(message(body)),
                    });
                }
            })?;
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// All that there is of something (NLM_F_DUMP).
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn dump(&mut self, what: &RouteNetlinkMessage) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        for _ in 0..DUMPS_MAX {
            messages.clear();
            let whole =
                self.dump_each(what.clone(), |kind, body| messages.push(Message { kind, body: body.to_vec() }))?;
            if whole {
                break;
            }
        }
        Ok(messages)
    }

    /// The same, one after the other: number and body. `false`: it changed meanwhile, so something may be missing or be there twice.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn dump_each<M: NetlinkSerializable>(
        &mut self,
        what: M,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = Vec::new();
        put(&mut packet, what, NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        self.send(&packet)?;
        let (sequence, mut over, mut interrupted) = (self.sequence, None, false);
        while over.is_none() {
            self.packet(|head, body| {
                if head.sequence != sequence {
                    return;
                }
                interrupted |= head.flags & NLM_F_DUMP_INTR != 0;
                match head.kind {
                    NLMSG_DONE => over = Some(Ok(())),
                    NLMSG_ERROR => over = Some(errno(body)),
                    kind => each(kind, body),
                }
            })?;
        }
        over.unwrap_or(Ok(())).map(|()| !interrupted)
    }

    /// What has changed since the last call, as far as one packet goes; `None`: nothing more.
    ///
    /// # Errors
    /// ENOBUFS: more has changed than the kernel could keep, so all must be read again.
    pub(super) fn changes(&mut self) -> io::Result<Option<Vec<Message>>> {
        let mut messages = Vec::new();
        match self.packet(|head, body| messages.push(Message { kind: head.kind, body: body.to_vec() })) {
            Ok(()) => Ok(Some(messages)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn packet(&mut self, mut each: impl FnMut(&Head, &[u8])) -> io::Result<()> {
        let len = loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        let mut rest = self.buffer.get(..len).unwrap_or_default();
        while let Some((head, body, next)) = split(rest) {
            each(&head, body);
            rest = next;
        }
        Ok(())
    }
}

struct Head {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// The next message of a packet: header, body and what follows.
fn split(packet: &[u8]) -> Option<(Head, &[u8], &[u8])> {
    let len = usize::try_from(u32_at(packet, 0)?).ok()?;
    let (kind, flags) = (u16_at(packet, 4)?, u16_at(packet, 6)?);
    let head = Head { kind, flags, sequence: u32_at(packet, 8)? };
    let body = packet.get(HEAD_LEN..len)?;
    let next = packet.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((head, body, next))
}

/// A number of the kernel's, which are in the machine's own order.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

/// The attributes that stand in a message or in an attribute, as number and value.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    // Flags for nesting and byte order are no part of the number.
    NlasIterator::new(bytes).map_while(Result::ok).map(|attribute| (attribute.kind(), attribute.value().to_vec()))
}

/// What NLMSG_ERROR says: an error number below zero, or zero.
fn errno(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn put<M: NetlinkSerializable>(packet: &mut Vec<u8>, message: M, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let start = packet.len();
    packet.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(room) = packet.get_mut(start..) {
        message.serialize(room);
    }
}
