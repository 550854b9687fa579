//! What a client asks for that wants to replicate (PostgreSQL docs, "Streaming Replication Protocol"): it gets a server of its
//! own, logged in to with the client's own parameters, since most of what a session can do is refused there.

use super::params::{Tracked, Values};
use crate::wire::startup::{Param, Startup};

/// Of which kind a replication connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `replication=database`: bound to a database, takes SQL too.
    Logical,
    /// `replication=true`: bound to no database.
    Physical,
}

impl Kind {
    /// What the startup parameter `replication` asks for; `None`: an ordinary session. Read as PostgreSQL does: `database`, or a
    /// boolean in any of its spellings.
    ///
    /// # Errors
    /// The value is neither.
    pub fn parse(value: &[u8]) -> Result<Option<Self>, NotReplication> {
        if value == b"database" {
            return Ok(Some(Self::Logical));
        }
        let on = match value.to_ascii_lowercase().as_slice() {
            b"1" | b"on" => true,
            b"0" | b"of" | b"off" => false,
            word if is_start_of(word, b"true") || is_start_of(word, b"yes") => true,
            word if is_start_of(word, b"false") || is_start_of(word, b"no") => false,
            _ => return Err(NotReplication),
        };
        Ok(on.then_some(Self::Physical))
    }

    /// The value that servers are asked with, and the word of the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logical => "database",
            Self::Physical => "yes",
        }
    }
}

/// The value is no kind of replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReplication;

fn is_start_of(word: &[u8], whole: &[u8]) -> bool {
    !word.is_empty() && whole.starts_with(word)
}

/// How the server of a replication client is to be logged in to.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of which kind.
    pub kind: Kind,
    /// Startup parameters that come from the client.
    pub startup: Vec<Param>,
}

impl Wanted {
    /// What a client with this startup message and these tracked parameters wants. `options` goes on as it is, since no other
    /// client will ever have that server.
    #[must_use]
    pub fn new(kind: Kind, startup: &Startup, tracked: &Tracked, values: &Values) -> Self {
        let mut params = Vec::new();
        for (index, name) in tracked.names().enumerate() {
            if let Some(value) = values.get(index) {
                params.push((name.as_bytes().into(), value.into()));
            }
        }
        if let Some(options) = startup.get("options").filter(|options| !options.is_empty()) {
            params.push((b"options".as_slice().into(), options.into()));
        }
        Self { kind, startup: params }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_read_as_postgresql_reads_it() {
        assert_eq!(Kind::parse(b"database"), Ok(Some(Kind::Logical)));
        for on in ["true", "TRUE", "t", "yes", "y", "on", "On", "1"] {
            assert_eq!(Kind::parse(on.as_bytes()), Ok(Some(Kind::Physical)), "{on}");
        }
        for off in ["false", "f", "no", "n", "off", "of", "0"] {
            assert_eq!(Kind::parse(off.as_bytes()), Ok(None), "{off}");
        }
        for neither in ["", "o", "2", "Database", "yesno", "truer", "logical"] {
            assert_eq!(Kind::parse(neither.as_bytes()), Err(NotReplication), "{neither}");
        }
    }

    #[test]
    fn the_server_is_asked_with_the_clients_parameters_and_options() {
        let tracked = Tracked::new(std::iter::empty());
        let mut values = Values::unset(&tracked);
        values.set(tracked.index(b"application_name").unwrap(), b"walreceiver");
        let param = |name: &[u8], value: &[u8]| -> Param { (name.into(), value.into()) };
        let params = vec![param(b"user", b"u"), param(b"options", b"-c datestyle=ISO -c geqo=off")];
        let startup = Startup { protocol: crate::wire::startup::PROTOCOL_3_0, params };
        let wanted = Wanted::new(Kind::Logical, &startup, &tracked, &values);
        let expected = [param(b"application_name", b"walreceiver"), param(b"options", b"-c datestyle=ISO -c geqo=off")];
        assert_eq!(wanted.startup, expected);
    }
}
