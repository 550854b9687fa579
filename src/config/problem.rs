//! What is wrong with a configuration, and where: every finding with file, line and what to do about it.

use std::fmt;
use std::sync::Arc;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; the file does what it says, or asks for something that pgtandem does not do yet.
    Notice,
    /// Accepted as PgBouncer accepts it, but probably not what was meant.
    Warning,
    /// The configuration is refused.
    Error,
}

impl Severity {
    /// The word in front of the finding.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// A line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file's name as it was given (bytes that are not UTF-8 replaced).
    pub file: Arc<str>,
    /// The line, counted from 1.
    pub line: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// One finding about a configuration.
///
/// Displayed it reads `text (file:line); hint`, which is how PgBouncer writes the findings that it has, so that tools which
/// match its log go on matching. The text never holds the value of a `[databases]` line, which may carry a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// Where it stands; `None` when it is about something that is missing.
    pub place: Option<Place>,
    /// What is wrong. Starts with PgBouncer's own text where PgBouncer has one.
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A finding that makes the configuration unusable.
    pub fn error(place: Option<&Place>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place: place.cloned(), text: text.into(), hint: None }
    }

    /// A finding that the operator should look at.
    pub fn warning(place: Option<&Place>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, text) }
    }

    /// A finding that is only worth knowing.
    pub fn notice(place: Option<&Place>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Notice, ..Self::error(place, text) }
    }

    /// The same finding with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same finding with advice, if there is any.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The file, if the finding is about one.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.place.as_ref().map(|place| &*place.file)
    }

    /// The line, if the finding is about one.
    #[must_use]
    pub fn line(&self) -> Option<u32> {
        self.place.as_ref().map(|place| place.line)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(place) = &self.place {
            write!(f, " ({place})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

/// Is there anything among the findings that refuses the configuration?
#[must_use]
pub fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}

/// Put findings in the order of the lines that they are about, file by file in the order in which the files first occur;
/// findings without a line come last.
pub(super) fn sort(problems: &mut [Problem]) {
    let mut files: Vec<Arc<str>> = Vec::new();
    for place in problems.iter().filter_map(|problem| problem.place.as_ref()) {
        if !files.contains(&place.file) {
            files.push(Arc::clone(&place.file));
        }
    }
    let rank = |place: &Place| files.iter().position(|file| *file == place.file).unwrap_or(files.len());
    problems.sort_by_key(|problem| match &problem.place {
        Some(place) => (rank(place), place.line),
        None => (usize::MAX, 0),
    });
}
