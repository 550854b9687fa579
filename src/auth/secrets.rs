//! What is on file about a user: kinds of secrets, and `auth_file` (`userlist.txt`).

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::password::{Md5Secret, equal_passwords};
use super::scram::{SECRET_PREFIX, ScramSecret};
use super::{MAX_PASSWORD_BYTES, MAX_USER_BYTES};

/// After so many complaints about one file only their number is told.
const MAX_WARNINGS: usize = 50;

/// What we hold of a user's password.
#[derive(Clone)]
pub enum Secret {
    /// The password itself.
    Plain(Zeroizing<Vec<u8>>),
    /// PostgreSQL's MD5 form.
    Md5(Md5Secret),
    /// PostgreSQL's SCRAM form.
    Scram(ScramSecret),
    /// The user is known but has no password: no login by password can succeed.
    Empty,
}

/// The kinds of [`Secret`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// [`Secret::Plain`]
    Plain,
    /// [`Secret::Md5`]
    Md5,
    /// [`Secret::Scram`]
    Scram,
    /// [`Secret::Empty`]
    Empty,
}

impl Secret {
    /// Tells the kind by the look, as PostgreSQL and PgBouncer do: whatever is no exact MD5 or SCRAM form is a password.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        if text.is_empty() {
            Self::Empty
        } else if let Some(secret) = Md5Secret::parse(text) {
            Self::Md5(secret)
        } else if let Some(secret) = ScramSecret::parse(text) {
            Self::Scram(secret)
        } else {
            Self::Plain(Zeroizing::new(text.to_vec()))
        }
    }

    /// What [`Self::parse`] reads, of a secret that serves for logging in to a server; no other is of use to anybody else.
    #[must_use]
    pub fn to_text(&self) -> Option<Zeroizing<Vec<u8>>> {
        match self {
            Self::Plain(password) => Some(password.clone()),
            Self::Md5(secret) => Some(secret.to_text()),
            Self::Scram(_) | Self::Empty => None,
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> SecretKind {
        match self {
            Self::Plain(_) => SecretKind::Plain,
            Self::Md5(_) => SecretKind::Md5,
            Self::Scram(_) => SecretKind::Scram,
            Self::Empty => SecretKind::Empty,
        }
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(a), Self::Plain(b)) => equal_passwords(a, b),
            (Self::Md5(a), Self::Md5(b)) => a == b,
            (Self::Scram(a), Self::Scram(b)) => a == b,
            (Self::Empty, Self::Empty) => true,
            _ => false,
        }
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(..)",
            Self::Md5(_) => "Md5(..)",
            Self::Scram(_) => "Scram(..)",
            Self::Empty => "Empty",
        })
    }
}

/// A line of `auth_file` that cannot be used, or not as it was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what to do; never a secret.
    pub text: String,
}

/// The users of `auth_file`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserList {
    users: BTreeMap<Vec<u8>, Secret>,
}

impl UserList {
    /// Reads the whole file: one `"user" "secret"` per line, a quotation mark inside doubled, lines that begin with `;` or
    /// `#` are comments, and whatever follows the secret is ignored. A line that cannot be read is skipped with a
    /// warning. Of two lines for one user the last one counts.
    #[must_use]
    pub fn parse(file: &[u8]) -> (Self, Vec<Warning>) {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let mut list = Self::default();
        let mut warnings = Vec::new();
        let mut unsaid = 0_usize;
        for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
            if let Some(text) = list.add_line(line) {
                if warnings.len() < MAX_WARNINGS {
                    warnings.push(Warning { line: index + 1, text });
                } else {
                    unsaid += 1;
                    if let Some(last) = warnings.last_mut().filter(|_| unsaid > 1) {
                        last.text = format!("and {unsaid} more lines like these from here on");
                    } else {
                        warnings.push(Warning { line: index + 1, text: "and 1 more line like these".to_owned() });
                    }
                }
            }
        }
        (list, warnings)
    }

    /// Takes one line and says what is wrong with it.
    fn add_line(&mut self, line: &[u8]) -> Option<String> {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b";") || line.starts_with(b"#") {
            return None;
        }
        let (user, secret) = match read_line(line) {
            Ok(fields) => fields,
            Err(text) => return Some(format!("{text}; the line is skipped")),
        };
        let parsed = Secret::parse(&secret);
        let name = String::from_utf8_lossy(&user).into_owned();
        let mut warning = None;
        if matches!(parsed, Secret::Plain(_)) && secret.starts_with(SECRET_PREFIX) {
            warning = Some(format!(
                "the secret of user {name:?} begins like a SCRAM secret but is none; it is taken for a password. \
                 Copy the whole of rolpassword from pg_authid"
            ));
        } else if matches!(parsed, Secret::Plain(_)) && is_nearly_md5(&secret) {
            warning = Some(format!(
                "the secret of user {name:?} looks like an MD5 secret but has upper-case digits; it is taken for a \
                 password. Write the digits in lower case"
            ));
        }
        if self.users.insert(user, parsed).is_some() {
            warning.get_or_insert_with(|| format!("user {name:?} stands here for the second time; this line counts"));
        }
        warning
    }

    /// What is on file about the user; `None` if it is not known.
    #[must_use]
    pub fn get(&self, user: &[u8]) -> Option<&Secret> {
        self.users.get(user)
    }

    /// All users by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Secret)> {
        self.users.iter().map(|(user, secret)| (user.as_slice(), secret))
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The kind that most users with a password have: what a made-up user should look like. [`SecretKind::Plain`] if
    /// there is none.
    #[must_use]
    pub fn prevailing_kind(&self) -> SecretKind {
        let count = |kind| self.users.values().filter(|secret| secret.kind() == kind).count();
        // The last of equals wins.
        [SecretKind::Scram, SecretKind::Md5, SecretKind::Plain]
            .into_iter()
            .max_by_key(|kind| count(*kind))
            .unwrap_or(SecretKind::Plain)
    }
}

type Fields = (Vec<u8>, Zeroizing<Vec<u8>>);

fn read_line(line: &[u8]) -> Result<Fields, &'static str> {
    let Some(rest) = line.strip_prefix(b"\"") else {
        return Err("the user name does not begin with a quotation mark");
    };
    let (user, rest) = unquote(rest).ok_or("the user name has no closing quotation mark")?;
    // Like PgBouncer, whatever stands between the two fields is ignored.
    let quote = rest.iter().position(|byte| *byte == b'"').ok_or("the secret in quotation marks is missing")?;
    let rest = rest.get(quote + 1..).unwrap_or_default();
    let (secret, _) = unquote(rest).ok_or("the secret has no closing quotation mark")?;
    if user.is_empty() {
        return Err("the user name is empty");
    }
    if user.len() > MAX_USER_BYTES {
        return Err("the user name is longer than 127 bytes");
    }
    if secret.len() > MAX_PASSWORD_BYTES {
        return Err("the secret is longer than 65535 bytes");
    }
    if user.contains(&0) || secret.contains(&0) {
        return Err("there is a zero byte in the user name or the secret, which no client can send");
    }
    Ok((user.to_vec(), secret))
}

/// Reads up to the closing quotation mark and gives the text without the doubling, and what follows.
fn unquote(text: &[u8]) -> Option<(Zeroizing<Vec<u8>>, &[u8])> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| *byte == b'"')?;
        out.extend_from_slice(rest.get(..end)?);
        rest = rest.get(end + 1..)?;
        match rest.strip_prefix(b"\"") {
            Some(after) => {
                out.push(b'"');
                rest = after;
            }
            None => return Some((out, rest)),
        }
    }
}

fn is_nearly_md5(secret: &[u8]) -> bool {
    Md5Secret::parse(&Zeroizing::new(secret.to_ascii_lowercase())).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str) -> Secret {
        Secret::Plain(Zeroizing::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn reads_what_pgbouncer_reads() {
        let file = b"\xef\xbb\xbf; comment\n# comment of ours\n\n\"marko\" \"kama\"\r\n  \"quo\"\"te\" \"a\"\"b\" rest \"x\"\n\
                     \"empty\" \"\"\n\"muser1\"\t\"md5ab8b744ff66bee42dc47bae34ca17959\"\n\"last\":\"line\"";
        let (list, warnings) = UserList::parse(file);
        assert_eq!(warnings, []);
        assert_eq!(list.get(b"marko"), Some(&plain("kama")));
        assert_eq!(list.get(b"quo\"te"), Some(&plain("a\"b")));
        assert_eq!(list.get(b"empty"), Some(&Secret::Empty));
        assert_eq!(list.get(b"muser1").unwrap().kind(), SecretKind::Md5);
        assert_eq!(list.get(b"last"), Some(&plain("line")));
        assert_eq!(list.get(b"nobody"), None);
        assert_eq!(list.len(), 5);
        assert_eq!(list.prevailing_kind(), SecretKind::Plain);
    }

    #[test]
    fn names_the_broken_line_and_goes_on() {
        let long = format!("\"long\" \"{}\"", "x".repeat(MAX_PASSWORD_BYTES + 1));
        let longest = format!("\"longest\" \"{}\"", "x".repeat(MAX_PASSWORD_BYTES));
        let lines = [
            "joe secret1",
            "\"joe",
            "\"joe\"",
            "\"joe\" \"secret2",
            "\"\" \"secret3\"",
            "\"a\0\" \"b\"",
            &long,
            &longest,
        ];
        let (list, warnings) = UserList::parse(lines.join("\n").as_bytes());
        let numbers: Vec<_> = warnings.iter().map(|warning| warning.line).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(list.len(), 1);
        assert!(!format!("{warnings:?} {list:?}").contains("secret1"));
    }

    #[test]
    fn doubtful_lines_count_but_are_told() {
        let file = "\"a\" \"SCRAM-SHA-256$4096:broken\"\n\"b\" \"md5AB8b744ff66bee42dc47bae34ca17959\"\n\"a\" \"x\"";
        let (list, warnings) = UserList::parse(file.as_bytes());
        assert_eq!(warnings.len(), 3);
        assert!(!format!("{warnings:?}").contains("broken"));
        assert_eq!(list.get(b"a"), Some(&plain("x")));
        assert_eq!(list.get(b"b").unwrap().kind(), SecretKind::Plain);
    }

    #[test]
    fn complaints_are_bounded() {
        let (_, warnings) = UserList::parse("x\n".repeat(1000).as_bytes());
        assert_eq!(warnings.len(), MAX_WARNINGS + 1);
        assert_eq!(warnings[MAX_WARNINGS].text, "and 950 more lines like these from here on");
    }

    fn quoted(text: &str) -> String {
        format!("\"{}\"", text.replace('"', "\"\""))
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(file in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = UserList::parse(&file);
        }

        #[test]
        fn whatever_is_quoted_comes_back(user in "[^\n\0]{1,30}", secret in "[^\n\0]{0,60}") {
            let (list, warnings) = UserList::parse(format!("{} {}\n", quoted(&user), quoted(&secret)).as_bytes());
            prop_assert_eq!(warnings, []);
            prop_assert_eq!(list.get(user.as_bytes()), Some(&Secret::parse(secret.as_bytes())));
        }

        #[test]
        fn warnings_never_show_secrets(line in "[\"ab ]{0,8}S3CRET[\"ab ]{0,8}") {
            prop_assume!(!line.trim_start().starts_with("\"S3CRET"));
            let (list, warnings) = UserList::parse(line.as_bytes());
            let names: Vec<_> = list.iter().map(|(user, _)| String::from_utf8_lossy(user).into_owned()).collect();
            prop_assume!(!names.iter().any(|name| name.contains("S3CRET")));
            let printed = format!("{warnings:?} {list:?}");
            prop_assert!(!printed.contains("S3CRET"));
        }
    }
}
