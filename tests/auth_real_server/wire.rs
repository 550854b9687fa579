//! The smallest drivers around the two machines: blocking streams, one message at a time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use aws_lc_rs::rand;
use pgtandem::auth::{
    AUTHENTICATION_OK, Accepted, Channel, ClientLogin, Credential, Entropy, LoginParams, Refusal, ServerLogin,
    ServerStep, Step,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection, SignatureScheme,
    StreamOwned,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use zeroize::Zeroizing;

use crate::postgres::Server;

pub(crate) fn entropy() -> Entropy {
    let mut entropy = Entropy { nonce: [0; 18], md5_salt: [0; 4], mock_key: Zeroizing::new([5; 32]) };
    rand::fill(&mut entropy.nonce).unwrap();
    rand::fill(&mut entropy.md5_salt).unwrap();
    entropy
}

fn read_body(stream: &mut impl Read) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let length = u32::from_be_bytes(length) as usize;
    assert!((4..100_000).contains(&length));
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).unwrap();
    body
}

fn read_message(stream: &mut impl Read) -> (u8, Vec<u8>) {
    let mut tag = [0];
    stream.read_exact(&mut tag).unwrap();
    (tag[0], read_body(stream))
}

fn message(tag: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [tag, &length.to_be_bytes(), body].concat()
}

/// Logs in to a server up to its first ReadyForQuery; the error is the server's message or our own fault.
pub(crate) fn log_in(
    stream: &mut (impl Read + Write),
    user: &str,
    credential: Credential,
    channel: Channel,
) -> Result<(), String> {
    let startup = format!("\0\x03\0\0user\0{user}\0database\0postgres\0\0");
    stream.write_all(&message(b"", startup.as_bytes())).unwrap();
    let mut login = ServerLogin::new(user.as_bytes(), credential, channel, &entropy());
    let mut inside = false;
    loop {
        let (tag, body) = read_message(stream);
        match tag {
            b'R' => {
                let mut step = login.on_auth(&body).map_err(|refusal| refusal.fault.text.into_owned())?;
                if let ServerStep::Derive(derivation) = &step {
                    let keys = derivation.run();
                    step = login.on_keys(&keys).unwrap();
                }
                match step {
                    ServerStep::Send(bytes) => stream.write_all(&bytes).unwrap(),
                    ServerStep::Wait | ServerStep::Derive(_) => {}
                    ServerStep::Ok => inside = true,
                }
            }
            b'E' => return Err(String::from_utf8_lossy(&body).into_owned()),
            b'Z' => {
                assert!(inside);
                return Ok(());
            }
            _ => assert!(inside, "message {tag} before the server let us in"),
        }
    }
}

/// Receives one client, lets it run one statement if it may come in.
pub(crate) fn receive_login(
    stream: &mut (impl Read + Write),
    params: LoginParams<'_>,
) -> Result<Box<Accepted>, Box<Refusal>> {
    let startup = read_body(stream);
    assert!(startup.starts_with(b"\0\x03"), "a start-up message of protocol 3");
    let (mut login, mut step) = ClientLogin::start(params);
    let verdict = loop {
        step = match step {
            Step::Send(bytes) => {
                stream.write_all(&bytes).unwrap();
                stream.flush().unwrap();
                let (tag, body) = read_message(stream);
                assert_eq!(tag, b'p');
                login.on_message(&body)
            }
            Step::Derive(derivation) => login.on_keys(&derivation.run()),
            Step::Ask(_) => login.on_answer(Err("nobody to ask".to_owned())),
            Step::Accepted(accepted) => break Ok(accepted),
            Step::Refused(refusal) => break Err(refusal),
        };
    };
    match &verdict {
        Ok(accepted) => {
            stream.write_all(&accepted.reply).unwrap();
            stream.write_all(&AUTHENTICATION_OK).unwrap();
            stream.write_all(&message(b"Z", b"I")).unwrap();
            stream.flush().unwrap();
            assert_eq!(read_message(stream).0, b'Q');
            stream.write_all(&message(b"I", b"")).unwrap();
            stream.write_all(&message(b"Z", b"I")).unwrap();
        }
        Err(refusal) => {
            let fields = format!("SFATAL\0C{}\0M{}\0\0", refusal.fault.sqlstate, refusal.fault.text);
            stream.write_all(&message(b"E", fields.as_bytes())).unwrap();
        }
    }
    stream.flush().unwrap();
    verdict
}

const SSL_REQUEST: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

pub(crate) fn tls_connect(mut stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
    stream.write_all(SSL_REQUEST).unwrap();
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"S");
    let config =
        ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

pub(crate) fn tls_accept(mut stream: TcpStream, server: &Server) -> StreamOwned<ServerConnection, TcpStream> {
    let mut request = [0; 8];
    stream.read_exact(&mut request).unwrap();
    assert_eq!(request, *SSL_REQUEST);
    stream.write_all(b"S").unwrap();
    let certificate = CertificateDer::from_pem_file(server.file("cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(server.file("key.pem")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream)
}

/// Takes every certificate: what is tested is the login, not the chain.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
