//! Sessions, servers and pools as plain data for a successor: who rests is taken apart, shared parts are written once.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Waker};

use super::client::Session;
use super::freeze::{Content, Parcel, make_passable};
use super::roster::{ClientInfo, ServerInfo};
use super::server::Server;
use super::shared::{PoolContext, Shared, lock};
use crate::auth::Secret;
use crate::clock::Time;
use crate::handover::state::{self, Bytes, State};
use crate::ids::{ClientId, PoolId};
use crate::net::dial::Target;
use crate::net::kernel_tls::HandOverForm;
use crate::net::stream::Stream;
use crate::pool::Standing;
use crate::prepared::Statement;
use crate::session::Mode;
use crate::session::params::{Tracked, Values};
use crate::session::server::Status;
use crate::wire::startup::CancelKey;

/// A client, taken apart.
pub struct ClientPart {
    info: Arc<ClientInfo>,
    context: Arc<PoolContext>,
    socket: RawFd,
    key: Option<CancelKey>,
    values: Values,
    names: Vec<(Box<[u8]>, Arc<Statement>)>,
    input: Bytes,
    waiting_since: Option<Time>,
    transaction_began: Time,
    ready_at: Time,
    served: bool,
    mode: u8,
    tls: Option<state::Tls>,
}

/// A server, taken apart.
pub struct ServerPart {
    info: Arc<ServerInfo>,
    context: Arc<PoolContext>,
    socket: RawFd,
    standing: Standing,
    status: Status,
    values: Values,
    statements: Vec<Arc<Statement>>,
    tls: Option<state::Tls>,
}

impl ClientPart {
    /// Must it go?
    pub(super) fn is_ending(&self) -> bool {
        self.info.ending().is_some()
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.info.id
    }
}

impl Session {
    pub(super) fn content(&self, waiting_since: Option<Time>, standing: Option<Standing>) -> Content {
        let client = ClientPart {
            info: Arc::clone(&self.info),
            context: Arc::clone(&self.context),
            socket: self.stream.as_raw_fd(),
            key: self.cancel_key().cloned(),
            values: self.core.values.clone(),
            names: self.core.names.iter().map(|(name, statement)| (name.into(), Arc::clone(statement))).collect(),
            input: self.input.bytes().into(),
            waiting_since,
            transaction_began: self.transaction_began,
            ready_at: self.ready_at,
            served: self.served,
            mode: match self.mode {
                Mode::Session => b's',
                Mode::Transaction => b't',
                Mode::Statement => b'q',
            },
            tls: tls(&self.stream),
        };
        let server = self.server.as_deref().zip(standing).map(|(server, standing)| server.part(standing));
        Content { client, server }
    }
}

impl Server {
    /// Takes apart a server that is in step.
    #[must_use]
    pub fn part(&self, standing: Standing) -> ServerPart {
        ServerPart {
            info: Arc::clone(&self.info),
            context: Arc::clone(&self.context),
            socket: self.stream.as_raw_fd(),
            standing,
            status: self.core.status(),
            values: self.core.values().clone(),
            statements: self.core.statements(),
            tls: tls(&self.stream),
        }
    }

    /// It owes nothing and nothing of it is half-way.
    #[must_use]
    pub(super) fn is_quiet(&self) -> bool {
        self.core.is_in_step() && self.passing.left == 0 && self.input.is_empty() && self.out.is_empty()
    }

    /// May it be passed on while nobody holds it? TLS is given to the kernel for that.
    #[must_use]
    pub fn is_passable(&mut self, shared: &Shared) -> bool {
        let support = shared.freeze.support();
        let mut cx = Context::from_waker(Waker::noop());
        // The successor makes its own for auth_query.
        let is_clients = !self.context.route().for_auth_query;
        is_clients
            && self.core.is_free()
            && self.is_quiet()
            && make_passable(&mut self.stream, support.as_ref(), &mut cx).is_ok()
    }
}

/// Puts a state together. What several name is written once.
pub struct Packer<'a> {
    shared: &'a Shared,
    tracked: Arc<Tracked>,
    state: State,
    sockets: Vec<RawFd>,
    values: HashMap<Vec<Option<Box<[u8]>>>, u32>,
    statements: HashMap<u64, ()>,
    pools: HashMap<PoolId, u32>,
}

impl<'a> Packer<'a> {
    /// With nothing in it.
    #[must_use]
    pub fn new(shared: &'a Shared, program: &str) -> Self {
        let state = State {
            program: program.to_owned(),
            last_id: shared.ids.last(),
            last_statement: lock(&shared.statements).last_id(),
            ..State::default()
        };
        Self {
            shared,
            tracked: Arc::clone(&shared.params().tracked),
            state,
            sockets: Vec::new(),
            values: HashMap::new(),
            statements: HashMap::new(),
            pools: HashMap::new(),
        }
    }

    /// Puts in what holds for the whole process.
    pub fn note(&mut self, change: impl FnOnce(&mut State)) {
        change(&mut self.state);
    }

    /// Puts a session in.
    pub fn put(&mut self, parcel: &mut Parcel) {
        let Content { client, server } = &mut *parcel.content;
        let descriptor = self.put_socket(client.socket);
        if let Some(server) = server {
            self.put_server(server);
        }
        let names = client.names.iter().map(|(name, statement)| (Bytes::from(&**name), statement.id)).collect();
        for (_, statement) in &client.names {
            self.put_statement(statement);
        }
        let info = &client.info;
        let entry = state::Client {
            descriptor,
            pool: self.put_pool(&client.context),
            id: info.id.0,
            database: info.database.clone(),
            user: info.user.clone(),
            connected_at: info.connected_at.0,
            request_at: info.request_at().0,
            application_name: lock(&info.application_name).clone(),
            tls: client.tls.take(),
            key: client.key.as_ref().map(key),
            values: self.put_values(&client.values),
            names,
            input: std::mem::take(&mut client.input),
            waiting_since: client.waiting_since.map(|at| at.0),
            transaction_began: client.transaction_began.0,
            ready_at: client.ready_at.0,
            served: client.served,
            mode: client.mode,
        };
        self.state.clients.push(entry);
    }

    /// Puts an idle server in, or one that a client holds.
    pub fn put_server(&mut self, server: &ServerPart) {
        for statement in &server.statements {
            self.put_statement(statement);
        }
        let entry = state::Server {
            descriptor: self.put_socket(server.socket),
            pool: self.put_pool(&server.context),
            id: server.info.id.0,
            client: server.standing.client.map(|client| client.0),
            opened_at: server.standing.opened_at.0,
            idle_since: server.standing.idle_since.0,
            connected_at: server.info.connected_at.0,
            used: server.standing.used,
            close_needed: server.standing.close_needed,
            cancel: server.info.cancel_address().map(|(target, cancel)| (place(&target), key(&cancel))),
            status: match server.status {
                Status::Idle => b'I',
                Status::Transaction => b'T',
                Status::Failed => b'E',
            },
            values: self.put_values(&server.values),
            statements: server.statements.iter().map(|statement| statement.id).collect(),
            tls: server.tls.clone(),
        };
        self.state.servers.push(entry);
    }

    /// The state, and the sockets in its order. They stay open as long as the sessions rest and the servers are kept.
    #[must_use]
    pub fn finish(mut self) -> (State, Vec<RawFd>) {
        // Who waits stands in front, in the order of its coming, so that it keeps its place.
        self.state.clients.sort_by_key(|client| client.waiting_since.unwrap_or(u64::MAX));
        self.state.descriptors = u32::try_from(self.sockets.len()).unwrap_or(u32::MAX);
        (self.state, self.sockets)
    }

    fn put_socket(&mut self, socket: RawFd) -> u32 {
        self.sockets.push(socket);
        u32::try_from(self.sockets.len() - 1).unwrap_or(u32::MAX)
    }

    fn put_values(&mut self, values: &Values) -> u32 {
        let key: Vec<_> = (0..values.len()).map(|index| values.get(index).map(Box::from)).collect();
        if let Some(&known) = self.values.get(&key) {
            return known;
        }
        let named = self.tracked.names().zip(&key);
        let set = named.filter_map(|(name, value)| Some((name.to_owned(), Bytes::from(value.as_deref()?)))).collect();
        self.state.values.push(set);
        let place = u32::try_from(self.state.values.len() - 1).unwrap_or(u32::MAX);
        self.values.insert(key, place);
        place
    }

    fn put_statement(&mut self, statement: &Statement) {
        if self.statements.insert(statement.id, ()).is_none() {
            let definition = Bytes::from(&*statement.definition);
            self.state.last_statement = self.state.last_statement.max(statement.id);
            self.state.statements.push(state::Statement { id: statement.id, definition });
        }
    }

    fn put_pool(&mut self, context: &PoolContext) -> u32 {
        if let Some(&known) = self.pools.get(&context.pool) {
            return known;
        }
        let route = context.route();
        let reported = lock(&context.reported).clone();
        let pass_through = lock(&context.pass_through).clone();
        let reported_values = reported.as_ref().map(|reported| self.put_values(&reported.values));
        let fixed = reported.map(|reported| reported.fixed).unwrap_or_default();
        let entry = state::Pool {
            database: route.database.name.clone(),
            user: route.client_user.clone(),
            leads_to: route.leads_to(&self.shared.params().connector),
            reported: fixed.iter().map(|(name, value)| (Bytes::from(&**name), Bytes::from(&**value))).collect(),
            reported_values,
            pass_through: pass_through.map(|pass| state::PassThrough {
                keys: Bytes::from(pass.keys.to_bytes().as_slice()),
                salt: Bytes::from(pass.salt.as_slice()),
                iterations: pass.iterations.get(),
            }),
            found: lock(&context.found)
                .as_ref()
                .and_then(Secret::to_text)
                .map(|text| Bytes::from(&**text))
                .unwrap_or_default(),
        };
        self.state.pools.push(entry);
        let place = u32::try_from(self.state.pools.len() - 1).unwrap_or(u32::MAX);
        self.pools.insert(context.pool, place);
        place
    }
}

fn tls(stream: &Stream) -> Option<state::Tls> {
    match stream.hand_over_form() {
        HandOverForm::KernelTls(_, tls) => {
            Some(state::Tls { protocol: tls.protocol, suite: tls.suite, unread: Bytes(tls.unread) })
        }
        HandOverForm::Plain(_) | HandOverForm::UserTls => None,
    }
}

fn key(key: &CancelKey) -> state::Key {
    state::Key { pid: key.pid, secret: Bytes::from(&*key.secret) }
}

fn place(target: &Target) -> state::Place {
    match target {
        Target::Unix(path) => state::Place::Unix(Bytes::from(path.as_os_str().as_encoded_bytes())),
        Target::Ip(address, port) => state::Place::Tcp(address.to_string(), *port),
        Target::Name(name, port) => state::Place::Tcp(name.clone(), *port),
    }
}
