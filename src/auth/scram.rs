//! The keys of SCRAM-SHA-256 (RFC 5802 section 3, RFC 7677), the secret that servers store, and how a password becomes
//! either.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::password::equal;

/// The most PBKDF2 iterations that we work off for anybody: some seconds of one core. PostgreSQL's own default is 4096;
/// without a bound a hostile server could keep us busy for an hour with one number.
pub const MAX_ITERATIONS: u32 = 10_000_000;

/// A SHA-256 digest or a key of the same size.
pub(super) type Key = [u8; 32];

/// What PostgreSQL calls the SCRAM secret begins with this.
pub(super) const SECRET_PREFIX: &[u8] = b"SCRAM-SHA-256$";

pub(super) fn hmac_sha256(key: &[u8], message: &[u8]) -> Zeroizing<Key> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    to_key(tag.as_ref())
}

pub(super) fn sha256(message: &[u8]) -> Zeroizing<Key> {
    to_key(digest::digest(&digest::SHA256, message).as_ref())
}

pub(super) fn xor(a: &Key, b: &Key) -> Zeroizing<Key> {
    let mut out = Zeroizing::new(*a);
    for (to, from) in out.iter_mut().zip(b) {
        *to ^= from;
    }
    out
}

fn to_key(bytes: &[u8]) -> Zeroizing<Key> {
    let mut key = Zeroizing::new([0; 32]);
    for (to, from) in key.iter_mut().zip(bytes) {
        *to = *from;
    }
    key
}

/// ClientKey and ServerKey of one (password, salt, iterations): as good as the password for every SCRAM login whose server
/// holds the same salt and iterations, and useless elsewhere.
#[derive(Clone)]
pub struct ScramKeys {
    pub(super) client_key: Zeroizing<Key>,
    pub(super) server_key: Zeroizing<Key>,
}

impl ScramKeys {
    /// Takes the keys as [`ScramKeys::to_bytes`] gave them (a running process passing its clients on to its successor).
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let (client, server) = bytes.split_at(32);
        Self { client_key: to_key(client), server_key: to_key(server) }
    }

    /// ClientKey, then ServerKey. To be sealed or kept in memory, never written down.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 64]> {
        let mut out = Zeroizing::new([0; 64]);
        for (to, from) in out.iter_mut().zip(self.client_key.iter().chain(self.server_key.iter())) {
            *to = *from;
        }
        out
    }

    fn from_salted(salted_password: &Key) -> Self {
        Self {
            client_key: hmac_sha256(salted_password, b"Client Key"),
            server_key: hmac_sha256(salted_password, b"Server Key"),
        }
    }
}

impl PartialEq for ScramKeys {
    fn eq(&self, other: &Self) -> bool {
        equal(self.to_bytes().as_slice(), other.to_bytes().as_slice())
    }
}

impl Eq for ScramKeys {}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

/// The keys of a client's login together with what they were made for: enough to log in to any server that stores the
/// very same SCRAM secret for the user, without ever having seen the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassThrough {
    /// ClientKey as recovered from the client's proof, ServerKey from the secret on file.
    pub keys: ScramKeys,
    /// The salt that the keys hold for.
    pub salt: Vec<u8>,
    /// The iterations that the keys hold for.
    pub iterations: NonZeroU32,
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid.rolpassword` (PostgreSQL docs,
/// "pg_authid"). A login can be checked with it, but not made.
#[derive(Clone)]
pub struct ScramSecret {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Zeroizing<Key>,
    pub(super) server_key: Zeroizing<Key>,
}

impl ScramSecret {
    /// Reads the stored form; `None` if it is anything else.
    #[must_use]
    pub fn parse(stored: &[u8]) -> Option<Self> {
        let rest = stored.strip_prefix(SECRET_PREFIX)?;
        let (parameters, keys) = split_once(rest, b'$')?;
        let (iterations, salt) = split_once(parameters, b':')?;
        let (stored_key, server_key) = split_once(keys, b':')?;
        let salt = STANDARD.decode(salt).ok()?;
        Some(Self {
            iterations: parse_iterations(iterations)?,
            salt: if salt.is_empty() { return None } else { salt },
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// Makes the secret of a password. Takes as long as the iterations ask for: milliseconds for the usual thousands.
    #[must_use]
    pub fn from_password(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        Self::from_keys(&derive(password, salt, iterations), salt, iterations)
    }

    /// Makes the secret from keys that were derived before with this salt and these iterations.
    #[must_use]
    pub fn from_keys(keys: &ScramKeys, salt: &[u8], iterations: NonZeroU32) -> Self {
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(keys.client_key.as_slice()),
            server_key: keys.server_key.clone(),
        }
    }

    /// The stored form.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let salt = STANDARD.encode(&self.salt);
        let stored_key = Zeroizing::new(STANDARD.encode(self.stored_key.as_slice()));
        let server_key = Zeroizing::new(STANDARD.encode(self.server_key.as_slice()));
        Zeroizing::new(format!("SCRAM-SHA-256${}:{salt}${}:{}", self.iterations, *stored_key, *server_key))
    }

    /// How often the hash is repeated.
    #[must_use]
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// The salt, decoded.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Do the keys, derived from a password with this secret's salt and iterations, prove that password right?
    #[must_use]
    pub fn verify(&self, keys: &ScramKeys) -> bool {
        equal(sha256(keys.client_key.as_slice()).as_slice(), self.stored_key.as_slice())
            & equal(keys.server_key.as_slice(), self.server_key.as_slice())
    }
}

impl PartialEq for ScramSecret {
    fn eq(&self, other: &Self) -> bool {
        self.iterations == other.iterations
            && self.salt == other.salt
            && equal(self.stored_key.as_slice(), other.stored_key.as_slice())
            && equal(self.server_key.as_slice(), other.server_key.as_slice())
    }
}

impl Eq for ScramSecret {}

impl fmt::Debug for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramSecret").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// One slow step that a login machine asks its driver for: PBKDF2 over a password. The driver runs it where it does not
/// hold up anybody and hands the keys back. It is a pure function of (password, salt, iterations), so the result may be
/// kept and handed back again, as long as [`Derivation::of_stored_password`] says so.
pub struct Derivation {
    pub(super) password: Zeroizing<Vec<u8>>,
    pub(super) salt: Vec<u8>,
    pub(super) iterations: NonZeroU32,
    pub(super) stored: bool,
}

impl Derivation {
    /// Does the work.
    #[must_use]
    pub fn run(&self) -> ScramKeys {
        derive(&self.password, &self.salt, self.iterations)
    }

    /// The salt to which the keys will belong.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// The iterations, at most [`MAX_ITERATIONS`].
    #[must_use]
    pub fn iterations(&self) -> NonZeroU32 {
        self.iterations
    }

    /// Is it our own stored password? Then the keys may be cached. If not, it is what an unproven client typed, and the
    /// keys must be forgotten after the login.
    #[must_use]
    pub fn of_stored_password(&self) -> bool {
        self.stored
    }
}

impl fmt::Debug for Derivation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derivation").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> ScramKeys {
    let mut salted = Zeroizing::new([0; 32]);
    let prepared = prepare(password);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, &prepared, salted.as_mut_slice());
    ScramKeys::from_salted(&salted)
}

/// SASLprep (RFC 4013) where it applies. As in PostgreSQL, a password that is not UTF-8, holds a prohibited character or
/// would become empty is used as it is.
pub(super) fn prepare(password: &[u8]) -> Zeroizing<Vec<u8>> {
    if let Ok(text) = std::str::from_utf8(password)
        && let Ok(prepared) = stringprep::saslprep(text)
        && !prepared.is_empty()
    {
        return Zeroizing::new(prepared.into_owned().into_bytes());
    }
    Zeroizing::new(password.to_vec())
}

pub(super) fn parse_iterations(digits: &[u8]) -> Option<NonZeroU32> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse::<NonZeroU32>().ok()?;
    i32::try_from(number.get()).ok().map(|_| number)
}

pub(super) fn decode_key(base64: &[u8]) -> Option<Zeroizing<Key>> {
    let bytes = Zeroizing::new(STANDARD.decode(base64).ok()?);
    let key: Key = bytes.as_slice().try_into().ok()?;
    Some(Zeroizing::new(key))
}

pub(super) fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((bytes.get(..place)?, bytes.get(place + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A role made by PostgreSQL: password `foo`.
    const STORED: &str = "SCRAM-SHA-256$4096:D76gvGUVj9Z4DNiGoabOBg==$RukL0Xo3Ql/2F9FsD7mcQ3GATG2fD3PA71qY1JagGDs=:\
                          BhKUwyyivFm7Tq2jDJVXSVRbRDgTWyBilZKgg6DDuYU=";

    #[test]
    fn stored_form_there_and_back() {
        let secret = ScramSecret::parse(STORED.as_bytes()).unwrap();
        assert_eq!(secret.to_text().as_str(), STORED);
        assert_eq!(ScramSecret::from_password(b"foo", secret.salt(), secret.iterations()), secret);
        assert_ne!(ScramSecret::from_password(b"bar", secret.salt(), secret.iterations()), secret);
        assert!(secret.verify(&derive(b"foo", secret.salt(), secret.iterations())));
        assert!(!secret.verify(&derive(b"Foo", secret.salt(), secret.iterations())));
    }

    #[test]
    fn broken_secrets_are_none() {
        for (from, to) in [
            ("4096", "0"),
            ("4096", "-1"),
            ("4096", "+1"),
            ("4096", ""),
            ("4096", "2147483648"),
            ("4096:", "4096"),
            ("SHA-256", "SHA-1"),
            ("D76gvGUVj9Z4DNiGoabOBg==", ""),
            ("D76gvGUVj9Z4DNiGoabOBg==", "!"),
            ("RukL", ""),
            ("uYU=", "uYU=$"),
            (":BhKU", "$BhKU"),
        ] {
            let broken = STORED.replace(from, to);
            assert_eq!(ScramSecret::parse(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn saslprep_and_what_it_cannot_take() {
        let prepared = |bytes: &[u8]| prepare(bytes).to_vec();
        // The examples of RFC 4013 section 3; what is prohibited stays as it is.
        assert_eq!(prepared("I\u{ad}X".as_bytes()), b"IX");
        assert_eq!(prepared(b"user"), b"user");
        assert_eq!(prepared("\u{aa}".as_bytes()), b"a");
        assert_eq!(prepared("\u{2168}".as_bytes()), b"IX");
        assert_eq!(prepared(b"\x07"), b"\x07");
        assert_eq!(prepared("\u{627}1".as_bytes()), "\u{627}1".as_bytes());
        assert_eq!(prepared(b"\xff\xc0"), b"\xff\xc0");
        assert_eq!(prepared("\u{ad}".as_bytes()), "\u{ad}".as_bytes());
    }

    #[test]
    fn keys_are_what_their_bytes_say() {
        let keys = derive(b"", b"salt", NonZeroU32::MIN);
        assert_eq!(ScramKeys::from_bytes(&keys.to_bytes()), keys);
        assert_eq!(format!("{keys:?}"), "ScramKeys(..)");
    }
}
