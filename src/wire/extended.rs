//! The names in the extended protocol's messages (PostgreSQL docs, "Message Formats": Parse, Bind, Describe, Close). Each
//! function looks at as little of the body as the name needs, so that parameters of any size can stream past it.

use super::frame::{cstr, put_cstr};

/// A Parse message: the statement's name, and everything behind it (query text and parameter types), which identifies the
/// statement for sharing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// Empty for the unnamed statement.
    pub name: &'a [u8],
    /// Query text, NUL, count of parameter types, the types.
    pub definition: &'a [u8],
}

/// Reads a whole Parse body; `None` if it is malformed.
#[must_use]
pub fn parse(body: &[u8]) -> Option<Parse<'_>> {
    let (name, definition) = cstr(body)?;
    let (_query, types) = cstr(definition)?;
    let [hi, lo, oids @ ..] = types else { return None };
    let count = usize::from(u16::from_be_bytes([*hi, *lo]));
    (oids.len() == count * 4).then_some(Parse { name, definition })
}

/// The names at the front of a Bind body and how many bytes they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindNames<'a> {
    /// Empty for the unnamed portal.
    pub portal: &'a [u8],
    /// Empty for the unnamed statement.
    pub statement: &'a [u8],
    /// Bytes of the body up to and including the second NUL.
    pub len: usize,
}

/// Reads the names of a Bind whose body may be incomplete; `None` while both names are not there.
#[must_use]
pub fn bind_names(body: &[u8]) -> Option<BindNames<'_>> {
    let (portal, rest) = cstr(body)?;
    let (statement, _) = cstr(rest)?;
    Some(BindNames { portal, statement, len: portal.len() + statement.len() + 2 })
}

/// What a Describe or Close is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement, empty for the unnamed one.
    Statement(&'a [u8]),
    /// A portal, empty for the unnamed one.
    Portal(&'a [u8]),
}

/// Reads a whole Describe or Close body; `None` if it is malformed.
#[must_use]
pub fn target(body: &[u8]) -> Option<Target<'_>> {
    let (kind, rest) = body.split_first()?;
    let (name, tail) = cstr(rest)?;
    if !tail.is_empty() {
        return None;
    }
    match kind {
        b'S' => Some(Target::Statement(name)),
        b'P' => Some(Target::Portal(name)),
        _ => None,
    }
}

/// Appends a Parse message.
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], definition: &[u8]) {
    super::frame::put(out, b'P', |out| {
        put_cstr(out, name);
        out.extend_from_slice(definition);
    });
}

/// Appends a Describe (`b'D'`) or Close (`b'C'`) of a statement.
pub fn put_statement_target(out: &mut Vec<u8>, tag: u8, name: &[u8]) {
    super::frame::put(out, tag, |out| {
        out.push(b'S');
        put_cstr(out, name);
    });
}

/// Appends the head and names of a Bind whose remaining `rest_len` body bytes will follow unchanged.
pub fn put_bind_front(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest_len: usize) {
    out.push(b'B');
    let length = 4 + portal.len() + 1 + statement.len() + 1 + rest_len;
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    put_cstr(out, portal);
    put_cstr(out, statement);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parse_wants_its_types_complete() {
        assert_eq!(parse(b"s\0SELECT 1\0\0\0").map(|p| p.name), Some(&b"s"[..]));
        assert_eq!(parse(b"s\0SELECT $1\0\0\x01\0\0\0\x17").map(|p| p.definition.len()), Some(16));
        assert_eq!(parse(b"s\0SELECT $1\0\0\x01\0\0\0"), None);
        assert_eq!(parse(b"s\0SELECT 1\0\0"), None);
        assert_eq!(parse(b"s\0SELECT 1"), None);
    }

    #[test]
    fn target_refuses_unknown_kinds_and_tails() {
        assert_eq!(target(b"Sx\0"), Some(Target::Statement(b"x")));
        assert_eq!(target(b"P\0"), Some(Target::Portal(b"")));
        assert_eq!(target(b"Q\0"), None);
        assert_eq!(target(b"Sx\0y"), None);
    }

    proptest! {
        #[test]
        fn bytes_from_outside_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
            let _ = target(&body);
            if let Some(names) = bind_names(&body) {
                prop_assert!(names.len <= body.len());
            }
        }

        #[test]
        fn a_rewritten_bind_keeps_its_length_honest(portal in "[a-z]{0,10}", old in "[a-z]{0,10}", new in "[A-Z_0-9]{1,20}", rest in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut out = Vec::new();
            put_bind_front(&mut out, portal.as_bytes(), new.as_bytes(), rest.len());
            out.extend_from_slice(&rest);
            let head = crate::wire::frame::head(&out).unwrap().unwrap();
            prop_assert_eq!(head.total, out.len());
            let names = bind_names(&out[5..]).unwrap();
            prop_assert_eq!(names.statement, new.as_bytes());
            prop_assert_eq!(names.portal, portal.as_bytes());
            let _ = old;
        }
    }
}
