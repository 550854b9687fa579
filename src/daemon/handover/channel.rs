//! A socket that keeps the bounds of messages and carries descriptors beside them; everything here waits, so it is for threads
//! of their own.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, SockAddr, Socket, Type};
use zeroize::Zeroizing;

use crate::handover::dialogue::{DESCRIPTORS_MAX, MESSAGE_LEN_MAX, Message};
use crate::handover::format::{self, STATE_LEN_MAX};
use crate::handover::state::State;
use crate::sys::descriptors::{receive, sealed_file, send, set_peek_on};

/// One end.
#[derive(Debug)]
pub struct Channel {
    socket: Socket,
    /// Messages stay in the queue.
    peeks: bool,
}

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = Socket::pair(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
        Ok((Self { socket: one, peeks: false }, Self { socket: other, peeks: false }))
    }

    /// The end that a predecessor left in the service manager's store.
    ///
    /// # Errors
    /// It is not a socket of this kind.
    pub fn from_store(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        if socket.r#type()? != Type::SEQPACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no channel of a hand-over"));
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket, peeks: false })
    }

    /// Calls at the place where a running process waits. `None`: nobody waits there.
    ///
    /// # Errors
    /// Those of the file system and the kernel.
    pub fn call(path: &Path) -> io::Result<Option<Self>> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
        match socket.connect(&address(path)?) {
            Ok(()) => Ok(Some(Self { socket, peeks: false })),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// How long each word of the other side is waited for.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.set_write_timeout(Some(patience))
    }

    /// From now on what is heard stays in the queue, until [`Self::drain`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn peek(&mut self) -> io::Result<()> {
        set_peek_on(self.socket.as_fd())?;
        self.peeks = true;
        Ok(())
    }

    /// Throws away all that stands in the queue.
    pub fn drain(&self) {
        let mut buffer = vec![0; MESSAGE_LEN_MAX];
        while let Ok((1.., _)) = receive(self.socket.as_fd(), &mut buffer, false) {}
    }

    /// Says something.
    ///
    /// # Errors
    /// The kernel's, [`io::ErrorKind::WouldBlock`] after the patience.
    pub fn say(&self, message: &Message, descriptors: &[RawFd]) -> io::Result<()> {
        send(self.socket.as_fd(), &message.encode(), descriptors)
    }

    /// Ends the conversation and hears what was said before that and not heard yet: whatever the other side says from now on
    /// fails there.
    #[must_use]
    pub fn last_word(&self) -> Option<Message> {
        self.socket.shutdown(std::net::Shutdown::Both).ok()?;
        self.socket.set_nonblocking(true).ok()?;
        self.hear().ok().map(|(message, _)| message)
    }

    /// Hears the next message.
    ///
    /// # Errors
    /// The kernel's, [`io::ErrorKind::WouldBlock`] after the patience, [`io::ErrorKind::UnexpectedEof`] if the other side is
    /// gone, [`io::ErrorKind::InvalidData`] if it is not understood.
    pub fn hear(&self) -> io::Result<(Message, Vec<OwnedFd>)> {
        let mut buffer = Zeroizing::new(vec![0; MESSAGE_LEN_MAX]);
        let (len, descriptors) = receive(self.socket.as_fd(), &mut buffer, self.peeks)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let message = buffer.get(..len).and_then(Message::decode);
        let message = message.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message not understood"))?;
        Ok((message, descriptors))
    }

    /// Hears the next message if it is there already; `None` also if the other side is gone, which whoever needs it notices.
    ///
    /// # Errors
    /// See [`Self::hear`].
    pub fn hear_at_once(&self) -> io::Result<Option<Message>> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::ZERO)? == 0 {
            return Ok(None);
        }
        match self.hear() {
            Ok((message, _)) => Ok(Some(message)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Says a state, and sends the sockets that it names.
    ///
    /// # Errors
    /// See [`Self::say`].
    pub fn say_state(&self, state: &State, sockets: &[RawFd]) -> io::Result<()> {
        let bytes = format::encode(state).map_err(io::Error::other)?;
        let file = sealed_file("pgtandem state", &bytes)?;
        for some in sockets.chunks(DESCRIPTORS_MAX) {
            let count = u32::try_from(some.len()).unwrap_or(u32::MAX);
            self.say(&Message::Descriptors { count }, some)?;
        }
        self.say(&Message::State { len: bytes.len() as u64 }, &[file.as_raw_fd()])
    }

    /// Hears a state and its sockets; `None` if the other side is done instead.
    ///
    /// # Errors
    /// See [`Self::hear`]; [`io::ErrorKind::InvalidData`] with the reason if the state is not understood.
    pub fn hear_state(&self) -> io::Result<Option<(State, Vec<OwnedFd>)>> {
        let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let mut sockets = Vec::new();
        loop {
            match self.hear()? {
                (Message::Descriptors { count }, some) if some.len() == count as usize => sockets.extend(some),
                (Message::State { len }, mut file) => {
                    let file = file.pop().ok_or_else(|| bad("a state without its file".to_owned()))?;
                    let bytes = read(&File::from(file), len)?;
                    return match format::decode(&bytes) {
                        Ok(state) => Ok(Some((state, sockets))),
                        Err(error) => Err(bad(error.to_string())),
                    };
                }
                (Message::Done, _) if sockets.is_empty() => return Ok(None),
                (other, _) => return Err(bad(format!("unexpected {other:?}"))),
            }
        }
    }

    /// The user id of the other side.
    ///
    /// # Errors
    /// The kernel's.
    pub fn peer_user(&self) -> io::Result<u32> {
        use nix::sys::socket::{getsockopt, sockopt};
        Ok(getsockopt(&self.socket, sockopt::PeerCredentials)?.uid())
    }

    /// The end as a descriptor.
    #[must_use]
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn read(file: &File, len: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let there = file.metadata()?.len();
    if there != len || len > STATE_LEN_MAX as u64 {
        let text = format!("the file of the state has {there} bytes instead of {len}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = Zeroizing::new(vec![0; usize::try_from(len).unwrap_or(0)]);
    // The position is shared with whoever else has the file.
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Where successors call.
#[derive(Debug)]
pub struct Desk {
    path: PathBuf,
    socket: Option<Socket>,
}

impl Desk {
    /// Opens it, for our own user only. A file left by a dead process is replaced.
    ///
    /// # Errors
    /// Those of the file system and the kernel; [`io::ErrorKind::AddrInUse`] if another process waits there.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let mut desk = Self { path, socket: None };
        desk.reopen()?;
        Ok(desk)
    }

    /// Opens it again if it was closed.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn reopen(&mut self) -> io::Result<()> {
        if self.socket.is_none() {
            self.socket = Some(Self::listen(&self.path)?);
        }
        Ok(())
    }

    fn listen(path: &Path) -> io::Result<Socket> {
        let is_abstract = path.as_os_str().as_encoded_bytes().starts_with(b"@");
        if !is_abstract && std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
            if Channel::call(path)?.is_some() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
        socket.bind(&address(path)?)?;
        if !is_abstract {
            // Narrow before anyone can connect: listen() comes last.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        }
        socket.listen(4)?;
        Ok(socket)
    }

    /// Waits for a caller.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self) -> io::Result<Channel> {
        let desk = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let (socket, _) = desk.accept()?;
        Ok(Channel { socket, peeks: false })
    }

    /// Gives the place up, for somebody else to wait there.
    pub fn close(&mut self) {
        if self.socket.take().is_some() {
            // In the abstract namespace there is no file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn address(path: &Path) -> io::Result<SockAddr> {
    match path.to_str().and_then(|p| p.strip_prefix('@')) {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(path),
    }
}
