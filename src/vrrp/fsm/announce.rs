//! When the addresses are announced again.

use std::time::Duration;

use crate::clock::Time;

/// After becoming active, or after a sign of a rival.
const STEPS: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// Then for ever: a neighbour that has missed all others is wrong no longer than this.
const PERIOD: Duration = Duration::from_secs(10);

/// Signs of a rival make no more announcements than this allows.
const GAP_MIN: Duration = Duration::from_millis(20);

/// The announcements of one activity.
#[derive(Clone, Debug)]
pub(super) struct Announcements {
    begin: Time,
    step: usize,
    last: Time,
    next: Time,
}

impl Announcements {
    /// They have just been announced for the first time.
    pub(super) fn new(now: Time) -> Self {
        let mut new = Self { begin: now, step: 0, last: now, next: now };
        new.plan(now);
        new
    }

    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// Is it time? Then it counts as done. What was missed in a stall is one announcement.
    pub(super) fn due(&mut self, now: Time) -> bool {
        let due = now >= self.next;
        if due {
            self.last = now;
            self.plan(now);
        }
        due
    }

    /// From the beginning, because of a rival. True: announce now; otherwise it comes as soon as the distance allows.
    pub(super) fn again(&mut self, now: Time) -> bool {
        let soonest = self.last + GAP_MIN;
        if now < soonest {
            (self.begin, self.step, self.next) = (soonest, 0, soonest);
            return false;
        }
        *self = Self::new(now);
        true
    }

    fn plan(&mut self, now: Time) {
        while let Some(step) = STEPS.get(self.step) {
            self.next = (self.begin + *step).max(self.last + GAP_MIN);
            self.step += 1;
            if self.next > now {
                return;
            }
        }
        self.next = now + PERIOD;
    }
}
