//! Dialling a server: names to addresses, one attempt after the other, socket options. The caller sets the deadline by dropping
//! the future.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};

use super::names::Names;
use super::stream::Stream;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, or in the abstract namespace if it begins with `@`.
    Unix(PathBuf),
    /// A literal address.
    Ip(IpAddr, u16),
    /// A name for the resolver.
    Name(String, u16),
}

/// Options of TCP sockets (PgBouncer settings tcp_keepalive … tcp_user_timeout); zero leaves the system's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Keepalive probes at all.
    pub keepalive: bool,
    /// Idle seconds before the first probe.
    pub keepidle_s: u32,
    /// Seconds between probes.
    pub keepintvl_s: u32,
    /// Lost probes that end the connection.
    pub keepcnt: u32,
    /// Milliseconds that sent data may stay unacknowledged.
    pub user_timeout_ms: u32,
    /// Bytes of the send and receive buffers.
    pub socket_buffer_len: u32,
}

impl TcpOptions {
    /// Applies them and switches Nagle's delay off. A failing option is no reason to lose the connection, so it is only
    /// returned.
    ///
    /// # Errors
    /// The first option that the kernel refused.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        if self.keepalive {
            let mut probe = TcpKeepalive::new();
            if self.keepidle_s > 0 {
                probe = probe.with_time(Duration::from_secs(self.keepidle_s.into()));
            }
            if self.keepintvl_s > 0 {
                probe = probe.with_interval(Duration::from_secs(self.keepintvl_s.into()));
            }
            if self.keepcnt > 0 {
                probe = probe.with_retries(self.keepcnt);
            }
            socket.set_tcp_keepalive(&probe)?;
        }
        if self.user_timeout_ms > 0 {
            socket.set_tcp_user_timeout(Some(Duration::from_millis(self.user_timeout_ms.into())))?;
        }
        if self.socket_buffer_len > 0 {
            socket.set_send_buffer_size(self.socket_buffer_len as usize)?;
            socket.set_recv_buffer_size(self.socket_buffer_len as usize)?;
        }
        Ok(())
    }
}

/// Why dialling failed; the texts stand in PgBouncer's log behind `closing because:`.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("server DNS lookup failed")]
    Dns(#[source] io::Error),
    /// No address took the connection; the last one's reason.
    #[error("connect failed")]
    Connect(#[source] io::Error),
}

/// Connects to `target`, names being looked up through `names`. Of a name's addresses the first that answers is taken.
///
/// # Errors
/// [`DialError`].
pub async fn dial_by(names: &Arc<Names>, target: &Target, options: &TcpOptions) -> Result<Stream, DialError> {
    match target {
        Target::Name(name, port) => {
            let found = names.addresses(name, *port).await.map_err(DialError::Dns)?;
            tcp(&found, options).await
        }
        Target::Unix(_) | Target::Ip(..) => dial(target, options).await,
    }
}

/// Connects to `target`; a name is looked up anew. Of a name's addresses the first that answers is taken.
///
/// # Errors
/// [`DialError`].
pub async fn dial(target: &Target, options: &TcpOptions) -> Result<Stream, DialError> {
    match target {
        Target::Unix(path) => Ok(unix(path).await.map_err(DialError::Connect)?.into()),
        Target::Ip(ip, port) => tcp(&[SocketAddr::new(*ip, *port)], options).await,
        Target::Name(name, port) => {
            let found: Vec<_> = lookup_host((name.as_str(), *port)).await.map_err(DialError::Dns)?.collect();
            tcp(&found, options).await
        }
    }
}

async fn unix(path: &std::path::Path) -> io::Result<UnixStream> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    let Some(name) = path.as_os_str().as_bytes().strip_prefix(b"@") else { return UnixStream::connect(path).await };
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    // Connecting to a Unix socket does not wait: it is there or it is not.
    let socket = std::os::unix::net::UnixStream::connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// The options stand before the connection does: the window that is agreed on then is that of the receive buffer, and one that
/// shrinks later stalls a busy stream.
async fn connect(address: SocketAddr, options: &TcpOptions) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Err(error) = options.apply(&socket) {
        tracing::debug!("socket option of server connection to {address} refused: {error}");
    }
    socket.connect(address).await
}

async fn tcp(addresses: &[SocketAddr], options: &TcpOptions) -> Result<Stream, DialError> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match connect(*address, options).await {
            Ok(socket) => return Ok(socket.into()),
            Err(error) => last = error,
        }
    }
    Err(DialError::Connect(last))
}
