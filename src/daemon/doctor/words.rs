//! Texts that several subjects need: names as a shell takes them, dates, durations. Pure.

use std::io;
use std::path::Path;

use crate::config::Place;

/// A word as a shell takes it.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A path as a shell takes it.
pub(super) fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// An identifier as PostgreSQL takes it.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// "No such file or directory (os error 2)" without the number, which is for programmers; of a look-up only the reason.
pub(super) fn system_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("failed to lookup address information: ").unwrap_or(&text);
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Where something stands: only the line if it is in the file that all is about, which is named at the end of the report.
pub(super) fn place(place: &Place, main: &Path) -> String {
    if Path::new(&*place.file) == main { format!("line {}", place.line) } else { place.to_string() }
}

/// `3 days`, `1 day`.
pub(super) fn counted(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// The day of a time in seconds since 1970.
pub(super) fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(
        |_| "a far day".to_owned(),
        |time| time.to_string().split('T').next().unwrap_or_default().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_what_is_printed() {
        assert_eq!(quoted("/etc/pg.ini"), "/etc/pg.ini");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("$(x)'"), r"'$(x)'\'''");
        assert_eq!(quoted(""), "''");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn days_and_counts() {
        assert_eq!((day(0), day(i64::MAX)), ("1970-01-01".to_owned(), "a far day".to_owned()));
        assert_eq!((counted(1, "day"), counted(2, "day")), ("1 day".to_owned(), "2 days".to_owned()));
    }
}
