//! What stands for a client as long as it is here: its seat, its being counted in a pool, its being known. Each ends by being
//! dropped, by whatever way the client leaves.

use std::sync::Arc;

use super::roster::ClientInfo;
use super::shared::{Shared, lock};
use crate::fault::Fault;
use crate::ids::{ClientId, PoolId};
use crate::pool::Seat;
use crate::wire::startup::CancelKey;

/// Gives a seat back when it is dropped.
pub struct SeatGuard {
    shared: Arc<Shared>,
    seat: Option<Seat>,
}

impl SeatGuard {
    /// Takes a seat for a socket just accepted.
    #[must_use]
    pub fn enter(shared: &Arc<Shared>) -> Self {
        let seat = lock(&shared.limits).enter();
        Self { shared: Arc::clone(shared), seat: Some(seat) }
    }

    /// Works on the seat under the lock of all limits.
    ///
    /// # Errors
    /// What `call` says.
    pub fn with(
        &mut self,
        call: impl FnOnce(&mut crate::pool::ClientLimits, &mut Seat) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        match &mut self.seat {
            Some(seat) => call(&mut lock(&self.shared.limits), seat),
            None => Ok(()),
        }
    }
}

impl Drop for SeatGuard {
    fn drop(&mut self) {
        if let Some(seat) = self.seat.take() {
            lock(&self.shared.limits).leave(seat);
        }
    }
}

/// Counts a client as one of a pool until it is dropped.
pub struct Membership {
    shared: Arc<Shared>,
    pool: PoolId,
}

impl Membership {
    pub(super) fn begin(shared: &Arc<Shared>, pool: PoolId) -> Self {
        shared.pools.with(|registry, now, _| registry.client_attached(now, pool));
        Self { shared: Arc::clone(shared), pool }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.shared.pools.with(|registry, now, _| registry.client_detached(now, self.pool));
    }
}

/// A client's being known to others. When it is dropped, nobody finds the client any more, by whatever way it left.
pub struct Presence {
    shared: Arc<Shared>,
    id: ClientId,
    key: Option<CancelKey>,
}

impl Presence {
    /// Of a client that logs in and is not known to anybody yet.
    pub(super) fn begin(shared: &Arc<Shared>, id: ClientId) -> Self {
        Self { shared: Arc::clone(shared), id, key: None }
    }

    /// Notes the key that the client is given.
    pub(super) fn set_key(&mut self, key: CancelKey) {
        self.key = Some(key);
    }

    /// Makes a client known that a former process let in.
    pub(super) fn restore(shared: &Arc<Shared>, info: &Arc<ClientInfo>, key: Option<CancelKey>) -> Self {
        if let Some(key) = &key {
            lock(&shared.keys).restore(info.id, key.clone());
        }
        shared.pools.enrol(info.id, Arc::clone(&info.mailbox));
        shared.roster.add_client(Arc::clone(info));
        Self { shared: Arc::clone(shared), id: info.id, key }
    }

    /// The key that the client was given.
    pub(super) fn key(&self) -> Option<&CancelKey> {
        self.key.as_ref()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.pools.dismiss(self.id);
        self.shared.roster.remove_client(self.id);
        if let Some(key) = &self.key {
            lock(&self.shared.keys).revoke(key);
        }
    }
}
