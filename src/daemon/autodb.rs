//! Databases that clients have made from the `*` entry are forgotten when nobody has used them for a while (PgBouncer setting
//! autodb_idle_timeout).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::run::Daemon;
use crate::clock::Time;
use crate::pool::DatabaseId;
use crate::session::io::shared::lock;

/// How often it is looked, at the most.
const ROUND_MAX: Duration = Duration::from_secs(30);

/// Since when each of the databases that nobody uses is idle.
#[derive(Debug, Default)]
struct IdleSince(HashMap<DatabaseId, Time>);

impl IdleSince {
    /// Those of `idle` that have been so for `limit`; the others are forgotten about.
    fn due(&mut self, now: Time, idle: &[(String, DatabaseId)], limit: Duration) -> Vec<(String, DatabaseId)> {
        self.0.retain(|id, _| idle.iter().any(|(_, other)| other == id));
        let due = idle.iter().filter(|(_, id)| now.since(*self.0.entry(*id).or_insert(now)) >= limit);
        due.cloned().collect()
    }
}

impl Daemon {
    /// Forgets databases as long as the process lives.
    pub(super) async fn forget_idle_databases(self: Arc<Self>) {
        let mut since = IdleSince::default();
        loop {
            let limit = self.config().settings.autodb_idle_timeout;
            tokio::time::sleep((limit / 4).clamp(Duration::from_millis(250), ROUND_MAX)).await;
            if limit.is_zero() || self.shared.freeze.is_on() {
                continue;
            }
            let due = since.due(Time::now(), &self.idle_databases(), limit);
            for (name, id) in due {
                self.forget_database(&name, id);
            }
        }
    }

    /// The databases made from `*` that have neither clients nor servers.
    fn idle_databases(&self) -> Vec<(String, DatabaseId)> {
        let config = self.config();
        let limits = lock(&self.shared.limits);
        let numbers = lock(&self.numbers);
        let made = numbers.databases().filter(|(name, _)| !config.databases.contains_key(*name));
        let made: Vec<_> = made.map(|(name, id)| (name.to_owned(), id)).collect();
        drop(numbers);
        let unused = |id: DatabaseId| {
            limits.of_database(id) == 0
                && self.shared.pools.with(|registry, _, _| registry.of_database(id) == 0 && !registry.is_paused(id))
        };
        made.into_iter().filter(|(_, id)| unused(*id)).collect()
    }

    /// Under the locks through which a client would have to come to use it, so that none is on its way.
    fn forget_database(&self, name: &str, id: DatabaseId) {
        let mut limits = lock(&self.shared.limits);
        let mut numbers = lock(&self.numbers);
        if self.shared.arriving() > 0 || limits.of_database(id) > 0 {
            return;
        }
        let dropped = self.shared.pools.with(|registry, now, out| {
            let idle = registry.of_database(id) == 0;
            if idle {
                registry.drop_database(now, id, out);
            }
            idle
        });
        if dropped {
            numbers.forget_database(name);
            limits.forget_database(id);
            lock(&self.shared.stats).remove(&id);
            tracing::info!("dropping database '{name}' as it does not exist anymore or inactive auto-database");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_due_when_it_was_idle_all_the_time() {
        let limit = Duration::from_secs(10);
        let at = |s: u64| Time(s * 1_000_000_000);
        let (a, b) = (("a".to_owned(), DatabaseId(1)), ("b".to_owned(), DatabaseId(2)));
        let mut since = IdleSince::default();
        assert!(since.due(at(0), &[a.clone(), b.clone()], limit).is_empty());
        assert!(since.due(at(5), std::slice::from_ref(&a), limit).is_empty(), "b was used meanwhile");
        assert_eq!(since.due(at(10), &[a.clone(), b.clone()], limit), [a]);
        assert_eq!(since.due(at(20), std::slice::from_ref(&b), limit), [b]);
    }
}
