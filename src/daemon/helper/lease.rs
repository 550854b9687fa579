//! The pooler's lease on the addresses that it holds: a plain machine, so that what a stopped, late or replaced pooler keeps
//! can be tested without one.
//!
//! Nothing but a renewal makes a lease; a lease that is over stays over. What the helper does at its end stands in
//! `serve.rs`: before it believes in the end it reads what the pooler may have said meanwhile, as both may have been stopped
//! together (a paused virtual machine), and then neither is to blame.

use std::time::Duration;

use crate::clock::Time;

/// The longest lease. A pooler that dies silently keeps the addresses no longer.
pub const LEASE_MAX: Duration = Duration::from_secs(10);

/// The longest a process may take to be replaced.
pub const BRIDGE_MAX: Duration = Duration::from_secs(60);

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    None,
    Running {
        until: Time,
    },
    /// The helper stands in for a process that is being replaced.
    Bridging {
        until: Time,
    },
}

/// The lease of one pooler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    state: State,
}

impl Default for Lease {
    fn default() -> Self {
        Self { state: State::None }
    }
}

impl Lease {
    /// The pooler is well. Ends a bridge.
    pub fn renew(&mut self, now: Time, lease_ms: u32) {
        let span = Duration::from_millis(u64::from(lease_ms)).min(LEASE_MAX);
        self.state = State::Running { until: now + span };
    }

    /// The process is being replaced. Only a lease that runs can be drawn out.
    pub fn bridge(&mut self, now: Time, ms: u32) {
        if self.runs(now) {
            let span = Duration::from_millis(u64::from(ms)).min(BRIDGE_MAX);
            self.state = State::Bridging { until: now + span };
        }
    }

    /// There is none any more.
    pub fn end(&mut self) {
        self.state = State::None;
    }

    /// When it ends if nothing is said.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::None => None,
            State::Running { until } | State::Bridging { until } => Some(until),
        }
    }

    /// Is it there and not over?
    #[must_use]
    pub fn runs(&self, now: Time) -> bool {
        self.deadline().is_some_and(|until| now < until)
    }

    /// Was there one that is over now?
    #[must_use]
    pub fn is_over(&self, now: Time) -> bool {
        self.deadline().is_some_and(|until| now >= until)
    }

    /// Does the helper send the adverts?
    #[must_use]
    pub fn bridges(&self) -> bool {
        matches!(self.state, State::Bridging { .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn a_lease_lasts_as_long_as_it_is_renewed() {
        let mut lease = Lease::default();
        assert!(!lease.runs(at(0)) && !lease.is_over(at(0)) && lease.deadline().is_none());
        lease.renew(at(0), 100);
        assert!(lease.runs(at(99)) && !lease.is_over(at(99)));
        assert!(!lease.runs(at(100)) && lease.is_over(at(100)));
        lease.renew(at(90), 100);
        assert!(lease.runs(at(189)));
        // A renewal may also shorten it.
        lease.renew(at(100), 10);
        assert!(lease.is_over(at(110)));
        lease.end();
        assert!(!lease.is_over(at(1000)));
    }

    #[test]
    fn a_bridge_begins_in_a_lease_and_ends_with_a_renewal() {
        let mut lease = Lease::default();
        lease.bridge(at(0), 1000);
        assert!(!lease.bridges());
        lease.renew(at(0), 100);
        lease.bridge(at(100), 1000);
        assert!(!lease.bridges(), "it was over");
        lease.renew(at(100), 100);
        lease.bridge(at(150), 1000);
        assert!(lease.bridges() && lease.runs(at(1149)) && lease.is_over(at(1150)));
        lease.renew(at(400), 100);
        assert!(!lease.bridges() && lease.is_over(at(500)));
    }

    #[test]
    fn nobody_gets_an_eternal_lease() {
        let mut lease = Lease::default();
        lease.renew(at(0), u32::MAX);
        assert_eq!(lease.deadline(), Some(at(0) + LEASE_MAX));
        lease.bridge(at(0), u32::MAX);
        assert_eq!(lease.deadline(), Some(at(0) + BRIDGE_MAX));
    }

    proptest! {
        /// Whatever is said, a lease never outlives the last renewal or bridge by more than the bound.
        #[test]
        fn silence_ends_every_lease(words in vec((0..3_u8, 0..2_000_u64, any::<u32>()), 0..50)) {
            let (mut lease, mut now, mut last) = (Lease::default(), at(0), at(0));
            for (word, pause, ms) in words {
                now = now + Duration::from_millis(pause);
                match word {
                    0 => lease.renew(now, ms),
                    1 => lease.bridge(now, ms),
                    _ => lease.end(),
                }
                last = now;
                prop_assert!(!(lease.runs(now) && lease.is_over(now)));
            }
            prop_assert!(!lease.runs(last + BRIDGE_MAX));
            if !lease.bridges() {
                prop_assert!(!lease.runs(last + LEASE_MAX));
            }
        }
    }
}
