//! The clients of a floating address: brought to rest before it moves, told where to turn, and let go of when it is gone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::clock::Time;
use crate::daemon::intake::Closure;
use crate::daemon::run::Daemon;
use crate::fault::{Culprit, Fault};
use crate::session::io::floating::not_here;
use crate::session::io::roster::{ClientInfo, Doing, Ending};

/// How often those who are in transactions are counted while everybody else waits for them.
const COUNT_EVERY: Duration = Duration::from_millis(1);

/// How long clients may take to hear their last words: one write each, so this is for a machine under load.
const LAST_WORDS_MAX: Duration = Duration::from_millis(300);

/// What clients are told before the address moves: PostgreSQL's own words when it is shut down, which drivers and pools know.
fn moving() -> Fault {
    let text = "terminating connection due to administrator command";
    Fault::fatal(Culprit::Us, text).with_sqlstate("57P01").with_detail(DETAIL).retryable()
}

const DETAIL: &str = "The floating address moves to the other node: connect again.";

/// Everybody stands still until this is dropped: no server is given out, and nobody is let in.
pub(super) struct Stillness {
    daemon: Arc<Daemon>,
    closure: Option<Closure>,
}

impl Stillness {
    fn begin(daemon: &Arc<Daemon>) -> Self {
        daemon.shared.pools.with(|registry, _, _| registry.freeze());
        Self { daemon: Arc::clone(daemon), closure: None }
    }
}

impl Drop for Stillness {
    fn drop(&mut self) {
        self.daemon.shared.pools.with(|registry, now, out| registry.thaw(now, out));
        self.daemon.shared.pools.nudge();
        // Opens as the last step, where nobody else keeps it closed.
        self.closure = None;
    }
}

/// Those who came in by one of these addresses.
fn of_addresses(daemon: &Daemon, addresses: &[IpAddr]) -> Vec<Arc<ClientInfo>> {
    let mut clients = daemon.shared.roster.clients();
    clients.retain(|client| client.local.is_some_and(|local| addresses.contains(&local.ip().to_canonical())));
    clients
}

/// Is it in a transaction, as far as others can see that? In session pooling only the session itself knows.
fn is_busy(client: &ClientInfo) -> bool {
    client.doing() == Doing::Active && client.pool().is_some() && !client.keeps_server()
}

/// Lets the transactions of these addresses' clients end, begins no new ones, and tells the clients 57P01, so that the address
/// can move and nothing is cut. At `deadline` it moves whoever is not done. How many were told, and how many were cut short.
pub(super) async fn quiesce(daemon: &Arc<Daemon>, addresses: &[IpAddr], deadline: Time) -> (Stillness, usize, usize) {
    let mut stillness = Stillness::begin(daemon);
    while Time::now() < deadline && of_addresses(daemon, addresses).iter().any(|client| is_busy(client)) {
        sleep(COUNT_EVERY).await;
    }
    // Whoever connects from here on waits in the listeners' queue, and finds the other node when the address is there.
    stillness.closure = Some(daemon.intake.close());
    let mut clients = of_addresses(daemon, addresses);
    // Not the consoles: one of them may have ordered this and wait for it. They end with the address.
    clients.retain(|client| client.pool().is_some());
    for client in &clients {
        // Nobody who waits is given a server now: its statement was not begun anywhere.
        let at_once = client.doing() == Doing::Waiting;
        let end = if at_once { Ending::at_once } else { Ending::between_transactions };
        client.end(end(moving()));
    }
    let told = clients.len();
    let patience = deadline.since(Time::now()).max(LAST_WORDS_MAX);
    let _ = timeout(patience, all_gone(daemon, &clients)).await;
    let left = clients.iter().filter(|client| daemon.shared.roster.client(client.id).is_some()).count();
    (stillness, told, left)
}

async fn all_gone(daemon: &Daemon, clients: &[Arc<ClientInfo>]) {
    loop {
        let departure = daemon.shared.roster.departure();
        if !clients.iter().any(|client| daemon.shared.roster.client(client.id).is_some()) {
            return;
        }
        departure.await;
    }
}

/// Lets go of clients that nothing reaches any more, since their address is not here: their transactions are rolled back, and
/// their servers are free for others. How many there were, those who were logging in not counted.
pub(super) fn abandon(daemon: &Daemon, addresses: &[IpAddr]) -> usize {
    // First: whoever is listed after the others are counted looks for itself.
    daemon.shared.floating.leave(addresses);
    let clients = of_addresses(daemon, addresses);
    for client in &clients {
        client.end(Ending::unreachable(not_here()));
    }
    clients.len()
}
