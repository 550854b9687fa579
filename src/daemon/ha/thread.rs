//! The thread that VRRP, the lease and the decision live on: a loop around ppoll(2), apart from the runtime, so that busy or
//! stuck workers neither delay an advert nor keep a sick node from giving the address up.
//!
//! Each turn hears everything that has arrived before it lets a timer run out: after a stall, what others have said meanwhile
//! decides (RFC 9568 knows no stalls).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;

use super::holder::Holder;
use super::legacy;
use super::seat::{News, Seat};
use super::tell::{Task, Teller, View, event_of};
use super::wake::Outlet;
use crate::clock::Time;
use crate::config::ha::{Ha as Settings, VirtualRouter};
use crate::daemon::helper::menu::{Event as Said, Request};
use crate::daemon::watchdog::Health;
use crate::ha::{self, Action, Ha, Health as Fit, Item};
use crate::vrrp::{Event, State};

/// The longest sleep: the health of the data path is looked at this often even where nothing else happens.
const NAP_MAX: Duration = Duration::from_millis(50);

/// How exact the kernel is to wake this thread, instead of the 50 us that others get: intervals may be 10 ms, of which a
/// standby must not lose any.
const TIMER_SLACK_NS: u64 = 1_000;

/// Flows that the helper is told in one request.
const SWEEP_CHUNK: usize = crate::daemon::helper::menu::FLOWS_MAX;

/// What others want of the thread.
pub(super) enum Order {
    /// Something to be considered.
    Consider(ha::Event),
    /// Tell the peer how this node is, whether or not that has changed.
    Tell,
    /// A reload is in force: what the runtime sees is to be looked at again.
    Anew,
    /// How do things stand?
    View(SyncSender<View>),
    /// New settings of the virtual routers.
    Reconfigure(Box<Reconfigure>),
    /// Reset these clients of the dead peer: by index of the router, our port, and their ends.
    Sweep { router: usize, port: u16, flows: Vec<(IpAddr, u16)>, again: bool },
    /// Another process is about to take over: send nothing more, and let the helper bridge so long.
    Bridge { ms: u32, done: SyncSender<bool> },
    /// It did not come: go on.
    Resume,
    /// The process ends, or another one has taken over: the thread ends. With a goodbye if `goodbye`.
    End { goodbye: bool },
}

/// What a reload changes.
pub(super) struct Reconfigure {
    /// The section `[ha]`.
    pub(super) settings: Arc<Settings>,
    /// The same for the decision.
    pub(super) params: ha::Params,
    /// What the helper must have read too.
    pub(super) fingerprint: [u8; 32],
}

/// What the thread begins with.
pub(super) struct Begin {
    pub(super) settings: Arc<Settings>,
    pub(super) params: ha::Params,
    pub(super) holder: Holder,
    pub(super) orders: Outlet<Order>,
    pub(super) data_path: Arc<Health>,
    pub(super) teller: Teller,
    /// A former process has left addresses that are held, and was active for these virtual routers.
    pub(super) inherits: Option<Vec<ha::RouterKey>>,
}

/// The thread's state.
pub(super) struct Thread {
    seats: Vec<Seat>,
    holder: Holder,
    orders: Outlet<Order>,
    ha: Ha,
    data_path: Arc<Health>,
    settings: Arc<Settings>,
    params: ha::Params,
    teller: Teller,
    lease: Duration,
    renewed_at: Time,
    /// The helper has welcomed us.
    welcomed: bool,
    inherits: Option<Vec<ha::RouterKey>>,
    /// Another process is taking over.
    bridging: bool,
    over: bool,
    outcomes: Vec<Action>,
    /// Sweeps that are still to be asked for, and what came of those before: the next one when the helper has done the last, so
    /// that a hundred thousand clients do not fill its socket.
    sweeps: VecDeque<Request>,
    sweeping: bool,
    swept: u32,
    /// Not only repeated.
    sweeps_are_new: bool,
    /// What was last said of the data path, the helper and the interfaces.
    said: BTreeMap<Subject, Fit>,
}

/// Something that only this thread sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    DataPath,
    Helper,
    Interface(usize),
}

impl Thread {
    pub(super) fn new(begin: Begin) -> Self {
        let now = Time::now();
        let Begin { settings, params, holder, orders, data_path, teller, inherits } = begin;
        let seats = settings.routers.iter().zip(0_u8..);
        let seats = seats.map(|(config, index)| Seat::new(now, index, config.clone(), settings.has_peer())).collect();
        Self {
            seats,
            holder,
            orders,
            ha: Ha::new(now, params.clone(), &[]),
            data_path,
            lease: settings.lease(),
            settings,
            params,
            teller,
            renewed_at: Time::default(),
            welcomed: false,
            inherits,
            bridging: false,
            over: false,
            outcomes: Vec::new(),
            sweeps: VecDeque::new(),
            sweeping: false,
            swept: 0,
            sweeps_are_new: false,
            said: BTreeMap::new(),
        }
    }

    /// Runs to the end.
    pub(super) fn run(mut self) {
        // Without it timers are a little less exact.
        let _ = prctl::set_timerslack(TIMER_SLACK_NS);
        while !self.over {
            self.wait();
            self.turn();
        }
        self.teller.ended();
    }

    fn wait(&self) {
        let now = Time::now();
        let deadline = self.deadline(now);
        let left = TimeSpec::from_duration(deadline.since(now));
        let mut fds = vec![PollFd::new(self.orders.bell(), PollFlags::POLLIN)];
        fds.extend(self.holder.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        if !self.bridging {
            let sockets = self.seats.iter().filter_map(Seat::fd);
            fds.extend(sockets.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        // An interrupted wait is a short one.
        let _ = ppoll(&mut fds, Some(left), None);
    }

    fn deadline(&self, now: Time) -> Time {
        let mut deadline = now + NAP_MAX;
        let mut sooner = |at: Option<Time>| deadline = at.map_or(deadline, |at| deadline.min(at));
        sooner(self.holder.deadline());
        if !self.bridging {
            self.seats.iter().for_each(|seat| sooner(seat.deadline()));
            sooner(self.ha.deadline());
            sooner(Some(self.renewed_at + self.renew_every()));
        }
        deadline
    }

    fn renew_every(&self) -> Duration {
        self.lease / 3
    }

    /// One turn: everything that was said, then the timers, then what comes of both.
    fn turn(&mut self) {
        let now = Time::now();
        self.holder.call(now);
        while let Some((said, fds)) = self.holder.hear(now) {
            self.helper_said(now, said, fds);
        }
        for order in self.orders.take() {
            self.obey(now, order);
        }
        if self.bridging || self.over {
            return;
        }
        self.hear_adverts(now);
        self.examine(now);
        // Before anything is held: after a stall the lease may be over.
        self.renew(now);
        // What was heard may have moved the deadlines.
        let now = Time::now();
        for seat in &mut self.seats {
            seat.timer(now, &mut self.holder);
        }
        self.consider(now, ha::Event::Timer);
        self.settle(now);
        self.teller.publish(&self.seats, &self.ha);
    }

    fn hear_adverts(&mut self, now: Time) {
        let others: Vec<(String, u8)> =
            self.seats.iter().map(|seat| (seat.config.interface.clone(), seat.config.vrid)).collect();
        for seat in &mut self.seats {
            let here = others.iter().filter(|(interface, _)| *interface == seat.config.interface);
            let here: Vec<u8> = here.map(|(_, vrid)| *vrid).collect();
            seat.hear(now, &here, &mut self.holder);
        }
    }

    /// Looks at what only this thread sees.
    fn examine(&mut self, now: Time) {
        if self.data_path.is_known(now) {
            let healthy = self.data_path.healthy(now);
            let data_path = if healthy { Fit::Good } else { Fit::Bad(self.data_path.trouble()) };
            self.tell(now, Subject::DataPath, data_path);
        }
        // One that was never there is no better than one that has gone.
        let trouble = self.holder.trouble(now);
        let trouble =
            trouble.or_else(|| (!self.welcomed).then(|| "the address helper has not answered yet".to_owned()));
        self.tell(now, Subject::Helper, trouble.map_or(Fit::Good, Fit::Bad));
        for router in 0..self.seats.len() {
            let Some(seat) = self.seats.get(router) else { return };
            let interface = if seat.is_linked() {
                Fit::Good
            } else {
                Fit::Bad(format!("interface {} is down, gone, or without an address of its own", seat.config.interface))
            };
            self.tell(now, Subject::Interface(router), interface);
        }
    }

    fn tell(&mut self, now: Time, subject: Subject, health: Fit) {
        if self.said.get(&subject) == Some(&health) {
            return;
        }
        self.said.insert(subject, health.clone());
        match subject {
            Subject::DataPath => {
                self.consider(now, ha::Event::Health(Item::Workers, health.clone()));
                self.consider(now, ha::Event::Health(Item::Probe, health));
            }
            Subject::Helper => self.consider(now, ha::Event::Health(Item::Helper, health)),
            Subject::Interface(router) => self.consider(now, ha::Event::Interface { router, health }),
        }
    }

    fn consider(&mut self, now: Time, event: ha::Event) {
        self.ha.step(now, event, &mut self.outcomes);
    }

    /// Does what was decided, and decides what follows from that, until there is nothing more.
    fn settle(&mut self, now: Time) {
        loop {
            self.tell_news(now);
            if self.outcomes.is_empty() {
                return;
            }
            for action in std::mem::take(&mut self.outcomes) {
                match action {
                    Action::Router { router, order } => {
                        if let Some(seat) = self.seats.get_mut(router) {
                            seat.feed(now, event_of(order), &mut self.holder);
                        }
                    }
                    other => self.teller.decided(&self.ha, &self.seats, other),
                }
            }
        }
    }

    /// What has happened to the virtual routers, to whom it concerns.
    fn tell_news(&mut self, now: Time) {
        for router in 0..self.seats.len() {
            let Some(seat) = self.seats.get_mut(router) else { return };
            for news in std::mem::take(&mut seat.news) {
                if let News::Transition { to, reason, .. } = &news {
                    let event = ha::Event::Router { router, to: *to, reason: *reason };
                    self.ha.step(now, event, &mut self.outcomes);
                }
                self.teller.news(router, seat, &news, &self.settings);
            }
        }
    }

    /// The lease is the sign that this thread lives and the data path works; without it the helper gives the addresses up.
    fn renew(&mut self, now: Time) {
        if now.since(self.renewed_at) >= self.renew_every() && self.welcomed && self.ha.is_well() {
            self.renewed_at = now;
            self.ask_for_lease();
        }
    }

    fn ask_for_lease(&mut self) {
        let lease_ms = u32::try_from(self.lease.as_millis()).unwrap_or(u32::MAX);
        self.holder.ask(&Request::Renew { lease_ms });
    }

    fn helper_said(&mut self, now: Time, said: Said, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        match said {
            Said::Welcome { routers, .. } => {
                self.welcomed = true;
                self.holder.welcomed();
                // What a helper that is gone had been asked for last is lost.
                self.sweeping = false;
                self.sweep();
                // Before anything is held: the helper holds nothing without a lease.
                self.ask_for_lease();
                let mut held = Vec::new();
                for (seat, standing) in self.seats.iter_mut().zip(routers) {
                    let socket = if standing.up { fds.next() } else { None };
                    seat.held = standing.held;
                    if standing.held {
                        held.push(usize::from(seat.index));
                    }
                    seat.link(now, standing.up, standing.own_address, socket, &mut self.holder);
                    seat.hold_again(now, &mut self.holder);
                }
                if let Some(left) = self.inherits.take() {
                    if self.holder.is_another() {
                        held = legacy::still_here(&self.settings.routers, &left);
                    }
                    self.inherit(now, &held);
                }
            }
            Said::Refused(reason) => self.holder.refused(now, &reason),
            Said::Renewed => self.holder.renewed(),
            Said::Held { router, rival } => self.with_seat(router, |seat, holder| seat.held(now, rival, holder)),
            Said::Released { router } => self.with_seat(router, |seat, _| seat.released()),
            Said::HoldFailed { router, errno } => self.with_seat(router, |seat, holder| {
                seat.news.push(News::HoldFailed(io::Error::from_raw_os_error(errno)));
                seat.released();
                seat.feed(now, Event::AddressesLost, holder);
            }),
            Said::Rival { router, .. } => self.with_seat(router, |seat, _| seat.rival(now)),
            Said::Link { router, up, own_address } => {
                let socket = fds.next();
                self.with_seat(router, |seat, holder| seat.link(now, up, own_address, socket, holder));
            }
            Said::LeaseOver { routers } => {
                for router in routers {
                    self.with_seat(router, |seat, holder| {
                        seat.released();
                        seat.feed(now, Event::AddressesLost, holder);
                    });
                }
            }
            Said::Swept { router, sent } => {
                self.swept = self.swept.saturating_add(sent);
                self.sweeping = false;
                self.sweep();
                if !self.sweeping {
                    let (sent, is_new) = (std::mem::take(&mut self.swept), std::mem::take(&mut self.sweeps_are_new));
                    self.with_seat(router, |seat, _| {
                        let name = &seat.config.name;
                        if is_new {
                            tracing::info!("{name}: {sent} clients of the other node were told that it is gone");
                        }
                    });
                }
            }
        }
    }

    fn sweep(&mut self) {
        if !self.sweeping
            && let Some(request) = self.sweeps.pop_front()
        {
            self.sweeping = true;
            self.holder.ask(&request);
        }
    }

    fn with_seat(&mut self, router: u8, act: impl FnOnce(&mut Seat, &mut Holder)) {
        if let Some(seat) = self.seats.get_mut(usize::from(router)) {
            act(seat, &mut self.holder);
        }
    }

    fn obey(&mut self, now: Time, order: Order) {
        match order {
            Order::Consider(event) => self.consider(now, event),
            Order::Tell => self.teller.status(&self.ha, &self.seats),
            Order::Anew => self.teller.task(Task::Anew),
            Order::View(reply) => {
                self.settle(now);
                self.teller.publish(&self.seats, &self.ha);
                Teller::show(&self.seats, &self.ha, &reply);
            }
            Order::Reconfigure(new) => self.reconfigure(now, *new),
            Order::Sweep { router, port, flows, again } => {
                let is_ours = self.seats.get(router).is_some_and(|seat| seat.held && seat.state() == State::Active);
                let Some(router) = u8::try_from(router).ok().filter(|_| is_ours) else { return };
                let requests = flows.chunks(SWEEP_CHUNK);
                self.sweeps.extend(requests.map(|some| Request::Sweep { router, port, flows: some.to_vec() }));
                self.sweeps_are_new |= !again;
                self.sweep();
            }
            Order::Bridge { ms, done } => {
                self.bridging = self.welcomed && self.holder.is_there();
                if self.bridging {
                    self.holder.ask(&Request::Bridge { ms });
                }
                // Nobody may be waiting any more.
                let _ = done.send(self.bridging);
            }
            Order::Resume => {
                self.bridging = false;
                self.ask_for_lease();
                for seat in self.seats.iter_mut().filter(|seat| seat.state() == State::Active) {
                    // The helper has advertised meanwhile: this was no stall.
                    seat.feed(now, Event::TakeOver("goes on, as no successor came"), &mut self.holder);
                }
            }
            Order::End { goodbye } => {
                if goodbye {
                    self.seats.iter_mut().for_each(|seat| seat.feed(now, Event::Stop { goodbye }, &mut self.holder));
                }
                self.over = true;
            }
        }
    }

    /// A former process has left these routers' addresses to this one, and with them that it was fit a moment ago.
    fn inherit(&mut self, now: Time, held: &[usize]) {
        self.ha.inherit(now, self.params.clone(), held, &mut self.outcomes);
        self.said.clear();
    }

    /// Virtual routers that are as they were are not touched.
    fn reconfigure(&mut self, now: Time, new: Reconfigure) {
        let Reconfigure { settings, params, fingerprint } = new;
        let same = |one: &VirtualRouter, other: &VirtualRouter| {
            (&one.name, &one.interface, one.vrid, one.family, one.version, one.virtual_mac)
                == (&other.name, &other.interface, other.vrid, other.family, other.version, other.virtual_mac)
        };
        let sole_peer = settings.has_peer();
        let peer_is_new = self.settings.has_peer() != sole_peer;
        let mut old = std::mem::take(&mut self.seats);
        let kept = old.len() == settings.routers.len()
            && old.iter().zip(&settings.routers).all(|(seat, config)| same(&seat.config, config));
        for (config, index) in settings.routers.iter().zip(0_u8..) {
            let known = old.iter().position(|seat| same(&seat.config, config));
            let mut seat = match known.map(|at| old.swap_remove(at)) {
                Some(mut seat) => {
                    self.teller.addresses_gone(&seat, config);
                    if seat.config != *config || peer_is_new {
                        seat.reconfigure(now, config, sole_peer, &mut self.holder);
                    }
                    seat
                }
                None => Seat::new(now, index, config.clone(), sole_peer),
            };
            seat.index = index;
            self.seats.push(seat);
        }
        for mut gone in old {
            gone.feed(now, Event::Stop { goodbye: true }, &mut self.holder);
            let at = usize::from(gone.index);
            std::mem::take(&mut gone.news).iter().for_each(|news| self.teller.news(at, &gone, news, &self.settings));
        }
        (self.lease, self.settings) = (settings.lease(), settings);
        self.params = params.clone();
        self.holder.reread(fingerprint);
        if kept {
            return self.consider(now, ha::Event::Params(params));
        }
        let active: Vec<usize> = (0..self.seats.len())
            .filter(|&at| self.seats.get(at).is_some_and(|s| s.state() == State::Active))
            .collect();
        self.inherit(now, &active);
        for router in 0..self.seats.len() {
            let Some(picture) = self.seats.get(router).map(Seat::picture) else { return };
            if let Some(reason) = picture.reason {
                self.consider(now, ha::Event::Router { router, to: picture.state, reason });
            }
        }
    }
}
