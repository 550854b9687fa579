//! Values on their way in (parameters) and out (results), and their types.

use rusqlite::Statement;
use rusqlite::types::{ToSqlOutput, Value as Sql, ValueRef};

use super::super::show::{Cell, Type};
use super::error::error;
use crate::fault::Fault;

/// A value as SQLite knows them.
#[derive(Clone, Debug)]
pub enum Value {
    /// NULL.
    Null,
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(n) => Self::Int(n),
            ValueRef::Real(n) => Self::Float(n),
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Self::Bytes(bytes.to_vec()),
        }
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Sql::Null),
            Self::Int(n) => ToSqlOutput::Owned(Sql::Integer(*n)),
            Self::Float(n) => ToSqlOutput::Owned(Sql::Real(*n)),
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
        })
    }
}

impl Value {
    /// The cell that is sent for it.
    pub(in crate::admin) fn cell(&self) -> Cell<'_> {
        match self {
            Self::Null => Cell::Null,
            Self::Int(n) => Cell::Int(*n),
            Self::Float(n) => Cell::Float(*n),
            Self::Text(text) => text.as_str().into(),
            Self::Bytes(bytes) => Cell::Bytes(bytes.as_slice().into()),
        }
    }

    /// Bytes that it takes, about.
    pub(super) fn cost(&self) -> usize {
        let content = match self {
            Self::Null | Self::Int(_) | Self::Float(_) => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        };
        content.saturating_add(size_of::<Self>())
    }

    /// Turns it into a value of that type.
    pub(super) fn make(&mut self, ty: Type, column: &str) -> Result<(), Fault> {
        let made = match (ty, &*self) {
            (_, Self::Null)
            | (Type::Int4 | Type::Int8 | Type::Numeric, Self::Int(_))
            | (Type::Float8, Self::Float(_))
            | (Type::Text, Self::Text(_))
            | (Type::Bytea, Self::Bytes(_)) => return Ok(()),
            (Type::Float8, Self::Int(n)) => Some(Self::Float(to_float(*n))),
            (Type::Float8, Self::Text(text)) => text.parse().ok().map(Self::Float),
            (Type::Int4 | Type::Int8 | Type::Numeric, Self::Text(text)) => text.parse().ok().map(Self::Int),
            (Type::Int4 | Type::Int8 | Type::Numeric, Self::Float(n)) => to_int(*n).map(Self::Int),
            (Type::Text, Self::Int(n)) => Some(Self::Text(n.to_string())),
            (Type::Text, Self::Float(n)) => Some(Self::Text(n.to_string())),
            (Type::Text, Self::Bytes(bytes)) => Some(Self::Text(String::from_utf8_lossy(bytes).into_owned())),
            (Type::Bytea, Self::Text(text)) => Some(Self::Bytes(text.clone().into_bytes())),
            _ => None,
        };
        *self = made.ok_or_else(|| {
            let text =
                format!("column \"{column}\" has a value of another type than the one described before; use CAST");
            error("42804", text)
        })?;
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "float8 has no more digits")]
fn to_float(n: i64) -> f64 {
    n as f64
}

/// A number that has no fraction.
fn to_int(n: f64) -> Option<i64> {
    (n.fract() == 0.0).then(|| format!("{n:.0}").parse().ok()).flatten()
}

/// The type that holds all of these values; `None` if there are none but NULLs.
pub(super) fn common_type<'a>(values: impl Iterator<Item = &'a Value>) -> Option<Type> {
    let mut common = None;
    for value in values {
        let ty = match value {
            Value::Null => continue,
            Value::Int(_) => Type::Int8,
            Value::Float(_) => Type::Float8,
            Value::Text(_) => Type::Text,
            Value::Bytes(_) => Type::Bytea,
        };
        common = Some(match (common, ty) {
            (None, ty) => ty,
            (Some(before), ty) if before == ty => ty,
            (Some(Type::Int8), Type::Float8) | (Some(Type::Float8), Type::Int8) => Type::Float8,
            _ => return Some(Type::Text),
        });
    }
    common
}

/// A parameter as it stands in a query: `$1`, or `$1::type`.
pub(super) struct Parameter {
    /// Its place among SQLite's parameters.
    place: usize,
    /// Its number, from 1.
    number: usize,
    /// The type behind it.
    cast: Option<Cast>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cast {
    Int,
    Float,
    Text,
    Bool,
}

impl Cast {
    fn by_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "int" | "integer" | "bigint" | "smallint" | "int2" | "int4" | "int8" => Self::Int,
            "real" | "float" | "float4" | "float8" | "numeric" | "decimal" => Self::Float,
            "text" | "varchar" | "name" => Self::Text,
            "bool" | "boolean" => Self::Bool,
            _ => return None,
        })
    }

    fn oid(self) -> u32 {
        match self {
            Self::Int => 20,
            Self::Float => 701,
            Self::Text => TEXT,
            Self::Bool => 16,
        }
    }
}

/// Most parameters that a query may have.
const MAX_PARAMETERS: usize = 256;
/// `text` in `pg_type`.
const TEXT: u32 = 25;

/// The parameters of a query. SQLite takes `$1::int` for a name, which suits us.
pub(super) fn parameters(statement: &Statement<'_>) -> Result<Vec<Parameter>, Fault> {
    let of = |place: usize| {
        let name = statement.parameter_name(place).unwrap_or("?");
        let bad = || error("42601", format!("syntax error at or near \"{name}\": parameters are $1, $2 and so on"));
        let name = name.strip_prefix('$').ok_or_else(bad)?;
        let (number, cast) = match name.split_once("::") {
            Some((number, cast)) => {
                let missing = || error("42704", format!("type \"{cast}\" does not exist on the admin console"));
                (number, Some(Cast::by_name(cast).ok_or_else(missing)?))
            }
            None => (name, None),
        };
        let number = number.parse().ok().filter(|number| (1..=MAX_PARAMETERS).contains(number)).ok_or_else(bad)?;
        Ok(Parameter { place, number, cast })
    };
    (1..=statement.parameter_count()).map(of).collect()
}

/// The type of each: as the client says, else as it is cast, else `text`.
pub(super) fn parameter_types(parameters: &[Parameter], given: &[u32]) -> Result<Vec<u32>, Fault> {
    let count = parameters.iter().map(|p| p.number).max().unwrap_or(0).max(given.len());
    if count > MAX_PARAMETERS {
        return Err(error("54000", format!("too many parameters (more than {MAX_PARAMETERS})")));
    }
    let of = |number: usize| {
        let cast = parameters.iter().find(|p| p.number == number && p.cast.is_some()).and_then(|p| p.cast);
        match given.get(number - 1) {
            Some(oid) if *oid != 0 && *oid != UNKNOWN => *oid,
            _ => cast.map_or(TEXT, Cast::oid),
        }
    };
    Ok((1..=count).map(of).collect())
}

/// `unknown` in `pg_type`.
const UNKNOWN: u32 = 705;

/// A value of each type, to see what becomes of it. The text is one that LIMIT takes for a number.
pub(super) fn made_up(types: &[u32]) -> Vec<Value> {
    let of = |oid: &u32| match oid {
        16 | 20 | 21 | 23 | 26 | 1700 => Value::Int(1),
        700 | 701 => Value::Float(1.0),
        17 => Value::Bytes(Vec::new()),
        _ => Value::Text("1".to_owned()),
    };
    types.iter().map(of).collect()
}

/// Gives the parameters their values.
pub(super) fn bind(statement: &mut Statement<'_>, values: &[Value]) -> Result<(), super::Trouble> {
    for Parameter { place, number, cast } in parameters(statement)? {
        let missing = || error("42P02", format!("there is no parameter ${number}"));
        let value = match (cast, values.get(number - 1).ok_or_else(missing)?) {
            (Some(cast @ (Cast::Int | Cast::Bool | Cast::Float)), Value::Text(text)) => from_text(text, cast.oid())?,
            (Some(Cast::Text), Value::Int(n)) => Value::Text(n.to_string()),
            (_, value) => value.clone(),
        };
        statement.raw_bind_parameter(place, &value)?;
    }
    Ok(())
}

/// How a parameter comes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Encoding {
    Text,
    Binary,
}

/// The value that a Bind message gives to a parameter of this type.
pub(in crate::admin) fn decode(raw: &[u8], oid: u32, encoding: Encoding) -> Result<Value, Fault> {
    let text = |raw: &[u8]| {
        let bad = || error("22021", "invalid byte sequence for encoding \"UTF8\" in a parameter");
        String::from_utf8(raw.to_vec()).map_err(|_| bad())
    };
    if encoding == Encoding::Text {
        return from_text(&text(raw)?, oid);
    }
    let bad = || error("22P03", format!("incorrect binary data format in a parameter of the type {oid}"));
    Ok(match oid {
        16 => Value::Int(i64::from(u8::from_be_bytes(raw.try_into().map_err(|_| bad())?) != 0)),
        17 => Value::Bytes(raw.to_vec()),
        20 => Value::Int(i64::from_be_bytes(raw.try_into().map_err(|_| bad())?)),
        21 => Value::Int(i64::from(i16::from_be_bytes(raw.try_into().map_err(|_| bad())?))),
        23 => Value::Int(i64::from(i32::from_be_bytes(raw.try_into().map_err(|_| bad())?))),
        26 => Value::Int(i64::from(u32::from_be_bytes(raw.try_into().map_err(|_| bad())?))),
        700 => Value::Float(f64::from(f32::from_be_bytes(raw.try_into().map_err(|_| bad())?))),
        701 => Value::Float(f64::from_be_bytes(raw.try_into().map_err(|_| bad())?)),
        18 | 19 | 25 | 705 | 1042 | 1043 => Value::Text(text(raw)?),
        _ => {
            let text = format!("the admin console takes parameters of the type {oid} as text only");
            return Err(error("0A000", text));
        }
    })
}

fn from_text(text: &str, oid: u32) -> Result<Value, Fault> {
    let bad = |name: &str| error("22P02", format!("invalid input syntax for type {name}: \"{text}\""));
    let trimmed = text.trim();
    Ok(match oid {
        16 => match trimmed.to_ascii_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "on" | "1" => Value::Int(1),
            "f" | "false" | "n" | "no" | "off" | "0" => Value::Int(0),
            _ => return Err(bad("boolean")),
        },
        17 => Value::Bytes(bytes(text).ok_or_else(|| bad("bytea"))?),
        20 | 21 | 23 | 26 => Value::Int(trimmed.parse().map_err(|_| bad("bigint"))?),
        700 | 701 => Value::Float(trimmed.parse().map_err(|_| bad("double precision"))?),
        1700 => match trimmed.parse() {
            Ok(n) => Value::Int(n),
            Err(_) => Value::Float(trimmed.parse().map_err(|_| bad("numeric"))?),
        },
        _ => Value::Text(text.to_owned()),
    })
}

/// `bytea` in its hex form.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    rest.is_empty().then(|| pairs.iter().map(byte).collect()).flatten()
}
