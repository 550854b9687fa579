//! `client_tls_protocols` and `server_tls_protocols`: which TLS versions are spoken.

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use super::TlsError;

const V1_0: u8 = 1;
const V1_1: u8 = 2;
const V1_2: u8 = 4;
const V1_3: u8 = 8;
const ALL: u8 = V1_0 | V1_1 | V1_2 | V1_3;
const SECURE: u8 = V1_2 | V1_3;

/// A parsed protocol list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Protocols(u8);

impl Protocols {
    /// Reads a list: `tlsv1.0` … `tlsv1.3`, `tlsv1` (all four), `all`, `secure`, `default`, `legacy` (all), separated by commas or
    /// colons; `!` takes away (from `all`, if it comes first). Empty means `secure`.
    pub(super) fn parse(setting: &str, text: &str) -> Result<Self, TlsError> {
        if text.trim().is_empty() {
            return Ok(Self(SECURE));
        }
        let mut set = 0;
        for word in text.split([',', ':']).map(str::trim) {
            let (name, negated) = word.strip_prefix('!').map_or((word, false), |name| (name, true));
            let bits = match name.to_ascii_lowercase().as_str() {
                "all" | "tlsv1" | "legacy" => ALL,
                "secure" | "default" => SECURE,
                "tlsv1.0" => V1_0,
                "tlsv1.1" => V1_1,
                "tlsv1.2" => V1_2,
                "tlsv1.3" => V1_3,
                _ => {
                    let reason = "use tlsv1.2, tlsv1.3, a list of them with commas, secure (both) or all";
                    return Err(TlsError::setting(setting, text, reason));
                }
            };
            if negated {
                set = if set == 0 { ALL & !bits } else { set & !bits };
            } else {
                set |= bits;
            }
        }
        Ok(Self(set))
    }

    /// Is TLS 1.2 in it?
    pub(super) fn has_tls12(self) -> bool {
        self.0 & V1_2 != 0
    }

    /// Is TLS 1.3 in it?
    pub(super) fn has_tls13(self) -> bool {
        self.0 & V1_3 != 0
    }

    /// The versions that can be spoken; an error if the list has only versions that we do not have.
    pub(super) fn versions(
        self,
        setting: &str,
        text: &str,
    ) -> Result<Vec<&'static SupportedProtocolVersion>, TlsError> {
        let mut versions = Vec::new();
        if self.has_tls13() {
            versions.push(&TLS13);
        }
        if self.has_tls12() {
            versions.push(&TLS12);
        }
        if versions.is_empty() {
            let reason = "TLS 1.0 and 1.1 are deprecated by RFC 8996 and not supported here; use secure or all";
            return Err(TlsError::setting(setting, text, reason));
        }
        Ok(versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(text: &str) -> u8 {
        Protocols::parse("client_tls_protocols", text).unwrap().0
    }

    #[test]
    fn lists_and_shortcuts() {
        assert_eq!(bits(""), SECURE);
        assert_eq!(bits("secure"), SECURE);
        assert_eq!(bits("ALL"), ALL);
        assert_eq!(bits("TLSv1.2, tlsv1.3"), SECURE);
        assert_eq!(bits("tlsv1.3"), V1_3);
        assert_eq!(bits("!tlsv1.0:!tlsv1.1"), SECURE);
        assert_eq!(bits("all,!tlsv1.3"), V1_0 | V1_1 | V1_2);
    }

    #[test]
    fn unknown_words_and_unsupported_versions_are_errors() {
        let error = Protocols::parse("client_tls_protocols", "sslv3").unwrap_err().to_string();
        assert!(error.starts_with("invalid client_tls_protocols: sslv3"), "{error}");
        assert!(Protocols::parse("client_tls_protocols", "tlsv1.2,").is_err());
        let old = Protocols::parse("client_tls_protocols", "tlsv1.0,tlsv1.1").unwrap();
        assert!(old.versions("client_tls_protocols", "tlsv1.0,tlsv1.1").unwrap_err().to_string().contains("RFC 8996"));
        let both = Protocols::parse("client_tls_protocols", "all").unwrap();
        assert_eq!(both.versions("client_tls_protocols", "all").unwrap().len(), 2);
    }
}
