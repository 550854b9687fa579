//! A connected socket, TCP or Unix, and the same beneath TLS.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::stream::Peer;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Socket {
    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::Tcp(tcp) => Peer::of_tcp(tcp),
            Self::Unix(unix) => {
                let cred = unix.peer_cred().ok();
                Peer::Unix { pid: cred.and_then(|c| c.pid()), uid: cred.map(|c| c.uid()) }
            }
        }
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx),
            Self::Unix(unix) => unix.poll_read_ready(cx),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have no buffer of ours.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}

/// A socket beneath TLS: gives first what was read before TLS began, and knows whether what it gave ends with a whole record.
#[derive(Debug)]
pub struct TlsSocket {
    socket: Socket,
    prefix: Box<[u8]>,
    boundary: Boundary,
    /// May the TLS library give its secrets away?
    extractable: bool,
}

impl TlsSocket {
    pub(super) fn new(socket: Socket, prefix: Vec<u8>, extractable: bool) -> Self {
        Self { socket, prefix: prefix.into(), boundary: Boundary::default(), extractable }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn is_extractable(&self) -> bool {
        self.extractable
    }

    /// Bytes that the record under way certainly still lacks; 0 between records. What [`prefix`](Self::new) holds counts as
    /// not yet read.
    pub(super) fn missing(&self) -> usize {
        if self.prefix.is_empty() { self.boundary.missing() } else { 1 }
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = if this.prefix.is_empty() {
            Pin::new(&mut this.socket).poll_read(cx, buf)
        } else {
            let n = this.prefix.len().min(buf.remaining());
            buf.put_slice(this.prefix.get(..n).unwrap_or_default());
            this.prefix = this.prefix.get(n..).unwrap_or_default().into();
            Poll::Ready(Ok(()))
        };
        this.boundary.advance(buf.filled().get(before..).unwrap_or_default());
        result
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Bytes of a record's header: type, version, length (RFC 8446, 5.1; RFC 5246, 6.2.1).
const HEADER_LEN: u8 = 5;

/// Follows the records in a stream of bytes. The TLS library does not say whether it holds the beginning of a record, and the
/// kernel, which must take over between two records, has to be told the truth.
#[derive(Debug, Default, PartialEq, Eq)]
struct Boundary {
    /// Bytes of the header that have been seen; 0 while `body` is not.
    header: u8,
    /// Bytes of the body to come. While the header is incomplete: as much of its length field as has been seen.
    body: u16,
}

impl Boundary {
    fn missing(&self) -> usize {
        usize::from(if self.header > 0 { u16::from(HEADER_LEN - self.header) } else { self.body })
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        loop {
            if self.header == 0 && self.body > 0 {
                let n = bytes.len().min(usize::from(self.body));
                self.body -= u16::try_from(n).unwrap_or(self.body);
                bytes = bytes.get(n..).unwrap_or_default();
            }
            let Some((&first, rest)) = bytes.split_first() else { return };
            bytes = rest;
            match self.header {
                3 => self.body = u16::from(first) << 8,
                4 => self.body |= u16::from(first),
                _ => {}
            }
            self.header = (self.header + 1) % HEADER_LEN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(body_len: usize) -> Vec<u8> {
        let mut record = vec![23, 3, 3];
        record.extend_from_slice(&u16::try_from(body_len).unwrap().to_be_bytes());
        // A body that looks like headers, so that nobody takes it for one.
        record.extend([23, 3, 3, 0, 7].iter().cycle().take(body_len));
        record
    }

    #[test]
    fn says_how_much_is_missing() {
        let mut boundary = Boundary::default();
        let record = record(300);
        for (seen, byte) in record.iter().enumerate() {
            let expected = match seen {
                0 => 0,
                1..5 => 5 - seen,
                _ => 305 - seen,
            };
            assert_eq!(boundary.missing(), expected, "after {seen}");
            boundary.advance(&[*byte]);
        }
        assert_eq!(boundary, Boundary::default());
    }

    proptest! {
        #[test]
        fn in_any_pieces(bodies in prop::collection::vec(prop_oneof![Just(0usize), 1usize..400, 16_000usize..17_000], 1..6),
                         cut in 1usize..5000) {
            let stream: Vec<u8> = bodies.iter().flat_map(|&len| record(len)).collect();
            let mut ends = vec![0];
            for len in &bodies {
                ends.push(ends.last().unwrap() + 5 + len);
            }
            let (mut boundary, mut seen) = (Boundary::default(), 0);
            for piece in stream.chunks(cut) {
                boundary.advance(piece);
                seen += piece.len();
                let end = *ends.iter().find(|&&end| end >= seen).unwrap();
                prop_assert_eq!(boundary.missing() == 0, end == seen);
                prop_assert!(seen + boundary.missing() <= end);
            }
        }

        #[test]
        fn a_loop_that_reads_what_is_missing_ends_with_the_record(len in 0usize..17_000, first in 1usize..17_005) {
            let record = record(len);
            let (mut boundary, mut seen) = (Boundary::default(), first.min(record.len()));
            boundary.advance(&record[..seen]);
            while boundary.missing() > 0 {
                let next = seen + boundary.missing();
                prop_assert!(next <= record.len());
                boundary.advance(&record[seen..next]);
                seen = next;
            }
            prop_assert_eq!(seen, record.len());
        }
    }
}
