//! Cancel requests that belong to another process: several share one port, and a request reaches any of them (PgBouncer's
//! section `[peers]`). It goes on to the one whose number stands in the key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::cancel::{CARRY_TIMEOUT, send};
use super::connect::connect_for;
use super::route::{Host, Params};
use crate::session::cancel::{peer_of, with_one_hop_less};
use crate::wire::startup::CancelKey;

/// The processes that share a port, this one among them.
#[derive(Debug, Default)]
pub struct Peers {
    /// The number of this process; 0: no peering (PgBouncer setting peer_id).
    pub own: u16,
    /// The others, and this one if it is listed too.
    pub pools: BTreeMap<u16, Arc<PeerPool>>,
}

/// The connections to one peer, each of which carries one cancel request.
#[derive(Debug)]
pub struct PeerPool {
    host: Host,
    lines: Semaphore,
    waiting: Counter,
    connecting: Counter,
    active: Counter,
}

/// Requests on their way to a peer, by how far they have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounts {
    /// They wait for a connection, or for it to be made.
    pub waiting: u32,
    /// Connections being made.
    pub connecting: u32,
    /// They are with the peer.
    pub active: u32,
}

#[derive(Debug, Default)]
struct Counter(AtomicU32);

/// Counts one until it is dropped, however that comes about.
struct Counted<'a>(&'a Counter);

impl Counter {
    fn one_more(&self) -> Counted<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self)
    }

    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a cancel request goes whose key no client of this process has.
pub(super) enum Way {
    /// To no peer.
    None,
    /// To a peer that is not in the list.
    Unknown,
    /// It has been passed on so often that it must be going in circles.
    Spent,
    /// To this peer, with this key.
    To(Arc<PeerPool>, CancelKey),
}

impl Peers {
    /// Finds the way of a request.
    pub(super) fn way(&self, key: &CancelKey) -> Way {
        match peer_of(key) {
            Some(id) if self.own != 0 && id != self.own => match (self.pools.get(&id), with_one_hop_less(key)) {
                (None, _) => Way::Unknown,
                (_, None) => Way::Spent,
                (Some(pool), Some(key)) => Way::To(Arc::clone(pool), key),
            },
            _ => Way::None,
        }
    }
}

impl PeerPool {
    /// No request under way. `size`: connections at a time, at least one.
    #[must_use]
    pub fn new(host: Host, size: u32) -> Self {
        let lines = Semaphore::new((size.max(1) as usize).min(Semaphore::MAX_PERMITS));
        Self { host, lines, waiting: Counter::default(), connecting: Counter::default(), active: Counter::default() }
    }

    /// What is under way.
    #[must_use]
    pub fn counts(&self) -> PeerCounts {
        PeerCounts { waiting: self.waiting.get(), connecting: self.connecting.get(), active: self.active.get() }
    }

    /// Hands a request to the peer and waits until it has done with it. May be dropped at any time.
    pub(super) async fn forward(&self, params: &Params, key: &CancelKey) -> Result<(), String> {
        let limit = |limit: Duration| if limit.is_zero() { CARRY_TIMEOUT } else { limit };
        let waiting = self.waiting.one_more();
        let Ok(line) = timeout(limit(params.cancel_wait_timeout), self.lines.acquire()).await else {
            return Err("cancel_wait_timeout".into());
        };
        let connecting = self.connecting.one_more();
        let Host { target, name } = &self.host;
        let connected = connect_for(&params.tcp, &params.connector, target, name);
        let mut stream = match timeout(limit(params.server_connect_timeout), connected).await {
            Ok(connected) => connected.map_err(|error| error.to_string())?,
            Err(_) => return Err("connect timeout".into()),
        };
        drop((waiting, connecting));
        let _active = self.active.one_more();
        let sent = timeout(limit(params.cancel_wait_timeout), send(&mut stream, key)).await;
        drop(line);
        sent.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(|error| error.to_string())
    }
}
