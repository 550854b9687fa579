//! A machine with the helper, a neighbour on the same network that sees all frames, and both ends of everything in between.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use pgtandem::clock::Time;
use pgtandem::config;
use pgtandem::daemon::helper::menu::{Event, PROTOCOL, Request};
use pgtandem::daemon::helper::{HelperClient, HelperConfig};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;

/// How long anything may take that is not measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_pgtandem");

/// Runs a command line and wants it to succeed.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Time::now() + PATIENCE;
    while !so() {
        assert!(Time::now() < deadline, "not within {} s: {what}", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the configuration says of the virtual routers.
pub(crate) const ROUTERS: &str = "v4 = address=10.77.0.10 virtual_router_id=51 priority=254
v6 = address=fd77::10 virtual_router_id=51 priority=254
";

/// Two namespaces, `node` with the helper and `lan` with everybody else, joined by eth0 of each.
pub(crate) struct Lab {
    pub(crate) node: String,
    pub(crate) lan: String,
    pub(crate) dir: TempDir,
}

impl Lab {
    pub(crate) fn new(routers: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pgtandem-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { node: format!("{name}-node"), lan: format!("{name}-lan"), dir: TempDir::new().unwrap() };
        for namespace in [&lab.node, &lab.lan] {
            sh(&format!("ip netns add {namespace}"));
            lab.on(namespace, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
            lab.on(namespace, "ip link set lo up");
        }
        lab.plug();
        lab.configure(routers);
        lab
    }

    /// Joins the namespaces, or does so again.
    pub(crate) fn plug(&self) {
        let (node, lan) = (&self.node, &self.lan);
        sh(&format!("ip -n {node} link add eth0 type veth peer name eth0 netns {lan}"));
        for (namespace, own) in [(node, 1), (lan, 2)] {
            sh(&format!("ip -n {namespace} address add 10.77.0.{own}/24 dev eth0"));
            sh(&format!("ip -n {namespace} address add fd77::{own}/64 dev eth0 nodad"));
            sh(&format!("ip -n {namespace} link set eth0 up"));
        }
    }

    pub(crate) fn configure(&self, routers: &str) {
        let text = format!(
            "[databases]\n[pgbouncer]\nlisten_addr = *\nlisten_port = 6432\nauth_type = trust\nunix_socket_dir =\n[ha]\ninterface = \
             eth0\nadvertisement_interval_ms = 100\n[virtual_routers]\n{routers}"
        );
        fs::write(self.file(), text).unwrap();
        sh(&format!("chmod 755 {0} && chmod 644 {0}/p.ini", self.dir.path().display()));
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("p.ini")
    }

    /// Runs something in a namespace.
    pub(crate) fn on(&self, namespace: &str, line: &str) -> String {
        sh(&format!("ip netns exec {namespace} {line}"))
    }

    pub(crate) fn node(&self, line: &str) -> String {
        self.on(&self.node, line)
    }

    /// Can the neighbour reach this address?
    pub(crate) fn reach(&self, address: &str) {
        let program = std::env::current_exe().unwrap();
        self.on(&self.lan, &format!("{} --role reach={address}", program.display()));
    }

    /// This program in a role that ends, and what it said.
    pub(crate) fn role_of(&self, role: &str) -> String {
        sh(&format!("{} --role {role}", std::env::current_exe().unwrap().display()))
    }

    pub(crate) fn config(&self) -> HelperConfig {
        let read = config::load(&self.file(), &mut |path| fs::read(path));
        HelperConfig::from_config(&read.unwrap().0).unwrap()
    }

    /// Is this address on an interface of the node?
    pub(crate) fn has(&self, address: &str) -> bool {
        let prefix = if address.contains(':') { 128 } else { 32 };
        sh(&format!("ip -n {} -o address show", self.node)).contains(&format!(" {address}/{prefix} "))
    }

    /// The helper as a child, and its pooler's end.
    pub(crate) fn child(&self) -> (Helper, Socket) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET.cloexec(), None).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.node, PROGRAM, "address-helper", "--child", "--user=nobody", "--"]);
        command.arg(self.file()).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        (Helper::start(command), ours)
    }

    /// The helper as systemd starts it, and where it is called.
    pub(crate) fn unit(&self, listener: &Socket) -> Helper {
        let line = "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" 3<&0 </dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", line, "sh", "ip", "netns", "exec", &self.node]);
        command.args(["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
        command.args(["--inh-caps=-all,+net_admin,+net_raw", "--ambient-caps=-all,+net_admin,+net_raw"]);
        command.args(["--bounding-set=-all,+net_admin,+net_raw"]);
        command.args([PROGRAM, "address-helper"]).arg(self.file());
        command.stdin(OwnedFd::from(listener.try_clone().unwrap())).stdout(Stdio::null());
        Helper::start(command)
    }

    pub(crate) fn listener(&self) -> (PathBuf, Socket) {
        let path = self.dir.path().join("helper");
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.cloexec(), None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(4).unwrap();
        sh(&format!("chmod 666 {}", path.display()));
        (path, socket)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.lan] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

/// The helper's process. Its log is shown only if a case fails.
pub(crate) struct Helper {
    pub(crate) process: Child,
    log: Arc<Mutex<String>>,
}

impl Helper {
    fn start(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, kept) = (BufReader::new(process.stderr.take().unwrap()).lines(), Arc::clone(&log));
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut kept = kept.lock().unwrap();
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Self { process, log }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn said(&self, words: &str) {
        until(words, || self.log().contains(words));
    }

    pub(crate) fn up(&self) {
        self.said("address helper up");
    }

    pub(crate) fn signal(&self, name: &str) {
        sh(&format!("kill -{name} {}", self.process.id()));
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> bool {
        let mut status = None;
        until("the helper's end", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().success()
    }

    pub(crate) fn status(&self, field: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the helper's log:\n{}---", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A pooler in this process.
pub(crate) struct Pooler {
    pub(crate) client: HelperClient,
    pub(crate) sockets: Vec<OwnedFd>,
}

impl Pooler {
    pub(crate) fn new(client: HelperClient) -> Self {
        Self { client, sockets: Vec::new() }
    }

    pub(crate) fn on(socket: Socket) -> Self {
        Self::new(HelperClient::from_fd(socket.into()).unwrap())
    }

    pub(crate) fn say(&self, request: &Request) {
        self.client.send(request).unwrap();
    }

    /// What has come, if anything has; that the lease was renewed goes without saying.
    pub(crate) fn heard(&mut self) -> Option<(Event, Vec<OwnedFd>)> {
        loop {
            match self.client.receive().unwrap() {
                Some((Event::Renewed, _)) => {}
                heard => return heard,
            }
        }
    }

    /// The next event.
    pub(crate) fn hear(&mut self) -> Event {
        let mut heard = None;
        until("an event", || {
            heard = self.heard();
            heard.is_some()
        });
        let (event, sockets) = heard.unwrap();
        self.sockets.extend(sockets);
        event
    }

    /// The next event of a kind.
    pub(crate) fn await_event(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let deadline = Time::now() + PATIENCE;
        loop {
            let event = self.hear();
            if wanted(&event) {
                return event;
            }
            assert!(Time::now() < deadline, "{what}");
        }
    }

    pub(crate) fn hello(&mut self, lab: &Lab) -> Event {
        self.say(&Request::Hello { protocol: PROTOCOL, fingerprint: lab.config().fingerprint });
        self.hear()
    }

    /// Greets until all routers are up, as an interface that was just plugged in takes a moment.
    pub(crate) fn greet(&mut self, lab: &Lab) {
        until("all interfaces up", || {
            self.say(&Request::Hello { protocol: PROTOCOL, fingerprint: lab.config().fingerprint });
            let event = self.await_event("Welcome", |event| matches!(event, Event::Welcome { .. }));
            matches!(event, Event::Welcome { routers, .. } if routers.iter().all(|router| router.up))
        });
    }

    pub(crate) fn renew(&self, lease_ms: u32) {
        self.say(&Request::Renew { lease_ms });
    }

    pub(crate) fn hold(&mut self, router: u8, check_us: u32) -> Event {
        self.say(&Request::Hold { router, check_us, priority: 254 });
        self.await_event("Held", |event| matches!(event, Event::Held { .. } | Event::HoldFailed { .. }))
    }

    /// Greets, and holds both routers for so long.
    pub(crate) fn hold_both(&mut self, lab: &Lab, lease_ms: u32) {
        self.greet(lab);
        self.renew(lease_ms);
        for router in [0, 1] {
            assert_eq!(self.hold(router, 0), Event::Held { router, rival: None });
        }
    }

    pub(crate) fn is_cut_off(&mut self) {
        until("the helper hangs up", || match self.client.receive() {
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        });
    }
}

/// Something seen: when, and a line as `roles.rs` writes it.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    pub(crate) at: Time,
    pub(crate) what: String,
}

/// This program in a role in a namespace, and what it sees.
pub(crate) struct Role {
    process: Child,
    input: ChildStdin,
    seen: Arc<Mutex<Vec<Sight>>>,
}

impl Role {
    pub(crate) fn start(namespace: &str, role: &str) -> Self {
        let mut process = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(std::env::current_exe().unwrap())
            .args(["--role", role])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(process.stdout.take().unwrap()).lines(), Arc::clone(&seen));
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let (at, what) = line.split_once(' ').unwrap();
                kept.lock().unwrap().push(Sight { at: Time(at.parse().unwrap()), what: what.to_owned() });
            }
        });
        let role = Self { input: process.stdin.take().unwrap(), process, seen };
        role.first("ready", Time::default());
        role
    }

    /// The first sight that begins so, from a time on.
    pub(crate) fn first(&self, what: &str, from: Time) -> Sight {
        let mut found = None;
        until(what, || {
            found = self.all(what, from).into_iter().next();
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn all(&self, what: &str, from: Time) -> Vec<Sight> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|sight| sight.at >= from && sight.what.starts_with(what)).cloned().collect()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The middle one and the last.
pub(crate) fn figures(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() - 1])
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
