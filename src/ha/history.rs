//! The last decisions, for SHOW HA HISTORY.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Time;
use crate::vrrp::State;

/// How many are kept.
pub const HISTORY_LEN: usize = 64;

/// One decision or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Time,
    /// Of which virtual router; `None`: of the node.
    pub router: Option<String>,
    /// The state before.
    pub from: Option<State>,
    /// The state after.
    pub to: Option<State>,
    /// Why, or what.
    pub reason: String,
    /// How long a planned move took, from the wish to the end.
    pub took: Option<Duration>,
}

impl Entry {
    /// Something that concerns the whole node.
    pub(super) fn of_node(at: Time, reason: String) -> Self {
        Self { at, router: None, from: None, to: None, reason, took: None }
    }
}

/// The ring.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    entries: VecDeque<Entry>,
}

impl History {
    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() == HISTORY_LEN {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}
