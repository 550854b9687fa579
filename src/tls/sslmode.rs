//! The six values of `client_tls_sslmode` and `server_tls_sslmode`.

use std::fmt;
use std::str::FromStr;

/// How much TLS is wanted (PgBouncer: `client_tls_sslmode`, `server_tls_sslmode`). The order is the order of strictness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SslMode {
    /// No TLS.
    #[default]
    Disable,
    /// TLS if the other side wants it.
    Allow,
    /// TLS if the other side can do it.
    Prefer,
    /// TLS or nothing. The other side's certificate is not judged on the server side.
    Require,
    /// TLS, and the other side's certificate must come from a CA that we trust.
    VerifyCa,
    /// As `VerifyCa`, and a server's certificate must be made out to the name that we dialled.
    VerifyFull,
}

impl SslMode {
    /// All values, in order of strictness.
    pub const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The word used in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Must the other side's certificate be present and come from a trusted CA?
    #[must_use]
    pub fn verifies_chain(self) -> bool {
        self >= Self::VerifyCa
    }

    /// Is a connection without TLS out of the question?
    #[must_use]
    pub fn requires_tls(self) -> bool {
        self >= Self::Require
    }
}

/// The text is none of the six words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown sslmode; use one of disable, allow, prefer, require, verify-ca, verify-full")]
pub struct UnknownSslMode;

impl FromStr for SslMode {
    type Err = UnknownSslMode;

    /// Upper and lower case are the same, as in PgBouncer's enum settings.
    fn from_str(text: &str) -> Result<Self, UnknownSslMode> {
        Self::ALL.into_iter().find(|mode| mode.as_str().eq_ignore_ascii_case(text.trim())).ok_or(UnknownSslMode)
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for mode in SslMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
            assert_eq!(mode.as_str().to_uppercase().parse(), Ok(mode));
        }
        assert_eq!("verify".parse::<SslMode>(), Err(UnknownSslMode));
        assert!(SslMode::VerifyCa.verifies_chain() && !SslMode::Require.verifies_chain());
    }
}
