//! The one place that talks to the service manager (sd_notify(3)): ready, reloading, stopping, a line on how things stand, and
//! descriptors to be kept over a restart.
//!
//! Without a service manager (no `NOTIFY_SOCKET`) everything here does nothing. Nothing here waits for long: a service manager
//! that does not listen must not keep clients waiting.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::pipe2;
use sd_notify::NotifyState;

use super::shutdown::Phase;
use crate::snapshot::Activity;

/// How long a message may wait for room in the service manager's queue.
const SEND_PATIENCE: Duration = Duration::from_millis(500);

/// How long the service manager may take to have read what was sent to it.
const BARRIER_PATIENCE: Duration = Duration::from_secs(5);

/// Descriptors in one message (SCM_MAX_FD, unix(7)).
const DESCRIPTORS_MAX: usize = 253;

/// Characters of a reason in the status line; the log has all of it.
const REASON_LEN_MAX: usize = 160;

/// The error number that systemd shows for a reload that was refused (EINVAL).
const REFUSED: u32 = 22;

/// Who this node is to the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// There is no other.
    #[default]
    Standalone,
    /// Has the floating address.
    Active,
    /// Stands by.
    Backup,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standalone => "standalone",
            Self::Active => "active",
            Self::Backup => "backup",
        })
    }
}

/// How things stand, as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Clients of all pools.
    pub clients: u64,
    /// Servers that are logged in.
    pub servers: u64,
    /// Those of them that a client has.
    pub active: u64,
    /// Clients that wait for a server.
    pub waiting: u64,
    /// What PAUSE and SUSPEND have made of it.
    pub activity: Activity,
    /// How far the end has come.
    pub phase: Phase,
    /// See [`Role`].
    pub role: Role,
}

/// What went wrong and is not mended yet; each one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Why the last reload was refused.
    pub reload: Option<String>,
    /// Why the first login to a server failed.
    pub login: Option<String>,
}

/// The line for `systemctl status`: what a person wants to know first, first.
#[must_use]
pub fn status_line(standing: &Standing, troubles: &Troubles) -> String {
    let Standing { clients, servers, active, waiting, role, .. } = standing;
    let doing = match (standing.phase, standing.activity) {
        (Phase::Serving, Activity::Active) => "serving",
        (Phase::Serving, Activity::Paused) => "paused",
        (Phase::Serving, Activity::Suspended) => "suspended",
        (Phase::WaitForClients, _) => "draining, waiting for clients to leave",
        (Phase::WaitForServers, _) => "draining, waiting for transactions to end",
        (Phase::Now, _) => "stopping",
    };
    let trouble = |what: &str, reason: &Option<String>| {
        reason.as_ref().map(|reason| format!("; {what} failed: {}", first_line(reason))).unwrap_or_default()
    };
    let mut troubled = trouble("reload", &troubles.reload);
    troubled.push_str(&trouble("server login", &troubles.login));
    let sep = if troubled.is_empty() { ":" } else { ";" };
    let plural = |n: &u64| if *n == 1 { "" } else { "s" };
    format!(
        "{doing}{troubled}{sep} {clients} client{}, {servers} server{} ({active} active), {waiting} waiting; {role}",
        plural(clients),
        plural(servers)
    )
}

/// A line end would begin another assignment, and a status is one short line.
fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut short: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_LEN_MAX).collect();
    if line.chars().count() > REASON_LEN_MAX {
        short.push('…');
    }
    short
}

/// How many descriptors the service manager would keep (`FDSTORE`, systemd.exec(5)); 0 if it keeps none.
#[must_use]
pub fn store_max() -> usize {
    env::var("FDSTORE").ok().and_then(|max| max.parse().ok()).unwrap_or(0)
}

/// The line to the service manager.
#[derive(Debug, Default)]
pub struct Service {
    socket: Option<UnixDatagram>,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    status: String,
    ready: bool,
    stopping: bool,
    silent: bool,
    unreachable: bool,
}

impl Service {
    /// Connects to the service manager that started the process, if one did.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        let socket = connect(&address);
        if let Err(error) = &socket {
            tracing::warn!("could not reach the service manager at NOTIFY_SOCKET={}: {error}", address.display());
        }
        Self { socket: socket.ok(), said: Mutex::default() }
    }

    /// Is there a service manager?
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.socket.is_some()
    }

    /// The process serves.
    pub fn ready(&self, status: &str) {
        let mut said = self.said();
        status.clone_into(&mut said.status);
        said.ready = true;
        self.say(&mut said, &[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The line on how things stand. Nothing is sent before [`Service::ready`], or if the line is the same as before.
    pub fn status(&self, status: &str) {
        let mut said = self.said();
        if said.ready && said.status != status && self.say(&mut said, &[NotifyState::Status(status)]) {
            status.clone_into(&mut said.status);
        }
    }

    /// The configuration is about to be read again; [`Service::reloaded`] must follow (Type=notify-reload). Before the process is
    /// ready and when it is on its way out this concerns nobody, and would only confuse the service manager.
    pub fn reloading(&self) {
        let mut said = self.said();
        if !said.ready || said.stopping {
            return;
        }
        match NotifyState::monotonic_usec_now() {
            Ok(now) => drop(self.say(&mut said, &[NotifyState::Reloading, now])),
            Err(error) => tracing::warn!("could not tell the service manager of the reload: {error}"),
        }
    }

    /// The configuration is in force, or was refused and the one before stays so. Either way the process goes on serving, so it
    /// is ready again: systemd would take anything else for a reload that hangs. It shows the error number as
    /// `Error: 22 (Invalid argument)` until it hears of another.
    pub fn reloaded(&self, refused: bool, status: &str) {
        let mut said = self.said();
        if !said.ready || said.stopping {
            return;
        }
        status.clone_into(&mut said.status);
        let error = NotifyState::Errno(if refused { REFUSED } else { 0 });
        self.say(&mut said, &[NotifyState::Ready, error, NotifyState::Status(status)]);
    }

    /// The process is on its way out. Said once, whoever says it how often.
    pub fn stopping(&self, status: &str) {
        let mut said = self.said();
        if !said.stopping {
            said.stopping = true;
            status.clone_into(&mut said.status);
            self.say(&mut said, &[NotifyState::Stopping, NotifyState::Status(status)]);
        }
    }

    /// Starting, reloading or stopping takes longer: the service manager should wait this long from now.
    pub fn extend_timeout(&self, by: Duration) {
        let usec = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
        self.say(&mut self.said(), &[NotifyState::ExtendTimeoutUsec(usec)]);
    }

    /// The process is in good health (WatchdogSec=).
    pub fn alive(&self) {
        self.say(&mut self.said(), &[NotifyState::Watchdog]);
    }

    /// The process is stuck and must be restarted, without waiting for the time to run out (systemd 243 and later).
    pub fn stuck(&self) {
        self.say(&mut self.said(), &[NotifyState::WatchdogTrigger]);
    }

    /// Another process is the service's main process from now on. This one says nothing more.
    pub fn hand_on(&self, successor: u32) {
        let mut said = self.said();
        self.say(&mut said, &[NotifyState::MainPid(successor)]);
        said.silent = true;
    }

    /// This process is the service's main process from now on (NotifyAccess must allow it).
    pub fn take_over(&self) {
        self.say(&mut self.said(), &[NotifyState::MainPid(std::process::id())]);
    }

    /// Has the service manager keep these descriptors under a name, for whoever is started next (FileDescriptorStoreMax=).
    /// Returns when it has taken all of them; it drops more than [`store_max`] without a word.
    ///
    /// # Errors
    /// There is no service manager or it is deaf; the name is none: 1 to 255 printable characters without `:`.
    pub fn store(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        check_name(name)?;
        let text = format!("FDSTORE=1\nFDNAME={name}\n");
        for some in descriptors.chunks(DESCRIPTORS_MAX) {
            self.send(text.as_bytes(), some)?;
        }
        self.barrier(BARRIER_PATIENCE)
    }

    /// As [`Service::store`], for descriptors whose other end closes: the service manager keeps them all the same
    /// (FDPOLL=0).
    ///
    /// # Errors
    /// See [`Service::store`].
    pub fn store_kept(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        check_name(name)?;
        let text = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n");
        for some in descriptors.chunks(DESCRIPTORS_MAX) {
            self.send(text.as_bytes(), some)?;
        }
        self.barrier(BARRIER_PATIENCE)
    }

    /// Has the service manager close the descriptors that it keeps under this name.
    ///
    /// # Errors
    /// See [`Service::store`].
    pub fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.send(format!("FDSTOREREMOVE=1\nFDNAME={name}\n").as_bytes(), &[])
    }

    /// Waits until the service manager has read everything sent before (sd_notify_barrier(3)).
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], or those of [`Service::store`].
    pub fn barrier(&self, patience: Duration) -> io::Result<()> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        self.send(b"BARRIER=1\n", &[writer.as_fd()])?;
        drop(writer);
        // The service manager closes its copy when it gets there.
        wait(reader.as_fd(), PollFlags::POLLHUP, patience)
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Was it said?
    fn say(&self, said: &mut Said, states: &[NotifyState<'_>]) -> bool {
        if self.socket.is_none() || said.silent {
            return false;
        }
        let text: String =
            states.iter().map(|state| format!("{}\n", state.to_string().replace(['\n', '\r'], " "))).collect();
        let sent = self.send(text.as_bytes(), &[]);
        if let Err(error) = &sent
            && !said.unreachable
        {
            tracing::warn!("could not reach the service manager at NOTIFY_SOCKET: {error}");
        }
        said.unreachable = sent.is_err();
        sent.is_ok()
    }

    fn send(&self, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let socket =
            self.socket.as_ref().ok_or_else(|| io::Error::other("there is no service manager (NOTIFY_SOCKET)"))?;
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[] } else { &rights[..] };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let deadline = Instant::now() + SEND_PATIENCE;
        loop {
            match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(text)], control, flags, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    wait(socket.as_fd(), PollFlags::POLLOUT, deadline.saturating_duration_since(Instant::now()))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A path, or a name in the abstract namespace, which begins with `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    use std::os::linux::net::SocketAddrExt;
    let socket = UnixDatagram::unbound()?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

fn check_name(name: &str) -> io::Result<()> {
    let fine = !name.is_empty() && name.len() <= 255 && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b':');
    if fine {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no name for descriptors: {name:?}")))
    }
}

fn wait(descriptor: BorrowedFd<'_>, what: PollFlags, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor, what)], timeout) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the service manager does not answer")),
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
