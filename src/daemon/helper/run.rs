//! `pgtandem address-helper`: from the command line to the loop.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use socket2::{SockRef, Type};

use super::privileges;
use super::routers::HelperConfig;
use super::serve::{Door, serve};
use crate::config::Config;
use crate::daemon::cli;
use crate::daemon::configure;
use crate::daemon::files::Files;
use crate::daemon::log::{self, Log};
use crate::daemon::process::{self, Identity};
use crate::daemon::service::Service;
use crate::sys::environment;

/// How the helper is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The configuration file, the pooler's.
    pub file: PathBuf,
    /// Standard input is the socket of the pooler that has started it.
    pub child: bool,
    /// Whom root becomes; goes before the setting `user`.
    pub user: Option<String>,
}

/// Serves until it is told to end, or its pooler does.
#[must_use]
pub fn run(options: &Options) -> ExitCode {
    // Before anything is opened, as these descriptors have fixed numbers.
    let inherited = environment::take_listen_fds();
    let log = match Log::start(0, true) {
        Ok(log) => log,
        Err(error) => return cli::fail(&error),
    };
    match prepare_and_serve(options, &log, inherited) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::fatal(&format_args!("address helper: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn prepare_and_serve(
    options: &Options,
    log: &Log,
    inherited: io::Result<Vec<(String, OwnedFd)>>,
) -> anyhow::Result<()> {
    process::forbid_core_dumps()?;
    let door = door(options.child, inherited)?;
    let config = read(&options.file)?;
    let routers = HelperConfig::from_config(&config)?;
    let user = options.user.as_deref().or_else(|| config.settings.user.get());
    let identity = Identity::resolve(user)?;
    privileges::confine(identity.as_ref())?;
    if let Err(error) = set_log(log, &config, options.child) {
        // A child of a pooler in the background has no other place to say it.
        tracing::warn!("{error}");
    }
    drop(config);
    let service = if options.child { Service::default() } else { Service::from_environment() };
    let mut reread = || -> Result<HelperConfig, String> {
        let config = read(&options.file).map_err(|error| format!("{error:#}"))?;
        HelperConfig::from_config(&config).map_err(|error| error.to_string())
    };
    Ok(serve(routers, door, &service, &mut reread)?)
}

fn read(file: &Path) -> anyhow::Result<Config> {
    Ok(configure::read(file, &Files::default()).context("cannot load config file")?.0)
}

/// As the pooler's log, whose child it is; under systemd the journal has it anyway.
fn set_log(log: &Log, config: &Config, child: bool) -> Result<(), log::LogError> {
    log.set_verbosity(config.settings.verbose.unwrap_or(0));
    if child {
        log.reopen(Some(Path::new(&config.settings.logfile)))?;
    }
    log.set_format(config.settings.log_format)
}

/// The socket that the helper was started with.
fn door(child: bool, inherited: io::Result<Vec<(String, OwnedFd)>>) -> anyhow::Result<Door> {
    if child {
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        // Number 0 stays taken, but no longer by the pooler's socket, whose end must be seen.
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        require(&socket, false)?;
        return Ok(Door::Pooler(socket));
    }
    let mut sockets = inherited.context("the socket that systemd handed over cannot be used")?.into_iter();
    let (Some((_, socket)), None) = (sockets.next(), sockets.next()) else {
        bail!(
            "exactly one socket must be handed over by systemd, that of pgtandem-helper.socket: systemctl enable --now \
             pgtandem-helper.socket; without systemd, leave helper_socket empty, and pgtandem starts its address helper itself"
        );
    };
    require(&socket, true)?;
    Ok(Door::Listener(socket))
}

fn require(socket: &OwnedFd, listening: bool) -> anyhow::Result<()> {
    let socket = SockRef::from(socket);
    if socket.r#type().ok() != Some(Type::SEQPACKET) || socket.is_listener().ok() != Some(listening) {
        bail!("the socket is of the wrong kind: pgtandem-helper.socket needs ListenSequentialPacket=");
    }
    socket.set_nonblocking(true)?;
    Ok(())
}
