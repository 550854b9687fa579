//! Where clients come in: the sockets that the configuration names, and those that a service manager or a predecessor has
//! handed over.
//!
//! An inherited socket is known by its address. One that serves a configured address is used in place of a new one; one that
//! serves none is served as well. So a socket unit may add to `listen_addr` or stand for it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use socket2::{SockRef, Type};

use crate::config::Config;
use crate::net::listen::{self, ListenError, ListenOptions};
use crate::sys::environment;

/// Descriptors with names that begin so belong to the hand-over, whatever they are.
pub const HANDOVER_PREFIX: &str = "pgtandem-handover";

/// What the process was started with (sd_listen_fds(3)).
#[derive(Debug, Default)]
pub struct Inherited {
    /// Listening stream sockets.
    pub listeners: Vec<Listener>,
    /// What belongs to the hand-over ([`HANDOVER_PREFIX`]), by name and in order.
    pub others: Vec<(String, OwnedFd)>,
    /// What was wrong, for the log, which may not be there yet.
    pub warnings: Vec<String>,
}

impl Inherited {
    /// Takes what a service manager handed over. To be called once, first of all: before files are opened, forks, threads.
    #[must_use]
    pub fn from_environment() -> Self {
        match environment::take_listen_fds() {
            Ok(descriptors) => Self::from_descriptors(descriptors),
            Err(error) => Self {
                warnings: vec![format!("sockets handed over by the service manager are not used: {error}")],
                ..Self::default()
            },
        }
    }

    /// Sorts descriptors into listeners and others. Those that are neither are closed, with a warning.
    #[must_use]
    pub fn from_descriptors(descriptors: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        let mut inherited = Self::default();
        for (name, descriptor) in descriptors {
            if name.starts_with(HANDOVER_PREFIX) {
                inherited.others.push((name, descriptor));
                continue;
            }
            match Listener::adopt(descriptor) {
                Ok(listener) => inherited.listeners.push(listener),
                Err(reason) => {
                    let name = name.escape_debug();
                    inherited.warnings.push(format!("inherited descriptor \"{name}\" is closed: {reason}"));
                }
            }
        }
        inherited
    }
}

/// What clients connect to, and what a listener is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerName {
    /// TCP.
    Tcp(SocketAddr),
    /// The path of a Unix socket; one in the abstract namespace begins with `@`.
    Unix(PathBuf),
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One listening socket, non-blocking, closed at exec.
#[derive(Debug)]
pub struct Listener {
    name: ListenerName,
    socket: Socket,
    /// A file that we have made and must remove.
    file: Option<PathBuf>,
    inherited: bool,
    /// A former process of ours has opened it: it is served only if the configuration still asks for it.
    left_behind: bool,
}

/// A listening socket that a runtime can take over.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl Socket {
    /// A second descriptor of the same socket: both take from one queue.
    ///
    /// # Errors
    /// The kernel's, which has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Listener {
    /// Checks a descriptor of unknown kind; the text of an error says what it is.
    fn adopt(descriptor: OwnedFd) -> Result<Self, String> {
        let socket = SockRef::from(&descriptor);
        let kind = socket.r#type().map_err(|error| format!("it is no socket ({error})"))?;
        if kind != Type::STREAM {
            return Err("it is no stream socket (use ListenStream= in the socket unit)".to_owned());
        }
        if !socket.is_listener().map_err(|error| error.to_string())? {
            return Err("it does not listen (Accept=no in the socket unit)".to_owned());
        }
        let address = socket.local_addr().map_err(|error| format!("it has no address ({error})"))?;
        socket.set_nonblocking(true).and_then(|()| socket.set_cloexec(true)).map_err(|error| error.to_string())?;
        let (name, socket) = if let Some(address) = address.as_socket() {
            (ListenerName::Tcp(address), Socket::Tcp(descriptor.into()))
        } else if address.is_unix() {
            let path = match (address.as_pathname(), address.as_abstract_namespace()) {
                (Some(path), _) => path.to_owned(),
                (None, Some(name)) => PathBuf::from(format!("@{}", String::from_utf8_lossy(name))),
                (None, None) => PathBuf::new(),
            };
            (ListenerName::Unix(path), Socket::Unix(descriptor.into()))
        } else {
            return Err("it is neither a TCP nor a Unix socket".to_owned());
        };
        Ok(Self { name, socket, file: None, inherited: true, left_behind: false })
    }

    /// Takes over a listener of a former process, with the file of a Unix socket.
    ///
    /// # Errors
    /// What it is instead.
    pub fn left_behind(descriptor: OwnedFd) -> Result<Self, String> {
        let mut listener = Self::adopt(descriptor)?;
        listener.left_behind = true;
        if let ListenerName::Unix(path) = &listener.name {
            listener.file = Some(path.clone()).filter(|path| !path.as_os_str().as_bytes().starts_with(b"@"));
        }
        Ok(listener)
    }

    fn tcp(socket: TcpListener, asked: SocketAddr) -> Self {
        let name = ListenerName::Tcp(socket.local_addr().unwrap_or(asked));
        Self { name, socket: Socket::Tcp(socket), file: None, inherited: false, left_behind: false }
    }

    /// What it is known by.
    #[must_use]
    pub fn name(&self) -> &ListenerName {
        &self.name
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Would binding this address collide with it, and do clients of that address reach it?
    fn serves(&self, wanted: SocketAddr) -> bool {
        let ListenerName::Tcp(own) = self.name else { return false };
        own.port() == wanted.port()
            && match (own.ip(), wanted.ip()) {
                (own, wanted) if own == wanted => true,
                (IpAddr::V4(own), IpAddr::V4(_)) => own == Ipv4Addr::UNSPECIFIED,
                (IpAddr::V6(own), IpAddr::V6(_)) => own.is_unspecified(),
                // A socket unit's ListenStream=6432 is one IPv6 socket for both families.
                (IpAddr::V6(own), IpAddr::V4(_)) => {
                    own.is_unspecified() && SockRef::from(&self.socket).only_v6().is_ok_and(|only| !only)
                }
                (IpAddr::V4(_), IpAddr::V6(_)) => false,
            }
    }
}

/// The least backlog of a node of a pair; the kernel cuts it to net.core.somaxconn, 4096 by default.
const HA_BACKLOG_MIN: u32 = 4096;

/// The queue of a TCP listener (setting listen_backlog). After a takeover all clients of a pair come at once: those beyond the
/// queue would wait a second for their next SYN.
pub(super) fn tcp_backlog(config: &Config) -> u32 {
    let least = if config.ha.is_some() { HA_BACKLOG_MIN } else { 0 };
    config.settings.listen_backlog.max(least)
}

/// All sockets on which clients come in. They stay open here for as long as the process serves, so that they can be handed on;
/// accept loops work on second descriptors of them.
#[derive(Debug, Default)]
pub struct Listeners {
    all: Vec<Listener>,
    refused: Vec<ListenError>,
    unused: Vec<ListenerName>,
}

impl Listeners {
    /// Takes over inherited sockets, and opens the TCP sockets of the configuration that are not among them, which may need
    /// privileges that are about to be dropped.
    ///
    /// # Errors
    /// A name in listen_addr is not known; no socket could be opened and none is inherited.
    pub fn open(config: &Config, inherited: Vec<Listener>) -> anyhow::Result<Self> {
        let settings = &config.settings;
        let options = ListenOptions {
            backlog: i32::try_from(tcp_backlog(config)).unwrap_or(i32::MAX),
            reuse_port: settings.so_reuseport,
            defer_accept: settings.tcp_defer_accept,
            freebind: false,
        };
        let mut listeners = Self::default();
        let mut wanted = Vec::new();
        for name in settings.listen_addr.iter() {
            wanted.extend(listen::addresses(name, settings.listen_port)?);
        }
        for address in &wanted {
            if inherited.iter().any(|listener| listener.serves(*address)) {
                continue;
            }
            // The floating address may be with the other node, now or at any later start.
            let floats = config.ha.as_ref().is_some_and(|ha| ha.addresses().any(|floating| floating == address.ip()));
            match listen::tcp(*address, &ListenOptions { freebind: floats, ..options }) {
                Ok(socket) => listeners.all.push(Listener::tcp(socket, *address)),
                // As PgBouncer: a machine without IPv6 is no reason not to serve on IPv4.
                Err(error) => listeners.refused.push(error),
            }
        }
        if listeners.all.is_empty()
            && inherited.is_empty()
            && let Some(error) = listeners.refused.pop()
        {
            return Err(error.into());
        }
        let unix = (!settings.unix_socket_dir.is_empty())
            .then(|| ListenerName::Unix(listen::unix_path(&settings.unix_socket_dir, settings.listen_port)));
        let unnamed = |listener: &&Listener| {
            Some(&listener.name) != unix.as_ref() && !wanted.iter().any(|address| listener.serves(*address))
        };
        // Closed, but no file is removed: this may still be root, and the path is what another process says.
        let inherited: Vec<_> =
            inherited.into_iter().filter(|listener| !(listener.left_behind && unnamed(&listener))).collect();
        listeners.unused = inherited.iter().filter(unnamed).map(|listener| listener.name.clone()).collect();
        listeners.all.splice(0..0, inherited);
        Ok(listeners)
    }

    /// Opens the TCP sockets of the configuration, with nothing inherited.
    ///
    /// # Errors
    /// See [`Listeners::open`].
    pub fn open_tcp(config: &Config) -> anyhow::Result<Self> {
        Self::open(config, Vec::new())
    }

    /// Says where clients can come in by now, and where they could not.
    pub fn log(&mut self) {
        for listener in &self.all {
            let from = if listener.inherited { " (inherited socket)" } else { "" };
            tracing::info!("listening on {}{from}", listener.name);
        }
        for name in self.unused.drain(..) {
            tracing::warn!(
                "inherited socket {name} is not what listen_addr, listen_port or unix_socket_dir say; serving it as well"
            );
        }
        for error in self.refused.drain(..) {
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
    }

    /// Opens the Unix socket, as the user who serves, unless it is inherited. At least one socket must have come of all.
    ///
    /// # Errors
    /// The socket cannot be opened, or there is none at all.
    pub fn open_unix(&mut self, config: &Config) -> anyhow::Result<()> {
        let settings = &config.settings;
        if !settings.unix_socket_dir.is_empty() {
            let path = listen::unix_path(&settings.unix_socket_dir, settings.listen_port);
            let name = ListenerName::Unix(path.clone());
            if !self.all.iter().any(|listener| listener.name == name) {
                let backlog = i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX);
                let group = group_id(&settings.unix_socket_group)?;
                let socket = Socket::Unix(listen::unix(&path, backlog, settings.unix_socket_mode.0, group)?);
                tracing::info!("listening on {name}");
                let file = Some(path).filter(|path| !path.as_os_str().as_bytes().starts_with(b"@"));
                self.all.push(Listener { name, socket, file, inherited: false, left_behind: false });
            }
        }
        anyhow::ensure!(!self.all.is_empty(), "nowhere to listen on: set listen_addr or unix_socket_dir");
        Ok(())
    }

    /// Do clients of this address reach one of them?
    #[must_use]
    pub fn serve(&self, address: SocketAddr) -> bool {
        self.all.iter().any(|listener| listener.serves(address))
    }

    /// Every listener.
    pub fn iter(&self) -> impl Iterator<Item = &Listener> {
        self.all.iter()
    }

    /// Every socket, to be handed on.
    #[must_use]
    pub fn descriptors(&self) -> Vec<(ListenerName, BorrowedFd<'_>)> {
        self.all.iter().map(|listener| (listener.name.clone(), listener.socket.as_fd())).collect()
    }

    /// Closes the TCP sockets: nobody can connect any more, once the accept loops have ended too.
    pub fn close_tcp(&mut self) {
        self.all.retain(|listener| matches!(listener.socket, Socket::Unix(_)));
    }

    /// The sockets have a new owner: their files stay when this process ends.
    pub fn hand_on(&mut self) {
        for listener in &mut self.all {
            listener.file = None;
        }
    }

    /// Closes everything and removes the files that this process has made.
    pub fn close(&mut self) {
        for listener in self.all.drain(..) {
            if let Some(file) = &listener.file {
                // Gone already if somebody tidied up; nothing depends on it now.
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

fn group_id(name: &str) -> anyhow::Result<Option<u32>> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    let group = nix::unistd::Group::from_name(name)?;
    let group = group.ok_or_else(|| anyhow::anyhow!("unix_socket_group: there is no group \"{name}\""))?;
    Ok(Some(group.gid.as_raw()))
}

#[cfg(test)]
mod tests;
