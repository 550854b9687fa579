//! What the service manager is about to do: end the service for good, or start it again.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// How long systemctl may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The unit that this process belongs to, by its control group.
#[must_use]
pub(super) fn own_unit() -> Option<String> {
    unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// `0::/system.slice/pgtandem.service` names the unit; subgroups may follow it.
fn unit_of(groups: &str) -> Option<String> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    path.rsplit('/').find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// Will the service be started again as soon as this process has ended? `None` if that cannot be told.
pub(super) async fn is_restart() -> Option<bool> {
    let unit = own_unit()?;
    let mut command = Command::new("systemctl");
    command.args(["list-jobs", "--no-legend", "--plain", "--full", "--no-pager", &unit]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    let output = match timeout(PATIENCE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => output,
        other => {
            tracing::debug!("systemctl list-jobs {unit}: {other:?}");
            return None;
        }
    };
    job_of(&String::from_utf8_lossy(&output.stdout), &unit)
}

/// A line of `systemctl list-jobs` is number, unit, type, state.
fn job_of(lines: &str, unit: &str) -> Option<bool> {
    lines.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (_, name, kind) = (words.next()?, words.next()?, words.next()?);
        (name == unit).then_some(matches!(kind, "restart" | "start" | "try-restart"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_nearest_service() {
        assert_eq!(unit_of("0::/system.slice/pgtandem.service\n").as_deref(), Some("pgtandem.service"));
        assert_eq!(unit_of("0::/system.slice/a@b.service/sub\n").as_deref(), Some("a@b.service"));
        assert_eq!(unit_of("1:cpu:/x.service\n0::/user.slice/session-1.scope\n"), None);
    }

    #[test]
    fn a_restart_is_told_from_a_stop() {
        let jobs = " 12 other.service     stop    waiting\n345 pgtandem.service restart running\n";
        assert_eq!(job_of(jobs, "pgtandem.service"), Some(true));
        assert_eq!(job_of(jobs, "other.service"), Some(false));
        assert_eq!(job_of("No jobs running.\n", "pgtandem.service"), None);
    }
}
