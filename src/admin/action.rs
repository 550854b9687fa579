//! What the console asks the daemon to do, the reasons why it may refuse, and the order in which PgBouncer looks for them.

use std::borrow::Cow;

use super::access::Rights;
use super::grammar::{self, Command};
use super::reply::Formats;
use super::show::{Item, NO_PAIR};
use super::sql;
use crate::fault::{Culprit, Fault};
use crate::snapshot::{Activity, Needs, Snapshot};

/// How SHUTDOWN ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// At once; the console client sees its connection close and gets no answer.
    Now,
    /// When no server is in use any more.
    WaitForServers,
    /// When the last client has left.
    WaitForClients,
}

/// Something only the daemon can do. After it, [`Console::finish`](super::Console::finish) makes the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take a picture of these parts.
    Show {
        /// What is shown.
        item: Item,
        /// The parts of the picture that it is made from.
        needs: Needs,
    },
    /// Run SQL over the tables: [`sql::run`], on a thread of its own.
    Sql(Box<sql::Job>),
    /// Change one setting until the next RELOAD.
    Set {
        /// The setting's name, as typed.
        key: String,
        /// The new value, unquoted.
        value: String,
    },
    /// Read the configuration anew.
    Reload,
    /// Stop handing out servers; done when none is in use. `None` is every database.
    Pause(Option<String>),
    /// Undo PAUSE, SUSPEND and KILL.
    Resume(Option<String>),
    /// Stop reading; done when every buffer is empty.
    Suspend,
    /// Refuse new logins to this database.
    Disable(String),
    /// Let new logins to this database in again.
    Enable(String),
    /// Replace every server connection as soon as it is free.
    Reconnect(Option<String>),
    /// Drop clients and servers at once and leave the database paused.
    Kill(Option<String>),
    /// Drop the client with this id.
    KillClient(u64),
    /// Done when no server waits to be replaced.
    WaitClose(Option<String>),
    /// End the process.
    Shutdown(ShutdownMode),
    /// Give the floating addresses of this virtual router (`None`: of every one that is active here) to the peer.
    Switchover(Option<String>),
    /// Hold no floating address from now on, or again as usual.
    HaMaintenance(bool),
    /// Do this here and at the peer. One of those that [`Self::to_command`] has a text for.
    OnPair(Box<Self>),
}

/// What came of an [`Action`].
#[derive(Debug)]
pub enum ActionResult {
    /// It is done (for [`Action::Shutdown`] with [`ShutdownMode::Now`] there is nothing to say to the client).
    Done,
    /// It is done, and the client is to read this NOTICE.
    DoneWithNotice(Cow<'static, str>),
    /// The picture that [`Action::Show`] asked for.
    Snapshot(Box<Snapshot>),
    /// What came of [`Action::Sql`].
    Sql(sql::Answer),
    /// It was not done, for one of the usual reasons.
    Refused(Refusal),
    /// A cancel request has ended it. (PgBouncer then resumes the pooler and leaves the client without an answer.)
    Cancelled,
    /// It was not done, for another reason.
    Failed(Fault),
}

/// NOTICE after a SET of a TLS setting that is accepted but cannot be put to use.
pub const TLS_NOT_APPLIED: &str = "TLS settings could not be applied, still using old configuration";

/// The usual reasons for not doing an [`Action`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// PAUSE, KILL or SUSPEND while the pooler is paused or suspended.
    AlreadyPaused,
    /// SUSPEND while single databases are paused: their clients could not be drained.
    PausedDatabases,
    /// RESUME of what is not paused.
    NotPaused,
    /// RESUME while a shutdown is under way.
    ShuttingDown,
    /// There is no such database.
    NoSuchDatabase,
    /// The console's own database.
    ConsoleDatabase,
    /// KILL_CLIENT: there is no such client.
    NoSuchClient,
    /// SET: unknown key or bad value (the log says which).
    SetFailed,
    /// RELOAD: the configuration or its TLS files do not load (the log says why); nothing was changed.
    ReloadFailed,
    /// There is no `[ha]`.
    NoPair,
    /// SWITCHOVER: there is no such virtual router.
    NoSuchRouter,
}

/// What the daemon knows that decides whether an action may start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing {
    /// Paused or suspended as a whole?
    pub activity: Activity,
    /// Is a shutdown under way?
    pub shutting_down: bool,
    /// Databases that are paused one by one.
    pub paused_databases: usize,
    /// The database that [`Action::database`] names, if there is one. Where [`Action::registers_database`] says so, the
    /// fallback entry `*` counts and is to be made a database first.
    pub database: Option<DatabaseStanding>,
}

/// The same for one database.
#[derive(Clone, Copy, Debug, Default)]
pub struct DatabaseStanding {
    /// Is it the console's own?
    pub is_console: bool,
    /// Is it paused by itself?
    pub is_paused: bool,
}

/// Whether an action may start, and whether it is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Log [`Action::log_text`] now: PgBouncer logs some commands that it then refuses.
    pub log: bool,
    /// Why it may not start.
    pub refusal: Option<Refusal>,
}

impl Action {
    /// The command's name in upper case, as it stands in the log and (but for SET) in the answer's tag.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Show { .. } => "SHOW",
            Self::Sql(_) => "SELECT",
            Self::Set { .. } => "SET",
            Self::Reload => "RELOAD",
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Suspend => "SUSPEND",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Reconnect(_) => "RECONNECT",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::WaitClose(_) => "WAIT_CLOSE",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Switchover(_) => "SWITCHOVER",
            Self::HaMaintenance(_) => "HA MAINTENANCE",
            Self::OnPair(action) => action.name(),
        }
    }

    /// The tag of CommandComplete.
    pub(super) fn tag(&self) -> String {
        match self {
            Self::Set { key, value } => format!("SET {key}={value}"),
            Self::HaMaintenance(on) => format!("HA MAINTENANCE {}", on_off(*on)),
            other => other.name().to_owned(),
        }
    }

    /// The log line (level LOG) of a command that acts: `PAUSE command issued` or `PAUSE 'db' command issued`. `None` for
    /// those that PgBouncer does not log. When it is due, [`Self::verdict`] tells.
    #[must_use]
    pub fn log_text(&self) -> Option<String> {
        match self {
            Self::Show { .. } | Self::Sql(_) | Self::Set { .. } | Self::KillClient(_) => None,
            Self::Shutdown(ShutdownMode::WaitForServers) => Some("SHUTDOWN WAIT_FOR_SERVERS command issued".to_owned()),
            Self::Shutdown(ShutdownMode::WaitForClients) => Some("SHUTDOWN WAIT_FOR_CLIENTS command issued".to_owned()),
            Self::Switchover(Some(router)) => Some(format!("SWITCHOVER '{router}' command issued")),
            Self::HaMaintenance(on) => Some(format!("HA MAINTENANCE {} command issued", on_off(*on))),
            Self::OnPair(action) => {
                action.log_text().map(|text| text.replace(" command issued", " ON PAIR command issued"))
            }
            other => Some(match other.database() {
                Some(db) => format!("{} '{db}' command issued", other.name()),
                None => format!("{} command issued", other.name()),
            }),
        }
    }

    /// The database that the command names.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::Pause(db) | Self::Resume(db) | Self::Reconnect(db) | Self::Kill(db) | Self::WaitClose(db) => {
                db.as_deref()
            }
            Self::Disable(db) | Self::Enable(db) => Some(db),
            Self::OnPair(action) => action.database(),
            _ => None,
        }
    }

    /// What is to be done on this node: the action itself, or that of an [`Self::OnPair`].
    #[must_use]
    pub fn here(&self) -> &Self {
        match self {
            Self::OnPair(action) => action,
            other => other,
        }
    }

    /// The text that means this action to the peer's console, for what can be done on both nodes of a pair; `None` for
    /// the rest.
    #[must_use]
    pub fn to_command(&self) -> Option<String> {
        let on_pair = matches!(
            self,
            Self::Reload
                | Self::Pause(_)
                | Self::Resume(_)
                | Self::Disable(_)
                | Self::Enable(_)
                | Self::Reconnect(_)
                | Self::Kill(_)
                | Self::WaitClose(_)
        );
        on_pair.then(|| match self.database() {
            Some(db) => format!("{} {}", self.name(), grammar::word(db)),
            None => self.name().to_owned(),
        })
    }

    /// The action that a text of [`Self::to_command`] means: what the peer asks of this node.
    ///
    /// # Errors
    /// What the grammar says; or that the text is a command, but none that a peer may give.
    pub fn from_command(text: &str) -> Result<Self, Fault> {
        let action = Self::admit(super::console::parse(text.as_bytes())?, Rights::Admin)?;
        let refused = || Fault::error(Culprit::Client, format!("{} is not a command for the peer", action.name()));
        match action.to_command() {
            Some(_) => Ok(action),
            None => Err(refused()),
        }
    }

    /// Does the command make a database of the fallback entry `*` if [`Self::database`] is not configured?
    #[must_use]
    pub fn registers_database(&self) -> bool {
        !matches!(self.here(), Self::Resume(_) | Self::Enable(_)) && self.database().is_some()
    }

    /// May the action start? Tells the same reason as PgBouncer where several apply.
    #[must_use]
    pub fn verdict(&self, standing: &Standing) -> Verdict {
        let busy = (standing.activity != Activity::Active).then_some(Refusal::AlreadyPaused);
        let before_log = match self.here() {
            Self::Pause(_) | Self::Kill(_) => busy,
            Self::Suspend => busy.or((standing.paused_databases > 0).then_some(Refusal::PausedDatabases)),
            _ => None,
        };
        if before_log.is_some() {
            return Verdict { log: false, refusal: before_log };
        }
        let refusal = match self.here() {
            Self::Resume(None) if standing.shutting_down => Some(Refusal::ShuttingDown),
            Self::Resume(None) => busy.is_none().then_some(Refusal::NotPaused),
            _ => self.database().and_then(|_| self.refused_for(standing.database)),
        };
        Verdict { log: self.log_text().is_some(), refusal }
    }

    fn refused_for(&self, database: Option<DatabaseStanding>) -> Option<Refusal> {
        let Some(database) = database else { return Some(Refusal::NoSuchDatabase) };
        if matches!(self.here(), Self::Resume(_)) {
            return (!database.is_paused).then_some(Refusal::NotPaused);
        }
        database.is_console.then_some(Refusal::ConsoleDatabase)
    }

    /// Does the refusal only say that things are already as the command wants them? Then a command for both nodes goes on
    /// to the other one, so that it can be said again after a node has missed it.
    #[must_use]
    pub fn is_already_so(&self, refusal: Refusal) -> bool {
        matches!(
            (self.here(), refusal),
            (Self::Pause(_), Refusal::AlreadyPaused) | (Self::Resume(_), Refusal::NotPaused)
        )
    }

    /// The error that tells the client why.
    #[must_use]
    pub fn refuse(&self, refusal: Refusal) -> Fault {
        let db = self.database().unwrap_or_default();
        let text = match refusal {
            Refusal::AlreadyPaused => "already suspended/paused".to_owned(),
            Refusal::PausedDatabases => "cannot suspend with paused databases".to_owned(),
            Refusal::NotPaused if self.database().is_some() => format!("database {db} is not paused"),
            Refusal::NotPaused => "pooler is not paused/suspended".to_owned(),
            Refusal::ShuttingDown => "pooler is shutting down".to_owned(),
            Refusal::NoSuchDatabase => format!("no such database: {db}"),
            Refusal::ConsoleDatabase => format!("cannot {} admin db: {db}", self.verb()),
            Refusal::NoSuchClient => "client not found".to_owned(),
            Refusal::SetFailed => "SET failed".to_owned(),
            Refusal::ReloadFailed => "RELOAD failed, see logs for additional details".to_owned(),
            Refusal::NoPair => NO_PAIR.to_owned(),
            Refusal::NoSuchRouter => match self {
                Self::Switchover(Some(router)) => format!("no such virtual router: {router}"),
                _ => "no such virtual router".to_owned(),
            },
        };
        let fault = Fault::error(Culprit::Client, text);
        match refusal {
            Refusal::ReloadFailed => Fault { culprit: Culprit::Config, ..fault }.with_sqlstate(CONFIG_FILE_ERROR),
            Refusal::NoPair => fault.with_sqlstate(WRONG_STATE),
            _ => fault,
        }
    }

    fn verb(&self) -> &'static str {
        match self.here() {
            Self::Pause(_) => "pause",
            Self::Disable(_) => "disable",
            Self::Enable(_) => "enable",
            Self::Reconnect(_) => "reconnect",
            Self::Kill(_) => "kill",
            Self::WaitClose(_) => "wait in",
            _ => "use",
        }
    }
}

/// SQLSTATE `config_file_error` (PostgreSQL docs, appendix A), which only a failed RELOAD carries.
const CONFIG_FILE_ERROR: &str = "F0000";

/// SQLSTATE `object_not_in_prerequisite_state`.
const WRONG_STATE: &str = "55000";

fn on_off(on: bool) -> &'static str {
    if on { "ON" } else { "OFF" }
}

impl Action {
    /// The action that a command asks for, if this client may ask for it and its argument is there.
    ///
    /// # Errors
    /// `admin access needed`; then what is wrong with the argument.
    pub(super) fn admit(command: Command, rights: Rights) -> Result<Self, Fault> {
        match &command {
            Command::Show(item) if *item != Item::Fds => {}
            // Which tables it reads, only the engine can tell.
            Command::Sql(_) => {}
            _ => rights.require_admin()?,
        }
        let named = |db: Option<String>| db.ok_or_else(|| Fault::error(Culprit::Client, "a database is required"));
        Ok(match command {
            Command::Show(item) => Self::Show { item, needs: item.needs() },
            Command::Sql(text) => {
                let ask = sql::Ask::Run { params: Vec::new(), types: None, formats: Formats::TEXT };
                Self::Sql(Box::new(sql::Job { text: text.into(), rights, ask }))
            }
            Command::Set { key, value } => Self::Set { key, value },
            Command::Reload => Self::Reload,
            Command::Pause(db) => Self::Pause(db),
            Command::Resume(db) => Self::Resume(db),
            Command::Suspend => Self::Suspend,
            Command::Disable(db) => Self::Disable(named(db)?),
            Command::Enable(db) => Self::Enable(named(db)?),
            Command::Reconnect(db) => Self::Reconnect(db),
            Command::Kill(db) => Self::Kill(db),
            Command::KillClient(Some(id)) => Self::KillClient(id),
            Command::KillClient(None) => {
                return Err(Fault::error(Culprit::Client, "invalid client pointer supplied"));
            }
            Command::WaitClose(db) => Self::WaitClose(db),
            Command::Shutdown(mode) => Self::Shutdown(mode),
            Command::Switchover(router) => Self::Switchover(router),
            Command::HaMaintenance(on) => Self::HaMaintenance(on),
            Command::OnPair(command) => Self::OnPair(Box::new(Self::admit(*command, rights)?)),
            Command::ShowFake(_)
            | Command::SetIgnored
            | Command::Transaction(_)
            | Command::Deallocate(_)
            | Command::DiscardAll
            | Command::ResetSession => {
                return Err(Fault::error(Culprit::Us, "not a command for the daemon").with_sqlstate("XX000"));
            }
        })
    }
}
