//! The program itself in a place of its own: a directory, a configuration, and every process that comes of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;

use crate::{NOBODY, await_that, is_root};

/// An SSLRequest (PostgreSQL docs, "Message Formats"): the shortest thing that is answered.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The program where every user may run it.
static COPY: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("pgtandem");
    fs::copy(env!("CARGO_BIN_EXE_pgtandem"), &copy).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    (dir, copy)
});

/// A directory with a configuration and a program of its own, whose processes are told by it. They end with it.
pub(super) struct Place {
    dir: TempDir,
    pub(super) port: u16,
}

impl Place {
    /// `settings` go into [pgbouncer]; HERE in them is the directory, where everyone may look and, as in /run, only root write.
    pub(super) fn new(settings: &str) -> Self {
        Self::with_port(settings, free_port())
    }

    pub(super) fn with_port(settings: &str, port: u16) -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // A link of its own: its name tells whose processes are whose.
        fs::hard_link(&COPY.1, dir.path().join("pgtandem")).unwrap();
        let place = Self { dir, port };
        place.own_directory("own");
        place.configure(settings);
        place
    }

    pub(super) fn configure(&self, settings: &str) {
        let settings = settings.replace("HERE", self.dir.path().to_str().unwrap());
        let text = format!(
            "[databases]\nx = host=127.0.0.1 port=1\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             auth_type = trust\nunix_socket_dir =\n{settings}\n",
            self.port
        );
        fs::write(self.path("p.ini"), text).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// A directory in which the user who serves may write: [`NOBODY`], if root runs the tests.
    fn own_directory(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        if is_root() {
            let (uid, gid) = nobody();
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// A file of this mode and owner, with a group.
    pub(super) fn file(&self, name: &str, content: &str, (uid, gid, mode): (u32, u32, u32)) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// `before PROGRAM args… FILE`, e.g. with setpriv before.
    pub(super) fn command(&self, before: &[&str], args: &[&str]) -> Command {
        let program = self.path("pgtandem");
        let mut words: Vec<&str> = before.to_vec();
        words.push(program.to_str().unwrap());
        words.extend(args);
        let (first, rest) = words.split_first().unwrap();
        let mut command = Command::new(first);
        command.args(rest).arg(self.path("p.ini")).stdin(Stdio::null()).current_dir("/");
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").env("TZ", "UTC");
        command
    }

    /// Run it to the end: status, and what was printed on stderr.
    pub(super) fn ended(&self, before: &[&str], args: &[&str]) -> (Option<i32>, String) {
        let Output { status, stderr, .. } = self.command(before, args).output().unwrap();
        (status.code(), String::from_utf8_lossy(&stderr).into_owned())
    }

    /// Start it in the foreground, its log in `log`.
    pub(super) fn spawn(&self, before: &[&str]) -> Child {
        let log = fs::File::create(self.path("log")).unwrap();
        self.command(before, &[]).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// All processes that were started as this place's program. (By their command line, which everyone may read: the link
    /// /proc/PID/exe of a process that allows no debugger is for root alone.)
    pub(super) fn processes(&self) -> Vec<i32> {
        let program = self.path("pgtandem");
        let is_ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).next() == Some(program.as_os_str().as_encoded_bytes())
        };
        let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).collect()
    }

    pub(super) fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// End every process at once.
    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
        await_that(|| self.processes().is_empty());
    }

    pub(super) fn await_log(&self, words: &str) {
        await_that(|| self.read("log").contains(words));
    }

    /// Does it answer a client?
    pub(super) fn answers(&self) -> bool {
        self.ask().is_some()
    }

    /// Connect and wait for the first byte of an answer.
    pub(super) fn ask(&self) -> Option<TcpStream> {
        let mut client = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        client.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        client.write_all(&SSL_REQUEST).ok()?;
        client.read_exact(&mut [0]).ok()?;
        Some(client)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

pub(super) fn nobody() -> (u32, u32) {
    let user = User::from_name(NOBODY).unwrap().unwrap();
    (user.uid.as_raw(), user.gid.as_raw())
}

/// The words before a program that run it as [`NOBODY`], with more options of setpriv(1).
pub(super) fn as_nobody(options: &[&str]) -> Vec<String> {
    let (uid, gid) = nobody();
    let user = [format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()];
    std::iter::once("setpriv".to_owned()).chain(user).chain(options.iter().map(ToString::to_string)).collect()
}

pub(super) fn words(of: &[String]) -> Vec<&str> {
    of.iter().map(String::as_str).collect()
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
