//! The pooler's side of the socket to the address helper. Nothing here waits, so that it fits in a loop around ppoll(2).
//!
//! The descriptor may go to a successor process: whoever has a copy is the pooler, and says Hello again. What the helper had
//! said to the predecessor still stands in the queue then, and is read before the Welcome.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

use super::menu::{Event, PACKET_LEN_MAX, Request};
use crate::sys::descriptors;

/// The socket.
#[derive(Debug)]
pub struct HelperClient {
    socket: Socket,
    buffer: Vec<u8>,
}

impl HelperClient {
    /// Calls the helper that waits at a path (setting `helper_socket`), in the abstract namespace if it begins with `@`.
    ///
    /// # Errors
    /// The kernel's: nobody waits there, or not for this user.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
        // The answer comes from the kernel, whether or not the helper is awake; while too many others wait, it is EAGAIN.
        socket.set_nonblocking(true)?;
        match path.to_str().and_then(|path| path.strip_prefix('@')) {
            Some(name) => socket.connect(&SockAddr::unix(format!("\0{name}"))?)?,
            None => socket.connect(&SockAddr::unix(path)?)?,
        }
        Self::new(socket)
    }

    /// A descriptor that is connected already: the end that [`start_child`](super::start_child) returned, or a predecessor's.
    ///
    /// # Errors
    /// It is not a socket of this kind.
    pub fn from_fd(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        if socket.r#type()? != Type::SEQPACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket of the address helper"));
        }
        Self::new(socket)
    }

    fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, buffer: vec![0; PACKET_LEN_MAX] })
    }

    /// To be waited for, and to be passed on to a successor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Asks for something.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::WouldBlock`]: the helper does not read, as it is stuck or stopped.
    pub fn send(&self, request: &Request) -> io::Result<()> {
        descriptors::send(self.fd(), &request.encode(), &[])
    }

    /// What the helper has said next, with the VRRP sockets beside it; `None`: nothing yet.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::UnexpectedEof`]: the helper has hung up; [`io::ErrorKind::InvalidData`]: it is not
    /// understood.
    pub fn receive(&mut self) -> io::Result<Option<(Event, Vec<OwnedFd>)>> {
        match descriptors::receive(self.socket.as_fd(), &mut self.buffer, false) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((len, descriptors)) => match Event::decode(self.buffer.get(..len).unwrap_or_default()) {
                Ok(event) => Ok(Some((event, descriptors))),
                Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // It ended with requests unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        }
    }
}
