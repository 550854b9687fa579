//! One login to one server, as a pool would do it, and one question. Nothing is changed at the server.

use std::io;
use std::time::{Instant, SystemTime};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use crate::auth::{Channel, Credential, Entropy, PassThrough, Refusal, ScramKeys, Secret, ServerLogin, ServerStep};
use crate::net::stream::Stream;
use crate::tls::server_end_point_hash;
use crate::wire::frame::{HEAD_LEN, head, put};
use crate::wire::reply::{error_fields, put_query};
use crate::wire::startup::{PROTOCOL_3_0, put_startup};

/// The longest message that is read from a server, in bytes.
const MESSAGE_LEN_MAX: usize = 1024 * 1024;

/// One row of text; `max_connections` less what is kept for superusers is what a pooler gets.
const QUESTION: &[u8] = b"SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('server_version'), \
    pg_catalog.current_setting('max_connections')::int - \
    pg_catalog.current_setting('superuser_reserved_connections')::int, \
    (extract(epoch from pg_catalog.clock_timestamp()) * 1000)::bigint";

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon::doctor) struct ServerFacts {
    pub(in crate::daemon::doctor) version: String,
    pub(in crate::daemon::doctor) in_recovery: bool,
    /// Connections for ordinary users.
    pub(in crate::daemon::doctor) connections: u64,
    /// Positive: our clock is ahead.
    pub(in crate::daemon::doctor) ahead_ms: i64,
    pub(in crate::daemon::doctor) round_trip_ms: i64,
}

/// How a login ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::daemon::doctor) enum Ending {
    /// It worked; the facts are missing if the question was refused (the reason instead).
    In(Result<ServerFacts, String>),
    /// Only a SCRAM secret is on file, and it is the very one that the server has: clients who know the password get in.
    SecretFits,
    /// The server said no.
    Refused { sqlstate: String, text: String },
    /// What we hold cannot prove who we are, or the server could not prove itself.
    Unprovable { text: String, reason: String },
    /// The connection broke, or what came was not the protocol.
    Broken(String),
}

/// Logs in over a connection that has just been made and asks the question.
pub(super) async fn log_in(stream: Stream, user: &str, dbname: &str, secret: Option<&Secret>) -> Ending {
    let channel = match &stream {
        Stream::Connected(_) => Channel::Tls(stream.peer_certificate().as_deref().and_then(server_end_point_hash)),
        _ => Channel::Clear,
    };
    let Some(entropy) = entropy() else { return Ending::Broken("no randomness".to_owned()) };
    let machine = ServerLogin::new(user.as_bytes(), credential(secret), channel, &entropy);
    let mut talk = Talk { stream };
    let probe_only = matches!(secret, Some(Secret::Scram(_)));
    let ending = match talk.start(user, dbname).await {
        Ok(()) => talk.login(machine, probe_only).await,
        Err(error) => Err(error.into()),
    };
    match ending {
        Ok(Some(ending)) => ending,
        Ok(None) => {
            let facts = talk.ask().await;
            talk.bye().await;
            Ending::In(facts)
        }
        Err(ending) => ending,
    }
}

/// A SCRAM secret proves nothing, but whether the server holds the same one shows before any proof is due: the keys are made up
/// and never used.
fn credential(secret: Option<&Secret>) -> Credential {
    match secret {
        Some(Secret::Scram(scram)) => Credential::PassThrough(PassThrough {
            keys: ScramKeys::from_bytes(&[0; 64]),
            salt: scram.salt().to_vec(),
            iterations: scram.iterations(),
        }),
        secret => Credential::choose(secret, None),
    }
}

fn entropy() -> Option<Entropy> {
    let (mut nonce, mut md5_salt, mut mock_key) = ([0; 18], [0; 4], Zeroizing::new([0; 32]));
    let random = SystemRandom::new();
    random.fill(&mut nonce).and_then(|()| random.fill(&mut md5_salt)).ok()?;
    random.fill(mock_key.as_mut_slice()).ok()?;
    Some(Entropy { nonce, md5_salt, mock_key })
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        Self::Broken(super::super::words::system_text(&error))
    }
}

struct Talk {
    stream: Stream,
}

impl Talk {
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads one message: tag and body. Memory grows with what comes, not with what is announced.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), Ending> {
        let bad = || Ending::Broken("what came back is not PostgreSQL's protocol".to_owned());
        let mut start = [0; HEAD_LEN];
        self.stream.read_exact(&mut start).await?;
        let found = head(&start).map_err(|_| bad())?.ok_or_else(bad)?;
        if found.total > MESSAGE_LEN_MAX {
            return Err(bad());
        }
        let mut body = Vec::new();
        let wanted = found.body_len() as u64;
        let read = (&mut self.stream).take(wanted).read_to_end(&mut body).await?;
        if read as u64 == wanted { Ok((found.tag, body)) } else { Err(bad()) }
    }

    async fn start(&mut self, user: &str, dbname: &str) -> io::Result<()> {
        let mut packet = Vec::new();
        let params = [("user", user), ("database", dbname), ("application_name", "pgtandem doctor")];
        put_startup(&mut packet, PROTOCOL_3_0, params.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        self.send(&packet).await
    }

    /// `None`: we are in.
    async fn login(&mut self, mut machine: ServerLogin, probe_only: bool) -> Result<Option<Ending>, Ending> {
        let mut challenged = false;
        loop {
            let (tag, body) = self.receive().await?;
            match tag {
                b'R' => {
                    let mut step = machine.on_auth(&body).map_err(|refusal| unprovable(&refusal))?;
                    if probe_only && challenged && matches!(step, ServerStep::Send(_)) {
                        return Ok(Some(Ending::SecretFits));
                    }
                    if let ServerStep::Derive(derivation) = step {
                        let keys = tokio::task::spawn_blocking(move || derivation.run()).await;
                        let keys = keys.map_err(|_| Ending::Broken("key derivation ended early".to_owned()))?;
                        step = machine.on_keys(&keys).map_err(|refusal| unprovable(&refusal))?;
                    }
                    if let ServerStep::Send(bytes) = step {
                        challenged = true;
                        self.send(&bytes).await?;
                    }
                }
                b'E' => return Err(refused(&body)),
                b'Z' => return Ok(None),
                b'S' | b'K' | b'N' | b'v' => {}
                _ => return Err(Ending::Broken("unexpected message from server at login".to_owned())),
            }
        }
    }

    async fn ask(&mut self) -> Result<ServerFacts, String> {
        let mut query = Vec::new();
        put_query(&mut query, QUESTION);
        let (before, started) = (epoch_ms(), Instant::now());
        self.send(&query).await.map_err(|error| error.to_string())?;
        let mut row = None;
        let mut arrived_ms = 0;
        loop {
            match self.receive().await {
                Ok((b'D', body)) => {
                    arrived_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
                    row = Some(columns(&body));
                }
                Ok((b'E', body)) => return Err(String::from_utf8_lossy(error_fields(&body).message).into_owned()),
                Ok((b'Z', _)) => break,
                Ok(_) => {}
                Err(Ending::Broken(reason)) => return Err(reason),
                Err(_) => return Err("the answer ended early".to_owned()),
            }
        }
        let facts = row.and_then(|row| facts(&row, before.saturating_add(arrived_ms / 2), arrived_ms));
        facts.ok_or_else(|| "the answer is not what PostgreSQL would say".to_owned())
    }

    async fn bye(&mut self) {
        let mut packet = Vec::new();
        put(&mut packet, b'X', |_| ());
        // The server may be gone by now; so are we.
        let _ = self.send(&packet).await;
    }
}

/// Milliseconds since 1970 by the wall clock.
fn epoch_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn unprovable(refusal: &Refusal) -> Ending {
    let text = refusal.fault.text.trim_start_matches("server login failed: ").to_owned();
    Ending::Unprovable { text, reason: refusal.reason.clone().into_owned() }
}

fn refused(body: &[u8]) -> Ending {
    let fields = error_fields(body);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ending::Refused { sqlstate: text(fields.sqlstate), text: text(fields.message) }
}

/// The columns of a DataRow (PostgreSQL docs, "Message Formats"); NULL and what is cut off are left out.
fn columns(body: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let Some((_, mut rest)) = body.split_first_chunk::<2>() else { return found };
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let len = usize::try_from(i32::from_be_bytes(*len)).unwrap_or(0);
        let Some((value, after)) = after.split_at_checked(len) else { break };
        found.push(String::from_utf8_lossy(value).into_owned());
        rest = after;
    }
    found
}

/// `ours_ms`: our clock at about the moment at which the server read its own.
fn facts(row: &[String], ours_ms: i64, round_trip_ms: i64) -> Option<ServerFacts> {
    let [in_recovery, version, connections, theirs_ms] = row else { return None };
    Some(ServerFacts {
        // Debian puts the package's version behind it.
        version: version.split(' ').next().unwrap_or_default().to_owned(),
        in_recovery: in_recovery == "t",
        connections: connections.parse().ok()?,
        ahead_ms: ours_ms.saturating_sub(theirs_ms.parse().ok()?),
        round_trip_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Vec<u8> {
        let mut body = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            body.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
            body.extend_from_slice(value.as_bytes());
        }
        body
    }

    #[test]
    fn a_row_becomes_facts() {
        let found = columns(&row(&["f", "15.14 (Debian 15.14-1)", "97", "1700000000000"]));
        let facts = facts(&found, 1_700_000_000_250, 40).unwrap();
        assert_eq!((facts.version.as_str(), facts.in_recovery, facts.connections), ("15.14", false, 97));
        assert_eq!((facts.ahead_ms, facts.round_trip_ms), (250, 40));
        assert_eq!(super::facts(&found[..3], 0, 0), None);
    }

    #[test]
    fn odd_rows_are_borne() {
        for body in [&b""[..], b"\0", b"\0\x01", b"\0\x01\0\0\0\x09abc", b"\0\x01\x7f\xff\xff\xff"] {
            assert!(columns(body).is_empty(), "{body:?}");
        }
        assert_eq!(columns(b"\0\x01\xff\xff\xff\xff"), [""]);
    }
}
