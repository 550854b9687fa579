//! Plain SQL over the SHOW tables: `SELECT … FROM pools`, with joins, aggregates, sub-queries and parameters.
//!
//! It decides what a query may read and how much it may cost; SQLite, an embedded engine, understands and runs it. Each
//! query has a database of its own in memory, which holds the tables that it names, as SHOW would print them at that
//! moment, and is gone with the answer. It must never know a socket, a file or a clock: the picture of the process and
//! the word that it is time to stop come from the driver, which runs this on a thread of its own, under no lock.
//!
//! What is refused: whatever is no reading of those tables. SQLite's authorizer is asked for each thing that a statement
//! wants to do, and only reading, functions and recursion are allowed; writes, ATTACH, PRAGMA and extensions are not, nor
//! SQLite's own tables. What is bounded: the query's length and depth, columns, values, rows and bytes of the answer, memory,
//! and by the driver time.

mod error;
mod tables;
mod value;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, Statement};

use super::access::Rights;
use super::reply::{self, Formats};
use super::show::{Column, Row, Type};
use crate::fault::Fault;
use crate::snapshot::{Needs, Snapshot};

pub(super) use error::error;
pub use tables::{SqlTable, VIEW_PREFIX, tables};
pub use value::Value;
pub(super) use value::{Encoding, decode};

/// Rows that an answer may have.
pub const MAX_ROWS: usize = 250_000;
/// Bytes that the values of an answer may take, each with what it costs beside its content.
pub const MAX_ANSWER_BYTES: usize = 128 * 1024 * 1024;
/// Memory for all queries of the process together, in bytes.
pub const MAX_HEAP_BYTES: u32 = 192 * 1024 * 1024;
/// Longest value that a query may make, in bytes: no single function call takes long with values of this length.
const MAX_VALUE_BYTES: i32 = 64 * 1024;
/// Steps of SQLite's machine between two looks at the clock.
const STEPS_BETWEEN_LOOKS: i32 = 50;

/// A query, and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// One statement.
    pub text: Arc<str>,
    /// Whose it is.
    pub rights: Rights,
    /// What for.
    pub ask: Ask,
}

/// What is to be done with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Is it right? Which parameters and columns has it? The types of parameters that the client has given, 0 for "not".
    Parse(Vec<u32>),
    /// Which types do the columns have? Columns of tables have their own; for others the query is run, with parameters made
    /// up of these types.
    Describe(Vec<u32>),
    /// The rows.
    Run {
        /// Values of `$1`, `$2`, …
        params: Vec<Value>,
        /// The types that the client has been told already.
        types: Option<Vec<Type>>,
        /// How it wants the values.
        formats: Formats,
    },
}

/// What came of a [`Job`].
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Ask::Parse`].
    Parsed {
        /// Types of the parameters, by their numbers in `pg_type`.
        params: Vec<u32>,
        /// Names of the columns.
        columns: Vec<String>,
    },
    /// To [`Ask::Describe`].
    Described(Vec<Column>),
    /// To [`Ask::Run`].
    Rows {
        /// Names and types.
        columns: Vec<Column>,
        /// How many rows.
        count: usize,
        /// The rows, as whole DataRow messages: made here, as that takes long for many.
        data: BytesMut,
    },
}

/// The rows of an answer: as many values in each as there are columns, each of its column's type.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Value>>,
}

/// What the driver lends for the time of a query.
pub struct World<'a> {
    /// Times of day are shown in this zone.
    pub zone: &'a TimeZone,
    /// What `now()` is, in microseconds since the Unix epoch.
    pub now_us: i64,
    /// Takes a picture of these parts.
    pub picture: &'a mut dyn FnMut(Needs) -> Snapshot,
    /// Is it time to stop? Asked often.
    pub stop: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Does the job.
///
/// # Errors
/// What is wrong with the query, as PostgreSQL would say it; a limit of ours; SQLSTATE 57014 if it was told to stop.
pub fn run(job: &Job, world: &mut World<'_>) -> Result<Answer, Fault> {
    match &job.ask {
        Ask::Parse(given) => with_engine(job, world, |engine, _| engine.parse(&job.text, given)),
        Ask::Describe(given) => with_engine(job, world, |engine, world| {
            engine.fill(job, world)?;
            Ok(Answer::Described(engine.describe(&job.text, given)?))
        }),
        Ask::Run { params, types, formats } => {
            let Found { columns, rows } = find(job, world, params, types.as_deref())?;
            let mut data = BytesMut::new();
            for row in &rows {
                let cells: Row<'_> = row.iter().map(Value::cell).collect();
                reply::data_row(&mut data, &columns, formats, &cells)?;
            }
            Ok(Answer::Rows { columns, count: rows.len(), data })
        }
    }
}

/// The rows of a query.
pub(super) fn find(job: &Job, world: &mut World<'_>, params: &[Value], types: Option<&[Type]>) -> Result<Found, Fault> {
    with_engine(job, world, |engine, world| {
        engine.fill(job, world)?;
        engine.rows(&job.text, params, types)
    })
}

fn with_engine<'w, T>(
    job: &Job,
    world: &mut World<'w>,
    work: impl FnOnce(&Engine, &mut World<'w>) -> Result<T, Trouble>,
) -> Result<T, Fault> {
    let engine = Engine::open(&job.text, world).map_err(|e| error::of_sqlite(&e, None))?;
    work(&engine, world).map_err(|trouble| match trouble {
        Trouble::Ours(fault) => fault,
        Trouble::Sqlite(e) => {
            let fault = error::of_sqlite(&e, engine.seen().refused.as_deref());
            // A probe of a driver, such as `select pg_is_in_recovery()`, is told what PgBouncer tells it.
            let probe = fault.sqlstate == error::NO_FUNCTION && !job.text.to_ascii_lowercase().contains("from");
            if probe { super::grammar::syntax_error(job.text.as_bytes()) } else { fault }
        }
    })
}

enum Trouble {
    Ours(Fault),
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Ours(fault)
    }
}

/// What the authorizer has seen.
#[derive(Debug, Default)]
struct Seen {
    /// Tables are being made and filled: by us, so that everything is allowed.
    ours: bool,
    /// The tables that the statement reads.
    used: Vec<SqlTable>,
    /// What it wanted to do and may not.
    refused: Option<String>,
}

struct Engine {
    connection: Connection,
    seen: Arc<Mutex<Seen>>,
}

impl Engine {
    /// A database with the tables that occur in the text, empty.
    fn open(text: &str, world: &World<'_>) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_MEMORY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_in_memory_with_flags(flags)?;
        // Sorting must not spill into files.
        connection.execute_batch(&format!(
            "PRAGMA temp_store = MEMORY; PRAGMA journal_mode = OFF; PRAGMA hard_heap_limit = {MAX_HEAP_BYTES};"
        ))?;
        let off = [
            DbConfig::SQLITE_DBCONFIG_DQS_DML,
            DbConfig::SQLITE_DBCONFIG_DQS_DDL,
            DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
        ];
        for config in off {
            connection.set_db_config(config, false)?;
        }
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        functions(&connection, world.now_us)?;
        let stop = Arc::clone(&world.stop);
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || stop()))?;
        for sql in tables::declarations(text) {
            connection.execute_batch(&sql)?;
        }
        limits(&connection)?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watch = Arc::clone(&seen);
        connection.authorizer(Some(move |context: AuthContext<'_>| {
            watch.lock().unwrap_or_else(PoisonError::into_inner).judge(&context.action)
        }))?;
        Ok(Self { connection, seen })
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prepare(&self, text: &str) -> Result<Statement<'_>, Trouble> {
        let statement = self.connection.prepare(text)?;
        // The authorizer has refused whatever writes; this is a second lock.
        if !statement.readonly() || statement.column_count() == 0 {
            return Err(error::read_only().into());
        }
        Ok(statement)
    }

    fn parse(&self, text: &str, given: &[u32]) -> Result<Answer, Trouble> {
        let statement = self.prepare(text)?;
        let params = value::parameter_types(&value::parameters(&statement)?, given)?;
        let columns = statement.column_names().map(str::to_owned).collect();
        Ok(Answer::Parsed { params, columns })
    }

    /// Puts the rows of a snapshot into the tables that the query reads.
    fn fill(&self, job: &Job, world: &mut World<'_>) -> Result<(), Trouble> {
        drop(self.prepare(&job.text)?);
        let used = self.seen().used.clone();
        for table in &used {
            table.allow(job.rights)?;
        }
        let needs = used.iter().fold(Needs::NONE, |needs, table| needs | table.item.needs());
        // version() is told by every picture.
        let snapshot = (world.picture)(needs);
        self.seen().ours = true;
        let filled = self.fill_from(&used, &snapshot, world.zone);
        self.seen().ours = false;
        Ok(filled?)
    }

    fn fill_from(&self, used: &[SqlTable], snapshot: &Snapshot, zone: &TimeZone) -> rusqlite::Result<()> {
        let version = snapshot.version.clone();
        let flags = FunctionFlags::SQLITE_UTF8;
        self.connection.create_scalar_function(c"version", 0, flags, move |_| Ok(version.clone()))?;
        self.connection.execute_batch("BEGIN")?;
        for table in used {
            tables::fill(&self.connection, *table, snapshot, zone)?;
        }
        self.connection.execute_batch("COMMIT")
    }

    /// The types of the columns: those of tables, else of the values that there are, else what SQLite says of the
    /// expression, such as a CAST, else `text`.
    fn describe(&self, text: &str, given: &[u32]) -> Result<Vec<Column>, Trouble> {
        let mut statement = self.prepare(text)?;
        let declared = declared(&statement);
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        value::bind(&mut statement, &value::made_up(given))?;
        let rows = match read(&mut statement) {
            // The values that will come may do better.
            Err(Trouble::Sqlite(trouble)) if !given.is_empty() && !error::is_about_cost(&trouble) => Vec::new(),
            rows => rows?,
        };
        drop(statement);
        let mut types: Vec<Option<Type>> = (0..names.len())
            .map(|at| {
                let declared = declared.get(at).copied().flatten();
                declared.or_else(|| value::common_type(rows.iter().filter_map(|row| row.get(at))))
            })
            .collect();
        if types.contains(&None) {
            self.seen().ours = true;
            let stored = self.stored_types(text, given);
            self.seen().ours = false;
            types.iter_mut().zip(stored).for_each(|(ty, stored)| *ty = ty.or(stored));
        }
        let column =
            |(name, ty): (String, Option<Type>)| Column { name: Cow::Owned(name), ty: ty.unwrap_or(Type::Text) };
        Ok(names.into_iter().zip(types).map(column).collect())
    }

    /// The types that a table made of the query's answer would have. It reads what the authorizer has allowed already.
    fn stored_types(&self, text: &str, given: &[u32]) -> Vec<Option<Type>> {
        let store = || -> Result<Vec<Option<Type>>, Trouble> {
            let mut statement = self.connection.prepare(&format!("CREATE TEMP TABLE \"described\" AS {text}"))?;
            value::bind(&mut statement, &value::made_up(given))?;
            statement.raw_execute()?;
            Ok(declared(&self.connection.prepare("SELECT * FROM temp.\"described\"")?))
        };
        store().unwrap_or_default()
    }

    /// Runs the query. `types` are those that the columns must have.
    fn rows(&self, text: &str, params: &[Value], types: Option<&[Type]>) -> Result<Found, Trouble> {
        let mut statement = self.prepare(text)?;
        value::bind(&mut statement, params)?;
        let declared = declared(&statement);
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = read(&mut statement)?;
        let types: Vec<Type> = match types {
            Some(types) => types.to_vec(),
            None => {
                let of = |(at, declared): (usize, &Option<Type>)| {
                    let found = declared.or_else(|| value::common_type(rows.iter().filter_map(|row| row.get(at))));
                    found.unwrap_or(Type::Text)
                };
                declared.iter().enumerate().map(of).collect()
            }
        };
        for row in &mut rows {
            for ((value, ty), name) in row.iter_mut().zip(&types).zip(&names) {
                value.make(*ty, name)?;
            }
        }
        let columns = names.into_iter().zip(types).map(|(name, ty)| Column { name: Cow::Owned(name), ty });
        Ok(Found { columns: columns.collect(), rows })
    }
}

/// The types of the columns that are columns of tables.
fn declared(statement: &Statement<'_>) -> Vec<Option<Type>> {
    statement.columns().map(|column| tables::declared_type(column.decl_type())).collect()
}

/// The rows, unless they are too many.
fn read(statement: &mut Statement<'_>) -> Result<Vec<Vec<Value>>, Trouble> {
    let width = statement.column_count();
    let mut rows = Vec::new();
    let mut bytes = 0_usize;
    let mut cursor = statement.raw_query();
    while let Some(row) = cursor.next()? {
        let values = (0..width).map(|at| Ok(Value::from(row.get_ref(at)?)));
        let values = values.collect::<rusqlite::Result<Vec<Value>>>()?;
        bytes = values.iter().fold(bytes, |sum, value| sum.saturating_add(value.cost()));
        if rows.len() == MAX_ROWS {
            return Err(error::too_much(format!("the answer has more than {MAX_ROWS} rows")).into());
        }
        if bytes > MAX_ANSWER_BYTES {
            return Err(error::too_much(format!("the answer is longer than {MAX_ANSWER_BYTES} bytes")).into());
        }
        rows.push(values);
    }
    Ok(rows)
}

/// SQLite's own limits (sqlite.org/limits.html), far below its defaults.
fn limits(connection: &Connection) -> rusqlite::Result<()> {
    let longest = i32::try_from(super::MAX_QUERY_BYTES).unwrap_or(i32::MAX).saturating_add(1);
    let all = [
        (Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, longest),
        (Limit::SQLITE_LIMIT_COLUMN, 256),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
        (Limit::SQLITE_LIMIT_PARSER_DEPTH, 500),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 50),
        (Limit::SQLITE_LIMIT_VDBE_OP, 100_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 100),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1_000),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 256),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ];
    for (limit, value) in all {
        connection.set_limit(limit, value)?;
    }
    Ok(())
}

/// Functions of PostgreSQL's that dashboards call and SQLite has not.
fn functions(connection: &Connection, now_us: i64) -> rusqlite::Result<()> {
    let now = Timestamp::from_microsecond(now_us).map(|now| now.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string());
    let now = now.unwrap_or_default();
    let flags = FunctionFlags::SQLITE_UTF8;
    connection.create_scalar_function(c"now", 0, flags, move |_| Ok(now.clone()))?;
    connection.create_scalar_function(c"version", 0, flags, |_| Ok(String::new()))?;
    connection.create_scalar_function(c"current_database", 0, flags, |_| Ok(super::CONSOLE_NAME.to_owned()))
}

impl Seen {
    /// May a statement do this?
    fn judge(&mut self, action: &AuthAction<'_>) -> Authorization {
        if self.ours {
            return Authorization::Allow;
        }
        let refused = match action {
            AuthAction::Select | AuthAction::Recursive => return Authorization::Allow,
            AuthAction::Function { function_name } if !forbidden(function_name) => return Authorization::Allow,
            AuthAction::Function { function_name } => format!("function {function_name}"),
            AuthAction::Read { table_name, .. } => {
                if let Some(table) = SqlTable::by_name(table_name) {
                    if !self.used.contains(&table) {
                        self.used.push(table);
                    }
                    return Authorization::Allow;
                }
                // Names of sub-queries and of WITH come here, too; but for the tables above and what SQLite itself makes
                // there is nothing to read.
                let own = ["sqlite_", "pragma_", "dbstat"].iter().any(|start| starts_with(table_name, start));
                if !own {
                    return Authorization::Allow;
                }
                format!("table {table_name}")
            }
            _ => String::new(),
        };
        self.refused = Some(refused);
        Authorization::Deny
    }
}

/// Functions that reach out of the database, or look into the engine.
fn forbidden(function: &str) -> bool {
    ["load_extension", "sqlite_", "fts", "rtree", "match"].iter().any(|start| starts_with(function, start))
}

fn starts_with(name: &str, start: &str) -> bool {
    name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}
