//! No process and no thread of ours is root, or could become it, from the first byte that a client gets on.
//!
//! Two proofs. One looks from outside: while a client tries to get an answer, every thread of every process is looked at in
//! /proc again and again, and whatever is seen after the first byte of an answer must be harmless. The other does not depend
//! on luck: in a record of the system calls everything is given up before the first thread, and before a client is accepted.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::program::{Place, as_nobody, nobody, words};
use crate::{await_that, fields, is_root};

/// How long is looked on after the first byte.
const WATCH: Duration = Duration::from_millis(600);

/// Two worker threads at least, and the threads that they start.
const SETTINGS: &str = "worker_threads = 4\npidfile = HERE/own/p.pid\nlogfile = HERE/own/log";

const NOTHING: &str = "0000000000000000";

/// What `/proc/PID/task/TID/status` must say.
fn assert_harmless(status: &str, bounding: &str) {
    let field = fields(status);
    let of = |name: &str| field.get(name).copied().unwrap_or_default();
    for name in ["Uid", "Gid"] {
        let ids: Vec<&str> = of(name).split_whitespace().collect();
        assert!(ids.len() == 4 && ids.iter().all(|id| *id != "0"), "{name}: {status}");
    }
    assert!(of("Groups").split_whitespace().all(|group| group != "0"), "{status}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(of(set), NOTHING, "{set}: {status}");
    }
    assert_eq!((of("CapBnd"), of("NoNewPrivs")), (bounding, "1"), "{status}");
}

/// The status of every thread of every process of this place.
fn statuses(place: &Place) -> Vec<String> {
    let tasks = |pid: i32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let status = |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("status")).ok();
    let processes = place.processes();
    // One that ends is left out by the kernel's own account: its memory and privileges are gone.
    processes.into_iter().flat_map(tasks).filter_map(status).filter(|text| !text.contains("\nState:\tZ")).collect()
}

/// Start the program and look on.
fn watched(place: &Place, start: &mut Command, bounding: &str) {
    let (answered, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (most_threads, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut started = start.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let look = || {
        // Only if the byte was there before the look began does it count.
        let counts = answered.load(Ordering::SeqCst);
        let all = statuses(place);
        if counts {
            all.iter().for_each(|status| assert_harmless(status, bounding));
            most_threads.fetch_max(all.len(), Ordering::SeqCst);
            looks.fetch_add(1, Ordering::SeqCst);
        }
    };
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                look();
            }
        });
        let until = Instant::now() + Duration::from_secs(20);
        while place.ask().is_none() {
            assert!(Instant::now() < until, "no answer: {}", place.read("own/log"));
        }
        answered.store(true, Ordering::SeqCst);
        look();
        thread::sleep(WATCH / 2);
        place.signal(Signal::SIGHUP);
        assert!(place.answers());
        thread::sleep(WATCH / 2);
        done.store(true, Ordering::SeqCst);
        watcher.join().unwrap();
    });
    assert!(looks.load(Ordering::SeqCst) > 3 && most_threads.load(Ordering::SeqCst) >= 4, "nothing was seen");
    place.signal(Signal::SIGQUIT);
    started.wait().unwrap();
    await_that(|| place.processes().is_empty());
    assert!(place.read("own/log").contains("got SIGHUP"));
}

pub(super) fn seen_from_outside() {
    if !is_root() {
        let place = Place::new(SETTINGS);
        let bounding = fs::read_to_string("/proc/self/status").unwrap();
        watched(&place, &mut place.command(&[], &[]), fields(&bounding).get("CapBnd").unwrap());
        return;
    }
    // As root: by the setting, by the option, in the background.
    let place = Place::new(&format!("{SETTINGS}\nuser = nobody"));
    watched(&place, &mut place.command(&[], &[]), NOTHING);
    let place = Place::new(&format!("{SETTINGS}\nuser = nobody"));
    watched(&place, &mut place.command(&[], &["-d"]), NOTHING);
    let place = Place::new(SETTINGS);
    watched(&place, &mut place.command(&[], &["-u", &nobody().0.to_string()]), NOTHING);

    // As an ordinary user, with what it was given of the bounding set: only CAP_SETPCAP could take that away.
    let all = fs::read_to_string("/proc/self/status").unwrap();
    let all = *fields(&all).get("CapBnd").unwrap();
    for (options, bounding) in [
        (&[][..], all),
        (&["--bounding-set=-all"], NOTHING),
        (&["--inh-caps=+setpcap", "--ambient-caps=+setpcap"], NOTHING),
    ] {
        let place = Place::new(SETTINGS);
        watched(&place, &mut place.command(&words(&as_nobody(options)), &[]), bounding);
    }
    a_low_port_by_an_ambient_capability(all);
}

/// As a unit with AmbientCapabilities=CAP_NET_BIND_SERVICE does: the port is bound, then the capability is gone.
fn a_low_port_by_an_ambient_capability(all: &str) {
    let Some(port) = (1..1024).rev().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) else { return };
    let options = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"];
    let place = Place::with_port(SETTINGS, port);
    watched(&place, &mut place.command(&words(&as_nobody(&options)), &[]), all);
    let without = Place::with_port(SETTINGS, port);
    // Where low ports are anybody's (net.ipv4.ip_unprivileged_port_start) there is nothing to refuse.
    if fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").is_ok_and(|text| text.trim() == "1024") {
        let (code, text) = without.ended(&words(&as_nobody(&[])), &[]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("Permission denied") && text.contains("CAP_NET_BIND_SERVICE"), "{text}");
    }
}

pub(super) fn given_up_before_a_client_is_accepted() {
    if is_root() {
        assert!(Command::new("strace").arg("-V").output().is_ok(), "install strace: apt-get install strace");
        recorded(&[]);
        recorded(&["-d"]);
    }
}

/// The thread and the call of each line, without questions to the kernel. A call that others interrupt takes two lines: it
/// counts from the first if it begins something (a thread, a client), from the second if it gives something up.
fn calls(record: &str) -> Vec<(&str, String)> {
    let mut open = HashMap::new();
    let mut calls = Vec::new();
    for (thread, call) in record.lines().filter_map(|line| line.split_once(' ')) {
        if let Some(begin) = call.strip_suffix("<unfinished ...>") {
            if begin.contains("accept4(") || begin.contains("clone") {
                calls.push((thread, begin.to_owned()));
            } else {
                open.insert(thread, begin);
            }
        } else if let Some((_, end)) = call.split_once(" resumed>") {
            calls.extend(open.remove(thread).map(|begin| (thread, format!("{}{end}", begin.trim_end()))));
        } else {
            calls.push((thread, call.to_owned()));
        }
    }
    calls.retain(|(_, call)| !call.contains("CAPBSET_READ") && !call.contains("AMBIENT_IS_SET"));
    calls
}

fn recorded(args: &[&str]) {
    let place = Place::new(&format!("{SETTINGS}\nuser = nobody"));
    let record = place.path("record");
    let trace = "trace=setgroups,setresgid,setresuid,capset,prctl,setuid,clone,clone3,accept4,listen,capget";
    let before = ["strace", "-f", "-q", "-e", trace, "-o", record.to_str().unwrap()];
    let mut child = place.command(&before, args).stderr(Stdio::null()).spawn().unwrap();
    await_that(|| place.answers());
    place.signal(Signal::SIGQUIT);
    child.wait().unwrap();
    let record = place.read("record");
    let lines = calls(&record);
    let text = lines.iter().fold(String::new(), |text, (thread, call)| format!("{text}{thread} {call}\n"));
    let caller = lines.first().unwrap().0;
    let server = lines.iter().find(|(_, call)| call.contains("listen(")).unwrap().0;
    let find = |pid: &str, words: &[&str]| {
        let is_it =
            |line: &(&str, String)| (pid.is_empty() || line.0 == pid) && words.iter().all(|word| line.1.contains(word));
        lines.iter().position(is_it).unwrap_or_else(|| panic!("{pid} {words:?}\n{text}"))
    };
    let accepted = find("", &["accept4("]);
    let order = [
        find(server, &["listen("]),
        find(server, &["PR_CAPBSET_DROP"]),
        find(server, &["setgroups("]),
        find(server, &["setresgid("]),
        find(server, &["setresuid("]),
        find(server, &["PR_CAP_AMBIENT_CLEAR_ALL"]),
        // Those that went with the change of user need not be given up; there are none left in any case.
        find(server, &["capget(", "effective=0,", "permitted=0,", "inheritable=0}"]),
        find(server, &["PR_SET_NO_NEW_PRIVS"]),
        find(server, &["setuid(0)", "EPERM"]),
        find(server, &["CLONE_THREAD"]),
        accepted,
    ];
    assert!(order.is_sorted(), "{order:?}\n{text}");
    // Who waits for the one in the background is no more root than that.
    assert!(find(caller, &["setuid(0)", "EPERM"]) < accepted && (caller == server) == args.is_empty(), "{text}");
    // The kernel allows it again with the change of user.
    let between = lines.get(find(server, &["setresuid("])..find(server, &["CLONE_THREAD"])).unwrap();
    let undumpable = |line: &&(&str, String)| line.0 == server && line.1.contains("PR_SET_DUMPABLE, SUID_DUMP_DISABLE");
    assert!(between.iter().any(|line| undumpable(&line)), "{text}");
}
