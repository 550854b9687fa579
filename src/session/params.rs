//! Session parameters that follow a client from server to server (PgBouncer settings track_extra_parameters and the five that
//! are always tracked): what the client has, what the server has, and the SET that makes them equal.

use std::sync::Arc;

/// Tracked whatever is configured, in PgBouncer's order but for `standard_conforming_strings`, which must be set first since
/// the quoting of the others depends on it.
pub const ALWAYS_TRACKED: [&str; 5] =
    ["standard_conforming_strings", "client_encoding", "DateStyle", "TimeZone", "application_name"];

/// Sent by drivers at login (pgjdbc, npgsql) although the server never reports it. PgBouncer refuses the login unless
/// ignore_startup_parameters names it; here it follows the client.
pub const SENT_BY_DRIVERS: &str = "extra_float_digits";

/// Reported by servers of some versions (14, 16, 18), and then tracked whatever is configured: a client's value would else
/// stay behind on the server for the next one. Where the server does not report it, a client's change could not be seen, and
/// a startup message that asks for it is refused as it always was.
pub const TRACKED_IF_REPORTED: [&str; 3] = ["default_transaction_read_only", "scram_iterations", "search_path"];

/// The names that are tracked, fixed at start.
#[derive(Debug, PartialEq, Eq)]
pub struct Tracked {
    names: Vec<Box<str>>,
    /// Those from this place on count only where the server reports them.
    asked_for: usize,
}

impl Tracked {
    /// The five and `extra`; names that could not stand in a SET unquoted are left out.
    #[must_use]
    pub fn new<'a>(extra: impl IntoIterator<Item = &'a str>) -> Self {
        let always = ALWAYS_TRACKED.iter().chain([&SENT_BY_DRIVERS]);
        let mut names: Vec<Box<str>> = always.map(|&n| n.into()).collect();
        for name in extra {
            let name = name.trim();
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
            if plain && !names.iter().any(|n| n.eq_ignore_ascii_case(name)) {
                names.push(name.into());
            }
        }
        let asked_for = names.len();
        let more = TRACKED_IF_REPORTED.iter().filter(|more| !names.iter().any(|n| n.eq_ignore_ascii_case(more)));
        let more: Vec<Box<str>> = more.map(|&n| n.into()).collect();
        names.extend(more);
        Self { names, asked_for }
    }

    /// The place of a name, case ignored.
    #[must_use]
    pub fn index(&self, name: &[u8]) -> Option<usize> {
        self.names.iter().position(|n| n.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The place of a name; none for a parameter that nobody asked to be tracked, if the configuration has it `ignored`.
    #[must_use]
    pub fn index_unless(&self, name: &[u8], ignored: bool) -> Option<usize> {
        let unasked = |index: &usize| *index >= self.asked_for || SENT_BY_DRIVERS.as_bytes().eq_ignore_ascii_case(name);
        self.index(name).filter(|index| !(ignored && unasked(index)))
    }

    /// The first parameter that a client wants and that cannot be tracked, as the server does not report it.
    #[must_use]
    pub fn untracked<'a>(&'a self, wanted: &Values, reported: &Values) -> Option<&'a str> {
        let unreported = |index: &usize| wanted.get(*index).is_some() && reported.get(*index).is_none();
        (self.asked_for..self.names.len()).find(unreported).and_then(|index| self.names.get(index)).map(|name| &**name)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|n| &**n)
    }
}

/// One session's values of the tracked parameters; cheap to clone and to find equal.
#[derive(Clone, Debug, Default)]
pub struct Values(Arc<[Option<Arc<[u8]>>]>);

impl Values {
    /// Nothing known of any of them.
    #[must_use]
    pub fn unset(tracked: &Tracked) -> Self {
        Self(vec![None; tracked.names.len()].into())
    }

    /// The value at a place of [`Tracked`].
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.0.get(index)?.as_deref()
    }

    /// How many places there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Is there no place at all?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes a value.
    pub fn set(&mut self, index: usize, value: &[u8]) {
        if self.get(index) == Some(value) {
            return;
        }
        let mut values: Vec<_> = self.0.to_vec();
        if let Some(slot) = values.get_mut(index) {
            *slot = Some(value.into());
            self.0 = values.into();
        }
    }

    /// Takes one value, or its absence, from `other`.
    pub fn copy_one(&mut self, index: usize, other: &Self) {
        if self.get(index) != other.get(index) {
            let mut values: Vec<_> = self.0.to_vec();
            if let Some(slot) = values.get_mut(index) {
                *slot = other.0.get(index).cloned().flatten();
                self.0 = values.into();
            }
        }
    }

    /// Takes the values that are unset here from `defaults`.
    pub fn fill_unset(&mut self, defaults: &Self) {
        let values: Vec<_> = self
            .0
            .iter()
            .zip(defaults.0.iter())
            .map(|(own, default)| own.clone().or_else(|| default.clone()))
            .collect();
        self.0 = values.into();
    }

    /// Are they the very same values? Two pointers where a session went back to the server that it had.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The SQL that gives a server with the values `server` those of `self`; `None` if nothing differs. Case is ignored, as
    /// the server prints values in its own spelling.
    #[must_use]
    pub fn sql_to_change(&self, server: &Self, tracked: &Tracked) -> Option<Vec<u8>> {
        if self.same(server) {
            return None;
        }
        let mut sql = Vec::new();
        for (index, name) in tracked.names.iter().enumerate() {
            let Some(want) = self.get(index) else {
                if server.get(index).is_some() {
                    // Another client's value of a parameter that the server never reported by itself.
                    sql.extend_from_slice(b"RESET ");
                    sql.extend_from_slice(name.as_bytes());
                    sql.push(b';');
                }
                continue;
            };
            if server.get(index).is_some_and(|have| have.eq_ignore_ascii_case(want)) {
                continue;
            }
            sql.extend_from_slice(b"SET ");
            sql.extend_from_slice(name.as_bytes());
            sql.push(b'=');
            put_literal(&mut sql, want);
            sql.push(b';');
        }
        (!sql.is_empty()).then_some(sql)
    }
}

/// Appends a string literal that means the same whatever standard_conforming_strings is: with a backslash inside it takes the
/// E form (PostgreSQL docs, "String Constants with C-Style Escapes").
fn put_literal(sql: &mut Vec<u8>, value: &[u8]) {
    if value.contains(&b'\\') {
        sql.push(b'E');
    }
    sql.push(b'\'');
    for &byte in value {
        if matches!(byte, b'\'' | b'\\') {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'\'');
}

/// The words of the startup parameter `options`: parted by blanks, a backslash takes the next character as it is
/// (PostgreSQL docs, "libpq: options").
#[must_use]
pub fn option_words(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = options.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => word.get_or_insert_default().extend(bytes.next()),
            _ if byte.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tracked: &Tracked, pairs: &[(&str, &str)]) -> Values {
        let mut values = Values::unset(tracked);
        for (name, value) in pairs {
            values.set(tracked.index(name.as_bytes()).unwrap(), value.as_bytes());
        }
        values
    }

    #[test]
    fn only_what_differs_is_set_and_quotes_cannot_break_out() {
        let tracked = Tracked::new(["IntervalStyle", "search_path; DROP", ""]);
        assert_eq!(tracked.names().count(), 10);
        let client = values(&tracked, &[("timezone", "Mars/O'Neil\\"), ("client_encoding", "utf8")]);
        let server =
            values(&tracked, &[("TimeZone", "UTC"), ("client_encoding", "UTF8"), ("IntervalStyle", "iso_8601")]);
        let sql = client.sql_to_change(&server, &tracked).unwrap();
        assert_eq!(String::from_utf8(sql).unwrap(), "SET TimeZone=E'Mars/O''Neil\\\\';RESET IntervalStyle;");
        assert_eq!(server.sql_to_change(&server.clone(), &tracked), None);
    }

    #[test]
    fn what_only_some_servers_report_is_tracked_there_only() {
        let tracked = Tracked::new(["search_path"]);
        assert_eq!(tracked.names().count(), 9);
        let wanted = values(&tracked, &[("search_path", "a"), ("scram_iterations", "5000")]);
        let silent = Values::unset(&tracked);
        assert_eq!(tracked.untracked(&wanted, &silent), Some("scram_iterations"), "search_path was asked for");
        let reported = values(&tracked, &[("scram_iterations", "4096")]);
        assert_eq!(tracked.untracked(&wanted, &reported), None);
        assert_eq!(tracked.index_unless(b"Scram_Iterations", true), None);
        assert_eq!(tracked.index_unless(b"search_path", true), tracked.index(b"search_path"));
        assert_eq!(tracked.index_unless(b"extra_float_digits", true), None);
        assert!(tracked.index_unless(b"extra_float_digits", false).is_some());
    }

    #[test]
    fn options_are_split_at_unescaped_blanks() {
        let words = option_words(b"  -c a=b\\ c\\\\  --x=y ");
        assert_eq!(words, [b"-c".to_vec(), b"a=b c\\".to_vec(), b"--x=y".to_vec()]);
        assert!(option_words(b" ").is_empty());
    }

    #[test]
    fn unset_values_come_from_the_server_defaults() {
        let tracked = Tracked::new([]);
        let mut client = values(&tracked, &[("application_name", "psql")]);
        client.fill_unset(&values(&tracked, &[("application_name", ""), ("TimeZone", "UTC")]));
        assert_eq!(client.get(tracked.index(b"application_name").unwrap()), Some(&b"psql"[..]));
        assert_eq!(client.get(tracked.index(b"timezone").unwrap()), Some(&b"UTC"[..]));
    }
}
