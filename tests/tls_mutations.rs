//! Certificates with random damage: nothing may panic, and nothing damaged may pass for verified.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is a test")]

mod tls_pki;

use std::sync::{Arc, OnceLock};

use base64::Engine;
use pgtandem::tls::{SslMode, certificate_names_user, peer_common_name, server_end_point_hash};
use proptest::prelude::*;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tls_pki::{ClientSide, File, ServerSide, der, handshake_with, read};

/// One change to a run of bytes.
#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Swap(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        (any::<prop::sample::Index>(), 0_u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, value)| Damage::Insert(at, value)),
        any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(a, b)| Damage::Swap(a, b)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match damage {
        Damage::Set(at, value) => bytes[at.index(length)] = *value,
        Damage::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
        Damage::Cut(at) => bytes.truncate(at.index(length)),
        Damage::Insert(at, value) => bytes.insert(at.index(length), *value),
        Damage::Swap(a, b) => bytes.swap(a.index(length), b.index(length)),
    }
}

fn pem(der: &[u8]) -> Vec<u8> {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n").into_bytes()
}

fn key_of(pair: &str) -> Arc<dyn SigningKey> {
    let key = PrivateKeyDer::from_pem_slice(&read(&format!("{pair}.key"))).unwrap();
    rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap()
}

/// A server that sends this certificate, whatever it is.
fn showing(chain: Vec<Vec<u8>>, key: &Arc<dyn SigningKey>) -> Arc<ServerConfig> {
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, Arc::clone(key)));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver)))
}

/// Our side for one mode, built once.
fn client(mode: SslMode, ca: &'static str) -> Arc<ClientConfig> {
    ClientSide::new(mode, Some(ca)).build().unwrap().dial("localhost").unwrap().0
}

struct Fixture {
    leaf: Vec<u8>,
    key: Arc<dyn SigningKey>,
    intermediate: Vec<u8>,
    strict: Arc<ClientConfig>,
    lax: Arc<ClientConfig>,
}

/// A certificate with extensions under an intermediate with extensions.
fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| Fixture {
        leaf: der("permitted.crt"),
        key: key_of("permitted"),
        intermediate: der("only.crt"),
        strict: client(SslMode::VerifyCa, "ca"),
        lax: client(SslMode::Require, "ca"),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_certificates_are_never_taken_for_verified(changes in proptest::collection::vec(damage(), 1..4), which in any::<bool>()) {
        let fixture = fixture();
        let name = || "localhost".try_into().unwrap();
        let (mut leaf, mut intermediate) = (fixture.leaf.clone(), fixture.intermediate.clone());
        let target = if which { &mut leaf } else { &mut intermediate };
        changes.iter().for_each(|change| apply(target, change));
        let untouched = leaf == fixture.leaf && intermediate == fixture.intermediate;
        let _ = (peer_common_name(&leaf), certificate_names_user(&leaf, "x"), server_end_point_hash(&leaf));
        let server = showing(vec![leaf, intermediate], &fixture.key);
        let outcome = handshake_with(Arc::clone(&server), Arc::clone(&fixture.strict), name());
        prop_assert_eq!(outcome.is_ok(), untouched);
        let _ = handshake_with(server, Arc::clone(&fixture.lax), name());
    }

    #[test]
    fn damaged_files_never_panic(changes in proptest::collection::vec(damage(), 1..6), encoded in any::<bool>()) {
        let fixture = fixture();
        let bytes = if encoded {
            let mut file = pem(&fixture.intermediate);
            changes.iter().for_each(|change| apply(&mut file, change));
            file
        } else {
            let mut certificate = fixture.intermediate.clone();
            changes.iter().for_each(|change| apply(&mut certificate, change));
            pem(&certificate)
        };
        let file = File { path: "damaged.crt".into(), bytes };
        let mut server = ServerSide::new("v1").verifying(SslMode::VerifyFull, "ca");
        server.ca = Some(file.clone());
        let _ = server.build();
        server.cert = file.clone();
        let _ = server.build();
        let mut client = ClientSide::new(SslMode::VerifyFull, Some("ca"));
        client.ca = Some(file);
        let _ = client.build();
    }

    #[test]
    fn damaged_keys_never_panic(changes in proptest::collection::vec(damage(), 1..4)) {
        let mut server = ServerSide::new("v1");
        changes.iter().for_each(|change| apply(&mut server.key.bytes, change));
        let _ = server.build();
    }
}

/// A peer may send many certificates that may all have issued one another; the work for them is bounded.
#[test]
fn tangled_chains_cost_little() {
    let name = || "localhost".try_into().unwrap();
    let tangle: Vec<Vec<u8>> = (1..=12).map(|index| der(&format!("tangle{index}.crt"))).collect();
    let chain = [vec![der("tangled.crt")], tangle].concat();
    let server = showing(chain, &key_of("tangled"));
    let failed = handshake_with(Arc::clone(&server), client(SslMode::VerifyCa, "other"), name()).unwrap_err();
    assert!(failed.text().contains("too tangled"), "{}", failed.text());
    assert!(handshake_with(server, client(SslMode::VerifyCa, "tangle7"), name()).is_ok());
    // Impostors of the CA do not get in the way of the right one.
    let chain = [vec![der("v1.crt")], vec![der("impostor.crt"); 60]].concat();
    let server = showing(chain, &key_of("v1"));
    assert!(handshake_with(server, client(SslMode::VerifyCa, "ca"), name()).is_ok());
}
