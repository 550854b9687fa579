//! Key exchange on P-521, which the TLS library leaves out.
//!
//! Two things need it: `client_tls_ecdhcurve = secp521r1`, and PostgreSQL servers whose certificate has a P-521 key and that
//! speak TLS 1.2: there a server may show such a certificate only to clients that name the curve (RFC 8422, 5.1.1).
//! As everywhere in the TLS library, the randomness of a key is the cryptography library's own; it cannot be handed in.

use aws_lc_rs::agreement::{self, ECDH_P521, PrivateKey, PublicKey, UnparsedPublicKey};
use rustls::crypto::{ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved};

/// The group `secp521r1`.
pub(super) static SECP521R1: &dyn SupportedKxGroup = &P521;

/// SEC 1, 2.3.3: one octet that says "uncompressed", and two coordinates of 66.
const UNCOMPRESSED_POINT_OCTETS: usize = 133;
const UNCOMPRESSED: u8 = 4;

#[derive(Debug)]
struct P521;

impl SupportedKxGroup for P521 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let private_key = PrivateKey::generate(&ECDH_P521).map_err(|_| GetRandomFailed)?;
        let public_key = private_key.compute_public_key().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Exchange { private_key, public_key }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

struct Exchange {
    private_key: PrivateKey,
    public_key: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer_pub_key: &[u8]) -> Result<SharedSecret, Error> {
        let refused = Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);
        // Other encodings of a point are not allowed (RFC 8446, 4.2.8.2); that it lies on the curve is checked below.
        if peer_pub_key.len() != UNCOMPRESSED_POINT_OCTETS || peer_pub_key.first() != Some(&UNCOMPRESSED) {
            return Err(refused);
        }
        let peer = UnparsedPublicKey::new(&ECDH_P521, peer_pub_key);
        agreement::agree(&self.private_key, peer, refused, |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        self.public_key.as_ref()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_find_the_same_secret() {
        let (a, b) = (SECP521R1.start().unwrap(), SECP521R1.start().unwrap());
        let (public_a, public_b) = (a.pub_key().to_vec(), b.pub_key().to_vec());
        assert_eq!(public_a.len(), UNCOMPRESSED_POINT_OCTETS);
        let (a, b) = (a.complete(&public_b).unwrap(), b.complete(&public_a).unwrap());
        assert_eq!(a.secret_bytes(), b.secret_bytes());
    }

    #[test]
    fn points_that_are_none_are_refused() {
        let mut off_curve = SECP521R1.start().unwrap().pub_key().to_vec();
        off_curve[100] ^= 1;
        for point in [&[][..], &[4; UNCOMPRESSED_POINT_OCTETS], &[0; 32], &off_curve] {
            assert!(SECP521R1.start().unwrap().complete(point).is_err());
        }
    }
}
