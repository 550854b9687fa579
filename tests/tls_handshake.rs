//! Handshakes in memory: every kind of certificate, in both roles, in every mode, with both protocol versions.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is a test")]

mod tls_pki;

use std::sync::Arc;

use pgtandem::tls::{SslMode, TlsError, certificate_names_user, openssl_name, peer_common_name, protocol_name};
use rustls::{CertificateError, Error};
use tls_pki::{ClientSide, Clock, Failed, File, ServerSide, der, handshake, handshake_with, now};

/// A certificate and the CA file that it is good for.
const GOOD: &[(&str, &str)] = &[
    ("v1", "ca"),
    ("v1", "bundle"),
    ("text", "ca"),
    ("v1pkcs8", "ca"),
    ("san", "ca"),
    ("policies", "ca"),
    ("mustca", "ca"),
    ("emptysubject", "ca"),
    ("forever", "ca"),
    ("unserial", "ca"),
    ("selfsigned", "selfsigned"),
    ("selfv1", "selfv1"),
    ("underv1", "selfv1"),
    ("belowrootv1", "rootv1"),
    ("rsa", "ca"),
    ("rsapkcs1", "ca"),
    ("p384", "ca"),
    ("p521", "ca"),
    ("ed25519", "ca"),
    ("belowrsa", "rsaca"),
    ("pss", "rsaca"),
    ("belowed", "edca"),
    ("deepchain", "ca"),
    ("deepreversed", "ca"),
    ("deep", "inter"),
    ("ncgood", "ca"),
];

/// A certificate that must be refused with this CA file, and a part of the reason.
const BAD: &[(&str, &str, &str)] = &[
    ("v1", "other", "unable to get local issuer"),
    ("v1", "impostor", "wrong signature"),
    ("selfsigned", "ca", "unable to get local issuer"),
    ("selfsigned", "selfother", "wrong signature"),
    ("deep", "ca", "unable to get local issuer"),
    ("toodeep", "ca", "path length"),
    ("leafasca", "ca", "invalid CA"),
    ("v1asca", "ca", "invalid CA"),
    ("leafasca", "san", "invalid CA"),
    ("v1asca", "v1user", "invalid CA"),
    ("kuasca", "ca", "invalid CA"),
    ("signonly", "ca", "keyUsage"),
    ("anyuse", "ca", "extKeyUsage"),
    ("critical", "ca", "critical extension"),
    ("ncbad", "ca", "permitted subtree violation"),
    ("belowweak", "weakca", "2048 bits"),
    ("sha1", "ca", "too weak"),
];

const VERIFYING: [SslMode; 2] = [SslMode::VerifyCa, SslMode::VerifyFull];

#[test]
fn good_server_certificates_are_accepted_in_every_mode() {
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        for &(pair, ca) in GOOD {
            for mode in SslMode::ALL {
                let client = ClientSide::new(mode, Some(ca)).protocols(protocols);
                let made = handshake(&ServerSide::new(pair), &client)
                    .unwrap_or_else(|failed| panic!("{pair} {ca} {mode} {protocols}: {}", failed.text()));
                let version = made.client.protocol_version().map(protocol_name);
                assert_eq!(version.map(str::to_lowercase).as_deref(), Some(protocols));
            }
        }
    }
}

#[test]
fn good_client_certificates_are_accepted_in_every_mode() {
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        for &(pair, ca) in GOOD {
            for mode in SslMode::ALL {
                let server = ServerSide::new("v1").verifying(mode, ca).protocols(protocols);
                let client = ClientSide::new(SslMode::Require, None).with_pair(pair);
                let made = handshake(&server, &client)
                    .unwrap_or_else(|failed| panic!("{pair} {ca} {mode} {protocols}: {}", failed.text()));
                assert!(made.server.peer_certificates().is_some_and(|chain| !chain.is_empty()), "{pair} {mode}");
            }
        }
    }
}

#[test]
fn bad_server_certificates_are_refused_where_they_are_judged_and_only_there() {
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        for &(pair, ca, reason) in BAD {
            for mode in VERIFYING {
                let client = ClientSide::new(mode, Some(ca)).protocols(protocols);
                let failed = handshake(&ServerSide::new(pair), &client).expect_err(pair);
                let text = failed.text();
                assert!(matches!(failed, Failed::Client(Error::InvalidCertificate(_))), "{pair} {failed:?}");
                assert!(
                    text.starts_with("certificate verify failed: ") && text.contains(reason),
                    "{pair} {ca}: {text}"
                );
            }
            for mode in [SslMode::Allow, SslMode::Prefer, SslMode::Require] {
                let client = ClientSide::new(mode, Some(ca)).protocols(protocols);
                assert!(handshake(&ServerSide::new(pair), &client).is_ok(), "{pair} {ca} {mode}");
            }
        }
    }
}

#[test]
fn bad_client_certificates_are_refused_in_every_mode_with_a_ca() {
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        for &(pair, ca, reason) in BAD {
            for mode in SslMode::ALL {
                let server = ServerSide::new("v1").verifying(mode, ca).protocols(protocols);
                let client = ClientSide::new(SslMode::Require, None).with_pair(pair);
                let failed = handshake(&server, &client).expect_err(pair);
                assert!(matches!(failed, Failed::Server(Error::InvalidCertificate(_))), "{pair} {failed:?}");
                assert!(failed.text().contains(reason), "{pair} {ca}: {}", failed.text());
            }
        }
    }
}

#[test]
fn purposes_bind_in_their_own_role_only() {
    let as_server = |pair: &str| handshake(&ServerSide::new(pair), &ClientSide::new(SslMode::VerifyFull, Some("ca")));
    let as_client = |pair: &str| {
        let server = ServerSide::new("v1").verifying(SslMode::VerifyFull, "ca");
        handshake(&server, &ClientSide::new(SslMode::Require, None).with_pair(pair))
    };
    assert!(as_server("serveronly").is_ok() && as_client("clientonly").is_ok() && as_client("ekuchain").is_ok());
    for failed in [as_server("clientonly"), as_client("serveronly"), as_server("ekuchain")] {
        assert!(failed.unwrap_err().text().contains("extKeyUsage"));
    }
}

#[test]
fn names_bind_under_verify_full_only() {
    for (pair, host, fits) in [
        ("v1", "localhost", true),
        ("v1", "127.0.0.1", false),
        ("san", "127.0.0.1", true),
        ("san", "ignored", false),
        ("san", "::1", false),
        ("wrongname", "localhost", false),
        ("wrongname", "elsewhere.example.com", true),
        ("wildcard", "db.example.com", true),
        ("wildcard", "a.db.example.com", false),
        ("ipcn", "127.0.0.1", true),
        ("ipcn", "127.0.0.2", false),
        ("nccn", "elsewhere.example.com", false),
    ] {
        let full = handshake(&ServerSide::new(pair), &ClientSide::new(SslMode::VerifyFull, Some("ca")).host(host));
        match full {
            Ok(_) => assert!(fits, "{pair} {host}"),
            Err(failed) => {
                assert!(!fits && failed.text().starts_with("certificate verify failed"), "{}", failed.text())
            }
        }
        if pair != "nccn" {
            let chain = handshake(&ServerSide::new(pair), &ClientSide::new(SslMode::VerifyCa, Some("ca")).host(host));
            assert!(chain.is_ok(), "{pair} {host}");
        }
    }
}

#[test]
fn a_constrained_ca_cannot_get_round_its_limits_by_the_common_name() {
    let failed = handshake(&ServerSide::new("nccn"), &ClientSide::new(SslMode::VerifyCa, Some("ca"))).unwrap_err();
    assert!(failed.text().contains("permitted subtree violation"), "{}", failed.text());
}

#[test]
fn hosts_that_no_certificate_can_name() {
    let strange = "db host/1";
    let full = ClientSide::new(SslMode::VerifyFull, Some("ca")).build().unwrap();
    assert_eq!(full.dial(strange).unwrap_err(), TlsError::ServerName { host: strange.to_owned() });
    let lax = ClientSide::new(SslMode::Require, None).host("db host/1");
    assert!(handshake(&ServerSide::new("v1"), &lax).is_ok());
}

#[test]
fn periods_of_validity_bind_in_both_roles() {
    let days = |count: u64| now() + count * 86_400;
    // The leaves end after 1000 days, the CA after 3650.
    for (time, fits) in [(now() - 86_400, false), (days(999), true), (days(1001), false), (days(4000), false)] {
        let (config, name) = ClientSide::new(SslMode::VerifyCa, Some("ca")).build().unwrap().dial("localhost").unwrap();
        let mut config = (*config).clone();
        config.time_provider = Arc::new(Clock(time));
        let acceptor = ServerSide::new("v1").build().unwrap();
        let outcome = handshake_with(Arc::clone(acceptor.config()), Arc::new(config), name.clone());
        assert_eq!(outcome.is_ok(), fits, "{outcome:?}");

        let acceptor = ServerSide::new("v1").verifying(SslMode::VerifyCa, "ca").build().unwrap();
        let mut config = (**acceptor.config()).clone();
        config.time_provider = Arc::new(Clock(time));
        let client = ClientSide::new(SslMode::Require, None).with_pair("v1user").build().unwrap();
        let outcome = handshake_with(Arc::new(config), client.dial("localhost").unwrap().0, name);
        assert_eq!(outcome.is_ok(), fits, "{outcome:?}");
    }
    // A self-signed certificate that is its own root ends as well.
    let (config, name) =
        ClientSide::new(SslMode::VerifyCa, Some("selfsigned")).build().unwrap().dial("localhost").unwrap();
    let mut config = (*config).clone();
    config.time_provider = Arc::new(Clock(days(3651)));
    let acceptor = ServerSide::new("selfsigned").build().unwrap();
    let failed = handshake_with(Arc::clone(acceptor.config()), Arc::new(config), name).unwrap_err();
    assert!(matches!(failed, Failed::Client(Error::InvalidCertificate(CertificateError::ExpiredContext { .. }))));
}

#[test]
fn client_certificates_are_optional_below_verify_ca_and_mandatory_from_there() {
    let bare = ClientSide::new(SslMode::Require, None);
    for mode in SslMode::ALL {
        let server = ServerSide::new("v1").verifying(mode, "ca");
        match handshake(&server, &bare) {
            Ok(made) => assert!(!mode.verifies_chain() && made.server.peer_certificates().is_none(), "{mode}"),
            Err(failed) => {
                assert!(mode.verifies_chain(), "{mode}");
                assert_eq!(failed.text(), "peer did not return a certificate");
            }
        }
    }
    // Without a CA file nobody is asked: a certificate that nobody could judge does no harm.
    let made =
        handshake(&ServerSide::new("v1"), &ClientSide::new(SslMode::Require, None).with_pair("selfsigned")).unwrap();
    assert!(made.server.peer_certificates().is_none());
}

#[test]
fn users_are_found_in_client_certificates() {
    assert_eq!(peer_common_name(&der("v1user.crt")).as_deref(), Some("bouncer"));
    assert!(certificate_names_user(&der("v1user.crt"), "bouncer"));
    assert!(!certificate_names_user(&der("v1user.crt"), "bounce"));
    assert!(!certificate_names_user(&der("v1user.crt"), ""));
    assert!(
        certificate_names_user(&der("sanuser.crt"), "carol") && certificate_names_user(&der("sanuser.crt"), "somebody")
    );
    assert!(!certificate_names_user(&der("wildcard.crt"), "db.example.com"));
}

#[test]
fn a_tampered_certificate_is_refused() {
    let mut server = ServerSide::new("v1");
    let text = String::from_utf8(server.cert.bytes.clone()).unwrap();
    let original = der("v1.crt");
    // Flip one bit of the signed part (in the CN, so that all still parses) and one of the signature.
    let name_at = original.windows(9).rposition(|window| window == b"localhost").unwrap();
    for position in [name_at, original.len() - 3] {
        let mut tampered = original.clone();
        tampered[position] ^= 1;
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &tampered);
        server.cert.bytes = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n").into_bytes();
        let client = ClientSide::new(SslMode::VerifyCa, Some("ca"));
        let failed = handshake(&server, &client).unwrap_err();
        assert!(failed.text().contains("wrong signature"), "{}", failed.text());
        assert!(handshake(&server, &ClientSide::new(SslMode::Require, None)).is_ok(), "only the key counts there");
    }
    assert!(text.contains("BEGIN CERTIFICATE"));
}

#[test]
fn the_handshake_is_signed_even_where_the_certificate_is_not_judged() {
    // A server that shows a certificate whose key it does not have.
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer};
    for (cert, key) in
        [("v1.crt", "san.key"), ("rsa.crt", "selfsigned.key"), ("v1.crt", "p384.key"), ("ed25519.crt", "rsa.key")]
    {
        let stolen = CertificateDer::from(der(cert));
        let key = PrivateKeyDer::from_pem_slice(&tls_pki::read(key)).unwrap();
        let signing_key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[version])
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(
                    vec![stolen.clone()],
                    Arc::clone(&signing_key),
                ))));
            let (client, name) = ClientSide::new(SslMode::Require, None).build().unwrap().dial("localhost").unwrap();
            let failed = handshake_with(Arc::new(config), client, name).unwrap_err();
            assert!(matches!(failed, Failed::Client(_)), "{cert} {failed:?}");
        }
    }
}

#[test]
fn suites_and_versions_are_those_of_the_settings() {
    let mut server = ServerSide::new("rsa").protocols("tlsv1.3");
    for suite in ["TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_256_GCM_SHA384"] {
        server.tls13_ciphers = suite;
        let made = handshake(&server, &ClientSide::new(SslMode::Require, None)).unwrap();
        assert_eq!(made.server.negotiated_cipher_suite().map(|found| openssl_name(found.suite())), Some(suite));
    }
    let mut server = ServerSide::new("rsa").protocols("tlsv1.2");
    for suite in ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"] {
        server.ciphers = suite;
        let made = handshake(&server, &ClientSide::new(SslMode::Require, None)).unwrap();
        assert_eq!(made.server.negotiated_cipher_suite().map(|found| openssl_name(found.suite())), Some(suite));
    }
    let client = ClientSide::new(SslMode::Require, None).protocols("tlsv1.3");
    assert!(handshake(&server, &client).is_err());
}

#[test]
fn application_protocols() {
    let acceptor = ServerSide::new("v1").build().unwrap();
    let (plain, name) = ClientSide::new(SslMode::Require, None).build().unwrap().dial("localhost").unwrap();
    let offer = |protocol: &[u8]| {
        let mut config = (*plain).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        handshake_with(Arc::clone(acceptor.config()), Arc::new(config), name.clone())
    };
    let made = offer(b"postgresql").unwrap();
    assert_eq!(made.server.alpn_protocol(), Some(pgtandem::tls::ALPN_POSTGRESQL));
    assert!(offer(b"h2").is_err());
    let made = handshake_with(Arc::clone(acceptor.config()), Arc::clone(&plain), name.clone()).unwrap();
    assert_eq!(made.server.alpn_protocol(), None);
}

#[test]
fn clients_may_resume() {
    use rustls::HandshakeKind;
    let acceptor = ServerSide::new("v1").verifying(SslMode::VerifyFull, "ca").build().unwrap();
    for protocols in ["tlsv1.2", "tlsv1.3"] {
        let connector =
            ClientSide::new(SslMode::Require, None).with_pair("v1user").protocols(protocols).build().unwrap();
        let (config, name) = connector.dial("localhost").unwrap();
        let mut config = (*config).clone();
        config.resumption = rustls::client::Resumption::in_memory_sessions(4);
        let config = Arc::new(config);
        let first = handshake_with(Arc::clone(acceptor.config()), Arc::clone(&config), name.clone()).unwrap();
        assert_ne!(first.server.handshake_kind(), Some(HandshakeKind::Resumed));
        let second = handshake_with(Arc::clone(acceptor.config()), config, name).unwrap();
        assert_eq!(second.server.handshake_kind(), Some(HandshakeKind::Resumed), "{protocols}");
        assert!(second.server.peer_certificates().is_some(), "the client's certificate survives");
    }
}

#[test]
fn file_contents_never_reach_debug_output() {
    let file = File::of("v1.key");
    assert!(!format!("{:?}", file.pem()).contains("BEGIN"));
    let side = ServerSide::new("v1");
    assert!(!format!("{:?}", side.build().unwrap()).contains("BEGIN"));
}
