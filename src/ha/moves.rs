//! Planned moves to the other node: why, how, and what if it does not come off.

use std::time::Duration;

use super::{Action, Entry, Ha, Level, Order, RouterKey};
use crate::clock::Time;
use crate::vrrp::{State, YIELD_INTERVALS};

/// The peer has at least this long to take over, however short the interval is: a link may have to repeat a packet.
const ASK_MIN: Duration = Duration::from_millis(500);

/// After a goodbye whoever is there has taken over, or this node has come back, within so many intervals: three without an
/// advert, and not quite one of skew.
const RELIEF_INTERVALS: u32 = 5;

/// After a move of this node's own accord has failed.
const RETRY: Duration = Duration::from_secs(5);

/// Why addresses are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// An administrator wants it so.
    Switchover,
    /// The peer reaches its servers, this node does not.
    Servers,
    /// The process waits for its clients to leave.
    Drain,
    /// It ends now.
    Leave,
    /// An administrator works on this node.
    Maintenance,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Clients come to rest.
    Quiescing { deadline: Time },
    /// The peer is to take over.
    Asking { id: u64, deadline: Time, accepted: bool },
    /// Without a link: somebody may take over.
    Yielding { deadline: Time },
    /// Nobody has, and a goodbye was said.
    Relief { deadline: Time },
}

/// One planned move. There is never more than one.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) cause: Cause,
    pub(super) routers: Vec<usize>,
    pub(super) began: Time,
    pub(super) reason: String,
    phase: Phase,
    command: Option<u64>,
    quiesced: bool,
    /// Routers that nobody has preempted in time: they have said goodbye, and whoever is there takes over now.
    given_up: Vec<usize>,
}

impl Move {
    pub(super) fn deadline(&self) -> Time {
        match self.phase {
            Phase::Quiescing { deadline }
            | Phase::Asking { deadline, .. }
            | Phase::Yielding { deadline }
            | Phase::Relief { deadline } => deadline,
        }
    }
}

impl Ha {
    pub(super) fn switchover(
        &mut self,
        now: Time,
        command: u64,
        router: Option<usize>,
        by: &str,
        out: &mut Vec<Action>,
    ) {
        let all = 0..self.routers.len();
        let routers: Vec<usize> =
            all.filter(|&index| router.is_none_or(|router| router == index) && self.is_active(index)).collect();
        let cannot = routers.iter().find_map(|&router| self.peer_cannot(now, router));
        let refusal = if let Some(planned) = &self.planned {
            Some(format!("another move is under way: {}", planned.reason))
        } else if let Some(reason) = self.unwanted() {
            Some(format!("this node gives up its addresses anyway: {reason}"))
        } else if routers.is_empty() {
            let there = self.peer.is_fresh(now, self.params.link_timeout);
            let hint = if there { format!(": say it on {}", self.peer.name()) } else { String::new() };
            Some(format!("not active here{hint}"))
        } else {
            cannot.filter(|_| self.params.link)
        };
        if let Some(text) = refusal {
            out.push(Action::CommandDone { command, ok: false, text });
            return;
        }
        self.begin_move(now, Cause::Switchover, routers, format!("SWITCHOVER by {by}"), Some(command), out);
    }

    /// A move that nobody has ordered in so many words.
    pub(super) fn begin_wished_move(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.unfit_reason().is_some() {
            return;
        }
        let Some((cause, reason)) = self.wish(now) else { return };
        let all = 0..self.routers.len();
        // One that was told to step down is on its way already.
        let led = |router: usize| self.routers.get(router).is_some_and(|led| led.started);
        let active = all.filter(|&router| self.is_active(router) && led(router));
        let routers: Vec<usize> =
            active.filter(|&router| !self.params.link || self.peer_cannot(now, router).is_none()).collect();
        if routers.is_empty() {
            return;
        }
        self.begin_move(now, cause, routers, reason, None, out);
    }

    fn wish(&self, now: Time) -> Option<(Cause, String)> {
        if self.leaving {
            // There is no second attempt: then it is a goodbye.
            return (now >= self.retry_at).then(|| (Cause::Leave, "this process ends".to_owned()));
        }
        if now < self.retry_at {
            return None;
        }
        if let Some(by) = &self.maintenance {
            return Some((Cause::Maintenance, format!("HA MAINTENANCE ON by {by}")));
        }
        if self.draining {
            // Nobody new is let in here: without a link somebody may be there who lets them in.
            return Some((Cause::Drain, "this process waits for its clients to leave".to_owned()));
        }
        if !self.params.link {
            // Nobody knows whether somebody is there, and what that one reaches.
            return None;
        }
        let due = self.fitness.servers_down(now, &self.params) && self.peer_has_servers(now);
        let soon = self.servers_moved.is_some_and(|moved| now < moved + self.params.servers_gap);
        (due && !soon).then(|| {
            let reason = self.fitness.servers_reason();
            (Cause::Servers, format!("only {} reaches the servers: {reason}", self.peer.name()))
        })
    }

    /// When [`Self::wish`] or the mark of the servers may change by itself. Early is harmless.
    pub(super) fn wish_deadline(&self) -> Option<Time> {
        let since = self.fitness.servers_since();
        let gap = self.servers_moved.map(|moved| moved + self.params.servers_gap);
        let mut times = vec![Some(self.retry_at), gap, self.peer_servers_at()];
        if !self.fitness.servers_reachable() {
            times.push(Some(since + self.params.servers_down_delay));
        } else if self.fitness.servers_low() {
            times.push(Some(self.fitness.servers_trusted_at(&self.params, self.servers_moved)));
        }
        times.into_iter().flatten().filter(|&time| time > self.now).min()
    }

    fn begin_move(
        &mut self,
        now: Time,
        cause: Cause,
        routers: Vec<usize>,
        reason: String,
        command: Option<u64>,
        out: &mut Vec<Action>,
    ) {
        if cause == Cause::Servers {
            self.servers_moved = Some(now);
        }
        let to = if self.params.link { self.peer.name() } else { "whoever is there" };
        let text = format!("planned move of {} to {to}: {reason}", self.names(&routers));
        self.history.push(Entry::of_node(now, text.clone()));
        out.push(Action::Log { level: Level::Info, text });
        let deadline = now + self.params.switchover_timeout;
        let phase = Phase::Quiescing { deadline };
        let quiesced = cause != Cause::Leave;
        if quiesced {
            out.push(Action::Quiesce { routers: routers.clone(), deadline });
        }
        self.planned =
            Some(Move { cause, routers, began: now, reason, phase, command, quiesced, given_up: Vec::new() });
        if !quiesced {
            self.pass_on(now, out);
        }
    }

    pub(super) fn quiesced(&mut self, now: Time, out: &mut Vec<Action>) {
        if matches!(&self.planned, Some(Move { phase: Phase::Quiescing { .. }, .. })) {
            self.pass_on(now, out);
        }
    }

    /// Clients are at rest: make the other node take over.
    fn pass_on(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(planned) = &self.planned else { return };
        let routers: Vec<usize> = planned.routers.iter().copied().filter(|&router| self.is_active(router)).collect();
        let params = routers.iter().filter_map(|&router| self.params.routers.get(router));
        let interval = params.clone().map(|params| params.interval).max().unwrap_or_default();
        let keys: Vec<RouterKey> = params.map(|params| params.key).collect();
        let reason = planned.reason.clone();
        let patience = (interval * YIELD_INTERVALS).max(ASK_MIN);
        let (order, phase) = if self.params.link {
            let id = self.next_ask;
            self.next_ask += 1;
            // The end of it is judged here; the router's own patience is only for the case that nothing comes from here.
            (Order::YieldFor(patience * 2), Phase::Asking { id, deadline: now + patience, accepted: false })
        } else {
            (Order::Yield, Phase::Yielding { deadline: now + patience * 2 })
        };
        if let Some(planned) = &mut self.planned {
            planned.phase = phase;
        }
        for router in routers {
            if let Some(led) = self.routers.get_mut(router) {
                led.yielding = true;
                out.push(Action::Router { router, order });
            }
        }
        if let Phase::Asking { id, .. } = phase {
            out.push(Action::AskPeer { id, routers: keys, reason });
        }
    }

    pub(super) fn peer_answers(&mut self, now: Time, id: u64, yes: bool, text: &str, out: &mut Vec<Action>) {
        let Some(Move { phase: Phase::Asking { id: asked, accepted, .. }, .. }) = &mut self.planned else { return };
        if *asked != id {
            return;
        }
        if yes {
            *accepted = true;
        } else {
            let text = format!("{} has declined: {text}", self.peer.name());
            self.move_ended(now, Some(text), out);
        }
    }

    /// What time and the peer's state do to a move.
    pub(super) fn tend_move(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(planned) = &self.planned else { return };
        if !planned.routers.iter().any(|&router| self.is_active(router)) {
            return if planned.given_up.is_empty() {
                self.move_ended(now, None, out)
            } else {
                self.await_relief(now, out)
            };
        }
        if planned.given_up.iter().any(|&router| self.is_active(router)) {
            let text = "nobody has taken over: the addresses were given up with a goodbye, and have come back";
            return self.move_ended(now, Some(text.to_owned()), out);
        }
        let (cause, due) = (planned.cause, now >= planned.deadline());
        if let Some(fault) = self.unfit_reason() {
            self.move_ended(now, Some(format!("this node has become unfit: {fault}")), out);
            return;
        }
        let lasting = match cause {
            Cause::Drain => self.draining || self.leaving,
            Cause::Maintenance => self.maintenance.is_some(),
            Cause::Servers => !self.fitness.servers_reachable(),
            Cause::Switchover | Cause::Leave => true,
        };
        match planned.phase {
            Phase::Quiescing { .. } if !lasting => {
                self.move_ended(now, Some("the reason is gone".to_owned()), out);
            }
            Phase::Quiescing { .. } => {
                let cannot = planned.routers.iter().find_map(|&router| self.peer_cannot(now, router));
                match cannot.filter(|_| self.params.link) {
                    Some(cannot) => self.move_ended(now, Some(cannot), out),
                    None if due => self.pass_on(now, out),
                    None => {}
                }
            }
            Phase::Asking { accepted, .. } if due => {
                let name = self.peer.name();
                let text = if accepted {
                    format!("{name} has said that it takes over, and no advert of it has come")
                } else {
                    format!("{name} does not answer")
                };
                self.unanswered(now, cause, accepted, text, out);
            }
            Phase::Yielding { .. } if due => self.move_ended(now, Some("nobody has taken over".to_owned()), out),
            // One that was taken over is back before the others have been: whoever ordered this must hear of it all the same.
            Phase::Relief { .. } if due => {
                let text = "some of the addresses were taken over, and have come back";
                self.move_ended(now, Some(text.to_owned()), out);
            }
            Phase::Asking { .. } | Phase::Yielding { .. } | Phase::Relief { .. } => {}
        }
    }

    /// A router has left Active because nobody preempted it. An administrator wants to know what comes of it.
    pub(super) fn given_up(&mut self, router: usize) {
        let Some(planned) = self.planned.as_mut().filter(|planned| planned.cause == Cause::Switchover) else { return };
        if planned.routers.contains(&router) {
            planned.given_up.push(router);
            let preempt = self.params.routers.get(router).is_some_and(|params| params.preempt);
            if let Some(led) = self.routers.get_mut(router) {
                // Else it would preempt whoever is about to take over.
                led.moved = preempt;
            }
        }
    }

    /// After a goodbye: if nobody is there the addresses come back within about four intervals.
    fn await_relief(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(planned) = &mut self.planned else { return };
        match planned.phase {
            Phase::Relief { deadline } if now >= deadline => self.move_ended(now, None, out),
            Phase::Relief { .. } => {}
            _ => {
                let routers = planned.routers.iter().filter_map(|&router| self.params.routers.get(router));
                let interval = routers.map(|params| params.interval).max().unwrap_or_default();
                planned.phase = Phase::Relief { deadline: now + interval * RELIEF_INTERVALS };
                if std::mem::take(&mut planned.quiesced) {
                    out.push(Action::Resume { routers: planned.routers.clone(), moved: true });
                }
            }
        }
    }

    /// Nobody can say whether the peer is there. If it has accepted, or if this node is to go anyway, a goodbye shows it: who
    /// is there takes over, and who has taken over announces the addresses again. If nobody does, this node is a backup like
    /// any other. Otherwise this node serves on.
    fn unanswered(&mut self, now: Time, cause: Cause, accepted: bool, text: String, out: &mut Vec<Action>) {
        let goes = accepted || matches!(cause, Cause::Drain | Cause::Leave | Cause::Maintenance);
        if goes && let Some(planned) = &self.planned {
            for &router in &planned.routers {
                if let Some(led) = self.routers.get_mut(router).filter(|led| led.state == State::Active) {
                    (led.started, led.yielding) = (false, false);
                    out.push(Action::Router { router, order: Order::StepDown { goodbye: true } });
                }
            }
        }
        self.move_ended(now, Some(text), out);
    }

    /// The routers have left Active, or `failure` says why not.
    pub(super) fn move_ended(&mut self, now: Time, failure: Option<String>, out: &mut Vec<Action>) {
        let Some(planned) = self.planned.take() else { return };
        let mut here = false;
        for &router in &planned.routers {
            let active = self.is_active(router);
            let preempt = self.params.routers.get(router).is_some_and(|params| params.preempt);
            let Some(led) = self.routers.get_mut(router) else { continue };
            if !led.started {
                continue;
            }
            if active {
                here = true;
                if std::mem::take(&mut led.yielding) {
                    out.push(Action::Router { router, order: Order::NoYield });
                }
            } else {
                // It would come straight back.
                led.moved = planned.cause == Cause::Switchover && preempt;
            }
        }
        self.report_move(now, &planned, !here, failure, out);
    }

    /// The routers that it was about are not led any more.
    pub(super) fn drop_move(&mut self, now: Time, why: &str, out: &mut Vec<Action>) {
        if let Some(planned) = self.planned.take() {
            self.report_move(now, &planned, false, Some(why.to_owned()), out);
        }
    }

    fn report_move(&mut self, now: Time, planned: &Move, moved: bool, failure: Option<String>, out: &mut Vec<Action>) {
        if planned.quiesced {
            out.push(Action::Resume { routers: planned.routers.clone(), moved });
        }
        let names = self.names(&planned.routers);
        let took = now.since(planned.began);
        let text = match &failure {
            None => format!("planned move of {names} is done after {} ms: {}", took.as_millis(), planned.reason),
            Some(failure) => format!("planned move of {names} has failed ({}): {failure}", planned.reason),
        };
        if failure.is_some() {
            self.retry_at = now + RETRY;
            self.history.push(Entry { took: Some(took), ..Entry::of_node(now, text.clone()) });
        }
        let level = if failure.is_some() { Level::Warn } else { Level::Info };
        out.push(Action::Log { level, text: text.clone() });
        if let Some(command) = planned.command {
            out.push(Action::CommandDone { command, ok: failure.is_none(), text: failure.unwrap_or(text) });
        }
    }

    fn names(&self, routers: &[usize]) -> String {
        let names = routers.iter().filter_map(|&router| self.params.routers.get(router));
        names.map(|params| params.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}
