//! This node's own health, with hysteresis, and whether it reaches its servers.

use std::fmt;

use super::Params;
use crate::clock::Time;

/// What must be well for a node to be fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// Every worker thread makes progress.
    Workers,
    /// A login through the data path is answered.
    Probe,
    /// All listeners are open.
    Listeners,
    /// Certificates and keys are loaded.
    Certificates,
    /// The helper that holds the addresses is connected.
    Helper,
}

impl Item {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// All of them.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Workers, Self::Probe, Self::Listeners, Self::Certificates, Self::Helper];
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workers => "the worker threads",
            Self::Probe => "the probe through the data path",
            Self::Listeners => "the listeners",
            Self::Certificates => "the certificates",
            Self::Helper => "the address helper",
        })
    }
}

/// How an item is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Well.
    Good,
    /// Not, and why: a whole sentence without its full stop, as "worker thread 2 has not moved for 2.1 s".
    Bad(String),
}

/// Whether PostgreSQL can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// Yes.
    Reachable,
    /// No, and why.
    Unreachable(String),
    /// Nobody has tried yet: counts as reachable.
    Unknown,
}

/// The health of this node.
#[derive(Clone, Debug)]
pub(super) struct Fitness {
    items: [Option<Health>; Item::COUNT],
    good_since: Option<Time>,
    ever_fit: bool,
    /// The verdict, with hysteresis.
    pub(super) fit: bool,
    servers: Servers,
    /// Since when the servers are as they are.
    servers_since: Time,
    /// They were out of reach for long, and have not been back for long.
    servers_low: bool,
}

impl Fitness {
    pub(super) fn new(now: Time) -> Self {
        Self {
            items: [const { None }; Item::COUNT],
            good_since: None,
            ever_fit: false,
            fit: false,
            servers: Servers::Unknown,
            servers_since: now,
            servers_low: false,
        }
    }

    pub(super) fn set(&mut self, item: Item, health: Health) {
        if let Some(slot) = self.items.get_mut(item as usize) {
            *slot = Some(health);
        }
    }

    /// Whatever was not told is good, and the helper is there.
    pub(super) fn presume(&mut self) {
        self.set(Item::Helper, Health::Good);
        for item in &mut self.items {
            item.get_or_insert(Health::Good);
        }
    }

    /// What is wrong now, without hysteresis: the first item that is not well.
    pub(super) fn fault(&self) -> Option<String> {
        Item::ALL.iter().zip(&self.items).find_map(|(item, health)| match health {
            Some(Health::Good) => None,
            Some(Health::Bad(reason)) => Some(reason.clone()),
            None => Some(format!("{item}: not looked at yet")),
        })
    }

    fn well(&self) -> bool {
        self.items.iter().all(|health| *health == Some(Health::Good))
    }

    /// The verdict, if it has changed.
    pub(super) fn judge(&mut self, now: Time, params: &Params) -> Option<bool> {
        let was = self.fit;
        if self.well() {
            let since = *self.good_since.get_or_insert(now);
            self.fit = self.fit || !self.ever_fit || now >= since + params.fit_again;
        } else {
            (self.good_since, self.fit) = (None, false);
        }
        self.ever_fit |= self.fit;
        (was != self.fit).then_some(self.fit)
    }

    pub(super) fn deadline(&self, params: &Params) -> Option<Time> {
        self.good_since.filter(|_| !self.fit).map(|since| since + params.fit_again)
    }

    pub(super) fn set_servers(&mut self, now: Time, servers: Servers) {
        let was = self.servers_reachable();
        self.servers = servers;
        if was != self.servers_reachable() {
            self.servers_since = now;
        }
    }

    pub(super) fn servers_reachable(&self) -> bool {
        !matches!(self.servers, Servers::Unreachable(_))
    }

    /// Since when they are as they are.
    pub(super) fn servers_since(&self) -> Time {
        self.servers_since
    }

    pub(super) fn servers_reason(&self) -> &str {
        if let Servers::Unreachable(reason) = &self.servers { reason } else { "" }
    }

    /// Out of reach for [`Params::servers_down_delay`].
    pub(super) fn servers_down(&self, now: Time, params: &Params) -> bool {
        !self.servers_reachable() && now >= self.servers_since + params.servers_down_delay
    }

    /// Has the mark been set or taken away? `moved`: the last move because of servers.
    pub(super) fn mark_servers(&mut self, now: Time, params: &Params, moved: Option<Time>) {
        if self.servers_down(now, params) {
            self.servers_low = true;
        } else if self.servers_reachable() {
            self.servers_low &= now < self.servers_trusted_at(params, moved);
        }
    }

    /// When servers that are back count as before.
    pub(super) fn servers_trusted_at(&self, params: &Params, moved: Option<Time>) -> Time {
        let steady = self.servers_since + params.servers_again;
        moved.map_or(steady, |moved| steady.max(moved + params.servers_gap))
    }

    /// The mark that makes this node the last to take over.
    pub(super) fn servers_low(&self) -> bool {
        self.servers_low
    }
}
