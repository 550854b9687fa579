//! The state Backup (RFC 9568 section 6.4.2).

use std::net::IpAddr;
use std::time::Duration;

use super::super::picture::Rival;
use super::super::{PRIORITY_GOODBYE, Reason, Warning};
use super::active::Holding;
use super::{Action, Phase, Router};
use crate::clock::Time;

/// What a backup waits for.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// Active_Down_Timer.
    pub(super) down: Time,
    /// The last advert that counts, or the beginning.
    silent_since: Time,
    /// The timer came late, and one more interval was granted.
    reprieved: bool,
    /// The peer's word has put the timer off.
    held_back: bool,
    /// Who has said goodbye since.
    goodbye: Option<IpAddr>,
    /// Since when an Active Router of lower priority is heard, and which.
    lower: Option<(Time, IpAddr, u8)>,
}

impl Waiting {
    pub(super) fn new(now: Time, active_down_interval: Duration) -> Self {
        Self {
            down: now + active_down_interval,
            silent_since: now,
            reprieved: false,
            held_back: false,
            goodbye: None,
            lower: None,
        }
    }
}

impl Router {
    pub(super) fn backup_hears(&mut self, now: Time, rival: Rival, out: &mut Vec<Action>) {
        let goodbye = rival.priority == PRIORITY_GOODBYE;
        let lower = !goodbye && rival.priority < self.priority();
        let preempts = lower && (self.params.preempt || self.is_owner()) && !self.stood_down;
        let delay = if self.is_owner() { Duration::ZERO } else { self.params.preempt_delay };
        let Phase::Backup(waiting) = &mut self.phase else { return };
        if goodbye {
            (self.active, self.opinion) = (None, None);
            self.goodbye_heard(now, rival.address, out);
            return;
        }
        self.active = Some(rival);
        if lower {
            let (since, ..) = waiting.lower.unwrap_or((now, rival.address, rival.priority));
            waiting.lower = Some((since, rival.address, rival.priority));
            if preempts && now.since(since) >= delay {
                // The timer runs out, and then it is preempted.
                return;
            }
        }
        let kept = waiting.lower.filter(|_| lower);
        self.learned = rival.interval;
        self.phase = Phase::Backup(Waiting { lower: kept, ..Waiting::new(now, self.active_down_interval()) });
    }

    fn goodbye_heard(&mut self, now: Time, from: IpAddr, out: &mut Vec<Action>) {
        if self.params.sole_peer && !self.stood_down {
            self.promote(now, Reason::Goodbye { from }, out);
            return;
        }
        let skew_time = self.skew_time();
        if let Phase::Backup(waiting) = &mut self.phase {
            // Never later than it would have been anyway.
            waiting.down = waiting.down.min(now + skew_time);
            (waiting.goodbye, waiting.lower) = (Some(from), None);
        }
    }

    /// Active_Down_Timer.
    pub(super) fn backup_timer(&mut self, now: Time, out: &mut Vec<Action>) {
        let opinion = self.fresh_opinion(now);
        let lifetime = self.opinion_lifetime();
        let (learned, skew_time, stood_down) = (self.learned, self.skew_time(), self.stood_down);
        let Phase::Backup(waiting) = &mut self.phase else { return };
        if now < waiting.down || stood_down {
            return;
        }
        let late = now.since(waiting.down);
        let silent_for = now.since(waiting.silent_since);
        if late > learned * 2 && waiting.goodbye.is_none() && !waiting.reprieved {
            waiting.reprieved = true;
            waiting.down = now + learned + skew_time;
            self.counters.late_timers += 1;
            self.warn(now, Warning::Late { by: late }, out);
            return;
        }
        if let Some((when, true)) = opinion
            && waiting.goodbye.is_none()
            && waiting.lower.is_none()
        {
            waiting.held_back = true;
            waiting.down = when + lifetime + Duration::from_nanos(1);
            self.counters.held_back += 1;
            self.warn(now, Warning::AdvertsDoNotArrive { silent_for }, out);
            return;
        }
        let reason = match (waiting.goodbye, waiting.lower) {
            (Some(from), _) => Reason::Goodbye { from },
            (None, Some((_, of, priority))) => Reason::Preempts { of, priority },
            (None, None) => Reason::Silence { of: self.active.map(|active| active.address), silent_for },
        };
        self.promote(now, reason, out);
    }

    /// Nothing is known of the peer any more that would keep this node from taking over.
    pub(super) fn no_longer_held_back(&mut self, now: Time) {
        if let Phase::Backup(waiting) = &mut self.phase
            && waiting.held_back
        {
            waiting.held_back = false;
            waiting.down = waiting.down.min(now);
        }
    }

    /// Sections 6.4.1 and 6.4.2: advertise, announce, Adver_Timer, Active.
    pub(super) fn promote(&mut self, now: Time, reason: Reason, out: &mut Vec<Action>) {
        self.counters.became_active += 1;
        self.send(self.priority(), out);
        out.push(Action::Hold);
        let firm =
            if matches!(reason, Reason::TakeOver(_)) { self.learned.max(self.params.interval) } else { Duration::ZERO };
        let holding = Holding::new(now, self.params.interval, now + firm);
        self.enter(now, Phase::Active(holding), reason, out);
    }

    pub(super) fn take_over(&mut self, now: Time, why: &'static str, out: &mut Vec<Action>) {
        (self.yielding, self.stood_down) = (false, false);
        match &mut self.phase {
            Phase::Initialize => {}
            Phase::Backup(_) => self.promote(now, Reason::TakeOver(why), out),
            Phase::Active(holding) => {
                holding.yield_until = None;
                self.advertise_now(now, out);
            }
        }
    }
}
