//! One stream type for all of a pooler's peers: TCP or Unix, plain or under TLS.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::kernel_tls::{HandOverForm, KernelStream, KernelTlsState, Prepared, Support, TlsRole, WhyNot, prepare};
use super::socket::{Socket, TlsSocket};

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// No TLS.
    Plain(Socket),
    /// We are the TLS server: our client.
    Accepted(Box<server::TlsStream<TlsSocket>>),
    /// We are the TLS client: our server.
    Connected(Box<client::TlsStream<TlsSocket>>),
    /// The kernel does TLS, after a hand-over or for one.
    Kernel(Box<KernelStream>),
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
        Self::Plain(Socket::Tcp(socket))
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self::Plain(Socket::Unix(socket))
    }
}

impl Stream {
    /// The socket, unless the kernel's TLS is between it and us.
    fn socket(&self) -> Result<&Socket, &KernelStream> {
        match self {
            Self::Plain(socket) => Ok(socket),
            Self::Accepted(tls) => Ok(tls.get_ref().0.socket()),
            Self::Connected(tls) => Ok(tls.get_ref().0.socket()),
            Self::Kernel(kernel) => Err(kernel),
        }
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> Peer {
        match self.socket() {
            Ok(socket) => socket.peer(),
            Err(kernel) => Peer::of_tcp(kernel.socket()),
        }
    }

    /// Our own address, if it is one of IP.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.socket().map_or_else(KernelStream::local_addr, Socket::local_addr)
    }

    /// Does it run over a Unix socket?
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self.socket(), Ok(Socket::Unix(_)))
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
            Self::Kernel(kernel) => Some(kernel.tls()),
        }
    }

    /// The certificate that the other end showed, in DER; forgotten once the kernel does TLS.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        let certificates = match self {
            Self::Plain(_) | Self::Kernel(_) => None,
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
        let Self::Plain(socket) = self else { return Err(io::Error::other("TLS inside TLS")) };
        let socket = TlsSocket::new(socket, prefix, config.enable_secret_extraction);
        Ok(Self::Accepted(Box::new(TlsAcceptor::from(config).accept(socket).await?)))
    }

    /// Becomes the TLS client of this stream. Not cancel-safe; a dropped hand-shake closes the socket.
    ///
    /// # Errors
    /// Those of the hand-shake; an error if TLS is on already.
    pub async fn connect_tls(self, config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let Self::Plain(socket) = self else { return Err(io::Error::other("TLS inside TLS")) };
        let socket = TlsSocket::new(socket, Vec::new(), config.enable_secret_extraction);
        Ok(Self::Connected(Box::new(TlsConnector::from(config).connect(name, socket).await?)))
    }

    /// A socket that another process passed on.
    ///
    /// # Errors
    /// It is none that a stream can be, or the runtime cannot take it.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = socket2::Socket::from(descriptor);
        socket.set_nonblocking(true)?;
        if socket.local_addr()?.is_unix() {
            let socket = std::os::unix::net::UnixStream::from(OwnedFd::from(socket));
            return Ok(UnixStream::from_std(socket)?.into());
        }
        Ok(TcpStream::from_std(socket.into())?.into())
    }

    /// Must written bytes be flushed to be sure that they leave?
    #[must_use]
    pub fn needs_flush(&self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Connected(_))
    }

    /// Arms `cx` for the moment when the socket has something to read or its end; ready if that is now.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.socket() {
            Ok(socket) => socket.poll_read_ready(cx),
            Err(kernel) => kernel.poll_read_ready(cx),
        }
    }

    /// In what form it can be passed to another process now. What [`HandOverForm::KernelTls`] says holds until the next read.
    #[must_use]
    pub fn hand_over_form(&self) -> HandOverForm<'_> {
        match self {
            Self::Plain(socket) => HandOverForm::Plain(socket.as_fd()),
            Self::Accepted(_) | Self::Connected(_) => HandOverForm::UserTls,
            Self::Kernel(kernel) => HandOverForm::KernelTls(kernel.socket().as_fd(), kernel.state().clone()),
        }
    }

    /// Gives TLS to the kernel, in place: afterwards the stream reads and writes as before, goes on from the very byte where it
    /// was, and can be passed to another process. Done already: nothing happens.
    ///
    /// It reads at most the rest of a TLS record of which the beginning is here, and writes out what TLS has ready. If `Err` is
    /// [temporary](WhyNot::is_temporary), `cx` is armed for the moment when another try is worth while (not for
    /// [`WhyNot::Unread`]). Must be called where the stream is otherwise polled, and the stream be polled anew afterwards: the
    /// descriptor is another one, of the same socket.
    ///
    /// # Errors
    /// Why it could not be done. The stream is then as before, but for [`WhyNot::Lost`].
    pub fn try_kernel_tls(&mut self, support: &Support, cx: &mut Context<'_>) -> Result<(), WhyNot> {
        let Prepared { stream, version, cipher } = match self {
            Self::Plain(_) => return Err(WhyNot::NoTls),
            Self::Kernel(kernel) => return if kernel.is_open() { Ok(()) } else { Err(WhyNot::Closing) },
            Self::Accepted(tls) => {
                let (socket, session) = tls.get_mut();
                prepare(TlsRole::Server, (socket, session), support, cx)?
            }
            Self::Connected(tls) => {
                let (socket, session) = tls.get_mut();
                prepare(TlsRole::Client, (socket, session), support, cx)?
            }
        };
        // The library gives its keys only away together with itself, so there is no way back from here.
        let secrets = match std::mem::replace(self, Self::Kernel(Box::new(stream))) {
            Self::Accepted(tls) => tls.into_inner().1.dangerous_extract_secrets(),
            Self::Connected(tls) => tls.into_inner().1.dangerous_extract_secrets(),
            Self::Plain(_) | Self::Kernel(_) => return Err(WhyNot::NoTls),
        };
        let Self::Kernel(kernel) = self else { return Err(WhyNot::NoTls) };
        kernel.begin(version, cipher, secrets)
    }

    /// A connection that another process has passed on in the form [`HandOverForm::KernelTls`].
    ///
    /// # Errors
    /// If the kernel does not confirm that the socket has this TLS; the descriptor is then closed. Errors of the event loop.
    pub fn from_kernel_tls(descriptor: OwnedFd, state: KernelTlsState) -> io::Result<Self> {
        Ok(Self::Kernel(Box::new(KernelStream::adopt(descriptor, state)?)))
    }
}

impl Peer {
    pub(super) fn of_tcp(tcp: &TcpStream) -> Self {
        tcp.peer_addr().map_or(Self::Unix { pid: None, uid: None }, Self::Inet)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().map_or_else(|kernel| kernel.socket().as_fd(), Socket::as_fd)
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Accepted(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Connected(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Kernel(kernel) => Pin::new(kernel).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Accepted(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Connected(tls) => Pin::new(tls).poll_write(cx, buf),
            Self::Kernel(kernel) => Pin::new(kernel).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Accepted(tls) => Pin::new(tls).poll_flush(cx),
            Self::Connected(tls) => Pin::new(tls).poll_flush(cx),
            Self::Kernel(kernel) => Pin::new(kernel).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Accepted(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Connected(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Kernel(kernel) => Pin::new(kernel).poll_shutdown(cx),
        }
    }
}
