//! What SHOW HA tells of a virtual router.

use std::net::IpAddr;
use std::time::Duration;

use super::{ChecksumVariant, Discard, Family, Reason, State, Version};
use crate::clock::Time;

/// Counted since the start of the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Adverts sent, goodbyes included.
    pub adverts_sent: u64,
    /// Adverts heard: all checks passed.
    pub adverts_received: u64,
    /// Goodbyes (priority 0) sent.
    pub goodbyes_sent: u64,
    /// Goodbyes (priority 0) heard.
    pub goodbyes_received: u64,
    /// How often it became active.
    pub became_active: u64,
    /// How often it stopped being active.
    pub released: u64,
    /// Announcements after the first one of each activity.
    pub announced: u64,
    /// Signs of another holder while active.
    pub rivals: u64,
    /// Adverts with another interval than ours.
    pub interval_differs: u64,
    /// Adverts with other addresses than ours.
    pub addresses_differ: u64,
    /// Adverts whose first address was not link-local, heard all the same.
    pub not_link_local: u64,
    /// Timers that came more than two intervals late.
    pub late_timers: u64,
    /// How often the peer's word has kept this node from taking over.
    pub held_back: u64,
    /// Adverts discarded, by [`Discard::kind`].
    pub discards: [u64; Discard::KINDS],
}

/// The Active Router as it was last heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rival {
    /// Its address.
    pub address: IpAddr,
    /// Its priority.
    pub priority: u8,
    /// Its interval.
    pub interval: Duration,
    /// When it was last heard.
    pub heard: Time,
}

/// A virtual router at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The virtual router identifier.
    pub vrid: u8,
    /// The family.
    pub family: Family,
    /// The version spoken.
    pub version: Version,
    /// The state.
    pub state: State,
    /// Since when.
    pub since: Time,
    /// Why; `None` before the first change.
    pub reason: Option<Reason>,
    /// The priority that is advertised: the effective one, or 1 while it wants to be preempted.
    pub priority: u8,
    /// Our own interval.
    pub interval: Duration,
    /// It wants to be preempted.
    pub yielding: bool,
    /// It has given the addresses up because nobody took them, and does not take them again by itself.
    pub stood_down: bool,
    /// The other Active Router: whom a backup hears, or the last rival of an active one.
    pub active: Option<Rival>,
    /// This node's own address on the interface.
    pub own_address: IpAddr,
    /// How checksums are sent.
    pub checksum: ChecksumVariant,
    /// The next time that something happens by itself.
    pub deadline: Option<Time>,
    /// Counted.
    pub counters: Counters,
}
