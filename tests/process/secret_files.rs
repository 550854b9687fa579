//! Files that hold secrets: read as root where only root may, and named when others may read them too.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::program::{Place, as_nobody, nobody, words};
use crate::is_root;

const SETTINGS: &str = "auth_file = HERE/users.txt\nclient_tls_sslmode = allow\nclient_tls_cert_file = HERE/tls.crt\n\
                        client_tls_key_file = HERE/tls.key\nadmin_users = a\n";
const USERS: &str = "\"a\" \"hunter2\"\n";

/// The operators' own command (revenue-engine), for another place.
fn make_certificate(place: &Place) {
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=pgbouncer-service", "-out"]);
    command.arg(place.path("tls.crt")).arg("-keyout").arg(place.path("tls.key"));
    assert!(command.stderr(Stdio::null()).status().unwrap().success());
}

fn set(path: &Path, (uid, gid, mode): (u32, u32, u32)) {
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A place whose secrets have these permissions.
fn place(settings: &str, access: (u32, u32, u32)) -> Place {
    let place = Place::new(&format!("{SETTINGS}{settings}"));
    make_certificate(&place);
    place.file("users.txt", USERS, access);
    set(&place.path("tls.key"), access);
    place
}

fn started(place: &Place, before: &[&str]) -> Child {
    let child = place.spawn(before);
    place.await_log("process up");
    child
}

fn stop(place: &Place, mut child: Child) {
    place.signal(Signal::SIGQUIT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn warnings(place: &Place) -> Vec<String> {
    let log = place.read("log");
    // Not those about clients, which break off their handshakes.
    log.lines().filter(|line| line.contains(" WARNING /")).map(str::to_owned).collect()
}

pub(super) fn root_reads_them_before_it_becomes_the_user() {
    if !is_root() {
        return;
    }
    let place = place("user = nobody", (0, 0, 0o600));
    let child = started(&place, &[]);
    assert!(place.answers(), "with a key that the user who serves may not read");
    let said = warnings(&place);
    for name in ["users.txt", "tls.key"] {
        let line = format!(
            "{} could be read at start, as root, but cannot at a reload: let user nobody",
            place.path(name).display()
        );
        assert!(said.iter().any(|warning| warning.contains(&line)), "{said:?}");
    }
    assert_eq!(said.len(), 2, "{said:?}");
    // The reload: nothing changes, the log says why and what to do, and that helps.
    place.signal(Signal::SIGHUP);
    place.await_log("client_tls_key_file: could not read");
    let log = place.read("log");
    let error = log.lines().find(|line| line.contains("client_tls_key_file: could not read")).unwrap();
    assert!(
        error.contains("Permission denied; it could be read at start, as root; let user nobody read it: chgrp "),
        "{error}"
    );
    assert!(place.answers());
    for name in ["users.txt", "tls.key"] {
        let (_, command) = said.iter().find(|w| w.contains(name)).unwrap().split_once("read it: ").unwrap();
        let command = command.split(" (").next().unwrap();
        assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    }
    place.signal(Signal::SIGHUP);
    place.await_log("is in force");
    assert_eq!(warnings(&place).len(), 2, "0640 root:nogroup is sound: {}", place.read("log"));
    stop(&place, child);
}

pub(super) fn who_else_may_read_them_is_told_at_start_and_reload() {
    if !is_root() {
        return;
    }
    let (uid, gid) = nobody();
    let place = place("", (uid, gid, 0o644));
    let ini = place.path("p.ini");
    let text = place.read("p.ini").replace("port=1\n", "port=1 password=hunter2\n");
    fs::write(&ini, text).unwrap();
    set(&ini, (0, gid, 0o664));
    let before = as_nobody(&[]);
    let child = started(&place, &words(&before));
    let said = warnings(&place);
    assert_eq!(said.len(), 3, "{said:?}");
    for (name, what, mode, command) in [
        ("p.ini", "a password", "0664", "0640"),
        ("users.txt", "passwords or secrets of users", "0644", "0600"),
        ("tls.key", "a private key", "0644", "0600"),
    ] {
        let path = place.path(name);
        let path = path.display();
        let line = format!(
            "{path} holds {what} and can be read by everyone on this machine (mode {mode}); close it: chmod {command} {path}"
        );
        assert!(said.iter().any(|warning| warning.ends_with(&line)), "{line}: {said:?}");
    }
    // Two are closed by the commands that were said; the third is named again.
    for warning in said.iter().filter(|warning| !warning.contains("users.txt")) {
        let (_, command) = warning.split_once("close it: ").unwrap();
        assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    }
    place.signal(Signal::SIGHUP);
    place.await_log("is in force");
    let again = warnings(&place);
    assert!(again.len() == 4 && again.last().is_some_and(|line| line.contains("users.txt")), "{again:?}");
    assert!(!place.read("log").contains("hunter2"));
    stop(&place, child);
}

/// As packages install them: not a word.
pub(super) fn sound_files_raise_no_alarm() {
    if !is_root() {
        return;
    }
    let (uid, gid) = nobody();
    for access in [(0, gid, 0o640), (uid, gid, 0o600), (uid, gid, 0o640), (uid, 0, 0o400)] {
        let place = place("", access);
        let child = started(&place, &words(&as_nobody(&[])));
        assert_eq!(warnings(&place), Vec::<String>::new(), "{access:?}");
        stop(&place, child);
    }
}
