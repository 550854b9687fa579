//! The admin console: the database `pgbouncer`, where operators run SHOW, PAUSE, RELOAD and the like.
//!
//! It decides what a console client's words mean, whether that client may say them, and every byte of the answer. It
//! must never know a socket, a pool or the configuration: it acts only by returning an [`Action`], and it sees the
//! process only as a [`Snapshot`](crate::snapshot::Snapshot).
//!
//! One [`Console`] serves one client. The driver hands it whole frames and gets a [`Turn`] back: bytes to send, and
//! then either "read on", "do this [`Action`] and come back with [`Console::finish`]" or "close". Frames must not be fed
//! while an action is under way.
//!
//! # Where it follows PgBouncer, and where it goes further
//!
//! Commands, limits, columns, tags and error texts are PgBouncer's, with these additions. All of them are answers
//! where PgBouncer has an error (or hangs up), so that ordinary drivers can be used on the console:
//!
//! - The extended query protocol works (asyncpg, pgjdbc and tokio-postgres know no other way), with prepared statements,
//!   text and binary results, and row limits. Only SQL takes parameters.
//! - `SELECT … FROM pools` and other SQL over the SHOW tables ([`sql`]).
//! - `BEGIN`, `START TRANSACTION`, `COMMIT`, `END`, `ROLLBACK` and `ABORT` (with their modifiers) do nothing: the answer
//!   is a notice and the tag. Drivers without autocommit send them unasked. The console has no transactions, the state in
//!   ReadyForQuery stays idle. Only named portals notice: they live until COMMIT or ROLLBACK, or give way to a new Bind.
//! - `SET` of `application_name`, `bytea_output`, `client_min_messages`, `extra_float_digits`, `intervalstyle` and
//!   `search_path` is answered like PgBouncer's five fake parameters: NOTICE `SET ignored`. None of them is a setting of
//!   pgtandem, so nothing an operator could mean gets lost.
//! - `DISCARD ALL`, `DEALLOCATE ALL` and `DEALLOCATE name` forget prepared statements of this console client.
//! - `RESET ALL`, `CLOSE ALL`, `UNLISTEN *` and `SELECT pg_advisory_unlock_all()`, alone or together in one query, do
//!   nothing: asyncpg's pool sends them all whenever a connection is given back.
//! - In the extended protocol an empty statement is no error (drivers use it as a probe). As a simple query it is.
//!
//! - SHOW STATS has `total_requests` and SHOW DATABASES `reserve_pool` behind their other columns: what older exporters ask for.
//! - `SHOW WHY` tells what each waiting client waits for, and which setting would help.
//! - `SHOW HA`, `SHOW HA HISTORY`, `SHOW HA LINK`, `SWITCHOVER [router]`, `HA MAINTENANCE ON|OFF` and `ON PAIR` behind PAUSE,
//!   RESUME, RELOAD, RECONNECT, DISABLE, ENABLE, KILL and WAIT_CLOSE are the commands of a pair.
//!
//! Stricter than PgBouncer: `KILL_CLIENT 12abc` is refused, not taken for client 12.

mod access;
mod action;
mod console;
mod extended;
mod grammar;
mod reply;
pub mod show;
pub mod sql;

pub use access::{Access, Entry, Knock, Rights};
pub use action::{Action, ActionResult, DatabaseStanding, Refusal, ShutdownMode, Standing, TLS_NOT_APPLIED, Verdict};
pub use console::{Console, Then, Turn};
pub use grammar::{Command, FakeParam, MAX_QUERY_BYTES, TransactionWord};
pub use reply::{Format, Formats, SERVER_VERSION, welcome};
pub use show::{Item, NO_PAIR};

#[cfg(test)]
mod tests;

use crate::snapshot::Needs;

/// Longest message body that the console takes: a Parse of the longest query under the longest name. The driver answers
/// longer ones with [`Console::oversized`] instead of buffering them.
pub const MAX_FRAME_BYTES: usize = MAX_QUERY_BYTES + 4096;

/// Name of the console's database and of the user that its Unix-socket back door lets in.
pub const CONSOLE_NAME: &str = "pgbouncer";

/// Which parts of a snapshot the command's answer is made from.
#[must_use]
pub fn needs(command: &Command) -> Needs {
    match command {
        Command::Show(item) => item.needs(),
        _ => Needs::NONE,
    }
}
