//! This node as one of a pair: what decides ([`crate::ha`]), what speaks VRRP ([`crate::vrrp`]), what talks to the peer
//! ([`crate::pair`]) and what has the addresses ([`crate::daemon::helper`]), put together.
//!
//! Decision, VRRP and lease live on a thread of their own ([`thread`]); everything that concerns clients, the peer and the
//! console is done in the runtime ([`steward`]). They talk by queues: neither ever waits for the other, but for SHOW HA, and a
//! successor's start.

mod budgets;
mod clients;
mod drift;
mod flows;
mod holder;
mod legacy;
mod link;
pub mod material;
mod notify;
mod picture;
mod seat;
mod servers;
mod start;
mod steward;
mod tell;
mod thread;
mod wake;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use self::link::Link;
pub(crate) use self::start::Wanted;
use self::tell::View;
use self::thread::Order;
use self::wake::Inlet;
use super::run::Daemon;
use super::service::Role;
use super::shutdown::Phase;
use super::watchdog::Health;
use crate::config::ha::Ha as Settings;
use crate::ha;
pub(crate) use crate::handover::state::Ha as Testament;
use crate::session::io::shared::lock;

/// How long the thread may take to say how things stand. It answers at once, unless the machine stands still.
const VIEW_PATIENCE: Duration = Duration::from_millis(300);

/// How long a successor may take to go on where this process bridges.
const BRIDGE_MS: u32 = 5_000;

/// How long the thread may take to begin with that.
const BRIDGE_PATIENCE: Duration = Duration::from_millis(200);

/// What a planned move may take beyond switchover_timeout, before a command stops waiting for it.
const COMMAND_MARGIN: Duration = Duration::from_secs(5);

/// This node of the pair.
pub struct Node {
    name: String,
    settings: Mutex<Arc<Settings>>,
    orders: Inlet<Order>,
    brief: watch::Receiver<Brief>,
    link: Mutex<Option<Arc<Link>>>,
    /// A second descriptor of the channel to the helper, for a successor.
    channel: Arc<Mutex<Option<Arc<OwnedFd>>>>,
    commands: Mutex<HashMap<u64, oneshot::Sender<(bool, String)>>>,
    last_command: AtomicU64,
}

/// What others must know at any moment, without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Brief {
    /// A floating address is held here.
    active: bool,
    /// A planned move is under way.
    moving: bool,
}

impl Daemon {
    /// This node of the pair, if there is one.
    #[must_use]
    pub fn ha(&self) -> Option<&Arc<Node>> {
        self.ha.get()
    }

    /// Begins to end. While there is time for it the floating address moves first: whoever comes until then is served here.
    pub fn shut_down(self: &Arc<Self>, phase: Phase) {
        let Some(ha) = self.ha().filter(|_| matches!(phase, Phase::WaitForClients | Phase::WaitForServers)) else {
            return self.shutdown.advance(phase, &self.shared);
        };
        let (ha, daemon) = (Arc::clone(ha), Arc::clone(self));
        self.ending.store(true, Ordering::Relaxed);
        drop(tokio::spawn(async move {
            ha.leave().await;
            daemon.shutdown.advance(phase, &daemon.shared);
        }));
    }
}

impl Node {
    /// This node's name (setting node_name).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&lock(&self.settings))
    }

    /// Who this node is to the clients.
    #[must_use]
    pub fn role(&self) -> Role {
        if self.brief.borrow().active { Role::Active } else { Role::Backup }
    }

    /// The link to the peer, if there is one.
    fn link(&self) -> Option<Arc<Link>> {
        lock(&self.link).clone()
    }

    /// Tells the deciding thread something.
    fn consider(&self, event: ha::Event) {
        self.orders.put(Order::Consider(event));
    }

    /// The channel to the address helper, to be passed on to a successor.
    pub(super) fn channel(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.channel).clone()
    }

    /// Another process is about to take over: from now on the helper advertises for us. False: it cannot, and the address will
    /// move.
    pub(super) fn bridge(&self) -> bool {
        self.consider(ha::Event::Restarting(true));
        let (done, answer) = sync_channel(1);
        self.orders.put(Order::Bridge { ms: BRIDGE_MS, done });
        answer.recv_timeout(BRIDGE_PATIENCE).unwrap_or(false)
    }

    /// It did not.
    pub(super) fn resume(&self) {
        self.orders.put(Order::Resume);
        self.consider(ha::Event::Restarting(false));
    }

    /// It did: this process holds and says nothing any more.
    pub(super) fn hand_on(&self) {
        self.orders.put(Order::End { goodbye: false });
    }

    /// The process ends now.
    pub(super) fn end(&self) {
        self.orders.put(Order::End { goodbye: true });
    }

    /// How things stand, from the thread itself.
    fn view(&self) -> Option<View> {
        let (reply, answer) = sync_channel(1);
        self.orders.put(Order::View(reply));
        answer.recv_timeout(VIEW_PATIENCE).ok()
    }

    /// The process wants to end: moves the addresses to the peer, if there is one that will have them, before anybody is sent
    /// away. Returns when no address is held here any more, or when it has taken too long.
    pub(super) async fn leave(self: &Arc<Self>) {
        self.consider(ha::Event::Draining(true));
        // The answer comes after what was said before the question: a move that begins has begun.
        if self.view().is_none() || !self.brief.borrow().active {
            return;
        }
        let patience = self.settings().settings.switchover_timeout + COMMAND_MARGIN;
        let mut brief = self.brief.clone();
        let settled = timeout(patience, brief.wait_for(|brief| !brief.active || !brief.moving)).await;
        if settled.is_err() || self.brief.borrow().active {
            tracing::warn!("no other node has taken the floating address: it stays here until the end");
        }
    }

    /// What a successor has to know.
    pub(super) fn testament(&self) -> Testament {
        self.view().map(|View { ha, .. }| legacy::testament(ha)).unwrap_or_default()
    }

    /// What a predecessor has left: to be said before anything is decided.
    fn heed(&self, testament: &Testament) {
        let moved = legacy::keys(&testament.moved_v4, &testament.moved_v6);
        if !testament.maintenance.is_empty() {
            self.maintain(true, testament.maintenance.clone());
        }
        if !moved.is_empty() {
            self.consider(ha::Event::Moved(moved));
        }
    }

    /// SWITCHOVER and HA MAINTENANCE ON: waits for what comes of it.
    pub(super) async fn command(&self, event: impl FnOnce(u64) -> ha::Event) -> (bool, String) {
        let command = self.last_command.fetch_add(1, Ordering::Relaxed) + 1;
        let (done, answer) = oneshot::channel();
        lock(&self.commands).insert(command, done);
        self.consider(event(command));
        let patience = self.settings().settings.switchover_timeout + COMMAND_MARGIN;
        let outcome = timeout(patience, answer).await;
        lock(&self.commands).remove(&command);
        match outcome {
            Ok(Ok(outcome)) => outcome,
            _ => (false, "no answer of the virtual routers; see SHOW HA and the log".to_owned()),
        }
    }

    /// HA MAINTENANCE.
    pub(super) fn maintain(&self, on: bool, by: String) {
        self.consider(ha::Event::Maintenance { on, by });
    }

    /// Has the peer do what an administrator has said here for both nodes.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) async fn at_peer(&self, command: &str) -> Result<(), String> {
        let Some(link) = self.link() else { return Err("there is no link to a peer (peer_address)".to_owned()) };
        link.command(command).await
    }

    fn command_done(&self, command: u64, ok: bool, text: String) {
        if let Some(waiting) = lock(&self.commands).remove(&command) {
            // Whoever asked may be gone.
            let _ = waiting.send((ok, text));
        }
    }
}

/// What watches the data path for a node.
pub(super) type DataPath = Arc<Health>;
