//! System calls that no crate offers behind a safe function: the only place where `unsafe` may stand. It decides nothing and
//! must never know PostgreSQL, pools or settings.
#![expect(unsafe_code, reason = "system calls; each block says why it is sound")]

pub mod descriptors;
pub mod environment;
pub mod process;

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Lets the kernel report a connection only once its first bytes are there, or after `timeout_s` (tcp(7), TCP_DEFER_ACCEPT).
///
/// # Errors
/// The kernel's.
pub fn set_tcp_defer_accept(socket: &impl AsFd, timeout_s: i32) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option is read from a live i32 of that length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const timeout_s).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
