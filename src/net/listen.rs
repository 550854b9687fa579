//! Listening sockets (PgBouncer settings listen_addr, listen_port, listen_backlog, unix_socket_dir, unix_socket_mode,
//! unix_socket_group, so_reuseport, tcp_defer_accept).

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Options of the TCP listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Length of the kernel's queue of connections not yet accepted.
    pub backlog: i32,
    /// Let several processes share the port.
    pub reuse_port: bool,
    /// Accept only when the first bytes are there.
    pub defer_accept: bool,
    /// Bind to an address that the machine does not have yet, such as a floating one (ip(7), IP_FREEBIND).
    pub freebind: bool,
}

/// Why no socket could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A name in listen_addr that the resolver does not know.
    #[error("listen_addr: cannot resolve \"{name}\"")]
    Name {
        /// As configured.
        name: String,
        /// The resolver's answer.
        source: io::Error,
    },
    /// Somebody has this address.
    #[error(
        "cannot listen on {0}: Address already in use; stop the process that has it (ss -ltnp 'sport = :{port}' names it) or \
         change listen_addr or listen_port",
        port = .0.port()
    )]
    Taken(SocketAddr),
    /// TCP.
    #[error("cannot listen on {address}")]
    Tcp {
        /// Address and port.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody serves this Unix socket.
    #[error("unix socket is in use, cannot continue: {}; stop the other process or change unix_socket_dir or listen_port", .0.display())]
    InUse(PathBuf),
    /// Unix.
    #[error("cannot listen on unix socket {}", path.display())]
    Unix {
        /// The socket's path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Every address that one element of listen_addr means; `*` is all of IPv4 and IPv6.
///
/// # Errors
/// [`ListenError::Name`].
pub fn addresses(name: &str, port: u16) -> Result<Vec<SocketAddr>, ListenError> {
    if name == "*" {
        return Ok(vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]);
    }
    if let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    let found = (name, port).to_socket_addrs();
    Ok(found.map_err(|source| ListenError::Name { name: name.to_owned(), source })?.collect())
}

/// Opens a TCP listener.
///
/// # Errors
/// [`ListenError::Taken`], [`ListenError::Tcp`].
pub fn tcp(address: SocketAddr, options: &ListenOptions) -> Result<std::net::TcpListener, ListenError> {
    let open = || -> io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        if options.freebind {
            if address.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
        }
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(options.backlog)?;
        if options.defer_accept {
            // A convenience of the kernel; a sandbox that refuses it costs a wake-up per connection, nothing more.
            if let Err(error) = crate::sys::set_tcp_defer_accept(&socket, 1) {
                tracing::debug!("tcp_defer_accept refused on {address}: {error}");
            }
        }
        Ok(socket.into())
    };
    open().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken(address),
        _ => ListenError::Tcp { address, source },
    })
}

/// The Unix socket of this directory and port, `.s.PGSQL.<port>` as PostgreSQL names it; `@…` is the abstract namespace.
#[must_use]
pub fn unix_path(dir: &str, port: u16) -> PathBuf {
    PathBuf::from(format!("{dir}/.s.PGSQL.{port}"))
}

/// Opens a Unix listener with this mode and group. A file left by a dead process is replaced, one that is served is not.
///
/// # Errors
/// [`ListenError::InUse`], [`ListenError::Unix`].
pub fn unix(path: &Path, backlog: i32, mode: u32, group: Option<u32>) -> Result<StdUnixListener, ListenError> {
    let fail = |source| ListenError::Unix { path: path.to_owned(), source };
    let is_abstract = path.as_os_str().as_encoded_bytes().starts_with(b"@");
    if !is_abstract && fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        match std::os::unix::net::UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(fail)?,
            _ => return Err(ListenError::InUse(path.to_owned())),
        }
    }
    let open = || -> io::Result<StdUnixListener> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        let address = match path.to_str().and_then(|p| p.strip_prefix('@')) {
            Some(name) => SockAddr::unix(format!("\0{name}"))?,
            None => SockAddr::unix(path)?,
        };
        socket.bind(&address)?;
        if !is_abstract {
            // Narrow before anyone can connect: listen() comes last.
            if let Some(group) = group {
                std::os::unix::fs::chown(path, None, Some(group))?;
            }
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        socket.listen(backlog)?;
        Ok(socket.into())
    };
    open().map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse { ListenError::InUse(path.to_owned()) } else { fail(source) }
    })
}
