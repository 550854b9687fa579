//! The little language on the right side of `[databases]`, `[users]`, `[peers]` and `[virtual_routers]` lines: `key=value key='va''lue' …`.
//!
//! Read as PgBouncer reads it: only the blank separates, a value in single quotes doubles its quotes, an empty value is an
//! error, blanks round the `=` are skipped (so `password= user=x` gives the password `user=x`).

/// One parameter and a caution about how it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) caution: Option<String>,
}

/// What is wrong, without any value (it may be a password).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConnstrError(pub(super) String);

/// Take the text apart.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, ConnstrError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches(' ');
    while !rest.is_empty() {
        let (key, after_key) = key(rest)?;
        let (value, after_value, caution) = value(key, after_key)?;
        pairs.push(Pair { key: key.to_owned(), value, caution });
        rest = after_value.trim_start_matches(' ');
    }
    Ok(pairs)
}

/// Read `key =`; returns what follows the `=`.
fn key(text: &str) -> Result<(&str, &str), ConnstrError> {
    let end = text.find(['=', ' ']).unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    match rest.trim_start_matches(' ').strip_prefix('=') {
        Some(_) if key.is_empty() => Err(ConnstrError("there is a `=` without a name before it".to_owned())),
        Some(rest) => Ok((key, rest)),
        None => Err(ConnstrError("a `=` is missing; values with blanks must stand in single quotes".to_owned())),
    }
}

/// Read the value for `key`; returns it, what follows it, and a caution.
fn value<'a>(key: &str, text: &'a str) -> Result<(String, &'a str, Option<String>), ConnstrError> {
    let skipped = text.trim_start_matches(' ');
    let empty = || ConnstrError(format!("`{key}` has an empty value; leave it out instead"));
    if let Some(quoted) = skipped.strip_prefix('\'') {
        let (value, rest) = unquote(quoted).ok_or_else(|| ConnstrError(format!("`{key}` lacks its closing quote")))?;
        // PgBouncer drops the one character behind the closing quote, whatever it is.
        let mut after = rest.chars();
        let caution = match after.next() {
            None | Some(' ') => None,
            Some(_) => Some(format!("the character right behind the closing quote of `{key}` is ignored")),
        };
        return if value.is_empty() { Err(empty()) } else { Ok((value, after.as_str(), caution)) };
    }
    let (value, rest) = skipped.split_at(skipped.find(' ').unwrap_or(skipped.len()));
    if value.is_empty() {
        return Err(empty());
    }
    let caution = if value.contains('\t') {
        Some(format!("the value of `{key}` contains a tab: only blanks separate parameters"))
    } else if skipped.len() != text.len() && value.contains('=') {
        Some(format!("`{key}=` is followed by a blank, so the next word is its value"))
    } else {
        None
    };
    Ok((value.to_owned(), rest, caution))
}

/// Read up to the closing quote; `None` if there is none. Returns what follows the quote.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once('\'')?;
        value.push_str(before);
        match after.strip_prefix('\'') {
            Some(more) => {
                value.push('\'');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|pair| (pair.key, pair.value)).collect()
    }

    #[test]
    fn reads_what_pgbouncer_reads() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("   ", &[]),
            ("host=a", &[("host", "a")]),
            ("  host=a   port=1  ", &[("host", "a"), ("port", "1")]),
            ("host = a port =1", &[("host", "a"), ("port", "1")]),
            ("q='set a=1; set b=2'", &[("q", "set a=1; set b=2")]),
            ("q='it''s' x=y", &[("q", "it's"), ("x", "y")]),
            ("q=''''", &[("q", "'")]),
            ("q='a'b c=d", &[("q", "a"), ("c", "d")]),
            ("password= user=x", &[("password", "user=x")]),
            ("q=a'b", &[("q", "a'b")]),
            ("h=a\tb=c", &[("h", "a\tb=c")]),
            ("a=b=c", &[("a", "b=c")]),
            ("é=ü", &[("é", "ü")]),
        ];
        for (text, expected) in table {
            let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(pairs(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_pgbouncer_refuses() {
        for text in ["50", "host", "host=", "host= ", "=a", "a=''", "a='b", "a='b''", "host=a 5432", "a=b, c"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cautions_about_traps() {
        for text in ["q='a'b", "password= user=x", "h=a\tb=c"] {
            assert!(parse(text).unwrap().iter().any(|pair| pair.caution.is_some()), "{text}");
        }
        assert!(parse("host = a q='b' c=d").unwrap().iter().all(|pair| pair.caution.is_none()));
    }

    #[test]
    fn errors_never_hold_a_value() {
        let error = parse("password='hunter2 user=x").unwrap_err();
        assert!(!error.0.contains("hunter2"));
        let error = parse("password=a hunter2").unwrap_err();
        assert!(!error.0.contains("hunter2"));
    }
}
