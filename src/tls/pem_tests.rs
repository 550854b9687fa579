use super::*;
use proptest::prelude::*;

fn file(text: &str) -> PemFile<'_> {
    PemFile { path: "x.pem", bytes: text.as_bytes() }
}

fn certs(text: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates("client_tls_ca_file", file(text))
}

fn key(text: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    private_key("client_tls_key_file", file(text)).map(|key| key.clone_key())
}

const CERT_A: &str = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
const CERT_B: &str = "-----BEGIN CERTIFICATE-----\r\nMAMC\r\n  AQI=\r\n-----END CERTIFICATE-----\r\n";

#[test]
fn text_around_blocks_is_skipped() {
    let text = format!("\u{feff}Certificate:\n    Data: x\n{CERT_A}junk -----BEGIN\n{CERT_B}trailer");
    let found = certs(&text).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].as_ref(), [0x30, 3, 2, 1, 1]);
    assert_eq!(found[1].as_ref(), [0x30, 3, 2, 1, 2]);
}

#[test]
fn bytes_in_another_code_page_do_no_harm() {
    let mut bytes = b"# M\xfcller\n".to_vec();
    bytes.extend_from_slice(CERT_A.as_bytes());
    assert_eq!(certificates("s", PemFile { path: "p", bytes: &bytes }).unwrap().len(), 1);
}

#[test]
fn trust_settings_behind_a_certificate_are_cut_off() {
    let text = "-----BEGIN TRUSTED CERTIFICATE-----\nMAMCAQEwAA==\n-----END TRUSTED CERTIFICATE-----\n";
    assert_eq!(certs(text).unwrap()[0].as_ref(), [0x30, 3, 2, 1, 1]);
}

#[test]
fn key_blocks_of_all_three_kinds_are_found_behind_parameters() {
    let block = |label: &str| {
        format!(
            "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n-----BEGIN {label}-----\nMAMCAQE=\n-----END {label}-----\n"
        )
    };
    assert!(matches!(key(&block("EC PRIVATE KEY")), Ok(PrivateKeyDer::Sec1(_))));
    assert!(matches!(key(&block("RSA PRIVATE KEY")), Ok(PrivateKeyDer::Pkcs1(_))));
    assert!(matches!(key(&block("PRIVATE KEY")), Ok(PrivateKeyDer::Pkcs8(_))));
}

#[test]
fn errors_name_setting_and_file_and_say_what_is_wrong() {
    for (text, part) in [
        ("", "empty"),
        ("hello", "no certificate found"),
        ("0\u{2}", "DER"),
        ("-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n", "only: PRIVATE KEY"),
        ("-----BEGIN CERTIFICATE-----\nMAMCAQE=\n", "cut off"),
        ("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", "not base64"),
    ] {
        let error = certs(text).unwrap_err().to_string();
        assert!(error.contains("client_tls_ca_file \"x.pem\"") && error.contains(part), "{error}");
    }
}

#[test]
fn encrypted_keys_are_refused_in_both_forms() {
    let modern = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAMCAQE=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let traditional = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAMCAQE=\n-----END RSA PRIVATE KEY-----\n";
    for text in [modern, traditional] {
        assert!(key(text).unwrap_err().to_string().contains("encrypted"));
    }
}

#[test]
fn debug_output_hides_the_contents() {
    let text = format!("{:?}", file("SECRET"));
    assert!(text.contains("x.pem") && !text.contains("SECRET") && !text.contains("83"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let file = PemFile { path: "p", bytes: &bytes };
        let _ = certificates("s", file);
        let _ = private_key("s", file);
    }

    #[test]
    fn arbitrary_block_bodies_never_panic(body in "[ -~\\r\\n]{0,200}", label in "(CERTIFICATE|RSA PRIVATE KEY|EC PRIVATE KEY)") {
        let text = format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        let _ = certs(&text);
        let _ = key(&text);
    }
}
