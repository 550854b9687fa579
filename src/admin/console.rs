//! The protocol machine of one console client.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;
use jiff::tz::TimeZone;
use pgwire::messages::extendedquery::PortalSuspended;
use pgwire::messages::response::EmptyQueryResponse;

use super::access::Rights;
use super::action::{Action, ActionResult, ShutdownMode};
use super::extended::{Extended, Portal, Statement, Wish};
use super::grammar::{Command, MAX_QUERY_BYTES, TransactionWord};
use super::reply::{self, Formats};
use super::show::{self, Column, Item, Type};
use super::sql::{Answer, Ask, Job};
use crate::fault::{Culprit, Fault, Severity};
use crate::snapshot::Snapshot;

/// Answers to a pipeline are sent at the latest when they are as large as this.
const FLUSH_BYTES: usize = 8 * 1024;

/// What comes of a frame, or of a finished action.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    /// Send this first: whole messages, perhaps none.
    pub reply: BytesMut,
    /// Errors that are in the reply, for the log.
    pub errors: Vec<Fault>,
    /// A query was run: count one query and one transaction in the console's statistics (before a snapshot is taken:
    /// the running query counts).
    pub ran_query: bool,
    /// Then do this.
    pub then: Then,
}

/// What to do after sending.
#[derive(Debug, PartialEq, Eq)]
pub enum Then {
    /// Wait for the next frame.
    Read,
    /// Do this and call [`Console::finish`]. Until then, feed no frame. [`Action::verdict`] tells whether it may start.
    Act(Action),
    /// Close the connection, for this reason (`closing because: …`).
    Close(Cow<'static, str>),
}

/// One console client.
#[derive(Debug)]
pub struct Console {
    rights: Rights,
    zone: TimeZone,
    /// Answers not yet sent.
    out: BytesMut,
    errors: Vec<Fault>,
    extended: Extended,
    /// After an error in the extended protocol everything up to the next Sync is ignored.
    skip_to_sync: bool,
    pending: Option<Pending>,
}

/// An action under way.
#[derive(Debug)]
struct Pending {
    action: Action,
    run: Run,
}

/// How a command is run: by a simple query, or by Execute of a portal. For SQL also what comes before.
#[derive(Debug)]
enum Run {
    Simple,
    Portal {
        name: Box<[u8]>,
        formats: Formats,
        max_rows: usize,
    },
    /// Parse of this statement.
    Prepare(Box<[u8]>),
    /// Describe of this statement.
    DescribeStatement(Box<[u8]>),
    /// Describe of this portal.
    DescribePortal(Box<[u8]>),
}

impl Run {
    fn formats(&self) -> &Formats {
        match self {
            Self::Portal { formats, .. } => formats,
            _ => &Formats::TEXT,
        }
    }
}

/// What the frame handlers tell the driver loop.
enum Next {
    /// Read on, keep the answers until the client wants them.
    Read,
    /// Send the answers now and read on.
    Flush,
    Act(Action),
}

impl Console {
    /// A console for a client with these rights. Times of day are shown in `zone`.
    #[must_use]
    pub fn new(rights: Rights, zone: TimeZone) -> Self {
        Self {
            rights,
            zone,
            out: BytesMut::new(),
            errors: Vec::new(),
            extended: Extended::default(),
            skip_to_sync: false,
            pending: None,
        }
    }

    /// The client's rights.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// The action under way, if any: a cancel request ends it with [`ActionResult::Cancelled`].
    #[must_use]
    pub fn pending(&self) -> Option<&Action> {
        self.pending.as_ref().map(|pending| &pending.action)
    }

    /// Takes a frame: its tag and its body without the length. The driver refuses frames longer than
    /// [`MAX_FRAME_BYTES`](super::MAX_FRAME_BYTES) with [`Self::oversized`] instead of buffering them.
    pub fn on_frame(&mut self, tag: u8, body: &[u8]) -> Turn {
        if self.pending.is_some() {
            return self.fatal("message while a command is under way");
        }
        let mut ran_query = false;
        let next = match tag {
            b'X' => return self.turn(false, Then::Close(Cow::Borrowed("close req"))),
            b'S' => Ok(self.sync()),
            _ if self.skip_to_sync => Ok(Next::Read),
            b'Q' => {
                let Some(query) = body.split(|b| *b == 0).next().filter(|query| query.len() < body.len()) else {
                    return self.fatal("incomplete query");
                };
                ran_query = true;
                Ok(self.simple_query(query))
            }
            b'H' => Ok(Next::Flush),
            b'E' => self.execute(body, &mut ran_query),
            b'P' | b'B' | b'D' | b'C' => {
                let wish = self.extended.on_frame(tag, body, &mut self.out);
                wish.map(|wish| wish.map_or(Next::Read, |wish| self.grant(wish)))
            }
            other => return self.unsupported(other),
        };
        match next {
            Ok(Next::Act(action)) => self.turn(ran_query, Then::Act(action)),
            Ok(Next::Flush) => self.turn(ran_query, Then::Read),
            Ok(Next::Read) if self.out.len() >= FLUSH_BYTES => self.turn(ran_query, Then::Read),
            Ok(Next::Read) => Turn { reply: BytesMut::new(), errors: Vec::new(), ran_query, then: Then::Read },
            Err(fault) => {
                self.extended_error(fault);
                self.turn(ran_query, Then::Read)
            }
        }
    }

    /// The answer to a frame that is too long to be taken in.
    pub fn oversized(&mut self) -> Turn {
        self.fatal("message too long for the admin console")
    }

    /// Takes the result of the action that the last turn asked for.
    pub fn finish(&mut self, result: ActionResult) -> Turn {
        let Some(Pending { action, run }) = self.pending.take() else { return self.turn(false, Then::Read) };
        if action == Action::Shutdown(ShutdownMode::Now) && matches!(result, ActionResult::Done) {
            return self.turn(false, Then::Read);
        }
        let outcome = match result {
            ActionResult::Done => self.done(&action),
            ActionResult::DoneWithNotice(text) => {
                reply::notice(&mut self.out, &text, None);
                self.done(&action)
            }
            ActionResult::Snapshot(snapshot) => self.show(&action, &run, &snapshot),
            ActionResult::Sql(answer) => self.sql(&action, &run, answer),
            ActionResult::Refused(refusal) => Err(action.refuse(refusal)),
            ActionResult::Cancelled => Err(cancelled()),
            ActionResult::Failed(fault) => Err(fault),
        };
        let fatal = outcome.as_ref().err().filter(|fault| fault.severity == Severity::Fatal).cloned();
        if let Some(fault) = fatal {
            self.say_error(fault.clone());
            return self.turn(false, Then::Close(fault.text));
        }
        match (run, outcome) {
            (Run::Simple, outcome) => {
                if let Err(fault) = outcome {
                    self.say_error(fault);
                }
                reply::ready(&mut self.out);
            }
            (_, Ok(())) if self.out.len() < FLUSH_BYTES => {
                return Turn { reply: BytesMut::new(), errors: Vec::new(), ran_query: false, then: Then::Read };
            }
            (_, Ok(())) => {}
            (_, Err(fault)) => self.extended_error(fault),
        }
        self.turn(false, Then::Read)
    }

    fn turn(&mut self, ran_query: bool, then: Then) -> Turn {
        Turn { reply: self.out.split(), errors: std::mem::take(&mut self.errors), ran_query, then }
    }

    fn say_error(&mut self, fault: Fault) {
        reply::error(&mut self.out, &fault);
        self.errors.push(fault);
    }

    fn extended_error(&mut self, fault: Fault) {
        self.say_error(fault);
        self.skip_to_sync = true;
    }

    fn fatal(&mut self, reason: &'static str) -> Turn {
        self.say_error(Fault::fatal(Culprit::Client, reason));
        self.turn(false, Then::Close(Cow::Borrowed(reason)))
    }

    /// A message that makes no sense here, such as COPY data: PgBouncer says so twice and hangs up.
    fn unsupported(&mut self, tag: u8) -> Turn {
        let text = format!("unsupported packet type for admin console: {tag}");
        self.say_error(Fault::error(Culprit::Client, text));
        reply::ready(&mut self.out);
        self.fatal("bad packet")
    }

    fn sync(&mut self) -> Next {
        self.skip_to_sync = false;
        self.extended.sync();
        reply::ready(&mut self.out);
        Next::Flush
    }

    fn simple_query(&mut self, query: &[u8]) -> Next {
        self.extended.sync();
        let started = parse(query).and_then(|command| self.start(command, Run::Simple));
        match started {
            Ok(Some(action)) => return Next::Act(action),
            Ok(None) => {}
            Err(fault) => self.say_error(fault),
        }
        reply::ready(&mut self.out);
        Next::Flush
    }

    fn execute(&mut self, body: &[u8], ran_query: &mut bool) -> Result<Next, Fault> {
        let (name, max_rows) = Extended::execute_fields(body)?;
        if let Some(sent) = self.extended.resume(name, max_rows, &mut self.out) {
            *ran_query = sent.first;
            match (sent.more, sent.sql) {
                (true, _) => reply::put(&mut self.out, &PortalSuspended::new()),
                (false, true) => reply::complete(&mut self.out, &format!("SELECT {}", sent.rows)),
                (false, false) => reply::complete(&mut self.out, "SHOW"),
            }
            return Ok(Next::Read);
        }
        let Portal { statement, params, types, formats, .. } = self.extended.portal(name)?.clone();
        let run = Run::Portal { name: name.into(), formats: formats.clone(), max_rows };
        let command = match statement {
            Statement::Empty => {
                reply::put(&mut self.out, &EmptyQueryResponse::new());
                return Ok(Next::Read);
            }
            Statement::Command(command) => command,
            Statement::Sql(prepared) => {
                *ran_query = true;
                let types = types.or_else(|| prepared.types().map(<[Type]>::to_vec));
                return Ok(self.ask(prepared.text.clone(), Ask::Run { params, types, formats }, run));
            }
        };
        *ran_query = true;
        let started = self.start(command, run)?;
        Ok(started.map_or(Next::Read, Next::Act))
    }

    /// Has the engine do what a frame about SQL needs of it.
    fn grant(&mut self, wish: Wish) -> Next {
        match wish {
            Wish::Prepare { statement, text, given } => self.ask(text, Ask::Parse(given), Run::Prepare(statement)),
            Wish::DescribeStatement { statement, text, params } => {
                self.ask(text, Ask::Describe(params), Run::DescribeStatement(statement))
            }
            Wish::DescribePortal { portal, text, params, formats } => {
                self.ask(text, Ask::Run { params, types: None, formats }, Run::DescribePortal(portal))
            }
        }
    }

    fn ask(&mut self, text: Arc<str>, ask: Ask, run: Run) -> Next {
        let action = Action::Sql(Box::new(Job { text, rights: self.rights, ask }));
        self.pending = Some(Pending { action: action.clone(), run });
        Next::Act(action)
    }

    /// Answers what needs nobody else (all but ReadyForQuery), or gives the action to do.
    fn start(&mut self, command: Command, run: Run) -> Result<Option<Action>, Fault> {
        match command {
            Command::Show(Item::Help) => {
                reply::help(&mut self.out);
                reply::complete(&mut self.out, "SHOW");
            }
            Command::ShowFake(param) => {
                let columns = columns(&command);
                if matches!(run, Run::Simple) {
                    reply::row_description(&mut self.out, &columns, run.formats());
                }
                reply::data_row(&mut self.out, &columns, run.formats(), &vec![param.value.into()])?;
                reply::complete(&mut self.out, "SHOW");
            }
            Command::SetIgnored => {
                reply::notice(&mut self.out, "SET ignored", None);
                reply::complete(&mut self.out, "SET");
            }
            Command::Transaction(word) => {
                if matches!(word, TransactionWord::Commit | TransactionWord::Rollback) {
                    self.extended.end_of_transaction();
                }
                reply::notice(&mut self.out, &format!("{} ignored", word.tag()), None);
                reply::complete(&mut self.out, word.tag());
            }
            Command::Deallocate(name) => {
                let all = name.is_none();
                self.extended.deallocate(name.as_deref())?;
                reply::complete(&mut self.out, if all { "DEALLOCATE ALL" } else { "DEALLOCATE" });
            }
            Command::DiscardAll => {
                self.extended.deallocate(None)?;
                reply::complete(&mut self.out, "DISCARD ALL");
            }
            Command::ResetSession => reply::complete(&mut self.out, "RESET"),
            acting => {
                let action = Action::admit(acting, self.rights)?;
                self.pending = Some(Pending { action: action.clone(), run });
                return Ok(Some(action));
            }
        }
        Ok(None)
    }

    fn done(&mut self, action: &Action) -> Result<(), Fault> {
        if matches!(action, Action::Show { .. } | Action::Sql(_)) {
            return Err(Fault::error(Culprit::Us, "SHOW was given nothing to show").with_sqlstate("XX000"));
        }
        reply::complete(&mut self.out, &action.tag());
        Ok(())
    }

    /// What the engine says of SQL.
    fn sql(&mut self, action: &Action, run: &Run, answer: Answer) -> Result<(), Fault> {
        match (run, action, answer) {
            (Run::Prepare(name), Action::Sql(job), Answer::Parsed { params, columns }) => {
                self.extended.prepared(name, &job.text, params, columns, &mut self.out);
                Ok(())
            }
            (Run::DescribeStatement(name), _, Answer::Described(columns)) => {
                self.extended.described(name, &columns, &mut self.out)
            }
            (Run::DescribePortal(name), _, Answer::Rows { columns, data, .. }) => {
                self.extended.ran(name, &columns, data, &mut self.out)
            }
            (Run::Simple, _, Answer::Rows { columns, count, data }) => {
                reply::row_description(&mut self.out, &columns, &Formats::TEXT);
                self.out.unsplit(data);
                reply::complete(&mut self.out, &format!("SELECT {count}"));
                Ok(())
            }
            (Run::Portal { max_rows, .. }, _, Answer::Rows { count, data, .. }) if *max_rows >= count => {
                self.out.unsplit(data);
                reply::complete(&mut self.out, &format!("SELECT {count}"));
                Ok(())
            }
            (Run::Portal { name, max_rows, .. }, _, Answer::Rows { data, .. }) => {
                self.extended.suspend(name, data, true);
                self.extended.resume(name, *max_rows, &mut self.out);
                reply::put(&mut self.out, &PortalSuspended::new());
                Ok(())
            }
            _ => Err(Fault::error(Culprit::Us, "the answer to another question").with_sqlstate("XX000")),
        }
    }

    fn show(&mut self, action: &Action, run: &Run, snapshot: &Snapshot) -> Result<(), Fault> {
        let Action::Show { item, .. } = action else { return self.done(action) };
        let show::Table { columns, mut rows } = show::table(*item, snapshot, &self.zone);
        match run {
            Run::Portal { name, formats, max_rows } => {
                for row in rows.by_ref().take(*max_rows) {
                    reply::data_row(&mut self.out, columns, formats, &row)?;
                }
                let mut rest = BytesMut::new();
                for row in rows {
                    reply::data_row(&mut rest, columns, formats, &row)?;
                }
                if !rest.is_empty() {
                    self.extended.suspend(name, rest, false);
                    reply::put(&mut self.out, &PortalSuspended::new());
                    return Ok(());
                }
            }
            _ => {
                reply::row_description(&mut self.out, columns, &Formats::TEXT);
                for row in rows {
                    reply::data_row(&mut self.out, columns, &Formats::TEXT, &row)?;
                }
            }
        }
        if let Some(remark) = show::remark(*item, snapshot) {
            reply::notice(&mut self.out, remark, None);
        }
        reply::complete(&mut self.out, "SHOW");
        Ok(())
    }
}

/// Reads a query of bounded length.
pub(super) fn parse(query: &[u8]) -> Result<Command, Fault> {
    if query.len() > MAX_QUERY_BYTES {
        let text = format!("query too long for the admin console (more than {MAX_QUERY_BYTES} bytes)");
        return Err(Fault::error(Culprit::Client, text).with_sqlstate("54000"));
    }
    Command::parse(query)
}

/// The columns of the command's answer; none if it answers with a tag alone.
pub(super) fn columns(command: &Command) -> Cow<'static, [Column]> {
    match command {
        Command::Show(item) => Cow::Borrowed(item.columns()),
        Command::ShowFake(param) => Cow::Owned(vec![Column { name: Cow::Borrowed(param.name), ty: Type::Text }]),
        _ => Cow::Borrowed(&[]),
    }
}

fn cancelled() -> Fault {
    Fault::error(Culprit::Client, "canceling statement due to user request").with_sqlstate("57014")
}
