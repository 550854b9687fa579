//! A client that is not in auth_file: a server is asked who it is, by `auth_query`.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::login::{Arrival, Failed};
use super::roster::ClientInfo;
use super::route::{AuthQuery, Lookup};
use super::server::{CRASHED, QueryError, Server, server_fault};
use super::shared::{PoolContext, Shared, lock};
use crate::auth::Secret;
use crate::auth::query::{ANSWER_LEN_MAX, Answer, Found, question};
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::net::buffer::Buffer;
use crate::net::stream::Stream;
use crate::pool::io::{Idle, Message};
use crate::pool::{Checkout, Fate};
use crate::session::server::Verdict;
use crate::wire::frame::{HEAD_LEN, Head, head};

/// What a client is told when it cannot be found out who it is, for a reason that is not its own.
const CONFIG_ERROR: &str = "bouncer config error";

/// Where the question goes.
enum Source {
    /// To a server of the pool.
    Pool(Box<Server>),
    /// To a server of our own, as the pools stand still.
    Apart,
}

/// A database that was made from `*` for a client that nobody has vouched for is forgotten if it has led nowhere, however the
/// login ended: names that strangers make up must not pile up.
struct Guard {
    shared: Arc<Shared>,
    context: Arc<PoolContext>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if lock(&self.context.reported).is_none() {
            self.shared.forget_made(&self.context);
        }
    }
}

impl Arrival {
    /// The secret of the user: from auth_file or, if it does not stand there, from a server. `None`: no such user, and the
    /// client is to find that out as late as one with a wrong password.
    pub(super) async fn secret(&mut self, info: &Arc<ClientInfo>) -> Result<Option<Secret>, Failed> {
        let query = match self.shared.directory().lookup(&self.database, &self.user) {
            Lookup::OnFile(secret) => return Ok(secret),
            Lookup::Impossible(reason) => return Err(self.config_error(&reason)),
            Lookup::Ask(query) => query,
        };
        let shared = Arc::clone(&self.shared);
        let _permit = if query.stranger { shared.strangers.acquire().await.ok() } else { None };
        let database = query.route.database.id;
        let context = shared.context_for(&query.route);
        let _guard = query.made.then(|| Guard { shared: Arc::clone(&shared), context: Arc::clone(&context) });
        if query.named && shared.pools.with(|registry, _, _| registry.is_disabled(database)) {
            let text = format!("authentication database \"{}\" is disabled", query.route.database.name);
            return Err(Fault::fatal(Culprit::Us, text).into());
        }
        shared.pools.enrol(self.id, Arc::clone(&info.mailbox));
        let limit = query.route.timeouts.query_wait;
        let limit = if limit.is_zero() { Duration::from_secs(86_400 * 365) } else { limit };
        let asked = timeout(limit, self.ask(&query, &context, info)).await;
        // However that ended, nobody looks for this client in that pool any more.
        shared.pools.dismiss(self.id);
        match asked {
            Err(_) => Err(Fault::fatal(Culprit::Us, "query_wait_timeout").into()),
            Ok(Err(failed)) => Err(self.discreet(failed, &query)),
            Ok(Ok(found)) => self.judge(found),
        }
    }

    /// What has been found decides about the client.
    fn judge(&mut self, found: Found) -> Result<Option<Secret>, Failed> {
        match found {
            Found::User(secret) => {
                // Where strangers are told at once, a user without a password is asked as one of auth_file without one, as by
                // PgBouncer.
                self.asked = self.params.hide_unknown_users;
                if secret == Secret::Empty {
                    let name = self.name();
                    tracing::info!(subject = %self.subject(), "{name} auth_query found no password that holds now");
                } else {
                    *lock(&self.shared.found_kind) = Some(secret.kind());
                }
                self.found = Some(secret.clone());
                Ok(Some(secret))
            }
            Found::Nobody if self.params.hide_unknown_users => {
                self.asked = true;
                Ok(None)
            }
            // PgBouncer's answer, which gives away that there is no such user.
            Found::Nobody => Err(Fault::fatal(Culprit::Client, "no such user").into()),
            Found::Doubtful(reason) => Err(self.config_error(&reason)),
            Found::Error(body) => {
                let fault = server_fault(&body);
                Err(self.config_error(&format!("S: error in auth_query: {} {}", fault.severity.as_str(), fault.text)))
            }
        }
    }

    fn config_error(&self, reason: &str) -> Failed {
        tracing::error!(subject = %self.subject(), "{} {reason}", self.name());
        Fault::fatal(Culprit::Config, CONFIG_ERROR).into()
    }

    /// A stranger need not know as whom we ask, nor how the server refused us; the server's own line in the log says it.
    fn discreet(&self, failed: Failed, query: &AuthQuery) -> Failed {
        let named = format!("\"{}\"", query.route.server_user);
        match failed {
            Failed::Fault(fault) if fault.text.contains(&named) => self.config_error(&fault.text),
            failed => failed,
        }
    }

    async fn ask(&mut self, query: &AuthQuery, context: &PoolContext, info: &Arc<ClientInfo>) -> Result<Found, Failed> {
        let bytes = question(&query.sql, &self.user);
        let mut answer = Answer::new(&self.user);
        match self.auth_server(context, info).await? {
            Source::Apart => {
                let (mut stream, mut input) = super::open::open_apart(&self.shared, &query.route).await?;
                let found = converse(&mut stream, &mut input, &bytes, &mut answer, |_, _| Ok(())).await;
                let _ = stream.write_all(b"X\0\0\0\x04").await;
                let _ = stream.shutdown().await;
                found.map_err(|reason| self.config_error(reason))
            }
            Source::Pool(mut server) => {
                server.info.set_link(Some(self.id), Time::now());
                let found = server.ask(&bytes, &mut answer).await;
                server.info.set_link(None, Time::now());
                let fate = found.as_ref().map_or_else(|reason| Fate::Close(reason), |_| Fate::Idle);
                self.shared.pools.release(server, fate);
                found.map_err(|reason| self.config_error(reason))
            }
        }
    }

    /// Gets a server of this pool, alive and untouched by any client.
    async fn auth_server(&mut self, context: &PoolContext, info: &Arc<ClientInfo>) -> Result<Source, Failed> {
        let shared = Arc::clone(&self.shared);
        let mut again = None;
        loop {
            let frozen = shared.frozen.notified();
            if shared.freeze.is_on() {
                return Ok(Source::Apart);
            }
            let began = again.unwrap_or_else(Time::now);
            let (mut server, needs_check, since) = match shared.pools.checkout(context.pool, self.id, again) {
                (Checkout::Granted { needs_check, .. }, Some(server)) => (server, needs_check, began),
                (Checkout::Refused(fault), _) => return Err(fault.into()),
                _ => {
                    let letter = tokio::select! {
                        letter = poll_fn(|cx| self.poll_letter(cx, info)) => letter?,
                        () = frozen => {
                            // Once it has left the queue no letter can come; else one is on its way.
                            if shared.pools.with(|registry, _, _| registry.leave(self.id)) {
                                return Ok(Source::Apart);
                            }
                            poll_fn(|cx| self.poll_letter(cx, info)).await?
                        }
                    };
                    match letter {
                        Message::Grant { server, needs_check, waited_since } => (server, needs_check, waited_since),
                        Message::Refuse(fault) => return Err(fault.into()),
                        Message::Welcome => {
                            return Err(Fault::fatal(Culprit::Us, "internal error: unexpected welcome").into());
                        }
                    }
                }
            };
            match self.is_alive(&mut server, needs_check).await {
                Ok(()) => return Ok(Source::Pool(server)),
                Err(reason) => {
                    shared.pools.release(server, Fate::Close(reason));
                    again = Some(since);
                }
            }
        }
    }

    async fn is_alive(&self, server: &mut Server, needs_check: bool) -> Result<(), &'static str> {
        poll_fn(|cx| std::task::Poll::Ready(server.attend(cx))).await?;
        let Some(check) = self.params.server_check_query.as_ref().filter(|_| needs_check) else { return Ok(()) };
        match server.run(check, self.params.server_connect_timeout).await {
            Ok(()) => {
                self.shared.pools.with(|registry, _, _| registry.check_passed(server.info.id));
                Ok(())
            }
            Err(QueryError::Refused(_)) => Err("test query failed"),
            Err(QueryError::Broken(reason)) => Err(reason),
        }
    }
}

impl Server {
    /// Asks about a user. Not cancel-safe: a server dropped out of it is closed.
    ///
    /// # Errors
    /// Why the server is of no further use.
    async fn ask(&mut self, question: &[u8], answer: &mut Answer) -> Result<Found, &'static str> {
        let Self { stream, input, core, .. } = self;
        let note = |head: Head, body: &[u8]| match core.on_frame(head, body, None) {
            Verdict::Quarantine(reason) => Err(reason),
            _ => Ok(()),
        };
        converse(stream, input, question, answer, note).await
    }
}

/// Asks, and reads the answer. `note` hears of parameters that the server reports meanwhile.
async fn converse(
    stream: &mut Stream,
    input: &mut Buffer,
    question: &[u8],
    answer: &mut Answer,
    mut note: impl FnMut(Head, &[u8]) -> Result<(), &'static str>,
) -> Result<Found, &'static str> {
    let crashed = |_| CRASHED;
    stream.write_all(question).await.map_err(crashed)?;
    stream.flush().await.map_err(crashed)?;
    loop {
        if let Some(head) = head(input.bytes()).map_err(|_| "bad packet header from server")? {
            if head.total > ANSWER_LEN_MAX {
                return Err("the answer to auth_query is too long");
            }
            if let Some(body) = input.bytes().get(HEAD_LEN..head.total) {
                if head.tag == b'S' {
                    note(head, body)?;
                }
                let found = answer.on_message(head.tag, body)?;
                input.consume(head.total);
                match found {
                    // Whatever comes behind it was not asked for.
                    Some(_) if !input.is_empty() => return Err("unexpected response from auth_query"),
                    Some(found) => return Ok(found),
                    None => continue,
                }
            }
            input.make_room(head.total);
        }
        if input.is_full() {
            let want = input.len() + 1;
            input.make_room(want);
        }
        if poll_fn(|cx| input.poll_fill(cx, stream)).await.map_err(crashed)? == 0 {
            return Err(CRASHED);
        }
    }
}
