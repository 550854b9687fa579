//! The systemd unit, if one is installed: whom it starts the program as, and how many files it may open.

use std::fs;
use std::path::{Path, PathBuf};

use super::report::{Finding, Subject};

const NAME: &str = "pgtandem.service";
/// systemd.unit(5), the first one found counts.
const DIRECTORIES: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];

/// What an installed unit says, with its drop-ins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) path: PathBuf,
    /// `User=`
    pub(super) user: Option<String>,
    /// `LimitNOFILE=`, the hard limit; `u64::MAX` is infinity.
    pub(super) limit_nofile: Option<u64>,
    /// The program's command line names the file that is looked at.
    pub(super) exec_start: Option<String>,
}

/// The installed unit; `None` if there is none or it cannot be read.
pub(super) fn find() -> Option<Unit> {
    let path = DIRECTORIES.iter().map(|dir| Path::new(dir).join(NAME)).find(|path| path.is_file())?;
    let mut text = fs::read_to_string(&path).ok()?;
    for directory in DIRECTORIES.iter().rev() {
        let mut drop_ins: Vec<PathBuf> = fs::read_dir(Path::new(directory).join(format!("{NAME}.d")))
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
            .collect();
        drop_ins.sort();
        for drop_in in drop_ins {
            text.push('\n');
            text.push_str(&fs::read_to_string(drop_in).unwrap_or_default());
        }
    }
    Some(Unit { path, ..parse(&text) })
}

/// Reads the lines that matter; the last of each counts.
fn parse(text: &str) -> Unit {
    let mut unit = Unit::default();
    for line in text.lines().map(str::trim) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim();
        match key.trim() {
            "User" => unit.user = Some(value.to_owned()).filter(|user| !user.is_empty()),
            "LimitNOFILE" => unit.limit_nofile = limit(value),
            "ExecStart" if !value.is_empty() => unit.exec_start = Some(value.to_owned()),
            _ => {}
        }
    }
    unit
}

/// `HARD` or `SOFT:HARD` (systemd.exec(5)).
fn limit(value: &str) -> Option<u64> {
    let hard = value.rsplit(':').next().unwrap_or(value);
    if hard == "infinity" { Some(u64::MAX) } else { hard.parse().ok() }
}

/// Says what the unit is about.
pub(super) fn judge(unit: &Unit, file: &Path) -> Vec<Finding> {
    let shown = unit.path.display();
    let user = unit.user.as_deref().unwrap_or("root");
    let limit = match unit.limit_nofile {
        Some(u64::MAX) => ", LimitNOFILE=infinity".to_owned(),
        Some(limit) => format!(", LimitNOFILE={limit}"),
        None => String::new(),
    };
    let mut findings = vec![Finding::note(Subject::Service, format!("{shown} is installed: User={user}{limit}"))];
    let same = |word: &str| fs::canonicalize(word).ok() == fs::canonicalize(file).ok();
    if let Some(command) = &unit.exec_start
        && !command.split_whitespace().skip(1).any(same)
    {
        let text = format!("{shown} does not serve this file, its command is: {command}");
        findings.push(Finding::note(Subject::Service, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_matter_are_read() {
        let unit = parse("[Service]\nUser = a\nLimitNOFILE=1024:65536\nExecStart=/x/pgtandem /y\n#User=z\nUser=b\n");
        assert_eq!((unit.user.as_deref(), unit.limit_nofile), (Some("b"), Some(65536)));
        assert_eq!(unit.exec_start.as_deref(), Some("/x/pgtandem /y"));
        assert_eq!(parse("LimitNOFILE=infinity\nUser=").limit_nofile, Some(u64::MAX));
        assert_eq!(limit("x"), None);
    }

    #[test]
    fn another_file_is_told() {
        let unit =
            Unit { path: "/u".into(), exec_start: Some("/bin/pgtandem /etc/hostname".into()), ..Unit::default() };
        assert_eq!(judge(&unit, Path::new("/etc/hostname")).len(), 1);
        let findings = judge(&unit, Path::new("/etc/passwd"));
        assert!(findings[1].text.contains("/etc/hostname"), "{findings:?}");
    }
}
