//! The outermost layers of a certificate's DER, read in place: enough to find the signed part and the key.
//!
//! The contents are read by `x509-parser`; this reader exists because algorithm identifiers must be compared byte by byte
//! with those of the TLS library, and because a certificate that is not judged (mode `require`) should not be refused for
//! an odd extension.

/// One tag-length-value: the tag, the value, the whole element, and what follows.
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) value: &'a [u8],
    pub(super) whole: &'a [u8],
    pub(super) rest: &'a [u8],
}

/// Constructed SEQUENCE.
pub(super) const SEQUENCE: u8 = 0x30;
/// BIT STRING.
pub(super) const BIT_STRING: u8 = 0x03;
const EXPLICIT_0: u8 = 0xa0;
const INTEGER: u8 = 0x02;

/// Reads one element with a definite length (X.690, 8.1.3) and a one-byte tag.
pub(super) fn element(input: &[u8]) -> Option<Element<'_>> {
    let (&tag, after_tag) = input.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (&first, after_first) = after_tag.split_first()?;
    let (length, body) = if first < 0x80 {
        (usize::from(first), after_first)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return None;
        }
        let (digits, body) = after_first.split_at_checked(count)?;
        (digits.iter().fold(0_usize, |sum, &digit| (sum << 8) | usize::from(digit)), body)
    };
    let (value, rest) = body.split_at_checked(length)?;
    let whole = input.get(..input.len() - rest.len())?;
    Some(Element { tag, value, whole, rest })
}

/// Reads one element that must have this tag.
pub(super) fn expect(input: &[u8], tag: u8) -> Option<Element<'_>> {
    element(input).filter(|found| found.tag == tag)
}

/// The value of a BIT STRING without unused bits.
fn whole_octets(value: &[u8]) -> Option<&[u8]> {
    let (&unused, octets) = value.split_first()?;
    (unused == 0).then_some(octets)
}

/// A public key: the contents of its AlgorithmIdentifier and of its BIT STRING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PublicKey<'a> {
    pub(super) algorithm: &'a [u8],
    pub(super) bits: &'a [u8],
}

/// Reads a SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
pub(super) fn public_key(spki: &[u8]) -> Option<PublicKey<'_>> {
    let outer = expect(spki, SEQUENCE)?;
    let algorithm = expect(outer.value, SEQUENCE)?;
    let bits = expect(algorithm.rest, BIT_STRING)?;
    Some(PublicKey { algorithm: algorithm.value, bits: whole_octets(bits.value)? })
}

/// A certificate's three outer parts (RFC 5280, 4.1) and its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    /// The signed part with its header.
    pub(super) signed: &'a [u8],
    /// Contents of the outer AlgorithmIdentifier.
    pub(super) signature_algorithm: &'a [u8],
    pub(super) signature: &'a [u8],
    pub(super) key: PublicKey<'a>,
}

/// Reads the outer layers of a certificate. `None` if it is not one, has bytes behind its end, or names two different
/// signature algorithms (RFC 5280, 4.1.1.2).
pub(super) fn envelope(certificate: &[u8]) -> Option<Envelope<'_>> {
    let outer = expect(certificate, SEQUENCE)?;
    if !outer.rest.is_empty() {
        return None;
    }
    let signed = expect(outer.value, SEQUENCE)?;
    let algorithm = expect(signed.rest, SEQUENCE)?;
    let signature = expect(algorithm.rest, BIT_STRING)?;

    let version = element(signed.value)?;
    let serial_start = if version.tag == EXPLICIT_0 { version.rest } else { signed.value };
    let serial = expect(serial_start, INTEGER)?;
    let inner_algorithm = expect(serial.rest, SEQUENCE)?;
    if inner_algorithm.value != algorithm.value {
        return None;
    }
    let issuer = expect(inner_algorithm.rest, SEQUENCE)?;
    let validity = expect(issuer.rest, SEQUENCE)?;
    let subject = expect(validity.rest, SEQUENCE)?;
    let spki = expect(subject.rest, SEQUENCE)?;
    Some(Envelope {
        signed: signed.whole,
        signature_algorithm: algorithm.value,
        signature: whole_octets(signature.value)?,
        key: public_key(spki.whole)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_are_checked() {
        assert!(element(&[]).is_none());
        assert!(element(&[0x30]).is_none());
        assert!(element(&[0x30, 0x01]).is_none());
        assert!(element(&[0x30, 0x80, 0, 0]).is_none(), "indefinite length is not DER");
        assert!(element(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]).is_none());
        assert!(element(&[0x30, 0x85, 0, 0, 0, 0, 0]).is_none());
        let long = element(&[0x04, 0x81, 0x02, 7, 8, 9]).unwrap();
        assert_eq!((long.value, long.whole.len(), long.rest), (&[7, 8][..], 5, &[9][..]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = envelope(&bytes);
            let _ = public_key(&bytes);
        }
    }
}
