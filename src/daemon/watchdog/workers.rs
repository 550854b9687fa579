//! Which worker threads of the runtime are going round, and which are stuck.
//!
//! A busy worker shows in the runtime's counters, which move at least every 61 polls of tasks. An idle one is parked and moves
//! nothing; it is fine if the kernel says that it sleeps, since then it will wake up when there is something to do. What is
//! neither is stuck: in a loop, in a lock, in a system call, or stopped.

use std::cell::RefCell;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::unistd::gettid;
use tokio::runtime::{Builder, RuntimeMetrics};

use crate::clock::Time;

/// The worker threads that have parked at least once, as hooks of their runtime see them.
#[derive(Debug, Default)]
pub struct Workers {
    seen: Mutex<Vec<Arc<Worker>>>,
}

/// On a cache line of its own, as each is written by another core.
#[derive(Debug)]
#[repr(align(64))]
struct Worker {
    thread: i32,
    parked: AtomicBool,
    ticks: AtomicU64,
}

thread_local! {
    /// This thread as a worker, and of whom.
    static SELF: RefCell<Option<(Weak<Workers>, Arc<Worker>)>> = const { RefCell::new(None) };
}

impl Workers {
    /// Has the runtime that is about to be built report here.
    pub fn attach(self: &Arc<Self>, builder: &mut Builder) {
        let (park, unpark) = (Arc::clone(self), Arc::clone(self));
        builder.on_thread_park(move || park.tick(true)).on_thread_unpark(move || unpark.tick(false));
    }

    fn tick(self: &Arc<Self>, parked: bool) {
        let tick = |worker: &Worker| {
            worker.parked.store(parked, Ordering::Release);
            worker.ticks.fetch_add(1, Ordering::Release);
        };
        // A thread that is about to end has no such place any more, and need not be watched.
        let _ = SELF.try_with(|own| {
            let mut own = own.borrow_mut();
            match &*own {
                Some((workers, worker)) if workers.as_ptr() == Arc::as_ptr(self) => tick(worker),
                _ => {
                    let worker =
                        Worker { thread: gettid().as_raw(), parked: AtomicBool::new(parked), ticks: AtomicU64::new(1) };
                    let worker = Arc::new(worker);
                    self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&worker));
                    *own = Some((Arc::downgrade(self), worker));
                }
            }
        });
    }
}

/// What the kernel says of a thread (proc_pid_stat(5), state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadState {
    /// Waits for something and will wake up.
    Asleep,
    /// Runs, or would if there were a core for it.
    Running,
    /// Stopped, traced, or in a system call that does not end.
    Halted,
    /// Cannot be told here.
    Unknown,
}

impl ThreadState {
    /// `None`: there is no such thread any more.
    fn of(thread: i32) -> Option<Self> {
        match fs::read_to_string(format!("/proc/self/task/{thread}/stat")) {
            Ok(stat) => Some(Self::parse(&stat)),
            // Either the thread is gone or there is no /proc.
            Err(_) if fs::exists("/proc/self/stat").unwrap_or(false) => None,
            Err(_) => Some(Self::Unknown),
        }
    }

    fn parse(stat: &str) -> Self {
        // The name before it may contain anything, also `)`.
        match stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next()) {
            Some('S' | 'I') => Self::Asleep,
            Some('R' | 'W' | 'P') => Self::Running,
            Some('D' | 'T' | 't' | 'Z' | 'X') => Self::Halted,
            _ => Self::Unknown,
        }
    }
}

/// How the workers look at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// By the runtime's index: time spent busy and number of parks and unparks, which is odd while parked.
    pub(super) counters: Vec<(Duration, u64)>,
    pub(super) threads: Vec<ThreadSample>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ThreadSample {
    pub(super) thread: i32,
    pub(super) parked: bool,
    pub(super) ticks: u64,
    pub(super) state: ThreadState,
}

impl Sample {
    pub(super) fn take(metrics: &RuntimeMetrics, workers: &Workers) -> Self {
        let counter = |index| (metrics.worker_total_busy_duration(index), metrics.worker_park_unpark_count(index));
        let mut seen = workers.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut threads = Vec::with_capacity(seen.len());
        seen.retain(|worker| {
            // Before the state: a thread that parks in between then looks busy, which is harmless.
            let (parked, ticks) = (worker.parked.load(Ordering::Acquire), worker.ticks.load(Ordering::Acquire));
            let state = ThreadState::of(worker.thread);
            threads.extend(state.map(|state| ThreadSample { thread: worker.thread, parked, ticks, state }));
            state.is_some()
        });
        Self { counters: (0..metrics.num_workers()).map(counter).collect(), threads }
    }
}

/// Compares samples over time.
#[derive(Debug)]
pub(super) struct Judge {
    patience: Duration,
    counters: Vec<Seen<(Duration, u64)>>,
    threads: Vec<(i32, Seen<u64>)>,
}

#[derive(Clone, Copy, Debug)]
struct Seen<T> {
    last: T,
    moved_at: Time,
}

impl<T: PartialEq + Copy> Seen<T> {
    /// How long there was no sign of life.
    fn still_for(&mut self, now: Time, value: T, fine: bool) -> Duration {
        if fine || self.last != value {
            *self = Self { last: value, moved_at: now };
        }
        now.since(self.moved_at)
    }
}

impl Judge {
    /// `patience`: how long a worker may show no sign of life.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, counters: Vec::new(), threads: Vec::new() }
    }

    /// All begin anew.
    pub(super) fn forgive(&mut self, now: Time) {
        self.counters.iter_mut().for_each(|seen| seen.moved_at = now);
        self.threads.iter_mut().for_each(|(_, seen)| seen.moved_at = now);
    }

    /// Who is stuck, in words for the log.
    pub(super) fn stuck(&mut self, now: Time, sample: &Sample) -> Option<String> {
        let fresh = sample.counters.iter().skip(self.counters.len());
        self.counters.extend(fresh.map(|counter| Seen { last: *counter, moved_at: now }));
        let mut found = None;
        for (index, (seen, counter)) in self.counters.iter_mut().zip(&sample.counters).enumerate() {
            let parked = counter.1 % 2 == 1;
            let still = seen.still_for(now, *counter, parked);
            if still > self.patience {
                let count = sample.counters.len();
                let number = index + 1;
                found = Some(format!(
                    "worker {number} of {count} has been stuck in one task for {:.1} s",
                    still.as_secs_f64()
                ));
            }
        }
        self.threads.retain(|(thread, _)| sample.threads.iter().any(|sample| sample.thread == *thread));
        for ThreadSample { thread, parked, ticks, state } in &sample.threads {
            let fine = match state {
                ThreadState::Asleep | ThreadState::Unknown => *parked,
                ThreadState::Running | ThreadState::Halted => false,
            };
            // One that is not parked is judged by its counters.
            let fine = fine || !parked;
            let known = self.threads.iter_mut().find(|(known, _)| known == thread);
            match known {
                None => self.threads.push((*thread, Seen { last: *ticks, moved_at: now })),
                Some((_, seen)) => {
                    let still = seen.still_for(now, *ticks, fine);
                    if still > self.patience {
                        let what = if *state == ThreadState::Halted { "stopped" } else { "spinning" };
                        let still = still.as_secs_f64();
                        found =
                            Some(format!("worker thread {thread} has been {what} instead of idle for {still:.1} s"));
                    }
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn sample(counters: &[(u64, u64)], threads: &[(i32, bool, u64, ThreadState)]) -> Sample {
        Sample {
            counters: counters.iter().map(|(busy, parks)| (Duration::from_nanos(*busy), *parks)).collect(),
            threads: threads
                .iter()
                .map(|&(thread, parked, ticks, state)| ThreadSample { thread, parked, ticks, state })
                .collect(),
        }
    }

    #[test]
    fn parked_or_moving_workers_are_fine_and_others_are_stuck_in_time() {
        let mut judge = Judge::new(Duration::from_millis(100));
        for ms in (0..1000).step_by(50) {
            // The first is parked for ever, the second busy without a pause.
            assert_eq!(judge.stuck(at(ms), &sample(&[(5, 3), (ms, 0)], &[])), None);
        }
        let still = sample(&[(5, 3), (950, 0)], &[]);
        assert_eq!(judge.stuck(at(1050), &still), None);
        assert_eq!(judge.stuck(at(1051), &still).unwrap(), "worker 2 of 2 has been stuck in one task for 0.1 s");
        // The process as a whole had been stopped.
        judge.forgive(at(1060));
        assert_eq!(judge.stuck(at(1100), &still), None);
        assert_eq!(judge.stuck(at(1200), &sample(&[(5, 4), (951, 0)], &[])), None);
    }

    #[test]
    fn a_parked_thread_must_sleep() {
        use ThreadState::{Asleep, Halted, Running, Unknown};
        for (state, parked, wrong) in [
            (Asleep, true, None),
            (Unknown, true, None),
            (Running, false, None),
            (Running, true, Some("worker thread 7 has been spinning instead of idle for 0.2 s")),
            (Halted, true, Some("worker thread 7 has been stopped instead of idle for 0.2 s")),
        ] {
            let mut judge = Judge::new(Duration::from_millis(100));
            let same = sample(&[], &[(7, parked, 1, state)]);
            assert_eq!(judge.stuck(at(0), &same), None);
            assert_eq!(judge.stuck(at(50), &same), None);
            assert_eq!(judge.stuck(at(200), &same).as_deref(), wrong, "{state:?}");
            assert_eq!(judge.stuck(at(300), &sample(&[], &[(7, parked, 2, state)])), None, "{state:?}");
            assert_eq!(judge.stuck(at(900), &sample(&[], &[])), None);
        }
    }

    #[test]
    fn the_kernels_word_is_found_behind_any_name() {
        for (stat, state) in [
            ("12 (pgtandem) S 1 2 3", ThreadState::Asleep),
            ("12 (a) R b) t 1", ThreadState::Halted),
            ("12 (a) R 1", ThreadState::Running),
            ("", ThreadState::Unknown),
            ("12 (a)", ThreadState::Unknown),
        ] {
            assert_eq!(ThreadState::parse(stat), state, "{stat}");
        }
        assert_eq!(ThreadState::of(gettid().as_raw()), Some(ThreadState::Running));
        assert_eq!(ThreadState::of(i32::MAX), None);
    }
}
