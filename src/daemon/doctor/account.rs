//! Who would serve, and with which privileges.

use std::fs;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgroups};

use super::report::{Finding, Subject};
use super::unit::Unit;
use super::words::quoted;
use crate::daemon::process::{Identity, ProcessError};

/// Where the name of the user comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Option,
    Setting,
    Unit,
}

/// What became of the question who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Root becomes this user.
    Becomes,
    /// Whoever called stays who he is.
    Stays,
    /// Root, and nobody to become.
    Root,
    /// There is no such user.
    Unknown,
    /// Not root, and not that user.
    Other,
    /// The system did not say.
    Failed(String),
}

/// What is known of who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AccountFacts {
    /// Who called.
    pub(super) caller: String,
    /// Who is to serve, and who says so.
    pub(super) wanted: Option<(String, Source)>,
    pub(super) outcome: Outcome,
    /// `User=` of the installed unit.
    pub(super) unit_user: Option<String>,
    /// The configuration file, as it was named.
    pub(super) file: String,
    /// Names of the capabilities in force beside those of root.
    pub(super) capabilities: u64,
}

/// An account as files and directories see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) group: String,
    /// All groups, the first one included.
    pub(super) gids: Vec<u32>,
}

impl Account {
    /// That of this process, now.
    pub(super) fn current() -> Self {
        let (uid, gid) = (geteuid(), getegid());
        let mut gids: Vec<u32> = getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        gids.push(gid.as_raw());
        Self { name: user_name(uid.as_raw()), uid: uid.as_raw(), group: group_name(gid.as_raw()), gids }
    }
}

/// The name of a user id, or the number.
pub(super) fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

/// The name of a group id, or the number.
pub(super) fn group_name(gid: u32) -> String {
    match Group::from_gid(Gid::from_raw(gid)) {
        Ok(Some(group)) => group.name,
        _ => gid.to_string(),
    }
}

/// Finds out who is to serve; with an identity if this process must become somebody else to be him.
pub(super) fn find(
    option: Option<&str>,
    setting: Option<&str>,
    unit: Option<&Unit>,
    file: &Path,
) -> (AccountFacts, Option<Identity>) {
    let unit_user = unit.and_then(|unit| unit.user.clone());
    let named = |name: Option<&str>, source| name.filter(|n| !n.is_empty()).map(|n| (n.to_owned(), source));
    let mut wanted = named(option, Source::Option).or_else(|| named(setting, Source::Setting));
    if wanted.is_none() && geteuid().is_root() {
        wanted = named(unit_user.as_deref(), Source::Unit);
    }
    let (outcome, identity) = match Identity::resolve(wanted.as_ref().map(|(name, _)| name.as_str())) {
        Ok(Some(identity)) => (Outcome::Becomes, Some(identity)),
        Ok(None) => (Outcome::Stays, None),
        Err(ProcessError::Root) => (Outcome::Root, None),
        Err(ProcessError::NoSuchUser(_)) => (Outcome::Unknown, None),
        Err(ProcessError::Identity { .. }) => (Outcome::Other, None),
        Err(error) => (Outcome::Failed(error.to_string()), None),
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let facts = AccountFacts {
        caller: user_name(geteuid().as_raw()),
        wanted,
        outcome,
        unit_user,
        file: file.display().to_string(),
        capabilities: capabilities(&status),
    };
    (facts, identity)
}

/// `CapEff` of /proc/PID/status (proc(5)); 0 if it is not there.
pub(super) fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Judges who serves.
pub(super) fn judge(facts: &AccountFacts) -> Vec<Finding> {
    let mut findings = vec![judge_outcome(facts)];
    let serving = match (&facts.wanted, &facts.outcome) {
        (Some((name, Source::Setting)), Outcome::Becomes | Outcome::Stays) => Some(name),
        _ => None,
    };
    if let (Some(name), Some(unit)) = (serving, &facts.unit_user)
        && name != unit
    {
        let text =
            format!("the file says user = {name}, but the installed unit starts as User={unit}: it would end at once");
        let remedy = format!("remove the line user = {name} from {}, or set User={name} in the unit", facts.file);
        findings.push(Finding::error(Subject::User, text).remedy(remedy));
    }
    if facts.capabilities != 0 && facts.outcome == Outcome::Stays {
        let text = "this process has capabilities; pgtandem needs none once it listens, and gives them up at its start";
        findings.push(Finding::note(Subject::User, text));
    }
    findings
}

fn judge_outcome(facts: &AccountFacts) -> Finding {
    let AccountFacts { caller, file, .. } = facts;
    let name = facts.wanted.as_ref().map_or(caller, |(name, _)| name);
    let shown = quoted(file);
    match (&facts.outcome, facts.wanted.as_ref().map(|(_, source)| *source)) {
        (Outcome::Becomes, Some(Source::Unit)) => Finding::ok(
            Subject::User,
            format!("the installed unit serves as User={name}; everything below is tried as that user"),
        ),
        (Outcome::Becomes, Some(Source::Option)) => Finding::ok(
            Subject::User,
            format!("everything below is tried as {name} (-u); a start by root needs -u {name} too, or user = {name}"),
        ),
        (Outcome::Becomes, _) => Finding::ok(
            Subject::User,
            format!("started as root it serves as {name}; everything below is tried as that user"),
        ),
        (Outcome::Stays, _) => Finding::ok(Subject::User, format!("serves as {name}")),
        (Outcome::Root, Some(source)) => {
            let what = if source == Source::Option { "-u" } else { "user =" };
            let text = format!("{what} {name} is root, and root never serves");
            Finding::error(Subject::User, text).remedy("user = postgres")
        }
        (Outcome::Root, None) => {
            let text =
                "called as root, and no user is set: pgtandem would refuse to start; what follows was tried as root";
            let remedy = format!(
                "user = postgres in [pgbouncer] of {file}; or, if it is started as that user anyway, look again with: \
                 pgtandem doctor -u postgres {shown}"
            );
            Finding::error(Subject::User, text).remedy(remedy)
        }
        (Outcome::Unknown, source) => {
            let what = if source == Some(Source::Option) { "-u" } else { "user =" };
            let text = format!("{what} {name}: there is no such user");
            let remedy =
                format!("useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {}", quoted(name));
            Finding::error(Subject::User, text).remedy(remedy)
        }
        (Outcome::Other, _) => {
            let text = format!("{caller} may not become {name}; what follows was tried as {caller}");
            Finding::error(Subject::User, text).remedy(format!("sudo pgtandem doctor {shown}"))
        }
        (Outcome::Failed(reason), _) => {
            Finding::error(Subject::User, format!("who serves cannot be found out: {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn facts(wanted: Option<(&str, Source)>, outcome: Outcome) -> AccountFacts {
        AccountFacts {
            caller: "root".into(),
            wanted: wanted.map(|(name, source)| (name.to_owned(), source)),
            outcome,
            unit_user: None,
            file: "/etc/p.ini".into(),
            capabilities: 0,
        }
    }

    #[test]
    fn every_outcome_names_the_user_and_the_way_out() {
        for (wanted, outcome, level, cause, remedy) in [
            (Some(("postgres", Source::Setting)), Outcome::Becomes, Level::Ok, "serves as postgres", ""),
            (Some(("postgres", Source::Unit)), Outcome::Becomes, Level::Ok, "User=postgres", ""),
            (Some(("postgres", Source::Option)), Outcome::Becomes, Level::Ok, "as postgres (-u)", ""),
            (None, Outcome::Stays, Level::Ok, "serves as root", ""),
            (None, Outcome::Root, Level::Error, "no user is set", "user = postgres"),
            (Some(("root", Source::Setting)), Outcome::Root, Level::Error, "root never serves", "user = postgres"),
            (Some(("pgb", Source::Setting)), Outcome::Unknown, Level::Error, "user = pgb", "useradd --system"),
            (Some(("pgb", Source::Option)), Outcome::Unknown, Level::Error, "-u pgb", "useradd --system"),
            (
                Some(("pgb", Source::Setting)),
                Outcome::Other,
                Level::Error,
                "may not become pgb",
                "sudo pgtandem doctor",
            ),
        ] {
            let finding = judge(&facts(wanted, outcome)).remove(0);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.text.contains(cause), "{finding:?}");
            assert!(finding.remedy.unwrap_or_default().contains(remedy));
        }
    }

    #[test]
    fn a_unit_with_another_user_cannot_start() {
        let mut facts = facts(Some(("postgres", Source::Setting)), Outcome::Becomes);
        facts.unit_user = Some("pgbouncer".into());
        let findings = judge(&facts);
        assert_eq!(findings.len(), 2);
        assert!(findings[1].text.contains("User=pgbouncer"), "{findings:?}");
    }

    #[test]
    fn capabilities_are_read_from_status() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t0000000000000400\n"), 0x400);
        assert_eq!(capabilities(""), 0);
    }
}
