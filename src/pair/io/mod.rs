//! The driver of the link: listens and dials, has TLS prove each connection, and carries what the machine ([`link`]) wants said.
//! It must never know what a message is about.
//!
//! One task has the machine; each connection has one that reads and one that writes. Everything is bounded: connections that
//! have not proved themselves, the time for that, frames, and what waits to be written.
//!
//! [`link`]: crate::pair::link

mod host;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use zeroize::Zeroizing;

pub use self::host::{Answering, Host, Identity, LinkParams};
use super::budget;
use super::drift::{DriftKey, Setting};
use super::event::{self, Action, Event, PathId};
use super::link::{self, Link};
use super::message::{Answer, BootId, FRAME_HEAD_LEN, Flow, Message, Reason, Request, RouterId, Status, frame_len};
use super::picture::{Direction, PeerPicture};
use crate::clock::Time;
use crate::tls::{PairTls, export_label};

/// How long a connection may take to prove itself.
const HANDSHAKE_MAX: Duration = Duration::from_secs(2);

/// How long dialling may take.
const DIAL_MAX: Duration = Duration::from_secs(2);

/// Connections that may be proving themselves at once: whoever else comes is closed. Those from the peer's addresses have as many
/// of their own, so that strangers cannot keep the peer out.
const UNPROVED_MAX: usize = 8;

/// Between two attempts to reach the peer.
const REDIAL_MIN: Duration = Duration::from_millis(50);
const REDIAL_MAX: Duration = Duration::from_secs(1);

/// Messages that may wait to be written on one path; a path that does not take them is closed.
const UNSENT_MAX: usize = 256;

/// Inputs that may wait for the machine.
const EVENTS_MAX: usize = 1024;

/// Addresses of the peer that are dialled.
const PEERS_MAX: usize = 8;

/// Strangers are told of in the log this seldom.
const STRANGER_GAP: Duration = Duration::from_secs(60);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What comes to the machine's task.
enum Input {
    Events(Vec<Event>),
    /// A path is ready, with where its messages go.
    Path(Event, mpsc::Sender<Vec<u8>>, JoinHandle<()>),
    DialFailed(SocketAddr, String),
    TakeFlows(IpAddr, oneshot::Sender<Vec<Flow>>),
    Ask(Request, Duration, oneshot::Sender<Result<Answer, String>>),
}

/// The link, as the process has it. It ends with the last handle.
pub struct PairLink {
    inputs: mpsc::Sender<Input>,
    picture: watch::Receiver<Arc<PeerPicture>>,
    shared: Arc<Shared>,
    engine: JoinHandle<()>,
    carriers: Mutex<Carriers>,
}

/// What the tasks of all connections need.
struct Shared {
    inputs: mpsc::Sender<Input>,
    tls: Mutex<PairTls>,
    next_path: AtomicU64,
    unproved: Arc<Semaphore>,
    unproved_of_peer: Arc<Semaphore>,
    peers: Mutex<Vec<IpAddr>>,
    said_stranger: Mutex<Option<Time>>,
}

#[derive(Default)]
struct Carriers {
    params: Option<LinkParams>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for PairLink {
    fn drop(&mut self) {
        lock(&self.carriers).tasks.drain(..).for_each(|task| task.abort());
        // Connections end with it: their tasks have handles of the queue, which would keep it alive.
        self.engine.abort();
    }
}

/// The machine's settings.
fn machine(params: &LinkParams) -> event::Params {
    let budget = budget::Params {
        mode: params.budget,
        interval: params.link_interval,
        lease: params.link_timeout,
        shed_grace: params.shed_grace,
    };
    event::Params { interval: params.link_interval, timeout: params.link_timeout, budget }
}

impl PairLink {
    /// Begins to listen and to dial. To be called inside the runtime. `boot`: random, of this process alone.
    #[must_use]
    pub fn start(identity: &Identity, boot: BootId, params: LinkParams, tls: PairTls, host: Arc<dyn Host>) -> Self {
        let (inputs, queue) = mpsc::channel(EVENTS_MAX);
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started_us = u64::try_from(started.as_micros()).unwrap_or(u64::MAX);
        let hello = link::hello(&identity.node, &identity.program, boot, started_us);
        let link = Link::new(Time::now(), machine(&params), hello);
        let (said, picture) = watch::channel(Arc::new(PeerPicture::default()));
        let engine = Engine {
            link,
            host,
            said,
            queue,
            own: inputs.downgrade(),
            paths: HashMap::new(),
            asked: HashMap::new(),
            next_token: 0,
        };
        let engine = tokio::spawn(engine.run());
        let shared = Arc::new(Shared {
            inputs: inputs.clone(),
            tls: Mutex::new(tls),
            next_path: AtomicU64::new(1),
            unproved: Arc::new(Semaphore::new(UNPROVED_MAX)),
            unproved_of_peer: Arc::new(Semaphore::new(UNPROVED_MAX)),
            peers: Mutex::default(),
            said_stranger: Mutex::default(),
        });
        let link = Self { inputs, picture, shared, engine, carriers: Mutex::default() };
        link.carry(params);
        link
    }

    /// New settings: connections that are there stay if they lead where they should.
    pub async fn reconfigure(&self, params: LinkParams, tls: PairTls) {
        *lock(&self.shared.tls) = tls;
        self.tell(vec![Event::Params(machine(&params))]).await;
        self.carry(params);
    }

    fn carry(&self, params: LinkParams) {
        *lock(&self.shared.peers) = params.peers.iter().map(|peer| peer.ip().to_canonical()).collect();
        let mut carriers = lock(&self.carriers);
        let same = |old: &LinkParams| (&old.listen, &old.peers) == (&params.listen, &params.peers);
        if carriers.params.as_ref().is_some_and(same) {
            carriers.params = Some(params);
            return;
        }
        carriers.tasks.drain(..).for_each(|task| task.abort());
        for address in &params.listen {
            carriers.tasks.push(tokio::spawn(listen(Arc::clone(&self.shared), *address)));
        }
        for address in params.peers.iter().take(PEERS_MAX) {
            carriers.tasks.push(tokio::spawn(dial(Arc::clone(&self.shared), *address)));
        }
        carriers.params = Some(params);
    }

    /// What the machine is to know, in this order: how this node is, its settings, who came and went, what is used of budgets.
    /// Waits while the machine has much to do; nothing is lost.
    pub async fn tell(&self, events: Vec<Event>) {
        if !events.is_empty() {
            // The machine ends with this handle.
            let _ = self.inputs.send(Input::Events(events)).await;
        }
    }

    /// How this node is.
    pub async fn set_status(&self, status: Status) {
        self.tell(vec![Event::Status(Box::new(status))]).await;
    }

    /// This node's settings, to be compared.
    pub async fn set_settings(&self, settings: Vec<Setting>) {
        self.tell(vec![Event::Settings(settings)]).await;
    }

    /// The peer as it was last seen.
    #[must_use]
    pub fn peer(&self) -> Arc<PeerPicture> {
        Arc::clone(&self.picture.borrow())
    }

    /// Asks the peer to become active.
    pub async fn ask_to_take_over(
        &self,
        routers: Vec<RouterId>,
        reason: &str,
        patience: Duration,
    ) -> Result<Answer, String> {
        self.ask(Request::TakeOver { routers: routers.into_iter().collect(), reason: Reason::new(reason) }, patience)
            .await
    }

    /// Asks the peer for something.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, request: Request, patience: Duration) -> Result<Answer, String> {
        let (answer, waiting) = oneshot::channel();
        let gone = || "the pair link has ended".to_owned();
        self.inputs.send(Input::Ask(request, patience, answer)).await.map_err(|_| gone())?;
        waiting.await.map_err(|_| gone())?
    }

    /// Takes the peer's clients of one floating address: each is given once.
    pub async fn take_flows(&self, address: IpAddr) -> Vec<Flow> {
        let (flows, waiting) = oneshot::channel();
        if self.inputs.send(Input::TakeFlows(address, flows)).await.is_err() {
            return Vec::new();
        }
        waiting.await.unwrap_or_default()
    }
}

/// The task that has the machine.
struct Engine {
    link: Link,
    host: Arc<dyn Host>,
    said: watch::Sender<Arc<PeerPicture>>,
    queue: mpsc::Receiver<Input>,
    own: mpsc::WeakSender<Input>,
    paths: HashMap<PathId, (mpsc::Sender<Vec<u8>>, JoinHandle<()>)>,
    asked: HashMap<u64, oneshot::Sender<Result<Answer, String>>>,
    next_token: u64,
}

impl Drop for Engine {
    fn drop(&mut self) {
        for (_, reader) in self.paths.values() {
            reader.abort();
        }
    }
}

impl Engine {
    async fn run(mut self) {
        let mut actions = Vec::new();
        loop {
            let deadline = self.link.deadline();
            let input = tokio::select! {
                biased;
                input = self.queue.recv() => match input {
                    Some(input) => Some(input),
                    None => break,
                },
                () = tokio::time::sleep_until(deadline.instant().into()) => None,
            };
            let now = Time::now();
            match input {
                None => self.link.step(now, Event::Timer, &mut actions),
                Some(Input::Events(events)) => {
                    for event in events {
                        if let Event::Disconnected { path, .. } = &event {
                            self.end(*path);
                        }
                        self.link.step(now, event, &mut actions);
                    }
                }
                Some(Input::Path(event, sender, reader)) => {
                    if let Event::Connected { path, .. } = &event {
                        self.paths.insert(*path, (sender, reader));
                    }
                    self.link.step(now, event, &mut actions);
                }
                Some(Input::DialFailed(address, error)) => {
                    self.link.dial_failed(address, error);
                    self.said.send_replace(Arc::new(self.link.picture()));
                }
                Some(Input::TakeFlows(address, reply)) => {
                    // Whoever asked may be gone.
                    let _ = reply.send(self.link.take_flows(address));
                }
                Some(Input::Ask(request, patience, reply)) => {
                    self.next_token += 1;
                    self.asked.insert(self.next_token, reply);
                    let event = Event::Ask { token: self.next_token, request, deadline: now + patience };
                    self.link.step(now, event, &mut actions);
                }
            }
            while !actions.is_empty() {
                for action in std::mem::take(&mut actions) {
                    self.perform(now, action, &mut actions);
                }
            }
        }
    }

    fn perform(&mut self, now: Time, action: Action, more: &mut Vec<Action>) {
        match action {
            Action::Send { path, message } => {
                let Some((sender, _)) = self.paths.get(&path) else { return };
                if sender.try_send(message.encode()).is_err() {
                    let error = "it does not take what is said".to_owned();
                    self.end(path);
                    self.link.step(now, Event::Disconnected { path, error }, more);
                }
            }
            Action::Close { path, .. } => self.end(path),
            Action::Peer(picture) => {
                self.said.send_replace(Arc::clone(&picture));
                self.host.peer_changed(&picture);
            }
            Action::Asked { id, request } => self.asked(id, request),
            Action::FlowsCame(flows) => self.host.flows_came(&flows),
            Action::Answered { token, answer } => {
                if let Some(reply) = self.asked.remove(&token) {
                    // Whoever asked may be gone.
                    let _ = reply.send(answer);
                }
            }
            Action::Allot { key, allotment } => {
                let in_use = self.host.allotted(&key, allotment);
                let event = Event::Applied { key, servers: allotment.servers, in_use };
                self.link.step(now, event, more);
            }
            Action::Log { warning: true, text } => tracing::warn!("{text}"),
            Action::Log { warning: false, text } => tracing::info!("{text}"),
        }
    }

    fn end(&mut self, path: PathId) {
        if let Some((sender, reader)) = self.paths.remove(&path) {
            reader.abort();
            // What is still to be said, a goodbye perhaps, is written out before the writer ends.
            drop(sender);
        }
    }

    fn asked(&mut self, id: u64, request: Request) {
        let answering = match request {
            Request::TakeOver { routers, reason } => {
                self.host.take_over(routers.iter().copied().collect(), reason.as_str().to_owned())
            }
            Request::Cancel { key } => self.host.cancel(key),
            Request::Command { text } => self.host.command(text.as_str().to_owned()),
        };
        let Some(inputs) = self.own.upgrade() else { return };
        tokio::spawn(async move {
            let answer = answering.await;
            // The link may have ended meanwhile.
            let _ = inputs.send(Input::Events(vec![Event::Reply { id, answer }])).await;
        });
    }
}

async fn listen(shared: Arc<Shared>, address: SocketAddr) {
    let mut said = false;
    let listener = loop {
        match bind(address) {
            Ok(listener) => break listener,
            Err(error) => {
                // A former process may still be there, or the address not yet.
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("pair link: cannot listen on {address}: {error} (pair_listen_address, pair_port)");
                }
                sleep(REDIAL_MAX).await;
            }
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let of_peer = lock(&shared.peers).contains(&from.ip().to_canonical());
                let slots = if of_peer { &shared.unproved_of_peer } else { &shared.unproved };
                let Ok(permit) = Arc::clone(slots).try_acquire_owned() else { continue };
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) = accept(&shared, stream, from).await {
                        stranger(&shared, from, &error);
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!("pair link: accept: {error}");
                sleep(REDIAL_MIN).await;
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM.nonblocking().cloexec(),
        Some(socket2::Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    // While a process is replaced both listen for a moment.
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(16)?;
    TcpListener::from_std(socket.into())
}

/// Somebody who is not the peer: counted, and told of now and then.
fn stranger(shared: &Shared, from: SocketAddr, error: &str) {
    let _ = shared.inputs.try_send(Input::Events(vec![Event::Stranger]));
    let now = Time::now();
    let mut said = lock(&shared.said_stranger);
    if said.is_none_or(|at| now.since(at) >= STRANGER_GAP) {
        *said = Some(now);
        tracing::warn!(
            "pair link: {from} has not proved to be the peer: {error}. If it is the peer: do pair_secret_file or \
             pair_tls_… on both nodes belong together?"
        );
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(Duration::from_secs(5)))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(5)))
}

async fn accept(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr) -> Result<(), String> {
    tune(&stream).map_err(|error| error.to_string())?;
    let tls = lock(&shared.tls).clone();
    let accepted = timeout(HANDSHAKE_MAX, TlsAcceptor::from(tls.server()).accept(stream)).await;
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no TLS handshake in time".to_owned()),
    };
    let (_, session) = stream.get_ref();
    tls.admits(session.peer_certificates(), session.alpn_protocol())?;
    let key = session.export_keying_material(Zeroizing::new([0; 32]), export_label(), None);
    let key = DriftKey::new(&key.map_err(|error| error.to_string())?);
    attach(shared, stream, Direction::Incoming, from, key).await;
    Ok(())
}

async fn dial(shared: Arc<Shared>, address: SocketAddr) {
    let (mut wait, mut last) = (REDIAL_MIN, String::new());
    loop {
        match call(&shared, address).await {
            Ok(ended) => {
                wait = REDIAL_MIN;
                last.clear();
                // Until the connection is over.
                let _ = ended.await;
            }
            Err(error) => {
                if error != last {
                    tracing::info!("pair link: {address} is not reached: {error}");
                    last.clone_from(&error);
                }
                let _ = shared.inputs.send(Input::DialFailed(address, error)).await;
                wait = (wait * 2).min(REDIAL_MAX);
            }
        }
        // Not both nodes in step, and not on the dot.
        let jitter = Duration::from_micros(u64::from(random_byte()) * 200);
        sleep(wait + jitter).await;
    }
}

fn random_byte() -> u8 {
    let mut byte = [0];
    // Without randomness there is no jitter.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

async fn call(shared: &Arc<Shared>, address: SocketAddr) -> Result<oneshot::Receiver<()>, String> {
    let connected = timeout(DIAL_MAX, TcpStream::connect(address)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer".to_owned()),
    };
    tune(&stream).map_err(|error| error.to_string())?;
    let tls = lock(&shared.tls).clone();
    let (config, name) = tls.client();
    let stream = match timeout(HANDSHAKE_MAX, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Err(format!("{error} (do pair_secret_file or pair_tls_… on both nodes belong together?)"));
        }
        Err(_) => return Err("no TLS handshake in time".to_owned()),
    };
    let (_, session) = stream.get_ref();
    tls.admits(session.peer_certificates(), session.alpn_protocol())?;
    let key = session.export_keying_material(Zeroizing::new([0; 32]), export_label(), None);
    let key = DriftKey::new(&key.map_err(|error| error.to_string())?);
    Ok(attach(shared, stream, Direction::Outgoing, address, key).await)
}

/// Hands a proved connection to the machine; what is returned ends with it.
async fn attach<S>(
    shared: &Arc<Shared>,
    stream: S,
    direction: Direction,
    address: SocketAddr,
    key: DriftKey,
) -> oneshot::Receiver<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let path = shared.next_path.fetch_add(1, Ordering::Relaxed);
    let (reading, mut writing) = tokio::io::split(stream);
    let (sender, mut unsent) = mpsc::channel::<Vec<u8>>(UNSENT_MAX);
    let (over, ended) = oneshot::channel();
    tokio::spawn(async move {
        while let Some(frame) = unsent.recv().await {
            if writing.write_all(&frame).await.is_err() || writing.flush().await.is_err() {
                break;
            }
        }
        // The other side may have closed first.
        let _ = writing.shutdown().await;
        drop(over);
    });
    // The reader begins when the machine knows the path.
    let (begin, begun) = oneshot::channel::<()>();
    let inputs = shared.inputs.clone();
    let reader = tokio::spawn(async move {
        if begun.await.is_ok() {
            let error = read(path, reading, &inputs).await;
            let _ = inputs.send(Input::Events(vec![Event::Disconnected { path, error }])).await;
        }
    });
    let connected = Event::Connected { path, direction, address, key: Box::new(key) };
    if shared.inputs.send(Input::Path(connected, sender, reader)).await.is_ok() {
        let _ = begin.send(());
    }
    ended
}

async fn read(path: PathId, mut stream: impl AsyncRead + Unpin, inputs: &mpsc::Sender<Input>) -> String {
    loop {
        let mut head = [0; FRAME_HEAD_LEN];
        if let Err(error) = stream.read_exact(&mut head).await {
            return if error.kind() == io::ErrorKind::UnexpectedEof {
                "it hung up".to_owned()
            } else {
                error.to_string()
            };
        }
        let Ok(Some(len)) = frame_len(&head) else {
            let _ = inputs.send(Input::Events(vec![Event::Damaged(path)])).await;
            return "a frame of impossible length".to_owned();
        };
        let mut body = vec![0; len];
        if let Err(error) = stream.read_exact(&mut body).await {
            return error.to_string();
        }
        let event = match Message::decode(&body) {
            Ok(message) => Event::Heard { path, message: Box::new(message) },
            Err(_) => Event::Damaged(path),
        };
        if inputs.send(Input::Events(vec![event])).await.is_err() {
            return "the link has ended".to_owned();
        }
    }
}
