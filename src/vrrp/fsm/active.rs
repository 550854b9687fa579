//! The state Active (RFC 9568 section 6.4.3).

use std::time::Duration;

use super::super::picture::Rival;
use super::super::{PRIORITY_GOODBYE, PRIORITY_YIELD, Reason, Warning};
use super::announce::Announcements;
use super::backup::Waiting;
use super::{Action, Phase, Router};
use crate::clock::Time;

/// Two routers that each think the other one lower (each sees another address of the other than it knows itself) answer each
/// other no faster than this allows, or than a tenth of the interval.
const ANSWER_GAP_MAX: Duration = Duration::from_millis(5);

/// What an active router waits for.
#[derive(Clone, Debug)]
pub(super) struct Holding {
    /// Adver_Timer.
    next_advert: Time,
    /// The last advert.
    sent: Time,
    announcements: Announcements,
    /// Nobody has taken over by then: goodbye.
    pub(super) yield_until: Option<Time>,
    /// After a planned take-over: better adverts are answered until then, and do not count.
    firm_until: Time,
}

impl Holding {
    /// An advert has just been sent, and the addresses announced.
    pub(super) fn new(now: Time, interval: Duration, firm_until: Time) -> Self {
        let announcements = Announcements::new(now);
        Self { next_advert: now + interval, sent: now, announcements, yield_until: None, firm_until }
    }

    pub(super) fn deadline(&self) -> Time {
        let first = self.next_advert.min(self.announcements.next());
        self.yield_until.map_or(first, |until| first.min(until))
    }
}

impl Router {
    pub(super) fn active_hears(&mut self, now: Time, rival: Rival, out: &mut Vec<Action>) {
        let (from, priority, own) = (rival.address, rival.priority, self.priority());
        // With preempt too: it comes back by preempting, which breaks nothing, and its addresses may be gone already.
        let may_give_way = !self.is_owner();
        let Phase::Active(holding) = &self.phase else { return };
        let firm = now < holding.firm_until;
        let silent_for = now.since(holding.sent);
        if priority == PRIORITY_GOODBYE {
            self.active = None;
            self.advertise_soon(now, out);
            self.rival_sign(now, out);
            return;
        }
        let better = priority > own || (priority == own && from > self.own_address);
        if better && !firm {
            let reason =
                if self.yielding { Reason::Yielded { to: from } } else { Reason::BetterRival { from, priority, own } };
            self.give_way(now, rival, reason, out);
        } else if !better && may_give_way && silent_for > self.replaceable_after() && priority > PRIORITY_YIELD {
            self.give_way(now, rival, Reason::Stalled { for_: silent_for, to: Some(from) }, out);
        } else {
            self.active = Some(rival);
            self.advertise_soon(now, out);
            self.rival_sign(now, out);
            if !self.yielding && !firm {
                self.warn(now, Warning::Rival { from, priority }, out);
            }
        }
    }

    /// To another Active Router, with a last word that is lower than what it says itself.
    fn give_way(&mut self, now: Time, to: Rival, reason: Reason, out: &mut Vec<Action>) {
        let own = self.priority();
        self.send(if own < to.priority { own } else { PRIORITY_YIELD }, out);
        self.release(out);
        self.demote(now, reason, Some(to), out);
    }

    /// To Backup; the addresses are given up already.
    pub(super) fn demote(&mut self, now: Time, reason: Reason, to: Option<Rival>, out: &mut Vec<Action>) {
        self.active = to;
        self.learned = to.map_or(self.params.interval, |to| to.interval);
        let waiting = Waiting::new(now, self.active_down_interval());
        self.enter(now, Phase::Backup(waiting), reason, out);
    }

    /// A backup of the highest priority waits this long.
    fn replaceable_after(&self) -> Duration {
        self.params.interval * 3
    }

    pub(super) fn active_timers(&mut self, now: Time, out: &mut Vec<Action>) {
        let interval = self.params.interval;
        let Phase::Active(holding) = &self.phase else { return };
        if holding.yield_until.is_some_and(|until| now >= until) {
            self.stood_down = true;
            self.send(PRIORITY_GOODBYE, out);
            self.release(out);
            self.demote(now, Reason::NobodyTookOver, None, out);
            return;
        }
        let (late, silent_for) = (now.since(holding.next_advert), now.since(holding.sent));
        if now >= holding.next_advert {
            let stalled = late > interval * 2;
            if stalled {
                self.counters.late_timers += 1;
                self.warn(now, Warning::Late { by: late }, out);
            }
            let peer_is_not = self.fresh_opinion(now).is_some_and(|(_, active)| !active);
            if stalled && silent_for > self.replaceable_after() && !self.is_owner() && !peer_is_not {
                // Who has taken over announces again at the first, and who has not yet does so at the second.
                self.send(PRIORITY_YIELD, out);
                self.send(PRIORITY_GOODBYE, out);
                self.release(out);
                self.demote(now, Reason::Stalled { for_: silent_for, to: None }, None, out);
                return;
            }
            self.advertise_now(now, out);
            if stalled {
                self.announce_from_start(now, out);
            }
        }
        if let Phase::Active(holding) = &mut self.phase
            && holding.announcements.due(now)
        {
            self.counters.announced += 1;
            out.push(Action::Announce);
        }
    }

    /// An advert outside the row, and the next one an interval later. Not active: nothing.
    pub(super) fn advertise_now(&mut self, now: Time, out: &mut Vec<Action>) {
        let interval = self.params.interval;
        if let Phase::Active(holding) = &mut self.phase {
            (holding.sent, holding.next_advert) = (now, now + interval);
            self.send(self.priority(), out);
        }
    }

    /// "MUST send an ADVERTISEMENT immediately" (section 6.4.3), but see [`ANSWER_GAP_MAX`].
    fn advertise_soon(&mut self, now: Time, out: &mut Vec<Action>) {
        let gap = (self.params.interval / 10).min(ANSWER_GAP_MAX);
        let Phase::Active(holding) = &mut self.phase else { return };
        let soonest = holding.sent + gap;
        if now < soonest {
            holding.next_advert = holding.next_advert.min(soonest);
        } else {
            self.advertise_now(now, out);
        }
    }

    /// Another holder is about, or was: neighbours must be told who is right.
    pub(super) fn rival_sign(&mut self, now: Time, out: &mut Vec<Action>) {
        if let Phase::Active(_) = self.phase {
            self.counters.rivals += 1;
            self.announce_from_start(now, out);
        }
    }

    pub(super) fn announce_from_start(&mut self, now: Time, out: &mut Vec<Action>) {
        if let Phase::Active(holding) = &mut self.phase
            && holding.announcements.again(now)
        {
            self.counters.announced += 1;
            out.push(Action::Announce);
        }
    }

    pub(super) fn begin_yield(&mut self, now: Time, patience: Duration, out: &mut Vec<Action>) {
        if self.yielding {
            return;
        }
        self.yielding = true;
        if let Phase::Active(holding) = &mut self.phase {
            holding.yield_until = Some(now + patience);
            holding.firm_until = now;
            self.advertise_now(now, out);
        }
    }

    pub(super) fn end_yield(&mut self, now: Time, out: &mut Vec<Action>) {
        if !self.yielding && !self.stood_down {
            return;
        }
        let stood_down = self.stood_down;
        (self.yielding, self.stood_down) = (false, false);
        match &mut self.phase {
            Phase::Initialize => {}
            Phase::Backup(_) if stood_down => {
                self.phase = Phase::Backup(Waiting::new(now, self.active_down_interval()));
            }
            Phase::Backup(_) => {}
            Phase::Active(holding) => {
                holding.yield_until = None;
                self.advertise_now(now, out);
            }
        }
    }
}
