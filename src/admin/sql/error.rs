//! SQLite's errors in PostgreSQL's words, with its SQLSTATE (PostgreSQL docs, appendix A).

use rusqlite::{Error, ErrorCode};

use super::tables::{VIEW_PREFIX, tables};
use crate::fault::{Culprit, Fault};

pub(in crate::admin) fn error(sqlstate: &'static str, text: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::error(Culprit::Client, text).with_sqlstate(sqlstate)
}

/// SQLSTATE `undefined_function`.
pub(super) const NO_FUNCTION: &str = "42883";

pub(super) fn read_only() -> Fault {
    error("25006", "the tables of the admin console can only be read: SELECT, WITH or VALUES")
}

pub(super) fn too_much(text: String) -> Fault {
    error("54000", format!("{text}: ask for less, with WHERE or LIMIT"))
}

/// As much of a message as PgBouncer's have at most: what is quoted may be long.
const MAX_TEXT_BYTES: usize = 1023;

/// What the client is told. `refused` is what the authorizer has said no to, empty for "a write".
pub(super) fn of_sqlite(trouble: &Error, refused: Option<&str>) -> Fault {
    let (code, message) = match trouble {
        Error::SqliteFailure(cause, message) => (Some(cause.code), message.clone().unwrap_or_default()),
        Error::SqlInputError { error, msg, .. } => (Some(error.code), msg.clone()),
        Error::MultipleStatement => {
            return error("42601", "the admin console takes one SQL statement at a time");
        }
        Error::NulError(_) | Error::Utf8Error(..) => return error("22021", "the query is no UTF-8 text"),
        Error::Empty => return error("42601", "syntax error at end of input"),
        other => (None, other.to_string()),
    };
    match code {
        Some(ErrorCode::OperationInterrupted) => {
            error("57014", "canceling statement due to the time limit of SQL on the admin console")
        }
        Some(ErrorCode::OutOfMemory) => {
            error("53200", "the query needs more memory than SQL on the admin console may have")
        }
        Some(ErrorCode::TooBig) => error("54000", "a value is longer than SQL on the admin console may make"),
        Some(ErrorCode::AuthorizationForStatementDenied) => match refused {
            Some(what) if !what.is_empty() => error("42501", format!("permission denied for {what}")),
            _ => read_only(),
        },
        Some(ErrorCode::TypeMismatch) => error("42804", message),
        Some(_) | None => of_text(short(&message)),
    }
}

fn short(text: &str) -> &str {
    let end = (0..=MAX_TEXT_BYTES.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

/// Time or memory is used up.
pub(super) fn is_about_cost(trouble: &Error) -> bool {
    let costs = [ErrorCode::OperationInterrupted, ErrorCode::OutOfMemory];
    trouble.sqlite_error_code().is_some_and(|code| costs.contains(&code))
}

fn of_text(message: &str) -> Fault {
    let after = |start: &str| {
        message.strip_prefix(start).map(|rest| rest.split(" - ").next().unwrap_or(rest).trim_matches(['"', ' ']))
    };
    if let Some(name) = after("no such table: ") {
        let known: Vec<String> = tables().map(super::SqlTable::name).collect();
        let known = known.join(", ");
        return error(
            "42P01",
            format!("relation \"{name}\" does not exist; the tables are {known} (or {VIEW_PREFIX}pools and so on)"),
        );
    }
    if let Some(name) = after("no such column: ") {
        return error("42703", format!("column \"{name}\" does not exist"));
    }
    if let Some(name) = after("ambiguous column name: ") {
        return error("42702", format!("column reference \"{name}\" is ambiguous"));
    }
    if let Some(name) = after("no such function: ") {
        return error(NO_FUNCTION, format!("function {name} does not exist"));
    }
    if let Some(name) = after("not authorized to use function: ") {
        return error("42501", format!("permission denied for function {name}"));
    }
    if message == "incomplete input" {
        return error("42601", "syntax error at end of input");
    }
    if let Some(near) = message.strip_prefix("near ").and_then(|rest| rest.strip_suffix(": syntax error")) {
        return error("42601", format!("syntax error at or near {near}{}", hint(near)));
    }
    if let Some(token) = after("unrecognized token: ") {
        return error("42601", format!("syntax error at or near \"{token}\"{}", hint(token)));
    }
    const STATES: [(&str, &str); 15] = [
        ("Recursion limit", "54001"),
        ("wrong number of arguments", NO_FUNCTION),
        ("misuse of aggregate", "42803"),
        ("misuse of window", "42P20"),
        ("integer overflow", "22003"),
        ("malformed JSON", "22032"),
        ("datatype mismatch", "42804"),
        ("too many", "54000"),
        ("Expression tree is too large", "54001"),
        ("parser stack overflow", "54001"),
        ("at most", "54000"),
        ("LIKE or GLOB pattern too complex", "54000"),
        ("string or blob too big", "54000"),
        ("SELECTs to the left and right", "42601"),
        ("out of memory", "53200"),
    ];
    let state = STATES.iter().find(|(start, _)| message.starts_with(start)).map_or("42000", |(_, state)| state);
    error(state, message.to_owned())
}

/// What to write instead of what PostgreSQL has and SQLite has not.
fn hint(token: &str) -> &'static str {
    let token = token.trim_matches('"');
    if token.starts_with(':') {
        "; write CAST(x AS INTEGER) instead of x::int"
    } else if token.eq_ignore_ascii_case("ilike") {
        "; write LIKE, which ignores the case of ASCII letters here"
    } else {
        ""
    }
}
