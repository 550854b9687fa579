//! Findings, and how they are shown: as text for people, as JSON for programs, and as an exit status. Pure.

use std::fmt::Write as _;

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is as it should be.
    Ok,
    /// Worth knowing; nothing to do.
    Note,
    /// It works, but not for ever or not for everybody.
    Warning,
    /// It does not work.
    Error,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a finding is about, in the order in which the subjects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The file itself.
    Configuration,
    /// Who serves, and with which privileges.
    User,
    /// The systemd unit.
    Service,
    /// Files that are read.
    Files,
    /// Directories that are written to.
    Directories,
    /// Sockets to listen on, and the pidfile.
    Ports,
    /// Limits of the process and the kernel.
    Limits,
    /// Certificates and keys.
    Certificates,
    /// PostgreSQL servers and logins.
    Servers,
    /// The clock.
    Clock,
}

impl Subject {
    fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::User => "user",
            Self::Service => "service",
            Self::Files => "files",
            Self::Directories => "directories",
            Self::Ports => "ports",
            Self::Limits => "limits",
            Self::Certificates => "certificates",
            Self::Servers => "servers",
            Self::Clock => "clock",
        }
    }
}

/// One thing that was looked at. No text ever holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// How much it matters.
    pub level: Level,
    /// What was found, with the cause.
    pub text: String,
    /// What to do: a command or a line for a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding without a remedy.
    pub(super) fn new(subject: Subject, level: Level, text: impl Into<String>) -> Self {
        Self { subject, level, text: text.into(), remedy: None }
    }

    /// What is as it should be.
    pub(super) fn ok(subject: Subject, text: impl Into<String>) -> Self {
        Self::new(subject, Level::Ok, text)
    }

    /// What is worth knowing.
    pub(super) fn note(subject: Subject, text: impl Into<String>) -> Self {
        Self::new(subject, Level::Note, text)
    }

    /// What works, but not for ever or not for everybody.
    pub(super) fn warning(subject: Subject, text: impl Into<String>) -> Self {
        Self::new(subject, Level::Warning, text)
    }

    /// What does not work.
    pub(super) fn error(subject: Subject, text: impl Into<String>) -> Self {
        Self::new(subject, Level::Error, text)
    }

    /// The same finding, with what to do about it.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Everything that was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The configuration file, as it was named.
    pub file: String,
    /// The account that everything was tried as, once it is known.
    pub user: Option<String>,
    /// In the order in which things were looked at.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds findings.
    pub(super) fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
    }

    /// The worst level.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// 0: nothing wrong, 1: warnings, 2: errors, as monitoring plugins have it (and 3 where nothing could be looked at).
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self.worst() {
            Level::Ok | Level::Note => 0,
            Level::Warning => 1,
            Level::Error => 2,
        }
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// For people: grouped by subject, one line a finding, its remedy below. `quiet` leaves out all but warnings and errors.
    #[must_use]
    pub fn text(&self, quiet: bool) -> String {
        let mut shown: Vec<&Finding> =
            self.findings.iter().filter(|finding| !quiet || finding.level >= Level::Warning).collect();
        if quiet && shown.is_empty() {
            return String::new();
        }
        shown.sort_by_key(|finding| finding.subject);
        let mut out = String::new();
        let (mut subject, mut above) = (None, None);
        for finding in shown {
            if subject != Some(finding.subject) {
                subject = Some(finding.subject);
                let _ = writeln!(out, "{}", finding.subject.word());
            }
            let _ = writeln!(out, "  {:<8} {}", finding.level.word(), one_line(&finding.text));
            if let Some(remedy) = &finding.remedy {
                let repeated = above.replace(remedy) == Some(remedy);
                let _ =
                    writeln!(out, "           -> {}", if repeated { "as above".to_owned() } else { one_line(remedy) });
            }
        }
        let _ = writeln!(out, "{}", self.summary());
        out
    }

    fn summary(&self) -> String {
        let who = self.user.as_ref().map_or_else(String::new, |user| format!(" for user {user}"));
        let counts: Vec<String> = [(Level::Error, "error"), (Level::Warning, "warning")]
            .into_iter()
            .filter_map(|(level, word)| match self.count(level) {
                0 => None,
                1 => Some(format!("1 {word}")),
                n => Some(format!("{n} {word}s")),
            })
            .collect();
        let verdict = if counts.is_empty() { "nothing wrong".to_owned() } else { counts.join(", ") };
        format!("{}{who}: {verdict}", self.file)
    }

    /// For programs: one object in one line. `quiet` leaves out all but warnings and errors.
    #[must_use]
    pub fn json(&self, quiet: bool) -> String {
        let findings: Vec<&Finding> =
            self.findings.iter().filter(|finding| !quiet || finding.level >= Level::Warning).collect();
        let object = serde_json::json!({
            "file": self.file,
            "user": self.user,
            "worst": self.worst(),
            "status": self.exit_status(),
            "errors": self.count(Level::Error),
            "warnings": self.count(Level::Warning),
            "findings": findings,
        });
        format!("{object}\n")
    }
}

/// Texts of servers and file names may hold anything; a terminal gets no control characters of theirs.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(levels: &[Level]) -> Report {
        let findings = levels.iter().map(|level| Finding::new(Subject::Files, *level, "x")).collect();
        Report { file: "f.ini".into(), user: Some("postgres".into()), findings }
    }

    #[test]
    fn the_status_is_the_worst_level_as_plugins_count() {
        for (levels, status) in [
            (&[][..], 0),
            (&[Level::Ok, Level::Note], 0),
            (&[Level::Warning, Level::Ok], 1),
            (&[Level::Error, Level::Warning], 2),
        ] {
            assert_eq!(report(levels).exit_status(), status, "{levels:?}");
        }
    }

    #[test]
    fn people_see_subjects_in_order_and_remedies_below() {
        let mut report = report(&[Level::Ok]);
        report.add([
            Finding::error(Subject::Ports, "port 1 is taken").remedy("kill 7\nrm -rf x"),
            Finding::warning(Subject::User, "odd \u{1b}[31m"),
        ]);
        let text = "user\n  warning  odd  [31m\nfiles\n  ok       x\nports\n  error    port 1 is taken\n           \
                    -> kill 7 rm -rf x\nf.ini for user postgres: 1 error, 1 warning\n";
        assert_eq!(report.text(false), text);
        report.add([Finding::error(Subject::Ports, "port 2 is taken").remedy("kill 7\nrm -rf x")]);
        assert!(report.text(false).contains("port 2 is taken\n           -> as above\n"));
        assert!(!report.text(true).contains("files"));
        assert!(Report::default().text(true).is_empty());
        assert!(Report::default().text(false).contains("nothing wrong"));
    }

    #[test]
    fn programs_get_one_object() {
        let mut report = report(&[Level::Ok]);
        report.add([Finding::error(Subject::Ports, "taken").remedy("kill 7")]);
        let value: serde_json::Value = serde_json::from_str(&report.json(false)).unwrap();
        assert_eq!(value["worst"], "error");
        assert_eq!((value["status"].as_u64(), value["errors"].as_u64()), (Some(2), Some(1)));
        assert_eq!(value["findings"][1]["subject"], "ports");
        assert_eq!(value["findings"][1]["remedy"], "kill 7");
        assert!(value["findings"][0].get("remedy").is_none());
        let quiet: serde_json::Value = serde_json::from_str(&report.json(true)).unwrap();
        assert_eq!(quiet["findings"].as_array().map(Vec::len), Some(1));
    }
}
