//! One virtual router with what it acts on: its socket, and the helper that has its addresses. What arrives goes into the state
//! machine, what the machine wants is done; what others must know comes out as [`News`].

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::holder::Holder;
use super::tell::RouterView;
use crate::clock::Time;
use crate::config::ha::{AddressFamily, VirtualRouter, VrrpVersion};
use crate::daemon::helper::menu::Request;
use crate::vrrp::io::socket::{RECEIVE_LEN, VrrpSocket};
use crate::vrrp::{
    Action, ChecksumVariant, Event, Family, Params, Picture, Reason, Router, State, Version, Warning, packet,
};

/// How long an advert waits for the addresses to be there.
const HOLD_PATIENCE: Duration = Duration::from_millis(20);

/// How long a claim by ARP waits for an advert that explains it.
const RIVAL_PATIENCE: Duration = Duration::from_millis(15);

/// Adverts that are read from one socket at once; what floods it must not keep the thread from its timers.
const ADVERTS_MAX: usize = 64;

/// How long the helper asks who else has an address before it takes it from a silent node: a fraction of the interval, so that
/// the question costs little of what the failover takes, and at most the second number.
const CHECK_PER_INTERVAL: u32 = 50;
const CHECK_MAX: Duration = Duration::from_millis(5);

/// Something that has happened to a virtual router.
#[derive(Debug)]
pub(super) enum News {
    /// Its state has changed.
    Transition { from: State, to: State, reason: Reason },
    /// The helper has its addresses now.
    Held { took: Duration, rival: Option<[u8; 6]> },
    /// The helper has given them up.
    Released,
    /// Worth a line in the log.
    Warning(Warning),
    /// The addresses could not be had.
    HoldFailed(io::Error),
}

/// One virtual router.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) index: u8,
    pub(super) config: VirtualRouter,
    router: Router,
    socket: Option<VrrpSocket>,
    own_address: Option<IpAddr>,
    /// The helper is known to hold the addresses.
    pub(super) held: bool,
    /// When the hold or release that is under way was asked for.
    asked_at: Time,
    /// What the helper was told that we advertise.
    advertised: Option<u8>,
    actions: Vec<Action>,
    /// What has happened since somebody last asked.
    pub(super) news: Vec<News>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// When a claim of somebody else is answered, unless an advert explains it before.
    rival_at: Option<Time>,
    /// An advert that waits until neighbours know where the addresses are.
    pending: Option<(u8, Duration)>,
    /// Sending has failed, and that was said.
    mute: bool,
    last_discard: Option<String>,
}

/// The parameters of the state machine.
pub(super) fn params(config: &VirtualRouter, sole_peer: bool) -> Params {
    Params {
        vrid: config.vrid,
        family: family(config.family),
        version: version(config.version),
        priority: config.priority,
        interval: config.interval,
        preempt: config.preempt,
        preempt_delay: config.preempt_delay,
        sole_peer,
        addresses: config.addresses.clone(),
        unicast_peers: config.unicast_peers.clone(),
        link_local_first: false,
        checksum: ChecksumVariant::Plain,
    }
}

pub(super) fn family(family: AddressFamily) -> Family {
    match family {
        AddressFamily::V4 => Family::V4,
        AddressFamily::V6 => Family::V6,
    }
}

pub(super) fn version(version: VrrpVersion) -> Version {
    match version {
        VrrpVersion::V2 => Version::V2,
        VrrpVersion::V3 => Version::V3,
    }
}

fn unspecified(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Seat {
    pub(super) fn new(now: Time, index: u8, config: VirtualRouter, sole_peer: bool) -> Self {
        let router = Router::new(now, params(&config, sole_peer), unspecified(config.family));
        Self {
            index,
            config,
            router,
            socket: None,
            own_address: None,
            held: false,
            asked_at: now,
            advertised: None,
            actions: Vec::new(),
            news: Vec::new(),
            incoming: vec![0; RECEIVE_LEN],
            outgoing: Vec::new(),
            rival_at: None,
            pending: None,
            mute: false,
            last_discard: None,
        }
    }

    pub(super) fn state(&self) -> State {
        self.router.state()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.router.deadline().into_iter().chain(self.rival_at).min()
    }

    /// Something is due.
    pub(super) fn timer(&mut self, now: Time, holder: &mut Holder) {
        if self.rival_at.take_if(|at| *at <= now).is_some() {
            self.feed(now, Event::Rival, holder);
        }
        if self.router.deadline().is_some_and(|at| at <= now) {
            self.feed(now, Event::Timer, holder);
        }
    }

    pub(super) fn picture(&self) -> Picture {
        self.router.picture()
    }

    /// For SHOW HA.
    pub(super) fn view(&self) -> RouterView {
        RouterView { config: self.config.clone(), vrrp: self.router.picture(), last_discard: self.last_discard.clone() }
    }

    /// Is there an interface that adverts can be sent on?
    pub(super) fn is_linked(&self) -> bool {
        self.socket.is_some() && self.own_address.is_some()
    }

    /// To be waited for.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    /// The interface is as the helper says.
    pub(super) fn link(
        &mut self,
        now: Time,
        up: bool,
        own: Option<IpAddr>,
        socket: Option<OwnedFd>,
        holder: &mut Holder,
    ) {
        self.socket = socket.filter(|_| up).map(|fd| VrrpSocket::from_fd(fd, family(self.config.family)));
        self.own_address = own;
        let up = up && self.is_linked();
        self.feed(now, Event::Link { up, own_address: own }, holder);
    }

    /// Lets something happen to the state machine, and does what it wants.
    pub(super) fn feed(&mut self, now: Time, event: Event<'_>, holder: &mut Holder) {
        self.router.step(now, event, &mut self.actions);
        if self.state() != State::Active {
            (self.pending, self.rival_at) = (None, None);
        }
        for action in std::mem::take(&mut self.actions) {
            self.perform(now, action, holder);
        }
    }

    /// Reads what has arrived. `others`: virtual routers of this node on the same interface, whose adverts come here too.
    pub(super) fn hear(&mut self, now: Time, others: &[u8], holder: &mut Holder) {
        for _ in 0..ADVERTS_MAX {
            let Some(socket) = &self.socket else { return };
            let (decoded, received) = match socket.receive(&mut self.incoming) {
                Ok((bytes, received)) => (packet::decode(bytes, &received), received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Not even an IP header.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                Err(error) => {
                    // The interface is going; the helper will say so.
                    return tracing::debug!("{}: {error}", self.config.name);
                }
            };
            match decoded {
                Ok(advert) if advert.vrid != self.config.vrid && others.contains(&advert.vrid) => {}
                Ok(advert) => self.feed(now, Event::Advert { from: received.source, advert: &advert }, holder),
                Err(discard) => {
                    self.last_discard = Some(format!("{}: {discard}", received.source));
                    self.feed(now, Event::Discarded { from: received.source, discard }, holder);
                }
            }
        }
    }

    fn perform(&mut self, now: Time, action: Action, holder: &mut Holder) {
        match action {
            Action::Send { priority, interval } if self.must_wait(now, priority) => {
                self.pending = Some((priority, interval));
            }
            Action::Send { priority, interval } => self.send(priority, interval, holder),
            Action::Hold => {
                self.asked_at = now;
                self.held = false;
                let priority = self.router.picture().priority;
                self.advertised = Some(priority);
                // Whoever is preempted, or asks for it, has the addresses still: only silence is a reason to ask.
                let silent = matches!(self.router.picture().reason, Some(Reason::Silence { .. }));
                let check =
                    if silent { (self.config.interval / CHECK_PER_INTERVAL).min(CHECK_MAX) } else { Duration::ZERO };
                let check_us = u32::try_from(check.as_micros()).unwrap_or(0);
                holder.ask(&Request::Hold { router: self.index, check_us, priority });
            }
            Action::Release => {
                self.asked_at = now;
                holder.ask(&Request::Release { router: self.index });
            }
            Action::Announce => holder.ask(&Request::Announce { router: self.index }),
            Action::Transition { from, to, reason } => self.news.push(News::Transition { from, to, reason }),
            Action::Warn(warning) => self.news.push(News::Warning(warning)),
        }
    }

    /// Make before break: whoever takes the addresses from a node that has them still says so when they are here, and that node
    /// keeps them until it hears it.
    fn must_wait(&self, now: Time, priority: u8) -> bool {
        let picture = self.router.picture();
        let taken = self.took_from_the_living();
        // The advert comes before the request to hold: then nothing was asked for yet.
        let fresh = picture.since == now || now.since(picture.since) < HOLD_PATIENCE;
        priority > 0 && picture.state == State::Active && taken && fresh && (picture.since == now || !self.held)
    }

    /// Did it become active although another node was?
    pub(super) fn took_from_the_living(&self) -> bool {
        matches!(self.router.picture().reason, Some(Reason::TakeOver(_) | Reason::Preempts { .. }))
    }

    fn send(&mut self, priority: u8, interval: Duration, holder: &mut Holder) {
        if self.state() == State::Active && priority > 0 && self.advertised != Some(priority) {
            self.advertised = Some(priority);
            holder.ask(&Request::Advertised { router: self.index, priority });
        }
        let (Some(socket), Some(source)) = (&self.socket, self.own_address) else { return };
        let advert = self.router.advert(priority, interval);
        for destination in self.router.params().destinations() {
            advert.encode(source, destination, &mut self.outgoing);
            match socket.send(&self.outgoing, source, destination) {
                Ok(()) => self.mute = false,
                Err(error) if !std::mem::replace(&mut self.mute, true) => {
                    tracing::warn!("{}: an advert to {destination} could not be sent: {error}", self.config.name);
                }
                Err(_) => {}
            }
        }
    }

    /// New settings of the same virtual router.
    pub(super) fn reconfigure(&mut self, now: Time, config: &VirtualRouter, sole_peer: bool, holder: &mut Holder) {
        self.config = config.clone();
        self.feed(now, Event::Params(params(config, sole_peer)), holder);
    }

    /// The helper has the addresses.
    pub(super) fn held(&mut self, now: Time, rival: Option<[u8; 6]>, holder: &mut Holder) {
        self.held = true;
        let took = now.since(self.asked_at);
        self.news.push(News::Held { took, rival });
        if let Some((priority, interval)) = self.pending.take()
            && self.state() == State::Active
        {
            self.send(priority, interval, holder);
        }
    }

    /// Somebody else claims an address. Whoever takes over does so before it advertises ([`Self::must_wait`]): to claim it back at
    /// once would lead clients astray.
    pub(super) fn rival(&mut self, now: Time) {
        if self.state() == State::Active && !self.router.picture().yielding {
            self.rival_at.get_or_insert(now + RIVAL_PATIENCE);
        }
    }

    /// The helper does not have the addresses any more.
    pub(super) fn released(&mut self) {
        self.held = false;
        self.news.push(News::Released);
    }

    /// Asks for the addresses again, of a helper that has begun anew.
    pub(super) fn hold_again(&mut self, now: Time, holder: &mut Holder) {
        if self.state() == State::Active {
            self.perform(now, Action::Hold, holder);
        }
    }
}
