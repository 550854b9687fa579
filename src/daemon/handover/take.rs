//! The successor's side: what another process left or gives, first its listeners, then everything else.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;

use anyhow::Context;
use tokio::runtime::Handle;

use super::channel::Channel;
use super::{STORED_NAME, WORD_PATIENCE, path};
use crate::config::Config;
use crate::daemon::cli::VERSION_LINE;
use crate::daemon::listeners::{Inherited, Listener};
use crate::daemon::pidfile::{PidFile, PidFileError};
use crate::daemon::run::Daemon;
use crate::handover::dialogue::Message;
use crate::handover::format::Versions;
use crate::handover::state::{Bytes, Key, State};
use crate::session::io::adopt::{Adopted, adopt};
use crate::session::io::shared::{PassCancelOn, lock};

/// What there is to take over: listeners, and perhaps clients and servers.
#[derive(Debug, Default)]
pub struct Legacy {
    from: Option<Predecessor>,
    listeners: Vec<Listener>,
    /// The predecessor's pidfile, which it has locked.
    pub pidfile: Option<OwnedFd>,
    /// The predecessor's channel to the address helper, which must not be used before [`Legacy::take_over`].
    helper: Option<OwnedFd>,
    warnings: Vec<String>,
}

/// A state and its sockets, if there is one.
type Stored = io::Result<Option<Box<(State, Vec<OwnedFd>)>>>;

/// Whose clients and servers there are.
#[derive(Debug)]
enum Predecessor {
    /// A process is at the other end, which may take cancel requests for those who are still busy there.
    Alive(Arc<Channel>, bool),
    /// It is gone, and has left this in the service manager's store.
    Gone(Channel, Stored),
}

impl Legacy {
    /// What the service manager has for this process. A stored state that cannot be used is told of and forgotten.
    #[must_use]
    pub fn stored(inherited: Inherited) -> Self {
        let Inherited { listeners, others, warnings } = inherited;
        let mut legacy = Self { from: None, listeners, pidfile: None, helper: None, warnings };
        if let Some((_, descriptor)) = others.into_iter().find(|(name, _)| name == STORED_NAME)
            && let Err(error) = legacy.open_stored(descriptor)
        {
            legacy.warnings.push(format!("what the former process left cannot be used: {error}"));
        }
        legacy
    }

    /// Asks for what the process has that runs by this configuration (PgBouncer option `-R`), unless something is here
    /// already. If none runs, this is an ordinary start. `user`: the user id that root will become.
    ///
    /// # Errors
    /// The running process does not answer, or declines.
    pub fn ask(&mut self, config: &Config, user: Option<u32>) -> anyhow::Result<()> {
        if self.from.is_some() {
            return Ok(());
        }
        let Some(place) = path(config) else {
            anyhow::bail!("-R needs unix_socket_dir, where the running process waits for its successor");
        };
        let call = || -> io::Result<Option<Channel>> {
            let Some(channel) = Channel::call(&place)? else { return Ok(None) };
            // Whoever answers is believed everything: who its clients are, and where new ones come in.
            let peer = channel.peer_user()?;
            if ![0, nix::unistd::geteuid().as_raw()].contains(&peer) && Some(peer) != user {
                return Err(io::Error::other(format!("it belongs to user id {peer}, which is not the one who serves")));
            }
            // It may first have to wait for clients whose TLS cannot be passed on.
            channel.set_patience(config.settings.handover_timeout + WORD_PATIENCE)?;
            let (versions, program) = ((Versions::OWN.oldest, Versions::OWN.newest), VERSION_LINE.to_owned());
            channel.say(&Message::Hello { versions, program, pid: std::process::id() }, &[])?;
            Ok(Some(channel))
        };
        match call().with_context(|| format!("cannot ask the running process at {}", place.display()))? {
            Some(channel) => {
                let cancels = self.hear_offer(&channel)?;
                self.from = Some(Predecessor::Alive(Arc::new(channel), cancels));
            }
            None => tracing::info!("old process not found, try to continue normally"),
        }
        Ok(())
    }

    fn open_stored(&mut self, descriptor: OwnedFd) -> io::Result<()> {
        let mut channel = Channel::from_store(descriptor)?;
        // Until this process is up everything stays where the next attempt finds it too.
        channel.peek()?;
        let _ = self.hear_offer(&channel)?;
        let state = channel.hear_state().map(|state| state.map(Box::new));
        self.from = Some(Predecessor::Gone(channel, state));
        Ok(())
    }

    /// The configuration that the former process had in force, as TOML, if it has left one.
    #[must_use]
    pub fn configuration(&self) -> Option<&[u8]> {
        match &self.from {
            Some(Predecessor::Gone(_, Ok(Some(left)))) => {
                Some(left.0.configuration.0.as_slice()).filter(|text| !text.is_empty())
            }
            _ => None,
        }
    }

    /// Does it take cancel requests?
    fn hear_offer(&mut self, channel: &Channel) -> io::Result<bool> {
        match channel.hear()? {
            (Message::Offer { pidfile, helper, cancels, .. }, mut descriptors) => {
                self.pidfile = if pidfile { descriptors.pop() } else { None };
                self.helper = if helper { descriptors.pop() } else { None };
                for descriptor in descriptors {
                    match Listener::left_behind(descriptor) {
                        // A socket of the service manager comes both ways.
                        Ok(listener) if self.listeners.iter().any(|known| known.name() == listener.name()) => {}
                        Ok(listener) => self.listeners.push(listener),
                        Err(reason) => {
                            self.warnings.push(format!("a listener of the former process is closed: {reason}"))
                        }
                    }
                }
                Ok(cancels)
            }
            (Message::Decline { reason }, _) => {
                Err(io::Error::other(format!("the running process serves on and does not hand over: {reason}")))
            }
            (other, _) => Err(io::Error::other(format!("unexpected {other:?}"))),
        }
    }

    /// The listeners.
    pub fn take_listeners(&mut self) -> Vec<Listener> {
        std::mem::take(&mut self.listeners)
    }

    /// The channel to the address helper.
    pub fn take_helper(&mut self) -> Option<OwnedFd> {
        self.helper.take()
    }

    /// What was wrong, for the log.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// The pidfile: the predecessor's if that comes along, else a new one.
    ///
    /// # Errors
    /// Those of [`PidFile`].
    pub fn pidfile(&mut self, path: &Path) -> Result<PidFile, PidFileError> {
        match self.pidfile.take() {
            Some(locked) => PidFile::inherit(locked, path),
            None => PidFile::create(path),
        }
    }

    /// Takes over. To be called inside the runtime, when everything else is ready and before the first client is accepted.
    ///
    /// # Errors
    /// The predecessor has not let go: it serves on, and this process must not.
    pub fn take_over(self, daemon: &Arc<Daemon>) -> anyhow::Result<()> {
        match self.from {
            Some(Predecessor::Gone(channel, state)) => {
                inherit(daemon, channel, state);
                Ok(())
            }
            Some(Predecessor::Alive(channel, cancels)) => Successor { channel, cancels }.take_over(daemon),
            None => Ok(()),
        }
    }
}

/// This process, talking to the one that hands over.
struct Successor {
    channel: Arc<Channel>,
    cancels: bool,
}

impl Successor {
    fn take_over(self, daemon: &Arc<Daemon>) -> anyhow::Result<()> {
        self.channel.say(&Message::Ready, &[])?;
        // It may first have to wait for clients whose TLS cannot be passed on.
        self.channel.set_patience(daemon.config().settings.handover_timeout + WORD_PATIENCE)?;
        if !self.receive(daemon, Part::First)? {
            anyhow::bail!("the running process ended the hand-over");
        }
        // From here on the clients are this process's, and nothing may keep it from serving them.
        if let Some(Err(error)) = lock(&daemon.pidfile).as_mut().map(PidFile::claim) {
            tracing::error!("the pidfile names the former process: {error}");
        }
        // Those who were busy follow, while others are served here.
        daemon.arriving.store(true, Ordering::Relaxed);
        if self.cancels {
            // Without it those who are busy cannot be cancelled, no more.
            *lock(&daemon.shared.former) = pass_cancels_on(Arc::clone(&self.channel)).ok();
        }
        let (arrived, daemon, runtime) = (daemon, Arc::clone(daemon), Handle::current());
        let followers = std::thread::Builder::new().name("hand-over".into()).spawn(move || {
            let _inside = runtime.enter();
            let outcome = || -> io::Result<()> {
                while self.receive(&daemon, Part::Following)? {}
                Ok(())
            };
            match outcome() {
                Ok(()) => tracing::info!("the former process has handed over everything"),
                Err(error) => tracing::warn!("the former process ended the hand-over: {error}"),
            }
            *lock(&daemon.shared.former) = None;
            daemon.arriving.store(false, Ordering::Relaxed);
        });
        if let Err(error) = followers {
            tracing::error!("clients that are still busy at the former process end there: {error}");
            arrived.arriving.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One state from a living predecessor. False: it has no more.
    fn receive(&self, daemon: &Arc<Daemon>, part: Part) -> io::Result<bool> {
        let Some((state, sockets)) = self.channel.hear_state()? else { return Ok(false) };
        let adopted = understand(daemon, state, sockets, part)?;
        let judge = |message| match message {
            Message::Go => Ok(()),
            other => Err(io::Error::other(format!("unexpected {other:?}"))),
        };
        let agreed = self.channel.say(&Message::Adopted, &[]).and_then(|()| judge(self.channel.hear()?.0));
        // Too late is not never: the last word counts, and after it there is none.
        let agreed = agreed.or_else(|error| self.channel.last_word().map_or(Err(error), judge));
        match agreed {
            Ok(()) => {
                start(daemon, adopted);
                Ok(true)
            }
            Err(error) => {
                // It did not let go, or we do not know: the sockets are not ours to speak on.
                adopted.forget(&daemon.shared);
                Err(error)
            }
        }
    }
}

/// What a predecessor that is gone has left.
fn inherit(daemon: &Arc<Daemon>, channel: Channel, state: Stored) {
    let adopted = match state {
        Ok(Some(left)) => understand(daemon, left.0, left.1, Part::All),
        Ok(None) => Err(io::Error::other("there is no state")),
        Err(error) => Err(error),
    };
    // From here on nobody else may find it: the sessions are about to move on.
    channel.drain();
    if let Err(error) = daemon.service.remove(STORED_NAME) {
        tracing::warn!("the service manager keeps what is no longer needed: {error}");
    }
    match adopted {
        Ok(adopted) => start(daemon, adopted),
        Err(error) => tracing::error!("clients of the former process cannot be taken over and end: {error}"),
    }
}

/// How many cancel requests may wait for the former process to hear them: anybody may send one, with any key.
const CANCELS_MAX: usize = 1024;

/// Says cancel requests to the former process, in a thread of its own that lives as long as the function. A request too many is
/// dropped, as PostgreSQL drops those that it has no process for.
///
/// # Errors
/// The thread cannot be made.
fn pass_cancels_on(channel: Arc<Channel>) -> io::Result<PassCancelOn> {
    let (requests, queue) = sync_channel::<Key>(CANCELS_MAX);
    std::thread::Builder::new().name("cancels".into()).spawn(move || {
        for key in queue {
            if let Err(error) = channel.say(&Message::Cancel { key }, &[]) {
                return tracing::debug!("cancel requests do not reach the former process: {error}");
            }
        }
    })?;
    Ok(Box::new(move |key| {
        let key = Key { pid: key.pid, secret: Bytes::from(&*key.secret) };
        if requests.try_send(key).is_err() {
            tracing::debug!("a cancel request for the former process is dropped");
        }
    }))
}

/// Which part of a hand-over a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Everything, from a process that is gone.
    All,
    /// That with which this process begins to serve.
    First,
    /// Those who were busy.
    Following,
}

fn understand(daemon: &Arc<Daemon>, state: State, sockets: Vec<OwnedFd>, part: Part) -> io::Result<Adopted> {
    let (paused, databases, disabled) =
        (state.paused, state.paused_databases.clone(), state.disabled_databases.clone());
    let ha = state.ha.clone();
    let adopted = adopt(&daemon.shared, state, sockets, part == Part::All)?;
    if part == Part::Following {
        // What this process's own console has said since then holds.
        return Ok(adopted);
    }
    *lock(&daemon.testament) = ha;
    let mut numbers = lock(&daemon.numbers);
    daemon.shared.pools.with(|registry, now, out| {
        for name in &disabled {
            registry.set_disabled(numbers.database(name), true);
        }
        for name in &databases {
            registry.pause(now, numbers.database(name), out);
        }
        if paused {
            registry.pause_all(now, out);
        }
    });
    Ok(adopted)
}

fn start(daemon: &Arc<Daemon>, adopted: Adopted) {
    let (clients, servers) = adopted.count();
    adopted.start(&daemon.shared);
    if clients + servers > 0 {
        tracing::info!("took over {clients} clients and {servers} servers from the former process");
    }
}
