//! One server connection: its stream, its ledger, and the few queries that we run on it ourselves.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::timeout;

use super::roster::ServerInfo;
use super::shared::{PoolContext, Reported, Shared};
use crate::fault::{Culprit, Fault};
use crate::ids::ServerId;
use crate::net::buffer::Buffer;
use crate::net::stream::Stream;
use crate::pool::Fate;
use crate::pool::io::Idle;
use crate::session::server::{ServerCore, Verdict};
use crate::wire::frame::{HEAD_LEN, head};
use crate::wire::reply;

/// Why PgBouncer's log says that a server went away.
pub const CRASHED: &str = "server conn crashed?";

/// A logged-in server.
pub struct Server {
    /// What SHOW SERVERS tells of it.
    pub info: Arc<ServerInfo>,
    /// Its pool.
    pub context: Arc<PoolContext>,
    pub(super) stream: Stream,
    pub(super) input: Buffer,
    /// Bytes of the current frame still to come, and whether they go to the client.
    pub(super) passing: Passing,
    pub(super) out: Outbox,
    pub(super) core: ServerCore,
    /// What it said at its login, where that is for its one client only.
    pub(super) reported: Option<Reported>,
    waker: Option<Waker>,
    shared: Weak<Shared>,
}

/// However a server is lost, by a panic too, the pool must not count it any more.
impl Drop for Server {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.roster.remove_server(self.info.id);
            let fate = Fate::Close("dropped");
            // Unknown to the registry if it was closed in good order.
            let _ = shared.pools.with(|registry, now, out| registry.release(now, self.info.id, fate, out));
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.info)
    }
}

/// The rest of a frame whose verdict has been given.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passing {
    pub(super) left: usize,
    pub(super) forward: bool,
    begun: bool,
}

impl Passing {
    /// A frame of `len` bytes whose verdict has just been given.
    pub(super) fn of(len: usize, forward: bool) -> Self {
        Self { left: len, forward, begun: false }
    }

    /// Moves up to `there` bytes on; how many.
    pub(super) fn advance(&mut self, there: usize) -> usize {
        let n = self.left.min(there);
        self.left -= n;
        self.begun |= n > 0;
        n
    }

    /// Has the other side had a part of the frame and not all of it?
    pub(super) fn is_torn(&self) -> bool {
        self.forward && self.begun && self.left > 0
    }
}

/// Bytes of ours on their way out.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) bytes: Vec<u8>,
    sent: usize,
}

/// An outbox that once grew beyond this gives its memory back when it is empty.
const KEEP_LEN: usize = 1024;

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Writes until nothing is left.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let rest = self.bytes.get(self.sent..).unwrap_or_default();
            let n = ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.sent = 0;
        if self.bytes.capacity() > KEEP_LEN {
            self.bytes = Vec::new()
        } else {
            self.bytes.clear()
        }
        Poll::Ready(Ok(()))
    }
}

/// Why a query of ours did not succeed.
#[derive(Debug)]
pub enum QueryError {
    /// The server is of no further use.
    Broken(&'static str),
    /// The server answered with an error and is in step.
    Refused(Fault),
}

impl Server {
    /// A server whose login is over and whose input holds nothing of it any more.
    #[must_use]
    pub fn new(
        shared: &Arc<Shared>,
        info: Arc<ServerInfo>,
        context: Arc<PoolContext>,
        stream: Stream,
        core: ServerCore,
    ) -> Self {
        Self {
            info,
            context,
            stream,
            input: Buffer::default(),
            passing: Passing::default(),
            out: Outbox::default(),
            core,
            reported: None,
            waker: None,
            shared: Arc::downgrade(shared),
        }
    }

    /// Takes leave in the middle of a stream, which ends it in good order (PostgreSQL docs, "Streaming Replication Protocol").
    /// To be called between two frames.
    pub(super) fn leave_stream(&mut self) {
        if self.core.is_streaming() && self.out.is_empty() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_write(&mut cx, TERMINATE);
        }
    }

    /// Sends the login's last words away and hangs up, without waiting.
    pub fn say_goodbye(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        if self.out.is_empty() && self.core.is_in_step() {
            let _ = Pin::new(&mut self.stream).poll_write(&mut cx, TERMINATE);
        }
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut cx);
    }

    /// Runs a query of ours; whatever it returns is thrown away. Not cancel-safe: a server dropped out of it is closed.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn run(&mut self, sql: &[u8], limit: Duration) -> Result<(), QueryError> {
        reply::put_query(&mut self.out.bytes, sql);
        self.core.sent_query(true);
        let mut refusal = None;
        let limit = if limit.is_zero() { Duration::from_secs(86_400) } else { limit };
        match timeout(limit, poll_fn(|cx| self.poll_run(cx, &mut refusal))).await {
            Err(_) => Err(QueryError::Broken("query timeout")),
            Ok(Err(reason)) => Err(QueryError::Broken(reason)),
            Ok(Ok(())) => refusal.map_or(Ok(()), |fault| Err(QueryError::Refused(fault))),
        }
    }

    fn poll_run(&mut self, cx: &mut Context<'_>, refusal: &mut Option<Fault>) -> Poll<Result<(), &'static str>> {
        let broken = |_| CRASHED;
        ready!(self.out.poll_send(cx, &mut self.stream)).map_err(broken)?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx)).map_err(broken)?;
        loop {
            if self.take_frames(refusal)? {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.input.poll_fill(cx, &mut self.stream)).map_err(broken)? == 0 {
                return Poll::Ready(Err(CRASHED));
            }
        }
    }

    /// Judges what has been read while no client is there. True once the query of ours is over.
    fn take_frames(&mut self, refusal: &mut Option<Fault>) -> Result<bool, &'static str> {
        loop {
            if self.passing.left > 0 {
                let n = self.passing.advance(self.input.len());
                self.input.consume(n);
                if self.passing.left > 0 {
                    return Ok(false);
                }
            }
            let bytes = self.input.bytes();
            let Some(head) = head(bytes).map_err(|_| "bad packet header from server")? else { return Ok(false) };
            let body = bytes.get(HEAD_LEN..).unwrap_or_default();
            if head.tag == b'E' {
                // Errors are read for their text; one too long for that keeps an empty one.
                if body.len() < head.body_len() && head.total <= MESSAGE_LEN_MAX {
                    self.input.grow_if_full(head.total);
                    return Ok(false);
                }
                let fault = server_fault(body.get(..head.body_len()).unwrap_or_default());
                if fault.severity == crate::fault::Severity::Fatal {
                    return Err(CRASHED);
                }
                refusal.get_or_insert(fault);
            }
            match self.core.on_frame(head, body, None) {
                Verdict::NeedMore(len) => {
                    self.input.grow_if_full(len);
                    return Ok(false);
                }
                Verdict::Quarantine(reason) => return Err(reason),
                Verdict::SwallowReady => {
                    self.input.consume(head.total);
                    return Ok(self.core.is_in_step());
                }
                Verdict::ForwardReady => return Err("unexpected ReadyForQuery"),
                Verdict::Forward | Verdict::Swallow => self.passing = Passing::of(head.total, false),
            }
        }
    }
}

const TERMINATE: &[u8] = b"X\0\0\0\x04";

/// The longest ErrorResponse that is read as a whole, in bytes.
const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// A server's ErrorResponse as a fault that can be passed on.
#[must_use]
pub fn server_fault(body: &[u8]) -> Fault {
    let fields = reply::error_fields(body);
    let text = String::from_utf8_lossy(fields.message).into_owned();
    let sqlstate = String::from_utf8_lossy(fields.sqlstate).into_owned();
    let fault = match fields.severity {
        b"FATAL" | b"PANIC" => Fault::fatal(Culprit::Server, text),
        _ => Fault::error(Culprit::Server, text),
    };
    if sqlstate.len() == 5 { fault.with_sqlstate(sqlstate) } else { fault }
}

impl Idle for Server {
    fn id(&self) -> ServerId {
        self.info.id
    }

    fn attend(&mut self, cx: &mut Context<'_>) -> Result<(), &'static str> {
        loop {
            match self.input.poll_fill(cx, &mut self.stream) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0) | Err(_)) => return Err(CRASHED),
                Poll::Ready(Ok(_)) => {
                    let mut refusal = None;
                    let over = self.take_frames(&mut refusal)?;
                    if over || refusal.is_some() {
                        return Err(CRASHED);
                    }
                }
            }
        }
    }

    fn idle_waker(&mut self) -> &mut Option<Waker> {
        &mut self.waker
    }
}
