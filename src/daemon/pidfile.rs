//! The pidfile: says which process serves, and keeps a second instance from starting beside it.
//!
//! The file is locked (flock(2)) for as long as the process lives, so that a file left over by a crash or a reboot is told from
//! one that is in use even if its number now belongs to another program. The lock belongs to the open file, not to the process:
//! who gets the descriptor from a process that serves holds the lock too, and it is never free in between.
//!
//! A process on its way out shares its lock, so that `pkill` and a start right behind it need no `sleep` in between.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::places::remedy;

/// Attempts against processes that come and go at the same moment.
const ATTEMPTS: usize = 20;
/// More than any process id takes.
const CONTENT_MAX: u64 = 64;
/// How often a start looks whether a process on its way out has gone.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a process may take to act on a signal, or the kernel to end one that was killed.
const SIGNAL_TAKES: Duration = Duration::from_secs(1);

/// Why there is no pidfile.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another instance serves.
    #[error("pidfile '{}' exists, another instance running? {holder}; stop that first, or set another pidfile", path.display())]
    Held {
        /// The setting `pidfile`.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// Another instance is on its way out and takes longer than a start waits.
    #[error(
        "pidfile '{}' exists: {holder} and is shutting down, but waits for clients or servers; wait for it, or send it SIGQUIT \
         to end at once",
        path.display()
    )]
    Ending {
        /// The setting `pidfile`.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// A file of this name holds something else.
    #[error("pidfile '{}' exists but holds no process id: correct the setting pidfile, or remove that file", path.display())]
    NotOurs {
        /// The setting `pidfile`.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("could not {action} pidfile '{}': {error}{}", path.display(), remedy(path, error))]
    System {
        /// What was to be done.
        action: &'static str,
        /// The setting `pidfile`.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

/// Who holds a pidfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process id, if the file names one.
    pub pid: Option<i32>,
    /// The program's name, if it can be seen.
    pub program: Option<String>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pid, &self.program) {
            (Some(pid), Some(program)) => write!(f, "process {pid} ({program}) holds it"),
            (Some(pid), None) => write!(f, "process {pid} holds it"),
            (None, _) => f.write_str("a process that is just starting or ending holds it"),
        }
    }
}

/// A pidfile that names this process; dropping it removes the file.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    locked: File,
    passed_on: bool,
}

impl PidFile {
    /// Is there another instance? Changes nothing, so that it can be asked before sockets are opened, in whose place it would
    /// else be told that the port is taken. One on its way out is waited for, `patience` at most. One that serves is refused
    /// only after a moment, in which a signal that was sent just before the start takes effect.
    ///
    /// # Errors
    /// [`PidFileError::Held`], [`PidFileError::Ending`], [`PidFileError::NotOurs`], [`PidFileError::System`].
    pub fn check(path: &Path, patience: Duration) -> Result<(), PidFileError> {
        let start = Instant::now();
        let mut told = false;
        loop {
            let Some(mut old) = find(path)? else { return Ok(()) };
            let judged = judge(path, &mut old);
            drop(old); // With it the lock by which it was judged.
            match judged {
                Ok(Found::Stale | Found::Gone) => return Ok(()),
                Ok(Found::Ending(holder)) if start.elapsed() < patience => {
                    if !told {
                        tracing::info!(
                            "pidfile '{}': {holder} and is shutting down, waiting for its end",
                            path.display()
                        );
                        told = true;
                    }
                }
                Ok(Found::Ending(holder)) => return Err(PidFileError::Ending { path: path.to_owned(), holder }),
                Err(PidFileError::Held { .. }) if start.elapsed() < SIGNAL_TAKES.min(patience) => {}
                Err(error) => return Err(error),
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Make the file, or take over one that a process left behind. Call it in the process that serves, after a change of
    /// user and of process (`--daemon`), as PgBouncer does.
    ///
    /// # Errors
    /// [`PidFileError`]; its text says what to do.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let system = |action| move |error| PidFileError::System { action, path: path.to_owned(), error };
        for _ in 0..ATTEMPTS {
            if let Some(mut old) = find(path)? {
                match judge(path, &mut old)? {
                    Found::Stale => {
                        tracing::info!("stale pidfile, removing");
                        fs::remove_file(path).map_err(system("remove stale"))?;
                    }
                    Found::Gone => {}
                    Found::Ending(holder) => return Err(PidFileError::Ending { path: path.to_owned(), holder }),
                }
            } else if let Some(locked) = publish(path).map_err(system("create"))? {
                return Ok(Self { path: path.to_owned(), locked, passed_on: false });
            }
        }
        Err(PidFileError::Held { path: path.to_owned(), holder: Holder { pid: None, program: None } })
    }

    /// Take over the lock that another process passes on: `locked` is its [`PidFile::descriptor`]. The file still names that
    /// process until [`PidFile::claim`].
    ///
    /// # Errors
    /// [`PidFileError::Held`] if the descriptor is not that of the locked file at `path`.
    pub fn inherit(locked: OwnedFd, path: &Path) -> Result<Self, PidFileError> {
        let system = |action| move |error| PidFileError::System { action, path: path.to_owned(), error };
        let locked = File::from(locked);
        let held =
            |pid| PidFileError::Held { path: path.to_owned(), holder: Holder { pid, program: pid.and_then(program) } };
        if !is_at(&locked, path) {
            return Err(held(None));
        }
        match locked.try_lock() {
            // Held already, by the very same open file.
            Ok(()) => Ok(Self { path: path.to_owned(), locked, passed_on: true }),
            Err(TryLockError::WouldBlock) => Err(held(written_in(&locked).ok().flatten())),
            Err(TryLockError::Error(error)) => Err(system("lock")(error)),
        }
    }

    /// Let the file name this process, which removes it when it ends: the last step of a hand-over, and the way back of one
    /// that failed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn claim(&mut self) -> Result<(), PidFileError> {
        let system = |error| PidFileError::System { action: "write", path: self.path.clone(), error };
        write_pid(&self.locked).map_err(system)?;
        self.passed_on = false;
        Ok(())
    }

    /// A successor serves now and has claimed the file: this process neither removes nor unlocks it.
    pub fn pass_on(&mut self) {
        self.passed_on = true;
    }

    /// What to send to a successor: a duplicate of it holds the same lock.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.locked.as_fd()
    }

    /// This process is on its way out: a start now waits instead of giving up.
    pub fn ending(&self) {
        if !self.passed_on {
            // At worst a start is refused, as if the process still served.
            let _ = self.locked.try_lock_shared();
        }
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A successor may have its own file there by now, or its own number in this one.
        let names_us = || matches!(written_in(&self.locked), Ok(Some(pid)) if is_own(pid));
        if !self.passed_on && is_at(&self.locked, &self.path) && names_us() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn is_own(pid: i32) -> bool {
    u32::try_from(pid) == Ok(std::process::id())
}

/// The file that is there, if any.
fn find(path: &Path) -> Result<Option<File>, PidFileError> {
    // A link is not followed: in a directory that all may write to it could lead anywhere.
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PidFileError::System { action: "open", path: path.to_owned(), error }),
    }
}

/// What a pidfile turned out to be that no serving process holds.
enum Found {
    /// Left behind. It stays locked as long as it is open, so that of many that start one removes it.
    Stale,
    /// Removed meanwhile.
    Gone,
    /// Held by a process on its way out.
    Ending(Holder),
}

fn judge(path: &Path, old: &mut File) -> Result<Found, PidFileError> {
    let system = |action| move |error| PidFileError::System { action, path: path.to_owned(), error };
    let locked = match old.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(system("lock")(error)),
    };
    let mut content = String::new();
    let read = old.take(CONTENT_MAX).read_to_string(&mut content);
    let pid = content.trim().parse::<i32>().ok().filter(|pid| *pid > 0);
    if !locked {
        let holder = Holder { pid, program: pid.and_then(program) };
        return match old.try_lock_shared() {
            Ok(()) if is_at(old, path) => Ok(Found::Ending(holder)),
            Ok(()) => Ok(Found::Gone),
            Err(_) => Err(PidFileError::Held { path: path.to_owned(), holder }),
        };
    }
    if !is_at(old, path) {
        return Ok(Found::Gone); // By its owner, or by another that starts: look again.
    }
    match (read, pid) {
        (Err(error), _) if error.kind() != io::ErrorKind::InvalidData => Err(system("read")(error)),
        (Ok(_), Some(pid)) => match unlocked_holder(pid) {
            Some(holder) => Err(PidFileError::Held { path: path.to_owned(), holder }),
            None => Ok(Found::Stale),
        },
        (Ok(_), None) if content.trim().is_empty() => Ok(Found::Stale),
        _ => Err(PidFileError::NotOurs { path: path.to_owned() }),
    }
}

/// The process id in the file.
fn written_in(file: &File) -> io::Result<Option<i32>> {
    let mut content = [0; CONTENT_MAX as usize];
    let len = file.read_at(&mut content, 0)?;
    Ok(std::str::from_utf8(content.get(..len).unwrap_or_default()).ok().and_then(|text| text.trim().parse().ok()))
}

/// Write our process id in one call, so that a script never reads half of it: what a longer number leaves is blanked before it
/// is cut off.
fn write_pid(file: &File) -> io::Result<()> {
    let pid = format!("{}\n", std::process::id());
    let before = usize::try_from(file.metadata()?.len().min(CONTENT_MAX)).unwrap_or(0);
    let padded = format!("{pid}{}", "\n".repeat(before.saturating_sub(pid.len())));
    file.write_all_at(padded.as_bytes(), 0)?;
    file.set_len(pid.len() as u64)
}

/// The living pooler that a file names without locking it, as PgBouncer does. After a reboot the number may be anyone's: a
/// program of another name does not count.
fn unlocked_holder(pid: i32) -> Option<Holder> {
    if is_own(pid) {
        return None; // In a container every start may get the same number.
    }
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) || is_dead(pid) {
        return None;
    }
    let program = program(pid);
    let other = program.as_deref().is_some_and(|name| name != "pgbouncer" && name != "pgtandem");
    (!other).then_some(Holder { pid: Some(pid), program })
}

/// Has the process ended, and only its parent not asked for it yet? (State in /proc/PID/stat, behind the name in brackets.)
fn is_dead(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

fn program(pid: i32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |(a, b): (fs::Metadata, fs::Metadata)| a.dev() == b.dev() && a.ino() == b.ino();
    file.metadata().and_then(|open| Ok((open, fs::symlink_metadata(path)?))).is_ok_and(same)
}

/// Make a file at `path` appear, locked and with its content, in one step; `None` if there is one by now.
fn publish(path: &Path) -> io::Result<Option<File>> {
    static DRAFTS: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let draft = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or(OsStr::new("pidfile")).to_owned();
    name.push(format!(".{pid}.{draft}.new"));
    let draft = path.with_file_name(name);
    let open = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&draft);
    let file = match open() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Ours by its number, so it was left by a crash.
            fs::remove_file(&draft)?;
            open()?
        }
        opened => opened?,
    };
    let linked = file
        .try_lock()
        .map_err(io::Error::from)
        .and_then(|()| write_pid(&file))
        .and_then(|()| fs::hard_link(&draft, path));
    // Some file systems have no hard links (link(2) says EPERM); only there two starts in the same instant can both succeed.
    let linked = match linked {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => fs::rename(&draft, path),
        linked => linked,
    };
    let _ = fs::remove_file(&draft);
    match linked {
        Ok(()) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use tempfile::TempDir;

    use super::*;

    fn place() -> (TempDir, PathBuf) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("p.pid");
        (dir, path)
    }

    fn own() -> String {
        format!("{}\n", std::process::id())
    }

    fn dead_pid() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    /// A process of the given name, which ends when its stdin is closed.
    fn process_named(dir: &Path, name: &str) -> Child {
        let program = dir.join(name);
        symlink("/bin/sh", &program).unwrap();
        let mut command = Command::new(program);
        command.arg0("sh").args(["-c", "read line; exit 0"]).stdin(Stdio::piped()).spawn().unwrap()
    }

    fn end(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn the_file_names_the_process_and_goes_with_it() {
        let (dir, path) = place();
        let pidfile = PidFile::create(&path).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap(), pidfile.path()), (own(), path.as_path()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the draft is gone");
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_instance_is_told_who_runs() {
        let (_dir, path) = place();
        let first = PidFile::create(&path).unwrap();
        let error = PidFile::create(&path).unwrap_err().to_string();
        let words = format!("pidfile '{}' exists, another instance running? process {}", path.display(), own().trim());
        assert!(error.starts_with(&words), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), own());
        drop(first);
        PidFile::create(&path).unwrap();
    }

    #[test]
    fn a_file_left_behind_is_taken_over() {
        let (dir, path) = place();
        let bystander = process_named(dir.path(), "bystander");
        for content in [String::new(), format!("{}\n", dead_pid()), bystander.id().to_string(), own()] {
            fs::write(&path, content).unwrap();
            let pidfile = PidFile::create(&path).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), own());
            drop(pidfile);
        }
        end(bystander);
    }

    #[test]
    fn a_pgbouncer_that_runs_is_respected_though_it_does_not_lock() {
        let (dir, path) = place();
        let other = process_named(dir.path(), "pgbouncer");
        let content = format!("{}\n", other.id());
        fs::write(&path, &content).unwrap();
        // The name is there only after exec.
        let pid = i32::try_from(other.id()).unwrap();
        while program(pid).as_deref() != Some("pgbouncer") {
            std::thread::yield_now();
        }
        let error = PidFile::create(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} (pgbouncer) holds it", other.id())), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
        // Dead, but not asked for by its parent: nobody's file any more.
        let mut other = other;
        drop(other.stdin.take());
        while !is_dead(pid) {
            std::thread::yield_now();
        }
        PidFile::create(&path).unwrap();
        end(other);
    }

    #[test]
    fn a_file_that_is_something_else_is_not_destroyed() {
        let (dir, path) = place();
        for content in [&b"[databases]\n"[..], b"-1\n", &[0xff; 100]] {
            fs::write(&path, content).unwrap();
            let error = PidFile::create(&path).unwrap_err().to_string();
            assert!(error.contains("holds no process id"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(PidFile::create(&link), Err(PidFileError::System { action: "open", .. })));
        assert!(matches!(PidFile::create(dir.path()), Err(PidFileError::System { .. })));
    }

    #[test]
    fn a_successors_file_is_left_alone() {
        let (_dir, path) = place();
        let first = PidFile::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = PidFile::create(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_draft_left_by_a_crash_is_no_obstacle() {
        let (dir, path) = place();
        for draft in 0..1000 {
            fs::write(dir.path().join(format!("p.pid.{}.{draft}.new", std::process::id())), "junk").unwrap();
        }
        let _pidfile = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own());
    }

    #[test]
    fn of_many_that_start_at_once_one_wins() {
        let (_dir, path) = place();
        for round in 0..20 {
            if round % 2 == 0 {
                fs::write(&path, format!("{}\n", dead_pid())).unwrap();
            }
            let results: Vec<_> = std::thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| PidFile::create(&path))).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
            drop(results);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_missing_directory_comes_with_the_command_that_makes_it() {
        let (dir, _) = place();
        let missing = dir.path().join("run it");
        let error = PidFile::create(&missing.join("p.pid")).unwrap_err().to_string();
        assert!(error.starts_with("could not create pidfile '") && error.contains("install -d -o "), "{error}");
    }

    #[test]
    fn a_check_sees_what_a_start_would_and_changes_nothing() {
        let (_dir, path) = place();
        PidFile::check(&path, Duration::ZERO).unwrap();
        fs::write(&path, format!("{}\n", dead_pid())).unwrap();
        PidFile::check(&path, Duration::ZERO).unwrap();
        assert!(path.exists());
        let _first = PidFile::create(&path).unwrap();
        assert!(matches!(PidFile::check(&path, Duration::from_millis(50)), Err(PidFileError::Held { .. })));
    }

    #[test]
    fn a_process_on_its_way_out_is_waited_for() {
        let (_dir, path) = place();
        let first = PidFile::create(&path).unwrap();
        first.ending();
        let error = PidFile::check(&path, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("is shutting down") && error.contains(own().trim()), "{error}");
        assert!(matches!(PidFile::create(&path), Err(PidFileError::Ending { .. })));
        std::thread::scope(|scope| {
            let check = scope.spawn(|| PidFile::check(&path, Duration::from_secs(20)));
            std::thread::sleep(Duration::from_millis(60));
            drop(first);
            check.join().unwrap().unwrap();
        });
        PidFile::create(&path).unwrap();
    }

    #[test]
    fn the_lock_goes_on_to_a_successor_and_is_never_free() {
        let (_dir, path) = place();
        let mut old = PidFile::create(&path).unwrap();
        let copy = || old.descriptor().try_clone_to_owned().unwrap();
        // One that gives up leaves all as it was.
        drop(PidFile::inherit(copy(), &path).unwrap());
        assert!(matches!(PidFile::create(&path), Err(PidFileError::Held { .. })));
        let mut new = PidFile::inherit(copy(), &path).unwrap();
        // As the old process, of a longer number, would have left it.
        fs::write(&path, "123456789012\n").unwrap();
        new.claim().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), own());
        old.pass_on();
        old.ending();
        drop(old);
        assert!(matches!(PidFile::check(&path, Duration::ZERO), Err(PidFileError::Held { .. })));
        drop(new);
        assert!(!path.exists());
    }

    #[test]
    fn a_descriptor_of_something_else_is_no_lock() {
        let (dir, path) = place();
        let _first = PidFile::create(&path).unwrap();
        let stranger = File::open(&path).unwrap();
        assert!(matches!(PidFile::inherit(stranger.into(), &path), Err(PidFileError::Held { .. })));
        let other = File::create(dir.path().join("other")).unwrap();
        assert!(matches!(PidFile::inherit(other.into(), &path), Err(PidFileError::Held { .. })));
    }

    #[test]
    fn a_file_that_names_another_process_by_now_is_left() {
        let (_dir, path) = place();
        let first = PidFile::create(&path).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(first);
        assert!(path.exists());
    }
}
