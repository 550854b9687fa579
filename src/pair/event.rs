//! What happens to the machine of the link ([`super::link`]), and what it wants done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::budget;
use super::drift::{DriftKey, Setting};
use super::message::{Answer, BudgetKey, Flow, Message, Request, Status};
use super::picture::{Direction, PeerPicture};
use crate::clock::Time;

/// Names a path for as long as it lives.
pub type PathId = u64;

/// Settings of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// How often the peer is told that we live.
    pub interval: Duration,
    /// After which silence it is lost.
    pub timeout: Duration,
    /// The budgets'.
    pub budget: budget::Params,
}

/// What a client of this node did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowChange {
    /// It came.
    Came,
    /// It went, and knows so.
    Went,
    /// It was let go of without hearing of it, as its floating address is not here any more.
    Lost,
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A connection has proved that the other side knows the secret, or has a certificate.
    Connected {
        /// Which.
        path: PathId,
        /// Who has made it.
        direction: Direction,
        /// The other end.
        address: SocketAddr,
        /// For the fingerprints of settings.
        key: Box<DriftKey>,
    },
    /// A connection that we make has not come about, or is over.
    Disconnected {
        /// Which, if it ever was one.
        path: PathId,
        /// Why.
        error: String,
    },
    /// Something is said.
    Heard {
        /// Where.
        path: PathId,
        /// What.
        message: Box<Message>,
    },
    /// What cannot be read came in; the path ends.
    Damaged(PathId),
    /// Somebody has connected who is not the peer.
    Stranger,
    /// How this node is.
    Status(Box<Status>),
    /// This node's settings, for comparison.
    Settings(Vec<Setting>),
    /// A client has come, or gone.
    Flow {
        /// Which.
        flow: Flow,
        /// What.
        change: FlowChange,
    },
    /// All clients that are here: those who are not among them have gone.
    Flows(Vec<Flow>),
    /// Ask the peer for something; [`Action::Answered`] follows in any case.
    Ask {
        /// The caller's name for it.
        token: u64,
        /// What.
        request: Request,
        /// Until when an answer is waited for.
        deadline: Time,
    },
    /// The answer to [`Action::Asked`].
    Reply {
        /// Which.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// The limit of a budget for both nodes; `None`: none.
    Limit {
        /// Which.
        key: BudgetKey,
        /// How many servers.
        servers: Option<u32>,
    },
    /// What is used of a budget, and how many more would be.
    Use {
        /// Which.
        key: BudgetKey,
        /// Servers.
        in_use: u32,
        /// How many more.
        waiting: u32,
    },
    /// The pools adhere to an allotment.
    Applied {
        /// Which.
        key: BudgetKey,
        /// So many.
        servers: u32,
        /// Servers that are there.
        in_use: u32,
    },
    /// New settings of the link.
    Params(Params),
    /// The deadline has passed.
    Timer,
}

/// What is to be done.
#[derive(Debug)]
pub enum Action {
    /// Say something.
    Send {
        /// Where.
        path: PathId,
        /// What.
        message: Message,
    },
    /// End a path.
    Close {
        /// Which.
        path: PathId,
        /// Why.
        reason: String,
    },
    /// The peer has said how it is, or whether it is there has changed.
    Peer(Arc<PeerPicture>),
    /// The peer asks for something; to be answered by [`Event::Reply`].
    Asked {
        /// Under this number.
        id: u64,
        /// What.
        request: Request,
    },
    /// What came of [`Event::Ask`].
    Answered {
        /// Which.
        token: u64,
        /// The answer, or why there is none.
        answer: Result<Answer, String>,
    },
    /// The peer has these clients, which were not known before.
    FlowsCame(Vec<Flow>),
    /// This node may have so many servers.
    Allot {
        /// Of this budget.
        key: BudgetKey,
        /// So many.
        allotment: budget::Allotment,
    },
    /// A line for the log: does it matter?
    Log {
        /// Somebody should look.
        warning: bool,
        /// The line.
        text: String,
    },
}
