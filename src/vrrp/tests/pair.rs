//! Properties: of one router under any events, and of two that hear each other.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One thing that happens to a lone router, after a pause of so many microseconds.
#[derive(Clone, Debug)]
enum Happening {
    Start(bool),
    Stop(bool),
    Hear { higher_address: bool, priority: u8, centiseconds: u64 },
    Timer,
    Run,
    Priority(u8),
    TakeOver,
    Yield,
    NoYield,
    PeerActive(Option<bool>),
    Rival,
    AddressesLost,
    Link(bool),
    Params(Params),
}

fn any_params() -> impl Strategy<Value = Params> {
    let priority = prop_oneof![Just(1u8), Just(100), Just(254), Just(255), 1u8..];
    (priority, 1u64..30, any::<bool>(), 0u64..200, any::<bool>()).prop_map(
        |(priority, centiseconds, preempt, delay, sole_peer)| Params {
            interval: ms(centiseconds * 10),
            preempt,
            preempt_delay: ms(delay),
            sole_peer,
            ..params(priority)
        },
    )
}

fn happenings() -> impl Strategy<Value = Vec<(u64, Happening)>> {
    let one = prop_oneof![
        2 => any::<bool>().prop_map(Happening::Start),
        1 => any::<bool>().prop_map(Happening::Stop),
        6 => (any::<bool>(), prop_oneof![Just(0u8), Just(1), Just(100), any::<u8>()], 1u64..30).prop_map(
            |(higher_address, priority, centiseconds)| Happening::Hear { higher_address, priority, centiseconds }
        ),
        4 => Just(Happening::Timer),
        4 => Just(Happening::Run),
        1 => any::<u8>().prop_map(Happening::Priority),
        1 => Just(Happening::TakeOver),
        1 => Just(Happening::Yield),
        1 => Just(Happening::NoYield),
        2 => any::<Option<bool>>().prop_map(Happening::PeerActive),
        1 => Just(Happening::Rival),
        1 => Just(Happening::AddressesLost),
        1 => any::<bool>().prop_map(Happening::Link),
        1 => any_params().prop_map(Happening::Params),
    ];
    let pause = prop_oneof![Just(0u64), 0u64..1000, 0u64..1_000_000];
    prop::collection::vec((pause, one), 1..60)
}

/// Checks every action against what the addresses are known to be.
struct Ledger {
    holds: bool,
    /// A former process may have left the addresses.
    left_over: bool,
    state: State,
    announced: Option<Time>,
}

impl Ledger {
    fn enter(&mut self, now: Time, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::Hold => {
                    assert!(!self.holds, "held twice");
                    (self.holds, self.announced) = (true, Some(now));
                }
                Action::Release => {
                    assert!(self.holds || self.left_over, "released what was not held");
                    self.holds = false;
                }
                Action::Announce => {
                    assert!(self.holds, "announced what is not held");
                    assert!(self.announced.is_none_or(|last| now.since(last) >= ms(20)), "announced too often");
                    self.announced = Some(now);
                }
                Action::Transition { from, to, reason } => {
                    assert_eq!(from, self.state);
                    assert_ne!(from, to);
                    assert!(!reason.to_string().is_empty());
                    if reason == Reason::AddressesLost {
                        self.holds = false;
                    }
                    self.state = to;
                    assert_eq!(self.holds, to == State::Active, "{reason}");
                }
                Action::Send { interval, .. } => assert!(interval >= ms(10)),
                Action::Warn(warning) => assert!(!warning.to_string().is_empty()),
            }
        }
    }
}

fn run(bench: &mut Bench, ledger: &mut Ledger, happening: Happening) {
    let now = bench.now;
    ledger.left_over = matches!(happening, Happening::Start(true));
    let actions = match happening {
        Happening::Start(held) => bench.step(Event::Start { held }),
        Happening::Stop(goodbye) => bench.step(Event::Stop { goodbye }),
        Happening::Hear { higher_address, priority, centiseconds } => {
            let advert = bench.router.advert(priority, ms(centiseconds * 10));
            bench.hear_from(if higher_address { PEER } else { "192.0.2.0" }, &advert)
        }
        Happening::Run => {
            let Some(deadline) = bench.router.deadline() else { return };
            bench.now = now.max(deadline);
            bench.step(Event::Timer)
        }
        Happening::Timer => bench.step(Event::Timer),
        Happening::Priority(priority) => bench.step(Event::Priority(priority)),
        Happening::TakeOver => bench.step(Event::TakeOver("asked to")),
        Happening::Yield => bench.step(Event::Yield),
        Happening::NoYield => bench.step(Event::NoYield),
        Happening::PeerActive(opinion) => bench.step(Event::PeerActive(opinion)),
        Happening::Rival => bench.step(Event::Rival),
        Happening::AddressesLost => bench.step(Event::AddressesLost),
        Happening::Link(up) => bench.step(Event::Link { up, own_address: Some(ip(OWN)) }),
        Happening::Params(params) => bench.step(Event::Params(params)),
    };
    ledger.enter(bench.now, &actions);
    let router = &bench.router;
    assert_eq!(router.state(), ledger.state);
    assert_eq!(router.state() == State::Active, ledger.holds);
    let goodbyes = sent(&actions).iter().filter(|priority| **priority == 0).count();
    assert!(goodbyes == 0 || !ledger.holds, "said goodbye and stayed");
    // After its timer has run, a router has time ahead of it; it never sleeps for ever while it takes part.
    let picture = router.picture();
    match router.deadline() {
        Some(deadline) => {
            assert_ne!(ledger.state, State::Initialize);
            let mut after = Bench { router: router.clone(), now: bench.now };
            for _ in 0..3 {
                after.step(Event::Timer);
            }
            assert!(after.router.deadline().is_none_or(|deadline| deadline > bench.now), "{deadline:?}");
        }
        None => assert!(ledger.state == State::Initialize || picture.stood_down),
    }
}

/// Two routers and the network between them, which delivers in order after a delay, or nothing.
struct Pair {
    routers: [Router; 2],
    ledgers: [Ledger; 2],
    now: Time,
    /// By time and number.
    under_way: BTreeMap<(Time, u64), (usize, Advert)>,
    number: u64,
    delay: Duration,
    cut: bool,
    announced: [Vec<Time>; 2],
    became_backup: [Time; 2],
}

const NAMES: [&str; 2] = [OWN, PEER];

impl Pair {
    fn new(params: [Params; 2], delay: Duration) -> Self {
        let [one, two] = params;
        let ledger = || Ledger { holds: false, left_over: false, state: State::Initialize, announced: None };
        Self {
            routers: [Router::new(at(0), one, ip(NAMES[0])), Router::new(at(0), two, ip(NAMES[1]))],
            ledgers: [ledger(), ledger()],
            now: at(0),
            under_way: BTreeMap::new(),
            number: 0,
            delay,
            cut: false,
            announced: [Vec::new(), Vec::new()],
            became_backup: [at(0); 2],
        }
    }

    fn step(&mut self, index: usize, event: Event<'_>) {
        let mut out = Vec::new();
        self.routers[index].step(self.now, event, &mut out);
        self.ledgers[index].enter(self.now, &out);
        for action in out {
            match action {
                Action::Send { priority, interval } if !self.cut => {
                    let advert = self.routers[index].advert(priority, interval);
                    self.number += 1;
                    self.under_way.insert((self.now + self.delay, self.number), (1 - index, advert));
                }
                Action::Hold | Action::Announce => self.announced[index].push(self.now),
                Action::Transition { to: State::Backup, .. } => self.became_backup[index] = self.now,
                _ => {}
            }
        }
    }

    /// Until then.
    fn run(&mut self, end: Time) {
        loop {
            let next = self.under_way.keys().next().map(|(time, _)| *time);
            let timer = |index: usize| self.routers[index].deadline();
            let first = [timer(0), timer(1), next].into_iter().flatten().min();
            let Some(first) = first.filter(|first| *first <= end) else { break };
            self.now = self.now.max(first);
            if next == Some(first) {
                if let Some((_, (to, advert))) = self.under_way.pop_first() {
                    self.step(to, Event::Advert { from: ip(NAMES[1 - to]), advert: &advert });
                }
            } else {
                self.step(usize::from(timer(0) != Some(first)), Event::Timer);
            }
        }
        self.now = end;
    }

    fn wait(&mut self, duration: Duration) {
        self.run(self.now + duration);
    }

    fn active(&self) -> Vec<usize> {
        (0..2).filter(|index| self.routers[*index].state() == State::Active).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_events_make_a_router_hold_twice_or_sleep(params in any_params(), happenings in happenings()) {
        let mut bench = Bench::new(params);
        let mut ledger = Ledger { holds: false, left_over: false, state: State::Initialize, announced: None };
        for (pause, happening) in happenings {
            bench.wait(us(pause));
            run(&mut bench, &mut ledger, happening);
        }
    }

    #[test]
    fn two_routers_become_one_active(
        one in any_params(), two in any_params(), delay in 10u64..2000, start in 0u64..1000, held in any::<[bool; 2]>(),
    ) {
        let longest = one.interval.max(two.interval);
        let preempt_delay = one.preempt_delay.max(two.preempt_delay);
        let mut pair = Pair::new([one, two], us(delay));
        pair.step(0, Event::Start { held: held[0] });
        pair.wait(ms(start));
        pair.step(1, Event::Start { held: held[1] });
        pair.wait(longest * 9 + preempt_delay + ms(50));
        for _ in 0..50 {
            pair.wait(longest / 7);
            prop_assert_eq!(pair.active().len(), 1);
        }
        // A goodbye is enough to turn it round.
        let active = pair.active()[0];
        pair.step(active, Event::Stop { goodbye: true });
        pair.wait(longest + us(delay));
        prop_assert_eq!(pair.active(), [1 - active]);
    }

    #[test]
    fn a_healed_split_ends_with_a_word_of_the_winner(
        one in any_params(), two in any_params(), delay in 10u64..2000, apart in 0u64..2000,
    ) {
        let longest = one.interval.max(two.interval);
        let mut pair = Pair::new([one, two], us(delay));
        pair.cut = true;
        pair.step(0, Event::Start { held: false });
        pair.step(1, Event::Start { held: false });
        pair.wait(longest * 4 + ms(1) + us(apart * 100));
        prop_assert_eq!(pair.active(), [0, 1]);
        pair.cut = false;
        pair.wait(longest + us(delay) * 3);
        let active = pair.active();
        prop_assert_eq!(active.len(), 1);
        let (winner, loser) = (active[0], 1 - active[0]);
        let lost = pair.became_backup[loser];
        pair.wait(ms(20) + us(delay));
        // After the loser's release, and soon.
        let again = pair.announced[winner].iter().find(|time| **time >= lost);
        prop_assert!(again.is_some_and(|again| again.since(lost) <= ms(20) + us(delay)), "{:?} {:?}", lost, again);
    }

    #[test]
    fn a_goodbye_between_two_is_no_time_without_holder(
        one in any_params(), two in any_params(), delay in 10u64..2000, goodbye_at in 0u64..1000,
    ) {
        let longest = one.interval.max(two.interval);
        let sole = |params| Params { sole_peer: true, ..params };
        let mut pair = Pair::new([sole(one), sole(two)], us(delay));
        pair.step(0, Event::Start { held: true });
        pair.step(1, Event::Start { held: false });
        pair.wait(longest * 9 + ms(250) + us(goodbye_at * 100));
        let active = pair.active();
        prop_assert_eq!(active.len(), 1);
        pair.step(active[0], Event::Stop { goodbye: true });
        pair.wait(us(delay));
        prop_assert_eq!(pair.active(), [1 - active[0]]);
    }

    #[test]
    fn a_planned_switch_has_always_a_holder(
        one in any_params(), two in any_params(), delay in 10u64..2000, link_delay in 10u64..5000, phase in 0u64..1000,
    ) {
        let longest = one.interval.max(two.interval);
        let ours = |params: Params| Params { preempt: false, priority: params.priority.min(254), sole_peer: true, ..params };
        let mut pair = Pair::new([ours(one), ours(two)], us(delay));
        pair.step(0, Event::Start { held: true });
        pair.step(1, Event::Start { held: false });
        pair.wait(longest * 9 + us(phase * 100));
        let active = pair.active();
        prop_assert_eq!(active.len(), 1);
        let (old, new) = (active[0], 1 - active[0]);
        pair.step(old, Event::Yield);
        let end = pair.now + us(link_delay);
        while pair.now < end {
            pair.wait(us(10));
            prop_assert!(!pair.active().is_empty());
        }
        pair.step(new, Event::TakeOver("switchover"));
        for _ in 0..1000 {
            pair.wait(us(10));
            prop_assert!(pair.active().contains(&new));
        }
        prop_assert_eq!(pair.active(), [new]);
        pair.step(old, Event::NoYield);
        pair.wait(longest * 10);
        prop_assert_eq!(pair.active(), [new]);
    }
}
