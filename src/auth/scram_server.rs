//! SCRAM as the server of the exchange: a client proves to us that it has the password (RFC 5802 section 3).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::messages::{SCRAM, SCRAM_PLUS};
use super::password::equal;
use super::scram::{PassThrough, ScramKeys, ScramSecret, hmac_sha256, sha256, xor};
use super::scram_messages::{ClientFirst, Gs2Flag, parse_client_final, parse_client_first};

/// Why an exchange failed: for the log, not for the client.
pub(super) type Reason = Cow<'static, str>;

/// What we offer, and how a client's choice is judged.
#[derive(Debug)]
pub(super) struct Offer {
    /// The tls-server-end-point hash, if the login can be bound to the connection.
    pub(super) end_point: Option<Vec<u8>>,
    /// Must it be bound?
    pub(super) only_plus: bool,
}

impl Offer {
    /// The mechanisms, the preferred one first.
    pub(super) fn mechanisms(&self) -> &'static [&'static [u8]] {
        match (self.end_point.is_some(), self.only_plus) {
            (_, true) => &[SCRAM_PLUS],
            (true, false) => &[SCRAM_PLUS, SCRAM],
            (false, false) => &[SCRAM],
        }
    }

    /// Checks the client's first message against the mechanism that it chose (RFC 5802 section 6).
    pub(super) fn read_first(&self, plus: bool, message: &[u8]) -> Result<First, Reason> {
        let first = parse_client_first(message).map_err(|malformed| Reason::from(malformed.to_string()))?;
        let binding = self.expected_binding(plus, &first)?;
        Ok(First { binding, bare: first.bare.to_vec(), nonce: first.nonce.to_vec() })
    }

    /// The bytes that the client's `c=` field has to hold.
    fn expected_binding(&self, plus: bool, first: &ClientFirst<'_>) -> Result<Vec<u8>, Reason> {
        let mut binding = first.gs2_header.to_vec();
        match (plus, first.flag, &self.end_point) {
            (true, Gs2Flag::Used(b"tls-server-end-point"), Some(hash)) => binding.extend_from_slice(hash),
            (true, Gs2Flag::Used(_), _) => {
                return Err("the client wants a channel binding type that is not ours".into());
            }
            (true, _, _) => return Err("the client chose SCRAM-SHA-256-PLUS without binding the channel".into()),
            (false, Gs2Flag::Used(_), _) => return Err("the client binds the channel but chose SCRAM-SHA-256".into()),
            (false, Gs2Flag::ServerLacksIt, Some(_)) => {
                return Err("the client believes that we do not offer SCRAM-SHA-256-PLUS, but we did: \
                            somebody may stand between it and us and hide the offer"
                    .into());
            }
            (false, Gs2Flag::ServerLacksIt | Gs2Flag::Unsupported, _) => {}
        }
        Ok(binding)
    }
}

/// What is kept of the client's first message.
#[derive(Debug)]
pub(super) struct First {
    binding: Vec<u8>,
    bare: Vec<u8>,
    nonce: Vec<u8>,
}

/// The exchange once our first message is out.
#[derive(Debug)]
pub(super) struct ScramServer {
    first: First,
    server_first: Vec<u8>,
    /// Both halves.
    nonce: Vec<u8>,
    secret: ScramSecret,
}

/// The client has proved itself.
pub(super) struct Proven {
    /// server-final-message.
    pub(super) message: Vec<u8>,
    /// The keys for servers that hold the same secret.
    pub(super) pass_through: PassThrough,
}

impl ScramServer {
    /// Answers the client's first message. `nonce` is our half before base64.
    pub(super) fn new(first: First, nonce: &[u8], secret: ScramSecret) -> Self {
        let nonce = [first.nonce.as_slice(), STANDARD.encode(nonce).as_bytes()].concat();
        let mut server_first = [b"r=".as_slice(), &nonce].concat();
        let parameters = format!(",s={},i={}", STANDARD.encode(&secret.salt), secret.iterations);
        server_first.extend_from_slice(parameters.as_bytes());
        Self { first, server_first, nonce, secret }
    }

    /// server-first-message.
    pub(super) fn message(&self) -> &[u8] {
        &self.server_first
    }

    /// Checks the client's final message. `doomed` is the reason why this client must fail even if the proof holds; the
    /// work and the outcome are then those of a wrong password.
    pub(super) fn finish(self, message: &[u8], doomed: Option<&'static str>) -> Result<Proven, Reason> {
        let last = parse_client_final(message).map_err(|malformed| Reason::from(malformed.to_string()))?;
        if !equal(&last.channel_binding, &self.first.binding) {
            return Err("the channel binding of the client does not match: it does not see our certificate".into());
        }
        if !equal(last.nonce, &self.nonce) {
            return Err("the client's nonce does not match".into());
        }
        let auth_message =
            Zeroizing::new([self.first.bare.as_slice(), &self.server_first, last.without_proof].join(&b','));
        let signature = hmac_sha256(self.secret.stored_key.as_slice(), &auth_message);
        let client_key = xor(&last.proof, &signature);
        let right = equal(sha256(client_key.as_slice()).as_slice(), self.secret.stored_key.as_slice());
        let server_signature = hmac_sha256(self.secret.server_key.as_slice(), &auth_message);
        if let Some(reason) = doomed {
            return Err(reason.into());
        }
        if !right {
            return Err("wrong password".into());
        }
        let message = format!("v={}", STANDARD.encode(server_signature.as_slice())).into_bytes();
        let keys = ScramKeys { client_key, server_key: self.secret.server_key };
        let pass_through = PassThrough { keys, salt: self.secret.salt, iterations: self.secret.iterations };
        Ok(Proven { message, pass_through })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    /// The exchange of RFC 7677 section 3.
    #[test]
    fn rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let secret = ScramSecret::from_password(b"pencil", &salt, NonZeroU32::new(4096).unwrap());
        let offer = Offer { end_point: None, only_plus: false };
        let first = offer.read_first(false, b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        let mut server = ScramServer::new(first, b"", secret);
        // The server's half of the nonce in the RFC is no base64.
        server.nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_vec();
        server.server_first =
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".to_vec();
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                     p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let proven = server.finish(last, None).map_err(|reason| panic!("{reason}")).unwrap();
        assert_eq!(proven.message, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }
}
