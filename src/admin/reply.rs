//! The bytes of the console's answers.

use std::io::Write as _;

use bytes::{BufMut, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use pgwire::messages::response::{
    CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus as WireStatus,
};
use pgwire::messages::startup::ParameterStatus;

use super::show::{Cell, Column, Row, Type};
use crate::fault::{Culprit, Fault};

/// The `server_version` that the console reports: tools look at it to learn what they talk to.
pub const SERVER_VERSION: &str = "1.25.2/bouncer";

/// What PgBouncer's console reports at login.
const WELCOME: [(&str, &str); 7] = [
    ("server_version", SERVER_VERSION),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
];

/// The ParameterStatus messages for a client that has logged in to the console: the console's own, then those that the
/// client has set in its startup message, by their reported names. AuthenticationOk goes before them; BackendKeyData and
/// ReadyForQuery go behind.
#[must_use]
pub fn welcome<'a>(client_params: impl IntoIterator<Item = (&'a str, &'a str)>) -> BytesMut {
    let mut out = BytesMut::new();
    for (name, value) in WELCOME.into_iter().chain(client_params) {
        put(&mut out, &ParameterStatus::new(name.to_owned(), value.to_owned()));
    }
    out
}

/// Appends a message whole. One beyond the protocol's limits (2 GiB; 30,000 bytes for tags and parameters) is left out:
/// nothing that large is ever built here.
pub(super) fn put<M: Message>(out: &mut BytesMut, message: &M) {
    let start = out.len();
    if message.encode(out).is_err() {
        out.truncate(start);
    }
}

/// ReadyForQuery. The console has no transactions.
pub(super) fn ready(out: &mut BytesMut) {
    put(out, &ReadyForQuery::new(WireStatus::Idle));
}

/// CommandComplete.
pub(super) fn complete(out: &mut BytesMut, tag: &str) {
    put(out, &CommandComplete::new(tag.to_owned()));
}

/// ErrorResponse, with the three fields that PgBouncer sends.
pub(super) fn error(out: &mut BytesMut, fault: &Fault) {
    let fields = vec![
        (b'S', fault.severity.as_str().to_owned()),
        (b'C', fault.sqlstate.clone().into_owned()),
        (b'M', fault.text.clone().into_owned()),
    ];
    put(out, &ErrorResponse::new(fields));
}

/// NoticeResponse.
pub(super) fn notice(out: &mut BytesMut, text: &str, detail: Option<&str>) {
    let mut fields = vec![(b'S', "NOTICE".to_owned()), (b'C', "00000".to_owned()), (b'M', text.to_owned())];
    fields.extend(detail.map(|detail| (b'D', detail.to_owned())));
    put(out, &NoticeResponse::new(fields));
}

/// The answer to SHOW HELP.
pub(super) fn help(out: &mut BytesMut) {
    notice(out, "Console usage", Some(HELP));
}

const HELP: &str = "
\tSHOW HELP|VERSION|STATE|CONFIG|DATABASES|USERS|LISTS|MEM
\tSHOW POOLS|CLIENTS|SERVERS|SOCKETS|ACTIVE_SOCKETS|FDS
\tSHOW PEERS|PEER_POOLS
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW HA [HISTORY|LINK]
\tSHOW WHY
\tSELECT ... FROM pools|clients|servers|stats|...
\tSET key = value
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tSUSPEND
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tWAIT_CLOSE [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client id>
\tSHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]
\tSWITCHOVER [<router>]
\tHA MAINTENANCE ON|OFF
\tRELOAD|PAUSE|RESUME|DISABLE|ENABLE|RECONNECT|WAIT_CLOSE|KILL [<db>] ON PAIR";

/// How a column's values go over the wire (PostgreSQL docs, "Formats and Format Codes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As text.
    Text,
    /// As PostgreSQL's binary form.
    Binary,
}

/// The formats of an answer's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Formats {
    /// The same for all.
    All(Format),
    /// One each.
    Each(Vec<Format>),
}

impl Formats {
    /// Text for all.
    pub const TEXT: Self = Self::All(Format::Text);

    fn of(&self, column: usize) -> Format {
        match self {
            Self::All(format) => *format,
            Self::Each(formats) => formats.get(column).copied().unwrap_or(Format::Text),
        }
    }
}

/// RowDescription.
pub(super) fn row_description(out: &mut BytesMut, columns: &[Column], formats: &Formats) {
    let field = |(at, column): (usize, &Column)| {
        let format = match formats.of(at) {
            Format::Text => 0,
            Format::Binary => 1,
        };
        FieldDescription::new(column.name.to_string(), 0, 0, column.ty.oid(), column.ty.typlen(), -1, format)
    };
    put(out, &RowDescription::new(columns.iter().enumerate().map(field).collect()));
}

/// DataRow.
///
/// # Errors
/// A number that binary int4 cannot hold.
pub(super) fn data_row(out: &mut BytesMut, columns: &[Column], formats: &Formats, row: &Row<'_>) -> Result<(), Fault> {
    let mut data = BytesMut::new();
    for (at, (column, cell)) in columns.iter().zip(row).enumerate() {
        let start = data.len();
        data.put_i32(-1);
        if *cell == Cell::Null {
            continue;
        }
        match formats.of(at) {
            Format::Text => text_value(&mut data, cell),
            Format::Binary => binary_value(&mut data, column, cell)?,
        }
        let len = i32::try_from(data.len() - start - 4).unwrap_or(i32::MAX);
        if let Some(place) = data.get_mut(start..start + 4) {
            place.copy_from_slice(&len.to_be_bytes());
        }
    }
    put(out, &DataRow::new(data, i16::try_from(columns.len()).unwrap_or(i16::MAX)));
    Ok(())
}

fn text_value(data: &mut BytesMut, cell: &Cell<'_>) {
    // Writing to memory does not fail.
    let _ = match cell {
        Cell::Null => Ok(()),
        Cell::Text(text) => data.writer().write_all(text.as_bytes()),
        Cell::Int(n) => write!(data.writer(), "{n}"),
        Cell::Numeric(n) => write!(data.writer(), "{n}"),
        Cell::Float(n) => write!(data.writer(), "{}", float_text(*n)),
        Cell::Bytes(bytes) => {
            let hex = bytes.iter().fold(String::from("\\x"), |hex, byte| hex + &format!("{byte:02x}"));
            data.writer().write_all(hex.as_bytes())
        }
    };
}

/// A `float8` as PostgreSQL prints it: the shortest digits that mean this number, with an exponent where it is far from 1.
fn float_text(n: f64) -> String {
    match n.abs() {
        size if size.is_infinite() => if n > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        size if size == 0.0 || (1e-4..1e15).contains(&size) => format!("{n}"),
        _ => {
            let text = format!("{n:e}");
            match text.split_once('e') {
                Some((digits, power)) if !power.starts_with('-') => format!("{digits}e+{power:0>2}"),
                Some((digits, power)) => format!("{digits}e-{:0>2}", power.trim_start_matches('-')),
                None => text,
            }
        }
    }
}

fn binary_value(data: &mut BytesMut, column: &Column, cell: &Cell<'_>) -> Result<(), Fault> {
    match (column.ty, cell) {
        (Type::Int4, Cell::Int(n)) => data.put_i32(i32::try_from(*n).map_err(|_| too_large(column, *n))?),
        (_, Cell::Int(n)) => data.put_i64(*n),
        (_, Cell::Numeric(n)) => binary_numeric(data, *n),
        (_, Cell::Float(n)) => data.put_f64(*n),
        (_, Cell::Bytes(bytes)) => data.put_slice(bytes),
        (_, Cell::Null | Cell::Text(_)) => text_value(data, cell),
    }
    Ok(())
}

fn too_large(column: &Column, n: i64) -> Fault {
    let text = format!("{n} in column {} is too large for binary int4: ask for text format", column.name);
    Fault::error(Culprit::Us, text).with_sqlstate("22003")
}

/// `numeric_send` of PostgreSQL for whole numbers: base-10000 digits, the first of weight 10000^weight.
fn binary_numeric(data: &mut BytesMut, mut n: u64) {
    const BASE: u64 = 10_000;
    let mut digits = Vec::new();
    while n > 0 {
        digits.push(u16::try_from(n % BASE).unwrap_or(0));
        n /= BASE;
    }
    let count = u16::try_from(digits.len()).unwrap_or(0);
    let weight = count.saturating_sub(1);
    // Number of digits, weight, sign (0 is "positive"), digits to print behind the point.
    for word in [count, weight, 0, 0].into_iter().chain(digits.into_iter().rev()) {
        data.put_u16(word);
    }
}
