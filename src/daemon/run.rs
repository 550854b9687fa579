//! The running process: configuration in force, accept loops, reload.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use super::configure::{self, Boot, Setup, SetupError};
use super::console;
use super::directory::{CONSOLE_DATABASE, ConfigDirectory, Numbers};
use super::files::Files;
use super::ha::material::PairMaterial;
use super::ha::{Node, Testament, Wanted};
use super::handover;
use super::intake::Intake;
use super::listeners::{Listeners, Socket};
use super::log::Log;
use super::picture::History;
use super::pidfile::PidFile;
use super::service::{Service, Troubles};
use super::shutdown::{self, Phase, Shutdown};
use super::watchdog::Workers;
use crate::config::{self, Config};
use crate::net::stream::Stream;
use crate::pool::{ClientLimits, Ids};
use crate::session::io::client::{Session, Start};
use crate::session::io::login::{self, Destination};
use crate::session::io::shared::{Arriving, Shared, lock};
use crate::session::params::Tracked;

/// The running process.
pub struct Daemon {
    /// Sessions and pools.
    pub shared: Arc<Shared>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// Averages of the statistics.
    pub history: History,
    /// Ids of databases and users.
    pub numbers: Arc<Mutex<Numbers>>,
    /// The service manager.
    pub service: Arc<Service>,
    /// What the service manager's status line must complain of.
    pub troubles: Mutex<Troubles>,
    /// Where clients come in. They stay open here until [`Phase::WaitForClients`], so that they can be handed on.
    pub listeners: Mutex<Listeners>,
    /// Whether clients are let in at the moment.
    pub intake: Intake,
    /// The pidfile, while this process serves.
    pub pidfile: Mutex<Option<PidFile>>,
    /// It has been asked whether a SIGTERM means a restart.
    pub leaving: AtomicBool,
    /// A successor has everything.
    pub left: AtomicBool,
    /// Clients of a former process, which were busy when this one took over, are still to come.
    pub arriving: AtomicBool,
    /// The process is to end as soon as no floating address is held any more.
    pub ending: AtomicBool,
    /// This node of a pair, if it is one.
    pub(super) ha: OnceLock<Arc<Node>>,
    /// By what it and the other node know each other.
    pub(super) pair: Mutex<Option<Arc<PairMaterial>>>,
    /// Where its address helper is found.
    pub(super) helper: Mutex<Wanted>,
    /// What a former process has left to this one as a node of a pair.
    pub(super) testament: Mutex<Testament>,
    running: Mutex<Running>,
    changing: Mutex<()>,
    tracked: Arc<Tracked>,
    files: Files,
    log: Log,
    verbose: u32,
}

struct Running {
    config: Arc<Config>,
    directory: Arc<ConfigDirectory>,
    file: PathBuf,
}

impl Daemon {
    /// Puts a first configuration in force. To be called inside the runtime. `numbers` and `tracked` are those it was built
    /// with, `files` what has read it, `verbose` counts the options `-v`.
    #[must_use]
    pub fn new(boot: Boot, file: PathBuf, log: Log, verbose: u32, service: Arc<Service>) -> Arc<Self> {
        let Boot { setup, numbers, tracked, files } = boot;
        let Setup { config, directory, params, globals, pair, tls_warnings, warnings } = setup;
        for warning in tls_warnings.into_iter().chain(warnings).chain(files.warnings()) {
            tracing::warn!("{warning}");
        }
        let shared = Shared::new(Ids::default(), globals, params, Arc::clone(&directory) as _, ClientLimits::new());
        let daemon = Arc::new(Self {
            history: History::new(Duration::from_secs(config.settings.stats_period.into())),
            shared,
            shutdown: Shutdown::default(),
            numbers,
            service,
            troubles: Mutex::default(),
            listeners: Mutex::default(),
            intake: Intake::default(),
            pidfile: Mutex::default(),
            leaving: AtomicBool::new(false),
            left: AtomicBool::new(false),
            arriving: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            ha: OnceLock::new(),
            pair: Mutex::new(pair),
            helper: Mutex::default(),
            testament: Mutex::default(),
            changing: Mutex::default(),
            running: Mutex::new(Running { config, directory: Arc::clone(&directory), file }),
            tracked,
            files,
            log,
            verbose,
        });
        daemon.announce(&directory);
        daemon
    }

    fn announce(&self, directory: &ConfigDirectory) {
        let mut limits = lock(&self.shared.limits);
        self.shared.pools.with(|registry, now, _| directory.announce(registry, now, &mut limits));
        drop(limits);
        for route in directory.forced_routes().iter().filter(|r| r.pool.min_pool_size > 0) {
            self.shared.context_for(route);
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.running().config)
    }

    /// The directory in force.
    #[must_use]
    pub fn directory(&self) -> Arc<ConfigDirectory> {
        Arc::clone(&self.running().directory)
    }

    /// The configuration file.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.running().file.clone()
    }

    /// Reads the configuration again; all or nothing. The service manager is told of it, whoever asked for it.
    ///
    /// # Errors
    /// Everything that is wrong; nothing has changed then.
    pub fn reload(self: &Arc<Self>) -> Result<(), SetupError> {
        self.service.reloading();
        let result = self.read_again();
        lock(&self.troubles).reload = result.as_ref().err().map(ToString::to_string);
        self.service.reloaded(result.is_err(), &self.status_line());
        result
    }

    fn read_again(self: &Arc<Self>) -> Result<(), SetupError> {
        let _one_at_a_time = lock(&self.changing);
        let (old, file) = (self.config(), self.file());
        // A relative conffile means what it meant on the command line.
        let file = old.settings.conffile.get().map_or(file, PathBuf::from);
        let (read, problems) = configure::read(&file, &self.files)?;
        let plan = config::diff(&old, &read);
        let merged = config::apply_reload(&old, &read);
        let setup = configure::build(merged, &self.numbers, &self.tracked, &self.files)?;
        for warning in problems.iter().map(ToString::to_string).chain(self.files.warnings()) {
            tracing::warn!("{warning}");
        }
        for change in plan.needing_restart() {
            tracing::warn!("{} changed; the new value takes effect at the next start", change.name);
        }
        if plan.ha.switched {
            let what = if old.ha.is_some() { "gone" } else { "new" };
            tracing::warn!("section [ha] is {what}; that takes effect at the next start");
        }
        self.put_in_force(setup, &old);
        self.rejoin_pair(&self.config());
        tracing::info!("configuration from {} is in force", file.display());
        Ok(())
    }

    /// The console's SET. True if the TLS settings cannot be used as they are now.
    ///
    /// # Errors
    /// The reason for the log.
    pub fn set(&self, key: &str, value: &str) -> Result<bool, String> {
        let _one_at_a_time = lock(&self.changing);
        let old = self.config();
        let mut config = (*old).clone();
        match config.settings.set(key, value) {
            Ok(config::settings::SetDone::BootOnly) => return Ok(false),
            Ok(config::settings::SetDone::Changed(caution)) => {
                if let Some(caution) = caution {
                    tracing::warn!("SET {key}: {caution}");
                }
            }
            Err(config::settings::SetError::Unknown(_)) => return Err(format!("unknown parameter: pgbouncer/{key}")),
            Err(config::settings::SetError::Value(bad)) => {
                return Err(format!("invalid value \"{value}\" for parameter {key}: {key} wants {bad}"));
            }
        }
        let (running, directory) = (self.shared.params(), self.directory());
        let (setup, problem) = configure::build_keeping(config, (&running, &directory), &self.numbers, &self.files)
            .map_err(|error| error.to_string())?;
        self.put_in_force(setup, &old);
        if let Some(error) = &problem {
            tracing::error!("{error}");
        }
        Ok(problem.is_some())
    }

    fn put_in_force(&self, setup: Setup, old: &Config) {
        let Setup { config, directory, params, globals, pair, tls_warnings, warnings } = setup;
        if pair.is_some() {
            *lock(&self.pair) = pair;
        }
        for warning in tls_warnings.into_iter().chain(warnings) {
            tracing::warn!("{warning}");
        }
        let plan = config::diff(old, &config);
        let tls_changed = !self.shared.params().connector.same_settings(&params.connector);
        {
            let mut running = self.running();
            running.config = Arc::clone(&config);
            running.directory = Arc::clone(&directory);
        }
        if let Err(error) = set_log(&self.log, &config, self.verbose) {
            tracing::error!("{error}");
        }
        self.shared.pools.with(|registry, now, _| registry.set_globals(now, globals));
        self.announce(&directory);
        self.shared.reconfigure(params, Arc::clone(&directory) as _);
        for name in &plan.databases_removed {
            let id = lock(&self.numbers).database_named(name);
            if let Some(id) = id.filter(|_| config.database(name).is_none()) {
                tracing::info!("dropping database '{name}' as it does not exist anymore or inactive auto-database");
                self.shared.pools.with(|registry, now, out| registry.drop_database(now, id, out));
            }
        }
        if tls_changed {
            self.shared.pools.with(|registry, now, out| registry.reconnect(now, None, out));
        }
        self.shared.pools.nudge();
    }

    /// Lets clients in, and successors. To be called inside the runtime, before anybody is told that this process is up: the
    /// next one may be started at once then.
    ///
    /// # Errors
    /// Sockets that the runtime cannot take over.
    pub fn open(self: &Arc<Self>, listeners: Listeners) -> io::Result<()> {
        self.accept_on(listeners)?;
        self.await_successors();
        Ok(())
    }

    /// Serves until the end. `workers`: the threads of the runtime that this runs in, for the watchdog.
    ///
    /// # Errors
    /// The watchdog cannot be started.
    pub async fn serve(self: Arc<Self>, workers: &Arc<Workers>) -> io::Result<()> {
        tokio::spawn(Arc::clone(&self.shared.pools).upkeep());
        tokio::spawn(Arc::clone(&self).keep_history());
        tokio::spawn(Arc::clone(&self).watch_names());
        tokio::spawn(Arc::clone(&self).forget_idle_databases());
        let watchdog = self.watch(workers)?;
        if let Some(watchdog) = &watchdog {
            self.join_pair(watchdog.health()).map_err(io::Error::other)?;
        }
        tokio::spawn(Arc::clone(&self).keep_service_informed());
        self.shutdown.carry_out(&self.shared, || shutdown::terms(&self.config().settings)).await;
        if let Some(ha) = self.ha().filter(|_| !self.left.load(Ordering::Relaxed)) {
            ha.end();
        }
        self.service.stopping(&self.status_line());
        lock(&self.listeners).close();
        if let Some(path) = handover::path(&self.config()).filter(|_| !self.left.load(Ordering::Relaxed)) {
            // As with the sockets of clients; a successor's is left alone.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    fn accept_on(self: &Arc<Self>, listeners: Listeners) -> io::Result<()> {
        for listener in listeners.iter() {
            match listener.socket().try_clone()? {
                Socket::Tcp(socket) => drop(tokio::spawn(Arc::clone(self).accept_tcp(TcpListener::from_std(socket)?))),
                Socket::Unix(socket) => {
                    drop(tokio::spawn(Arc::clone(self).accept_unix(UnixListener::from_std(socket)?)))
                }
            }
        }
        *lock(&self.listeners) = listeners;
        Ok(())
    }

    /// Waits for a successor (PgBouncer option `-R`). A process under a service manager leaves everything to that.
    fn await_successors(self: &Arc<Self>) {
        let Some(path) = handover::path(&self.config()) else { return };
        if let Err(error) = handover::leave::attend(self, path.clone()) {
            tracing::warn!("no successor will be able to take over (-R): {}: {error}", path.display());
        }
    }

    async fn keep_history(self: Arc<Self>) {
        let mut tick = tokio::time::interval(self.history.period());
        tick.tick().await;
        loop {
            tick.tick().await;
            let log = self.config().settings.log_stats;
            self.history.turn(&self.shared, log);
        }
    }

    async fn accept_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            self.intake.opened().await;
            let accepted = tokio::select! {
                biased;
                () = self.intake.closed() => continue,
                accepted = listener.accept() => accepted,
                () = self.shutdown.reached(Phase::WaitForClients) => {
                    drop(listener);
                    return lock(&self.listeners).close_tcp();
                }
            };
            match accepted {
                Ok((socket, _)) => {
                    let params = self.shared.params();
                    if let Err(error) = params.tcp.apply(&socket) {
                        tracing::debug!("socket option of client connection refused: {error}");
                    }
                    self.spawn_client(socket.into());
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    async fn accept_unix(self: Arc<Self>, listener: UnixListener) {
        loop {
            self.intake.opened().await;
            let accepted = tokio::select! {
                biased;
                () = self.intake.closed() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, _)) => self.spawn_client(socket.into()),
                Err(error) => pause_after(&error).await,
            }
        }
    }

    fn spawn_client(self: &Arc<Self>, stream: Stream) {
        let arriving = Some(Arriving::begin(&self.shared));
        tokio::spawn(Arc::clone(self).attend(stream, arriving));
    }

    /// Has one client, from its first byte to its last. `arriving`: its being counted until its login is over.
    pub(super) fn attend(
        self: Arc<Self>,
        stream: Stream,
        arriving: Option<Arriving>,
    ) -> impl Future<Output = ()> + Send {
        let daemon = self;
        async move {
            // Boxed: the login is large and short, the session small and long.
            let Some(client) = Box::pin(login::login(&daemon.shared, stream)).await else { return };
            drop(arriving);
            match client.to {
                Destination::Console { back_door, key } => {
                    let console = console::Client {
                        stream: client.stream,
                        input: client.input,
                        info: client.info,
                        _seat: client.seat,
                        presence: Some(client.presence),
                        key,
                        back_door,
                    };
                    if !super::log::is_quiet() {
                        daemon.shared.stats_of(CONSOLE_DATABASE).logins.fetch_add(1, Ordering::Relaxed);
                    }
                    Box::pin(console::serve(&daemon, console)).await;
                }
                Destination::Pool { context, membership, route, values, server } => {
                    let start = Start {
                        stream: client.stream,
                        input: client.input,
                        info: client.info,
                        seat: client.seat,
                        context,
                        membership,
                        route,
                        values,
                        presence: client.presence,
                        server,
                    };
                    Session::new(&daemon.shared, start).serve().await;
                }
            }
        }
    }
}

/// Lets the log follow the settings; also opens the file anew, for those who rotate it.
///
/// # Errors
/// The file cannot be opened; lines go on to where they went.
pub fn set_log(log: &Log, config: &Config, verbose: u32) -> Result<(), super::log::LogError> {
    log.set_verbosity(verbose.max(config.settings.verbose.unwrap_or(0)));
    let settings = &config.settings;
    if let Err(error) = log.set_syslog(settings.syslog.then_some((settings.syslog_facility, &settings.syslog_ident))) {
        // PgBouncer says nothing at all; its lines get lost until a daemon is there.
        tracing::warn!("{error}");
    }
    let file = Some(settings.logfile.as_str()).filter(|f| !f.is_empty());
    log.reopen(file.map(std::path::Path::new))
}

/// Out of descriptors or memory: the listener stays readable, so wait before the next try.
async fn pause_after(error: &io::Error) {
    tracing::warn!("accept() failed: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
