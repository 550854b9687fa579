//! What signals do (PgBouncer docs, "Signals").

use std::io;
use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal as Sig};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::run::Daemon;
use super::shutdown::Phase;

fn all() -> SigSet {
    [Sig::SIGHUP, Sig::SIGTERM, Sig::SIGINT, Sig::SIGQUIT, Sig::SIGUSR1, Sig::SIGUSR2].into_iter().collect()
}

/// Lets signals wait until [`let_go`]. To be called before there are other threads, which inherit it.
///
/// # Errors
/// The kernel's.
pub fn hold() -> nix::Result<()> {
    all().thread_block()
}

/// Delivers what has come meanwhile. To be called when the handlers are installed.
///
/// # Errors
/// The kernel's.
pub fn let_go() -> nix::Result<()> {
    all().thread_unblock()
}

/// Installs the handlers and returns the task that acts on them.
///
/// # Errors
/// The kernel's.
pub fn listen(daemon: Arc<Daemon>) -> io::Result<impl Future<Output = ()> + Send> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut pause = signal(SignalKind::user_defined1())?;
    let mut resume = signal(SignalKind::user_defined2())?;
    Ok(async move {
        loop {
            tokio::select! {
                () = next(&mut hangup) => reload(&daemon),
                () = next(&mut terminate) => end(&daemon, "SIGTERM", Phase::WaitForClients),
                () = next(&mut interrupt) => end(&daemon, "SIGINT", Phase::WaitForServers),
                () = next(&mut quit) => {
                    tracing::info!("got SIGQUIT, fast exit");
                    daemon.shutdown.advance(Phase::Now);
                }
                () = next(&mut pause) => {
                    tracing::info!("got SIGUSR1, pausing all activity");
                    daemon.shared.pools.with(|registry, now, out| registry.pause_all(now, out));
                }
                () = next(&mut resume) => unpause(&daemon),
            }
        }
    })
}

async fn next(signal: &mut Signal) {
    // Signal streams do not end.
    signal.recv().await;
}

fn reload(daemon: &Daemon) {
    tracing::info!("got SIGHUP, re-reading config");
    if let Err(error) = daemon.reload() {
        for line in error.to_string().lines() {
            tracing::error!("{line}");
        }
    }
}

fn end(daemon: &Daemon, name: &str, phase: Phase) {
    // A second signal of either kind means: do not wait any more.
    let phase = if daemon.shutdown.phase() == Phase::Serving { phase } else { Phase::Now };
    match phase {
        Phase::Now => tracing::info!("got {name} while shutting down, fast exit"),
        Phase::WaitForClients => tracing::info!("got {name}, shutting down, waiting for all clients disconnect"),
        _ => tracing::info!("got {name}, shutting down, waiting for all servers connections to be released"),
    }
    daemon.shutdown.advance(phase);
}

fn unpause(daemon: &Daemon) {
    if daemon.shutdown.phase() != Phase::Serving {
        tracing::info!("got SIGUSR2 while shutting down, ignoring");
        return;
    }
    tracing::info!("got SIGUSR2, continuing from PAUSE/SUSPEND");
    daemon.shared.pools.with(|registry, now, _| registry.resume_all(now));
}
