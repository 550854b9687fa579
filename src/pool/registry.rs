//! The registry's books: who is where, and the counters that follow from it. What is decided stands in the other files.

use super::slots::Slab;
use super::state::{Database, Group, Place, Pool, Request, Server, User, Waiter};
use super::{Action, DatabaseId, DatabaseParams, GlobalParams, Ids, Mode, PoolParams, UserId, UserParams};
use crate::clock::Time;
use crate::fault::Fault;
use crate::ids::{ClientId, PoolId, ServerId};
use rustc_hash::FxHashMap;
use std::time::Duration;

/// The grain of upkeep: a server fresh from login is left alone, and `min_pool_size` grows by one server, for so long.
/// PgBouncer's janitor goes its round as often.
pub(super) const ROUND: Duration = Duration::from_millis(333);

/// Every pool of the process. Calls are made under one mutex; the actions that they push are performed after it was let
/// go. Ids that are no longer known are no error anywhere: a pool or server may go while a call is on its way.
#[derive(Debug)]
pub struct Registry {
    pub(super) ids: Ids,
    pub(super) globals: GlobalParams,
    pub(super) mode: Mode,
    /// What clients that need a server are told since the process is about to end.
    pub(super) ending: Option<Fault>,
    /// How many have it stand still: a hand-over, a planned move of the floating address.
    pub(super) freezes: u32,
    /// What this process may have of limits of which it was told no share yet.
    pub(super) untold: Option<Untold>,
    pub(super) databases: Slab<Database>,
    pub(super) users: Slab<User>,
    pub(super) pools: Slab<Pool>,
    pub(super) servers: Slab<Server>,
    pub(super) waiters: Slab<Waiter>,
    pub(super) database_slots: FxHashMap<DatabaseId, u32>,
    pub(super) user_slots: FxHashMap<UserId, u32>,
    pub(super) pool_slots: FxHashMap<PoolId, u32>,
    pub(super) pool_by_owner: FxHashMap<(u32, u32), u32>,
    pub(super) server_slots: FxHashMap<ServerId, u32>,
    pub(super) waiter_slots: FxHashMap<ClientId, u32>,
    pub(super) requests: FxHashMap<ClientId, Request>,
    /// By pool slot: no timer of the pool ends before this.
    pub(super) due: Vec<Time>,
    /// No timer at all ends before this.
    pub(super) next_due: Time,
    last_pool: u32,
}

/// What this process may have of a limit until it is told its share.
pub type Untold = fn(u32) -> u32;

/// One of the two groups that a pool belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Database,
    User,
}

impl Registry {
    /// Without any pool. Servers draw their ids from `ids`.
    #[must_use]
    pub fn new(ids: Ids, globals: GlobalParams) -> Self {
        Self {
            ids,
            globals,
            mode: Mode::Active,
            ending: None,
            freezes: 0,
            untold: None,
            databases: Slab::default(),
            users: Slab::default(),
            pools: Slab::default(),
            servers: Slab::default(),
            waiters: Slab::default(),
            database_slots: FxHashMap::default(),
            user_slots: FxHashMap::default(),
            pool_slots: FxHashMap::default(),
            pool_by_owner: FxHashMap::default(),
            server_slots: FxHashMap::default(),
            waiter_slots: FxHashMap::default(),
            requests: FxHashMap::default(),
            due: Vec::new(),
            next_due: Time::NEVER,
            last_pool: 0,
        }
    }

    /// New global settings. They take effect at the next [`Self::tick`], which is due at once.
    pub fn set_globals(&mut self, now: Time, globals: GlobalParams) {
        self.globals = globals;
        self.wake_all(now);
    }

    /// Makes a database known, or changes its settings (effect at the next tick).
    pub fn set_database(&mut self, now: Time, database: DatabaseId, params: DatabaseParams) {
        let slot = self.database_slot(database);
        self.databases[slot].group.limit = params.max_db_connections;
        self.wake_group(now, Side::Database, slot);
    }

    /// Makes a user known, or changes its settings (effect at the next tick).
    pub fn set_user(&mut self, now: Time, user: UserId, params: UserParams) {
        let slot = self.user_slot(user);
        self.users[slot].group.limit = params.max_user_connections;
        self.wake_group(now, Side::User, slot);
    }

    /// The pool of this database and user, made if there is none. Parameters that differ from the pool's replace them
    /// (effect at the next tick). A database or user that was never set has no limit.
    pub fn ensure_pool(&mut self, now: Time, database: DatabaseId, user: UserId, params: &PoolParams) -> PoolId {
        let owner = (self.database_slot(database), self.user_slot(user));
        if let Some(&p) = self.pool_by_owner.get(&owner) {
            if self.pools[p].params != *params {
                self.pools[p].params = params.clone();
                self.wake(now, p);
            }
            return self.pools[p].id;
        }
        self.last_pool += 1;
        let id = PoolId(self.last_pool);
        let p = self.pools.insert(Pool::new(id, owner.0, owner.1, params.clone(), now));
        let len = self.due.len().max(p as usize + 1);
        self.due.resize(len, Time::NEVER);
        self.due[p as usize] = Time::NEVER;
        self.pool_slots.insert(id, p);
        self.pool_by_owner.insert(owner, p);
        self.databases[owner.0].group.pools.push(p);
        self.users[owner.1].group.pools.push(p);
        self.touch(now, p);
        self.plan_fill(now, p);
        id
    }

    /// The pool of this database and user, if there is one.
    #[must_use]
    pub fn pool_of(&self, database: DatabaseId, user: UserId) -> Option<PoolId> {
        let owner = (*self.database_slots.get(&database)?, *self.user_slots.get(&user)?);
        self.pool_by_owner.get(&owner).map(|&p| self.pools[p].id)
    }

    /// Whose pool it is.
    #[must_use]
    pub fn owners(&self, pool: PoolId) -> Option<(DatabaseId, UserId)> {
        let pool = &self.pools[*self.pool_slots.get(&pool)?];
        Some((self.databases[pool.database].id, self.users[pool.user].id))
    }

    /// A client belongs to the pool from now on: to be called when it has proved who it is, before it waits for anything.
    pub fn client_attached(&mut self, now: Time, pool: PoolId) {
        if let Some(&p) = self.pool_slots.get(&pool) {
            self.pools[p].clients += 1;
            self.plan_fill(now, p);
        }
    }

    /// The client is gone; it must have left the queue and released its server.
    pub fn client_detached(&mut self, now: Time, pool: PoolId) {
        if let Some(&p) = self.pool_slots.get(&pool) {
            self.pools[p].clients = self.pools[p].clients.saturating_sub(1);
            self.touch(now, p);
        }
    }

    pub(super) fn database_slot(&mut self, id: DatabaseId) -> u32 {
        let (databases, untold) = (&mut self.databases, self.untold);
        *self.database_slots.entry(id).or_insert_with(|| {
            databases.insert(Database {
                id,
                group: Group { untold, ..Group::default() },
                busy: 0,
                doomed: 0,
                paused: false,
                disabled: false,
            })
        })
    }

    pub(super) fn user_slot(&mut self, id: UserId) -> u32 {
        let (users, untold) = (&mut self.users, self.untold);
        let new = Group { untold, ..Group::default() };
        *self.user_slots.entry(id).or_insert_with(|| users.insert(User { id, group: new }))
    }

    /// The slot of the database or user of a pool.
    pub(super) fn group_slot(&self, p: u32, side: Side) -> u32 {
        match side {
            Side::Database => self.pools[p].database,
            Side::User => self.pools[p].user,
        }
    }

    pub(super) fn group(&self, side: Side, slot: u32) -> &Group {
        match side {
            Side::Database => &self.databases[slot].group,
            Side::User => &self.users[slot].group,
        }
    }

    pub(super) fn group_mut(&mut self, side: Side, slot: u32) -> &mut Group {
        match side {
            Side::Database => &mut self.databases[slot].group,
            Side::User => &mut self.users[slot].group,
        }
    }

    /// All slots of pools.
    pub(super) fn all_pools(&self) -> Vec<u32> {
        self.pool_slots.values().copied().collect()
    }

    /// Enters a new server in the books.
    pub(super) fn add_server(&mut self, now: Time, p: u32, place: Place) -> (u32, ServerId) {
        let id = ServerId(self.ids.draw());
        (self.enter_server(now, id, p, place, None), id)
    }

    pub(super) fn enter_server(
        &mut self,
        now: Time,
        id: ServerId,
        p: u32,
        place: Place,
        client: Option<ClientId>,
    ) -> u32 {
        let s = self.servers.insert(Server {
            links: Default::default(),
            id,
            pool: p,
            place,
            client,
            opened_at: now,
            idle_since: now,
            used: false,
            close_needed: false,
            moving: false,
            resetting: false,
            own: false,
            cancels: 0,
            cancels_sent: 0,
        });
        self.server_slots.insert(id, s);
        if !place.is_cancel() {
            let (d, u) = (self.pools[p].database, self.pools[p].user);
            self.databases[d].group.servers += 1;
            self.users[u].group.servers += 1;
        }
        self.enlist(s, place);
        s
    }

    /// Puts a server into another list of its pool.
    pub(super) fn move_to(&mut self, s: u32, place: Place) {
        self.delist(s);
        self.enlist(s, place);
    }

    fn enlist(&mut self, s: u32, place: Place) {
        let Server { pool: p, idle_since, .. } = self.servers[s];
        self.servers[s].place = place;
        let list = self.pools[p].list_mut(place);
        let in_order = match (place, list.first()) {
            (Place::Idle, Some(newest)) => self.servers[newest].idle_since <= idle_since,
            _ => true,
        };
        if in_order {
            list.push_front(&mut self.servers, s);
        } else {
            // It was given out and came back unused: it keeps its age.
            list.insert_before(&mut self.servers, s, |other| other.idle_since <= idle_since);
        }
        let (d, u) = (self.pools[p].database, self.pools[p].user);
        if place == Place::Idle {
            self.databases[d].group.idle += 1;
            self.users[u].group.idle += 1;
        } else if place.is_busy() {
            self.databases[d].busy += 1;
        }
    }

    fn delist(&mut self, s: u32) {
        let Server { pool: p, place, resetting, .. } = self.servers[s];
        let pool = &mut self.pools[p];
        pool.list_mut(place).remove(&mut self.servers, s);
        if resetting {
            pool.resetting -= 1;
            self.servers[s].resetting = false;
        }
        let (d, u) = (pool.database, pool.user);
        if place == Place::Idle {
            self.databases[d].group.idle -= 1;
            self.users[u].group.idle -= 1;
        } else if place.is_busy() {
            self.databases[d].busy -= 1;
        }
    }

    /// Strikes a server from the books. Whoever calls this lets others have its room afterwards (`share`).
    pub(super) fn forget(&mut self, now: Time, s: u32, out: &mut Vec<Action>) {
        if self.servers[s].cancels > 0 {
            self.detach_cancels(s, true, out);
        }
        self.delist(s);
        let Server { id, pool: p, place, close_needed, .. } = self.servers[s];
        let (d, u) = (self.pools[p].database, self.pools[p].user);
        if close_needed {
            self.pools[p].doomed -= 1;
            self.databases[d].doomed -= 1;
        }
        self.server_slots.remove(&id);
        self.servers.remove(s);
        self.touch(now, p);
        if place.is_cancel() {
            return;
        }
        self.databases[d].group.servers -= 1;
        self.users[u].group.servers -= 1;
        self.resume_fill(now, Side::Database, d);
        self.resume_fill(now, Side::User, u);
        self.plan_fill(now, p);
    }

    /// Has a server closed by the driver.
    pub(super) fn close(&mut self, now: Time, s: u32, reason: &'static str, out: &mut Vec<Action>) {
        out.push(Action::Close { server: self.servers[s].id, reason });
        self.forget(now, s, out);
    }

    /// The pool may look idle from now on.
    pub(super) fn touch(&mut self, now: Time, p: u32) {
        self.pools[p].last_used = now;
        if !self.globals.pool_idle_timeout.is_zero() {
            self.arm(p, now + self.globals.pool_idle_timeout);
        }
    }

    /// PAUSE is in force for this pool.
    pub(super) fn is_halted(&self, p: u32) -> bool {
        self.mode == Mode::Paused || self.databases[self.pools[p].database].paused
    }
}
