//! How many clients there may be: `max_client_conn`, `max_db_client_connections`, `max_user_client_connections`.

use super::{DatabaseId, UserId};
use crate::fault::{Culprit, Fault};
use rustc_hash::FxHashMap;

/// Counts clients. Every accepted socket takes a [`Seat`] and gives it back, whether it ever logged in or not.
#[derive(Clone, Debug, Default)]
pub struct ClientLimits {
    max_clients: u32,
    clients: u32,
    /// Of those, how many are our own and take nobody's place.
    own: u32,
    closed: bool,
    standby: bool,
    databases: FxHashMap<DatabaseId, Count>,
    users: FxHashMap<UserId, Count>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    limit: u32,
    clients: u32,
}

/// What one client is counted under.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "a seat that is not given back is counted for ever"]
pub struct Seat {
    database: Option<DatabaseId>,
    user: Option<UserId>,
}

impl ClientLimits {
    /// No clients, and none let in but to the console until limits are set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `max_client_conn`. Clients above a lowered limit stay.
    pub fn set_max_clients(&mut self, limit: u32) {
        self.max_clients = limit;
    }

    /// `max_db_client_connections` of a database; 0 = no limit.
    pub fn set_database(&mut self, database: DatabaseId, limit: u32) {
        self.databases.entry(database).or_default().limit = limit;
    }

    /// Forgets a database that has no clients.
    pub fn forget_database(&mut self, database: DatabaseId) {
        if self.of_database(database) == 0 {
            self.databases.remove(&database);
        }
    }

    /// `max_user_client_connections` of a user; 0 = no limit.
    pub fn set_user(&mut self, user: UserId, limit: u32) {
        self.users.entry(user).or_default().limit = limit;
    }

    /// The process is on its way out: from now on nobody new gets into a database.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether this process stands by for another one: then nobody new gets into a database.
    pub fn set_standby(&mut self, standby: bool) {
        self.standby = standby;
    }

    /// Counts an accepted socket.
    pub fn enter(&mut self) -> Seat {
        self.clients = self.clients.saturating_add(1);
        Seat::default()
    }

    /// One of the sockets that [`Self::enter`] counts is the process's own, from now on or soon, and takes nobody's place.
    pub fn begin_own(&mut self) {
        self.own = self.own.saturating_add(1);
    }

    /// It has left.
    pub fn end_own(&mut self) {
        self.own = self.own.saturating_sub(1);
    }

    /// After the startup packet: may this client, counted already, go on? The console is never refused.
    ///
    /// # Errors
    /// `no more connections allowed (max_client_conn)`.
    pub fn admit(&self, console: bool) -> Result<(), Fault> {
        if console || self.clients() <= self.max_clients {
            return Ok(());
        }
        Err(refusal("no more connections allowed (max_client_conn)"))
    }

    /// Counts the client under its database. `exempt`: an admin on the console is counted and never refused. A refused
    /// client stays counted until it leaves.
    ///
    /// # Errors
    /// `client connections exceeded (max_db_client_connections)`, or `pooler is shutting down`.
    pub fn admit_database(&mut self, seat: &mut Seat, database: DatabaseId, exempt: bool) -> Result<(), Fault> {
        if self.closed && !exempt {
            // "Cannot connect now": libpq then tries the next of several hosts.
            return Err(refusal("pooler is shutting down").with_sqlstate("57P03"));
        }
        if self.standby && !exempt {
            let text = "this node stands by: it takes clients only while it has the floating address (listen = active)";
            return Err(refusal(text).with_sqlstate("57P03"));
        }
        self.count_database(seat, database, exempt)
    }

    fn count_database(&mut self, seat: &mut Seat, database: DatabaseId, exempt: bool) -> Result<(), Fault> {
        if seat.database != Some(database) {
            if let Some(former) = seat.database.replace(database) {
                give_back(&mut self.databases, former);
            }
            let count = self.databases.entry(database).or_default();
            count.clients = count.clients.saturating_add(1);
        }
        match self.databases.get(&database) {
            Some(count) if count.is_exceeded() && !exempt => {
                Err(refusal("client connections exceeded (max_db_client_connections)"))
            }
            _ => Ok(()),
        }
    }

    /// Counts a client of the console under its database and its user. It gets in also where nobody gets into a database any
    /// more. `exempt`: an admin is counted and never refused.
    ///
    /// # Errors
    /// As [`Self::admit_database`] and [`Self::admit_user`], for too many clients only.
    pub fn admit_console(
        &mut self,
        seat: &mut Seat,
        (database, user): (DatabaseId, UserId),
        exempt: bool,
    ) -> Result<(), Fault> {
        self.count_database(seat, database, exempt)?;
        self.admit_user(seat, user, exempt)
    }

    /// Counts the client under its user, as [`Self::admit_database`] does under the database.
    ///
    /// # Errors
    /// `client connections exceeded (max_user_client_connections)`.
    pub fn admit_user(&mut self, seat: &mut Seat, user: UserId, exempt: bool) -> Result<(), Fault> {
        if seat.user != Some(user) {
            if let Some(former) = seat.user.replace(user) {
                give_back(&mut self.users, former);
            }
            let count = self.users.entry(user).or_default();
            count.clients = count.clients.saturating_add(1);
        }
        match self.users.get(&user) {
            Some(count) if count.is_exceeded() && !exempt => {
                Err(refusal("client connections exceeded (max_user_client_connections)"))
            }
            _ => Ok(()),
        }
    }

    /// The client is gone, or failed to log in.
    pub fn leave(&mut self, seat: Seat) {
        self.clients = self.clients.saturating_sub(1);
        if let Some(database) = seat.database {
            give_back(&mut self.databases, database);
        }
        if let Some(user) = seat.user {
            give_back(&mut self.users, user);
        }
    }

    /// Sockets counted now, those still logging in among them, without the process's own.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.clients.saturating_sub(self.own)
    }

    /// `current_client_connections` of SHOW DATABASES.
    #[must_use]
    pub fn of_database(&self, database: DatabaseId) -> u32 {
        self.databases.get(&database).map_or(0, |count| count.clients)
    }

    /// `current_client_connections` of SHOW USERS.
    #[must_use]
    pub fn of_user(&self, user: UserId) -> u32 {
        self.users.get(&user).map_or(0, |count| count.clients)
    }
}

impl Count {
    fn is_exceeded(self) -> bool {
        self.limit > 0 && self.clients > self.limit
    }
}

/// Takes one client off. Entries without limit and clients go: users found by auth_query come and go without end.
fn give_back<K: std::hash::Hash + Eq>(counts: &mut FxHashMap<K, Count>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        count.clients = count.clients.saturating_sub(1);
        if count.clients == 0 && count.limit == 0 {
            counts.remove(&key);
        }
    }
}

fn refusal(text: &'static str) -> Fault {
    Fault::fatal(Culprit::Us, text).retryable()
}
