//! What stands in a file of certificates, for people: names and dates.

use super::certificate::Certificate;
use super::{PemFile, TlsError, der, pem};

/// One certificate of a file. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSummary {
    /// The common name of its subject, if it has one that can be read.
    pub common_name: Option<String>,
    /// Are subject and issuer the same?
    pub self_issued: bool,
    /// The first second of its validity.
    pub not_before: i64,
    /// The last second of its validity.
    pub not_after: i64,
}

/// The certificates of the file that `setting` names, in file order; at least one. One that cannot be read is left out if
/// another can.
///
/// # Errors
/// [`TlsError::File`] if there is none.
pub fn summarize_certificates(setting: &str, file: PemFile<'_>) -> Result<Vec<CertificateSummary>, TlsError> {
    let found = pem::certificates(setting, file)?;
    let readable: Vec<_> = found
        .iter()
        .filter(|der| der::envelope(der.as_ref()).is_some())
        .filter_map(|der| Certificate::read(der).ok())
        .map(|certificate| CertificateSummary {
            self_issued: certificate.is_self_issued(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            common_name: certificate.common_name,
        })
        .collect();
    if readable.is_empty() {
        return Err(TlsError::file(setting, file.path, "no certificate of the file can be read"));
    }
    Ok(readable)
}
