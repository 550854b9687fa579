//! From a certificate to a CA that we trust.
//!
//! The rules are OpenSSL's (openssl-verification-options(1)) at its default settings, with these differences:
//! - Every CA in the CA file is a trust anchor, also one that is not self-signed (OpenSSL: only with `-partial_chain`).
//! - Signatures with MD5 or SHA-1 and RSA keys under 2048 bits are refused (OpenSSL: depends on the security level).
//! - A certificate with the same extension twice is refused.
//!
//! As with OpenSSL, X.509 version 1 is good for a leaf, and for a self-signed CA if it stands in the CA file; the CA file's
//! certificates must be in their period of validity too; and revocation is not checked.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::certificate::{Certificate, Unreadable};
use super::dn::Name;
use super::signature::{self, SignatureProblem};

/// Longest path: leaf, intermediates, anchor. Real ones have 2 to 4; PgBouncer's OpenSSL takes 8.
const MAX_PATH: usize = 8;
/// So many of the certificates that the other side sends along are looked at.
const MAX_SENT: usize = 16;
/// So many signatures are checked for one certificate, whatever names the other side made up.
const MAX_SIGNATURE_CHECKS: u32 = 48;

/// What the certificate is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It identifies a TLS server.
    Server,
    /// It identifies a TLS client.
    Client,
}

/// Why a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("certificate has expired")]
    Expired { now: UnixTime, not_after: i64 },
    #[error("certificate is not yet valid")]
    NotYetValid { now: UnixTime, not_before: i64 },
    #[error("unable to get local issuer certificate")]
    UnknownIssuer,
    #[error("certificate signature failure")]
    WrongSignature,
    #[error("signature algorithm {0}, or the kind of key that it was made with, is unknown or too weak")]
    Algorithm(String),
    #[error("an RSA key of a CA has less than 2048 bits")]
    ShortKey,
    #[error("invalid CA certificate: a certificate of the chain may not sign others (basicConstraints, keyUsage)")]
    NotCa,
    #[error("path length constraint exceeded")]
    PathLength,
    #[error("unsuitable certificate purpose (extKeyUsage)")]
    Purpose,
    #[error("unsuitable certificate purpose (keyUsage)")]
    KeyUsage,
    #[error("unhandled critical extension {0}")]
    CriticalExtension(String),
    #[error("permitted subtree violation: a CA of the chain may not speak for this {0}")]
    NameConstraint(&'static str),
    #[error("certificate chain too long or too tangled")]
    TooMuchWork,
}

impl From<Unreadable> for Refusal {
    fn from(_: Unreadable) -> Self {
        Self::Unreadable
    }
}

impl From<Refusal> for CertificateError {
    /// The library's own words where it has them, so that the other side gets the right alert.
    fn from(refusal: Refusal) -> Self {
        let unix_time =
            |seconds: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.max(0).unsigned_abs()));
        match refusal {
            Refusal::Unreadable => Self::BadEncoding,
            Refusal::Expired { now, not_after } => Self::ExpiredContext { time: now, not_after: unix_time(not_after) },
            Refusal::NotYetValid { now, not_before } => {
                Self::NotValidYetContext { time: now, not_before: unix_time(not_before) }
            }
            Refusal::UnknownIssuer => Self::UnknownIssuer,
            Refusal::WrongSignature => Self::BadSignature,
            other => Self::Other(OtherError(Arc::new(other))),
        }
    }
}

/// The certificates of a CA file.
#[derive(Debug)]
pub(super) struct TrustStore {
    anchors: Vec<Certificate>,
    by_subject: HashMap<Name, Vec<usize>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl TrustStore {
    /// Certificates that cannot be read are left out; the number of those is the second result.
    pub(super) fn new(certificates: &[CertificateDer<'_>], algorithms: WebPkiSupportedAlgorithms) -> (Self, usize) {
        let anchors: Vec<Certificate> = certificates.iter().filter_map(|der| Certificate::read(der).ok()).collect();
        let unreadable = certificates.len() - anchors.len();
        let mut by_subject: HashMap<Name, Vec<usize>> = HashMap::new();
        for (index, anchor) in anchors.iter().enumerate() {
            by_subject.entry(anchor.subject.clone()).or_default().push(index);
        }
        (Self { anchors, by_subject, algorithms }, unreadable)
    }

    /// Is there no certificate to trust?
    pub(super) fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// The signature algorithms that are accepted.
    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }

    fn issuers_of<'a>(&'a self, certificate: &Certificate) -> impl Iterator<Item = &'a Certificate> {
        self.by_subject.get(&certificate.issuer).into_iter().flatten().filter_map(|&index| self.anchors.get(index))
    }

    /// Judges `leaf`. `sent` are the certificates that came with it, in any order. Returns the leaf, read.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        sent: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<Certificate, Refusal> {
        let leaf = Certificate::read(leaf)?;
        check_always(&leaf, purpose, now)?;
        check_leaf_usage(&leaf, purpose)?;
        if leaf.is_self_issued() && self.issuers_of(&leaf).any(|anchor| anchor.der() == leaf.der()) {
            return Ok(leaf);
        }
        let sent: Vec<Certificate> = sent.iter().take(MAX_SENT).filter_map(|der| Certificate::read(der).ok()).collect();
        let mut search = Search {
            store: self,
            sent: &sent,
            purpose,
            now,
            checks_left: MAX_SIGNATURE_CHECKS,
            refusal: Refusal::UnknownIssuer,
        };
        if search.reaches_anchor(&mut vec![&leaf]) { Ok(leaf) } else { Err(search.refusal) }
    }
}

/// What every certificate of a path must fulfil.
fn check_always(certificate: &Certificate, purpose: Purpose, now: UnixTime) -> Result<(), Refusal> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < certificate.not_before {
        return Err(Refusal::NotYetValid { now, not_before: certificate.not_before });
    }
    if seconds > certificate.not_after {
        return Err(Refusal::Expired { now, not_after: certificate.not_after });
    }
    if let Some(oid) = &certificate.unhandled_critical {
        return Err(Refusal::CriticalExtension(oid.clone()));
    }
    let fits = certificate.purposes.is_none_or(|purposes| match purpose {
        Purpose::Server => purposes.server_auth,
        Purpose::Client => purposes.client_auth,
    });
    if fits { Ok(()) } else { Err(Refusal::Purpose) }
}

fn check_leaf_usage(leaf: &Certificate, purpose: Purpose) -> Result<(), Refusal> {
    let fits = leaf.key_usage.is_none_or(|usage| match purpose {
        Purpose::Server => usage.digital_signature || usage.key_encipherment || usage.key_agreement,
        Purpose::Client => usage.digital_signature || usage.key_agreement,
    });
    if fits { Ok(()) } else { Err(Refusal::KeyUsage) }
}

/// May it sign other certificates? `trusted`: it stands in the CA file.
fn may_sign(certificate: &Certificate, trusted: bool) -> bool {
    if certificate.key_usage.is_some_and(|usage| !usage.key_cert_sign) {
        return false;
    }
    match certificate.basic_constraints {
        Some(constraints) => constraints.ca,
        // Before version 3 there was no way to say it; OpenSSL believes it of self-signed ones.
        None if certificate.is_version1 => trusted && certificate.is_self_issued(),
        None => certificate.key_usage.is_some(),
    }
}

/// A depth-first search for a path to an anchor, with a limit on its work.
struct Search<'a> {
    store: &'a TrustStore,
    sent: &'a [Certificate],
    purpose: Purpose,
    now: UnixTime,
    checks_left: u32,
    /// The most telling reason so far.
    refusal: Refusal,
}

impl<'a> Search<'a> {
    /// `path` starts with the leaf; its last certificate needs an issuer.
    fn reaches_anchor(&mut self, path: &mut Vec<&'a Certificate>) -> bool {
        let Some(&last) = path.last() else {
            return false;
        };
        if path.len() >= MAX_PATH {
            self.refusal = Refusal::TooMuchWork;
            return false;
        }
        let store = self.store;
        for anchor in store.issuers_of(last) {
            if self.accepts(anchor, path, true) {
                return true;
            }
        }
        for issuer in self.sent.iter().filter(|candidate| candidate.subject == last.issuer) {
            if path.iter().any(|used| used.der() == issuer.der()) || !self.accepts(issuer, path, false) {
                continue;
            }
            path.push(issuer);
            if self.reaches_anchor(path) {
                return true;
            }
            path.pop();
        }
        false
    }

    /// Is `issuer` entitled to have signed the last of `path`, and did it?
    fn accepts(&mut self, issuer: &Certificate, path: &[&Certificate], trusted: bool) -> bool {
        let outcome = self.judge(issuer, path, trusted);
        if let Err(refusal) = outcome {
            self.refusal = refusal;
            return false;
        }
        true
    }

    fn judge(&mut self, issuer: &Certificate, path: &[&Certificate], trusted: bool) -> Result<(), Refusal> {
        let last = path.last().ok_or(Refusal::UnknownIssuer)?;
        check_always(issuer, self.purpose, self.now)?;
        if !may_sign(issuer, trusted) {
            return Err(Refusal::NotCa);
        }
        let intermediates = path.iter().skip(1).filter(|certificate| !certificate.is_self_issued()).count();
        let path_length = issuer.basic_constraints.and_then(|constraints| constraints.path_length);
        if path_length.is_some_and(|limit| intermediates > usize::try_from(limit).unwrap_or(usize::MAX)) {
            return Err(Refusal::PathLength);
        }
        if let Some(constraints) = &issuer.constraints {
            // Self-issued intermediates are exempt (RFC 5280, 4.2.1.10), the leaf never is.
            for (index, certificate) in path.iter().enumerate() {
                if index == 0 || !certificate.is_self_issued() {
                    constraints.check(certificate, self.purpose).map_err(Refusal::NameConstraint)?;
                }
            }
        }
        self.checks_left = self.checks_left.checked_sub(1).ok_or(Refusal::TooMuchWork)?;
        let signed = last.envelope().ok_or(Refusal::Unreadable)?;
        let key = issuer.envelope().ok_or(Refusal::Unreadable)?.key;
        signature::check_issued(&signed, key, &self.store.algorithms).map_err(|problem| match problem {
            SignatureProblem::Wrong => Refusal::WrongSignature,
            SignatureProblem::Algorithm => Refusal::Algorithm(last.signature_oid.clone()),
            SignatureProblem::ShortKey => Refusal::ShortKey,
        })
    }
}
