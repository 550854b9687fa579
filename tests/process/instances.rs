//! The pidfile and `-d` as an operator meets them: two instances, files left behind, directories, old scripts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{User, getuid};

use super::program::{Place, as_nobody, nobody, words};
use crate::{NOBODY, await_that, fields, is_root};

const PIDFILE: &str = "pidfile = HERE/own/p.pid\nlogfile = HERE/own/log\n";

/// As an ordinary user, whoever runs the tests.
fn ordinary() -> Vec<String> {
    if is_root() { as_nobody(&[]) } else { Vec::new() }
}

/// Start in the background; it must work.
fn started(place: &Place) -> String {
    let (code, text) = place.ended(&words(&ordinary()), &["-d"]);
    assert_eq!((code, text.as_str()), (Some(0), ""), "{}", place.read("own/log"));
    assert!(place.answers());
    place.read("own/p.pid").trim().to_owned()
}

fn refused(place: &Place, args: &[&str]) -> String {
    let (code, text) = place.ended(&words(&ordinary()), args);
    assert_eq!(code, Some(1), "{text}");
    text
}

fn log_lines(place: &Place, words: &str) -> usize {
    place.read("own/log").lines().filter(|line| line.contains(words)).count()
}

pub(super) fn a_second_one_says_who_holds_the_pidfile() {
    let place = Place::new(PIDFILE);
    let pid = started(&place);
    for args in [&["-d"][..], &[]] {
        let text = refused(&place, args);
        let path = place.path("own/p.pid");
        let words = format!(
            "pidfile '{}' exists, another instance running? process {pid} (pgtandem) holds it; stop that first, or set another \
             pidfile",
            path.display()
        );
        assert!(text.contains(&words), "{text}");
    }
    assert_eq!(place.processes(), [pid.parse::<i32>().unwrap()]);
    assert!(place.answers());
    place.signal(Signal::SIGQUIT);
    await_that(|| place.processes().is_empty());
    assert!(!place.path("own/p.pid").exists());
}

pub(super) fn a_file_left_behind_is_no_obstacle() {
    // By a crash of any kind, by a reboot (the number is another program's by now), by a full disk (empty).
    let place = Place::new(PIDFILE);
    for signal in [Signal::SIGKILL, Signal::SIGABRT] {
        let dead = started(&place);
        place.signal(signal);
        await_that(|| place.processes().is_empty());
        assert_eq!(place.read("own/p.pid").trim(), dead, "{signal}");
        let stale = log_lines(&place, "stale pidfile, removing");
        let pid = started(&place);
        assert!(pid != dead && log_lines(&place, "stale pidfile, removing") == stale + 1, "{signal}");
        place.kill();
    }
    for content in ["", "1\n"] {
        fs::write(place.path("own/p.pid"), content).unwrap();
        started(&place);
        place.kill();
    }
    fs::write(place.path("own/p.pid"), "precious").unwrap();
    let text = refused(&place, &["-d"]);
    assert!(
        text.contains("exists but holds no process id: correct the setting pidfile, or remove that file"),
        "{text}"
    );
    assert_eq!(place.read("own/p.pid"), "precious");
}

pub(super) fn missing_directories_are_made_or_explained() {
    if !is_root() {
        return;
    }
    let settings = "pidfile = HERE/run/p.pid\nunix_socket_dir = HERE/run\nlogfile = HERE/logs/log\n";
    // By root, where only root may write: they belong to the user who serves.
    let place = Place::new(&format!("{settings}user = nobody"));
    assert_eq!(place.ended(&[], &["-d"]), (Some(0), String::new()));
    for name in ["run", "logs"] {
        let made = fs::metadata(place.path(name)).unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (nobody().0, nobody().1, 0o755), "{name}");
        let line = format!("directory {} was missing: made", place.path(name).display());
        assert!(place.read("logs/log").contains(&line), "{}", place.read("logs/log"));
    }
    assert!(place.path(&format!("run/.s.PGSQL.{}", place.port)).exists());
    place.kill();
    // By the user who serves, where that one may write.
    let own = Place::new(&settings.replace("HERE", "HERE/own"));
    assert_eq!(own.ended(&words(&ordinary()), &["-d"]), (Some(0), String::new()));
    assert!(own.path("own/run/p.pid").exists() && own.path("own/logs/log").exists());
    own.kill();
    // By nobody: the command that does it.
    for (settings, what) in [
        ("pidfile = HERE/run/p.pid", "could not create pidfile"),
        ("pidfile = HERE/own/p.pid\nunix_socket_dir = HERE/run", "cannot listen on unix socket"),
        ("pidfile = HERE/own/p.pid\nlogfile = HERE/run/log", "could not open log file"),
    ] {
        let place = Place::new(settings);
        let text = refused(&place, &["-d"]);
        let group = nix::unistd::Group::from_gid(nobody().1.into()).unwrap().unwrap().name;
        let command = format!("as root: install -d -o nobody -g {group} {}", place.path("run").display());
        assert!(text.starts_with("pgtandem: ") && text.contains(what) && text.contains(&command), "{text}");
        await_that(|| place.processes().is_empty());
    }
    // Deeper than one level: not even by root.
    let deep = Place::new("pidfile = HERE/run/deep/p.pid\nuser = nobody");
    let (code, text) = deep.ended(&[], &[]);
    assert!(code == Some(1) && text.contains("no such directory; as root: install -d"), "{text}");
}

pub(super) fn an_unwritable_directory_is_explained() {
    if !is_root() {
        return;
    }
    let place = Place::new("pidfile = HERE/run/p.pid\nuser = nobody");
    fs::create_dir(place.path("run")).unwrap();
    let directory = place.path("run");
    let (code, text) = place.ended(&[], &["-d"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("could not create pidfile") && text.contains("Permission denied"), "{text}");
    assert!(text.contains("user nobody may not write in that directory; let it: chown nobody:"), "{text}");
    // The command, as it was said, helps.
    let (_, command) = text.trim().trim_end_matches(')').split_once("let it: ").unwrap();
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    assert_eq!(place.ended(&[], &["-d"]), (Some(0), String::new()));
    place.kill();
    // One that others use too must not change hands.
    let _ = fs::remove_file(directory.join("p.pid"));
    fs::write(directory.join("of-others"), "").unwrap();
    chown(&directory, Some(0), Some(0)).unwrap();
    let (code, text) = place.ended(&[], &[]);
    assert!(code == Some(1) && text.contains("give it one of its own, as root: install -d -o nobody"), "{text}");
}

pub(super) fn the_background_needs_a_pidfile() {
    let place = Place::new("");
    let text = refused(&place, &["-d"]);
    assert!(text.contains("daemon needs pidfile configured: add a line such as pidfile = /run/pgtandem/"), "{text}");
    // Nothing to lock, nothing to refuse, in the foreground.
    let mut child = place.spawn(&words(&ordinary()));
    await_that(|| place.answers());
    place.signal(Signal::SIGQUIT);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

pub(super) fn a_failure_in_the_background_reaches_the_caller() {
    let place = Place::new(PIDFILE);
    started(&place);
    let other = Place::with_port(PIDFILE, place.port);
    let text = refused(&other, &["-d"]);
    let words = format!("pgtandem: cannot listen on 127.0.0.1:{}: Address already in use", place.port);
    assert!(text.starts_with(&words), "{text}");
    await_that(|| log_lines(&other, "FATAL cannot listen on 127.0.0.1") == 1);
    assert!(!other.path("own/p.pid").exists());
    await_that(|| other.processes().is_empty());
}

pub(super) fn open_files_are_allowed_or_the_log_says_what_does_not_fit() {
    let settings = format!("{PIDFILE}max_client_conn = 1000\n");
    let low = ["prlimit", "--nofile=256:512"];
    // An ordinary user: up to the hard limit.
    let place = Place::new(&settings);
    let user = ordinary();
    let before = [&low[..], &words(&user)].concat();
    assert_eq!(place.ended(&before, &["-d"]), (Some(0), String::new()));
    let log = place.read("own/log");
    assert!(
        log.contains("kernel file descriptor limit: 512 (hard: 512); max_client_conn: 1000, max expected fd use: 1084")
    );
    assert!(log.contains("WARNING only 512 files can be open at once, but max_client_conn = 1000"), "{log}");
    assert!(log.contains("Set LimitNOFILE=1084 in the systemd unit (or ulimit -n 1084 before the start)"), "{log}");
    // Root: as far as it takes, unless a container has taken CAP_SYS_RESOURCE away.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = u64::from_str_radix(fields(&status).get("CapEff").unwrap(), 16).unwrap();
    if is_root() && effective & (1 << 24) != 0 {
        let place = Place::new(&format!("{settings}user = nobody"));
        assert_eq!(place.ended(&low, &["-d"]), (Some(0), String::new()));
        let log = place.read("own/log");
        assert!(log.contains("limit: 1084 (hard: 1084)") && !log.contains("files can be open"), "{log}");
    }
}

/// How an operator gets at the user who serves, `su - postgres -c` where there is one, and that user, whose `directory` it is.
fn operator(directory: &Path) -> (fn(&str) -> Command, u32) {
    fn words(words: &[&str], script: &str) -> Command {
        let (first, rest) = words.split_first().unwrap();
        let mut command = Command::new(first);
        command.args(rest).arg(script);
        command
    }
    if !is_root() {
        return (|script| words(&["sh", "-c"], script), getuid().as_raw());
    }
    let Some(user) = User::from_name("postgres").unwrap() else {
        return (|script| words(&["su", "-s", "/bin/sh", NOBODY, "-c"], script), nobody().0);
    };
    chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    (|script| words(&["su", "-", "postgres", "-c"], script), user.uid.as_raw())
}

/// The operators' sequences, with `pkill --pidfile` for `pkill NAME`, which would end every pooler of this machine.
pub(super) fn old_scripts_work() {
    let place = Place::new(PIDFILE);
    let directory = place.path("own");
    let (shell, user) = operator(&directory);
    let shell = |script: &str| {
        let output = shell(script).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let start = format!("{} -d {}", place.path("pgtandem").display(), place.path("p.ini").display());
    let pidfile = place.path("own/p.pid");
    let pidfile = pidfile.display();
    assert_eq!(shell(&start), (Some(0), String::new()));
    assert!(place.answers(), "it was ready when the caller ended");
    let found = fs::metadata(place.path("own/p.pid")).unwrap();
    assert_eq!((found.uid(), found.permissions().mode() & 0o777), (user, 0o644));
    // Both ways to reload.
    for (nth, reload) in
        [format!("kill -HUP `cat {pidfile}`"), format!("pkill -HUP --pidfile {pidfile}")].iter().enumerate()
    {
        assert_eq!(shell(reload).0, Some(0));
        await_that(|| log_lines(&place, "got SIGHUP, re-reading config") == nth + 1);
        await_that(|| log_lines(&place, "is in force") == nth + 1);
    }
    let (code, text) = shell(&start);
    assert!(code == Some(1) && text.contains("another instance running?"), "{text}");
    // "Restart (if needed)": no pause between the two commands, a client there or not, by every signal.
    for signal in ["TERM", "INT", "QUIT"] {
        for _ in 0..3 {
            let before = place.read("own/p.pid");
            let _client = if signal == "QUIT" { place.ask() } else { None };
            let (code, text) = shell(&format!("pkill -{signal} --pidfile {pidfile}; {start}"));
            // All that may be said is that it waits.
            let waits = text.is_empty() || text.trim_end().ends_with("is shutting down, waiting for its end");
            assert!(code == Some(0) && waits, "{signal}: {text}");
            assert!(place.answers() && place.read("own/p.pid") != before, "{signal}");
        }
    }
    place.signal(Signal::SIGINT);
    await_that(|| place.processes().is_empty());
    assert!(!place.path("own/p.pid").exists());
}
