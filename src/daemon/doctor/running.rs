//! Is this configuration being served already? Told by the pidfile, and where there is none by the command line of a process.

use std::fs::{self, OpenOptions, TryLockError};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::report::{Finding, Subject};
use super::sockets::{Process, pids, program};
use super::words::quoted_path;

/// Our own name, as the kernel has it, and the name of the program whose place we take.
const OURS: &str = "pgtandem";
const THEIRS: &str = "pgbouncer";
/// More than any process id takes.
const CONTENT_MAX: u64 = 64;

/// What is known of the pidfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PidFileState {
    /// None is configured, or there is none.
    Absent,
    /// A living process has it.
    Held(Process),
    /// It is locked, but by whom cannot be told.
    HeldBySomebody,
    /// Nobody has it any more.
    Stale,
    /// It holds something else than a process id.
    Foreign,
    /// It cannot be read.
    Unreadable(String),
}

/// Reads the pidfile. The lock is only tried for, and shared, so that a start at this very moment is hardly disturbed.
pub(super) fn pidfile(path: &Path) -> PidFileState {
    if path.as_os_str().is_empty() {
        return PidFileState::Absent;
    }
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return PidFileState::Absent,
        Err(error) => return PidFileState::Unreadable(super::words::system_text(&error)),
    };
    let locked = match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            false
        }
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(_)) => false,
    };
    let mut content = String::new();
    let read = (&mut file).take(CONTENT_MAX).read_to_string(&mut content);
    let pid = content.trim().parse::<i32>().ok().filter(|pid| *pid > 0 && read.is_ok());
    let process = pid.and_then(|pid| Some(Process { pid, program: program(pid)? }));
    match (process, locked) {
        (Some(process), true) => PidFileState::Held(process),
        (None, true) => PidFileState::HeldBySomebody,
        // PgBouncer does not lock its file; after a reboot the number may be anyone's.
        (Some(process), false) if process.program == THEIRS || process.program == OURS => PidFileState::Held(process),
        _ if pid.is_some() || content.trim().is_empty() => PidFileState::Stale,
        _ => PidFileState::Foreign,
    }
}

/// The process that serves this configuration, if one does.
pub(super) fn find(state: &PidFileState, file: &Path) -> Option<Process> {
    if let PidFileState::Held(process) = state
        && process.program == OURS
    {
        return Some(process.clone());
    }
    let own = i32::try_from(std::process::id()).ok();
    let wanted = fs::canonicalize(file).ok()?;
    pids()
        .filter(|pid| Some(*pid) != own)
        .filter(|pid| program(*pid).as_deref() == Some(OURS))
        .find(|pid| serves(*pid, &wanted))
        .map(|pid| Process { pid, program: OURS.to_owned() })
}

fn serves(pid: i32, wanted: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok();
    names_file(&line, directory.as_deref(), &|path| fs::canonicalize(path).is_ok_and(|found| found == wanted))
}

/// Does this command line (words that end in NUL) serve from the file? Relative names count from `directory`, if that is known.
fn names_file(line: &[u8], directory: Option<&Path>, is_wanted: &dyn Fn(&Path) -> bool) -> bool {
    let words: Vec<String> =
        line.split(|byte| *byte == 0).skip(1).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    if words.first().is_some_and(|word| ["doctor", "check", "convert"].contains(&word.as_str())) {
        return false;
    }
    words.iter().filter(|word| !word.is_empty() && !word.starts_with('-')).any(|word| {
        let path = Path::new(word);
        let absolute: Option<PathBuf> =
            if path.is_absolute() { Some(path.to_owned()) } else { directory.map(|directory| directory.join(path)) };
        absolute.is_some_and(|path| is_wanted(&path))
    })
}

/// Judges the pidfile.
pub(super) fn judge(state: &PidFileState, path: &Path, running: Option<&Process>) -> Option<Finding> {
    let shown = path.display();
    let name = quoted_path(path);
    match (state, running) {
        (PidFileState::Held(process), _) if process.program == OURS => {
            Some(Finding::note(Subject::Ports, format!("already running as pid {}, by pidfile {shown}", process.pid)))
        }
        (PidFileState::Held(process), _) => {
            let text = format!("pidfile {shown} is held by {} (pid {})", process.program, process.pid);
            Some(Finding::error(Subject::Ports, text).remedy(format!("kill -INT {}", process.pid)))
        }
        (PidFileState::HeldBySomebody, _) => {
            let text = format!("pidfile {shown} is locked by a process that cannot be seen");
            Some(Finding::error(Subject::Ports, text).remedy(format!("sudo fuser -v {name}")))
        }
        (PidFileState::Foreign, _) => {
            let text = format!("pidfile {shown} exists but holds no process id");
            let remedy = format!("correct the setting pidfile, or: rm {name}");
            Some(Finding::error(Subject::Ports, text).remedy(remedy))
        }
        (PidFileState::Unreadable(reason), _) => {
            let text = format!("pidfile {shown} cannot be read: {reason}");
            Some(Finding::error(Subject::Ports, text).remedy(format!("ls -l {name}; or correct the setting pidfile")))
        }
        (PidFileState::Stale, _) => {
            let text =
                format!("pidfile {shown} was left behind by a process that is gone; the next start takes it over");
            Some(Finding::note(Subject::Ports, text))
        }
        (PidFileState::Absent, Some(process)) => {
            Some(Finding::note(Subject::Ports, format!("already running as pid {}, with this file", process.pid)))
        }
        (PidFileState::Absent, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    #[test]
    fn pidfiles_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.pid");
        assert_eq!((pidfile(Path::new("")), pidfile(&path)), (PidFileState::Absent, PidFileState::Absent));
        fs::write(&path, "no number").unwrap();
        assert_eq!(pidfile(&path), PidFileState::Foreign);
        fs::write(&path, "").unwrap();
        assert_eq!(pidfile(&path), PidFileState::Stale);
        fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        assert_eq!(pidfile(&path), PidFileState::Stale, "a living program of another name, without a lock");
        let lock = fs::File::open(&path).unwrap();
        lock.lock().unwrap();
        let PidFileState::Held(process) = pidfile(&path) else { panic!("locked") };
        assert_eq!(process.pid, i32::try_from(std::process::id()).unwrap());
        fs::write(&path, "999999999\n").unwrap();
        assert_eq!(pidfile(&path), PidFileState::HeldBySomebody);
    }

    #[test]
    fn command_lines_that_serve_the_file() {
        let wanted = |path: &Path| path == Path::new("/e/p.ini");
        let here = Some(Path::new("/e"));
        for (line, directory, serves) in [
            ("pgtandem\0/e/p.ini\0", None, true),
            ("pgtandem\0-d\0/e/p.ini\0", None, true),
            ("pgtandem\0-d\0p.ini\0", here, true),
            ("pgtandem\0-d\0p.ini\0", None, false),
            ("pgtandem\0/e/q.ini\0", here, false),
            ("pgtandem\0doctor\0/e/p.ini\0", here, false),
            ("pgtandem\0check\0-q\0/e/p.ini\0", here, false),
            ("", here, false),
        ] {
            assert_eq!(names_file(line.as_bytes(), directory, &wanted), serves, "{line:?}");
        }
    }

    #[test]
    fn a_running_pgtandem_is_no_error() {
        let path = Path::new("/r/p.pid");
        let process = |program: &str| Process { pid: 7, program: program.to_owned() };
        let level = |state: &PidFileState, running: Option<&Process>| judge(state, path, running).map(|f| f.level);
        assert_eq!(level(&PidFileState::Held(process("pgtandem")), None), Some(Level::Note));
        assert_eq!(level(&PidFileState::Absent, Some(&process("pgtandem"))), Some(Level::Note));
        assert_eq!(level(&PidFileState::Absent, None), None);
        assert_eq!(level(&PidFileState::Stale, None), Some(Level::Note));
        let theirs = judge(&PidFileState::Held(process("pgbouncer")), path, None).unwrap();
        assert!(theirs.level == Level::Error && theirs.text.contains("pgbouncer (pid 7)"), "{theirs:?}");
        assert_eq!(theirs.remedy.as_deref(), Some("kill -INT 7"));
        assert_eq!(level(&PidFileState::Foreign, None), Some(Level::Error));
        assert_eq!(level(&PidFileState::Unreadable("x".into()), None), Some(Level::Error));
    }
}
