//! What a service manager sees of the program: readiness, status, reload, stop, signs of life, and the sockets that it hands
//! over (sd_notify(3), sd_listen_fds(3)). The tests play the service manager to the real binary.

#![expect(clippy::unwrap_used, reason = "a failing test must stop")]

#[path = "driver_tokio_postgres/postgres.rs"]
mod postgres;
#[path = "driver_tokio_postgres/process.rs"]
mod process;
#[path = "service_notify/spin.rs"]
mod spin;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chown};

use postgres::Postgres;
use process::{Folder, PATIENCE, account, free_port, unprivileged, wait_until};

/// The service manager's end, and the program that it has started.
struct Manager {
    folder: Folder,
    socket: UnixDatagram,
    port: u16,
    program: Option<Child>,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new();
        let path = folder.file("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        if let Some(user) = account() {
            chown(&path, Some(user.uid), Some(user.gid)).unwrap();
        }
        Self { folder, socket, port: free_port(), program: None }
    }

    fn configure(&self, databases: &str, more: &str) -> PathBuf {
        let users = self.folder.put("users", "\"alice\" \"\"\n\"admin\" \"\"\n");
        let text = format!(
            "[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\nadmin_users = admin\npool_mode = transaction\nlogfile = {}\n{more}\n",
            self.port,
            users.display(),
            self.folder.file("log").display(),
        );
        self.folder.put("ini", text)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.file("log")).unwrap_or_default()
    }

    fn start(&mut self, command: &mut Command) {
        unprivileged(command).env("NOTIFY_SOCKET", self.folder.file("notify"));
        self.program = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    /// As `ExecStart=pgtandem FILE`.
    fn run(&mut self) {
        let file = self.folder.file("ini");
        self.start(Command::new(program()).arg(file));
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.program.as_ref().unwrap().id()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// The next message, if one comes in time.
    fn hear(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(len) => Some(String::from_utf8(buffer.get(..len).unwrap().to_vec()).unwrap()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn next(&self) -> String {
        self.hear(PATIENCE).unwrap_or_else(|| panic!("no message\n{}", self.log()))
    }

    /// The next message that is more than a status or a sign of life.
    fn next_event(&self) -> String {
        loop {
            let message = self.next();
            if !message.starts_with("STATUS=") && !message.starts_with("WATCHDOG=") {
                return message;
            }
        }
    }

    fn until_status(&self, wanted: &str) {
        let wanted = format!("STATUS={wanted}\n");
        loop {
            let message = self.next();
            if message.ends_with(&wanted) {
                return;
            }
        }
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        let mut program = self.program.take().unwrap();
        let mut status = None;
        wait_until("the program ends", || {
            status = program.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take() {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_pgtandem")
}

fn start_postgres() -> Postgres {
    let folder = Folder::new();
    let (certificate, key) = (folder.file("c"), folder.file("k"));
    let mut command = Command::new("openssl");
    command.args(["req", "-new", "-x509", "-nodes", "-subj", "/CN=localhost", "-out"]).arg(&certificate);
    assert!(command.arg("-keyout").arg(&key).output().unwrap().status.success());
    let pair = (std::fs::read(certificate).unwrap(), std::fs::read(key).unwrap());
    Postgres::start((&pair.0, &pair.1), "host all all 127.0.0.1/32 trust\n", &["create role alice login"])
}

/// Logs in as a client and stays; the stream is in order for queries.
fn log_in(mut stream: impl Read + Write, user: &str, database: &str) -> io::Result<()> {
    let body = format!("\0\x03\0\0user\0{user}\0database\0{database}\0\0");
    stream.write_all(&u32::try_from(body.len() + 4).unwrap().to_be_bytes())?;
    stream.write_all(body.as_bytes())?;
    until_ready(stream)
}

fn query(mut stream: impl Read + Write, text: &str) -> io::Result<()> {
    stream.write_all(b"Q")?;
    stream.write_all(&u32::try_from(text.len() + 5).unwrap().to_be_bytes())?;
    stream.write_all(text.as_bytes())?;
    stream.write_all(b"\0")?;
    until_ready(stream)
}

fn until_ready(mut stream: impl Read) -> io::Result<()> {
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let [tag, len @ ..] = head;
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(len)).unwrap() - 4];
        stream.read_exact(&mut body)?;
        match tag {
            b'Z' => return Ok(()),
            b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
            _ => {}
        }
    }
}

fn assert_reloading(message: &str) {
    let usec = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{message}"));
    assert!(usec.trim_end().parse::<u64>().unwrap() > 0, "{message}");
}

#[test]
fn the_service_manager_hears_the_truth_in_order() {
    let postgres = start_postgres();
    let mut manager = Manager::new();
    let databases = format!("app = host=127.0.0.1 port={} dbname=postgres user=alice", postgres.port);
    manager.configure(&databases, "");
    manager.run();
    let idle = "serving: 0 clients, 0 servers (0 active), 0 waiting; standalone";
    assert_eq!(manager.next(), format!("READY=1\nSTATUS={idle}\n"));
    // Ready means that clients get in.
    let mut client = manager.connect();
    log_in(&client, "alice", "app").unwrap();
    manager.until_status("serving: 1 client, 1 server (0 active), 0 waiting; standalone");
    query(&client, "begin").unwrap();
    manager.until_status("serving: 1 client, 1 server (1 active), 0 waiting; standalone");
    // Nothing is said if there is nothing new.
    assert_eq!(manager.hear(Duration::from_millis(2500)), None);

    let now = "1 client, 1 server (1 active), 0 waiting; standalone";
    manager.signal(Signal::SIGHUP);
    assert_reloading(&manager.next());
    assert_eq!(manager.next(), format!("READY=1\nERRNO=0\nSTATUS=serving: {now}\n"));
    manager.configure(&databases, "max_client_con = 10");
    manager.signal(Signal::SIGHUP);
    assert_reloading(&manager.next());
    let refused = manager.next();
    assert!(refused.starts_with("READY=1\nERRNO=22\nSTATUS=serving; reload failed: "), "{refused}");
    assert!(refused.contains("max_client_con") && refused.ends_with(&format!("; {now}\n")), "{refused}");
    assert_eq!(refused.lines().count(), 3, "{refused}");
    manager.configure(&databases, "");
    // The console's RELOAD is a reload too.
    let console = manager.connect();
    log_in(&console, "admin", "pgbouncer").unwrap();
    query(&console, "RELOAD").unwrap();
    assert_reloading(&manager.next());
    assert_eq!(manager.next(), format!("READY=1\nERRNO=0\nSTATUS=serving: {now}\n"));

    // The console does not count.
    manager.signal(Signal::SIGTERM);
    let waiting = format!("draining, waiting for clients to leave: {now}");
    assert_eq!(manager.next_event(), format!("STOPPING=1\nSTATUS={waiting}\n"));
    let more = manager.next_event();
    let usec = more.strip_prefix("EXTEND_TIMEOUT_USEC=").unwrap_or_else(|| panic!("{more}"));
    assert!(usec.trim_end().parse::<u64>().unwrap() >= 10_000_000, "{more}");
    wait_until("nobody new gets in", || TcpStream::connect(("127.0.0.1", manager.port)).is_err());
    query(&client, "commit").unwrap();
    client.write_all(b"X\0\0\0\x04").unwrap();
    drop(client);
    assert!(manager.wait().success());
    while let Some(message) = manager.hear(Duration::from_millis(50)) {
        assert!(message.starts_with("STATUS=") || message.starts_with("EXTEND_TIMEOUT_USEC="), "{message}");
    }
}

#[test]
fn a_dead_server_is_told_of_and_keeps_nobody_from_being_ready() {
    // Nobody there; somebody who takes connections and says nothing; nobody, and no login that could be tried.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let (deaf_port, closed) = (deaf.local_addr().unwrap().port(), free_port());
    for (database, reason) in [
        (format!("app = host=127.0.0.1 port={closed} user=alice"), "connect failed: Connection refused (os error 111)"),
        (format!("app = host=127.0.0.1 port={deaf_port} user=alice"), "no answer in 3 s"),
        (format!("app = host=127.0.0.1 port={closed}"), "connect failed: Connection refused (os error 111)"),
    ] {
        let mut manager = Manager::new();
        manager.configure(&database, "");
        manager.run();
        assert_eq!(
            manager.next(),
            format!(
                "READY=1\nSTATUS=serving; server login failed: database \"app\": {reason}; \
                 0 clients, 0 servers (0 active), 0 waiting; standalone\n"
            )
        );
        log_in(manager.connect(), "admin", "pgbouncer").unwrap();
        assert!(manager.log().contains("first login to a server of database \"app\" failed"), "{}", manager.log());
        manager.signal(Signal::SIGTERM);
        assert!(manager.next_event().starts_with("STOPPING=1\n"));
        assert!(manager.wait().success());
    }
    // Reachable is all that can be known here.
    let mut manager = Manager::new();
    manager.configure(&format!("app = host=127.0.0.1 port={deaf_port}"), "");
    manager.run();
    assert!(manager.next().starts_with("READY=1\nSTATUS=serving: "));
}

/// `LISTEN_PID` must be that of the program, which only its own shell knows before.
fn activated(script: &str, first: impl Into<OwnedFd>, second: impl Into<OwnedFd>) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).stdin(Stdio::from(first.into())).stdout(Stdio::from(second.into()));
    command
}

#[test]
fn inherited_sockets_serve_and_stay() {
    let manager = Manager::new();
    let (wanted, extra) =
        (TcpListener::bind(("127.0.0.1", manager.port)).unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let extra_port = extra.local_addr().unwrap().port();
    let dir = manager.folder.path().display().to_string();
    let socket = manager.folder.file(&format!(".s.PGSQL.{}", manager.port));
    let unix = UnixListener::bind(&socket).unwrap();
    let databases = "app = host=127.0.0.1 port=1";
    let file = manager.configure(databases, &format!("unix_socket_dir = {dir}")).display().to_string();
    // 3, 4: TCP; 5: Unix; 6: not a socket; 7: not open; 8: of the hand-over.
    let program = program();
    let script = format!(
        "exec 3<&0 4<&1 5<&2 6</dev/null 8</dev/null 0</dev/null 1>/dev/null 2>/dev/null; \
         LISTEN_FDS=6 LISTEN_PID=$$ LISTEN_FDNAMES=pgtandem-tcp:x:pgtandem.socket:junk:closed:pgtandem-handover-state \
         exec {program} {file}"
    );
    let mut command = activated(&script, wanted.try_clone().unwrap(), extra);
    unprivileged(&mut command).stdin(Stdio::from(OwnedFd::from(wanted)));
    command.env("NOTIFY_SOCKET", manager.folder.file("notify")).stderr(Stdio::from(OwnedFd::from(unix)));
    let mut manager = manager;
    manager.program = Some(command.spawn().unwrap());
    // The shell's redirections must not be held here.
    drop(command);
    assert!(manager.next().starts_with("READY=1\n"), "{}", manager.log());
    log_in(manager.connect(), "admin", "pgbouncer").unwrap();
    log_in(TcpStream::connect(("127.0.0.1", extra_port)).unwrap(), "admin", "pgbouncer").unwrap();
    log_in(UnixStream::connect(&socket).unwrap(), "admin", "pgbouncer").unwrap();
    let log = manager.log();
    for line in [
        format!("LOG listening on 127.0.0.1:{} (inherited socket)", manager.port),
        format!("LOG listening on 127.0.0.1:{extra_port} (inherited socket)"),
        format!("LOG listening on unix:{} (inherited socket)", socket.display()),
        format!("WARNING inherited socket 127.0.0.1:{extra_port} is not what"),
        "WARNING inherited descriptor \"junk\" is closed: it is no socket".to_owned(),
    ] {
        assert!(log.contains(&line), "{line}\n{log}");
    }
    assert_eq!(log.matches("listening on").count(), 3, "{log}");
    // Nothing of it is passed on, and what nobody wanted is closed.
    let environment = std::fs::read(format!("/proc/{}/environ", manager.pid())).unwrap_or_default();
    assert!(!environment.is_empty());
    manager.signal(Signal::SIGINT);
    assert!(manager.wait().success());
    // It belongs to the socket unit.
    assert!(socket.exists());
}

#[test]
fn a_taken_address_is_named_with_a_way_out() {
    let mut manager = Manager::new();
    let _taken = TcpListener::bind(("127.0.0.1", manager.port)).unwrap();
    manager.configure("app = host=127.0.0.1 port=1", "");
    manager.run();
    assert_eq!(manager.wait().code(), Some(1));
    let log = manager.log();
    let wanted = format!("cannot listen on 127.0.0.1:{}: Address already in use", manager.port);
    assert!(log.contains("FATAL ") && log.contains(&wanted) && log.contains("ss -ltnp"), "{log}");
    assert_eq!(manager.hear(Duration::from_millis(10)), None);
}

/// Is a sign of life missing for this long?
fn is_silent_for(manager: &Manager, patience: Duration) -> bool {
    let start = Instant::now();
    while let Some(left) = patience.checked_sub(start.elapsed()) {
        match manager.hear(left) {
            Some(message) if message == "WATCHDOG=1\n" => return false,
            _ => {}
        }
    }
    true
}

fn until_alive(manager: &Manager) {
    while manager.next() != "WATCHDOG=1\n" {}
}

/// The service manager's interval in these tests.
const INTERVAL: Duration = Duration::from_secs(4);

fn watched(databases: &str, more: &str) -> Manager {
    let mut manager = Manager::new();
    let file = manager.configure(databases, &format!("worker_threads = 3\n{more}"));
    let mut command = Command::new(program());
    // WATCHDOG_PID is left out, as a shell would be needed to know it.
    command.arg(file).env("WATCHDOG_USEC", INTERVAL.as_micros().to_string());
    manager.start(&mut command);
    manager
}

#[test]
fn a_dead_server_and_a_drain_are_not_the_programs_death() {
    let postgres = start_postgres();
    let databases = format!("app = host=127.0.0.1 port={} dbname=postgres user=alice", postgres.port);
    let manager = watched(&databases, "max_client_conn = 1\ndefault_pool_size = 1");
    assert!(manager.next_event().starts_with("READY=1\n"));
    until_alive(&manager);
    let client = manager.connect();
    log_in(&client, "alice", "app").unwrap();
    query(&client, "begin").unwrap();
    let console = manager.connect();
    log_in(&console, "admin", "pgbouncer").unwrap();
    // PAUSE waits for the transaction, which does not end; and everything is full.
    console.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(query(&console, "PAUSE").is_err());
    postgres.freeze(true);
    let frozen = Instant::now();
    while frozen.elapsed() < INTERVAL * 2 {
        assert!(!is_silent_for(&manager, INTERVAL / 2), "{}", manager.log());
    }
    manager.signal(Signal::SIGTERM);
    assert!(manager.next_event().starts_with("STOPPING=1\n"));
    let draining = Instant::now();
    while draining.elapsed() < INTERVAL {
        assert!(!is_silent_for(&manager, INTERVAL / 2), "{}", manager.log());
    }
    postgres.freeze(false);
    let log = manager.log();
    assert!(!log.contains("watchdog"), "{log}");
    // The probe leaves no trace.
    assert_eq!(log.matches("login attempt: db=pgbouncer").count(), 1, "{log}");
}

#[test]
fn one_stuck_worker_of_several_silences_the_watchdog() {
    if account().is_none() {
        // Only root may touch another process's threads here: the program is not dumpable.
        return;
    }
    for spin in [false, true] {
        let mut manager = watched("app = host=127.0.0.1 port=1 user=alice", "");
        assert!(manager.next_event().starts_with("READY=1\n"));
        until_alive(&manager);
        let workers = spin::workers(manager.pid());
        assert_eq!(workers.len(), 3, "{workers:?}");
        let victim = *workers.first().unwrap();
        let stuck = if spin { spin::Stuck::spin(victim) } else { spin::Stuck::stop(victim) };
        let began = Instant::now();
        let mut told = None;
        while told.is_none() && began.elapsed() < INTERVAL * 2 {
            match manager.hear(Duration::from_millis(100)).as_deref() {
                Some("WATCHDOG=trigger\n") => told = Some(began.elapsed()),
                // What it did not do for half an interval it may just have left off doing.
                Some("WATCHDOG=1\n") if began.elapsed() > INTERVAL * 3 / 4 => panic!("alive\n{}", manager.log()),
                _ => {}
            }
        }
        let told =
            told.unwrap_or_else(|| panic!("{:?}\n{}", manager.program.as_mut().unwrap().try_wait(), manager.log()));
        assert!(told <= INTERVAL, "{told:?}");
        assert!(manager.log().contains("ERROR watchdog: "), "{}", manager.log());
        assert!(is_silent_for(&manager, INTERVAL), "{}", manager.log());
        if let Some(stuck) = stuck {
            stuck.release();
            until_alive(&manager);
            assert!(manager.log().contains("watchdog: all is well again"), "{}", manager.log());
        }
    }
}
