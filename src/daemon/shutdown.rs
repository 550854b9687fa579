//! How the process ends: at once, when servers are released, or when clients have left (PgBouncer: SHUTDOWN, SIGINT, SIGTERM,
//! SIGQUIT).

use std::sync::Arc;

use tokio::sync::watch;

use crate::fault::{Culprit, Fault};
use crate::session::io::shared::Shared;

/// How far the end has come; only ever later in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    #[default]
    Serving,
    /// No new clients over TCP; ends when the last client has left.
    WaitForClients,
    /// No new clients over TCP, no server is lent any more; ends when the last one is back.
    WaitForServers,
    /// Now.
    Now,
}

/// The phase, to be watched.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)) }
    }
}

impl Shutdown {
    /// The phase of the moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a later phase; never back.
    pub fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            *phase = (*phase).max(to);
            later
        });
    }

    /// Waits until the phase is at least this.
    pub async fn reached(&self, phase: Phase) {
        let mut watch = self.phase.subscribe();
        // The sender lives as long as self.
        let _ = watch.wait_for(|now| *now >= phase).await;
    }

    /// Carries out what the phases promise; returns when the process may end.
    pub async fn carry_out(&self, shared: &Shared) {
        self.reached(Phase::WaitForClients).await;
        tokio::select! {
            () = self.reached(Phase::Now) => {}
            () = self.drain(shared) => {}
        }
    }

    async fn drain(&self, shared: &Shared) {
        if self.phase() == Phase::WaitForClients {
            tokio::select! {
                () = shared.roster.empty() => {
                    tracing::info!("client connections dropped, exiting");
                    return;
                }
                () = self.reached(Phase::WaitForServers) => {}
            }
        }
        let fault = Fault::fatal(Culprit::Us, "server shutting down").with_sqlstate("57P01").retryable();
        shared.pools.with(|registry, now, out| registry.shut_down(now, &fault, out));
        loop {
            let settled = shared.pools.settled();
            if shared.pools.with(|registry, _, _| registry.busy(None)) == 0 {
                tracing::info!("server connections dropped, exiting");
                return;
            }
            settled.await;
        }
    }
}
