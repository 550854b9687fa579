//! The thread of the pooler: each turn hears everything that has arrived, then lets timers run out, then does what follows, in
//! the order of the real one.

use std::time::Duration;

use pgtandem::clock::Time;
use pgtandem::ha::{self, Action as Decision, Health, Item, Order};
use pgtandem::vrrp::{Action, Advert, ChecksumVariant, Event, Reason, State, Version};

use super::judge::Judge;
use super::node::{Mail, Pooler, Request, Said, own_address};
use super::world::{World, nanos};
use super::{MILLI, SECOND};

/// How long an advert waits for the addresses to be there (make before break).
const HOLD_PATIENCE: u64 = 20 * MILLI;

/// How long the helper may be away without this node being unfit.
const ABSENCE_MAX: u64 = SECOND;
/// A thread that has slept for so long cannot say for how long the helper has not answered.
const STALL: u64 = 250 * MILLI;
/// The longest sleep while an answer is awaited.
const NAP_MAX: u64 = 50 * MILLI;
const CALL_EVERY: u64 = 100 * MILLI;

/// No decision is followed by so many others at once.
const ROUNDS_MAX: usize = 100;

impl World {
    pub(crate) fn pooler_turn(&mut self, node: usize) -> Result<(), String> {
        if !self.nodes[node].pooler_runs() {
            return Ok(());
        }
        let Some(mut pooler) = self.nodes[node].pooler.take() else { return Ok(()) };
        let result = self.turn(node, &mut pooler);
        let out = pooler.leaving && pooler.ha.is_out();
        self.nodes[node].pooler = Some(pooler);
        if out {
            self.note(|| format!("node {node}: the process ends"));
            self.end_pooler(node);
            Judge::facts_changed(self);
        }
        result
    }

    fn turn(&mut self, node: usize, p: &mut Pooler) -> Result<(), String> {
        let now = self.nodes[node].clock.read(self.t);
        let mut decisions = Vec::new();
        self.call_helper(node, p);
        for queue in 0..3 {
            while let Some(mail) = self.nodes[node].inbox[queue].pop_front() {
                self.hear(node, p, now, mail, &mut decisions);
            }
        }
        self.examine(p, now, &mut decisions);
        for router in 0..p.routers.len() {
            if let Some((priority, interval, until)) = p.pending[router]
                && self.t >= until
            {
                p.pending[router] = None;
                self.advertise(node, p, router, priority, interval);
            }
            if p.routers[router].deadline().is_some_and(|at| at <= now) {
                self.feed(node, p, now, router, Event::Timer, &mut decisions);
            }
        }
        self.tend_link(node, p, now, &mut decisions);
        p.ha.step(now, ha::Event::Timer, &mut decisions);
        self.settle(node, p, now, &mut decisions)?;
        if self.t >= p.renew_at && p.welcomed && p.ha.is_well() {
            self.ask_for_lease(node, p);
        }
        self.sleep(node, p);
        Ok(())
    }

    fn sleep(&mut self, node: usize, p: &Pooler) {
        let clock = self.nodes[node].clock;
        let deadlines = p.routers.iter().filter_map(pgtandem::vrrp::Router::deadline).chain(p.ha.deadline());
        let mut at = deadlines.map(|deadline| clock.when(deadline)).min().unwrap_or(u64::MAX);
        if p.welcomed && p.ha.is_well() {
            at = at.min(p.renew_at);
        }
        if let Some(gone) = p.helper_gone {
            let absent = gone + ABSENCE_MAX;
            at = at.min(p.call_at).min(if absent > self.t { absent } else { u64::MAX });
        }
        if p.unanswered.is_some() {
            at = at.min(self.t + NAP_MAX);
        }
        at = p.pending.iter().flatten().fold(at, |at, (_, _, until)| at.min(*until));
        if self.setup.link {
            at = at.min(p.beat_at);
            if p.link_up {
                at = at.min(p.heard.unwrap_or(0) + self.setup.link_timeout + 1);
            }
        }
        self.wake_pooler(node, at.max(self.t + 1));
    }

    fn call_helper(&mut self, node: usize, p: &mut Pooler) {
        if p.helper_gone.is_some() && self.t >= p.call_at {
            p.call_at = self.t + CALL_EVERY;
            if self.nodes[node].helper.is_some() {
                self.ask_helper(node, Request::Hello);
            }
        }
    }

    fn ask_for_lease(&mut self, node: usize, p: &mut Pooler) {
        let lease = self.setup.lease();
        p.renew_at = self.t + lease / 3;
        p.unanswered.get_or_insert(self.t);
        self.ask_helper(node, Request::Renew { lease });
    }

    fn hear(&mut self, node: usize, p: &mut Pooler, now: Time, mail: Mail, out: &mut Vec<Decision>) {
        match mail {
            Mail::Helper(said) => self.helper_said(node, p, now, said, out),
            Mail::Consider(event) => {
                p.leaving |= matches!(*event, ha::Event::Leave);
                p.ha.step(now, *event, out);
            }
            Mail::Beat(status) => {
                p.heard = Some(self.t);
                if !p.link_up {
                    p.link_up = true;
                    let name = Some(format!("pooler{}", 2 - node));
                    p.ha.step(now, ha::Event::PeerLink { up: true, name }, out);
                }
                p.ha.step(now, ha::Event::PeerStatus(status), out);
            }
            Mail::Ask { id, routers, reason } => p.ha.step(now, ha::Event::PeerAsks { id, routers, reason }, out),
            Mail::Answer { id, accepted, text } => {
                p.ha.step(now, ha::Event::PeerAnswers { id, accepted, text }, out);
            }
            Mail::Advert { router, priority, interval } => {
                let params = p.routers[router].params();
                let advert = Advert {
                    version: Version::V3,
                    vrid: params.vrid,
                    priority,
                    interval,
                    addresses: params.addresses.clone(),
                    checksum: ChecksumVariant::Plain,
                };
                let from = own_address(1 - node, params.family);
                if p.interface {
                    self.feed(node, p, now, router, Event::Advert { from, advert: &advert }, out);
                }
            }
            Mail::Reload => {
                // The setup has changed already.
                for router in 0..p.routers.len() {
                    let params = self.setup.router_params(node, router);
                    self.feed(node, p, now, router, Event::Params(params), out);
                }
                p.ha.step(now, ha::Event::Params(self.setup.ha_params(node)), out);
            }
        }
    }

    fn helper_said(&mut self, node: usize, p: &mut Pooler, now: Time, said: Said, out: &mut Vec<Decision>) {
        match said {
            Said::Welcome { held } => {
                (p.welcomed, p.helper_gone) = (true, None);
                self.ask_for_lease(node, p);
                for router in 0..p.routers.len() {
                    p.held[router] = held.contains(&router);
                }
                self.interface_is(node, p, now, self.nodes[node].truth.interface, out);
                for router in 0..p.routers.len() {
                    if p.routers[router].state() == State::Active {
                        self.hold(node, p, router);
                    }
                }
                if std::mem::take(&mut p.inherits) {
                    p.ha.inherit(now, self.setup.ha_params(node), &held, out);
                    (p.said_helper, p.said_interface) = (None, None);
                }
            }
            Said::Held { router } => {
                p.held[router] = true;
                if let Some((priority, interval, _)) = p.pending[router].take() {
                    self.advertise(node, p, router, priority, interval);
                }
            }
            Said::HoldFailed { router } => self.addresses_lost(node, p, now, router, out),
            Said::LeaseOver { routers } => {
                routers.into_iter().for_each(|router| self.addresses_lost(node, p, now, router, out));
            }
            Said::Interface { up } => self.interface_is(node, p, now, up, out),
            Said::Renewed => p.unanswered = None,
            Said::Eof => {
                (p.welcomed, p.unanswered) = (false, None);
                p.helper_gone.get_or_insert(self.t);
                p.call_at = self.t + CALL_EVERY;
            }
        }
    }

    fn addresses_lost(&mut self, node: usize, p: &mut Pooler, now: Time, router: usize, out: &mut Vec<Decision>) {
        p.held[router] = false;
        self.feed(node, p, now, router, Event::AddressesLost, out);
    }

    fn interface_is(&mut self, node: usize, p: &mut Pooler, now: Time, up: bool, out: &mut Vec<Decision>) {
        p.interface = up;
        for router in 0..p.routers.len() {
            let own_address = up.then(|| own_address(node, p.routers[router].params().family));
            self.feed(node, p, now, router, Event::Link { up, own_address }, out);
        }
    }

    /// What only this thread sees.
    fn examine(&mut self, p: &mut Pooler, now: Time, out: &mut Vec<Decision>) {
        // A process that began while the machine's clock stood still has looked later than now.
        let stalled = self.t.saturating_sub(std::mem::replace(&mut p.examined_at, self.t)) > STALL;
        if let Some(since) = p.unanswered.as_mut().filter(|_| stalled) {
            *since = self.t;
        }
        let away = [p.helper_gone, p.unanswered];
        let absent = away.into_iter().flatten().any(|since| self.t >= since + ABSENCE_MAX);
        let helper = !absent && (p.welcomed || p.said_helper == Some(true));
        if p.said_helper != Some(helper) {
            p.said_helper = Some(helper);
            let health = if helper { Health::Good } else { Health::Bad("the address helper is gone".to_owned()) };
            p.ha.step(now, ha::Event::Health(Item::Helper, health), out);
        }
        if p.said_interface != Some(p.interface) {
            p.said_interface = Some(p.interface);
            for router in 0..p.routers.len() {
                let health = if p.interface { Health::Good } else { Health::Bad("interface eth0 is down".to_owned()) };
                p.ha.step(now, ha::Event::Interface { router, health }, out);
            }
        }
    }

    fn tend_link(&mut self, node: usize, p: &mut Pooler, now: Time, out: &mut Vec<Decision>) {
        if !self.setup.link {
            return;
        }
        if p.link_up && p.heard.is_some_and(|heard| self.t > heard + self.setup.link_timeout) {
            p.link_up = false;
            p.ha.step(now, ha::Event::PeerLink { up: false, name: None }, out);
        }
        if self.t >= p.beat_at {
            self.beat(node, p);
        }
    }

    fn beat(&mut self, node: usize, p: &mut Pooler) {
        p.beat_at = self.t + nanos(self.setup.interval).clamp(10 * MILLI, 100 * MILLI);
        self.mail_to_peer(node, Mail::Beat(Box::new(p.status.clone())));
    }

    fn settle(&mut self, node: usize, p: &mut Pooler, now: Time, out: &mut Vec<Decision>) -> Result<(), String> {
        for round in 0.. {
            if out.is_empty() {
                break;
            }
            if round > ROUNDS_MAX {
                return Err(format!("(g) node {node} decides without an end"));
            }
            for decision in std::mem::take(out) {
                match decision {
                    Decision::Router { router, order } => {
                        self.feed(node, p, now, router, event_of(order), out);
                    }
                    other => self.carry_out(node, p, other)?,
                }
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, node: usize, p: &mut Pooler, decision: Decision) -> Result<(), String> {
        match decision {
            Decision::AskPeer { id, routers, reason } => self.mail_to_peer(node, Mail::Ask { id, routers, reason }),
            Decision::AnswerPeer { id, accepted, text } => self.mail_to_peer(node, Mail::Answer { id, accepted, text }),
            Decision::Quiesce { .. } => {
                if !self.rng.percent(self.setup.restless) {
                    let at = self.t + self.rng.between(0, 50 * MILLI);
                    self.mail_to_pooler(node, at, 1, Mail::Consider(Box::new(ha::Event::Quiesced)));
                }
            }
            Decision::CommandDone { command, ok, text } => {
                self.note(|| format!("node {node}: command {command}: {ok}, {text}"));
                Judge::command_done(self, command, ok, &text)?;
            }
            Decision::StatusChanged => {
                p.status = p.ha.status();
                if self.setup.link {
                    self.beat(node, p);
                }
            }
            Decision::Log { text, .. } => self.note(|| format!("node {node}: {text}")),
            Decision::Resume { .. } | Decision::Router { .. } => {}
        }
        Ok(())
    }

    fn feed(
        &mut self,
        node: usize,
        p: &mut Pooler,
        now: Time,
        router: usize,
        event: Event<'_>,
        out: &mut Vec<Decision>,
    ) {
        let mut actions = Vec::new();
        p.routers[router].step(now, event, &mut actions);
        if p.routers[router].state() != State::Active {
            p.pending[router] = None;
        }
        for action in actions {
            match action {
                Action::Send { priority, interval } if self.must_wait(p, now, router, priority) => {
                    p.pending[router] = Some((priority, interval, self.t + HOLD_PATIENCE));
                }
                Action::Send { priority, interval } => self.advertise(node, p, router, priority, interval),
                Action::Hold => self.hold(node, p, router),
                Action::Release => self.ask_helper(node, Request::Release { router }),
                Action::Announce => {}
                Action::Transition { from, to, reason } => {
                    self.note(|| format!("node {node}: r{router} {from} -> {to}: {reason}"));
                    self.judge.transitions += 1;
                    p.ha.step(now, ha::Event::Router { router, to, reason }, out);
                }
                Action::Warn(warning) => self.note(|| format!("node {node}: r{router} warns: {warning}")),
            }
        }
    }

    fn must_wait(&self, p: &Pooler, now: Time, router: usize, priority: u8) -> bool {
        let picture = p.routers[router].picture();
        let taken = matches!(picture.reason, Some(Reason::TakeOver(_) | Reason::Preempts { .. }));
        let age = nanos(now.since(picture.since));
        let fresh = age == 0 || (age < HOLD_PATIENCE && !p.held[router]);
        priority > 0 && picture.state == State::Active && taken && fresh
    }

    fn advertise(&mut self, node: usize, p: &mut Pooler, router: usize, priority: u8, interval: Duration) {
        if priority > 0 && p.advertised[router] != priority {
            p.advertised[router] = priority;
            self.ask_helper(node, Request::Advertised { router, priority });
        }
        if p.interface {
            self.multicast(node, router, priority, interval);
        }
    }

    fn hold(&mut self, node: usize, p: &mut Pooler, router: usize) {
        p.held[router] = false;
        let picture = p.routers[router].picture();
        p.advertised[router] = picture.priority;
        let silent = matches!(picture.reason, Some(Reason::Silence { .. }));
        let check = if silent { (nanos(self.setup.interval) / 50).min(5 * MILLI) } else { 0 };
        self.ask_helper(node, Request::Advertised { router, priority: picture.priority });
        self.ask_helper(node, Request::Hold { router, check });
    }
}

fn event_of(order: Order) -> Event<'static> {
    match order {
        Order::Start { held } => Event::Start { held },
        Order::StepDown { goodbye } => Event::Stop { goodbye },
        Order::Yield => Event::Yield,
        Order::YieldFor(patience) => Event::YieldFor(patience),
        Order::NoYield => Event::NoYield,
        Order::TakeOver(why) => Event::TakeOver(why),
        Order::PeerActive(opinion) => Event::PeerActive(opinion),
    }
}
