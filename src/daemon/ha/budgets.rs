//! `max_db_connections` and `max_user_connections` as limits of both nodes together: what is used here goes to the link, and
//! what it allots to the pools.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use crate::daemon::run::Daemon;
use crate::pair::budget::Allotment;
use crate::pair::message::{BudgetKey, Name};
use crate::pool::{DatabaseId, LimitUse, UserId};
use crate::session::io::shared::lock;

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
        daemon.shared.pools.with(|registry, now, out| match group {
            Group::Database(id) => {
                registry.set_database_share(now, id, share, out);
                registry.database_use(id).servers
            }
            Group::User(id) => {
                registry.set_user_share(now, id, share, out);
                registry.user_use(id).servers
            }
        })
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
