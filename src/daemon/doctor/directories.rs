//! Directories that are written to: those of pidfile, logfile and the Unix socket.

use std::path::{Path, PathBuf};

use nix::unistd::Group;

use super::access::{Node, barrier, is_writable_dir, is_writable_file, node};
use super::account::Account;
use super::report::{Finding, Subject};
use super::words::{self, quoted, quoted_path};
use crate::config::{Config, Places};

/// Directories that belong to the system: their owner is not to be changed.
const SYSTEMS: &[&str] =
    &["/", "/etc", "/run", "/var", "/var/run", "/var/log", "/var/lib", "/tmp", "/var/tmp", "/usr", "/opt"];

/// What is known of one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirectoryFacts {
    pub(super) setting: &'static str,
    /// `file:line` of the setting.
    pub(super) place: Option<String>,
    pub(super) path: PathBuf,
    pub(super) state: State,
    /// The file that is already there, if this user may not write to it.
    pub(super) locked_file: Option<Node>,
}

/// What a directory is to the user who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Fine,
    Missing,
    /// Something else has that name.
    NoDirectory,
    /// It exists, but this user may not write in it.
    Closed(Node),
    /// This user may not even get there.
    Behind(Node),
    /// It cannot be seen, and the reason is not known.
    Unseen,
}

/// Looks at every directory, as the user who serves.
pub(super) fn examine(file: &Path, config: &Config, places: &Places, account: &Account) -> Vec<Finding> {
    let settings = &config.settings;
    let place = |name| places.setting(name).map(|found| words::place(found, file));
    let mut findings = Vec::new();
    for (setting, name) in [("pidfile", settings.pidfile.as_str()), ("logfile", settings.logfile.as_str())] {
        if !name.is_empty() {
            let path = Path::new(name);
            let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // A pidfile is replaced as a whole, a log is written on.
            let locked = setting == "logfile" && path.exists() && !is_writable_file(path);
            findings.push(judge(
                &DirectoryFacts {
                    setting,
                    place: place(setting),
                    path: dir.to_owned(),
                    state: state(dir),
                    locked_file: if locked { node(path).ok() } else { None },
                },
                account,
            ));
        }
    }
    let dir = settings.unix_socket_dir.as_str();
    if !dir.is_empty() && !dir.starts_with('@') {
        let path = PathBuf::from(dir);
        let state = state(&path);
        let facts = DirectoryFacts {
            setting: "unix_socket_dir",
            place: place("unix_socket_dir"),
            path,
            state,
            locked_file: None,
        };
        findings.push(judge(&facts, account));
    }
    findings.extend(group(&settings.unix_socket_group, account));
    findings
}

fn state(path: &Path) -> State {
    match node(path) {
        Ok(found) if !found.is_dir => State::NoDirectory,
        Ok(_) if is_writable_dir(path) => State::Fine,
        Ok(found) => State::Closed(found),
        Err(super::access::Obstacle::Missing) => State::Missing,
        Err(_) => barrier(path).map_or(State::Unseen, State::Behind),
    }
}

/// unix_socket_group must exist, and only its members may give a file to it.
fn group(name: &str, account: &Account) -> Option<Finding> {
    if name.is_empty() || account.uid == 0 {
        return None;
    }
    let gid = match name.parse::<u32>() {
        Ok(gid) => Some(gid),
        Err(_) => Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()),
    };
    judge_group(name, gid, account)
}

fn judge_group(name: &str, gid: Option<u32>, account: &Account) -> Option<Finding> {
    let user = &account.name;
    match gid {
        None => {
            let text = format!("unix_socket_group: there is no group {name}");
            Some(Finding::error(Subject::Directories, text).remedy(format!("groupadd --system {}", quoted(name))))
        }
        Some(gid) if !account.gids.contains(&gid) => {
            let text =
                format!("unix_socket_group: {user} is not in the group {name}, so it may not give the socket to it");
            let remedy = format!("usermod -aG {} {}", quoted(name), quoted(user));
            Some(Finding::error(Subject::Directories, text).remedy(remedy))
        }
        Some(_) => None,
    }
}

/// Judges one directory.
pub(super) fn judge(facts: &DirectoryFacts, account: &Account) -> Finding {
    let DirectoryFacts { setting, path, .. } = facts;
    let user = &account.name;
    let at = facts.place.as_ref().map_or_else(String::new, |place| format!(" ({place})"));
    let about = |text: String| format!("{setting}{at}: {text}");
    let shown = path.display();
    let install = install(path, account);
    let error = |text: String| Finding::error(Subject::Directories, about(text));
    match (&facts.state, &facts.locked_file) {
        (State::Fine, Some(file)) => {
            let name = quoted_path(&file.path);
            let text = format!("user {user} may not write to {} ({})", file.path.display(), file.describe());
            error(text).remedy(format!("chown {} {name}", quoted(user)))
        }
        (State::Fine, None) => Finding::ok(Subject::Directories, format!("{setting}: {user} may write in {shown}")),
        (State::Missing, _) => error(format!("there is no directory {shown}")).remedy(lasting(path, install)),
        (State::NoDirectory, _) => {
            error(format!("{shown} is no directory")).remedy(format!("correct the setting {setting}{at}"))
        }
        (State::Closed(node), _) => {
            let text = format!("user {user} may not write in the directory {shown} ({})", node.describe());
            let remedy = if SYSTEMS.iter().any(|dir| Path::new(dir) == path) || path == Path::new(".") {
                own_place(setting, path, account)
            } else {
                install
            };
            error(text).remedy(remedy)
        }
        (State::Behind(dir), _) => {
            let text =
                format!("user {user} may not pass {} ({}) on the way to {shown}", dir.path.display(), dir.describe());
            error(text).remedy(format!("chmod o+x {}", quoted_path(&dir.path)))
        }
        (State::Unseen, _) => {
            error(format!("{shown} cannot be reached by user {user}")).remedy(format!("ls -ld {}", quoted_path(path)))
        }
    }
}

fn install(path: &Path, account: &Account) -> String {
    let (user, group) = (quoted(&account.name), quoted(&account.group));
    format!("install -d -o {user} -g {group} -m 755 {}", quoted_path(path))
}

/// What lies in /run is gone after a reboot.
fn lasting(path: &Path, install: String) -> String {
    let below = path.strip_prefix("/run").or_else(|_| path.strip_prefix("/var/run"));
    match below {
        Ok(rest) if !rest.as_os_str().is_empty() => format!(
            "RuntimeDirectory={} in the systemd unit (or until the next reboot: {install})",
            quoted(&rest.to_string_lossy())
        ),
        _ => install,
    }
}

/// A directory of our own below one that belongs to the system.
fn own_place(setting: &str, path: &Path, account: &Account) -> String {
    let own = if path == Path::new(".") {
        return format!("name a directory in {setting} that {} may write in", account.name);
    } else {
        path.join("pgtandem")
    };
    let line = match setting {
        "unix_socket_dir" => own.display().to_string(),
        "pidfile" => format!("{}/pgtandem.pid", own.display()),
        _ => format!("{}/pgtandem.log", own.display()),
    };
    format!("{setting} = {line}, and {}", lasting(&own, install(&own, account)))
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn account() -> Account {
        Account { name: "pg".into(), uid: 7, group: "pgg".into(), gids: vec![7] }
    }

    fn facts(setting: &'static str, path: &str, state: State) -> DirectoryFacts {
        DirectoryFacts { setting, place: Some("p.ini:9".into()), path: path.into(), state, locked_file: None }
    }

    fn closed(path: &str) -> Node {
        Node {
            path: path.into(),
            owner: "root".into(),
            uid: 0,
            group: "root".into(),
            gid: 0,
            mode: 0o755,
            is_dir: true,
        }
    }

    #[test]
    fn each_state_has_its_cause_and_command() {
        for (facts, cause, remedy) in [
            (
                facts("logfile", "/var/log/pgb", State::Missing),
                "logfile (p.ini:9): there is no directory /var/log/pgb",
                "install -d -o pg -g pgg -m 755 /var/log/pgb",
            ),
            (
                facts("pidfile", "/var/run/pgb", State::Missing),
                "there is no directory",
                "RuntimeDirectory=pgb in the systemd unit (or until the next reboot: install -d -o pg -g pgg -m 755 \
                 /var/run/pgb)",
            ),
            (
                facts("pidfile", "/srv/x", State::Closed(closed("/srv/x"))),
                "user pg may not write in the directory /srv/x (root:root, mode 0755)",
                "install -d -o pg -g pgg -m 755 /srv/x",
            ),
            (
                facts("logfile", "/var/log", State::Closed(closed("/var/log"))),
                "may not write in the directory /var/log",
                "logfile = /var/log/pgtandem/pgtandem.log, and install -d -o pg -g pgg -m 755 /var/log/pgtandem",
            ),
            (facts("pidfile", "/a/b", State::Behind(closed("/a"))), "may not pass /a", "chmod o+x /a"),
            (facts("pidfile", "/a/b", State::NoDirectory), "/a/b is no directory", "correct the setting pidfile"),
        ] {
            let finding = judge(&facts, &account());
            assert_eq!(finding.level, Level::Error);
            assert!(finding.text.contains(cause), "{finding:?}");
            assert!(finding.remedy.as_deref().unwrap().starts_with(remedy), "{finding:?}");
        }
        assert_eq!(judge(&facts("pidfile", "/a", State::Fine), &account()).level, Level::Ok);
    }

    #[test]
    fn a_log_of_somebody_else_is_found() {
        let mut facts = facts("logfile", "/l", State::Fine);
        facts.locked_file = Some(closed("/l/p.log"));
        let finding = judge(&facts, &account());
        assert!(
            finding.text.contains("may not write to /l/p.log")
                && finding.remedy.as_deref() == Some("chown pg /l/p.log")
        );
    }

    #[test]
    fn the_group_of_the_socket() {
        assert_eq!(judge_group("g", Some(7), &account()), None);
        assert_eq!(judge_group("g", None, &account()).unwrap().remedy.as_deref(), Some("groupadd --system g"));
        assert_eq!(judge_group("g", Some(8), &account()).unwrap().remedy.as_deref(), Some("usermod -aG g pg"));
    }
}
