//! Directories for the pidfile, the Unix socket and the log: made when they may be, else the command that makes them.

use std::fs::{self, DirBuilder, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use nix::libc;
use nix::unistd::{Gid, Uid, getegid, geteuid};

use super::files::{group_name, user_name};
use crate::config::Settings;

/// Everyone may look up the pidfile and reach the socket; only the user who serves may change what is there.
const MODE: u32 = 0o755;

/// The directories that the settings pidfile, unix_socket_dir and logfile need.
#[must_use]
pub fn needed(settings: &Settings) -> Vec<PathBuf> {
    let of_file = |file: &str| Path::new(file).parent().map(Path::to_path_buf);
    let socket = Some(PathBuf::from(&settings.unix_socket_dir)).filter(|_| !settings.unix_socket_dir.starts_with('@'));
    let mut places: Vec<PathBuf> = [of_file(&settings.pidfile), socket, of_file(&settings.logfile)]
        .into_iter()
        .flatten()
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    places.dedup();
    places
}

/// Make those that are missing and returns them. What cannot be made is left for the one who needs it to report, with
/// [`remedy`].
///
/// With `owner` (before root becomes that user) a directory is made only where nobody but root could interfere, as in /run, and
/// given to them.
pub fn make(places: &[PathBuf], owner: Option<(Uid, Gid)>) -> Vec<PathBuf> {
    let missing = |path: &&PathBuf| matches!(fs::symlink_metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound);
    let made = |path: &&PathBuf| make_one(path, owner).unwrap_or(false);
    places.iter().filter(missing).filter(made).cloned().collect()
}

fn make_one(path: &Path, owner: Option<(Uid, Gid)>) -> io::Result<bool> {
    if let Some((uid, gid)) = owner {
        if !is_roots_own(&fs::metadata(directory_of(path))?) {
            return Ok(false);
        }
        DirBuilder::new().mode(0o700).create(path)?;
        let made = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY).open(path)?;
        made.set_permissions(Permissions::from_mode(MODE))?;
        fchown(&made, Some(uid.as_raw()), Some(gid.as_raw()))?;
    } else {
        DirBuilder::new().mode(MODE).create(path)?;
        // The umask may have kept out who must reach the socket.
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
    }
    Ok(true)
}

/// May only root make and move names in this directory?
fn is_roots_own(directory: &Metadata) -> bool {
    directory.is_dir() && directory.uid() == 0 && directory.mode() & 0o022 == 0
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What to do about a file that cannot be made, ready to be typed; empty if there is no such advice.
pub(super) fn remedy(path: &Path, error: &io::Error) -> String {
    let (user, group) = (user_name(geteuid()), group_name(getegid()));
    let directory = directory_of(path);
    let install = |directory: &Path| format!("install -d -o {user} -g {group} {}", quoted(directory));
    match error.kind() {
        io::ErrorKind::NotFound if !directory.exists() => {
            format!(" (no such directory; as root: {}{})", install(directory), unit_hint(directory))
        }
        io::ErrorKind::PermissionDenied if path.exists() => {
            let shown = quoted(path);
            format!(" (user {user} may not use this file; let it: chown {user} {shown})")
        }
        io::ErrorKind::PermissionDenied if is_empty(directory) => {
            let shown = quoted(directory);
            format!(" (user {user} may not write in that directory; let it: chown {user}:{group} {shown})")
        }
        // It belongs to others, who would suffer if it changed hands.
        io::ErrorKind::PermissionDenied => {
            let own = directory.join("pgtandem");
            let shown = own.join(path.file_name().unwrap_or_default());
            format!(
                " (user {user} may not write in that directory; give it one of its own, as root: {}{}, and name {} in the setting)",
                install(&own),
                unit_hint(&own),
                shown.display()
            )
        }
        _ => String::new(),
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// How a systemd unit has such a directory made at every start (systemd.exec(5), RuntimeDirectory).
fn unit_hint(directory: &Path) -> String {
    let names: Vec<&str> = directory
        .components()
        .filter(|part| *part != Component::RootDir)
        .filter_map(|part| part.as_os_str().to_str())
        .collect();
    match names.as_slice() {
        ["run", name] | ["var", "run", name] => format!("; in a systemd unit: RuntimeDirectory={name}"),
        ["var", "log", name] => format!("; in a systemd unit: LogsDirectory={name}"),
        _ => String::new(),
    }
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |char: char| char.is_ascii_alphanumeric() || "/._-+@".contains(char);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn error(kind: io::ErrorKind) -> io::Error {
        kind.into()
    }

    #[test]
    fn what_the_settings_need() {
        let of = |text: &str| {
            let text = format!("[pgbouncer]\n{text}");
            let read = crate::config::load(Path::new("p.ini"), &mut |_| Ok(text.clone().into_bytes()));
            needed(&read.unwrap().0.settings)
        };
        let places = of("pidfile = /run/p/p.pid\nunix_socket_dir = /run/p\nlogfile = /var/log/p/p.log");
        assert_eq!(places, [PathBuf::from("/run/p"), PathBuf::from("/var/log/p")]);
        assert_eq!(of("pidfile = p.pid\nunix_socket_dir = @p\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn one_level_is_made_where_it_may_be() {
        let dir = TempDir::new().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("missing/two"));
        assert_eq!(make(&[one.clone(), two.clone()], None), std::slice::from_ref(&one));
        assert_eq!(fs::metadata(&one).unwrap().mode() & 0o7777, MODE);
        assert!(!two.exists());
        assert_eq!(make(std::slice::from_ref(&one), None), Vec::<PathBuf>::new(), "it is there");
    }

    #[test]
    fn root_makes_none_where_others_could_swap_it() {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        let path = dir.path().join("one");
        let owner = Some((Uid::from_raw(65534), Gid::from_raw(65534)));
        assert_eq!(make(std::slice::from_ref(&path), owner), Vec::<PathBuf>::new());
        assert!(!path.exists());
    }

    #[test]
    fn advice_fits_the_cause() {
        let dir = TempDir::new().unwrap();
        let missing = remedy(Path::new("/run/no-such-dir-here/p.pid"), &error(io::ErrorKind::NotFound));
        let (user, group) = (user_name(geteuid()), group_name(getegid()));
        let command = format!("install -d -o {user} -g {group} /run/no-such-dir-here");
        assert!(missing.contains(&command) && missing.contains("RuntimeDirectory=no-such-dir-here"), "{missing}");
        let path = dir.path().join("p.pid");
        let empty = remedy(&path, &error(io::ErrorKind::PermissionDenied));
        assert!(empty.contains(&format!("chown {user}:{group} {}", dir.path().display())), "{empty}");
        fs::write(dir.path().join("other"), "").unwrap();
        let others = remedy(&path, &error(io::ErrorKind::PermissionDenied));
        assert!(others.contains("one of its own") && !others.contains("chown"), "{others}");
        assert!(others.contains(&format!("{}/pgtandem/p.pid in the setting", dir.path().display())), "{others}");
        fs::write(&path, "").unwrap();
        assert!(remedy(&path, &error(io::ErrorKind::PermissionDenied)).contains("may not use this file"));
        assert_eq!(remedy(&path, &error(io::ErrorKind::StorageFull)), "");
    }

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
