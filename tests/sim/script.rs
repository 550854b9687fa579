//! What is done to the pair, and the random schedules of it.

use std::time::Duration;

use pgtandem::ha::{Event, Item};
use pgtandem::vrrp::Family;

use super::judge::Judge;
use super::node::Reload;
use super::rng::Rng;
use super::world::{Setup, SetupRouter, World};
use super::{MICRO, MILLI, SECOND};

/// Something that is done to a node or to the network.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    StartPooler(usize),
    KillPooler(usize),
    /// SIGSTOP and SIGCONT.
    StopPooler(usize, bool),
    StartHelper(usize),
    KillHelper(usize),
    StopHelper(usize, bool),
    /// The machine as a whole; with `frozen` its clock does not notice.
    Pause(usize, bool),
    Unpause(usize),
    /// An upgrade: a successor takes over after this time.
    Replace(usize, u64),
    Health(usize, Item, bool),
    Servers(usize, bool),
    Interface(usize, bool),
    CutAdverts(usize, bool),
    CutLink(usize, bool),
    Loss(u64),
    Switchover(usize, Option<usize>),
    Maintenance(usize, bool),
    Drain(usize, bool),
    Leave(usize),
    /// The configuration of both nodes changes...
    Settings(Reload),
    /// ...and a node reads it.
    Reload(usize),
    /// All is well again.
    Heal,
}

impl World {
    pub(crate) fn act(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Switchover(..) | Act::Maintenance(_, true) | Act::Drain(_, true) | Act::Leave(_) => {
                Judge::planned(self);
            }
            Act::Servers(_, false) => Judge::planned(self),
            _ => self.judge.disturbed(),
        }
        match act {
            // A machine that stands still starts nothing.
            Act::StartPooler(node) | Act::StartHelper(node) if self.nodes[node].paused.is_some() => {
                self.later(50 * MILLI, act);
            }
            Act::StartPooler(node) => {
                if self.nodes[node].pooler.is_none() && !self.nodes[node].replacing {
                    self.start_pooler(node, false);
                }
            }
            Act::KillPooler(node) => self.end_pooler(node),
            Act::StopPooler(node, stopped) => {
                self.nodes[node].pooler_stopped = stopped && self.nodes[node].pooler.is_some();
                self.wake(node);
            }
            Act::StartHelper(node) => self.start_helper(node),
            Act::KillHelper(node) => self.kill_helper(node),
            Act::StopHelper(node, stopped) => {
                self.nodes[node].helper_stopped = stopped && self.nodes[node].helper.is_some();
                self.wake(node);
            }
            Act::Pause(node, frozen) => {
                let t = self.t;
                self.nodes[node].paused.get_or_insert((t, frozen));
            }
            Act::Unpause(node) => {
                if let Some((since, frozen)) = self.nodes[node].paused.take()
                    && frozen
                {
                    let span = self.t - since;
                    self.nodes[node].shift(span);
                }
                self.wake(node);
            }
            Act::Replace(node, gap) => self.replace_pooler(node, gap),
            Act::Health(node, item, good) => {
                self.nodes[node].truth.bad[item as usize] = !good;
                if self.nodes[node].pooler.is_some() {
                    self.tell_health(node, item);
                }
            }
            Act::Servers(node, reachable) => {
                self.nodes[node].truth.servers = reachable;
                self.tell_servers(node, reachable);
            }
            Act::Interface(node, up) => self.set_interface(node, up),
            Act::CutAdverts(from, cut) => self.net.adverts_cut[from] = cut,
            Act::CutLink(from, cut) => self.net.link_cut[from] = cut,
            Act::Loss(percent) => self.net.loss = percent,
            Act::Settings(Reload { interval, preempt }) => {
                (self.setup.interval, self.setup.preempt) = (interval, preempt);
                let setup = self.setup.clone();
                self.judge.interval_is(&setup);
            }
            Act::Reload(node) => self.reload(node),
            Act::Heal => self.heal()?,
            Act::Switchover(..) | Act::Maintenance(..) | Act::Drain(..) | Act::Leave(_) => self.command(act),
        }
        Ok(())
    }

    /// What an administrator says.
    fn command(&mut self, act: Act) {
        let there = |world: &Self, node: usize| world.nodes[node].pooler.is_some();
        match act {
            Act::Switchover(node, router) if there(self, node) => {
                let command = self.new_command();
                Judge::command(self, command, node, router);
                self.consider(node, Event::Switchover { command, router, by: "admin".to_owned() });
            }
            Act::Maintenance(node, on) if there(self, node) => {
                self.nodes[node].truth.maintenance = on;
                self.consider(node, Event::Maintenance { on, by: "admin".to_owned() });
            }
            Act::Drain(node, on) if there(self, node) => {
                self.nodes[node].truth.draining = on;
                self.consider(node, Event::Draining(on));
            }
            Act::Leave(node) if there(self, node) => {
                self.nodes[node].truth.leaving = true;
                self.consider(node, Event::Leave);
            }
            _ => {}
        }
    }

    fn wake(&mut self, node: usize) {
        let t = self.t;
        self.nodes[node].wake = [u64::MAX; 2];
        // Which of the two is first after a pause is chance.
        self.wake_pooler(node, t);
        self.wake_helper(node, t);
    }

    /// All faults end; what is gone is started again.
    fn heal(&mut self) -> Result<(), String> {
        (self.net.adverts_cut, self.net.link_cut) = ([false; 2], [false; 2]);
        (self.net.loss, self.net.duplicates) = (0, 0);
        for node in 0..2 {
            self.act(Act::Unpause(node))?;
            self.act(Act::StopPooler(node, false))?;
            self.act(Act::StopHelper(node, false))?;
            self.act(Act::Interface(node, true))?;
            self.start_helper(node);
            for item in Item::ALL {
                if self.nodes[node].truth.bad[item as usize] {
                    self.act(Act::Health(node, item, true))?;
                }
            }
            if self.nodes[node].truth.leaving {
                self.end_pooler(node);
                self.judge.cut_short(node);
            }
            self.act(Act::StartPooler(node))?;
            self.act(Act::Servers(node, true))?;
            self.act(Act::Maintenance(node, false))?;
            self.act(Act::Drain(node, false))?;
        }
        Ok(())
    }
}

/// The same pair for every seed.
pub(crate) fn setup(rng: &mut Rng) -> Setup {
    let families = [Family::V4, Family::V6];
    let priorities = if rng.percent(20) { [rng.pick(&[100, 200, 255]), 100] } else { [254, 253] };
    let mut routers = vec![SetupRouter { family: rng.pick(&families), priority: priorities }];
    if rng.percent(30) {
        let [first, second] = priorities;
        routers.push(SetupRouter { family: rng.pick(&families), priority: [second, first] });
    }
    let interval = Duration::from_millis(rng.pick(&[10, 20, 50, 100, 100, 100, 100, 100, 200, 200, 1000]));
    let lossy = rng.percent(50);
    Setup {
        routers,
        interval,
        preempt: rng.percent(40),
        sole_peer: rng.percent(80),
        link: rng.percent(85),
        link_timeout: rng.pick(&[300, 1000]) * MILLI,
        fit_again: Duration::from_millis(rng.pick(&[200, 500, 2000])),
        delay: (50 * MICRO, rng.pick(&[300 * MICRO, MILLI, 5 * MILLI, 20 * MILLI])),
        loss: if lossy { rng.pick(&[1, 5, 20]) } else { 0 },
        duplicates: if rng.percent(30) { 10 } else { 0 },
        switchover_timeout: Duration::from_millis(rng.pick(&[200, 1000])),
        restless: rng.pick(&[0, 0, 30]),
    }
}

/// How long something lasts: very short, about as long as the protocol's times, or long.
fn span(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.between(50 * MICRO, 5 * MILLI),
        1 => rng.between(5 * MILLI, 150 * MILLI),
        2 => rng.between(100 * MILLI, SECOND),
        _ => rng.between(SECOND, 5 * SECOND),
    }
}

/// Both nodes started, at the same time or not.
pub(crate) fn beginning(rng: &mut Rng) -> Vec<(u64, Act)> {
    let apart = if rng.percent(50) { 0 } else { span(rng) };
    let first = rng.index(2);
    vec![(0, Act::StartPooler(first)), (apart, Act::StartPooler(1 - first))]
}

/// Anything at any time, then all is well; also when that is.
pub(crate) fn chaos(rng: &mut Rng, setup: &Setup) -> (Vec<(u64, Act)>, u64) {
    let mut acts = beginning(rng);
    let mut t = span(rng);
    for _ in 0..rng.between(2, 14) {
        t += span(rng);
        let end = t + span(rng);
        let node = rng.index(2);
        let (begin, finish) = fault(rng, setup, node);
        acts.push((t, begin));
        acts.extend(finish.map(|finish| (end, finish)));
        if rng.percent(10) {
            // A reload that reaches the nodes one after the other.
            let interval = Duration::from_millis(rng.pick(&[20, 50, 100, 200]));
            acts.push((t, Act::Settings(Reload { interval, preempt: rng.percent(50) })));
            acts.push((t, Act::Reload(node)));
            acts.push((t + span(rng).min(SECOND), Act::Reload(1 - node)));
        }
    }
    let end = acts.iter().map(|(at, _)| *at).max().unwrap_or(0) + SECOND;
    acts.push((end, Act::Heal));
    (acts, end)
}

/// One fault or command, and its end.
fn fault(rng: &mut Rng, setup: &Setup, node: usize) -> (Act, Option<Act>) {
    let router = rng.percent(50).then(|| rng.index(setup.routers.len()));
    match rng.below(24) {
        0 | 1 => (Act::KillPooler(node), Some(Act::StartPooler(node))),
        2 | 3 => (Act::StopPooler(node, true), Some(Act::StopPooler(node, false))),
        4 => (Act::KillHelper(node), Some(Act::StartHelper(node))),
        5 => (Act::StopHelper(node, true), Some(Act::StopHelper(node, false))),
        6 | 7 => (Act::Pause(node, rng.percent(50)), Some(Act::Unpause(node))),
        8 => (Act::Replace(node, rng.between(MILLI, 2 * SECOND)), None),
        9..=11 => {
            let item = rng.pick(&[Item::Workers, Item::Probe, Item::Listeners, Item::Certificates]);
            (Act::Health(node, item, false), Some(Act::Health(node, item, true)))
        }
        12 | 13 => (Act::Servers(node, false), Some(Act::Servers(node, true))),
        14 => (Act::Interface(node, false), Some(Act::Interface(node, true))),
        15 => (Act::CutAdverts(node, true), Some(Act::CutAdverts(node, false))),
        16 => (Act::CutLink(node, true), Some(Act::CutLink(node, false))),
        17 => (Act::Loss(rng.pick(&[10, 50, 90])), Some(Act::Loss(setup.loss))),
        18 | 19 => (Act::Switchover(node, router), None),
        20 | 21 => (Act::Maintenance(node, true), Some(Act::Maintenance(node, false))),
        22 => (Act::Drain(node, true), Some(Act::Drain(node, false))),
        _ => (Act::Leave(node), Some(Act::StartPooler(node))),
    }
}
