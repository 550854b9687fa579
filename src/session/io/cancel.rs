//! Cancel requests: from a client's key to its server, by a connection of their own. The registry sees to it that the server is
//! not lent to anybody else while a request for it is under way.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connect::connect_for;
use super::peers::Way;
use super::roster::ServerInfo;
use super::shared::{Shared, lock};
use crate::ids::{ClientId, PoolId, ServerId};
use crate::net::dial::Target;
use crate::net::stream::{Peer, Stream};
use crate::wire::startup::{CancelKey, put_cancel};

/// How long a server may take to hear a cancel request, if server_connect_timeout does not say.
pub(super) const CARRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Passes a client's request on and waits for the end of it. `request` is the client connection that brought it.
pub(super) async fn request(shared: &Arc<Shared>, request: ClientId, key: &CancelKey) {
    if carry_out(shared, request, key).await {
        return;
    }
    let params = shared.params();
    let why = match params.peers.way(key) {
        Way::To(peer, key) => {
            tracing::debug!("C-{:#x}: forwarding cancel request to its peer", request.0);
            if let Err(reason) = peer.forward(&params, &key).await {
                tracing::warn!("C-{:#x}: cancel request could not be forwarded to its peer: {reason}", request.0);
            }
            return;
        }
        Way::None => "no client has this key",
        Way::Unknown => "could not find peer to forward request to",
        Way::Spent => "its TTL was exhausted",
    };
    let mut passed_on = false;
    for (elsewhere, whom) in [(&shared.former, "former process"), (&shared.peer, "other node")] {
        if let Some(pass_on) = &*lock(elsewhere) {
            tracing::debug!("C-{:#x}: cancel request passed on to the {whom}", request.0);
            pass_on(key);
            passed_on = true;
        }
    }
    if !passed_on {
        tracing::info!("C-{:#x}: closing because: failed cancel request ({why})", request.0);
    }
}

/// The same for a client of this process. False: no client has this key.
async fn carry_out(shared: &Arc<Shared>, request: ClientId, key: &CancelKey) -> bool {
    let owner = lock(&shared.keys).owner(key);
    let Some(client) = owner.and_then(|id| shared.roster.client(id)) else { return false };
    let Some(target) = client.link() else {
        tracing::debug!(subject = %client.subject(), "cancel request {request}: client {} has no server", client.id);
        return true;
    };
    // The requester's connection ends when its request has been heard, as with PostgreSQL itself.
    let (over, ended) = oneshot::channel();
    lock(&shared.cancel_waits).insert(request, over);
    let wait = shared.params().cancel_wait_timeout;
    let wait = if wait.is_zero() { CARRY_TIMEOUT * 60 } else { wait };
    let taken = shared.pools.with(|registry, now, out| registry.cancel_of(now, request, client.id, target, out));
    if taken && timeout(wait, ended).await.is_err() {
        tracing::info!("C-{:#x}: closing because: cancel_wait_timeout", request.0);
        shared.pools.with(|registry, now, out| registry.cancel_given_up(now, request, out));
    }
    lock(&shared.cancel_waits).remove(&request);
    true
}

/// Carries out a request that has come to the successor of this process, or to the other node of a pair. It goes no further, so
/// that two who do not know a key do not pass it to and fro.
pub async fn from_elsewhere(shared: Arc<Shared>, key: CancelKey) {
    let id = ClientId(shared.ids.draw());
    if !carry_out(&shared, id, &key).await {
        tracing::debug!("{id}: a cancel request that was passed on here has a key that no client has");
    }
}

/// The requester need not wait any longer.
pub(super) fn over(shared: &Shared, request: ClientId) {
    // Dropping the sender is the message.
    lock(&shared.cancel_waits).remove(&request);
}

/// Carries the request; the registry has asked for it.
pub(super) fn spawn(shared: &Arc<Shared>, pool: PoolId, request: ClientId, target: ServerId) {
    let shared_in = Arc::clone(shared);
    let mut cancels = lock(&shared.cancels);
    let carried = Carried { shared: Arc::clone(shared), request };
    let task = tokio::spawn(async move {
        let limit = shared_in.params().server_connect_timeout;
        let limit = if limit.is_zero() { CARRY_TIMEOUT } else { limit };
        if timeout(limit, carry(&shared_in, pool, request, target)).await.is_err() {
            tracing::warn!("cancel request {request} for server {target}: timeout");
            // It may have been sent and still be under way: that server is never lent again.
            shared_in.pools.with(|registry, now, out| registry.retire(now, target, out));
        }
        drop(carried);
    });
    cancels.insert(request, task.abort_handle());
}

/// Tells everybody that the request is over, however its task ends.
struct Carried {
    shared: Arc<Shared>,
    request: ClientId,
}

impl Drop for Carried {
    fn drop(&mut self) {
        lock(&self.shared.cancels).remove(&self.request);
        over(&self.shared, self.request);
        self.shared.pools.with(|registry, now, out| registry.cancel_done(now, self.request, out));
    }
}

async fn carry(shared: &Arc<Shared>, pool: PoolId, request: ClientId, target: ServerId) {
    let Some(info) = shared.roster.server(target) else { return };
    let (mut stream, key) = match connect(shared, pool, &info).await {
        Ok(Some(connected)) => connected,
        Ok(None) => return,
        Err(reason) => {
            tracing::warn!(subject = %info.subject(), "cancel request {request} for {info} failed: {reason}");
            return;
        }
    };
    if !shared.pools.with(|registry, _, _| registry.cancel_connected(request)) {
        tracing::debug!(subject = %info.subject(), "cancel request {request} for {info}: too late");
        return;
    }
    if let Err(error) = send(&mut stream, &key).await {
        tracing::debug!(subject = %info.subject(), "cancel request {request} for {info}: {error}");
    }
}

/// A connection to the place of this server, and its key; `None` if it gave no key or its pool is gone.
async fn connect(shared: &Shared, pool: PoolId, server: &ServerInfo) -> Result<Option<(Stream, CancelKey)>, String> {
    let (Some(context), Some((place, key))) = (shared.context(pool), server.cancel_address()) else { return Ok(None) };
    let route = context.route();
    let name = route.database.hosts.iter().find(|h| h.target == place).map_or("", |h| h.name.as_str());
    let params = shared.params();
    // The name may lead elsewhere by now.
    let place = match (place, server.peer) {
        (Target::Name(..), Peer::Inet(address)) => Target::Ip(address.ip(), address.port()),
        (place, _) => place,
    };
    let stream = connect_for(&params.tcp, &params.connector, &place, name).await.map_err(|error| error.to_string())?;
    Ok(Some((stream, key)))
}

pub(super) async fn send(stream: &mut Stream, key: &CancelKey) -> io::Result<()> {
    let mut packet = Vec::new();
    put_cancel(&mut packet, key);
    stream.write_all(&packet).await?;
    stream.flush().await?;
    // The server closes once the signal is on its way.
    stream.read(&mut [0; 16]).await.map(drop)
}

/// Cancels what these servers are doing, beside the books of the registry: only for servers that nobody is lent again, at the
/// end of the process. A server whose connection is merely closed goes on with its query. Returns after `limit` at the latest.
pub async fn stop(shared: &Arc<Shared>, servers: Vec<(PoolId, Arc<ServerInfo>)>, limit: Duration) {
    let lines = Arc::new(Semaphore::new(STOPS_MAX));
    let mut stops = JoinSet::new();
    for (pool, server) in servers {
        let (shared, lines) = (Arc::clone(shared), Arc::clone(&lines));
        stops.spawn(async move {
            let Ok(_line) = lines.acquire().await else { return };
            let stopped = match connect(&shared, pool, &server).await {
                Ok(Some((mut stream, key))) => send(&mut stream, &key).await.map_err(|error| error.to_string()),
                Ok(None) => Ok(()),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = stopped {
                tracing::warn!("{server} could not be told to stop its query: {reason}");
            }
        });
    }
    let _ = timeout(limit, async { while stops.join_next().await.is_some() {} }).await;
}

/// Connections that [`stop`] has open at the same time.
const STOPS_MAX: usize = 32;
