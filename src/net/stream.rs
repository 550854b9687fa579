//! One stream type for all of a pooler's peers: TCP or Unix, plain or under TLS.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// A connected socket without TLS, and bytes that were read from it before TLS began.
#[derive(Debug)]
pub struct Raw {
    socket: Socket,
    prefix: Vec<u8>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// No TLS.
    Plain(Raw),
    /// We are the TLS server: our client.
    Accepted(Box<server::TlsStream<Raw>>),
    /// We are the TLS client: our server.
    Connected(Box<client::TlsStream<Raw>>),
}

/// Where the other end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over IP.
    Inet(SocketAddr),
    /// Over a Unix socket; process and user id of the other end where the kernel tells.
    Unix {
        /// Process id.
        pid: Option<i32>,
        /// User id.
        uid: Option<u32>,
    },
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(Raw { socket: Socket::Tcp(socket), prefix: Vec::new() })
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self::Plain(Raw { socket: Socket::Unix(socket), prefix: Vec::new() })
    }
}

impl Stream {
    fn raw(&self) -> &Raw {
        match self {
            Self::Plain(raw) => raw,
            Self::Accepted(tls) => tls.get_ref().0,
            Self::Connected(tls) => tls.get_ref().0,
        }
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        match &self.raw().socket {
            Socket::Tcp(tcp) => tcp.peer_addr().map_or(Peer::Unix { pid: None, uid: None }, Peer::Inet),
            Socket::Unix(unix) => {
                let cred = unix.peer_cred().ok();
                Peer::Unix { pid: cred.and_then(|c| c.pid()), uid: cred.map(|c| c.uid()) }
            }
        }
    }

    /// Our own address, if it is one of IP.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.raw().socket {
            Socket::Tcp(tcp) => tcp.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Does it run over a Unix socket?
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self.raw().socket, Socket::Unix(_))
    }

    /// TLS version and cipher suite, if TLS is on.
    #[must_use]
    pub fn tls(&self) -> Option<(rustls::ProtocolVersion, rustls::CipherSuite)> {
        fn of<D>(common: &rustls::ConnectionCommon<D>) -> Option<(rustls::ProtocolVersion, rustls::CipherSuite)> {
            Some((common.protocol_version()?, common.negotiated_cipher_suite()?.suite()))
        }
        match self {
            Self::Plain(_) => None,
            Self::Accepted(tls) => of(tls.get_ref().1),
            Self::Connected(tls) => of(tls.get_ref().1),
        }
    }

    /// The certificate that the other end showed, in DER.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let certificates = match self {
            Self::Plain(_) => None,
            Self::Accepted(tls) => tls.get_ref().1.peer_certificates(),
            Self::Connected(tls) => tls.get_ref().1.peer_certificates(),
        };
        certificates.and_then(<[_]>::first).map(|der| der.to_vec())
    }

    /// The protocol agreed on by ALPN.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Accepted(tls) => tls.get_ref().1.alpn_protocol(),
            _ => None,
        }
    }

    /// Becomes the TLS server of this stream. `prefix`: what was already read of the client's hand-shake. Not cancel-safe;
    /// a dropped hand-shake closes the socket.
    ///
    /// # Errors
    /// Those of the hand-shake; an error if TLS is on already.
    pub async fn accept_tls(self, config: Arc<ServerConfig>, prefix: Vec<u8>) -> io::Result<Self> {
        let Self::Plain(mut raw) = self else { return Err(io::Error::other("TLS inside TLS")) };
        raw.prefix = prefix;
        Ok(Self::Accepted(Box::new(TlsAcceptor::from(config).accept(raw).await?)))
    }

    /// Becomes the TLS client of this stream. Not cancel-safe; a dropped hand-shake closes the socket.
    ///
    /// # Errors
    /// Those of the hand-shake; an error if TLS is on already.
    pub async fn connect_tls(self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let Self::Plain(raw) = self else { return Err(io::Error::other("TLS inside TLS")) };
        Ok(Self::Connected(Box::new(TlsConnector::from(config).connect(name, raw).await?)))
    }

    /// A socket that another process passed on.
    ///
    /// # Errors
    /// It is none that a stream can be, or the runtime cannot take it.
    pub fn from_descriptor(descriptor: std::os::fd::OwnedFd) -> io::Result<Self> {
        let socket = socket2::Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        if socket.local_addr()?.is_unix() {
            let socket = std::os::unix::net::UnixStream::from(std::os::fd::OwnedFd::from(socket));
            return Ok(UnixStream::from_std(socket)?.into());
        }
        Ok(TcpStream::from_std(socket.into())?.into())
    }

    /// Is nothing between us and the socket?
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(raw) if raw.prefix.is_empty())
    }

    /// Must written bytes be flushed to be sure that they leave?
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }

    /// Arms `cx` for the moment when the socket has something to read or its end; ready if that is now.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.raw().socket {
            Socket::Tcp(tcp) => tcp.poll_read_ready(cx),
            Socket::Unix(unix) => unix.poll_read_ready(cx),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.raw().socket {
            Socket::Tcp(tcp) => tcp.as_fd(),
            Socket::Unix(unix) => unix.as_fd(),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsyncRead for Raw {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(self.prefix.get(..n).unwrap_or_default());
            self.prefix.drain(..n);
            return Poll::Ready(Ok(()));
        }
        match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Raw {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Socket::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Socket::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of ours.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_read(cx, buf),
            Self::Accepted(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Connected(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_write(cx, buf),
            Self::Accepted(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Connected(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_flush(cx),
            Self::Accepted(tls) => Pin::new(tls).poll_flush(cx),
            Self::Connected(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_shutdown(cx),
            Self::Accepted(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Connected(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
