//! The clients of the other node: known here, so that those whose node is dead learn so at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Node;
use super::thread::Order;
use crate::daemon::run::Daemon;
use crate::pair::message::Flow;

/// How long a node that lives may go on sending to clients that it loses. What comes to a client between its answer and the reset
/// makes the reset one that does not count, and the client's kernel is silent to the next ones for half a second.
const QUIET_AFTER: Duration = Duration::from_millis(50);

/// When clients are told again, after the time before.
const REPEAT_AFTER: [Duration; 2] = [Duration::from_millis(600), Duration::from_millis(1500)];

/// More clients are told once only: the helper tells 65,536 after one takeover, latecomers among them.
const REPEATED_MAX: usize = 16_384;

/// The address is here: clients that the other node had by it are told. Each is sent an acknowledgment that means nothing; it
/// answers, and draws a reset from this machine, which knows nothing of its connection.
///
/// `from_the_living`: the other node passed it on, and tells most of its clients itself.
pub(super) async fn reset(daemon: Arc<Daemon>, node: Arc<Node>, router: usize, from_the_living: bool) {
    if from_the_living {
        sleep(QUIET_AFTER).await;
    }
    let settings = node.settings();
    if !settings.settings.reset_clients_on_takeover {
        return;
    }
    let (Some(link), Some(config)) = (node.link(), settings.routers.get(router)) else { return };
    let port = daemon.config().settings.listen_port;
    let mut flows = Vec::new();
    for address in &config.addresses {
        flows.extend(link.take_flows(*address).await);
    }
    drop(link);
    tell(&node, router, port, &flows).await;
}

async fn tell(node: &Node, router: usize, port: u16, flows: &[Flow]) {
    sweep(node, router, port, flows, false);
    if flows.is_empty() || flows.len() > REPEATED_MAX {
        return;
    }
    // A kernel answers a connection's stray packets only twice a second (tcp_invalid_ratelimit), and packets get lost.
    for pause in REPEAT_AFTER {
        sleep(pause).await;
        sweep(node, router, port, flows, true);
    }
}

/// The other node has found these clients only now: they were in its queue when the address left it, or came the moment before,
/// or it could not tell them itself. While both nodes have the address this does no harm: the answer goes to the node that the
/// client has its connection with.
pub(super) fn reset_latecomers(daemon: Arc<Daemon>, node: Arc<Node>, flows: &[Flow]) {
    let settings = node.settings();
    if !settings.settings.reset_clients_on_takeover {
        return;
    }
    let port = daemon.config().settings.listen_port;
    for (router, config) in settings.routers.iter().enumerate() {
        let is_to_it = |flow: &&Flow| config.addresses.contains(&flow.local.ip().to_canonical());
        let flows: Vec<Flow> = flows.iter().filter(is_to_it).copied().collect();
        if !flows.is_empty() {
            let node = Arc::clone(&node);
            tokio::spawn(async move {
                sleep(QUIET_AFTER).await;
                tell(&node, router, port, &flows).await;
            });
        }
    }
}

/// Nothing happens if the address is not here any more.
fn sweep(node: &Node, router: usize, port: u16, flows: &[Flow], again: bool) {
    let flows = flows.iter().filter(|flow| flow.local.port() == port);
    let clients: Vec<_> = flows.map(|flow| (flow.client.ip().to_canonical(), flow.client.port())).collect();
    if !clients.is_empty() {
        node.orders.put(Order::Sweep { router, port, flows: clients, again });
    }
}
