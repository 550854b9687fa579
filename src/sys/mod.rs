//! System calls that no crate offers behind a safe function: the only place where `unsafe` may stand. It decides nothing and
//! must never know PostgreSQL, pools or settings.
#![expect(unsafe_code, reason = "system calls; each block says why it is sound")]

pub mod descriptors;
pub mod environment;
pub mod packet;
pub mod process;
pub mod raw;

use std::io;
use std::mem::MaybeUninit;
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

/// Sends one TLS record of another type than data over a socket with kernel TLS (TLS_SET_RECORD_TYPE,
/// Documentation/networking/tls.rst of Linux), without waiting. Returns how many of `bytes` went out.
///
/// # Errors
/// The kernel's; `WouldBlock` if there is no room.
pub fn send_tls_record(socket: &impl AsFd, record_type: u8, bytes: &[u8]) -> io::Result<usize> {
    /// Room for one control message, aligned as its header must be.
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        data: [u64; 1],
    }
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain data for which zero is a value of every field.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE and CMSG_LEN only compute. CMSG_FIRSTHDR gives a pointer to the beginning of `control` or null, which is
    // asked for; CMSG_DATA lies behind the header, in `data`. Descriptor, bytes and control data live until sendmsg returns,
    // which only reads them.
    let sent = unsafe {
        message.msg_controllen = libc::CMSG_SPACE(1) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || libc::CMSG_SPACE(1) as usize > size_of::<Control>() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        (*header).cmsg_level = libc::SOL_TLS;
        (*header).cmsg_type = libc::TLS_SET_RECORD_TYPE;
        (*header).cmsg_len = libc::CMSG_LEN(1) as _;
        libc::CMSG_DATA(header).write(record_type);
        libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A direction of a connection with kernel TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelTlsDirection {
    /// What we send.
    Send,
    /// What we receive.
    Receive,
}

/// Version and cipher (linux/tls.h) that a socket's kernel TLS has; no keys.
///
/// # Errors
/// The kernel's; there is always one for a socket without kernel TLS in this direction.
pub fn kernel_tls_parameters(socket: &impl AsFd, direction: KernelTlsDirection) -> io::Result<(u16, u16)> {
    let option = match direction {
        KernelTlsDirection::Send => libc::TLS_TX,
        KernelTlsDirection::Receive => libc::TLS_RX,
    };
    let mut info = libc::tls_crypto_info { version: 0, cipher_type: 0 };
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).unwrap_or(4);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel writes at most `len` bytes, the size of
    // `info`, and any bytes are a value of it.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_TLS, option, (&raw mut info).cast(), &raw mut len)
    };
    if result == 0 { Ok((info.version, info.cipher_type)) } else { Err(io::Error::last_os_error()) }
}
