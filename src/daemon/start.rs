//! Start-up on one screen: from the command line to the last client.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use tokio::runtime::{Builder, Runtime};

use super::cli::{self, Run};
use super::configure::{self, Boot, SetupError};
use super::files::Files;
use super::ha::Wanted;
use super::handover::take::Legacy;
use super::helper::start_child;
use super::listeners::{Inherited, Listener, Listeners};
use super::log::{self, Log};
use super::pidfile::PidFile;
use super::places;
use super::process::{self, DescriptorLimit, Identity, ProcessError, Startup};
use super::run::{Daemon, set_log};
use super::service::Service;
use super::shutdown::Phase;
use super::signals;
use super::watchdog::Workers;
use crate::auth::UserList;
use crate::config::check::{FileRole, Finding};
use crate::config::print::to_toml;
use crate::config::{self, Config, Problem, Severity};
use crate::net::kernel_tls::load_kernel_tls;
use crate::net::listen::ListenError;
use crate::session::io::shared::lock;

/// Threads beside the workers for what would block them.
const BLOCKING_THREADS_MAX: usize = 8;

/// How long `-d` waits for the process in the background to be ready.
const DAEMON_PATIENCE: Duration = Duration::from_secs(60);

/// How long a start waits for an instance on its way out (`pkill`, then a start right behind it).
const ENDING_PATIENCE: Duration = Duration::from_secs(10);

/// How long tasks may take to let go of their sockets at the end.
const TASKS_PATIENCE: Duration = Duration::from_secs(1);

/// `pgtandem FILE`: serves until it is told to end.
#[must_use]
pub fn run(run: &Run) -> ExitCode {
    // Before anything is opened, as these descriptors have fixed numbers.
    let inherited = Inherited::from_environment();
    let log = match Log::start(run.verbose, !run.quiet) {
        Ok(log) => log,
        Err(error) => return cli::fail(&error),
    };
    match prepare_and_serve(run, &log, inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::fatal(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// What is known before anything has changed.
struct Plan {
    config: Config,
    problems: Vec<Problem>,
    /// Keys and users, from files that only root may read.
    boot: Result<Boot, SetupError>,
    /// What is wrong with the file, if the configuration is a former process's.
    instead_of: Option<String>,
    /// Whom root must become.
    identity: Option<Identity>,
    pidfile: Option<PathBuf>,
    /// What another process leaves to this one.
    legacy: Legacy,
}

/// What may take the rights of who starts.
struct Opened {
    limit: DescriptorLimit,
    /// For low ports. Told of, as what follows, when there is a log.
    listeners: anyhow::Result<Listeners>,
    made: Vec<PathBuf>,
    /// The address helper, if there is a pair and the helper does not come from elsewhere.
    helper: io::Result<Option<OwnedFd>>,
}

/// A process that can accept clients.
struct Ready {
    runtime: Runtime,
    workers: Arc<Workers>,
    daemon: Arc<Daemon>,
}

fn prepare_and_serve(run: &Run, log: &Log, inherited: Inherited) -> anyhow::Result<()> {
    let plan = read(run, inherited)?;
    // Until there is somebody to act on them, signals wait instead of killing.
    signals::hold()?;
    process::forbid_core_dumps()?;
    let drop_privileges = || drop_privileges(plan.identity.as_ref());
    let startup = match &plan.pidfile {
        pidfile if run.daemon => process::daemonize(pidfile.as_deref(), DAEMON_PATIENCE, drop_privileges)?,
        _ => Startup::foreground(),
    };
    if run.daemon {
        log.set_stderr(false);
    }
    match bring_up(run, log, plan) {
        Ok(ready) => {
            startup.ready();
            serve(ready)
        }
        Err(error) => {
            startup.failed(&format_args!("{error:#}"));
            Err(error)
        }
    }
}

/// Read: the configuration, whom to become, who else runs and may hand over. The last time that errors have a terminal for
/// certain.
fn read(run: &Run, inherited: Inherited) -> anyhow::Result<Plan> {
    let mut legacy = Legacy::stored(inherited);
    let (prepared, instead_of) = prepare(&run.config, legacy.configuration())?;
    let Prepared { config, problems, boot } = prepared;
    let user = run.user.as_deref().or_else(|| config.settings.user.get());
    let identity = Identity::resolve(user)?;
    let pidfile = Some(PathBuf::from(&config.settings.pidfile)).filter(|path| !path.as_os_str().is_empty());
    if run.reboot {
        legacy.ask(&config, identity.as_ref().map(|user| user.ids().0.as_raw()))?;
    }
    if let Some(pidfile) = pidfile.as_deref().filter(|_| legacy.pidfile.is_none()) {
        PidFile::check(pidfile, ENDING_PATIENCE)?;
    }
    Ok(Plan { config, problems, boot, instead_of, identity, pidfile, legacy })
}

/// A configuration, and everything of it that stands in files.
struct Prepared {
    config: Config,
    problems: Vec<Problem>,
    boot: Result<Boot, SetupError>,
}

impl Prepared {
    fn read(path: &Path) -> Result<Self, SetupError> {
        let files = Files::default();
        let (config, problems) = configure::read(path, &files)?;
        let boot = Boot::new(config.clone(), files);
        Ok(Self { config, problems, boot })
    }

    /// The configuration that a former process had in force.
    fn former(toml: &[u8]) -> Option<Self> {
        let (config, problems) = config::load(Path::new("former.toml"), &mut |_| Ok(toml.to_vec())).ok()?;
        let boot = Boot::new(config.clone(), Files::default());
        Some(Self { config, problems, boot }).filter(|prepared| prepared.boot.is_ok())
    }
}

/// Reads the configuration. If it is broken and a former process has left clients together with its own, that one is taken
/// instead, and what is wrong is returned with it: clients must not pay for a slip of the pen.
fn prepare(path: &Path, former: Option<&[u8]>) -> anyhow::Result<(Prepared, Option<String>)> {
    let prepared = Prepared::read(path);
    let wrong = match &prepared {
        Err(error) => Some(error.to_string()),
        Ok(prepared) => prepared.boot.as_ref().err().map(ToString::to_string),
    };
    if let Some(wrong) = wrong
        && let Some(instead) = former.and_then(Prepared::former)
    {
        return Ok((instead, Some(wrong)));
    }
    Ok((prepared.context("cannot load config file")?, None))
}

/// From a plan to the point where clients can be accepted. The order is what this file is for.
fn bring_up(run: &Run, log: &Log, plan: Plan) -> anyhow::Result<Ready> {
    let Plan { config, problems, boot, instead_of, identity, pidfile, mut legacy } = plan;

    // Open: sockets, directories.
    let inherited_helper = legacy.take_helper();
    let opened = open(run, &config, identity.as_ref(), legacy.take_listeners(), inherited_helper.is_some());

    // Drop: from here on this process is nobody in particular, for good.
    drop_privileges(identity.as_ref())?;
    let Opened { limit, listeners, mut made, helper } = opened?;
    made.extend(places::make(&places::needed(&config.settings), None));
    log.set_format(config.settings.log_format)?;
    set_log(log, &config, run.verbose)?;
    for place in made {
        tracing::info!("directory {} was missing: made", place.display());
    }
    if identity.is_some() && process::may_gain_capabilities()? {
        tracing::info!("the capability bounding set cannot be cleared without SETPCAP; no_new_privs makes it harmless");
    }

    // Pidfile, and the socket that is made as the user who serves.
    let mut listeners = listeners.map_err(explained)?;
    listeners.log();
    let pidfile = pidfile.as_deref().map(|path| legacy.pidfile(path)).transpose()?;
    for problem in problems.iter().map(ToString::to_string).chain(legacy.take_warnings()) {
        tracing::warn!("{problem}");
    }
    if let Some(wrong) = &instead_of {
        tracing::error!(
            "the former configuration stays in force until {} is mended and reloaded:",
            run.config.display()
        );
        wrong.lines().for_each(|line| tracing::error!("{line}"));
    }
    listeners.open_unix(&config).map_err(explained)?;
    log_limit(limit, &config);
    let helper = Wanted {
        inherited: inherited_helper.is_some(),
        channel: inherited_helper.or(helper.context("cannot start the address helper")?),
    };

    // Threads: not before here, as each has its own privileges.
    let boot = boot?;
    if identity.is_some() {
        boot.files.user_changed();
    }
    let workers = Arc::new(Workers::default());
    let runtime = runtime(config.settings.worker_threads, &workers)?;
    let service = Arc::new(Service::from_environment());
    let daemon = runtime.block_on(async {
        let daemon = Daemon::new(boot, run.config.clone(), log.clone(), run.verbose, service);
        *lock(&daemon.pidfile) = pidfile;
        daemon.presume_shares(false);
        lock(&daemon.troubles).reload = instead_of;
        tokio::spawn(signals::listen(Arc::clone(&daemon))?);
        signals::let_go()?;
        // Take over: the last step, so that until here the former process, or its legacy, is as it was.
        legacy.take_over(&daemon)?;
        *lock(&daemon.helper) = helper;
        daemon.open(listeners)?;
        anyhow::Ok(daemon)
    })?;

    // Ready.
    std::thread::Builder::new().name("warm-up".into()).spawn(warm_up)?;
    tracing::info!("process up: {}, pid {}", cli::VERSION_LINE, std::process::id());
    Ok(Ready { runtime, workers, daemon })
}

fn open(
    run: &Run,
    config: &Config,
    identity: Option<&Identity>,
    inherited: Vec<Listener>,
    has_helper: bool,
) -> anyhow::Result<Opened> {
    let (_, expected) = descriptors(config);
    let limit = DescriptorLimit::raise(expected)?;
    limit.prepare_table(expected);
    let listeners = Listeners::open(config, inherited);
    if identity.is_some() {
        // Root may do that, and a later hand-over needs it; whether there is TLS is told then.
        load_kernel_tls();
    }
    let places = places::needed(&config.settings);
    let made = identity.map(|user| places::make(&places, Some(user.ids()))).unwrap_or_default();
    // Only root can start one that may do anything; others find one that the service manager has started.
    let helper = match (&config.ha, identity) {
        (Some(_), Some(user)) if !has_helper => start_child(&run.config, Some(&user.ids().0.to_string())).map(Some),
        _ => Ok(None),
    };
    Ok(Opened { limit, listeners, made, helper })
}

/// A socket that cannot be opened, with what to do about it.
fn explained(error: anyhow::Error) -> anyhow::Error {
    let remedy = match error.downcast_ref() {
        Some(ListenError::Unix { path, source }) => places::remedy(path, source),
        Some(ListenError::Tcp { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            " (a port below 1024: start as root with the setting user, or with AmbientCapabilities=CAP_NET_BIND_SERVICE in \
             the systemd unit)"
                .to_owned()
        }
        _ => return error,
    };
    anyhow::anyhow!("{error:#}{remedy}")
}

/// Become the user who serves, with no right to be anybody else.
fn drop_privileges(identity: Option<&Identity>) -> Result<(), ProcessError> {
    match identity {
        Some(identity) => identity.assume(),
        None => process::lock_down(),
    }
}

fn serve(ready: Ready) -> anyhow::Result<()> {
    let Ready { runtime, workers, daemon } = ready;
    let result = runtime.block_on(async {
        let ending = async {
            daemon.shutdown.reached(Phase::WaitForClients).await;
            lock(&daemon.pidfile).iter().for_each(PidFile::ending);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = Arc::clone(&daemon).serve(&workers) => result,
            () = ending => Ok(()),
        }
    });
    if daemon.left.load(Ordering::Relaxed) {
        // Others wait for our end, at rest.
        runtime.shutdown_background();
        return Ok(result?);
    }
    // Clients that are still there see the end of their connections. The port is free before the pidfile says so.
    runtime.shutdown_timeout(TASKS_PATIENCE);
    lock(&daemon.pidfile).take();
    Ok(result?)
}

fn log_limit(limit: DescriptorLimit, config: &Config) {
    let (clients, expected) = descriptors(config);
    tracing::info!("{}", limit.summary(clients, expected));
    if let Some(shortage) = limit.shortage(clients, expected) {
        tracing::warn!("{shortage}");
    }
}

/// `max_client_conn`, and the descriptors that all of its clients and servers may need.
fn descriptors(config: &Config) -> (u64, u64) {
    let clients = u64::from(config.settings.max_client_conn);
    (clients, process::expected_descriptors(clients, most_servers(config)))
}

/// The TLS library's generator of randomness takes a tenth of a second to begin with: not at the first client's cost, and not
/// before the first client can be served.
fn warm_up() {
    // Whoever needs it hears of its failure.
    let _ = SecureRandom::fill(&SystemRandom::new(), &mut [0]);
}

/// Servers that the configured databases may have together.
pub(super) fn most_servers(config: &Config) -> u64 {
    config.databases.values().map(|database| u64::from(config.pool_size(database, None))).sum()
}

/// One thread is a runtime of its own kind, without the cost of sharing.
fn runtime(worker_threads: u32, workers: &Arc<Workers>) -> anyhow::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if worker_threads == 0 { cores } else { worker_threads as usize };
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    // Key derivations and name look-ups: few at a time, so that a storm of logins takes neither all cores nor much memory.
    builder.max_blocking_threads(BLOCKING_THREADS_MAX);
    workers.attach(&mut builder);
    builder.enable_all().thread_name("pgtandem").build().context("cannot start threads")
}

/// `pgtandem check FILE`: every problem at once; status 1 if there is an error among them.
#[must_use]
pub fn check(options: &cli::Check) -> ExitCode {
    let (file, quiet) = (&*options.file, options.quiet);
    let report = if options.without_files {
        config::check_alone(file, &mut |path| fs::read(path))
    } else {
        config::check(file, &mut |path| fs::read(path), &mut inspect)
    };
    let mut lines: Vec<_> = report.problems.iter().map(|p| (p.severity, p.to_string())).collect();
    let told = report.config.as_ref().filter(|_| options.pgbouncer).map(beside_pgbouncer).unwrap_or_default();
    if let Some(config) = report.config.filter(|_| !options.without_files) {
        // What only shows when the parts are put together: a key that does not fit its certificate, a cipher nobody has.
        match Boot::new(config, Files::default()) {
            // Those of the file of users have been told with their lines.
            Ok(boot) => lines.extend(boot.setup.tls_warnings.into_iter().map(|w| (Severity::Warning, w))),
            Err(error) => lines.push((Severity::Error, error.to_string())),
        }
    }
    let failed = lines.iter().any(|(severity, _)| *severity == Severity::Error);
    let shown = lines.iter().filter(|(severity, _)| !quiet || *severity == Severity::Error);
    let mut text: String = shown.map(|(severity, line)| format!("{}: {line}\n", severity.as_str())).collect();
    text.push_str(&told);
    if !failed && !quiet {
        text.push_str(&format!("{}: configuration is valid\n", file.display()));
    }
    let _ = cli::answer(&text);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A line for each setting that is used.
fn beside_pgbouncer(config: &Config) -> String {
    let verdicts = config::compat::verdicts_of(config);
    let width = verdicts.iter().map(|verdict| verdict.name.len()).max().unwrap_or(0);
    verdicts.iter().map(|verdict| format!("{:width$}  {}\n", verdict.name, verdict.text)).collect()
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
    match configure::read(file, &Files::default()) {
        Ok((config, _)) => cli::answer(&to_toml(&config)),
        Err(error) => cli::fail(&error),
    }
}
