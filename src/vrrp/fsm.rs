//! The state machine of one virtual router (RFC 9568 section 6.4 with its errata), and what goes beyond it; section 6.4's own
//! names of timers are used. Beyond it:
//!
//! - **Last word.** Who loses against a better Active Router sends one more advert, so that the winner knows of the rivalry and
//!   announces the addresses again: a winner that was heard first would otherwise never learn that neighbours have the loser's
//!   link-layer address in their caches.
//! - **Announcing again** after 20, 100 and 500 ms, 2 and 5 s, then every 10 s, and from the beginning at any sign of a rival.
//! - **Yield**: to leave by being preempted, which loses nothing, and only then by a goodbye.
//! - **Take over** at the peer's own wish. For one interval adverts of the peer that were under way do not undo it.
//! - **Sole peer**: after a goodbye there is nobody to wait for, so Skew_Time is zero.
//! - **Stalls.** A backup whose timer comes late listens for one more interval, once. An active router that has not advertised
//!   for three of its intervals may have been replaced: it gives way to whoever is heard, whatever the priority (to preempt
//!   is what comes after), and if nobody is heard it steps down too, with a goodbye, unless the peer is known not to be active.
//! - **Second opinion.** While the peer says by another way that it is active, silence does not make a router active.

mod active;
mod announce;
mod backup;
mod hear;

use std::net::IpAddr;
use std::time::Duration;

use self::active::Holding;
use self::backup::Waiting;
use super::picture::Rival;
use super::reason::Warning;
use super::{
    Advert, ChecksumVariant, Counters, Discard, PRIORITY_GOODBYE, PRIORITY_OWNER, PRIORITY_YIELD, Params, Picture,
    Reason, State,
};
use crate::clock::Time;

/// After how many intervals a router that wants to be preempted leaves with a goodbye: no priority makes a backup wait longer.
pub const YIELD_INTERVALS: u32 = 4;

/// A warning of one kind is repeated after this time.
const WARNING_GAP: Duration = Duration::from_secs(60);

/// What happens to a virtual router. After every event the driver looks at [`Router::deadline`] again.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Take part. `held`: the addresses are ours already, left by a predecessor: go on as active without asking anybody.
    Start {
        /// The addresses are ours already.
        held: bool,
    },
    /// Take no part, until [`Event::Start`].
    Stop {
        /// Say so to the others. Not if somebody else has said it, or the peer has taken over.
        goodbye: bool,
    },
    /// An advert that [`packet::decode`](super::packet::decode) has accepted.
    Advert {
        /// Who has sent it.
        from: IpAddr,
        /// What it says.
        advert: &'a Advert,
    },
    /// One that it has not accepted: to be counted.
    Discarded {
        /// Who has sent it.
        from: IpAddr,
        /// Why not.
        discard: Discard,
    },
    /// The deadline has passed, and everything that had arrived by now has been given to the router: a stall may only be judged
    /// after the queue was read. Does nothing if it is early.
    Timer,
    /// The effective priority: 1 to 254; 255 only for who is configured so.
    Priority(u8),
    /// Become active at once although somebody else is, for the reason given. Ends a yield.
    TakeOver(&'static str),
    /// Active: advertise priority 1, so that another takes over, and become backup when it does; if nobody does within
    /// [`YIELD_INTERVALS`], say goodbye, become backup, and do not become active by oneself again until [`Event::NoYield`],
    /// [`Event::TakeOver`] or [`Event::Start`]. Backup: be the last who takes over (and if it comes to that, stay active with
    /// priority 1: nobody else is there). To say it again changes nothing.
    Yield,
    /// As [`Event::Yield`], with this time instead of [`YIELD_INTERVALS`]: for an owner who asks the other node by another way,
    /// sees what comes of it, and says [`Event::NoYield`] before.
    YieldFor(Duration),
    /// The end of [`Event::Yield`] and what came of it.
    NoYield,
    /// What the peer says of itself by another way than adverts: is it active (and fit)? `None`: it cannot be asked. To be
    /// repeated with every message of the peer: a word older than about two intervals counts for nothing, since the peer may
    /// have died after it.
    PeerActive(Option<bool>),
    /// A sign of another holder of the addresses, other than an advert: an ARP packet, a neighbour advertisement.
    Rival,
    /// The addresses were taken away (the lease is over), with a goodbye.
    AddressesLost,
    /// The interface has come up or gone down, or its own address has changed. Without an own address it is as good as down.
    Link {
        /// It is up.
        up: bool,
        /// The primary IPv4 address or the IPv6 link-local address.
        own_address: Option<IpAddr>,
    },
    /// New parameters. What has not changed does not move.
    Params(Params),
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send [`Router::advert`] with these values to all [`Params::destinations`].
    Send {
        /// The priority; 0 is a goodbye.
        priority: u8,
        /// The interval.
        interval: Duration,
    },
    /// Put the addresses on the interface and announce them. After [`Event::Start`] with `held` they are there already.
    Hold,
    /// Take the addresses off the interface.
    Release,
    /// Announce the addresses again.
    Announce,
    /// The state has changed.
    Transition {
        /// From.
        from: State,
        /// To.
        to: State,
        /// Why.
        reason: Reason,
    },
    /// Worth a line in the log.
    Warn(Warning),
}

/// The state, and what is known only in it.
#[derive(Clone, Debug)]
enum Phase {
    Initialize,
    Backup(Waiting),
    Active(Holding),
}

/// One virtual router on one node.
#[derive(Clone, Debug)]
pub struct Router {
    params: Params,
    own_address: IpAddr,
    phase: Phase,
    since: Time,
    reason: Option<Reason>,
    /// The effective priority, without regard to a yield.
    priority: u8,
    yielding: bool,
    stood_down: bool,
    started: bool,
    link_up: bool,
    /// Whom a backup hears, or the last rival.
    active: Option<Rival>,
    /// Active_Adver_Interval.
    learned: Duration,
    checksum: ChecksumVariant,
    /// What the peer said of itself last, and when.
    opinion: Option<(Time, bool)>,
    counters: Counters,
    warned: [Option<Time>; Warning::KINDS],
}

impl Router {
    /// A router that takes no part yet. Its interface is up, and has this address.
    #[must_use]
    pub fn new(now: Time, params: Params, own_address: IpAddr) -> Self {
        let params = params.bounded();
        Self {
            own_address,
            phase: Phase::Initialize,
            since: now,
            reason: None,
            priority: params.priority,
            yielding: false,
            stood_down: false,
            started: false,
            link_up: true,
            active: None,
            learned: params.interval,
            checksum: params.checksum,
            opinion: None,
            counters: Counters::default(),
            warned: [None; Warning::KINDS],
            params,
        }
    }

    /// Takes one event, and appends what is to be done.
    pub fn step(&mut self, now: Time, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::Start { held } => {
                (self.started, self.yielding, self.stood_down) = (true, false, false);
                if held && !self.link_up {
                    // They were left on an interface that cannot be used: when it can, somebody else may have them.
                    self.release(out);
                }
                self.begin(now, held, out);
            }
            Event::Stop { goodbye } => {
                (self.started, self.yielding, self.stood_down) = (false, false, false);
                self.finish(now, goodbye, Reason::Stopped { goodbye }, out);
            }
            Event::Advert { from, advert } => self.hear(now, from, advert, out),
            Event::Discarded { from, discard } => self.discard(now, from, discard, out),
            Event::Timer => match &self.phase {
                Phase::Initialize => {}
                Phase::Backup(_) => self.backup_timer(now, out),
                Phase::Active(_) => self.active_timers(now, out),
            },
            Event::Priority(priority) => self.set_priority(now, priority, out),
            Event::TakeOver(why) => self.take_over(now, why, out),
            Event::Yield => self.begin_yield(now, self.params.interval * YIELD_INTERVALS, out),
            Event::YieldFor(patience) => self.begin_yield(now, patience, out),
            Event::NoYield => self.end_yield(now, out),
            Event::PeerActive(opinion) => self.set_opinion(now, opinion),
            Event::Rival => self.rival_sign(now, out),
            Event::AddressesLost => {
                if let Phase::Active(_) = self.phase {
                    // A request to hold them may be under way that is younger than the loss.
                    self.release(out);
                    self.demote(now, Reason::AddressesLost, None, out);
                }
            }
            Event::Link { up, own_address } => self.set_link(now, up, own_address, out),
            Event::Params(params) => self.set_params(now, params, out),
        }
    }

    /// When [`Event::Timer`] is due; it may have passed already. `None`: nothing happens by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match &self.phase {
            Phase::Initialize => None,
            Phase::Backup(waiting) => (!self.stood_down).then_some(waiting.down),
            Phase::Active(holding) => Some(holding.deadline()),
        }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Initialize => State::Initialize,
            Phase::Backup(_) => State::Backup,
            Phase::Active(_) => State::Active,
        }
    }

    /// The priority that is advertised.
    #[must_use]
    pub fn priority(&self) -> u8 {
        if self.yielding { PRIORITY_YIELD } else { self.priority }
    }

    /// How checksums are sent: as the peer does, once one was heard.
    #[must_use]
    pub fn checksum(&self) -> ChecksumVariant {
        self.checksum
    }

    /// The parameters, within their bounds.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// This node's own address on the interface: the source of adverts.
    #[must_use]
    pub fn own_address(&self) -> IpAddr {
        self.own_address
    }

    /// What [`Action::Send`] wants sent.
    #[must_use]
    pub fn advert(&self, priority: u8, interval: Duration) -> Advert {
        Advert {
            version: self.params.version,
            vrid: self.params.vrid,
            priority,
            interval,
            addresses: self.params.addresses.clone(),
            checksum: self.checksum,
        }
    }

    /// For SHOW HA.
    #[must_use]
    pub fn picture(&self) -> Picture {
        Picture {
            vrid: self.params.vrid,
            family: self.params.family,
            version: self.params.version,
            state: self.state(),
            since: self.since,
            reason: self.reason,
            priority: self.priority(),
            interval: self.params.interval,
            yielding: self.yielding,
            stood_down: self.stood_down,
            active: self.active,
            own_address: self.own_address,
            checksum: self.checksum,
            deadline: self.deadline(),
            counters: self.counters,
        }
    }

    /// RFC 9568 section 6.4.1, Startup.
    fn begin(&mut self, now: Time, held: bool, out: &mut Vec<Action>) {
        if !self.started || !self.link_up || !matches!(self.phase, Phase::Initialize) {
            return;
        }
        self.active = None;
        self.learned = self.params.interval;
        if held {
            self.promote(now, Reason::StartedHeld, out);
        } else if self.is_owner() {
            self.promote(now, Reason::StartedOwner, out);
        } else {
            let waiting = Waiting::new(now, self.active_down_interval());
            self.enter(now, Phase::Backup(waiting), Reason::Started, out);
        }
    }

    /// Sections 6.4.2 and 6.4.3, Shutdown.
    fn finish(&mut self, now: Time, goodbye: bool, reason: Reason, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Initialize => return,
            Phase::Backup(_) => {}
            Phase::Active(_) => {
                if goodbye {
                    self.send(PRIORITY_GOODBYE, out);
                }
                self.release(out);
            }
        }
        self.enter(now, Phase::Initialize, reason, out);
    }

    fn set_priority(&mut self, now: Time, priority: u8, out: &mut Vec<Action>) {
        let highest = if self.params.priority == PRIORITY_OWNER { PRIORITY_OWNER } else { PRIORITY_OWNER - 1 };
        let priority = priority.clamp(1, highest);
        if priority != self.priority {
            self.priority = priority;
            if !self.yielding {
                self.advertise_now(now, out);
            }
        }
    }

    fn set_link(&mut self, now: Time, up: bool, own_address: Option<IpAddr>, out: &mut Vec<Action>) {
        let own_address = own_address.filter(|_| up);
        self.link_up = own_address.is_some();
        match own_address {
            Some(own_address) => {
                self.own_address = own_address;
                self.begin(now, false, out);
            }
            None => self.finish(now, false, Reason::LinkDown, out),
        }
    }

    fn set_params(&mut self, now: Time, params: Params, out: &mut Vec<Action>) {
        let params = params.bounded();
        if !self.params.same_router(&params) {
            self.warn(now, Warning::OtherRouter, out);
            return;
        }
        let old = std::mem::replace(&mut self.params, params);
        if old.checksum != self.params.checksum {
            self.checksum = self.params.checksum;
        }
        if old.interval != self.params.interval && self.active.is_none() {
            self.learned = self.params.interval;
        }
        let others = (old.interval, &old.addresses, &old.unicast_peers);
        let moved = others != (self.params.interval, &self.params.addresses, &self.params.unicast_peers);
        if old.priority != self.params.priority {
            self.set_priority(now, self.params.priority, out);
        }
        if moved {
            self.advertise_now(now, out);
        }
        if old.addresses != self.params.addresses {
            self.announce_from_start(now, out);
        }
    }

    fn set_opinion(&mut self, now: Time, opinion: Option<bool>) {
        self.opinion = opinion.map(|active| (now, active));
        if opinion != Some(true) {
            self.no_longer_held_back(now);
        }
    }

    /// The peer's word, if it is fresh. Had the peer died right after it, the silence since its last advert (sent at most one
    /// interval before) would not yet be Active_Down_Interval: so a word of this age proves life.
    fn fresh_opinion(&self, now: Time) -> Option<(Time, bool)> {
        self.opinion.filter(|(when, _)| now <= *when + self.opinion_lifetime())
    }

    fn opinion_lifetime(&self) -> Duration {
        self.learned * 2 + self.skew_time()
    }

    fn is_owner(&self) -> bool {
        self.priority() == PRIORITY_OWNER
    }

    /// Skew_Time (RFC 9568 section 6.1), exactly.
    fn skew_time(&self) -> Duration {
        self.learned * (256 - u32::from(self.priority())) / 256
    }

    /// Active_Down_Interval (RFC 9568 section 6.1).
    fn active_down_interval(&self) -> Duration {
        self.learned * 3 + self.skew_time()
    }

    fn send(&mut self, priority: u8, out: &mut Vec<Action>) {
        self.counters.adverts_sent += 1;
        self.counters.goodbyes_sent += u64::from(priority == PRIORITY_GOODBYE);
        out.push(Action::Send { priority, interval: self.params.interval });
    }

    fn release(&mut self, out: &mut Vec<Action>) {
        self.counters.released += 1;
        out.push(Action::Release);
    }

    /// Comes last among the actions: a log line must not delay what matters.
    fn enter(&mut self, now: Time, phase: Phase, reason: Reason, out: &mut Vec<Action>) {
        let from = self.state();
        self.phase = phase;
        self.since = now;
        self.reason = Some(reason);
        out.push(Action::Transition { from, to: self.state(), reason });
    }

    fn warn(&mut self, now: Time, warning: Warning, out: &mut Vec<Action>) {
        if let Some(last) = self.warned.get_mut(warning.kind())
            && last.is_none_or(|last| now.since(last) >= WARNING_GAP)
        {
            *last = Some(now);
            out.push(Action::Warn(warning));
        }
    }
}
