//! The virtual routers as the helper has them: which are held, on which interface, and all that is done to hold them and to give
//! them up. It knows no pooler and no lease; what is to be said comes out as [`Event`]s, each with the descriptors that go
//! beside it.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::libc;

use super::addresses;
use super::interfaces;
use super::links::{Changes, Link, Links};
use super::menu::{Event, HardwareAddress, PROTOCOL, RouterStanding};
use super::netlink::Netlink;
use super::packets::Sweeper;
use super::port::Port;
use super::routers::{HeldRouter, HelperConfig};
use super::time_wait::TimeWait;
use crate::clock::Time;
use crate::vrrp::PRIORITY_GOODBYE;

/// How often an address is added again, so that it does not die.
const REFRESH: Duration = Duration::from_millis(400);

/// An address that somebody deletes is added again at once, but not more often than this; then with the next refresh.
const MEND: Duration = Duration::from_millis(500);

/// How often a rival is spoken of, for each address.
const RIVAL_PAUSE: Duration = Duration::from_millis(20);

/// How long an answer is waited for before an address is taken.
const CHECK_MAX: Duration = Duration::from_secs(1);

/// When it is looked for what the kernel keeps of connections to an address, after it was given up and then after the time before:
/// not at once, as there is more to do then, and once more when last words have been waited for.
const FORGET_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(3)];

/// Clients that are swept after one takeover.
const SWEPT_MAX: u32 = 65_536;

/// What is to be said to the pooler.
pub(super) type Words = VecDeque<(Event, Vec<RawFd>)>;

/// A check whether somebody else has the addresses, before they are taken.
#[derive(Debug)]
struct Check {
    until: Time,
}

/// One virtual router.
#[derive(Debug)]
struct Router {
    config: HeldRouter,
    /// Present as long as the interface is there, even if it is down: addresses can be removed then.
    port: Option<Port>,
    /// The interface can be used, from this address.
    own_address: Option<IpAddr>,
    held: bool,
    check: Option<Check>,
    /// What is advertised while the process is replaced.
    priority: u8,
    refresh_at: Time,
    mended_at: Option<Time>,
    advert_at: Time,
    swept: u32,
    /// When its former connections are to be ended, and how often that was done since it was held.
    forget_at: Time,
    forgotten: usize,
    /// What was said of an interface that cannot be used, so that it is said once.
    complaint: String,
}

impl Router {
    fn new(config: HeldRouter) -> Self {
        Self {
            config,
            port: None,
            own_address: None,
            held: false,
            check: None,
            priority: 0,
            refresh_at: Time::NEVER,
            mended_at: None,
            advert_at: Time::NEVER,
            swept: 0,
            forget_at: Time::NEVER,
            forgotten: 0,
            complaint: String::new(),
        }
    }

    fn placed(&self) -> Vec<(u32, IpAddr)> {
        let index = self.port.as_ref().map(|port| port.index);
        index.into_iter().flat_map(|index| self.config.addresses.iter().map(move |it| (index, *it))).collect()
    }

    fn announce(&self) {
        let Some(port) = &self.port else { return };
        if let Err(error) = port.announcer.announce(&self.config.addresses) {
            tracing::warn!("{}: an announcement could not be sent: {error}", self.config);
        }
    }

    fn is_up(&self) -> bool {
        self.port.is_some() && self.own_address.is_some()
    }

    fn link_event(&self, router: u8) -> (Event, Vec<RawFd>) {
        let up = self.is_up();
        let beside = self.port.iter().filter(|_| up).map(|port| port.vrrp().as_raw_fd()).collect();
        (Event::Link { router, up, own_address: self.own_address.filter(|_| up) }, beside)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Holder {
    config: HelperConfig,
    netlink: Netlink,
    links: Links,
    routers: Vec<Router>,
    sweeper: Sweeper,
    time_wait: Option<TimeWait>,
}

impl Holder {
    /// Opens everything and removes what a former process has left. `patient`: that was perhaps a helper whose pooler lives, and
    /// what dies by itself within moments is left for the pooler to ask for.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(config: HelperConfig, patient: bool) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let links = Links::open(&mut netlink)?;
        let routers = config.routers.iter().cloned().map(Router::new).collect();
        let time_wait = TimeWait::open()
            .inspect_err(|error| {
                tracing::warn!("the kernel cannot be asked for its sockets (sock_diag(7)): {error}");
            })
            .ok();
        let mut holder = Self { config, netlink, links, routers, sweeper: Sweeper::open()?, time_wait };
        holder.remove_left_overs(patient)?;
        holder.reconcile(&Changes::default(), &mut Words::new());
        Ok(holder)
    }

    pub(super) fn config(&self) -> &HelperConfig {
        &self.config
    }

    fn router(&mut self, index: u8) -> Option<&mut Router> {
        self.routers.get_mut(usize::from(index))
    }

    /// Is there such a router?
    pub(super) fn has(&self, index: u8) -> bool {
        usize::from(index) < self.routers.len()
    }

    /// Floating addresses that nobody may have now. One that is part of a network is the machine's own by its configuration (the
    /// owner of RFC 9568 section 1.6); it is said, and left alone.
    fn remove_left_overs(&mut self, patient: bool) -> io::Result<()> {
        let mut unwanted = Vec::new();
        for address in self.routers.iter().flat_map(|router| &router.config.addresses) {
            for found in self.links.find(*address) {
                if found.prefix_len != addresses::host_prefix(*address) {
                    tracing::warn!(
                        "floating address {address} is on an interface as /{}, by other means than pgtandem: both nodes will \
                         answer for it; remove it from the configuration of the network",
                        found.prefix_len
                    );
                } else if !patient || found.valid_s.is_none_or(|valid| valid > addresses::LIFETIME_S) {
                    tracing::warn!("floating address {address} was left behind: removed");
                    unwanted.push((found.index, *address, found.prefix_len));
                }
            }
        }
        addresses::remove(&mut self.netlink, &unwanted)
    }

    /// The answer to a pooler that says Hello, with empty VRRP sockets: those there are may have a queue of adverts from before.
    pub(super) fn welcome(&mut self, words: &mut Words) {
        let mut beside = Vec::new();
        let mut routers = Vec::new();
        for router in &mut self.routers {
            if let Some(port) = &mut router.port
                && let Err(error) = port.reopen_vrrp(&router.config)
            {
                tracing::warn!("{}: no new VRRP socket: {error}", router.config);
            }
            let up = router.is_up();
            beside.extend(router.port.iter().filter(|_| up).map(|port| port.vrrp().as_raw_fd()));
            routers.push(RouterStanding { held: router.held, up, own_address: router.own_address.filter(|_| up) });
        }
        words.push_back((Event::Welcome { protocol: PROTOCOL, routers }, beside));
    }

    /// Takes the addresses, perhaps after a question.
    pub(super) fn hold(&mut self, index: u8, check: Duration, priority: u8, now: Time, words: &mut Words) {
        let Some(router) = self.router(index) else { return };
        router.priority = priority;
        let Some(port) = router.port.as_ref().filter(|_| router.own_address.is_some()) else {
            words.push_back((Event::HoldFailed { router: index, errno: libc::ENODEV }, Vec::new()));
            return;
        };
        if !check.is_zero() && !router.held {
            port.forget_claims();
            if let Err(error) = port.announcer.ask(&router.config.addresses) {
                tracing::warn!("{}: nobody could be asked for duplicates: {error}", router.config);
            }
            router.check = Some(Check { until: now + check.min(CHECK_MAX) });
            return;
        }
        self.take(index, None, now, words);
    }

    fn take(&mut self, index: u8, rival: Option<HardwareAddress>, now: Time, words: &mut Words) {
        let Some(router) = self.routers.get_mut(usize::from(index)) else { return };
        router.check = None;
        let placed = router.placed();
        let results = addresses::add(&mut self.netlink, &placed);
        let results: io::Result<()> = results.and_then(|results| results.into_iter().collect());
        if let Err(error) = results {
            tracing::error!("{}: could not be taken: {error}", router.config);
            router.held = false;
            let unwanted: Vec<_> = placed.iter().map(|(i, it)| (*i, *it, addresses::host_prefix(*it))).collect();
            // Some of them may be there.
            let _ = addresses::remove(&mut self.netlink, &unwanted);
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            words.push_back((Event::HoldFailed { router: index, errno }, Vec::new()));
            return;
        }
        if rival.is_none()
            && let Some(port) = &router.port
        {
            // What others claimed while this node had nothing to say is old.
            port.forget_claims();
        }
        router.announce();
        router.refresh_at = now + REFRESH;
        if !std::mem::replace(&mut router.held, true) {
            router.swept = 0;
            router.forget_at = Time::NEVER;
            router.mended_at = None;
            match rival {
                None => tracing::info!("{}: held", router.config),
                Some(mac) => tracing::warn!("{}: held, although {} claims it too", router.config, Mac(mac)),
            }
        }
        words.push_back((Event::Held { router: index, rival }, Vec::new()));
    }

    /// Gives the addresses up without a word on the wire.
    pub(super) fn release(&mut self, index: u8, words: &mut Words) {
        let Some(router) = self.router(index) else { return };
        router.check = None;
        if router.held {
            tracing::info!("{}: released", router.config);
            self.remove(&[usize::from(index)]);
        }
        words.push_back((Event::Released { router: index }, Vec::new()));
    }

    fn remove(&mut self, indices: &[usize]) {
        let mut unwanted = Vec::new();
        for router in indices.iter().filter_map(|index| self.routers.get(*index)) {
            unwanted.extend(router.placed().into_iter().map(|(i, it)| (i, it, addresses::host_prefix(it))));
        }
        if let Err(error) = addresses::remove(&mut self.netlink, &unwanted) {
            tracing::error!(
                "floating addresses could not be removed, they die within {} s: {error}",
                addresses::LIFETIME_S
            );
        }
        for index in indices {
            if let Some(router) = self.routers.get_mut(*index) {
                router.held = false;
                router.refresh_at = Time::NEVER;
                (router.forgotten, router.forget_at) = (0, Time::now() + FORGET_AFTER[0]);
            }
        }
    }

    /// Says goodbye for all that is held, then gives it up; which that was. The word comes first: what the other node waits for
    /// is it.
    pub(super) fn give_up(&mut self) -> Vec<u8> {
        self.routers.iter_mut().for_each(|router| router.check = None);
        let held: Vec<usize> = (0..).zip(&self.routers).filter(|(_, router)| router.held).map(|(i, _)| i).collect();
        for router in held.iter().filter_map(|index| self.routers.get(*index)) {
            advertise(router, PRIORITY_GOODBYE);
        }
        if !held.is_empty() {
            self.remove(&held);
        }
        held.into_iter().filter_map(|index| u8::try_from(index).ok()).collect()
    }

    /// Tells the neighbours again.
    pub(super) fn announce(&mut self, index: u8) {
        if let Some(router) = self.router(index).filter(|router| router.held) {
            router.announce();
        }
    }

    pub(super) fn advertised(&mut self, index: u8, priority: u8) {
        if let Some(router) = self.router(index) {
            router.priority = priority;
        }
    }

    /// The helper's own adverts begin at once.
    pub(super) fn begin_bridge(&mut self, now: Time) {
        self.routers.iter_mut().for_each(|router| router.advert_at = now);
    }

    /// Resets what is left of the other node's clients; see [`super::menu::Request::Sweep`].
    pub(super) fn sweep(&mut self, index: u8, port: u16, flows: &[(IpAddr, u16)], words: &mut Words) {
        let allowed = self.config.listen_ports.contains(&port);
        let Some(router) = self.routers.get_mut(usize::from(index)) else { return };
        let mut sent: u32 = 0;
        let count = u32::try_from(flows.len()).unwrap_or(u32::MAX);
        if allowed && router.held && router.swept.saturating_add(count) <= SWEPT_MAX {
            router.swept = router.swept.saturating_add(count);
            // Any numbers do, but not the same ones for all.
            let sequence = u32::try_from(Time::now().0 & u64::from(u32::MAX)).unwrap_or_default() | 1;
            for address in &router.config.addresses {
                let local = SocketAddr::new(*address, port);
                if let Some(time_wait) = &mut self.time_wait
                    && let Err(error) = time_wait.forget(local, flows)
                {
                    tracing::warn!("{}: closed connections could not be looked up: {error}", router.config);
                }
                sent = sent.saturating_add(self.sweeper.sweep(local, flows, sequence));
            }
        } else {
            tracing::warn!(
                "{}: no reset of {count} clients at port {port}: it is not held, not a port that is listened on, or these are \
                 more than {SWEPT_MAX} after one takeover",
                router.config
            );
        }
        words.push_back((Event::Swept { router: index, sent }, Vec::new()));
    }

    /// What is due: answers that did not come, addresses to be kept alive, adverts of the bridge.
    pub(super) fn on_time(&mut self, now: Time, bridging: bool, words: &mut Words) {
        if let Some(Err(error)) = self.time_wait.as_mut().map(TimeWait::end_some) {
            tracing::warn!("closed connections could not be ended: {error}");
        }
        for position in 0..self.routers.len() {
            let Some(router) = self.routers.get_mut(position) else { continue };
            if bridging && router.held && router.advert_at <= now {
                router.advert_at = now + router.config.interval;
                advertise(router, router.priority);
            }
            if router.held && router.refresh_at <= now {
                router.refresh_at = now + REFRESH;
                self.refresh(position);
            }
            if self.routers.get(position).is_some_and(|router| router.forget_at <= now) {
                self.forget(position, now);
            }
            let Some(router) = self.routers.get(position) else { continue };
            if router.check.as_ref().is_some_and(|check| check.until <= now)
                && let Ok(index) = u8::try_from(position)
            {
                self.take(index, None, now, words);
            }
        }
    }

    /// Ends what the kernel keeps of connections to addresses that were given up.
    fn forget(&mut self, position: usize, now: Time) {
        let Some(router) = self.routers.get_mut(position) else { return };
        router.forgotten += 1;
        router.forget_at = FORGET_AFTER.get(router.forgotten).map_or(Time::NEVER, |pause| now + *pause);
        let Some(time_wait) = &mut self.time_wait else { return };
        if let Err(error) = time_wait.leave(&router.config.addresses, &self.config.listen_ports) {
            tracing::warn!("{}: closed connections could not be looked up: {error}", router.config);
        }
    }

    fn refresh(&mut self, position: usize) {
        let Some(router) = self.routers.get(position) else { return };
        let results = addresses::add(&mut self.netlink, &router.placed());
        let failed = results.map(|results| results.into_iter().find_map(Result::err));
        if let Ok(Some(error)) | Err(error) = failed
            && router.is_up()
        {
            tracing::error!("{}: an address could not be kept alive: {error}", router.config);
        }
    }

    /// When [`Self::on_time`] is to be called next.
    pub(super) fn deadline(&self, bridging: bool) -> Time {
        let each = self.routers.iter().flat_map(|router| {
            let check = router.check.as_ref().map(|check| check.until);
            let refresh = router.held.then_some(router.refresh_at);
            let advert = (bridging && router.held).then_some(router.advert_at);
            // A watch that is not looked at now is looked at then.
            let muted = router.port.iter().filter(|_| router.held).flat_map(|port| &port.watches);
            let muted = muted.map(|watch| watch.muted_until).filter(|until| *until > Time::default()).min();
            [check, refresh, advert, muted, Some(router.forget_at)].into_iter().flatten()
        });
        // At once, but not before everything else that has happened.
        let forgetting = self.time_wait.as_ref().filter(|it| it.has_some()).map(|_| Time::default());
        each.chain(forgetting).min().unwrap_or(Time::NEVER)
    }

    /// Ends the silence of watches that have been silent long enough.
    pub(super) fn unmute(&mut self, now: Time) {
        for watch in
            self.routers.iter_mut().filter_map(|router| router.port.as_mut()).flat_map(|port| &mut port.watches)
        {
            if watch.muted_until <= now {
                watch.muted_until = Time::default();
            }
        }
    }

    /// The watches that are to be waited for, as router and address.
    pub(super) fn watches(&self) -> Vec<(u8, u8, BorrowedFd<'_>)> {
        let mut all = Vec::new();
        for (index, router) in (0..).zip(&self.routers) {
            if let Some(port) = router.port.as_ref().filter(|_| router.held || router.check.is_some()) {
                let awake = (0..).zip(&port.watches).filter(|(_, watch)| watch.muted_until == Time::default());
                all.extend(awake.map(|(address, watch)| (index, address, watch.fd())));
            }
        }
        all
    }

    /// Somebody may have claimed an address.
    pub(super) fn on_claim(&mut self, index: u8, address_index: u8, now: Time, bridging: bool, words: &mut Words) {
        let Some(router) = self.router(index) else { return };
        let watch = router.port.as_mut().and_then(|port| port.watches.get_mut(usize::from(address_index)));
        let Some((watch, mac)) = watch.and_then(|watch| watch.claimant().map(|mac| (watch, mac))) else { return };
        if router.check.is_some() {
            self.take(index, Some(mac), now, words);
            return;
        }
        watch.muted_until = now + RIVAL_PAUSE;
        if bridging {
            // Nobody would read it, and this is what would be done about it.
            router.announce();
        } else {
            words.push_back((Event::Rival { router: index, address_index, mac }, Vec::new()));
        }
    }

    pub(super) fn links_fd(&self) -> BorrowedFd<'_> {
        self.links.fd()
    }

    /// Something has changed about interfaces or addresses.
    ///
    /// # Errors
    /// The kernel's: nothing more is heard of it.
    pub(super) fn on_links(&mut self, now: Time, words: &mut Words) -> io::Result<()> {
        let changes = self.links.changes(&mut self.netlink)?;
        if changes.any {
            self.reconcile(&changes, words);
            self.mend(&changes, now);
        }
        Ok(())
    }

    /// Adds again what somebody else has deleted.
    fn mend(&mut self, changes: &Changes, now: Time) {
        for position in 0..self.routers.len() {
            let Some(router) = self.routers.get_mut(position) else { continue };
            let placed = router.placed();
            let is_gone =
                |(index, address): &&(u32, IpAddr)| !self.links.find(*address).any(|found| found.index == *index);
            let gone = changes.removed.iter().filter(|it| placed.contains(it)).find(is_gone);
            let Some((_, address)) = gone.filter(|_| router.held && router.is_up()) else { continue };
            tracing::warn!("{}: somebody else has deleted {address}: added again", router.config);
            if router.mended_at.is_some_and(|at| now.since(at) < MEND) {
                // A quarrel. The next refresh is not far.
                continue;
            }
            router.mended_at = Some(now);
            router.refresh_at = now + REFRESH;
            self.refresh(position);
            if let Some(router) = self.routers.get(position) {
                router.announce();
            }
        }
    }

    /// Opens and closes what the state of the interfaces asks for.
    fn reconcile(&mut self, changes: &Changes, words: &mut Words) {
        for position in 0..self.routers.len() {
            let Some(router) = self.routers.get_mut(position) else { continue };
            let before = (router.is_up(), router.own_address);
            let link = self.links.named(&router.config.interface).cloned();
            let is_stale = |port: &Port| {
                changes.removed_links.contains(&port.index)
                    || changes.removed_links.contains(&port.parent)
                    || link.as_ref().is_some_and(|link| link.index != port.parent || link.mac != Some(port.mac))
            };
            let stale = router.port.as_ref().is_some_and(is_stale);
            if stale {
                self.close(position);
            }
            let reopened = self.open_port(position, link.as_ref());
            let floating = |address| self.config.routers.iter().any(|router| router.addresses.contains(&address));
            let Some(router) = self.routers.get_mut(position) else { continue };
            router.own_address = link
                .filter(|link| link.up)
                .and_then(|link| self.links.own_address(&router.config, link.index, &floating));
            let after = (router.is_up(), router.own_address);
            if before != after || stale || reopened {
                tracing::info!(
                    "{}: its interface {}",
                    router.config,
                    match router.own_address.filter(|_| after.0) {
                        Some(own) => format!("is up, with {own}"),
                        None => "cannot be used".to_owned(),
                    }
                );
                if let Ok(index) = u8::try_from(position) {
                    words.push_back(router.link_event(index));
                }
            }
        }
    }

    /// The interface is another one now.
    fn close(&mut self, position: usize) {
        let Some(router) = self.routers.get(position) else { return };
        if router.held {
            tracing::warn!("{}: lost with its interface", router.config);
            // If only its MAC has changed, they are still there.
            self.remove(&[position]);
        }
        if let Some(router) = self.routers.get_mut(position) {
            router.check = None;
            router.port = None;
        }
    }

    fn open_port(&mut self, position: usize, link: Option<&Link>) -> bool {
        let Some(router) = self.routers.get_mut(position) else { return false };
        let (None, Some(link)) = (&router.port, link.filter(|link| link.up)) else { return false };
        if self.config.set_arp_sysctls && router.config.addresses.iter().any(IpAddr::is_ipv4) {
            match interfaces::set_arp(&mut self.netlink, link) {
                Ok(true) => tracing::info!("interface {}: arp_ignore and arp_announce are set now", link.name),
                Ok(false) => {}
                Err(error) => tracing::warn!("interface {}: arp_ignore could not be set: {error}", link.name),
            }
        }
        match Port::open(&mut self.netlink, &self.links, &router.config, link) {
            Ok(port) => {
                router.port = Some(port);
                router.complaint.clear();
                true
            }
            Err(error) => {
                let complaint = error.to_string();
                if router.complaint != complaint {
                    tracing::error!("{}: interface {} cannot be used: {complaint}", router.config, link.name);
                    router.complaint = complaint;
                }
                false
            }
        }
    }

    /// Takes another configuration. What stays the same stays as it is, and a router that is held stays held, with the addresses
    /// that it has now. What is no more is given up silently, as the pooler, which asks for it, has said all that there was to say.
    pub(super) fn reconfigure(&mut self, config: HelperConfig, now: Time) {
        let mut before = std::mem::take(&mut self.routers);
        let mut unwanted = Vec::new();
        for new in &config.routers {
            let Some(at) = before.iter().position(|old| old.config.is_same(new)) else {
                self.routers.push(Router::new(new.clone()));
                continue;
            };
            let mut router = before.swap_remove(at);
            if router.config != *new {
                let dropped = router.placed().into_iter().filter(|(_, it)| router.held && !new.addresses.contains(it));
                unwanted.extend(dropped);
                router.refresh_at = if router.held { now } else { Time::NEVER };
                router.config = new.clone();
                // Its sockets are for the old addresses and peers.
                router.port = None;
            }
            self.routers.push(router);
        }
        self.config = config;
        unwanted.extend(before.iter().filter(|router| router.held).flat_map(Router::placed));
        let unwanted: Vec<_> = unwanted.into_iter().map(|(i, it)| (i, it, addresses::host_prefix(it))).collect();
        if let Err(error) = addresses::remove(&mut self.netlink, &unwanted) {
            tracing::error!("floating addresses could not be removed: {error}");
        }
        before.iter().for_each(|router| self.remove_virtual(router));
        self.reconcile(&Changes::default(), &mut Words::new());
        for position in 0..self.routers.len() {
            if self.routers.get(position).is_some_and(|router| router.held && router.refresh_at == now) {
                self.refresh(position);
                self.routers.get_mut(position).into_iter().for_each(|router| {
                    router.refresh_at = now + REFRESH;
                    router.announce();
                });
            }
        }
    }

    fn remove_virtual(&mut self, router: &Router) {
        if let Some(port) = router.port.as_ref().filter(|port| port.index != port.parent)
            && let Err(error) = interfaces::remove(&mut self.netlink, port.index)
        {
            tracing::warn!("{}: its interface could not be removed: {error}", router.config);
        }
    }

    /// The end: interfaces that were made go too.
    pub(super) fn close_all(&mut self) {
        for router in std::mem::take(&mut self.routers) {
            self.remove_virtual(&router);
        }
    }

    /// How many addresses are held, and of how many.
    pub(super) fn count(&self) -> (usize, usize) {
        let of = |router: &Router| router.config.addresses.len();
        let held = self.routers.iter().filter(|router| router.held).map(of).sum();
        (held, self.routers.iter().map(of).sum())
    }
}

fn advertise(router: &Router, priority: u8) {
    let (Some(port), Some(own)) = (&router.port, router.own_address) else { return };
    if let Err(error) = port.advertise(&router.config, own, priority) {
        tracing::warn!("{}: an advert could not be sent: {error}", router.config);
    }
}

/// As it is written.
struct Mac(HardwareAddress);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
