//! Is this process alive? Says so to the service manager (WatchdogSec=) only while every worker thread's loop goes round and a
//! probe passes the path that clients take. A dead PostgreSQL, PAUSE, a drain or a crowd of clients must not look like death.
//!
//! It runs on a thread of its own, as what it watches may be stuck. The probe is a client of the console on a socket pair:
//! accepted, logged in and answered by the same code and under the same locks as all clients, but not counted and not logged.

mod workers;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Handle;

pub use self::workers::Workers;
use self::workers::{Judge, Sample};
use super::service::Service;
use crate::clock::Time;
use crate::session::io::login::CONSOLE;
use crate::wire::frame::{HEAD_LEN, head};
use crate::wire::startup::{PROTOCOL_3_0, put_startup};

/// Rounds in one interval of the service manager.
const ROUNDS: u32 = 8;

/// More than the probe's answer can be, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024;

/// When all was last seen to be well. Readable without a lock, so that whoever asks cannot get stuck as well.
#[derive(Debug)]
pub struct Health {
    window: Duration,
    since: Time,
    /// Nanoseconds of [`Time`], plus one; 0: never.
    good_at: AtomicU64,
    /// What was wrong when last something was. Only this file and whoever asks after trouble lock it, and only for a moment.
    trouble: Mutex<String>,
}

impl Health {
    fn new(window: Duration) -> Self {
        Self { window, since: Time::now(), good_at: AtomicU64::new(0), trouble: Mutex::default() }
    }

    fn good(&self, at: Time) {
        self.good_at.store(at.0.saturating_add(1), Ordering::Release);
    }

    fn bad(&self, trouble: &str) {
        trouble.clone_into(&mut self.trouble.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was wrong when last something was; empty if nothing ever was.
    #[must_use]
    pub fn trouble(&self) -> String {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has anybody looked yet, or should have?
    #[must_use]
    pub fn is_known(&self, now: Time) -> bool {
        self.good_at.load(Ordering::Acquire) > 0 || now.since(self.since) > self.window
    }

    /// Was all well a moment ago, half an interval at most?
    #[must_use]
    pub fn healthy(&self, now: Time) -> bool {
        match self.good_at.load(Ordering::Acquire) {
            0 => false,
            at => now.since(Time(at - 1)) <= self.window,
        }
    }
}

/// The thread that watches; it ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    health: Arc<Health>,
    over: Arc<Over>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Over {
    is_so: Mutex<bool>,
    changed: Condvar,
}

impl Over {
    /// Sleeps, but not past the end. Is it the end?
    fn wait(&self, patience: Duration) -> bool {
        let is_so = self.is_so.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_so, patience, |is_so| !*is_so);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Watchdog {
    /// Begins to watch. `interval`: what the service manager waits for a sign of life; `admit` lets the probe in as a client on
    /// this stream, inside the runtime of `handle`.
    ///
    /// # Errors
    /// The kernel's, which has no thread left.
    pub fn start(
        interval: Duration,
        workers: Arc<Workers>,
        handle: Handle,
        service: Arc<Service>,
        admit: impl Fn(tokio::net::UnixStream) + Send + 'static,
    ) -> io::Result<Self> {
        let health = Arc::new(Health::new(interval / 2));
        let over = Arc::new(Over::default());
        let mut watch = Watch {
            interval,
            judge: Judge::new(interval / 2),
            workers,
            handle,
            service,
            health: Arc::clone(&health),
            admit,
            bad_rounds: 0,
            told: false,
        };
        let until = Arc::clone(&over);
        let run = move || {
            let period = interval / ROUNDS;
            let mut before = Time::now();
            loop {
                watch.round(before);
                before = Time::now();
                if until.wait(period) {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("pgtandem-watch".to_owned()).spawn(run)?;
        Ok(Self { health, over, thread: Some(thread) })
    }

    /// How things stand, for others who must know.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.over.is_so.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watch<A> {
    interval: Duration,
    judge: Judge,
    workers: Arc<Workers>,
    handle: Handle,
    service: Arc<Service>,
    health: Arc<Health>,
    admit: A,
    bad_rounds: u32,
    told: bool,
}

impl<A: Fn(tokio::net::UnixStream)> Watch<A> {
    /// `slept_at`: when the sleep before this round began.
    fn round(&mut self, slept_at: Time) {
        let began = Time::now();
        let quarter = self.interval / 4;
        // This thread was not there either: the whole process was stopped, and nothing can be told from its standing still.
        let mut absent = began.since(slept_at) > self.interval / ROUNDS + quarter;
        if absent {
            self.judge.forgive(began);
        }
        let stuck = self.judge.stuck(began, &Sample::take(&self.handle.metrics(), &self.workers));
        let probed = self.probe(quarter);
        absent |= Time::now().since(began) > quarter * 2;
        // That has been seen in several rounds already.
        let certain = stuck.is_some();
        let trouble =
            stuck.or_else(|| probed.err().map(|e| format!("a probe by the way that clients take failed: {e}")));
        match trouble {
            None => {
                if std::mem::take(&mut self.bad_rounds) > 0 {
                    tracing::warn!("watchdog: all is well again");
                }
                self.told = false;
                self.health.good(began);
                self.service.alive();
            }
            Some(_) if absent => {}
            Some(trouble) => {
                self.bad_rounds += 1;
                self.health.bad(&trouble);
                if self.bad_rounds == 1 {
                    tracing::error!("watchdog: {trouble}");
                }
                if (certain || self.bad_rounds == 2) && !self.told {
                    // Sooner than the service manager would find out: clients are waiting.
                    self.told = true;
                    self.service.stuck();
                }
            }
        }
    }

    fn probe(&self, patience: Duration) -> Result<(), String> {
        let pair = UnixStream::pair().and_then(|(ours, theirs)| {
            theirs.set_nonblocking(true)?;
            let _inside = self.handle.enter();
            Ok((ours, tokio::net::UnixStream::from_std(theirs)?))
        });
        let (ours, theirs) = match pair {
            Ok(pair) => pair,
            Err(error) => {
                // Out of descriptors is no death: those who are in are served.
                tracing::debug!("watchdog: no socket for a probe: {error}");
                return Ok(());
            }
        };
        (self.admit)(theirs);
        converse(ours, Time::now() + patience)
    }
}

/// Logs in to the console and asks it something.
fn converse(mut stream: UnixStream, deadline: Time) -> Result<(), String> {
    let mut request = Vec::new();
    let console = CONSOLE.as_bytes();
    put_startup(&mut request, PROTOCOL_3_0, [(&b"user"[..], console), (b"database", console)]);
    let talk = |stream: &mut UnixStream, request: &[u8], what: &'static str| {
        exchange(stream, request, deadline).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("no answer to {what}"),
            _ => format!("{what}: {error}"),
        })
    };
    talk(&mut stream, &request, "login")?;
    talk(&mut stream, b"Q\0\0\0\x11SHOW VERSION\0", "SHOW VERSION")?;
    // It may have hung up already.
    let _ = stream.write_all(b"X\0\0\0\x04");
    Ok(())
}

/// Sends a request and reads up to ReadyForQuery.
fn exchange(stream: &mut UnixStream, request: &[u8], deadline: Time) -> io::Result<()> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request)?;
    let mut input = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        while let Some(head) = head(&input).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            let Some(body) = input.get(HEAD_LEN..head.total) else { break };
            match head.tag {
                b'Z' => return Ok(()),
                b'E' => {
                    let text = String::from_utf8_lossy(body).replace('\0', " ");
                    return Err(io::Error::other(text));
                }
                _ => drop(input.drain(..head.total)),
            }
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        let n = stream.read(&mut chunk)?;
        input.extend_from_slice(chunk.get(..n).unwrap_or_default());
        if n == 0 || input.len() > ANSWER_LEN_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn left(deadline: Time) -> io::Result<Duration> {
    let left = deadline.since(Time::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

#[cfg(test)]
mod tests;
