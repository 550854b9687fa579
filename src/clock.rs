//! The clock. [`Time`] is a plain number so that cores can be driven in virtual time; only this file reads a real clock.

use std::ops::{Add, Sub};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

/// Nanoseconds of the monotonic clock (CLOCK_MONOTONIC): the same number in every process of the machine, so that times can
/// be passed on to a successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

/// Where the monotonic clock began. Should it not be readable, times count from the first question.
static START: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    let uptime = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    now.checked_sub(uptime).unwrap_or(now)
});

impl Time {
    /// A time so far off that it never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// Reads the monotonic clock.
    #[must_use]
    pub fn now() -> Self {
        let nanos = START.elapsed().as_nanos();
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The same moment for timers of the runtime.
    #[must_use]
    pub fn instant(self) -> Instant {
        let far = Duration::from_secs(86_400 * 365);
        *START + Duration::from_nanos(self.0).min(far)
    }

    /// The same moment on the wall clock, as well as it can be told now.
    #[must_use]
    pub fn system(self) -> SystemTime {
        SystemTime::now() - Self::now().since(self)
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}
