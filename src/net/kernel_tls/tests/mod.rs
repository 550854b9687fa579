//! Two ends of TLS on the loopback interface: ours, a [`Stream`], and a TLS library of which every byte can be held back.
//!
//! What is in `either_kernel` runs everywhere: where the kernel has no TLS, the change is refused and the stream goes on. What is
//! in `with_kernel_tls` needs a kernel with TLS: `tests/kernel_tls/run` boots one.

mod either_kernel;
mod with_kernel_tls;

use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Waker};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Cipher, Support, Version, WhyNot, load_kernel_tls};
use crate::net::stream::Stream;
use crate::tls::{Acceptor, AcceptorParams, Connector, ConnectorParams, PemFile, SslMode};

/// `client_tls_protocols`, `client_tls_ciphers` or `client_tls13_ciphers`, and what the kernel calls it: all that it knows.
const SUITES: [(&str, &str, (Version, Cipher)); 6] = [
    ("tlsv1.3", "TLS_AES_128_GCM_SHA256", (Version::Tls13, Cipher::Aes128Gcm)),
    ("tlsv1.3", "TLS_AES_256_GCM_SHA384", (Version::Tls13, Cipher::Aes256Gcm)),
    ("tlsv1.3", "TLS_CHACHA20_POLY1305_SHA256", (Version::Tls13, Cipher::Chacha20Poly1305)),
    ("tlsv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", (Version::Tls12, Cipher::Aes128Gcm)),
    ("tlsv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", (Version::Tls12, Cipher::Aes256Gcm)),
    ("tlsv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", (Version::Tls12, Cipher::Chacha20Poly1305)),
];

/// A certificate and its key, as PEM.
static PAIR: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args(["req", "-new", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-subj", "/CN=localhost", "-days", "30", "-keyout", "key", "-out", "crt"])
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (std::fs::read(dir.path().join("crt")).unwrap(), std::fs::read(dir.path().join("key")).unwrap())
});

/// `suite`: a TLS 1.2 or TLS 1.3 suite; empty for the default.
fn accepting(protocols: &str, suite: &str) -> Arc<ServerConfig> {
    let (cert, key) = &*PAIR;
    let (ciphers, tls13_ciphers) = if suite.starts_with("TLS_") { ("", suite) } else { (suite, "") };
    let acceptor = Acceptor::new(&AcceptorParams {
        sslmode: SslMode::Require,
        cert: PemFile { path: "crt", bytes: cert },
        key: PemFile { path: "key", bytes: key },
        ca: None,
        protocols,
        ciphers: if ciphers.is_empty() { "default" } else { ciphers },
        tls13_ciphers,
        ecdhcurve: "auto",
        dheparams: "auto",
    })
    .unwrap();
    Arc::clone(acceptor.config())
}

fn connecting() -> (Arc<ClientConfig>, ServerName<'static>) {
    let params = ConnectorParams {
        sslmode: SslMode::Require,
        ca: None,
        cert: None,
        key: None,
        protocols: "secure",
        ciphers: "default",
        tls13_ciphers: "",
    };
    Connector::new(&params).unwrap().dial("localhost").unwrap()
}

/// The other end.
struct Peer {
    tcp: TcpStream,
    session: ClientConnection,
    /// Every byte that came, and what of the data in it has not been asked for.
    seen: Vec<u8>,
    unread: Vec<u8>,
}

impl Peer {
    async fn connect(tcp: TcpStream) -> Self {
        let (config, name) = connecting();
        let session = ClientConnection::new(config, name).unwrap();
        let mut peer = Self { tcp, session, seen: Vec::new(), unread: Vec::new() };
        while peer.session.is_handshaking() || peer.session.wants_write() {
            let ready = peer.sealed();
            peer.tcp.write_all(&ready).await.unwrap();
            if peer.session.is_handshaking() {
                assert!(peer.read().await > 0, "the server hung up in the hand-shake");
            }
        }
        peer
    }

    /// What the library has ready to be sent.
    fn sealed(&mut self) -> Vec<u8> {
        let mut sealed = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    /// Records with `data`, not sent.
    fn seal(&mut self, data: &[u8]) -> Vec<u8> {
        self.session.writer().write_all(data).unwrap();
        self.sealed()
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.unwrap();
        // What was sent is there before the other end is asked about it: loopback delivers at once.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    async fn send(&mut self, data: &[u8]) {
        for piece in data.chunks(16 * 1024) {
            let sealed = self.seal(piece);
            self.tcp.write_all(&sealed).await.unwrap();
        }
    }

    /// Reads once, and returns how many bytes came.
    async fn read(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(20), self.tcp.read(&mut bytes)).await;
        let n = read.expect("nothing comes from our end").unwrap();
        self.seen.extend_from_slice(&bytes[..n]);
        let mut rest = &bytes[..n];
        while !rest.is_empty() {
            self.session.read_tls(&mut rest).unwrap();
            self.session.process_new_packets().unwrap();
            // Ends with WouldBlock when there is no more.
            let _ = self.session.reader().read_to_end(&mut self.unread);
        }
        n
    }

    async fn receive(&mut self, len: usize) -> Vec<u8> {
        while self.unread.len() < len {
            assert!(self.read().await > 0, "our end hung up");
        }
        self.unread.drain(..len).collect()
    }

    /// Waits for the end, and tells whether TLS ended first.
    async fn ends_politely(&mut self) -> bool {
        while self.read().await > 0 {}
        self.session.process_new_packets().unwrap().peer_has_closed()
    }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (connected, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), async { listener.accept().await.unwrap().0 });
    (connected.unwrap(), accepted)
}

async fn pair_with(config: Arc<ServerConfig>) -> (Stream, Peer) {
    let (far, near) = sockets().await;
    let (near, far) = tokio::join!(Stream::from(near).accept_tls(config, Vec::new()), Peer::connect(far));
    (near.unwrap(), far)
}

async fn pair(protocols: &str, suite: &str) -> (Stream, Peer) {
    pair_with(accepting(protocols, suite)).await
}

/// As if every kernel knew everything.
fn all() -> Support {
    Support { usable: SUITES.iter().map(|(.., known)| *known).collect() }
}

fn attempt(stream: &mut Stream) -> Result<(), WhyNot> {
    stream.try_kernel_tls(&all(), &mut Context::from_waker(Waker::noop()))
}

async fn read(stream: &mut Stream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut bytes)).await;
    read.expect("nothing comes from the other end").unwrap();
    bytes
}

async fn write(stream: &mut Stream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

/// Bytes that do not repeat soon.
fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 31 / 7 % 251).unwrap()).collect()
}

/// Both directions work, with little and with much.
async fn echo(stream: &mut Stream, peer: &mut Peer) {
    for len in [1, 100, 5_000, 70_000] {
        let sent = data(len);
        peer.send(&sent).await;
        assert!(read(stream, len).await == sent, "{len} bytes to us");
        write(stream, &sent).await;
        assert!(peer.receive(len).await == sent, "{len} bytes from us");
    }
}
