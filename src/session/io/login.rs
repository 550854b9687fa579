//! A client logs in: first packets, TLS, authentication, limits, welcome; all under one deadline.

use std::future::{poll_fn, ready};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::farewell::{abandon, tell};
use super::floating::not_here;
use super::presence::{Membership, Presence, SeatGuard};
use super::roster::{ClientInfo, Ending, Move};
use super::route::{ConsoleEntry, Entry, Params, Route};
use super::server::Server;
use super::shared::{PoolContext, Reported, Shared, lock};
use super::subject::Subject;
use crate::auth::Secret;
use crate::fault::{Culprit, Fault};
use crate::ids::ClientId;
use crate::net::buffer::Buffer;
use crate::net::stream::{Peer, Stream};
use crate::pool::Welcome;
use crate::pool::io::Message;
use crate::session::params::Values;
use crate::session::replication::{Kind, Wanted};
use crate::tls::{ALPN_POSTGRESQL, openssl_name, protocol_name};
use crate::wire::reply;
use crate::wire::startup::{CancelKey, First, Startup, first, packet_len};

/// The console's database name.
pub const CONSOLE: &str = "pgbouncer";

/// A client that has come in.
pub struct LoggedIn {
    /// Its stream, and what it has already sent.
    pub stream: Stream,
    /// See above.
    pub input: Buffer,
    /// What others know of it; it is in the roster.
    pub info: Arc<ClientInfo>,
    /// Its seat, to be given back.
    pub seat: SeatGuard,
    /// Its being known: roster, mailbox, cancel key.
    pub presence: Presence,
    /// Where it goes.
    pub to: Destination,
}

/// Where a client goes after its login.
pub enum Destination {
    /// To the console. It has had AuthenticationOk and nothing else.
    Console {
        /// Came in by the Unix socket as its owner.
        back_door: bool,
        /// The key for BackendKeyData.
        key: CancelKey,
    },
    /// Into this pool; it has been welcomed.
    Pool {
        /// The pool.
        context: Arc<PoolContext>,
        /// Its being counted there.
        membership: Membership,
        /// What holds for this client in it.
        route: Arc<Route>,
        /// Its tracked parameters.
        values: Values,
        /// The server that was opened for it alone.
        server: Option<Box<Server>>,
    },
}

/// Why a login came to nothing.
pub(super) enum Failed {
    /// Tell the client.
    Fault(Fault),
    /// Tell the client, and the log more than the client.
    Refused(Fault, String),
    /// The client is gone, or never was one; for the log.
    Gone(String),
    /// Nothing reaches it any more: its floating address is elsewhere.
    Unreachable,
    /// It was a cancel request, which is done.
    Cancel,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Gone(format!("client unexpected eof ({error})"))
    }
}

/// The client, as far as it has come.
pub(super) struct Arrival {
    pub(super) shared: Arc<Shared>,
    pub(super) params: Arc<Params>,
    pub(super) id: ClientId,
    pub(super) peer: Peer,
    pub(super) local: Option<SocketAddr>,
    pub(super) stream: Option<Stream>,
    pub(super) input: Buffer,
    pub(super) user: String,
    pub(super) database: String,
    /// A server was asked about the user.
    pub(super) asked: bool,
    /// What auth_query found about the user.
    pub(super) found: Option<Secret>,
    /// Of which kind its replication is, if it asks for that.
    pub(super) replication: Option<Kind>,
}

/// Lets a client in. `None`: it did not come in, everything has been said and logged. Not cancel-safe; a dropped login closes
/// the connection.
pub async fn login(shared: &Arc<Shared>, stream: Stream) -> Option<LoggedIn> {
    let params = shared.params();
    let (peer, local) = (stream.peer(), stream.local_addr());
    let mut hold = shared.floating.follow(local);
    shared.roster.note(&peer, local, Move::Came);
    let elsewhere = hold.is_elsewhere();
    let mut seat = SeatGuard::enter(shared);
    let mut arrival = Arrival {
        id: ClientId(shared.ids.draw()),
        shared: Arc::clone(shared),
        peer,
        local,
        stream: Some(stream),
        input: Buffer::default(),
        user: String::new(),
        database: String::new(),
        asked: false,
        found: None,
        replication: None,
        params,
    };
    let limit = arrival.params.client_login_timeout;
    let limit = if limit.is_zero() { Duration::from_secs(86_400 * 365) } else { limit };
    let began = crate::clock::Time::now();
    let mut presence = Presence::begin(shared, arrival.id);
    let result = tokio::select! {
        biased;
        () = hold.left() => Err(Failed::Unreachable),
        () = ready(()), if elsewhere => Err(Failed::Unreachable),
        result = timeout(limit, Box::pin(arrival.run(&mut seat, &mut presence))) => result.unwrap_or_else(|_| {
            Err(Failed::Fault(Fault::fatal(Culprit::Client, "client_login_timeout").with_sqlstate("08P01")))
        }),
    };
    match result {
        Ok((info, to)) => {
            if hold.has_left() {
                // It was not listed yet when those who were listed were let go of.
                info.end(Ending::unreachable(not_here()));
            }
            let stream = arrival.stream.take()?;
            Some(LoggedIn { stream, input: std::mem::take(&mut arrival.input), info, seat, presence, to })
        }
        Err(failed) => {
            drop(seat);
            let _parting = shared.roster.part();
            drop(presence);
            let what = if matches!(failed, Failed::Unreachable) { Move::Lost } else { Move::Went };
            arrival.turn_away(failed, crate::clock::Time::now().since(began).as_secs()).await;
            shared.roster.note(&peer, local, what);
            None
        }
    }
}

impl Arrival {
    pub(super) fn name(&self) -> String {
        let or = |text: &str, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text.to_owned() };
        format!(
            "C-{:#x}: {}/{}@{}",
            self.id.0,
            or(&self.database, "(nodb)"),
            or(&self.user, "(nouser)"),
            super::roster::place(&self.peer)
        )
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject::client(self.id, &self.database, &self.user, &self.peer)
    }

    async fn turn_away(&mut self, failed: Failed, age_s: u64) {
        let name = self.name();
        let (fault, reason) = match failed {
            Failed::Fault(fault) => (fault, String::new()),
            Failed::Refused(fault, reason) => (fault, reason),
            Failed::Gone(reason) => {
                tracing::debug!(subject = %self.subject(), "{name} closing because: {reason} (age={age_s}s)");
                return;
            }
            Failed::Unreachable => {
                tracing::debug!(subject = %self.subject(), "{name} closing because: {} (age={age_s}s)", not_here().text);
                if let Some(stream) = &self.stream {
                    abandon(stream);
                }
                return;
            }
            Failed::Cancel => return,
        };
        if self.params.log.disconnections {
            tracing::info!(subject = %self.subject(), "{name} closing because: {} (age={age_s}s)", fault.text);
        }
        if self.params.log.pooler_errors {
            let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
            tracing::warn!(subject = %self.subject(), "{name} pooler error: {}{reason}", fault.text);
        }
        if let Some(stream) = &mut self.stream {
            tell(stream, fault).await;
        }
    }

    async fn run(
        &mut self,
        seat: &mut SeatGuard,
        presence: &mut Presence,
    ) -> Result<(Arc<ClientInfo>, Destination), Failed> {
        let startup = self.first_packets().await?;
        self.names(&startup)?;
        let console = self.database == CONSOLE;
        seat.with(|limits, _| limits.admit(console))?;
        if startup.needs_negotiation() {
            let mut out = Vec::new();
            reply::put_negotiate_protocol_version(&mut out, startup.negotiated(), startup.extensions());
            self.send(&out).await?;
        }
        let tls = self.stream.as_ref().map(tls_text).unwrap_or_default();
        if self.params.tls_required && tls.is_empty() && !matches!(self.peer, Peer::Unix { .. }) {
            return Err(Fault::fatal(Culprit::Client, "SSL required").into());
        }
        let info = ClientInfo::new(self.id, self.database.clone(), self.user.clone(), self.peer, self.local, tls);
        let info = Arc::new(info);
        // From here on the client's task is the one that is polled now.
        poll_fn(|cx| {
            info.mailbox.bind(cx.waker());
            Poll::Ready(())
        })
        .await;
        let to = if console {
            self.console_login(&startup, &info, (seat, presence)).await?
        } else {
            self.pool_login(&startup, &info, seat, presence).await?
        };
        Ok((info, to))
    }

    async fn console_login(
        &mut self,
        startup: &Startup,
        info: &Arc<ClientInfo>,
        (seat, presence): (&mut SeatGuard, &mut Presence),
    ) -> Result<Destination, Failed> {
        let own_uid = nix::unistd::getuid().as_raw();
        let owner = matches!(self.peer, Peer::Unix { uid: Some(uid), .. } if uid == own_uid);
        let back_door = match self.shared.directory().console(&self.user, owner) {
            ConsoleEntry::Denied(fault) => return Err(fault.into()),
            ConsoleEntry::BackDoor => {
                tracing::info!(subject = %self.subject(), "{} pgbouncer access from unix socket", self.name());
                true
            }
            ConsoleEntry::AfterLogin => {
                self.authenticate(info).await?;
                let own = self.shared.directory().console_seat(&self.user);
                seat.with(|limits, seat| {
                    limits.set_database(own.database, own.database_clients);
                    limits.set_user(own.user, own.user_clients);
                    limits.admit_console(seat, (own.database, own.user), own.is_admin)
                })?;
                false
            }
        };
        self.log_attempt(info);
        self.shared.roster.add_client(Arc::clone(info));
        self.send(reply::AUTHENTICATION_OK).await?;
        Ok(Destination::Console { back_door, key: self.issue_key(startup, presence) })
    }

    async fn pool_login(
        &mut self,
        startup: &Startup,
        info: &Arc<ClientInfo>,
        seat: &mut SeatGuard,
        presence: &mut Presence,
    ) -> Result<Destination, Failed> {
        let mut values = self.startup_values(startup)?;
        if let Some(kind) = self.replication {
            info.set_replication(Wanted::new(kind, startup, &self.params.tracked, &values));
        }
        let accepted = self.authenticate(info).await?;
        // Only now: nothing is remembered of names that nobody has vouched for.
        let route = match self.shared.directory().find(&self.database, &self.user) {
            Entry::Pool(route) => route,
            Entry::Fail(fault) => return Err(fault.into()),
        };
        self.log_attempt(info);
        seat.with(|limits, seat| {
            limits.set_database(route.database.id, route.limits.database_clients);
            limits.set_user(route.client_id, route.limits.user_clients);
            limits.admit_database(seat, route.database.id, false)?;
            limits.admit_user(seat, route.client_id, false)
        })?;
        if self.shared.pools.with(|r, _, _| r.is_disabled(route.database.id)) {
            let text = format!("database \"{}\" is disabled", self.database);
            return Err(Fault::fatal(Culprit::Us, text).into());
        }
        let context = self.shared.context_for(&route);
        if route.database.forced_user.is_none() {
            if let Some(keys) = accepted {
                *lock(&context.pass_through) = Some(keys);
            }
            if let Some(secret) = self.found.take() {
                *lock(&context.found) = Some(secret);
            }
        }
        let membership = Membership::begin(&self.shared, context.pool);
        let (server, reported) = if self.replication.is_some() {
            let (server, reported) = self.own_server(&context, info, &route).await?;
            values = reported.values.clone();
            (Some(server), reported)
        } else {
            (None, self.reported(&context, info, &route).await?)
        };
        if let Some(name) = self.params.tracked.untracked(&values, &reported.values) {
            return Err(Fault::fatal(Culprit::Client, format!("unsupported startup parameter: {name}")).into());
        }
        values.fill_unset(&reported.values);
        let key = self.issue_key(startup, presence);
        let welcome = welcome(&self.params, &reported, &values, &key);
        info.set_pool(context.pool);
        if server.is_none() {
            self.shared.roster.add_client(Arc::clone(info));
        }
        context.stats.logins.fetch_add(1, Ordering::Relaxed);
        info.set_doing(super::roster::Doing::Idle);
        if let Some(index) = self.params.tracked.index(b"application_name") {
            *lock(&info.application_name) = String::from_utf8_lossy(values.get(index).unwrap_or_default()).into_owned();
        }
        self.send(&welcome).await?;
        Ok(Destination::Pool { context, membership, route, values, server })
    }

    fn log_attempt(&self, info: &ClientInfo) {
        if self.params.log.connections {
            let tls = if info.tls.is_empty() { "no" } else { &info.tls };
            let name = self.name();
            tracing::info!(
                subject = %self.subject(),
                "{name} login attempt: db={} user={} tls={tls} replication={}",
                self.database,
                self.user,
                self.replication.map_or("no", Kind::as_str)
            );
        }
    }

    /// The parameters of the pool's servers, for which a first server may have to be opened.
    async fn reported(
        &mut self,
        context: &PoolContext,
        info: &Arc<ClientInfo>,
        route: &Route,
    ) -> Result<Reported, Failed> {
        self.shared.pools.enrol(self.id, Arc::clone(&info.mailbox));
        match self.shared.pools.await_welcome(context.pool, self.id) {
            Welcome::Known => {}
            Welcome::Refused(fault) => return Err(fault.into()),
            Welcome::Queued => {
                let never = (Duration::from_secs(86_400 * 365), "");
                let (limit, setting) = route.timeouts.in_queue().unwrap_or(never);
                let letter = timeout(limit, poll_fn(|cx| self.poll_letter(cx, info))).await;
                match letter {
                    Err(_) => return Err(Fault::fatal(Culprit::Us, setting).into()),
                    Ok(Err(failed)) => return Err(failed),
                    Ok(Ok(Message::Refuse(fault))) => return Err(fault.into()),
                    Ok(Ok(Message::Welcome | Message::Grant { .. })) => {}
                }
            }
        }
        let reported = lock(&context.reported).clone();
        Ok(reported.unwrap_or_else(|| Reported { fixed: Vec::new(), values: Values::unset(&self.params.tracked) }))
    }

    pub(super) fn poll_letter(
        &mut self,
        cx: &mut Context<'_>,
        info: &ClientInfo,
    ) -> Poll<Result<Message<Server>, Failed>> {
        match (info.mailbox.take(), info.ending()) {
            (Some(letter), _) => return Poll::Ready(Ok(letter)),
            (None, Some(Ending { fault, .. })) => return Poll::Ready(Err(fault.into())),
            (None, None) => {}
        }
        // A client that hangs up must not keep its seat until the servers come back.
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        while !self.input.is_full() {
            match self.input.poll_fill(cx, stream) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(Err(Failed::Gone("client unexpected eof".into()))),
            }
        }
        Poll::Pending
    }

    fn issue_key(&self, startup: &Startup, presence: &mut Presence) -> CancelKey {
        loop {
            let random = self.shared.random_key();
            if let Some(key) =
                lock(&self.shared.keys).issue(self.id, startup.negotiated(), self.params.peers.own, &random)
            {
                presence.set_key(key.clone());
                return key;
            }
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let Some(stream) = &mut self.stream else { return Err(Failed::Gone("client unexpected eof".into())) };
        stream.write_all(bytes).await?;
        Ok(stream.flush().await?)
    }

    pub(super) async fn fill(&mut self) -> Result<(), Failed> {
        let (input, Some(stream)) = (&mut self.input, &mut self.stream) else {
            return Err(Failed::Gone("client unexpected eof".into()));
        };
        if input.is_full() {
            let want = input.len() + 1;
            input.make_room(want);
        }
        if poll_fn(|cx| input.poll_fill(cx, stream)).await? == 0 {
            return Err(Failed::Gone("client unexpected eof".into()));
        }
        Ok(())
    }

    /// Reads up to the startup message; answers what may come before it.
    async fn first_packets(&mut self) -> Result<Startup, Failed> {
        let (mut asked_tls, mut asked_gss) = (false, false);
        loop {
            if self.input.bytes().first() == Some(&TLS_HANDSHAKE) && !asked_tls && !asked_gss {
                asked_tls = true;
                self.direct_tls().await?;
                continue;
            }
            let bad = |error: crate::wire::startup::BadFirst| Fault::fatal(Culprit::Client, error.to_string());
            let len = packet_len(self.input.bytes()).map_err(bad)?;
            let Some(packet) = len.and_then(|len| self.input.bytes().get(..len)) else {
                self.fill().await?;
                continue;
            };
            let (packet, len) = (first(packet).map_err(bad)?, packet.len());
            self.input.consume(len);
            match packet {
                First::Startup(startup) => return Ok(startup),
                First::Cancel(key) => {
                    super::cancel::request(&self.shared, self.id, &key).await;
                    if let Some(stream) = &mut self.stream {
                        // With a proper end of TLS; a client that is gone has what it wanted.
                        let _ = stream.shutdown().await;
                    }
                    return Err(Failed::Cancel);
                }
                First::Gss if !asked_gss => {
                    asked_gss = true;
                    self.send(b"N").await?;
                }
                First::Ssl if !asked_tls => {
                    asked_tls = true;
                    self.on_ssl_request().await?;
                }
                First::Gss | First::Ssl => {
                    return Err(Fault::fatal(Culprit::Client, "encryption was requested twice").into());
                }
            }
        }
    }

    async fn on_ssl_request(&mut self) -> Result<(), Failed> {
        let Some(acceptor) = self.params.acceptor.clone().filter(|_| !matches!(self.peer, Peer::Unix { .. })) else {
            return self.send(b"N").await;
        };
        if !self.input.is_empty() {
            // Sent in the clear behind the request: somebody in between may have put it there.
            return Err(Fault::fatal(Culprit::Client, "received unencrypted data after SSL request").into());
        }
        self.send(b"S").await?;
        self.accept_tls(acceptor.config(), Vec::new()).await
    }

    async fn direct_tls(&mut self) -> Result<(), Failed> {
        let Some(acceptor) = self.params.acceptor.clone().filter(|_| !matches!(self.peer, Peer::Unix { .. })) else {
            return Err(Failed::Gone("direct TLS connection, but client_tls_sslmode is disable".into()));
        };
        let prefix = self.input.bytes().to_vec();
        self.input.consume(prefix.len());
        self.accept_tls(acceptor.config(), prefix).await?;
        if self.stream.as_ref().and_then(Stream::alpn) != Some(ALPN_POSTGRESQL) {
            return Err(Failed::Gone("direct TLS connection without ALPN postgresql".into()));
        }
        Ok(())
    }

    async fn accept_tls(&mut self, config: &Arc<rustls::ServerConfig>, prefix: Vec<u8>) -> Result<(), Failed> {
        let Some(stream) = self.stream.take() else { return Err(Failed::Gone("client unexpected eof".into())) };
        match stream.accept_tls(Arc::clone(config), prefix).await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error) => {
                let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
                let text = inner.map_or_else(|| error.to_string(), crate::tls::failure_text);
                tracing::warn!(subject = %self.subject(), "{} TLS handshake error: handshake failed: {text}", self.name());
                Err(Failed::Gone("TLS handshake failed".into()))
            }
        }
    }

    fn names(&mut self, startup: &Startup) -> Result<(), Failed> {
        let text = |name: &'static str| -> Result<Option<String>, Fault> {
            let Some(value) = startup.get(name).filter(|v| !v.is_empty()) else { return Ok(None) };
            let text = std::str::from_utf8(value);
            let text = text.map_err(|_| Fault::fatal(Culprit::Client, format!("{name} is not valid UTF-8")))?;
            if text.len() > NAME_LEN_MAX {
                return Err(Fault::fatal(Culprit::Client, format!("{name} name is longer than {NAME_LEN_MAX} bytes")));
            }
            Ok(Some(text.to_owned()))
        };
        let user = text("user")?;
        self.user = user.ok_or_else(|| Fault::fatal(Culprit::Client, "no username supplied"))?;
        self.database = text("database")?.unwrap_or_else(|| self.user.clone());
        if let Some(value) = startup.get("replication") {
            self.replication = Kind::parse(value).map_err(|_| {
                let text = format!("invalid value for parameter \"replication\": \"{}\"", value.escape_ascii());
                Fault::fatal(Culprit::Client, text).with_sqlstate("22023")
            })?;
        }
        Ok(())
    }

    /// The tracked parameters of the startup message; one that is neither tracked nor ignored is refused, as by PgBouncer.
    fn startup_values(&self, startup: &Startup) -> Result<Values, Failed> {
        let mut values = Values::unset(&self.params.tracked);
        for (name, value) in &startup.params {
            let known = matches!(&**name, b"user" | b"database" | b"replication") || name.starts_with(b"_pq_.");
            if known || (&**name == b"options" && self.replication.is_some()) {
                continue;
            }
            let name_text = String::from_utf8_lossy(name);
            let ignored = self.params.ignored_startup_parameters.iter().any(|i| i.eq_ignore_ascii_case(&name_text));
            if let Some(index) = self.params.tracked.index_unless(name, ignored) {
                values.set(index, value);
            } else if &**name == b"options" {
                self.options(value, ignored, &mut values)?;
            } else if !ignored {
                let text = format!("unsupported startup parameter: {name_text}");
                return Err(Fault::fatal(Culprit::Client, text).into());
            }
        }
        if self.params.application_name_add_host
            && let Some(index) = self.params.tracked.index(b"application_name")
        {
            let name = values.get(index).filter(|v| !v.is_empty()).unwrap_or(b"app");
            let full = [name, b" - ", super::roster::place(&self.peer).as_bytes()].concat();
            values.set(index, &full);
        }
        Ok(values)
    }

    /// The startup parameter `options`: `-c name=value` and `--name=value` of tracked parameters. `lenient`: what is something
    /// else is ignored.
    fn options(&self, options: &[u8], lenient: bool, values: &mut Values) -> Result<(), Failed> {
        let words = crate::session::params::option_words(options);
        let mut words = words.iter().map(Vec::as_slice);
        while let Some(word) = words.next() {
            let setting = match word {
                b"-c" => words.next(),
                _ => word.strip_prefix(b"-c").or_else(|| word.strip_prefix(b"--")),
            };
            let split = setting.and_then(|s| s.iter().position(|&b| b == b'=').map(|at| s.split_at(at)));
            let Some((name, value)) = split.filter(|(name, _)| !name.is_empty()) else {
                if lenient {
                    continue;
                }
                let text = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
                return Err(Fault::fatal(Culprit::Client, text).into());
            };
            let name: Vec<u8> = name.iter().map(|&b| if b == b'-' { b'_' } else { b }).collect();
            let text = String::from_utf8_lossy(&name);
            let ignored = self.params.ignored_startup_parameters.iter().any(|i| i.eq_ignore_ascii_case(&text));
            match self.params.tracked.index_unless(&name, ignored) {
                Some(index) => values.set(index, value.get(1..).unwrap_or_default()),
                None if ignored || lenient => {}
                None => {
                    let text = format!("unsupported startup parameter in options: {text}");
                    return Err(Fault::fatal(Culprit::Client, text).into());
                }
            }
        }
        Ok(())
    }
}

/// The longest user or database name that is taken, in bytes; PostgreSQL itself cuts names at 63.
const NAME_LEN_MAX: usize = 255;

/// The first byte of a TLS record that begins a hand-shake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Everything from AuthenticationOk to the first ReadyForQuery.
fn welcome(params: &Params, reported: &Reported, values: &Values, key: &CancelKey) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(reply::AUTHENTICATION_OK);
    for (name, value) in &reported.fixed {
        reply::put_parameter_status(&mut out, name, value);
    }
    for (index, name) in params.tracked.names().enumerate() {
        // What the server never reports its clients do not expect to be told.
        if let (Some(_), Some(value)) = (reported.values.get(index), values.get(index)) {
            reply::put_parameter_status(&mut out, name.as_bytes(), value);
        }
    }
    reply::put_backend_key_data(&mut out, key);
    if !params.login_notify_message.is_empty() {
        reply::put_notice(&mut out, &params.login_notify_message);
    }
    out.extend_from_slice(reply::READY_IDLE);
    out
}

/// `TLSv1.3/TLS_AES_256_GCM_SHA384`, or empty without TLS.
#[must_use]
pub fn tls_text(stream: &Stream) -> String {
    stream
        .tls()
        .map(|(version, suite)| format!("{}/{}", protocol_name(version), openssl_name(suite)))
        .unwrap_or_default()
}
