//! Files that are read: can the user who serves read them, and can too many others?

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::access::{Node, Obstacle, barrier, node};
use super::account::Account;
use super::report::{Finding, Level, Subject};
use super::words::{self, quoted, quoted_path};
use crate::auth::UserList;
use crate::config::check::{FileRole, InputFile, input_files};
use crate::config::{Config, Places, Severity};
use crate::daemon::start;

/// What is known of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileFacts {
    /// The setting that names it; `None` for the configuration file itself.
    pub(super) setting: Option<&'static str>,
    pub(super) path: PathBuf,
    pub(super) role: Holds,
    /// `file:line` of the setting.
    pub(super) place: Option<String>,
    /// Could this user read it?
    pub(super) read: Result<(), Obstacle>,
    pub(super) node: Option<Node>,
    /// The directory on the way to it that this user may not pass.
    pub(super) barrier: Option<Node>,
    /// Where relative names begin.
    pub(super) here: PathBuf,
    /// client_tls_cert_file and client_tls_key_file.
    pub(super) pair: (String, String),
}

/// What a file holds, as far as its permissions matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Passwords or the secrets made of them.
    Passwords,
    /// A private key.
    Key,
    /// What both nodes of a pair know.
    PairSecret,
    /// Nothing that others may not read.
    Public,
}

/// What was found in the files, for the checks that follow.
#[derive(Default)]
pub(super) struct Contents {
    /// auth_file, if it could be read.
    pub(super) users: UserList,
    /// The bytes that `users` came from: they tell the lines.
    pub(super) users_text: Vec<u8>,
}

/// Looks at every file, as the user who serves.
pub(super) fn examine(
    config_file: &Path,
    config: &Config,
    places: &Places,
    account: &Account,
) -> (Vec<Finding>, Contents) {
    let (mut findings, mut contents) = (Vec::new(), Contents::default());
    let passwords = config.databases.values().chain(&config.autodb).any(|database| database.password.is_some());
    let holds = if passwords { Holds::Passwords } else { Holds::Public };
    let itself = facts(None, config_file, holds, None, File::open(config_file).map(drop).map_err(Obstacle::from));
    findings.extend(judge(&itself, account));
    for InputFile { setting, role, name } in input_files(config) {
        let path = PathBuf::from(&name);
        let holds = match role {
            FileRole::Users => Holds::Passwords,
            FileRole::PrivateKey => Holds::Key,
            FileRole::PairSecret => Holds::PairSecret,
            _ => Holds::Public,
        };
        let bytes = read(&path);
        let place = places.setting(setting).map(|found| words::place(found, config_file));
        let found = facts(Some(setting), &path, holds, place, bytes.as_ref().map(|_| ()).map_err(Clone::clone));
        let settings = &config.settings;
        let pair = (settings.client_tls_cert_file.clone(), settings.client_tls_key_file.clone());
        findings.extend(judge(&FileFacts { pair, ..found }, account));
        let Ok(bytes) = bytes else { continue };
        findings.extend(start::inspect(role, &bytes).into_iter().map(|inside| {
            let level = if inside.severity == Severity::Error { Level::Error } else { Level::Warning };
            let at = if inside.line > 0 { format!("{name}:{}", inside.line) } else { name.clone() };
            Finding::new(Subject::Files, level, format!("{setting} {at}: {}", inside.text))
        }));
        if role == FileRole::Users {
            contents.users = UserList::parse(&bytes).0;
            contents.users_text = bytes;
        }
    }
    (findings, contents)
}

fn read(path: &Path) -> Result<Vec<u8>, Obstacle> {
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(Obstacle::Other("it is no regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn facts(
    setting: Option<&'static str>,
    path: &Path,
    role: Holds,
    place: Option<String>,
    read: Result<(), Obstacle>,
) -> FileFacts {
    FileFacts {
        setting,
        path: path.to_owned(),
        role,
        place,
        barrier: if read == Err(Obstacle::Denied) { barrier(path) } else { None },
        node: node(path).ok(),
        read,
        here: std::env::current_dir().unwrap_or_default(),
        pair: (String::new(), String::new()),
    }
}

/// Judges one file.
pub(super) fn judge(facts: &FileFacts, account: &Account) -> Vec<Finding> {
    let name = facts.setting.unwrap_or("configuration");
    let path = facts.path.display();
    let at = facts.place.as_ref().map_or_else(String::new, |place| format!(" ({place})"));
    let about = |text: String| format!("{name} {path}{at}: {text}");
    let user = &account.name;
    match &facts.read {
        Ok(()) => {
            let exposed = facts.node.as_ref().and_then(|node| exposure(facts, node, account));
            let quiet = facts.setting.is_none();
            let fine = || Finding::ok(Subject::Files, format!("{name} {path}: readable for {user}"));
            exposed.map_or_else(|| if quiet { Vec::new() } else { vec![fine()] }, |finding| vec![finding])
        }
        Err(Obstacle::Missing) => {
            let mut text = about("there is no such file".to_owned());
            if facts.path.is_relative() {
                text = format!(
                    "{text} (looked for in {}: relative names begin where the program is started)",
                    facts.here.display()
                );
            }
            vec![Finding::error(Subject::Files, text).remedy(create(facts, account))]
        }
        Err(Obstacle::Denied) => vec![denied(facts, account, &about)],
        Err(Obstacle::Other(reason)) => {
            let remedy = format!("correct the setting {name}{at}");
            vec![Finding::error(Subject::Files, about(reason.clone())).remedy(remedy)]
        }
    }
}

fn create(facts: &FileFacts, account: &Account) -> String {
    let path = quoted_path(&facts.path);
    let (user, group) = (quoted(&account.name), quoted(&account.group));
    match facts.setting {
        Some("auth_file") => format!(
            "install -o {user} -g {group} -m 600 /dev/null {path}, then a line \"user\" \"password\" for each user; or \
             correct auth_file"
        ),
        Some("client_tls_cert_file" | "client_tls_key_file") => {
            let (cert, key) = (quoted(&facts.pair.0), quoted(&facts.pair.1));
            format!(
                "correct client_tls_cert_file and client_tls_key_file; or make a pair that nobody has signed: openssl req -new -x509 -days 365 \
                 -nodes -subj /CN=$(hostname -f) -keyout {key} -out {cert} && chown {user} {key} && chmod 600 {key}"
            )
        }
        Some("client_tls_ca_file") => {
            "store the certificate of the CA that signs your clients' there; or remove the line, if clients need none".to_owned()
        }
        Some("pair_secret_file") => format!(
            "install -o {user} -g {group} -m 600 /dev/null {path} && openssl rand -hex 32 >{path}, and copy it to the peer"
        ),
        Some("server_tls_ca_file") => {
            "store the certificate of the CA that signs your servers' there; it counts for server_tls_sslmode = verify-ca and \
             verify-full, else remove the line"
                .to_owned()
        }
        Some(setting) => format!("put the file there, or correct {setting}"),
        None => "put the file there".to_owned(),
    }
}

fn denied(facts: &FileFacts, account: &Account, about: &dyn Fn(String) -> String) -> Finding {
    let user = &account.name;
    let (text, remedy) = match (&facts.barrier, &facts.node) {
        (Some(dir), _) => {
            let text = format!("user {user} may not pass the directory {} ({})", dir.path.display(), dir.describe());
            // A group that may pass is there for this; else the way is opened for all, which shows no names.
            let remedy = if dir.mode & 0o010 != 0 && dir.gid != 0 {
                format!("usermod -aG {} {}", quoted(&dir.group), quoted(user))
            } else {
                format!("chmod o+x {}", quoted_path(&dir.path))
            };
            (text, remedy)
        }
        (None, Some(node)) => {
            let text = format!("user {user} may not read it ({})", node.describe());
            (text, take(&facts.path, facts.role, account))
        }
        (None, None) => (format!("user {user} may not read it"), take(&facts.path, facts.role, account)),
    };
    if facts.setting.is_none() {
        // Root reads it at the start.
        let text = format!("{text}; it starts, but a reload (SIGHUP) will fail");
        return Finding::warning(Subject::Files, about(text)).remedy(remedy);
    }
    Finding::error(Subject::Files, about(text)).remedy(remedy)
}

/// The command that gives a file to the account.
fn take(path: &Path, role: Holds, account: &Account) -> String {
    let path = quoted_path(path);
    match role {
        Holds::Public => format!("chmod a+r {path}"),
        _ => format!("chown {} {path} && chmod 600 {path}", quoted(&account.name)),
    }
}

/// Others may read a secret, or write to what decides who gets in.
fn exposure(facts: &FileFacts, node: &Node, account: &Account) -> Option<Finding> {
    let path = quoted_path(&facts.path);
    let (what, bits) = match facts.role {
        Holds::Passwords => ("it holds passwords", 0o007),
        Holds::Key => ("it is a private key", 0o007),
        Holds::PairSecret => ("it is the secret of the pair", 0o007),
        Holds::Public => ("", 0o002),
    };
    if node.mode & bits & 0o006 == 0 {
        return None;
    }
    let verb = match node.mode & bits & 0o006 {
        0o002 => "write to",
        0o004 => "read",
        _ => "read and write",
    };
    let left = node.mode & 0o777 & !bits;
    let chmod = format!("chmod {left:03o} {path}");
    let remedy = if bits == 0o007 && node.reached_as_other(account) {
        format!("chown {} {path} && chmod 600 {path}", quoted(&account.name))
    } else {
        chmod
    };
    let because = if what.is_empty() { String::new() } else { format!(", and {what}") };
    let name = facts.setting.unwrap_or("configuration");
    let shown = facts.path.display();
    let text = format!("{name} {shown}: everybody on this machine may {verb} it ({}){because}", node.describe());
    Some(Finding::warning(Subject::Files, text).remedy(remedy))
}

/// The line of auth_file that counts for a user, from 1.
pub(super) fn line_of(users_text: &[u8], user: &[u8]) -> Option<usize> {
    // Of two lines for one user the last one counts.
    let lines = users_text.split(|byte| *byte == b'\n').enumerate();
    lines.filter(|(_, line)| UserList::parse(line).0.get(user).is_some()).last().map(|(index, _)| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account { name: "pg".into(), uid: 7, group: "pg".into(), gids: vec![7] }
    }

    fn with(role: Holds, uid: u32, gid: u32, mode: u32) -> FileFacts {
        let node =
            Node { path: "/e/f".into(), owner: uid.to_string(), uid, group: gid.to_string(), gid, mode, is_dir: false };
        FileFacts {
            setting: Some("auth_file"),
            path: "/e/f".into(),
            role,
            place: Some("p.ini:3".into()),
            read: Ok(()),
            node: Some(node),
            barrier: None,
            here: "/h".into(),
            pair: ("/e/c".into(), "/e/k".into()),
        }
    }

    fn only(facts: &FileFacts) -> (Level, String, String) {
        let mut findings = judge(facts, &account());
        assert_eq!(findings.len(), 1, "{findings:?}");
        let finding = findings.remove(0);
        (finding.level, finding.text, finding.remedy.unwrap_or_default())
    }

    #[test]
    fn secrets_are_nobody_elses() {
        for (role, uid, gid, mode, level, remedy) in [
            (Holds::Passwords, 7, 7, 0o600, Level::Ok, ""),
            (Holds::Passwords, 0, 7, 0o640, Level::Ok, ""),
            (Holds::Passwords, 7, 7, 0o644, Level::Warning, "chmod 640 /e/f"),
            (Holds::Passwords, 0, 7, 0o644, Level::Warning, "chmod 640 /e/f"),
            (Holds::Key, 0, 0, 0o644, Level::Warning, "chown pg /e/f && chmod 600 /e/f"),
            (Holds::Key, 7, 0, 0o604, Level::Warning, "chmod 600 /e/f"),
            (Holds::Public, 0, 0, 0o644, Level::Ok, ""),
            (Holds::Public, 0, 0, 0o666, Level::Warning, "chmod 664 /e/f"),
        ] {
            let (found, text, what) = only(&with(role, uid, gid, mode));
            assert_eq!((found, what.as_str()), (level, remedy), "{text}");
            assert!(level == Level::Ok || text.contains(&format!("mode {mode:04o}")), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_names_who_where_and_how() {
        let mut facts = with(Holds::Passwords, 0, 0, 0o600);
        facts.read = Err(Obstacle::Denied);
        let (level, text, remedy) = only(&facts);
        assert_eq!(level, Level::Error);
        assert!(text.contains("auth_file /e/f (p.ini:3): user pg may not read it (0:0, mode 0600)"), "{text}");
        assert_eq!(remedy, "chown pg /e/f && chmod 600 /e/f");

        let dir =
            Node { path: "/e".into(), mode: 0o710, gid: 9, group: "ssl-cert".into(), ..facts.node.clone().unwrap() };
        facts.barrier = Some(dir.clone());
        assert_eq!(only(&facts).2, "usermod -aG ssl-cert pg");
        facts.barrier = Some(Node { mode: 0o700, gid: 0, ..dir });
        assert_eq!(only(&facts).2, "chmod o+x /e");

        facts.read = Err(Obstacle::Missing);
        let (_, text, remedy) = only(&facts);
        assert!(
            text.ends_with("there is no such file") && remedy.starts_with("install -o pg -g pg -m 600"),
            "{remedy}"
        );
        let key = FileFacts { setting: Some("client_tls_key_file"), role: Holds::Key, ..facts.clone() };
        assert!(
            only(&key).2.ends_with("-keyout /e/k -out /e/c && chown pg /e/k && chmod 600 /e/k"),
            "{}",
            only(&key).2
        );
        facts.path = "users.txt".into();
        assert!(only(&facts).1.contains("looked for in /h"), "relative names");
        facts.read = Err(Obstacle::Other("it is no regular file".into()));
        assert!(only(&facts).1.contains("no regular file"));
    }

    #[test]
    fn the_configuration_only_matters_to_reloads() {
        let mut facts = with(Holds::Public, 0, 0, 0o600);
        facts.setting = None;
        assert!(judge(&facts, &account()).is_empty());
        facts.read = Err(Obstacle::Denied);
        let (level, text, _) = only(&facts);
        assert!(level == Level::Warning && text.contains("reload"), "{text}");
    }

    #[test]
    fn lines_of_users() {
        let text = b"; c\n\"a\" \"x\"\n\"b\" \"y\"\n\"a\" \"z\"\n";
        assert_eq!((line_of(text, b"a"), line_of(text, b"b"), line_of(text, b"c")), (Some(4), Some(3), None));
    }
}
