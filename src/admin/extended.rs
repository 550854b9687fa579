//! The extended query protocol (PostgreSQL docs, "Extended Query"): prepared statements and portals of one console
//! client. Not in PgBouncer's console.

use std::collections::HashMap;

use bytes::{Buf, BytesMut};
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete};

use super::console::{columns, parse};
use super::grammar::Command;
use super::reply::{self, Format, Formats};
use crate::fault::{Culprit, Fault};

/// Prepared statements that one client may have at a time. Drivers cache about a hundred.
const MAX_STATEMENTS: usize = 512;
/// Portals that one client may have open at a time.
const MAX_PORTALS: usize = 64;
/// Longest name of a statement or portal. PostgreSQL's identifiers have 63 bytes at most.
const MAX_NAME_BYTES: usize = 255;

/// Prepared statements and portals.
#[derive(Debug, Default)]
pub(super) struct Extended {
    /// `None` is the empty statement.
    statements: HashMap<Box<[u8]>, Option<Command>>,
    portals: HashMap<Box<[u8]>, Portal>,
    suspended: Option<Suspended>,
}

/// A statement ready to run.
#[derive(Clone, Debug)]
pub(super) struct Portal {
    /// `None` is the empty statement.
    pub(super) command: Option<Command>,
    pub(super) formats: Formats,
    /// A Sync has passed since its Bind.
    old: bool,
}

/// The rows that a row limit has kept back. One portal at a time: they may be large.
#[derive(Debug)]
struct Suspended {
    portal: Box<[u8]>,
    /// Whole DataRow messages.
    rows: BytesMut,
}

impl Extended {
    /// Parse, Bind, Describe and Close. The answer goes to `out`.
    pub(super) fn on_frame(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let mut body = Body(body);
        match tag {
            b'P' => self.parse(&mut body, out),
            b'B' => self.bind(&mut body, out),
            b'D' => self.describe(&mut body, out),
            _ => self.close(&mut body, out),
        }
    }

    fn parse(&mut self, body: &mut Body<'_>, out: &mut BytesMut) -> Result<(), Fault> {
        let name = body.name()?;
        let query = body.cstr()?;
        if body.u16()? > 0 {
            return Err(error("0A000", "commands of the admin console take no parameters"));
        }
        let known = self.statements.contains_key(name);
        if known && !name.is_empty() {
            return Err(error("42P05", format!("prepared statement {} already exists", quoted(name))));
        }
        if !known && self.statements.len() >= MAX_STATEMENTS {
            let text = format!("too many prepared statements on the admin console (more than {MAX_STATEMENTS})");
            return Err(error("53400", text));
        }
        let empty = query.iter().all(|b| b.is_ascii_whitespace() || *b == b';');
        let command = if empty { None } else { Some(parse(query)?) };
        self.statements.insert(name.into(), command);
        reply::put(out, &ParseComplete::new());
        Ok(())
    }

    fn bind(&mut self, body: &mut Body<'_>, out: &mut BytesMut) -> Result<(), Fault> {
        let portal = body.name()?;
        let statement = body.name()?;
        let command = self.statement(statement)?.clone();
        for _ in 0..body.u16()? {
            body.u16()?;
        }
        let parameters = body.u16()?;
        if parameters > 0 {
            let text =
                format!("bind message supplies {parameters} parameters, but commands of the admin console take none");
            return Err(error("08P01", text));
        }
        let formats = body.formats(command.as_ref().map_or(0, |command| columns(command).len()))?;
        if self.portals.get(portal).is_some_and(|known| !known.old && !portal.is_empty()) {
            return Err(error("42P03", format!("portal {} already exists", quoted(portal))));
        }
        if self.portals.len() >= MAX_PORTALS {
            self.portals.retain(|_, portal| !portal.old);
        }
        if self.portals.len() >= MAX_PORTALS {
            let text = format!("too many portals on the admin console (more than {MAX_PORTALS})");
            return Err(error("53400", text));
        }
        self.drop_rows(portal);
        self.portals.insert(portal.into(), Portal { command, formats, old: false });
        reply::put(out, &BindComplete::new());
        Ok(())
    }

    fn describe(&self, body: &mut Body<'_>, out: &mut BytesMut) -> Result<(), Fault> {
        let (command, formats) = match (body.u8()?, body.name()?) {
            (b'S', name) => {
                let command = self.statement(name)?;
                reply::put(out, &ParameterDescription::new(Vec::new()));
                (command, &Formats::TEXT)
            }
            (b'P', name) => {
                let portal = self.portal(name)?;
                (&portal.command, &portal.formats)
            }
            _ => return Err(malformed()),
        };
        let columns = command.as_ref().map(columns).unwrap_or_default();
        if columns.is_empty() {
            reply::put(out, &NoData::new());
        } else {
            reply::row_description(out, &columns, formats);
        }
        Ok(())
    }

    fn close(&mut self, body: &mut Body<'_>, out: &mut BytesMut) -> Result<(), Fault> {
        match (body.u8()?, body.name()?) {
            (b'S', name) => {
                self.statements.remove(name);
            }
            (b'P', name) => {
                self.portals.remove(name);
                self.drop_rows(name);
            }
            _ => return Err(malformed()),
        }
        reply::put(out, &CloseComplete::new());
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Option<Command>, Fault> {
        self.statements.get(name).ok_or_else(|| match name {
            b"" => error("26000", "unnamed prepared statement does not exist"),
            name => error("26000", format!("prepared statement {} does not exist", quoted(name))),
        })
    }

    /// The portal of that name.
    pub(super) fn portal(&self, name: &[u8]) -> Result<&Portal, Fault> {
        let missing = || error("34000", format!("portal {} does not exist", quoted(name)));
        self.portals.get(name).ok_or_else(missing)
    }

    /// The fields of Execute: the portal's name and the most rows to send (`usize::MAX` is "all").
    pub(super) fn execute_fields(body: &[u8]) -> Result<(&[u8], usize), Fault> {
        let mut body = Body(body);
        let name = body.name()?;
        // Zero is "no limit"; so are, in PostgreSQL, negative numbers.
        let limit = usize::try_from(body.i32()?).ok().filter(|limit| *limit > 0);
        Ok((name, limit.unwrap_or(usize::MAX)))
    }

    /// Keeps what a row limit has cut off.
    pub(super) fn suspend(&mut self, portal: &[u8], rows: BytesMut) {
        self.suspended = Some(Suspended { portal: portal.into(), rows });
    }

    /// Sends up to `max_rows` of the rows kept back for this portal. Are there more? `None` if nothing was kept back.
    pub(super) fn resume(&mut self, portal: &[u8], max_rows: usize, out: &mut BytesMut) -> Option<bool> {
        let kept = self.suspended.as_mut().filter(|kept| &*kept.portal == portal)?;
        for _ in 0..max_rows {
            let Some(len) = kept.rows.get(1..5).and_then(|len| len.try_into().ok()).map(u32::from_be_bytes) else {
                break;
            };
            let end = usize::try_from(len).map_or(usize::MAX, |len| len.saturating_add(1)).min(kept.rows.len());
            out.extend_from_slice(&kept.rows.split_to(end));
        }
        let more = !kept.rows.is_empty();
        if !more {
            self.suspended = None;
        }
        Some(more)
    }

    fn drop_rows(&mut self, portal: &[u8]) {
        if self.suspended.as_ref().is_some_and(|kept| &*kept.portal == portal) {
            self.suspended = None;
        }
    }

    /// Sync, or a simple query. It ends the unnamed portal. Named ones stay as if in a transaction: a driver that has sent
    /// BEGIN may fetch from them still. For drivers that rely on their end, they give way to a new Bind.
    pub(super) fn sync(&mut self) {
        self.portals.remove(b"".as_slice());
        self.drop_rows(b"");
        for portal in self.portals.values_mut() {
            portal.old = true;
        }
    }

    /// COMMIT or ROLLBACK: ends every portal.
    pub(super) fn end_of_transaction(&mut self) {
        self.portals.clear();
        self.suspended = None;
    }

    /// Forgets one prepared statement, or all.
    pub(super) fn deallocate(&mut self, name: Option<&str>) -> Result<(), Fault> {
        let Some(name) = name else {
            self.statements.clear();
            self.end_of_transaction();
            return Ok(());
        };
        self.statement(name.as_bytes())?;
        self.statements.remove(name.as_bytes());
        Ok(())
    }
}

/// What is left of a message's body.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    /// A zero-terminated string.
    fn cstr(&mut self) -> Result<&'a [u8], Fault> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(malformed)?;
        let (text, rest) = self.0.split_at_checked(end).ok_or_else(malformed)?;
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(text)
    }

    /// The name of a statement or portal.
    fn name(&mut self) -> Result<&'a [u8], Fault> {
        let name = self.cstr()?;
        if name.len() > MAX_NAME_BYTES {
            return Err(error("42622", format!("name too long (more than {MAX_NAME_BYTES} bytes)")));
        }
        Ok(name)
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        self.0.try_get_u8().map_err(|_| malformed())
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        self.0.try_get_u16().map_err(|_| malformed())
    }

    fn i32(&mut self) -> Result<i32, Fault> {
        self.0.try_get_i32().map_err(|_| malformed())
    }

    /// The result formats of Bind: none (text), one for all, or one for each column.
    fn formats(&mut self, columns: usize) -> Result<Formats, Fault> {
        let count = usize::from(self.u16()?);
        if count > 1 && count != columns {
            let text = format!("bind message has {count} result formats but the command has {columns} columns");
            return Err(error("08P01", text));
        }
        let mut formats = Vec::new();
        for _ in 0..count {
            formats.push(match self.u16()? {
                0 => Format::Text,
                1 => Format::Binary,
                other => return Err(error("08P01", format!("unsupported format code: {other}"))),
            });
        }
        Ok(match formats.as_slice() {
            [] => Formats::TEXT,
            [one] => Formats::All(*one),
            _ => Formats::Each(formats),
        })
    }
}

fn error(sqlstate: &'static str, text: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::error(Culprit::Client, text).with_sqlstate(sqlstate)
}

fn malformed() -> Fault {
    error("08P01", "invalid message format")
}

fn quoted(name: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(name))
}
