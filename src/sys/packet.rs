//! Packet sockets (packet(7)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// Binds a packet socket to an interface and, unless that is 0, to what it receives there: an Ethernet protocol in the order of
/// this machine.
///
/// # Errors
/// The kernel's.
pub fn bind_packet_socket(socket: BorrowedFd<'_>, interface_index: u32, protocol: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap_or_default(),
        sll_protocol: protocol.to_be(),
        sll_ifindex: interface_index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the address is a live sockaddr_ll of that length, which
    // the call only reads.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
