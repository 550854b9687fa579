//! SCRAM as the client of the exchange: we prove to a server that we have the password or its keys, and it proves to us
//! that it knows us (RFC 5802 section 3).

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::Channel;
use super::messages::{SCRAM, SCRAM_PLUS};
use super::password::equal;
use super::scram::{Key, MAX_ITERATIONS, ScramKeys, hmac_sha256, sha256, xor};
use super::scram_messages::{ServerFinal, parse_server_final, parse_server_first};

/// The exchange after our first message.
#[derive(Debug)]
pub(super) struct ScramClient {
    mechanism: &'static [u8],
    gs2_header: &'static [u8],
    end_point: Vec<u8>,
    nonce: String,
    bare: Vec<u8>,
}

/// The exchange after the server's first message, waiting for keys.
#[derive(Debug)]
pub(super) struct Challenged {
    client: ScramClient,
    server_first: Vec<u8>,
    nonce: Vec<u8>,
    /// The salt of the server's secret.
    pub(super) salt: Vec<u8>,
    /// Its iterations, at most [`MAX_ITERATIONS`].
    pub(super) iterations: NonZeroU32,
}

/// The exchange after our final message: the signature that the server now owes us.
pub(super) struct Answered {
    signature: Zeroizing<Key>,
}

impl ScramClient {
    /// Chooses the mechanism among those that the server offers, the bound one if possible. `None` if it offers neither.
    pub(super) fn new(offered: &[&[u8]], channel: &Channel, nonce: &[u8]) -> Option<Self> {
        let (mechanism, gs2_header, end_point): (&[u8], &[u8], &[u8]) = match channel.end_point() {
            Some(hash) if offered.contains(&SCRAM_PLUS) => (SCRAM_PLUS, b"p=tls-server-end-point,,", hash),
            // We could have bound it: say so, and the server will notice if somebody hid its offer from us.
            Some(_) => (SCRAM, b"y,,", b""),
            None => (SCRAM, b"n,,", b""),
        };
        if !offered.contains(&mechanism) {
            return None;
        }
        let nonce = STANDARD.encode(nonce);
        // The name stays empty as PostgreSQL knows it from the start-up message.
        let bare = format!("n=,r={nonce}").into_bytes();
        Some(Self { mechanism, gs2_header, end_point: end_point.to_vec(), nonce, bare })
    }

    /// The mechanism chosen.
    pub(super) fn mechanism(&self) -> &'static [u8] {
        self.mechanism
    }

    /// client-first-message.
    pub(super) fn message(&self) -> Vec<u8> {
        [self.gs2_header, &self.bare].concat()
    }

    /// Takes the server's first message.
    pub(super) fn on_server_first(self, message: &[u8]) -> Result<Challenged, String> {
        let first = parse_server_first(message).map_err(|malformed| malformed.to_string())?;
        if first.nonce.len() <= self.nonce.len() || !first.nonce.starts_with(self.nonce.as_bytes()) {
            return Err("the server's SCRAM nonce does not extend ours".to_owned());
        }
        if first.iterations.get() > MAX_ITERATIONS {
            return Err(format!(
                "the server asks for {} SCRAM iterations, more than the {MAX_ITERATIONS} that are sane",
                first.iterations
            ));
        }
        let (nonce, salt, iterations) = (first.nonce.to_vec(), first.salt, first.iterations);
        Ok(Challenged { client: self, server_first: message.to_vec(), nonce, salt, iterations })
    }
}

impl Challenged {
    /// Makes client-final-message with the keys of the password.
    pub(super) fn answer(self, keys: &ScramKeys) -> (Vec<u8>, Answered) {
        let binding = STANDARD.encode([self.client.gs2_header, &self.client.end_point].concat());
        let mut message = [b"c=", binding.as_bytes(), b",r=", &self.nonce].concat();
        let auth_message = Zeroizing::new([self.client.bare.as_slice(), &self.server_first, &message].join(&b','));
        let stored_key = sha256(keys.client_key.as_slice());
        let proof = xor(&keys.client_key, &hmac_sha256(stored_key.as_slice(), &auth_message));
        message.extend_from_slice(b",p=");
        message.extend_from_slice(STANDARD.encode(proof.as_slice()).as_bytes());
        (message, Answered { signature: hmac_sha256(keys.server_key.as_slice(), &auth_message) })
    }
}

impl Answered {
    /// Checks server-final-message.
    pub(super) fn verify(&self, message: &[u8]) -> Result<(), String> {
        match parse_server_final(message).map_err(|malformed| malformed.to_string())? {
            ServerFinal::Signature(signature) if equal(&signature, self.signature.as_slice()) => Ok(()),
            ServerFinal::Signature(_) => Err("invalid server signature".to_owned()),
            ServerFinal::Error(reason) => {
                Err(format!("the server ended the SCRAM exchange: {}", String::from_utf8_lossy(reason)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scram::Derivation;
    use super::*;

    /// The exchange of RFC 7677 section 3.
    #[test]
    fn rfc_7677() {
        let mut client = ScramClient::new(&[SCRAM], &Channel::Clear, b"").unwrap();
        // The nonces of the RFC are no base64, and it sends a user name.
        client.nonce = "rOprNGfwEbeRWgbNEkqO".to_owned();
        client.bare = b"n=user,r=rOprNGfwEbeRWgbNEkqO".to_vec();
        let challenged = client
            .on_server_first(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
            .unwrap();
        let derivation = Derivation {
            password: Zeroizing::new(b"pencil".to_vec()),
            salt: challenged.salt.clone(),
            iterations: challenged.iterations,
            stored: true,
        };
        let (message, answered) = challenged.answer(&derivation.run());
        assert_eq!(
            message,
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(answered.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert!(answered.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=").is_err());
        assert!(answered.verify(b"e=invalid-proof").unwrap_err().ends_with("invalid-proof"));
    }
}
