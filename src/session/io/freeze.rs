//! Sessions come to rest for a hand-over: each finishes what its server still owes, then waits here with everything that
//! it is, until it is told to go on or that another process has it now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Context;

use tokio::sync::{mpsc, oneshot};

use super::client::Session;
use super::roster::Ending;
use super::server::Server;
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::ids::ClientId;
use crate::net::kernel_tls::{HandOverForm, Support, WhyNot};
use crate::net::stream::Stream;
use crate::pool::Standing;
use crate::session::Mode;

/// Whether sessions are to come to rest, and where those report that have.
#[derive(Default)]
pub struct Freeze {
    on: AtomicBool,
    desk: Mutex<Option<mpsc::UnboundedSender<Parcel>>>,
    /// What the kernel can do of TLS.
    support: Mutex<Option<Support>>,
}

/// A session that rests: it does nothing until its verdict comes.
pub struct Parcel {
    /// What there is to pass on.
    pub content: Box<Content>,
    verdict: oneshot::Sender<Verdict>,
}

/// What becomes of a session that rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as if nothing had been.
    GoOn,
    /// Another process has its sockets: it ends without a word.
    Gone,
}

/// A session taken apart.
pub struct Content {
    /// The client.
    pub client: super::parcel::ClientPart,
    /// Its server, if it holds one.
    pub server: Option<super::parcel::ServerPart>,
}

impl Parcel {
    /// Has it been told to go while it rests?
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.content.client.is_ending()
    }

    /// Whose it is.
    #[must_use]
    pub fn client(&self) -> ClientId {
        self.content.client.id()
    }

    /// Tells the session.
    pub fn decide(self, verdict: Verdict) {
        // A session that is gone meanwhile needs no verdict.
        let _ = self.verdict.send(verdict);
    }
}

/// What a client is told whose connection cannot be passed on.
#[must_use]
pub fn cannot_move() -> Fault {
    Fault::fatal(Culprit::Us, "terminating connection due to administrator command").with_sqlstate("57P01").retryable()
}

/// Gives TLS of ours to the kernel, so that the socket can be passed on.
pub(super) fn make_passable(
    stream: &mut Stream,
    support: Option<&Support>,
    cx: &mut Context<'_>,
) -> Result<(), WhyNot> {
    match (stream.hand_over_form(), support) {
        (HandOverForm::Plain(_), _) => Ok(()),
        (HandOverForm::UserTls, None) => Err(WhyNot::Refused("the kernel has no TLS".to_owned())),
        // With TLS of the kernel already it says whether the connection is still open.
        (_, Some(support)) => stream.try_kernel_tls(support, cx),
        (HandOverForm::KernelTls(..), None) => Ok(()),
    }
}

impl Freeze {
    /// From now on sessions report at the desk whose other end is returned.
    pub(super) fn begin(&self, support: Option<Support>) -> mpsc::UnboundedReceiver<Parcel> {
        *self.support.lock().unwrap_or_else(PoisonError::into_inner) = support;
        // Bounded by the number of sessions: each reports once and waits.
        let (desk, parcels) = mpsc::unbounded_channel();
        *self.desk.lock().unwrap_or_else(PoisonError::into_inner) = Some(desk);
        self.on.store(true, Ordering::Release);
        parcels
    }

    pub(super) fn end(&self) {
        self.on.store(false, Ordering::Release);
        *self.desk.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Are sessions to come to rest?
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    pub(super) fn support(&self) -> Option<Support> {
        self.support.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn report(&self, parcel: Parcel) -> bool {
        let desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        desk.is_some_and(|desk| desk.send(parcel).is_ok())
    }
}

impl Session {
    /// Is it to come to rest? As [`Session::refresh_settings`] finds out, but for one that waits for a server.
    pub(super) fn is_frozen(&self) -> bool {
        if self.shared.generation() == self.generation { self.frozen } else { self.shared.freeze.is_on() }
    }

    /// Nothing is half-way in either direction, and no TLS of ours stands in between: all of it can be passed on. If that may
    /// still become true `cx` is armed; if it cannot, the client is told to go when its transaction is over.
    pub(super) fn is_at_rest(&mut self, cx: &mut Context<'_>) -> bool {
        if !(self.is_quiet() && self.may_pause()) {
            return false;
        }
        let support = self.shared.freeze.support();
        let streams = [Some(&mut self.stream), self.server.as_deref_mut().map(|server| &mut server.stream)];
        let outcome = streams.into_iter().flatten().try_for_each(|stream| make_passable(stream, support.as_ref(), cx));
        match outcome {
            Ok(()) => return true,
            Err(WhyNot::Unread) => self.read_on(cx),
            Err(why) if why.is_temporary() => {}
            Err(why) => {
                tracing::debug!("{} cannot be passed on: {why}", self.info);
                self.frozen = false;
                self.info.end(Ending::between_transactions(cannot_move()));
            }
        }
        false
    }

    /// May the client be made to wait here? Not if it has been told to go or replicates, nor inside a transaction on a server
    /// that cannot be passed on: the transaction then goes on to its end, and the client moves without the server.
    pub(super) fn may_pause(&self) -> bool {
        if self.info.ending().is_some() || self.info.replication().is_some() {
            return false;
        }
        let Some(server) = &self.server else { return true };
        let stays = || {
            self.mode != Mode::Session
                && matches!(server.stream.hand_over_form(), HandOverForm::UserTls)
                && self.shared.freeze.support().is_none()
        };
        server.core.is_at_boundary() && !stays()
    }

    fn is_quiet(&self) -> bool {
        self.server.as_deref().is_none_or(Server::is_quiet)
            && self.server_run == 0
            && self.run == 0
            && self.passing.left == 0
            && self.out.is_empty()
            && !self.client_unflushed
            && self.to_server.is_empty()
            && self.to_client.is_empty()
    }

    /// TLS has so much for us that it can take in no more. Looked at again at once.
    fn read_on(&mut self, cx: &mut Context<'_>) {
        if !self.input.is_full() {
            let _ = self.input.poll_fill(cx, &mut self.stream);
            cx.waker().wake_by_ref();
        }
    }

    /// Waits for the verdict. Not cancel-safe: a session dropped here closes its sockets.
    pub(super) async fn rest(&mut self, waiting_since: Option<Time>) -> Verdict {
        let standing = match &self.server {
            None => None,
            Some(server) => match self.settled_standing(server).await {
                Some(standing) => Some(standing),
                None => return Verdict::GoOn,
            },
        };
        let (verdict, told) = oneshot::channel();
        let content = Box::new(self.content(waiting_since, standing));
        if !self.shared.freeze.report(Parcel { content, verdict }) {
            // Nobody collects any more and nobody has said so yet: not in a circle without end.
            self.frozen = false;
            tokio::time::sleep(LOOK_AGAIN).await;
            return Verdict::GoOn;
        }
        told.await.unwrap_or(Verdict::GoOn)
    }

    /// What the pools say of the server, once no cancel request is on its way to it any more; `None` if the freeze is over
    /// before that.
    async fn settled_standing(&self, server: &Server) -> Option<Standing> {
        loop {
            let settled = self.shared.pools.settled();
            let id = server.info.id;
            let (standing, known) =
                self.shared.pools.with(|registry, _, _| (registry.move_held(id), registry.knows(id)));
            if standing.is_some() {
                return standing;
            }
            if !known || !self.shared.freeze.is_on() || self.info.ending().is_some() {
                return None;
            }
            // The pools do not say when a cancel request is over, so it is looked at again soon.
            let _ = tokio::time::timeout(LOOK_AGAIN, settled).await;
        }
    }
}

/// How long a session waits that is to rest and cannot yet: a cancel request for its server is under way, or nobody collects.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(10);
