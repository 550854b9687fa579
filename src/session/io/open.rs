//! Opening a server: choose a host, dial, TLS, log in, run connect_query; all under one deadline.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};

use super::connect::{ConnectError, connect_for, secure};
use super::roster::{ClientInfo, ServerInfo};
use super::route::{DatabaseRoute, Host, Params, Route};
use super::server::{QueryError, Server, server_fault};
use super::shared::{PoolContext, Reported, Shared, lock};
use super::subject::Subject;
use crate::auth::{Channel, Credential, PassThrough, Secret, SecretKind, ServerLogin, ServerStep};
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::ids::{ClientId, PoolId, ServerId};
use crate::net::buffer::Buffer;
use crate::net::dial::Target;
use crate::net::dial::{DialError, dial, dial_by};
use crate::net::stream::Stream;
use crate::pool::Failure;
use crate::session::params::Values;
use crate::session::replication::{Kind, Wanted};
use crate::session::server::ServerCore;
use crate::tls::server_end_point_hash;
use crate::wire::frame::{HEAD_LEN, cstr, head};
use crate::wire::startup::{CancelKey, PROTOCOL_3_0, put_startup};

/// Why a server could not be opened.
enum OpenError {
    /// No word of this user was spoken; clients go on waiting.
    Connect(String),
    /// The server said no.
    Login(Fault),
    /// We could not log in with what we have.
    Refused(Fault, String),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Connect(format!("server conn crashed? ({error})"))
    }
}

/// The longest message that a server may send while it lets us in, in bytes.
const LOGIN_MESSAGE_LEN_MAX: usize = 1024 * 1024;

/// Begins to open a server, for `owner` alone if there is one; the pools hear how it went.
pub(super) fn spawn(shared: &Arc<Shared>, id: ServerId, pool: PoolId, owner: Option<ClientId>) {
    let Some(context) = shared.context(pool) else {
        shared.pools.failed(id, Failure::Connect("pool is gone".into()));
        return;
    };
    let owner = match owner.map(|id| shared.roster.client(id)) {
        None => None,
        Some(Some(client)) => Some(client),
        Some(None) => {
            let fault = Fault::fatal(Culprit::Client, "replication client is gone");
            return shared.pools.failed(id, Failure::Login(fault));
        }
    };
    let shared_in = Arc::clone(shared);
    // Locked while spawning, so that the task cannot end before its handle is here.
    let mut opening = lock(&shared.opening);
    let attempt = Attempt { shared: shared_in, id, over: false };
    let task = tokio::spawn(async move { run(attempt, &context, owner.as_deref()).await });
    opening.insert(id, (task.abort_handle(), Time::now()));
}

/// One attempt to open a server. If its task ends without a word, by a panic, the pools hear that it failed.
struct Attempt {
    shared: Arc<Shared>,
    id: ServerId,
    over: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.over {
            lock(&self.shared.opening).remove(&self.id);
            // Nothing happens if the pools gave it up themselves.
            self.shared.pools.failed(self.id, Failure::Connect("attempt abandoned".into()));
        }
    }
}

async fn run(mut attempt: Attempt, context: &Arc<PoolContext>, owner: Option<&ClientInfo>) {
    let (shared, id) = (&Arc::clone(&attempt.shared), attempt.id);
    let params = shared.params();
    let route = context.route();
    let limit = params.server_connect_timeout;
    let limit = if limit.is_zero() { Duration::from_secs(86_400) } else { limit };
    let host = choose_host(context, &route);
    let wanted = owner.and_then(ClientInfo::replication);
    let began = Time::now();
    let deadline = Instant::now() + limit;
    let result = async {
        // As PgBouncer: a server that cannot be reached is told from one that does not answer.
        let dialled = timeout_at(deadline, dial_by(&shared.names, &host.target, &params.tcp)).await;
        let stream = match dialled {
            Ok(dialled) => dialled.map_err(ConnectError::from).map_err(not_connected)?,
            Err(_) => return Err(OpenError::Connect("connect failed: timed out".into())),
        };
        let opened = timeout_at(deadline, open(shared, id, context, (&route, wanted), &params, (host, stream))).await;
        opened.unwrap_or_else(|_| Err(OpenError::Connect("connect timeout".into())))
    };
    let result = result.await;
    lock(&shared.opening).remove(&id);
    attempt.over = true;
    match result {
        Ok(server) => {
            shared.roster.add_server(Arc::clone(&server.info));
            if route.database.round_robin {
                context.host_turn.fetch_add(1, Ordering::Relaxed);
            }
            shared.pools.ready(Box::new(server));
        }
        Err(OpenError::Login(fault)) if owner.is_some() => report_own(shared, id, &route, host, fault),
        Err(error) => {
            context.host_turn.fetch_add(1, Ordering::Relaxed);
            report(shared, id, context, &route, host, (error, Time::now().since(began).as_secs()));
        }
    }
}

fn report(
    shared: &Shared,
    id: ServerId,
    context: &PoolContext,
    route: &Route,
    host: &Host,
    (error, age_s): (OpenError, u64),
) {
    let (who, subject) = (prefix(id, route, host), subject(id, route, host));
    match error {
        OpenError::Connect(reason) => {
            tracing::info!(%subject, "{who} closing because: {reason} (age={age_s}s)");
            shared.pools.failed(id, Failure::Connect(reason));
        }
        OpenError::Login(fault) => {
            tracing::warn!(%subject, "{who} server login failed: {} {}", fault.severity.as_str(), fault.text);
            tracing::info!(%subject, "{who} closing because: {} (age={age_s}s)", fault.text);
            // What the server does not take is no use to anybody; the next client brings its own, and is looked up again.
            if is_authentication(&fault) {
                *lock(&context.pass_through) = None;
                *lock(&context.found) = None;
            }
            shared.pools.failed(id, Failure::Login(fault));
        }
        OpenError::Refused(fault, reason) => {
            tracing::warn!(%subject, "{who} {} {reason}", fault.text);
            tracing::info!(%subject, "{who} closing because: {} (age={age_s}s)", fault.text);
            shared.pools.failed(id, Failure::Login(fault));
        }
    }
}

/// Does the fault say that we were not who we said to be (SQLSTATE class 28)?
fn is_authentication(fault: &Fault) -> bool {
    fault.sqlstate.starts_with("28")
}

/// The server lets this replication client not in, which says nothing of any other client.
fn report_own(shared: &Shared, id: ServerId, route: &Route, host: &Host, fault: Fault) {
    let (who, subject) = (prefix(id, route, host), subject(id, route, host));
    let said = format!("{}: {}", fault.severity.as_str(), fault.text);
    tracing::warn!(%subject, "{who} S: login failed: {said}");
    tracing::info!(%subject, "{who} closing because: login failed (age=0s)");
    let fault = Fault { text: "login failed".into(), ..fault }.with_detail(format!("The server said: {said}"));
    shared.pools.failed(id, Failure::Login(fault));
}

fn prefix(id: ServerId, route: &Route, host: &Host) -> String {
    format!("S-{:#x}: {}/{}@{}", id.0, route.database.name, route.server_user, place(host))
}

fn subject<'a>(id: ServerId, route: &'a Route, host: &Host) -> Subject<'a> {
    Subject::server(id, &route.database.name, &route.server_user, place(host))
}

fn place(host: &Host) -> String {
    match &host.target {
        Target::Unix(_) => "unix".to_owned(),
        Target::Ip(ip, port) => std::net::SocketAddr::new(*ip, *port).to_string(),
        Target::Name(name, port) => format!("{name}:{port}"),
    }
}

fn choose_host<'a>(context: &PoolContext, route: &'a Route) -> &'a Host {
    let turn = context.host_turn.load(Ordering::Relaxed);
    // A route has at least one host; the daemon sees to that.
    route.database.hosts.get(turn % route.database.hosts.len().max(1)).unwrap_or(&NOWHERE)
}

static NOWHERE: std::sync::LazyLock<Host> =
    std::sync::LazyLock::new(|| Host { target: Target::Name(String::new(), 0), name: String::new() });

async fn open(
    shared: &Arc<Shared>,
    id: ServerId,
    context: &Arc<PoolContext>,
    (route, wanted): (&Route, Option<&Wanted>),
    params: &Params,
    (host, stream): (&Host, Stream),
) -> Result<Server, OpenError> {
    let secured = secure(&params.connector, stream, &host.name).await;
    let stream = secured.map_err(not_connected)?;
    let local = stream.local_addr();
    if params.log.connections {
        let from = local.map(|a| format!(" (from {a})")).unwrap_or_default();
        tracing::info!(subject = %subject(id, route, host), "{} new connection to server{from}", prefix(id, route, host));
    }
    let keys = lock(&context.pass_through).clone();
    let found = lock(&context.found).clone();
    let mut login = Login::new(shared, (found, keys), route, stream);
    login.start(route, wanted).await?;
    let answer = login.finish(params).await?;
    let Login { stream, .. } = login;
    let info = ServerInfo::new(
        id,
        route.database.name.clone(),
        route.server_user.clone(),
        stream.peer(),
        local,
        super::login::tls_text(&stream),
        answer.key.map(|key| (host.target.clone(), key)),
    );
    let info = Arc::new(info.with_replication(wanted.map(|w| w.kind)));
    let core = ServerCore::new(Arc::clone(&params.tracked), answer.reported.values.clone());
    let mut server = Server::new(shared, info, Arc::clone(context), stream, core);
    match wanted {
        // It was opened with parameters of its client.
        Some(_) => server.reported = Some(answer.reported),
        None => *lock(&context.reported) = Some(answer.reported),
    }
    // Physical replication takes no SQL.
    let takes_sql = wanted.is_none_or(|w| w.kind == Kind::Logical);
    if let Some(query) = route.database.connect_query.as_ref().filter(|_| takes_sql) {
        match server.run(query.as_bytes(), Duration::ZERO).await {
            Ok(()) => {}
            Err(QueryError::Refused(fault)) => {
                tracing::warn!(subject = %server.info.subject(), "{} connect_query failed: {fault}", server.info)
            }
            Err(QueryError::Broken(reason)) => return Err(OpenError::Connect(reason.to_owned())),
        }
    }
    Ok(server)
}

/// Logs in to a server of this route for a trial, at no pool's expense, and leaves again. The hosts are tried in order.
///
/// # Errors
/// Why none of the hosts lets us in, in one line.
pub async fn try_login(shared: &Arc<Shared>, route: &Route) -> Result<(), String> {
    let params = shared.params();
    let mut last = String::new();
    for host in &route.database.hosts {
        match log_in(shared, route, &params, host).await {
            Ok(()) => return Ok(()),
            Err(OpenError::Connect(reason)) => last = reason,
            Err(OpenError::Login(fault) | OpenError::Refused(fault, _)) => last = fault.text.to_string(),
        }
    }
    Err(last)
}

/// Logs in to a server of this route at no pool's expense, for as long as the pools stand still. The hosts are tried in order.
///
/// # Errors
/// What a client is told that waits for it.
pub(super) async fn open_apart(shared: &Arc<Shared>, route: &Route) -> Result<(Stream, Buffer), Fault> {
    let params = shared.params();
    let mut last = Fault::fatal(Culprit::Server, "server conn crashed?");
    for host in &route.database.hosts {
        let attempt = async {
            let stream = connect(&params, host).await?;
            let mut login = Login::new(shared, (None, None), route, stream);
            login.start(route, None).await?;
            login.finish(&params).await?;
            Ok((login.stream, login.input))
        };
        match attempt.await {
            Ok(open) => return Ok(open),
            Err(OpenError::Connect(reason)) => last = Fault::fatal(Culprit::Server, reason),
            Err(OpenError::Login(fault) | OpenError::Refused(fault, _)) => last = fault,
        }
    }
    Err(last)
}

async fn log_in(shared: &Arc<Shared>, route: &Route, params: &Params, host: &Host) -> Result<(), OpenError> {
    let stream = connect(params, host).await?;
    let mut login = Login::new(shared, (None, None), route, stream);
    login.start(route, None).await?;
    login.finish(params).await?;
    // Terminate. It let us in, so it matters little whether it hears that.
    let _ = login.send(b"X\0\0\0\x04").await;
    Ok(())
}

/// Connects to one of the hosts of this database for a trial, without a word. The hosts are tried in order.
///
/// # Errors
/// Why none of them can be reached, in one line.
pub async fn try_reach(shared: &Shared, database: &DatabaseRoute) -> Result<(), String> {
    let params = shared.params();
    let mut last = String::new();
    for host in &database.hosts {
        match dial(&host.target, &params.tcp).await {
            Ok(_) => return Ok(()),
            Err(DialError::Connect(source)) => last = format!("connect failed: {source}"),
            Err(error @ DialError::Dns(_)) => last = error.to_string(),
        }
    }
    Err(last)
}

async fn connect(params: &Params, host: &Host) -> Result<Stream, OpenError> {
    let connected = connect_for(&params.tcp, &params.connector, &host.target, &host.name).await;
    connected.map_err(not_connected)
}

fn not_connected(error: ConnectError) -> OpenError {
    if let ConnectError::Handshake(reason) = &error {
        tracing::warn!("TLS handshake error: handshake failed: {reason}");
    }
    OpenError::Connect(error.to_string())
}

struct Login<'a> {
    shared: &'a Arc<Shared>,
    stream: Stream,
    input: Buffer,
    machine: ServerLogin,
    secret: Option<Secret>,
}

struct Answer {
    key: Option<CancelKey>,
    reported: Reported,
}

impl<'a> Login<'a> {
    /// `found` and the keys are what clients brought: what auth_query knows of the user, and the keys of a SCRAM login.
    fn new(
        shared: &'a Arc<Shared>,
        (found, keys): (Option<Secret>, Option<PassThrough>),
        route: &Route,
        stream: Stream,
    ) -> Self {
        let channel = match &stream {
            Stream::Connected(_) => Channel::Tls(stream.peer_certificate().as_deref().and_then(server_end_point_hash)),
            _ => Channel::Clear,
        };
        let on_file = route.server_secret.clone().filter(|secret| secret.kind() != SecretKind::Empty);
        let secret = on_file.or(found);
        let credential = Credential::choose(secret.as_ref(), keys.as_ref());
        let machine = ServerLogin::new(route.server_user.as_bytes(), credential, channel, &shared.entropy());
        Self { shared, stream, input: Buffer::default(), machine, secret }
    }

    async fn start(&mut self, route: &Route, wanted: Option<&Wanted>) -> io::Result<()> {
        let mut packet = Vec::new();
        let fixed = [("user", route.server_user.as_str()), ("database", route.database.dbname.as_str())];
        let entry = route.database.startup.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let params = fixed.into_iter().chain(entry).map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        // Behind the entry's: of two the last one counts.
        let kind = wanted.map(|w| (b"replication".as_slice(), w.kind.as_str().as_bytes()));
        let own = wanted.into_iter().flat_map(|w| w.startup.iter().map(|(name, value)| (&**name, &**value)));
        let params = params.chain(kind).chain(own);
        put_startup(&mut packet, PROTOCOL_3_0, params);
        self.send(&packet).await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads one whole message: its tag and body.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), OpenError> {
        loop {
            let bad = |_| OpenError::Connect("bad packet header from server".into());
            if let Some(head) = head(self.input.bytes()).map_err(bad)? {
                if head.total > LOGIN_MESSAGE_LEN_MAX {
                    return Err(OpenError::Connect("server sent a message of excessive length at login".into()));
                }
                if let Some(body) = self.input.bytes().get(HEAD_LEN..head.total) {
                    let body = body.to_vec();
                    self.input.consume(head.total);
                    return Ok((head.tag, body));
                }
                self.input.make_room(head.total);
            }
            if self.input.is_full() {
                let want = self.input.len() + 1;
                self.input.make_room(want);
            }
            if poll_fn(|cx| self.input.poll_fill(cx, &mut self.stream)).await? == 0 {
                return Err(OpenError::Connect("server conn crashed?".into()));
            }
        }
    }

    async fn finish(&mut self, params: &Params) -> Result<Answer, OpenError> {
        let mut reported = Reported { fixed: Vec::new(), values: Values::unset(&params.tracked) };
        let mut key = None;
        loop {
            let (tag, body) = self.receive().await?;
            match tag {
                b'R' => self.authenticate(&body).await?,
                b'S' => {
                    let Some((name, rest)) = cstr(&body) else { continue };
                    let Some((value, _)) = cstr(rest) else { continue };
                    match params.tracked.index(name) {
                        Some(index) => reported.values.set(index, value),
                        None => reported.fixed.push((name.into(), value.into())),
                    }
                }
                b'K' => {
                    if let Some((pid, secret)) = body.split_first_chunk::<4>() {
                        key = Some(CancelKey { pid: u32::from_be_bytes(*pid), secret: secret.into() });
                    }
                }
                b'E' => {
                    let fault = server_fault(&body);
                    return Err(OpenError::Login(Fault { severity: crate::fault::Severity::Fatal, ..fault }));
                }
                b'Z' => return Ok(Answer { key, reported }),
                b'N' | b'v' => {}
                _ => return Err(OpenError::Connect("unexpected message from server at login".into())),
            }
        }
    }

    async fn authenticate(&mut self, body: &[u8]) -> Result<(), OpenError> {
        let refused = |refusal: Box<crate::auth::Refusal>| {
            OpenError::Refused(refusal.fault.clone(), refusal.reason.clone().into_owned())
        };
        let mut step = self.machine.on_auth(body).map_err(refused)?;
        loop {
            match step {
                ServerStep::Ok | ServerStep::Wait => return Ok(()),
                ServerStep::Send(bytes) => return Ok(self.send(&bytes).await?),
                ServerStep::Derive(derivation) => {
                    let keys = super::authenticate::derive(self.shared, self.secret.as_ref(), derivation).await;
                    let keys = keys.ok_or_else(|| {
                        OpenError::Refused(
                            Fault::fatal(Culprit::Us, "server login failed: internal error"),
                            String::new(),
                        )
                    })?;
                    step = self.machine.on_keys(&keys).map_err(refused)?;
                }
            }
        }
    }
}
