//! The part of the picture that is about the pair: virtual routers, their history, the link to the peer.

/// The pair as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaPicture {
    /// This node's name.
    pub node: String,
    /// May this node hold the addresses?
    pub fit: bool,
    /// Why not, or what it still waits for; empty if there is nothing to say.
    pub fit_reason: String,
    /// HA MAINTENANCE ON?
    pub maintenance: bool,
    /// The other node.
    pub peer: HaPeer,
    /// Settings that differ between the nodes although they should not, by name.
    pub drift: Vec<String>,
    /// One row for each virtual router.
    pub routers: Vec<HaRouterRow>,
    /// The last transitions, in any order.
    pub history: Vec<HaTransitionRow>,
    /// The ways to the peer.
    pub paths: Vec<HaPathRow>,
}

/// The other node, as the pair link knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaPeer {
    /// Its name, once it has said it.
    pub name: Option<String>,
    /// How the link stands.
    pub link: HaLinkState,
    /// How long ago anything was heard from it.
    pub heard_ms_ago: Option<u64>,
}

/// How the link to the peer stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HaLinkState {
    /// No `peer_address`: there is none.
    #[default]
    Off,
    /// The peer answers.
    Up,
    /// It does not.
    Lost,
}

impl HaLinkState {
    /// The word in column `peer_link`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Up => "up",
            Self::Lost => "lost",
        }
    }
}

/// What a virtual router is doing (RFC 9568 section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HaState {
    /// Not taking part.
    #[default]
    Initialize,
    /// Ready to take over.
    Backup,
    /// Holding the addresses.
    Active,
    /// The node has no such virtual router.
    NotConfigured,
}

impl HaState {
    /// The word in columns `state`, `peer_state`, `from` and `to`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Backup => "backup",
            Self::Active => "active",
            Self::NotConfigured => "not_configured",
        }
    }
}

/// One virtual router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaRouterRow {
    /// Its name.
    pub router: String,
    /// The interface.
    pub interface: String,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// `virtual_router_id`.
    pub virtual_router_id: u8,
    /// What it is doing here.
    pub state: HaState,
    /// Since when.
    pub since_us: i64,
    /// Why it came into this state.
    pub reason: String,
    /// `priority`.
    pub priority: u8,
    /// The priority that it advertises, or would.
    pub effective_priority: u8,
    /// The floating addresses, separated by commas.
    pub addresses: String,
    /// The own address of the node that is active now, if one is known.
    pub active_address: Option<String>,
    /// What it is doing at the peer, if the peer has said so.
    pub peer_state: Option<HaState>,
    /// The interval in force: that of the active node.
    pub interval_ms: u32,
    /// Adverts sent.
    pub adverts_sent: u64,
    /// Adverts received and accepted.
    pub adverts_received: u64,
    /// Adverts received and thrown away.
    pub discarded: u64,
    /// Why the last of them was.
    pub last_discard: Option<String>,
    /// What the operator should look at; empty if all is well.
    pub hint: String,
}

/// One transition of a virtual router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaTransitionRow {
    /// When.
    pub time_us: i64,
    /// The virtual router.
    pub router: String,
    /// From this state.
    pub from: HaState,
    /// To this one.
    pub to: HaState,
    /// Why.
    pub reason: String,
    /// From the event that caused it to its end (address added and announced, or removed); `None` if unknown.
    pub took_us: Option<u64>,
}

/// One way to the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaPathRow {
    /// The address of the peer on this way, with its port.
    pub path: String,
    /// `out` (we dialled) or `in`.
    pub direction: &'static str,
    /// Such as `connecting`, `hello`, `up`, `lost`.
    pub state: &'static str,
    /// How long ago anything came in.
    pub heard_ms_ago: Option<u64>,
    /// The last round trip.
    pub round_trip_us: Option<u64>,
    /// What went wrong last.
    pub error: Option<String>,
}
