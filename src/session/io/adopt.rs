//! The successor's side of a hand-over: plain data and sockets become pools, servers and sessions again.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::client::{Carried, Session, Start};
use super::presence::{Membership, Presence, SeatGuard};
use super::roster::{ClientInfo, Doing, ServerInfo};
use super::route::{Entry, Route};
use super::server::Server;
use super::shared::{PoolContext, Reported, Shared, lock};
use crate::auth::{PassThrough, ScramKeys, Secret};
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::handover::state::{self, State};
use crate::ids::{ClientId, ServerId};
use crate::net::buffer::Buffer;
use crate::net::dial::Target;
use crate::net::kernel_tls::{KernelTlsState, TlsRole};
use crate::net::stream::Stream;
use crate::pool::Standing;
use crate::prepared::Statement;
use crate::session::Mode;
use crate::session::params::Values;
use crate::session::server::{ServerCore, Status};
use crate::wire::startup::CancelKey;

/// Sessions taken over, which do nothing yet.
#[derive(Default)]
pub struct Adopted {
    sessions: Vec<Session>,
    idle: Vec<(Box<Server>, Standing)>,
    /// Clients that could not be taken over, and what they are told.
    refused: Vec<(Stream, Fault, String)>,
    /// Servers that are of no more use.
    unwanted: Vec<Stream>,
}

struct Adopter<'a> {
    shared: &'a Arc<Shared>,
    sockets: Vec<Option<OwnedFd>>,
    values: Vec<Values>,
    statements: HashMap<u64, Arc<Statement>>,
    pools: Vec<Result<Home, Fault>>,
}

/// A pool in this process.
struct Home {
    context: Arc<PoolContext>,
    route: Arc<Route>,
    /// Its servers are reached as before.
    same: bool,
}

/// Takes over what a former process had. To be called inside the runtime, with the registry frozen if it serves already.
///
/// # Errors
/// A socket that is none, or that the runtime cannot take: then nothing is taken over, unless `at_any_rate`: then only what
/// depends on it is lost.
pub fn adopt(shared: &Arc<Shared>, state: State, sockets: Vec<OwnedFd>, at_any_rate: bool) -> io::Result<Adopted> {
    let judge = |outcome: io::Result<()>, id: u64| match outcome {
        Err(error) if at_any_rate => {
            tracing::error!("C-{id:#x}: cannot be taken over: {error}");
            Ok(())
        }
        other => other,
    };
    if sockets.len() != state.descriptors as usize {
        return Err(io::Error::other(format!("{} sockets came instead of {}", sockets.len(), state.descriptors)));
    }
    shared.ids.start_after(state.last_id);
    let statements = {
        let mut known = lock(&shared.statements);
        let restored = state.statements.iter().map(|s| (s.id, known.restore(s.id, &s.definition.0))).collect();
        known.start_after(state.last_statement);
        restored
    };
    let mut adopter = Adopter {
        shared,
        sockets: sockets.into_iter().map(Some).collect(),
        values: values(shared, &state),
        statements,
        pools: Vec::new(),
    };
    adopter.pools = state.pools.iter().map(|pool| adopter.home(pool)).collect();
    let mut adopted = Adopted::default();
    let mut held: HashMap<u64, &state::Server> = HashMap::new();
    for server in &state.servers {
        match server.client {
            Some(client) => {
                held.insert(client, server);
            }
            None => judge(adopter.idle_server(server, &mut adopted), server.id)?,
        }
    }
    for client in &state.clients {
        judge(adopter.client(client, held.remove(&client.id), &mut adopted), client.id)?;
    }
    Ok(adopted)
}

fn values(shared: &Shared, state: &State) -> Vec<Values> {
    let tracked = Arc::clone(&shared.params().tracked);
    let restore = |named: &state::Values| {
        let mut values = Values::unset(&tracked);
        for (name, value) in named {
            if let Some(index) = tracked.index(name.as_bytes()) {
                values.set(index, &value.0);
            }
        }
        values
    };
    state.values.iter().map(restore).collect()
}

impl Adopter<'_> {
    fn home(&self, pool: &state::Pool) -> Result<Home, Fault> {
        let route = match self.shared.directory().find(&pool.database, &pool.user) {
            Entry::Pool(route) => route,
            Entry::Fail(fault) => return Err(fault),
        };
        let context = self.shared.context_for(&route);
        let same = route.leads_to(&self.shared.params().connector) == pool.leads_to;
        if same && let Some(values) = pool.reported_values.and_then(|v| self.values.get(v as usize)) {
            let fixed = pool.reported.iter().map(|(name, value)| (name.0.clone().into(), value.0.clone().into()));
            let reported = Reported { fixed: fixed.collect(), values: values.clone() };
            lock(&context.reported).get_or_insert(reported);
            self.shared.pools.with(|registry, _, _| registry.set_welcome_known(context.pool));
        }
        if let Some(pass_through) = pool.pass_through.as_ref().and_then(pass_through) {
            lock(&context.pass_through).get_or_insert(pass_through);
        }
        if !pool.found.0.is_empty() {
            lock(&context.found).get_or_insert_with(|| Secret::parse(&pool.found.0));
        }
        Ok(Home { context, route, same })
    }

    fn values_at(&self, place: u32) -> Values {
        self.values.get(place as usize).cloned().unwrap_or_default()
    }

    fn take_stream(&mut self, place: u32, role: TlsRole, tls: Option<&state::Tls>) -> io::Result<Stream> {
        let socket = self.sockets.get_mut(place as usize).and_then(Option::take).ok_or(io::ErrorKind::NotFound)?;
        match tls {
            None => Stream::from_descriptor(socket),
            Some(state::Tls { protocol, suite, unread }) => {
                let unread = unread.0.clone();
                Stream::from_kernel_tls(socket, KernelTlsState { role, protocol: *protocol, suite: *suite, unread })
            }
        }
    }

    fn idle_server(&mut self, entry: &state::Server, adopted: &mut Adopted) -> io::Result<()> {
        let stream = self.take_stream(entry.descriptor, TlsRole::Client, entry.tls.as_ref())?;
        match self.pools.get(entry.pool as usize) {
            Some(Ok(home)) if home.same && !entry.close_needed => {
                adopted.idle.push((self.server(entry, home, stream), standing(entry, home)));
            }
            _ => adopted.unwanted.push(stream),
        }
        Ok(())
    }

    fn server(&self, entry: &state::Server, home: &Home, stream: Stream) -> Box<Server> {
        let cancel = entry.cancel.as_ref().map(|(place, key)| (target(place), cancel_key(key)));
        let database = &home.route.database;
        let info = ServerInfo::new(
            ServerId(entry.id),
            database.name.clone(),
            home.route.server_user.clone(),
            stream.peer(),
            stream.local_addr(),
            super::login::tls_text(&stream),
            cancel,
        );
        let info = Arc::new(info.with_connected_at(Time(entry.connected_at)));
        let status = match entry.status {
            b'T' => Status::Transaction,
            b'E' => Status::Failed,
            _ => Status::Idle,
        };
        // A statement that goes by another number here is one that this server has under a name nobody uses any more.
        let has = |id: &u64| self.statements.get(id).filter(|s| s.id == *id).cloned();
        let statements = entry.statements.iter().filter_map(has).collect();
        let tracked = Arc::clone(&self.shared.params().tracked);
        let core = ServerCore::restore(tracked, self.values_at(entry.values), status, statements);
        info.set_prepared(core.prepared());
        Box::new(Server::new(self.shared, info, Arc::clone(&home.context), stream, core))
    }

    fn client(
        &mut self,
        entry: &state::Client,
        server: Option<&state::Server>,
        adopted: &mut Adopted,
    ) -> io::Result<()> {
        let stream = self.take_stream(entry.descriptor, TlsRole::Server, entry.tls.as_ref())?;
        let of_server =
            |server: &state::Server| self.take_stream(server.descriptor, TlsRole::Client, server.tls.as_ref());
        let server_stream = server.map(of_server).transpose()?;
        let home = match self.pools.get(entry.pool as usize) {
            Some(Ok(home)) => home,
            other => {
                let fault = other.and_then(|r| r.as_ref().err().cloned());
                let fault = fault.unwrap_or_else(|| Fault::fatal(Culprit::Us, "database removed"));
                adopted.unwanted.extend(server_stream);
                adopted.refused.push((stream, fault, format!("C-{:#x}: {}/{}", entry.id, entry.database, entry.user)));
                return Ok(());
            }
        };
        let info = client_info(entry, &stream, home);
        let mut input = Buffer::default();
        if !entry.input.0.is_empty() {
            input.push(&entry.input.0);
        }
        let held = server.zip(server_stream).map(|(server, stream)| {
            let mut standing = standing(server, home);
            standing.close_needed |= !home.same;
            (self.server(server, home, stream), standing)
        });
        let (seat, membership, presence) = self.accounts(entry, home, &info);
        let start = Start {
            stream,
            input,
            info,
            seat,
            context: Arc::clone(&home.context),
            membership,
            route: Arc::clone(&home.route),
            values: self.values_at(entry.values),
            presence,
            server: None,
        };
        let names = entry.names.iter().filter_map(|(name, id)| Some((&*name.0, self.statements.get(id)?)));
        let carried = Carried {
            names: names.map(|(name, statement)| (name.into(), Arc::clone(statement))).collect(),
            server: held,
            waiting_since: entry.waiting_since.map(Time),
            transaction_began: Time(entry.transaction_began),
            ready_at: Time(entry.ready_at),
            served: entry.served,
            mode: match entry.mode {
                b's' => Some(Mode::Session),
                b't' => Some(Mode::Transaction),
                b'q' => Some(Mode::Statement),
                _ => None,
            },
        };
        adopted.sessions.push(Session::restore(self.shared, start, carried));
        Ok(())
    }

    /// What the client is counted under. No limit turns away who is in already.
    fn accounts(
        &self,
        entry: &state::Client,
        home: &Home,
        info: &Arc<ClientInfo>,
    ) -> (SeatGuard, Membership, Presence) {
        let mut seat = SeatGuard::enter(self.shared);
        let _ = seat.with(|limits, seat| limits.admit_database(seat, home.route.database.id, true));
        let user = self.shared.directory().client_id(&home.route, &entry.user);
        let _ = seat.with(|limits, seat| limits.admit_user(seat, user, true));
        let membership = Membership::begin(self.shared, home.context.pool);
        let presence = Presence::restore(self.shared, info, entry.key.as_ref().map(cancel_key));
        (seat, membership, presence)
    }
}

impl Adopted {
    /// How many clients and servers there are.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let held = self.sessions.iter().filter(|session| session.server.is_some()).count();
        (self.sessions.len(), self.idle.len() + held)
    }

    /// They are this process's now: all go on.
    pub fn start(self, shared: &Arc<Shared>) {
        for (server, standing) in self.idle {
            shared.roster.add_server(Arc::clone(&server.info));
            shared.pools.adopt_idle(server, &standing);
        }
        for session in self.sessions {
            tokio::spawn(session.serve_on());
        }
        self.unwanted.into_iter().for_each(|stream| drop(tokio::spawn(goodbye(stream))));
        for (mut stream, fault, name) in self.refused {
            tracing::info!("{name} closing because: {}", fault.text);
            tokio::spawn(async move { super::farewell::tell(&mut stream, fault).await });
        }
    }

    /// They are not this process's after all: nothing is said to anybody, since the former process goes on with them.
    pub fn forget(self, shared: &Arc<Shared>) {
        for (server, _) in self.idle {
            drop(server);
        }
        for session in self.sessions {
            drop(session);
        }
        shared.pools.nudge();
    }
}

fn client_info(entry: &state::Client, stream: &Stream, home: &Home) -> Arc<ClientInfo> {
    let info = ClientInfo::new(
        ClientId(entry.id),
        entry.database.clone(),
        entry.user.clone(),
        stream.peer(),
        stream.local_addr(),
        super::login::tls_text(stream),
    );
    let info = Arc::new(info.with_connected_at(Time(entry.connected_at)));
    info.set_request(Time(entry.request_at));
    info.set_pool(home.context.pool);
    info.set_doing(Doing::Idle);
    info.set_prepared(entry.names.len());
    lock(&info.application_name).clone_from(&entry.application_name);
    info
}

fn standing(entry: &state::Server, home: &Home) -> Standing {
    Standing {
        server: ServerId(entry.id),
        pool: home.context.pool,
        client: entry.client.map(ClientId),
        opened_at: Time(entry.opened_at),
        idle_since: Time(entry.idle_since),
        used: entry.used,
        close_needed: entry.close_needed,
    }
}

/// Takes leave of a server that is of no more use. One that does not read is not waited for.
async fn goodbye(mut stream: Stream) {
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(b"X\0\0\0\x04")).await;
}

fn pass_through(entry: &state::PassThrough) -> Option<PassThrough> {
    let keys = ScramKeys::from_bytes(entry.keys.0.as_slice().try_into().ok()?);
    Some(PassThrough { keys, salt: entry.salt.0.clone(), iterations: entry.iterations.try_into().ok()? })
}

fn cancel_key(key: &state::Key) -> CancelKey {
    CancelKey { pid: key.pid, secret: key.secret.0.as_slice().into() }
}

fn target(place: &state::Place) -> Target {
    match place {
        state::Place::Unix(path) => {
            use std::os::unix::ffi::OsStrExt;
            Target::Unix(std::ffi::OsStr::from_bytes(&path.0).into())
        }
        state::Place::Tcp(host, port) => match host.parse() {
            Ok(address) => Target::Ip(address, *port),
            Err(_) => Target::Name(host.clone(), *port),
        },
    }
}
