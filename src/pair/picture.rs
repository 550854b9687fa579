//! What can be told of the peer and of the paths to it, as plain data for SHOW HA, log and status page.

use std::net::SocketAddr;
use std::time::Duration;

use super::message::{BootId, BudgetKey, Status};
use crate::clock::Time;

/// How things stand with the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerState {
    /// Not heard since this process runs.
    #[default]
    Never,
    /// Heard within the timeout.
    Up,
    /// Silent for longer.
    Lost,
}

/// The peer as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerPicture {
    /// Is it there?
    pub state: PeerState,
    /// Since when it is so.
    pub since: Time,
    /// Its `node_name`; empty as long as it was never heard.
    pub name: String,
    /// Its run.
    pub boot: BootId,
    /// Its program and version.
    pub program: String,
    /// When it was heard last, on any path.
    pub heard: Option<Time>,
    /// The shortest round trip of the paths that are up.
    pub round_trip: Option<Duration>,
    /// It says that it hears us.
    pub hears_us: bool,
    /// Its last status, however old.
    pub status: Status,
    /// Settings whose values differ between the nodes, or that only one of them has.
    pub drift: Vec<String>,
    /// Its settings have been compared with ours.
    pub compared: bool,
    /// All paths: one for each address that we dial, then those that the peer has opened.
    pub paths: Vec<PathPicture>,
    /// What came of requests, strangers and damaged messages so far.
    pub counters: Counters,
}

impl PeerPicture {
    /// Is the peer there?
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == PeerState::Up
    }

    /// Is it there, and does it say that it may hold floating addresses?
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.is_up() && self.status.fit
    }
}

/// Who has opened a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The peer.
    Incoming,
    /// This node.
    Outgoing,
}

/// How things stand with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// Being dialled, or TLS is under way.
    Dialling,
    /// Waits until it is dialled again.
    Waiting,
    /// TLS is done, the other side has not said who it is.
    Greeting,
    /// In use.
    Up,
    /// Silent for longer than the timeout.
    Silent,
}

/// One path to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPicture {
    /// Who has opened it.
    pub direction: Direction,
    /// The peer's end.
    pub address: SocketAddr,
    /// How it is.
    pub state: PathState,
    /// When something was heard on it last.
    pub heard: Option<Time>,
    /// The last round trip.
    pub round_trip: Option<Duration>,
    /// Why it does not work, or why it ended last.
    pub error: Option<String>,
}

/// Counts since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections to our port that have not proved to be the peer's.
    pub strangers: u64,
    /// Peers that have proved who they are and were refused all the same: own name, third node, version.
    pub refused: u64,
    /// Messages that could not be read.
    pub damaged: u64,
    /// Messages of kinds that only a newer program knows.
    pub unknown: u64,
    /// Requests of ours that nobody has answered in time.
    pub unanswered: u64,
    /// How often the peer was lost.
    pub lost: u64,
}

/// One pair-wide budget as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetPicture {
    /// Whose.
    pub key: BudgetKey,
    /// For both nodes together.
    pub limit: u32,
    /// What this node may have now.
    pub allotment: u32,
    /// What this node has.
    pub in_use: u32,
    /// What the peer has borrowed of this node's share, or might still have.
    pub lent: u32,
    /// What this node has borrowed of the peer's share.
    pub borrowed: u32,
}
