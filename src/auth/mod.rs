//! Logging in, both ways round: decides whether a client may come in and how a server is answered when it asks who we
//! are. Bytes and verdicts only: it never learns of sockets, files, clocks, pools or configuration. Randomness, the secret
//! that is on file and the certificate hash come in as arguments; slow key derivations go out as [`Derivation`] so that the
//! driver chooses the thread and may keep the result.
//!
//! Sources: PostgreSQL docs "Message Flow / Start-up" and "SASL Authentication", RFC 5802 (SCRAM), RFC 7677
//! (SCRAM-SHA-256), RFC 5929 (tls-server-end-point), RFC 4013 (SASLprep).

mod client_login;
pub mod hba;
pub mod ldap;
mod messages;
mod password;
pub mod query;
mod scram;
mod scram_client;
mod scram_messages;
mod scram_server;
mod secrets;
mod server_login;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

use crate::fault::{Culprit, Fault};

pub use client_login::{Accepted, ClientLogin, Evidence, LoginParams, Step};
pub use messages::AUTHENTICATION_OK;
pub use password::{Md5Secret, equal, equal_passwords};
pub use scram::{Derivation, MAX_ITERATIONS, PassThrough, ScramKeys, ScramSecret};
pub use scram_messages::{
    ClientFinal, ClientFirst, Gs2Flag, Malformed, ServerFinal, ServerFirst, parse_client_final, parse_client_first,
    parse_server_final, parse_server_first,
};
pub use secrets::{Secret, SecretKind, UserList, Warning};
pub use server_login::{Credential, ServerLogin, ServerStep};

/// The longest password and secret, in bytes, that is taken from a file, a client or a query (PgBouncer: `MAX_PASSWORD`).
pub const MAX_PASSWORD_BYTES: usize = 65_535;

/// The longest user name in bytes (PgBouncer: `MAX_USERNAME` less the final zero).
pub const MAX_USER_BYTES: usize = 127;

/// How a client has to prove who it is (settings `auth_type`, and the method column of `auth_hba_file`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Everybody is let in and the user name is ignored.
    Any,
    /// Everybody who is known is let in.
    Trust,
    /// The password in clear text (hba: `password`).
    Plain,
    /// MD5 challenge; users whose secret is of the SCRAM kind get SCRAM.
    Md5,
    /// SCRAM-SHA-256, and -PLUS beside it where TLS allows.
    ScramSha256,
    /// Only SCRAM-SHA-256-PLUS: the login is bound to the TLS connection, so nobody in between can pass it on.
    ScramSha256Plus,
    /// The TLS client certificate names the user; judged by the driver, see [`Evidence`].
    Cert,
    /// The operating system names the user at the other end of a Unix socket; judged by the driver, see [`Evidence`].
    Peer,
    /// The password in clear text, which an LDAP server judges; asked by the driver, see [`Step::Ask`].
    Ldap,
    /// Nobody (hba: `reject`).
    Reject,
}

/// What carries the messages, as far as channel binding cares (RFC 5802 section 6, RFC 5929 section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// No TLS.
    Clear,
    /// TLS. The bytes are the tls-server-end-point hash of the certificate that the TLS server showed: ours towards a
    /// client, the server's towards a server. `None` if that certificate has no such hash (RFC 5929 leaves it undefined
    /// for some signature algorithms); then the login cannot be bound to the connection.
    Tls(Option<Vec<u8>>),
}

impl Channel {
    fn end_point(&self) -> Option<&[u8]> {
        match self {
            Self::Clear => None,
            Self::Tls(hash) => hash.as_deref(),
        }
    }
}

/// The randomness of one login; `nonce` and `md5_salt` must be fresh from the system's generator every time.
#[derive(Clone)]
pub struct Entropy {
    /// Our half of the SCRAM nonce, before base64.
    pub nonce: [u8; 18],
    /// The salt of the MD5 challenge.
    pub md5_salt: [u8; 4],
    /// Drawn once per process and the same for every login: it makes the salts of users who do not exist, and of those
    /// whose password is on file in clear text, look alike and stay the same from login to login.
    pub mock_key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(..)")
    }
}

/// A login that ends here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told. It is the same for a wrong password and for a user who does not exist.
    pub fault: Fault,
    /// What the operator is told beside it in the log; empty if the fault says it all. Never a secret.
    pub reason: Cow<'static, str>,
}

impl Refusal {
    fn new(culprit: Culprit, text: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { fault: Fault::fatal(culprit, text), reason: reason.into() }
    }
}
