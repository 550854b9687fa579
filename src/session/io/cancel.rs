//! Cancel requests: from a client's key to its server, by a connection of their own. The registry sees to it that the server is
//! not lent to anybody else while a request for it is under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::open::connect_for;
use super::shared::{Shared, lock};
use crate::ids::{ClientId, PoolId, ServerId};
use crate::wire::startup::{CancelKey, put_cancel};

/// How long a server may take to hear a cancel request, if server_connect_timeout does not say.
const CARRY_TIMEOUT: Duration = Duration::from_secs(60);

/// Passes a client's request on and waits for the end of it. `request` is the client connection that brought it.
pub(super) async fn request(shared: &Arc<Shared>, request: ClientId, key: &CancelKey) {
    let owner = lock(&shared.keys).owner(key);
    let Some(client) = owner.and_then(|id| shared.roster.client(id)) else {
        tracing::info!("C-{:#x}: closing because: failed cancel request (no client has this key)", request.0);
        return;
    };
    let Some(target) = client.link() else {
        tracing::debug!(subject = %client.subject(), "cancel request {request}: client {} has no server", client.id);
        return;
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
    let Some(context) = shared.context(pool) else { return };
    let Some(info) = shared.roster.server(target) else { return };
    let Some((place, key)) = info.cancel_address() else { return };
    let route = context.route();
    let name = route.database.hosts.iter().find(|h| h.target == place).map_or("", |h| h.name.as_str());
    let mut stream = match connect_for(&shared.params(), &place, name).await {
        Ok(stream) => stream,
        Err(reason) => {
            tracing::warn!(subject = %info.subject(), "cancel request {request} for {info} failed: {reason}");
            return;
        }
    };
    if !shared.pools.with(|registry, _, _| registry.cancel_connected(request)) {
        tracing::debug!(subject = %info.subject(), "cancel request {request} for {info}: too late");
        return;
    }
    let mut packet = Vec::new();
    put_cancel(&mut packet, &key);
    let sent = async {
        stream.write_all(&packet).await?;
        stream.flush().await?;
        // The server closes once the signal is on its way.
        stream.read(&mut [0; 16]).await
    };
    if let Err(error) = sent.await {
        tracing::debug!(subject = %info.subject(), "cancel request {request} for {info}: {error}");
    }
}
