//! The relay: the hot path. One function is polled for as long as a client lives; it reads, lets the cores judge, and writes,
//! with one read and one write per direction and run of messages. Bytes that pass unchanged are written from the buffer that
//! they were read into; only what is rewritten or said by ourselves goes through an outbox.
//!
//! Order on the way to the server: its outbox, then the run at the front of the client's input. To the client: the client's
//! outbox, then the run at the front of the server's input.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::client::{End, Session};
use super::freeze::cannot_move;
use super::roster::Ending;
use super::server::{CRASHED, Outbox, Passing};
use super::shared::lock;
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::net::buffer::Buffer;
use crate::net::stream::Stream;
use crate::session::Mode;
use crate::session::client::{Turn, Verdict as ClientVerdict};
use crate::session::misuse::Misuse;
use crate::session::server::{ServerCore, Status, Verdict as ServerVerdict};
use crate::wire::frame::{HEAD_LEN, head};
use crate::wire::reply;

/// Why the relay returns.
#[derive(Debug)]
pub(super) enum Step {
    /// The client sent something for which it needs a server.
    NeedServer,
    /// The server is free to go back.
    ServerFree,
    /// Everything is at rest, as a hand-over wants it.
    Rest,
    /// The session is over.
    Ended(End),
}

/// What judging the client's bytes came to.
enum Judged {
    /// Everything that is whole has been judged; more may be read.
    Dry,
    /// No more may be read for now.
    Full,
    NeedServer,
    Ended(End),
}

/// A run this short is copied behind the outbox rather than written by a call of its own.
const COPY_LEN_MAX: usize = 4096;

impl Session {
    /// Moves everything that can be moved. Cancel-safe: all state is in `self`.
    pub(super) fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        loop {
            self.refresh_settings();
            if let Some(end) = self.must_end() {
                return Poll::Ready(Step::Ended(end));
            }
            let room = match self.judge_client() {
                Judged::NeedServer => return Poll::Ready(Step::NeedServer),
                Judged::Ended(end) => return Poll::Ready(Step::Ended(end)),
                Judged::Dry => true,
                Judged::Full => false,
            };
            let mut moved = false;
            // The server is not read while the client has not taken what came before.
            let held_back = self.server_run > 0 || !self.out.is_empty();
            let unsent = self.server.as_ref().is_some_and(|s| !s.out.is_empty());
            if self.server.is_some() {
                match self.poll_server(cx) {
                    Ok(read) => moved |= read,
                    Err(end) => return Poll::Ready(Step::Ended(end)),
                }
            }
            match self.poll_to_client(cx) {
                Poll::Ready(Ok(())) => moved |= held_back,
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Ended(End::ClientGone("client unexpected eof"))),
                Poll::Pending => {}
            }
            // Room in the server's outbox is room for the client.
            moved |= !room && unsent && self.server.as_ref().is_some_and(|s| s.out.is_empty());
            if self.may_release() {
                return Poll::Ready(Step::ServerFree);
            }
            if self.frozen && self.is_at_rest(cx) {
                return Poll::Ready(Step::Rest);
            }
            if room && self.run == 0 {
                match self.input.poll_fill(cx, &mut self.stream) {
                    Poll::Pending => {}
                    Poll::Ready(Ok(n)) if n > 0 => {
                        self.tally.received += n as u64;
                        moved = true;
                    }
                    Poll::Ready(_) => return Poll::Ready(Step::Ended(End::ClientGone("client unexpected eof"))),
                }
            }
            if !moved {
                return self.poll_timeouts(cx);
            }
        }
    }

    fn must_end(&self) -> Option<End> {
        let unmovable = || self.frozen && self.info.replication().is_some();
        let ending = self.info.ending().or_else(|| unmovable().then(|| Ending::between_transactions(cannot_move())))?;
        // A server that was just handed out is free because the first frame has not been judged yet.
        let may_stop = |core: &ServerCore| core.is_free() || core.is_streaming();
        let between = self.server.as_ref().is_none_or(|s| self.served && may_stop(&s.core) && s.passing.left == 0);
        (ending.at_once || between).then_some(End::Fault(ending.fault))
    }

    /// Judges what the client has sent, as far as it is there.
    fn judge_client(&mut self) -> Judged {
        loop {
            let there = self.input.len() - self.run;
            if self.passing.left > 0 {
                let n = self.passing.advance(there);
                if self.passing.forward {
                    self.run += n;
                } else {
                    self.input.consume(n);
                }
                if self.passing.left > 0 {
                    return Judged::Dry;
                }
                continue;
            }
            if self.frozen && self.may_pause() {
                // For a hand-over: nothing new is begun.
                return Judged::Full;
            }
            if there == 0 {
                return Judged::Dry;
            }
            if self.is_stuffed() {
                return Judged::Full;
            }
            match self.judge_frame() {
                Ok(true) => {}
                Ok(false) => return Judged::Dry,
                Err(judged) => return judged,
            }
        }
    }

    /// Must the client wait before more of it is taken in?
    fn is_stuffed(&mut self) -> bool {
        if self.out.bytes.len() > OUTBOX_LEN_MAX {
            return true;
        }
        let Some(server) = &self.server else { return false };
        if server.core.is_full() && !std::mem::replace(&mut self.asked_to_flush, true) {
            // A pipeline without Sync: its replies may sit in the server's own buffer.
            self.settle_client_run();
            if let Some(server) = &mut self.server {
                server.out.bytes.extend_from_slice(FLUSH);
            }
            return true;
        }
        self.asked_to_flush &= server.core.is_full();
        server.core.is_full() || server.out.bytes.len() > OUTBOX_LEN_MAX
    }

    /// Judges the frame that stands behind the run. False: more of it must be read first.
    fn judge_frame(&mut self) -> Result<bool, Judged> {
        let bytes = self.input.bytes().get(self.run..).unwrap_or_default();
        let bad = |text: &'static str| Judged::Ended(End::Fault(Fault::fatal(Culprit::Client, text)));
        let Some(head) = head(bytes).map_err(|_| bad("bad packet header"))? else { return Ok(false) };
        if head.total > self.params.max_packet_len {
            return Err(bad("packet is longer than max_packet_size allows"));
        }
        let there = bytes.len();
        let body = bytes.get(HEAD_LEN..).unwrap_or_default();
        let fresh = self.server.as_ref().is_some_and(|s| s.core.is_in_step());
        let idle = self.server.as_ref().is_some_and(|s| s.core.status() == Status::Idle);
        let statements = &self.shared.statements;
        let mut turn = Turn {
            to_server: &mut self.to_server,
            to_client: &mut self.to_client,
            statements_max: self.statements_max,
            unknown_name_ends: self.params.unknown_name_ends,
            intern: &|definition| lock(statements).intern(definition),
        };
        let verdict = self.core.on_frame(head, body, self.server.as_deref_mut().map(|s| &mut s.core), &mut turn);
        let tracked = self.statements_max > 0;
        match (head.tag, &verdict) {
            (_, ClientVerdict::NeedServer | ClientVerdict::NeedMore(_)) => {}
            (b'Q', _) if self.params.refuse_simple_queries => return Err(bad("PQexec disallowed")),
            (b'P', _) => self.tally.client_parses += u64::from(tracked),
            (b'B', _) => self.tally.binds += u64::from(tracked),
            _ => {}
        }
        // Never inside a frame of the server that is half passed on: `judge_server` has it behind that frame.
        if self.server.as_ref().is_none_or(|s| s.passing.left == 0) {
            self.put_own_replies();
        }
        if !self.to_server.is_empty() {
            self.settle_client_run();
            if let Some(server) = &mut self.server {
                server.out.bytes.append(&mut self.to_server);
            }
        }
        match verdict {
            ClientVerdict::Forward => self.passing = Passing::of(head.total, true),
            ClientVerdict::Rewritten(front) => {
                self.input.consume(front);
                self.passing = Passing::of(head.total - front, true);
            }
            ClientVerdict::Consumed => {
                self.served = true;
                self.settle_client_run();
                self.passing = Passing::of(head.total, false);
                return Ok(true);
            }
            ClientVerdict::NeedMore(len) if len > there => {
                self.input.grow_if_full(self.run + len);
                return Ok(false);
            }
            ClientVerdict::NeedMore(_) => return Err(bad("malformed message")),
            ClientVerdict::NeedServer => return Err(Judged::NeedServer),
            ClientVerdict::Terminate => return Err(Judged::Ended(End::Terminated)),
            ClientVerdict::Fatal(fault) => return Err(Judged::Ended(End::Fault(fault))),
        }
        if fresh {
            self.query_began = Time::now();
            self.info.set_request(self.query_began);
            if idle && self.served {
                self.transaction_began = self.query_began;
            }
        }
        self.served = true;
        Ok(true)
    }

    fn put_own_replies(&mut self) {
        if !self.to_client.is_empty() {
            self.settle_server_run();
            self.out.bytes.append(&mut self.to_client);
        }
    }

    /// Moves the run at the front of the client's input into the server's outbox, so that something can be put behind it.
    fn settle_client_run(&mut self) {
        if self.run > 0 {
            if let Some(server) = &mut self.server {
                server.out.bytes.extend_from_slice(self.input.bytes().get(..self.run).unwrap_or_default());
            }
            self.input.consume(self.run);
            self.run = 0;
        }
    }

    /// Moves the run at the front of the server's input into the client's outbox.
    pub(super) fn settle_server_run(&mut self) {
        if self.server_run > 0
            && let Some(server) = &mut self.server
        {
            self.out.bytes.extend_from_slice(server.input.bytes().get(..self.server_run).unwrap_or_default());
            server.input.consume(self.server_run);
            self.server_run = 0;
        }
    }

    /// Writes to the server, reads from it and judges what came. True if something came.
    fn poll_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Some(server) = &mut self.server else { return Ok(false) };
        let sent = poll_send(cx, &mut server.stream, &mut server.out, &mut self.input, &mut self.run);
        if let Poll::Ready(Err(_)) = sent {
            // What the server said last, perhaps the reason, is still to be read.
            return self.last_words(cx);
        }
        if self.server_run > 0 || !self.out.is_empty() {
            return Ok(false);
        }
        match server.input.poll_fill(cx, &mut server.stream) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(n)) if n > 0 => {
                self.judge_server()?;
                Ok(true)
            }
            Poll::Ready(_) => Err(End::ServerGone(CRASHED)),
        }
    }

    fn last_words(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if let Some(server) = &mut self.server
            && matches!(server.input.poll_fill(cx, &mut server.stream), Poll::Ready(Ok(n)) if n > 0)
        {
            self.judge_server()?;
        }
        Err(End::ServerGone(CRASHED))
    }

    /// Judges what the server has sent, as far as it is there.
    fn judge_server(&mut self) -> Result<(), End> {
        loop {
            let Some(server) = &mut self.server else { return Ok(()) };
            let there = server.input.len() - self.server_run;
            if server.passing.left > 0 {
                let n = server.passing.advance(there);
                if server.passing.forward {
                    self.server_run += n;
                } else {
                    server.input.consume(n);
                }
                if server.passing.left > 0 {
                    return Ok(());
                }
                continue;
            }
            if !self.to_client.is_empty() {
                self.put_own_replies();
                continue;
            }
            if server.core.has_due_replies() {
                self.settle_server_run();
                if let Some(server) = &mut self.server {
                    server.core.put_due_replies(&mut self.out.bytes);
                }
                continue;
            }
            if there == 0 || !self.judge_server_frame()? {
                return Ok(());
            }
        }
    }

    /// Judges the server's frame that stands behind the run. False: more of it must be read first.
    fn judge_server_frame(&mut self) -> Result<bool, End> {
        let Some(server) = &mut self.server else { return Ok(false) };
        let bytes = server.input.bytes().get(self.server_run..).unwrap_or_default();
        let bad = |_| End::ServerGone("bad packet header from server");
        let Some(head) = head(bytes).map_err(bad)? else { return Ok(false) };
        let body = bytes.get(HEAD_LEN..).unwrap_or_default();
        if head.tag == b'E' {
            let body = body.get(..head.body_len().min(body.len())).unwrap_or_default();
            let misuse = server.core.misuse();
            if misuse.is_some() && body.len() < head.body_len() && head.total <= REWORDED_LEN_MAX {
                server.input.grow_if_full(self.server_run + head.total);
                return Ok(false);
            }
            let fields = reply::error_fields(body);
            self.server_said_fatal = matches!(fields.severity, b"FATAL" | b"PANIC");
            if let Some(misuse) = misuse.filter(|misuse| misuse.sqlstate().as_bytes() == fields.sqlstate) {
                server.core.on_frame(head, body, Some(&mut self.core));
                self.reword(&misuse, head.total);
                return Ok(true);
            }
        }
        match server.core.on_frame(head, body, Some(&mut self.core)) {
            ServerVerdict::Forward => server.passing = Passing::of(head.total, true),
            ServerVerdict::ForwardReady => {
                self.on_ready()?;
                if let Some(server) = &mut self.server {
                    server.passing = Passing::of(head.total, true);
                }
            }
            ServerVerdict::Swallow | ServerVerdict::SwallowReady => {
                self.settle_server_run();
                if let Some(server) = &mut self.server {
                    server.passing = Passing::of(head.total, false);
                }
            }
            ServerVerdict::NeedMore(len) => {
                server.input.grow_if_full(self.server_run + len);
                return Ok(false);
            }
            ServerVerdict::Quarantine(reason) => return Err(End::ServerGone(reason)),
        }
        Ok(true)
    }

    /// Says in place of the server's error, which has the server's name of the statement, ours with the client's.
    fn reword(&mut self, misuse: &Misuse, len: usize) {
        self.settle_server_run();
        if let Some(server) = &mut self.server {
            server.passing = Passing::of(len, false);
        }
        reply::put_error(&mut self.out.bytes, &misuse.fault());
        if self.params.log.pooler_errors {
            tracing::error!(subject = %self.info.subject(), "{} {}", self.info, misuse.log_text());
        }
    }

    fn on_ready(&mut self) -> Result<(), End> {
        let now = Time::now();
        self.tally.query += now.since(self.query_began);
        self.ready_at = now;
        match self.server.as_ref().map(|s| s.core.status()) {
            Some(Status::Idle) => {
                self.tally.transaction += now.since(self.transaction_began);
                self.transaction_began = now;
            }
            Some(_) if self.mode == Mode::Statement => {
                let text = "transaction blocks not allowed in statement pooling mode";
                return Err(End::Fault(Fault::fatal(Culprit::Client, text)));
            }
            _ => {}
        }
        self.query_began = now;
        Ok(())
    }

    /// Writes to the client.
    pub(super) fn poll_to_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.out.bytes.len() + self.server_run;
        if before == 0 && !self.client_unflushed {
            return Poll::Ready(Ok(()));
        }
        self.client_unflushed = self.stream.needs_flush();
        let mut none = Buffer::default();
        let input = self.server.as_mut().map_or(&mut none, |s| &mut s.input);
        let result = poll_send(cx, &mut self.stream, &mut self.out, input, &mut self.server_run);
        self.tally.sent += (before - (self.out.bytes.len() + self.server_run).min(before)) as u64;
        if result.is_ready() {
            self.client_unflushed = false;
        }
        result
    }

    /// Is the server of no more use to this client for now?
    fn may_release(&self) -> bool {
        let Some(server) = &self.server else { return false };
        self.mode != Mode::Session
            && self.served
            && server.core.is_free()
            && server.passing.left == 0
            && server.input.len() == self.server_run
            && server.out.is_empty()
            && self.run == 0
            && self.passing.left == 0
    }

    fn poll_timeouts(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let (due, text) = self.due();
        ready!(self.timer.poll(cx, due));
        Poll::Ready(Step::Ended(End::Fault(Fault::fatal(Culprit::Us, text))))
    }

    /// What runs out next, and what the client is told then.
    fn due(&self) -> (Time, &'static str) {
        let timeouts = &self.route.timeouts;
        let after = |since: Time, limit: std::time::Duration| if limit.is_zero() { Time::NEVER } else { since + limit };
        match &self.server {
            // A base backup takes its time, and a stream has no end.
            Some(server) if !server.core.is_free() && self.info.replication().is_some() => (Time::NEVER, ""),
            Some(server) if !server.core.is_free() => {
                let transaction = (after(self.transaction_began, timeouts.transaction), "transaction timeout");
                let step = if server.core.is_in_step() {
                    (after(self.ready_at, timeouts.idle_transaction), "idle transaction timeout")
                } else {
                    (after(self.query_began, timeouts.query), "query timeout")
                };
                transaction.min(step)
            }
            _ => (after(self.ready_at, timeouts.client_idle), "client_idle_timeout"),
        }
    }
}

/// The longest error that is read as a whole to see whether it is about a statement's name, in bytes.
const REWORDED_LEN_MAX: usize = 16 * 1024;

const FLUSH: &[u8] = b"H\0\0\0\x04";

/// Bytes of our own that may wait for a client or server that does not read.
const OUTBOX_LEN_MAX: usize = 256 * 1024;

/// Sends the outbox, then the run at the front of `input`.
fn poll_send(
    cx: &mut Context<'_>,
    stream: &mut Stream,
    out: &mut Outbox,
    input: &mut Buffer,
    run: &mut usize,
) -> Poll<io::Result<()>> {
    if out.is_empty() && *run == 0 && !stream.needs_flush() {
        return Poll::Ready(Ok(()));
    }
    if !out.is_empty() {
        if *run > 0 && *run <= COPY_LEN_MAX {
            out.bytes.extend_from_slice(input.bytes().get(..*run).unwrap_or_default());
            input.consume(*run);
            *run = 0;
        }
        ready!(out.poll_send(cx, stream))?;
    }
    while *run > 0 {
        let bytes = input.bytes().get(..*run).unwrap_or_default();
        let n = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        input.consume(n);
        *run -= n;
    }
    if stream.needs_flush() { Pin::new(stream).poll_flush(cx) } else { Poll::Ready(Ok(())) }
}
