//! We log in to a server: answers its authentication requests with what we hold of the user, and holds the server to its
//! own proof.

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::messages::{self, MAX_SASL_BYTES, code};
use super::password::Md5Secret;
use super::scram::{Derivation, PassThrough, ScramKeys};
use super::scram_client::{Answered, Challenged, ScramClient};
use super::secrets::Secret;
use super::{Channel, Entropy, Refusal};
use crate::fault::Culprit;

/// What we can show to a server.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    None,
    /// The password: serves for every method.
    Password(Zeroizing<Vec<u8>>),
    /// The MD5 secret: serves for MD5 only.
    Md5(Md5Secret),
    /// The keys of a client's own SCRAM login: serve for SCRAM at servers with the same SCRAM secret.
    PassThrough(PassThrough),
    /// A SCRAM secret without keys: proves nothing to anybody.
    ScramSecretOnly,
}

impl Credential {
    /// What the secret on file, and the keys of a client's login if there was one, are good for.
    #[must_use]
    pub fn choose(secret: Option<&Secret>, keys: Option<&PassThrough>) -> Self {
        match (secret, keys) {
            (Some(Secret::Plain(password)), _) => Self::Password(password.clone()),
            (Some(Secret::Md5(secret)), _) => Self::Md5(secret.clone()),
            (_, Some(keys)) => Self::PassThrough(keys.clone()),
            (Some(Secret::Scram(_)), None) => Self::ScramSecretOnly,
            (Some(Secret::Empty) | None, None) => Self::None,
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password(_) => "Password(..)",
            Self::Md5(_) => "Md5(..)",
            Self::PassThrough(_) => "PassThrough(..)",
            Self::ScramSecretOnly => "ScramSecretOnly",
        })
    }
}

/// What to do next.
#[derive(Debug)]
pub enum ServerStep {
    /// Send these complete messages, then wait for the next `R` message.
    Send(Vec<u8>),
    /// Run this (or take the keys from a cache) and give the keys to [`ServerLogin::on_keys`]; read nothing meanwhile.
    Derive(Derivation),
    /// Wait for the next `R` message.
    Wait,
    /// The server has let us in.
    Ok,
}

/// The machine: feed it every `R` message until [`ServerStep::Ok`]. An ErrorResponse in between is the driver's.
#[derive(Debug)]
pub struct ServerLogin {
    state: State,
    user: Vec<u8>,
    credential: Credential,
    channel: Channel,
    nonce: [u8; 18],
}

enum State {
    Start,
    /// A password or MD5 answer is out.
    PasswordSent,
    /// client-first-message is out.
    FirstSent(ScramClient),
    /// Waiting for keys.
    Keys(Challenged),
    /// client-final-message is out.
    FinalSent(Answered),
    /// The server has proved itself.
    Verified,
    Done,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Start => "Start",
            Self::PasswordSent => "PasswordSent",
            Self::FirstSent(_) => "FirstSent",
            Self::Keys(_) => "Keys",
            Self::FinalSent(_) => "FinalSent",
            Self::Verified => "Verified",
            Self::Done => "Done",
        })
    }
}

type Outcome = Result<(State, ServerStep), Box<Refusal>>;

impl ServerLogin {
    /// Prepares to log in as `user` over `channel`. Of the entropy only the nonce is used.
    #[must_use]
    pub fn new(user: &[u8], credential: Credential, channel: Channel, entropy: &Entropy) -> Self {
        Self { state: State::Start, user: user.to_vec(), credential, channel, nonce: entropy.nonce }
    }

    /// Takes the body of an `R` message.
    ///
    /// # Errors
    /// A [`Refusal`] whose fault begins with `server login failed:` (PgBouncer's words) if the request cannot be met with
    /// our credential, is of a kind that we do not know, or if the server fails to prove itself. The server is then of no
    /// use and has to be closed.
    pub fn on_auth(&mut self, body: &[u8]) -> Result<ServerStep, Box<Refusal>> {
        let Some((request, payload)) = body.split_first_chunk::<4>() else {
            self.state = State::Done;
            return Err(refusal(Culprit::Server, "malformed authentication request", ""));
        };
        let request = u32::from_be_bytes(*request);
        let state = std::mem::replace(&mut self.state, State::Done);
        let (state, step) = match (state, request) {
            (State::Start | State::PasswordSent | State::Verified, code::OK) => (State::Done, ServerStep::Ok),
            (_, code::OK) => {
                return Err(refusal(
                    Culprit::Server,
                    "the server let us in without proving that it knows the password",
                    "somebody may stand in for the server",
                ));
            }
            (State::Start, code::CLEARTEXT) => self.cleartext()?,
            (State::Start, code::MD5) => self.md5(payload)?,
            (State::Start, code::SASL) => self.sasl(payload)?,
            (State::FirstSent(client), code::SASL_CONTINUE) => self.answer(client, payload)?,
            (State::FinalSent(answered), code::SASL_FINAL) => {
                bounded(payload)?;
                answered.verify(payload).map_err(|text| refusal(Culprit::Server, text, ""))?;
                (State::Verified, ServerStep::Wait)
            }
            (_, request) => return Err(not_understood(request)),
        };
        self.state = state;
        Ok(step)
    }

    /// Takes the keys that [`ServerStep::Derive`] asked for.
    ///
    /// # Errors
    /// A [`Refusal`] if nothing was asked for.
    pub fn on_keys(&mut self, keys: &ScramKeys) -> Result<ServerStep, Box<Refusal>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Keys(challenged) => {
                let (state, step) = respond(challenged, keys);
                self.state = state;
                Ok(step)
            }
            _ => Err(refusal(Culprit::Us, "keys came that nobody asked for", "")),
        }
    }

    fn cleartext(&self) -> Outcome {
        match &self.credential {
            Credential::Password(password) => Ok((State::PasswordSent, ServerStep::Send(messages::password(password)))),
            _ => Err(self.wrong_type("a password in clear text")),
        }
    }

    fn md5(&self, payload: &[u8]) -> Outcome {
        let Ok(salt) = <[u8; 4]>::try_from(payload) else {
            return Err(refusal(Culprit::Server, "malformed MD5 authentication request", ""));
        };
        let response = match &self.credential {
            Credential::Password(password) => Md5Secret::from_password(password, &self.user).response(salt),
            Credential::Md5(secret) => secret.response(salt),
            _ => return Err(self.wrong_type("an MD5 response")),
        };
        Ok((State::PasswordSent, ServerStep::Send(messages::password(response.as_slice()))))
    }

    fn sasl(&self, payload: &[u8]) -> Outcome {
        bounded(payload)?;
        if !matches!(self.credential, Credential::Password(_) | Credential::PassThrough(_)) {
            return Err(self.wrong_type("SCRAM"));
        }
        let offered: Vec<&[u8]> = payload.split(|byte| *byte == 0).take_while(|name| !name.is_empty()).collect();
        let Some(client) = ScramClient::new(&offered, &self.channel, &self.nonce) else {
            let names: Vec<_> = offered.iter().map(|name| String::from_utf8_lossy(name)).collect();
            return Err(refusal(
                Culprit::Server,
                "none of the server's SASL authentication mechanisms are supported",
                format!("the server offers {:?}", names.join(", ")),
            ));
        };
        let message = messages::sasl_initial(client.mechanism(), &client.message());
        Ok((State::FirstSent(client), ServerStep::Send(message)))
    }

    fn answer(&self, client: ScramClient, payload: &[u8]) -> Outcome {
        bounded(payload)?;
        let challenged = client.on_server_first(payload).map_err(|text| refusal(Culprit::Server, text, ""))?;
        match &self.credential {
            Credential::PassThrough(own) if own.salt == challenged.salt && own.iterations == challenged.iterations => {
                Ok(respond(challenged, &own.keys))
            }
            Credential::PassThrough(_) => Err(refusal(
                Culprit::Config,
                "the server's SCRAM secret of this user is not the one that we have",
                "salt or iterations differ, so that the client's SCRAM keys do not fit; copy rolpassword from the \
                 server's pg_authid into auth_file, or let auth_query fetch it",
            )),
            Credential::Password(password) => {
                let derivation = Derivation {
                    password: password.clone(),
                    salt: challenged.salt.clone(),
                    iterations: challenged.iterations,
                    stored: true,
                };
                Ok((State::Keys(challenged), ServerStep::Derive(derivation)))
            }
            _ => Err(self.wrong_type("SCRAM")),
        }
    }

    fn wrong_type(&self, wanted: &str) -> Box<Refusal> {
        let have = match &self.credential {
            Credential::None => "we have no password of this user; put it into auth_file or the database's password=",
            Credential::Password(_) => "we have the password",
            Credential::Md5(_) => "we have only an MD5 secret of this user; put the password into auth_file instead",
            Credential::PassThrough(_) => "we have only the SCRAM keys of a client's login",
            Credential::ScramSecretOnly => {
                "we have only a SCRAM secret of this user and no client has logged in with SCRAM yet; \
                 set auth_type = scram-sha-256, or put the password into auth_file"
            }
        };
        refusal(Culprit::Config, "wrong password type", format!("the server wants {wanted}, but {have}"))
    }
}

fn respond(challenged: Challenged, keys: &ScramKeys) -> (State, ServerStep) {
    let (message, answered) = challenged.answer(keys);
    (State::FinalSent(answered), ServerStep::Send(messages::sasl_response(&message)))
}

fn refusal(culprit: Culprit, text: impl AsRef<str>, reason: impl Into<Cow<'static, str>>) -> Box<Refusal> {
    Box::new(Refusal::new(culprit, format!("server login failed: {}", text.as_ref()), reason))
}

fn bounded(payload: &[u8]) -> Result<(), Box<Refusal>> {
    if payload.len() > MAX_SASL_BYTES {
        return Err(refusal(Culprit::Server, "the server's SASL message is longer than 4096 bytes", ""));
    }
    Ok(())
}

fn not_understood(request: u32) -> Box<Refusal> {
    let text = match request {
        code::KERBEROS_V5 => "the server wants Kerberos V5 authentication, which is not supported".to_owned(),
        code::SCM => "the server wants SCM credentials, which are not supported".to_owned(),
        code::GSS | code::GSS_CONTINUE => "the server wants GSSAPI authentication, which is not supported".to_owned(),
        code::SSPI => "the server wants SSPI authentication, which is not supported".to_owned(),
        code::CLEARTEXT | code::MD5 | code::SASL | code::SASL_CONTINUE | code::SASL_FINAL => {
            format!("authentication request {request} out of turn")
        }
        _ => format!("unknown authentication request {request}"),
    };
    let remedy = "let pg_hba.conf of the server use scram-sha-256, md5, password, cert or trust for us";
    refusal(Culprit::Server, text, remedy)
}
