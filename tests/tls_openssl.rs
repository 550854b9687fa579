//! The openssl and psql programs at the other end of a loopback connection: other people's TLS against ours.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is a test")]

mod tls_pki;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use pgtandem::tls::{SslMode, failure_text};
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use tls_pki::{ClientSide, ServerSide, path};

const PATIENCE: Duration = Duration::from_secs(30);

/// What our end saw of the client's certificate, or why the handshake failed.
type Seen = Result<Option<Vec<u8>>, String>;

fn patient(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Brings the handshake to its end; with TLS 1.3 that takes one byte or EOF from a client that shows a certificate.
fn accept(side: &ServerSide, socket: TcpStream) -> Result<StreamOwned<ServerConnection, TcpStream>, String> {
    let connection = ServerConnection::new(Arc::clone(side.build().unwrap().config())).unwrap();
    let mut stream = StreamOwned::new(connection, patient(socket));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            inner.map_or_else(|| error.to_string(), failure_text)
        })?;
    }
    Ok(stream)
}

/// Serves one connection: greets, and waits for the end.
fn serve_once(side: ServerSide) -> (u16, JoinHandle<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let mut stream = accept(&side, listener.accept().unwrap().0)?;
        stream.write_all(b"hello from pgtandem\n").map_err(|error| error.to_string())?;
        let _ = stream.read(&mut [0; 64]);
        let peer = stream.conn.peer_certificates().and_then(<[_]>::first);
        Ok(peer.map(|certificate| certificate.to_vec()))
    });
    (port, thread)
}

fn s_client(port: u16, arguments: &[&str]) -> Output {
    let mut child = Command::new("openssl")
        .args(["s_client", "-verify_return_error", "-connect", &format!("127.0.0.1:{port}")])
        .args(arguments)
        .current_dir(tls_pki::dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A line of input, so that the server end sees a byte; then end of input.
    let _ = child.stdin.take().unwrap().write_all(b"x\n");
    child.wait_with_output().unwrap()
}

#[test]
fn openssl_clients_accept_our_certificates() {
    for (pair, ca) in [
        ("v1", "ca"),
        ("san", "ca"),
        ("selfsigned", "selfsigned"),
        ("selfv1", "selfv1"),
        ("deepchain", "ca"),
        ("deepreversed", "ca"),
        ("rsapkcs1", "ca"),
        ("p384", "ca"),
        ("p521", "ca"),
        ("ed25519", "ca"),
        ("pss", "rsaca"),
        ("belowrootv1", "rootv1"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let (port, thread) = serve_once(ServerSide::new(pair));
            let output = s_client(port, &[version, "-quiet", "-CAfile", &format!("{ca}.crt")]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(thread.join().unwrap(), Ok(None), "{pair} {version} {said}");
            assert!(output.stdout.starts_with(b"hello from pgtandem"), "{pair} {version} {said}");
        }
    }
}

#[test]
fn openssl_clients_take_every_curve() {
    for curve in ["prime256v1", "secp384r1", "secp521r1", "X25519"] {
        for version in ["-tls1_2", "-tls1_3"] {
            let mut side = ServerSide::new("v1");
            side.ecdhcurve = curve;
            let (port, thread) = serve_once(side);
            let output = s_client(port, &[version, "-quiet", "-CAfile", "ca.crt"]);
            assert_eq!(thread.join().unwrap(), Ok(None), "{curve} {version}");
            assert!(output.stdout.starts_with(b"hello from pgtandem"), "{curve} {version}");
        }
    }
}

#[test]
fn openssl_and_we_judge_client_certificates_alike() {
    for (pair, ca, good) in [
        ("v1user", "ca", true),
        ("user", "ca", true),
        ("selfsigned", "selfsigned", true),
        ("deepchain", "ca", true),
        ("rsa", "bundle", true),
        ("v1user", "other", false),
        ("serveronly", "ca", false),
        ("leafasca", "ca", false),
        ("toodeep", "ca", false),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let (port, thread) = serve_once(ServerSide::new("v1").verifying(SslMode::VerifyFull, ca));
            let (cert, key) = (format!("{pair}.crt"), format!("{pair}.key"));
            s_client(
                port,
                &[version, "-quiet", "-CAfile", "ca.crt", "-cert", &cert, "-key", &key, "-cert_chain", &cert],
            );
            let seen = thread.join().unwrap();
            match &seen {
                Ok(certificate) => assert!(good && certificate.is_some(), "{pair} {version}"),
                Err(text) => assert!(!good && text.starts_with("certificate verify failed"), "{pair} {version} {text}"),
            }
            let purpose = ["-purpose", "sslclient"];
            assert_eq!(openssl_verifies(&cert, ca, &purpose), good, "{pair} {ca}");
        }
    }
}

/// What `openssl verify` says of the first certificate of a file, with the rest of the file as intermediates.
fn openssl_verifies(cert: &str, ca: &str, arguments: &[&str]) -> bool {
    let output = Command::new("openssl")
        .args(["verify", "-CAfile", &format!("{ca}.crt"), "-untrusted", cert])
        .args(arguments)
        .arg(cert)
        .current_dir(tls_pki::dir())
        .output()
        .unwrap();
    output.status.success()
}

/// Ends the program when the test ends, however it ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An openssl server on a free port that sends every line back reversed.
fn s_server(arguments: &[&str]) -> (Server, u16) {
    let mut child = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-rev"])
        .args(arguments)
        .current_dir(tls_pki::dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let accepting = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with("ACCEPT")).unwrap();
    let port = accepting.rsplit(':').next().unwrap().trim().parse().unwrap();
    // The rest must be read, or the program stops when the pipe is full.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    (Server(child), port)
}

/// Connects, sends a line and returns the answer.
fn ask(side: &ClientSide, port: u16) -> Result<String, String> {
    let (config, name) = side.build().unwrap().dial(side.host).unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    let mut stream = StreamOwned::new(connection, patient(TcpStream::connect(("127.0.0.1", port)).unwrap()));
    let mut exchange = || {
        stream.write_all(b"tandem\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    };
    exchange().map_err(|error: std::io::Error| {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        inner.map_or_else(|| error.to_string(), failure_text)
    })
}

#[test]
fn we_accept_openssl_servers() {
    for (pair, ca, good) in [
        ("v1", "ca", true),
        ("selfsigned", "selfsigned", true),
        ("selfv1", "selfv1", true),
        ("ed25519", "ca", true),
        ("p521", "ca", true),
        ("pss", "rsaca", true),
        ("v1", "other", false),
        ("clientonly", "ca", false),
        ("wrongname", "ca", false),
    ] {
        let (_server, port) = s_server(&["-cert", &format!("{pair}.crt"), "-key", &format!("{pair}.key")]);
        for protocols in ["tlsv1.2", "tlsv1.3"] {
            let answer = ask(&ClientSide::new(SslMode::VerifyFull, Some(ca)).protocols(protocols), port);
            match answer {
                Ok(text) => assert!(good && text == "mednat", "{pair} {protocols} {text}"),
                Err(text) => {
                    assert!(!good && text.starts_with("certificate verify failed"), "{pair} {protocols} {text}")
                }
            }
            assert_eq!(ask(&ClientSide::new(SslMode::Require, None).protocols(protocols), port).unwrap(), "mednat");
        }
    }
}

#[test]
fn openssl_servers_accept_our_client_certificates() {
    let arguments = ["-cert", "v1.crt", "-key", "v1.key", "-CAfile", "ca.crt", "-Verify", "3", "-verify_return_error"];
    let (_server, port) = s_server(&arguments);
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        for pair in ["v1user", "deepreversed", "rsapkcs1", "ed25519"] {
            let side = ClientSide::new(SslMode::VerifyFull, Some("ca")).with_pair(pair).protocols(protocols);
            assert_eq!(ask(&side, port).as_deref(), Ok("mednat"), "{pair} {protocols}");
        }
        assert!(ask(&ClientSide::new(SslMode::VerifyFull, Some("ca")).protocols(protocols), port).is_err());
    }
}

/// The judgement of `openssl verify` and ours must be the same wherever a difference is not written down in the code.
#[test]
fn openssl_and_we_judge_server_certificates_alike() {
    const CASES: &[(&str, &str)] = &[
        ("v1", "ca"),
        ("v1", "bundle"),
        ("v1", "other"),
        ("v1", "impostor"),
        ("san", "ca"),
        ("policies", "ca"),
        ("mustca", "ca"),
        ("critical", "ca"),
        ("signonly", "ca"),
        ("anyuse", "ca"),
        ("serveronly", "ca"),
        ("clientonly", "ca"),
        ("selfsigned", "selfsigned"),
        ("selfsigned", "selfother"),
        ("selfv1", "selfv1"),
        ("underv1", "selfv1"),
        ("belowrootv1", "rootv1"),
        ("belowrsa", "rsaca"),
        ("pss", "rsaca"),
        ("belowed", "edca"),
        ("deep", "ca"),
        ("deepchain", "ca"),
        ("toodeep", "ca"),
        ("leafasca", "ca"),
        ("leafasca", "san"),
        ("v1asca", "ca"),
        ("v1asca", "v1user"),
        ("kuasca", "ca"),
        ("ekuchain", "ca"),
        ("ncgood", "ca"),
        ("ncbad", "ca"),
    ];
    for &(pair, ca) in CASES {
        let ours = tls_pki::handshake(&ServerSide::new(pair), &ClientSide::new(SslMode::VerifyCa, Some(ca)));
        let theirs = openssl_verifies(&format!("{pair}.crt"), ca, &["-purpose", "sslserver", "-auth_level", "2"]);
        assert_eq!(ours.is_ok(), theirs, "{pair} {ca}: {:?}", ours.map_err(|failed| failed.text()));
    }
}

/// Answers one psql: agrees to TLS, shakes hands, reads the startup packet and refuses the login.
fn refuse_one_login(side: ServerSide) -> (u16, JoinHandle<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let mut socket = patient(listener.accept().unwrap().0);
        let mut ssl_request = [0; 8];
        socket.read_exact(&mut ssl_request).map_err(|error| error.to_string())?;
        assert_eq!(ssl_request, [0, 0, 0, 8, 4, 210, 22, 47]);
        socket.write_all(b"S").unwrap();
        let mut stream = accept(&side, socket)?;
        let _ = stream.read(&mut [0; 1024]);
        let fields = b"SFATAL\0C08P01\0Mhello over TLS\0\0";
        let mut message = vec![b'E'];
        message.extend_from_slice(&u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
        message.extend_from_slice(fields);
        stream.write_all(&message).map_err(|error| error.to_string())?;
        stream.conn.send_close_notify();
        let _ = stream.flush();
        let peer = stream.conn.peer_certificates().and_then(<[_]>::first);
        Ok(peer.map(|certificate| certificate.to_vec()))
    });
    (port, thread)
}

#[test]
fn psql_accepts_our_certificates_and_shows_its_own() {
    if Command::new("psql").arg("--version").output().is_err() {
        return;
    }
    let psql = |port: u16, ca: &str, more: &str| {
        let file = |name: &str| path(name).display().to_string();
        let conninfo = format!(
            "host=localhost hostaddr=127.0.0.1 port={port} user=bouncer dbname=x sslmode=verify-full sslrootcert={} {more}",
            file(&format!("{ca}.crt"))
        );
        let output = Command::new("psql").env("PGSSLCRL", "").args(["-X", "-c", "", &conninfo]).output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (pair, ca) in [("v1", "ca"), ("selfsigned", "selfsigned")] {
        let (port, thread) = refuse_one_login(ServerSide::new(pair));
        let said = psql(port, ca, "sslcert=/nonexistent");
        assert_eq!(thread.join().unwrap(), Ok(None), "{said}");
        assert!(said.contains("FATAL:  hello over TLS"), "{said}");
    }
    let (port, thread) = refuse_one_login(ServerSide::new("v1").verifying(SslMode::VerifyFull, "ca"));
    let pair = format!("sslcert={} sslkey={}", path("v1user.crt").display(), path("v1user.key").display());
    let said = psql(port, "ca", &pair);
    assert_eq!(thread.join().unwrap(), Ok(Some(tls_pki::der("v1user.crt"))), "{said}");
    assert!(said.contains("FATAL:  hello over TLS"), "{said}");
}
