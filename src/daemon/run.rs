//! Start-up on one screen, the accept loops, reload.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};

use super::configure::{self, Boot, Setup, SetupError};
use super::console;
use super::directory::{ConfigDirectory, Numbers};
use super::files::Files;
use super::log::Log;
use super::picture::History;
use super::shutdown::{Phase, Shutdown};
use crate::config::{self, Config};
use crate::net::listen::{self, ListenOptions};
use crate::net::stream::Stream;
use crate::pool::{ClientLimits, Ids};
use crate::session::io::client::{Session, Start};
use crate::session::io::login::{self, Destination};
use crate::session::io::shared::{Shared, lock};
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

/// Sockets opened before privileges were dropped.
pub struct Listeners {
    tcp: Vec<std::net::TcpListener>,
    refused: Vec<listen::ListenError>,
    unix: Option<(std::os::unix::net::UnixListener, PathBuf)>,
}

impl Listeners {
    /// Opens the TCP sockets, which may need the privileges that are about to be dropped.
    ///
    /// # Errors
    /// The first socket that cannot be opened.
    pub fn open_tcp(config: &Config) -> anyhow::Result<Self> {
        let settings = &config.settings;
        let options = ListenOptions {
            backlog: i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX),
            reuse_port: settings.so_reuseport,
            defer_accept: settings.tcp_defer_accept,
        };
        let (mut tcp, mut refused) = (Vec::new(), Vec::new());
        for name in settings.listen_addr.iter() {
            for address in listen::addresses(name, settings.listen_port)? {
                match listen::tcp(address, &options) {
                    Ok(listener) => tcp.push(listener),
                    // As PgBouncer: a machine without IPv6 is no reason not to serve on IPv4.
                    Err(error) => refused.push(error),
                }
            }
        }
        if tcp.is_empty()
            && let Some(error) = refused.pop()
        {
            return Err(error.into());
        }
        Ok(Self { tcp, refused, unix: None })
    }

    /// Says where TCP is listened on, and where it could not be.
    pub fn log(&mut self) {
        for address in self.tcp.iter().filter_map(|listener| listener.local_addr().ok()) {
            tracing::info!("listening on {address}");
        }
        for error in self.refused.drain(..) {
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
    }

    /// Opens the Unix socket, as the user who serves. At least one socket must have come of all settings.
    ///
    /// # Errors
    /// The socket cannot be opened, or there is none at all.
    pub fn open_unix(&mut self, config: &Config) -> anyhow::Result<()> {
        let settings = &config.settings;
        let backlog = i32::try_from(settings.listen_backlog).unwrap_or(i32::MAX);
        if !settings.unix_socket_dir.is_empty() {
            let path = listen::unix_path(&settings.unix_socket_dir, settings.listen_port);
            let group = group_id(&settings.unix_socket_group)?;
            self.unix = Some((listen::unix(&path, backlog, settings.unix_socket_mode.0, group)?, path.clone()));
            tracing::info!("listening on unix:{}", path.display());
        }
        anyhow::ensure!(
            !self.tcp.is_empty() || self.unix.is_some(),
            "nowhere to listen on: set listen_addr or unix_socket_dir"
        );
        Ok(())
    }
}

fn group_id(name: &str) -> anyhow::Result<Option<u32>> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(id) = name.parse() {
        return Ok(Some(id));
    }
    let group = nix::unistd::Group::from_name(name)?;
    let group = group.ok_or_else(|| anyhow::anyhow!("unix_socket_group: there is no group \"{name}\""))?;
    Ok(Some(group.gid.as_raw()))
}

impl Daemon {
    /// Puts a first configuration in force. To be called inside the runtime. `numbers` and `tracked` are those it was built
    /// with, `files` what has read it, `verbose` counts the options `-v`.
    #[must_use]
    pub fn new(boot: Boot, file: PathBuf, log: Log, verbose: u32) -> Arc<Self> {
        let Boot { setup, numbers, tracked, files } = boot;
        let Setup { config, directory, params, globals, tls_warnings, warnings } = setup;
        for warning in tls_warnings.into_iter().chain(warnings).chain(files.warnings()) {
            tracing::warn!("{warning}");
        }
        let shared = Shared::new(Ids::default(), globals, params, Arc::clone(&directory) as _, ClientLimits::new());
        let daemon = Arc::new(Self {
            history: History::new(Duration::from_secs(config.settings.stats_period.into())),
            shared,
            shutdown: Shutdown::default(),
            numbers,
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

    /// Reads the configuration again; all or nothing.
    ///
    /// # Errors
    /// Everything that is wrong; nothing has changed then.
    pub fn reload(&self) -> Result<(), SetupError> {
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
        self.put_in_force(setup, &old);
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
        let Setup { config, directory, params, globals, tls_warnings, warnings } = setup;
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

    /// Serves until the end.
    ///
    /// # Errors
    /// Sockets that the runtime cannot take over.
    pub async fn serve(self: Arc<Self>, listeners: Listeners) -> io::Result<()> {
        tokio::spawn(Arc::clone(&self.shared.pools).upkeep());
        tokio::spawn(Arc::clone(&self).keep_history());
        let socket_path = listeners.unix.as_ref().map(|(_, path)| path.clone());
        for listener in listeners.tcp {
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(Arc::clone(&self).accept_tcp(listener));
        }
        if let Some((listener, _)) = listeners.unix {
            let listener = UnixListener::from_std(listener)?;
            tokio::spawn(Arc::clone(&self).accept_unix(listener));
        }
        self.shutdown.carry_out(&self.shared).await;
        if let Some(path) = socket_path.filter(|p| !p.as_os_str().as_encoded_bytes().starts_with(b"@")) {
            // Gone already if somebody tidied up; nothing depends on it now.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
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
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.reached(Phase::WaitForClients) => return,
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
            match listener.accept().await {
                Ok((socket, _)) => self.spawn_client(socket.into()),
                Err(error) => pause_after(&error).await,
            }
        }
    }

    fn spawn_client(self: &Arc<Self>, stream: Stream) {
        let daemon = Arc::clone(self);
        tokio::spawn(async move {
            // Boxed: the login is large and short, the session small and long.
            let Some(client) = Box::pin(login::login(&daemon.shared, stream)).await else { return };
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
                    Box::pin(console::serve(&daemon, console)).await;
                }
                Destination::Pool { context, membership, route, values } => {
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
                    };
                    Session::new(&daemon.shared, start).serve().await;
                }
            }
        });
    }
}

/// Lets the log follow the settings; also opens the file anew, for those who rotate it.
///
/// # Errors
/// The file cannot be opened; lines go on to where they went.
pub fn set_log(log: &Log, config: &Config, verbose: u32) -> Result<(), super::log::LogError> {
    log.set_verbosity(verbose.max(config.settings.verbose.unwrap_or(0)));
    let file = Some(config.settings.logfile.as_str()).filter(|f| !f.is_empty());
    log.reopen(file.map(std::path::Path::new))
}

/// Out of descriptors or memory: the listener stays readable, so wait before the next try.
async fn pause_after(error: &io::Error) {
    tracing::warn!("accept() failed: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
