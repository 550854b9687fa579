//! What SHOW HA, SHOW HA HISTORY and the status line of the service manager tell.

use super::{Entry, Ha, RouterKey, Status};
use crate::clock::Time;
use crate::vrrp::State;

/// A node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// This node's name.
    pub node: String,
    /// It may hold addresses.
    pub fit: bool,
    /// Why not, or what is about to change; otherwise empty.
    pub reason: String,
    /// Who has said `HA MAINTENANCE ON`.
    pub maintenance: Option<String>,
    /// The process waits for its clients to leave.
    pub draining: bool,
    /// PostgreSQL is in reach.
    pub servers_reachable: bool,
    /// The planned move under way.
    pub moving: Option<String>,
    /// The other node; `None` if no link is configured.
    pub peer: Option<PeerPicture>,
    /// The virtual routers, in the order of the parameters.
    pub routers: Vec<RouterPicture>,
    /// The last decisions, oldest first.
    pub history: Vec<Entry>,
}

/// The other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPicture {
    /// Its name, or "the peer".
    pub name: String,
    /// It is heard.
    pub up: bool,
    /// When its last status came.
    pub heard: Option<Time>,
    /// Its last status.
    pub status: Status,
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterPicture {
    /// Its name.
    pub name: String,
    /// How both nodes know it.
    pub key: RouterKey,
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// This node takes part in it.
    pub wanted: bool,
    /// This node lets the other one win.
    pub lowered: bool,
    /// It was moved to the other node by an administrator, and stays there although this node would preempt that one.
    pub moved: bool,
    /// Why it is as it is.
    pub reason: String,
}

impl Ha {
    /// For the console.
    #[must_use]
    pub fn picture(&self) -> Picture {
        let routers = self.params.routers.iter().zip(&self.routers).map(|(params, led)| RouterPicture {
            name: params.name.clone(),
            key: params.key,
            state: led.state,
            since: led.since,
            wanted: led.started,
            lowered: led.yielding,
            moved: led.moved,
            reason: led.reason.clone(),
        });
        let peer = PeerPicture {
            name: self.peer.name().to_owned(),
            up: self.peer.up,
            heard: self.peer.heard,
            status: self.peer.status.clone(),
        };
        Picture {
            node: self.params.node.clone(),
            fit: self.fitness.fit,
            reason: self.unwanted().unwrap_or_default(),
            maintenance: self.maintenance.clone(),
            draining: self.draining || self.leaving,
            servers_reachable: self.fitness.servers_reachable(),
            moving: self.planned.as_ref().map(|planned| planned.reason.clone()),
            peer: self.params.link.then_some(peer),
            routers: routers.collect(),
            history: self.history.entries().cloned().collect(),
        }
    }

    /// Is a planned move under way?
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.planned.is_some()
    }

    /// One line for the service manager (`STATUS=`), without what it says of clients.
    #[must_use]
    pub fn summary(&self) -> String {
        let of = |state: State| {
            let routers = self.params.routers.iter().zip(&self.routers).filter(move |(_, led)| led.state == state);
            let names: Vec<&str> = routers.map(|(params, _)| params.name.as_str()).collect();
            (!names.is_empty()).then(|| format!("{state} for {}", names.join(", ")))
        };
        let states: Vec<String> = [State::Active, State::Backup].into_iter().filter_map(of).collect();
        match (self.unwanted(), states.is_empty()) {
            (Some(reason), _) => format!("holds no address: {reason}"),
            (None, true) => "holds no address".to_owned(),
            (None, false) => states.join("; "),
        }
    }
}
