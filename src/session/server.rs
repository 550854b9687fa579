//! The ledger of one server: every reply that it owes, in order. It tells which frames of the server reach the client, puts
//! our own replies (ParseComplete, CloseComplete) at the right places between them, and knows when the server is provably in
//! step. Anything that does not fit the ledger is a [`Verdict::Quarantine`]: such a server is closed, never lent again.
//!
//! PostgreSQL docs: "Message Flow", "Extended Query", "COPY Operations", "Pipelining".

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::client::ClientCore;
use super::misuse::{Misuse, MisuseKind};
use super::params::{Tracked, Values};
use crate::prepared::{Statement, Undo, Window};
use crate::wire::frame::{Head, cstr};
use crate::wire::reply;

/// What must be done with a frame of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Read on until this many bytes of the frame are there.
    NeedMore(usize),
    /// To the client.
    Forward,
    /// To nobody.
    Swallow,
    /// To the client; then [`ServerCore::put_due_replies`], then see [`ServerCore::is_free`].
    ForwardReady,
    /// To nobody, otherwise as [`Verdict::ForwardReady`].
    SwallowReady,
    /// The server is out of step; close it.
    Quarantine(&'static str),
}

/// The state byte of ReadyForQuery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No transaction.
    Idle,
    /// In a transaction block.
    Transaction,
    /// In a failed transaction block.
    Failed,
}

/// One owed reply, or one of ours that waits for its turn.
#[derive(Debug)]
enum Owed {
    Parse {
        statement: Option<u64>,
        undo: Option<Box<Undo>>,
        swallow: bool,
    },
    OurParseComplete {
        undo: Box<Undo>,
    },
    /// A Parse of a statement that the server has, which is an error. The client's name for it.
    Duplicate {
        name: Box<[u8]>,
    },
    /// `unknown`: the statement's name, if the client has none of that name.
    Bind {
        unknown: Option<Box<[u8]>>,
    },
    /// As for Bind.
    Describe {
        unknown: Option<Box<[u8]>>,
    },
    Execute,
    /// `evicted`: what the server still has if this is skipped.
    Close {
        swallow: bool,
        evicted: Option<Arc<Statement>>,
    },
    OurCloseComplete {
        undo: Box<Undo>,
    },
    Sync {
        forgets: bool,
    },
    Query {
        swallow: bool,
        forgets: bool,
    },
    FunctionCall,
    /// Not a reply: a CopyDone or CopyFail went out before the server's CopyInResponse was seen. Never stands first.
    CopyEnd,
}

impl Owed {
    /// Does the server say ReadyForQuery at its end?
    fn ends_with_ready(&self) -> bool {
        matches!(self, Self::Sync { .. } | Self::Query { .. } | Self::FunctionCall)
    }

    /// Does it depend on its success which names and statements there are?
    fn changes_statements(&self) -> bool {
        match self {
            Self::Parse { statement, undo, .. } => statement.is_some() || undo.is_some(),
            Self::Close { swallow, .. } => *swallow,
            Self::OurParseComplete { .. } | Self::OurCloseComplete { .. } => true,
            Self::Sync { forgets } | Self::Query { forgets, .. } => *forgets,
            _ => false,
        }
    }
}

/// The largest ParameterStatus that is looked at, in bytes; a larger one is passed on unread.
const PARAMETER_STATUS_LEN_MAX: usize = 16 * 1024;

/// Frames of one server that a pipeline may have outstanding. A client that goes on is made to wait for replies.
pub const OWED_MAX: usize = 65_536;

/// The core of one server.
#[derive(Debug)]
pub struct ServerCore {
    owed: VecDeque<Owed>,
    /// How many of `owed` end with ReadyForQuery.
    readies: usize,
    /// How many of `owed` change statements, up to the last Sync and since.
    changes_before: usize,
    changes_since: usize,
    /// A command that forgets statements went out since the last Sync.
    forgets: bool,
    window: Window,
    status: Status,
    /// After CopyInResponse or CopyBothResponse, until the client ends the copy: the server then reads Sync and Flush as
    /// nothing (PostgreSQL docs, "COPY Operations").
    copy_in: bool,
    /// From CopyBothResponse to the end of its command.
    streaming: bool,
    /// An extended-protocol message went out since the last Sync.
    unsynced: bool,
    /// The server reported an error and skips everything up to a Sync that has not gone out yet.
    skipping: bool,
    values: Values,
    tracked: Arc<Tracked>,
    counts: Counts,
}

/// What happened on a server since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// ReadyForQuery messages for the client.
    pub queries: u64,
    /// Of these, those that ended a transaction.
    pub transactions: u64,
    /// Named Parse messages that went out.
    pub parses: u64,
}

impl ServerCore {
    /// A server fresh from its login, with the values that it reported there.
    #[must_use]
    pub fn new(tracked: Arc<Tracked>, values: Values) -> Self {
        Self {
            owed: VecDeque::new(),
            readies: 0,
            changes_before: 0,
            changes_since: 0,
            forgets: false,
            window: Window::default(),
            status: Status::Idle,
            copy_in: false,
            streaming: false,
            unsynced: false,
            skipping: false,
            values,
            tracked,
            counts: Counts::default(),
        }
    }

    /// A server that a former process had, which owed nothing: in this transaction state, with these statements (the least
    /// recently used first).
    #[must_use]
    pub fn restore(tracked: Arc<Tracked>, values: Values, status: Status, statements: Vec<Arc<Statement>>) -> Self {
        let mut core = Self::new(tracked, values);
        core.status = status;
        for statement in statements {
            core.window.insert(statement);
        }
        core
    }

    /// The statements that it has, the least recently used first.
    #[must_use]
    pub fn statements(&self) -> Vec<Arc<Statement>> {
        self.window.by_use()
    }

    /// Does it come into step by itself, without another message of the client?
    #[must_use]
    pub fn is_at_boundary(&self) -> bool {
        !self.copy_in && !self.unsynced && !self.skipping
    }

    /// Provably clean: owes nothing, is in no transaction and in no copy. Only then may another client have it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.is_in_step() && self.status == Status::Idle
    }

    /// Owes nothing; may be in a transaction.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.owed.is_empty() && !self.copy_in && !self.unsynced && !self.skipping
    }

    /// The transaction state last told.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// Does the server await copy data?
    #[must_use]
    pub fn in_copy_in(&self) -> bool {
        self.copy_in
    }

    /// Does it stream in both directions (replication)? Such a stream has no end of its own.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// The tracked parameters as the server has them.
    #[must_use]
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Notes that the server has been given these values, so that the next comparison is one of pointers.
    pub fn adopt_values(&mut self, values: Values) {
        self.values = values;
    }

    /// How many prepared statements of ours it has.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.window.len()
    }

    /// Must the client wait for replies before more of it is judged? Because its pipeline has grown too long, or because
    /// names and statements depend on whether something ahead of a Sync succeeded: what follows the Sync happens in any case,
    /// and could not be rewritten rightly. The server answers a Sync without being asked, so the wait has an end.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.owed.len() >= OWED_MAX || self.changes_before > 0
    }

    /// What happened since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    // What goes out to the server.

    /// A Query goes out; `swallow` if it is one of ours.
    pub fn sent_query(&mut self, swallow: bool) {
        self.put_query(swallow, false);
    }

    /// A Query of the client goes out; `forgets` if it may take statements away.
    pub(super) fn sent_client_query(&mut self, forgets: bool) {
        self.put_query(false, forgets);
    }

    fn put_query(&mut self, swallow: bool, forgets: bool) {
        // A Query ends a pipeline as a Sync does, but for the skipping after an error.
        self.unsynced = false;
        let forgets = forgets || std::mem::take(&mut self.forgets);
        self.owe(Owed::Query { swallow, forgets });
        if forgets {
            self.changes_before += std::mem::take(&mut self.changes_since);
        }
    }

    pub(super) fn sent_function_call(&mut self) {
        self.unsynced = false;
        self.owe(Owed::FunctionCall);
    }

    /// A Parse of a command that may take statements away went out.
    pub(super) fn sent_forgetting_parse(&mut self) {
        self.forgets = true;
    }

    pub(super) fn sent_duplicate_parse(&mut self, name: &[u8]) {
        self.sent_extended(Owed::Duplicate { name: name.into() });
    }

    pub(super) fn sent_parse(&mut self, statement: Option<&Arc<Statement>>, undo: Option<Undo>) {
        if let Some(statement) = statement {
            self.counts.parses += 1;
            self.window.insert(Arc::clone(statement));
        }
        let statement = statement.map(|s| s.id);
        self.sent_extended(Owed::Parse { statement, undo: undo.map(Box::new), swallow: false });
    }

    pub(super) fn sent_our_parse(&mut self, statement: &Arc<Statement>) {
        self.counts.parses += 1;
        self.window.insert(Arc::clone(statement));
        self.sent_extended(Owed::Parse { statement: Some(statement.id), undo: None, swallow: true });
    }

    /// A Close of a statement of ours goes out, evicted or about to be parsed anew.
    pub(super) fn sent_our_close(&mut self, evicted: Arc<Statement>) {
        self.window.remove(evicted.id);
        self.sent_extended(Owed::Close { swallow: true, evicted: Some(evicted) });
    }

    pub(super) fn sent_bind(&mut self, unknown: Option<&[u8]>) {
        self.sent_extended(Owed::Bind { unknown: unknown.map(Into::into) });
    }

    pub(super) fn sent_describe(&mut self, unknown: Option<&[u8]>) {
        self.sent_extended(Owed::Describe { unknown: unknown.map(Into::into) });
    }

    pub(super) fn sent_execute(&mut self) {
        self.sent_extended(Owed::Execute);
    }

    pub(super) fn sent_close(&mut self) {
        self.sent_extended(Owed::Close { swallow: false, evicted: None });
    }

    pub(super) fn sent_sync(&mut self) {
        self.unsynced = false;
        self.skipping = false;
        let forgets = std::mem::take(&mut self.forgets);
        self.owe(Owed::Sync { forgets });
        self.changes_before += std::mem::take(&mut self.changes_since);
    }

    pub(super) fn sent_copy_end(&mut self) {
        if !self.copy_in && !self.owed.is_empty() {
            self.owe(Owed::CopyEnd);
        }
        self.copy_in = false;
    }

    /// Does the server skip what is sent to it, all but Sync?
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    fn sent_extended(&mut self, owed: Owed) {
        self.unsynced = true;
        self.owe(owed);
    }

    fn owe(&mut self, owed: Owed) {
        self.readies += usize::from(owed.ends_with_ready());
        self.changes_since += usize::from(owed.changes_statements());
        self.owed.push_back(owed);
    }

    /// Brings the counts up to date after something was taken off the front of the ledger.
    fn settle(&mut self, owed: &Owed) {
        self.readies -= usize::from(owed.ends_with_ready());
        if owed.changes_statements() {
            self.settle_change();
        }
    }

    fn settle_change(&mut self) {
        let count = if self.changes_before > 0 { &mut self.changes_before } else { &mut self.changes_since };
        *count = count.saturating_sub(1);
    }

    // What we answer ourselves.

    pub(super) fn owe_parse_complete(&mut self, undo: Undo) {
        // The client's Sync will go to the server, so until then it is not free although nothing went out.
        self.sent_extended(Owed::OurParseComplete { undo: Box::new(undo) });
    }

    pub(super) fn owe_close_complete(&mut self, undo: Undo) {
        self.sent_extended(Owed::OurCloseComplete { undo: Box::new(undo) });
    }

    /// May we say ParseComplete for a statement that the server has? Not in a failed transaction, where the server would
    /// refuse most Parse messages, nor while it is unknown whether this is one.
    pub(super) fn may_answer_parse(&self) -> bool {
        self.readies == 0 && self.status != Status::Failed
    }

    pub(super) fn has_statement(&mut self, id: u64) -> bool {
        self.window.touch(id)
    }

    pub(super) fn evict(&mut self, max: usize) -> Option<Arc<Statement>> {
        self.window.evict(max)
    }

    /// What an error of the server would be about, if it is about a statement that the client knows by another name than the
    /// server, or that it does not have.
    #[must_use]
    pub fn misuse(&self) -> Option<Misuse> {
        let (kind, name) = match self.owed.front()? {
            Owed::Duplicate { name } => (MisuseKind::NameInUse, name),
            Owed::Bind { unknown: Some(name) } | Owed::Describe { unknown: Some(name) } => (MisuseKind::Unknown, name),
            _ => return None,
        };
        Some(Misuse::new(kind, name))
    }

    /// Is one of our own replies next in line?
    #[must_use]
    pub fn has_due_replies(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::OurParseComplete { .. } | Owed::OurCloseComplete { .. }))
    }

    /// Appends our own replies whose turn it is.
    pub fn put_due_replies(&mut self, to_client: &mut Vec<u8>) {
        loop {
            match self.owed.front() {
                Some(Owed::OurParseComplete { .. }) => to_client.extend_from_slice(reply::PARSE_COMPLETE),
                Some(Owed::OurCloseComplete { .. }) => to_client.extend_from_slice(reply::CLOSE_COMPLETE),
                _ => break,
            }
            self.advance();
        }
    }

    /// Takes the first owed reply off the ledger.
    fn advance(&mut self) -> Option<Owed> {
        let first = self.owed.pop_front();
        if let Some(first) = &first {
            self.settle(first);
        }
        self.drop_leading_copy_ends();
        first
    }

    fn drop_leading_copy_ends(&mut self) {
        while matches!(self.owed.front(), Some(Owed::CopyEnd)) {
            self.owed.pop_front();
        }
    }

    // What comes back.

    /// Judges a frame of the server. `body` is what has arrived of its body. `client` is whoever has the server; without one
    /// (our own queries) nothing may be forwarded anyway.
    pub fn on_frame(&mut self, head: Head, body: &[u8], client: Option<&mut ClientCore>) -> Verdict {
        match head.tag {
            b'D' | b'd' | b'c' | b'T' | b't' | b'n' | b'N' | b'A' | b'H' | b'V' => self.on_data(head.tag),
            b'C' => self.on_command_complete(head, body, client),
            b'I' | b's' => self.pop_execute(),
            b'Z' => self.on_ready(head, body),
            b'1' => self.on_parse_complete(),
            b'2' => self.pop(|o| matches!(o, Owed::Bind { .. }), "unexpected BindComplete"),
            b'3' => self.on_close_complete(),
            b'S' => self.on_parameter_status(head, body, client),
            b'E' => self.on_error(client),
            b'G' => self.on_copy_in(),
            b'W' => {
                self.streaming = true;
                self.on_copy_in()
            }
            _ => Verdict::Quarantine("unexpected message type from server"),
        }
    }

    fn swallowing(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::Query { swallow: true, .. }))
    }

    fn pass(&self) -> Verdict {
        if self.swallowing() { Verdict::Swallow } else { Verdict::Forward }
    }

    fn on_data(&mut self, tag: u8) -> Verdict {
        if self.owed.is_empty() && !matches!(tag, b'N' | b'A') {
            return Verdict::Quarantine("unasked-for data from server");
        }
        // RowDescription and NoData end the answer to Describe; ParameterDescription only precedes them.
        if matches!(tag, b'T' | b'n') && matches!(self.owed.front(), Some(Owed::Describe { .. })) {
            self.advance();
            return Verdict::Forward;
        }
        self.pass()
    }

    fn pop(&mut self, fits: impl FnOnce(&Owed) -> bool, otherwise: &'static str) -> Verdict {
        if self.owed.front().is_some_and(fits) {
            self.advance();
            Verdict::Forward
        } else {
            Verdict::Quarantine(otherwise)
        }
    }

    fn pop_execute(&mut self) -> Verdict {
        match self.owed.front() {
            Some(Owed::Execute) => {
                self.advance();
                Verdict::Forward
            }
            Some(Owed::Query { .. }) => self.pass(),
            _ => Verdict::Quarantine("unexpected end of a command"),
        }
    }

    fn on_parse_complete(&mut self) -> Verdict {
        match self.advance() {
            // What we think it has is no longer true.
            Some(Owed::Duplicate { .. }) => Verdict::Quarantine("prepared statements went away unseen"),
            Some(Owed::Parse { swallow: true, .. }) => Verdict::Swallow,
            Some(Owed::Parse { swallow: false, .. }) => Verdict::Forward,
            _ => Verdict::Quarantine("unexpected ParseComplete"),
        }
    }

    fn on_close_complete(&mut self) -> Verdict {
        match self.advance() {
            Some(Owed::Close { swallow: true, .. }) => Verdict::Swallow,
            Some(Owed::Close { swallow: false, .. }) => Verdict::Forward,
            _ => Verdict::Quarantine("unexpected CloseComplete"),
        }
    }

    fn on_command_complete(&mut self, head: Head, body: &[u8], client: Option<&mut ClientCore>) -> Verdict {
        const FORGETTING: [&[u8]; 2] = [b"DISCARD ALL\0", b"DEALLOCATE ALL\0"];
        if FORGETTING.iter().any(|tag| tag.len() == head.body_len()) {
            if body.len() < head.body_len() {
                return Verdict::NeedMore(head.total);
            }
            if FORGETTING.iter().any(|tag| body.starts_with(tag)) {
                self.forget_statements(client);
            }
        }
        // A copy that the server ended by itself.
        self.copy_in = false;
        self.streaming = false;
        self.pop_execute()
    }

    /// All prepared statements are gone, but for those whose Parse is still on its way; and what is skipped behind this does
    /// not bring them back.
    fn forget_statements(&mut self, client: Option<&mut ClientCore>) {
        let mut coming = HashSet::new();
        let mut changed: HashSet<Box<[u8]>> = HashSet::new();
        for owed in &mut self.owed {
            match owed {
                Owed::Parse { statement: Some(id), .. } => drop(coming.insert(*id)),
                Owed::Close { evicted, .. } if evicted.as_ref().is_some_and(|s| !coming.remove(&s.id)) => {
                    *evicted = None
                }
                _ => {}
            }
            if let Owed::Parse { undo: Some(undo), .. }
            | Owed::OurParseComplete { undo }
            | Owed::OurCloseComplete { undo } = owed
                && changed.insert(undo.name().into())
            {
                undo.forget();
            }
        }
        self.window.retain(|id| coming.contains(&id));
        if let Some(client) = client {
            client.names.retain(|name| changed.contains(name));
        }
    }

    fn on_copy_in(&mut self) -> Verdict {
        let extended = match self.owed.front_mut() {
            Some(Owed::Execute) => true,
            Some(Owed::Query { swallow: false, forgets }) => {
                // The rows must not wait for the query's end.
                if std::mem::take(forgets) {
                    self.settle_change();
                }
                false
            }
            _ => return Verdict::Quarantine("unexpected start of a copy"),
        };
        let end = self.owed.iter().position(|o| matches!(o, Owed::CopyEnd));
        self.copy_in = end.is_none();
        // Syncs that were sent ahead of the copy's end are read inside the copy, where they mean nothing.
        let outside = self.owed.split_off(end.map_or(self.owed.len(), |end| end + 1));
        for owed in std::mem::replace(&mut self.owed, outside).into_iter().rev() {
            match owed {
                Owed::CopyEnd => {}
                // The server, which never saw it, would have ended the session over it.
                Owed::OurParseComplete { .. } | Owed::OurCloseComplete { .. } => {
                    return Verdict::Quarantine("unexpected message during COPY from stdin");
                }
                Owed::Sync { forgets } => {
                    self.settle(&owed);
                    self.forgets |= forgets;
                }
                owed => self.owed.push_front(owed),
            }
        }
        // An Execute still needs a Sync that counts.
        self.unsynced |= extended && self.readies == 0;
        Verdict::Forward
    }

    fn on_parameter_status(&mut self, head: Head, body: &[u8], client: Option<&mut ClientCore>) -> Verdict {
        if head.total > PARAMETER_STATUS_LEN_MAX {
            return self.pass();
        }
        if body.len() < head.body_len() {
            return Verdict::NeedMore(head.total);
        }
        let body = body.get(..head.body_len()).unwrap_or_default();
        let Some((name, rest)) = cstr(body) else { return Verdict::Quarantine("malformed ParameterStatus") };
        let Some((value, _)) = cstr(rest) else { return Verdict::Quarantine("malformed ParameterStatus") };
        if let Some(index) = self.tracked.index(name) {
            self.values.set(index, value);
            if let Some(client) = client {
                client.values.set(index, value);
            }
        }
        self.pass()
    }

    fn on_error(&mut self, client: Option<&mut ClientCore>) -> Verdict {
        self.copy_in = false;
        self.streaming = false;
        match self.owed.front() {
            // Asynchronous: the server is about to go (PostgreSQL docs, "Asynchronous Operations").
            None | Some(Owed::Query { .. } | Owed::FunctionCall | Owed::Sync { .. }) => return self.pass(),
            Some(_) => {}
        }
        // The server skips everything up to the next Sync: none of it happened.
        let later = self.owed.iter().position(|o| matches!(o, Owed::Sync { .. })).unwrap_or(self.owed.len());
        let later = self.owed.split_off(later);
        let skipped = std::mem::replace(&mut self.owed, later);
        let mut names = client.map(|c| &mut c.names);
        for owed in skipped.into_iter().rev() {
            self.settle(&owed);
            match owed {
                Owed::Parse { statement, undo, .. } => {
                    if let Some(id) = statement {
                        self.window.remove(id);
                    }
                    if let (Some(undo), Some(names)) = (undo, names.as_deref_mut()) {
                        names.undo(*undo);
                    }
                }
                Owed::OurParseComplete { undo, .. } | Owed::OurCloseComplete { undo } => {
                    if let Some(names) = names.as_deref_mut() {
                        names.undo(*undo);
                    }
                }
                Owed::Close { evicted: Some(statement), .. } => self.window.insert(statement),
                _ => {}
            }
        }
        self.skipping = self.owed.is_empty();
        Verdict::Forward
    }

    fn on_ready(&mut self, head: Head, body: &[u8]) -> Verdict {
        if head.body_len() != 1 {
            return Verdict::Quarantine("malformed ReadyForQuery");
        }
        let Some(&state) = body.first() else { return Verdict::NeedMore(head.total) };
        let status = match state {
            b'I' => Status::Idle,
            b'T' => Status::Transaction,
            b'E' => Status::Failed,
            _ => return Verdict::Quarantine("ReadyForQuery with an unknown state"),
        };
        let swallow = match self.advance() {
            Some(Owed::Query { swallow, .. }) => swallow,
            Some(Owed::Sync { .. } | Owed::FunctionCall) => false,
            _ => return Verdict::Quarantine("unexpected ReadyForQuery"),
        };
        self.status = status;
        self.copy_in = false;
        if swallow {
            return Verdict::SwallowReady;
        }
        self.counts.queries += 1;
        if status == Status::Idle {
            self.counts.transactions += 1;
        }
        Verdict::ForwardReady
    }
}
