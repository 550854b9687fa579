//! Signatures: of a certificate by its issuer, and of a handshake by the owner of a certificate.
//!
//! The library's own helpers for the second read the certificate with a verifier that refuses X.509 version 1. Here the key is
//! taken from the certificate's DER; the algorithms are the library's, chosen by the same rules.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DigitallySignedStruct, Error, PeerMisbehaved, SignatureScheme};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, alg_id};

use super::der::{self, Envelope, PublicKey};

/// Why a certificate's signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SignatureProblem {
    /// It is not the issuer's, whose key may even be of another kind.
    Wrong,
    /// The algorithm is unknown or too weak (MD5, SHA-1), or the issuer's key is of an unknown kind.
    Algorithm,
    /// The issuer's RSA key has less than 2048 bits.
    ShortKey,
}

/// The DER of an RSA key of 2048 bits has 270 octets, of 1536 bits 206.
const MIN_RSA_KEY_OCTETS: usize = 260;

/// Is `certificate` signed with `issuer_key`?
pub(super) fn check_issued(
    certificate: &Envelope<'_>,
    issuer_key: PublicKey<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), SignatureProblem> {
    if issuer_key.algorithm == alg_id::RSA_ENCRYPTION.as_ref() && issuer_key.bits.len() < MIN_RSA_KEY_OCTETS {
        return Err(SignatureProblem::ShortKey);
    }
    let algorithm = algorithms
        .all
        .iter()
        .find(|known| {
            known.signature_alg_id().as_ref() == certificate.signature_algorithm
                && known.public_key_alg_id().as_ref() == issuer_key.algorithm
        })
        .ok_or_else(|| {
            let mut known = algorithms.all.iter();
            let signature_known =
                known.clone().any(|known| known.signature_alg_id().as_ref() == certificate.signature_algorithm);
            let key_known = known.any(|known| known.public_key_alg_id().as_ref() == issuer_key.algorithm);
            if signature_known && key_known { SignatureProblem::Wrong } else { SignatureProblem::Algorithm }
        })?;
    algorithm
        .verify_signature(issuer_key.bits, certificate.signed, certificate.signature)
        .map_err(|_| SignatureProblem::Wrong)
}

/// Which TLS version's rules hold for a handshake signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    /// RFC 5246: the scheme names a hash; the curve is that of the key.
    Tls12,
    /// RFC 8446, 4.2.3: the scheme names hash and curve; no PKCS #1 v1.5.
    Tls13,
}

/// Checks the signature in a handshake with the certificate's key.
pub(super) fn check_handshake(
    version: Handshake,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let misbehaved = || Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme);
    if version == Handshake::Tls13 && !allowed_in_tls13(signed.scheme) {
        return Err(misbehaved());
    }
    let (_, candidates) =
        algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme).ok_or_else(misbehaved)?;
    // The library lists the algorithm with the scheme's own curve first.
    let candidates = match version {
        Handshake::Tls12 => candidates,
        Handshake::Tls13 => candidates.get(..1).unwrap_or_default(),
    };
    let key = der::envelope(certificate.as_ref()).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?.key;
    let fitting = |known: &&&dyn SignatureVerificationAlgorithm| known.public_key_alg_id().as_ref() == key.algorithm;
    let algorithm = candidates.iter().find(fitting).ok_or_else(|| {
        Error::InvalidCertificate(CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: u16::from(signed.scheme).to_be_bytes().to_vec(),
            public_key_algorithm_id: key.algorithm.to_vec(),
        })
    })?;
    algorithm
        .verify_signature(key.bits, message, signed.signature())
        .map(|()| HandshakeSignatureValid::assertion())
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadSignature))
}

fn allowed_in_tls13(scheme: SignatureScheme) -> bool {
    !matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::ECDSA_SHA1_Legacy
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}
