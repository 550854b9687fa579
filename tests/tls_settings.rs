//! What the settings and files must be like, and what is said when they are not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is a test")]

mod tls_pki;

use pgtandem::tls::{SslMode, server_end_point_hash};
use tls_pki::{ClientSide, File, ServerSide, der, path, read};

fn with_key(cert: &str, key: &str) -> ServerSide {
    let mut side = ServerSide::new("v1");
    side.cert = File::of(cert);
    side.key = File::of(key);
    side
}

fn refusal(side: &ServerSide) -> String {
    side.build().unwrap_err().to_string()
}

#[test]
fn key_and_certificate_must_belong_together() {
    for (cert, key) in
        [("v1.crt", "san.key"), ("rsa.crt", "v1.key"), ("v1.crt", "rsa.key"), ("rsa.crt", "selfsigned.key")]
    {
        let text = refusal(&with_key(cert, key));
        assert!(text.contains("private/public key mismatch") && text.contains(cert) && text.contains(key), "{text}");
        assert!(text.contains("client_tls_key_file") && text.contains("client_tls_cert_file"), "{text}");
    }
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    for (key, part) in [
        ("encrypted.key", "encrypted"),
        ("encryptedrsa.key", "encrypted"),
        ("smallrsa.key", "2048"),
        ("v1.crt", "no private key found, only: CERTIFICATE"),
        ("v1.ext", ""),
    ] {
        if !path(key).exists() {
            continue;
        }
        let text = refusal(&with_key("v1.crt", key));
        assert!(text.starts_with(&format!("client_tls_key_file \"{key}\": ")) && text.contains(part), "{text}");
    }
}

#[test]
fn certificate_files_without_a_certificate_say_so() {
    let text = refusal(&with_key("v1.key", "v1.key"));
    assert!(text.starts_with("client_tls_cert_file \"v1.key\": no certificate found, only: EC PARAMETERS"), "{text}");
    let mut side = ServerSide::new("v1");
    side.cert.bytes = b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n".to_vec();
    assert!(refusal(&side).contains("certificate 1 of the file cannot be read"));
    side.cert.bytes = der("v1.crt");
    assert!(refusal(&side).contains("DER"));
}

#[test]
fn verifying_modes_need_a_ca_file() {
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        let mut side = ServerSide::new("v1");
        side.mode = mode;
        assert!(refusal(&side).contains("client_tls_sslmode requires client_tls_ca_file"));
        let text = ClientSide::new(mode, None).build().unwrap_err().to_string();
        assert!(text.starts_with("server_tls_ca_file must be set"), "{text}");
    }
    let mut side = ServerSide::new("v1").verifying(SslMode::Require, "ca");
    side.ca = Some(File { path: "empty.crt".into(), bytes: Vec::new() });
    assert!(refusal(&side).contains("client_tls_ca_file \"empty.crt\": the file is empty"));
}

#[test]
fn settings_are_named_in_errors() {
    let mut side = ServerSide::new("v1");
    side.tls13_ciphers = "unknown";
    assert!(refusal(&side).starts_with("failed to set the TLSv1.3 cipher suites: client_tls13_ciphers = unknown"));
    let mut side = ServerSide::new("v1");
    side.ciphers = "RC4";
    assert!(refusal(&side).starts_with("invalid client_tls_ciphers: RC4"));
    assert!(refusal(&ServerSide::new("v1").protocols("tlsv1.0")).contains("client_tls_protocols"));
}

#[test]
fn old_protocols_towards_servers_load_but_do_not_dial() {
    let connector = ClientSide::new(SslMode::Prefer, None).protocols("tlsv1.0").build().unwrap();
    assert!(connector.unusable().is_some_and(|error| error.to_string().contains("RFC 8996")));
    assert!(connector.dial("localhost").is_err());
    assert!(ClientSide::new(SslMode::Prefer, None).protocols("nonsense").build().is_err());
}

#[test]
fn certificates_of_a_ca_file_that_cannot_be_read_are_left_out_with_a_warning() {
    let mut side = ServerSide::new("v1").verifying(SslMode::VerifyFull, "ca");
    assert!(side.build().unwrap().warnings().is_empty());
    let broken = b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    side.ca.as_mut().unwrap().bytes.splice(0..0, broken.iter().copied());
    let acceptor = side.build().unwrap();
    assert_eq!(
        acceptor.warnings(),
        ["client_tls_ca_file \"ca.crt\": 1 of its 2 certificates cannot be read and are left out"]
    );
    let days_left = (acceptor.expires_at().unwrap() - i64::try_from(tls_pki::now()).unwrap()) / 86_400;
    assert!((998..=1000).contains(&days_left), "{days_left}");
}

#[test]
fn our_certificate_towards_servers_needs_its_key() {
    let mut side = ClientSide::new(SslMode::Prefer, None).with_pair("v1user");
    assert!(side.build().is_ok());
    side.key = None;
    assert!(side.build().unwrap_err().to_string().starts_with("server_tls_key_file must be set"));
    side.key = Some(File::of("v1.key"));
    assert!(side.build().unwrap_err().to_string().contains("server_tls_cert_file"));
}

#[test]
fn changes_of_settings_or_contents_are_seen() {
    let base = ClientSide::new(SslMode::VerifyCa, Some("ca"));
    let built = base.build().unwrap();
    assert!(built.same_settings(&base.build().unwrap()));
    let mut contents = base.clone();
    contents.ca = Some(File { path: "ca.crt".into(), bytes: read("other.crt") });
    for other in [
        contents,
        base.clone().protocols("tlsv1.3"),
        base.clone().with_pair("v1user"),
        ClientSide::new(SslMode::VerifyFull, Some("ca")),
    ] {
        assert!(!built.same_settings(&other.build().unwrap()));
    }
}

/// The digest that the openssl program computes over a certificate.
fn openssl_digest(name: &str, hash: &str) -> Vec<u8> {
    let output = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", &format!("-{hash}"), "-in"])
        .arg(path(name))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, digits) = text.trim().split_once('=').unwrap();
    digits.split(':').map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn channel_binding_hashes_follow_the_signature() {
    for (name, hash) in [
        ("v1.crt", "sha256"),
        ("belowrsa.crt", "sha384"),
        ("pss.crt", "sha256"),
        ("sha1.crt", "sha256"),
        ("selfsigned.crt", "sha256"),
        ("ed25519.crt", "sha256"),
    ] {
        assert_eq!(server_end_point_hash(&der(name)).unwrap(), openssl_digest(name, hash), "{name}");
    }
    assert_eq!(server_end_point_hash(&der("belowed.crt")), None, "Ed25519 has no hash of its own");
    let acceptor = ServerSide::new("deepreversed").build().unwrap();
    assert_eq!(acceptor.server_end_point().unwrap(), openssl_digest("deep.crt", "sha256"));
}
