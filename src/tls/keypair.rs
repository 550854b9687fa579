//! Our own certificate and key.
//!
//! The library's own loader reads the certificate with a verifier that refuses X.509 version 1, so the match of certificate and
//! key is checked here.

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

use super::certificate::Certificate;
use super::der;
use super::{PemFile, TlsError, pem};

/// The two files and the start of their settings' names (`client_tls` or `server_tls`).
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyPairFiles<'a> {
    pub(super) prefix: &'static str,
    pub(super) cert: PemFile<'a>,
    pub(super) key: PemFile<'a>,
}

impl KeyPairFiles<'_> {
    /// Loads both. The certificate of the key may stand anywhere in its file; it is sent first, then its chain.
    pub(super) fn load(self) -> Result<CertifiedKey, TlsError> {
        let (cert_setting, key_setting) = (format!("{}_cert_file", self.prefix), format!("{}_key_file", self.prefix));
        let certificates = pem::certificates(&cert_setting, self.cert)?;
        let private_key = pem::private_key(&key_setting, self.key)?;
        let signing_key = any_supported_type(&private_key).map_err(|_| {
            let reason = "this private key cannot be used; RSA with 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, and \
                          Ed25519 can";
            TlsError::file(&key_setting, self.key.path, reason)
        })?;
        let own = signing_key
            .public_key()
            .ok_or_else(|| TlsError::file(&key_setting, self.key.path, "the public part of the key cannot be found"))?;
        let own_bits = der::public_key(own.as_ref()).map(|key| key.bits);
        let is_own = |certificate: &CertificateDer<'_>| {
            let key = der::envelope(certificate.as_ref()).map(|envelope| envelope.key.bits);
            key.is_some() && key == own_bits
        };
        if let Some(position) = certificates.iter().position(|der| der::envelope(der.as_ref()).is_none()) {
            let reason = format!("certificate {} of the file cannot be read", position + 1);
            return Err(TlsError::file(&cert_setting, self.cert.path, reason));
        }
        let leaf = certificates.iter().position(is_own).ok_or_else(|| TlsError::KeyMismatch {
            cert_setting,
            cert_path: self.cert.path.to_owned(),
            key_setting,
            key_path: self.key.path.to_owned(),
        })?;
        Ok(CertifiedKey::new(in_chain_order(certificates, leaf), signing_key))
    }
}

/// The leaf first, then each certificate's issuer; what belongs to no chain comes last, in file order.
fn in_chain_order(mut rest: Vec<CertificateDer<'static>>, leaf: usize) -> Vec<CertificateDer<'static>> {
    let mut chain = Vec::with_capacity(rest.len());
    let mut next = Some(leaf);
    while let Some(index) = next.filter(|&index| index < rest.len()) {
        let certificate = rest.remove(index);
        let issuer = Certificate::read(&certificate).ok().filter(|read| !read.is_self_issued()).map(|read| read.issuer);
        chain.push(certificate);
        next = issuer.and_then(|issuer| {
            rest.iter().position(|other| Certificate::read(other).is_ok_and(|read| read.subject == issuer))
        });
    }
    chain.append(&mut rest);
    chain
}
