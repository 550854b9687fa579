//! What the pools ask of sessions: opening and closing servers, cancel requests, clients that must go.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use super::roster::{Ending, ServerInfo};
use super::server::Server;
use super::shared::{Shared, lock};
use super::{cancel, open};
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::ids::{ClientId, PoolId, ServerId};
use crate::net::dial::Target;
use crate::net::stream::Peer;
use crate::pool::io::Host;
use crate::pool::{DatabaseId, PoolEnd, UserId};

/// See [`Host`].
pub struct SessionHost {
    // The pools hold the host and the shared state holds the pools.
    shared: Weak<Shared>,
}

impl SessionHost {
    /// The host of these sessions.
    #[must_use]
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::downgrade(shared) }
    }
}

/// Has the servers closed, between transactions, that were reached by an address which a host name no longer has.
pub(super) fn retire(shared: &Shared, name: &str, gone: &[IpAddr]) {
    let of_name = |info: &ServerInfo| {
        let by_name = matches!(info.target(), Some(Target::Name(host, _)) if host == name);
        by_name && matches!(info.peer, Peer::Inet(address) if gone.contains(&address.ip()))
    };
    let servers: Vec<_> = shared.roster.servers().into_iter().filter(|info| of_name(info)).collect();
    let gone: Vec<_> = gone.iter().map(ToString::to_string).collect();
    tracing::info!(
        "host name {name} no longer leads to {}; server connections to there: {}, which end with their transactions",
        gone.join(", "),
        servers.len()
    );
    shared.pools.with(|registry, now, out| {
        for server in &servers {
            registry.retire(now, server.id, out);
        }
    });
}

impl Host<Server> for SessionHost {
    fn open(&self, server: ServerId, pool: PoolId) {
        if let Some(shared) = self.shared.upgrade() {
            open::spawn(&shared, server, pool, None);
        }
    }

    fn open_own(&self, server: ServerId, pool: PoolId, client: ClientId) {
        if let Some(shared) = self.shared.upgrade() {
            open::spawn(&shared, server, pool, Some(client));
        }
    }

    fn open_cancel(&self, _carrier: ServerId, pool: PoolId, request: ClientId, target: ServerId) {
        if let Some(shared) = self.shared.upgrade() {
            cancel::spawn(&shared, pool, request, target);
        }
    }

    fn drop_cancel(&self, request: ClientId, reason: &'static str) {
        let Some(shared) = self.shared.upgrade() else { return };
        tracing::debug!("cancel request {request}: {reason}");
        let task = lock(&shared.cancels).remove(&request);
        if let Some(task) = task {
            task.abort();
        }
        cancel::over(&shared, request);
    }

    fn close(&self, mut server: Box<Server>, reason: &'static str) {
        let age_s = Time::now().since(server.info.connected_at).as_secs();
        if let Some(shared) = self.shared.upgrade() {
            shared.roster.remove_server(server.info.id);
            if shared.params().log.disconnections {
                tracing::info!(subject = %server.info.subject(), "{} closing because: {reason} (age={age_s}s)", server.info);
            }
        }
        server.say_goodbye();
    }

    fn abandon(&self, server: ServerId, reason: &'static str) {
        let Some(shared) = self.shared.upgrade() else { return };
        let task = lock(&shared.opening).remove(&server);
        if let Some((task, began)) = task {
            task.abort();
            let age_s = Time::now().since(began).as_secs();
            tracing::info!("S-{:#x}: closing because: {reason} (age={age_s}s)", server.0);
            return;
        }
        // In a client's hands: that client cannot go on.
        let holder = shared.roster.server(server).and_then(|info| info.link());
        if let Some(client) = holder.and_then(|id| shared.roster.client(id)) {
            client.end(Ending::at_once(Fault::fatal(Culprit::Us, reason)));
        }
    }

    fn close_needed(&self, _server: ServerId, client: Option<ClientId>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let client = client.and_then(|id| shared.roster.client(id));
        // Replication has no end to wait for.
        let fast = shared.params().server_fast_close || client.as_ref().is_some_and(|c| c.replication().is_some());
        if !fast {
            return;
        }
        if let Some(client) = client.filter(|client| client.keeps_server()) {
            let fault = Fault::fatal(Culprit::Us, "database configuration changed");
            client.end(Ending::between_transactions(fault));
        }
    }

    fn reserve_used(&self, _pool: PoolId, client: ClientId) {
        let Some(shared) = self.shared.upgrade() else { return };
        if let Some(client) = shared.roster.client(client) {
            tracing::warn!(subject = %client.subject(), "{client} taking connection from reserve_pool");
        }
    }

    fn pool_gone(&self, pool: PoolId, _database: DatabaseId, _user: UserId, why: PoolEnd) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Some(context) = shared.context(pool) else { return };
        let route = context.route();
        match why {
            PoolEnd::Idle(age) => tracing::info!(
                "cleaning up idle pool for user {} on db {} because: pool idle timeout (age= {}s)",
                route.server_user,
                route.database.name,
                age.as_secs()
            ),
            PoolEnd::Removed => {
                for client in shared.roster.clients() {
                    if client.pool() == Some(pool) {
                        let fault = Fault::fatal(Culprit::Us, "database removed");
                        client.end(Ending::at_once(fault));
                    }
                }
            }
        }
        shared.forget_context(pool);
    }
}
