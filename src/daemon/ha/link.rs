//! The link to the peer, as this process uses it: what the peer asks is decided or done here, what it says goes to the thread
//! that decides, what is known here is said to it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Node;
use super::budgets::{Budgets, SHED_GRACE};
use super::steward::Asked;
use crate::clock::Time;
use crate::config::ServerBudget;
use crate::config::ha::Ha as Settings;
use crate::daemon::cli::VERSION_LINE;
use crate::daemon::console;
use crate::daemon::run::Daemon;
use crate::daemon::service::Role;
use crate::ha::{self, RouterKey};
use crate::net::stream::Peer;
use crate::pair::budget::{Allotment, Mode};
use crate::pair::event::{Event, FlowChange};
use crate::pair::io::{Answering, Host, Identity, LinkParams, PairLink};
use crate::pair::message::{
    self, Answer, BootId, BudgetKey, CancelKey, Flow, Name, Reason, Request, RouterId, RouterState,
};
use crate::pair::picture::{Direction, PathState, PeerPicture, PeerState};
use crate::session::io::cancel::from_elsewhere;
use crate::session::io::roster::{ClientInfo, Move};
use crate::session::io::shared::lock;
use crate::snapshot::HaPathRow;
use crate::tls::PairTls;
use crate::vrrp::{Family, State};
use crate::wire::startup::CancelKey as Key;

/// How often the peer is told that we live, at least; with shorter advertisement intervals as often as adverts come, so that its
/// word is as fresh as theirs.
const INTERVAL_MAX: Duration = Duration::from_millis(100);
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// How long the peer may take to say whether it takes over.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take with an administrator's command, such as PAUSE, which waits for transactions.
const COMMAND_PATIENCE: Duration = Duration::from_secs(600);

/// How long it may take with a cancel request.
const CANCEL_PATIENCE: Duration = Duration::from_secs(5);

/// How often clients that came and went are passed on at least, and the use of budgets is looked at. The first one in such a time
/// is passed on at once.
const ROUND: Duration = Duration::from_millis(20);

/// The link of this node.
pub(super) struct Link {
    pair: PairLink,
    asked: Arc<Mutex<Asked>>,
    budgets: Arc<Budgets>,
}

fn params(settings: &Settings) -> LinkParams {
    let own = &settings.settings;
    let listen = own.pair_listen_address.iter().flat_map(|name| match name {
        "*" => vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
        name => name.parse().into_iter().collect(),
    });
    let shortest = settings.routers.iter().map(|router| router.interval).min().unwrap_or(INTERVAL_MAX);
    LinkParams {
        listen: listen.map(|address| SocketAddr::new(address, own.pair_port)).collect(),
        peers: own.peer_address.iter().map(|address| SocketAddr::new(address, own.pair_port)).collect(),
        link_interval: shortest.clamp(INTERVAL_MIN, INTERVAL_MAX),
        link_timeout: Duration::from_millis(own.link_timeout_ms.into()),
        budget: match own.server_budget {
            ServerBudget::Lend => Mode::Lend,
            ServerBudget::Halves => Mode::Halves,
            ServerBudget::Off => Mode::Off,
        },
        shed_grace: SHED_GRACE,
    }
}

/// TLS with the peer, of what was read at the start or at the last reload. Off the event loop: it takes a moment.
async fn tls(daemon: &Daemon) -> Result<PairTls, String> {
    let Some(material) = lock(&daemon.pair).clone() else { return Err("no pair_secret_file".to_owned()) };
    match tokio::task::spawn_blocking(move || material.tls()).await {
        Ok(Ok(tls)) => Ok(tls),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

impl Link {
    /// Begins, if there is a peer; `None` if not, or if it cannot, which is logged.
    pub(super) async fn start(daemon: &Arc<Daemon>, node: &Arc<Node>, settings: &Settings) -> Option<Arc<Self>> {
        if !settings.has_peer() {
            return None;
        }
        let mut boot = [0; 16];
        let ready = match tls(daemon).await {
            Ok(tls) => getrandom::fill(&mut boot).map(|()| tls).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        let tls = match ready {
            Ok(tls) => tls,
            Err(error) => {
                tracing::error!("there is no pair link: {error}");
                return None;
            }
        };
        let asked = Arc::new(Mutex::new(Asked::default()));
        let budgets = Arc::new(Budgets::default());
        let host = Arc::new(PairHost {
            daemon: Arc::downgrade(daemon),
            node: Arc::downgrade(node),
            asked: Arc::clone(&asked),
            budgets: Arc::clone(&budgets),
            up: Mutex::default(),
        });
        let identity = Identity { node: node.name.clone(), program: VERSION_LINE.to_owned() };
        let pair = PairLink::start(&identity, BootId::new(boot), params(settings), tls, host);
        let link = Arc::new(Self { pair, asked, budgets });
        link.compare(daemon).await;
        tokio::spawn(keep_peer_informed(Arc::downgrade(&link), Arc::clone(daemon)));
        let cancels = Arc::downgrade(&link);
        let pass_on = move |key: &Key| {
            if let Some(link) = cancels.upgrade() {
                let key = CancelKey { pid: key.pid, secret: key.secret.iter().copied().collect() };
                tokio::spawn(async move { link.pair.ask(Request::Cancel { key }, CANCEL_PATIENCE).await });
            }
        };
        *lock(&daemon.shared.peer) = Some(Box::new(pass_on));
        Some(link)
    }

    /// New settings.
    pub(super) async fn reconfigure(&self, daemon: &Daemon, settings: &Settings) {
        match tls(daemon).await {
            Ok(tls) => self.pair.reconfigure(params(settings), tls).await,
            Err(error) => tracing::error!("pair link: {error}; the former keys stay in force"),
        }
        self.compare(daemon).await;
    }

    /// Lets the peer compare its settings with ours.
    async fn compare(&self, daemon: &Daemon) {
        self.pair.set_settings(super::drift::settings(&daemon.config())).await;
    }

    /// How this node is.
    pub(super) async fn set_status(&self, daemon: &Daemon, node: &Node, status: &ha::Status, priorities: &[u8]) {
        let settings = node.settings();
        let routers =
            status.routers.iter().zip(&settings.routers).zip(priorities).map(|((router, config), priority)| {
                message::RouterStatus {
                    id: id_of(router.key),
                    name: Name::new(&config.name),
                    // An interface that is down takes no part, whatever the machine's state.
                    state: if router.interface_up { state_to(router.state) } else { RouterState::Initialize },
                    priority: *priority,
                }
            });
        let standing = daemon.standing();
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let status = message::Status {
            routers: routers.collect(),
            fit: status.fit,
            reason: Reason::new(&status.reason),
            servers_reachable: status.servers_reachable,
            draining: status.draining,
            maintenance: status.maintenance,
            restarting: status.restarting,
            clients: narrow(standing.clients),
            servers: narrow(standing.servers),
        };
        self.pair.set_status(status).await;
    }

    /// Says again what the peer has said last.
    pub(super) fn tell_again(&self, node: &Node) {
        tell(node, &self.pair.peer());
    }

    /// What was decided of a request to take over.
    pub(super) fn answer(&self, id: u64, accepted: bool, text: &str) {
        lock(&self.asked).answer(id, accepted, text);
    }

    /// Will the peer take over? The answer in words too.
    pub(super) async fn ask_to_take_over(&self, routers: &[RouterKey], reason: &str) -> (bool, String) {
        let routers = routers.iter().map(|key| id_of(*key)).collect();
        match self.pair.ask_to_take_over(routers, reason, TAKE_OVER_PATIENCE).await {
            Ok(Answer { ok, text }) => (ok, text.as_str().to_owned()),
            Err(error) => (false, error),
        }
    }

    /// Has the peer carry out a command.
    pub(super) async fn command(&self, text: &str) -> Result<(), String> {
        match self.pair.ask(Request::Command { text: Reason::new(text) }, COMMAND_PATIENCE).await? {
            Answer { ok: true, .. } => Ok(()),
            Answer { text, .. } => Err(text.as_str().to_owned()),
        }
    }

    /// Settings in which the nodes differ.
    pub(super) fn drift(&self) -> Vec<String> {
        self.pair.peer().drift.clone()
    }

    /// The paths for SHOW HA LINK.
    pub(super) fn path_rows(&self, now: Time) -> Vec<HaPathRow> {
        let peer = self.pair.peer();
        let ms = |at: Time| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let row = |path: &crate::pair::picture::PathPicture| HaPathRow {
            path: path.address.to_string(),
            direction: if path.direction == Direction::Outgoing { "out" } else { "in" },
            state: match path.state {
                PathState::Dialling => "dialling",
                PathState::Waiting => "waiting",
                PathState::Greeting => "greeting",
                PathState::Up => "up",
                PathState::Silent => "silent",
            },
            heard_ms_ago: path.heard.map(ms),
            round_trip_us: path.round_trip.map(|trip| u64::try_from(trip.as_micros()).unwrap_or(u64::MAX)),
            error: path.error.clone(),
        };
        peer.paths.iter().map(row).collect()
    }

    /// Takes the peer's clients of one floating address.
    pub(super) async fn take_flows(&self, address: IpAddr) -> Vec<Flow> {
        self.pair.take_flows(address).await
    }
}

/// For as long as the link lives: which clients come and go, and what is used of the budgets.
async fn keep_peer_informed(link: Weak<Link>, daemon: Arc<Daemon>) {
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Those whom a former process has left came before anything was noted, and a link may begin later than the process.
    drop(daemon.shared.roster.movements());
    let mut events = vec![all_flows(&daemon)];
    let mut is_due = true;
    loop {
        match daemon.shared.roster.movements() {
            Some(movements) => events.extend(movements.into_iter().map(|movement| Event::Flow {
                flow: Flow { client: movement.peer, local: movement.local },
                change: match movement.what {
                    Move::Came => FlowChange::Came,
                    Move::Went => FlowChange::Went,
                    Move::Lost => FlowChange::Lost,
                },
            })),
            None => events.push(all_flows(&daemon)),
        }
        let Some(link) = link.upgrade() else { return };
        if is_due {
            link.budgets.look(&daemon, |key, servers, in_use, waiting| {
                events.push(Event::Limit { key: key.clone(), servers });
                events.push(Event::Use { key, in_use, waiting });
            });
        }
        link.pair.tell(std::mem::take(&mut events)).await;
        drop(link);
        is_due = tokio::select! {
            biased;
            _ = round.tick() => true,
            () = daemon.shared.roster.moved(), if is_due => false,
        };
    }
}

/// Everybody who is here.
fn all_flows(daemon: &Daemon) -> Event {
    let flow = |client: Arc<ClientInfo>| match (&client.peer, client.local) {
        (Peer::Inet(peer), Some(local)) => Some(Flow { client: *peer, local }),
        _ => None,
    };
    Event::Flows(daemon.shared.roster.clients().into_iter().filter_map(flow).collect())
}

/// The process, as the link sees it.
struct PairHost {
    daemon: Weak<Daemon>,
    node: Weak<Node>,
    asked: Arc<Mutex<Asked>>,
    budgets: Arc<Budgets>,
    up: Mutex<bool>,
}

fn ending() -> Answer {
    Answer::no("this process ends")
}

impl Host for PairHost {
    fn take_over(&self, routers: Vec<RouterId>, reason: String) -> Answering {
        let (node, asked) = (self.node.upgrade(), Arc::clone(&self.asked));
        Box::pin(async move {
            let Some(node) = node else { return ending() };
            let (id, decided) = lock(&asked).enter();
            let routers = routers.into_iter().map(key_of).collect();
            node.consider(ha::Event::PeerAsks { id, routers, reason });
            match timeout(TAKE_OVER_PATIENCE, decided).await {
                Ok(Ok((accepted, text))) => Answer { ok: accepted, text: Reason::new(&text) },
                _ => Answer::no("the virtual routers do not answer"),
            }
        })
    }

    fn cancel(&self, key: CancelKey) -> Answering {
        let daemon = self.daemon.upgrade();
        Box::pin(async move {
            let Some(daemon) = daemon else { return ending() };
            let secret: Vec<u8> = key.secret.iter().copied().collect();
            from_elsewhere(Arc::clone(&daemon.shared), Key { pid: key.pid, secret: secret.into() }).await;
            Answer::yes("")
        })
    }

    fn command(&self, text: String) -> Answering {
        let daemon = self.daemon.upgrade();
        Box::pin(async move {
            let Some(daemon) = daemon else { return ending() };
            match timeout(COMMAND_PATIENCE, console::perform_for_peer(&daemon, &text)).await {
                Ok(Ok(())) => Answer::yes(""),
                Ok(Err(fault)) => Answer::no(&fault.text),
                Err(_) => Answer::no("it takes too long"),
            }
        })
    }

    fn peer_changed(&self, peer: &Arc<PeerPicture>) {
        let Some(node) = self.node.upgrade() else { return };
        let up = peer.state == PeerState::Up;
        if std::mem::replace(&mut *lock(&self.up), up) != up {
            let name = Some(peer.name.clone()).filter(|name| !name.is_empty());
            node.consider(ha::Event::PeerLink { up, name });
        }
        if up {
            node.consider(ha::Event::PeerStatus(Box::new(status_of(&peer.status))));
        }
    }

    fn flows_came(&self, flows: &[Flow]) {
        // As long as only the peer has the address, they are where they should be.
        if let (Some(daemon), Some(node)) = (self.daemon.upgrade(), self.node.upgrade())
            && node.role() == Role::Active
        {
            super::flows::reset_latecomers(daemon, node, flows);
        }
    }

    fn allotted(&self, key: &BudgetKey, allotment: Allotment) -> u32 {
        self.daemon.upgrade().map_or(0, |daemon| self.budgets.apply(&daemon, key, allotment))
    }
}

fn tell(node: &Node, peer: &PeerPicture) {
    let up = peer.state == PeerState::Up;
    let name = Some(peer.name.clone()).filter(|name| !name.is_empty());
    node.consider(ha::Event::PeerLink { up, name });
    if up {
        node.consider(ha::Event::PeerStatus(Box::new(status_of(&peer.status))));
    }
}

fn status_of(status: &message::Status) -> ha::Status {
    ha::Status {
        fit: status.fit,
        reason: status.reason.as_str().to_owned(),
        draining: status.draining,
        maintenance: status.maintenance,
        restarting: status.restarting,
        servers_reachable: status.servers_reachable,
        routers: status
            .routers
            .iter()
            .map(|router| ha::RouterStatus {
                key: key_of(router.id),
                state: state_from(router.state),
                interface_up: router.state != RouterState::Initialize,
            })
            .collect(),
    }
}

fn id_of(key: RouterKey) -> RouterId {
    let family = if key.family == Family::V4 { message::Family::V4 } else { message::Family::V6 };
    RouterId { vrid: key.vrid, family }
}

fn key_of(id: RouterId) -> RouterKey {
    let family = if id.family == message::Family::V4 { Family::V4 } else { Family::V6 };
    RouterKey { vrid: id.vrid, family }
}

fn state_to(state: State) -> RouterState {
    match state {
        State::Initialize => RouterState::Initialize,
        State::Backup => RouterState::Backup,
        State::Active => RouterState::Active,
    }
}

fn state_from(state: RouterState) -> State {
    match state {
        RouterState::Initialize | RouterState::Unknown => State::Initialize,
        RouterState::Backup => State::Backup,
        RouterState::Active => State::Active,
    }
}
