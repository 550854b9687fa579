use super::*;
use proptest::prelude::*;

fn names12(list: &str) -> Vec<&'static str> {
    tls12("client_tls_ciphers", list).unwrap().iter().map(|suite| openssl_name(suite.suite())).collect()
}

fn names13(list: &str) -> Vec<&'static str> {
    tls13("client_tls13_ciphers", list).unwrap().iter().map(|suite| openssl_name(suite.suite())).collect()
}

#[test]
fn shortcuts_and_common_lists_select_all_six() {
    for list in
        ["", "default", "secure", "fast", "normal", "all", "HIGH:!aNULL", "HIGH:MEDIUM:+3DES:!aNULL", "ALL:@SECLEVEL=2"]
    {
        assert_eq!(names12(list).len(), 6, "{list}");
    }
    assert_eq!(names12("HIGH:!aNULL")[0], "ECDHE-ECDSA-AES256-GCM-SHA384");
}

#[test]
fn openssl_list_syntax() {
    assert_eq!(names12("ECDHE-RSA-AES256-GCM-SHA384"), ["ECDHE-RSA-AES256-GCM-SHA384"]);
    assert_eq!(names12("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"), ["ECDHE-RSA-AES256-GCM-SHA384"]);
    assert_eq!(names12("AES256-SHA:ECDHE-RSA-AES128-GCM-SHA256:RC4-MD5"), ["ECDHE-RSA-AES128-GCM-SHA256"]);
    assert_eq!(names12("ECDHE+AESGCM:!AES128:!ECDSA"), ["ECDHE-RSA-AES256-GCM-SHA384"]);
    assert_eq!(names12("aRSA:-CHACHA20"), ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"]);
    assert_eq!(names12("aRSA+AES:+AES256"), ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"]);
    assert_eq!(
        names12("aRSA+AES128:aRSA+AES256:@STRENGTH"),
        ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256"]
    );
    assert_eq!(names12("!CHACHA20:CHACHA20:aRSA+AES256"), ["ECDHE-RSA-AES256-GCM-SHA384"]);
}

#[test]
fn a_list_without_any_known_suite_is_an_error() {
    let error = tls12("client_tls_ciphers", "AES256-SHA:RC4").unwrap_err().to_string();
    assert!(error.starts_with("invalid client_tls_ciphers: AES256-SHA:RC4"), "{error}");
    let error = tls13("client_tls13_ciphers", "unknown").unwrap_err().to_string();
    assert!(error.starts_with("failed to set the TLSv1.3 cipher suites"), "{error}");
}

#[test]
fn tls13_names_keep_their_order() {
    assert_eq!(names13("").len(), 3);
    assert_eq!(names13("TLS_CHACHA20_POLY1305_SHA256"), ["TLS_CHACHA20_POLY1305_SHA256"]);
    assert_eq!(
        names13("TLS_AES_128_CCM_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"),
        ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"]
    );
}

#[test]
fn lists_of_versions_that_are_off_are_not_read() {
    let only13 = Protocols::parse("p", "tlsv1.3").unwrap();
    assert_eq!(select("client_tls", only13, "RC4", "").unwrap().len(), 3);
    let only12 = Protocols::parse("p", "tlsv1.2").unwrap();
    assert_eq!(select("client_tls", only12, "", "unknown").unwrap().len(), 6);
}

#[test]
fn curves_and_dh_parameters() {
    assert!(key_exchange_groups("c", "auto").unwrap().len() > 1);
    for curve in ["prime256v1", "P-384", "secp521r1", "x25519"] {
        assert_eq!(key_exchange_groups("c", curve).unwrap().len(), 1);
    }
    assert!(
        key_exchange_groups("client_tls_ecdhcurve", "brainpoolP256r1")
            .unwrap_err()
            .to_string()
            .contains("client_tls_ecdhcurve")
    );
    assert!(check_dheparams("d", "legacy").is_ok() && check_dheparams("d", "4096").is_err());
}

#[test]
fn version_names() {
    assert_eq!(protocol_name(ProtocolVersion::TLSv1_3), "TLSv1.3");
    assert_eq!(openssl_name(CipherSuite::TLS13_AES_256_GCM_SHA384), "TLS_AES_256_GCM_SHA384");
}

proptest! {
    #[test]
    fn arbitrary_lists_never_panic(list in "\\PC{0,60}") {
        let _ = tls12("s", &list);
        let _ = tls13("s", &list);
        let _ = Protocols::parse("s", &list);
    }
}
