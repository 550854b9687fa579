//! The predecessor's side: leaving everything to whoever the service manager starts next, or to a process that calls.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::channel::{Channel, Desk};
use super::gather::{self, Gathering};
use super::{HOLD, HOLD_MAX, STORED_NAME, WORD_PATIENCE, manager};
use crate::daemon::cli::VERSION_LINE;
use crate::daemon::run::Daemon;
use crate::daemon::service::store_max;
use crate::daemon::shutdown::Phase;
use crate::handover::dialogue::Message;
use crate::handover::format::Versions;
use crate::handover::state::Key;
use crate::session::io::cancel::from_elsewhere;
use crate::session::io::shared::lock;
use crate::wire::startup::CancelKey;

/// Between two attempts to bring everything to rest, so that the clients are served most of the time.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(200);

/// How long logins are waited for. Somebody who connects and says nothing must not keep a restart waiting.
const LOGIN_PATIENCE: Duration = Duration::from_secs(1);

/// How long a successor may take to understand what it was given.
const ADOPT_PATIENCE: Duration = Duration::from_secs(3);

/// Ids and statement numbers that stay this process's while it waits for those who are busy.
const SPARE_IDS: u64 = 1 << 20;

/// How long the service manager may take to start whoever takes over, beyond what a hand-over may last.
const MANAGER_MARGIN: Duration = Duration::from_secs(10);

/// Might what a SIGTERM announces be a restart, for which the service manager keeps what is left to it? Once only: a second
/// SIGTERM means what it says.
#[must_use]
pub fn may_leave(daemon: &Daemon) -> bool {
    let serving = daemon.shutdown.phase() == Phase::Serving;
    serving && daemon.service.is_present() && store_max() > 0 && !daemon.leaving.swap(true, Ordering::Relaxed)
}

/// Leaves everything to the next process if the service manager is about to start one; else, or if that does not work,
/// shuts down as SIGTERM wants it.
pub async fn on_terminate(daemon: Arc<Daemon>) {
    let restart = manager::is_restart().await;
    if restart == Some(false) {
        tracing::info!("got SIGTERM, shutting down, waiting for all clients disconnect");
        return daemon.shut_down(Phase::WaitForClients);
    }
    if restart.is_none() {
        tracing::info!("the service manager does not tell whether this is a restart; it is taken for one");
    }
    tracing::info!("leaving clients and servers to the next process");
    match to_store(&daemon).await {
        Ok(()) => daemon.shutdown.advance(Phase::Now, &daemon.shared),
        Err(error) => {
            tracing::warn!("cannot leave anything to the next process, shutting down: {error}");
            daemon.shut_down(Phase::WaitForClients);
        }
    }
}

/// Leaves everything in the service manager's store. When this returns without an error nothing is left here and the
/// process is to end.
///
/// # Errors
/// Why not; then everything goes on as before.
pub async fn to_store(daemon: &Arc<Daemon>) -> io::Result<()> {
    let began = Instant::now();
    let deadline = began + daemon.config().settings.handover_timeout;
    let mut hold = HOLD;
    loop {
        let overdue = Instant::now() >= deadline;
        daemon.service.extend_timeout(deadline.saturating_duration_since(Instant::now()) + MANAGER_MARGIN);
        let mut gathering = Gathering::begin(daemon, if overdue { HOLD_MAX } else { hold }).await;
        let sessions = gathering.busy_sessions();
        if overdue && sessions > 0 {
            gathering.dismiss_busy().await;
        }
        let logins = gathering.busy() > 0 && began.elapsed() < LOGIN_PATIENCE;
        if overdue || (sessions == 0 && !logins) {
            return store(daemon, gathering);
        }
        let busy = gathering.who_is_busy();
        gathering.call_off();
        // Everybody is served until those who were in the way are done; then all get a little longer.
        let next = async {
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            while Instant::now() < deadline && busy.iter().any(|one| one.is_still_busy(daemon)) {
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
        };
        tokio::select! {
            () = next => {}
            () = daemon.shutdown.reached(Phase::WaitForClients) => {
                return Err(io::Error::other("told to end otherwise"));
            }
        }
        hold = (hold * 2).min(HOLD_MAX);
        if manager::is_restart().await == Some(false) {
            return Err(io::Error::other("the service manager stops the service instead of restarting it"));
        }
    }
}

fn store(daemon: &Arc<Daemon>, mut gathering: Gathering) -> io::Result<()> {
    let (state, sockets) = gathering.pack(0);
    let (ours, theirs) = match Channel::pair() {
        Ok(pair) => pair,
        Err(error) => {
            gathering.call_off();
            return Err(error);
        }
    };
    bridge(daemon);
    let leave = || -> io::Result<()> {
        // Nobody reads yet: all must fit in the queue.
        ours.set_patience(Duration::from_millis(500))?;
        offer(daemon, &ours, false)?;
        ours.say_state(&state, &sockets)?;
        ours.say(&Message::Done, &[])?;
        daemon.service.store_kept(STORED_NAME, &[theirs.as_fd()])
    };
    match leave() {
        Ok(()) => {
            let age = gathering.age();
            let (clients, servers) = gathering.let_go();
            daemon.left.store(true, Ordering::Relaxed);
            lock(&daemon.listeners).hand_on();
            daemon.ha().inspect(|ha| ha.hand_on());
            tracing::info!(
                "left {clients} clients and {servers} servers to the next process, after {} ms at rest",
                age.as_millis()
            );
            Ok(())
        }
        Err(error) => {
            // The service manager may have it all the same, or have it yet: what it has must be worth nothing before anybody
            // goes on here. The queue is one, whoever holds its end.
            drop(ours);
            theirs.drain();
            let _ = daemon.service.remove(STORED_NAME);
            daemon.ha().inspect(|ha| ha.resume());
            gathering.call_off();
            Err(error)
        }
    }
}

/// Lets the address helper advertise while nobody else does, so that the address stays.
fn bridge(daemon: &Daemon) {
    if let Some(ha) = daemon.ha()
        && !ha.bridge()
    {
        tracing::warn!("the address helper cannot stand in: a floating address moves to the other node");
    }
}

/// Offers the listeners, the channel to the address helper, and the pidfile if that is to go with them.
fn offer(daemon: &Daemon, channel: &Channel, with_pidfile: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let listeners = lock(&daemon.listeners);
    let pidfile = lock(&daemon.pidfile);
    let pidfile = pidfile.as_ref().filter(|_| with_pidfile);
    let helper = daemon.ha().and_then(|ha| ha.channel());
    let (names, mut sockets): (Vec<_>, Vec<_>) =
        listeners.descriptors().into_iter().map(|(name, socket)| (name.to_string(), socket.as_raw_fd())).unzip();
    sockets.extend(helper.as_ref().map(AsRawFd::as_raw_fd));
    sockets.extend(pidfile.map(|file| file.descriptor().as_raw_fd()));
    let offer = Message::Offer {
        listeners: names,
        pidfile: pidfile.is_some(),
        helper: helper.is_some(),
        pid: std::process::id(),
        cancels: true,
    };
    channel.say(&offer, &sockets)
}

/// Waits for successors that call, in a thread of its own, for as long as the process lives.
///
/// # Errors
/// The place to wait at cannot be made.
pub fn attend(daemon: &Arc<Daemon>, path: PathBuf) -> io::Result<()> {
    let mut desk = Desk::open(path)?;
    let (daemon, runtime) = (Arc::clone(daemon), Handle::current());
    std::thread::Builder::new().name("hand-over".into()).spawn(move || {
        // Connections that change to TLS of the kernel get a new descriptor, which the event loop has to know.
        let _inside = runtime.enter();
        loop {
            let channel = match desk.wait() {
                Ok(channel) => channel,
                Err(error) => {
                    tracing::warn!("a successor could not be heard: {error}");
                    std::thread::sleep(BETWEEN_ATTEMPTS);
                    continue;
                }
            };
            match converse(&daemon, &channel, &runtime, &mut desk) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!("a successor gave up, serving on: {error}"),
            }
            if let Err(error) = desk.reopen() {
                return tracing::warn!("no successor will be able to take over (-R): {error}");
            }
        }
    })?;
    Ok(())
}

/// One successor, from its first word to the last client. True if this process has handed over and is to end.
fn converse(daemon: &Arc<Daemon>, channel: &Channel, runtime: &Handle, desk: &mut Desk) -> io::Result<bool> {
    channel.set_patience(WORD_PATIENCE)?;
    let user = channel.peer_user()?;
    if user != nix::unistd::geteuid().as_raw() && !Uid::from_raw(user).is_root() {
        tracing::warn!("user id {user} asked to take over and was refused");
        return Ok(false);
    }
    let (hello, _) = channel.hear()?;
    let Message::Hello { versions: (oldest, newest), program, pid } = hello else {
        return Err(io::Error::other(format!("unexpected {hello:?}")));
    };
    tracing::info!("process {pid} ({program}) asks to take over");
    if let Some(reason) = objection(daemon, Versions { oldest, newest }) {
        tracing::warn!("process {pid} may not take over: {reason}");
        channel.say(&Message::Decline { reason }, &[])?;
        return Ok(false);
    }
    runtime.block_on(gather::dismiss_unmovable(daemon));
    offer(daemon, channel, true)?;
    match channel.hear()?.0 {
        Message::Ready => {}
        other => return Err(io::Error::other(format!("unexpected {other:?}"))),
    }
    let mut gathering = runtime.block_on(Gathering::begin(daemon, HOLD));
    bridge(daemon);
    match pass(daemon, channel, &mut gathering, || desk.close()) {
        Ok((clients, servers)) => {
            tracing::info!(
                "process {pid} has taken over with {clients} clients and {servers} servers, after {} ms at rest",
                gathering.age().as_millis()
            );
        }
        Err(error) => {
            daemon.ha().inspect(|ha| ha.resume());
            gathering.call_off();
            return Err(error);
        }
    }
    daemon.ha().inspect(|ha| ha.hand_on());
    // From here on there is no way back: the listeners are the successor's.
    daemon.left.store(true, Ordering::Relaxed);
    lock(&daemon.listeners).hand_on();
    if let Some(pidfile) = lock(&daemon.pidfile).as_mut() {
        pidfile.pass_on();
    }
    daemon.service.stopping("handed over to the next process");
    if let Err(error) = linger(daemon, channel, gathering, runtime) {
        tracing::warn!("the successor is gone, clients that were still here end: {error}");
    }
    daemon.shutdown.advance(Phase::Now, &daemon.shared);
    Ok(true)
}

/// Why a successor cannot have anything now.
fn objection(daemon: &Daemon, reader: Versions) -> Option<String> {
    if daemon.service.is_present() {
        let unit = manager::own_unit().unwrap_or_else(|| "its unit".to_owned());
        return Some(format!("it runs under systemd, which would lose sight of it: use systemctl restart {unit}"));
    }
    if daemon.shutdown.phase() != Phase::Serving {
        return Some("it is shutting down".to_owned());
    }
    if daemon.arriving.load(Ordering::Relaxed) {
        // Those who follow would find nobody here any more.
        return Some("it is still waiting for busy clients of the process before it: try again in a moment".to_owned());
    }
    let own = Versions::OWN;
    (!own.readable_by(reader)).then(|| {
        format!("it writes state version {}, the new process reads {} to {}", own.newest, reader.oldest, reader.newest)
    })
}

/// Passes on what rests, if the successor understands it. `last` is done before that is told that it is on its own.
fn pass(
    daemon: &Arc<Daemon>,
    channel: &Channel,
    gathering: &mut Gathering,
    last: impl FnOnce(),
) -> io::Result<(usize, usize)> {
    let (state, sockets) = gathering.pack(SPARE_IDS);
    channel.say_state(&state, &sockets)?;
    // Nobody is served meanwhile.
    channel.set_patience(ADOPT_PATIENCE)?;
    loop {
        match channel.hear()?.0 {
            Message::Adopted => break,
            Message::Cancel { key } => cancel(daemon, &key),
            other => return Err(io::Error::other(format!("unexpected {other:?}"))),
        }
    }
    channel.set_patience(WORD_PATIENCE)?;
    last();
    channel.say(&Message::Go, &[])?;
    Ok(gathering.let_go())
}

/// A cancel request for somebody who is still busy here. To be called inside the runtime.
fn cancel(daemon: &Arc<Daemon>, key: &Key) {
    let key = CancelKey { pid: key.pid, secret: key.secret.0.as_slice().into() };
    drop(tokio::spawn(from_elsewhere(Arc::clone(&daemon.shared), key)));
}

/// Those who were busy come to rest one by one and follow. Who is still busy after handover_timeout is told to go.
fn linger(daemon: &Arc<Daemon>, channel: &Channel, mut gathering: Gathering, runtime: &Handle) -> io::Result<()> {
    let deadline = Instant::now() + daemon.config().settings.handover_timeout;
    while gathering.busy() > 0 && Instant::now() < deadline {
        runtime.block_on(gathering.next(deadline));
        while let Some(word) = channel.hear_at_once()? {
            match word {
                Message::Cancel { key } => cancel(daemon, &key),
                other => return Err(io::Error::other(format!("unexpected {other:?}"))),
            }
        }
        if gathering.resting() > 0 {
            pass(daemon, channel, &mut gathering, || ())?;
        }
    }
    runtime.block_on(gathering.dismiss_busy());
    if gathering.resting() > 0 {
        pass(daemon, channel, &mut gathering, || ())?;
    }
    channel.say(&Message::Done, &[])?;
    tracing::info!("everything is handed over, exiting; {VERSION_LINE}");
    Ok(())
}
