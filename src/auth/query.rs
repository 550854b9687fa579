//! What `auth_query` asks a server about a user, and what is made of the answer (PgBouncer setting `auth_query`; PostgreSQL
//! docs, "Extended Query").

use std::borrow::Cow;

use super::MAX_PASSWORD_BYTES;
use super::secrets::Secret;
use crate::wire::frame::{put, put_cstr};

/// The longest message of an answer that is read, in bytes: a name and the longest secret fit in, and any error text.
pub const ANSWER_LEN_MAX: usize = MAX_PASSWORD_BYTES + 4096;

/// Parse, Bind, Describe, Execute and Sync of `query` with `user` as its only parameter. The name is sent as a parameter, so
/// that nothing in it is ever read as SQL; unnamed, so that nothing stays behind on the server.
#[must_use]
pub fn question(query: &str, user: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(query.len() + user.len() + 64);
    put(&mut out, b'P', |out| {
        put_cstr(out, b"");
        put_cstr(out, query.as_bytes());
        // No parameter types: the server finds them out.
        out.extend_from_slice(&[0, 0]);
    });
    put(&mut out, b'B', |out| {
        put_cstr(out, b"");
        put_cstr(out, b"");
        // All parameters as text; one of them.
        out.extend_from_slice(&[0, 0, 0, 1]);
        // Names are bounded long before this.
        out.extend_from_slice(&u32::try_from(user.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(user.as_bytes());
        // All columns as text.
        out.extend_from_slice(&[0, 0]);
    });
    put(&mut out, b'D', |out| {
        out.push(b'P');
        put_cstr(out, b"");
    });
    put(&mut out, b'E', |out| {
        put_cstr(out, b"");
        // All rows.
        out.extend_from_slice(&[0; 4]);
    });
    put(&mut out, b'S', |_| {});
    out
}

/// What the server knows of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// This is on file; [`Secret::Empty`] if the user has no password, or none that still holds.
    User(Secret),
    /// There is no such user.
    Nobody,
    /// The answer is not about this user: the reason for the log. Nobody is let in by it.
    Doubtful(Cow<'static, str>),
    /// The server could not answer: the body of its ErrorResponse.
    Error(Vec<u8>),
}

/// Reads an answer, message by message.
#[derive(Debug)]
pub struct Answer {
    user: Vec<u8>,
    columns: Option<u16>,
    row: Option<Row>,
    error: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Row {
    Of(Secret),
    Bad(Cow<'static, str>),
}

impl Answer {
    /// The answer about `user`.
    #[must_use]
    pub fn new(user: &str) -> Self {
        Self { user: user.as_bytes().to_vec(), columns: None, row: None, error: None }
    }

    /// Takes a whole message; `Some` once the answer is complete.
    ///
    /// # Errors
    /// Why the server is of no further use: it says what does not belong here.
    pub fn on_message(&mut self, tag: u8, body: &[u8]) -> Result<Option<Found>, &'static str> {
        match tag {
            // ParseComplete, BindComplete, CommandComplete, EmptyQueryResponse, and what may come at any time.
            b'1' | b'2' | b'C' | b'I' | b'N' | b'S' | b'A' => {}
            b'n' => self.columns = Some(0),
            b'T' => {
                let count = body.first_chunk::<2>().ok_or("bad packet")?;
                self.columns = Some(u16::from_be_bytes(*count));
            }
            b'D' => self.on_row(body),
            b'E' if self.error.is_none() => self.error = Some(body.to_vec()),
            b'E' => {}
            b'Z' if body == b"I" => return Ok(Some(self.conclude())),
            b'Z' => return Err("auth_query left a transaction open"),
            _ => return Err("unexpected response from auth_query"),
        }
        Ok(None)
    }

    fn on_row(&mut self, body: &[u8]) {
        let row = read_row(&self.user, body);
        // Twice the same is no doubt; two secrets for one name are.
        let same = self.row.as_ref().is_none_or(|former| *former == row);
        let several = || Row::Bad("auth_query returned several rows that differ".into());
        self.row = Some(if same { row } else { several() });
    }

    fn conclude(&mut self) -> Found {
        match (self.error.take(), self.columns, self.row.take()) {
            (Some(error), ..) => Found::Error(error),
            (None, Some(columns), _) if columns != 2 => {
                Found::Doubtful(format!("expected 2 columns from auth_query, not {columns}").into())
            }
            (None, _, Some(Row::Of(secret))) => Found::User(secret),
            (None, _, Some(Row::Bad(reason))) => Found::Doubtful(reason),
            (None, _, None) => Found::Nobody,
        }
    }
}

fn read_row(user: &[u8], body: &[u8]) -> Row {
    let Some((name, secret)) = columns(body) else {
        return Row::Bad("the row that auth_query returned does not have 2 columns".into());
    };
    match (name, secret) {
        (None, _) => Row::Bad("auth_query response contained null user name".into()),
        // The secret of somebody else must let nobody in.
        (Some(name), _) if name != user => Row::Bad("auth_query returned another user than it was asked for".into()),
        (Some(_), None) => Row::Of(Secret::Empty),
        (Some(_), Some(secret)) if secret.len() > MAX_PASSWORD_BYTES => {
            Row::Bad("the secret that auth_query returned is longer than 65535 bytes".into())
        }
        (Some(_), Some(secret)) => Row::Of(Secret::parse(secret)),
    }
}

/// A value; `None` is NULL.
type Column<'a> = Option<&'a [u8]>;

/// Both columns of a DataRow.
fn columns(body: &[u8]) -> Option<(Column<'_>, Column<'_>)> {
    let (count, rest) = body.split_first_chunk::<2>()?;
    if u16::from_be_bytes(*count) != 2 {
        return None;
    }
    let (name, rest) = column(rest)?;
    let (secret, rest) = column(rest)?;
    rest.is_empty().then_some((name, secret))
}

fn column(body: &[u8]) -> Option<(Column<'_>, &[u8])> {
    let (len, rest) = body.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*len) {
        -1 => Some((None, rest)),
        len => {
            let (value, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            Some((Some(value), rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame::{HEAD_LEN, head};

    fn row(columns: &[Option<&str>]) -> Vec<u8> {
        let mut out = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for column in columns {
            match column {
                None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(text) => {
                    out.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
        out
    }

    fn answer(messages: &[(u8, Vec<u8>)]) -> Result<Option<Found>, &'static str> {
        let mut answer = Answer::new("joe");
        let mut last = Ok(None);
        for (tag, body) in messages {
            last = answer.on_message(*tag, body);
            if last.is_err() {
                break;
            }
        }
        last
    }

    fn rows(rows: &[Vec<u8>]) -> Found {
        let mut messages = vec![(b'1', vec![]), (b'2', vec![]), (b'T', vec![0, 2])];
        messages.extend(rows.iter().map(|row| (b'D', row.clone())));
        messages.extend([(b'C', b"SELECT\0".to_vec()), (b'Z', b"I".to_vec())]);
        answer(&messages).unwrap().unwrap()
    }

    #[test]
    fn a_question_is_five_messages_and_the_name_is_a_parameter() {
        let bytes = question("SELECT $1", "o'brien; --");
        let (mut rest, mut tags) = (bytes.as_slice(), Vec::new());
        while let Some(head) = head(rest).unwrap() {
            tags.push(head.tag);
            if head.tag == b'P' {
                assert_eq!(rest[HEAD_LEN..head.total], *b"\0SELECT $1\0\0\0");
            }
            if head.tag == b'B' {
                assert_eq!(rest[HEAD_LEN..head.total], *b"\0\0\0\0\0\x01\0\0\0\x0bo'brien; --\0\0");
            }
            rest = &rest[head.total..];
        }
        assert_eq!(tags, b"PBDES");
    }

    #[test]
    fn what_is_found() {
        let plain = Found::User(Secret::parse(b"secret"));
        assert_eq!(rows(&[row(&[Some("joe"), Some("secret")])]), plain);
        assert_eq!(rows(&[row(&[Some("joe"), Some("secret")]), row(&[Some("joe"), Some("secret")])]), plain);
        assert_eq!(rows(&[]), Found::Nobody);
        // No password, and one that has expired: the query says NULL.
        assert_eq!(rows(&[row(&[Some("joe"), None])]), Found::User(Secret::Empty));
        assert_eq!(rows(&[row(&[Some("joe"), Some("")])]), Found::User(Secret::Empty));
    }

    #[test]
    fn nobody_is_let_in_on_doubt() {
        let doubtful = |found| matches!(found, Found::Doubtful(_));
        assert!(doubtful(rows(&[row(&[Some("jim"), Some("secret")])])));
        assert!(doubtful(rows(&[row(&[None, Some("secret")])])));
        assert!(doubtful(rows(&[row(&[Some("joe")])])));
        assert!(doubtful(rows(&[row(&[Some("joe"), Some("a"), Some("b")])])));
        assert!(doubtful(rows(&[row(&[Some("joe"), Some("a")]), row(&[Some("joe"), Some("b")])])));
        let three = [(row(&[Some("joe"), Some("a")])), row(&[Some("joe"), Some("b")]), row(&[Some("joe"), Some("b")])];
        assert!(doubtful(rows(&three)), "a row that repeats does not make up for one that differs");
        assert!(doubtful(rows(&[row(&[Some("joe"), Some(&"x".repeat(MAX_PASSWORD_BYTES + 1))])])));
        let one = answer(&[(b'T', vec![0, 1]), (b'Z', b"I".to_vec())]);
        assert_eq!(one, Ok(Some(Found::Doubtful("expected 2 columns from auth_query, not 1".into()))));
        assert!(doubtful(answer(&[(b'n', vec![]), (b'Z', b"I".to_vec())]).unwrap().unwrap()));
    }

    #[test]
    fn an_error_counts_whatever_came_before() {
        let found = answer(&[
            (b'T', vec![0, 2]),
            (b'D', row(&[Some("joe"), Some("secret")])),
            (b'E', b"MFirst\0\0".to_vec()),
            (b'E', b"MSecond\0\0".to_vec()),
            (b'Z', b"I".to_vec()),
        ]);
        assert_eq!(found, Ok(Some(Found::Error(b"MFirst\0\0".to_vec()))));
    }

    #[test]
    fn a_server_that_says_something_else_is_of_no_use() {
        assert!(answer(&[(b'G', vec![])]).is_err());
        assert!(answer(&[(b'T', vec![0])]).is_err());
        assert!(answer(&[(b'Z', b"T".to_vec())]).is_err());
        assert!(answer(&[(b'Z', vec![])]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic_and_never_find_anybody(
            messages in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..12)
        ) {
            let found = answer(&messages);
            prop_assert!(!matches!(found, Ok(Some(Found::User(_)))), "{:?}", found);
        }
    }
}
