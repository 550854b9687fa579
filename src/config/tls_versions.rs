//! The little language of `client_tls_protocols` and `server_tls_protocols`.

/// The TLS versions that a setting allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsVersions {
    /// TLS 1.0 or 1.1, which pgtandem does not have.
    pub legacy: bool,
    /// TLS 1.2.
    pub v1_2: bool,
    /// TLS 1.3.
    pub v1_3: bool,
}

impl TlsVersions {
    const ALL: Self = Self { legacy: true, v1_2: true, v1_3: true };
    const SECURE: Self = Self { legacy: false, v1_2: true, v1_3: true };

    /// Read a list as PgBouncer does: words between commas or colons, `!word` takes away; `None` if a word is unknown. An
    /// empty text means the default.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::SECURE);
        }
        let mut allowed = Self::default();
        for item in text.split([',', ':']) {
            let item = item.trim_matches([' ', '\t']);
            let (word, negated) = item.strip_prefix('!').map_or((item, false), |word| (word, true));
            let versions = match word.to_ascii_lowercase().as_str() {
                "all" | "tlsv1" => Self::ALL,
                "default" | "secure" => Self::SECURE,
                "tlsv1.0" | "tlsv1.1" => Self { legacy: true, v1_2: false, v1_3: false },
                "tlsv1.2" => Self { legacy: false, v1_2: true, v1_3: false },
                "tlsv1.3" => Self { legacy: false, v1_2: false, v1_3: true },
                _ => return None,
            };
            if negated {
                if allowed == Self::default() {
                    allowed = Self::ALL;
                }
                allowed.legacy &= !versions.legacy;
                allowed.v1_2 &= !versions.v1_2;
                allowed.v1_3 &= !versions.v1_3;
            } else {
                allowed.legacy |= versions.legacy;
                allowed.v1_2 |= versions.v1_2;
                allowed.v1_3 |= versions.v1_3;
            }
        }
        Some(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists() {
        let versions = |legacy, v1_2, v1_3| Some(TlsVersions { legacy, v1_2, v1_3 });
        let table = [
            ("secure", versions(false, true, true)),
            ("", versions(false, true, true)),
            ("all", versions(true, true, true)),
            ("TLSv1.2", versions(false, true, false)),
            ("tlsv1.2,tlsv1.3", versions(false, true, true)),
            ("tlsv1.2 : tlsv1.3", versions(false, true, true)),
            ("all,!tlsv1.3", versions(true, true, false)),
            ("!tlsv1.2", versions(true, false, true)),
            ("tlsv1.1", versions(true, false, false)),
            ("sslv3", None),
            ("tlsv1.2,", None),
        ];
        for (text, expected) in table {
            assert_eq!(TlsVersions::parse(text), expected, "{text}");
        }
    }
}
