//! The properties. After every event it is noted what has changed, and before the next one it is judged what has been true until
//! then, so that no moment is missed.
//!
//! With `i` the longest interval of the run, `d` the longest delay of the network and `h` what the machines themselves may need
//! (messages within a node, an advert that waits for its address, one question for duplicates):
//!
//! - **(a) At most one holder.** Two nodes hold an address together for no longer than `2 i + 2 d + h`: skew and one interval,
//!   as long as no advert is lost. The time counts from the last fault: a partition, a lost advert, a process that is stopped or
//!   gone, or the life of an address whose helper has died.
//! - **(b) Somebody holds it.** While a node is eligible, an address is without a holder for no longer than `8 i + 2 d + h`: three
//!   intervals and skew of silence (4 i), the second opinion of a peer that has died just after it (up to 3 i), and one more
//!   interval for a timer that was late. After a fault of processes it may be longer by the lease, the time until a link or
//!   a helper counts as lost; after a return of health by `fit_again`. Partitions are no excuse.
//! - **(c) Unfit nodes do not hold.** A node whose health is bad or whose pooler does not run holds nothing longer than the lease,
//!   while its helper runs. (Without a helper the kernel takes the address away after two seconds.)
//! - **(d) Convergence**: see `sim.rs`.
//! - **(e) Make before break.** From a planned move in a clean network on there is no moment without a holder.
//! - **(f) No bouncing**: see `sim.rs`.
//! - **(g) Rest.** No decision calls forth others without an end, and no timer goes off again and again.

use std::collections::HashMap;

use super::node::{VALID, VALID_LATE};
use super::world::{Setup, World, nanos};
use super::{MILLI, SECOND};

/// See above.
const MACHINES: u64 = 60 * MILLI;

pub(crate) struct Judge {
    /// Per router: which nodes hold it, since when that is so, and who was the last to hold it alone.
    holders: Vec<u8>,
    since: Vec<u64>,
    pub(crate) owner: Vec<Option<usize>>,
    /// How often the owner has changed.
    pub(crate) moves: Vec<u64>,
    pub(crate) moved_at: Vec<u64>,
    pub(crate) transitions: u64,
    sound: [bool; 2],
    cut: bool,
    /// The last change of the two.
    fault_at: u64,
    process_fault_at: u64,
    /// Until then addresses of helpers that were not there may live on.
    stale_until: u64,
    pub(crate) eligible_since: [Option<u64>; 2],
    unfit_since: [Option<u64>; 2],
    helper_since: [Option<u64>; 2],
    pub(crate) input_at: u64,
    /// A planned move is under way, and there is no reason for a gap.
    no_gap: bool,
    failure: Option<String>,
    commands: HashMap<u64, Command>,
    pub(crate) commands_done: u64,
    pub(crate) longest_overlap: u64,
    interval: u64,
    delay: u64,
    slow: u64,
    fit_again: u64,
    lease: u64,
}

struct Command {
    node: usize,
    at: u64,
    clean: bool,
}

impl Judge {
    pub(crate) fn new(setup: &Setup) -> Self {
        let count = setup.routers.len();
        let interval = nanos(setup.interval);
        Self {
            holders: vec![0; count],
            since: vec![0; count],
            owner: vec![None; count],
            moves: vec![0; count],
            moved_at: vec![0; count],
            transitions: 0,
            sound: [false; 2],
            cut: false,
            fault_at: 0,
            process_fault_at: 0,
            stale_until: 0,
            eligible_since: [None; 2],
            unfit_since: [None; 2],
            helper_since: [None; 2],
            input_at: 0,
            no_gap: false,
            failure: None,
            commands: HashMap::new(),
            commands_done: 0,
            longest_overlap: 0,
            interval,
            delay: setup.delay.1,
            slow: setup.lease() + setup.link_timeout + SECOND + 200 * MILLI,
            fit_again: nanos(setup.fit_again),
            lease: setup.lease(),
        }
    }

    /// A reload may make it longer.
    pub(crate) fn interval_is(&mut self, setup: &Setup) {
        self.interval = self.interval.max(nanos(setup.interval));
        self.lease = self.lease.max(setup.lease());
        self.slow = self.slow.max(setup.lease() + setup.link_timeout + SECOND + 200 * MILLI);
    }

    /// (a)
    fn together(&self) -> u64 {
        2 * self.interval + 2 * self.delay + MACHINES
    }

    /// (b)
    fn without(&self) -> u64 {
        8 * self.interval + 2 * self.delay + MACHINES
    }

    /// After this time nothing that was done to the pair has any effect still under way.
    pub(crate) fn settled(&self, setup: &Setup) -> u64 {
        self.fit_again
            + self.slow
            + self.without()
            + VALID
            + VALID_LATE
            + nanos(setup.switchover_timeout)
            + 5 * SECOND // until a move that has failed is tried again
            + 4 * SECOND // servers
            + SECOND
    }

    /// What was true until now.
    pub(crate) fn look(world: &mut World) -> Result<(), String> {
        if let Some(failure) = world.judge.failure.take() {
            return Err(failure);
        }
        let (t, judge) = (world.t, &world.judge);
        let quiet = judge.sound == [true; 2] && !judge.cut;
        for router in 0..judge.holders.len() {
            let since = judge.since[router];
            match judge.holders[router].count_ones() {
                2 if quiet => {
                    let from = since.max(judge.fault_at).max(world.net.last_drop).max(judge.stale_until);
                    if t.saturating_sub(from) > judge.together() {
                        return Err(format!("(a) both nodes hold r{router} since {} ms", since / MILLI));
                    }
                }
                0 => judge.gap(world, router, since)?,
                _ => {}
            }
        }
        for (index, node) in world.nodes.iter().enumerate() {
            let Some(unfit) = judge.unfit_since[index] else { continue };
            let Some(helper) = judge.helper_since[index] else { continue };
            let held = (0..judge.holders.len()).find(|router| node.holds(*router));
            if let Some(router) = held
                && t.saturating_sub(unfit.max(helper).max(judge.stale_until)) > judge.lease + MACHINES
            {
                return Err(format!("(c) node {index} is unfit since {} ms and holds r{router}", unfit / MILLI));
            }
        }
        Ok(())
    }

    fn gap(&self, world: &World, router: usize, since: u64) -> Result<(), String> {
        for (index, node) in world.nodes.iter().enumerate() {
            let Some(eligible) = self.eligible_since[index] else { continue };
            let other = &world.nodes[1 - index];
            // Nobody notices a helper that is stopped: its pooler goes on advertising.
            if other.helper_stopped && other.pooler_runs() {
                continue;
            }
            let mut from = since.max(eligible + self.fit_again);
            let slow = world.t < self.process_fault_at.max(self.stale_until).max(eligible) + self.slow + self.without();
            if slow || self.sound != [true; 2] {
                from = from.max(self.process_fault_at) + self.slow;
            }
            if node.eligible() && world.t.saturating_sub(from) > self.without() {
                return Err(format!(
                    "(b) nobody holds r{router} since {} ms, but node {index} is eligible since {} ms",
                    since / MILLI,
                    eligible / MILLI
                ));
            }
        }
        Ok(())
    }

    /// Something has been done to the pair.
    pub(crate) fn facts_changed(world: &mut World) {
        world.judge.input_at = world.t;
    }

    /// What has changed by the last event.
    pub(crate) fn note_changes(world: &mut World) {
        let t = world.t;
        let World { judge, nodes, net, .. } = world;
        let sound = [nodes[0].sound() && !nodes[0].replacing, nodes[1].sound() && !nodes[1].replacing];
        if sound != judge.sound {
            judge.sound = sound;
            (judge.fault_at, judge.process_fault_at, judge.no_gap) = (t, t, false);
        }
        if net.cut() != judge.cut {
            (judge.cut, judge.fault_at, judge.no_gap) = (net.cut(), t, false);
        }
        for (index, node) in nodes.iter().enumerate() {
            if !node.helper_runs() {
                judge.stale_until = t + VALID + VALID_LATE;
            }
            let keep = |slot: &mut Option<u64>, is: bool| *slot = is.then(|| slot.unwrap_or(t));
            keep(&mut judge.eligible_since[index], node.eligible() && !node.replacing);
            keep(&mut judge.unfit_since[index], !(node.replacing || node.well() && node.pooler_runs()));
            keep(&mut judge.helper_since[index], node.helper_runs());
        }
        for router in 0..judge.holders.len() {
            let mask = u8::from(nodes[0].holds(router)) | u8::from(nodes[1].holds(router)) << 1;
            if mask == judge.holders[router] {
                continue;
            }
            if judge.holders[router] == 3 {
                judge.longest_overlap = judge.longest_overlap.max(t - judge.since[router]);
            }
            (judge.holders[router], judge.since[router]) = (mask, t);
            if mask == 0 && judge.no_gap {
                judge.failure = Some(format!("(e) a planned move has left r{router} without a holder"));
            }
            let owner = match mask {
                1 => Some(0),
                2 => Some(1),
                _ => continue,
            };
            if owner != judge.owner[router] {
                judge.moves[router] += u64::from(judge.owner[router].is_some());
                (judge.owner[router], judge.moved_at[router]) = (owner, t);
            }
        }
    }

    pub(crate) fn holders(&self, router: usize) -> u8 {
        self.holders[router]
    }

    /// Both nodes are as well as can be, and have been for long.
    pub(crate) fn is_clean(world: &World) -> bool {
        let judge = &world.judge;
        let settled = judge.settled(&world.setup);
        let since = judge.input_at.max(judge.fault_at).max(judge.stale_until).max(world.net.last_drop);
        let eligible = judge.eligible_since.iter().all(|since| since.is_some_and(|since| since + settled < world.t));
        let servers = world.nodes.iter().all(|node| node.truth.servers);
        world.setup.link && world.net.loss == 0 && !judge.cut && eligible && servers && since + settled < world.t
    }

    /// Something planned begins. In a clean network there is no reason for a gap.
    pub(crate) fn planned(world: &mut World) {
        world.judge.no_gap = Self::is_clean(world);
    }

    /// Something else happens: whatever is under way may be disturbed.
    pub(crate) fn disturbed(&mut self) {
        self.no_gap = false;
    }

    pub(crate) fn command(world: &mut World, command: u64, node: usize, router: Option<usize>) {
        let routers = (0..world.setup.routers.len()).filter(|index| router.is_none_or(|router| router == *index));
        let here = routers.clone().all(|index| world.judge.owner[index] == Some(node));
        let clean = world.judge.no_gap && here;
        world.judge.commands.insert(command, Command { node, at: world.t, clean });
    }

    pub(crate) fn command_done(world: &mut World, id: u64, ok: bool, text: &str) -> Result<(), String> {
        let Some(command) = world.judge.commands.remove(&id) else {
            return Err(format!("command {id} answered twice"));
        };
        world.judge.commands_done += u64::from(ok);
        // Nothing has happened since.
        if command.clean && world.judge.no_gap && world.judge.input_at <= command.at && !ok {
            return Err(format!("(e) SWITCHOVER on node {} has failed: {text}", command.node));
        }
        Ok(())
    }

    /// The process was ended in the midst of its leave, and nobody answers what it was asked.
    pub(crate) fn cut_short(&mut self, node: usize) {
        self.commands.retain(|_, command| command.node != node);
    }

    /// Every command must have been answered, unless its process has gone.
    pub(crate) fn unanswered(world: &World) -> Option<u64> {
        let lately = |command: &Command| command.at > world.judge.process_fault_at;
        world.judge.commands.iter().find(|(_, command)| lately(command)).map(|(id, _)| *id)
    }
}
