//! One event as one line: PgBouncer's form, or a JSON object.

use std::cell::Cell;
use std::fmt::{self, Write};

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::FATAL;
use crate::session::io::subject::{self, SUBJECT};

/// Bytes of message and of fields that are kept; what is longer is cut. Texts of clients stand in messages: this bounds what
/// they can make us hold and write.
const TEXT_MAX: usize = 8192;

thread_local! {
    /// The buffers of this thread's last line. Taken out while in use: a value that logs while it is printed finds none and
    /// makes its own.
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch::new()) };
}

/// Hand the line for `event`, its line end included, to `write`.
pub(super) fn with_line(event: &Event<'_>, json: bool, write: impl FnOnce(&[u8])) {
    let mut scratch = SCRATCH.try_with(Cell::take).unwrap_or_default();
    scratch.message.clear();
    scratch.fields.clear();
    scratch.line.clear();
    let mut collector = Collector { message: &mut scratch.message, fields: &mut scratch.fields, json, fatal: false };
    event.record(&mut collector);
    let metadata = event.metadata();
    let fatal = collector.fatal || metadata.target() == FATAL;
    let facts = Facts {
        pid: std::process::id(),
        level: level_word(*metadata.level(), fatal),
        target: metadata.target(),
        message: scratch.message.as_str(),
        fields: scratch.fields.as_str(),
    };
    let now = Timestamp::now();
    if json {
        json_line(&mut scratch.line, now, &facts);
    } else {
        scratch.clock.set(now, TimeZone::system);
        plain_line(&mut scratch.line, &scratch.clock, &facts);
    }
    write(scratch.line.as_bytes());
    let _ = SCRATCH.try_with(|cell| cell.set(scratch));
}

/// Hand the message of `event` and its fields, as a plain line has them, to `write`.
pub(super) fn with_message(event: &Event<'_>, write: impl FnOnce(&str)) {
    let (mut message, mut fields, mut line) = (Capped::new(), Capped::new(), String::new());
    event.record(&mut Collector { message: &mut message, fields: &mut fields, json: false, fatal: false });
    printable(&mut line, message.as_str().trim_end());
    printable(&mut line, fields.as_str());
    write(&line);
}

/// Is the event one that ends the process: target `fatal`, or a field `fatal = true`?
pub(super) fn is_fatal(event: &Event<'_>) -> bool {
    struct Find(bool);
    impl Visit for Find {
        fn record_bool(&mut self, field: &Field, value: bool) {
            self.0 |= value && field.name() == FATAL;
        }
        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
    }
    let mut find = Find(event.metadata().target() == FATAL);
    event.record(&mut find);
    find.0
}

struct Scratch {
    line: String,
    message: Capped,
    fields: Capped,
    clock: Clock,
}

impl Scratch {
    const fn new() -> Self {
        Self { line: String::new(), message: Capped::new(), fields: Capped::new(), clock: Clock::new() }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What stands in a line besides the time.
pub(super) struct Facts<'a> {
    pub(super) pid: u32,
    pub(super) level: &'static str,
    pub(super) target: &'a str,
    pub(super) message: &'a str,
    /// For a plain line ` name=value` each, for JSON the inner of an object.
    pub(super) fields: &'a str,
}

/// The local time as text, made anew once a second.
pub(super) struct Clock {
    second: i64,
    date: String,
    zone: String,
    millisecond: i32,
}

impl Clock {
    pub(super) const fn new() -> Self {
        Self { second: i64::MIN, date: String::new(), zone: String::new(), millisecond: 0 }
    }

    pub(super) fn set(&mut self, now: Timestamp, zone: impl FnOnce() -> TimeZone) {
        // Floor, so that times before 1970 (a machine without a clock) count up too.
        let nanosecond = now.as_nanosecond();
        let second = i64::try_from(nanosecond.div_euclid(1_000_000_000)).unwrap_or_default();
        self.millisecond = i32::try_from(nanosecond.rem_euclid(1_000_000_000) / 1_000_000).unwrap_or_default();
        if second != self.second {
            let local: Zoned = now.to_zoned(zone());
            self.second = second;
            self.date.clear();
            self.zone.clear();
            let _ = write!(self.date, "{}", local.strftime("%Y-%m-%d %H:%M:%S"));
            let _ = write!(self.zone, "{}", local.strftime("%Z"));
        }
    }
}

/// `YYYY-MM-DD HH:MM:SS.mmm TZ [pid] LEVEL message`, as PgBouncer.
pub(super) fn plain_line(line: &mut String, clock: &Clock, facts: &Facts<'_>) {
    let Clock { date, zone, millisecond, .. } = clock;
    let _ = write!(line, "{date}.{millisecond:03} {zone} [{}] {} ", facts.pid, facts.level);
    if !super::is_ours(facts.target) {
        let _ = write!(line, "{}: ", facts.target);
    }
    printable(line, facts.message.trim_end());
    printable(line, facts.fields);
    line.push('\n');
}

/// Text from outside may stand in a message: it must neither start a line of its own nor steer a terminal.
fn printable(line: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '\n' => line.push_str("\n\t"),
            '\t' => line.push('\t'),
            _ if char.is_control() => {
                let _ = write!(line, "\\x{:02x}", u32::from(char));
            }
            _ => line.push(char),
        }
    }
}

/// One JSON object: ts (RFC 3339, UTC), level, pid, target, message and, if there are any, fields.
pub(super) fn json_line(line: &mut String, now: Timestamp, facts: &Facts<'_>) {
    let _ = write!(line, "{{\"ts\":\"{now:.3}\",\"level\":\"{}\",\"pid\":{},\"target\":", facts.level, facts.pid);
    json_text(line, facts.target);
    line.push_str(",\"message\":");
    json_text(line, facts.message);
    if !facts.fields.is_empty() {
        let _ = write!(line, ",\"fields\":{{{}}}", facts.fields);
    }
    line.push_str("}\n");
}

fn json_text(line: &mut (impl Write + ?Sized), text: &str) {
    // Fails only for values that are not text.
    let _ = line.write_str(&serde_json::to_string(text).unwrap_or_default());
}

fn level_word(level: Level, fatal: bool) -> &'static str {
    match level {
        Level::ERROR if fatal => "FATAL",
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "LOG",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "NOISE",
    }
}

/// Text that grows to [`TEXT_MAX`] and no further.
pub(super) struct Capped {
    text: String,
}

impl Capped {
    pub(super) const fn new() -> Self {
        Self { text: String::new() }
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

impl Write for Capped {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let room = TEXT_MAX.saturating_sub(self.text.len());
        if more.len() <= room {
            self.text.push_str(more);
            return Ok(());
        }
        let end = (0..=room).rev().find(|end| more.is_char_boundary(*end)).unwrap_or_default();
        self.text.push_str(more.get(..end).unwrap_or_default());
        // Ends the printing of the value, however much there is of it.
        Err(fmt::Error)
    }
}

/// Sorts the fields of an event into its message and the rest.
struct Collector<'a> {
    message: &'a mut Capped,
    fields: &'a mut Capped,
    json: bool,
    fatal: bool,
}

impl Collector<'_> {
    /// Write a field; a JSON field that does not fit is left out, as half of one would spoil the line.
    fn field(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let before = self.fields.text.len();
        let written = if self.json {
            let comma = if before == 0 { "" } else { "," };
            write!(self.fields, "{comma}\"{name}\":{value}")
        } else {
            write!(self.fields, " {name}={value}")
        };
        if written.is_err() && self.json {
            self.fields.text.truncate(before);
        }
    }
}

impl Collector<'_> {
    /// Fields of their own in JSON; a line for people says it in its message.
    fn subject(&mut self, value: &dyn fmt::Debug) {
        if !self.json {
            return;
        }
        let mut text = Capped::new();
        let _ = write!(text, "{value:?}");
        for (name, part) in subject::parts(text.as_str()) {
            let mut quoted = String::new();
            json_text(&mut quoted, part);
            self.field(name, format_args!("{quoted}"));
        }
    }
}

impl Visit for Collector<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else if field.name() == SUBJECT {
            self.subject(value);
        } else if self.json {
            let mut text = Capped::new();
            let _ = write!(text, "{value:?}");
            self.record_str(field, text.as_str());
        } else {
            self.field(field.name(), format_args!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            let _ = self.message.write_str(value);
        } else if self.json {
            let mut text = Capped::new();
            let _ = text.write_str(value);
            let mut quoted = String::new();
            json_text(&mut quoted, text.as_str());
            self.field(field.name(), format_args!("{quoted}"));
        } else if value.is_empty() || value.contains([' ', '"', '=']) {
            self.field(field.name(), format_args!("{value:?}"));
        } else {
            self.field(field.name(), format_args!("{value}"));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == FATAL {
            self.fatal |= value;
        } else {
            self.field(field.name(), format_args!("{value}"));
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for the others.
        if value.is_finite() {
            self.field(field.name(), format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field.name(), format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field.name(), format_args!("{value}"));
    }
}
