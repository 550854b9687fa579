//! The clients of the other node: known here, so that those whose node is dead learn so at once.

use std::sync::Arc;

use super::Node;
use super::thread::Order;
use crate::daemon::run::Daemon;

/// The address is here: clients that the other node had by it are told. Each is sent an acknowledgment that means nothing; it
/// answers, and draws a reset from this machine, which knows nothing of its connection.
pub(super) async fn reset(daemon: Arc<Daemon>, node: Arc<Node>, router: usize) {
    let settings = node.settings();
    if !settings.settings.reset_clients_on_takeover {
        return;
    }
    let (Some(link), Some(config)) = (node.link(), settings.routers.get(router)) else { return };
    let port = daemon.config().settings.listen_port;
    for address in &config.addresses {
        let flows = link.take_flows(*address).await.into_iter().filter(|flow| flow.local.port() == port);
        let clients: Vec<_> = flows.map(|flow| (flow.client.ip().to_canonical(), flow.client.port())).collect();
        if !clients.is_empty() {
            node.orders.put(Order::Sweep { router, port, flows: clients });
        }
    }
}
