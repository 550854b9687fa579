//! The command line: PgBouncer's flags, and the commands `check`, `convert`, `doctor` and `address-helper`.
//!
//! Errors read as PgBouncer's (getopt's words, then the `Try` line) and end with status 1, so that scripts written for it
//! go on working.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};

use super::doctor;
use super::helper;

/// The first line of `--version` and the value of `SHOW VERSION`: it starts as PgBouncer's does, since tools match that.
pub const VERSION_LINE: &str = concat!("PgBouncer 1.25.2 (pgtandem ", env!("CARGO_PKG_VERSION"), ")");

/// The lock file of the build, from which `--version` tells the versions of the libraries that matter for security.
const LOCK_FILE: &str = include_str!("../../Cargo.lock");

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Serve.
    Run(Run),
    /// Check a configuration file, serve nothing.
    Check(Check),
    /// Print a configuration file in the native TOML form.
    Convert {
        /// The configuration file.
        file: PathBuf,
    },
    /// Look at everything that a start with a configuration file needs, serve nothing.
    Doctor(doctor::Options),
    /// Hold floating addresses for a pooler.
    AddressHelper(helper::Options),
    /// Print [`version_text`].
    Version,
    /// Print this text.
    Help(String),
}

/// What to check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// The configuration file.
    pub file: PathBuf,
    /// Say only what is wrong.
    pub quiet: bool,
    /// Open none of the files that it names, such as keys: this machine does not have them.
    pub without_files: bool,
    /// Say of each setting how it does beside PgBouncer's.
    pub pgbouncer: bool,
}

/// How to serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The configuration file.
    pub config: PathBuf,
    /// Go into the background (`-d`).
    pub daemon: bool,
    /// Nothing on stderr (`-q`).
    pub quiet: bool,
    /// How often `-v` was given.
    pub verbose: u32,
    /// The user to become (`-u`); goes before the setting `user`.
    pub user: Option<String>,
    /// Take over from the running process (`-R`).
    pub reboot: bool,
}

/// A command line that cannot be obeyed. Its text is what goes to stderr, last line end excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError {
    program: String,
    reason: String,
    status: u8,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{0}: {1}\nTry \"{0} --help\" for more information.", self.program, self.reason)
    }
}

impl std::error::Error for UsageError {}

/// Read the command line, the program's name first (as it was called: it stands in help and errors).
///
/// A first argument `check`, `convert`, `doctor` or `address-helper` is the command, even if there is a file of that name; `./check` and `-- check`
/// are files.
///
/// # Errors
/// What getopt would say against it, or `no configuration file specified`.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let program = args.first().map_or_else(|| "pgtandem".to_owned(), |name| name.to_string_lossy().into_owned());
    // To a monitoring system, 1 would be a warning about what was looked at.
    let status = if args.get(1).is_some_and(|word| word == "doctor") { doctor::UNKNOWN } else { 1 };
    match whole_command(&program).try_get_matches_from(args) {
        Ok(matches) => invocation(&matches).ok_or_else(|| UsageError { reason: NO_FILE.to_owned(), program, status }),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp => Ok(Invocation::Help(error.render().to_string())),
            ErrorKind::DisplayVersion => Ok(Invocation::Version),
            _ => Err(UsageError { reason: reason(&error), program, status }),
        },
    }
}

/// The text of `--version`: [`VERSION_LINE`], then the libraries.
#[must_use]
pub fn version_text() -> String {
    let version = |name| locked_version(name).unwrap_or("unknown");
    format!(
        "{VERSION_LINE}\nasync runtime: tokio {}\ntls: rustls {} (aws-lc-rs {})\nsystemd: yes\n",
        version("tokio"),
        version("rustls"),
        version("aws-lc-rs")
    )
}

/// Print the answer to `--version` or `--help` on stdout. A closed stdout is no error.
#[must_use]
pub fn answer(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(out, "{text}{newline}").and_then(|()| out.flush());
    ExitCode::SUCCESS
}

/// Print why nothing can be done on stderr. A closed stderr is no error.
#[must_use]
pub fn fail(error: &dyn fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "{error}");
    ExitCode::FAILURE
}

/// Print why the command line is refused on stderr; the exit status is 1, or 3 for `doctor`.
#[must_use]
pub fn refuse(error: &UsageError) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "{error}");
    ExitCode::from(error.status)
}

const NO_FILE: &str = "no configuration file specified";

fn flag(long: &'static str, short: char) -> Arg {
    Arg::new(long).long(long).short(short).action(ArgAction::SetTrue)
}

fn user() -> Arg {
    Arg::new("user").long("user").short('u').allow_hyphen_values(true).value_hint(ValueHint::Username)
}

fn file() -> Arg {
    Arg::new("file").value_parser(value_parser!(PathBuf)).value_hint(ValueHint::FilePath)
}

/// What users may say on the command line of a program that is called like this: shells' completions are made of it
/// (`packaging/completions`).
#[must_use]
pub fn command(program: &str) -> Command {
    // No argument is `required`: what is missing is reported in PgBouncer's words. A flag in front makes `check` a file, as
    // PgBouncer would take it: whoever wants the command writes it first.
    Command::new("pgtandem")
        .override_help(help(program))
        .version(VERSION_LINE)
        .args_override_self(true)
        .infer_long_args(true)
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .arg(flag("daemon", 'd'))
        .arg(flag("quiet", 'q'))
        .arg(flag("reboot", 'R'))
        .arg(Arg::new("verbose").long("verbose").short('v').action(ArgAction::Count))
        .arg(user())
        .arg(file())
        .subcommand(
            Command::new("check")
                .about("say all that is wrong with a configuration")
                .override_help(help(program))
                .infer_long_args(true)
                .arg(flag("quiet", 'q'))
                .arg(Arg::new("without-files").long("without-files").action(ArgAction::SetTrue))
                .arg(Arg::new("pgbouncer").long("pgbouncer").action(ArgAction::SetTrue))
                .arg(file()),
        )
        .subcommand(
            Command::new("convert")
                .about("print a configuration in the native TOML form")
                .override_help(help(program))
                .arg(file()),
        )
        .subcommand(
            Command::new("address-helper")
                .about("hold the floating addresses of a pooler")
                .override_help(help(program))
                .args_override_self(true)
                .arg(user())
                .arg(file()),
        )
        .subcommand(
            Command::new("doctor")
                .about("look at all that serving a configuration needs")
                .override_help(help(program))
                .args_override_self(true)
                .infer_long_args(true)
                .arg(flag("quiet", 'q'))
                .arg(Arg::new("json").long("json").action(ArgAction::SetTrue))
                .arg(Arg::new("timeout").long("timeout").value_parser(value_parser!(u64).range(1..=3600)))
                .arg(user())
                .arg(file()),
        )
}

/// The same, and what pgtandem says to itself: how it starts its address helper.
fn whole_command(program: &str) -> Command {
    let child = || Arg::new("child").long("child").action(ArgAction::SetTrue);
    command(program).mut_subcommand("address-helper", |helper| helper.arg(child()))
}

fn help(program: &str) -> String {
    format!(
        "{program} is a connection pooler for PostgreSQL.

Usage:
  {program} [OPTION]... CONFIG_FILE
  {program} check [-q] [--without-files] [--pgbouncer] CONFIG_FILE
  {program} convert CONFIG_FILE
  {program} doctor [-q] [--json] [--timeout=SECONDS] [-u USERNAME] CONFIG_FILE
  {program} address-helper CONFIG_FILE

Options:
  -d, --daemon         run in background (as a daemon)
  -q, --quiet          write nothing to stderr
  -R, --reboot         take over from the running process
  -u, --user=USERNAME  assume identity of USERNAME
  -v, --verbose        log more; may be given several times
  -V, --version        show version, then exit
  -h, --help           show this help, then exit

Commands:
  check                say all that is wrong with CONFIG_FILE (with -q only that), then exit
                       --without-files: look at no file that it names, such as keys, for a machine that lacks them
                       --pgbouncer: say of each setting that is not at its default how it does beside PgBouncer's
  convert              print CONFIG_FILE in the native TOML form, then exit
  doctor               look at all that serving CONFIG_FILE needs: user, files, directories, ports, limits,
                       certificates, servers and logins, clock; say what is wrong and what to do. Changes nothing.
                       -q: only what is wrong; --json: for programs; -u: look as USERNAME (root can);
                       --timeout: give up after so many seconds (15).
                       Exit status, as monitoring plugins: 0 nothing wrong, 1 warnings, 2 errors, 3 nothing looked at
  address-helper       hold the floating addresses of [ha] for a pooler with the same CONFIG_FILE; started by
                       pgtandem-helper.service, or where there is none by pgtandem itself

To serve from a file that is named as a command, write ./check.
"
    )
}

fn invocation(matches: &ArgMatches) -> Option<Invocation> {
    let file = |matches: &ArgMatches| matches.get_one::<PathBuf>("file").cloned();
    match matches.subcommand() {
        Some(("check", sub)) => Some(Invocation::Check(Check {
            file: file(sub)?,
            quiet: sub.get_flag("quiet"),
            without_files: sub.get_flag("without-files"),
            pgbouncer: sub.get_flag("pgbouncer"),
        })),
        Some(("doctor", sub)) => Some(Invocation::Doctor(doctor::Options {
            file: file(sub)?,
            quiet: sub.get_flag("quiet"),
            json: sub.get_flag("json"),
            user: sub.get_one::<String>("user").cloned(),
            timeout: sub.get_one("timeout").map_or(doctor::TIMEOUT, |seconds| Duration::from_secs(*seconds)),
        })),
        Some(("address-helper", sub)) => Some(Invocation::AddressHelper(helper::Options {
            file: file(sub)?,
            child: sub.get_flag("child"),
            user: sub.get_one::<String>("user").cloned(),
        })),
        Some((_, sub)) => Some(Invocation::Convert { file: file(sub)? }),
        None => Some(Invocation::Run(Run {
            config: file(matches)?,
            daemon: matches.get_flag("daemon"),
            quiet: matches.get_flag("quiet"),
            verbose: u32::from(matches.get_count("verbose")),
            user: matches.get_one::<String>("user").cloned(),
            reboot: matches.get_flag("reboot"),
        })),
    }
}

/// The parser's finding in getopt's words.
fn reason(error: &clap::Error) -> String {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    // A second file is seen as a misplaced subcommand.
    let argument = named(ContextKind::InvalidSubcommand).or_else(|| named(ContextKind::InvalidArg)).unwrap_or_default();
    // Seen as "--user <user>": only the name counts.
    let option = argument.split([' ', '=']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument | ErrorKind::ArgumentConflict => match option.strip_prefix('-') {
            Some("") | None => format!("only one configuration file can be given, what is '{argument}' for?"),
            Some(long) if long.starts_with('-') => format!("unrecognized option '{option}'"),
            Some(short) => format!("invalid option -- '{short}'"),
        },
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            format!("option '{option}' requires an argument")
        }
        ErrorKind::TooManyValues => format!("option '{option}' doesn't allow an argument"),
        ErrorKind::ValueValidation => format!("option '{option}' takes a number from 1 to 3600"),
        ErrorKind::InvalidUtf8 => "an option's value is not UTF-8 text".to_owned(),
        _ => error.to_string().lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    }
}

fn locked_version(name: &str) -> Option<&'static str> {
    let mut lines = LOCK_FILE.lines();
    lines.find(|line| line.strip_prefix("name = ").is_some_and(|rest| rest.trim_matches('"') == name))?;
    lines.next()?.strip_prefix("version = ").map(|rest| rest.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, String> {
        parse(line.split(' ').map(OsString::from)).map_err(|error| error.to_string())
    }

    fn run(line: &str) -> Run {
        match parsed(line) {
            Ok(Invocation::Run(run)) => run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn pgbouncers_flags_mean_the_same() {
        let base = Run { config: "f.ini".into(), ..Run::default() };
        for (line, want) in [
            ("p f.ini", base.clone()),
            ("p -d f.ini", Run { daemon: true, ..base.clone() }),
            ("p f.ini -d", Run { daemon: true, ..base.clone() }),
            ("p -d -d --daemon f.ini", Run { daemon: true, ..base.clone() }),
            ("p -qd f.ini", Run { daemon: true, quiet: true, ..base.clone() }),
            ("p -dq f.ini", Run { daemon: true, quiet: true, ..base.clone() }),
            ("p -vv f.ini", Run { verbose: 2, ..base.clone() }),
            ("p -v --verbose f.ini -v", Run { verbose: 3, ..base.clone() }),
            ("p --quiet f.ini", Run { quiet: true, ..base.clone() }),
            ("p --qui f.ini", Run { quiet: true, ..base.clone() }),
            ("p --reboot --quiet f.ini", Run { quiet: true, reboot: true, ..base.clone() }),
            ("p -R f.ini", Run { reboot: true, ..base.clone() }),
            ("p -u postgres f.ini", Run { user: Some("postgres".into()), ..base.clone() }),
            ("p -upostgres f.ini", Run { user: Some("postgres".into()), ..base.clone() }),
            ("p --user=postgres f.ini", Run { user: Some("postgres".into()), ..base.clone() }),
            ("p --user postgres f.ini", Run { user: Some("postgres".into()), ..base.clone() }),
            ("p -qdu postgres f.ini", Run { daemon: true, quiet: true, user: Some("postgres".into()), ..base.clone() }),
            ("p -u a -u b f.ini", Run { user: Some("b".into()), ..base.clone() }),
            ("p -- -f", Run { config: "-f".into(), ..base.clone() }),
        ] {
            assert_eq!(run(line), want, "{line}");
        }
    }

    #[test]
    fn commands_win_over_files_of_the_same_name() {
        let check = |file: &str, quiet, without_files| {
            Ok(Invocation::Check(Check { file: file.into(), quiet, without_files, pgbouncer: false }))
        };
        assert_eq!(parsed("p check f"), check("f", false, false));
        assert_eq!(parsed("p check -q f"), check("f", true, false));
        assert_eq!(parsed("p check check"), check("check", false, false));
        assert_eq!(parsed("p check --without-files -q f"), check("f", true, true));
        assert_eq!(parsed("p convert f"), Ok(Invocation::Convert { file: "f".into() }));
        let doctor = |line: &str| match parsed(line) {
            Ok(Invocation::Doctor(options)) => options,
            other => panic!("{line}: {other:?}"),
        };
        let plain = doctor("p doctor f");
        assert_eq!((plain.quiet, plain.json, plain.user, plain.timeout), (false, false, None, doctor::TIMEOUT));
        let all = doctor("p doctor -q --json --timeout 3 -u a f");
        assert_eq!((all.quiet, all.json, all.user.as_deref(), all.timeout.as_secs()), (true, true, Some("a"), 3));
        let helper = |child, user: Option<&str>| {
            Invocation::AddressHelper(helper::Options { file: "f".into(), child, user: user.map(str::to_owned) })
        };
        assert_eq!(parsed("p address-helper f"), Ok(helper(false, None)));
        assert_eq!(parsed("p address-helper --child --user=a -- f"), Ok(helper(true, Some("a"))));
        assert_eq!(run("p ./check").config, PathBuf::from("./check"));
        assert_eq!(run("p -- check").config, PathBuf::from("check"));
        assert_eq!(run("p -d check").config, PathBuf::from("check"));
        assert_eq!(run("p help").config, PathBuf::from("help"));
        assert_eq!(run("p chec").config, PathBuf::from("chec"));
    }

    #[test]
    fn errors_are_in_getopts_words() {
        for (line, want) in [
            ("/x/p", "no configuration file specified"),
            ("/x/p -d", "no configuration file specified"),
            ("/x/p check", "no configuration file specified"),
            ("/x/p convert", "no configuration file specified"),
            ("/x/p doctor", "no configuration file specified"),
            ("/x/p doctor --timeout 0 f", "option '--timeout' takes a number from 1 to 3600"),
            ("/x/p --bad f", "unrecognized option '--bad'"),
            ("/x/p --bad=1 f", "unrecognized option '--bad'"),
            ("/x/p -x f", "invalid option -- 'x'"),
            ("/x/p -qx f", "invalid option -- 'x'"),
            ("/x/p check -d f", "invalid option -- 'd'"),
            ("/x/p --user", "option '--user' requires an argument"),
            ("/x/p -u", "option '--user' requires an argument"),
            ("/x/p --quiet=3 f", "option '--quiet' doesn't allow an argument"),
            ("/x/p a b", "only one configuration file can be given, what is 'b' for?"),
            ("/x/p -d check b", "only one configuration file can be given, what is 'b' for?"),
        ] {
            let text = format!("/x/p: {want}\nTry \"/x/p --help\" for more information.");
            assert_eq!(parsed(line), Err(text), "{line}");
        }
    }

    #[test]
    fn version_and_help_are_seen_before_errors_that_follow() {
        for line in ["p -V", "p --version", "p -qV f", "p -V --bad", "p f --version"] {
            assert_eq!(parsed(line), Ok(Invocation::Version), "{line}");
        }
        for line in ["/x/p -h", "/x/p --help", "/x/p -qh", "/x/p -h --bad", "/x/p check --help"] {
            let Ok(Invocation::Help(text)) = parsed(line) else { panic!("{line}") };
            assert!(
                text.starts_with("/x/p is a connection pooler for PostgreSQL.\n\nUsage:\n  /x/p [OPTION]"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_version_is_the_one_that_clients_see_at_login() {
        let shown = crate::admin::SERVER_VERSION.split('/').next().unwrap();
        assert_eq!(VERSION_LINE, format!("PgBouncer {shown} (pgtandem {})", env!("CARGO_PKG_VERSION")));
        let text = version_text();
        assert_eq!(text.lines().next(), Some(VERSION_LINE));
        assert!(text.contains("rustls 0.") && text.contains("tokio 1.") && !text.contains("unknown"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn file_names_need_not_be_text() {
        use std::os::unix::ffi::OsStringExt;
        let name = OsString::from_vec(vec![b'a', 0xff]);
        let Ok(Invocation::Run(run)) = parse([OsString::from("p"), name.clone()]) else { panic!() };
        assert_eq!(run.config, PathBuf::from(name.clone()));
        let error = parse([OsString::from("p"), "-u".into(), name, "f".into()]).unwrap_err();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
