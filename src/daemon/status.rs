//! What the service manager hears, and when: ready after a first login was tried, the line on how things stand, stopping, more
//! time for a drain, signs of life.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::console::activity;
use super::log::quietly;
use super::run::Daemon;
use super::service::{Role, Standing, status_line};
use super::shutdown::Phase;
use super::watchdog::{Watchdog, Workers};
use crate::clock::Time;
use crate::session::io::open;
use crate::session::io::shared::{Shared, lock};

/// How long the first login may take before we say that we are ready without it.
const TRIAL_PATIENCE: Duration = Duration::from_secs(3);

/// A failed trial is repeated after this time, so that the status line does not complain of what is long mended.
const TRIAL_AGAIN: Duration = Duration::from_secs(15);

/// How often the status line is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// In a drain: how much time the service manager is asked for, and how often.
const MORE_TIME: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_secs(5);

/// A client of our own is counted by nobody while this is there.
struct OwnClient {
    shared: Arc<Shared>,
}

impl OwnClient {
    fn begin(shared: &Arc<Shared>) -> Self {
        lock(&shared.limits).begin_own();
        Self { shared: Arc::clone(shared) }
    }
}

impl Drop for OwnClient {
    fn drop(&mut self) {
        lock(&self.shared.limits).end_own();
    }
}

impl Daemon {
    /// How things stand.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let (pools, mode) = self.shared.pools.with(|registry, now, _| (registry.pools(now), registry.mode()));
        let mut standing = Standing {
            activity: activity(mode),
            phase: self.shutdown.phase(),
            role: self.ha().map_or(Role::Standalone, |ha| ha.role()),
            ..Standing::default()
        };
        for counts in pools.iter().map(|pool| &pool.counts) {
            let busy = counts.active + counts.active_cancel + counts.being_canceled;
            standing.clients += u64::from(counts.clients_active) + u64::from(counts.clients_waiting);
            standing.waiting += u64::from(counts.clients_waiting);
            standing.active += u64::from(busy);
            standing.servers += u64::from(busy + counts.idle + counts.used + counts.tested);
        }
        standing
    }

    /// The line for the service manager.
    #[must_use]
    pub fn status_line(&self) -> String {
        let standing = self.standing();
        let mut troubles = lock(&self.troubles);
        if standing.servers > 0 {
            troubles.login = None;
        }
        status_line(&standing, &troubles)
    }

    /// Watches the worker threads for the service manager, if it wants that of this process (WATCHDOG_USEC), and for the
    /// floating addresses, which a node that does not get on must not hold.
    pub(super) fn watch(self: &Arc<Self>, workers: &Arc<Workers>) -> io::Result<Option<Watchdog>> {
        let wanted = sd_notify::watchdog_enabled().filter(|wanted| self.service.is_present() && !wanted.is_zero());
        // The lease on floating addresses hangs on the data path too, and is not as patient.
        let config = self.config();
        let ha = config.ha.as_ref().map(|ha| Duration::from_millis(ha.settings.health_timeout_ms.into()) * 2);
        let Some(wanted) = wanted.into_iter().chain(ha).min() else { return Ok(None) };
        let (daemon, handle) = (Arc::clone(self), Handle::current());
        let inside = handle.clone();
        let admit = move |stream: tokio::net::UnixStream| {
            // A client like any other, but for the log, which it would fill, and the limits, where it would take a place.
            let own = OwnClient::begin(&daemon.shared);
            let client = Arc::clone(&daemon).attend(stream.into(), None);
            inside.spawn(quietly(async move {
                client.await;
                drop(own);
            }));
        };
        Watchdog::start(wanted, Arc::clone(workers), handle, Arc::clone(&self.service), admit).map(Some)
    }

    /// Runs for as long as the process serves.
    pub(super) async fn keep_service_informed(self: Arc<Self>) {
        if !self.service.is_present() {
            return;
        }
        tokio::select! {
            () = self.try_first_server() => {}
            () = self.shutdown.reached(Phase::WaitForClients) => {}
        }
        if self.shutdown.phase() == Phase::Serving {
            self.service.ready(&self.status_line());
        }
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut tried_at, mut asked_at) = (Time::now(), None);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.shutdown.reached(Phase::WaitForClients), if asked_at.is_none() => {}
            }
            let now = Time::now();
            let line = self.status_line();
            if self.shutdown.phase() > Phase::Serving {
                self.service.stopping(&line);
                if asked_at.is_none_or(|at| now.since(at) >= ASK_EVERY) {
                    self.service.extend_timeout(MORE_TIME);
                    asked_at = Some(now);
                }
            } else if lock(&self.troubles).login.is_some() && now.since(tried_at) >= TRIAL_AGAIN {
                self.try_first_server().await;
                tried_at = Time::now();
            }
            self.service.status(&line);
        }
    }

    /// Logs in to a server as a pool would that is known before any client comes; if there is none such, sees whether the first
    /// database's server can be reached. What comes of it is noted for the status line.
    async fn try_first_server(self: &Arc<Self>) {
        let directory = self.directory();
        let route = directory.forced_routes().into_iter().max_by_key(|route| route.pool.min_pool_size > 0);
        let (name, result) = if let Some(route) = route {
            let trial = open::try_login(&self.shared, &route);
            (route.database.name.clone(), timeout(TRIAL_PATIENCE, trial).await)
        } else if let Some(database) = directory.databases().next() {
            let trial = open::try_reach(&self.shared, &database);
            (database.name.clone(), timeout(TRIAL_PATIENCE, trial).await)
        } else {
            return;
        };
        let result = result.unwrap_or_else(|_| Err(format!("no answer in {} s", TRIAL_PATIENCE.as_secs())));
        if let Err(reason) = &result
            && lock(&self.troubles).login.is_none()
        {
            tracing::warn!("first login to a server of database \"{name}\" failed: {reason}; serving all the same");
        }
        lock(&self.troubles).login = result.err().map(|reason| format!("database \"{name}\": {reason}"));
    }
}
