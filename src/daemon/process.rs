//! The process as a whole: as which user it runs, what it may never do again, its limits, the background.
//!
//! Most of this concerns the calling thread and those it starts, so it is done before any other thread exists; functions
//! that rely on it check.

use std::ffi::CString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::wait::waitpid;
use nix::unistd::{
    Gid, Uid, User, dup2_stderr, dup2_stdin, dup2_stdout, getgrouplist, getgroups, getresgid, getresuid, initgroups,
    pipe2, setgid, setresgid, setresuid, setsid, setuid,
};

use crate::sys::process as calls;

/// Why the process cannot be what it should be. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Started as root with no other user to become.
    #[error(
        "PgBouncer should not run as root; three ways out: set user = postgres (or another plain user) in the configuration or \
         give -u postgres; or set User=postgres in the systemd unit; or start it with su - postgres -c 'pgtandem CONFIG_FILE'"
    )]
    Root,
    /// The user to become is not known.
    #[error("could not find user '{0}' to switch to (setting user or option -u)")]
    NoSuchUser(String),
    /// The user to become is in root's group.
    #[error(
        "user '{0}' (setting user or option -u) is in group root, which may read and change what is root's: take it out of that \
         group, or name another user"
    )]
    RootsGroup(String),
    /// The kernel refuses the change of user.
    #[error("failed to assume identity of user '{user}': {error}; {remedy}")]
    Identity {
        /// The user to become.
        user: String,
        /// Why not.
        error: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// After the change root could be had again, or a privilege was left.
    #[error("privileges could not be given up for good: {0}")]
    Privileged(&'static str),
    /// The address helper lacks one of the capabilities that it is there for.
    #[error(
        "the address helper needs the capabilities NET_ADMIN and NET_RAW and has them not: start it by pgtandem-helper.service \
         (AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW), or pgtandem itself as root with the setting user and an empty \
         helper_socket; in a container, give it both (docker run --cap-add NET_ADMIN --cap-add NET_RAW)"
    )]
    Capabilities,
    /// `--daemon` without the setting `pidfile`.
    #[error(
        "daemon needs pidfile configured: add a line such as pidfile = /run/pgtandem/pgtandem.pid to the section [pgbouncer] \
         (the directory must belong to the user who serves), or leave -d away where systemd starts the process"
    )]
    DaemonNeedsPidfile,
    /// A system call failed.
    #[error("{call} failed: {error}")]
    System {
        /// What was called.
        call: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

fn failed<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> ProcessError {
    move |error| ProcessError::System { call, error: error.into() }
}

/// A user that root is to become before it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    name: CString,
    uid: Uid,
    gid: Gid,
}

const START_AS: &str = "start as root, or as that user";
const ROOT_IN_CHAINS: &str = "this root has not the right to change users: give it the capabilities SETUID and SETGID \
                              (CapabilityBoundingSet= of a systemd unit, --cap-add of a container), or start as that user";

impl Identity {
    /// Find out whether the process must become another user: `user` is the option `-u` or else the setting `user`, a name or
    /// the number of an account. `None`: it is, and may stay, who it is.
    ///
    /// # Errors
    /// [`ProcessError::Root`] if it would stay root, [`ProcessError::NoSuchUser`], [`ProcessError::RootsGroup`],
    /// [`ProcessError::Identity`] if it is someone else but not root.
    pub fn resolve(user: Option<&str>) -> Result<Option<Self>, ProcessError> {
        let ids = getresuid().map_err(failed("getresuid"))?;
        let root = [ids.real, ids.effective, ids.saved].iter().any(|id| id.is_root());
        let Some(name) = user.filter(|name| !name.is_empty()) else {
            return if root { Err(ProcessError::Root) } else { Ok(None) };
        };
        let unknown = || ProcessError::NoSuchUser(name.to_owned());
        let mut found = User::from_name(name).map_err(failed("getpwnam"))?;
        if let (None, Ok(id)) = (&found, name.parse()) {
            found = User::from_uid(Uid::from_raw(id)).map_err(failed("getpwuid"))?;
        }
        let found = found.ok_or_else(unknown)?;
        if found.uid.is_root() {
            return Err(ProcessError::Root);
        }
        if !root {
            let refused =
                || ProcessError::Identity { user: name.to_owned(), error: Errno::EPERM.into(), remedy: START_AS };
            return if found.uid == ids.effective { Ok(None) } else { Err(refused()) };
        }
        let login = CString::new(found.name).map_err(|_| unknown())?;
        let groups = getgrouplist(&login, found.gid).map_err(failed("getgrouplist"))?;
        if groups.contains(&Gid::from_raw(0)) {
            return Err(ProcessError::RootsGroup(name.to_owned()));
        }
        Ok(Some(Self { name: login, uid: found.uid, gid: found.gid }))
    }

    /// The user's number and that of its first group.
    #[must_use]
    pub fn ids(&self) -> (Uid, Gid) {
        (self.uid, self.gid)
    }

    /// Become that user, with its groups, for good, and [`lock_down`]. Call it while there is only one thread.
    ///
    /// # Errors
    /// [`ProcessError::Identity`], [`ProcessError::Privileged`], [`ProcessError::System`]: the process must end then, as it may be
    /// half changed.
    pub fn assume(&self) -> Result<(), ProcessError> {
        self.change()?;
        lock_down()?;
        self.verify()
    }

    /// As [`Self::assume`], but what is permitted (capabilities(7)) outlives the change, for [`lock_down_to`], which must follow.
    ///
    /// # Errors
    /// See [`Self::assume`].
    pub fn assume_keeping(&self, capabilities: u64) -> Result<(), ProcessError> {
        calls::keep_capabilities(true).map_err(failed("prctl(PR_SET_KEEPCAPS)"))?;
        self.change()?;
        calls::keep_capabilities(false).map_err(failed("prctl(PR_SET_KEEPCAPS)"))?;
        lock_down_to(capabilities)?;
        self.verify()
    }

    fn change(&self) -> Result<(), ProcessError> {
        require_one_thread()?;
        let refused = |error: Errno| ProcessError::Identity {
            user: self.name.to_string_lossy().into_owned(),
            error: error.into(),
            remedy: ROOT_IN_CHAINS,
        };
        // First, as it needs a capability; a container may have taken that one away, then there is nothing to gain either.
        clear_bounding_set()?;
        initgroups(&self.name, self.gid).map_err(refused)?;
        setresgid(self.gid, self.gid, self.gid).map_err(refused)?;
        setresuid(self.uid, self.uid, self.uid).map_err(refused)
    }

    fn verify(&self) -> Result<(), ProcessError> {
        let (users, groups) = (getresuid().map_err(failed("getresuid"))?, getresgid().map_err(failed("getresgid"))?);
        let others = getgroups().map_err(failed("getgroups"))?;
        if [users.real, users.effective, users.saved].iter().any(|id| *id != self.uid)
            || [groups.real, groups.effective, groups.saved].iter().any(|id| *id != self.gid)
            || others.contains(&Gid::from_raw(0))
        {
            return Err(ProcessError::Privileged("the change of user did not take"));
        }
        Ok(())
    }
}

/// Give up every capability and the means to get new ones (no_new_privs), let nobody look into memory
/// ([`forbid_core_dumps`]), then try to become root, which must fail. A process that was given capabilities to bind a low port
/// calls it after that, while there is only one thread.
///
/// An ordinary user cannot clear its bounding set (that takes CAP_SETPCAP); under no_new_privs there is no way to gain from it.
///
/// # Errors
/// [`ProcessError::Privileged`], [`ProcessError::System`].
pub fn lock_down() -> Result<(), ProcessError> {
    require_one_thread()?;
    clear_bounding_set()?;
    calls::clear_capabilities().map_err(failed("capset"))?;
    lock_down_at(0)
}

/// As [`lock_down`], but these capabilities stay permitted and effective; not one more, and not one less.
///
/// # Errors
/// [`ProcessError::Capabilities`] if one of them is missing; else as [`lock_down`].
pub fn lock_down_to(capabilities: u64) -> Result<(), ProcessError> {
    require_one_thread()?;
    clear_bounding_set()?;
    let permitted = calls::capabilities().map_err(failed("capget"))?.permitted;
    if permitted & capabilities != capabilities {
        return Err(ProcessError::Capabilities);
    }
    calls::reduce_capabilities(capabilities).map_err(failed("capset"))?;
    lock_down_at(capabilities)
}

fn lock_down_at(capabilities: u64) -> Result<(), ProcessError> {
    prctl::set_no_new_privs().map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    // Again, since the kernel forgets half of it with a change of user (prctl(2), PR_SET_DUMPABLE).
    forbid_core_dumps()?;
    let left = calls::capabilities().map_err(failed("capget"))?;
    if (left.effective, left.permitted) != (capabilities, capabilities) || left.inheritable | left.ambient != 0 {
        return Err(ProcessError::Privileged("capabilities are left"));
    }
    if !prctl::get_no_new_privs().map_err(failed("prctl(PR_GET_NO_NEW_PRIVS)"))? {
        return Err(ProcessError::Privileged("no_new_privs did not take"));
    }
    if setuid(Uid::from_raw(0)).is_ok() {
        return Err(ProcessError::Privileged("setuid(0) still works"));
    }
    // Who was started in root's group, as containers do, was given that; nobody else may get there.
    let groups = getresgid().map_err(failed("getresgid"))?;
    let root = Gid::from_raw(0);
    if ![groups.real, groups.effective, groups.saved].contains(&root) && setgid(root).is_ok() {
        return Err(ProcessError::Privileged("setgid(0) still works"));
    }
    Ok(())
}

/// Is a capability left in the bounding set?
///
/// # Errors
/// [`ProcessError::System`].
pub fn may_gain_capabilities() -> Result<bool, ProcessError> {
    Ok(calls::capabilities().map_err(failed("capget"))?.bounding != 0)
}

fn clear_bounding_set() -> Result<(), ProcessError> {
    match calls::clear_bounding_set() {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(failed("prctl(PR_CAPBSET_DROP)")(error)),
        _ => Ok(()),
    }
}

fn require_one_thread() -> Result<(), ProcessError> {
    if calls::is_single_threaded() {
        return Ok(());
    }
    Err(ProcessError::Privileged("other threads exist already, which would keep theirs"))
}

/// No core dumps and no debugger of the same user: memory holds passwords and rows.
///
/// # Errors
/// [`ProcessError::System`].
pub fn forbid_core_dumps() -> Result<(), ProcessError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("setrlimit(RLIMIT_CORE)"))?;
    // Also where a core goes to a pipe, which ignores the limit (core(5)).
    prctl::set_dumpable(false).map_err(failed("prctl(PR_SET_DUMPABLE)"))
}

/// The limit of open files of this process, RLIMIT_NOFILE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorLimit {
    /// What holds.
    pub soft: u64,
    /// How far the process itself may raise that.
    pub hard: u64,
}

/// Descriptors for all that is neither client nor server: listeners, logs, timers, event queues of the threads, name look-ups.
const OWN_DESCRIPTORS: u64 = 64;

/// How many descriptors may be in use at once.
#[must_use]
pub fn expected_descriptors(max_client_conn: u64, max_servers: u64) -> u64 {
    max_client_conn.saturating_add(max_servers).saturating_add(OWN_DESCRIPTORS)
}

/// The largest table that is made in advance; 8 bytes for each descriptor.
const TABLE_MAX: u64 = 1 << 18;

impl DescriptorLimit {
    /// Raise the soft limit to the hard one, and with root's rights both to `wanted` if that is more.
    ///
    /// # Errors
    /// [`ProcessError::System`]; the limit is as before.
    pub fn raise(wanted: u64) -> Result<Self, ProcessError> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed("getrlimit(RLIMIT_NOFILE)"))?;
        // Refused to all but root, and to root beyond fs.nr_open.
        if hard < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
            return Ok(Self { soft: wanted, hard: wanted });
        }
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(failed("setrlimit(RLIMIT_NOFILE)"))?;
        }
        Ok(Self { soft: hard, hard })
    }

    /// Has the kernel make its table of descriptors large enough for `expected` of them. Later, with threads, each time that it
    /// must grow takes tens of milliseconds (it waits for all processors), in the middle of a hand-over or a storm of clients.
    pub fn prepare_table(self, expected: u64) {
        let Ok(some) = std::os::unix::net::UnixDatagram::unbound() else { return };
        let last = i32::try_from(expected.min(self.soft).min(TABLE_MAX)).unwrap_or(i32::MAX).saturating_sub(1);
        // A convenience: what cannot be had now is had later, at its price.
        if let Ok(highest) = fcntl(&some, FcntlArg::F_DUPFD_CLOEXEC(last)) {
            let _ = nix::unistd::close(highest);
        }
    }

    /// The line for the log at start, as PgBouncer writes it; `expected` is from [`expected_descriptors`].
    #[must_use]
    pub fn summary(self, max_client_conn: u64, expected: u64) -> String {
        let Self { soft, hard } = self;
        format!(
            "kernel file descriptor limit: {soft} (hard: {hard}); max_client_conn: {max_client_conn}, \
             max expected fd use: {expected}"
        )
    }

    /// The warning to log if the limit is lower than `expected`.
    #[must_use]
    pub fn shortage(self, max_client_conn: u64, expected: u64) -> Option<String> {
        (self.soft != RLIM_INFINITY && self.soft < expected).then(|| {
            format!(
                "only {} files can be open at once, but max_client_conn = {max_client_conn} and the pools may need {expected}: \
                 clients beyond the limit will be refused. Set LimitNOFILE={expected} in the systemd unit (or ulimit -n \
                 {expected} before the start), or lower max_client_conn",
                self.soft
            )
        })
    }
}

/// How a start ends, told to who waits for it: with `--daemon` the process that was called, else nobody.
#[derive(Debug)]
#[must_use = "dropping it says that the start failed"]
pub struct Startup {
    caller: Option<File>,
}

const READY: u8 = b'R';
const FAILED: u8 = b'F';
/// More than any reason for a failed start.
const REASON_MAX: u64 = 64 * 1024;

impl Startup {
    /// For a process that stays in the foreground.
    pub fn foreground() -> Self {
        Self { caller: None }
    }

    /// The process listens: the caller ends with status 0.
    pub fn ready(self) {
        self.tell(READY, "");
    }

    /// The process cannot go on: the caller prints the reason and ends with status 1.
    pub fn failed(self, reason: &dyn fmt::Display) {
        self.tell(FAILED, &reason.to_string());
    }

    fn tell(self, outcome: u8, reason: &str) {
        if let Some(mut caller) = self.caller {
            let mut message = vec![outcome];
            message.extend_from_slice(reason.as_bytes());
            // If the caller is gone, nobody waits.
            let _ = caller.write_all(&message);
        }
    }
}

/// Go on in the background: in a session of its own, without a terminal, standard streams on /dev/null, in the same
/// directory. Call it while there is only one thread. The process that was called waits `patience` at most until
/// the [`Startup`] has been told how it went, then ends; only the one in the background returns from here. While it waits it has
/// given up its privileges with `drop_privileges`, as no process of ours is root when clients are served.
///
/// # Errors
/// [`ProcessError::DaemonNeedsPidfile`], [`ProcessError::System`], both in the process that was called.
pub fn daemonize(
    pidfile: Option<&Path>,
    patience: Duration,
    drop_privileges: impl FnOnce() -> Result<(), ProcessError>,
) -> Result<Startup, ProcessError> {
    if pidfile.is_none_or(|path| path.as_os_str().is_empty()) {
        return Err(ProcessError::DaemonNeedsPidfile);
    }
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed("open /dev/null"))?;
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
    let (gate, gatekeeper) = pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"))?;
    if let Some(child) = calls::fork().map_err(failed("fork"))? {
        drop(writer);
        let _ = waitpid(child, None);
        let dropped = drop_privileges().map_err(|error| error.to_string());
        drop(gatekeeper);
        let outcome = dropped.and_then(|()| await_start(File::from(reader), patience));
        if let Err(reason) = &outcome {
            let _ = writeln!(io::stderr().lock(), "pgtandem: {reason}");
        }
        calls::exit_now(i32::from(outcome.is_err()));
    }
    drop(reader);
    let startup = Startup { caller: Some(File::from(writer)) };
    match detach(&null) {
        Ok(()) => {
            // Until the caller is no longer root, or gone: its end of the pipe is the last.
            drop(gatekeeper);
            let _ = File::from(gate).read(&mut [0]);
            Ok(startup)
        }
        Err(error) => {
            startup.failed(&error);
            calls::exit_now(1)
        }
    }
}

fn detach(null: &File) -> Result<(), ProcessError> {
    setsid().map_err(failed("setsid"))?;
    // Not the leader of its session, it can never come by a terminal.
    if calls::fork().map_err(failed("fork"))?.is_some() {
        calls::exit_now(0);
    }
    dup2_stdin(null).map_err(failed("dup2"))?;
    dup2_stdout(null).map_err(failed("dup2"))?;
    dup2_stderr(null).map_err(failed("dup2"))
}

/// Wait for what the background process says of its start.
fn await_start(mut pipe: File, patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let mut message = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("not ready after {} s; it goes on trying, its log says more", patience.as_secs()));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(format!("cannot wait for the start: {error}")),
        }
        let mut chunk = [0; 4096];
        let read = pipe.read(&mut chunk).map_err(|error| format!("cannot wait for the start: {error}"))?;
        message.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if read == 0 || message.len() as u64 >= REASON_MAX {
            break;
        }
    }
    match message.split_first() {
        Some((&READY, _)) => Ok(()),
        Some((_, reason)) => Err(String::from_utf8_lossy(reason).into_owned()),
        None => Err("it ended before it was ready; its log says more".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_of_descriptors_names_what_to_set() {
        let limit = DescriptorLimit { soft: 1024, hard: 4096 };
        let expected = expected_descriptors(1000, 40);
        assert_eq!(expected, 1104);
        assert_eq!(limit.shortage(900, expected_descriptors(900, 60)), None);
        let text = limit.shortage(1000, expected).unwrap();
        assert!(text.contains("only 1024 files") && text.contains("max_client_conn = 1000"), "{text}");
        assert!(text.contains("LimitNOFILE=1104") && text.contains("ulimit -n 1104"), "{text}");
        assert_eq!(DescriptorLimit { soft: RLIM_INFINITY, ..limit }.shortage(1, u64::MAX), None);
        assert_eq!(expected_descriptors(u64::MAX, u64::MAX), u64::MAX);
    }
}
