//! What signals do (PgBouncer docs, "Signals").

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::signal::{SigSet, Signal as Sig};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::handover;
use super::log;
use super::run::Daemon;
use super::shutdown::Phase;
use crate::pool::Mode;

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
                () = next(&mut quit) => end(&daemon, "SIGQUIT", Phase::Now),
                () = next(&mut pause) => pause_all(&daemon),
                () = next(&mut resume) => resume_all(&daemon),
            }
        }
    })
}

async fn next(signal: &mut Signal) {
    // Signal streams do not end.
    signal.recv().await;
}

fn reload(daemon: &Arc<Daemon>) {
    tracing::info!("got SIGHUP, re-reading config");
    if let Err(error) = daemon.reload() {
        for line in error.to_string().lines() {
            tracing::error!("{line}");
        }
    }
}

/// What becomes of a signal that ends the process; the only place where that is decided.
fn end(daemon: &Arc<Daemon>, name: &str, phase: Phase) {
    if phase == Phase::WaitForClients && handover::leave::may_leave(daemon) {
        tracing::info!("got {name}, asking the service manager whether this is a restart");
        drop(tokio::spawn(handover::leave::on_terminate(Arc::clone(daemon))));
        return;
    }
    let ending_already = daemon.shutdown.phase() != Phase::Serving || daemon.ending.load(Ordering::Relaxed);
    let suspended = daemon.shared.pools.with(|registry, _, _| registry.mode()) == Mode::Suspended;
    let phase = match phase {
        Phase::WaitForClients | Phase::WaitForServers if ending_already => {
            // A second signal of either kind means: do not wait any more.
            tracing::info!("got {name} while shutting down, fast exit");
            Phase::Now
        }
        Phase::WaitForClients => {
            tracing::info!("got {name}, shutting down, waiting for all clients disconnect");
            phase
        }
        Phase::WaitForServers => {
            tracing::info!("got {name}, shutting down, waiting for all servers connections to be released");
            phase
        }
        Phase::Now | Phase::Serving => {
            tracing::info!("got {name}, fast exit");
            Phase::Now
        }
    };
    if suspended && phase != Phase::Now {
        // Nobody can be waited for: a successor may be about to serve the very same clients.
        log::fatal(&"suspend was in progress, going down immediately");
        daemon.shutdown.advance(Phase::Now, &daemon.shared);
    } else {
        daemon.shut_down(phase);
    }
}

fn pause_all(daemon: &Daemon) {
    let paused = daemon.shared.pools.with(|registry, now, out| {
        let active = registry.mode() == Mode::Active;
        if active {
            registry.pause_all(now, out);
        }
        active
    });
    tracing::info!(
        "{}",
        if paused { "got SIGUSR1, pausing all activity" } else { "got SIGUSR1, but already paused/suspended" }
    );
}

fn resume_all(daemon: &Daemon) {
    if daemon.shutdown.phase() != Phase::Serving {
        tracing::info!("got SIGUSR2 while shutting down, ignoring");
        return;
    }
    let mode = daemon.shared.pools.with(|registry, now, _| {
        let mode = registry.mode();
        if mode != Mode::Active {
            registry.resume_all(now);
        }
        mode
    });
    match mode {
        Mode::Suspended => tracing::info!("got SIGUSR2, continuing from SUSPEND"),
        Mode::Paused => tracing::info!("got SIGUSR2, continuing from PAUSE"),
        Mode::Active => tracing::info!("got SIGUSR2, but not paused/suspended"),
    }
}
