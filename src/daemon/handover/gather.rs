//! Bringing everything to rest, writing it down, and either letting go of it or going on as if nothing had been.

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout_at};

use crate::clock::Time;
use crate::config::print::to_toml;
use crate::daemon::cli::VERSION_LINE;
use crate::daemon::intake::Closure;
use crate::daemon::run::Daemon;
use crate::handover::state::{Bytes, State};
use crate::ids::ClientId;
use crate::net::kernel_tls::Support;
use crate::pool::io::Idle;
use crate::pool::{Mode, Standing};
use crate::session::io::freeze::{Parcel, Verdict, cannot_move};
use crate::session::io::parcel::Packer;
use crate::session::io::roster::{Doing, Ending};
use crate::session::io::server::Server;
use crate::session::io::shared::lock;

/// How often those who are still busy are counted.
const COUNT_EVERY: Duration = Duration::from_millis(1);

/// How often it is looked whether those who were still busy are gone, or are to be cancelled.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long those who are told to go may take to hear it.
const FAREWELL: Duration = Duration::from_secs(2);

/// A client in the way of a hand-over.
pub(super) struct Busy {
    id: ClientId,
    since: Time,
}

impl Busy {
    /// Is it still at the same request?
    pub(super) fn is_still_busy(&self, daemon: &Daemon) -> bool {
        let client = daemon.shared.roster.client(self.id);
        client.is_some_and(|client| client.doing() == Doing::Active && client.request_at() == self.since)
    }
}

/// A process that stands still, or is about to.
pub(super) struct Gathering {
    daemon: Arc<Daemon>,
    /// Nobody is let in.
    closure: Option<Closure>,
    parcels: UnboundedReceiver<Parcel>,
    resting: Vec<Parcel>,
    /// Idle servers, and whether they are packed.
    idle: Vec<(Standing, Box<Server>, bool)>,
    began: Instant,
    /// It was called off, or something was let go: there is nothing to go back to.
    over: bool,
}

/// However an attempt ends, by a panic too, nobody is left standing still.
impl Drop for Gathering {
    fn drop(&mut self) {
        if !self.over {
            self.revive();
        }
    }
}

impl Gathering {
    /// Lets nobody in, gives no server out, and waits until every session rests, `hold` at most.
    pub(super) async fn begin(daemon: &Arc<Daemon>, hold: Duration) -> Self {
        let support = dismiss_unmovable(daemon).await;
        let closure = daemon.intake.close();
        let parcels = daemon.shared.freeze(support);
        let mut gathering = Self {
            daemon: Arc::clone(daemon),
            closure: Some(closure),
            parcels,
            resting: Vec::new(),
            idle: Vec::new(),
            began: Instant::now(),
            over: false,
        };
        gathering.collect(hold).await;
        gathering
    }

    /// Waits until no session is busy any more, `patience` at most.
    pub(super) async fn collect(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while self.busy() > 0 && Instant::now() < deadline {
            let next = deadline.min(Instant::now() + COUNT_EVERY);
            if let Ok(Some(parcel)) = timeout_at(next, self.parcels.recv()).await {
                self.resting.push(parcel);
            }
        }
        while let Ok(parcel) = self.parcels.try_recv() {
            self.resting.push(parcel);
        }
    }

    /// How long nobody has been served.
    pub(super) fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many sessions rest here.
    pub(super) fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Clients that neither rest nor are on the console: sessions that are busy, and logins.
    pub(super) fn busy(&self) -> usize {
        self.busy_sessions() + self.daemon.shared.arriving()
    }

    /// Those sessions that are busy.
    pub(super) fn who_is_busy(&self) -> Vec<Busy> {
        let resting: HashSet<ClientId> = self.resting.iter().map(Parcel::client).collect();
        let clients = self.daemon.shared.roster.clients().into_iter();
        let busy = clients.filter(|client| client.pool().is_some() && !resting.contains(&client.id));
        busy.map(|client| Busy { id: client.id, since: client.request_at() }).collect()
    }

    /// Sessions that are busy.
    pub(super) fn busy_sessions(&self) -> usize {
        self.daemon.shared.roster.pooled().saturating_sub(self.resting.len())
    }

    /// Waits for one more session that rests, and takes in those that rest with it. Comes back now and then without one.
    pub(super) async fn next(&mut self, deadline: Instant) {
        let look = deadline.min(Instant::now() + LOOK_EVERY);
        if let Ok(Some(parcel)) = timeout_at(look, self.parcels.recv()).await {
            self.resting.push(parcel);
        }
        self.collect(Duration::ZERO).await;
    }

    /// Tells those who are still busy after handover_timeout that it is over for them, and waits until they have heard it.
    pub(super) async fn dismiss_busy(&mut self) {
        let busy = self.who_is_busy();
        if !busy.is_empty() {
            tracing::warn!("{} clients are busy for longer than handover_timeout and are told to go", busy.len());
        }
        for client in busy.iter().filter_map(|busy| self.daemon.shared.roster.client(busy.id)) {
            client.end(Ending::at_once(cannot_move()));
        }
        self.collect(FAREWELL).await;
    }

    /// Writes down all that rests. The sockets stay good until [`Self::call_off`] or [`Self::let_go`]. `spare`: so many ids
    /// and statement numbers stay reserved for those who are still busy here.
    pub(super) fn pack(&mut self, spare: u64) -> (State, Vec<RawFd>) {
        let taken = self.daemon.shared.pools.take_idle();
        self.idle.extend(taken.into_iter().map(|(standing, server)| (standing, server, false)));
        let mut packer = Packer::new(&self.daemon.shared, VERSION_LINE);
        for (standing, server, passable) in &mut self.idle {
            *passable = server.is_passable(&self.daemon.shared);
            if *passable {
                packer.put_server(&server.part(*standing));
            }
        }
        // Who was told to go while it rests goes here.
        let (leaving, staying) = std::mem::take(&mut self.resting).into_iter().partition(Parcel::is_ending);
        self.resting = staying;
        for parcel in &mut self.resting {
            packer.put(parcel);
        }
        Vec::into_iter(leaving).for_each(|parcel| parcel.decide(Verdict::GoOn));
        let daemon = &self.daemon;
        packer.note(|state| {
            describe(daemon, state);
            state.last_id += spare;
            state.last_statement += spare;
        });
        packer.finish()
    }

    /// The successor did not come: all go on.
    pub(super) fn call_off(mut self) {
        self.revive();
    }

    fn revive(&mut self) {
        self.over = true;
        let shared = &self.daemon.shared;
        shared.pools.put_idle(self.idle.drain(..).map(|(_, server, _)| server).collect());
        shared.thaw();
        for parcel in self.resting.drain(..) {
            parcel.decide(Verdict::GoOn);
        }
        self.closure = None;
    }

    /// The successor has all that was packed. Those who were busy come to rest later.
    pub(super) fn let_go(&mut self) -> (usize, usize) {
        self.over = true;
        self.closure.take().into_iter().for_each(Closure::for_good);
        let shared = &self.daemon.shared;
        let (mut clients, mut servers) = (0, 0);
        for (_, mut server, passable) in self.idle.drain(..) {
            let id = server.id();
            if passable {
                servers += 1;
            } else {
                server.say_goodbye();
            }
            shared.pools.with(|registry, now, out| registry.server_gone(now, id, out));
        }
        for parcel in self.resting.drain(..) {
            clients += 1;
            servers += usize::from(parcel.content.server.is_some());
            parcel.decide(Verdict::Gone);
        }
        (clients, servers)
    }
}

/// What the kernel can do of TLS; `None` if nobody needs it.
///
/// # Errors
/// It cannot, and somebody needs it.
async fn kernel_tls(daemon: &Daemon) -> Result<Option<Support>, String> {
    let roster = &daemon.shared.roster;
    let needed =
        roster.clients().iter().any(|c| !c.tls.is_empty()) || roster.servers().iter().any(|s| !s.tls.is_empty());
    if !needed {
        return Ok(None);
    }
    let probe = tokio::task::spawn_blocking(Support::probe).await;
    probe.unwrap_or_else(|error| Err(error.to_string())).map(Some)
}

/// Lets clients go whose TLS cannot be passed on; all others are served meanwhile. What the kernel can do for those who stay.
pub(super) async fn dismiss_unmovable(daemon: &Daemon) -> Option<Support> {
    match kernel_tls(daemon).await {
        Ok(support) => support,
        Err(reason) => {
            dismiss_tls(daemon, &reason).await;
            None
        }
    }
}

/// Connections with TLS cannot be passed on: whoever needs one is told to go, as soon as its transaction is over. Most are gone
/// in a moment; who takes longer finishes its transaction while the others move.
async fn dismiss_tls(daemon: &Daemon, reason: &str) {
    let roster = &daemon.shared.roster;
    let stuck: Vec<_> = roster
        .clients()
        .into_iter()
        .filter(|client| {
            let by_server = || client.link().and_then(|id| roster.server(id)).is_some_and(|s| !s.tls.is_empty());
            let is_bound = !client.tls.is_empty() || (client.keeps_server() && by_server());
            // Those who know already are not counted again at the next attempt.
            client.pool().is_some() && is_bound && client.ending().is_none()
        })
        .collect();
    if stuck.is_empty() {
        return;
    }
    tracing::warn!("{} clients with TLS cannot be passed on and are told to connect again: {reason}", stuck.len());
    for client in &stuck {
        client.end(Ending::between_transactions(cannot_move()));
    }
    let deadline = Instant::now() + FAREWELL;
    loop {
        let departure = roster.departure();
        if !stuck.iter().any(|client| roster.client(client.id).is_some()) {
            return;
        }
        if timeout_at(deadline, departure).await.is_err() {
            return;
        }
    }
}

/// What holds for the whole process.
fn describe(daemon: &Daemon, state: &mut State) {
    let config = daemon.config();
    let numbers = lock(&daemon.numbers);
    daemon.shared.pools.with(|registry, _, _| {
        state.paused = registry.mode() == Mode::Paused;
        // Also those that only the line for all others (`*`) knows.
        for (name, id) in numbers.databases() {
            if registry.is_paused(id) {
                state.paused_databases.push(name.to_owned());
            }
            if registry.is_disabled(id) {
                state.disabled_databases.push(name.to_owned());
            }
        }
    });
    state.ha = daemon.ha().map(|node| node.testament()).unwrap_or_default();
    state.configuration = Bytes::from(to_toml(&config).as_bytes());
}
