use std::fs;
use std::io;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tempfile::TempDir;
use tracing::subscriber::with_default;

use super::line::{Clock, Facts, json_line, plain_line};
use super::*;

fn facts<'a>(level: &'static str, message: &'a str, fields: &'a str) -> Facts<'a> {
    Facts { pid: 4242, level, target: "pgtandem::pool", message, fields }
}

fn plain(time: &str, facts: &Facts<'_>) -> String {
    let mut clock = Clock::new();
    clock.set(time.parse::<Timestamp>().unwrap(), || TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap());
    let mut line = String::new();
    plain_line(&mut line, &clock, facts);
    line
}

#[test]
fn a_line_reads_as_pgbouncers() {
    let stamp = "2026-07-10T09:08:07.065Z";
    for (message, fields, want) in [
        ("process up", "", "process up"),
        ("C-0x1: db/user@[::1]:5 closing", "", "C-0x1: db/user@[::1]:5 closing"),
        ("server says: a\nb\nc\n", "", "server says: a\n\tb\n\tc"),
        ("closed", " why=\"no more\" n=3", "closed why=\"no more\" n=3"),
        ("user \u{1b}[31mroot\r\u{7f}\u{9b} é\tx", "", "user \\x1b[31mroot\\x0d\\x7f\\x9b é\tx"),
    ] {
        let want = format!("2026-07-10 11:08:07.065 CEST [4242] WARNING {want}\n");
        assert_eq!(plain(stamp, &facts("WARNING", message, fields)), want);
    }
    // Winter time, and a second before the epoch began.
    let log = facts("LOG", "x", "");
    assert_eq!(plain("2026-01-10T23:08:07.9999Z", &log), "2026-01-11 00:08:07.999 CET [4242] LOG x\n");
    assert_eq!(plain("1969-12-31T22:59:59.25Z", &log), "1969-12-31 23:59:59.250 CET [4242] LOG x\n");
    let theirs = Facts { target: "rustls::conn", ..facts("DEBUG", "x", "") };
    assert_eq!(plain("2026-01-10T23:08:07Z", &theirs), "2026-01-11 00:08:07.000 CET [4242] DEBUG rustls::conn: x\n");
}

#[test]
fn the_clock_moves_within_and_past_a_second() {
    let mut clock = Clock::new();
    let mut at = |time: &str| {
        clock.set(time.parse::<Timestamp>().unwrap(), || TimeZone::UTC);
        let mut line = String::new();
        plain_line(&mut line, &clock, &facts("LOG", "x", ""));
        line
    };
    assert_eq!(at("2026-01-10T23:59:59.001Z"), "2026-01-10 23:59:59.001 UTC [4242] LOG x\n");
    assert_eq!(at("2026-01-10T23:59:59.999Z"), "2026-01-10 23:59:59.999 UTC [4242] LOG x\n");
    assert_eq!(at("2026-01-11T00:00:00.000Z"), "2026-01-11 00:00:00.000 UTC [4242] LOG x\n");
    assert_eq!(at("2026-01-10T23:59:58.5Z"), "2026-01-10 23:59:58.500 UTC [4242] LOG x\n");
}

#[test]
fn a_json_line_is_one_object() {
    let now = "2026-07-10T09:08:07.065Z".parse().unwrap();
    let mut line = String::new();
    json_line(&mut line, now, &facts("LOG", "a \"b\"\n\u{1b}", "\"n\":1"));
    assert_eq!(
        line,
        "{\"ts\":\"2026-07-10T09:08:07.065Z\",\"level\":\"LOG\",\"pid\":4242,\"target\":\"pgtandem::pool\",\
         \"message\":\"a \\\"b\\\"\\n\\u001b\",\"fields\":{\"n\":1}}\n"
    );
}

/// Run `events` with a log that writes to a file; its text, times and process id cut off.
fn logged(verbosity: u32, form: LogFormat, events: impl FnOnce(&Log, &Path)) -> String {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let log = Log::new(verbosity, false);
    log.set_format(form).unwrap();
    log.reopen(Some(&path)).unwrap();
    with_default(log.subscriber(), || events(&log, &path));
    fs::read_to_string(path).unwrap()
}

fn bare(text: &str) -> Vec<String> {
    let pid = format!(" [{}] ", std::process::id());
    text.lines().map(|line| line.split_once(&pid).map_or(line, |(_, rest)| rest).to_owned()).collect()
}

fn every_level() {
    fatal(&"the end");
    tracing::error!(fatal = true, "the end too");
    tracing::error!(fatal = false, "e");
    tracing::warn!("w");
    tracing::info!("i");
    tracing::debug!("d");
    tracing::trace!("t");
    tracing::error!(target: "rustls::conn", "theirs");
    tracing::debug!(target: "pgtandem_other", "theirs");
    tracing::trace!(target: "rustls::conn", "too much");
}

#[test]
fn verbosity_decides_and_can_change_while_running() {
    let text = logged(0, LogFormat::Pgbouncer, |log, _| {
        for verbosity in [0, 1, 2, 3, 0] {
            log.set_verbosity(verbosity);
            assert_eq!(log.verbosity(), verbosity);
            every_level();
        }
    });
    let base = ["FATAL the end", "FATAL the end too", "ERROR e", "WARNING w", "LOG i"];
    let more = ["DEBUG d", "NOISE t", "ERROR rustls::conn: theirs", "DEBUG pgtandem_other: theirs"];
    let want: Vec<&str> =
        [0, 1, 2, 4, 0].iter().flat_map(|extra| base.iter().chain(&more[..*extra]).copied()).collect();
    assert_eq!(bare(&text), want);
}

#[test]
fn fields_stand_behind_the_message() {
    let text = logged(0, LogFormat::Pgbouncer, |_, _| {
        tracing::info!(db = "d1", why = "no more", n = 3, minus = -1, set = true, path = ?Path::new("/x"), "closed");
    });
    assert_eq!(bare(&text), ["LOG closed db=d1 why=\"no more\" n=3 minus=-1 set=true path=\"/x\""]);
}

#[test]
fn json_fields_keep_their_types() {
    let text = logged(0, LogFormat::Json, |_, _| {
        tracing::warn!(db = "d\"1", n = 3, minus = -1, half = 0.5, nan = f64::NAN, set = true, path = ?Path::new("/x"), "closed");
        fatal(&"end");
    });
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0]["fields"],
        serde_json::json!({"db": "d\"1", "n": 3, "minus": -1, "half": 0.5, "nan": "NaN", "set": true, "path": "\"/x\""})
    );
    assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"WARNING".into(), &"closed".into()));
    assert_eq!(lines[0]["target"], "pgtandem::daemon::log::tests");
    assert_eq!(lines[0]["pid"], std::process::id());
    assert!(lines[0]["ts"].as_str().unwrap().parse::<Timestamp>().is_ok());
    assert_eq!((&lines[1]["level"], lines[1].get("fields")), (&"FATAL".into(), None));
}

#[test]
fn long_texts_are_cut_and_stay_valid() {
    let long = "é".repeat(50_000);
    for form in [LogFormat::Pgbouncer, LogFormat::Json] {
        let text = logged(0, form, |_, _| {
            tracing::info!(field = long.as_str(), "x{long}");
            tracing::info!(first = 1, field = ?long, last = 2, "next");
        });
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line.len() < 20_000), "{form:?}");
        if form == LogFormat::Json {
            let values: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(values[1]["fields"], serde_json::json!({"first": 1, "last": 2}));
        }
    }
}

#[test]
fn a_value_that_logs_while_it_is_printed_does_no_harm() {
    struct Chatty;
    impl fmt::Display for Chatty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            tracing::info!("inner");
            f.write_str("outer")
        }
    }
    let text = logged(0, LogFormat::Pgbouncer, |_, _| tracing::info!("{Chatty}"));
    let lines = bare(&text);
    assert!(lines.contains(&"LOG outer".to_owned()), "{lines:?}");
}

#[test]
fn lines_are_in_the_file_when_the_call_returns_and_reopen_follows_a_rotation() {
    logged(0, LogFormat::Pgbouncer, |log, path| {
        let old = path.with_extension("1");
        tracing::info!("one");
        assert_eq!(bare(&fs::read_to_string(path).unwrap()), ["LOG one"]);
        fs::rename(path, &old).unwrap();
        tracing::info!("two");
        assert_eq!(bare(&fs::read_to_string(&old).unwrap()), ["LOG one", "LOG two"]);
        log.reopen(Some(path)).unwrap();
        tracing::info!("three");
        assert_eq!(bare(&fs::read_to_string(path).unwrap()), ["LOG three"]);

        let missing = path.with_file_name("no/log");
        let error = log.reopen(Some(&missing)).unwrap_err().to_string();
        assert!(error.contains("could not open log file") && error.contains("install -d -o "), "{error}");
        tracing::info!("four");
        assert_eq!(bare(&fs::read_to_string(path).unwrap()), ["LOG three", "LOG four"]);

        log.reopen(None).unwrap();
        tracing::info!("five");
        log.reopen(Some(path)).unwrap();
        tracing::info!("six");
        assert_eq!(bare(&fs::read_to_string(path).unwrap()), ["LOG three", "LOG four", "LOG six"]);
    });
}

#[test]
fn lines_of_many_threads_do_not_mix() {
    let text = logged(0, LogFormat::Pgbouncer, |log, _| {
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let subscriber = log.subscriber();
                scope.spawn(move || {
                    with_default(subscriber, || {
                        for line in 0..250 {
                            tracing::info!("{thread} {line} {}", "x".repeat(300));
                        }
                    });
                });
            }
        });
    });
    assert_eq!(text.lines().count(), 1000);
    assert!(text.lines().all(|line| line.ends_with(&"x".repeat(300)) && line.matches(" LOG ").count() == 1));
}

#[test]
fn a_line_is_one_write_and_its_failure_is_borne() {
    struct Broken(usize);
    impl Write for &mut Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut broken = Broken(0);
    write_line(&mut broken, b"a line\n");
    assert_eq!(broken.0, 1);
}

#[test]
fn a_journal_that_is_not_there_changes_nothing() {
    if Path::new("/run/systemd/journal/socket").exists() {
        return;
    }
    let text = logged(0, LogFormat::Pgbouncer, |log, _| {
        let error = log.set_format(LogFormat::Journald).unwrap_err().to_string();
        assert!(error.contains("log_format=journald"), "{error}");
        tracing::info!("still");
    });
    assert_eq!(bare(&text), ["LOG still"]);
}

#[test]
fn a_subject_is_for_journals_and_json_and_never_in_a_line_for_people() {
    use crate::ids::ClientId;
    use crate::net::stream::Peer;
    use crate::session::io::subject::Subject;
    let say = || {
        let peer = Peer::Unix { pid: Some(7), uid: None };
        let client = Subject::client(ClientId(1), "d\"1", "u", &peer);
        tracing::info!(subject = %client, "C-0x1: d\"1/u@unix(7) closing");
    };
    let text = logged(0, LogFormat::Pgbouncer, |_, _| say());
    assert_eq!(bare(&text), ["LOG C-0x1: d\"1/u@unix(7) closing"]);
    let line: serde_json::Value = serde_json::from_str(&logged(0, LogFormat::Json, |_, _| say())).unwrap();
    assert_eq!(
        line["fields"],
        serde_json::json!({"client": "C-0x1", "database": "d\"1", "user": "u", "peer": "unix(7)"})
    );
}

#[test]
fn priorities_stand_before_each_line_for_a_journal_that_reads_stderr() {
    assert_eq!(with_priority(b"a\n\tb\n", 4), b"<4>a\n<4>\tb\n");
}

#[test]
fn quiet_work_leaves_no_trace_and_what_it_calls_is_heard_elsewhere() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let place = |quiet: bool| tracing::info!("quiet {quiet}");
    let text = logged(0, LogFormat::Pgbouncer, |_, _| {
        runtime.block_on(async {
            quietly(async {
                place(true);
                tokio::task::yield_now().await;
                place(true);
            })
            .await;
            place(false);
        });
    });
    assert_eq!(bare(&text), ["LOG quiet false"]);
}
