//! One thread of another process made to stand still or to run in a circle, from outside: the program needs no hook for it.

use std::fs;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// The worker threads of a process, without its first.
pub(crate) fn workers(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let threads = tasks.map(|task| task.unwrap().file_name().to_string_lossy().parse::<i32>().unwrap());
    let name = |thread: i32| fs::read_to_string(format!("/proc/{pid}/task/{thread}/comm")).unwrap();
    threads.filter(|&thread| thread != pid && name(thread) == "pgtandem\n").collect()
}

/// A thread that stands still while others go on.
pub(crate) struct Stuck {
    thread: Pid,
}

impl Stuck {
    fn seize(thread: i32) -> Self {
        let thread = Pid::from_raw(thread);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self { thread }
    }

    /// Stops it where it is, until it is released.
    pub(crate) fn stop(thread: i32) -> Option<Self> {
        Some(Self::seize(thread))
    }

    /// Sends it into a loop for ever, as a bug in one task would. Where that cannot be done it is stopped instead.
    pub(crate) fn spin(thread: i32) -> Option<Self> {
        let stuck = Self::seize(thread);
        #[cfg(target_arch = "x86_64")]
        {
            let maps = fs::read_to_string(format!("/proc/{thread}/maps")).unwrap();
            let code = maps.lines().rfind(|line| line.contains(" r-xp ") && line.contains("pgtandem")).unwrap();
            let end = code.split(['-', ' ']).nth(1).map(|end| u64::from_str_radix(end, 16).unwrap()).unwrap();
            // Behind the last function, in the rest of the page: jmp to itself.
            let place = end - 16;
            ptrace::write(stuck.thread, place as ptrace::AddressType, 0xfeeb).unwrap();
            let mut registers = ptrace::getregs(stuck.thread).unwrap();
            registers.rip = place;
            // The system call that it was in is not begun again.
            registers.orig_rax = u64::MAX;
            ptrace::setregs(stuck.thread, registers).unwrap();
            stuck.release();
            None
        }
        #[cfg(not(target_arch = "x86_64"))]
        Some(stuck)
    }

    pub(crate) fn release(self) {
        ptrace::detach(self.thread, None).unwrap();
    }
}
