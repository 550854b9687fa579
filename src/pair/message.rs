//! What two nodes say to each other. A frame is a length of four bytes (what follows, at most [`FRAME_LEN_MAX`]), one byte for
//! the kind, and the fields by name in MessagePack. Fields that a reader does not know are skipped, those that a writer did not
//! know have defaults, and a kind that a reader does not know is [`Message::Unknown`]; so the protocol version only counts what
//! cannot be overlooked. Every string and list is bounded where it is read.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::bounded::{self, Bytes, List, Text};

/// The version of the protocol that this program speaks.
pub const PROTOCOL: u32 = 1;

/// The oldest version that this program understands.
pub const OLDEST_READABLE: u32 = 1;

/// The most that may follow the length of a frame, in bytes.
pub const FRAME_LEN_MAX: usize = 64 * 1024;

/// Bytes of the length in front of a frame.
pub const FRAME_HEAD_LEN: usize = 4;

/// The longest name (node, virtual router, setting, database, user), in bytes.
pub const NAME_LEN_MAX: usize = 64;

/// The longest text (reason, command, answer), in bytes.
pub const TEXT_LEN_MAX: usize = 1024;

/// The most virtual routers in a status.
pub const ROUTERS_MAX: usize = 32;

/// The most settings in one comparison.
pub const SETTINGS_MAX: usize = 512;

/// The most flows in one message.
pub const FLOWS_MAX: usize = 1000;

/// The most budgets in one message.
pub const BUDGETS_MAX: usize = 256;

/// How deep fields may be nested, those that are not known included: each level takes some of the stack.
const DEPTH_MAX: usize = 16;

/// A name of at most [`NAME_LEN_MAX`] bytes. What is longer is cut when it is made, and refused when it is read.
pub type Name = Text<NAME_LEN_MAX>;

/// A text of at most [`TEXT_LEN_MAX`] bytes.
pub type Reason = Text<TEXT_LEN_MAX>;

/// One run of a process: drawn at its start, never used again.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub Bytes<16>);

impl BootId {
    /// Of these random bytes.
    #[must_use]
    pub const fn new(random: [u8; 16]) -> Self {
        Self(Bytes(random))
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for BootId {
    /// The first bytes are enough to tell two runs apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The first message in both directions: who speaks, and which versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The version that the sender speaks.
    pub protocol: u32,
    /// The oldest reader that understands it.
    pub oldest_readable: u32,
    /// The sender's `node_name`.
    pub node: Name,
    /// The sender's run.
    pub boot: BootId,
    /// When that run began, in microseconds of the wall clock since 1970: of two runs of one node the later one counts.
    pub started_us: u64,
    /// The sender's program and version, for the log.
    pub program: Name,
}

/// The address family of a virtual router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl From<u8> for Family {
    fn from(code: u8) -> Self {
        if code == 6 { Self::V6 } else { Self::V4 }
    }
}

impl From<Family> for u8 {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }
}

/// The state of a virtual router (RFC 9568 section 6.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum RouterState {
    /// Takes no part.
    #[default]
    Initialize,
    /// Listens to the active one.
    Backup,
    /// Holds the addresses.
    Active,
    /// A state that a newer program has.
    Unknown,
}

impl From<u8> for RouterState {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Initialize,
            1 => Self::Backup,
            2 => Self::Active,
            _ => Self::Unknown,
        }
    }
}

impl From<RouterState> for u8 {
    fn from(state: RouterState) -> Self {
        match state {
            RouterState::Initialize => 0,
            RouterState::Backup => 1,
            RouterState::Active => 2,
            RouterState::Unknown => Self::MAX,
        }
    }
}

/// Which virtual router: the interface need not have the same name on both nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterId {
    /// The virtual router id.
    pub vrid: u8,
    /// The address family.
    pub family: Family,
}

/// A virtual router as its node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterStatus {
    /// Which one.
    pub id: RouterId,
    /// Its name in the configuration.
    pub name: Name,
    /// Its state.
    pub state: RouterState,
    /// The priority that it advertises, or would.
    pub priority: u8,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its virtual routers.
    pub routers: List<RouterStatus, ROUTERS_MAX>,
    /// It may hold a floating address.
    pub fit: bool,
    /// Why it is not fit, or what keeps it from becoming active; empty if nothing.
    pub reason: Reason,
    /// It reaches PostgreSQL.
    pub servers_reachable: bool,
    /// It waits for its clients to leave.
    pub draining: bool,
    /// `HA MAINTENANCE ON`.
    pub maintenance: bool,
    /// Its process is about to be replaced: silence for some seconds is no loss.
    pub restarting: bool,
    /// Clients that it serves.
    pub clients: u32,
    /// Servers that it has.
    pub servers: u32,
}

/// A sign of life on one path, with all that may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Beat {
    /// Grows with each; what comes late is known by it.
    pub seq: u64,
    /// The sender's clock, in microseconds from any beginning.
    pub stamp_us: u64,
    /// The last `stamp_us` that the sender has received on this path; 0 if none.
    pub echo_us: u64,
    /// For how long the sender has had it.
    pub echo_held_us: u64,
    /// The sender hears the receiver, on any path.
    pub heard_you: bool,
    /// The [`Settings::serial`] that the sender has received last; 0 if none.
    pub settings_seen: u64,
    /// The sender's status.
    pub status: Status,
}

/// Fingerprints of all settings of the sender (see [`super::drift`]); those of a new configuration replace all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Counts the sender's configurations, from 1.
    pub serial: u64,
    /// There were no more than fit.
    pub complete: bool,
    /// One for each setting.
    pub fingerprints: List<Fingerprint, SETTINGS_MAX>,
}

/// A setting's name, and a keyed hash of its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Fingerprint {
    /// The setting.
    pub name: Name,
    /// The hash.
    pub hash: Bytes<8>,
}

/// The longest secret of a [`CancelKey`], in bytes (PostgreSQL docs, "Message Formats", BackendKeyData).
pub const CANCEL_SECRET_LEN_MAX: usize = 256;

/// The key of a cancel request (PostgreSQL docs, "Canceling Requests in Progress").
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CancelKey {
    /// Process id.
    pub pid: u32,
    /// Secret.
    pub secret: List<u8, CANCEL_SECRET_LEN_MAX>,
}

impl fmt::Debug for CancelKey {
    /// Whoever knows the key may cancel.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelKey(..)")
    }
}

/// What one node asks of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Become active, because the sender wants to be relieved.
    TakeOver {
        /// Of these virtual routers.
        routers: List<RouterId, ROUTERS_MAX>,
        /// Why, for log and history.
        reason: Reason,
    },
    /// Cancel what the client with this key has under way, if it is yours.
    Cancel {
        /// The key.
        key: CancelKey,
    },
    /// Do what an administrator has said for both nodes (`PAUSE … ON PAIR`).
    Command {
        /// The command without `ON PAIR`.
        text: Reason,
    },
}

/// What comes of a [`Request`]: done or taken in hand, or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Yes.
    pub ok: bool,
    /// The answer's words; with `ok: false` the reason.
    pub text: Reason,
}

impl Answer {
    /// Yes.
    #[must_use]
    pub fn yes(text: &str) -> Self {
        Self { ok: true, text: Reason::new(text) }
    }

    /// No, and why.
    #[must_use]
    pub fn no(text: &str) -> Self {
        Self { ok: false, text: Reason::new(text) }
    }
}

/// A client's TCP connection as its node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// The client's end.
    pub client: SocketAddr,
    /// Our end: the floating address, mostly.
    pub local: SocketAddr,
}

/// A change of the list of flows (see [`super::flows`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Flows {
    /// Counts the times that the list was sent from the beginning.
    pub epoch: u64,
    /// Counts the messages of this epoch, from 1. The first one begins with an empty list.
    pub seq: u64,
    /// Flows that are new.
    pub add: bounded::FlowList,
    /// Flows that are gone.
    pub remove: bounded::FlowList,
}

/// How far the list of flows has come in; also asks for all of it, with epoch 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlowsSeen {
    /// [`Flows::epoch`].
    pub epoch: u64,
    /// The last [`Flows::seq`] of it.
    pub seq: u64,
}

/// Whose server connections a budget limits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BudgetKey {
    /// `max_db_connections` of a database.
    Database(Name),
    /// `max_user_connections` of a user.
    User(Name),
}

impl Default for BudgetKey {
    fn default() -> Self {
        Self::Database(Name::default())
    }
}

impl fmt::Display for BudgetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(name) => write!(f, "database {name}"),
            Self::User(name) => write!(f, "user {name}"),
        }
    }
}

/// A node's part in the budgets of both (see [`super::budget`]).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetReport {
    /// The sender's run.
    pub boot: BootId,
    /// The receiver's run, as the sender knows it. Others are to ignore this.
    pub to: BootId,
    /// The sender's clock when this was sent, in nanoseconds; grows.
    pub stamp: u64,
    /// The receiver's last `stamp` that the sender has.
    pub echo: u64,
    /// How long the grants below hold, counted from `echo` on the receiver's clock.
    pub lease_us: u64,
    /// In how long the sender sheds what it must no longer have.
    pub shed_grace_us: u64,
    /// Every budget of which the sender has or wants something is in this report.
    pub whole: bool,
    /// One for each budget that has news.
    pub entries: List<BudgetEntry, BUDGETS_MAX>,
}

/// One budget.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetEntry {
    /// Which.
    pub key: BudgetKey,
    /// Servers that the sender has.
    pub in_use: u32,
    /// Servers that the sender would have if it might.
    pub wants: u32,
    /// What the sender has borrowed of the receiver.
    pub borrowed: u32,
    /// For how long still.
    pub borrowed_left_us: u64,
    /// The last `serial` of the receiver that the sender has accepted and adheres to. Whatever has a lower one is void.
    pub accepted: u64,
    /// What the sender lends the receiver.
    pub grant: u32,
    /// Counts the grants; 0: none was made.
    pub serial: u64,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who speaks.
    Hello(Hello),
    /// A sign of life.
    Beat(Box<Beat>),
    /// Fingerprints of the settings.
    Settings(Settings),
    /// A request.
    Request {
        /// Of the sender's requests.
        id: u64,
        /// The request.
        request: Request,
    },
    /// The answer to a request.
    Answer {
        /// The request's id.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// Flows that come and go.
    Flows(Flows),
    /// How far they have come in.
    FlowsSeen(FlowsSeen),
    /// Budgets.
    Budget(BudgetReport),
    /// The sender hangs up, and why.
    Goodbye(Reason),
    /// A kind that a newer program has.
    Unknown(u8),
}

/// Why a frame cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than any message may be, or empty.
    #[error("a frame of {0} bytes (1 to {FRAME_LEN_MAX} are allowed)")]
    Length(u64),
    /// The fields do not make sense.
    #[error("a message that cannot be read: {0}")]
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
struct RequestBody {
    id: u64,
    request: Request,
}

#[derive(Serialize, Deserialize)]
struct AnswerBody {
    id: u64,
    #[serde(default)]
    answer: Answer,
}

#[derive(Serialize, Deserialize)]
struct GoodbyeBody {
    #[serde(default)]
    reason: Reason,
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const BEAT: u8 = 2;
    pub(super) const SETTINGS: u8 = 3;
    pub(super) const REQUEST: u8 = 4;
    pub(super) const ANSWER: u8 = 5;
    pub(super) const FLOWS: u8 = 6;
    pub(super) const FLOWS_SEEN: u8 = 7;
    pub(super) const BUDGET: u8 = 8;
    pub(super) const GOODBYE: u8 = 9;
}

impl Message {
    /// The whole frame: length, kind, fields.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; FRAME_HEAD_LEN];
        match self {
            Self::Hello(hello) => put(&mut out, kind::HELLO, hello),
            Self::Beat(beat) => put(&mut out, kind::BEAT, beat),
            Self::Settings(settings) => put(&mut out, kind::SETTINGS, settings),
            Self::Request { id, request } => {
                put(&mut out, kind::REQUEST, &RequestBody { id: *id, request: request.clone() });
            }
            Self::Answer { id, answer } => {
                put(&mut out, kind::ANSWER, &AnswerBody { id: *id, answer: answer.clone() });
            }
            Self::Flows(flows) => put(&mut out, kind::FLOWS, flows),
            Self::FlowsSeen(seen) => put(&mut out, kind::FLOWS_SEEN, seen),
            Self::Budget(report) => put(&mut out, kind::BUDGET, report),
            Self::Goodbye(reason) => put(&mut out, kind::GOODBYE, &GoodbyeBody { reason: reason.clone() }),
            Self::Unknown(kind) => out.push(*kind),
        }
        let len = u32::try_from(out.len() - FRAME_HEAD_LEN).unwrap_or(u32::MAX);
        if let Some(head) = out.first_chunk_mut() {
            *head = len.to_be_bytes();
        }
        out
    }

    /// Reads what stands behind the length of a frame.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        if body.len() > FRAME_LEN_MAX {
            return Err(MessageError::Length(body.len() as u64));
        }
        let (&kind, fields) = body.split_first().ok_or(MessageError::Length(0))?;
        Ok(match kind {
            kind::HELLO => Self::Hello(get(fields)?),
            kind::BEAT => Self::Beat(Box::new(get(fields)?)),
            kind::SETTINGS => Self::Settings(get(fields)?),
            kind::REQUEST => {
                let RequestBody { id, request } = get(fields)?;
                Self::Request { id, request }
            }
            kind::ANSWER => {
                let AnswerBody { id, answer } = get(fields)?;
                Self::Answer { id, answer }
            }
            kind::FLOWS => Self::Flows(get(fields)?),
            kind::FLOWS_SEEN => Self::FlowsSeen(get(fields)?),
            kind::BUDGET => Self::Budget(get(fields)?),
            kind::GOODBYE => Self::Goodbye(get::<GoodbyeBody>(fields)?.reason),
            other => Self::Unknown(other),
        })
    }
}

/// The length of the frame that begins here, without its head; `None` if the head is not complete.
///
/// # Errors
/// [`MessageError::Length`]: nothing behind it can be read any more.
pub fn frame_len(head: &[u8]) -> Result<Option<usize>, MessageError> {
    let Some(head) = head.first_chunk() else { return Ok(None) };
    let len = u32::from_be_bytes(*head);
    match usize::try_from(len) {
        Ok(len) if (1..=FRAME_LEN_MAX).contains(&len) => Ok(Some(len)),
        _ => Err(MessageError::Length(len.into())),
    }
}

fn put(out: &mut Vec<u8>, kind: u8, fields: &impl Serialize) {
    out.push(kind);
    let mut serializer = rmp_serde::Serializer::new(&mut *out).with_struct_map();
    // Plain data into memory; a failure would come out as a frame that nobody understands.
    let _ = fields.serialize(&mut serializer);
}

fn get<'a, T: Deserialize<'a>>(fields: &'a [u8]) -> Result<T, MessageError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(fields);
    deserializer.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut deserializer).map_err(|error| MessageError::Damaged(error.to_string()))
}
