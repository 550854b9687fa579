//! What can only be seen from outside a process, or by one that has a single thread: change of user, the background, limits,
//! a closed stderr. Each case runs this program again in a role.

#![expect(clippy::unwrap_used, reason = "a failing case must stop")]

#[path = "process/instances.rs"]
mod instances;
#[path = "process/never_root.rs"]
mod never_root;
#[path = "process/program.rs"]
mod program;
#[path = "process/secret_files.rs"]
mod secret_files;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, getpid, getppid, getsid, setuid};
use pgtandem::daemon::log::{Log, fatal};
use pgtandem::daemon::pidfile::PidFile;
use pgtandem::daemon::process::{DescriptorLimit, Identity, daemonize, forbid_core_dumps, lock_down};
use tempfile::TempDir;

/// Events of other crates are not logged.
const OURS: &str = "pgtandem::test";

/// A user without privileges that every system has.
const NOBODY: &str = "nobody";

const CASES: &[(&str, fn())] = &[
    ("root_must_name_another_user", root_must_name_another_user),
    ("root_becomes_the_user_for_good", root_becomes_the_user_for_good),
    ("other_users_stay_who_they_are", other_users_stay_who_they_are),
    ("privileges_cannot_be_had_again", privileges_cannot_be_had_again),
    ("limits_are_set", limits_are_set),
    ("a_closed_stderr_is_borne", a_closed_stderr_is_borne),
    ("stderr_is_pgbouncers_lines_or_nothing", stderr_is_pgbouncers_lines_or_nothing),
    ("the_background_process_is_on_its_own", the_background_process_is_on_its_own),
    ("a_failed_start_in_the_background_is_seen", a_failed_start_in_the_background_is_seen),
    ("a_second_instance_in_the_background_is_refused", a_second_instance_in_the_background_is_refused),
    ("no_background_without_pidfile", no_background_without_pidfile),
    ("no_fork_beside_threads", no_fork_beside_threads),
    ("never_root_seen_from_outside", never_root::seen_from_outside),
    ("never_root_before_a_client_is_accepted", never_root::given_up_before_a_client_is_accepted),
    ("a_second_one_says_who_holds_the_pidfile", instances::a_second_one_says_who_holds_the_pidfile),
    ("a_file_left_behind_is_no_obstacle", instances::a_file_left_behind_is_no_obstacle),
    ("missing_directories_are_made_or_explained", instances::missing_directories_are_made_or_explained),
    ("an_unwritable_directory_is_explained", instances::an_unwritable_directory_is_explained),
    ("the_background_needs_a_pidfile", instances::the_background_needs_a_pidfile),
    ("a_failure_in_the_background_reaches_the_caller", instances::a_failure_in_the_background_reaches_the_caller),
    (
        "open_files_are_allowed_or_the_log_says_what_does_not_fit",
        instances::open_files_are_allowed_or_the_log_says_what_does_not_fit,
    ),
    ("old_scripts_work", instances::old_scripts_work),
    ("root_reads_secrets_before_it_becomes_the_user", secret_files::root_reads_them_before_it_becomes_the_user),
    ("who_else_may_read_secrets_is_told", secret_files::who_else_may_read_them_is_told_at_start_and_reload),
    ("sound_files_raise_no_alarm", secret_files::sound_files_raise_no_alarm),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = args.as_slice()
        && let Some(role) = first.strip_prefix("role:")
    {
        return play(role, rest);
    }
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = 0;
    for (name, case) in CASES {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            let passed = panic::catch_unwind(case).is_ok();
            failed += usize::from(!passed);
            let _ = writeln!(io::stdout(), "test {name} ... {}", if passed { "ok" } else { "FAILED" });
        }
    }
    ExitCode::from(u8::from(failed > 0))
}

fn say(text: &dyn std::fmt::Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn play(role: &str, args: &[String]) -> ExitCode {
    let arg = |index: usize| args.get(index).map(String::as_str);
    match role {
        "user" => play_user(arg(0)),
        "locked" => {
            lock_down().unwrap();
            say_status();
        }
        "limits" => {
            let limit = DescriptorLimit::raise(0).unwrap();
            forbid_core_dumps().unwrap();
            say(&limit.summary(100, 200));
            say(&nix::sys::prctl::get_dumpable().unwrap());
            say(&fs::read_to_string("/proc/self/limits").unwrap());
        }
        "log" => {
            let log = Log::start(0, arg(0) != Some("quiet")).unwrap();
            tracing::info!(target: OURS, "one\ntwo");
            tracing::debug!(target: OURS, "unseen");
            log.set_stderr(false);
            tracing::info!(target: OURS, "unseen");
            log.set_stderr(arg(0) != Some("quiet"));
            fatal(&"the end");
            say(&"went on");
            assert!(Log::start(0, true).is_err());
        }
        "daemon" => play_daemon(arg(0).unwrap(), Path::new(arg(1).unwrap())),
        "threads" => {
            let _other = thread::spawn(|| thread::sleep(Duration::from_secs(60)));
            say(&daemonize(Some(Path::new("x")), Duration::ZERO, || Ok(())).unwrap_err());
            say(&lock_down().unwrap_err());
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn play_user(user: Option<&str>) {
    match Identity::resolve(user) {
        Err(error) => say(&error),
        Ok(None) => say(&"stays"),
        Ok(Some(identity)) => {
            identity.assume().unwrap();
            say_status();
        }
    }
}

fn say_status() {
    say(&fs::read_to_string("/proc/self/status").unwrap());
    say(&format!("Again:\t{}", setuid(Uid::from_raw(0)).is_err()));
}

/// Go into the background and leave a report in the directory.
fn play_daemon(how: &str, dir: &Path) {
    let pidfile = dir.join("pid");
    let patience = if how == "slow" { Duration::from_millis(300) } else { Duration::from_secs(30) };
    let path = (how != "nofile").then_some(pidfile.as_path());
    let startup = match daemonize(path, patience, || Ok(())) {
        Ok(startup) => startup,
        Err(error) => {
            let _ = writeln!(io::stderr(), "FATAL {error}");
            std::process::exit(1)
        }
    };
    let _held = match PidFile::create(&pidfile) {
        Ok(held) => held,
        Err(error) => return startup.failed(&error),
    };
    match how {
        "fail" => startup.failed(&"no address to listen on"),
        "die" => std::process::exit(3),
        "slow" => thread::sleep(Duration::from_millis(900)),
        _ => {
            let report = format!(
                "pid {} parent {} session {} dir {} streams {:?}",
                getpid(),
                getppid(),
                getsid(None).unwrap(),
                std::env::current_dir().unwrap().display(),
                (0..3).map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()).collect::<Vec<_>>()
            );
            let _ = writeln!(io::stderr(), "nobody reads this");
            fs::write(dir.join("report"), report).unwrap();
            startup.ready();
            await_that(|| dir.join("stop").exists());
        }
    }
}

fn await_that(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain");
        thread::sleep(Duration::from_millis(5));
    }
}

fn is_root() -> bool {
    Uid::effective().is_root()
}

fn me() -> PathBuf {
    std::env::current_exe().unwrap()
}

fn role(role: &str, args: &[&str]) -> Command {
    let mut command = Command::new(me());
    command.arg(format!("role:{role}")).args(args).stdin(Stdio::null());
    command
}

/// Run to the end; what it printed. With a time limit, as one that hangs would hang the tests.
fn ended(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

/// The fields of `/proc/self/status`.
fn fields(text: &str) -> HashMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
}

fn assert_harmless(text: &str) {
    let status = fields(text);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status.get(set), Some(&"0000000000000000"), "{set}: {text}");
    }
    assert_eq!((status.get("NoNewPrivs"), status.get("Again")), (Some(&"1"), Some(&"true")), "{text}");
}

fn root_must_name_another_user() {
    if is_root() {
        for args in [&[][..], &[""], &["root"]] {
            let (_, text) = ended(&mut role("user", args));
            assert!(text.starts_with("PgBouncer should not run as root"), "{text}");
            assert!(text.contains("user = ") && text.contains("User=") && text.contains("su - "), "{text}");
        }
    }
    let (_, text) = ended(&mut role("user", &["no-such-user-here"]));
    assert!(text.starts_with("could not find user 'no-such-user-here' to switch to"), "{text}");
}

fn root_becomes_the_user_for_good() {
    if !is_root() {
        return;
    }
    let (_, text) = ended(&mut role("user", &[NOBODY]));
    let user = nix::unistd::User::from_name(NOBODY).unwrap().unwrap();
    let status = fields(&text);
    let four = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
    assert_eq!(status.get("Uid"), Some(&four(user.uid.as_raw()).as_str()), "{text}");
    assert_eq!(status.get("Gid"), Some(&four(user.gid.as_raw()).as_str()), "{text}");
    let groups = status.get("Groups").copied().unwrap_or_default();
    assert!(groups.split(' ').all(|group| group != "0"), "{text}");
    assert_eq!(status.get("CapBnd"), Some(&"0000000000000000"), "{text}");
    assert_harmless(&text);
}

/// As another user, in case this one is root: a copy that it may run.
fn as_nobody(dir: &Path, role: &str, args: &[&str]) -> Command {
    let user = nix::unistd::User::from_name(NOBODY).unwrap().unwrap();
    let copy = dir.join("copy");
    fs::copy(me(), &copy).unwrap();
    chown(&copy, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy);
    command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    command.arg(format!("role:{role}")).args(args).stdin(Stdio::null());
    command
}

fn other_users_stay_who_they_are() {
    if is_root() {
        let dir = TempDir::new().unwrap();
        assert_eq!(ended(&mut as_nobody(dir.path(), "user", &[])).1, "stays\n");
        assert_eq!(ended(&mut as_nobody(dir.path(), "user", &[NOBODY])).1, "stays\n");
        let (_, text) = ended(&mut as_nobody(dir.path(), "user", &["daemon"]));
        assert!(text.starts_with("failed to assume identity of user 'daemon': Operation not permitted"), "{text}");
    } else {
        assert_eq!(ended(&mut role("user", &[])).1, "stays\n");
    }
}

fn privileges_cannot_be_had_again() {
    let dir = TempDir::new().unwrap();
    let mut command = if is_root() { as_nobody(dir.path(), "locked", &[]) } else { role("locked", &[]) };
    assert_harmless(&ended(&mut command).1);
}

fn limits_are_set() {
    let (_, text) = ended(&mut role("limits", &[]));
    let limit = |name: &str| -> Vec<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().take(2).map(str::to_owned).collect()
    };
    assert_eq!(limit("Max core file size"), ["0", "0"], "{text}");
    let open = limit("Max open files");
    assert!(open.len() == 2 && open.first() == open.last(), "{text}");
    let number = open.first().cloned().unwrap_or_default();
    let summary = format!(
        "kernel file descriptor limit: {number} (hard: {number}); max_client_conn: 100, max expected fd use: 200\nfalse\n"
    );
    assert!(text.starts_with(&summary), "{text}");
}

fn a_closed_stderr_is_borne() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let (output, text) = ended(role("log", &[]).stderr(writer));
    assert_eq!((output.status.code(), text.as_str()), (Some(0), "went on\n"));
}

fn stderr_is_pgbouncers_lines_or_nothing() {
    // Else entries would go to a journal that this program was started under.
    let (output, _) = ended(role("log", &[]).env("TZ", "UTC").env_remove("JOURNAL_STREAM"));
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [first, second, third] = lines.as_slice() else { panic!("{text}") };
    let shape: String = first.chars().map(|char| if char.is_ascii_digit() { '0' } else { char }).collect();
    assert!(shape.starts_with("0000-00-00 00:00:00.000 UTC [0") && first.ends_with("] LOG one"), "{first}");
    assert_eq!(*second, "\ttwo");
    assert!(third.ends_with("] FATAL the end"), "{third}");
    assert!(ended(&mut role("log", &["quiet"])).0.stderr.is_empty());
}

fn the_background_process_is_on_its_own() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    let (output, _) = ended(role("daemon", &["serve", path]).current_dir(path));
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    // The caller ended, so it is ready: all is there.
    let report = fs::read_to_string(dir.path().join("report")).unwrap();
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    let words: Vec<&str> = report.split(' ').collect();
    let [_, own, _, parent, _, session, _, cwd, _, streams @ ..] = words.as_slice() else { panic!("{report}") };
    assert_eq!(*own, pid.trim(), "{report}");
    assert!(own != session && own != parent, "{report}");
    assert_eq!(PathBuf::from(cwd), dir.path().canonicalize().unwrap(), "{report}");
    assert_eq!(streams.join(" "), r#"["/dev/null", "/dev/null", "/dev/null"]"#, "{report}");
    fs::write(dir.path().join("stop"), "").unwrap();
    await_that(|| !dir.path().join("pid").exists());
}

fn a_failed_start_in_the_background_is_seen() {
    for (how, reason) in [
        ("fail", "pgtandem: no address to listen on\n"),
        ("die", "pgtandem: it ended before it was ready; its log says more\n"),
        ("slow", "pgtandem: not ready after 0 s; it goes on trying, its log says more\n"),
    ] {
        let dir = TempDir::new().unwrap();
        let (output, _) = ended(&mut role("daemon", &[how, dir.path().to_str().unwrap()]));
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()),
            (Some(1), reason),
            "{how}"
        );
        thread::sleep(Duration::from_millis(if how == "slow" { 1000 } else { 0 }));
    }
}

fn a_second_instance_in_the_background_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(ended(&mut role("daemon", &["serve", path])).0.status.code(), Some(0));
    let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
    let (output, _) = ended(&mut role("daemon", &["serve", path]));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("exists, another instance running?") && text.contains(pid.trim()), "{text}");
    fs::write(dir.path().join("stop"), "").unwrap();
    await_that(|| !dir.path().join("pid").exists());
}

fn no_background_without_pidfile() {
    let dir = TempDir::new().unwrap();
    let (output, _) = ended(&mut role("daemon", &["nofile", dir.path().to_str().unwrap()]));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("FATAL daemon needs pidfile configured: add a line such as pidfile = /"), "{text}");
}

fn no_fork_beside_threads() {
    let (_, text) = ended(&mut role("threads", &[]));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("more than one thread") && text.contains("other threads exist"), "{text}");
}
