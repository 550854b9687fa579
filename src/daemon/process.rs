//! The process as a whole: as which user it runs, what it may never do again, its limits, the background, the service manager.
//!
//! Most of this concerns the calling thread and those it starts, so it is done before any other thread exists; functions
//! that rely on it check.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::waitpid;
use nix::unistd::{
    Gid, Pid, Uid, User, dup2_stderr, dup2_stdin, dup2_stdout, getegid, geteuid, getgid, getuid, initgroups, pipe2,
    setresgid, setresuid, setsid, setuid,
};
use sd_notify::NotifyState;

use crate::sys;

/// Why the process cannot be what it should be. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Started as root with no other user to become.
    #[error(
        "PgBouncer should not run as root, nor should pgtandem: set `user = postgres` (or another user without privileges) \
         in the configuration or give -u postgres; or set User=postgres in the systemd unit; or start it as \
         su - postgres -c 'pgtandem CONFIG_FILE'"
    )]
    Root,
    /// The user to become is not known.
    #[error("could not find user '{0}' to switch to (setting user or option -u)")]
    NoSuchUser(String),
    /// The kernel refuses the change of user.
    #[error("failed to assume identity of user '{user}': {error}{}", if geteuid().is_root() { "" } else {
        "; only root can become another user: start it as root or as that user, without the setting user"
    })]
    Identity {
        /// The user to become.
        user: String,
        /// Why not.
        error: io::Error,
    },
    /// After the change root could be had again, or a privilege was left.
    #[error("privileges could not be given up for good: {0}")]
    Privileged(&'static str),
    /// `--daemon` without the setting `pidfile`.
    #[error("daemon needs pidfile configured")]
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
