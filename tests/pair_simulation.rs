//! Two nodes in virtual time: the state machine of a virtual router, the decision, the helper's lease and a link, over a network
//! that loses, doubles, delays and cuts, on machines that stand still, die and come back. Thousands of failovers a second.
//!
//! `SIM_RUNS=100000 cargo test --release --test pair_simulation` runs many schedules, `SIM_SEED=17` one of them again.

#![expect(clippy::unwrap_used, reason = "a failing case must stop")]

use std::collections::BTreeMap;
use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use pgtandem::clock::Time;
use pgtandem::ha::{
    self, Action, Event as Told, Ha, Health, Item, Order, RouterKey, RouterParams, RouterStatus, Servers, Status,
};
use pgtandem::vrrp::{self, Advert, ChecksumVariant, Event, Family, Params, Router, State, Version};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const FLOATING: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const STEP: u64 = 50_000;
const BEAT: u64 = 100 * MS;
const LINK_TIMEOUT: u64 = SECOND;

/// SplitMix64: a seed reproduces a schedule.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

#[derive(Clone, Debug)]
enum Mail {
    Advert(Advert),
    Beat(Box<Status>),
    Ask { id: u64, routers: Vec<RouterKey>, reason: String },
    Answer { id: u64, accepted: bool, text: String },
    LeaseOver,
}

struct Node {
    router: Router,
    ha: Ha,
    alive: bool,
    /// The process stands still until then; its helper does not.
    paused_until: u64,
    restart_at: Option<u64>,
    inbox: Vec<Mail>,
    /// The helper's.
    held: bool,
    lease_until: u64,
    renewed_at: u64,
    /// The decision's.
    fit: bool,
    heard: Option<u64>,
    link_up: bool,
    beat_at: u64,
    unfit_since: Option<u64>,
}

struct World {
    now: u64,
    seq: u64,
    dice: Dice,
    interval: u64,
    nodes: [Node; 2],
    queue: BTreeMap<(u64, u64), (usize, Mail)>,
    adverts_cut: [bool; 2],
    link_cut: [bool; 2],
    loss: u64,
    duplicates: u64,
    delay: (u64, u64),
    /// Since when nothing has been wrong with anything.
    calm_since: u64,
    nobody_since: Option<u64>,
    two_since: Option<u64>,
    commands: u64,
    preempt: bool,
    seed: u64,
    transitions: u64,
}

fn address(node: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + u8::try_from(node).unwrap()))
}

fn key() -> RouterKey {
    RouterKey { vrid: 51, family: Family::V4 }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let interval = [10, 20, 100, 1000][usize::try_from(dice.next() % 4).unwrap()] * MS;
        let preempt = dice.percent(30);
        let delay = if dice.percent(70) { (50_000, MS) } else { (50_000, 5 * MS) };
        let nodes = [0, 1].map(|node| Self::node(0, node, interval, preempt));
        let mut world = Self {
            now: 0,
            seq: 0,
            dice,
            interval,
            nodes,
            queue: BTreeMap::new(),
            adverts_cut: [false; 2],
            link_cut: [false; 2],
            loss: 0,
            duplicates: 0,
            delay,
            calm_since: 0,
            nobody_since: Some(0),
            two_since: None,
            commands: 0,
            preempt,
            seed,
            transitions: 0,
        };
        for node in 0..2 {
            world.come_up(node);
        }
        world
    }

    fn node(now: u64, node: usize, interval: u64, preempt: bool) -> Node {
        let span = Duration::from_nanos(interval);
        let params = Params {
            vrid: 51,
            family: Family::V4,
            version: Version::V3,
            priority: if node == 0 { 254 } else { 253 },
            interval: span,
            preempt,
            preempt_delay: Duration::ZERO,
            sole_peer: true,
            addresses: vec![FLOATING],
            unicast_peers: Vec::new(),
            link_local_first: false,
            checksum: ChecksumVariant::Plain,
        };
        let router = RouterParams { name: "r".into(), key: key(), interval: span, priority: params.priority, preempt };
        let mut decision = ha::Params::new(format!("n{node}"), vec![router], true);
        decision.switchover_timeout = Duration::from_millis(500);
        Node {
            router: Router::new(Time(now), params, address(node)),
            ha: Ha::new(Time(now), decision, &[]),
            alive: true,
            paused_until: 0,
            restart_at: None,
            inbox: Vec::new(),
            held: false,
            lease_until: 0,
            renewed_at: 0,
            fit: true,
            heard: None,
            link_up: false,
            beat_at: now,
            unfit_since: None,
        }
    }

    fn lease(&self) -> u64 {
        (3 * self.interval).clamp(100 * MS, SECOND)
    }

    fn come_up(&mut self, node: usize) {
        for item in Item::ALL {
            self.tell(node, Told::Health(item, Health::Good));
        }
        self.tell(node, Told::Servers(Servers::Reachable));
    }

    fn runs(&self, node: usize) -> bool {
        self.nodes[node].alive && self.nodes[node].paused_until <= self.now
    }

    fn post(&mut self, to: usize, mail: Mail, at: u64) {
        self.seq += 1;
        self.queue.insert((at, self.seq), (to, mail));
    }

    fn delay(&mut self) -> u64 {
        let (low, high) = self.delay;
        self.dice.between(low, high)
    }

    fn advertise(&mut self, from: usize, priority: u8) {
        let advert = self.nodes[from].router.advert(priority, Duration::from_nanos(self.interval));
        if self.adverts_cut[from] || self.dice.percent(self.loss) {
            return;
        }
        let copies = 1 + u64::from(self.dice.percent(self.duplicates));
        for _ in 0..copies {
            let at = self.now + self.delay();
            self.post(1 - from, Mail::Advert(advert.clone()), at);
        }
    }

    fn say(&mut self, from: usize, mail: Mail) {
        if !self.link_cut[from] {
            let at = self.now + self.delay();
            self.post(1 - from, mail, at);
        }
    }

    fn feed(&mut self, node: usize, event: Event<'_>) {
        let (mut out, now) = (Vec::new(), Time(self.now));
        self.nodes[node].router.step(now, event, &mut out);
        for action in out {
            match action {
                vrrp::Action::Send { priority, .. } => self.advertise(node, priority),
                // The helper holds nothing without a lease.
                vrrp::Action::Hold => {
                    self.nodes[node].held = self.nodes[node].lease_until > self.now;
                    if !self.nodes[node].held {
                        self.nodes[node].inbox.push(Mail::LeaseOver);
                    }
                }
                vrrp::Action::Release => self.nodes[node].held = false,
                vrrp::Action::Transition { to, reason, .. } => {
                    self.transitions += 1;
                    self.tell(node, Told::Router { router: 0, to, reason });
                }
                vrrp::Action::Announce | vrrp::Action::Warn(_) => {}
            }
        }
    }

    fn tell(&mut self, node: usize, event: Told) {
        let (mut out, now) = (Vec::new(), Time(self.now));
        self.nodes[node].ha.step(now, event, &mut out);
        for action in out {
            match action {
                Action::Router { order, .. } => {
                    let event = match order {
                        Order::Start { held } => Event::Start { held },
                        Order::StepDown { goodbye } => Event::Stop { goodbye },
                        Order::Yield => Event::Yield,
                        Order::YieldFor(span) => Event::YieldFor(span),
                        Order::NoYield => Event::NoYield,
                        Order::TakeOver(why) => Event::TakeOver(why),
                        Order::PeerActive(opinion) => Event::PeerActive(opinion),
                    };
                    self.feed(node, event);
                }
                Action::AskPeer { id, routers, reason } => self.say(node, Mail::Ask { id, routers, reason }),
                Action::AnswerPeer { id, accepted, text } => self.say(node, Mail::Answer { id, accepted, text }),
                Action::Quiesce { .. } => self.tell(node, Told::Quiesced),
                Action::StatusChanged => self.nodes[node].beat_at = self.now,
                Action::Resume { .. } | Action::CommandDone { .. } | Action::Log { .. } => {}
            }
        }
    }

    /// Everything that a process does when it is awake, in the order of the real loop.
    fn turn(&mut self, node: usize) {
        // The lease first: whoever becomes active in this turn needs one, also after a stall.
        let due =
            self.now >= self.nodes[node].renewed_at + self.lease() / 3 || self.nodes[node].lease_until <= self.now;
        if self.nodes[node].ha.is_well() && due {
            (self.nodes[node].renewed_at, self.nodes[node].lease_until) = (self.now, self.now + self.lease());
        }
        for mail in std::mem::take(&mut self.nodes[node].inbox) {
            match mail {
                Mail::Advert(advert) => self.feed(node, Event::Advert { from: address(1 - node), advert: &advert }),
                Mail::Beat(status) => {
                    self.nodes[node].heard = Some(self.now);
                    if !std::mem::replace(&mut self.nodes[node].link_up, true) {
                        self.tell(node, Told::PeerLink { up: true, name: Some(format!("n{}", 1 - node)) });
                    }
                    self.tell(node, Told::PeerStatus(status));
                }
                Mail::Ask { id, routers, reason } => self.tell(node, Told::PeerAsks { id, routers, reason }),
                Mail::Answer { id, accepted, text } => self.tell(node, Told::PeerAnswers { id, accepted, text }),
                Mail::LeaseOver => self.feed(node, Event::AddressesLost),
            }
        }
        let silent = self.nodes[node].heard.is_none_or(|at| self.now >= at + LINK_TIMEOUT);
        if self.nodes[node].link_up && silent {
            self.nodes[node].link_up = false;
            self.tell(node, Told::PeerLink { up: false, name: None });
        }
        if self.nodes[node].router.deadline().is_some_and(|at| at.0 <= self.now) {
            self.feed(node, Event::Timer);
        }
        if self.nodes[node].ha.deadline().is_some_and(|at| at.0 <= self.now) {
            self.tell(node, Told::Timer);
        }
        if self.now >= self.nodes[node].beat_at {
            self.nodes[node].beat_at = self.now + BEAT.min(self.interval.max(10 * MS));
            let status = self.nodes[node].ha.status();
            self.say(node, Mail::Beat(Box::new(status)));
        }
    }

    /// The helper sees the end of its pooler, and of the lease.
    fn helper(&mut self, node: usize) {
        let over = !self.nodes[node].alive || self.nodes[node].lease_until <= self.now;
        if self.nodes[node].held && over {
            self.nodes[node].held = false;
            self.advertise(node, 0);
            self.nodes[node].inbox.push(Mail::LeaseOver);
        }
    }

    fn next(&self, until: u64) -> u64 {
        let mut at = until;
        if let Some((&(due, _), _)) = self.queue.first_key_value() {
            at = at.min(due);
        }
        for node in &self.nodes {
            if let Some(due) = node.restart_at {
                at = at.min(due);
            }
            if node.held {
                at = at.min(node.lease_until);
            }
            if !node.alive {
                continue;
            }
            let due = [node.router.deadline(), node.ha.deadline()].into_iter().flatten().map(|at| at.0).min();
            let renew = if node.ha.is_well() { node.renewed_at + self.lease() / 3 } else { u64::MAX };
            let due = due.unwrap_or(u64::MAX).min(node.beat_at).min(renew);
            let lost = if node.link_up { node.heard.map_or(u64::MAX, |at| at + LINK_TIMEOUT) } else { u64::MAX };
            at = at.min(due.min(lost).max(node.paused_until));
        }
        // What is due by the clock of a machine that does not act on it must not hold time up.
        at.max(self.now + STEP).min(until.max(self.now + 1))
    }

    fn run(&mut self, until: u64) {
        while self.now < until {
            self.now = self.next(until);
            while let Some(entry) = self.queue.first_entry()
                && entry.key().0 <= self.now
            {
                let (to, mail) = entry.remove();
                // A dead process reads nothing, a stopped one later.
                if self.nodes[to].alive && self.nodes[to].inbox.len() < 1000 {
                    self.nodes[to].inbox.push(mail);
                }
            }
            for node in 0..2 {
                if self.nodes[node].restart_at.is_some_and(|at| at <= self.now) {
                    let fit = self.nodes[node].fit;
                    self.nodes[node] = Self::node(self.now, node, self.interval, self.preempt);
                    self.come_up(node);
                    self.set_fit(node, fit);
                }
                if self.runs(node) {
                    self.turn(node);
                }
                self.helper(node);
            }
            self.judge();
        }
    }

    fn set_fit(&mut self, node: usize, fit: bool) {
        self.nodes[node].fit = fit;
        let health = if fit { Health::Good } else { Health::Bad("worker thread 1 has not moved".into()) };
        if self.nodes[node].alive {
            self.tell(node, Told::Health(Item::Workers, health));
        }
    }

    /// Active_Down_Interval of the slower node, and what messages take.
    fn down_interval(&self) -> u64 {
        4 * self.interval + 4 * self.delay.1
    }

    fn judge(&mut self) {
        let now = self.now;
        for node in 0..2 {
            let since = &mut self.nodes[node].unfit_since;
            if self.nodes[node].fit {
                *since = None;
                continue;
            }
            let since = *since.get_or_insert(now);
            let late = now > since + self.lease() + MS;
            // (c) A node that is unfit holds nothing beyond its lease, whether or not it can say so.
            assert!(
                !(late && self.nodes[node].held),
                "seed {}: at {now} unfit node {node} holds the address",
                self.seed
            );
        }
        let holders = self.nodes.iter().filter(|node| node.held).count();
        self.nobody_since = if holders == 0 { self.nobody_since.or(Some(now)) } else { None };
        self.two_since = if holders == 2 { self.two_since.or(Some(now)) } else { None };
        let calm = now.saturating_sub(self.calm_since);
        let since = |at: Option<u64>| at.map_or(0, |at| now.saturating_sub(at.max(self.calm_since)));
        // (a) In calm at most one holds it, but for the time in which the other one hears so.
        let settled = self.down_interval() + 2 * self.interval + LINK_TIMEOUT;
        assert!(
            calm < settled || since(self.two_since) <= self.interval + 4 * self.delay.1 + self.lease() / 3,
            "seed {}: at {now} both hold the address since {:?}",
            self.seed,
            self.two_since
        );
        // (b) In calm somebody holds it within the bound. A node that was unfit is not counted on for two seconds more.
        let bound = self.down_interval() * 3 + 3 * SECOND + LINK_TIMEOUT;
        let pictures =
            || self.nodes.iter().map(|node| (node.alive, node.paused_until, node.router.picture(), node.ha.picture()));
        assert!(
            since(self.nobody_since) <= bound,
            "seed {}: at {now} nobody holds the address since {:?}: {:#?}",
            self.seed,
            self.nobody_since,
            pictures().collect::<Vec<_>>()
        );
    }

    /// Something goes wrong, or is mended.
    fn mischief(&mut self) {
        let node = usize::try_from(self.dice.next() % 2).unwrap();
        match self.dice.next() % 14 {
            0 => self.adverts_cut[node] ^= true,
            1 => self.link_cut[node] ^= true,
            2 => {
                self.adverts_cut = [true; 2];
                self.link_cut = [true; 2];
            }
            3 => {
                self.adverts_cut = [false; 2];
                self.link_cut = [false; 2];
            }
            4 => self.loss = self.dice.between(0, 40),
            5 => self.duplicates = self.dice.between(0, 30),
            6 => self.nodes[node].paused_until = self.now + self.dice.between(MS, 4 * SECOND),
            7 => {
                self.nodes[node].alive = false;
                self.nodes[node].inbox.clear();
                let at = self.now + self.dice.between(100 * MS, 3 * SECOND);
                self.nodes[node].restart_at.get_or_insert(at);
            }
            8 | 9 => {
                let fit = self.dice.percent(50);
                self.set_fit(node, fit);
            }
            10 if self.runs(node) => {
                let servers =
                    if self.dice.percent(50) { Servers::Reachable } else { Servers::Unreachable("refused".into()) };
                self.tell(node, Told::Servers(servers));
            }
            11 if self.runs(node) => {
                let on = self.dice.percent(30);
                self.tell(node, Told::Maintenance { on, by: "sim".into() });
            }
            _ => self.switch_over(node),
        }
    }

    fn switch_over(&mut self, node: usize) {
        if self.runs(node) {
            self.commands += 1;
            let command = self.commands;
            self.tell(node, Told::Switchover { command, router: None, by: "sim".into() });
        }
    }

    /// Everything is well from now on.
    fn mend(&mut self) {
        self.adverts_cut = [false; 2];
        self.link_cut = [false; 2];
        (self.loss, self.duplicates) = (0, 0);
        for node in 0..2 {
            self.nodes[node].paused_until = 0;
            if self.nodes[node].restart_at.is_some() {
                self.nodes[node].restart_at = Some(self.now + MS);
            }
            self.set_fit(node, true);
            if self.nodes[node].alive {
                self.tell(node, Told::Maintenance { on: false, by: "sim".into() });
                self.tell(node, Told::Servers(Servers::Reachable));
            }
        }
        self.calm_since = self.now;
    }
}

/// One schedule: trouble for a while, then calm, in which everything must come right and stay so.
fn schedule(seed: u64) -> u64 {
    let mut world = World::new(seed);
    world.run(2 * SECOND);
    for _ in 0..world.dice.between(1, 12) {
        world.mischief();
        world.calm_since = u64::MAX;
        let pause = world.dice.between(MS, 1500 * MS);
        world.run(world.now + pause);
    }
    world.mend();
    // A planned move because of servers comes no sooner than 30 s after another; what was unfit waits 2 s.
    world.run(world.now + 45 * SECOND);
    let before = world.transitions;
    let holders = || -> Vec<bool> { world.nodes.iter().map(|node| node.held).collect() };
    let found = holders();
    assert_eq!(found.iter().filter(|held| **held).count(), 1, "seed {seed}: {found:?} after all is mended");
    for node in &world.nodes {
        assert_eq!(node.held, node.router.state() == State::Active, "seed {seed}");
    }
    // (d) And it stays.
    world.run(world.now + 5 * SECOND);
    assert_eq!(world.transitions, before, "seed {seed}: it does not come to rest");
    // (f) Whoever preempts has it, if nobody has moved it.
    if world.preempt && world.commands == 0 {
        assert!(world.nodes[0].held, "seed {seed}: the higher priority has not taken over");
    }
    world.transitions
}

fn runs() -> u64 {
    let default = if cfg!(debug_assertions) { 60 } else { 20_000 };
    env::var("SIM_RUNS").ok().map_or(default, |runs| runs.parse().unwrap())
}

#[test]
fn whatever_happens_one_node_holds_the_address_in_the_end() {
    if let Ok(seed) = env::var("SIM_SEED") {
        schedule(seed.parse().unwrap());
        return;
    }
    let transitions: u64 = (0..runs()).map(schedule).sum();
    println!("{} schedules, {transitions} transitions", runs());
    assert!(transitions > runs(), "hardly anything happens");
}

/// (e) On a clean network a planned switch never leaves the address without a holder.
#[test]
fn a_planned_switch_has_no_gap() {
    for seed in 0..(runs() / 10).max(50) {
        let mut world = World::new(seed);
        world.preempt = false;
        world.nodes = [0, 1].map(|node| World::node(0, node, world.interval, false));
        world.queue.clear();
        (0..2).for_each(|node| world.come_up(node));
        world.run(6 * SECOND);
        for _ in 0..6 {
            let active = usize::from(world.nodes[1].held);
            world.switch_over(active);
            let end = world.now + world.dice.between(600 * MS, 2 * SECOND) + 5 * world.interval;
            while world.now < end {
                world.run(world.now + MS / 5);
                assert!(world.nobody_since.is_none(), "seed {seed}: nobody holds the address at {}", world.now);
            }
            assert!(world.nodes[1 - active].held && !world.nodes[active].held, "seed {seed}: it has not moved");
        }
    }
}

/// The peer's states as they are said.
#[test]
fn a_status_says_what_is() {
    let mut world = World::new(1);
    world.run(6 * SECOND);
    let states: Vec<RouterStatus> = world.nodes.iter().flat_map(|node| node.ha.status().routers).collect();
    assert_eq!(states.iter().filter(|router| router.state == State::Active).count(), 1);
}
