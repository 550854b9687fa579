//! What the driver needs of the process that it runs in, and its settings.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::pair::budget::{Allotment, Mode};
use crate::pair::message::{Answer, BudgetKey, CancelKey, Flow, RouterId};
use crate::pair::picture::PeerPicture;

/// An answer that comes later.
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The process, as the peer's requests and the link's news see it. The methods without a future must not block: they are called
/// from the link's own task.
pub trait Host: Send + Sync + 'static {
    /// The peer wants this node to become active. The answer says whether it will.
    fn take_over(&self, routers: Vec<RouterId>, reason: String) -> Answering;

    /// Somebody has asked the peer to cancel with a key that it does not know. Yes: it is one of ours.
    fn cancel(&self, key: CancelKey) -> Answering;

    /// An administrator has given this command at the peer, for both nodes.
    fn command(&self, text: String) -> Answering;

    /// The peer has said how it is, or is there, or is lost. Called for each sign of life too: its word is worth no more than it is
    /// fresh.
    fn peer_changed(&self, peer: &Arc<PeerPicture>);

    /// The peer has these clients, which were not known before. They stay known ([`super::PairLink::take_flows`]).
    fn flows_came(&self, flows: &[Flow]);

    /// This node may have so many servers of a budget from now on. Returns how many it has then; none above it may be opened.
    fn allotted(&self, key: &BudgetKey, allotment: Allotment) -> u32;
}

/// The driver's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkParams {
    /// Where to listen (`pair_listen_address`, `pair_port`). A wildcard of both families is two addresses.
    pub listen: Vec<SocketAddr>,
    /// The peer's addresses (`peer_address`, `pair_port`); at most 8 are used.
    pub peers: Vec<SocketAddr>,
    /// How often the peer is told that we live.
    pub link_interval: Duration,
    /// After which silence the peer is lost (`link_timeout_ms`).
    pub link_timeout: Duration,
    /// `server_budget`.
    pub budget: Mode,
    /// In how long the pools shed servers that are beyond an allotment.
    pub shed_grace: Duration,
}

/// Who this node is; fixed for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `node_name`.
    pub node: String,
    /// Program and version, for the peer's log.
    pub program: String,
}
