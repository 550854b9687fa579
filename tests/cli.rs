//! The command line as a shell sees it: what the program prints, where, and its exit status.

#![expect(clippy::expect_used, reason = "a failing case must stop")]

use std::process::{Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pgtandem");

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).stdin(Stdio::null()).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn version_and_help_go_to_stdout() {
    for flag in ["--version", "-V"] {
        let output = run(&[flag]);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
        let first = text(&output.stdout).lines().next().unwrap_or_default().to_owned();
        assert_eq!(first, pgtandem::daemon::cli::VERSION_LINE);
        assert!(first.starts_with("PgBouncer 1.25.2 "), "{first}");
    }
    for flag in ["--help", "-h"] {
        let output = run(&[flag]);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
        let help = text(&output.stdout);
        assert!(help.starts_with(&format!("{PROGRAM} is a connection pooler for PostgreSQL.\n")), "{help}");
        for option in ["-d, --daemon", "-q, --quiet", "-R, --reboot", "-u, --user", "-v, --verbose", "-V, --version"] {
            assert!(help.contains(option), "{option} is missing in {help}");
        }
        assert!(
            help.contains("check [-q] [--without-files] [--pgbouncer] CONFIG_FILE")
                && help.contains("convert CONFIG_FILE"),
            "{help}"
        );
        assert!(help.contains("address-helper CONFIG_FILE"), "{help}");
    }
}

#[test]
fn a_bad_command_line_ends_with_status_1_and_says_where_help_is() {
    for (args, reason) in [
        (&[][..], "no configuration file specified"),
        (&["-q"], "no configuration file specified"),
        (&["check"], "no configuration file specified"),
        (&["--no-such-option", "x.ini"], "unrecognized option '--no-such-option'"),
        (&["-x", "x.ini"], "invalid option -- 'x'"),
        (&["-u"], "option '--user' requires an argument"),
    ] {
        let output = run(args);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{args:?}");
        let want = format!("{PROGRAM}: {reason}\nTry \"{PROGRAM} --help\" for more information.\n");
        assert_eq!(text(&output.stderr), want, "{args:?}");
    }
}

#[test]
fn help_into_a_closed_pipe_is_no_crash() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Command::new(PROGRAM).arg("--help").stdout(writer).stderr(Stdio::null()).status();
    assert_eq!(status.expect("the program starts").code(), Some(0));
}

#[test]
fn check_tells_how_each_setting_does_beside_pgbouncers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.ini");
    let settings = "[pgbouncer]\nauth_type = trust\nmax_client_conn = 7\npkt_buf = 8192\nauth_query = SELECT 1\n";
    std::fs::write(&file, settings).unwrap();
    let output = run(&["check", "--without-files", "--pgbouncer", file.to_str().unwrap()]);
    assert!(output.status.success());
    let told = text(&output.stdout);
    let verdict = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
    assert_eq!(verdict("max_client_conn").as_deref(), Some("same"));
    assert!(verdict("auth_query").unwrap().starts_with("better: "));
    assert!(verdict("pkt_buf").unwrap().starts_with("not needed: "));
    assert_eq!(verdict("default_pool_size"), None);
}
