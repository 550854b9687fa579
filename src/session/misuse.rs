//! A client's mistakes with names of prepared statements, in words: the server refuses them, but under the name that it knows
//! the statement by. PgBouncer has its own texts for them, which tools look for; they stand in the log.

use std::borrow::Cow;

use crate::fault::{Culprit, Fault};

/// What is wrong with the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MisuseKind {
    /// A Parse under a name that the client has in use.
    NameInUse,
    /// A Bind or Describe of a statement that the client does not have.
    Unknown,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misuse {
    kind: MisuseKind,
    name: String,
}

/// Bytes of a name that are shown.
const NAME_SHOWN_MAX: usize = 256;

impl Misuse {
    pub(super) fn new(kind: MisuseKind, name: &[u8]) -> Self {
        let shown = name.get(..NAME_SHOWN_MAX).unwrap_or(name);
        Self { kind, name: String::from_utf8_lossy(shown).into_owned() }
    }

    /// The SQLSTATE of PostgreSQL's error about it; an error with another one is about something else.
    #[must_use]
    pub fn sqlstate(&self) -> &'static str {
        match self.kind {
            MisuseKind::NameInUse => "42P05",
            MisuseKind::Unknown => "26000",
        }
    }

    /// PostgreSQL's error, with the name that the client gave.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let name = &self.name;
        let text = match self.kind {
            MisuseKind::NameInUse => format!("prepared statement \"{name}\" already exists"),
            // PostgreSQL's words and PgBouncer's: applications look for either.
            MisuseKind::Unknown => format!("prepared statement \"{name}\" does not exist ({UNKNOWN})"),
        };
        Fault::error(Culprit::Client, text).with_sqlstate(self.sqlstate())
    }

    /// PgBouncer's text for the log.
    #[must_use]
    pub fn log_text(&self) -> Cow<'static, str> {
        match self.kind {
            MisuseKind::NameInUse => format!("prepared statement '{}' was already prepared", self.name).into(),
            MisuseKind::Unknown => UNKNOWN.into(),
        }
    }
}

/// What a session ends with that uses a statement that it does not have (setting
/// `unknown_prepared_statement`).
pub const UNKNOWN: &str = "prepared statement did not exist";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_words_are_there_and_long_names_are_cut() {
        let misuse = Misuse::new(MisuseKind::Unknown, b"s1");
        let fault = misuse.fault();
        assert_eq!(fault.sqlstate, "26000");
        assert_eq!(fault.text, "prepared statement \"s1\" does not exist (prepared statement did not exist)");
        assert_eq!(misuse.log_text(), "prepared statement did not exist");
        let long = Misuse::new(MisuseKind::NameInUse, &[b'n'; 100_000]);
        assert_eq!(long.fault().sqlstate, "42P05");
        assert!(long.fault().text.len() < 300 && long.log_text().len() < 300);
        assert!(Misuse::new(MisuseKind::NameInUse, b"\xff").log_text().contains(char::REPLACEMENT_CHARACTER));
    }
}
