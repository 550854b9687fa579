//! Does this node reach PostgreSQL? Queries that come to their end say so without a word; where there are none, connections
//! are tried, seldom, since each may be a line in PostgreSQL's log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::clock::Time;
use crate::daemon::directory::CONSOLE_DATABASE;
use crate::daemon::run::Daemon;
use crate::session::io::open;
use crate::session::io::shared::lock;

/// How often the counters are looked at, and a connection tried while none comes about.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often a connection is tried while the last one came about and nobody asks anything.
const TRY_EVERY: Duration = Duration::from_secs(5);

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Databases that are tried; more say no more about the way to them.
const DATABASES_MAX: usize = 8;

/// Watches for as long as the process lives, and reports each time that it has looked: `Err` with the reason if no server of
/// any database can be reached.
pub(super) async fn watch(daemon: Arc<Daemon>, report: impl Fn(Result<(), String>)) {
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut queries, mut tried_at, mut well) = (answered(&daemon), None, true);
    loop {
        look.tick().await;
        let now = Time::now();
        let before = std::mem::replace(&mut queries, answered(&daemon));
        if queries != before {
            (well, tried_at) = (true, Some(now));
            report(Ok(()));
            continue;
        }
        if well && tried_at.is_some_and(|at| now.since(at) < TRY_EVERY) {
            continue;
        }
        let outcome = try_all(&daemon).await;
        (well, tried_at) = (outcome.is_ok(), Some(Time::now()));
        report(outcome);
    }
}

/// Queries that servers have answered so far.
fn answered(daemon: &Daemon) -> u64 {
    let stats = lock(&daemon.shared.stats);
    let of_servers = stats.iter().filter(|(database, _)| **database != CONSOLE_DATABASE);
    of_servers.map(|(_, stats)| stats.queries.load(Ordering::Relaxed)).sum()
}

/// One that can be reached is enough: that the others cannot is nothing that another node would be better at.
async fn try_all(daemon: &Daemon) -> Result<(), String> {
    let directory = daemon.directory();
    let mut last = Ok(());
    for database in directory.databases().take(DATABASES_MAX) {
        let tried = timeout(PATIENCE, open::try_reach(&daemon.shared, &database)).await;
        let tried = tried.unwrap_or_else(|_| Err(format!("no connection in {} s", PATIENCE.as_secs())));
        match tried {
            Ok(()) => return Ok(()),
            Err(reason) => last = Err(format!("database \"{}\": {reason}", database.name)),
        }
    }
    last
}
