//! `max_db_connections` and `max_user_connections` as limits of both nodes together: what is used here goes to the link, and
//! what it allots to the pools.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use crate::config::ServerBudget;
use crate::config::ha::Ha as Settings;
use crate::daemon::run::Daemon;
use crate::fault::{Culprit, Fault};
use crate::pair::budget::{Allotment, never_lent, settling_time, surely_own};
use crate::pair::message::{BudgetKey, Name};
use crate::pool::{DatabaseId, LimitUse, Untold, UserId};
use crate::session::io::roster::{ClientInfo, Ending};
use crate::session::io::shared::lock;

/// In how long servers go that this node must no longer have.
pub(super) const SHED_GRACE: Duration = Duration::from_secs(1);

/// Why a client in session pooling must go.
const SHARE_BACK: &str =
    "The other node has its share of max_db_connections or max_user_connections back: connect again.";

/// What was last told of one budget.
type Told = (Option<u32>, LimitUse);

/// The budgets of this node.
#[derive(Default)]
pub(super) struct Budgets {
    told: Mutex<HashMap<BudgetKey, Told>>,
}

/// Whose limit it is, for the pools.
enum Group {
    Database(DatabaseId),
    User(UserId),
}

impl Budgets {
    /// Tells what has changed about limits and their use since the last look.
    pub(super) fn look(&self, daemon: &Daemon, mut tell: impl FnMut(BudgetKey, Option<u32>, u32, u32)) {
        let mut now = HashMap::new();
        for (key, group, limit) in limits(daemon) {
            let usage = daemon.shared.pools.with(|registry, _, _| match group {
                Group::Database(id) => registry.database_use(id),
                Group::User(id) => registry.user_use(id),
            });
            now.insert(key, (Some(limit), usage));
        }
        let mut told = lock(&self.told);
        for (key, state) in &now {
            if told.get(key) != Some(state) {
                tell(key.clone(), state.0, state.1.servers, state.1.blocked);
            }
        }
        for key in told.keys().filter(|key| !now.contains_key(*key)) {
            tell(key.clone(), None, 0, 0);
        }
        *told = now;
    }

    /// Has the pools adhere to an allotment; how many servers there are then.
    pub(super) fn apply(&self, daemon: &Daemon, key: &BudgetKey, allotment: Allotment) -> u32 {
        let Some(group) = group_of(daemon, key) else { return 0 };
        let share = Some(allotment.servers);
        let servers = daemon.shared.pools.with(|registry, now, out| match &group {
            Group::Database(id) => {
                registry.set_database_share(now, *id, share, out);
                registry.database_use(*id).servers
            }
            Group::User(id) => {
                registry.set_user_share(now, *id, share, out);
                registry.user_use(*id).servers
            }
        });
        if let Some(excess) = allotment.shed_to.map(|to| servers.saturating_sub(to)).filter(|excess| *excess > 0) {
            tell_keepers(daemon, &group, excess);
        }
        servers
    }
}

impl Daemon {
    /// What this process may have of limits of which the link has said nothing. `settled`: nothing that a former process may
    /// have lent is out any more.
    pub(crate) fn presume_shares(&self, settled: bool) {
        let config = self.config();
        let mode = config.ha.as_ref().filter(|ha| ha.has_peer()).map(|ha| ha.settings.server_budget);
        let of: Option<Untold> = match mode {
            None | Some(ServerBudget::Off) => None,
            Some(ServerBudget::Lend) if !settled => Some(never_lent),
            Some(ServerBudget::Lend | ServerBudget::Halves) => Some(surely_own),
        };
        self.shared.pools.with(|registry, now, _| registry.set_untold_share(now, of));
        self.shared.pools.nudge();
    }

    /// Presumes more as soon as nothing of a former process can be out any more. To be called inside the runtime.
    pub(super) fn settle_shares(self: &Arc<Self>, settings: &Settings) {
        let lease = Duration::from_millis(settings.settings.link_timeout_ms.into());
        let daemon = Arc::clone(self);
        drop(tokio::spawn(async move {
            sleep(settling_time(lease, SHED_GRACE)).await;
            daemon.presume_shares(true);
        }));
    }
}

/// Who keeps servers that are above an allotment is told to go, at the end of its transaction: in session pooling a server does
/// not come back by itself.
fn tell_keepers(daemon: &Daemon, group: &Group, excess: u32) {
    let mut clients = daemon.shared.roster.clients();
    clients.retain(|client| client.keeps_server() && client.link().is_some());
    let of_group = daemon.shared.pools.with(|registry, _, _| {
        let is_of = |client: &Arc<ClientInfo>| match group {
            Group::Database(id) => client.pool().and_then(|pool| registry.owners(pool)).is_some_and(|own| own.0 == *id),
            Group::User(id) => client.pool().and_then(|pool| registry.owners(pool)).is_some_and(|own| own.1 == *id),
        };
        clients.iter().filter(|client| is_of(client)).map(Arc::clone).collect::<Vec<_>>()
    });
    let excess = usize::try_from(excess).unwrap_or(usize::MAX);
    for client in of_group.iter().take(excess) {
        let text = "terminating connection due to administrator command";
        let fault = Fault::fatal(Culprit::Us, text).with_sqlstate("57P01").with_detail(SHARE_BACK).retryable();
        client.end(Ending::between_transactions(fault));
    }
}

fn group_of(daemon: &Daemon, key: &BudgetKey) -> Option<Group> {
    let mut numbers = lock(&daemon.numbers);
    Some(match key {
        BudgetKey::Database(name) => Group::Database(numbers.database(name.as_str())),
        BudgetKey::User(name) => Group::User(numbers.user(name.as_str())),
    })
}

/// All limits of the configuration, by whom they are for.
fn limits(daemon: &Daemon) -> Vec<(BudgetKey, Group, u32)> {
    let (config, directory) = (daemon.config(), daemon.directory());
    let databases = directory.database_names();
    // There may be many users, and this is looked at often.
    let of_users = config.users.values().map(Some).chain([None]);
    let users = if of_users.map(|user| config.max_user_connections(user)).any(|limit| limit > 0) {
        directory.user_names()
    } else {
        BTreeSet::new()
    };
    let mut numbers = lock(&daemon.numbers);
    let databases = databases.iter().filter_map(|name| {
        let limit = config.max_db_connections(config.database(name)?);
        let key = BudgetKey::Database(Name::new(name));
        (limit > 0).then(|| (key, Group::Database(numbers.database(name)), limit))
    });
    let mut all: Vec<_> = databases.collect();
    all.extend(users.iter().filter_map(|name| {
        let limit = config.max_user_connections(config.users.get(name));
        let key = BudgetKey::User(Name::new(name));
        (limit > 0).then(|| (key, Group::User(numbers.user(name)), limit))
    }));
    all
}
