//! A connection whose TLS is the kernel's. Data is read and written as with plain TCP; a record that is not data makes a plain
//! read fail with EIO and is then fetched with its type (Documentation/networking/tls.rst of Linux).

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, TlsGetRecordType, recvmsg};
use rustls::{AlertDescription, CipherSuite, ExtractedSecrets, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::change::install_keys;
use super::{Cipher, KernelTlsState, TlsRole, Version, WhyNot, invalid};
use crate::sys;

/// Content type of alerts, and the alert that ends a connection: level warning, close_notify (RFC 8446, 5.1 and 6).
const ALERT: u8 = 21;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// Types of handshake messages (RFC 8446, 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The kernel has no keys, or not all: nothing may be read or written.
    NoKeys,
    Open,
    /// The other end has said that it sends no more.
    PeerClosed,
}

/// What a record of another type than data means for us.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Nothing,
    End,
}

/// A TCP socket with kernel TLS.
#[derive(Debug)]
pub struct KernelStream {
    socket: TcpStream,
    phase: Phase,
    /// close_notify has been sent, or could not be.
    said_goodbye: bool,
    state: KernelTlsState,
}

impl KernelStream {
    /// Unusable until [`begin`](Self::begin).
    pub(super) fn without_keys(socket: TcpStream, state: KernelTlsState) -> Self {
        Self { socket, phase: Phase::NoKeys, said_goodbye: false, state }
    }

    /// Takes over from the library. If that fails the stream stays unusable, since the library has given its keys away.
    pub(in crate::net) fn begin(
        &mut self,
        version: Version,
        cipher: Cipher,
        secrets: Result<ExtractedSecrets, rustls::Error>,
    ) -> Result<(), WhyNot> {
        install_keys(&self.socket, version, cipher, secrets).map_err(WhyNot::Lost)?;
        self.phase = Phase::Open;
        Ok(())
    }

    /// A descriptor that another process has given to the kernel. It is believed only as far as the kernel confirms it: to
    /// write to a socket without TLS what is meant for TLS must be impossible.
    pub(in crate::net) fn adopt(descriptor: OwnedFd, state: KernelTlsState) -> io::Result<Self> {
        let unknown = || invalid("a version or cipher suite of TLS that kernel TLS does not have");
        let (version, cipher) = state.kernel_names().ok_or_else(unknown)?;
        for direction in [sys::KernelTlsDirection::Send, sys::KernelTlsDirection::Receive] {
            let found = sys::kernel_tls_parameters(&descriptor, direction).map_err(|error| {
                io::Error::new(error.kind(), format!("the socket has no kernel TLS in both directions: {error}"))
            })?;
            if found != (version.number(), cipher.number()) {
                return Err(invalid("the socket's kernel TLS has another version or cipher than was said"));
            }
        }
        let socket = std::net::TcpStream::from(descriptor);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: TcpStream::from_std(socket)?, phase: Phase::Open, said_goodbye: false, state })
    }

    pub(in crate::net) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(in crate::net) fn state(&self) -> &KernelTlsState {
        &self.state
    }

    /// Neither end has begun to close it.
    pub(in crate::net) fn is_open(&self) -> bool {
        self.phase == Phase::Open && !self.said_goodbye
    }

    pub(in crate::net) fn tls(&self) -> (ProtocolVersion, CipherSuite) {
        (self.state.protocol.into(), self.state.suite.into())
    }

    pub(in crate::net) fn local_addr(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    pub(in crate::net) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.state.unread.is_empty() || self.phase != Phase::Open {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    fn give_unread(&mut self, buf: &mut ReadBuf<'_>) {
        let n = self.state.unread.len().min(buf.remaining());
        buf.put_slice(self.state.unread.get(..n).unwrap_or_default());
        self.state.unread.drain(..n);
        if self.state.unread.is_empty() {
            self.state.unread = Vec::new();
        }
    }

    /// Fetches a record with its type. Data is put with what is unread.
    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Meaning>> {
        // Alerts have two bytes; of handshake messages the first says enough, and the rest comes as another message of the same
        // kind, which is judged like it.
        let mut bytes = [0; 1024];
        let (n, kind) = loop {
            let socket = &self.socket;
            match socket.try_io(Interest::READABLE, || receive_record(socket, &mut bytes)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.socket.poll_read_ready(cx))?,
                result => break result?,
            }
        };
        let bytes = bytes.get(..n).unwrap_or_default();
        if kind == Some(TlsGetRecordType::ApplicationData) {
            self.state.unread.extend_from_slice(bytes);
        }
        Poll::Ready(meaning(self.state.role, kind, bytes))
    }
}

fn receive_record(socket: &TcpStream, bytes: &mut [u8]) -> io::Result<(usize, Option<TlsGetRecordType>)> {
    let mut control = nix::cmsg_space!(u8);
    let mut parts = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let kind = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::TlsGetRecordType(kind) => Some(kind),
        _ => None,
    });
    Ok((message.bytes, kind))
}

fn meaning(role: TlsRole, kind: Option<TlsGetRecordType>, bytes: &[u8]) -> io::Result<Meaning> {
    match (kind, bytes) {
        (Some(TlsGetRecordType::ApplicationData), _) => Ok(Meaning::Nothing),
        (None, []) => Err(cut_off()),
        (Some(TlsGetRecordType::Alert), &[_, description]) => match AlertDescription::from(description) {
            AlertDescription::CloseNotify => Ok(Meaning::End),
            AlertDescription::UserCanceled => Ok(Meaning::Nothing),
            alert => Err(invalid(format!("the other end reports a TLS error: {alert:?}"))),
        },
        (Some(TlsGetRecordType::Handshake), &[NEW_SESSION_TICKET, ..]) if role == TlsRole::Client => {
            Ok(Meaning::Nothing)
        }
        (Some(TlsGetRecordType::Handshake), &[KEY_UPDATE, ..]) => Err(invalid(
            "the other end has changed its TLS keys (KeyUpdate), which a connection cannot follow that has been handed over \
             with kernel TLS",
        )),
        (kind, _) => {
            Err(invalid(format!("a TLS record of an unexpected kind ({kind:?}) on a connection with kernel TLS")))
        }
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other end closed the connection without TLS close_notify")
}

impl AsyncRead for KernelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.state.unread.is_empty() {
                this.give_unread(buf);
                return Poll::Ready(Ok(()));
            }
            match this.phase {
                Phase::Open => {}
                Phase::PeerClosed => return Poll::Ready(Ok(())),
                Phase::NoKeys => return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            }
            let before = buf.filled().len();
            match ready!(Pin::new(&mut this.socket).poll_read(cx, buf)) {
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => {
                    if ready!(this.poll_record(cx))? == Meaning::End {
                        this.phase = Phase::PeerClosed;
                    }
                }
                Ok(()) if buf.filled().len() == before && buf.remaining() > 0 => return Poll::Ready(Err(cut_off())),
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncWrite for KernelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.phase == Phase::NoKeys || self.said_goodbye {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // There is no buffer of ours.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.phase != Phase::NoKeys && !this.said_goodbye {
            let socket = &this.socket;
            let sent = socket.try_io(Interest::WRITABLE, || sys::send_tls_record(socket, ALERT, &CLOSE_NOTIFY));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(this.socket.poll_write_ready(cx))?,
                // If it cannot be sent, the other end is gone, or sees an end without it.
                _ => this.said_goodbye = true,
            }
        }
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(description: u8) -> io::Result<Meaning> {
        meaning(TlsRole::Server, Some(TlsGetRecordType::Alert), &[1, description])
    }

    fn handshake(role: TlsRole, kind: u8) -> io::Result<Meaning> {
        meaning(role, Some(TlsGetRecordType::Handshake), &[kind, 0, 0, 1, 0])
    }

    #[test]
    fn records_that_are_not_data() {
        assert_eq!(alert(0).unwrap(), Meaning::End);
        assert_eq!(alert(90).unwrap(), Meaning::Nothing);
        assert!(alert(20).unwrap_err().to_string().ends_with("BadRecordMac"));
        assert_eq!(handshake(TlsRole::Client, 4).unwrap(), Meaning::Nothing);
        assert!(handshake(TlsRole::Server, 4).unwrap_err().to_string().contains("unexpected kind"));
        for role in [TlsRole::Client, TlsRole::Server] {
            assert!(handshake(role, 24).unwrap_err().to_string().contains("KeyUpdate"));
            assert!(handshake(role, 1).is_err());
            assert!(meaning(role, Some(TlsGetRecordType::Unknown(99)), b"x").is_err());
            assert!(meaning(role, Some(TlsGetRecordType::Alert), b"x").is_err());
            assert_eq!(meaning(role, None, b"").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
