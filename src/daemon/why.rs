//! SHOW WHY: who waits for a server, put together from the pools' queues, the roster and the configuration.

use std::collections::HashMap;

use super::picture::{address, micros, unix_micros};
use super::run::Daemon;
use crate::clock::Time;
use crate::config::{Config, Database, User};
use crate::pool::{LimitReached, WaitCause, WaitView};
use crate::session::io::roster::ClientInfo;
use crate::session::io::route::Route;
use crate::snapshot::{LimitUsed, SetBy, WhyCause, WhyRow};

impl Daemon {
    /// Everybody who waits for a server.
    pub(super) fn why_rows(&self) -> Vec<WhyRow> {
        let now = Time::now();
        let views = self.shared.pools.with(|registry, _, _| registry.why(now));
        if views.is_empty() {
            return Vec::new();
        }
        let config = self.config();
        let clients: HashMap<_, _> = self.shared.roster.clients().into_iter().map(|info| (info.id, info)).collect();
        let row = |view: WaitView| {
            let route = self.shared.context(view.pool)?.route();
            let client = clients.get(&view.client).map(AsRef::as_ref);
            Some(why_row(now, view, &route, client, &config))
        };
        views.into_iter().filter_map(row).collect()
    }
}

fn why_row(now: Time, view: WaitView, route: &Route, client: Option<&ClientInfo>, config: &Config) -> WhyRow {
    let (addr, port) = client.map(|client| address(&client.peer)).unwrap_or_default();
    let application_name =
        client.map(|client| crate::session::io::shared::lock(&client.application_name).as_str().into());
    WhyRow {
        client: view.client.0,
        database: route.database.name.as_str().into(),
        user: client.map_or(route.client_user.as_str(), |client| client.user.as_str()).into(),
        addr,
        port,
        application_name: application_name.unwrap_or_else(|| "".into()),
        since_us: unix_micros(view.since),
        wait_us: micros(now.since(view.since)),
        ahead: view.ahead,
        in_login: view.welcome,
        cause: cause(view.cause, route, config),
    }
}

fn cause(cause: WaitCause, route: &Route, config: &Config) -> WhyCause {
    let database = config.database(&route.database.name);
    let user = config.users.get(&route.server_user);
    match cause {
        WaitCause::Frozen => WhyCause::Frozen,
        WaitCause::Paused => WhyCause::Paused,
        WaitCause::DatabasePaused => WhyCause::DatabasePaused,
        WaitCause::Reset => WhyCause::Reset,
        WaitCause::Connecting { since, failure } => WhyCause::Connecting { since_us: micros(since), failure },
        WaitCause::LoginRetry { failure, retry_in } => WhyCause::LoginRetry { failure, retry_in_us: micros(retry_in) },
        WaitCause::PoolFull { size, reserve, servers, reserve_in } => WhyCause::PoolFull {
            size,
            set_by: set_by(
                user.and_then(|user: &User| user.pool_size),
                database.and_then(|database: &Database| database.pool_size),
            ),
            reserve,
            servers,
            reserve_in_us: reserve_in.map(micros),
        },
        WaitCause::DatabaseLimit(reached) => {
            let own = database.and_then(|database| database.max_db_connections);
            WhyCause::DatabaseLimit(limit(reached, set_by(None, own)))
        }
        WaitCause::UserLimit(reached) => {
            let own = user.and_then(|user| user.max_user_connections);
            WhyCause::UserLimit(limit(reached, set_by(own, None)))
        }
        WaitCause::Next => WhyCause::Next,
    }
}

/// The user's entry comes before the database's.
fn set_by(user: Option<u32>, database: Option<u32>) -> SetBy {
    match (user, database) {
        (Some(_), _) => SetBy::User,
        (None, Some(_)) => SetBy::Database,
        (None, None) => SetBy::Everywhere,
    }
}

fn limit(reached: LimitReached, set_by: SetBy) -> LimitUsed {
    let LimitReached { limit, allowed, servers } = reached;
    LimitUsed { limit, set_by, allowed, servers }
}
