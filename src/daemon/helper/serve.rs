//! The helper's loop: waits for the pooler, the kernel and the time, and does what they ask for. One thread, no runtime; each
//! turn is short, as the pooler's end must be seen within a millisecond or two.

use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use nix::sys::time::TimeSpec;
use nix::unistd::Uid;

use super::holder::{Holder, Words};
use super::lease::Lease;
use super::menu::{Event, PACKET_LEN_MAX, PROTOCOL, Request};
use super::routers::HelperConfig;
use crate::clock::Time;
use crate::daemon::service::Service;
use crate::sys::descriptors;

/// Requests that a pooler may have in hand at once, and in one second. A sweep of 65,536 clients takes 256; a pooler that asks
/// for more than this is no longer itself.
const REQUESTS_MAX: u32 = 4096;

/// Requests in one turn, so that nothing else waits for long.
const TURN_MAX: usize = 64;

/// The longest sleep; what should never be missed is looked at again then.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// Where poolers come from.
#[derive(Debug)]
pub enum Door {
    /// The one that has started this process. The helper ends with it.
    Pooler(OwnedFd),
    /// A socket that poolers call, one after the other.
    Listener(OwnedFd),
}

/// Reads the configuration again, or says why not.
pub type Reread<'a> = &'a mut dyn FnMut() -> Result<HelperConfig, String>;

/// Serves until the pooler that has started this process is gone, or until SIGTERM. To be called with one thread, after
/// [`confine`](super::privileges::confine).
///
/// # Errors
/// The kernel's: what is needed cannot be opened.
pub fn serve(config: HelperConfig, door: Door, service: &Service, reread: Reread<'_>) -> io::Result<()> {
    let signals = signals(matches!(door, Door::Listener(_)))?;
    let holder = Holder::open(config, matches!(door, Door::Listener(_)))?;
    let (channel, listener) = match door {
        Door::Pooler(socket) => (Some(Channel::new(socket)), None),
        Door::Listener(socket) => (None, Some(socket)),
    };
    let mut helper = Helper { holder, channel, listener, words: Words::new(), service, reread };
    let (held, of) = helper.holder.count();
    tracing::info!("address helper up, pid {}: {of} floating addresses", std::process::id());
    service.ready(&status(false, held, of));
    helper.run(&signals)
}

/// Signals come as something to wait for. A child of the pooler heeds none: it ends when the pooler does, and a signal to all
/// processes of a terminal or a name is not meant to part them.
fn signals(heeded: bool) -> io::Result<Option<SignalFd>> {
    let ending = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
    let mut all: SigSet = ending.into_iter().collect();
    if heeded {
        all.thread_block()?;
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let ignored: SigSet = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect();
        ignored.thread_block()?;
        return Ok(Some(signals));
    }
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2].into_iter().for_each(|signal| all.add(signal));
    all.thread_block()?;
    Ok(None)
}

fn status(pooler: bool, held: usize, of: usize) -> String {
    let who = if pooler { "serving a pooler" } else { "waiting for a pooler" };
    format!("{who}; {held} of {of} floating addresses held")
}

/// A pooler.
#[derive(Debug)]
struct Channel {
    socket: OwnedFd,
    greeted: bool,
    lease: Lease,
    /// Requests that it may still make, and when that was counted.
    allowed: u32,
    counted_at: Time,
}

impl Channel {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, greeted: false, lease: Lease::default(), allowed: REQUESTS_MAX, counted_at: Time::now() }
    }

    /// Is one more request within the bounds?
    fn allows(&mut self, now: Time) -> bool {
        let ms = u64::try_from(now.since(self.counted_at).as_millis()).unwrap_or(u64::MAX);
        let grown = u32::try_from(ms.saturating_mul(u64::from(REQUESTS_MAX)) / 1000).unwrap_or(u32::MAX);
        if grown > 0 {
            self.allowed = self.allowed.saturating_add(grown).min(REQUESTS_MAX);
            self.counted_at = now;
        }
        self.allowed = self.allowed.saturating_sub(1);
        self.allowed > 0
    }
}

struct Helper<'a> {
    holder: Holder,
    channel: Option<Channel>,
    listener: Option<OwnedFd>,
    words: Words,
    service: &'a Service,
    reread: Reread<'a>,
}

/// What woke the loop.
#[derive(Default)]
struct Awake {
    signals: bool,
    channel: bool,
    listener: bool,
    links: bool,
    claims: Vec<(u8, u8)>,
}

impl Helper<'_> {
    fn run(&mut self, signals: &Option<SignalFd>) -> io::Result<()> {
        let watchdog = watchdog_interval();
        let mut alive_at = Time::default();
        loop {
            let now = Time::now();
            if let Some(interval) = watchdog.filter(|_| now >= alive_at) {
                self.service.alive();
                alive_at = now + interval / 3;
            }
            let awake = self.sleep(signals, if watchdog.is_some() { alive_at } else { Time::NEVER })?;
            if awake.signals {
                self.service.stopping("leaving; a pooler that lives asks the next helper for its addresses");
                tracing::info!("got a signal to end; what is held lasts {} s more", super::addresses::LIFETIME_S);
                return Ok(());
            }
            self.turn(&awake)?;
            let (held, of) = self.holder.count();
            self.service.status(&status(self.channel.is_some(), held, of));
            if self.channel.is_none() && self.listener.is_none() {
                self.holder.close_all();
                return Ok(());
            }
        }
    }

    fn turn(&mut self, awake: &Awake) -> io::Result<()> {
        let now = Time::now();
        if awake.channel {
            self.read(TURN_MAX);
            self.say();
        }
        self.on_lease(now);
        let bridging = self.bridges();
        self.holder.unmute(now);
        self.holder.on_time(now, bridging, &mut self.words);
        if awake.links {
            self.holder.on_links(now, &mut self.words)?;
        }
        for (router, address) in &awake.claims {
            self.holder.on_claim(*router, *address, now, bridging, &mut self.words);
        }
        self.say();
        if awake.listener {
            self.admit();
        }
        Ok(())
    }

    fn bridges(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.lease.bridges())
    }

    fn sleep(&self, signals: &Option<SignalFd>, alive_at: Time) -> io::Result<Awake> {
        let watches = self.holder.watches();
        let signals = signals.as_ref().map(AsFd::as_fd);
        let channel = self.channel.as_ref().map(|channel| channel.socket.as_fd());
        let listener = self.listener.as_ref().map(AsFd::as_fd);
        let fixed: [Option<BorrowedFd<'_>>; 4] = [signals, channel, listener, Some(self.holder.links_fd())];
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let all = fixed.iter().flatten().copied().chain(watches.iter().map(|(_, _, fd)| *fd));
        let mut polled: Vec<_> = all.map(readable).collect();
        let lease = self.channel.as_ref().and_then(|channel| channel.lease.deadline()).unwrap_or(Time::NEVER);
        let until = self.holder.deadline(self.bridges()).min(lease).min(alive_at);
        let pause = until.since(Time::now()).min(SLEEP_MAX);
        match ppoll(&mut polled, Some(TimeSpec::from(pause)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Not only for input: the end and errors count as well.
        let mut woken = polled.iter().map(|fd| fd.any().unwrap_or(false));
        let [signals, channel, listener, links] =
            fixed.map(|fd| if fd.is_some() { woken.next().unwrap_or(false) } else { false });
        let claims = watches.iter().zip(woken).filter(|(_, awake)| *awake).map(|((r, a, _), _)| (*r, *a)).collect();
        Ok(Awake { signals, channel, listener, links, claims })
    }

    /// Reads what the pooler has asked for. Nothing more is there: true.
    fn read(&mut self, count: usize) -> bool {
        let mut buffer = [0; PACKET_LEN_MAX];
        for _ in 0..count {
            let Some(channel) = &mut self.channel else { return true };
            // Descriptors that come beside a packet are closed by the kernel, as nothing is there to take them. The length is
            // that of the whole packet.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
            let len = match recv(channel.socket.as_raw_fd(), &mut buffer, flags) {
                Ok(0) => return self.hang_up("the pooler is gone"),
                Ok(len) => len,
                Err(Errno::EAGAIN) => return true,
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => return self.hang_up("the pooler is gone"),
                Err(error) => return self.hang_up(&format!("the pooler cannot be heard: {error}")),
            };
            let now = Time::now();
            if !channel.allows(now) {
                return self.hang_up("the pooler asks for too much");
            }
            let packet = buffer.get(..len).ok_or(super::menu::Malformed::Length(len));
            match packet.and_then(Request::decode) {
                Ok(request) => self.on_request(request, now),
                Err(error) => return self.hang_up(&format!("the pooler sent {error}")),
            }
        }
        false
    }

    fn on_request(&mut self, request: Request, now: Time) {
        let Some(channel) = &mut self.channel else { return };
        if let Request::Hello { protocol, fingerprint } = request {
            return self.on_hello(protocol, &fingerprint, now);
        }
        if !channel.greeted {
            self.hang_up("the pooler has not said Hello");
            return;
        }
        let named = match &request {
            Request::Hold { router, .. }
            | Request::Release { router }
            | Request::Announce { router }
            | Request::Advertised { router, .. }
            | Request::Sweep { router, .. } => Some(*router),
            _ => None,
        };
        if named.is_some_and(|router| !self.holder.has(router)) {
            self.hang_up("the pooler named a virtual router that is not configured");
            return;
        }
        match request {
            Request::Hello { .. } => {}
            Request::Renew { lease_ms } => {
                channel.lease.renew(now, lease_ms);
                self.words.push_back((Event::Renewed, Vec::new()));
            }
            Request::Bridge { ms } => {
                channel.lease.bridge(now, ms);
                tracing::info!("the pooler is being replaced: adverts are sent from here for {ms} ms at most");
                self.holder.begin_bridge(now);
            }
            // What a lease that is over asks for is what the pooler wanted before it was stopped.
            Request::Hold { router, .. } if !channel.lease.runs(now) => {
                let errno = nix::libc::ETIME;
                self.words.push_back((Event::HoldFailed { router, errno }, Vec::new()));
            }
            Request::Hold { router, check_us, priority } => {
                let check = Duration::from_micros(check_us.into());
                self.holder.hold(router, check, priority, now, &mut self.words);
            }
            Request::Release { router } => self.holder.release(router, &mut self.words),
            Request::Announce { router } => self.holder.announce(router),
            Request::Advertised { router, priority } => self.holder.advertised(router, priority),
            Request::Sweep { router, port, flows } => self.holder.sweep(router, port, &flows, &mut self.words),
            Request::Reread { fingerprint } => self.on_reread(&fingerprint, now),
        }
        // At once, so that the queue holds what one request brings at most.
        self.say();
    }

    fn on_hello(&mut self, protocol: u16, fingerprint: &[u8; 32], now: Time) {
        let refusal = if protocol != PROTOCOL {
            Some(format!(
                "the pooler speaks version {protocol} of the helper's protocol, and this helper version {PROTOCOL}: restart the older one of both"
            ))
        } else if self.holder.config().fingerprint == *fingerprint {
            None
        } else {
            // The file has changed before the pooler came.
            self.change(fingerprint, now).err()
        };
        match refusal {
            Some(reason) => {
                self.words.push_back((Event::Refused(reason.clone()), Vec::new()));
                self.say();
                self.hang_up(&reason);
            }
            None => {
                if let Some(channel) = &mut self.channel {
                    channel.greeted = true;
                }
                self.holder.welcome(&mut self.words);
                self.say();
            }
        }
    }

    fn on_reread(&mut self, fingerprint: &[u8; 32], now: Time) {
        match self.change(fingerprint, now) {
            Ok(()) => self.holder.welcome(&mut self.words),
            Err(reason) => {
                tracing::error!("{reason}");
                self.words.push_back((Event::Refused(reason), Vec::new()));
            }
        }
    }

    /// Reads the configuration again, which must then be what the pooler has.
    fn change(&mut self, fingerprint: &[u8; 32], now: Time) -> Result<(), String> {
        let config =
            (self.reread)().map_err(|error| format!("the address helper cannot read the configuration: {error}"))?;
        if config.fingerprint != *fingerprint {
            return Err(
                "the address helper has read another configuration than the pooler: it must be started with the same \
                        file, and the file be what the pooler has read (reload pgtandem)"
                    .to_owned(),
            );
        }
        if config.fingerprint != self.holder.config().fingerprint {
            tracing::info!("the configuration has changed: {} virtual routers", config.routers.len());
            self.holder.reconfigure(config, now);
        }
        Ok(())
    }

    fn on_lease(&mut self, now: Time) {
        let is_over = |helper: &Self| helper.channel.as_ref().is_some_and(|channel| channel.lease.is_over(now));
        if !is_over(self) {
            return;
        }
        // Both may have been stopped together: what the pooler has said meanwhile counts.
        while !self.read(TURN_MAX) {}
        self.say();
        if !is_over(self) {
            return;
        }
        if let Some(channel) = &mut self.channel {
            channel.lease.end();
        }
        let routers = self.holder.give_up();
        if !routers.is_empty() {
            tracing::error!(
                "the pooler has not renewed its lease, it is stopped or stuck: goodbye said, addresses removed"
            );
            self.words.push_back((Event::LeaseOver { routers }, Vec::new()));
            self.say();
        }
    }

    /// Says what is to be said. A pooler that does not take it is as good as gone.
    fn say(&mut self) {
        while let Some((event, beside)) = self.words.pop_front() {
            let Some(channel) = &self.channel else { continue };
            let greets = matches!(event, Event::Welcome { .. } | Event::Refused(_));
            if !channel.greeted && !greets {
                continue;
            }
            if let Err(error) = descriptors::send(channel.socket.as_fd(), &event.encode(), &beside) {
                let gone = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
                let reason =
                    if gone { "the pooler is gone".to_owned() } else { format!("the pooler does not read: {error}") };
                self.hang_up(&reason);
            }
        }
    }

    /// The end of a pooler, however it came: goodbye, and nothing is held any more. Always true, as nothing more is to be read.
    fn hang_up(&mut self, reason: &str) -> bool {
        let Some(channel) = self.channel.take() else { return true };
        let given_up = self.holder.give_up();
        drop(channel);
        self.words.clear();
        match given_up.len() {
            0 => tracing::info!("{reason}"),
            count => tracing::error!("{reason}: goodbye said and addresses removed for {count} virtual routers"),
        }
        true
    }

    /// Lets a pooler in if there is none.
    fn admit(&mut self) {
        let Some(listener) = &self.listener else { return };
        let Ok(socket) = descriptors::accept(listener.as_fd()) else { return };
        let refusal = match getsockopt(&socket, sockopt::PeerCredentials) {
            Ok(peer) if !is_trusted(peer.uid()) => Some(format!(
                "user {} may not ask this address helper, only user {} may: both units need the same User=",
                peer.uid(),
                Uid::current()
            )),
            Ok(_) if self.channel.is_some() => Some("busy: another pooler has this address helper".to_owned()),
            Ok(_) => None,
            Err(error) => Some(format!("who calls cannot be told: {error}")),
        };
        match refusal {
            None => self.channel = Some(Channel::new(socket)),
            Some(reason) => {
                tracing::warn!("a caller was refused: {reason}");
                // It may be gone already.
                let _ = descriptors::send(socket.as_fd(), &Event::Refused(reason).encode(), &[]);
            }
        }
    }
}

fn is_trusted(user: u32) -> bool {
    user == 0 || user == Uid::current().as_raw()
}

/// How often the service manager wants a sign of life (WATCHDOG_USEC, sd_watchdog_enabled(3)).
fn watchdog_interval() -> Option<Duration> {
    let usec: u64 = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let meant = env::var("WATCHDOG_PID").ok().is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    (meant && usec > 0).then(|| Duration::from_micros(usec))
}
