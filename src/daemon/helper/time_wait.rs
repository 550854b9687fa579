//! Connections that this node has closed and its kernel still keeps (TIME-WAIT, RFC 9293 section 3.6.1).
//!
//! A client may use a port again as soon as its connection is closed, while the node that closed it keeps it for a minute. If
//! that client's next connection is to the other node, and that one dies, this node's kernel takes the client's segments for
//! those of the old connection and answers in its place: no reset, and the client waits for ever. So the old connections are
//! ended when the address has left this node, and what there still is before a client is told (SOCK_DESTROY, sock_diag(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::Parseable;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSING, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_TIME_WAIT,
};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::message::{SockDiagDestroy, SockDiagMessage};
use nix::libc;
use nix::sys::socket::SockProtocol;

use super::netlink::Netlink;

/// Whatever has these addresses (INET_DIAG_NOCOOKIE).
const ANY: [u8; 8] = [0xff; 8];

/// What a kernel means that declines.
const UNABLE: &str = "this kernel does not end connections in TIME-WAIT; a client that had one with this node within the last \
                      minute, and had the same port then, may hear late of the other node's death";

/// Connections of an address that are ended after it was given up; a kernel keeps no more than this by default.
const LEFT_MAX: usize = 262_144;

/// Ended in one go: the helper has other things to see to.
const END_MAX: usize = 512;

/// Finds and ends them.
#[derive(Debug)]
pub(super) struct TimeWait {
    netlink: Netlink,
    /// Those that are still to be ended.
    left: Vec<SocketId>,
    /// It has been said that the kernel ends some of them only.
    complained: bool,
}

impl TimeWait {
    /// # Errors
    /// The kernel's: it cannot be asked for its sockets.
    pub(super) fn open() -> io::Result<Self> {
        let netlink = Netlink::for_requests(SockProtocol::NetlinkSockDiag)?;
        let mut time_wait = Self { netlink, left: Vec::new(), complained: false };
        // The first question may have the kernel load a module, for which a takeover has no time.
        time_wait.find(SocketAddr::from(([127, 0, 0, 1], 1)), &[(IpAddr::from([127, 0, 0, 1]), 1)])?;
        Ok(time_wait)
    }

    /// Ends what is left of connections between `local` and these clients that this node has closed. One that is open is not
    /// touched, though it has the same two ends: that client has come back.
    ///
    /// # Errors
    /// The kernel's; then some may be left.
    pub(super) fn forget(&mut self, local: SocketAddr, clients: &[(IpAddr, u16)]) -> io::Result<()> {
        let closed = self.find(local, clients)?;
        self.end(closed)
    }

    /// Looks for all that is left at these addresses, which are not here any more, and [`Self::end_some`] ends it: when they come
    /// back, clients of the other node may have its ports.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn leave(&mut self, addresses: &[IpAddr], ports: &[u16]) -> io::Result<()> {
        let closed = CLOSED_STATES.iter().fold(0, |states, state| states | 1_u32 << state);
        for unspecified in [IpAddr::from([0_u8; 4]), IpAddr::from([0_u16; 8])] {
            for port in ports {
                let request = InetRequest {
                    states: StateFlags::from_bits_truncate(closed),
                    ..inet_request(SocketId {
                        source_port: *port,
                        destination_port: 0,
                        source_address: unspecified,
                        destination_address: unspecified,
                        interface_id: 0,
                        cookie: [0; 8],
                    })
                };
                let left = &mut self.left;
                self.netlink.dump_each(SockDiagMessage::InetRequest(request), |_, body| {
                    let closed = InetResponseHeader::parse(body).ok().and_then(closed_by_us);
                    let closed = closed.filter(|id| addresses.contains(&id.source_address.to_canonical()));
                    left.extend(closed.filter(|_| left.len() < LEFT_MAX));
                })?;
            }
        }
        Ok(())
    }

    /// Ends some of what was found; is there more?
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn end_some(&mut self) -> io::Result<bool> {
        let some = self.left.split_off(self.left.len().saturating_sub(END_MAX));
        if self.left.is_empty() {
            self.left = Vec::new();
        }
        self.end(some)?;
        Ok(self.has_some())
    }

    /// Is there anything for [`Self::end_some`]?
    pub(super) fn has_some(&self) -> bool {
        !self.left.is_empty()
    }

    fn end(&mut self, closed: Vec<SocketId>) -> io::Result<()> {
        if closed.is_empty() {
            return Ok(());
        }
        // By their cookies, so that none is meant that took their place since.
        let requests = closed.into_iter().map(|id| (SockDiagDestroy::new(request(id)), 0)).collect();
        for result in self.netlink.request(requests)? {
            match result {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.complain(),
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        Ok(())
    }

    fn complain(&mut self) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!("{UNABLE}");
        }
    }

    fn find(&mut self, local: SocketAddr, clients: &[(IpAddr, u16)]) -> io::Result<Vec<SocketId>> {
        let of_family = clients.iter().filter(|(address, _)| address.is_ipv4() == local.is_ipv4());
        let requests = of_family.map(|(address, port)| {
            let id = SocketId {
                source_port: local.port(),
                destination_port: *port,
                source_address: local.ip(),
                destination_address: *address,
                interface_id: 0,
                cookie: ANY,
            };
            (request(id), 0)
        });
        let mut closed = Vec::new();
        for answer in self.netlink.ask(requests.collect())? {
            match answer {
                Ok(message) => closed.extend(InetResponseHeader::parse(&message.body).ok().and_then(closed_by_us)),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(closed)
    }
}

/// States of a connection that this side has closed.
const CLOSED_STATES: [u8; 5] = [TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSING, TCP_LAST_ACK, TCP_TIME_WAIT];

/// Where there is no connection the kernel names the socket that listens, which stays.
fn closed_by_us(socket: InetResponseHeader) -> Option<SocketId> {
    CLOSED_STATES.contains(&socket.state).then_some(socket.socket_id)
}

fn request(id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(inet_request(id))
}

fn inet_request(id: SocketId) -> InetRequest {
    InetRequest {
        family: if id.source_address.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: id,
    }
}
