//! Passing everything on to a successor process, so that no client notices a restart: through the service manager's store
//! of descriptors (`systemctl restart`), or directly to a process that was started with `-R`. It decides when enough sessions
//! rest and who has the sockets at each moment; it must never know what is in them.
//!
//! Two rules keep every client in exactly one hand. The predecessor lets go only after the successor has understood the
//! state; and the successor touches nothing before the predecessor has let go.

pub mod channel;
mod gather;
pub mod leave;
mod manager;
pub mod take;

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;

/// The name under which the service manager keeps what is left to the successor.
pub const STORED_NAME: &str = "pgtandem-handover";

/// How long the sessions may take to come to rest before those that do are let go on. While it lasts nobody is served, so
/// it is short.
const HOLD: Duration = Duration::from_millis(25);

/// How long it may take at most, after attempts with less: those whose statements are shorter need not be told to go.
const HOLD_MAX: Duration = Duration::from_secs(1);

/// How long one side waits for the other one's next word.
const WORD_PATIENCE: Duration = Duration::from_secs(10);

/// Where a process waits for its successor: beside its Unix socket, as PgBouncer's `-R` needs that too.
#[must_use]
pub fn path(config: &Config) -> Option<PathBuf> {
    let settings = &config.settings;
    let dir = &settings.unix_socket_dir;
    if dir.is_empty() {
        return None;
    }
    Some(PathBuf::from(format!("{dir}/.s.pgtandem.{}.handover", settings.listen_port)))
}
