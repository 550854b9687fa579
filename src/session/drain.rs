//! Who is told to go, and when, while the process waits for its clients to leave: first nobody, then one after the other at
//! even distances, in the end everybody. It knows how many there are and what time it is, and nothing else.

use std::time::Duration;

use crate::clock::Time;

/// How a shutdown that waits comes to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long clients are left alone, to go by themselves.
    pub grace: Duration,
    /// Over how long they are told to go after that.
    pub spread: Duration,
    /// How long the whole may take; zero: nobody is ever told to go.
    pub timeout: Duration,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Tell so many clients, of those who have not been told yet, that they go once they have no transaction open.
    pub tell: usize,
    /// Whoever is still there goes at once, in the middle of a transaction too.
    pub overdue: bool,
    /// When to ask again, unless the terms change.
    pub again: Time,
}

/// In which order clients are told: the smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Has, or waits for, a server that it gives back after its transaction: it is about to do something.
    pub busy: bool,
    /// When it last asked for something, or came.
    pub since: Time,
}

/// One shutdown.
#[derive(Debug)]
pub struct Drain {
    since: Time,
    next: Time,
}

/// The shortest time between two looks: with very many clients several are told at once.
const TICK: Duration = Duration::from_millis(20);

/// The longest time between two clients: a few are no stampede, and need no long wait.
const GAP_MAX: Duration = Duration::from_millis(200);

/// The most that is made up for when a look comes late (a stopped process, say): the rest is spread anew, not told in one go.
const LATE_MAX: Duration = Duration::from_millis(500);

impl Drain {
    /// A shutdown that begins now.
    #[must_use]
    pub fn begin(now: Time) -> Self {
        Self { since: now, next: now }
    }

    /// When it began.
    #[must_use]
    pub fn since(&self) -> Time {
        self.since
    }

    /// When nobody is waited for any more; [`Time::NEVER`] if that never comes.
    #[must_use]
    pub fn deadline(&self, terms: &Terms) -> Time {
        if terms.timeout.is_zero() { Time::NEVER } else { self.since + terms.timeout }
    }

    /// Decides, with `untold` clients who have not been told to go yet.
    pub fn look(&mut self, now: Time, terms: &Terms, untold: usize) -> Order {
        let deadline = self.deadline(terms);
        if deadline == Time::NEVER {
            return Order { tell: 0, overdue: false, again: Time::NEVER };
        }
        if now >= deadline {
            return Order { tell: untold, overdue: true, again: Time::NEVER };
        }
        let begin = (self.since + terms.grace).min(deadline);
        let end = (self.since + terms.grace + terms.spread).min(deadline);
        if now >= end {
            return Order { tell: untold, overdue: false, again: deadline };
        }
        if now < begin {
            return Order { tell: 0, overdue: false, again: begin };
        }
        // Each takes its share of the time that is left, so that those who go by themselves make the others' turns longer.
        let late = Time(now.0.saturating_sub(nanos(LATE_MAX)));
        self.next = self.next.max(begin).max(late);
        let mut tell = 0;
        while tell < untold && self.next <= now {
            let left = u64::try_from(untold - tell).unwrap_or(u64::MAX);
            self.next = Time(self.next.0 + ((end.0 - self.next.0) / left).min(nanos(GAP_MAX)));
            tell += 1;
        }
        let next = if tell < untold { self.next.max(now + TICK) } else { end };
        Order { tell, overdue: false, again: next.min(end) }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(grace_ms: u64, spread_ms: u64, timeout_ms: u64) -> Terms {
        let ms = Duration::from_millis;
        Terms { grace: ms(grace_ms), spread: ms(spread_ms), timeout: ms(timeout_ms) }
    }

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    /// Told at which millisecond, if somebody looks when asked to, `late_ms` later each time.
    fn told(terms: &Terms, clients: usize, late_ms: u64) -> (Vec<u64>, u64) {
        let (mut drain, mut now, mut told) = (Drain::begin(at(0)), at(0), Vec::new());
        loop {
            let order = drain.look(now, terms, clients - told.len());
            told.extend(std::iter::repeat_n(now.0 / 1_000_000, order.tell));
            if order.overdue {
                return (told, now.0 / 1_000_000);
            }
            assert!(order.again > now, "a look that leads to the next at once");
            now = order.again + Duration::from_millis(late_ms);
        }
    }

    #[test]
    fn ten_clients_go_one_after_the_other() {
        let (told, over) = told(&terms(500, 1000, 3000), 10, 0);
        assert_eq!(told, (0..10).map(|i| 500 + i * 100).collect::<Vec<_>>());
        assert_eq!(over, 3000);
    }

    #[test]
    fn one_client_goes_when_the_grace_is_over() {
        assert_eq!(told(&terms(500, 1000, 3000), 1, 0).0, [500]);
    }

    #[test]
    fn without_spread_all_go_at_once() {
        assert_eq!(told(&terms(500, 0, 3000), 3, 0).0, [500, 500, 500]);
    }

    #[test]
    fn the_deadline_cuts_grace_and_spread_short() {
        assert_eq!(told(&terms(500, 5000, 1000), 5, 0).0, [500, 600, 700, 800, 900]);
        assert_eq!(told(&terms(5000, 5000, 1000), 2, 0), (vec![1000, 1000], 1000));
    }

    #[test]
    fn without_deadline_nobody_is_ever_told() {
        let order = Drain::begin(at(0)).look(at(1_000_000_000), &terms(0, 0, 0), 7);
        assert_eq!(order, Order { tell: 0, overdue: false, again: Time::NEVER });
    }

    #[test]
    fn those_who_leave_by_themselves_slow_the_others_down() {
        let (mut drain, terms) = (Drain::begin(at(0)), terms(0, 1000, 2000));
        assert_eq!(drain.look(at(0), &terms, 10).again, at(100));
        // Nine were left; three went.
        assert_eq!(drain.look(at(100), &terms, 6), Order { tell: 1, overdue: false, again: at(250) });
    }

    #[test]
    fn a_stopped_process_does_not_tell_everybody_in_one_go() {
        let (mut drain, terms) = (Drain::begin(at(0)), terms(0, 10_000, 20_000));
        assert_eq!(drain.look(at(0), &terms, 1000).tell, 1);
        let order = drain.look(at(8000), &terms, 999);
        assert!((190..=210).contains(&order.tell), "{order:?}");
    }

    #[test]
    fn new_terms_hold_at_once() {
        let mut drain = Drain::begin(at(0));
        assert_eq!(drain.look(at(0), &terms(500, 1000, 3000), 10).again, at(500));
        assert_eq!(drain.look(at(600), &terms(700, 1000, 3000), 10).again, at(700));
        assert!(drain.look(at(600), &terms(0, 0, 500), 10).overdue);
    }

    proptest! {
        #[test]
        fn everybody_is_told_once_in_time_and_evenly(
            grace in 0u64..3000, spread in 0u64..5000, timeout in 1u64..8000, clients in 0usize..3000, late in 0u64..30,
        ) {
            let (told, over) = told(&terms(grace, spread, timeout), clients, late);
            prop_assert_eq!(told.len(), clients);
            let (begin, end) = (grace.min(timeout), (grace + spread.min(clients as u64 * 200)).min(timeout));
            prop_assert!((timeout..=timeout + late).contains(&over));
            let tick = 20 + late;
            prop_assert!(told.iter().all(|&t| t >= begin && t <= end + late));
            if end > begin {
                // At any moment the share that was told is the share of the time that has passed, give or take a look.
                for (i, &t) in told.iter().enumerate() {
                    let due = begin as f64 + (end - begin) as f64 * i as f64 / clients as f64;
                    prop_assert!((t as f64 - due).abs() <= 2.0 * tick as f64 + 1.0, "client {} at {} and not {}", i, t, due);
                }
            }
        }

        #[test]
        fn any_looks_at_any_time_are_safe(
            looks in prop::collection::vec((0u64..500, 0u64..2000, 0u64..2000, 0u64..4000, 0usize..50), 1..50),
        ) {
            let (mut drain, mut now) = (Drain::begin(at(0)), at(0));
            for (pause, grace, spread, timeout, untold) in looks {
                now = now + Duration::from_millis(pause);
                let terms = terms(grace, spread, timeout);
                let order = drain.look(now, &terms, untold);
                prop_assert!(order.tell <= untold);
                prop_assert!(order.again > now);
                prop_assert_eq!(order.overdue, now >= drain.deadline(&terms));
                let left_alone = timeout == 0 || now < at(grace.min(timeout));
                prop_assert!(order.tell == 0 || !left_alone);
            }
        }
    }
}
