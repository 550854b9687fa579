use proptest::prelude::*;

use super::*;
use crate::pair::message::Name;

const LEASE: Duration = Duration::from_millis(1000);
const GRACE: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_millis(100);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn params(mode: Mode) -> Params {
    Params { mode, interval: INTERVAL, lease: LEASE, shed_grace: GRACE }
}

fn key() -> BudgetKey {
    BudgetKey::Database(Name::new("app"))
}

/// xorshift64*: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A process with its pools.
struct Process {
    boot: u8,
    budget: Budget,
    /// What the pools adhere to, and what they have.
    applied: u32,
    in_use: u32,
    demand: u32,
    /// What must be reached, and since when.
    shed: Option<(u32, Time)>,
    /// The peer's process that the link follows, and when it was heard.
    follows: Option<u8>,
    up: bool,
    heard: Time,
    hello_at: Time,
    actions: Vec<Action>,
}

/// A node: its clock goes a little wrong, and begins anywhere.
struct Node {
    offset: u64,
    rate: f64,
    boots: u8,
    down_until: Time,
    process: Option<Process>,
}

impl Node {
    fn clock(&self, real: Time) -> Time {
        Time(self.offset + (real.0 as f64 * self.rate) as u64)
    }
}

#[derive(Clone)]
enum Packet {
    Hello(u8),
    Report(BudgetReport),
}

struct World {
    mode: Mode,
    limit: u32,
    now: Time,
    nodes: [Node; 2],
    wire: Vec<(Time, usize, Packet)>,
    dice: Dice,
    /// One packet in so many is lost or doubled; 0: none. The longest delay.
    trouble: u64,
    delay: u64,
    cut: [bool; 2],
    /// Demands stay as they are.
    steady: bool,
    /// The most that both had of the limit.
    most: u32,
}

fn boot_id(node: usize, boot: u8) -> BootId {
    let mut bytes = [0; 16];
    (bytes[0], bytes[1]) = (node as u8 + 1, boot);
    BootId::new(bytes)
}

impl World {
    fn new(mode: Mode, limit: u32, seed: u64) -> Self {
        let mut dice = Dice(seed | 1);
        let mut node = || Node {
            offset: 1_000_000_000 * dice.below(1000),
            rate: 1.0 + (dice.below(21) as f64 - 10.0) / 1000.0,
            boots: 0,
            down_until: Time(0),
            process: None,
        };
        let nodes = [node(), node()];
        let (wire, cut) = (Vec::new(), [false; 2]);
        let mut world =
            Self { mode, limit, now: Time(0), nodes, wire, dice, trouble: 0, delay: 2, cut, steady: false, most: 0 };
        world.boot(0, 0);
        world.boot(1, 0);
        world
    }

    fn boot(&mut self, i: usize, in_use: u32) {
        let now = self.nodes[i].clock(self.now);
        self.nodes[i].boots += 1;
        let boot = self.nodes[i].boots;
        let mut process = Process {
            boot,
            budget: Budget::new(now, boot_id(i, boot), params(self.mode)),
            applied: 0,
            in_use,
            demand: in_use,
            shed: None,
            follows: None,
            up: false,
            heard: now,
            hello_at: now,
            actions: Vec::new(),
        };
        let key = key();
        let mut actions = Vec::new();
        process.budget.step(now, Event::Use { key: &key, in_use, waiting: 0 }, &mut actions);
        process.budget.step(now, Event::Limit { key: &key, servers: Some(self.limit) }, &mut actions);
        process.actions = actions;
        self.nodes[i].process = Some(process);
        self.perform(i);
    }

    fn step(&mut self, i: usize, event: impl FnOnce(&mut Budget, Time, &mut Vec<Action>)) {
        let now = self.nodes[i].clock(self.now);
        if let Some(process) = &mut self.nodes[i].process {
            event(&mut process.budget, now, &mut process.actions);
        }
        self.perform(i);
        self.check();
    }

    fn perform(&mut self, i: usize) {
        let now = self.nodes[i].clock(self.now);
        loop {
            let Some(process) = &mut self.nodes[i].process else { return };
            if process.actions.is_empty() {
                return;
            }
            match process.actions.remove(0) {
                Action::Allot { key, allotment } => {
                    let Allotment { servers, shed_to } = allotment;
                    process.applied = servers;
                    process.shed = shed_to.map(|to| (to, process.shed.map_or(now, |(_, since)| since)));
                    let event = Event::Applied { key: &key, servers, in_use: process.in_use };
                    process.budget.step(now, event, &mut process.actions);
                }
                Action::Send(report) => self.send(i, Packet::Report(report)),
            }
        }
    }

    fn send(&mut self, from: usize, packet: Packet) {
        let copies = match self.trouble {
            0 => 1,
            n if self.dice.one_in(n) => 0,
            n if self.dice.one_in(n) => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let at = self.now + Duration::from_micros(50 + self.dice.below(self.delay * 1000));
            if !self.cut[from] {
                self.wire.push((at, 1 - from, packet.clone()));
            }
        }
    }

    fn deliver(&mut self) {
        while let Some(at) = self.wire.iter().position(|(at, _, _)| *at <= self.now) {
            let (_, i, packet) = self.wire.remove(at);
            let now = self.nodes[i].clock(self.now);
            let Some(process) = &mut self.nodes[i].process else { continue };
            match packet {
                Packet::Hello(boot) if process.follows.is_none_or(|known| boot >= known) => {
                    process.heard = now;
                    if !process.up || process.follows != Some(boot) {
                        (process.up, process.follows) = (true, Some(boot));
                        let rank = if i == 0 { Rank::First } else { Rank::Second };
                        let event = Event::LinkUp { peer: boot_id(1 - i, boot), rank };
                        self.step(i, |budget, now, out| budget.step(now, event, out));
                    }
                }
                Packet::Hello(_) => {}
                Packet::Report(report) => {
                    self.step(i, |budget, now, out| budget.step(now, Event::Report(&report), out));
                }
            }
        }
    }

    /// One look at a node: timers, link, pools.
    fn tend(&mut self, i: usize) {
        let now = self.nodes[i].clock(self.now);
        let Some(process) = &mut self.nodes[i].process else {
            if self.now >= self.nodes[i].down_until {
                self.boot(i, 0);
            }
            return;
        };
        let boot = process.boot;
        let hello = now >= process.hello_at;
        let lost = process.up && now.since(process.heard) >= LEASE;
        if hello {
            process.hello_at = now + INTERVAL;
        }
        if lost {
            process.up = false;
        }
        let due = process.budget.deadline().is_some_and(|at| at <= now);
        if hello {
            self.send(i, Packet::Hello(boot));
        }
        if lost {
            self.step(i, |budget, now, out| budget.step(now, Event::LinkLost, out));
        }
        if due {
            self.step(i, |budget, now, out| budget.step(now, Event::Timer, out));
        }
        self.pools(i, now);
    }

    fn pools(&mut self, i: usize, now: Time) {
        let Some(process) = &mut self.nodes[i].process else { return };
        let before = (process.in_use, process.demand);
        let limit = u64::from(self.limit);
        if !self.steady && self.dice.one_in(40) {
            process.demand = self.dice.below(limit + 3) as u32;
        }
        let ceiling = process.applied.min(process.demand);
        if process.in_use < ceiling {
            process.in_use += 1 + self.dice.below(u64::from(ceiling - process.in_use)) as u32;
        } else if process.in_use > process.demand && self.dice.one_in(3) {
            process.in_use = process.demand;
        }
        // What is above the allotment goes when its transaction is over, or when it must.
        if process.in_use > process.applied && self.dice.one_in(if self.steady { 2 } else { 20 }) {
            process.in_use -= 1;
        }
        if let Some((to, since)) = process.shed
            && now.since(since) + ms(60) >= GRACE
        {
            process.in_use = process.in_use.min(to);
        }
        if (process.in_use, process.demand) != before {
            let (in_use, waiting) = (process.in_use, process.demand.saturating_sub(process.in_use));
            let key = key();
            self.step(i, |budget, now, out| budget.step(now, Event::Use { key: &key, in_use, waiting }, out));
        }
    }

    fn check(&mut self) {
        let allotted = |node: &Node| {
            let process = node.process.as_ref()?;
            Some(process.budget.allotment(node.clock(self.now), &key())?.servers.max(process.in_use))
        };
        let sum = self.nodes.iter().filter_map(allotted).sum::<u32>();
        self.most = self.most.max(sum);
    }

    fn run(&mut self, time: Duration, step_us: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_micros(100 + self.dice.below(step_us));
            self.deliver();
            self.tend(0);
            self.tend(1);
            self.check();
        }
    }

    /// Something happens to the network or to a node.
    fn mischief(&mut self) {
        let i = self.dice.below(2) as usize;
        match self.dice.below(10) {
            0 => self.cut = [true, true],
            1 => self.cut[i] = true,
            2 | 3 => self.cut = [false, false],
            4 => (self.trouble, self.delay) = (1 + self.dice.below(10), 1 + self.dice.below(3000)),
            5 => (self.trouble, self.delay) = (0, 1),
            // A crash: the servers go with the process.
            6 => {
                self.nodes[i].down_until = self.now + ms(self.dice.below(3000));
                self.nodes[i].process = None;
            }
            // A process is replaced and its servers stay.
            7 => {
                let in_use = self.nodes[i].process.as_ref().filter(|p| p.shed.is_none()).map(|p| p.in_use);
                if let Some(in_use) = in_use {
                    self.boot(i, in_use);
                }
            }
            _ => {}
        }
    }

    fn set_demand(&mut self, i: usize, demand: u32) {
        let Some(process) = &mut self.nodes[i].process else { return };
        process.demand = demand;
        let (in_use, waiting, key) = (process.in_use, demand.saturating_sub(process.in_use), key());
        self.step(i, |budget, now, out| budget.step(now, Event::Use { key: &key, in_use, waiting }, out));
    }

    fn applied(&self, i: usize) -> u32 {
        self.nodes[i].process.as_ref().map_or(0, |process| process.applied)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The promise of the module, under loss, delay (up to 3 s), doubling, reordering, partitions of one or both directions,
    /// crashes, replaced processes, and clocks that go 1 % wrong.
    #[test]
    fn the_sum_never_exceeds_the_limit(seed in any::<u64>(), limit in 0u32..40, halves in prop::bool::weighted(0.1)) {
        let mode = if halves { Mode::Halves } else { Mode::Lend };
        let mut world = World::new(mode, limit, seed);
        for _ in 0..30 {
            world.mischief();
            world.run(ms(500), 20_000);
            prop_assert!(world.most <= limit, "{} of {limit} at {:?}", world.most, world.now);
        }
    }

    /// With a link that works the one that needs more gets what the other does not use, and both get their halves if both want.
    #[test]
    fn what_one_does_not_use_the_other_gets(seed in any::<u64>(), limit in 2u32..200) {
        let mut world = World::new(Mode::Lend, limit, seed);
        for _ in 0..8 {
            world.mischief();
            world.run(ms(300), 20_000);
        }
        (world.cut, world.trouble, world.delay) = ([false; 2], 0, 1);
        world.run(ms(8000), 20_000);
        let reserve = (limit / 10).max(1);
        for (greedy, idle) in [(0, 1), (1, 0)] {
            world.settle(greedy, limit, idle, 0);
            let most = limit - reserve.min(if idle == 0 { limit - limit / 2 } else { limit / 2 });
            prop_assert_eq!(world.applied(greedy), most);
        }
        world.settle(0, limit, 1, limit);
        prop_assert_eq!((world.applied(0), world.applied(1)), (limit - limit / 2, limit / 2));
        prop_assert!(world.most <= limit);
    }
}

impl World {
    /// Both demands stay as they are for some seconds.
    fn settle(&mut self, a: usize, demand_a: u32, b: usize, demand_b: u32) {
        self.steady = true;
        self.set_demand(a, demand_a);
        self.set_demand(b, demand_b);
        self.run(ms(6000), 20_000);
    }
}

fn lone(mode: Mode, limit: u32) -> (Budget, Vec<Action>) {
    let (mut budget, mut out) = (Budget::new(Time(0), boot_id(0, 1), params(mode)), Vec::new());
    budget.step(Time(0), Event::Limit { key: &key(), servers: Some(limit) }, &mut out);
    (budget, out)
}

#[test]
fn a_node_alone_has_its_half_once_no_loan_of_a_former_process_can_be_out() {
    let (mut budget, out) = lone(Mode::Lend, 100);
    let allotment = Allotment { servers: 10, shed_to: None };
    assert_eq!(out, [Action::Allot { key: key(), allotment }]);
    let settled = budget.deadline().unwrap();
    assert_eq!(settled, Time(0) + ms(1520));
    let mut out = Vec::new();
    budget.step(settled, Event::Timer, &mut out);
    assert_eq!(out, [Action::Allot { key: key(), allotment: Allotment { servers: 50, shed_to: None } }]);
    assert_eq!(budget.deadline(), None, "nothing more to wait for");
}

#[test]
fn halves_and_off() {
    let (halves, _) = lone(Mode::Halves, 101);
    assert_eq!(halves.allotment(Time(0), &key()), Some(Allotment { servers: 50, shed_to: None }));
    let (off, _) = lone(Mode::Off, 101);
    assert_eq!(off.allotment(Time(0), &key()), Some(Allotment { servers: 101, shed_to: None }));
}

#[test]
fn the_lower_name_has_the_larger_half() {
    let (mut budget, _) = lone(Mode::Halves, 7);
    for (rank, servers) in [(Rank::of("a", "b"), 4), (Rank::of("b", "a"), 3)] {
        budget.step(Time(1), Event::LinkUp { peer: boot_id(1, 1), rank }, &mut Vec::new());
        assert_eq!(budget.allotment(Time(1), &key()).unwrap().servers, servers);
    }
}

#[test]
fn a_borrower_that_loses_the_link_goes_down_at_once_and_the_lender_up_only_later() {
    let mut world = World::new(Mode::Lend, 100, 7);
    world.run(ms(2000), 5000);
    world.settle(0, 100, 1, 0);
    assert_eq!((world.applied(0), world.applied(1)), (90, 10));
    world.cut = [true; 2];
    let start = world.now;
    world.set_demand(1, 100);
    while world.applied(0) > 50 {
        world.run(ms(5), 3000);
    }
    assert!(world.now.since(start) <= LEASE + INTERVAL + ms(50), "{:?}", world.now.since(start));
    assert_eq!(world.applied(1), 10);
    while world.applied(1) < 50 {
        world.run(ms(5), 3000);
    }
    assert!(world.now.since(start) >= LEASE + GRACE, "{:?}", world.now.since(start));
    assert!(world.now.since(start) <= (LEASE + GRACE) * 2, "{:?}", world.now.since(start));
    assert!(world.most <= 100);
}

#[test]
fn reports_for_others_and_old_ones_change_nothing() {
    let (mut budget, _) = lone(Mode::Lend, 100);
    budget.step(Time(1), Event::LinkUp { peer: boot_id(1, 1), rank: Rank::First }, &mut Vec::new());
    budget.step(Time(1) + ms(2000), Event::Timer, &mut Vec::new());
    let now = Time(1) + ms(2001);
    let entry = BudgetEntry { key: key(), grant: 40, serial: 3, ..BudgetEntry::default() };
    let good = BudgetReport {
        boot: boot_id(1, 1),
        to: boot_id(0, 1),
        stamp: 10,
        echo: 1 + 2_000_000_000,
        lease_us: 1_000_000,
        whole: true,
        entries: [entry].into_iter().collect(),
        ..BudgetReport::default()
    };
    let servers = |budget: &Budget| budget.allotment(now, &key()).unwrap().servers;
    for bad in [
        BudgetReport { boot: boot_id(1, 2), ..good.clone() },
        BudgetReport { to: boot_id(0, 2), ..good.clone() },
        BudgetReport { echo: 0, ..good.clone() },
        BudgetReport { echo: u64::MAX, stamp: 9, ..good.clone() },
    ] {
        let (mut budget, _) = lone(Mode::Lend, 100);
        budget.step(Time(1), Event::LinkUp { peer: boot_id(1, 1), rank: Rank::First }, &mut Vec::new());
        budget.step(Time(1) + ms(2000), Event::Timer, &mut Vec::new());
        budget.step(now, Event::Report(&bad), &mut Vec::new());
        assert_eq!(servers(&budget), 50, "{bad:?}");
    }
    budget.step(now, Event::Report(&good), &mut Vec::new());
    assert_eq!(servers(&budget), 90);
    budget.step(now, Event::Report(&BudgetReport { entries: List::default(), ..good }), &mut Vec::new());
    assert_eq!(servers(&budget), 90, "the same stamp twice");
}

#[test]
fn a_peer_cannot_make_more_lines_than_there_may_be() {
    let (mut budget, _) = lone(Mode::Lend, 100);
    budget.step(Time(1), Event::LinkUp { peer: boot_id(1, 1), rank: Rank::First }, &mut Vec::new());
    for stamp in 1..=20u64 {
        let entries = (0..256).map(|n| BudgetEntry {
            key: BudgetKey::User(Name::new(&format!("{stamp} {n}"))),
            borrowed: 1,
            borrowed_left_us: u64::MAX,
            in_use: u32::MAX,
            wants: u32::MAX,
            grant: u32::MAX,
            serial: u64::MAX,
            ..BudgetEntry::default()
        });
        let report = BudgetReport {
            boot: boot_id(1, 1),
            to: boot_id(0, 1),
            stamp,
            lease_us: u64::MAX,
            shed_grace_us: u64::MAX,
            entries: entries.collect(),
            ..BudgetReport::default()
        };
        budget.step(Time(stamp), Event::Report(&report), &mut Vec::new());
    }
    assert!(budget.lines.len() <= LINES_MAX);
    assert_eq!(budget.allotment(Time(30), &key()).map(|a| a.servers <= 100), Some(true));
}
