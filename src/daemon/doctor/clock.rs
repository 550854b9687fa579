//! The clock: certificates are judged by it, and logs of two machines are compared by it. Pure.

use super::report::{Finding, Subject};
use super::words::day;

/// Seconds beside a server's clock from which on something is wrong.
const OFFSET_MS: i64 = 5_000;
/// 2025-01-01: this program was not there before.
const EARLIEST: i64 = 1_735_689_600;
/// 2100-01-01.
const LATEST: i64 = 4_102_444_800;

/// A server's clock against ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) server: String,
    /// Positive: ours is ahead.
    pub(super) ahead_ms: i64,
    /// The time that asking took: the uncertainty.
    pub(super) round_trip_ms: i64,
}

/// Judges our clock; `now` in seconds since 1970.
pub(super) fn judge(now: i64, comparisons: &[Comparison]) -> Vec<Finding> {
    let remedy = "timedatectl set-ntp true";
    if !(EARLIEST..LATEST).contains(&now) {
        let text =
            format!("it is {} by this machine's clock, which cannot be: every certificate will seem invalid", day(now));
        return vec![Finding::error(Subject::Clock, text).remedy(remedy)];
    }
    let sure = |one: &Comparison| one.ahead_ms.abs() - one.round_trip_ms;
    let Some(worst) = comparisons.iter().max_by_key(|one| sure(one)) else {
        return vec![Finding::note(Subject::Clock, "no server could be asked for its time")];
    };
    if sure(worst) <= OFFSET_MS {
        return vec![Finding::ok(Subject::Clock, "as the servers' clocks")];
    }
    let seconds = worst.ahead_ms.abs() / 1000;
    let way = if worst.ahead_ms > 0 { "ahead of" } else { "behind" };
    let others = comparisons.iter().filter(|one| sure(one) <= OFFSET_MS).count();
    let whose = if others > 0 { format!("; {others} other servers agree with this machine") } else { String::new() };
    let text = format!("this machine's clock is {seconds} s {way} that of the server {}{whose}", worst.server);
    let remedy = format!("{remedy} (on the machine that is wrong; chronyc tracking or timedatectl tells)");
    vec![Finding::warning(Subject::Clock, text).remedy(remedy)]
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn one(ahead_ms: i64, round_trip_ms: i64) -> Comparison {
        Comparison { server: "db:5432".into(), ahead_ms, round_trip_ms }
    }

    #[test]
    fn five_seconds_are_too_many() {
        let now = EARLIEST + 5;
        for (comparisons, level, cause) in [
            (vec![one(200, 10)], Level::Ok, "as the servers'"),
            (vec![one(6_000, 2_000)], Level::Ok, "as the servers'"),
            (vec![one(9_000, 10), one(1, 1)], Level::Warning, "9 s ahead of that of the server db:5432; 1 other"),
            (vec![one(-60_000, 10)], Level::Warning, "60 s behind"),
            (vec![], Level::Note, "no server"),
        ] {
            let finding = judge(now, &comparisons).remove(0);
            assert!(finding.level == level && finding.text.contains(cause), "{finding:?}");
        }
    }

    #[test]
    fn an_impossible_year_is_an_error() {
        assert_eq!(judge(0, &[one(0, 0)])[0].level, Level::Error);
        assert_eq!(judge(LATEST, &[])[0].level, Level::Error);
    }
}
