//! The extended query protocol (PostgreSQL docs, "Extended Query"): prepared statements and portals of one console
//! client. Not in PgBouncer's console.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::{Buf, BytesMut};
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete};

use super::console::{columns, parse};
use super::grammar::Command;
use super::reply::{self, Format, Formats};
use super::show::{Column, Type};
use super::sql::{self, Encoding, Value, error};
use crate::fault::Fault;

/// Prepared statements that one client may have at a time. Drivers cache about a hundred.
const MAX_STATEMENTS: usize = 512;
/// Portals that one client may have open at a time.
const MAX_PORTALS: usize = 64;
/// Longest name of a statement or portal. PostgreSQL's identifiers have 63 bytes at most.
const MAX_NAME_BYTES: usize = 255;

/// Prepared statements and portals.
#[derive(Debug, Default)]
pub(super) struct Extended {
    statements: HashMap<Box<[u8]>, Statement>,
    portals: HashMap<Box<[u8]>, Portal>,
    suspended: Option<Suspended>,
}

/// A prepared statement.
#[derive(Clone, Debug)]
pub(super) enum Statement {
    Empty,
    Command(Command),
    Sql(Arc<Prepared>),
}

/// A statement in SQL that the engine has found to be right.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) text: Arc<str>,
    /// Types of its parameters.
    params: Vec<u32>,
    /// Names of its columns.
    names: Vec<String>,
    /// What a Describe has told of its columns; then they are so.
    described: OnceLock<Vec<Type>>,
}

impl Prepared {
    /// The types of its columns, if a Describe has told them.
    pub(super) fn types(&self) -> Option<&[Type]> {
        self.described.get().map(Vec::as_slice)
    }

    fn columns(&self) -> Option<Vec<Column>> {
        let types = self.types()?.iter();
        Some(self.names.iter().zip(types).map(|(name, ty)| Column { name: name.clone().into(), ty: *ty }).collect())
    }
}

/// What a frame needs of the SQL engine before it can be answered.
#[derive(Debug)]
pub(super) enum Wish {
    Prepare { statement: Box<[u8]>, text: Arc<str>, given: Vec<u32> },
    DescribeStatement { statement: Box<[u8]>, text: Arc<str>, params: Vec<u32> },
    DescribePortal { portal: Box<[u8]>, text: Arc<str>, params: Vec<Value>, formats: Formats },
}

/// A statement ready to run.
#[derive(Clone, Debug)]
pub(super) struct Portal {
    pub(super) statement: Statement,
    /// Of SQL.
    pub(super) params: Vec<Value>,
    /// What a Describe of this portal has told of the columns of SQL.
    pub(super) types: Option<Vec<Type>>,
    pub(super) formats: Formats,
    /// A Sync has passed since its Bind.
    old: bool,
}

/// The rows that a row limit has kept back, or a Describe has found already. One portal at a time: they may be large.
#[derive(Debug)]
struct Suspended {
    portal: Box<[u8]>,
    /// Whole DataRow messages.
    rows: BytesMut,
    sql: bool,
    /// No Execute has asked for any of them yet.
    fresh: bool,
}

/// What an Execute got of the rows that were kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) rows: u64,
    pub(super) more: bool,
    pub(super) sql: bool,
    /// It was the first Execute of them.
    pub(super) first: bool,
}

impl Extended {
    /// Parse, Bind, Describe and Close. The answer goes to `out`.
    pub(super) fn on_frame(&mut self, tag: u8, body: &[u8], out: &mut BytesMut) -> Result<Option<Wish>, Fault> {
        let mut body = Body(body);
        match tag {
            b'P' => return self.parse(&mut body, out),
            b'B' => self.bind(&mut body, out)?,
            b'D' => return self.describe(&mut body, out),
            _ => self.close(&mut body, out)?,
        }
        Ok(None)
    }

    fn parse(&mut self, body: &mut Body<'_>, out: &mut BytesMut) -> Result<Option<Wish>, Fault> {
        let name = body.name()?;
        let query = body.cstr()?;
        let mut given = Vec::new();
        for _ in 0..body.u16()? {
            given.push(body.u32()?);
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
        let statement = match if empty { None } else { Some(parse(query)?) } {
            Some(Command::Sql(text)) => {
                return Ok(Some(Wish::Prepare { statement: name.into(), text: text.into(), given }));
            }
            _ if !given.is_empty() => {
                return Err(error("0A000", "commands of the admin console take no parameters"));
            }
            Some(command) => Statement::Command(command),
            None => Statement::Empty,
        };
        self.statements.insert(name.into(), statement);
        reply::put(out, &ParseComplete::new());
        Ok(None)
    }

    /// The engine has found this statement to be right.
    pub(super) fn prepared(
        &mut self,
        name: &[u8],
        text: &Arc<str>,
        params: Vec<u32>,
        names: Vec<String>,
        out: &mut BytesMut,
    ) {
        let prepared = Prepared { text: Arc::clone(text), params, names, described: OnceLock::new() };
        self.statements.insert(name.into(), Statement::Sql(Arc::new(prepared)));
        reply::put(out, &ParseComplete::new());
    }

    fn bind(&mut self, body: &mut Body<'_>, out: &mut BytesMut) -> Result<(), Fault> {
        let portal = body.name()?;
        let statement = body.name()?;
        let statement = self.statement(statement)?.clone();
        let encodings = body.encodings()?;
        let types: &[u32] = match &statement {
            Statement::Sql(prepared) => &prepared.params,
            _ => &[],
        };
        let params = body.params(types, &encodings)?;
        let columns = match &statement {
            Statement::Empty => 0,
            Statement::Command(command) => columns(command).len(),
            Statement::Sql(prepared) => prepared.names.len(),
        };
        let formats = body.formats(columns)?;
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
        self.portals.insert(portal.into(), Portal { statement, params, types: None, formats, old: false });
        reply::put(out, &BindComplete::new());
        Ok(())
    }

    fn describe(&self, body: &mut Body<'_>, out: &mut BytesMut) -> Result<Option<Wish>, Fault> {
        let text = Formats::TEXT;
        let (statement, formats) = match (body.u8()?, body.name()?) {
            (b'S', name) => {
                let statement = self.statement(name)?;
                if let Statement::Sql(prepared) = statement
                    && prepared.types().is_none()
                {
                    let (text, params) = (Arc::clone(&prepared.text), prepared.params.clone());
                    return Ok(Some(Wish::DescribeStatement { statement: name.into(), text, params }));
                }
                reply::put(out, &ParameterDescription::new(parameters(statement)));
                (statement, &text)
            }
            (b'P', name) => {
                let portal = self.portal(name)?;
                if let Statement::Sql(prepared) = &portal.statement
                    && prepared.types().is_none()
                {
                    let (text, params) = (Arc::clone(&prepared.text), portal.params.clone());
                    let formats = portal.formats.clone();
                    return Ok(Some(Wish::DescribePortal { portal: name.into(), text, params, formats }));
                }
                (&portal.statement, &portal.formats)
            }
            _ => return Err(malformed()),
        };
        let columns = match statement {
            Statement::Empty => Vec::new(),
            Statement::Command(command) => columns(command).into_owned(),
            Statement::Sql(prepared) => prepared.columns().unwrap_or_default(),
        };
        if columns.is_empty() {
            reply::put(out, &NoData::new());
        } else {
            reply::row_description(out, &columns, formats);
        }
        Ok(None)
    }

    /// The engine has told the columns of this statement.
    pub(super) fn described(&self, name: &[u8], columns: &[Column], out: &mut BytesMut) -> Result<(), Fault> {
        let statement = self.statement(name)?;
        if let Statement::Sql(prepared) = statement {
            // Whoever came first is right.
            let _ = prepared.described.set(columns.iter().map(|column| column.ty).collect());
        }
        reply::put(out, &ParameterDescription::new(parameters(statement)));
        reply::row_description(out, columns, &Formats::TEXT);
        Ok(())
    }

    /// The engine has run this portal since its columns were asked for: the rows are kept for Execute.
    pub(super) fn ran(
        &mut self,
        name: &[u8],
        columns: &[Column],
        rows: BytesMut,
        out: &mut BytesMut,
    ) -> Result<(), Fault> {
        reply::row_description(out, columns, &self.portal(name)?.formats);
        if let Some(portal) = self.portals.get_mut(name) {
            portal.types = Some(columns.iter().map(|column| column.ty).collect());
        }
        self.suspended = Some(Suspended { portal: name.into(), rows, sql: true, fresh: true });
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

    fn statement(&self, name: &[u8]) -> Result<&Statement, Fault> {
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
    pub(super) fn suspend(&mut self, portal: &[u8], rows: BytesMut, sql: bool) {
        self.suspended = Some(Suspended { portal: portal.into(), rows, sql, fresh: false });
    }

    /// Sends up to `max_rows` of the rows kept back for this portal. `None` if nothing was kept back.
    pub(super) fn resume(&mut self, portal: &[u8], max_rows: usize, out: &mut BytesMut) -> Option<Sent> {
        let kept = self.suspended.as_mut().filter(|kept| &*kept.portal == portal)?;
        let mut rows = 0;
        for _ in 0..max_rows {
            let Some(len) = kept.rows.get(1..5).and_then(|len| len.try_into().ok()).map(u32::from_be_bytes) else {
                break;
            };
            let end = usize::try_from(len).map_or(usize::MAX, |len| len.saturating_add(1)).min(kept.rows.len());
            out.extend_from_slice(&kept.rows.split_to(end));
            rows += 1;
        }
        let first = std::mem::take(&mut kept.fresh);
        let sent = Sent { rows, more: !kept.rows.is_empty(), sql: kept.sql, first };
        if !sent.more {
            self.suspended = None;
        }
        Some(sent)
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

    fn u32(&mut self) -> Result<u32, Fault> {
        self.0.try_get_u32().map_err(|_| malformed())
    }

    fn i32(&mut self) -> Result<i32, Fault> {
        self.0.try_get_i32().map_err(|_| malformed())
    }

    /// The parameter formats of Bind.
    fn encodings(&mut self) -> Result<Vec<Encoding>, Fault> {
        let mut encodings = Vec::new();
        for _ in 0..self.u16()? {
            encodings.push(match self.u16()? {
                0 => Encoding::Text,
                1 => Encoding::Binary,
                other => return Err(unsupported_format(other)),
            });
        }
        Ok(encodings)
    }

    /// The parameter values of Bind: as many as there are types.
    fn params(&mut self, types: &[u32], encodings: &[Encoding]) -> Result<Vec<Value>, Fault> {
        let count = usize::from(self.u16()?);
        if count != types.len() {
            let text = match types.len() {
                0 => format!("bind message supplies {count} parameters, but commands of the admin console take none"),
                some => format!("bind message supplies {count} parameters, but the query has {some}"),
            };
            return Err(error("08P01", text));
        }
        if encodings.len() > 1 && encodings.len() != count {
            let text = format!("bind message has {} parameter formats but {count} parameters", encodings.len());
            return Err(error("08P01", text));
        }
        let mut params = Vec::new();
        for (at, ty) in types.iter().enumerate() {
            let Ok(len) = usize::try_from(self.i32()?) else {
                params.push(Value::Null);
                continue;
            };
            let (raw, rest) = self.0.split_at_checked(len).ok_or_else(malformed)?;
            self.0 = rest;
            let encoding = match encodings {
                [] => Encoding::Text,
                [one] => *one,
                each => each.get(at).copied().unwrap_or(Encoding::Text),
            };
            params.push(sql::decode(raw, *ty, encoding)?);
        }
        Ok(params)
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
                other => return Err(unsupported_format(other)),
            });
        }
        Ok(match formats.as_slice() {
            [] => Formats::TEXT,
            [one] => Formats::All(*one),
            _ => Formats::Each(formats),
        })
    }
}

fn unsupported_format(code: u16) -> Fault {
    error("08P01", format!("unsupported format code: {code}"))
}

/// Types of the parameters of a statement.
fn parameters(statement: &Statement) -> Vec<u32> {
    match statement {
        Statement::Sql(prepared) => prepared.params.clone(),
        _ => Vec::new(),
    }
}

fn malformed() -> Fault {
    error("08P01", "invalid message format")
}

fn quoted(name: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(name))
}
