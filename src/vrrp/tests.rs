//! The protocol without a network: bytes, rules one by one, and two routers in virtual time.

mod beyond;
mod frames;
mod packet;
mod pair;
mod rules;

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::clock::Time;

const PEER: &str = "192.0.2.2";
const OWN: &str = "192.0.2.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

/// Milliseconds since the beginning.
fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

fn params(priority: u8) -> Params {
    Params {
        vrid: 51,
        family: Family::V4,
        version: Version::V3,
        priority,
        interval: ms(100),
        preempt: false,
        preempt_delay: Duration::ZERO,
        sole_peer: false,
        addresses: vec![ip("192.0.2.10")],
        unicast_peers: Vec::new(),
        link_local_first: false,
        checksum: ChecksumVariant::Plain,
    }
}

/// One router and its clock.
struct Bench {
    router: Router,
    now: Time,
}

impl Bench {
    fn new(params: Params) -> Self {
        Self { router: Router::new(at(0), params, ip(OWN)), now: at(0) }
    }

    fn started(params: Params) -> Self {
        let mut new = Self::new(params);
        new.step(Event::Start { held: false });
        new
    }

    /// Active, and just so.
    fn active(params: Params) -> Self {
        let mut new = Self::new(params);
        new.step(Event::Start { held: true });
        assert_eq!(new.router.state(), State::Active);
        new
    }

    fn step(&mut self, event: Event<'_>) -> Vec<Action> {
        let mut out = Vec::new();
        self.router.step(self.now, event, &mut out);
        out
    }

    fn wait(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }

    /// Waits for the deadline, and lets the timer come so much later.
    fn timer_late(&mut self, late: Duration) -> Vec<Action> {
        self.now = self.router.deadline().unwrap().max(self.now) + late;
        self.step(Event::Timer)
    }

    fn timer(&mut self) -> Vec<Action> {
        self.timer_late(Duration::ZERO)
    }

    /// Runs the timers for so long; gives what was done.
    fn run(&mut self, duration: Duration) -> Vec<(Time, Action)> {
        let end = self.now + duration;
        let mut done = Vec::new();
        while self.router.deadline().is_some_and(|deadline| deadline <= end) {
            let actions = self.timer();
            done.extend(actions.into_iter().map(|action| (self.now, action)));
        }
        self.now = end;
        done
    }

    fn advert(&self, priority: u8) -> Advert {
        self.router.advert(priority, self.router.params().interval)
    }

    fn hear(&mut self, priority: u8) -> Vec<Action> {
        self.hear_from(PEER, &self.advert(priority))
    }

    fn hear_from(&mut self, from: &str, advert: &Advert) -> Vec<Action> {
        self.step(Event::Advert { from: ip(from), advert })
    }

    fn until_deadline(&self) -> Duration {
        self.router.deadline().unwrap() - self.now
    }
}

fn sent(actions: &[Action]) -> Vec<u8> {
    let priority = |action: &Action| match action {
        Action::Send { priority, .. } => Some(*priority),
        _ => None,
    };
    actions.iter().filter_map(priority).collect()
}

fn reason(actions: &[Action]) -> String {
    let transition = |action: &Action| match action {
        Action::Transition { from, to, reason } => Some(format!("{from} to {to}: {reason}")),
        _ => None,
    };
    actions.iter().find_map(transition).unwrap_or_default()
}

fn warning(actions: &[Action]) -> String {
    let text = |action: &Action| match action {
        Action::Warn(warning) => Some(warning.to_string()),
        _ => None,
    };
    actions.iter().find_map(text).unwrap_or_default()
}

fn has(actions: &[Action], wanted: Action) -> bool {
    actions.contains(&wanted)
}
