//! TLS that the kernel does (Linux, kernel TLS or kTLS): a TLS connection that can be passed to another process.
//!
//! It decides when a connection may change from the TLS library to the kernel, and what the records mean that are not data. It
//! must never know what the data is, why a connection changes, or any cryptography: the library agrees on keys, the kernel
//! uses them, and they only pass through here.
//!
//! A connection is given to the kernel when it is handed over and not before. The library is quicker with small records, can
//! change keys (KeyUpdate, RFC 8446, 4.6.3) and costs the kernel no memory; the kernel's only advantage is that its TLS stays
//! with the descriptor. What is lost with the change: a peer that changes its keys afterwards is cut off (no kernel before 6.14
//! can follow), and nobody changes ours, however much is sent. OpenSSL, which most clients use, does neither of its own accord.

mod change;
mod keys;
mod probe;
mod stream;
#[cfg(test)]
mod tests;

pub use probe::{Support, load_kernel_tls};

pub(super) use change::{Prepared, prepare};
pub(super) use stream::KernelStream;

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use nix::libc;
use rustls::{CipherSuite, ProtocolVersion};

/// Which side of TLS we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsRole {
    /// The TLS server: the other end is our client.
    Server,
    /// The TLS client: the other end is our server.
    Client,
}

/// What must travel beside the descriptor of a connection whose TLS is the kernel's.
#[derive(Clone, PartialEq, Eq)]
pub struct KernelTlsState {
    /// Which side we are.
    pub role: TlsRole,
    /// The protocol version as it stands on the wire: 0x0303 (TLS 1.2) or 0x0304 (TLS 1.3).
    pub protocol: u16,
    /// The cipher suite's number (IANA, "TLS Cipher Suites"). Beside the kernel's cipher it tells how keys were agreed on, for
    /// SHOW CLIENTS.
    pub suite: u16,
    /// What was decrypted and not yet read by us: the first bytes that the connection gives.
    pub unread: Vec<u8>,
}

impl KernelTlsState {
    /// Version and cipher as kernels know them. `None`: they do not, or the two do not belong together.
    fn kernel_names(&self) -> Option<(Version, Cipher)> {
        let version = Version::of(self.protocol.into())?;
        // TLS 1.3 has suites of its own (RFC 8446, B.4).
        let is_tls13_suite = self.suite >> 8 == 0x13;
        (is_tls13_suite == (version == Version::Tls13)).then_some((version, Cipher::of(self.suite.into())?))
    }
}

impl fmt::Debug for KernelTlsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, protocol, suite, unread } = self;
        f.debug_struct("KernelTlsState")
            .field("role", role)
            .field("protocol", protocol)
            .field("suite", suite)
            // What a peer sent is nobody's business.
            .field("unread_len", &unread.len())
            .finish()
    }
}

/// In what form a stream can be passed to another process.
#[derive(Debug)]
pub enum HandOverForm<'a> {
    /// As a descriptor: there is no TLS.
    Plain(BorrowedFd<'a>),
    /// As a descriptor and this.
    KernelTls(BorrowedFd<'a>, KernelTlsState),
    /// Not as it is: TLS is done in this process ([`Stream::try_kernel_tls`](super::stream::Stream::try_kernel_tls)).
    UserTls,
}

/// Why a stream could not change to kernel TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhyNot {
    /// There is no TLS to change.
    #[error("it has no TLS")]
    NoTls,
    /// The kernel does TLS over TCP only.
    #[error("its socket is not TCP")]
    NotTcp,
    /// The hand-shake is not over. Temporary.
    #[error("its TLS hand-shake is not over")]
    Handshake,
    /// The rest of a record has not come. Temporary.
    #[error("the rest of a TLS record has not come yet")]
    MidRecord,
    /// Bytes of ours have not left. Temporary.
    #[error("not all bytes have left yet")]
    Unsent,
    /// So much is decrypted and unread that the rest of a record cannot be read. Temporary: read first.
    #[error("too much that came has not been read yet")]
    Unread,
    /// The other end, or TLS, is at its end.
    #[error("the connection is ending")]
    Closing,
    /// The TLS configuration keeps its secrets (`enable_secret_extraction`).
    #[error("its TLS configuration does not give secrets away")]
    Locked,
    /// The kernel does not know this cipher in this version of TLS.
    #[error("the kernel does not know {0}")]
    Cipher(String),
    /// The kernel refuses TLS for this socket; the stream goes on as it was.
    #[error("{0}")]
    Refused(String),
    /// The change failed half way: the stream is at its end, and everything that is done with it fails.
    #[error("the connection was lost on its change to kernel TLS: {0}")]
    Lost(String),
}

impl WhyNot {
    /// May another try, when something has been read or written, do better?
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Handshake | Self::MidRecord | Self::Unsent | Self::Unread)
    }

    /// Is the stream lost?
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

/// A cipher of both TLS versions that kernels know (linux/tls.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl Cipher {
    const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::Chacha20Poly1305];

    fn of(suite: CipherSuite) -> Option<Self> {
        match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Some(Self::Aes128Gcm),
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(Self::Aes256Gcm),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Some(Self::Chacha20Poly1305),
            _ => None,
        }
    }

    /// As linux/tls.h has it.
    fn number(self) -> u16 {
        match self {
            Self::Aes128Gcm => libc::TLS_CIPHER_AES_GCM_128,
            Self::Aes256Gcm => libc::TLS_CIPHER_AES_GCM_256,
            Self::Chacha20Poly1305 => libc::TLS_CIPHER_CHACHA20_POLY1305,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::Chacha20Poly1305 => "CHACHA20-POLY1305",
        }
    }
}

/// The versions of TLS that kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

impl Version {
    const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    fn of(version: ProtocolVersion) -> Option<Self> {
        match version {
            ProtocolVersion::TLSv1_2 => Some(Self::Tls12),
            ProtocolVersion::TLSv1_3 => Some(Self::Tls13),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        }
    }

    /// As it stands on the wire, and as linux/tls.h has it.
    fn number(self) -> u16 {
        match self {
            Self::Tls12 => 0x0303,
            Self::Tls13 => 0x0304,
        }
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}
