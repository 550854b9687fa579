//! Start-up on one screen: from the command line to the last client.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

use super::cli::{self, Run};
use super::configure;
use super::directory::Numbers;
use super::log::{self, Log};
use super::pidfile::PidFile;
use super::process::{self, DescriptorLimit, Identity, Startup};
use super::run::{Daemon, Listeners, set_log};
use super::signals;
use crate::auth::UserList;
use crate::config::check::{FileRole, Finding};
use crate::config::print::to_toml;
use crate::config::{self, Config, Problem, Severity};

/// Threads beside the workers for what would block them.
const BLOCKING_THREADS_MAX: usize = 8;

/// How long `-d` waits for the process in the background to be ready.
const DAEMON_PATIENCE: Duration = Duration::from_secs(60);

/// `pgtandem FILE`: serves until it is told to end.
#[must_use]
pub fn run(run: &Run) -> ExitCode {
    let log = match Log::start(run.verbose, !run.quiet) {
        Ok(log) => log,
        Err(error) => return cli::fail(&error),
    };
    match prepare_and_serve(run, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::fatal(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn prepare_and_serve(run: &Run, log: &Log) -> anyhow::Result<()> {
    if run.reboot {
        anyhow::bail!("-R (taking over from a running process) is not available yet; restart the process instead");
    }
    let (config, problems) = configure::read(&run.config).context("cannot load config file")?;
    let user = run.user.as_deref().or_else(|| config.settings.user.get());
    let identity = Identity::resolve(user)?;
    // Until there is somebody to act on them, signals wait instead of killing.
    signals::hold()?;
    process::forbid_core_dumps()?;
    let pidfile = Some(Path::new(&config.settings.pidfile)).filter(|p| !p.as_os_str().is_empty());
    let startup = if run.daemon { process::daemonize(pidfile, DAEMON_PATIENCE)? } else { Startup::foreground() };
    if run.daemon {
        log.set_stderr(false);
    }
    match serve(run, log, config, &problems, identity) {
        Ok((runtime, daemon, listeners, pidfile)) => {
            startup.ready();
            let result = runtime.block_on(async { Arc::clone(&daemon).serve(listeners).await });
            process::notify_stopping();
            // Clients that are still there see the end of their connections.
            runtime.shutdown_background();
            drop(pidfile);
            Ok(result?)
        }
        Err(error) => {
            startup.failed(&format_args!("{error:#}"));
            Err(error)
        }
    }
}

type Ready = (Runtime, Arc<Daemon>, Listeners, Option<PidFile>);

/// Everything up to the point where clients can be accepted.
fn serve(
    run: &Run,
    log: &Log,
    config: Config,
    problems: &[Problem],
    identity: Option<Identity>,
) -> anyhow::Result<Ready> {
    let limit = DescriptorLimit::raise()?;
    // Opened first for the sake of low ports, told of when there is a log.
    let listeners = Listeners::open_tcp(&config);
    match identity {
        Some(identity) => identity.assume()?,
        None => process::lock_down()?,
    }
    log.set_format(config.settings.log_format)?;
    set_log(log, &config, run.verbose)?;
    let mut listeners = listeners?;
    listeners.log();
    let pidfile = Some(Path::new(&config.settings.pidfile)).filter(|p| !p.as_os_str().is_empty());
    let pidfile = pidfile.map(PidFile::create).transpose()?;
    for problem in problems {
        tracing::warn!("{problem}");
    }
    listeners.open_unix(&config)?;
    let (clients, servers) = (u64::from(config.settings.max_client_conn), most_servers(&config));
    let expected = process::expected_descriptors(clients, servers);
    tracing::info!("{}", limit.summary(clients, expected));
    if let Some(shortage) = limit.shortage(clients, expected) {
        tracing::warn!("{shortage}");
    }
    let runtime = runtime(config.settings.worker_threads)?;
    let daemon = runtime.block_on(async {
        let daemon = Daemon::new(config, run.config.clone(), log.clone(), run.verbose)?;
        tokio::spawn(signals::listen(Arc::clone(&daemon))?);
        signals::let_go()?;
        anyhow::Ok(daemon)
    })?;
    tracing::info!("process up: {}, pid {}", cli::VERSION_LINE, std::process::id());
    process::notify_ready("serving");
    Ok((runtime, daemon, listeners, pidfile))
}

/// Servers that the configured databases may have together.
pub(super) fn most_servers(config: &Config) -> u64 {
    config.databases.values().map(|database| u64::from(config.pool_size(database, None))).sum()
}

/// One thread is a runtime of its own kind, without the cost of sharing.
fn runtime(worker_threads: u32) -> anyhow::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if worker_threads == 0 { cores } else { worker_threads as usize };
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    // Key derivations and name look-ups: few at a time, so that a storm of logins takes neither all cores nor much memory.
    builder.max_blocking_threads(BLOCKING_THREADS_MAX);
    builder.enable_all().thread_name("pgtandem").build().context("cannot start threads")
}

/// `pgtandem check FILE`: every problem at once; status 1 if there is an error among them.
#[must_use]
pub fn check(file: &Path, quiet: bool) -> ExitCode {
    let report = config::check::check(file, &mut |path| fs::read(path), &mut inspect);
    let mut lines: Vec<_> = report.problems.iter().map(|p| (p.severity, p.to_string())).collect();
    if let Some(config) = report.config {
        // What only shows when the parts are put together: a key that does not fit its certificate, a cipher nobody has.
        let tracked = configure::tracked(&config.settings);
        match configure::build(config, &Arc::new(Mutex::new(Numbers::default())), &tracked) {
            // Those of the file of users have been told with their lines.
            Ok(setup) => lines.extend(setup.tls_warnings.into_iter().map(|w| (Severity::Warning, w))),
            Err(error) => lines.push((Severity::Error, error.to_string())),
        }
    }
    let failed = lines.iter().any(|(severity, _)| *severity == Severity::Error);
    let shown = lines.iter().filter(|(severity, _)| !quiet || *severity == Severity::Error);
    let mut text: String = shown.map(|(severity, line)| format!("{}: {line}\n", severity.as_str())).collect();
    if !failed && !quiet {
        text.push_str(&format!("{}: configuration is valid\n", file.display()));
    }
    let _ = cli::answer(&text);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

pub(super) fn inspect(role: FileRole, bytes: &[u8]) -> Vec<Finding> {
    match role {
        FileRole::Users => {
            let (_, warnings) = UserList::parse(bytes);
            let finding = |w: crate::auth::Warning| Finding {
                severity: Severity::Warning,
                line: u32::try_from(w.line).unwrap_or(u32::MAX),
                text: w.text.to_string(),
            };
            warnings.into_iter().map(finding).collect()
        }
        other => config::check::inspect(other, bytes),
    }
}

/// `pgtandem convert FILE`: the same configuration as TOML.
#[must_use]
pub fn convert(file: &Path) -> ExitCode {
    match configure::read(file) {
        Ok((config, _)) => cli::answer(&to_toml(&config)),
        Err(error) => cli::fail(&error),
    }
}
