//! Why a TLS configuration cannot be used, and why a handshake failed, in words for an operator.

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError};
use rustls_pki_types::UnixTime;

/// A TLS configuration that cannot be used. Every text names the setting (and the file) and says what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A setting's value is wrong.
    #[error("invalid {setting}: {value} ({reason})")]
    Setting {
        /// The setting's name, such as `client_tls_protocols`.
        setting: String,
        /// Its value.
        value: String,
        /// What is wrong, and what to write instead.
        reason: String,
    },
    /// A setting is needed that is not there.
    #[error("{setting} must be set: {reason}")]
    Missing {
        /// The setting's name.
        setting: String,
        /// Why it is needed.
        reason: String,
    },
    /// The contents of a file cannot be used.
    #[error("{setting} \"{path}\": {reason}")]
    File {
        /// The setting that names the file.
        setting: String,
        /// The file's path.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Certificate and key do not belong together.
    #[error(
        "private/public key mismatch: the key in {key_setting} \"{key_path}\" is not the key of any certificate in \
         {cert_setting} \"{cert_path}\"; exchange both files together"
    )]
    KeyMismatch {
        /// The setting that names the certificate file.
        cert_setting: String,
        /// The certificate file's path.
        cert_path: String,
        /// The setting that names the key file.
        key_setting: String,
        /// The key file's path.
        key_path: String,
    },
    /// No suite of the TLS 1.3 list is known (the opening words are those of PgBouncer's log).
    #[error(
        "failed to set the TLSv1.3 cipher suites: {setting} = {value} names none that can be used; known are \
         TLS_AES_256_GCM_SHA384, TLS_CHACHA20_POLY1305_SHA256, TLS_AES_128_GCM_SHA256"
    )]
    Tls13Ciphers {
        /// The setting's name.
        setting: String,
        /// Its value.
        value: String,
    },
    /// The name of a server host cannot be put into a TLS handshake or compared with a certificate.
    #[error("host name \"{host}\" cannot be checked against a certificate: it is neither a DNS name nor an IP address")]
    ServerName {
        /// The host as configured.
        host: String,
    },
    /// The TLS library refused.
    #[error("{0}")]
    Library(String),
}

impl TlsError {
    /// A setting whose value is wrong.
    pub(super) fn setting(setting: impl Into<String>, value: &str, reason: impl Into<String>) -> Self {
        Self::Setting { setting: setting.into(), value: value.to_owned(), reason: reason.into() }
    }

    /// A file whose contents cannot be used.
    pub(super) fn file(setting: &str, path: &str, reason: impl Into<String>) -> Self {
        Self::File { setting: setting.to_owned(), path: path.to_owned(), reason: reason.into() }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Library(error.to_string())
    }
}

/// The reason of a failed handshake, as it stands behind `TLS handshake error: handshake failed: ` in the log.
///
/// A refused certificate gives `certificate verify failed: …` (OpenSSL's words, which tools look for). With tokio-rustls the
/// library's error is the inner error of the `io::Error`.
#[must_use]
pub fn failure_text(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(reason) => format!("certificate verify failed: {}", certificate_text(reason)),
        rustls::Error::NoCertificatesPresented => "peer did not return a certificate".to_owned(),
        rustls::Error::AlertReceived(alert) => alert_text(*alert),
        other => other.to_string(),
    }
}

/// What the other side says of us, in OpenSSL's words, with what it mostly means.
fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::UnknownCA => {
            "tlsv1 alert unknown ca (the other side does not trust the CA of our certificate)"
        }
        AlertDescription::BadCertificate => "tlsv1 alert bad certificate (the other side refuses our certificate)",
        AlertDescription::CertificateExpired => "tlsv1 alert certificate expired (our certificate is out of date)",
        AlertDescription::CertificateUnknown => {
            "tlsv1 alert certificate unknown (the other side refuses our certificate)"
        }
        AlertDescription::UnsupportedCertificate => {
            "tlsv1 alert unsupported certificate (our certificate is for other purposes)"
        }
        AlertDescription::CertificateRequired => {
            "tlsv13 alert certificate required (the other side wants a certificate of us)"
        }
        AlertDescription::ProtocolVersion => "tlsv1 alert protocol version (no TLS version in common)",
        AlertDescription::HandshakeFailure => "tlsv1 alert handshake failure (no cipher suite or curve in common)",
        AlertDescription::NoApplicationProtocol => "tlsv1 alert no application protocol",
        other => return format!("received alert: {other:?}"),
    };
    text.to_owned()
}

fn certificate_text(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer => {
            "unable to get local issuer certificate (the certificate does not lead to a CA of our CA file)".to_owned()
        }
        CertificateError::BadEncoding => "the certificate cannot be read".to_owned(),
        CertificateError::BadSignature => "wrong signature".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate has expired (it was valid until {})", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not yet valid (it will be from {} on; check the clock)", date(*not_before))
        }
        // The library would show our own reason in its debug form.
        CertificateError::Other(inner) => inner.0.to_string(),
        other => other.to_string(),
    }
}

fn date(time: UnixTime) -> String {
    let timestamp = i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(|| "a far day".to_owned(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_certificates_carry_the_words_that_tools_look_for() {
        for reason in [CertificateError::UnknownIssuer, CertificateError::BadSignature, CertificateError::Expired] {
            assert!(
                failure_text(&rustls::Error::InvalidCertificate(reason)).starts_with("certificate verify failed: ")
            );
        }
    }
}
