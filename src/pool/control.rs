//! The admin console's commands that act on pools: PAUSE, RESUME, SUSPEND, DISABLE, RECONNECT, KILL, and removal of a
//! database that is no longer configured.

use super::action::reason;
use super::checkout::database_removed;
use super::registry::Registry;
use super::state::{Database, Place, User};
use super::{Action, DatabaseId, PoolEnd};
use crate::clock::Time;
use crate::fault::Fault;
use crate::ids::{PoolId, ServerId};

/// What PAUSE, SUSPEND and RESUME (without a database) switch; the rows of SHOW STATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Serving.
    #[default]
    Active,
    /// PAUSE: no server is given to anybody, free ones are closed.
    Paused,
    /// SUSPEND: servers are still given out, so that clients come to rest, but nothing is closed for its age, kept up or
    /// forgotten until RESUME: a successor may take over every socket.
    Suspended,
}

/// What PAUSE and WAIT_CLOSE wait for in one database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    busy: u32,
    doomed: u32,
}

impl Registry {
    /// What holds for all databases.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// PAUSE of one database: no client gets a server, free servers and those in login are closed, busy ones at their
    /// release. It is complete when [`Self::busy`] is 0.
    pub fn pause(&mut self, now: Time, database: DatabaseId, out: &mut Vec<Action>) {
        let d = self.database_slot(database);
        self.databases[d].paused = true;
        for p in self.databases[d].group.pools.clone() {
            self.close_free(now, p, out);
        }
    }

    /// RESUME of one database; false if it was not paused.
    pub fn resume(&mut self, now: Time, database: DatabaseId) -> bool {
        let Some(&d) = self.database_slots.get(&database) else { return false };
        if !std::mem::take(&mut self.databases[d].paused) {
            return false;
        }
        for p in self.databases[d].group.pools.clone() {
            self.wake(now, p);
        }
        true
    }

    /// PAUSE of everything.
    pub fn pause_all(&mut self, now: Time, out: &mut Vec<Action>) {
        self.mode = Mode::Paused;
        for p in self.all_pools() {
            self.close_free(now, p, out);
        }
    }

    /// SHUTDOWN WAIT_FOR_SERVERS: as [`Self::pause_all`]; besides, all who wait for a server, or would from now on, are
    /// told `fault`. There is no way back.
    pub fn shut_down(&mut self, now: Time, fault: &Fault, out: &mut Vec<Action>) {
        self.ending = Some(fault.clone());
        self.pause_all(now, out);
        self.turn_away(fault, out);
    }

    /// The end has come: all who wait for a server, or would from now on, are told `fault`. There is no way back.
    pub fn turn_away(&mut self, fault: &Fault, out: &mut Vec<Action>) {
        self.ending = Some(fault.clone());
        for p in self.all_pools() {
            self.refuse_all(p, fault, out);
        }
    }

    /// Is no server lent to anybody ever again?
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// SUSPEND.
    pub fn suspend(&mut self) {
        self.mode = Mode::Suspended;
    }

    /// Ends [`Self::pause_all`] and [`Self::suspend`]; databases that were paused by name stay so.
    pub fn resume_all(&mut self, now: Time) {
        self.mode = Mode::Active;
        self.wake_all(now);
    }

    /// Whether this database is paused by name.
    #[must_use]
    pub fn is_paused(&self, database: DatabaseId) -> bool {
        self.database_slots.get(&database).is_some_and(|&d| self.databases[d].paused)
    }

    /// How many databases are paused by name (SUSPEND is refused then).
    #[must_use]
    pub fn paused_databases(&self) -> usize {
        self.database_slots.values().filter(|&&d| self.databases[d].paused).count()
    }

    /// DISABLE and ENABLE: whether new clients may log in. The pools go on as they are.
    pub fn set_disabled(&mut self, database: DatabaseId, disabled: bool) {
        let d = self.database_slot(database);
        self.databases[d].disabled = disabled;
    }

    /// Whether this database is disabled.
    #[must_use]
    pub fn is_disabled(&self, database: DatabaseId) -> bool {
        self.database_slots.get(&database).is_some_and(|&d| self.databases[d].disabled)
    }

    /// RECONNECT of one database or of all; also what a reload does to a database that is now reached in another way. No
    /// server of before is given to anybody afterwards. An attempt that failed before does not delay the next one.
    pub fn reconnect(&mut self, now: Time, database: Option<DatabaseId>, out: &mut Vec<Action>) {
        let pools = match database {
            Some(id) => self.database_slots.get(&id).map(|&d| self.databases[d].group.pools.clone()),
            None => Some(self.all_pools()),
        };
        for p in pools.unwrap_or_default() {
            self.reconnect_pool(now, p, out);
        }
    }

    /// The same for single servers: those that resolved to an address which a host name no longer has, say.
    pub fn retire(&mut self, now: Time, server: ServerId, out: &mut Vec<Action>) {
        let Some(&s) = self.server_slots.get(&server) else { return };
        let p = self.servers[s].pool;
        self.retire_server(now, s, out);
        self.share(now, p, out);
    }

    fn reconnect_pool(&mut self, now: Time, p: u32, out: &mut Vec<Action>) {
        self.pools[p].welcome_fresh = false;
        self.pools[p].failure = None;
        for place in [Place::Login, Place::Idle, Place::Active, Place::Tested, Place::BeingCanceled] {
            for s in self.of_place(p, place) {
                self.retire_server(now, s, out);
            }
        }
        self.share(now, p, out);
    }

    fn retire_server(&mut self, now: Time, s: u32, out: &mut Vec<Action>) {
        match self.servers[s].place {
            Place::Login => self.close(now, s, reason::LOGIN_OBSOLETE, out),
            Place::Idle => self.close(now, s, reason::RECONFIGURED, out),
            Place::Active | Place::Tested | Place::BeingCanceled => {
                let server = &mut self.servers[s];
                if !std::mem::replace(&mut server.close_needed, true) {
                    out.push(Action::CloseNeeded { server: server.id, client: server.client });
                    let p = server.pool;
                    let d = self.pools[p].database;
                    self.pools[p].doomed += 1;
                    self.databases[d].doomed += 1;
                }
            }
            Place::CancelLogin | Place::ActiveCancel => {}
        }
    }

    /// KILL of one database: all its servers are closed, its pools and clients dropped, and it is left paused.
    pub fn kill(&mut self, now: Time, database: DatabaseId, out: &mut Vec<Action>) {
        let d = self.database_slot(database);
        self.databases[d].paused = true;
        self.remove_pools(now, d, out);
    }

    /// KILL of every database that has a pool.
    pub fn kill_all(&mut self, now: Time, out: &mut Vec<Action>) {
        let mut databases: Vec<DatabaseId> = self
            .database_slots
            .iter()
            .filter(|(_, d)| !self.databases[**d].group.pools.is_empty())
            .map(|(&id, _)| id)
            .collect();
        databases.sort_unstable();
        for database in databases {
            self.kill(now, database, out);
        }
    }

    /// The database is no longer configured, or an automatic one was idle for too long: like KILL, and it is forgotten.
    pub fn drop_database(&mut self, now: Time, database: DatabaseId, out: &mut Vec<Action>) {
        let Some(&d) = self.database_slots.get(&database) else { return };
        // While its pools go, nothing new may be opened for it.
        self.databases[d].paused = true;
        self.remove_pools(now, d, out);
        self.database_slots.remove(&database);
        self.databases.remove(d);
    }

    /// [`Self::drop_database`] of the database of this pool, if it has no other pool, nobody uses this one, and no command
    /// holds the database; true if it was dropped.
    pub fn drop_unused(&mut self, now: Time, pool: PoolId, out: &mut Vec<Action>) -> bool {
        let Some(&p) = self.pool_slots.get(&pool) else { return false };
        let Database { id, group, paused, disabled, .. } = &self.databases[self.pools[p].database];
        let drop = group.pools == [p] && self.pools[p].is_unused() && !paused && !disabled;
        if drop {
            self.drop_database(now, *id, out);
        }
        drop
    }

    /// Servers that PAUSE waits for, of one database or of all.
    #[must_use]
    pub fn busy(&self, database: Option<DatabaseId>) -> u32 {
        self.sum(database, |load| load.busy)
    }

    /// Servers that WAIT_CLOSE waits for, of one database or of all.
    #[must_use]
    pub fn closing(&self, database: Option<DatabaseId>) -> u32 {
        self.sum(database, |load| load.doomed)
    }

    fn sum(&self, database: Option<DatabaseId>, part: impl Fn(Load) -> u32) -> u32 {
        match database {
            Some(id) => self.database_slots.get(&id).map_or(0, |&d| part(self.load(d))),
            None => self.database_slots.values().map(|&d| part(self.load(d))).sum(),
        }
    }

    pub(super) fn load(&self, d: u32) -> Load {
        Load { busy: self.databases[d].busy, doomed: self.databases[d].doomed }
    }

    /// Tells who waits for PAUSE or WAIT_CLOSE that there is nothing more to wait for in this database.
    pub(super) fn announce(&self, d: u32, before: Load, out: &mut Vec<Action>) {
        let Load { busy, doomed } = self.load(d);
        let quiet = before.busy > 0 && busy == 0 && (self.mode == Mode::Paused || self.databases[d].paused);
        if quiet || (before.doomed > 0 && doomed == 0) {
            out.push(Action::Settled { database: self.databases[d].id });
        }
    }

    pub(super) fn of_place(&self, p: u32, place: Place) -> Vec<u32> {
        self.pools[p].list(place).iter(&self.servers).collect()
    }

    fn close_free(&mut self, now: Time, p: u32, out: &mut Vec<Action>) {
        for place in [Place::Idle, Place::Login] {
            for s in self.of_place(p, place) {
                self.close(now, s, reason::PAUSE, out);
            }
        }
        self.share(now, p, out);
    }

    fn remove_pools(&mut self, now: Time, d: u32, out: &mut Vec<Action>) {
        for p in self.databases[d].group.pools.clone() {
            self.end_pool(now, p, PoolEnd::Removed, out);
        }
    }

    /// Takes a pool out of the books with everything in it.
    pub(super) fn end_pool(&mut self, now: Time, p: u32, why: PoolEnd, out: &mut Vec<Action>) {
        self.refuse_all(p, &database_removed(), out);
        self.drop_cancels(now, p, out);
        for place in Place::ALL {
            for s in self.of_place(p, place) {
                self.close(now, s, reason::REMOVED, out);
            }
        }
        self.unblock(p);
        let (d, u) = (self.pools[p].database, self.pools[p].user);
        for group in [&mut self.databases[d].group, &mut self.users[u].group] {
            group.pools.retain(|&other| other != p);
            group.fill_blocked.retain(|&other| other != p);
        }
        self.due[p as usize] = Time::NEVER;
        let pool = self.pools[p].id;
        self.pool_slots.remove(&pool);
        self.pool_by_owner.remove(&(d, u));
        self.pools.remove(p);
        out.push(Action::PoolGone { pool, database: self.databases[d].id, user: self.users[u].id, why });
        // Its slot is free but still names its groups, whose other pools may open servers now.
        self.offer(now, p, out);
        // Users that only auth_query knows come without end; one without pools and limit is not worth remembering.
        let User { id, group } = &self.users[u];
        if group.pools.is_empty() && group.limit == 0 {
            self.user_slots.remove(id);
            self.users.remove(u);
        }
    }
}
