use std::net::Shutdown;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

use super::*;

const INTERVAL: Duration = Duration::from_millis(1600);

/// A console as short as can be.
async fn console(mut stream: tokio::net::UnixStream) {
    let mut buffer = [0; 256];
    while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {
        let answered = stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await;
        if answered.is_err() {
            return;
        }
    }
}

fn runtime(threads: usize) -> (Runtime, Arc<Workers>) {
    let workers = Arc::new(Workers::default());
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all();
    workers.attach(&mut builder);
    (builder.build().unwrap(), workers)
}

fn start(runtime: &Runtime, workers: &Arc<Workers>, answers: &Arc<AtomicBool>) -> Watchdog {
    let (inside, answers) = (runtime.handle().clone(), Arc::clone(answers));
    let admit = move |stream| {
        if answers.load(Ordering::SeqCst) {
            inside.spawn(console(stream));
        } else {
            // Taken, but never served.
            std::mem::forget(stream);
        }
    };
    Watchdog::start(INTERVAL, Arc::clone(workers), runtime.handle().clone(), Arc::default(), admit).unwrap()
}

fn wait_until(mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain");
        thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

#[test]
fn one_of_several_workers_in_a_circle_is_found_and_its_end_too() {
    let (runtime, workers) = runtime(3);
    let watchdog = start(&runtime, &workers, &Arc::new(AtomicBool::new(true)));
    let health = watchdog.health();
    wait_until(|| health.healthy(Time::now()));
    // Idle workers, busy workers and many short tasks are all well.
    for _ in 0..3 {
        runtime.spawn(async {
            let start = Instant::now();
            while start.elapsed() < INTERVAL * 2 {
                tokio::task::yield_now().await;
            }
        });
    }
    let start = Instant::now();
    while start.elapsed() < INTERVAL * 2 {
        assert!(health.healthy(Time::now()));
        thread::sleep(Duration::from_millis(20));
    }
    let go_on = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&go_on);
    runtime.spawn(async move {
        while !until.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
    });
    let took = wait_until(|| !health.healthy(Time::now()));
    assert!(took < INTERVAL * 2, "{took:?}");
    go_on.store(true, Ordering::SeqCst);
    wait_until(|| health.healthy(Time::now()));
}

#[test]
fn a_path_that_nobody_passes_is_found() {
    let (runtime, workers) = runtime(2);
    let answers = Arc::new(AtomicBool::new(true));
    let watchdog = start(&runtime, &workers, &answers);
    let health = watchdog.health();
    wait_until(|| health.healthy(Time::now()));
    answers.store(false, Ordering::SeqCst);
    wait_until(|| !health.healthy(Time::now()));
    answers.store(true, Ordering::SeqCst);
    wait_until(|| health.healthy(Time::now()));
    drop(watchdog);
}

#[test]
fn a_single_thread_that_is_also_the_first_is_watched() {
    let workers = Arc::new(Workers::default());
    let mut builder = Builder::new_current_thread();
    workers.attach(builder.enable_all());
    let runtime = builder.build().unwrap();
    let watchdog = start(&runtime, &workers, &Arc::new(AtomicBool::new(true)));
    let health = watchdog.health();
    runtime.block_on(async {
        while !health.healthy(Time::now()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        thread::sleep(INTERVAL * 2);
        assert!(!health.healthy(Time::now()));
        while !health.healthy(Time::now()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn answers_that_are_none_are_told_apart() {
    let soon = || Time::now() + Duration::from_millis(200);
    for (answer, wanted) in [
        (&b"R\0\0\0\x08\0\0\0\0"[..], "login: "),
        (b"E\0\0\0\x0aSFATAL", "login: "),
        (b"R\0\0", "login: "),
        (b"R\0\0\0\x01", "login: "),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(answer).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let error = converse(ours, soon()).unwrap_err();
        assert!(error.starts_with(wanted), "{error}");
    }
    let (ours, _silent) = UnixStream::pair().unwrap();
    assert_eq!(converse(ours, soon()).unwrap_err(), "no answer to login");
}

#[test]
fn health_grows_old() {
    let health = Health::new(Duration::from_secs(1));
    assert!(!health.healthy(Time(0)));
    health.good(Time(0));
    assert!(health.healthy(Time(1_000_000_000)) && !health.healthy(Time(1_000_000_001)));
}
