//! May this node hold the floating addresses, and how much does it want them? This is the one place that decides it: from the
//! node's own health, what an administrator has said, and what the peer says of itself, it makes [`Order`]s to the virtual
//! routers, requests to the peer, and a reason for each decision that an operator understands. It must never know a socket, a
//! clock, a pool, how an address is put on an interface, or how the peer is reached; which of two eligible nodes holds an
//! address is VRRP's to decide, and here it is only ever made easier for the other node to win.
//!
//! The rules:
//! - **A fault of this node alone** (see [`Item`]) makes it unfit: it gives all addresses up at once, with a goodbye, and is
//!   eligible again only after [`Params::fit_again`] of unbroken health. Only the first time it need not wait.
//! - **PostgreSQL out of reach** is no unfitness, since somebody has to answer clients. After [`Params::servers_down_delay`] the
//!   addresses move to the peer if that one reaches its servers; then they stay there until the servers have been reached
//!   again for [`Params::servers_again`], and no two such moves are closer than [`Params::servers_gap`].
//! - **Draining** moves the addresses to a fit peer; without one they stay until the process ends ([`Event::Leave`]).
//! - **Maintenance** moves them to a fit peer; without one they are given up all the same: the operator has said so.
//! - **A planned move** is made before it breaks: clients are brought to rest, this node lowers itself to be preempted and asks
//!   the peer to take over, and it is over when the routers have left Active. If the peer declines or does not answer, this
//!   node goes on serving.
//! - **The peer's word**: while it says that it is fit and active, silence of its adverts does not make this node active.
//!
//! What cannot be seen from here: whether clients reach the address. If the peer is fit, active and says so by the link, but the
//! network between it and the clients is cut while its interface stays up, this node believes it. The two see the same network
//! only by VRRP's adverts, and their absence alone may just as well be a firewall's doing.

mod health;
mod history;
mod moves;
mod peer;
mod picture;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use health::{Health, Item, Servers};
pub use history::{Entry, HISTORY_LEN};
pub use peer::{RouterStatus, Status};
pub use picture::{PeerPicture, Picture, RouterPicture};

use self::health::Fitness;
use self::history::History;
use self::moves::Move;
use self::peer::Peer;
use crate::clock::Time;
use crate::vrrp::{Family, Reason, State};

/// How both nodes name a virtual router. Locally it is the index in [`Params::routers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterKey {
    /// The virtual router identifier.
    pub vrid: u8,
    /// The address family.
    pub family: Family,
}

/// What is to be known of a virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterParams {
    /// Its name in the configuration.
    pub name: String,
    /// How the peer knows it.
    pub key: RouterKey,
    /// Its advertisement interval.
    pub interval: Duration,
    /// Its configured priority.
    pub priority: u8,
    /// It takes over from an active router of lower priority.
    pub preempt: bool,
}

/// Settings. The number and the keys of the routers stay; a reload that changes them makes a new [`Ha`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// This node's name.
    pub node: String,
    /// The virtual routers.
    pub routers: Vec<RouterParams>,
    /// There is a pair link. Otherwise the other node may be a keepalived, of which nothing is known.
    pub link: bool,
    /// After a fault: how long all must have been well.
    pub fit_again: Duration,
    /// How long the servers must be out of reach for a move to the peer.
    pub servers_down_delay: Duration,
    /// How long servers must have been in reach, after they were not, to be counted on.
    pub servers_again: Duration,
    /// The shortest time between two moves because of servers.
    pub servers_gap: Duration,
    /// How long clients may take to come to rest before a planned move.
    pub switchover_timeout: Duration,
    /// How long a word of the peer counts.
    pub link_timeout: Duration,
}

impl Params {
    /// The values that no setting names.
    #[must_use]
    pub fn new(node: String, routers: Vec<RouterParams>, link: bool) -> Self {
        Self {
            node,
            routers,
            link,
            fit_again: Duration::from_secs(2),
            servers_down_delay: Duration::from_secs(5),
            servers_again: Duration::from_secs(10),
            servers_gap: Duration::from_secs(30),
            switchover_timeout: Duration::from_secs(10),
            link_timeout: Duration::from_secs(1),
        }
    }
}

/// What happens. After every event the driver looks at [`Ha::deadline`] again.
#[derive(Clone, Debug)]
pub enum Event {
    /// One item of this node's health. What was never told counts as bad.
    Health(Item, Health),
    /// The interface of a router. Its VRRP machine is told by itself; here it says whether the peer may ask for that router.
    Interface {
        /// Which.
        router: usize,
        /// How it is. Good until told otherwise.
        health: Health,
    },
    /// Are the servers in reach?
    Servers(Servers),
    /// The process waits for its clients to leave, or no longer.
    Draining(bool),
    /// The process is being replaced by a successor, or no longer: nothing moves because of it.
    Restarting(bool),
    /// The process wants to end. It may when [`Ha::is_out`].
    Leave,
    /// `HA MAINTENANCE ON` or `OFF`.
    Maintenance {
        /// On.
        on: bool,
        /// Who has said so.
        by: String,
    },
    /// These routers were moved to the peer by an administrator before this process began, and are to stay there although this
    /// node would preempt it.
    Moved(Vec<RouterKey>),
    /// `SWITCHOVER`: answered by [`Action::CommandDone`].
    Switchover {
        /// The driver's number of the command.
        command: u64,
        /// This router only.
        router: Option<usize>,
        /// Who has said so.
        by: String,
    },
    /// After [`Action::Quiesce`]: no client of these routers is in a transaction any more.
    Quiesced,
    /// A virtual router has changed its state.
    Router {
        /// Which.
        router: usize,
        /// Its state now.
        to: State,
        /// Why.
        reason: Reason,
    },
    /// The link to the peer has come up or is lost.
    PeerLink {
        /// Is it up?
        up: bool,
        /// The peer's name, if it was ever heard.
        name: Option<String>,
    },
    /// The peer has said how it is: every message of this kind, not only the changes.
    PeerStatus(Box<Status>),
    /// The peer asks this node to take over.
    PeerAsks {
        /// To be answered under this number.
        id: u64,
        /// Which routers.
        routers: Vec<RouterKey>,
        /// Why.
        reason: String,
    },
    /// The peer's answer to [`Action::AskPeer`].
    PeerAnswers {
        /// Which.
        id: u64,
        /// It takes over.
        accepted: bool,
        /// Why not.
        text: String,
    },
    /// New settings.
    Params(Params),
    /// The deadline has passed.
    Timer,
}

/// An order to a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take part ([`vrrp::Event::Start`](crate::vrrp::Event::Start)).
    Start {
        /// The addresses are held already.
        held: bool,
    },
    /// Take no part ([`vrrp::Event::Stop`](crate::vrrp::Event::Stop)).
    StepDown {
        /// Say so to the others.
        goodbye: bool,
    },
    /// Let another one win, and leave by oneself if none does ([`vrrp::Event::Yield`](crate::vrrp::Event::Yield)).
    Yield,
    /// The same, but leave only after this time ([`vrrp::Event::YieldFor`](crate::vrrp::Event::YieldFor)).
    YieldFor(Duration),
    /// Want the address again ([`vrrp::Event::NoYield`](crate::vrrp::Event::NoYield)).
    NoYield,
    /// Become active at once ([`vrrp::Event::TakeOver`](crate::vrrp::Event::TakeOver)).
    TakeOver(&'static str),
    /// What the peer says of itself ([`vrrp::Event::PeerActive`](crate::vrrp::Event::PeerActive)).
    PeerActive(Option<bool>),
}

/// How much a line of the log matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As intended.
    Info,
    /// Somebody should look.
    Warn,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell a virtual router.
    Router {
        /// Which.
        router: usize,
        /// What.
        order: Order,
    },
    /// Ask the peer to take over; its answer comes as [`Event::PeerAnswers`]. An answer that does not come needs no event.
    AskPeer {
        /// The number of the request.
        id: u64,
        /// Which routers.
        routers: Vec<RouterKey>,
        /// Why.
        reason: String,
    },
    /// Answer [`Event::PeerAsks`].
    AnswerPeer {
        /// Its number.
        id: u64,
        /// This node takes over.
        accepted: bool,
        /// Why not.
        text: String,
    },
    /// A planned move is about to begin: hold new transactions of clients of these routers, tell those between transactions to
    /// go, and say [`Event::Quiesced`] when none is left in one. At the deadline it goes on without.
    Quiesce {
        /// Which routers.
        routers: Vec<usize>,
        /// Until when.
        deadline: Time,
    },
    /// The end of what began with [`Action::Quiesce`].
    Resume {
        /// Which routers.
        routers: Vec<usize>,
        /// Their addresses are no longer here: clients that were held are to be sent away. Otherwise they go on.
        moved: bool,
    },
    /// What came of [`Event::Switchover`].
    CommandDone {
        /// Its number.
        command: u64,
        /// It was done.
        ok: bool,
        /// In words.
        text: String,
    },
    /// [`Ha::status`] has changed: tell the peer at once.
    StatusChanged,
    /// A line for the log.
    Log {
        /// How much it matters.
        level: Level,
        /// The line.
        text: String,
    },
}

/// A router that becomes active later than this after a request of the peer does so for another reason.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// A virtual router as it is led from here.
#[derive(Clone, Debug)]
struct Led {
    state: State,
    since: Time,
    interface: Health,
    /// It was told to take part.
    started: bool,
    /// It was told to let others win.
    yielding: bool,
    /// It was moved by an administrator, and would preempt the peer if it could.
    moved: bool,
    /// The predecessor has left it holding its addresses.
    held: bool,
    /// Why it is as it is.
    reason: String,
    /// Since when the peer asks for it.
    asked: Option<(Time, String)>,
}

fn led(now: Time, params: &Params, held: &[usize]) -> Vec<Led> {
    let new = |router| Led {
        state: State::Initialize,
        since: now,
        interface: Health::Good,
        started: false,
        yielding: false,
        moved: false,
        held: held.contains(&router),
        reason: "not started".to_owned(),
        asked: None,
    };
    (0..params.routers.len()).map(new).collect()
}

/// The decisions of one node.
#[derive(Debug)]
pub struct Ha {
    params: Params,
    fitness: Fitness,
    draining: bool,
    restarting: bool,
    leaving: bool,
    maintenance: Option<String>,
    peer: Peer,
    routers: Vec<Led>,
    /// The planned move under way.
    planned: Option<Move>,
    /// After a move of one's own accord has failed: when the next may begin.
    retry_at: Time,
    /// When the addresses were last moved because of servers, in either direction.
    servers_moved: Option<Time>,
    next_ask: u64,
    history: History,
    /// The time of the last event.
    now: Time,
}

impl Ha {
    /// A node of which nothing is known yet. `held`: the routers whose addresses a predecessor has left to this process.
    #[must_use]
    pub fn new(now: Time, params: Params, held: &[usize]) -> Self {
        Self {
            routers: led(now, &params, held),
            fitness: Fitness::new(now),
            draining: false,
            restarting: false,
            leaving: false,
            maintenance: None,
            peer: Peer::default(),
            planned: None,
            retry_at: now,
            servers_moved: None,
            next_ask: 1,
            history: History::default(),
            now,
            params,
        }
    }

    /// Other virtual routers than before, or those of a predecessor, in the states of machines that are new to this one. What is
    /// known of the node and of the peer stays. What was not told yet counts as good, as it was a moment ago, and so does the
    /// helper, which has just said what is held.
    pub fn inherit(&mut self, now: Time, params: Params, held: &[usize], out: &mut Vec<Action>) {
        self.fitness.presume();
        self.drop_move(now, "the virtual routers have changed", out);
        let moved: Vec<RouterKey> = self.moved().collect();
        self.routers = led(now, &params, held);
        self.params = params;
        self.set_moved(&moved);
    }

    fn moved(&self) -> impl Iterator<Item = RouterKey> {
        let both = self.params.routers.iter().zip(&self.routers);
        both.filter(|(_, led)| led.moved).map(|(params, _)| params.key)
    }

    fn set_moved(&mut self, keys: &[RouterKey]) {
        for (params, led) in self.params.routers.iter().zip(&mut self.routers) {
            led.moved |= keys.contains(&params.key) && led.state != State::Active && !led.held;
        }
    }

    /// Takes one event, and appends what is to be done.
    pub fn step(&mut self, now: Time, event: Event, out: &mut Vec<Action>) {
        self.now = now;
        let before = self.told();
        match event {
            Event::Health(item, health) => self.fitness.set(item, health),
            Event::Interface { router, health } => {
                if let Some(led) = self.routers.get_mut(router) {
                    led.interface = health;
                }
            }
            Event::Servers(servers) => self.set_servers(now, servers, out),
            Event::Draining(on) => self.draining = on,
            Event::Restarting(on) => self.restarting = on,
            Event::Leave => self.leaving = true,
            Event::Maintenance { on, by } => self.set_maintenance(now, on, by, out),
            Event::Moved(keys) => self.set_moved(&keys),
            Event::Switchover { command, router, by } => self.switchover(now, command, router, &by, out),
            Event::Quiesced => self.quiesced(now, out),
            Event::Router { router, to, reason } => self.router_changed(now, router, to, reason, out),
            Event::PeerLink { up, name } => self.peer_link(now, up, name, out),
            Event::PeerStatus(status) => self.peer_status(now, *status, out),
            Event::PeerAsks { id, routers, reason } => self.peer_asks(now, id, &routers, reason, out),
            Event::PeerAnswers { id, accepted, text } => self.peer_answers(now, id, accepted, &text, out),
            Event::Params(params) => {
                if params.routers.len() == self.params.routers.len() {
                    self.params = params;
                }
            }
            Event::Timer => {}
        }
        self.decide(now, out);
        if before != self.told() {
            out.push(Action::StatusChanged);
        }
    }

    /// When [`Event::Timer`] is due. `None`: nothing happens by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let planned = self.planned.as_ref().map(Move::deadline);
        [planned, self.fitness.deadline(&self.params), self.wish_deadline()].into_iter().flatten().min()
    }

    /// Is the node well at this moment? The lease on the addresses is renewed only then.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.fitness.fault().is_none()
    }

    /// After [`Event::Leave`]: no address is held any more, and the process may end.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.leaving && self.planned.is_none() && self.routers.iter().all(|led| !led.started)
    }

    /// What the peer is to be told.
    #[must_use]
    pub fn status(&self) -> Status {
        let routers = self.params.routers.iter().zip(&self.routers).map(|(params, led)| RouterStatus {
            key: params.key,
            state: led.state,
            interface_up: led.interface == Health::Good,
        });
        Status {
            fit: self.fitness.fit,
            reason: self.unfit_reason().unwrap_or_default(),
            draining: self.draining || self.leaving,
            maintenance: self.maintenance.is_some(),
            restarting: self.restarting,
            servers_reachable: self.fitness.servers_reachable(),
            routers: routers.collect(),
        }
    }

    /// What a change of [`Self::status`] shows in, without its texts.
    fn told(&self) -> (bool, bool, bool, bool, bool, u64) {
        let routers = self.routers.iter().fold(0_u64, |sum, led| {
            let state = match led.state {
                State::Initialize => 0,
                State::Backup => 1,
                State::Active => 2,
            };
            (sum.rotate_left(3) ^ state) | u64::from(led.interface == Health::Good) << 2
        });
        let draining = self.draining || self.leaving;
        let servers = self.fitness.servers_reachable();
        (self.fitness.fit, draining, self.maintenance.is_some(), self.restarting, servers, routers)
    }

    /// Why this node must not hold any address, if so.
    fn unfit_reason(&self) -> Option<String> {
        if let Some(fault) = self.fitness.fault() {
            return Some(fault);
        }
        (!self.fitness.fit).then(|| format!("well again, but for less than {} s", self.params.fit_again.as_secs_f32()))
    }

    /// Brings the routers where the present facts want them.
    fn decide(&mut self, now: Time, out: &mut Vec<Action>) {
        self.judge_health(now, out);
        self.fitness.mark_servers(now, &self.params, self.servers_moved);
        self.tend_move(now, out);
        if self.planned.is_none() {
            self.begin_wished_move(now, out);
        }
        for router in 0..self.routers.len() {
            let unwanted = self.unwanted_in(router);
            self.lead(now, router, unwanted.as_deref(), out);
        }
    }

    fn judge_health(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(fit) = self.fitness.judge(now, &self.params) else { return };
        let (level, text) = if fit {
            (Level::Info, "this node is fit to hold the floating addresses".to_owned())
        } else {
            let fault = self.fitness.fault().unwrap_or_default();
            (Level::Warn, format!("this node is unfit to hold the floating addresses: {fault}"))
        };
        self.history.push(Entry::of_node(now, text.clone()));
        out.push(Action::Log { level, text });
    }

    /// Why this node takes no part, if so.
    fn unwanted(&self) -> Option<String> {
        self.unfit_reason().or_else(|| self.retired().filter(|_| self.planned.is_none()))
    }

    /// The same for one router: one that is being passed on stays until that is done, and the others are not to begin meanwhile.
    fn unwanted_in(&self, router: usize) -> Option<String> {
        let passed_on = self.planned.as_ref().is_some_and(|planned| planned.routers.contains(&router));
        self.unfit_reason().or_else(|| self.retired().filter(|_| !passed_on))
    }

    /// Why this node is to hold nothing though it could.
    fn retired(&self) -> Option<String> {
        if self.leaving {
            return Some("this process ends".to_owned());
        }
        self.maintenance.as_ref().map(|by| format!("HA MAINTENANCE ON by {by}"))
    }

    /// Has one router start, step down, yield or want again.
    fn lead(&mut self, now: Time, router: usize, unwanted: Option<&str>, out: &mut Vec<Action>) {
        let yielding = self.lowered(router).is_some();
        let Some(led) = self.routers.get_mut(router) else { return };
        match (unwanted, led.started) {
            (Some(reason), true) => {
                (led.started, led.yielding, led.moved) = (false, false, false);
                led.reason = reason.to_owned();
                let alone = led.state == State::Active;
                out.push(Action::Router { router, order: Order::StepDown { goodbye: true } });
                if alone {
                    let name = self.params.routers.get(router).map_or("", |params| params.name.as_str());
                    let text = format!("virtual router {name}: gives the addresses up: {reason}");
                    out.push(Action::Log { level: Level::Warn, text });
                }
                return;
            }
            (Some(reason), false) => {
                reason.clone_into(&mut led.reason);
                if std::mem::take(&mut led.held) {
                    // What a predecessor has left has to be given up in due form.
                    out.push(Action::Router { router, order: Order::Start { held: true } });
                    out.push(Action::Router { router, order: Order::StepDown { goodbye: true } });
                }
                return;
            }
            (None, false) => {
                (led.started, led.yielding) = (true, false);
                let held = std::mem::take(&mut led.held);
                out.push(Action::Router { router, order: Order::Start { held } });
                self.say_opinion(now, router, out);
            }
            (None, true) => {}
        }
        let Some(led) = self.routers.get_mut(router) else { return };
        // While active only a planned move lowers it; and it is about to be active if it has just been told to take over.
        let taking_over = led.asked.as_ref().is_some_and(|(since, _)| now.since(*since) < ASKED_FOR);
        if led.state != State::Active && !taking_over && led.yielding != yielding {
            led.yielding = yielding;
            out.push(Action::Router { router, order: if yielding { Order::Yield } else { Order::NoYield } });
        }
    }

    /// Why this node, as a backup, is to be the last who takes over.
    fn lowered(&self, router: usize) -> Option<&'static str> {
        let moved = self.routers.get(router).is_some_and(|led| led.moved);
        if self.draining || self.leaving {
            Some("this process waits for its clients to leave")
        } else if self.fitness.servers_low() && self.peer.status.servers_reachable && self.peer.up {
            Some("the servers are out of reach, or were until now")
        } else {
            moved.then_some("moved to the peer by an administrator")
        }
    }

    fn is_active(&self, router: usize) -> bool {
        self.routers.get(router).is_some_and(|led| led.state == State::Active)
    }

    fn set_servers(&mut self, now: Time, servers: Servers, out: &mut Vec<Action>) {
        let was = self.fitness.servers_reachable();
        let text = match &servers {
            Servers::Unreachable(reason) => format!("the servers are out of reach: {reason}"),
            Servers::Reachable | Servers::Unknown => "the servers are in reach again".to_owned(),
        };
        self.fitness.set_servers(now, servers);
        if was != self.fitness.servers_reachable() {
            self.history.push(Entry::of_node(now, text.clone()));
            out.push(Action::Log { level: if was { Level::Warn } else { Level::Info }, text });
        }
    }

    fn set_maintenance(&mut self, now: Time, on: bool, by: String, out: &mut Vec<Action>) {
        if on == self.maintenance.is_some() {
            return;
        }
        let text = format!("HA MAINTENANCE {} by {by}", if on { "ON" } else { "OFF" });
        self.maintenance = on.then_some(by);
        self.retry_at = now;
        self.history.push(Entry::of_node(now, text.clone()));
        out.push(Action::Log { level: Level::Info, text });
    }

    fn router_changed(&mut self, now: Time, router: usize, to: State, reason: Reason, out: &mut Vec<Action>) {
        let Some(led) = self.routers.get_mut(router) else { return };
        let from = std::mem::replace(&mut led.state, to);
        if from == to {
            return;
        }
        led.since = now;
        let asked = led.asked.take().filter(|(since, _)| now.since(*since) < ASKED_FOR);
        if to == State::Active {
            led.moved = false;
        }
        if reason == Reason::NobodyTookOver {
            // Whoever is there has heard the goodbye. If nobody is, this node must not stay away.
            led.yielding = false;
            out.push(Action::Router { router, order: Order::NoYield });
        }
        let planned = self.planned.as_ref().filter(|planned| planned.routers.contains(&router) && to != State::Active);
        let (text, began) = match (planned, asked.filter(|_| to == State::Active)) {
            (Some(planned), _) => (format!("{}: {reason}", planned.reason), Some(planned.began)),
            (None, Some((since, why))) => (why, Some(since)),
            (None, None) => (reason.to_string(), None),
        };
        led.reason.clone_from(&text);
        if reason == Reason::NobodyTookOver {
            self.given_up(router);
        }
        let name = self.params.routers.get(router).map_or_else(String::new, |params| params.name.clone());
        let level = if to == State::Initialize && from == State::Active { Level::Warn } else { Level::Info };
        out.push(Action::Log { level, text: format!("virtual router {name}: from {from} to {to}: {text}") });
        let took = began.map(|began| now.since(began));
        self.history.push(Entry { at: now, router: Some(name), from: Some(from), to: Some(to), reason: text, took });
    }
}
