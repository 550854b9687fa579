//! A model of one PostgreSQL backend: bytes in, bytes out. It follows the PostgreSQL docs ("Message Flow", "Extended Query",
//! "COPY Operations", "Pipelining") and knows a toy SQL:
//!
//! | text | effect |
//! |---|---|
//! | `BEGIN` `COMMIT` `ROLLBACK` | as they say |
//! | `ROWS n` | n rows, each with the text in it |
//! | `BIG n` | one row of n bytes, described by a RowDescription as large |
//! | `ECHO` | one row: what Bind carried behind its names |
//! | `INSERT x` | x, committed with the transaction |
//! | `FAIL` `SYNTAX` `DEFER` | an error when run, when parsed, when the transaction commits |
//! | `NOTICE` | a notice |
//! | `SET application_name='x'`, `SHOW` | the one parameter |
//! | `COPYIN` `COPYOUT n` | rows in; a row `bad` is an error at once, `late` at the end; n rows out |
//! | `DISCARD ALL`, `DEALLOCATE ALL` | as they say |
//!
//! Error texts carry no statement names. The unnamed statement does not outlive a ReadyForQuery outside a transaction: that
//! is what transaction pooling promises, and it makes a direct session comparable.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::wire::frame::{self, HEAD_LEN, put, put_cstr};

/// What was committed, in order, by all backends of a world.
pub(super) type Log = Rc<RefCell<Vec<String>>>;

pub(super) const PARAMETER: &str = "application_name";
pub(super) const PARAMETER_DEFAULT: &str = "initial";

/// Stands in every asynchronous message, so that they can be told from replies.
pub(super) const NOISE: &[u8] = b"<noise>";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    None,
    Open,
    Failed,
}

#[derive(Debug)]
struct Portal {
    text: String,
    params: Vec<u8>,
    at: usize,
    done: bool,
}

#[derive(Debug)]
struct Copy {
    extended: bool,
    rows: Vec<String>,
    /// What is left of a simple Query behind the COPY.
    rest: VecDeque<String>,
}

#[derive(Debug)]
pub(super) struct Backend {
    input: Vec<u8>,
    /// Written but not flushed.
    buffered: Vec<u8>,
    /// On the wire to whoever talks to us.
    pub(super) output: VecDeque<u8>,
    /// Every byte that was ever received.
    pub(super) received: Vec<u8>,
    /// An extended-protocol message came since the last ReadyForQuery.
    implicit: bool,
    statements: BTreeMap<Vec<u8>, String>,
    portals: BTreeMap<Vec<u8>, Portal>,
    block: Block,
    skip: bool,
    copy: Option<Copy>,
    pending: Vec<String>,
    deferred_error: bool,
    parameter: String,
    committed_parameter: String,
    reported_parameter: String,
    pub(super) dead: bool,
    log: Log,
}

type Failure = &'static str;

impl Backend {
    pub(super) fn new(log: &Log) -> Self {
        Self {
            input: Vec::new(),
            buffered: Vec::new(),
            output: VecDeque::new(),
            received: Vec::new(),
            implicit: false,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            block: Block::None,
            skip: false,
            copy: None,
            pending: Vec::new(),
            deferred_error: false,
            parameter: PARAMETER_DEFAULT.into(),
            committed_parameter: PARAMETER_DEFAULT.into(),
            reported_parameter: PARAMETER_DEFAULT.into(),
            dead: false,
            log: Rc::clone(log),
        }
    }

    /// Takes bytes as they come.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        self.input.extend_from_slice(bytes);
        let mut at = 0;
        while !self.dead {
            let Ok(head) = frame::head(&self.input[at..]) else {
                self.dead = true;
                break;
            };
            let Some(head) = head else { break };
            if self.input.len() < at + head.total {
                break;
            }
            let body = self.input[at + HEAD_LEN..at + head.total].to_vec();
            at += head.total;
            self.frame(head.tag, &body);
        }
        self.input.drain(..at);
        // The buffer of a real backend is flushed when it is full.
        if self.buffered.len() > 8192 {
            self.flush();
        }
    }

    /// Says something that nobody asked for.
    pub(super) fn make_noise(&mut self, kind: usize) {
        if self.dead {
            return;
        }
        match kind % 3 {
            0 => put(&mut self.buffered, b'N', |o| {
                o.extend_from_slice(b"SNOTICE\0M");
                put_cstr(o, NOISE);
                o.push(0);
            }),
            1 => put(&mut self.buffered, b'A', |o| {
                o.extend_from_slice(&[0; 4]);
                put_cstr(o, NOISE);
                put_cstr(o, b"");
            }),
            _ => put(&mut self.buffered, b'S', |o| {
                put_cstr(o, NOISE);
                put_cstr(o, b"1");
            }),
        }
        self.flush();
    }

    /// Idle, in step, with nothing half heard or half done.
    pub(super) fn is_clean(&self) -> bool {
        self.block == Block::None
            && !self.skip
            && !self.implicit
            && self.copy.is_none()
            && self.buffered.is_empty()
            && self.input.is_empty()
            && self.pending.is_empty()
            && self.portals.is_empty()
            && !self.dead
    }

    pub(super) fn named_statements(&self) -> usize {
        self.statements.keys().filter(|name| !name.is_empty()).count()
    }

    pub(super) fn session_parameter(&self) -> &str {
        &self.committed_parameter
    }

    fn flush(&mut self) {
        self.output.extend(self.buffered.drain(..));
    }

    fn frame(&mut self, tag: u8, body: &[u8]) {
        if tag == b'X' {
            self.dead = true;
            return;
        }
        if let Some(copy) = self.copy.take() {
            return self.in_copy(copy, tag, body);
        }
        if self.skip && tag != b'S' {
            return;
        }
        let extended = matches!(tag, b'P' | b'B' | b'D' | b'C' | b'E' | b'H');
        if extended && tag != b'H' {
            self.implicit = true;
        }
        let result = match tag {
            b'Q' => self.query(body),
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'E' => self.execute(body),
            b'C' => self.close(body),
            b'H' => {
                self.flush();
                Ok(())
            }
            b'S' => {
                self.skip = false;
                self.finish().map(|()| self.ready())
            }
            b'F' => self.function_call(),
            b'd' | b'c' | b'f' => Ok(()),
            _ => return self.die(),
        };
        if let Err(code) = result {
            self.raise(code, extended);
        }
    }

    fn die(&mut self) {
        self.put_error("FATAL", "08P01");
        self.flush();
        self.dead = true;
    }

    fn put_error(&mut self, severity: &str, code: &str) {
        put(&mut self.buffered, b'E', |o| {
            for (kind, value) in [(b'S', severity), (b'V', severity), (b'C', code), (b'M', "no")] {
                o.push(kind);
                put_cstr(o, value.as_bytes());
            }
            o.push(0);
        });
    }

    fn raise(&mut self, code: Failure, extended: bool) {
        self.put_error("ERROR", code);
        self.flush();
        if self.block == Block::Open {
            self.block = Block::Failed;
        }
        self.abort();
        if extended {
            self.skip = true;
        } else {
            self.ready();
        }
    }

    fn abort(&mut self) {
        self.pending.clear();
        self.portals.clear();
        self.deferred_error = false;
        self.parameter = self.committed_parameter.clone();
    }

    fn commit(&mut self) -> Result<(), Failure> {
        self.block = Block::None;
        if self.deferred_error {
            return Err("23505");
        }
        self.log.borrow_mut().append(&mut self.pending);
        self.portals.clear();
        self.committed_parameter = self.parameter.clone();
        Ok(())
    }

    /// The end of a command string or of a pipeline: what is not in a block is committed.
    fn finish(&mut self) -> Result<(), Failure> {
        if self.block == Block::None { self.commit() } else { Ok(()) }
    }

    fn ready(&mut self) {
        self.implicit = false;
        if self.reported_parameter != self.parameter {
            self.reported_parameter = self.parameter.clone();
            let value = self.parameter.clone();
            put(&mut self.buffered, b'S', |o| {
                put_cstr(o, PARAMETER.as_bytes());
                put_cstr(o, value.as_bytes());
            });
        }
        let state = match self.block {
            Block::None => b'I',
            Block::Open => b'T',
            Block::Failed => b'E',
        };
        if self.block == Block::None {
            self.statements.remove(&b""[..]);
        }
        put(&mut self.buffered, b'Z', |o| o.push(state));
        self.flush();
    }

    fn refuse_if_failed(&self, text: &str) -> Result<(), Failure> {
        let exits = matches!(text, "COMMIT" | "ROLLBACK");
        if self.block == Block::Failed && !exits { Err("25P02") } else { Ok(()) }
    }

    // Simple protocol.

    fn query(&mut self, body: &[u8]) -> Result<(), Failure> {
        self.statements.remove(&b""[..]);
        let text = text_of(body).ok_or("08P01")?;
        let statements: VecDeque<String> =
            text.split(';').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
        if statements.iter().any(|s| s == "SYNTAX") {
            return Err("42601");
        }
        if statements.is_empty() {
            put(&mut self.buffered, b'I', |_| {});
        }
        self.run_rest(statements)
    }

    fn run_rest(&mut self, mut rest: VecDeque<String>) -> Result<(), Failure> {
        let several = rest.len() > 1;
        while let Some(text) = rest.pop_front() {
            self.refuse_if_failed(&text)?;
            if several && text == "DISCARD ALL" {
                return Err("25001");
            }
            if returns_rows(&text) {
                self.put_row_description(&text);
            }
            let mut portal = Portal { text, params: Vec::new(), at: 0, done: false };
            self.run(&mut portal, 0, false)?;
            if let Some(copy) = &mut self.copy {
                copy.rest = rest;
                return Ok(());
            }
        }
        self.finish()?;
        self.ready();
        Ok(())
    }

    fn function_call(&mut self) -> Result<(), Failure> {
        self.refuse_if_failed("")?;
        put(&mut self.buffered, b'V', |o| o.extend_from_slice(&[0xff; 4]));
        self.finish()?;
        self.ready();
        Ok(())
    }

    // Extended protocol.

    fn parse(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (name, rest) = frame::cstr(body).ok_or("08P01")?;
        let (text, _) = frame::cstr(rest).ok_or("08P01")?;
        if name.is_empty() {
            self.statements.remove(name);
        }
        let text = String::from_utf8_lossy(text).trim().to_owned();
        if text == "SYNTAX" {
            return Err("42601");
        }
        self.refuse_if_failed(&text)?;
        if self.statements.contains_key(name) {
            return Err("42P05");
        }
        self.statements.insert(name.into(), text);
        put(&mut self.buffered, b'1', |_| {});
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (portal, rest) = frame::cstr(body).ok_or("08P01")?;
        let (statement, params) = frame::cstr(rest).ok_or("08P01")?;
        let text = self.statements.get(statement).ok_or("26000")?.clone();
        self.refuse_if_failed(&text)?;
        if !portal.is_empty() && self.portals.contains_key(portal) {
            return Err("42P03");
        }
        self.portals.insert(portal.into(), Portal { text, params: params.into(), at: 0, done: false });
        put(&mut self.buffered, b'2', |_| {});
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (kind, name) = body.split_first().ok_or("08P01")?;
        let (name, _) = frame::cstr(name).ok_or("08P01")?;
        let text = if *kind == b'S' {
            let text = self.statements.get(name).ok_or("26000")?.clone();
            self.refuse_if_failed(&text)?;
            put(&mut self.buffered, b't', |o| o.extend_from_slice(&[0, 0]));
            text
        } else {
            let text = self.portals.get(name).ok_or("34000")?.text.clone();
            self.refuse_if_failed(&text)?;
            text
        };
        if returns_rows(&text) {
            self.put_row_description(&text);
        } else {
            put(&mut self.buffered, b'n', |_| {});
        }
        Ok(())
    }

    fn execute(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (name, rest) = frame::cstr(body).ok_or("08P01")?;
        let rows_max = u32::from_be_bytes(rest.try_into().map_err(|_| "08P01")?) as usize;
        let mut portal = self.portals.remove(name).ok_or("34000")?;
        self.refuse_if_failed(&portal.text)?;
        let ends = matches!(portal.text.as_str(), "COMMIT" | "ROLLBACK" | "DISCARD ALL");
        self.run(&mut portal, rows_max, true)?;
        if !ends {
            self.portals.insert(name.into(), portal);
        }
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (kind, name) = body.split_first().ok_or("08P01")?;
        let (name, _) = frame::cstr(name).ok_or("08P01")?;
        match kind {
            b'S' => drop(self.statements.remove(name)),
            _ => drop(self.portals.remove(name)),
        }
        put(&mut self.buffered, b'3', |_| {});
        Ok(())
    }

    // Statements.

    fn run(&mut self, portal: &mut Portal, rows_max: usize, extended: bool) -> Result<(), Failure> {
        let text = portal.text.clone();
        let (word, argument) = text.split_once(' ').unwrap_or((&text, ""));
        if portal.done && !matches!(word, "ROWS" | "BIG" | "ECHO" | "SHOW") {
            return Err("55000");
        }
        portal.done = true;
        match word {
            "" => put(&mut self.buffered, b'I', |_| {}),
            "BEGIN" => {
                self.block = Block::Open;
                self.complete("BEGIN");
            }
            "COMMIT" if self.block == Block::Failed => {
                self.abort();
                self.block = Block::None;
                self.complete("ROLLBACK");
            }
            "COMMIT" => {
                self.commit()?;
                self.complete("COMMIT");
            }
            "ROLLBACK" => {
                self.abort();
                self.block = Block::None;
                self.complete("ROLLBACK");
            }
            "ROWS" | "BIG" | "ECHO" | "SHOW" => self.put_rows(portal, rows_max),
            "INSERT" => {
                self.pending.push(argument.into());
                self.complete("INSERT 0 1");
            }
            "FAIL" => return Err("22012"),
            "DEFER" => {
                self.deferred_error = true;
                self.complete("INSERT 0 1");
            }
            "NOTICE" => {
                put(&mut self.buffered, b'N', |o| o.extend_from_slice(b"SNOTICE\0Mhear\0\0"));
                self.complete("DO");
            }
            "SET" => {
                self.parameter = argument.split('\'').nth(1).ok_or("42601")?.into();
                self.complete("SET");
            }
            "COPYIN" => {
                put(&mut self.buffered, b'G', |o| o.extend_from_slice(&[0, 0, 0]));
                self.flush();
                self.copy = Some(Copy { extended, rows: Vec::new(), rest: VecDeque::new() });
            }
            "COPYOUT" => self.copy_out(argument),
            "DISCARD" if self.block != Block::None => return Err("25001"),
            "DISCARD" => {
                self.statements.clear();
                self.portals.clear();
                self.parameter = PARAMETER_DEFAULT.into();
                self.complete("DISCARD ALL");
            }
            "DEALLOCATE" => {
                self.statements.retain(|name, _| name.is_empty());
                self.complete("DEALLOCATE ALL");
            }
            _ => return Err("42601"),
        }
        Ok(())
    }

    fn put_rows(&mut self, portal: &mut Portal, rows_max: usize) {
        let (word, argument) = portal.text.split_once(' ').unwrap_or((&portal.text, ""));
        let number = argument.parse::<usize>().unwrap_or(1);
        let rows: Vec<Vec<u8>> = match word {
            "ROWS" => (0..number).map(|i| format!("{} of {number}", i + 1).into_bytes()).collect(),
            "BIG" => vec![vec![b'b'; number]],
            "ECHO" => vec![portal.params.clone()],
            _ => vec![self.parameter.clone().into_bytes()],
        };
        let from = portal.at;
        let to = if rows_max == 0 { rows.len() } else { rows.len().min(from + rows_max) };
        for row in &rows[from..to] {
            put(&mut self.buffered, b'D', |o| o.extend_from_slice(row));
        }
        portal.at = to;
        if rows_max > 0 && to - from == rows_max {
            put(&mut self.buffered, b's', |_| {});
        } else {
            self.complete(&format!("SELECT {}", to - from));
        }
    }

    fn put_row_description(&mut self, text: &str) {
        let len = text.strip_prefix("BIG ").and_then(|n| n.parse().ok()).unwrap_or(4);
        put(&mut self.buffered, b'T', |o| o.resize(o.len() + len, b't'));
    }

    fn complete(&mut self, tag: &str) {
        put(&mut self.buffered, b'C', |o| put_cstr(o, tag.as_bytes()));
    }

    // Copies.

    fn copy_out(&mut self, argument: &str) {
        put(&mut self.buffered, b'H', |o| o.extend_from_slice(&[0, 0, 0]));
        for i in 0..argument.parse().unwrap_or(1) {
            put(&mut self.buffered, b'd', |o| o.extend_from_slice(format!("row {i}\n").as_bytes()));
        }
        put(&mut self.buffered, b'c', |_| {});
        self.complete(&format!("COPY {argument}"));
    }

    fn in_copy(&mut self, mut copy: Copy, tag: u8, body: &[u8]) {
        let extended = copy.extended;
        match tag {
            b'd' if body.starts_with(b"bad") => return self.raise("22P04", extended),
            b'd' => copy.rows.push(String::from_utf8_lossy(body).into_owned()),
            b'c' if copy.rows.iter().any(|r| r.starts_with("late")) => return self.raise("22P04", extended),
            b'c' => {
                self.complete(&format!("COPY {}", copy.rows.len()));
                self.pending.append(&mut copy.rows);
                if !extended && let Err(code) = self.run_rest(copy.rest) {
                    self.raise(code, false);
                }
                return;
            }
            b'f' => return self.raise("57014", extended),
            // Read and ignored, so that a client may send its Sync early.
            b'S' | b'H' => {}
            _ => return self.die(),
        }
        self.copy = Some(copy);
    }
}

fn returns_rows(text: &str) -> bool {
    let word = text.split(' ').next().unwrap_or_default();
    matches!(word, "ROWS" | "BIG" | "ECHO" | "SHOW")
}

fn text_of(body: &[u8]) -> Option<String> {
    let (text, _) = frame::cstr(body)?;
    Some(String::from_utf8_lossy(text).into_owned())
}
