//! Passwords without SCRAM: PostgreSQL's MD5 scheme and comparisons that take the same time whatever differs.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use md5::{Digest, Md5};
use zeroize::Zeroizing;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Are the two the same? The time depends on the lengths only.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// Are the two passwords the same? Compares digests, so that not even the place where the lengths part shows.
#[must_use]
pub fn equal_passwords(a: &[u8], b: &[u8]) -> bool {
    equal(digest::digest(&digest::SHA256, a).as_ref(), digest::digest(&digest::SHA256, b).as_ref())
}

/// `md5` and 32 hexadecimal digits: what `pg_authid.rolpassword` and `auth_file` hold under the MD5 scheme
/// (PostgreSQL docs, "Password Authentication"). Whoever has it can log in without the password.
#[derive(Clone)]
pub struct Md5Secret(Zeroizing<[u8; 32]>);

impl Md5Secret {
    /// Reads the stored form. `None` unless it is `md5` and 32 lower-case digits, as PostgreSQL and PgBouncer demand.
    #[must_use]
    pub fn parse(stored: &[u8]) -> Option<Self> {
        let digits: [u8; 32] = stored.strip_prefix(b"md5")?.try_into().ok()?;
        digits.iter().all(|digit| HEX.contains(digit)).then(|| Self(Zeroizing::new(digits)))
    }

    /// The stored form that PostgreSQL makes of a password: MD5 over the password and the user name.
    #[must_use]
    pub fn from_password(password: &[u8], user: &[u8]) -> Self {
        Self(md5_hex(password, user))
    }

    /// What a client answers to AuthenticationMD5Password: 35 bytes, without the final zero.
    #[must_use]
    pub fn response(&self, salt: [u8; 4]) -> Zeroizing<[u8; 35]> {
        let mut answer = Zeroizing::new([0; 35]);
        let digits = md5_hex(self.0.as_slice(), &salt);
        for (to, from) in answer.iter_mut().zip(b"md5".iter().chain(digits.iter())) {
            *to = *from;
        }
        answer
    }

    /// The stored form, 35 bytes.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([b"md5".as_slice(), self.0.as_slice()].concat())
    }
}

impl PartialEq for Md5Secret {
    fn eq(&self, other: &Self) -> bool {
        equal(self.0.as_slice(), other.0.as_slice())
    }
}

impl Eq for Md5Secret {}

impl fmt::Debug for Md5Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Secret(..)")
    }
}

/// MD5 over both, as lower-case hexadecimal digits.
fn md5_hex(first: &[u8], second: &[u8]) -> Zeroizing<[u8; 32]> {
    let sum = Md5::new().chain_update(first).chain_update(second).finalize();
    let mut digits = Zeroizing::new([0; 32]);
    for (pair, byte) in digits.chunks_exact_mut(2).zip(sum.iter()) {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            // The digit is worked out, not looked up: no table is read at a place that the secret chooses.
            *digit = if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // From PostgreSQL: CREATE ROLE muser1 PASSWORD 'foo' under password_encryption = md5.
        let secret = Md5Secret::from_password(b"foo", b"muser1");
        assert_eq!(secret.to_text().as_slice(), b"md5ab8b744ff66bee42dc47bae34ca17959");
        assert_eq!(Md5Secret::parse(&secret.to_text()), Some(secret));
    }

    #[test]
    fn only_the_exact_form_is_md5() {
        for text in ["", "md5", "md5ab8b744ff66bee42dc47bae34ca1795", "md5AB8b744ff66bee42dc47bae34ca17959"] {
            assert_eq!(Md5Secret::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn response_is_what_another_implementation_says() {
        let response = Md5Secret::from_password(b"password", b"md5_user").response([0x2a, 0x3d, 0x8f, 0xe0]);
        assert_eq!(response.as_slice(), b"md562af4dd09bbb41884907a838a3233294");
    }

    #[test]
    fn compares() {
        assert!(equal(b"", b"") && equal(b"ab", b"ab") && !equal(b"ab", b"ac") && !equal(b"ab", b"abc"));
        assert!(equal_passwords(b"ab", b"ab") && !equal_passwords(b"ab", b"abc"));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Md5Secret::from_password(b"a", b"b")), "Md5Secret(..)");
    }
}
