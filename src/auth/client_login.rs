//! A client logs in to us: from its start-up message (already read) to let in or turned away.
//!
//! A user who does not exist, or who can never pass, goes through the same messages as one with a wrong password and is
//! told the same; only the log knows better.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;

use zeroize::Zeroizing;

use super::messages::{self, MAX_SASL_BYTES, SCRAM, SCRAM_PLUS, code};
use super::password::{Md5Secret, equal, equal_passwords};
use super::scram::{Derivation, MAX_ITERATIONS, PassThrough, ScramKeys, ScramSecret, hmac_sha256};
use super::scram_server::{First, Offer, ScramServer};
use super::secrets::{Secret, SecretKind};
use super::{Channel, Entropy, MAX_PASSWORD_BYTES, Method, Refusal};
use crate::fault::Culprit;

/// What the driver found out about the client by other means than messages, for [`Method::Cert`] and [`Method::Peer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Nothing: no certificate, no Unix socket.
    None,
    /// The certificate, or the operating system, names a user that may log in under the wanted name.
    Matches,
    /// It names somebody else: the reason for the log.
    Mismatch(Cow<'static, str>),
}

/// Everything that decides about one client's login.
#[derive(Clone, Debug)]
pub struct LoginParams<'a> {
    /// How the client has to prove who it is.
    pub method: Method,
    /// The user name from the start-up message.
    pub user: &'a [u8],
    /// What is on file about that user; `None`: no such user.
    pub secret: Option<&'a Secret>,
    /// If `secret` is a plain password: the SCRAM secret that was made of it before (see [`Step::Derive`]), so that it
    /// need not be derived again. Must belong to that very password. A driver that caches from the first login on (or
    /// derives when it reads the file) also hides that such a user exists: a derivation takes time that can be measured.
    pub cached: Option<&'a ScramSecret>,
    /// What a user who does not exist would have on file ([`super::UserList::prevailing_kind`]).
    pub mock_kind: SecretKind,
    /// Iterations for plain passwords and for users who do not exist (setting `scram_iterations`).
    pub scram_iterations: NonZeroU32,
    /// How the client is connected.
    pub channel: Channel,
    /// For methods that do not ask the client.
    pub evidence: Evidence,
    /// Fresh randomness.
    pub entropy: Entropy,
}

/// What to do next.
#[derive(Debug)]
pub enum Step {
    /// Send these complete messages, wait for a `p` message and give its body to [`ClientLogin::on_message`].
    Send(Vec<u8>),
    /// Run this (or take the keys from a cache) and give the keys to [`ClientLogin::on_keys`]; read nothing meanwhile.
    Derive(Derivation),
    /// Find out whether this is the user's password, and tell [`ClientLogin::on_answer`]; read nothing meanwhile.
    Ask(Zeroizing<Vec<u8>>),
    /// Let the client in.
    Accepted(Box<Accepted>),
    /// Send the fault, write the reason to the log, hang up.
    Refused(Box<Refusal>),
}

/// A client that may come in.
#[derive(Default)]
pub struct Accepted {
    /// Complete messages to send first, maybe none. AuthenticationOk is not among them: the driver sends
    /// [`super::AUTHENTICATION_OK`] when it welcomes the client.
    pub reply: Vec<u8>,
    /// Keys for servers that hold the same SCRAM secret; only if such a secret is on file (never for a plain password,
    /// which can log in by itself).
    pub pass_through: Option<PassThrough>,
    /// The password, if the client told it in clear text and it was right.
    pub password: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted").field("pass_through", &self.pass_through.is_some()).finish_non_exhaustive()
    }
}

/// The machine: start it, feed it messages and keys, do what it says.
#[derive(Debug)]
pub struct ClientLogin {
    state: State,
    user: Vec<u8>,
}

const NO_SUCH_USER: &str = "no such user";
const NO_PASSWORD: &str = "the user has no password on file";
const PASSWORD_FAILED: &str = "password authentication failed";
const SASL_FAILED: &str = "SASL authentication failed";
const LDAP_FAILED: &str = "LDAP authentication failed";
const UNEXPECTED: &str = "unexpected password message";

/// Why somebody must fail whatever they answer.
type Doom = Option<&'static str>;

enum State {
    /// Asked for the password in clear text.
    Cleartext { secret: Secret, doom: Doom },
    /// Asked for the password in clear text, for somebody else to judge.
    CleartextAbroad,
    /// Got it; waiting for the judgement.
    Answer { password: Zeroizing<Vec<u8>> },
    /// Got it; waiting for the keys to compare it with a SCRAM secret.
    CleartextKeys { password: Zeroizing<Vec<u8>>, secret: ScramSecret, doom: Doom },
    /// Sent the MD5 salt.
    Md5 { expected: Zeroizing<[u8; 35]>, doom: Doom },
    /// Sent the list of mechanisms.
    SaslChoice(Sasl),
    /// The client chose one but left the first word to us.
    SaslFirst { sasl: Sasl, plus: bool },
    /// Got client-first-message; waiting for the keys of the plain password on file.
    SaslKeys { first: First, sasl: Sasl, salt: Vec<u8>, iterations: NonZeroU32 },
    /// Sent server-first-message.
    SaslFinal { server: Box<ScramServer>, doom: Doom, stored: bool },
    /// It is over.
    Done,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the name: nearly every state holds something secret.
        f.write_str(match self {
            Self::Cleartext { .. } => "Cleartext",
            Self::CleartextAbroad => "CleartextAbroad",
            Self::Answer { .. } => "Answer",
            Self::CleartextKeys { .. } => "CleartextKeys",
            Self::Md5 { .. } => "Md5",
            Self::SaslChoice(_) => "SaslChoice",
            Self::SaslFirst { .. } => "SaslFirst",
            Self::SaslKeys { .. } => "SaslKeys",
            Self::SaslFinal { .. } => "SaslFinal",
            Self::Done => "Done",
        })
    }
}

struct Sasl {
    offer: Offer,
    source: Source,
    nonce: [u8; 18],
    doom: Doom,
}

/// Where the SCRAM secret comes from.
enum Source {
    /// `stored`: it is on file, so that the client's keys may serve for servers too.
    Secret {
        secret: ScramSecret,
        stored: bool,
    },
    Password {
        password: Zeroizing<Vec<u8>>,
        salt: Vec<u8>,
        iterations: NonZeroU32,
    },
}

fn refuse(text: impl Into<Cow<'static, str>>, reason: impl Into<Cow<'static, str>>) -> Step {
    Step::Refused(Box::new(Refusal::new(Culprit::Client, text, reason)))
}

fn accept() -> Step {
    Step::Accepted(Box::default())
}

impl ClientLogin {
    /// Begins the login; the step may already be the last one.
    #[must_use]
    pub fn start(params: LoginParams<'_>) -> (Self, Step) {
        let (state, step) = begin(&params);
        (Self { state, user: params.user.to_vec() }, step)
    }

    /// Takes the body of a `p` message: PasswordMessage, SASLInitialResponse or SASLResponse, as asked for.
    pub fn on_message(&mut self, body: &[u8]) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Done) {
            State::Cleartext { secret, doom } => on_cleartext(&self.user, secret, doom, body),
            State::CleartextAbroad => on_cleartext_abroad(body),
            State::Md5 { expected, doom } => (State::Done, on_md5(&expected, doom, body)),
            State::SaslChoice(sasl) => on_choice(sasl, body),
            State::SaslFirst { sasl, plus } => on_first(sasl, plus, body),
            State::SaslFinal { server, doom, stored } => (State::Done, on_final(*server, doom, stored, body)),
            State::CleartextKeys { .. } | State::SaslKeys { .. } | State::Answer { .. } | State::Done => {
                (State::Done, refuse(UNEXPECTED, ""))
            }
        };
        self.state = state;
        step
    }

    /// Takes what came of [`Step::Ask`]: an error is the reason for the log, the password was wrong or nobody could tell.
    pub fn on_answer(&mut self, answer: Result<(), String>) -> Step {
        match (std::mem::replace(&mut self.state, State::Done), answer) {
            (State::Answer { password }, Ok(())) => {
                Step::Accepted(Box::new(Accepted { password: Some(password), ..Accepted::default() }))
            }
            (State::Answer { .. }, Err(reason)) => refuse(LDAP_FAILED, reason),
            (_, _) => refuse(LDAP_FAILED, "an answer came that nobody asked for"),
        }
    }

    /// Takes the keys that [`Step::Derive`] asked for.
    pub fn on_keys(&mut self, keys: &ScramKeys) -> Step {
        let (state, step) = match std::mem::replace(&mut self.state, State::Done) {
            State::CleartextKeys { password, secret, doom } => {
                let right = secret.verify(keys);
                let pass_through = PassThrough { keys: keys.clone(), salt: secret.salt, iterations: secret.iterations };
                (State::Done, judge_password(right, doom, password, Some(pass_through)))
            }
            State::SaslKeys { first, sasl, salt, iterations } => {
                let secret = ScramSecret::from_keys(keys, &salt, iterations);
                challenge(first, &sasl, secret, false)
            }
            other => (
                other,
                Step::Refused(Box::new(Refusal::new(Culprit::Us, PASSWORD_FAILED, "keys came that nobody asked for"))),
            ),
        };
        self.state = state;
        step
    }
}

fn begin(params: &LoginParams<'_>) -> (State, Step) {
    let known = params.secret.is_some();
    let last = |step| (State::Done, step);
    match params.method {
        Method::Any => last(accept()),
        Method::Trust if known => last(accept()),
        Method::Trust => last(refuse("\"trust\" authentication failed", NO_SUCH_USER)),
        Method::Cert => {
            last(by_evidence(params, "certificate authentication failed", "TLS client certificate required"))
        }
        Method::Peer => last(by_evidence(params, "unix socket login rejected", "not a Unix socket")),
        Method::Reject => last(refuse("login rejected", "auth_hba_file rejects this login")),
        Method::Plain => {
            let (secret, doom) = subject(params);
            (State::Cleartext { secret, doom }, Step::Send(messages::request(code::CLEARTEXT, b"")))
        }
        // Whoever the server knows is a user: nobody need be on file.
        Method::Ldap => (State::CleartextAbroad, Step::Send(messages::request(code::CLEARTEXT, b""))),
        Method::Md5 => match subject(params) {
            (Secret::Scram(_), _) => begin_sasl(params, false),
            (secret, doom) => begin_md5(params, &secret, doom),
        },
        Method::ScramSha256 => begin_sasl(params, false),
        Method::ScramSha256Plus => match &params.channel {
            Channel::Clear => last(refuse(
                "TLS required: auth_type scram-sha-256-plus lets nobody in without it; connect with sslmode=require",
                "",
            )),
            Channel::Tls(None) => last(Step::Refused(Box::new(Refusal::new(
                Culprit::Config,
                "bouncer config error",
                "auth_type scram-sha-256-plus cannot work: the signature algorithm of client_tls_cert_file has no \
                 tls-server-end-point hash; use an RSA or ECDSA certificate",
            )))),
            Channel::Tls(Some(_)) => begin_sasl(params, true),
        },
    }
}

fn by_evidence(params: &LoginParams<'_>, text: &'static str, missing: &'static str) -> Step {
    match &params.evidence {
        Evidence::None => refuse(text, missing),
        Evidence::Mismatch(reason) => refuse(text, reason.clone()),
        Evidence::Matches if params.secret.is_none() => refuse(text, NO_SUCH_USER),
        Evidence::Matches => accept(),
    }
}

/// The secret against which the client is measured: a made-up one if there is none.
fn subject(params: &LoginParams<'_>) -> (Secret, Doom) {
    match params.secret {
        None => (mock_secret(params), Some(NO_SUCH_USER)),
        Some(Secret::Empty) => (mock_secret(params), Some(NO_PASSWORD)),
        Some(secret) => (secret.clone(), None),
    }
}

fn mock_secret(params: &LoginParams<'_>) -> Secret {
    match params.mock_kind {
        SecretKind::Scram => Secret::Scram(mock_scram(params)),
        SecretKind::Md5 => {
            Secret::Md5(Md5Secret::from_password(mock_bytes(params, b"password").as_slice(), params.user))
        }
        SecretKind::Plain | SecretKind::Empty => {
            Secret::Plain(Zeroizing::new(mock_bytes(params, b"password").to_vec()))
        }
    }
}

fn mock_scram(params: &LoginParams<'_>) -> ScramSecret {
    ScramSecret {
        iterations: params.scram_iterations,
        salt: salt(params),
        stored_key: mock_bytes(params, b"stored key"),
        server_key: mock_bytes(params, b"server key"),
    }
}

/// The salt for users without a SCRAM secret of their own, 16 bytes as PostgreSQL has it. The same from login to login,
/// whether the user exists or not.
fn salt(params: &LoginParams<'_>) -> Vec<u8> {
    mock_bytes(params, b"salt").iter().copied().take(16).collect()
}

/// 32 bytes that nobody outside this process can foretell. A start-up message has no zero inside a name.
fn mock_bytes(params: &LoginParams<'_>, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    hmac_sha256(params.entropy.mock_key.as_slice(), &[purpose, params.user].join(&0))
}

fn begin_md5(params: &LoginParams<'_>, secret: &Secret, doom: Doom) -> (State, Step) {
    let secret = match secret {
        Secret::Md5(secret) => secret.clone(),
        Secret::Plain(password) => Md5Secret::from_password(password, params.user),
        Secret::Scram(_) | Secret::Empty => Md5Secret::from_password(&mock_bytes(params, b"password")[..], params.user),
    };
    let salt = params.entropy.md5_salt;
    (State::Md5 { expected: secret.response(salt), doom }, Step::Send(messages::request(code::MD5, &salt)))
}

fn begin_sasl(params: &LoginParams<'_>, only_plus: bool) -> (State, Step) {
    let mock = |reason| (Source::Secret { secret: mock_scram(params), stored: false }, Some(reason));
    let (source, doom) = match (params.secret, params.cached) {
        (None, _) => mock(NO_SUCH_USER),
        (Some(Secret::Empty), _) => mock(NO_PASSWORD),
        (Some(Secret::Md5(_)), _) => mock("the user has an MD5 secret on file, which does not serve for SCRAM"),
        (Some(Secret::Scram(secret)), _) => (Source::Secret { secret: secret.clone(), stored: true }, None),
        (Some(Secret::Plain(_)), Some(cached)) => (Source::Secret { secret: cached.clone(), stored: false }, None),
        (Some(Secret::Plain(password)), None) => {
            let password = password.clone();
            (Source::Password { password, salt: salt(params), iterations: params.scram_iterations }, None)
        }
    };
    let offer = Offer { end_point: params.channel.end_point().map(<[u8]>::to_vec), only_plus };
    let request = messages::sasl_request(offer.mechanisms());
    (State::SaslChoice(Sasl { offer, source, nonce: params.entropy.nonce, doom }), Step::Send(request))
}

/// The password of a message, or why there is none that could be judged. An empty one must never reach an LDAP server: a bind
/// without a password is one as nobody, which succeeds (RFC 4513 section 5.1.2).
fn clear_password(body: &[u8]) -> Result<Zeroizing<Vec<u8>>, Step> {
    if body.len() > MAX_PASSWORD_BYTES + 1 {
        return Err(refuse(PASSWORD_FAILED, "the password is longer than 65535 bytes"));
    }
    let password = messages::parse_password(body).ok_or_else(|| refuse("invalid password message", ""))?;
    if password.is_empty() { Err(refuse("empty password returned by client", "")) } else { Ok(password) }
}

fn on_cleartext_abroad(body: &[u8]) -> (State, Step) {
    match clear_password(body) {
        Ok(password) => (State::Answer { password: password.clone() }, Step::Ask(password)),
        Err(step) => (State::Done, step),
    }
}

fn on_cleartext(user: &[u8], secret: Secret, doom: Doom, body: &[u8]) -> (State, Step) {
    let last = |step| (State::Done, step);
    let password = match clear_password(body) {
        Ok(password) => password,
        Err(step) => return last(step),
    };
    match secret {
        Secret::Plain(right) => {
            let right = equal_passwords(&right, &password);
            last(judge_password(right, doom, password, None))
        }
        Secret::Md5(right) => {
            let right = Md5Secret::from_password(&password, user) == right;
            last(judge_password(right, doom, password, None))
        }
        Secret::Scram(secret) if secret.iterations.get() > MAX_ITERATIONS => {
            last(refuse(PASSWORD_FAILED, "the SCRAM secret on file asks for more than 10000000 iterations"))
        }
        Secret::Scram(secret) => {
            let derivation = Derivation {
                password: password.clone(),
                salt: secret.salt.clone(),
                iterations: secret.iterations,
                stored: false,
            };
            (State::CleartextKeys { password, secret, doom }, Step::Derive(derivation))
        }
        Secret::Empty => last(refuse(PASSWORD_FAILED, NO_PASSWORD)),
    }
}

fn judge_password(right: bool, doom: Doom, password: Zeroizing<Vec<u8>>, keys: Option<PassThrough>) -> Step {
    match (doom, right) {
        (Some(reason), _) => refuse(PASSWORD_FAILED, reason),
        (None, false) => refuse(PASSWORD_FAILED, "wrong password"),
        (None, true) => {
            Step::Accepted(Box::new(Accepted { reply: Vec::new(), pass_through: keys, password: Some(password) }))
        }
    }
}

fn on_md5(expected: &[u8; 35], doom: Doom, body: &[u8]) -> Step {
    let right = match body.split_last() {
        Some((0, [])) => return refuse("empty password returned by client", ""),
        Some((0, response)) => equal(response, expected),
        _ => return refuse("invalid password message", ""),
    };
    match (doom, right) {
        (Some(reason), _) => refuse(PASSWORD_FAILED, reason),
        (None, false) => refuse(PASSWORD_FAILED, "wrong password"),
        (None, true) => accept(),
    }
}

fn on_choice(sasl: Sasl, body: &[u8]) -> (State, Step) {
    let last = |step| (State::Done, step);
    if body.len() > MAX_SASL_BYTES {
        return last(refuse(SASL_FAILED, "the client's SASL message is longer than 4096 bytes"));
    }
    let Some((mechanism, data)) = messages::parse_sasl_initial(body) else {
        return last(refuse(SASL_FAILED, "the client's SASLInitialResponse is malformed"));
    };
    if !sasl.offer.mechanisms().contains(&mechanism) {
        return last(if mechanism == SCRAM && sasl.offer.only_plus {
            refuse(
                "channel binding required: auth_type scram-sha-256-plus takes only SCRAM-SHA-256-PLUS; \
                 use a client that supports it, with channel_binding=prefer or require",
                "",
            )
        } else {
            refuse("client selected an invalid SASL authentication mechanism", "")
        });
    }
    let plus = mechanism == SCRAM_PLUS;
    match data {
        Some(data) => on_first(sasl, plus, data),
        // It wants us to speak first; SCRAM has nothing to say yet.
        None => (State::SaslFirst { sasl, plus }, Step::Send(messages::request(code::SASL_CONTINUE, b""))),
    }
}

fn on_first(sasl: Sasl, plus: bool, message: &[u8]) -> (State, Step) {
    if message.len() > MAX_SASL_BYTES {
        return (State::Done, refuse(SASL_FAILED, "the client's SASL message is longer than 4096 bytes"));
    }
    let first = match sasl.offer.read_first(plus, message) {
        Ok(first) => first,
        Err(reason) => return (State::Done, refuse(SASL_FAILED, reason)),
    };
    match &sasl.source {
        Source::Secret { secret, stored } => challenge(first, &sasl, secret.clone(), *stored),
        Source::Password { password, salt, iterations } => {
            let (salt, iterations) = (salt.clone(), *iterations);
            let derivation = Derivation { password: password.clone(), salt: salt.clone(), iterations, stored: true };
            (State::SaslKeys { first, sasl, salt, iterations }, Step::Derive(derivation))
        }
    }
}

fn challenge(first: First, sasl: &Sasl, secret: ScramSecret, stored: bool) -> (State, Step) {
    let server = Box::new(ScramServer::new(first, &sasl.nonce, secret));
    let step = Step::Send(messages::request(code::SASL_CONTINUE, server.message()));
    (State::SaslFinal { server, doom: sasl.doom, stored }, step)
}

fn on_final(server: ScramServer, doom: Doom, stored: bool, message: &[u8]) -> Step {
    if message.len() > MAX_SASL_BYTES {
        return refuse(SASL_FAILED, "the client's SASL message is longer than 4096 bytes");
    }
    match server.finish(message, doom) {
        Ok(proven) => Step::Accepted(Box::new(Accepted {
            reply: messages::request(code::SASL_FINAL, &proven.message),
            pass_through: stored.then_some(proven.pass_through),
            password: None,
        })),
        Err(reason) => refuse(SASL_FAILED, reason),
    }
}
