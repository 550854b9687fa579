//! What the deciding thread wants done in the runtime: clients brought to rest or let go of, the peer asked and answered,
//! clients of a dead peer told, commands of the console answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::clients::{self, Stillness};
use super::tell::Task;
use super::{Node, flows};
use crate::clock::Time;
use crate::config::ListenWhen;
use crate::daemon::run::Daemon;
use crate::daemon::service::Role;
use crate::ha::{self, Action, Health, Item, RouterKey};
use crate::session::io::shared::lock;

/// Carries out what the thread wants, for as long as the thread lives.
pub(super) struct Steward {
    pub(super) daemon: Arc<Daemon>,
    pub(super) node: Arc<Node>,
    pub(super) tasks: UnboundedReceiver<Task>,
    /// Clients that stand still before a planned move.
    pub(super) still: Arc<Mutex<Option<Stillness>>>,
    pub(super) quiescing: Option<JoinHandle<()>>,
}

impl Steward {
    pub(super) async fn run(mut self) {
        self.set_standby();
        self.tell_facts();
        while let Some(task) = self.tasks.recv().await {
            match task {
                Task::Decided(action) => self.perform(action).await,
                Task::Status(status, priorities) => {
                    if let Some(link) = self.node.link() {
                        link.set_status(&self.daemon, &self.node, &status, &priorities).await;
                    }
                }
                Task::Holds { router, from_the_living } => {
                    self.set_standby();
                    let (daemon, node) = (Arc::clone(&self.daemon), Arc::clone(&self.node));
                    tokio::spawn(flows::reset(daemon, node, router, from_the_living));
                }
                Task::Lost { addresses } => {
                    self.let_go(&addresses);
                    self.set_standby();
                }
                Task::Anew => self.tell_facts(),
            }
        }
    }

    /// What the thread cannot see by itself.
    fn tell_facts(&self) {
        self.node.consider(ha::Event::Health(Item::Listeners, self.listeners()));
        // Nothing serves here without them: a start fails, a reload changes nothing.
        self.node.consider(ha::Event::Health(Item::Certificates, Health::Good));
        if let Some(link) = self.node.link() {
            link.tell_again(&self.node);
        }
    }

    fn set_standby(&self) {
        set_standby(&self.daemon, &self.node);
    }

    /// Can clients of each floating address come in?
    fn listeners(&self) -> Health {
        let listeners = lock(&self.daemon.listeners);
        let port = self.daemon.config().settings.listen_port;
        let settings = self.node.settings();
        match settings.addresses().find(|address| !listeners.serve((*address, port).into())) {
            None => Health::Good,
            Some(address) => {
                Health::Bad(format!("nobody listens on {address}, port {port}: listen_addr needs it, or *"))
            }
        }
    }

    fn addresses(&self, routers: &[usize]) -> Vec<IpAddr> {
        let settings = self.node.settings();
        let routers = routers.iter().filter_map(|&router| settings.routers.get(router));
        routers.flat_map(|router| router.addresses.iter().copied()).collect()
    }

    fn let_go(&self, addresses: &[IpAddr]) {
        let clients = clients::abandon(&self.daemon, addresses);
        if clients > 0 {
            tracing::info!("{clients} clients of floating addresses that are not here any more were let go of");
        }
    }

    async fn perform(&mut self, action: Action) {
        match action {
            Action::Quiesce { routers, deadline } => self.quiesce(&routers, deadline),
            Action::Resume { routers, moved } => {
                if let Some(quiescing) = self.quiescing.take() {
                    quiescing.abort();
                    // It may be at work this moment: what it does last must not come after the end of the stillness.
                    let _ = quiescing.await;
                }
                if moved {
                    self.let_go(&self.addresses(&routers));
                }
                lock(&self.still).take();
            }
            Action::AskPeer { id, routers, reason } => self.ask_peer(id, routers, reason),
            Action::AnswerPeer { id, accepted, text } => {
                if let Some(link) = self.node.link() {
                    link.answer(id, accepted, &text);
                }
            }
            Action::CommandDone { command, ok, text } => self.node.command_done(command, ok, text),
            // The thread has done these itself.
            Action::Router { .. } | Action::StatusChanged | Action::Log { .. } => {}
        }
    }

    fn quiesce(&mut self, routers: &[usize], deadline: Time) {
        let (daemon, node, still) = (Arc::clone(&self.daemon), Arc::clone(&self.node), Arc::clone(&self.still));
        let addresses = self.addresses(routers);
        self.quiescing = Some(tokio::spawn(async move {
            let began = Time::now();
            let (stillness, told, left) = clients::quiesce(&daemon, &addresses, deadline).await;
            let ms = Time::now().since(began).as_millis();
            tracing::info!(
                "{told} clients of the floating addresses were told to connect again, after {ms} ms at rest"
            );
            if left > 0 {
                tracing::warn!("{left} clients are still in transactions and will be cut off (switchover_timeout)");
            }
            *lock(&still) = Some(stillness);
            node.consider(ha::Event::Quiesced);
        }));
    }

    fn ask_peer(&self, id: u64, routers: Vec<RouterKey>, reason: String) {
        let node = Arc::clone(&self.node);
        let Some(link) = node.link() else { return };
        drop(tokio::spawn(async move {
            let (accepted, text) = link.ask_to_take_over(&routers, &reason).await;
            node.consider(ha::Event::PeerAnswers { id, accepted, text });
        }));
    }
}

/// Requests of the peer that wait for the decision.
#[derive(Debug, Default)]
pub(super) struct Asked {
    last: u64,
    waiting: HashMap<u64, tokio::sync::oneshot::Sender<(bool, String)>>,
}

impl Asked {
    /// One more: its number, and where its answer comes.
    pub(super) fn enter(&mut self) -> (u64, tokio::sync::oneshot::Receiver<(bool, String)>) {
        let (answer, waiting) = tokio::sync::oneshot::channel();
        self.last += 1;
        // Nobody waits any more for those whose time was up.
        self.waiting.retain(|_, answer| !answer.is_closed());
        self.waiting.insert(self.last, answer);
        (self.last, waiting)
    }

    /// What was decided.
    pub(super) fn answer(&mut self, id: u64, accepted: bool, text: &str) {
        if let Some(answer) = self.waiting.remove(&id) {
            // It may have come too late.
            let _ = answer.send((accepted, text.to_owned()));
        }
    }
}

/// Setting listen: are clients let in although no floating address is here?
pub(super) fn set_standby(daemon: &Daemon, node: &Node) {
    let only_active = node.settings().settings.listen == ListenWhen::Active;
    lock(&daemon.shared.limits).set_standby(only_active && node.role() != Role::Active);
}
