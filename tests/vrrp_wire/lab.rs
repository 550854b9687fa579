//! Two network namespaces with a veth pair between them, and programs in them. Everything goes with the last of its values.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use pgtandem::vrrp::io::socket::VrrpSocket;
use pgtandem::vrrp::{Family, Version};
use tempfile::TempDir;

/// The interface of either side.
const INTERFACE: &str = "wire";

/// What a package manager calls the programs.
const PACKAGES: [(&str, &str); 3] = [("ip", "iproute2"), ("keepalived", "keepalived"), ("tshark", "tshark")];

/// Fails with what to install if the program is missing.
pub(crate) fn require(tool: &str) {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = path.split(':').any(|folder| PathBuf::from(folder).join(tool).is_file());
    let package = PACKAGES.iter().find(|(name, _)| *name == tool).map_or(tool, |(_, package)| *package);
    assert!(found, "`{tool}` is missing: install {package} (`make tools` does)");
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin");
    command
}

fn ip(args: &[&str]) {
    let out = command("ip").args(args).output().unwrap();
    assert!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
}

pub(crate) struct Lab {
    names: [String; 2],
    folder: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(Uid::effective().is_root(), "network namespaces and raw sockets take root: run this test as root");
        for (tool, _) in PACKAGES {
            require(tool);
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let names = ["a", "b"].map(|side| format!("pgtandem-{}-{number}-{side}", std::process::id()));
        let lab = Self { names, folder: tempfile::tempdir().unwrap() };
        for name in &lab.names {
            ip(&["netns", "add", name]);
        }
        let [a, b] = [&lab.names[0], &lab.names[1]];
        ip(&["-n", a, "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", b]);
        for (side, v4, v6) in [(0, "192.0.2.1/24", "fe80::1/64"), (1, "192.0.2.2/24", "fe80::2/64")] {
            lab.ip(side, &["link", "set", "lo", "up"]);
            // Only the addresses that are given, and at once.
            lab.ip(side, &["link", "set", INTERFACE, "addrgenmode", "none"]);
            lab.ip(side, &["link", "set", INTERFACE, "up"]);
            lab.ip(side, &["addr", "add", v4, "dev", INTERFACE]);
            lab.ip(side, &["addr", "add", v6, "dev", INTERFACE, "nodad"]);
        }
        lab
    }

    pub(crate) fn ip(&self, side: usize, args: &[&str]) {
        ip(&[&["-n", self.names[side].as_str()], args].concat());
    }

    /// Does something in a namespace: on a thread, since that changes for good where it is.
    fn inside<T: Send>(&self, side: usize, act: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.names[side])).unwrap();
        thread::scope(|scope| {
            let there = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                act()
            });
            there.join().unwrap()
        })
    }

    pub(crate) fn index(&self, side: usize) -> u32 {
        self.inside(side, || if_nametoindex(INTERFACE).unwrap())
    }

    pub(crate) fn socket(&self, side: usize, family: Family, group: bool) -> VrrpSocket {
        self.socket_on(side, INTERFACE, family, group)
    }

    pub(crate) fn socket_on(&self, side: usize, interface: &str, family: Family, group: bool) -> VrrpSocket {
        self.inside(side, || VrrpSocket::open(interface, family, group).unwrap())
    }

    fn exec(&self, side: usize, program: &str) -> Command {
        let mut command = command("ip");
        command.args(["netns", "exec", &self.names[side], program]);
        command
    }

    /// What tshark on the other side says of one packet; sends until it has caught it. `plain`: what the checksum should cover.
    pub(crate) fn decoded_by_tshark(&self, send: impl Fn(), plain: bool, patience: Duration) -> String {
        let checksums = ["ip.check_checksum:TRUE".to_owned(), format!("vrrp.v3_checksum_as_in_v2:{plain}")];
        let mut tshark = self.exec(1, "tshark");
        tshark.args(["-i", INTERFACE, "-f", "ip proto 112 or ip6 proto 112", "-c", "1", "-V", "-n"]);
        tshark.args(checksums.iter().flat_map(|option| ["-o", option.as_str()]));
        let mut tshark = tshark.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let end = Instant::now() + patience;
        while tshark.try_wait().unwrap().is_none() {
            if Instant::now() > end {
                tshark.kill().unwrap();
                break;
            }
            send();
            thread::sleep(Duration::from_millis(20));
        }
        let out = tshark.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(out.status.success(), "tshark: {} {}", text(&out.stderr), text(&out.stdout));
        text(&out.stdout)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            // Not there, if making it has failed.
            let _ = command("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}

/// keepalived on the second side: VRID 51, priority 150, the addresses of our own adverts.
pub(crate) struct Keepalived {
    child: Child,
    log: PathBuf,
}

impl Keepalived {
    pub(crate) fn start(lab: &Lab, version: Version, family: Family) -> Self {
        let path = |name: &str| lab.folder.path().join(name);
        let addresses = if family == Family::V4 { "192.0.2.10/32" } else { "fe80::10/64\n2001:db8::10/128" };
        let interval = if version == Version::V2 { "1" } else { "0.1" };
        let version = version.number();
        let config = format!(
            "global_defs {{\n router_id pgtandem\n vrrp_version {version}\n}}\n\
             vrrp_instance test {{\n state BACKUP\n interface {INTERFACE}\n virtual_router_id 51\n priority 150\n \
             advert_int {interval}\n virtual_ipaddress {{\n {addresses}\n }}\n}}\n"
        );
        fs::write(path("keepalived.conf"), config).unwrap();
        let log = File::create(path("log")).unwrap();
        let mut keepalived = lab.exec(1, "keepalived");
        keepalived.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp"]);
        for (option, name) in [("-f", "keepalived.conf"), ("-p", "pid"), ("-r", "vrrp.pid")] {
            keepalived.arg(option).arg(path(name));
        }
        keepalived.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        Self { child: keepalived.spawn().unwrap(), log: path("log") }
    }

    pub(crate) fn log(&self) -> String {
        let mut text = Vec::new();
        File::open(&self.log).unwrap().read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// How often a text stands in the log.
    pub(crate) fn said(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    pub(crate) fn wait(&self, text: &str, count: usize, patience: Duration) {
        let end = Instant::now() + patience;
        while self.said(text) < count {
            assert!(Instant::now() < end, "{text:?} not {count} times in\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// With its goodbye.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // It is its own child's parent, which it takes with it.
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(pid, Signal::SIGTERM);
            let end = Instant::now() + Duration::from_secs(10);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        self.end();
    }
}
