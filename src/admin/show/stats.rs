//! SHOW STATS and its relatives.

use std::collections::BTreeMap;

use super::{Cell, Column, Row, numeric, text};
use crate::snapshot::{Counters, Snapshot, StatsRow};

pub(super) const STATS: &[Column] = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("total_client_login_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
    // What PgBouncer called queries before 1.8: the exporter that Debian ships asks for nothing else.
    numeric("total_requests"),
];

pub(super) const TOTALS_BY_DATABASE: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
    numeric("client_login_count"),
];

// The prefix on the last four only is PgBouncer's.
pub(super) const AVERAGES: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

pub(super) const TOTALS: &[Column] = &[text("name"), numeric("value")];

/// The names in SHOW TOTALS, to be prefixed, in the order of [`Counters::columns`].
const TOTALS_NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

#[derive(Clone, Copy, Default)]
struct Sum {
    now: Counters,
    last: Counters,
    before: Counters,
}

impl Sum {
    fn add(&mut self, row: &StatsRow) {
        self.now = self.now.plus(&row.now);
        self.last = self.last.plus(&row.last);
        self.before = self.before.plus(&row.before);
    }

    fn averages(&self, span_us: u64) -> Counters {
        self.last.average_since(&self.before, span_us)
    }
}

fn numbers<'a>(counters: &Counters) -> impl Iterator<Item = Cell<'a>> {
    counters.columns().into_iter().map(Cell::Numeric)
}

/// One row per database: its counters, its averages, or both.
pub(super) fn by_database(
    snapshot: &Snapshot,
    counters: bool,
    averages: bool,
) -> Box<dyn Iterator<Item = Row<'_>> + '_> {
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    for row in &snapshot.stats {
        sums.entry(&row.database).or_default().add(row);
    }
    let span_us = snapshot.stats_span_us;
    Box::new(sums.into_iter().map(move |(database, sum)| {
        let mut row: Row<'_> = Vec::with_capacity(STATS.len());
        row.push(database.into());
        if counters {
            row.extend(numbers(&sum.now));
        }
        if averages {
            row.extend(numbers(&sum.averages(span_us)));
        }
        if counters && averages {
            row.push(Cell::Numeric(sum.now.queries));
        }
        row
    }))
}

/// The counters and averages of all databases together. Averages are those of the sums, not sums of averages.
pub(super) fn totals(snapshot: &Snapshot) -> Box<dyn Iterator<Item = Row<'_>> + '_> {
    let mut sum = Sum::default();
    for row in &snapshot.stats {
        sum.add(row);
    }
    let averages = sum.averages(snapshot.stats_span_us);
    let named = |prefix: &'static str, counters: &Counters| {
        let rows = TOTALS_NAMES.into_iter().zip(counters.columns());
        rows.map(move |(name, n)| vec![format!("{prefix}{name}").into(), Cell::Numeric(n)])
    };
    Box::new(named("total_", &sum.now).chain(named("avg_", &averages)))
}
