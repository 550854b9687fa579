//! The tables: what SHOW shows, each under its name and under `pg_stat_pgbouncer_` with its name behind.

use jiff::tz::TimeZone;
use rusqlite::types::{ToSqlOutput, Value as Sql, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};

use super::super::access::Rights;
use super::super::show::{self, Cell, Item, Type};
use crate::fault::Fault;
use crate::snapshot::Snapshot;

/// What may stand before a table's name.
pub const VIEW_PREFIX: &str = "pg_stat_pgbouncer_";

/// A table that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlTable {
    /// What SHOW calls it.
    shown_as: &'static str,
    /// Whose rows and columns it has.
    pub(super) item: Item,
}

/// All of them, by name.
pub fn tables() -> impl Iterator<Item = SqlTable> {
    // SHOW HELP is a text.
    let items = Item::ALL.iter().filter(|(_, item)| *item != Item::Help);
    items.map(|(shown_as, item)| SqlTable { shown_as, item: *item })
}

impl SqlTable {
    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        self.shown_as.replace(' ', "_")
    }

    /// Names and types of its columns: `text`, `int8` or `bytea`.
    pub fn columns(self) -> impl Iterator<Item = (String, Type)> {
        self.item.columns().iter().map(|column| {
            let ty = match column.ty {
                Type::Int4 | Type::Int8 | Type::Numeric => Type::Int8,
                Type::Float8 => Type::Float8,
                Type::Text => Type::Text,
                Type::Bytea => Type::Bytea,
            };
            (column.name.to_string(), ty)
        })
    }

    pub(super) fn by_name(name: &str) -> Option<Self> {
        tables().find(|table| table.name().eq_ignore_ascii_case(name))
    }

    /// Whoever may not SHOW it may not read it.
    pub(super) fn allow(self, rights: Rights) -> Result<(), Fault> {
        if self.item == Item::Fds { rights.require_admin() } else { Ok(()) }
    }
}

/// What makes the tables and views whose names occur anywhere in the text: a name that a query uses does.
pub(super) fn declarations(text: &str) -> Vec<String> {
    let text = text.to_ascii_lowercase();
    let mut out = Vec::new();
    for table in tables().filter(|table| text.contains(&table.name())) {
        let name = table.name();
        let columns: Vec<String> =
            table.columns().map(|(name, ty)| format!("\"{name}\" {}", declaration(ty))).collect();
        out.push(format!("CREATE TABLE \"{name}\" ({})", columns.join(", ")));
        if text.contains(&format!("{VIEW_PREFIX}{name}")) {
            out.push(format!("CREATE VIEW \"{VIEW_PREFIX}{name}\" AS SELECT * FROM \"{name}\""));
        }
    }
    out
}

fn declaration(ty: Type) -> &'static str {
    match ty {
        Type::Int4 | Type::Int8 | Type::Numeric => "INTEGER",
        Type::Float8 => "REAL",
        Type::Text => "TEXT",
        Type::Bytea => "BLOB",
    }
}

/// The type of a column that is one of a table's. Of a table made of an answer, NUM is what may have a fraction.
pub(super) fn declared_type(declaration: Option<&str>) -> Option<Type> {
    match declaration? {
        "INTEGER" | "INT" => Some(Type::Int8),
        "REAL" | "NUM" => Some(Type::Float8),
        "TEXT" => Some(Type::Text),
        "BLOB" => Some(Type::Bytea),
        _ => None,
    }
}

/// Puts in what SHOW would print.
pub(super) fn fill(
    connection: &Connection,
    table: SqlTable,
    snapshot: &Snapshot,
    zone: &TimeZone,
) -> rusqlite::Result<()> {
    let show::Table { columns, rows } = show::table(table.item, snapshot, zone);
    let places = vec!["?"; columns.len()].join(", ");
    let mut insert = connection.prepare(&format!("INSERT INTO \"{}\" VALUES ({places})", table.name()))?;
    for row in rows {
        insert.execute(params_from_iter(row.iter().map(Bound)))?;
    }
    Ok(())
}

struct Bound<'a>(&'a Cell<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Cell::Null => ToSqlOutput::Owned(Sql::Null),
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Cell::Int(n) => ToSqlOutput::Owned(Sql::Integer(*n)),
            Cell::Numeric(n) => ToSqlOutput::Owned(Sql::Integer(i64::try_from(*n).unwrap_or(i64::MAX))),
            Cell::Float(n) => ToSqlOutput::Owned(Sql::Real(*n)),
            Cell::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}
