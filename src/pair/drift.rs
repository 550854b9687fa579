//! In which settings the nodes differ, without a value leaving its node: each setting goes as a hash with a key that only this
//! one TLS session has (exported keying material, RFC 8446 section 7.5), which even the peer cannot use for another. Whoever reads
//! a message elsewhere (a log, a core dump) cannot try passwords against it.
//!
//! The peer itself can: it has the key, and it is trusted. Settings whose values must differ (addresses, names) are left out by
//! the caller.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::bounded::{Bytes, List};
use super::message::{Fingerprint, Name, SETTINGS_MAX, Settings};

/// One setting of this node.
#[derive(Clone, PartialEq, Eq)]
pub struct Setting {
    /// As the operator knows it, such as `max_db_connections` or `database "app": pool_size`.
    pub name: String,
    /// In one form for one meaning: what means the same on both nodes must be the same here.
    pub value: Zeroizing<String>,
}

impl fmt::Debug for Setting {
    /// A value may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setting").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Setting {
    /// A setting.
    #[must_use]
    pub fn new(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), value: Zeroizing::new(value.to_owned()) }
    }
}

/// The key of one path's fingerprints.
#[derive(Clone)]
pub struct DriftKey(hmac::Key);

impl DriftKey {
    /// From a TLS session's exported keying material.
    #[must_use]
    pub fn new(exported: &Zeroizing<[u8; 32]>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, exported.as_ref()))
    }

    fn hash(&self, setting: &Setting) -> Bytes<8> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&(setting.name.len() as u64).to_be_bytes());
        context.update(setting.name.as_bytes());
        context.update(setting.value.as_bytes());
        Bytes(context.sign().as_ref().first_chunk().copied().unwrap_or_default())
    }

    /// The fingerprints of these settings, as the peer gets them.
    #[must_use]
    pub fn fingerprints(&self, serial: u64, settings: &[Setting]) -> Settings {
        Settings {
            serial,
            complete: settings.len() <= SETTINGS_MAX,
            fingerprints: settings
                .iter()
                .take(SETTINGS_MAX)
                .map(|setting| Fingerprint { name: Name::new(&setting.name), hash: self.hash(setting) })
                .collect::<List<_, SETTINGS_MAX>>(),
        }
    }

    /// The settings in which the peer differs, by name, in order: other values, and what only one of the nodes has.
    #[must_use]
    pub fn differences(&self, own: &[Setting], peer: &Settings) -> Vec<String> {
        let own_complete = own.len() <= SETTINGS_MAX;
        let own = self.fingerprints(0, own);
        let of = |settings: &Settings| -> BTreeMap<Name, Bytes<8>> {
            settings.fingerprints.iter().map(|print| (print.name.clone(), print.hash)).collect()
        };
        let (own, theirs) = (of(&own), of(peer));
        let other = own.iter().filter(|(name, hash)| match theirs.get(*name) {
            Some(theirs) => theirs != *hash,
            // Cut off, perhaps: then nothing follows from its absence.
            None => peer.complete,
        });
        let only_theirs = theirs.iter().filter(|(name, _)| own_complete && !own.contains_key(*name));
        let mut names: Vec<String> = other.chain(only_theirs).map(|(name, _)| name.as_str().to_owned()).collect();
        names.sort_unstable();
        names
    }
}

impl fmt::Debug for DriftKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DriftKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> DriftKey {
        DriftKey::new(&Zeroizing::new([byte; 32]))
    }

    fn settings(list: &[(&str, &str)]) -> Vec<Setting> {
        list.iter().map(|(name, value)| Setting::new(name, value)).collect()
    }

    #[test]
    fn other_values_and_settings_of_one_node_only_are_named() {
        let own = settings(&[("pool_size", "20"), ("max_db_connections", "100"), ("only_here", "1")]);
        let theirs = settings(&[("max_db_connections", "50"), ("only_there", "1"), ("pool_size", "20")]);
        let sent = key(1).fingerprints(3, &theirs);
        assert_eq!(key(1).differences(&own, &sent), ["max_db_connections", "only_here", "only_there"]);
        assert_eq!(key(1).differences(&theirs, &sent), Vec::<String>::new());
    }

    #[test]
    fn the_same_value_has_another_hash_in_another_session_and_under_another_name() {
        let list = settings(&[("a", "secret"), ("b", "secret")]);
        let (one, two) = (key(1).fingerprints(1, &list), key(2).fingerprints(1, &list));
        assert_ne!(one.fingerprints[0].hash, two.fingerprints[0].hash);
        assert_ne!(one.fingerprints[0].hash, one.fingerprints[1].hash);
        assert!(!format!("{:?} {:?}", key(1), list).contains("secret"));
    }

    #[test]
    fn of_a_list_that_was_cut_off_absence_means_nothing() {
        let long: Vec<Setting> = (0..SETTINGS_MAX + 9).map(|n| Setting::new(&format!("s{n}"), "1")).collect();
        let sent = key(1).fingerprints(1, &long);
        assert!(!sent.complete);
        assert_eq!(key(1).differences(&long, &sent), Vec::<String>::new());
        assert_eq!(key(1).differences(&settings(&[("s0", "1"), ("zz", "1")]), &sent).len(), SETTINGS_MAX - 1);
    }
}
