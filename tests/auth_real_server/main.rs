//! The login machines against the real thing: our server side against `psql` (libpq), our client side against a
//! PostgreSQL server, with and without TLS.
#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

mod postgres;
mod wire;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use pgtandem::auth::{
    Accepted, Channel, Credential, Evidence, LoginParams, Md5Secret, Method, PassThrough, Refusal, ScramSecret, Secret,
    SecretKind,
};
use postgres::{PASSWORDS, Server};
use wire::{entropy, log_in, receive_login, tls_accept, tls_connect};
use zeroize::Zeroizing;

fn password(word: &[u8]) -> Credential {
    Credential::Password(Zeroizing::new(word.to_vec()))
}

#[test]
fn logs_in_to_a_server_by_every_method() {
    let server = Server::start();
    let over_socket = |user: &str, credential| {
        let mut stream = server.unix();
        log_in(&mut stream, user, credential, Channel::Clear)
    };
    assert_eq!(over_socket("postgres", Credential::None), Ok(()));
    for (method, user) in [("password", "clear_foo"), ("md5", "md5_foo"), ("scram-sha-256", "scram0")] {
        assert_eq!(over_socket(user, password(b"foo")), Ok(()), "{method}");
        let refused = over_socket(user, password(b"Foo")).unwrap_err();
        assert!(refused.contains("password authentication failed for user"), "{method}: {refused}");
    }
    let secret = Md5Secret::from_password(b"foo", b"md5_foo");
    assert_eq!(over_socket("md5_foo", Credential::Md5(secret.clone())), Ok(()));
    assert!(over_socket("scram0", Credential::Md5(secret)).unwrap_err().contains("wrong password type"));
    for (number, word) in PASSWORDS.iter().enumerate() {
        let user = format!("scram{number}");
        assert_eq!(over_socket(&user, password(word.as_bytes())), Ok(()), "{word:?}");
        let secret = server.secret_of(&user);
        let iterations = secret.iterations();
        let again = ScramSecret::from_password(word.as_bytes(), secret.salt(), iterations);
        assert_eq!(again, secret, "PostgreSQL's own secret for {word:?}");
    }
}

#[test]
fn binds_its_login_to_the_tls_channel_of_a_server() {
    let server = Server::start();
    let connect = || tls_connect(TcpStream::connect(("127.0.0.1", server.port)).unwrap());
    let bound = |hash: Option<Vec<u8>>| {
        let mut stream = connect();
        log_in(&mut stream, "scram0", password(b"foo"), Channel::Tls(hash))
    };
    assert_eq!(bound(Some(server.certificate_hash())), Ok(()));
    assert_eq!(bound(None), Ok(()));
    assert!(bound(Some(vec![0; 32])).unwrap_err().contains("channel binding check failed"));
    // "We could have bound it" is no reason to refuse us for a server that did not offer it.
    let mut clear = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    assert_eq!(log_in(&mut clear, "scram0", password(b"foo"), Channel::Tls(Some(vec![0; 32]))), Ok(()));
}

/// One `psql` that logs in to us; what we decided, and what it printed if it failed.
struct Visit<'a> {
    method: Method,
    secret: Option<&'a Secret>,
    word: &'a [u8],
    tls: Option<&'a Server>,
    options: &'a str,
}

impl Visit<'_> {
    fn run(&self, psql: &std::path::Path) -> (Result<Box<Accepted>, Box<Refusal>>, Result<(), String>) {
        let directory = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let place = match self.tls {
            Some(_) => format!("host=127.0.0.1 port={} sslmode=require", tcp.local_addr().unwrap().port()),
            None => format!("host={} port=5432", directory.path().display()),
        };
        let visitor = Command::new(psql)
            .args([
                "-X",
                "-w",
                "-c",
                "select",
                &format!("{place} user=joe dbname=d connect_timeout=10 {}", self.options),
            ])
            .env("PGPASSWORD", std::ffi::OsStr::from_bytes(self.word))
            .env("PGGSSENCMODE", "disable")
            .env_remove("PGSERVICE")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let verdict = match self.tls {
            Some(server) => {
                let mut stream = tls_accept(tcp.accept().unwrap().0, server);
                self.receive(&mut stream, Channel::Tls(Some(server.certificate_hash())))
            }
            None => self.receive(&mut unix.accept().unwrap().0, Channel::Clear),
        };
        let output = visitor.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (verdict, if output.status.success() { Ok(()) } else { Err(said) })
    }

    fn receive(&self, stream: &mut (impl Read + Write), channel: Channel) -> Result<Box<Accepted>, Box<Refusal>> {
        receive_login(
            stream,
            LoginParams {
                method: self.method,
                user: b"joe",
                secret: self.secret,
                cached: None,
                mock_kind: SecretKind::Plain,
                scram_iterations: NonZeroU32::new(4096).unwrap(),
                channel,
                evidence: Evidence::None,
                entropy: entropy(),
            },
        )
    }
}

#[test]
fn lets_libpq_in_and_keeps_it_out() {
    let server = Server::start();
    let psql = server.program("psql");
    for word in PASSWORDS {
        let word = word.as_bytes();
        let salt = b"0123456789abcdef";
        let secrets = [
            Secret::Plain(Zeroizing::new(word.to_vec())),
            Secret::Scram(ScramSecret::from_password(word, salt, NonZeroU32::new(4096).unwrap())),
            Secret::Md5(Md5Secret::from_password(word, b"joe")),
        ];
        for (method, secrets) in
            [(Method::Plain, &secrets[..]), (Method::Md5, &secrets[..]), (Method::ScramSha256, &secrets[..2])]
        {
            for secret in secrets {
                let visit = Visit { method, secret: Some(secret), word, tls: None, options: "" };
                let (verdict, said) = visit.run(&psql);
                assert!(verdict.is_ok() && said.is_ok(), "{method:?} {secret:?}: {verdict:?} {said:?}");
            }
        }
    }
    let secret = Secret::Plain(Zeroizing::new(b"foo".to_vec()));
    for (method, text) in [
        (Method::Plain, "password authentication failed"),
        (Method::Md5, "password authentication failed"),
        (Method::ScramSha256, "SASL authentication failed"),
    ] {
        for secret in [Some(&secret), None] {
            let (verdict, said) = Visit { method, secret, word: b"bar", tls: None, options: "" }.run(&psql);
            assert!(verdict.is_err() && said.unwrap_err().contains(text), "{method:?}");
        }
    }
}

#[test]
fn binds_the_login_of_libpq_to_the_tls_channel() {
    let server = Server::start();
    let psql = server.program("psql");
    let secret = Secret::Plain(Zeroizing::new(b"foo".to_vec()));
    let visit =
        Visit { method: Method::ScramSha256, secret: Some(&secret), word: b"foo", tls: Some(&server), options: "" };
    for (method, options) in [
        (Method::ScramSha256, "channel_binding=require"),
        (Method::ScramSha256, "channel_binding=disable"),
        (Method::ScramSha256Plus, "channel_binding=prefer"),
    ] {
        let (verdict, said) = Visit { method, options, ..visit }.run(&psql);
        assert!(verdict.is_ok() && said.is_ok(), "{options}: {verdict:?} {said:?}");
    }
}

#[test]
fn passes_the_keys_of_libpq_on_to_the_server() {
    let server = Server::start();
    let secret = Secret::Scram(server.secret_of("scram0"));
    let visit =
        Visit { method: Method::ScramSha256, secret: Some(&secret), word: b"foo", tls: Some(&server), options: "" };
    let (verdict, _) = visit.run(&server.program("psql"));
    let keys: PassThrough = verdict.unwrap().pass_through.unwrap();
    let credential = Credential::choose(Some(&secret), Some(&keys));
    assert_eq!(log_in(&mut server.unix(), "scram0", credential.clone(), Channel::Clear), Ok(()));
    let mut stream = tls_connect(TcpStream::connect(("127.0.0.1", server.port)).unwrap());
    assert_eq!(log_in(&mut stream, "scram0", credential, Channel::Tls(Some(server.certificate_hash()))), Ok(()));
}
