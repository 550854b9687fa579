//! SHOW WHY: what each waiting client waits for, since when, and which setting would help. Not PgBouncer's.

use jiff::tz::TimeZone;

use super::{Cell, Column, Row, TO_THE_SECOND, gauge, int4, int8, local_time, text};
use crate::snapshot::{LimitUsed, SetBy, Snapshot, WhyCause, WhyRow};

pub(super) const COLUMNS: &[Column] = &[
    text("database"),
    text("user"),
    int8("id"),
    text("addr"),
    int4("port"),
    text("application_name"),
    text("since_time"),
    int4("wait"),
    int4("wait_us"),
    int4("ahead"),
    text("reason"),
    text("waits_for"),
    text("settings"),
    text("advice"),
];

const MICROS_PER_SECOND: u64 = 1_000_000;

/// Those who have waited longest first.
pub(super) fn rows<'a>(snapshot: &'a Snapshot, zone: &'a TimeZone) -> Box<dyn Iterator<Item = Row<'a>> + 'a> {
    let mut rows: Vec<&WhyRow> = snapshot.why.iter().collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.wait_us), row.ahead, row.client));
    Box::new(rows.into_iter().map(|row| cells(row, zone)))
}

fn cells<'a>(row: &'a WhyRow, zone: &TimeZone) -> Row<'a> {
    let Explanation { reason, waits_for, settings, advice } = explain(row);
    let waits_for = if row.in_login { format!("{waits_for} (to be let in)") } else { waits_for };
    vec![
        row.database.as_ref().into(),
        row.user.as_ref().into(),
        row.client.into(),
        row.addr.as_str().into(),
        row.port.into(),
        row.application_name.as_ref().into(),
        local_time(row.since_us, zone, TO_THE_SECOND),
        gauge(row.wait_us / MICROS_PER_SECOND),
        gauge(row.wait_us % MICROS_PER_SECOND),
        gauge(row.ahead),
        reason.into(),
        waits_for.into(),
        Cell::from(settings),
        advice.into(),
    ]
}

struct Explanation {
    /// One word for scripts.
    reason: &'static str,
    waits_for: String,
    /// Names of settings, separated by commas.
    settings: String,
    advice: String,
}

fn explain(row: &WhyRow) -> Explanation {
    let (reason, waits_for, settings, advice) = match &row.cause {
        WhyCause::Frozen => (
            "frozen",
            "the end of a hand-over or of a planned move of the floating address".to_owned(),
            String::new(),
            "it ends by itself".to_owned(),
        ),
        WhyCause::Paused => ("paused", "the end of PAUSE".to_owned(), String::new(), "RESUME".to_owned()),
        WhyCause::DatabasePaused => {
            let database = &row.database;
            ("paused", format!("the end of PAUSE {database}"), String::new(), format!("RESUME {database}"))
        }
        WhyCause::Reset => (
            "reset",
            "a server whose reset query is running".to_owned(),
            "server_reset_query".to_owned(),
            "it is the next to get it".to_owned(),
        ),
        WhyCause::Connecting { since_us, failure } => {
            let before = failure.as_ref().map(|text| format!("; the attempt before failed: {text}"));
            (
                "connecting",
                format!("a server being connected to for {}{}", seconds(*since_us), before.unwrap_or_default()),
                "min_pool_size, server_connect_timeout".to_owned(),
                "min_pool_size keeps servers open beforehand".to_owned(),
            )
        }
        WhyCause::LoginRetry { failure, retry_in_us } => (
            "server_down",
            format!("a server: the last attempt failed: {failure}; the next one is in {}", seconds(*retry_in_us)),
            "server_login_retry".to_owned(),
            "mend what the error names; server_login_retry is the pause between attempts".to_owned(),
        ),
        WhyCause::PoolFull { size, set_by, reserve, servers, reserve_in_us } => {
            return pool_full(row, *size, *set_by, *servers, (*reserve, *reserve_in_us));
        }
        WhyCause::DatabaseLimit(used) => {
            return limit(used, "max_db_connections", &format!("database {}", row.database), row);
        }
        WhyCause::UserLimit(used) => return limit(used, "max_user_connections", "its server user", row),
        WhyCause::Next => {
            ("next", "its turn, which comes at once".to_owned(), String::new(), "nothing to do".to_owned())
        }
    };
    Explanation { reason, waits_for, settings, advice }
}

fn pool_full(row: &WhyRow, size: u32, set_by: SetBy, servers: u32, reserve: (u32, Option<u64>)) -> Explanation {
    let (reserve, reserve_in_us) = reserve;
    let name = match set_by {
        SetBy::Everywhere => "default_pool_size".to_owned(),
        SetBy::Database | SetBy::User => entry("pool_size", set_by, row),
    };
    let open = match reserve_in_us {
        Some(left) => format!("; the reserve of {reserve} opens in {}", seconds(left)),
        None if servers > size => format!(", {} of the reserve among them", servers - size),
        None => String::new(),
    };
    let (settings, advice) = match (reserve, reserve_in_us) {
        (_, Some(_)) => (format!("{name}, reserve_pool_timeout"), format!("raise {name}, or shorten transactions")),
        (0, None) => (
            format!("{name}, reserve_pool_size"),
            format!("raise {name}, allow a reserve_pool_size, or shorten transactions"),
        ),
        (_, None) => (
            format!("{name}, reserve_pool_size"),
            format!("raise {name} or reserve_pool_size, or shorten transactions"),
        ),
    };
    let waits_for = format!("a free server: all {servers} of the pool are in use ({name} = {size}){open}");
    Explanation { reason: "pool_full", waits_for, settings, advice }
}

fn limit(used: &LimitUsed, setting: &'static str, whose: &str, row: &WhyRow) -> Explanation {
    let LimitUsed { limit, set_by, allowed, servers } = *used;
    let name = entry(setting, set_by, row);
    if allowed < limit {
        return Explanation {
            reason: "pair_budget",
            waits_for: format!(
                "room in this node's share of {name} = {limit}: {servers} of {allowed} servers of {whose} are there, the \
                 rest is the peer's"
            ),
            settings: format!("{name}, server_budget"),
            advice: format!("raise {setting}; with server_budget = lend shares follow demand"),
        };
    }
    Explanation {
        reason: setting,
        waits_for: format!("room under {name} = {limit}: {servers} servers of {whose} are there, none of them idle"),
        settings: name,
        advice: format!("raise {setting}, or lower the pool sizes that share it"),
    }
}

/// The setting with the entry that it stands in.
fn entry(setting: &str, set_by: SetBy, row: &WhyRow) -> String {
    match set_by {
        SetBy::Everywhere => setting.to_owned(),
        SetBy::Database => format!("{setting} of database {}", row.database),
        SetBy::User => format!("{setting} of its user"),
    }
}

/// To a tenth.
fn seconds(us: u64) -> String {
    format!("{}.{} s", us / MICROS_PER_SECOND, us % MICROS_PER_SECOND / 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cause: WhyCause) -> WhyRow {
        WhyRow {
            client: 7,
            database: "shop".into(),
            user: "ann".into(),
            addr: "10.0.0.1".to_owned(),
            port: 40_000,
            application_name: "web".into(),
            since_us: 1_700_000_000_000_000,
            wait_us: 2_500_000,
            ahead: 3,
            in_login: false,
            cause,
        }
    }

    fn texts(cause: WhyCause) -> [String; 4] {
        let Explanation { reason, waits_for, settings, advice } = explain(&row(cause));
        [reason.to_owned(), waits_for, settings, advice]
    }

    #[test]
    fn texts_name_figures_settings_and_the_way_out() {
        let full = |set_by, reserve, servers, reserve_in_us| WhyCause::PoolFull {
            size: 20,
            set_by,
            reserve,
            servers,
            reserve_in_us,
        };
        assert_eq!(
            texts(full(SetBy::Everywhere, 0, 20, None)),
            [
                "pool_full",
                "a free server: all 20 of the pool are in use (default_pool_size = 20)",
                "default_pool_size, reserve_pool_size",
                "raise default_pool_size, allow a reserve_pool_size, or shorten transactions",
            ]
        );
        assert_eq!(
            texts(full(SetBy::Database, 5, 20, Some(1_260_000)))[1..3],
            [
                "a free server: all 20 of the pool are in use (pool_size of database shop = 20); the reserve of 5 opens in \
                 1.2 s",
                "pool_size of database shop, reserve_pool_timeout",
            ]
        );
        assert_eq!(
            texts(full(SetBy::User, 5, 25, None))[1],
            "a free server: all 25 of the pool are in use (pool_size of its user = 20), 5 of the reserve among them"
        );
        let used = |limit, allowed| LimitUsed { limit, set_by: SetBy::Everywhere, allowed, servers: allowed };
        assert_eq!(
            texts(WhyCause::DatabaseLimit(used(50, 50))),
            [
                "max_db_connections",
                "room under max_db_connections = 50: 50 servers of database shop are there, none of them idle",
                "max_db_connections",
                "raise max_db_connections, or lower the pool sizes that share it",
            ]
        );
        assert_eq!(
            texts(WhyCause::UserLimit(used(50, 25)))[..2],
            [
                "pair_budget",
                "room in this node's share of max_user_connections = 50: 25 of 25 servers of its server user are there, \
                 the rest is the peer's",
            ]
        );
        let down = WhyCause::LoginRetry { failure: "connect failed".to_owned(), retry_in_us: 12_000_000 };
        assert_eq!(texts(down)[1], "a server: the last attempt failed: connect failed; the next one is in 12.0 s");
        assert_eq!(texts(WhyCause::DatabasePaused)[3], "RESUME shop");
    }

    #[test]
    fn the_longest_wait_comes_first() {
        let mut longer = row(WhyCause::Next);
        (longer.client, longer.wait_us, longer.in_login) = (8, 3_000_000, true);
        let snapshot = Snapshot { why: vec![row(WhyCause::Paused), longer], ..Snapshot::default() };
        let zone = TimeZone::UTC;
        let rows: Vec<_> = rows(&snapshot, &zone).collect();
        assert_eq!((&rows[0][2], &rows[1][2]), (&Cell::Int(8), &Cell::Int(7)));
        assert_eq!(rows[0][11], Cell::from("its turn, which comes at once (to be let in)"));
        assert_eq!(rows[1].len(), COLUMNS.len());
        assert_eq!(rows[1][7..9], [Cell::Int(2), Cell::Int(500_000)]);
    }
}
