//! The channel-binding hash of a certificate, `tls-server-end-point` (RFC 5929, section 4.1).

use aws_lc_rs::digest::{self, Algorithm, SHA224, SHA256, SHA384, SHA512};

use super::der::{self, SEQUENCE};

const OID: u8 = 0x06;
const EXPLICIT_0: u8 = 0xa0;
/// 1.2.840.113549.1.1, PKCS #1.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
/// 1.2.840.10045.4.1, ecdsa-with-SHA1.
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
/// 1.2.840.10045.4.3, ecdsa-with-SHA2.
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
/// 2.16.840.1.101.3.4.2, the SHA-2 hashes.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// The hash of a certificate with the hash function of its signature; MD5 and SHA-1 count as SHA-256 (RFC 5929, 4.1).
///
/// `None` where PostgreSQL and libpq cannot do it either: the signature has no hash function of its own (Ed25519), or one that
/// we do not know. Then SCRAM-SHA-256-PLUS must not be offered.
#[must_use]
pub fn server_end_point_hash(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = hash_of_signature(der::envelope(certificate)?.signature_algorithm)?;
    Some(digest::digest(algorithm, certificate).as_ref().to_vec())
}

/// The hash function of an AlgorithmIdentifier's contents.
fn hash_of_signature(algorithm: &[u8]) -> Option<&'static Algorithm> {
    let oid = der::expect(algorithm, OID)?;
    if oid.value == ECDSA_SHA1 {
        return Some(&SHA256);
    }
    let (&last, family) = oid.value.split_last()?;
    match (family, last) {
        // MD5, SHA-1
        (PKCS1, 4 | 5) => Some(&SHA256),
        (PKCS1, 10) => hash_of_pss(oid.rest),
        (PKCS1, 11) | (ECDSA_SHA2, 2) => Some(&SHA256),
        (PKCS1, 12) | (ECDSA_SHA2, 3) => Some(&SHA384),
        (PKCS1, 13) | (ECDSA_SHA2, 4) => Some(&SHA512),
        (PKCS1, 14) | (ECDSA_SHA2, 1) => Some(&SHA224),
        _ => None,
    }
}

/// The hash function in RSASSA-PSS-params (RFC 4055, 3.1); the default is SHA-1.
fn hash_of_pss(parameters: &[u8]) -> Option<&'static Algorithm> {
    let parameters = der::expect(parameters, SEQUENCE)?;
    let Some(hash) = der::expect(parameters.value, EXPLICIT_0) else {
        return Some(&SHA256);
    };
    let oid = der::expect(der::expect(hash.value, SEQUENCE)?.value, OID)?;
    let (&last, family) = oid.value.split_last()?;
    match (family, last) {
        (SHA2, 1) => Some(&SHA256),
        (SHA2, 2) => Some(&SHA384),
        (SHA2, 3) => Some(&SHA512),
        (SHA2, 4) => Some(&SHA224),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identifier(oid: &[u8], last: u8) -> Vec<u8> {
        let length = u8::try_from(oid.len() + 1).unwrap();
        [&[OID, length], oid, &[last]].concat()
    }

    #[test]
    fn weak_hashes_count_as_sha256() {
        assert_eq!(hash_of_signature(&identifier(PKCS1, 5)), Some(&SHA256));
        assert_eq!(hash_of_signature(&[&[OID, 7], ECDSA_SHA1].concat()), Some(&SHA256));
        assert_eq!(hash_of_signature(&[&identifier(PKCS1, 10)[..], &[0x30, 0]].concat()), Some(&SHA256));
    }

    #[test]
    fn sha2_hashes_are_their_own() {
        assert_eq!(hash_of_signature(&identifier(PKCS1, 12)), Some(&SHA384));
        assert_eq!(hash_of_signature(&identifier(ECDSA_SHA2, 4)), Some(&SHA512));
    }

    #[test]
    fn signatures_without_a_hash_have_no_binding() {
        // 1.3.101.112, Ed25519
        assert_eq!(hash_of_signature(&[OID, 3, 0x2b, 0x65, 0x70]), None);
        assert_eq!(server_end_point_hash(b"not a certificate"), None);
    }
}
