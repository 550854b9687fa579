//! Whom a log line concerns, as one field of its event beside the text: a journal and JSON make fields of it that can be searched
//! for, lines for people leave it out, as their text says it already.
//!
//! One field in place of five, since it is only put together where somebody wants it. Its parts are kept apart by a character
//! that they cannot contain, so no name that a client makes up passes for another field.

use std::fmt::{self, Write};

use super::roster::place;
use crate::ids::{ClientId, ServerId};
use crate::net::stream::Peer;

/// The field's name.
pub const SUBJECT: &str = "subject";

/// Unit separator.
const BETWEEN: char = '\u{1f}';

/// What the parts are, in order.
pub const PARTS: [&str; 5] = ["client", "server", "database", "user", "peer"];

/// A client or server, for the log.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    id: Id,
    database: &'a str,
    user: &'a str,
    peer: String,
}

#[derive(Clone, Copy, Debug)]
enum Id {
    Client(ClientId),
    Server(ServerId),
}

impl<'a> Subject<'a> {
    /// A client; names are empty as long as it has not said them.
    #[must_use]
    pub fn client(id: ClientId, database: &'a str, user: &'a str, peer: &Peer) -> Self {
        Self { id: Id::Client(id), database, user, peer: place(peer) }
    }

    /// A server; `place` as in the line's text.
    #[must_use]
    pub fn server(id: ServerId, database: &'a str, user: &'a str, place: String) -> Self {
        Self { id: Id::Server(id), database, user, peer: place }
    }
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Id::Client(id) => write!(f, "C-{:#x}{BETWEEN}", id.0)?,
            Id::Server(id) => write!(f, "{BETWEEN}S-{:#x}", id.0)?,
        }
        for part in [self.database, self.user, &self.peer] {
            f.write_char(BETWEEN)?;
            for char in part.chars() {
                f.write_char(if char.is_control() { '?' } else { char })?;
            }
        }
        Ok(())
    }
}

/// The parts of a subject's text that are there, by name.
pub fn parts(text: &str) -> impl Iterator<Item = (&'static str, &str)> {
    PARTS.into_iter().zip(text.split(BETWEEN)).filter(|(_, part)| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(subject: &Subject<'_>) -> Vec<(&'static str, String)> {
        parts(&subject.to_string()).map(|(name, part)| (name, part.to_owned())).collect()
    }

    #[test]
    fn parts_come_apart_as_they_were_put_together() {
        let peer = Peer::Inet("[::1]:5".parse().unwrap());
        let client = Subject::client(ClientId(26), "d=\u{1f}S-0x1\n", "x@h:1 y", &peer);
        let wanted = [("client", "C-0x1a"), ("database", "d=?S-0x1?"), ("user", "x@h:1 y"), ("peer", "[::1]:5")];
        assert_eq!(all(&client), wanted.map(|(name, part)| (name, part.to_owned())));
        let server = Subject::server(ServerId(2), "d", "", "unix".to_owned());
        let wanted = [("server", "S-0x2"), ("database", "d"), ("peer", "unix")];
        assert_eq!(all(&server), wanted.map(|(name, part)| (name, part.to_owned())));
        assert_eq!(parts("").count(), 0);
    }
}
