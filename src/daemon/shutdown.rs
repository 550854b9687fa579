//! How the process ends: at once, when servers are released, or when clients have left (PgBouncer: SHUTDOWN, SIGINT, SIGTERM,
//! SIGQUIT). A shutdown that waits does not wait for ever: see [`Drain`].

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use crate::clock::Time;
use crate::config::settings::Settings;
use crate::fault::{Culprit, Fault};
use crate::session::drain::{Drain, Rank, Terms};
use crate::session::io::cancel;
use crate::session::io::roster::{ClientInfo, Doing, Ending};
use crate::session::io::shared::{Shared, lock};

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

/// How far a shutdown that waits has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Clients that it waits for: all in pools, or those of them that hold servers.
    pub clients_left: usize,
    /// When it began.
    pub since: Time,
    /// When those who are left then are closed; [`Time::NEVER`] if that never comes (setting drain_timeout).
    pub deadline: Time,
}

/// The phase, to be watched, and what is known of the way there.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: Arc<watch::Sender<Phase>>,
    progress: Arc<Mutex<Option<Progress>>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Serving)), progress: Arc::default() }
    }
}

/// How long the last words to clients may take when the process ends. They are one write each, so this is for a machine under
/// load, not for clients that do not read.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

/// How long servers may take to hear that they must stop their queries.
const STOP_MAX: Duration = Duration::from_secs(2);

/// How long clients between transactions have to go before the others are closed too, when the deadline has come.
const LAST_CALL: Duration = Duration::from_millis(100);

/// At least this often a shutdown that waits looks at its settings, and tells how far it is.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What clients are told: PostgreSQL's own words when it is shut down, which drivers and pools know.
fn goodbye() -> Fault {
    let text = "terminating connection due to administrator command";
    Fault::fatal(Culprit::Us, text).with_sqlstate("57P01").with_detail(DETAIL).retryable()
}

/// Where PgBouncer stops, clients see libpq's words for a bare end. Programs that know a lost connection by them (its own test
/// suite, for one) find them here.
const DETAIL: &str = "The pooler is shutting down (server closed the connection unexpectedly).";

/// The settings of a shutdown that waits.
#[must_use]
pub fn terms(settings: &Settings) -> Terms {
    Terms { grace: settings.drain_grace, spread: settings.drain_spread, timeout: settings.drain_timeout }
}

impl Shutdown {
    /// The phase of the moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Goes on to a later phase; never back. From now on no new client gets into a database.
    pub fn advance(&self, to: Phase, shared: &Shared) {
        lock(&shared.limits).close();
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

    /// How far a shutdown that waits has come, at most [`LOOK_AGAIN`] ago; `None` if none is under way.
    #[must_use]
    pub fn drain_progress(&self) -> Option<Progress> {
        *lock(&self.progress)
    }

    /// Carries out what the phases promise; returns when the process may end. `terms` gives the settings of the moment.
    pub async fn carry_out(&self, shared: &Arc<Shared>, terms: impl Fn() -> Terms) {
        self.reached(Phase::WaitForClients).await;
        tokio::select! {
            // Looked at first: what is to end now does not begin to wait.
            biased;
            () = self.reached(Phase::Now) => {}
            () = self.drain(shared, terms) => {}
        }
        see_off(shared).await;
    }

    async fn drain(&self, shared: &Arc<Shared>, terms: impl Fn() -> Terms) {
        let mut drain = Drain::begin(Time::now());
        let mut stage = Phase::WaitForClients;
        let mut look_at = Time::default();
        announce(&terms(), shared.roster.clients().iter().filter(|client| client.pool().is_some()).count());
        loop {
            let (departure, settled) = (shared.roster.departure(), shared.pools.settled());
            if stage < Phase::WaitForServers && self.phase() >= Phase::WaitForServers {
                stage = Phase::WaitForServers;
                let fault = Fault { text: "server shutting down".into(), ..goodbye() };
                shared.pools.with(|registry, now, out| registry.shut_down(now, &fault, out));
            }
            if is_over(stage, shared) {
                return;
            }
            let now = Time::now();
            if now >= look_at {
                let terms = terms();
                let clients = concerned(stage, shared);
                let (since, deadline) = (drain.since(), drain.deadline(&terms));
                *lock(&self.progress) = Some(Progress { clients_left: clients.len(), since, deadline });
                let untold: Vec<_> = clients.into_iter().filter(|client| client.ending().is_none()).collect();
                let order = drain.look(now, &terms, untold.len());
                tell(untold, order.tell);
                if order.overdue {
                    close_the_rest(stage, shared).await;
                    return;
                }
                look_at = order.again.min(now + LOOK_AGAIN);
            }
            let next_stage = async {
                if stage == Phase::WaitForClients { self.reached(Phase::WaitForServers).await } else { pending().await }
            };
            tokio::select! {
                () = departure => {}
                () = settled => {}
                () = next_stage => {}
                () = sleep_until(look_at.instant().into()) => {}
            }
        }
    }
}

/// Says in the log what is going to happen, so that nobody has to guess why nothing happens.
fn announce(terms: &Terms, clients: usize) {
    if clients == 0 {
        return;
    }
    let Terms { grace, spread, timeout } = terms;
    if timeout.is_zero() {
        tracing::info!("{clients} clients are connected and are waited for without limit (drain_timeout = 0)");
        return;
    }
    let (from, to, end) = (grace.as_secs_f64(), (*grace + *spread).as_secs_f64(), timeout.as_secs_f64());
    tracing::info!(
        "{clients} clients are connected: from {from} s to {to} s from now they are closed between transactions, after {end} s \
         whoever is left (drain_grace, drain_spread, drain_timeout)"
    );
}

/// Has come what this phase waits for? Then the log has PgBouncer's line for it.
fn is_over(stage: Phase, shared: &Shared) -> bool {
    let (over, line) = if stage == Phase::WaitForServers {
        let busy = shared.pools.with(|registry, _, _| registry.busy(None));
        (busy == 0, "server connections dropped, exiting")
    } else {
        (shared.roster.is_empty(), "client connections dropped, exiting")
    };
    if over {
        tracing::info!("{line}");
    }
    over
}

/// The clients that this phase waits for.
fn concerned(stage: Phase, shared: &Shared) -> Vec<Arc<ClientInfo>> {
    let mut clients = shared.roster.clients();
    clients.retain(|client| client.pool().is_some() && (stage == Phase::WaitForClients || client.link().is_some()));
    clients
}

/// Lets so many of these clients go, those first that have asked for nothing for the longest time.
fn tell(mut untold: Vec<Arc<ClientInfo>>, many: usize) {
    untold.sort_by_cached_key(|client| Rank {
        busy: client.doing() != Doing::Idle && !client.keeps_server(),
        since: client.request_at().max(client.connected_at),
    });
    for client in untold.into_iter().take(many) {
        client.end(Ending::between_transactions(goodbye()));
    }
}

/// Closes the clients that are still there although the time is up, and stops what their servers do.
async fn close_the_rest(stage: Phase, shared: &Arc<Shared>) {
    tokio::select! {
        () = sleep(LAST_CALL) => {}
        () = async { while !concerned(stage, shared).is_empty() { shared.roster.departure().await } } => {}
    }
    let clients = concerned(stage, shared);
    if clients.is_empty() {
        return;
    }
    tracing::warn!("drain_timeout: closing {} clients that are not done", clients.len());
    let held = |client: &Arc<ClientInfo>| Some((client.pool()?, shared.roster.server(client.link()?)?));
    let servers = clients.iter().filter_map(held).collect();
    for client in clients {
        client.end(Ending::at_once(goodbye()));
    }
    cancel::stop(shared, servers, STOP_MAX).await;
}

/// Tells everybody who is still here that this is the end, as far as that needs no waiting for them.
async fn see_off(shared: &Shared) {
    shared.pools.with(|registry, _, out| registry.turn_away(&goodbye(), out));
    for client in shared.roster.clients() {
        client.end(Ending::at_once(goodbye()));
    }
    let _ = timeout(LAST_WORDS_MAX, shared.roster.deserted()).await;
}
