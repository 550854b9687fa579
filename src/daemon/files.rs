//! Files that the configuration names, as they are read: which of them hold secrets that others may read too, and which could
//! be read at start, as root, but not any more by the user who serves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::{AccessFlags, Gid, Group, Uid, User, access, getegid, geteuid, getgroups};

use super::places::quoted;

/// What a file is for, as far as secrets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The configuration and what it includes: a secret if a connection string has a password.
    Configuration,
    /// `auth_file`: a secret.
    Users,
    /// A private key: a secret.
    PrivateKey,
    /// `pair_secret_file`: a secret.
    PairSecret,
    /// Access rules: a secret if they hold the password of an LDAP account.
    Rules,
    /// Certificates, user maps: no secret, unless a private key stands in it too.
    Plain,
}

/// The reader of all files that the configuration names. It keeps no content.
#[derive(Debug, Default)]
pub struct Files {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Who may read each secret of this pass.
    secrets: BTreeMap<PathBuf, (&'static str, Access)>,
    /// Everything read in this pass.
    read: BTreeSet<PathBuf>,
    /// What was read before the process became another user.
    as_root: BTreeSet<PathBuf>,
}

/// Owner, group and permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The owner.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
    /// The permission bits, without the file type.
    pub mode: u32,
}

impl From<&Metadata> for Access {
    fn from(of: &Metadata) -> Self {
        Self { uid: Uid::from_raw(of.uid()), gid: Gid::from_raw(of.gid()), mode: of.mode() & 0o7777 }
    }
}

/// A user and the groups it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The user.
    pub uid: Uid,
    /// Its first group.
    pub gid: Gid,
    /// Its other groups.
    pub groups: Vec<Gid>,
}

impl Reader {
    /// The user as which this process runs.
    #[must_use]
    pub fn this_process() -> Self {
        Self { uid: geteuid(), gid: getegid(), groups: getgroups().unwrap_or_default() }
    }

    fn is_in(&self, group: Gid) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

impl Files {
    /// Begin to read a configuration: what was found in an earlier one is forgotten.
    pub fn begin(&self) {
        let mut seen = self.seen();
        seen.secrets.clear();
        seen.read.clear();
    }

    /// Read a file.
    ///
    /// # Errors
    /// The system's. Where the file could be read at start and may not be read now, the text says so and what to do.
    pub fn read(&self, path: &Path, kind: Kind) -> io::Result<Vec<u8>> {
        let mut file = File::open(path).map_err(|error| self.explain(path, error))?;
        let metadata = file.metadata()?;
        // Sized at once: a buffer that grows leaves copies of secrets behind. What comes of that size is no more than a hint.
        let mut bytes = Vec::new();
        let _ = bytes.try_reserve_exact(usize::try_from(metadata.len()).unwrap_or(0).saturating_add(1));
        file.read_to_end(&mut bytes)?;
        let mut seen = self.seen();
        seen.read.insert(path.to_owned());
        if let Some(what) = secret_in(kind, &bytes) {
            seen.secrets.insert(path.to_owned(), (what, Access::from(&metadata)));
        }
        Ok(bytes)
    }

    /// The process has become another user than the one who read all files so far.
    pub fn user_changed(&self) {
        let mut seen = self.seen();
        let read = seen.read.clone();
        seen.as_root.extend(read);
    }

    /// What to log of the files read since [`Files::begin`]; call it as the user who serves.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let (seen, reader) = (self.seen(), Reader::this_process());
        let exposed = seen.secrets.iter().filter_map(|(path, (what, access))| exposure(path, what, *access, &reader));
        let denied = |path: &&PathBuf| access(path.as_path(), AccessFlags::R_OK) == Err(nix::errno::Errno::EACCES);
        let lost = seen.read.intersection(&seen.as_root).filter(denied);
        let lost = lost.map(|path| {
            format!("{} could be read at start, as root, but cannot at a reload: {}", path.display(), opening(path))
        });
        exposed.chain(lost).collect()
    }

    fn explain(&self, path: &Path, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::PermissionDenied || !self.seen().as_root.contains(path) {
            return error;
        }
        let text = format!("Permission denied; it could be read at start, as root; {}", opening(path));
        io::Error::new(error.kind(), text)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What kind of secret there is in a file, if any.
fn secret_in(kind: Kind, bytes: &[u8]) -> Option<&'static str> {
    match kind {
        Kind::Users => Some("passwords or secrets of users"),
        Kind::PrivateKey => Some("a private key"),
        Kind::PairSecret => Some("the secret of the pair"),
        Kind::Configuration => has_password(bytes).then_some("a password"),
        Kind::Rules => String::from_utf8_lossy(bytes)
            .lines()
            .any(|line| !line.trim_start().starts_with('#') && line.contains("ldapbindpasswd"))
            .then_some("the password of an LDAP account"),
        Kind::Plain => bytes
            .windows(KEY_LABEL.len())
            .any(|window| window == KEY_LABEL)
            .then_some("a private key beside certificates"),
    }
}

const KEY_LABEL: &[u8] = b"PRIVATE KEY-----";

/// Does a line, comments aside, set `password`? Both forms of the configuration write it with a `=` behind.
fn has_password(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with(['#', ';']));
    lines.any(|line| {
        line.match_indices("password").any(|(at, word)| {
            let before = line.get(..at).unwrap_or_default().chars().next_back();
            let behind = line.get(at + word.len()..).unwrap_or_default().trim_start_matches(['"', ' ', '\t']);
            !before.is_some_and(|char| char.is_alphanumeric() || char == '_') && behind.starts_with('=')
        })
    })
}

/// The warning about a secret that others than its reader may see; `None` if its permissions are sound.
///
/// Sound is what PostgreSQL asks of a key (docs, "Secure TCP/IP Connections with SSL"): nothing for others, and for a group only
/// if root owns the file, who then chose that group, or if it is root's group or one of the reader's own.
#[must_use]
pub fn exposure(path: &Path, what: &str, access: Access, reader: &Reader) -> Option<String> {
    let (group, others) = (access.mode & 0o060 != 0, access.mode & 0o006 != 0);
    let group_is_sound = access.uid.is_root() || access.gid.as_raw() == 0 || reader.is_in(access.gid);
    let who = match (others, group && !group_is_sound) {
        (true, _) => "everyone on this machine".to_owned(),
        (false, true) => format!("group {}, which the user who serves is not in", group_name(access.gid)),
        (false, false) => return None,
    };
    let verb = if access.mode & 0o044 == 0 { "changed" } else { "read" };
    Some(format!(
        "{} holds {what} and can be {verb} by {who} (mode {:04o}); close it: {}",
        path.display(),
        access.mode,
        closing(path, access, reader)
    ))
}

/// The command that leaves a secret to its owner and its reader alone.
fn closing(path: &Path, access: Access, reader: &Reader) -> String {
    let shown = quoted(path);
    if access.uid == reader.uid {
        format!("chmod 0600 {shown}")
    } else if reader.is_in(access.gid) {
        format!("chmod 0640 {shown}")
    } else {
        format!("chgrp {} {shown} && chmod 0640 {shown}", quoted(Path::new(&group_name(reader.gid))))
    }
}

/// The command that lets the user who serves read a file.
fn opening(path: &Path) -> String {
    let (reader, shown) = (Reader::this_process(), quoted(path));
    let (user, group) = (user_name(reader.uid), group_name(reader.gid));
    format!(
        "let user {user} read it: chgrp {group} {shown} && chmod 0640 {shown} (and see that {user} may enter its directory)"
    )
}

/// The name of a user, or its number.
#[must_use]
pub(super) fn user_name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// The name of a group, or its number.
#[must_use]
pub(super) fn group_name(gid: Gid) -> String {
    Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(uid: u32, gid: u32, mode: u32) -> Access {
        Access { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid), mode }
    }

    fn judged(of: Access) -> Option<String> {
        let reader =
            Reader { uid: Uid::from_raw(70_001), gid: Gid::from_raw(70_002), groups: vec![Gid::from_raw(70_003)] };
        exposure(Path::new("/etc/p/users.txt"), "passwords", of, &reader)
    }

    #[test]
    fn sound_permissions_raise_no_alarm() {
        for sound in [
            access(70_001, 70_002, 0o600),
            access(70_001, 70_002, 0o400),
            access(70_001, 70_002, 0o640), // debian: postgres postgres
            access(70_001, 70_003, 0o660),
            access(0, 70_002, 0o640), // root postgres
            access(0, 70_003, 0o440), // root ssl-cert
            access(0, 70_009, 0o640), // read as root at start
            access(0, 0, 0o640),
            access(70_001, 0, 0o640),
            access(70_009, 70_002, 0o640),
            access(0, 0, 0o600),
        ] {
            assert_eq!(judged(sound), None, "{sound:?}");
        }
    }

    #[test]
    fn a_warning_names_file_mode_and_command() {
        for (of, words) in [
            (
                access(70_001, 70_002, 0o644),
                "everyone on this machine (mode 0644); close it: chmod 0600 /etc/p/users.txt",
            ),
            (access(0, 70_002, 0o644), "everyone on this machine (mode 0644); close it: chmod 0640 /etc/p/users.txt"),
            (access(0, 0, 0o644), "(mode 0644); close it: chgrp 70002 /etc/p/users.txt && chmod 0640 /etc/p/users.txt"),
            (access(70_001, 70_009, 0o640), "group 70009, which the user who serves is not in (mode 0640)"),
            (access(70_001, 70_002, 0o602), "can be changed by everyone on this machine (mode 0602)"),
            (access(70_001, 70_002, 0o1604), "can be read by everyone on this machine (mode 1604)"),
        ] {
            let text = judged(of).unwrap();
            assert!(text.starts_with("/etc/p/users.txt holds passwords and can be ") && text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_configuration_is_a_secret_only_with_a_password() {
        for (text, want) in [
            ("[databases]\nx = host=h password=p\n", true),
            ("x = host=h password = p", true),
            ("x = host=h\tpassword='p q'", true),
            ("[databases.x]\npassword = \"p\"\n", true),
            ("x = { \"password\" = \"p\" }", true),
            ("; x = password=p\n  # password=p\n", false),
            ("auth_query = select usename, password from users where x = 1", false),
            ("my_password = 1", false),
            ("passwords = 1", false),
            ("auth_type = md5", false),
        ] {
            assert_eq!(has_password(text.as_bytes()), want, "{text}");
        }
        assert_eq!(secret_in(Kind::Rules, b"local all all peer\n# ldapbindpasswd=x\n"), None);
        assert!(secret_in(Kind::Rules, b"host all all all ldap ldapbindpasswd=x\n").is_some());
        assert_eq!(secret_in(Kind::Plain, b"-----BEGIN CERTIFICATE-----\n"), None);
        assert!(secret_in(Kind::Plain, b"-----BEGIN RSA PRIVATE KEY-----\n").is_some());
    }

    #[test]
    fn a_pass_forgets_the_one_before() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("users.txt");
        std::fs::write(&path, "\"a\" \"b\"\n").unwrap();
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o644);
        let files = Files::default();
        assert_eq!(files.read(&path, Kind::Users).unwrap(), b"\"a\" \"b\"\n");
        assert!(files.warnings()[0].contains("(mode 0644)"), "{:?}", files.warnings());
        set(0o600);
        files.begin();
        files.read(&path, Kind::Users).unwrap();
        assert_eq!(files.warnings(), Vec::<String>::new());
        assert_eq!(files.read(&dir.path().join("no"), Kind::Plain).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
