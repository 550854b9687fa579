//! What the process was started with and must be taken once: sockets handed over by the service manager.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::{env, io};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::process::is_single_threaded;

/// The first descriptor that is handed over (SD_LISTEN_FDS_START, sd_listen_fds(3)).
const FIRST: RawFd = 3;

/// More than anybody hands over; a larger number is a mistake.
const COUNT_MAX: usize = 65_536;

const VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Take the descriptors that were handed over (`LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`; sd_listen_fds(3)), each with its
/// name, `unknown` where there are no names. They are closed at exec from now on, and the variables are gone, so that a second
/// call finds nothing and no child takes them for its own. None if they are meant for another process. Descriptors that are
/// not open are left out. Call it first of all, before anything is opened.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] if there are other threads, [`io::ErrorKind::InvalidInput`] if the variables make no sense.
/// The variables are gone in the latter case.
pub fn take_listen_fds() -> io::Result<Vec<(String, OwnedFd)>> {
    let [Some(count), Some(pid)] = ["LISTEN_FDS", "LISTEN_PID"].map(env::var_os) else { return Ok(Vec::new()) };
    if !is_single_threaded() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the process has more than one thread"));
    }
    let names = env::var("LISTEN_FDNAMES").ok();
    for name in VARIABLES {
        // SAFETY: there is no other thread that could read the environment meanwhile.
        unsafe { env::remove_var(name) };
    }
    let bad = |name: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is not a number"));
    let pid: u32 = pid.to_str().and_then(|pid| pid.parse().ok()).ok_or_else(|| bad("LISTEN_PID"))?;
    if pid != std::process::id() {
        return Ok(Vec::new());
    }
    let count: usize = count.to_str().and_then(|count| count.parse().ok()).ok_or_else(|| bad("LISTEN_FDS"))?;
    if count > COUNT_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("LISTEN_FDS is {count}")));
    }
    let names: Vec<&str> = names.as_deref().map(|names| names.split(':').collect()).unwrap_or_default();
    let numbered = (FIRST..).take(count).enumerate();
    Ok(numbered
        .filter_map(|(index, fd)| Some((names.get(index).copied().unwrap_or("unknown").to_owned(), adopt(fd)?)))
        .collect())
}

/// `None`: it is not open.
fn adopt(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the service manager's protocol gives these numbers to this process, which has one thread and has opened nothing
    // yet; they are taken once, as the variables that name them are removed before. Whether it is open is checked below,
    // and one that is not is forgotten without closing it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    match fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Some(owned),
        Err(_) => {
            std::mem::forget(owned);
            None
        }
    }
}
