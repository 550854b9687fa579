//! The life of a client after its login: relay, get a server, give it back, end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::freeze::Verdict;
use super::presence::{Membership, Presence, SeatGuard};
use super::relay::Step;
use super::roster::{ClientInfo, Doing, Ending, Parting};
use super::route::{Params, Route};
use super::server::{CRASHED, Outbox, Passing, QueryError, Server};
use super::shared::{PoolContext, Shared, count, lock};
use super::timer::LazyTimer;
use crate::clock::Time;
use crate::fault::{Culprit, Fault, Severity};
use crate::net::buffer::Buffer;
use crate::net::stream::Stream;
use crate::pool::io::{Idle, Message};
use crate::pool::{Checkout, Fate, Standing};
use crate::prepared::Statement;
use crate::session::Mode;
use crate::session::client::ClientCore;
use crate::session::params::Values;
use crate::wire::reply;
use crate::wire::startup::CancelKey;

/// Why a session is over.
#[derive(Debug)]
pub(super) enum End {
    /// The client said so.
    Terminated,
    /// The client's connection ended; for the log.
    ClientGone(&'static str),
    /// The server's connection ended or can no longer be trusted; for the log and the client.
    ServerGone(&'static str),
    /// The client is told this.
    Fault(Fault),
    /// Another process has the sockets.
    HandedOver,
}

/// A client in a pool.
pub struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) params: Arc<Params>,
    pub(super) context: Arc<PoolContext>,
    pub(super) route: Arc<Route>,
    pub(super) generation: u64,
    /// It is to come to rest.
    pub(super) frozen: bool,
    /// In a former process it has waited for a server since then.
    waited_since: Option<Time>,
    pub(super) info: Arc<ClientInfo>,
    presence: Option<Presence>,
    _seat: SeatGuard,
    membership: Option<Membership>,
    pub(super) mode: Mode,
    pub(super) statements_max: usize,

    pub(super) stream: Stream,
    pub(super) input: Buffer,
    /// Bytes at the front of `input` that are on their way to the server.
    pub(super) run: usize,
    pub(super) passing: Passing,
    pub(super) out: Outbox,
    pub(super) client_unflushed: bool,
    pub(super) core: ClientCore,

    pub(super) server: Option<Box<Server>>,
    /// Bytes at the front of the server's input that are on their way to the client.
    pub(super) server_run: usize,
    pub(super) server_said_fatal: bool,
    /// The server has had something to do for this client.
    pub(super) served: bool,
    pub(super) asked_to_flush: bool,

    pub(super) to_server: Vec<u8>,
    pub(super) to_client: Vec<u8>,
    pub(super) timer: LazyTimer,
    pub(super) transaction_began: Time,
    pub(super) query_began: Time,
    pub(super) ready_at: Time,
    pub(super) tally: Tally,
}

/// What has come of a wait.
enum Waited {
    Letter(Message<Server>),
    Due,
    /// It has left the queue, to be passed on to another process.
    Frozen,
}

/// What a session has beside its [`Start`] if a former process began it.
pub(super) struct Carried {
    pub(super) names: Vec<(Box<[u8]>, Arc<Statement>)>,
    pub(super) server: Option<(Box<Server>, Standing)>,
    pub(super) waiting_since: Option<Time>,
    pub(super) transaction_began: Time,
    pub(super) ready_at: Time,
    pub(super) served: bool,
    /// The pool mode that holds as long as it has the server.
    pub(super) mode: Option<Mode>,
}

/// Counts of this session that the database's statistics have not seen yet.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) query: Duration,
    pub(super) transaction: Duration,
    pub(super) client_parses: u64,
    pub(super) binds: u64,
}

/// What a session is made of after its login.
pub struct Start {
    /// The client's stream.
    pub stream: Stream,
    /// What it has already sent.
    pub input: Buffer,
    /// What others know of it.
    pub info: Arc<ClientInfo>,
    /// Its seat.
    pub seat: SeatGuard,
    /// Its pool.
    pub context: Arc<PoolContext>,
    /// Its being counted there.
    pub membership: Membership,
    /// What holds for it there.
    pub route: Arc<Route>,
    /// Its tracked parameters.
    pub values: Values,
    /// Its being known.
    pub presence: Presence,
    /// The server that was opened for it alone.
    pub server: Option<Box<Server>>,
}

impl Session {
    /// A client that has been welcomed.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, start: Start) -> Self {
        let now = Time::now();
        let mut session = Self {
            shared: Arc::clone(shared),
            params: shared.params(),
            route: start.route,
            context: start.context,
            // In this order: a freeze that begins in between is seen by its generation.
            generation: shared.generation(),
            frozen: shared.freeze.is_on(),
            waited_since: None,
            info: start.info,
            presence: Some(start.presence),
            _seat: start.seat,
            membership: Some(start.membership),
            mode: Mode::Session,
            statements_max: 0,
            stream: start.stream,
            input: start.input,
            run: 0,
            passing: Passing::default(),
            out: Outbox::default(),
            client_unflushed: false,
            core: ClientCore::new(start.values),
            server: None,
            server_run: 0,
            server_said_fatal: false,
            served: false,
            asked_to_flush: false,
            to_server: Vec::new(),
            to_client: Vec::new(),
            timer: LazyTimer::default(),
            transaction_began: now,
            query_began: now,
            ready_at: now,
            tally: Tally::default(),
        };
        session.adopt_settings();
        if let Some(server) = start.server {
            session.attach(server, now);
            // There is no first frame to wait for.
            session.served = true;
        }
        session
    }

    /// A client that a former process let in, as it was when it came to rest there.
    #[must_use]
    pub(super) fn restore(shared: &Arc<Shared>, start: Start, carried: Carried) -> Self {
        let mut session = Self::new(shared, start);
        for (name, statement) in carried.names {
            session.core.names.insert(&name, statement);
        }
        session.waited_since = carried.waiting_since;
        session.transaction_began = carried.transaction_began;
        session.ready_at = carried.ready_at;
        session.served = carried.served;
        if let Some((server, standing)) = carried.server {
            shared.roster.add_server(Arc::clone(&server.info));
            let _ = shared.pools.with(|registry, now, out| registry.adopt(now, &standing, out));
            session.info.set_link(Some(server.info.id));
            session.info.set_doing(Doing::Active);
            server.info.set_link(Some(session.info.id), session.info.request_at());
            session.server = Some(server);
            session.set_mode(carried.mode.unwrap_or(session.mode));
        }
        session
    }

    /// Serves a restored client to the end.
    pub(super) async fn serve_on(self) {
        // From here on the client's task is this one.
        poll_fn(|cx| {
            self.info.mailbox.bind(cx.waker());
            Poll::Ready(())
        })
        .await;
        self.serve().await;
    }

    pub(super) fn cancel_key(&self) -> Option<&CancelKey> {
        self.presence.as_ref()?.key()
    }

    fn adopt_settings(&mut self) {
        // The mode holds for as long as the client has a server.
        if self.server.is_none() {
            let own = self.info.replication().is_some();
            self.set_mode(if own { Mode::Session } else { self.route.mode });
        }
    }

    fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        self.info.set_keeps_server(mode == Mode::Session);
        self.statements_max = match mode {
            Mode::Session => 0,
            Mode::Transaction | Mode::Statement => self.params.max_prepared_statements,
        };
    }

    pub(super) fn refresh_settings(&mut self) {
        let generation = self.shared.generation();
        if generation != self.generation {
            self.generation = generation;
            self.frozen = self.shared.freeze.is_on();
            self.params = self.shared.params();
            if let Some(route) = self.shared.directory().renew(&self.route) {
                self.route = route;
            }
            self.adopt_settings();
        }
    }

    /// Serves the client to the end.
    pub async fn serve(mut self) {
        let end = loop {
            match poll_fn(|cx| self.poll_relay(cx)).await {
                Step::NeedServer => {
                    if let Err(end) = self.acquire().await {
                        break end;
                    }
                }
                Step::ServerFree => self.give_back(),
                Step::Rest => {
                    if self.rest(None).await == Verdict::Gone {
                        break End::HandedOver;
                    }
                }
                Step::Ended(end) => break end,
            }
        };
        self.finish(end).await;
    }

    /// Gets a server and makes it this client's.
    async fn acquire(&mut self) -> Result<(), End> {
        let mut again = self.waited_since.take();
        let began = again.unwrap_or_else(Time::now);
        self.transaction_began = began;
        self.info.set_request(began);
        loop {
            let (answer, server) = self.shared.pools.checkout(self.context.pool, self.info.id, again);
            let (mut server, needs_check, since) = match (answer, server) {
                (Checkout::Granted { needs_check, .. }, Some(server)) => (server, needs_check, began),
                (Checkout::Refused(fault), _) => return Err(End::Fault(fault)),
                _ => match self.wait(again.unwrap_or(began)).await? {
                    Some(granted) => granted,
                    None => {
                        again = Some(again.unwrap_or(began));
                        continue;
                    }
                },
            };
            match self.prepare(&mut server, needs_check).await {
                Ok(()) => {
                    self.attach(server, since);
                    return Ok(());
                }
                Err(QueryError::Broken(reason)) => {
                    self.shared.pools.release(server, Fate::Close(reason));
                    again = Some(since);
                }
                Err(QueryError::Refused(fault)) => {
                    self.shared.pools.release(server, Fate::Idle);
                    return Err(End::Fault(Fault { severity: Severity::Fatal, ..fault }));
                }
            }
        }
    }

    /// Sees to it that the server is alive and has this client's parameters.
    async fn prepare(&mut self, server: &mut Server, needs_check: bool) -> Result<(), QueryError> {
        poll_fn(|cx| Poll::Ready(server.attend(cx))).await.map_err(QueryError::Broken)?;
        if needs_check && let Some(query) = &self.params.server_check_query {
            match server.run(query, self.params.server_connect_timeout).await {
                Ok(()) => self.shared.pools.with(|r, _, _| r.check_passed(server.info.id)),
                Err(QueryError::Refused(_)) => return Err(QueryError::Broken("test query failed")),
                Err(broken) => return Err(broken),
            }
        }
        if !self.core.values.same(server.core.values()) {
            if let Some(sql) = self.core.values.sql_to_change(server.core.values(), &self.params.tracked) {
                tracing::debug!(
                    subject = %self.info.subject(), "{} varcache_apply: {}", self.info, String::from_utf8_lossy(&sql)
                );
                server.run(&sql, self.params.server_connect_timeout).await?;
                let reported = lock(&self.context.reported).as_ref().map(|r| r.values.clone());
                let mut values = server.core.values().clone();
                for index in 0..self.params.tracked.names().count() {
                    // What the server never reports it has now as it was told.
                    if reported.as_ref().is_none_or(|r| r.get(index).is_none()) {
                        values.copy_one(index, &self.core.values);
                    }
                }
                server.core.adopt_values(values);
            }
            self.log_canonical_values(server.core.values());
            // The server's own spelling, so that the next comparison is one of pointers.
            self.core.values = server.core.values().clone();
        }
        Ok(())
    }

    /// Says which of the client's parameters the server spells in another way (PgBouncer's text).
    fn log_canonical_values(&self, canonical: &Values) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        for (index, name) in self.params.tracked.names().enumerate() {
            let (own, new) = (self.core.values.get(index), canonical.get(index));
            if let (Some(own), Some(new)) = (own, new.filter(|_| own != new)) {
                let (own, new) = (String::from_utf8_lossy(own), String::from_utf8_lossy(new));
                tracing::debug!(
                    subject = %self.info.subject(),
                    "{} varcache_set_canonical: setting {name} to its canonical version {own} -> {new}", self.info
                );
            }
        }
    }

    fn attach(&mut self, server: Box<Server>, since: Time) {
        let now = Time::now();
        // As PgBouncer counts: the wait for a server is part of the query's time, but query_timeout does not run meanwhile.
        self.tally.query += now.since(since);
        self.query_began = now;
        self.ready_at = now;
        self.info.set_link(Some(server.info.id));
        self.info.set_doing(Doing::Active);
        server.info.set_link(Some(self.info.id), now);
        let stats = &self.context.stats;
        count(&stats.server_assignments, 1);
        count(&stats.wait_us, micros(now.since(since)));
        self.server_said_fatal = false;
        self.served = false;
        self.server = Some(server);
    }

    /// Waits in the queue. `None`: it has left the queue, and is to ask again with its old place.
    async fn wait(&mut self, began: Time) -> Result<Option<(Box<Server>, bool, Time)>, End> {
        self.info.set_doing(Doing::Waiting);
        let (deadline, setting) =
            self.route.timeouts.in_queue().map_or((Time::NEVER, ""), |(limit, setting)| (began + limit, setting));
        let notify = self.params.query_wait_notify;
        let mut notify_at = if notify.is_zero() { Time::NEVER } else { began + notify };
        let letter = loop {
            let waited = poll_fn(|cx| self.poll_wait(cx, deadline.min(notify_at))).await;
            match waited {
                Ok(Waited::Letter(letter)) => break letter,
                Ok(Waited::Frozen) => {
                    return match self.rest(Some(began)).await {
                        Verdict::GoOn => Ok(None),
                        Verdict::Gone => Err(End::HandedOver),
                    };
                }
                // Leaving the queue is part of the session's end.
                Ok(Waited::Due) if Time::now() >= deadline => {
                    return Err(End::Fault(Fault::fatal(Culprit::Us, setting).retryable()));
                }
                Ok(Waited::Due) => {
                    notify_at = Time::NEVER;
                    let text = "No server connection available in postgres backend, client being queued";
                    reply::put_notice(&mut self.out.bytes, text);
                }
                Err(end) => return Err(end),
            }
        };
        match letter {
            Message::Grant { server, needs_check, waited_since } => Ok(Some((server, needs_check, waited_since))),
            Message::Refuse(fault) => Err(End::Fault(fault)),
            Message::Welcome => Err(End::Fault(Fault::fatal(Culprit::Us, "internal error: unexpected welcome"))),
        }
    }

    /// Ready with what has come of the wait, or with the reason to stop waiting.
    fn poll_wait(&mut self, cx: &mut Context<'_>, due: Time) -> Poll<Result<Waited, End>> {
        if let Some(letter) = self.info.mailbox.take() {
            return Poll::Ready(Ok(Waited::Letter(letter)));
        }
        // Who may finish its transaction may also begin the one that it waits for, unless no server is given out any more.
        let hopeless = |ending: &Ending| ending.at_once || self.shared.freeze.is_on();
        if let Some(ending) = self.info.ending().filter(hopeless) {
            return Poll::Ready(Err(End::Fault(ending.fault)));
        }
        if let Poll::Ready(Err(_)) = self.poll_to_client(cx) {
            return Poll::Ready(Err(End::ClientGone("client unexpected eof")));
        }
        // A client that hangs up must not keep its place in the queue.
        while !self.input.is_full() {
            match self.input.poll_fill(cx, &mut self.stream) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => self.tally.received += n as u64,
                Poll::Ready(_) => return Poll::Ready(Err(End::ClientGone("client unexpected eof"))),
            }
        }
        // Once it has left the queue no letter can come any more; if it was not in the queue one is on its way.
        let at_rest = self.is_frozen() && self.is_at_rest(cx);
        if at_rest && self.shared.pools.with(|registry, _, _| registry.leave(self.info.id)) {
            return Poll::Ready(Ok(Waited::Frozen));
        }
        self.timer.poll(cx, due).map(|()| Ok(Waited::Due))
    }

    /// Gives the server back between transactions.
    fn give_back(&mut self) {
        self.settle_server_run();
        let Some(mut server) = self.server.take() else { return };
        self.detach(&mut server);
        self.info.set_doing(Doing::Idle);
        if self.params.reset_always {
            self.reset_and_release(server);
        } else {
            self.shared.pools.release(server, Fate::Idle);
        }
    }

    /// In a task of its own: the client must not wait for the reset.
    fn reset_and_release(&self, mut server: Box<Server>) {
        let (shared, params) = (Arc::clone(&self.shared), Arc::clone(&self.params));
        shared.pools.with(|r, _, out| r.begin_reset(server.info.id, out));
        tokio::spawn(async move {
            let fate = reset(&params, &mut server).await;
            shared.pools.release(server, fate);
        });
    }

    /// Ends the link and hands the counts over.
    fn detach(&mut self, server: &mut Server) {
        self.info.set_link(None);
        self.info.set_prepared(self.core.names.len());
        server.info.set_link(None, server.info.request_at());
        server.info.set_prepared(server.core.prepared());
        let counts = server.core.take_counts();
        let tally = std::mem::take(&mut self.tally);
        let stats = &self.context.stats;
        count(&stats.queries, counts.queries);
        count(&stats.transactions, counts.transactions);
        count(&stats.server_parses, counts.parses);
        count(&stats.client_parses, tally.client_parses);
        count(&stats.binds, tally.binds);
        count(&stats.received_bytes, tally.received);
        count(&stats.sent_bytes, tally.sent);
        count(&stats.query_us, micros(tally.query));
        count(&stats.transaction_us, micros(tally.transaction));
    }

    /// Says the last words to both sides and tidies up.
    async fn finish(mut self, end: End) {
        if matches!(end, End::HandedOver) {
            // Dropped without a word: the sockets live on in the other process.
            return;
        }
        self.settle_server_run();
        let clean = matches!(end, End::Terminated | End::ClientGone(_) | End::Fault(_));
        let torn = self.server.as_ref().is_some_and(|s| s.passing.is_torn());
        if let Some(mut server) = self.server.take() {
            self.detach(&mut server);
            let own = self.info.replication().is_some();
            if own && clean && self.run == 0 && self.passing.left == 0 {
                server.leave_stream();
            }
            let idle = clean
                && !own
                && self.mode == Mode::Session
                && server.core.is_free()
                && server.passing.left == 0
                && server.out.is_empty()
                && self.run == 0;
            if idle && self.shared.pools.with(|registry, _, _| registry.is_ending()) {
                // There is no next client to make it clean for.
                self.shared.pools.release(server, Fate::Close("server shutting down"));
            } else if idle {
                self.reset_and_release(server);
            } else {
                let reason = if own && clean { "replication client was closed" } else { server_reason(&end) };
                self.shared.pools.release(server, Fate::Close(reason));
            }
        }
        let shared = Arc::clone(&self.shared);
        let parting = shared.roster.part();
        // Others may look for this client until here, and never afterwards.
        self.presence = None;
        self.membership = None;
        count(&self.context.stats.received_bytes, self.tally.received);
        count(&self.context.stats.sent_bytes, self.tally.sent);
        self.tell(end, torn, parting).await;
    }

    /// `torn`: the client has had a part of a message of the server and will not get the rest. Anything written now would be
    /// taken for the rest, so nothing is.
    async fn tell(&mut self, end: End, torn: bool, parting: Parting<'_>) {
        let age_s = Time::now().since(self.info.connected_at).as_secs();
        let told = matches!(end, End::ServerGone(_) | End::Fault(_));
        let (reason, fault) = match end {
            End::Terminated | End::HandedOver => ("client close request".into(), None),
            End::ClientGone(reason) => (reason.into(), None),
            // The server has told the client the reason itself.
            End::ServerGone(reason) if self.server_said_fatal => (reason.into(), None),
            End::ServerGone(reason) => {
                (reason.into(), Some(Fault::fatal(Culprit::Server, reason).with_sqlstate("08006")))
            }
            End::Fault(fault) => (fault.text.clone(), Some(fault)),
        };
        if self.params.log.disconnections {
            tracing::info!(subject = %self.info.subject(), "{} closing because: {reason} (age={age_s}s)", self.info);
        }
        if let Some(fault) = &fault {
            if self.params.log.pooler_errors {
                tracing::warn!(subject = %self.info.subject(), "{} pooler error: {}", self.info, fault.text);
            }
            if !torn {
                reply::put_error(&mut self.out.bytes, fault);
            }
        }
        if self.info.ending().is_some_and(|ending| ending.unreachable) {
            super::farewell::abandon(&self.stream);
            return;
        }
        // A client that does not read is not waited for.
        let farewell = async {
            poll_fn(|cx| self.poll_to_client(cx)).await?;
            drop(parting);
            // There are last words, ours or the server's.
            if told { super::farewell::linger(&mut self.stream).await } else { self.stream.shutdown().await }
        };
        let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
    }
}

/// How long a client may take to read its last message.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

fn server_reason(end: &End) -> &'static str {
    match end {
        End::Terminated | End::HandedOver | End::ClientGone(_) => "client disconnect while server was not ready",
        End::ServerGone(reason) => reason,
        End::Fault(fault) => match &*fault.text {
            "query timeout" => "query timeout",
            "idle transaction timeout" => "idle transaction timeout",
            "transaction timeout" => "transaction timeout",
            "database removed" => "database removed",
            _ => "unclean server",
        },
    }
}

/// Runs server_reset_query.
async fn reset(params: &Params, server: &mut Server) -> Fate {
    if params.server_reset_query.is_empty() {
        return Fate::Idle;
    }
    match server.run(&params.server_reset_query, RESET_TIMEOUT).await {
        Ok(()) if server.core.is_free() => Fate::Idle,
        Ok(()) => Fate::Close("reset query left a transaction open"),
        Err(QueryError::Refused(fault)) => {
            tracing::warn!(subject = %server.info.subject(), "{} server_reset_query failed: {fault}", server.info);
            Fate::Close("reset query failed")
        }
        Err(QueryError::Broken(reason)) => Fate::Close(if reason == CRASHED { CRASHED } else { "reset query failed" }),
    }
}

/// How long server_reset_query may take.
const RESET_TIMEOUT: Duration = Duration::from_secs(60);

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
