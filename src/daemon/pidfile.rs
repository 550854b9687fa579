//! The pidfile: says which process serves, and keeps a second instance from starting beside it.
//!
//! The file is locked (flock(2)) for as long as the process lives, so that a file left over by a crash or a reboot is told from
//! one that is in use even if its number now belongs to another program.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::{Pid, User, geteuid};

/// Attempts against processes that come and go at the same moment.
const ATTEMPTS: usize = 20;
/// More than any process id takes.
const CONTENT_MAX: u64 = 64;

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
}

impl PidFile {
    /// Make the file, or take over one that a process left behind. Call it in the process that serves, after a change of
    /// user and of process (`--daemon`), as PgBouncer does.
    ///
    /// # Errors
    /// [`PidFileError`]; its text says what to do.
    pub fn create(path: &Path) -> Result<Self, PidFileError> {
        let system = |action| move |error| PidFileError::System { action, path: path.to_owned(), error };
        for _ in 0..ATTEMPTS {
            // A link is not followed: in a directory that all may write to it could lead anywhere.
            let found = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
            match found {
                Ok(old) => clear_stale(path, old)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match publish(path).map_err(system("create"))? {
                        Some(locked) => return Ok(Self { path: path.to_owned(), locked }),
                        None => continue,
                    }
                }
                Err(error) => return Err(system("open")(error)),
            }
        }
        Err(PidFileError::Held { path: path.to_owned(), holder: Holder { pid: None, program: None } })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A successor may have its own file there by now.
        if is_at(&self.locked, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Remove `old`, which was found at `path`, unless a process still needs it.
fn clear_stale(path: &Path, mut old: File) -> Result<(), PidFileError> {
    let system = |action| move |error| PidFileError::System { action, path: path.to_owned(), error };
    let locked = match old.try_lock() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(system("lock")(error)),
    };
    let mut content = String::new();
    let read = (&mut old).take(CONTENT_MAX).read_to_string(&mut content);
    let pid = content.trim().parse::<i32>().ok().filter(|pid| *pid > 0);
    if !locked {
        let program = pid.and_then(program);
        return Err(PidFileError::Held { path: path.to_owned(), holder: Holder { pid, program } });
    }
    if !is_at(&old, path) {
        return Ok(()); // Removed by its owner, or by another that starts: look again.
    }
    match (read, pid) {
        (Err(error), _) if error.kind() != io::ErrorKind::InvalidData => return Err(system("read")(error)),
        (Ok(_), Some(pid)) => {
            if let Some(holder) = unlocked_holder(pid) {
                return Err(PidFileError::Held { path: path.to_owned(), holder });
            }
        }
        (Ok(_), None) if content.trim().is_empty() => {}
        _ => return Err(PidFileError::NotOurs { path: path.to_owned() }),
    }
    tracing::info!("stale pidfile, removing");
    fs::remove_file(path).map_err(system("remove stale"))
}

/// The living pooler that a file names without locking it, as PgBouncer does. After a reboot the number may be anyone's: a
/// program of another name does not count.
fn unlocked_holder(pid: i32) -> Option<Holder> {
    if u32::try_from(pid) == Ok(std::process::id()) {
        return None; // In a container every start may get the same number.
    }
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return None;
    }
    let program = program(pid);
    let other = program.as_deref().is_some_and(|name| name != "pgbouncer" && name != "pgtandem");
    (!other).then_some(Holder { pid: Some(pid), program })
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
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Ours by its number, so it was left by a crash.
            fs::remove_file(&draft)?;
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft)?
        }
        opened => opened?,
    };
    let linked = file
        .try_lock()
        .map_err(io::Error::from)
        .and_then(|()| file.write_all(format!("{pid}\n").as_bytes()))
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

/// What to do about a file that cannot be made, ready to be typed; empty if there is no such advice.
pub(super) fn remedy(path: &Path, error: &io::Error) -> String {
    let parent = path.parent().unwrap_or(Path::new("."));
    let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let user = match User::from_uid(geteuid()) {
        Ok(Some(user)) => user.name,
        _ => geteuid().to_string(),
    };
    let shown = quoted(directory);
    match error.kind() {
        io::ErrorKind::NotFound if !directory.exists() => {
            format!(" (no such directory; make it: mkdir -p {shown} && chown {user} {shown})")
        }
        io::ErrorKind::PermissionDenied if path.exists() => {
            let shown = quoted(path);
            format!(" (user {user} may not use this file; let it: chown {user} {shown})")
        }
        io::ErrorKind::PermissionDenied => {
            format!(" (user {user} may not write in that directory; let it: chown {user} {shown})")
        }
        _ => String::new(),
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-+@".contains(char);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
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
        end(other);
        PidFile::create(&path).unwrap();
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
        let user = User::from_uid(geteuid()).unwrap().map_or_else(|| geteuid().to_string(), |user| user.name);
        let shown = format!("'{}'", missing.display());
        assert!(error.contains(&format!("mkdir -p {shown} && chown {user} {shown}")), "{error}");
    }
}
