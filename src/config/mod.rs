//! Configuration: decides what a file means, which values are valid and what a reload changes.
//!
//! Two forms of file, PgBouncer's ini and the native TOML, become one [`Config`]; all that is wrong with a file is found in one
//! go, each finding with file and line. Files are read through a callback that the caller passes in: this part must never
//! know sockets, clocks, the file system, pools or sessions.

pub mod model;
pub mod problem;
pub mod settings;
mod suggest;
mod table;
pub mod value;

use std::io;
use std::path::Path;

pub use model::{Config, Database, HostSpec, Peer, ReservedTables, User};
pub use problem::{Place, Problem, Severity};
pub use settings::Settings;
pub use value::{
    AuthType, DatabaseName, FileMode, LoadBalanceHosts, LogFormat, NameList, Nullable, PacketSize, PoolMode, Secret,
    SslMode, SyslogFacility,
};

/// How files are read: the caller brings the file system.
pub type ReadFile<'a> = dyn FnMut(&Path) -> io::Result<Vec<u8>> + 'a;

/// Read and check a configuration file: TOML if its name ends in `.toml`, PgBouncer's ini otherwise.
///
/// On success the findings are notices and warnings to log.
///
/// # Errors
/// Everything that is wrong, at least one finding of severity [`Severity::Error`]; the configuration is unusable.
pub fn load(path: &Path, read: &mut ReadFile<'_>) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let _ = read;
    Err(vec![Problem::error(None, format!("could not load file \"{}\"", path.display()))])
}
