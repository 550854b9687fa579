//! Descriptors that travel between processes (unix(7), SCM_RIGHTS), and files without a name (memfd_create(2)).

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, accept4, recvmsg, sendmsg};

/// Descriptors that the kernel takes beside one message (SCM_MAX_FD).
const DESCRIPTORS_MAX: usize = 253;

/// Sends one message and descriptors beside it. They stay open here too. Waits as long as the socket's timeout says.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::WriteZero`] if the message did not go out whole.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() { &[] } else { &rights[..] };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(message)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives one message of at most `buffer.len()` bytes, and the descriptors beside it, which are closed at exec. `peek`: it
/// stays in the queue too. 0 bytes: the other end is gone.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::InvalidData`] if the message or its descriptors did not fit.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], peek: bool) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut flags = MsgFlags::MSG_CMSG_CLOEXEC;
    flags.set(MsgFlags::MSG_PEEK, peek);
    let mut slices = [IoSliceMut::new(buffer)];
    let got = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for control in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for this call, so nobody else owns them.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    if got.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message or its descriptors were cut off"));
    }
    Ok((got.bytes, descriptors))
}

/// Takes the next one who calls at a listening socket (accept4(2)), without waiting. Its socket never waits, and is closed at exec.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::WouldBlock`]: nobody calls.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: the kernel has just made this descriptor for this call, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets each receive with `peek` go on behind the last one (socket(7), SO_PEEK_OFF).
///
/// # Errors
/// The kernel's.
pub fn set_peek_on(socket: BorrowedFd<'_>) -> io::Result<()> {
    let offset: i32 = 0;
    let len = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option is read from a live i32 of that length.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEEK_OFF, (&raw const offset).cast(), len)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A file without a name that holds these bytes and can no longer be changed.
///
/// # Errors
/// The kernel's.
pub fn sealed_file(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}
