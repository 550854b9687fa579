//! Configuration: decides what a file means, which values are valid and what a reload changes.
//!
//! Two forms of file, PgBouncer's ini and the native TOML, become one [`Config`]; all that is wrong with a file is found in one
//! go, each finding with file and line. Files are read through a callback that the caller passes in: this part must never
//! know sockets, clocks, the file system, pools or sessions.

pub mod check;
mod checks;
pub mod choice;
pub mod compat;
mod connstr;
pub mod diff;
mod document;
pub mod ha;
mod ini;
pub mod model;
mod params;
pub mod print;
pub mod problem;
mod resolve;
pub mod settings;
mod suggest;
mod table;
mod tls_versions;
mod toml;
pub mod value;

use std::io;
use std::path::Path;

pub use check::{check, check_alone};
pub use choice::{
    AuthType, ListenWhen, LoadBalanceHosts, LogFormat, PoolMode, ServerBudget, SslMode, SyslogFacility,
    UnknownStatement,
};
pub use diff::{Plan, apply_reload, diff};
pub use ha::{Ha, HaSettings, VirtualRouter};
pub use model::{Config, Database, HostSpec, Peer, ReservedTables, User};
pub use problem::{Place, Problem, Severity};
pub use resolve::{Places, explain_set};
pub use settings::{SetDone, SetError, Settings};
pub use tls_versions::TlsVersions;
pub use value::{DatabaseName, FileMode, NameList, Nullable, PacketSize, Secret};

/// How files are read: the caller brings the file system.
pub type ReadFile<'a> = dyn FnMut(&Path) -> io::Result<Vec<u8>> + 'a;

/// Read and check a configuration file: TOML if its name ends in `.toml`, PgBouncer's ini otherwise.
///
/// On success the findings are notices and warnings to log.
///
/// # Errors
/// Everything that is wrong, at least one finding of severity [`Severity::Error`]; the configuration is unusable.
pub fn load(path: &Path, read: &mut ReadFile<'_>) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    load_with_places(path, read).map(|(config, _, problems)| (config, problems))
}

/// As [`load`], with the lines on which everything stands.
///
/// # Errors
/// Those of [`load`].
pub fn load_with_places(path: &Path, read: &mut ReadFile<'_>) -> Result<(Config, Places, Vec<Problem>), Vec<Problem>> {
    let mut problems = Vec::new();
    let (config, places) = understand(path, read, &mut problems);
    if problem::has_errors(&problems) { Err(problems) } else { Ok((config, places, problems)) }
}

/// Read a file of either form as far as it can be understood.
fn understand(path: &Path, read: &mut ReadFile<'_>, problems: &mut Vec<Problem>) -> (Config, Places) {
    let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
    let document = if !is_toml {
        ini::read(path, read, problems)
    } else {
        match read(path) {
            Ok(bytes) => toml::read(&path.to_string_lossy(), &bytes, problems),
            Err(error) => {
                let text = format!("could not load file \"{}\": {error}", path.display());
                problems.push(Problem::error(None, text));
                document::Document { incomplete: true, ..document::Document::new(document::Form::Toml) }
            }
        }
    };
    let resolved = resolve::resolve(&document, problems);
    problem::sort(problems);
    resolved
}

#[cfg(test)]
mod tests;
