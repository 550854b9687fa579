//! Cipher suites: OpenSSL's names and cipher lists, mapped to what the TLS library has.
//!
//! TLS 1.2 lists follow openssl-ciphers(1): names and aliases joined by `+` (and), prefixes `!` `-` `+`, `@STRENGTH`.
//! Names of suites that the library does not have (CBC, plain RSA key exchange, RC4 …) select nothing, exactly as names
//! that an OpenSSL was built without; only a list of which nothing remains is an error.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suites, kx_group};
use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite};

use super::TlsError;
use super::p521::SECP521R1;
use super::protocols::Protocols;

/// A TLS 1.2 suite with the words that select it.
struct Tls12Suite {
    suite: SupportedCipherSuite,
    openssl: &'static str,
    iana: &'static str,
    /// Aliases of openssl-ciphers(1) that this suite belongs to, beside those that all six share.
    aliases: &'static [&'static str],
    strength_bits: u16,
}

/// Aliases that every suite of ours belongs to: ephemeral ECDH, AEAD, TLS 1.2, 128 bits or more.
const SHARED_ALIASES: &[&str] =
    &["ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "KECDHE", "KEECDH", "ECDH", "TLSV1.2", "AEAD"];
const RSA_AES: &[&str] = &["ARSA", "AES", "AESGCM", "FIPS"];
const ECDSA_AES: &[&str] = &["AECDSA", "ECDSA", "AES", "AESGCM", "FIPS"];

/// In the order of OpenSSL's default list.
static TLS12: [Tls12Suite; 6] = [
    Tls12Suite {
        suite: suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        openssl: "ECDHE-ECDSA-AES256-GCM-SHA384",
        iana: "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        aliases: ECDSA_AES,
        strength_bits: 256,
    },
    Tls12Suite {
        suite: suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        openssl: "ECDHE-RSA-AES256-GCM-SHA384",
        iana: "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        aliases: RSA_AES,
        strength_bits: 256,
    },
    Tls12Suite {
        suite: suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        openssl: "ECDHE-ECDSA-CHACHA20-POLY1305",
        iana: "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        aliases: &["AECDSA", "ECDSA", "CHACHA20"],
        strength_bits: 256,
    },
    Tls12Suite {
        suite: suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        openssl: "ECDHE-RSA-CHACHA20-POLY1305",
        iana: "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        aliases: &["ARSA", "CHACHA20"],
        strength_bits: 256,
    },
    Tls12Suite {
        suite: suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        openssl: "ECDHE-ECDSA-AES128-GCM-SHA256",
        iana: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        aliases: ECDSA_AES,
        strength_bits: 128,
    },
    Tls12Suite {
        suite: suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        openssl: "ECDHE-RSA-AES128-GCM-SHA256",
        iana: "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        aliases: RSA_AES,
        strength_bits: 128,
    },
];

/// In the order of OpenSSL's default list; OpenSSL uses the IANA names.
static TLS13: [(SupportedCipherSuite, &str); 3] = [
    (suites::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (suites::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (suites::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
];

/// OpenSSL's name of a suite, as it stands in logs and in SHOW CLIENTS (`tls` column, `TLSv1.3/TLS_AES_256_GCM_SHA384`).
#[must_use]
pub fn openssl_name(suite: CipherSuite) -> &'static str {
    let tls12 = TLS12.iter().find(|known| known.suite.suite() == suite).map(|known| known.openssl);
    let tls13 = || TLS13.iter().find(|(known, _)| known.suite() == suite).map(|&(_, name)| name);
    tls12.or_else(tls13).or_else(|| suite.as_str()).unwrap_or("unknown")
}

/// OpenSSL's name of a protocol version: `TLSv1.3`.
#[must_use]
pub fn protocol_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_1 => "TLSv1.1",
        ProtocolVersion::TLSv1_0 => "TLSv1",
        _ => "unknown",
    }
}

/// The suites for one side, in order of preference.
pub(super) fn select(
    prefix: &str,
    protocols: Protocols,
    ciphers: &str,
    tls13_ciphers: &str,
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let mut selected = Vec::new();
    if protocols.has_tls13() {
        selected.extend(tls13(&format!("{prefix}13_ciphers"), tls13_ciphers)?);
    }
    if protocols.has_tls12() {
        selected.extend(tls12(&format!("{prefix}_ciphers"), ciphers)?);
    }
    Ok(selected)
}

fn tls13(setting: &str, list: &str) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    if list.trim().is_empty() {
        return Ok(TLS13.iter().map(|&(suite, _)| suite).collect());
    }
    let mut selected: Vec<SupportedCipherSuite> = Vec::new();
    for word in list.split([':', ',', ' ']) {
        if let Some(&(suite, _)) = TLS13.iter().find(|(_, name)| name.eq_ignore_ascii_case(word))
            && !selected.contains(&suite)
        {
            selected.push(suite);
        }
    }
    if selected.is_empty() {
        return Err(TlsError::Tls13Ciphers { setting: setting.to_owned(), value: list.to_owned() });
    }
    Ok(selected)
}

fn tls12(setting: &str, list: &str) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let list = list.trim();
    let shortcut =
        ["", "default", "secure", "fast", "normal", "all"].iter().any(|word| word.eq_ignore_ascii_case(list));
    if shortcut {
        return Ok(TLS12.iter().map(|known| known.suite).collect());
    }
    let mut rules = Rules::default();
    for word in list.split([':', ',', ' ', ';']).filter(|word| !word.is_empty()) {
        rules.apply(word);
    }
    if rules.active.is_empty() {
        let known: Vec<&str> = TLS12.iter().map(|suite| suite.openssl).collect();
        let reason = format!("it selects no cipher suite that is supported; there are {}", known.join(", "));
        return Err(TlsError::setting(setting, list, reason));
    }
    Ok(rules.active.into_iter().map(|known| known.suite).collect())
}

/// The state of reading an OpenSSL cipher list: what is in, in which order, and what may never come in again.
#[derive(Default)]
struct Rules {
    active: Vec<&'static Tls12Suite>,
    killed: Vec<&'static str>,
}

impl Rules {
    fn apply(&mut self, word: &str) {
        if let Some(command) = word.strip_prefix('@') {
            if command.eq_ignore_ascii_case("STRENGTH") {
                self.active.sort_by_key(|known| std::cmp::Reverse(known.strength_bits));
            }
            return;
        }
        let (prefix, names) = match word.split_at_checked(1) {
            Some((prefix @ ("!" | "-" | "+"), names)) => (prefix, names),
            _ => ("", word),
        };
        let named = |known: &&'static Tls12Suite| names.split('+').all(|name| known.is_named(name));
        match prefix {
            "!" => {
                self.killed.extend(TLS12.iter().filter(named).map(|known| known.openssl));
                self.active.retain(|known| !named(known));
            }
            "-" => self.active.retain(|known| !named(known)),
            "+" => {
                let (moved, kept) = self.active.iter().copied().partition(named);
                self.active = kept;
                let mut moved: Vec<&'static Tls12Suite> = moved;
                self.active.append(&mut moved);
            }
            _ => {
                for known in TLS12.iter().filter(named) {
                    let present = self.active.iter().any(|active| active.openssl == known.openssl);
                    if !present && !self.killed.contains(&known.openssl) {
                        self.active.push(known);
                    }
                }
            }
        }
    }
}

impl Tls12Suite {
    fn is_named(&self, name: &str) -> bool {
        let name = name.to_ascii_uppercase();
        let by_strength = match name.as_str() {
            "AES128" => self.openssl.contains("AES128"),
            "AES256" => self.openssl.contains("AES256"),
            _ => false,
        };
        by_strength
            || name == self.openssl
            || name == self.iana
            || SHARED_ALIASES.contains(&name.as_str())
            || self.aliases.contains(&name.as_str())
    }
}

/// The key exchange groups of both sides unless `client_tls_ecdhcurve` says otherwise.
pub(super) fn default_groups() -> Vec<&'static dyn SupportedKxGroup> {
    let mut groups = aws_lc_rs::DEFAULT_KX_GROUPS.to_vec();
    groups.push(SECP521R1);
    groups
}

/// The key exchange groups for `client_tls_ecdhcurve`. `none` is the same as `auto`: nothing but ECDHE exists here.
pub(super) fn key_exchange_groups(setting: &str, curve: &str) -> Result<Vec<&'static dyn SupportedKxGroup>, TlsError> {
    let group = match curve.trim().to_ascii_lowercase().as_str() {
        "" | "auto" | "none" => return Ok(default_groups()),
        "prime256v1" | "secp256r1" | "p-256" => kx_group::SECP256R1,
        "secp384r1" | "p-384" => kx_group::SECP384R1,
        "secp521r1" | "p-521" => SECP521R1,
        "x25519" => kx_group::X25519,
        "x25519mlkem768" => kx_group::X25519MLKEM768,
        _ => {
            let reason = "use auto, prime256v1, secp384r1, secp521r1, X25519 or X25519MLKEM768";
            return Err(TlsError::setting(setting, curve, reason));
        }
    };
    Ok(vec![group])
}

/// Checks `client_tls_dheparams`. There is no finite-field key exchange here, so a right value changes nothing.
pub(super) fn check_dheparams(setting: &str, value: &str) -> Result<(), TlsError> {
    if ["", "auto", "none", "legacy"].iter().any(|word| word.eq_ignore_ascii_case(value.trim())) {
        return Ok(());
    }
    Err(TlsError::setting(setting, value, "use auto, none or legacy; all key exchanges here are ECDHE"))
}

#[cfg(test)]
#[path = "ciphers_tests.rs"]
mod tests;
