//! The other node: what it says of itself, how far that can be relied on, and what it asks for.

use std::time::Duration;

use super::{Action, Entry, Ha, Health, Level, Order, RouterKey};
use crate::clock::Time;
use crate::vrrp::State;

/// How a node is, as the link carries it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// It may hold addresses.
    pub fit: bool,
    /// Why not; otherwise empty.
    pub reason: String,
    /// It waits for its clients to leave.
    pub draining: bool,
    /// `HA MAINTENANCE ON`.
    pub maintenance: bool,
    /// Its process is being replaced.
    pub restarting: bool,
    /// It reaches PostgreSQL.
    pub servers_reachable: bool,
    /// Its virtual routers.
    pub routers: Vec<RouterStatus>,
}

/// A virtual router of a [`Status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterStatus {
    /// Which.
    pub key: RouterKey,
    /// Its state. A link that knows no more than this may leave `interface_up` true unless the state is Initialize.
    pub state: State,
    /// Its interface is up.
    pub interface_up: bool,
}

/// What is known of the peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    pub(super) name: Option<String>,
    pub(super) up: bool,
    pub(super) heard: Option<Time>,
    pub(super) status: Status,
    /// Since when its servers are in reach again, if they were seen not to be.
    servers_back: Option<Time>,
}

impl Peer {
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("the peer")
    }

    pub(super) fn router(&self, key: RouterKey) -> Option<&RouterStatus> {
        self.status.routers.iter().find(|router| router.key == key)
    }

    /// Is its last word younger than `link_timeout`?
    pub(super) fn is_fresh(&self, now: Time, link_timeout: Duration) -> bool {
        self.up && self.heard.is_some_and(|heard| now.since(heard) < link_timeout)
    }
}

impl Ha {
    pub(super) fn peer_link(&mut self, now: Time, up: bool, name: Option<String>, out: &mut Vec<Action>) {
        if name.is_some() {
            self.peer.name = name;
        }
        if up == self.peer.up {
            return;
        }
        self.peer.up = up;
        if !up {
            // What it said before it was lost is no word of it any more.
            self.peer.heard = None;
        }
        let text = format!("the link to {} is {}", self.peer.name(), if up { "up" } else { "lost" });
        self.history.push(Entry::of_node(now, text.clone()));
        out.push(Action::Log { level: if up { Level::Info } else { Level::Warn }, text });
        self.say_opinions(now, out);
    }

    pub(super) fn peer_status(&mut self, now: Time, status: Status, out: &mut Vec<Action>) {
        if !status.servers_reachable {
            self.peer.servers_back = None;
        } else if !self.peer.status.servers_reachable && self.peer.heard.is_some() {
            self.peer.servers_back = Some(now);
        }
        self.peer.status = status;
        self.peer.heard = Some(now);
        self.say_opinions(now, out);
    }

    fn say_opinions(&self, now: Time, out: &mut Vec<Action>) {
        for router in 0..self.routers.len() {
            self.say_opinion(now, router, out);
        }
    }

    /// The second opinion: is the peer active, and may it be?
    pub(super) fn say_opinion(&self, now: Time, router: usize, out: &mut Vec<Action>) {
        let (Some(led), Some(params)) = (self.routers.get(router), self.params.routers.get(router)) else { return };
        if !led.started || !self.params.link {
            return;
        }
        let status = &self.peer.status;
        let fresh = self.peer.is_fresh(now, self.params.link_timeout);
        let word = self.peer.router(params.key).filter(|_| fresh);
        let active = word.map(|word| word.state == State::Active && status.fit && word.interface_up);
        out.push(Action::Router { router, order: Order::PeerActive(active) });
    }

    /// Why the peer cannot be asked to take this router over, if so.
    pub(super) fn peer_cannot(&self, now: Time, router: usize) -> Option<String> {
        let (peer, status) = (&self.peer, &self.peer.status);
        let name = peer.name();
        let word = self.params.routers.get(router).and_then(|params| peer.router(params.key));
        if !peer.is_fresh(now, self.params.link_timeout) {
            return Some(format!("{name} is not heard on the pair link"));
        }
        if status.maintenance {
            return Some(format!("{name} is in maintenance"));
        }
        if !status.fit {
            return Some(format!("{name} is unfit: {}", status.reason));
        }
        if status.draining {
            return Some(format!("{name} waits for its clients to leave"));
        }
        if status.restarting {
            return Some(format!("{name} is being restarted"));
        }
        match word {
            None => Some(format!("{name} does not have this virtual router")),
            Some(word) if !word.interface_up => Some(format!("the interface of {name} is down")),
            Some(word) if word.state == State::Initialize => {
                Some(format!("{name} takes no part in this virtual router"))
            }
            Some(_) => None,
        }
    }

    /// Can the peer's servers be relied on?
    pub(super) fn peer_has_servers(&self, now: Time) -> bool {
        let steady = self.peer.servers_back.is_none_or(|back| now >= back + self.params.servers_again);
        self.peer.status.servers_reachable && steady
    }

    pub(super) fn peer_servers_at(&self) -> Option<Time> {
        self.peer.servers_back.map(|back| back + self.params.servers_again)
    }

    /// A request to take over is granted completely or not at all.
    pub(super) fn peer_asks(&mut self, now: Time, id: u64, keys: &[RouterKey], why: String, out: &mut Vec<Action>) {
        let find = |key: &RouterKey| self.params.routers.iter().position(|params| params.key == *key);
        let routers: Option<Vec<usize>> = keys.iter().map(find).collect();
        let refusal = match &routers {
            None => Some("not all of these virtual routers are configured here".to_owned()),
            Some(routers) => self.cannot_take(routers),
        };
        let reason = format!("{} asked for it ({why})", self.peer.name());
        match (refusal, routers) {
            (None, Some(routers)) => {
                // It moves because of something there; what is wrong here must not send it back at once.
                self.servers_moved = Some(now);
                out.push(Action::AnswerPeer { id, accepted: true, text: String::new() });
                for router in routers {
                    if let Some(led) = self.routers.get_mut(router) {
                        (led.asked, led.yielding, led.moved) = (Some((now, reason.clone())), false, false);
                        out.push(Action::Router { router, order: Order::TakeOver("the peer asked for it") });
                    }
                }
            }
            (refusal, _) => {
                let text = refusal.unwrap_or_default();
                let line = format!("refuses to take over, which {reason}: {text}");
                out.push(Action::Log { level: Level::Warn, text: line });
                out.push(Action::AnswerPeer { id, accepted: false, text });
            }
        }
    }

    fn cannot_take(&self, routers: &[usize]) -> Option<String> {
        let node = &self.params.node;
        if let Some(reason) = self.unfit_reason() {
            return Some(format!("{node} is unfit: {reason}"));
        }
        if let Some(by) = &self.maintenance {
            return Some(format!("{node} is in maintenance (by {by})"));
        }
        if self.draining || self.leaving {
            return Some(format!("{node} waits for its clients to leave"));
        }
        if self.restarting {
            return Some(format!("{node} is being restarted"));
        }
        routers.iter().filter_map(|&router| self.routers.get(router)).find_map(|led| match &led.interface {
            Health::Bad(reason) => Some(format!("the interface of {node} is not usable: {reason}")),
            Health::Good if !led.started || led.state == State::Initialize => {
                Some(format!("{node} takes no part in this virtual router"))
            }
            Health::Good => None,
        })
    }
}
