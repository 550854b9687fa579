//! Cancel keys of our clients: who is meant by a CancelRequest. A key that nobody has is met by silence, as PostgreSQL does.

use std::collections::HashMap;

use crate::ids::ClientId;
use crate::wire::startup::{CancelKey, PROTOCOL_3_2};

/// The keys of all clients.
#[derive(Debug, Default)]
pub struct Keys {
    owners: HashMap<CancelKey, ClientId>,
}

/// Bytes of randomness that a new key takes.
pub const KEY_LEN_MAX: usize = 36;

impl Keys {
    /// Gives `client` the key made of `random`: 4 bytes of secret for protocol 3.0, 32 for 3.2; with a `peer_id` that is not 0
    /// a [peer key](peer_of). `None` in the rare case that somebody has it; draw again.
    pub fn issue(
        &mut self,
        client: ClientId,
        protocol: u32,
        peer_id: u16,
        random: &[u8; KEY_LEN_MAX],
    ) -> Option<CancelKey> {
        let [a, b, c, d, secret @ ..] = random;
        // The top bit of a process id is never set; some drivers read it as a signed number.
        let pid = u32::from_be_bytes([a & 0x7f, *b, *c, *d]);
        let key = match peer_id {
            0 => {
                let len = if protocol >= PROTOCOL_3_2 { secret.len() } else { PEER_SECRET_LEN };
                CancelKey { pid, secret: secret.get(..len)?.into() }
            }
            id => {
                let [low, high] = id.to_le_bytes();
                let pid = u32::from_be_bytes([a & 0x7f, low, high, *d]);
                fresh(&CancelKey { pid, secret: secret.get(..PEER_SECRET_LEN)?.into() })?
            }
        };
        if self.owners.contains_key(&key) {
            return None;
        }
        self.owners.insert(key.clone(), client);
        Some(key)
    }

    /// Takes over a key that a former process issued.
    pub fn restore(&mut self, client: ClientId, key: CancelKey) {
        self.owners.insert(key, client);
    }

    /// Whose key it is, however often it has been passed on among peers.
    #[must_use]
    pub fn owner(&self, key: &CancelKey) -> Option<ClientId> {
        self.owners.get(key).or_else(|| self.owners.get(&fresh(key)?)).copied()
    }

    /// The client is gone.
    pub fn revoke(&mut self, key: &CancelKey) {
        self.owners.remove(key);
    }
}

/// Bytes of the secret of a peer key. Not more for protocol 3.2 either: PgBouncer among the peers takes no longer ones.
const PEER_SECRET_LEN: usize = 4;

/// The bits of a peer key's last byte that say how often it may still be passed on.
const HOPS: u8 = 0b11;

/// The number of the process that issued a key, if it is one of peers. It has PgBouncer's form, so that both can be peers: the
/// number stands in the second and third byte, the low one first, and [`HOPS`] in the last.
#[must_use]
pub fn peer_of(key: &CancelKey) -> Option<u16> {
    let [_, low, high, _] = key.pid.to_be_bytes();
    (key.secret.len() == PEER_SECRET_LEN).then(|| u16::from_le_bytes([low, high]))
}

/// The key to pass a request on with. `None`: it has been passed on as often as it may.
#[must_use]
pub fn with_one_hop_less(key: &CancelKey) -> Option<CancelKey> {
    with_last(key, |last| if last & HOPS == 0 { None } else { Some(last - 1) })
}

/// The key as it was issued.
fn fresh(key: &CancelKey) -> Option<CancelKey> {
    with_last(key, |last| Some(last | HOPS))
}

fn with_last(key: &CancelKey, change: impl FnOnce(u8) -> Option<u8>) -> Option<CancelKey> {
    let [a, b, c, last] = *key.secret else { return None };
    Some(CancelKey { pid: key.pid, secret: [a, b, c, change(last)?].into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::startup::PROTOCOL_3_0;

    #[test]
    fn a_key_is_found_until_revoked_and_never_issued_twice() {
        let mut keys = Keys::default();
        let key = keys.issue(ClientId(7), PROTOCOL_3_0, 0, &[0xff; KEY_LEN_MAX]).unwrap();
        assert_eq!((key.pid, key.secret.len()), (0x7fff_ffff, 4));
        assert_eq!(keys.issue(ClientId(8), PROTOCOL_3_0, 0, &[0xff; KEY_LEN_MAX]), None);
        let long = keys.issue(ClientId(8), PROTOCOL_3_2, 0, &[0xff; KEY_LEN_MAX]).unwrap();
        assert_eq!(long.secret.len(), 32);
        assert_eq!(keys.owner(&key), Some(ClientId(7)));
        keys.revoke(&key);
        assert_eq!(keys.owner(&key), None);
        assert_eq!(keys.owner(&long), Some(ClientId(8)));
    }

    #[test]
    fn a_peer_key_names_its_process_and_is_known_after_every_hop() {
        let mut keys = Keys::default();
        for protocol in [PROTOCOL_3_0, PROTOCOL_3_2] {
            let random = [protocol as u8; KEY_LEN_MAX];
            let key = keys.issue(ClientId(u64::from(protocol)), protocol, 0x1234, &random).unwrap();
            let [first, second, third, _] = key.pid.to_be_bytes();
            assert_eq!((first & 0x80, second, third), (0, 0x34, 0x12), "as PgBouncer writes it");
            assert_eq!((key.secret.len(), key.secret[3] & HOPS), (4, 3));
            let mut passed = Some(key);
            for _ in 0..4 {
                let key = passed.take().unwrap();
                assert_eq!(peer_of(&key), Some(0x1234));
                assert_eq!(keys.owner(&key), Some(ClientId(u64::from(protocol))));
                passed = with_one_hop_less(&key);
            }
            assert_eq!(passed, None, "a fourth hop would be one in a circle");
        }
    }

    #[test]
    fn a_long_key_is_no_peer_key() {
        let mut keys = Keys::default();
        let long = keys.issue(ClientId(1), PROTOCOL_3_2, 0, &[1; KEY_LEN_MAX]).unwrap();
        assert_eq!((peer_of(&long), with_one_hop_less(&long)), (None, None));
    }
}
