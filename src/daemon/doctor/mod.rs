//! `pgtandem doctor FILE`: looks at everything that a start would need, and says of each thing what is wrong and what to do.
//! Each subject has a file that collects facts and judges them, and the judging is pure, so that it is tested on facts that no
//! machine has. It changes nothing, opens no port to clients, becomes the user who would serve before it touches what that user
//! needs, and must never print a secret or wait without end.

mod access;
mod account;
mod certificates;
mod clock;
mod directories;
mod files;
mod limits;
mod ports;
pub mod report;
mod running;
mod servers;
mod sockets;
mod unit;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

use self::account::{Account, Outcome};
use self::report::{Finding, Level, Report, Subject};
use self::sockets::{Listening, Process};
use super::cli;
use super::process;
use crate::config::check::check;
use crate::config::{self, Config, Places, Problem, Severity};
use crate::net::listen;
use crate::tls::Connector;

/// The exit status where nothing could be looked at.
pub const UNKNOWN: u8 = 3;
/// How long it may all take unless `--timeout` says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(15);
/// What is left for the report once the servers are given up.
const SPARE: Duration = Duration::from_millis(500);

/// What is to be looked at, and how it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The configuration file.
    pub file: PathBuf,
    /// Warnings and errors only.
    pub quiet: bool,
    /// One JSON object instead of text.
    pub json: bool,
    /// The user to look as (`-u`); goes before the setting `user`.
    pub user: Option<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// Looks at everything and prints what was found. The exit status is [`Report::exit_status`], or [`UNKNOWN`].
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    let deadline = Instant::now() + options.timeout;
    // Memory will hold passwords.
    if let Err(error) = process::forbid_core_dumps() {
        let _ = cli::fail(&error);
        return ExitCode::from(UNKNOWN);
    }
    let file = options.file.display().to_string();
    let report = Arc::new(Mutex::new(Report { file, ..Report::default() }));
    examine(options, deadline, &report);
    print(options, &report)
}

type Shared = Arc<Mutex<Report>>;

fn lock(report: &Shared) -> MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

fn print(options: &Options, report: &Shared) -> ExitCode {
    let report = lock(report);
    let text = if options.json { report.json(options.quiet) } else { report.text(options.quiet) };
    if !text.is_empty() {
        let _ = cli::answer(&text);
    }
    ExitCode::from(report.exit_status())
}

/// Order on one screen: configuration, what takes root's eyes, change of user, what that user needs, servers.
fn examine(options: &Options, deadline: Instant, report: &Shared) {
    let file = options.file.as_path();
    let Some((config, places)) = configuration(file, report) else { return };
    let unit = unit::find();
    let (facts, identity) = account::find(options.user.as_deref(), config.settings.user.get(), unit.as_ref(), file);
    lock(report).add(account::judge(&facts));
    if let Some(unit) = &unit {
        lock(report).add(unit::judge(unit, file));
    }
    let seen = Seen::look(file, &config);
    if let Some(identity) = &identity
        && let Err(error) = identity.assume()
    {
        lock(report).add([Finding::error(Subject::User, error.to_string()).remedy("run it as root, or as that user")]);
        return;
    }
    let account = Account::current();
    lock(report).user = Some(account.name.clone());
    // From here on there may be threads.
    watch(options, deadline, report);
    let (findings, contents) = files::examine(file, &config, &places, &account);
    lock(report).add(findings);
    lock(report).add(directories::examine(file, &config, &places, &account));
    seen.judge(&config, identity.is_some(), deadline, report);
    lock(report).add(limits::judge(&limits::collect(&config, unit.as_ref())));
    let (findings, connector) = certificates::examine(&config, now());
    lock(report).add(findings);
    let known = servers::Known { config: &Arc::new(config), file, places: &places, contents: &contents };
    let probes = try_servers(&known, connector, deadline, report);
    let clocks = servers::clocks(&probes);
    if facts.outcome != Outcome::Root || !clocks.is_empty() {
        lock(report).add(clock::judge(now(), &clocks));
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Reads the file; without a valid one there is nothing more to look at.
fn configuration(file: &Path, report: &Shared) -> Option<(Config, Places)> {
    let read = &mut |path: &Path| fs::read(path);
    let loaded = config::load_with_places(file, read);
    let findings = |problems: Vec<Problem>| problems.into_iter().map(|one| problem(one, file)).collect::<Vec<_>>();
    match loaded {
        Ok((config, places, problems)) => {
            let mut found = findings(problems);
            if found.iter().all(|finding| finding.level < Level::Warning) {
                let text = format!("{} is valid", file.display());
                found.insert(0, Finding::ok(Subject::Configuration, text));
            }
            lock(report).add(found);
            Some((config, places))
        }
        Err(_) => {
            let all = check(file, read, &mut super::start::inspect);
            let text = "everything else is looked at once the configuration is valid";
            lock(report).add(findings(all.problems));
            lock(report).add([Finding::note(Subject::Configuration, text)]);
            None
        }
    }
}

fn problem(problem: Problem, file: &Path) -> Finding {
    let level = match problem.severity {
        Severity::Notice => Level::Note,
        Severity::Warning => Level::Warning,
        Severity::Error => Level::Error,
    };
    let at = problem.place.as_ref().map_or_else(String::new, |place| format!(" ({})", words::place(place, file)));
    let finding = Finding::new(Subject::Configuration, level, format!("{}{at}", problem.text));
    match problem.hint {
        Some(hint) => finding.remedy(hint),
        None => finding,
    }
}

/// What only root sees, or may try, as it does at a start.
struct Seen {
    listening: Vec<Listening>,
    attempts: Vec<ports::Attempt>,
    pidfile: running::PidFileState,
    running: Option<Process>,
}

impl Seen {
    fn look(file: &Path, config: &Config) -> Self {
        let settings = &config.settings;
        let listening = sockets::listening(settings.listen_port);
        let literal = settings.listen_addr.iter().filter(|name| ports::is_literal(name));
        let attempts = literal
            .filter_map(|name| Some((name, listen::addresses(name, settings.listen_port).ok()?)))
            .flat_map(|(name, addresses)| ports::attempts(name, addresses, settings, &listening))
            .collect();
        let pidfile = running::pidfile(Path::new(&settings.pidfile));
        let running = running::find(&pidfile, file);
        Self { listening, attempts, pidfile, running }
    }

    /// The rest as the user who serves; `was_root`: what a low port takes was there.
    fn judge(mut self, config: &Config, was_root: bool, deadline: Instant, report: &Shared) {
        let settings = &config.settings;
        let mut findings = Vec::new();
        for name in settings.listen_addr.iter().filter(|name| !ports::is_literal(name)) {
            let patience = deadline.saturating_duration_since(Instant::now()) / 3;
            match ports::look_up(name, settings.listen_port, patience) {
                Ok(addresses) => {
                    let mut attempts = ports::attempts(name, addresses, settings, &self.listening);
                    attempts.retain(|one| !(was_root && matches!(one.outcome, ports::Outcome::Privileged { .. })));
                    self.attempts.append(&mut attempts);
                }
                Err(reason) => findings.push(ports::unknown_name(name, &reason)),
            }
        }
        let running = self.running.as_ref();
        findings.extend(running::judge(&self.pidfile, Path::new(&settings.pidfile), running));
        findings.extend(ports::judge_all(&self.attempts, running));
        findings.extend(ports::unix_socket(config).map(|(path, state)| ports::judge_unix(&path, &state, running)));
        lock(report).add(findings);
    }
}

fn try_servers(
    known: &servers::Known<'_>,
    connector: Option<Connector>,
    deadline: Instant,
    report: &Shared,
) -> Vec<servers::Probe> {
    if known.config.autodb.is_some() {
        let text = "databases made by the `*` entry are not tried: their names are not known";
        lock(report).add([Finding::note(Subject::Servers, text)]);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(32).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let finding = Finding::error(Subject::Servers, format!("cannot start threads: {error}"));
            lock(report).add([finding.remedy("ulimit -u")]);
            return Vec::new();
        }
    };
    let until = tokio::time::Instant::from_std(deadline.checked_sub(SPARE).unwrap_or(deadline));
    let probes = runtime.block_on(servers::examine(known, connector, until));
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    lock(report).add(servers::judge(&probes));
    probes
}

/// A file system that hangs stops every thread that touches it, so another one keeps the time.
fn watch(options: &Options, deadline: Instant, report: &Shared) {
    let (options, report) = (options.clone(), Arc::clone(report));
    thread::spawn(move || {
        thread::sleep(deadline.saturating_duration_since(Instant::now()) + SPARE);
        let text = format!("not everything could be looked at within {} s", options.timeout.as_secs());
        let finding = Finding::error(Subject::Configuration, text);
        lock(&report).add([finding.remedy("look for a file system or a resolver that hangs; or a longer --timeout")]);
        let _ = print(&options, &report);
        let status = lock(&report).exit_status();
        crate::sys::process::exit_now(status.into());
    });
}
