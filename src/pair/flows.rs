//! The peer's client connections, so that this node can reset them when it takes over from a peer that is dead: a client that
//! waits for a reply then learns at once that none will come.
//!
//! The sender ([`Outgoing`]) keeps its own list and sends what has changed, at once after a rest of [`BATCH`] and else gathered for
//! so long, or all of it on a new link.
//! At most [`WINDOW`] messages are under way unacknowledged; what changes meanwhile waits as a change of the list, not as a
//! message, so nothing grows beyond the list. The receiver ([`Incoming`]) notices a gap by the numbers and asks for all.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};

use super::bounded::FlowList;
use super::message::{FLOWS_MAX, Flow, Flows, FlowsSeen};
use crate::clock::Time;

/// The most flows of one node that are known to the other.
pub const HELD_MAX: usize = 131_072;

/// For how long changes are gathered after a message.
pub const BATCH: Duration = Duration::from_millis(5);

/// The most messages that are sent before the first is acknowledged.
pub const WINDOW: u64 = 8;

/// A flow with addresses in their plain form: a client of IPv4 on a socket of IPv6 is one of IPv4.
fn plain(flow: Flow) -> Flow {
    let plain = |mut end: std::net::SocketAddr| {
        end.set_ip(end.ip().to_canonical());
        end
    };
    Flow { client: plain(flow.client), local: plain(flow.local) }
}

/// This node's flows, and what the peer does not know of them yet.
#[derive(Debug, Default)]
pub struct Outgoing {
    held: FxHashSet<Flow>,
    /// What has changed since it was sent: come (true) or gone.
    changes: FxHashMap<Flow, bool>,
    /// Flows that are there and were left out, because there are too many.
    left_out: u64,
    up: bool,
    epoch: u64,
    seq: u64,
    seen: u64,
    /// The beginning of this epoch was sent.
    begun: bool,
    send_at: Option<Time>,
    /// Changes are not sent before.
    rests_until: Time,
}

impl Outgoing {
    /// A client has come.
    pub fn add(&mut self, now: Time, flow: Flow) {
        let flow = plain(flow);
        if self.held.len() >= HELD_MAX && !self.held.contains(&flow) {
            self.left_out += 1;
        } else if self.held.insert(flow) {
            self.change(now, flow, true);
        }
    }

    /// A client has gone.
    pub fn remove(&mut self, now: Time, flow: Flow) {
        let flow = plain(flow);
        if self.held.remove(&flow) {
            self.change(now, flow, false);
        }
    }

    /// A client was let go of without hearing of it. The peer is told that it is there, again if it knows, so that it resets its
    /// connection; it forgets it when it has done so.
    pub fn lose(&mut self, now: Time, flow: Flow) {
        let flow = plain(flow);
        self.held.remove(&flow);
        self.change(now, flow, true);
    }

    /// These are all that there are.
    pub fn replace(&mut self, now: Time, flows: Vec<Flow>) {
        let flows: FxHashSet<Flow> = flows.into_iter().map(plain).collect();
        let gone: Vec<Flow> = self.held.difference(&flows).copied().collect();
        gone.into_iter().for_each(|flow| self.remove(now, flow));
        flows.into_iter().for_each(|flow| self.add(now, flow));
    }

    fn change(&mut self, now: Time, flow: Flow, come: bool) {
        if !self.up {
            return;
        }
        // Come and gone again before it was told: telling that it is gone does no harm, and forgetting it could, if the peer
        // knows it from before.
        self.changes.insert(flow, come);
        // A node may die right after a client has come to it: with nothing to gather, nothing is gained by waiting.
        self.send_at.get_or_insert(now.max(self.rests_until));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many were left out because there were too many.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The peer is there, perhaps another process than before, or has asked for all: everything is sent anew.
    pub fn restart(&mut self, now: Time) {
        self.up = true;
        self.epoch += 1;
        (self.seq, self.seen, self.begun) = (0, 0, false);
        self.changes = self.held.iter().map(|flow| (*flow, true)).collect();
        self.send_at = Some(now);
    }

    /// The peer is not there: nothing is gathered for it.
    pub fn stop(&mut self) {
        self.up = false;
        self.changes = HashMap::default();
        self.send_at = None;
    }

    /// The peer has received so much, or wants all.
    pub fn seen(&mut self, now: Time, seen: FlowsSeen) {
        if !self.up {
            return;
        }
        if seen.epoch == 0 {
            self.restart(now);
        } else if seen.epoch == self.epoch && seen.seq <= self.seq {
            self.seen = self.seen.max(seen.seq);
            if !self.changes.is_empty() {
                self.send_at.get_or_insert(now);
            }
        }
    }

    /// When [`Self::next`] has something.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.send_at.filter(|_| self.up && self.seq - self.seen < WINDOW)
    }

    /// The next message, if it is time for one. To be asked until there is none.
    pub fn next(&mut self, now: Time) -> Option<Flows> {
        if self.deadline().is_none_or(|at| at > now) {
            return None;
        }
        if self.changes.is_empty() && self.begun {
            self.send_at = None;
            return None;
        }
        let batch: Vec<Flow> = self.changes.keys().take(FLOWS_MAX).copied().collect();
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for flow in batch {
            if self.changes.remove(&flow) == Some(true) { add.push(flow) } else { remove.push(flow) }
        }
        self.changes.shrink_to(FLOWS_MAX);
        self.rests_until = now + BATCH;
        self.begun = true;
        self.seq += 1;
        Some(Flows { epoch: self.epoch, seq: self.seq, add: FlowList::new(add), remove: FlowList::new(remove) })
    }
}

/// The peer's flows, as far as it has told.
#[derive(Debug, Default)]
pub struct Incoming {
    by_address: BTreeMap<IpAddr, FxHashSet<Flow>>,
    held: usize,
    epoch: u64,
    seq: u64,
    /// All was asked for.
    asked: bool,
}

impl Incoming {
    /// The peer is there, perhaps another process than before: it counts anew. What is known stays until it begins to tell.
    pub fn restart(&mut self) {
        (self.epoch, self.seq, self.asked) = (0, 0, false);
    }

    /// Takes a message in. The answer goes back to the peer.
    pub fn take(&mut self, flows: &Flows) -> Option<FlowsSeen> {
        if flows.epoch < self.epoch || (flows.epoch == self.epoch && flows.seq <= self.seq) {
            return None;
        }
        let begins = flows.seq == 1;
        if !begins && (flows.epoch != self.epoch || flows.seq != self.seq + 1) {
            // A gap. Asked once: what is still under way of this epoch has the same gap.
            let ask = !self.asked;
            self.asked = true;
            return ask.then_some(FlowsSeen { epoch: 0, seq: 0 });
        }
        if begins {
            self.clear();
            self.asked = false;
        }
        (self.epoch, self.seq) = (flows.epoch, flows.seq);
        for flow in flows.remove.iter() {
            self.remove(&plain(*flow));
        }
        for flow in flows.add.iter() {
            self.add(plain(*flow));
        }
        Some(FlowsSeen { epoch: self.epoch, seq: self.seq })
    }

    fn add(&mut self, flow: Flow) {
        if self.held < HELD_MAX && self.by_address.entry(flow.local.ip()).or_default().insert(flow) {
            self.held += 1;
        }
    }

    fn remove(&mut self, flow: &Flow) {
        let address = flow.local.ip();
        if let Some(flows) = self.by_address.get_mut(&address) {
            if flows.remove(flow) {
                self.held -= 1;
            }
            if flows.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }

    fn clear(&mut self) {
        self.by_address.clear();
        self.held = 0;
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes those to this address out: whoever resets them does so once.
    pub fn take_to(&mut self, address: IpAddr) -> Vec<Flow> {
        let flows = self.by_address.remove(&address.to_canonical()).unwrap_or_default();
        self.held -= flows.len();
        flows.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn flow(n: u32) -> Flow {
        let [a, b, c, d] = n.to_be_bytes();
        Flow {
            client: ([10, a, b, c], 1000 + u16::from(d)).into(),
            local: ([192, 0, 2, if n.is_multiple_of(2) { 10 } else { 11 }], 6432).into(),
        }
    }

    fn all(incoming: &Incoming) -> BTreeSet<Flow> {
        incoming.by_address.values().flatten().copied().collect()
    }

    #[test]
    fn a_new_link_gets_all_and_then_changes() {
        let (mut out, mut held, mut now) = (Outgoing::default(), Incoming::default(), Time(0));
        (0..20_000).for_each(|n| out.add(now, flow(n)));
        out.restart(now);
        while let Some(message) = out.next(now) {
            assert!(message.add.len() <= FLOWS_MAX);
            let seen = held.take(&message).unwrap();
            out.seen(now, seen);
        }
        assert_eq!(all(&held), out.held.iter().copied().collect());
        out.remove(now, flow(7));
        out.add(now, flow(20_000));
        assert!(out.next(now).is_none(), "changes are gathered");
        now = out.deadline().unwrap();
        let message = out.next(now).unwrap();
        assert_eq!((message.add.len(), message.remove.len()), (1, 1));
        held.take(&message);
        assert_eq!(all(&held), out.held.iter().copied().collect());
        assert_eq!(out.deadline(), Some(now), "one look more, and then rest");
        assert!(out.next(now).is_none());
        assert_eq!(out.deadline(), None);
    }

    #[test]
    fn a_client_that_comes_after_a_rest_is_told_of_at_once() {
        let mut out = Outgoing::default();
        out.restart(Time(0));
        assert!(out.next(Time(0)).is_some() && out.next(Time(0)).is_none());
        let late = Time(0) + BATCH;
        out.add(late, flow(1));
        assert_eq!(out.next(late).unwrap().add.len(), 1);
        assert!(out.next(late).is_none());
        out.add(late, flow(2));
        assert!(out.next(late).is_none(), "the next ones are gathered");
        assert_eq!(out.deadline(), Some(late + BATCH));
        assert_eq!(out.next(late + BATCH).unwrap().add.len(), 1);
    }

    #[test]
    fn who_was_let_go_of_unheard_is_told_of_whatever_was_told_before() {
        let mut out = Outgoing::default();
        out.restart(Time(0));
        out.add(Time(0), flow(1));
        assert_eq!(out.next(Time(0)).unwrap().add.len(), 1);
        // One that the peer knows, and one that has only just come.
        out.add(Time(0), flow(2));
        out.lose(Time(0), flow(1));
        out.lose(Time(0), flow(2));
        let message = out.next(Time(0) + BATCH).unwrap();
        assert_eq!((message.add.len(), message.remove.len()), (2, 0));
        assert!(out.is_empty());
    }

    #[test]
    fn an_empty_list_is_said_too() {
        let (mut out, mut held) = (Outgoing::default(), Incoming::default());
        held.add(flow(1));
        out.restart(Time(0));
        held.take(&out.next(Time(0)).unwrap());
        assert!(held.is_empty());
    }

    #[test]
    fn without_acknowledgement_only_a_window_goes_out() {
        let mut out = Outgoing::default();
        (0..20_000).for_each(|n| out.add(Time(0), flow(n)));
        out.restart(Time(0));
        assert_eq!(std::iter::from_fn(|| out.next(Time(0))).count(), 8);
        assert_eq!(out.deadline(), None);
        out.seen(Time(0), FlowsSeen { epoch: 1, seq: 3 });
        assert_eq!(std::iter::from_fn(|| out.next(Time(0))).count(), 3);
    }

    #[test]
    fn a_whole_list_takes_the_place_of_what_was_known() {
        let (mut out, mut held) = (Outgoing::default(), Incoming::default());
        (0..10).for_each(|n| out.add(Time(0), flow(n)));
        out.restart(Time(0));
        held.take(&out.next(Time(0)).unwrap());
        out.replace(Time(1), (5..20).map(flow).collect());
        let message = out.next(out.deadline().unwrap()).unwrap();
        assert_eq!((message.add.len(), message.remove.len()), (10, 5));
        held.take(&message);
        assert_eq!(all(&held), (5..20).map(flow).collect());
    }

    #[test]
    fn neither_side_holds_more_than_the_limit() {
        let mut out = Outgoing::default();
        (0..HELD_MAX as u32 + 5).for_each(|n| out.add(Time(0), flow(n)));
        assert_eq!((out.len(), out.left_out()), (HELD_MAX, 5));
        let mut held = Incoming::default();
        for seq in 1..=140 {
            let add = FlowList::new((0..1000).map(|n| flow(seq * 1000 + n)).collect());
            held.take(&Flows { epoch: 1, seq: seq.into(), add, remove: FlowList::default() });
        }
        assert_eq!(held.len(), HELD_MAX);
    }

    #[test]
    fn a_takeover_takes_the_flows_of_one_address() {
        let mut held = Incoming::default();
        let add = FlowList::new((0..10).map(flow).collect());
        held.take(&Flows { epoch: 1, seq: 1, add, remove: FlowList::default() });
        assert_eq!(held.take_to("192.0.2.10".parse().unwrap()).len(), 5);
        assert_eq!(held.take_to("::ffff:192.0.2.10".parse().unwrap()).len(), 0);
        assert_eq!(held.take_to("::ffff:192.0.2.11".parse().unwrap()).len(), 5);
        assert!(held.is_empty());
    }

    proptest! {
        /// Whatever comes, goes, is lost with its path and arrives twice: in the end the peer has the same list.
        #[test]
        fn the_lists_become_one(ops in prop::collection::vec((0u8..8, 0u32..60), 1..400)) {
            let (mut out, mut held, mut now) = (Outgoing::default(), Incoming::default(), Time(0));
            out.restart(now);
            let mut wire: Vec<Flows> = Vec::new();
            for (op, n) in ops {
                now = now + Duration::from_millis(7);
                match op {
                    0..=2 => out.add(now, flow(n)),
                    3 | 4 => out.remove(now, flow(n)),
                    5 => wire.extend(out.next(now)),
                    6 if n < 10 => { wire.truncate(1); },
                    6 if n < 14 => { out.restart(now); held.restart(); },
                    6 if n < 18 => out.stop(),
                    _ if !wire.is_empty() => {
                        let message = if n.is_multiple_of(5) { wire[0].clone() } else { wire.remove(0) };
                        if let Some(seen) = held.take(&message) { out.seen(now, seen); }
                    }
                    _ => {}
                }
                prop_assert_eq!(held.len(), all(&held).len());
                prop_assert!(out.changes.len() <= 60);
            }
            // A path is lost, the next one is new.
            out.restart(now);
            held.restart();
            for _ in 0..100 {
                now = now + BATCH;
                while let Some(message) = out.next(now) {
                    if let Some(seen) = held.take(&message) { out.seen(now, seen); }
                }
            }
            prop_assert_eq!(all(&held), out.held.iter().copied().collect::<BTreeSet<_>>());
        }
    }
}
