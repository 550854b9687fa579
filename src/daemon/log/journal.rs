//! Events as entries of the systemd journal, by its native protocol (systemd.io, "Native Journal Protocol"): with priority, place
//! in the source, and whom they concern as fields that can be searched for (`journalctl PGTANDEM_USER=alice`).
//!
//! Written here, since the library for it fixes one priority for each level of tracing, where FATAL shares one with ERROR, and
//! knows nothing of one field that stands for several.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::line::Capped;
use super::{FATAL, line};
use crate::session::io::subject::{self, SUBJECT};

const SOCKET: &str = "/run/systemd/journal/socket";

/// How long a line waits for a journal that does not read.
const PATIENCE: Duration = Duration::from_millis(500);

/// Before the names of fields that are ours.
const PREFIX: &str = "PGTANDEM_";

/// The way to journald. It is found anew for each entry, as journald may be restarted.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    pub(super) fn connect() -> io::Result<Self> {
        Self::connect_to(Path::new(SOCKET))
    }

    pub(super) fn connect_to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        // An entry of nothing is thrown away.
        socket.send_to(&[], path)?;
        Ok(Self { socket, path: path.to_owned() })
    }

    pub(super) fn write(&self, event: &Event<'_>) -> io::Result<()> {
        self.socket.send_to(&entry(event), &self.path).map(drop)
    }
}

/// The priority of an event (syslog(3)).
pub(super) fn priority(event: &Event<'_>) -> u8 {
    match *event.metadata().level() {
        Level::ERROR if line::is_fatal(event) => 2,
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn entry(event: &Event<'_>) -> Vec<u8> {
    let mut entry = Entry { bytes: Vec::with_capacity(512), text: Capped::new(), message: None };
    event.record(&mut entry);
    let Entry { mut bytes, message, .. } = entry;
    put(&mut bytes, "MESSAGE", message.as_deref().unwrap_or_default().trim_end());
    put(&mut bytes, "PRIORITY", &priority(event).to_string());
    put(&mut bytes, "SYSLOG_IDENTIFIER", "pgtandem");
    let metadata = event.metadata();
    put(&mut bytes, "TARGET", metadata.target());
    if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
        put(&mut bytes, "CODE_FILE", file);
        put(&mut bytes, "CODE_LINE", &line.to_string());
    }
    bytes
}

/// A value with line ends is announced by its length, so that it cannot begin another field.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&u64::try_from(value.len()).unwrap_or_default().to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

struct Entry {
    bytes: Vec<u8>,
    text: Capped,
    message: Option<String>,
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text.clear();
        // Cut if it is too long.
        let _ = write!(self.text, "{value:?}");
        let text = self.text.as_str();
        match field.name() {
            "message" => self.message = Some(text.to_owned()),
            SUBJECT => {
                for (name, part) in subject::parts(text) {
                    put(&mut self.bytes, &format!("{PREFIX}{}", name.to_ascii_uppercase()), part);
                }
            }
            FATAL => {}
            name => {
                let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
                let name: String = name.chars().map(plain).collect();
                put(&mut self.bytes, &format!("{PREFIX}{name}"), text);
            }
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tempfile::TempDir;
    use tracing::subscriber::with_default;

    use super::super::Log;
    use super::*;
    use crate::config::LogFormat;
    use crate::ids::{ClientId, ServerId};
    use crate::net::stream::Peer;
    use crate::session::io::subject::Subject;

    /// Takes an entry apart as journald does.
    fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut all = BTreeMap::new();
        while let Some(end) = entry.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&entry[..end], &entry[end + 1..]);
            if let Some(equals) = line.iter().position(|byte| *byte == b'=') {
                all.insert(text(&line[..equals]), text(&line[equals + 1..]));
                entry = rest;
            } else {
                let (len, rest) = rest.split_first_chunk::<8>().unwrap();
                let len = usize::try_from(u64::from_le_bytes(*len)).unwrap();
                all.insert(text(line), text(&rest[..len]));
                entry = &rest[len + 1..];
            }
        }
        all
    }

    #[test]
    fn an_entry_says_whom_it_concerns_and_cannot_be_forged() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        journald.set_nonblocking(true).unwrap();
        let heard = || {
            let mut buffer = [0; 65_536];
            let len = journald.recv(&mut buffer).unwrap();
            fields(&buffer[..len])
        };
        let log = Log::with_journal(0, Journal::connect_to(&path).unwrap());
        log.set_format(LogFormat::Journald).unwrap();
        assert!(heard().is_empty());
        with_default(log.subscriber(), || {
            let peer = Peer::Inet("127.0.0.1:5".parse().unwrap());
            let client = Subject::client(ClientId(1), "db", "eve\nPRIORITY=0", &peer);
            tracing::warn!(subject = %client, "first\nPRIORITY=0\n");
            let entry = heard();
            for (name, value) in [
                ("MESSAGE", "first\nPRIORITY=0"),
                ("PRIORITY", "4"),
                ("SYSLOG_IDENTIFIER", "pgtandem"),
                ("PGTANDEM_CLIENT", "C-0x1"),
                ("PGTANDEM_DATABASE", "db"),
                ("PGTANDEM_USER", "eve?PRIORITY=0"),
                ("PGTANDEM_PEER", "127.0.0.1:5"),
                ("CODE_FILE", file!()),
                ("TARGET", module_path!()),
            ] {
                assert_eq!(entry.get(name).map(String::as_str), Some(value), "{name}");
            }
            assert!(!entry.contains_key("PGTANDEM_SERVER") && entry.contains_key("CODE_LINE"));

            let server = Subject::server(ServerId(2), "db", "bob", "unix".to_owned());
            tracing::info!(subject = %server, why_not = "a=b", n = 3, "x");
            let entry = heard();
            let get = |name: &str| entry.get(name).map(String::as_str);
            assert_eq!((get("PGTANDEM_SERVER"), get("PGTANDEM_CLIENT")), (Some("S-0x2"), None));
            assert_eq!((get("PGTANDEM_WHY_NOT"), get("PGTANDEM_N")), (Some("a=b"), Some("3")));

            super::super::fatal(&"the end");
            tracing::error!("bad");
            assert_eq!((&heard()["PRIORITY"], &heard()["PRIORITY"]), (&"2".to_owned(), &"3".to_owned()));
        });
    }
}
