//! What each frame of a client means for the server that it has, or must get: forward, rewrite a statement's name, answer
//! ourselves, swallow, or end the session.
//!
//! Better than PgBouncer on purpose: a Parse under a name in use becomes the server's own error (42P05) inside the client's
//! transaction, where PgBouncer closes the connection. So does a Bind or Describe of an unknown statement (26000) if the
//! setting `unknown_prepared_statement` says so.

use std::sync::Arc;

use super::misuse;
use super::params::Values;
use super::server::ServerCore;
use crate::fault::{Culprit, Fault};
use crate::prepared::{Names, SERVER_NAME_PREFIX, Statement};
use crate::wire::extended::{self, Target};
use crate::wire::frame::{HEAD_LEN, Head};
use crate::wire::reply;

/// What must be done with a frame of the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Read on until this many bytes of the frame are there, then ask again.
    NeedMore(usize),
    /// To the server as it is.
    Forward,
    /// Instead of the first so many bytes of the frame the server gets what was appended for it; the rest follows as it is.
    Rewritten(usize),
    /// Nothing of it to the server but what was appended; the client gets what was appended for it.
    Consumed,
    /// A server is needed first; ask again with one.
    NeedServer,
    /// The client takes its leave.
    Terminate,
    /// The session ends with this.
    Fatal(Fault),
}

/// The largest Parse of a named statement that is tracked, in bytes.
pub const TRACKED_PARSE_LEN_MAX: usize = 16 * 1024 * 1024;

/// The most bytes that the names in a Bind, Describe or Close may take.
pub const NAMES_LEN_MAX: usize = 256 * 1024;

/// The core of one client.
#[derive(Debug)]
pub struct ClientCore {
    /// Its prepared statements.
    pub names: Names,
    /// Its tracked parameters.
    pub values: Values,
}

/// Where verdicts leave their bytes, and the settings that they depend on.
pub struct Turn<'a> {
    /// Gets bytes for the server.
    pub to_server: &'a mut Vec<u8>,
    /// Gets bytes for the client, to stand behind everything that the server has sent so far.
    pub to_client: &'a mut Vec<u8>,
    /// Statements that a server may have (PgBouncer setting max_prepared_statements); 0: names pass untouched.
    pub statements_max: usize,
    /// A Bind or Describe of an unknown statement ends the session (setting `unknown_prepared_statement`).
    pub unknown_name_ends: bool,
    /// Makes a definition the shared statement that it is.
    pub intern: &'a dyn Fn(&[u8]) -> Arc<Statement>,
}

impl ClientCore {
    /// A client after its login.
    #[must_use]
    pub fn new(values: Values) -> Self {
        Self { names: Names::default(), values }
    }

    /// Judges a frame. `body` is what has arrived of its body. `server` is the one that the client has, if any.
    pub fn on_frame(
        &mut self,
        head: Head,
        body: &[u8],
        server: Option<&mut ServerCore>,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        let body = body.get(..body.len().min(head.body_len())).unwrap_or_default();
        let Some(server) = server else { return self.without_server(head, body, turn) };
        if head.tag == b'X' {
            return Verdict::Terminate;
        }
        if server.is_skipping() && head.tag != b'S' {
            return Verdict::Consumed;
        }
        if server.in_copy_in() {
            return Self::in_copy(head, server);
        }
        if let Some(verdict) = need_more(head, body, turn.statements_max) {
            return verdict;
        }
        match head.tag {
            b'Q' => {
                server.sent_client_query(turn.statements_max > 0 && forgets(body));
                Verdict::Forward
            }
            b'P' => self.on_parse(head, body, server, turn),
            b'B' => self.on_bind(head, body, server, turn),
            b'D' => self.on_describe(head, body, server, turn),
            b'C' => self.on_close(body, server, turn),
            b'E' => {
                server.sent_execute();
                Verdict::Forward
            }
            b'S' => {
                server.sent_sync();
                Verdict::Forward
            }
            b'F' => {
                server.sent_function_call();
                Verdict::Forward
            }
            b'H' | b'd' => Verdict::Forward,
            b'c' | b'f' => {
                server.sent_copy_end();
                Verdict::Forward
            }
            tag => unknown(tag),
        }
    }

    /// Frames that mean nothing, or that we can answer, while no transaction is open.
    fn without_server(&mut self, head: Head, body: &[u8], turn: &mut Turn<'_>) -> Verdict {
        match head.tag {
            b'X' => Verdict::Terminate,
            b'S' => {
                turn.to_client.extend_from_slice(reply::READY_IDLE);
                Verdict::Consumed
            }
            // The rest of a copy whose error the client had not seen yet (PostgreSQL docs, "COPY Operations"), or a Flush of
            // nothing.
            b'H' | b'd' | b'c' | b'f' => Verdict::Consumed,
            b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'F' => {
                // Before a server is asked for: it would have nothing to do, be free, and be given back at once.
                if let Some(verdict) = need_more(head, body, turn.statements_max) {
                    return verdict;
                }
                if head.tag == b'C'
                    && turn.statements_max > 0
                    && let Some(Target::Statement(name)) = extended::target(body)
                    && !name.is_empty()
                {
                    self.names.remove(name);
                    turn.to_client.extend_from_slice(reply::CLOSE_COMPLETE);
                    return Verdict::Consumed;
                }
                Verdict::NeedServer
            }
            tag => unknown(tag),
        }
    }

    fn in_copy(head: Head, server: &mut ServerCore) -> Verdict {
        match head.tag {
            b'd' => Verdict::Forward,
            b'c' | b'f' => {
                server.sent_copy_end();
                Verdict::Forward
            }
            b'S' | b'H' => Verdict::Consumed,
            tag => Verdict::Fatal(Fault::fatal(
                Culprit::Client,
                format!("unexpected message type 0x{tag:02X} during COPY from stdin"),
            )),
        }
    }

    fn on_parse(&mut self, head: Head, body: &[u8], server: &mut ServerCore, turn: &mut Turn<'_>) -> Verdict {
        if turn.statements_max == 0 || body.first() == Some(&0) {
            if turn.statements_max > 0 && body.get(1..).is_some_and(forgets) {
                server.sent_forgetting_parse();
            }
            server.sent_parse(None, None);
            return Verdict::Forward;
        }
        let Some(parse) = extended::parse(body) else { return malformed("Parse") };
        if self.names.is_full_for(parse.definition.len()) {
            return Verdict::Fatal(Fault::fatal(Culprit::Client, "too many prepared statements in one session"));
        }
        let statement = (turn.intern)(parse.definition);
        if self.names.get(parse.name).is_some() {
            // The server must see a name twice to refuse it; the error is then inside the client's own transaction. It sees
            // that of the new statement, since a server's name must never stand for anything but its own definition.
            ensure(&statement, server, turn);
            extended::put_parse(turn.to_server, &statement.server_name, &statement.definition);
            server.sent_duplicate_parse(parse.name);
            return Verdict::Rewritten(head.total);
        }
        let undo = self.names.insert(parse.name, Arc::clone(&statement));
        if !server.has_statement(statement.id) {
            make_room(server, turn);
        } else if server.may_answer_parse() {
            server.owe_parse_complete(undo);
            server.put_due_replies(turn.to_client);
            return Verdict::Consumed;
        } else {
            // The server itself must say whether it takes the Parse, so it gets it, in place of the one that it has.
            close_ours(Arc::clone(&statement), server, turn);
        }
        extended::put_parse(turn.to_server, &statement.server_name, &statement.definition);
        server.sent_parse(Some(&statement), Some(undo));
        Verdict::Rewritten(head.total)
    }

    fn on_bind(&mut self, head: Head, body: &[u8], server: &mut ServerCore, turn: &mut Turn<'_>) -> Verdict {
        if turn.statements_max == 0 {
            server.sent_bind(None);
            return Verdict::Forward;
        }
        let Some(names) = extended::bind_names(body) else { return malformed("Bind") };
        if names.statement.is_empty() {
            server.sent_bind(None);
            return Verdict::Forward;
        }
        let unknown = self.names.get(names.statement).is_none().then_some(names.statement);
        if unknown.is_some() && turn.unknown_name_ends {
            return Verdict::Fatal(Fault::fatal(Culprit::Client, misuse::UNKNOWN));
        }
        let target = self.server_name(names.statement, server, turn);
        extended::put_bind_front(turn.to_server, names.portal, &target, head.body_len() - names.len);
        server.sent_bind(unknown);
        Verdict::Rewritten(head.total - head.body_len() + names.len)
    }

    fn on_describe(&mut self, head: Head, body: &[u8], server: &mut ServerCore, turn: &mut Turn<'_>) -> Verdict {
        match extended::target(body) {
            Some(Target::Statement(name)) if !name.is_empty() && turn.statements_max > 0 => {
                let unknown = self.names.get(name).is_none().then_some(name);
                if unknown.is_some() && turn.unknown_name_ends {
                    return Verdict::Fatal(Fault::fatal(Culprit::Client, misuse::UNKNOWN));
                }
                let target = self.server_name(name, server, turn);
                extended::put_statement_target(turn.to_server, b'D', &target);
                server.sent_describe(unknown);
                Verdict::Rewritten(head.total)
            }
            Some(_) => {
                server.sent_describe(None);
                Verdict::Forward
            }
            None => malformed("Describe"),
        }
    }

    fn on_close(&mut self, body: &[u8], server: &mut ServerCore, turn: &mut Turn<'_>) -> Verdict {
        match extended::target(body) {
            Some(Target::Statement(name)) if !name.is_empty() && turn.statements_max > 0 => {
                let undo = self.names.remove(name);
                server.owe_close_complete(undo);
                server.put_due_replies(turn.to_client);
                Verdict::Consumed
            }
            Some(_) => {
                server.sent_close();
                Verdict::Forward
            }
            None => malformed("Close"),
        }
    }

    /// The name by which the server knows the client's statement, prepared there first if need be.
    fn server_name(&mut self, name: &[u8], server: &mut ServerCore, turn: &mut Turn<'_>) -> Box<[u8]> {
        if let Some(known) = self.names.get(name).cloned() {
            ensure(&known, server, turn);
            return known.server_name.clone();
        }
        // Unknown: the server says so in its own words. A name that could be one of ours must not reach it.
        if name.starts_with(SERVER_NAME_PREFIX.as_bytes()) { [b"unknown ", name].concat().into() } else { name.into() }
    }
}

/// Sees to it that the server will have the statement.
fn ensure(statement: &Arc<Statement>, server: &mut ServerCore, turn: &mut Turn<'_>) {
    if server.has_statement(statement.id) {
        return;
    }
    make_room(server, turn);
    extended::put_parse(turn.to_server, &statement.server_name, &statement.definition);
    server.sent_our_parse(statement);
}

/// Lets the server forget statements until one more fits.
fn make_room(server: &mut ServerCore, turn: &mut Turn<'_>) {
    while let Some(evicted) = server.evict(turn.statements_max) {
        close_ours(evicted, server, turn);
    }
}

fn close_ours(statement: Arc<Statement>, server: &mut ServerCore, turn: &mut Turn<'_>) {
    extended::put_statement_target(turn.to_server, b'C', &statement.server_name);
    server.sent_our_close(statement);
}

/// Bytes at the front of a Query or of an unnamed Parse that tell whether it [`forgets`].
const COMMAND_LEN: usize = 32;

/// Does this SQL begin with a command that may take all statements away (DISCARD ALL, DEALLOCATE ALL)? What the client sends
/// behind it must wait until that is known. Where it stands behind other commands it is noticed only when the server has run
/// it, which matters to nobody but a client that prepares on without waiting.
fn forgets(sql: &[u8]) -> bool {
    let sql = sql.trim_ascii_start();
    [&b"DISCARD"[..], b"DEALLOCATE"].iter().any(|c| sql.get(..c.len()).is_some_and(|s| s.eq_ignore_ascii_case(c)))
}

/// How much more of a frame must be there before it can be judged; `None` if enough is. Knows no server: what a server is
/// asked for must not depend on it.
fn need_more(head: Head, body: &[u8], statements_max: usize) -> Option<Verdict> {
    if body.len() >= head.body_len() {
        return None;
    }
    let front = |len: usize| {
        let len = len.min(head.body_len());
        (body.len() < len).then_some(Verdict::NeedMore(HEAD_LEN + len))
    };
    match head.tag {
        b'Q' if statements_max > 0 => front(COMMAND_LEN),
        b'P' if statements_max > 0 => match body.first() {
            None => front(1),
            Some(0) => front(1 + COMMAND_LEN),
            Some(_) => Some(need_whole(head, TRACKED_PARSE_LEN_MAX)),
        },
        b'B' if statements_max > 0 && extended::bind_names(body).is_none() => Some(need_step(head, body)),
        b'D' | b'C' => Some(need_whole(head, NAMES_LEN_MAX)),
        _ => None,
    }
}

fn need_whole(head: Head, len_max: usize) -> Verdict {
    if head.total <= len_max {
        return Verdict::NeedMore(head.total);
    }
    Verdict::Fatal(Fault::fatal(
        Culprit::Client,
        format!("message of {} bytes is too large to track a prepared statement (at most {len_max})", head.total),
    ))
}

/// Wants more of the front of a long message whose names are not complete yet.
fn need_step(head: Head, body: &[u8]) -> Verdict {
    let have = body.len();
    if have >= NAMES_LEN_MAX {
        return Verdict::Fatal(Fault::fatal(Culprit::Client, "statement or portal name is too long"));
    }
    Verdict::NeedMore(head.total.min((have * 2).max(1024)))
}

fn malformed(what: &str) -> Verdict {
    Verdict::Fatal(Fault::fatal(Culprit::Client, format!("malformed {what} message")))
}

fn unknown(tag: u8) -> Verdict {
    Verdict::Fatal(Fault::fatal(Culprit::Client, format!("unknown message type 0x{tag:02x}")))
}
