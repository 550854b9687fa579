//! Fork, exit and capabilities.

use std::ffi::c_ulong;
use std::{fs, io};

use nix::libc;
use nix::unistd::{ForkResult, Pid};

/// Does this process have only the calling thread? (`/proc/self/task`, proc(5).) If that cannot be read, the answer is no.
#[must_use]
pub fn is_single_threaded() -> bool {
    fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Split the process in two (fork(2)): the child's id in the parent, `None` in the child.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::Unsupported`] if there are other threads, since the child would hold locks that they can
/// never release.
pub fn fork() -> io::Result<Option<Pid>> {
    if !is_single_threaded() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "cannot fork: the process has more than one thread"));
    }
    // SAFETY: what is forbidden in a child is to use what another thread had locked or half changed; there is no other thread,
    // and none can have come since, as only this one could have started it.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// End the process here and now (_exit(2)): no destructor and no exit handler runs, so nothing that a forked child still uses
/// (lock, file) is undone.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit takes any value, touches no memory and does not return.
    unsafe { libc::_exit(status) }
}

/// From now on the calling thread runs when no other has anything to do, almost (setpriority(2), which on Linux means one
/// thread). Without effect where the kernel says no.
pub fn yield_to_others() {
    const LOWEST: libc::c_int = 19;
    // SAFETY: it takes any values and touches no memory; id 0 is the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LOWEST) };
}

/// Take every capability out of the bounding set, so that no program started later can gain one (capabilities(7)).
/// Needs CAP_SETPCAP; concerns the calling thread and those it starts.
///
/// # Errors
/// The kernel's.
pub fn clear_bounding_set() -> io::Result<()> {
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(()) => {}
            // Past the last capability that this kernel knows.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && capability > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// struct __user_cap_header_struct with _LINUX_CAPABILITY_VERSION_3 and pid 0 (this thread), capset(2).
const CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];

/// Give up every permitted, effective, inheritable and ambient capability. Concerns the calling thread and those it starts.
///
/// # Errors
/// The kernel's.
pub fn clear_capabilities() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs()), 0)?;
    let mut header = CAPABILITY_HEADER;
    // Two times struct __user_cap_data_struct: effective, permitted, inheritable.
    let mut held = [0_u32; 6];
    // SAFETY: both point to live, aligned, mutable arrays of the size that version 3 of the call reads and writes.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut held) };
    if result == 0 && held == [0; 6] {
        // Not even asked for: a seccomp filter without privileged calls (SystemCallFilter=~@privileged) forbids the question.
        return Ok(());
    }
    let none = [0_u32; 6];
    // SAFETY: both point to live, aligned arrays of the size that version 3 of the call reads; all that it may write is the
    // header's version, and the header is ours and mutable.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const none) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Keep these capabilities and no other: they become the permitted and effective ones, nothing is inheritable or ambient. Concerns
/// the calling thread and those it starts.
///
/// # Errors
/// The kernel's: one of them was not permitted.
pub fn reduce_capabilities(keep: u64) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs()), 0)?;
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
    let (low, high) = (half(keep), half(keep >> 32));
    let mut header = CAPABILITY_HEADER;
    // Two times struct __user_cap_data_struct: effective, permitted, inheritable.
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: both point to live, aligned arrays of the size that version 3 of the call reads; all that it may write is the
    // header's version, and the header is ours and mutable.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const sets) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the permitted capabilities outlive the change from root to another user (prctl(2), PR_SET_KEEPCAPS).
///
/// # Errors
/// The kernel's.
pub fn keep_capabilities(wanted: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, c_ulong::from(wanted), 0)
}

/// The capability sets of the calling thread, a bit for each capability (capabilities(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What it may do now.
    pub effective: u64,
    /// What it may let itself do.
    pub permitted: u64,
    /// What a program that it starts may inherit.
    pub inheritable: u64,
    /// What a program that it starts is given.
    pub ambient: u64,
    /// What a program that it starts can gain at all.
    pub bounding: u64,
}

/// The capabilities of the calling thread.
///
/// # Errors
/// The kernel's.
pub fn capabilities() -> io::Result<Capabilities> {
    let mut header = CAPABILITY_HEADER;
    let mut sets = [0_u32; 6];
    // SAFETY: both point to live, aligned arrays of the size that version 3 of the call reads and writes.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut sets) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [effective, permitted, inheritable, effective_high, permitted_high, inheritable_high] = sets.map(u64::from);
    let is_set = c_ulong::from(libc::PR_CAP_AMBIENT_IS_SET.unsigned_abs());
    Ok(Capabilities {
        effective: effective | effective_high << 32,
        permitted: permitted | permitted_high << 32,
        inheritable: inheritable | inheritable_high << 32,
        ambient: set_of(|capability| prctl_value(libc::PR_CAP_AMBIENT, is_set, capability))?,
        bounding: set_of(|capability| prctl_value(libc::PR_CAPBSET_READ, capability, 0))?,
    })
}

/// Asks for one capability after the other, up to the last that this kernel knows.
fn set_of(is_set: impl Fn(c_ulong) -> io::Result<i32>) -> io::Result<u64> {
    let mut set = 0;
    for capability in 0..64 {
        match is_set(capability) {
            Ok(0) => {}
            Ok(_) => set |= 1 << capability,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && capability > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(set)
}

fn prctl(option: i32, first: c_ulong, second: c_ulong) -> io::Result<()> {
    prctl_value(option, first, second).map(drop)
}

fn prctl_value(option: i32, first: c_ulong, second: c_ulong) -> io::Result<i32> {
    // SAFETY: the options used in this file take plain numbers, no pointers.
    let result = unsafe { libc::prctl(option, first, second, 0, 0) };
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}
