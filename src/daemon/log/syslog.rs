//! Events as messages to the syslog daemon of the machine (RFC 3164, at /dev/log; PgBouncer settings syslog, syslog_facility,
//! syslog_ident).
//!
//! Written here rather than with syslog(3) or a library over it: those wait without end for a daemon that does not read, and
//! with it every thread that logs.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Zoned;

use crate::config::SyslogFacility;

const SOCKET: &str = "/dev/log";

/// How long a line waits for a daemon that does not read.
const PATIENCE: Duration = Duration::from_millis(500);

/// The way to the daemon. It is found anew for each message, as the daemon may be restarted.
#[derive(Debug)]
pub(super) struct Syslog {
    socket: UnixDatagram,
    path: PathBuf,
    facility: u8,
    ident: String,
}

impl Syslog {
    pub(super) fn new(facility: SyslogFacility, ident: &str) -> io::Result<Self> {
        Self::at(Path::new(SOCKET), facility, ident)
    }

    fn at(path: &Path, facility: SyslogFacility, ident: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let ident = ident.chars().filter(|c| !c.is_control()).collect();
        Ok(Self { socket, path: path.to_owned(), facility: code(facility), ident })
    }

    /// Is there anybody to write to?
    pub(super) fn is_there(&self) -> io::Result<()> {
        UnixDatagram::unbound()?.connect(&self.path)
    }

    /// `priority` as in syslog(3). A daemon that is not there must not stop the service.
    pub(super) fn write(&self, priority: u8, message: &str) {
        let now = Zoned::now();
        let text = self.message(priority, &now.strftime("%b %e %H:%M:%S").to_string(), message);
        let _ = self.socket.send_to(text.as_bytes(), &self.path);
    }

    fn message(&self, priority: u8, time: &str, message: &str) -> String {
        let (ident, pid) = (&self.ident, std::process::id());
        format!("<{}>{time} {ident}[{pid}]: {message}", (self.facility << 3) | priority)
    }
}

/// The number of a facility (syslog.h, RFC 3164 section 4.1.1).
fn code(facility: SyslogFacility) -> u8 {
    match facility {
        SyslogFacility::User => 1,
        SyslogFacility::Daemon => 3,
        SyslogFacility::Auth => 4,
        SyslogFacility::Authpriv => 10,
        SyslogFacility::Local0 => 16,
        SyslogFacility::Local1 => 17,
        SyslogFacility::Local2 => 18,
        SyslogFacility::Local3 => 19,
        SyslogFacility::Local4 => 20,
        SyslogFacility::Local5 => 21,
        SyslogFacility::Local6 => 22,
        SyslogFacility::Local7 => 23,
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tracing::subscriber::with_default;

    use super::super::Log;
    use super::*;

    #[test]
    fn a_message_has_priority_time_and_name() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("log");
        let syslog = Syslog::at(&path, SyslogFacility::Local3, "pool\ner").unwrap();
        assert!(syslog.is_there().is_err());
        syslog.write(4, "lost, as nobody listens");
        let daemon = UnixDatagram::bind(&path).unwrap();
        daemon.set_nonblocking(true).unwrap();
        syslog.is_there().unwrap();
        let heard = || {
            let mut buffer = [0; 65_536];
            let len = daemon.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        };
        syslog.write(4, "a warning");
        let (pid, text) = (std::process::id(), heard());
        assert!(text.starts_with("<156>") && text.ends_with(&format!(" pooler[{pid}]: a warning")), "{text}");
        let time = text.get(5..20).unwrap();
        assert!(jiff::fmt::strtime::parse("%b %e %H:%M:%S", time).is_ok(), "{time}");

        let log = Log::new(0, false);
        log.shared.change().syslog = Some(syslog);
        with_default(log.subscriber(), || {
            tracing::error!(n = 3, "two\nlines");
            assert!(heard().ends_with("]: two\n\tlines n=3"));
            tracing::debug!("not wanted");
            assert!(daemon.recv(&mut [0; 8]).is_err());
            log.set_syslog(None).unwrap();
            tracing::error!("not wanted");
            assert!(daemon.recv(&mut [0; 8]).is_err());
        });
    }
}
