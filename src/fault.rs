//! What went wrong, for whom to see: who is to blame, the SQLSTATE, and the text that a client may be shown.

use std::borrow::Cow;
use std::fmt;

/// Who has to act for the fault to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// The client broke the protocol, or is not let in.
    Client,
    /// The PostgreSQL server, or the way to it.
    Server,
    /// The configuration.
    Config,
    /// pgtandem itself: a limit of ours, a shutdown, a bug.
    Us,
}

/// The severity field of an ErrorResponse (PostgreSQL docs, "Error and Notice Message Fields").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
}

impl Severity {
    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// One failure: data for the log and the text for the client, never more than the client may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who has to act.
    pub culprit: Culprit,
    /// Whether the session survives.
    pub severity: Severity,
    /// Five characters (PostgreSQL docs, appendix A).
    pub sqlstate: Cow<'static, str>,
    /// The text that the client is shown and that stands behind `closing because:` in the log.
    pub text: Cow<'static, str>,
    /// The field "detail" of the ErrorResponse, not for the log; empty: none.
    pub detail: Cow<'static, str>,
    /// May the same request succeed if it is simply sent again?
    pub retryable: bool,
}

/// PgBouncer answers nearly everything with this SQLSTATE (protocol_violation); tools match it.
pub const PROTOCOL_VIOLATION: &str = "08P01";

impl Fault {
    /// A session-ending fault with PgBouncer's general SQLSTATE.
    pub fn fatal(culprit: Culprit, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            culprit,
            severity: Severity::Fatal,
            sqlstate: Cow::Borrowed(PROTOCOL_VIOLATION),
            text: text.into(),
            detail: Cow::Borrowed(""),
            retryable: false,
        }
    }

    /// A fault that leaves the session usable (the admin console's errors).
    pub fn error(culprit: Culprit, text: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Error, ..Self::fatal(culprit, text) }
    }

    /// The same fault under another SQLSTATE.
    #[must_use]
    pub fn with_sqlstate(mut self, sqlstate: impl Into<Cow<'static, str>>) -> Self {
        self.sqlstate = sqlstate.into();
        self
    }

    /// The same fault with more for the client to read.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The same fault, marked as worth a retry.
    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Fault {}
