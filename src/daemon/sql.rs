//! Runs the console's SQL: on a thread of its own that yields to everything else, a bounded number at a time, for a bounded
//! time, and no longer than the client is there.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use jiff::tz::TimeZone;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::console::{Client, fill};
use super::run::Daemon;
use crate::admin::sql::{Answer, Ask, Job, World, run};
use crate::admin::{ActionResult, MAX_FRAME_BYTES};
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::sys::process::yield_to_others;

/// How long a query may run.
const MAX_RUN: Duration = Duration::from_secs(5);
/// Stack of a query's thread, in bytes: far more than the deepest query takes.
const STACK_BYTES: usize = 8 << 20;
/// How many run at a time; the others wait. Each console client has one at most.
static SLOTS: Semaphore = Semaphore::const_new(2);

/// Does a job for a console client.
///
/// # Errors
/// The client has left, or must leave: the query is stopped.
pub(super) async fn perform(daemon: &Arc<Daemon>, client: Option<&mut Client>, job: &Job) -> io::Result<ActionResult> {
    let Some(client) = client else {
        return Ok(ActionResult::Failed(failed("SQL is for clients of the console only")));
    };
    let stop = StopOnDrop(Arc::default());
    let work = work(daemon, job.clone(), Arc::clone(&stop.0));
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return Ok(outcome.map_or_else(ActionResult::Failed, ActionResult::Sql)),
            filled = fill(client), if client.input.len() < MAX_FRAME_BYTES => filled?,
        }
    }
}

/// The query's end is near when its client is gone.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn work(daemon: &Arc<Daemon>, job: Job, stop: Arc<AtomicBool>) -> Result<Answer, Fault> {
    let slot = SLOTS.acquire().await.map_err(|_| failed("SQL is not served any more"))?;
    let (told, answer) = oneshot::channel();
    let daemon = Arc::clone(daemon);
    let thread = std::thread::Builder::new().name("console-sql".to_owned()).stack_size(STACK_BYTES);
    let spawned = thread.spawn(move || {
        let outcome = in_thread(&daemon, &job, stop, slot);
        // The client may have left.
        let _ = told.send(outcome);
    });
    spawned.map_err(|error| failed(&format!("no thread for SQL: {error}")).with_sqlstate("53000"))?;
    answer.await.map_err(|_| failed("internal error: the SQL engine has failed"))?
}

/// The slot is given back at the thread's end, which may be later than the client's.
fn in_thread(
    daemon: &Daemon,
    job: &Job,
    stop: Arc<AtomicBool>,
    _slot: SemaphorePermit<'static>,
) -> Result<Answer, Fault> {
    if matches!(job.ask, Ask::Parse(_)) {
        yield_to_others();
    }
    let deadline = Time::now() + MAX_RUN;
    let now = Time::now().system().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut world = World {
        zone: &TimeZone::system(),
        now_us: i64::try_from(now.as_micros()).unwrap_or(i64::MAX),
        picture: &mut |needs| {
            let picture = daemon.picture(needs);
            // Not before: whoever gives way must hold no lock that clients wait for.
            yield_to_others();
            picture
        },
        stop: Arc::new(move || stop.load(Ordering::Relaxed) || Time::now() >= deadline),
    };
    run(job, &mut world)
}

fn failed(text: &str) -> Fault {
    Fault::error(Culprit::Us, text.to_owned()).with_sqlstate("XX000")
}
