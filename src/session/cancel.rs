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
    /// Gives `client` the key made of `random`: 4 bytes of secret for protocol 3.0, 32 for 3.2. `None` in the rare case that
    /// somebody has it; draw again.
    pub fn issue(&mut self, client: ClientId, protocol: u32, random: &[u8; KEY_LEN_MAX]) -> Option<CancelKey> {
        let [a, b, c, d, secret @ ..] = random;
        let len = if protocol >= PROTOCOL_3_2 { secret.len() } else { 4 };
        // The top bit of a process id is never set; some drivers read it as a signed number.
        let pid = u32::from_be_bytes([a & 0x7f, *b, *c, *d]);
        let key = CancelKey { pid, secret: secret.get(..len)?.into() };
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

    /// Whose key it is.
    #[must_use]
    pub fn owner(&self, key: &CancelKey) -> Option<ClientId> {
        self.owners.get(key).copied()
    }

    /// The client is gone.
    pub fn revoke(&mut self, key: &CancelKey) {
        self.owners.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::startup::PROTOCOL_3_0;

    #[test]
    fn a_key_is_found_until_revoked_and_never_issued_twice() {
        let mut keys = Keys::default();
        let key = keys.issue(ClientId(7), PROTOCOL_3_0, &[0xff; KEY_LEN_MAX]).unwrap();
        assert_eq!((key.pid, key.secret.len()), (0x7fff_ffff, 4));
        assert_eq!(keys.issue(ClientId(8), PROTOCOL_3_0, &[0xff; KEY_LEN_MAX]), None);
        let long = keys.issue(ClientId(8), PROTOCOL_3_2, &[0xff; KEY_LEN_MAX]).unwrap();
        assert_eq!(long.secret.len(), 32);
        assert_eq!(keys.owner(&key), Some(ClientId(7)));
        keys.revoke(&key);
        assert_eq!(keys.owner(&key), None);
        assert_eq!(keys.owner(&long), Some(ClientId(8)));
    }
}
