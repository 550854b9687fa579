//! What is left of `max_db_connections` and `max_user_connections` while another node has its share of them: less than the
//! limit, and it may shrink at any time, so that servers above it go: idle ones at once, others at their release.

use super::action::reason;
use super::registry::{Registry, Side, Untold};
use super::state::Place;
use super::{Action, DatabaseId, UserId};
use crate::clock::Time;

/// How much of a limit is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitUse {
    /// Servers, those logging in among them.
    pub servers: u32,
    /// Pools whose clients wait because the limit does not allow one more server.
    pub blocked: u32,
}

impl Registry {
    /// Of `max_db_connections` of this database only so much is for this process; `None`: all of it.
    pub fn set_database_share(&mut self, now: Time, database: DatabaseId, share: Option<u32>, out: &mut Vec<Action>) {
        let slot = self.database_slot(database);
        self.set_share(now, Side::Database, slot, share, out);
    }

    /// The same of `max_user_connections`.
    pub fn set_user_share(&mut self, now: Time, user: UserId, share: Option<u32>, out: &mut Vec<Action>) {
        let slot = self.user_slot(user);
        self.set_share(now, Side::User, slot, share, out);
    }

    /// What this process may have of limits of which it was told no share, of those too that come later. What is there above
    /// it stays; `None`: all.
    pub fn set_untold_share(&mut self, now: Time, of: Option<Untold>) {
        self.untold = of;
        let databases: Vec<u32> = self.database_slots.values().copied().collect();
        let users: Vec<u32> = self.user_slots.values().copied().collect();
        let of_databases = databases.into_iter().map(|slot| (Side::Database, slot));
        for (side, slot) in of_databases.chain(users.into_iter().map(|slot| (Side::User, slot))) {
            self.group_mut(side, slot).untold = of;
            self.wake_group(now, side, slot);
        }
    }

    /// How much of `max_db_connections` is in use.
    #[must_use]
    pub fn database_use(&self, database: DatabaseId) -> LimitUse {
        self.database_slots.get(&database).map_or_else(LimitUse::default, |&slot| self.limit_use(Side::Database, slot))
    }

    /// How much of `max_user_connections` is in use.
    #[must_use]
    pub fn user_use(&self, user: UserId) -> LimitUse {
        self.user_slots.get(&user).map_or_else(LimitUse::default, |&slot| self.limit_use(Side::User, slot))
    }

    fn limit_use(&self, side: Side, slot: u32) -> LimitUse {
        let group = self.group(side, slot);
        LimitUse { servers: group.servers, blocked: u32::try_from(group.blocked.len()).unwrap_or(u32::MAX) }
    }

    fn set_share(&mut self, now: Time, side: Side, slot: u32, share: Option<u32>, out: &mut Vec<Action>) {
        let group = self.group_mut(side, slot);
        let before = group.allowed();
        group.share = share;
        if group.allowed() > before {
            self.wake_group(now, side, slot);
        }
        self.shed(now, side, slot, out);
    }

    /// Closes idle servers above the share, and those that are logging in.
    fn shed(&mut self, now: Time, side: Side, slot: u32, out: &mut Vec<Action>) {
        if self.is_frozen() {
            return;
        }
        while self.group(side, slot).is_over_share() {
            let Some(s) = self.oldest_idle(side, slot).or_else(|| self.any_login(side, slot)) else { return };
            self.close(now, s, reason::SHARE, out);
        }
    }

    fn any_login(&self, side: Side, slot: u32) -> Option<u32> {
        self.group(side, slot).pools.iter().find_map(|&p| self.of_place(p, Place::Login).first().copied())
    }

    /// A server that nobody holds is above what this process may have.
    pub(super) fn is_over_share(&self, s: u32) -> bool {
        let p = self.servers[s].pool;
        [Side::Database, Side::User].into_iter().any(|side| self.group(side, self.group_slot(p, side)).is_over_share())
    }
}
