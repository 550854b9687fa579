//! Options of raw sockets that no crate offers.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Lets the kernel fill in and check the checksum of what a raw IPv6 socket sends and receives: 16 bits at this offset, with
/// pseudo-header (RFC 3542 section 3.1, IPV6_CHECKSUM).
///
/// # Errors
/// The kernel's.
pub fn set_ipv6_checksum(socket: &impl AsFd, offset: i32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option is read from a live i32 of that length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_CHECKSUM,
            (&raw const offset).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
