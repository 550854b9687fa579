//! The log: which events are written, in which form, and where to.
//!
//! Every line leaves in one write(2) before the call that logged it returns: what a client is told is in the log by then, and
//! nothing is lost when the process dies. Lines of several processes that append to one file do not mix (O_APPEND).

mod journal;
mod line;
mod syslog;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use self::journal::Journal;
use self::syslog::Syslog;
use super::places::remedy;
use crate::config::{LogFormat, SyslogFacility};

/// The target of events that end the process; they are logged as FATAL, not ERROR.
pub const FATAL: &str = "fatal";

/// From this verbosity on, events of the libraries are logged too.
const LIBRARIES_VERBOSITY: u32 = 3;

thread_local! {
    /// Is this thread at work for something that must leave no trace?
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does the work without a line in the log. (A dispatcher of tracing's own would not do: it would decide for everybody whether
/// a place that logs is enabled, if it came there first.)
pub fn quietly<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let mut work = Box::pin(work);
    poll_fn(move |cx| {
        let before = QUIET.replace(true);
        let polled = work.as_mut().poll(cx);
        QUIET.set(before);
        polled
    })
}

/// Is this thread doing work that must leave no trace? See [`quietly`].
#[must_use]
pub fn is_quiet() -> bool {
    QUIET.get()
}

/// Log why the process cannot go on. The caller ends it.
pub fn fatal(reason: &dyn fmt::Display) {
    tracing::error!(target: FATAL, "{reason}");
}

/// What is wrong with a place to log to.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be opened; the one before stays in use.
    #[error("could not open log file '{}': {error}{}", path.display(), remedy(path, error))]
    File {
        /// The setting `logfile`.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// journald does not listen; lines go on as before.
    #[error("could not reach systemd-journald for log_format=journald: {0}; use log_format=pgbouncer or json")]
    Journal(io::Error),
    /// There is no syslog daemon.
    #[error("could not reach syslog at /dev/log for syslog=1: {0}; start a syslog daemon, or set syslog=0 and logfile")]
    Syslog(io::Error),
    /// Something else in this process has set up logging.
    #[error("logging is set up already")]
    AlreadyStarted,
}

/// The handle by which a running process changes its log. Clones share one log.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("verbosity", &self.verbosity()).finish_non_exhaustive()
    }
}

impl Log {
    /// Log from now on: in PgBouncer's form, to stderr if so wanted, to no file yet (the configuration that names it is still
    /// to be read).
    ///
    /// # Errors
    /// [`LogError::AlreadyStarted`].
    pub fn start(verbosity: u32, stderr: bool) -> Result<Self, LogError> {
        let log = Self::new(verbosity, stderr);
        tracing::subscriber::set_global_default(log.subscriber()).map_err(|_| LogError::AlreadyStarted)?;
        Ok(log)
    }

    fn new(verbosity: u32, stderr: bool) -> Self {
        // As PgBouncer does: what systemd would wrap into a journal entry goes there as one, with its priority.
        let marked = stderr_is_journal();
        let journal = if marked { Journal::connect().ok() } else { None };
        let stderr = if stderr { Stderr::Open } else { Stderr::Quiet };
        Self::of(verbosity, Sinks { file: None, stderr, marked, form: LogFormat::Pgbouncer, journal, syslog: None })
    }

    #[cfg(test)]
    fn with_journal(verbosity: u32, journal: Journal) -> Self {
        let (stderr, form) = (Stderr::Quiet, LogFormat::Pgbouncer);
        Self::of(verbosity, Sinks { file: None, stderr, marked: false, form, journal: Some(journal), syslog: None })
    }

    fn of(verbosity: u32, sinks: Sinks) -> Self {
        Self { shared: Arc::new(Shared { verbosity: AtomicU32::new(verbosity), sinks: RwLock::new(sinks) }) }
    }

    fn subscriber(&self) -> impl Subscriber + Send + Sync + use<> {
        tracing_subscriber::registry().with(LogLayer { shared: Arc::clone(&self.shared) })
    }

    /// The present verbosity.
    #[must_use]
    pub fn verbosity(&self) -> u32 {
        self.shared.verbosity.load(Ordering::Relaxed)
    }

    /// Log up to LOG (0), DEBUG (1) or NOISE (2); from 3 on the libraries' events too (PgBouncer setting `verbose`).
    pub fn set_verbosity(&self, verbosity: u32) {
        if self.shared.verbosity.swap(verbosity, Ordering::Relaxed) != verbosity {
            tracing::callsite::rebuild_interest_cache();
        }
    }

    /// Write to stderr or not (`--quiet`; a process in the background has none).
    pub fn set_stderr(&self, wanted: bool) {
        self.shared.change().stderr = if wanted { Stderr::Open } else { Stderr::Quiet };
    }

    /// Change the form of the lines (setting `log_format`). With journald, entries go to the journal in place of stderr; a log
    /// file still gets PgBouncer's lines.
    ///
    /// # Errors
    /// [`LogError::Journal`]; the form stays as it was.
    pub fn set_format(&self, form: LogFormat) -> Result<(), LogError> {
        let mut sinks = self.shared.change();
        if form == LogFormat::Journald && sinks.journal.is_none() {
            sinks.journal = Some(Journal::connect().map_err(LogError::Journal)?);
        }
        sinks.form = form;
        Ok(())
    }

    /// Open the log file anew, so that a rotated or renamed setting takes effect; `None` or an empty path: write to none.
    ///
    /// # Errors
    /// [`LogError::File`]; lines go on to the file that was open.
    pub fn reopen(&self, path: Option<&Path>) -> Result<(), LogError> {
        let file = match path.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Some(open(path).map_err(|error| LogError::File { path: path.to_owned(), error })?),
            None => None,
        };
        self.shared.change().file = file;
        Ok(())
    }
}

impl Log {
    /// Send each line to syslog too, under this name and facility (PgBouncer settings syslog, syslog_ident, syslog_facility);
    /// `None`: do not.
    ///
    /// # Errors
    /// [`LogError::Syslog`]: nobody listens now; lines are sent as soon as somebody does.
    pub fn set_syslog(&self, wanted: Option<(SyslogFacility, &str)>) -> Result<(), LogError> {
        let syslog =
            wanted.map(|(facility, ident)| Syslog::new(facility, ident)).transpose().map_err(LogError::Syslog)?;
        let reached = syslog.as_ref().map_or(Ok(()), Syslog::is_there).map_err(LogError::Syslog);
        self.shared.change().syslog = syslog;
        reached
    }
}

struct Shared {
    verbosity: AtomicU32,
    sinks: RwLock<Sinks>,
}

impl Shared {
    fn sinks(&self) -> RwLockReadGuard<'_, Sinks> {
        self.sinks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Sinks> {
        self.sinks.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let verbosity = self.verbosity.load(Ordering::Relaxed);
        if is_ours(metadata.target()) {
            *metadata.level() <= level(verbosity)
        } else {
            // Their TRACE is for those who work on them: it would bury what is looked for.
            verbosity >= LIBRARIES_VERBOSITY && *metadata.level() <= Level::DEBUG
        }
    }
}

/// Where lines go.
struct Sinks {
    file: Option<File>,
    stderr: Stderr,
    /// Stderr leads to the journal, which takes priorities from the beginning of lines (sd-daemon(3)).
    marked: bool,
    form: LogFormat,
    journal: Option<Journal>,
    syslog: Option<Syslog>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stderr {
    Open,
    Quiet,
}

struct LogLayer {
    shared: Arc<Shared>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    // `never` and the hint make a disabled event cost one atomic load at the place where it stands.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.shared.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.shared.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(level(self.shared.verbosity.load(Ordering::Relaxed))))
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if QUIET.get() {
            return;
        }
        let sinks = self.shared.sinks();
        let use_journal = match sinks.form {
            LogFormat::Journald => true,
            LogFormat::Pgbouncer => sinks.stderr == Stderr::Open,
            LogFormat::Json => false,
        };
        let journal = sinks.journal.as_ref().filter(|_| use_journal);
        // A journal that takes nothing: stderr is the second best.
        let written = journal.is_some_and(|journal| journal.write(event).is_ok());
        let stderr = sinks.stderr == Stderr::Open && !written;
        if let Some(syslog) = &sinks.syslog {
            line::with_message(event, |message| syslog.write(journal::priority(event), message));
        }
        if sinks.file.is_some() || stderr {
            line::with_line(event, sinks.form == LogFormat::Json, |line| {
                if let Some(file) = &sinks.file {
                    write_line(file, line);
                }
                if stderr && sinks.marked {
                    write_line(io::stderr().lock(), &with_priority(line, journal::priority(event)));
                } else if stderr {
                    write_line(io::stderr().lock(), line);
                }
            });
        }
    }
}

/// Each line with its priority in front, as the journal reads them from stderr.
fn with_priority(text: &[u8], priority: u8) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| [format!("<{priority}>").as_bytes(), line].concat()).collect()
}

/// One write(2) per line. A full disk or a closed stderr must not stop the service, so errors end here.
fn write_line(mut sink: impl Write, line: &[u8]) {
    let _ = sink.write_all(line);
}

fn is_ours(target: &str) -> bool {
    target == FATAL || target.strip_prefix("pgtandem").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn level(verbosity: u32) -> Level {
    match verbosity {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

/// Does stderr lead to the journal? (`JOURNAL_STREAM`, systemd.exec(5).)
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned().map(File::from) else { return false };
    stderr.metadata().is_ok_and(|found| device.parse() == Ok(found.dev()) && inode.parse() == Ok(found.ino()))
}

fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    // In a container these are often pipes of another user, or sockets: they cannot be opened, but they are open.
    match (&opened, path.to_str()) {
        (Err(_), Some("/dev/stdout")) => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        (Err(_), Some("/dev/stderr")) => io::stderr().as_fd().try_clone_to_owned().map(File::from),
        _ => opened,
    }
}
