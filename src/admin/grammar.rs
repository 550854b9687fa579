//! The console's grammar: one query string in, one [`Command`] or the error out.
//!
//! PgBouncer matches a query against three shapes, in this order, white space being space, tab, CR and LF:
//!
//! 1. `WORD [WORD] [;]`
//! 2. `SET WORD (=|TO) 'string' [;]`
//! 3. `SET WORD (=|TO) WORD [;]`
//!
//! where WORD is `[0-9A-Za-z_]+` or a double-quoted identifier. Lengths count the raw text with its quotes. What fits no
//! shape, or names no command, is tried as one of the additions that the module's opening lists.

use super::action::ShutdownMode;
use super::show::Item;
use crate::fault::{Culprit, Fault};

/// Longest query that the console takes, in bytes. PgBouncer's bound is `pkt_buf` (4096 by default).
pub const MAX_QUERY_BYTES: usize = 16 * 1024;

/// Longest command name, raw.
const MAX_COMMAND_BYTES: usize = 15;
/// Longest argument or setting name, raw.
const MAX_WORD_BYTES: usize = 63;
/// Longest value of SET, raw.
const MAX_VALUE_BYTES: usize = 255;
/// PgBouncer cuts its error texts here.
const MAX_ERROR_BYTES: usize = 1023;
/// More words than any statement that we know has.
const MAX_WORDS: usize = 16;

/// What a query asks for. Not yet checked: whether the client may, and whether arguments are there and make sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `SHOW item` (or `SELECT item`).
    Show(Item),
    /// `SHOW` of a PostgreSQL parameter that drivers ask for.
    ShowFake(FakeParam),
    /// `SET` of a PostgreSQL parameter that drivers set: nothing happens.
    SetIgnored,
    /// `SET key = value`.
    Set {
        /// The setting's name, as typed.
        key: String,
        /// The value, unquoted.
        value: String,
    },
    /// `RELOAD`.
    Reload,
    /// `PAUSE [db]`.
    Pause(Option<String>),
    /// `RESUME [db]`.
    Resume(Option<String>),
    /// `SUSPEND`.
    Suspend,
    /// `DISABLE db`.
    Disable(Option<String>),
    /// `ENABLE db`.
    Enable(Option<String>),
    /// `RECONNECT [db]`.
    Reconnect(Option<String>),
    /// `KILL [db]`.
    Kill(Option<String>),
    /// `KILL_CLIENT id`; `None` if that is no number.
    KillClient(Option<u64>),
    /// `WAIT_CLOSE [db]`.
    WaitClose(Option<String>),
    /// `SHUTDOWN [mode]`.
    Shutdown(ShutdownMode),
    /// `SWITCHOVER [router]`.
    Switchover(Option<String>),
    /// `HA MAINTENANCE ON|OFF`.
    HaMaintenance(bool),
    /// One of the others with `ON PAIR` behind it.
    OnPair(Box<Self>),
    /// `BEGIN` and its kin: nothing happens.
    Transaction(TransactionWord),
    /// `DEALLOCATE name`, or of all prepared statements.
    Deallocate(Option<String>),
    /// `DISCARD ALL`.
    DiscardAll,
    /// SQL over the SHOW tables.
    Sql(String),
    /// What asyncpg's pool sends when a connection comes back, whole or in parts: nothing happens.
    ResetSession,
}

/// A PostgreSQL parameter that the console pretends to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeParam {
    /// Name, also that of the answer's column.
    pub name: &'static str,
    /// The answer.
    pub value: &'static str,
}

/// PgBouncer's list.
const FAKE_PARAMS: [FakeParam; 5] = [
    FakeParam { name: "client_encoding", value: "UTF-8" },
    FakeParam { name: "default_transaction_isolation", value: "read committed" },
    FakeParam { name: "standard_conforming_strings", value: "on" },
    FakeParam { name: "datestyle", value: "ISO" },
    FakeParam { name: "timezone", value: "GMT" },
];

/// What else drivers set unasked. Only names that nobody could mistake for a setting of the pooler.
const IGNORED_SETS: [&str; 6] =
    ["application_name", "bytea_output", "client_min_messages", "extra_float_digits", "intervalstyle", "search_path"];

/// A transaction statement, by the tag that PostgreSQL answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionWord {
    /// `BEGIN`.
    Begin,
    /// `START TRANSACTION`.
    Start,
    /// `COMMIT` or `END`.
    Commit,
    /// `ROLLBACK` or `ABORT`.
    Rollback,
}

impl TransactionWord {
    /// The tag.
    #[must_use]
    pub fn tag(self) -> &'static str {
        match self {
            Self::Begin => "BEGIN",
            Self::Start => "START TRANSACTION",
            Self::Commit => "COMMIT",
            Self::Rollback => "ROLLBACK",
        }
    }
}

impl Command {
    /// Reads a query.
    ///
    /// # Errors
    /// PgBouncer's `bad arguments` (something is too long) and `invalid command '…', use SHOW HELP;`.
    pub fn parse(query: &[u8]) -> Result<Self, Fault> {
        let known = match pgbouncer_shape(query)? {
            Some(Shape::Words { command, argument }) => by_name(&command, &argument),
            Some(Shape::Set { key, value }) => Some(set(key, value)),
            None => None,
        };
        let known = match known {
            Some(command) => Some(command),
            None => of_the_pair(query)?,
        };
        let known = known.or_else(|| addition(query)).or_else(|| session_reset(query));
        known.or_else(|| sql(query)).ok_or_else(|| syntax_error(query))
    }
}

/// A query that fits one of PgBouncer's shapes. Absent words are empty.
enum Shape {
    Words { command: String, argument: String },
    Set { key: String, value: String },
}

fn pgbouncer_shape(query: &[u8]) -> Result<Option<Shape>, Fault> {
    if let Some((command, argument)) = words_shape(query) {
        let command = unquote(command, MAX_COMMAND_BYTES)?;
        let argument = unquote(argument, MAX_WORD_BYTES)?;
        return Ok(Some(Shape::Words { command, argument }));
    }
    let Some((key, value)) = set_shape(query) else { return Ok(None) };
    let key = unquote(key, MAX_WORD_BYTES)?;
    if key.is_empty() {
        return Err(bad_arguments());
    }
    Ok(Some(Shape::Set { key, value: unquote(value, MAX_VALUE_BYTES)? }))
}

/// `WORD [WORD] [;]`
fn words_shape(query: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut scan = Scan(query);
    scan.white();
    let command = scan.word()?;
    let argument = if scan.white() { scan.word() } else { None };
    scan.finish().then_some((command, argument.unwrap_or_default()))
}

/// `SET WORD (=|TO) ('string'|WORD) [;]`
fn set_shape(query: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut scan = Scan(query);
    scan.white();
    if !scan.word()?.eq_ignore_ascii_case(b"set") || !scan.white() {
        return None;
    }
    let key = scan.word()?;
    if let Some(value) = assigned_value(scan) {
        return Some((key, value));
    }
    // The white space round TO may be missing, and a regular expression finds the TO at the end of a word, too:
    // `SET keyTO value`.
    let (head, tail) = key.split_at_checked(key.len().checked_sub(2)?)?;
    if head.is_empty() || head.starts_with(b"\"") || !tail.eq_ignore_ascii_case(b"to") {
        return None;
    }
    scan.white();
    let value = scan.value()?;
    scan.finish().then_some((head, value))
}

/// `(=|TO) ('string'|WORD) [;]`
fn assigned_value(mut scan: Scan<'_>) -> Option<&[u8]> {
    scan.white();
    if !scan.prefix(b"=") && !scan.prefix(b"to") {
        return None;
    }
    scan.white();
    let value = scan.value()?;
    scan.finish().then_some(value)
}

/// What is left of a query.
#[derive(Clone, Copy)]
struct Scan<'a>(&'a [u8]);

impl<'a> Scan<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    /// Skips white space; was there any?
    fn white(&mut self) -> bool {
        let len = self.0.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')).count();
        self.take(len).is_some_and(|white| !white.is_empty())
    }

    /// Skips these bytes, in either case.
    fn prefix(&mut self, prefix: &[u8]) -> bool {
        let fits = self.0.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
        fits && self.take(prefix.len()).is_some()
    }

    /// A WORD, raw.
    fn word(&mut self) -> Option<&'a [u8]> {
        if self.0.starts_with(b"\"") {
            return self.quoted(b'"');
        }
        let len = self.0.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        if len == 0 { None } else { self.take(len) }
    }

    /// A WORD or a string, raw.
    fn value(&mut self) -> Option<&'a [u8]> {
        if self.0.starts_with(b"'") { self.quoted(b'\'') } else { self.word() }
    }

    /// Something in quotes, in which a doubled quote stands for one.
    fn quoted(&mut self, quote: u8) -> Option<&'a [u8]> {
        let mut at = 1;
        loop {
            at += self.0.get(at..)?.iter().position(|b| *b == quote)? + 1;
            if self.0.get(at) != Some(&quote) {
                return self.take(at);
            }
            at += 1;
        }
    }

    /// `[;]` and nothing more?
    fn finish(mut self) -> bool {
        self.white();
        self.prefix(b";");
        self.white();
        self.0.is_empty()
    }
}

fn unquote(raw: &[u8], max_bytes: usize) -> Result<String, Fault> {
    if raw.len() > max_bytes { Err(bad_arguments()) } else { Ok(plain(raw)) }
}

/// The text that a raw word or string stands for. Bytes that are no UTF-8 match no name of ours anyway.
fn plain(raw: &[u8]) -> String {
    let quote = match raw {
        [first @ (b'"' | b'\''), _, ..] => *first,
        _ => return String::from_utf8_lossy(raw).into_owned(),
    };
    let mut out = Vec::with_capacity(raw.len());
    let mut inner = raw.get(1..raw.len() - 1).unwrap_or_default().iter();
    while let Some(byte) = inner.next() {
        out.push(*byte);
        if *byte == quote {
            inner.next();
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn by_name(command: &str, argument: &str) -> Option<Command> {
    let db = || (!argument.is_empty()).then(|| argument.to_owned());
    let bare = argument.is_empty();
    Some(match command.to_ascii_lowercase().as_str() {
        "show" | "select" => match FAKE_PARAMS.iter().find(|p| p.name.eq_ignore_ascii_case(argument)) {
            Some(param) => Command::ShowFake(*param),
            None => Command::Show(Item::by_name(argument)?),
        },
        "reload" if bare => Command::Reload,
        "suspend" if bare => Command::Suspend,
        "pause" => Command::Pause(db()),
        "resume" => Command::Resume(db()),
        "disable" => Command::Disable(db()),
        "enable" => Command::Enable(db()),
        "reconnect" => Command::Reconnect(db()),
        "kill" => Command::Kill(db()),
        "kill_client" => Command::KillClient(argument.parse().ok()),
        "wait_close" => Command::WaitClose(db()),
        "switchover" => Command::Switchover(db()),
        "shutdown" if bare => Command::Shutdown(ShutdownMode::Now),
        "shutdown" if argument.eq_ignore_ascii_case("wait_for_servers") => {
            Command::Shutdown(ShutdownMode::WaitForServers)
        }
        "shutdown" if argument.eq_ignore_ascii_case("wait_for_clients") => {
            Command::Shutdown(ShutdownMode::WaitForClients)
        }
        _ => return None,
    })
}

fn set(key: String, value: String) -> Command {
    let ignored = FAKE_PARAMS.iter().map(|p| p.name).chain(IGNORED_SETS).any(|name| name.eq_ignore_ascii_case(&key));
    if ignored { Command::SetIgnored } else { Command::Set { key, value } }
}

/// The commands of a pair that have more words than PgBouncer's have.
fn of_the_pair(query: &[u8]) -> Result<Option<Command>, Fault> {
    let Some(words) = plain_words(query) else { return Ok(None) };
    let is = |word: &[u8], text: &str| word.eq_ignore_ascii_case(text.as_bytes());
    Ok(match words.as_slice() {
        [show, ha, item] if is(show, "show") && is(ha, "ha") => {
            Item::by_name(&format!("ha {}", String::from_utf8_lossy(item))).map(Command::Show)
        }
        [ha, maintenance, switch] if is(ha, "ha") && is(maintenance, "maintenance") => {
            let known = [("on", true), ("off", false)].into_iter().find(|(word, _)| is(switch, word));
            known.map(|(_, on)| Command::HaMaintenance(on))
        }
        [command, rest @ .., on, pair] if rest.len() < 2 && is(on, "on") && is(pair, "pair") => {
            let argument = rest.first().copied().unwrap_or_default();
            let command = unquote(command, MAX_COMMAND_BYTES)?;
            if !PAIR_COMMANDS.iter().any(|known| known.eq_ignore_ascii_case(&command)) {
                return Ok(None);
            }
            by_name(&command, &unquote(argument, MAX_WORD_BYTES)?).map(|command| Command::OnPair(Box::new(command)))
        }
        _ => None,
    })
}

/// What may have `ON PAIR` behind it: what an operator wants to hold on both nodes or on none. Not what ends one process
/// (SUSPEND, SHUTDOWN), not the ids of one node's clients, and not SET, which the next RELOAD forgets.
const PAIR_COMMANDS: [&str; 8] = ["reload", "pause", "resume", "disable", "enable", "reconnect", "kill", "wait_close"];

/// A name as the word that means it: as it is, or in quotes.
pub(super) fn word(name: &str) -> String {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Words of the transaction statements that change nothing for us.
const TRANSACTION_MODES: [&str; 13] = [
    "work",
    "transaction",
    "isolation",
    "level",
    "serializable",
    "repeatable",
    "read",
    "committed",
    "uncommitted",
    "write",
    "only",
    "not",
    "deferrable",
];

/// The statements that PgBouncer does not know.
fn addition(query: &[u8]) -> Option<Command> {
    let raw = all_words(query)?;
    let lower: Vec<String> = raw.iter().map(|word| String::from_utf8_lossy(word).to_ascii_lowercase()).collect();
    let words: Vec<&str> = lower.iter().map(String::as_str).collect();
    let modes = |rest: &[&str]| rest.iter().all(|word| TRANSACTION_MODES.contains(word));
    let word = match words.as_slice() {
        ["begin", rest @ ..] if modes(rest) => TransactionWord::Begin,
        ["start", "transaction", rest @ ..] if modes(rest) => TransactionWord::Start,
        ["commit" | "end"] | ["commit" | "end", "work" | "transaction"] => TransactionWord::Commit,
        ["rollback" | "abort"] | ["rollback" | "abort", "work" | "transaction"] => TransactionWord::Rollback,
        ["discard", "all"] => return Some(Command::DiscardAll),
        ["deallocate", "all"] | ["deallocate", "prepare", "all"] => return Some(Command::Deallocate(None)),
        ["deallocate", name] | ["deallocate", "prepare", name] => {
            let quoted = raw.last().filter(|word| word.starts_with(b"\""));
            return Some(Command::Deallocate(Some(quoted.map_or_else(|| (*name).to_owned(), |q| plain(q)))));
        }
        _ => return None,
    };
    Some(Command::Transaction(word))
}

/// Statements that undo what a session has done to itself. The console's sessions have nothing to undo.
const SESSION_RESETS: [&str; 4] = ["select pg_advisory_unlock_all()", "close all", "unlisten *", "reset all"];

/// One or more of these, and nothing else. The only query of several statements that is not refused.
fn session_reset(query: &[u8]) -> Option<Command> {
    let text = std::str::from_utf8(query).ok()?.trim().to_ascii_lowercase();
    let text = text.strip_suffix(';').unwrap_or(&text);
    text.split(';').all(|part| SESSION_RESETS.contains(&part.trim())).then_some(Command::ResetSession)
}

/// What begins as a query in SQL does, and is none of PgBouncer's shapes: `SELECT 1` stays the error that it is there, and
/// `SELECT pools` is its SHOW POOLS. Whether it is right, and reads only, the engine says.
fn sql(query: &[u8]) -> Option<Command> {
    let text = std::str::from_utf8(query).ok()?;
    if words_shape(query).is_some() {
        return None;
    }
    let start = behind_comments(text);
    let word: String = start.chars().take_while(char::is_ascii_alphabetic).take(MAX_COMMAND_BYTES).collect();
    let begins = ["select", "with", "values"].iter().any(|known| known.eq_ignore_ascii_case(&word));
    begins.then(|| Command::Sql(start.to_owned()))
}

/// The text without the white space and comments before its first word: some tools put their name there.
fn behind_comments(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        let behind = match rest {
            line if line.starts_with("--") => line.split_once('\n').map(|(_, behind)| behind),
            block if block.starts_with("/*") => block.split_once("*/").map(|(_, behind)| behind),
            _ => return rest,
        };
        let Some(behind) = behind else { return "" };
        rest = behind.trim_start();
    }
}

/// The words of a statement that has nothing else in it but commas after words.
fn all_words(query: &[u8]) -> Option<Vec<&[u8]>> {
    let mut scan = Scan(query);
    let mut words = Vec::new();
    scan.white();
    while let Some(word) = scan.word() {
        words.push(word);
        let comma = scan.prefix(b",");
        if !(scan.white() || comma) || words.len() == MAX_WORDS {
            break;
        }
    }
    scan.finish().then_some(words)
}

/// The words of a statement that has nothing else in it.
fn plain_words(query: &[u8]) -> Option<Vec<&[u8]>> {
    let mut scan = Scan(query);
    let mut words = Vec::new();
    scan.white();
    while let Some(word) = scan.word() {
        words.push(word);
        if !scan.white() || words.len() == MAX_WORDS {
            break;
        }
    }
    scan.finish().then_some(words)
}

fn bad_arguments() -> Fault {
    Fault::error(Culprit::Client, "bad arguments")
}

/// Cut like PgBouncer's, for a query may be long.
pub(super) fn syntax_error(query: &[u8]) -> Fault {
    let mut text = format!("invalid command '{}', use SHOW HELP;", String::from_utf8_lossy(query));
    let end = (0..=MAX_ERROR_BYTES).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    Fault::error(Culprit::Client, text)
}
