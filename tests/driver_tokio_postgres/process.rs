//! Folders, ports and processes of tests that start real servers. Everything runs as a user without privileges, and ends
//! with the value that stands for it.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use tempfile::TempDir;

/// How long anything may take that normally takes no time: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Who the servers run as if we are root.
pub(crate) fn account() -> Option<User> {
    nix::unistd::geteuid().is_root().then(|| User::from_name("postgres").unwrap().unwrap())
}

/// Runs a command as that user.
pub(crate) fn unprivileged(command: &mut Command) -> &mut Command {
    if let Some(user) = account() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir("/").stdin(Stdio::null())
}

/// A temporary folder that the servers own.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = TempDir::with_prefix("pgtandem-").unwrap();
        hand_over(folder.path());
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file that only the servers may read.
    pub(crate) fn put(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, contents).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        hand_over(&path);
        path
    }
}

fn hand_over(path: &Path) {
    if let Some(user) = account() {
        chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

/// A child that is ended with this value.
pub(crate) struct Process {
    child: Child,
    /// What ends it at once.
    last_signal: Signal,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command, last_signal: Signal) -> Self {
        Self { child: command.spawn().unwrap(), last_signal }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(self.last_signal);
        }
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on, below those that the kernel gives to outgoing connections.
pub(crate) fn free_port() -> u16 {
    const LOW: u16 = 28_000;
    const COUNT: u16 = 4_700;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id().wrapping_mul(131) % u32::from(COUNT)).unwrap();
    for _ in 0..COUNT {
        let port = LOW + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Waits for something to become true.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Does the work for every item, several at a time, and returns everything that was found wrong.
pub(crate) fn find_wrong<T: Sync>(items: &[T], work: impl Fn(&T) -> Vec<String> + Sync) -> Vec<String> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = work(item);
                    wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
                }
            });
        }
    });
    wrong.into_inner().unwrap_or_else(PoisonError::into_inner)
}
