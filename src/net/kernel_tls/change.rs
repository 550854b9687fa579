//! The change of a connection from the TLS library to the kernel.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::{ConnectionCommon, ExtractedSecrets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::keys::{Direction, Keys};
use super::probe::attach;
use super::{Cipher, KernelStream, KernelTlsState, Support, TlsRole, Version, WhyNot};
use crate::net::socket::{Socket, TlsSocket};

/// Reads no further than the end of the record under way.
struct ToRecordEnd<'a, 'b> {
    socket: &'a mut TlsSocket,
    cx: &'a mut Context<'b>,
}

impl Read for ToRecordEnd<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = self.socket.missing().min(buf.len());
        let mut read = ReadBuf::new(buf.get_mut(..most).unwrap_or_default());
        match Pin::new(&mut *self.socket).poll_read(self.cx, &mut read) {
            Poll::Ready(result) => result.map(|()| read.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

struct Out<'a, 'b> {
    socket: &'a mut TlsSocket,
    cx: &'a mut Context<'b>,
}

impl Out<'_, '_> {
    fn result(poll: Poll<io::Result<usize>>) -> io::Result<usize> {
        match poll {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Out<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Self::result(Pin::new(&mut *self.socket).poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::result(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the rest of a record of which the library has the beginning.
fn complete_record<D>(
    socket: &mut TlsSocket,
    session: &mut ConnectionCommon<D>,
    cx: &mut Context<'_>,
) -> Result<(), WhyNot> {
    while socket.missing() > 0 {
        match session.read_tls(&mut ToRecordEnd { socket, cx }) {
            Ok(0) => return Err(WhyNot::Closing),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(WhyNot::MidRecord),
            // The library's word for: read first what has been decrypted.
            Err(error) if error.kind() == io::ErrorKind::Other => return Err(WhyNot::Unread),
            Err(_) => return Err(WhyNot::Closing),
        }
        session.process_new_packets().map_err(|_| WhyNot::Closing)?;
    }
    Ok(())
}

/// Sends everything that the library has ready.
fn send_all<D>(socket: &mut TlsSocket, session: &mut ConnectionCommon<D>, cx: &mut Context<'_>) -> Result<(), WhyNot> {
    // The answer to a KeyUpdate waits in the library for the next data, already with the key that is no longer extracted. Writing
    // nothing brings it out and sends no record of its own.
    session.writer().write(&[]).map_err(|_| WhyNot::Closing)?;
    while session.wants_write() {
        match session.write_tls(&mut Out { socket, cx }) {
            Ok(0) => return Err(WhyNot::Closing),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(WhyNot::Unsent),
            Err(_) => return Err(WhyNot::Closing),
        }
    }
    Ok(())
}

/// Everything that can fail without harm. Afterwards the library holds nothing of the connection but its keys, and the returned
/// stream has the same socket (another descriptor of it), no keys, and what the library had decrypted.
pub(in crate::net) fn prepare<D>(
    role: TlsRole,
    (socket, session): (&mut TlsSocket, &mut ConnectionCommon<D>),
    support: &Support,
    cx: &mut Context<'_>,
) -> Result<Prepared, WhyNot> {
    if session.is_handshaking() {
        return Err(WhyNot::Handshake);
    }
    if !socket.is_extractable() {
        return Err(WhyNot::Locked);
    }
    let (Some(protocol), Some(suite)) = (session.protocol_version(), session.negotiated_cipher_suite()) else {
        return Err(WhyNot::Handshake);
    };
    let suite = suite.suite();
    let known = Version::of(protocol).zip(Cipher::of(suite)).filter(|&(version, cipher)| support.has(version, cipher));
    let (version, cipher) = known.ok_or_else(|| WhyNot::Cipher(format!("{suite:?} with {protocol:?}")))?;
    if !matches!(socket.socket(), Socket::Tcp(_)) {
        return Err(WhyNot::NotTcp);
    }
    complete_record(socket, session, cx)?;
    // Also says whether the library has given the connection up.
    let state = session.process_new_packets().map_err(|_| WhyNot::Closing)?;
    if state.peer_has_closed() {
        return Err(WhyNot::Closing);
    }
    send_all(socket, session, cx)?;
    attach(socket.socket())?;
    let refused = |error: io::Error| WhyNot::Refused(format!("cannot duplicate the descriptor: {error}"));
    let descriptor = socket.socket().as_fd().try_clone_to_owned().map_err(refused)?;
    let tcp = TcpStream::from_std(std::net::TcpStream::from(descriptor)).map_err(refused)?;
    let mut unread = Vec::new();
    // Ends with WouldBlock when all has been read, which is no failure, and leaves in the vector what came before.
    let _ = session.reader().read_to_end(&mut unread);
    let state = KernelTlsState { role, protocol: protocol.into(), suite: suite.into(), unread };
    Ok(Prepared { stream: KernelStream::without_keys(tcp, state), version, cipher })
}

/// A connection that is about to change.
pub(in crate::net) struct Prepared {
    pub(in crate::net) stream: KernelStream,
    pub(in crate::net) version: Version,
    pub(in crate::net) cipher: Cipher,
}

/// Gives the keys to the kernel, in both directions.
pub(super) fn install_keys(
    socket: &impl AsFd,
    version: Version,
    cipher: Cipher,
    secrets: Result<ExtractedSecrets, rustls::Error>,
) -> Result<(), String> {
    let secrets = secrets.map_err(|error| error.to_string())?;
    let mismatch = || "the library's keys are not those of the cipher".to_owned();
    let send = Keys::new(version, cipher, Direction::Send, &secrets.tx).ok_or_else(mismatch)?;
    let receive = Keys::new(version, cipher, Direction::Receive, &secrets.rx).ok_or_else(mismatch)?;
    send.install(socket, Direction::Send).map_err(|error| error.to_string())?;
    receive.install(socket, Direction::Receive).map_err(|error| error.to_string())
}
