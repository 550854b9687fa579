use std::fs::File;
use std::io::{IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, recvmsg};
use nix::unistd::close;
use tempfile::TempDir;

use super::*;

fn standing() -> Standing {
    Standing { clients: 250, servers: 20, active: 12, waiting: 3, ..Standing::default() }
}

#[test]
fn the_line_says_first_what_matters_most() {
    let numbers = "250 clients, 20 servers (12 active), 3 waiting; standalone";
    let line = |standing| status_line(&standing, &Troubles::default());
    assert_eq!(line(standing()), format!("serving: {numbers}"));
    for (activity, phase, word) in [
        (Activity::Paused, Phase::Serving, "paused"),
        (Activity::Suspended, Phase::Serving, "suspended"),
        (Activity::Active, Phase::WaitForClients, "draining, waiting for clients to leave"),
        (Activity::Paused, Phase::WaitForServers, "draining, waiting for transactions to end"),
        (Activity::Active, Phase::Now, "stopping"),
    ] {
        assert_eq!(line(Standing { activity, phase, ..standing() }), format!("{word}: {numbers}"));
    }
    let one = Standing { clients: 1, servers: 1, active: 0, waiting: 0, role: Role::Backup, ..standing() };
    assert_eq!(line(one), "serving: 1 client, 1 server (0 active), 0 waiting; backup");
}

#[test]
fn troubles_are_one_short_line_that_smuggles_nothing_in() {
    let long = format!("{}\nREADY=0", "é".repeat(500));
    for (reload, login, wanted) in [
        (Some("\n  a.ini:3: bad\nand more"), None, "serving; reload failed: a.ini:3: bad; 250"),
        (None, Some("a\u{1b}b\rc"), "serving; server login failed: a b c; 250"),
        (Some("x"), Some("y"), "serving; reload failed: x; server login failed: y; 250"),
        (Some(long.as_str()), None, &format!("serving; reload failed: {}…; 250", "é".repeat(REASON_LEN_MAX))),
    ] {
        let troubles = Troubles { reload: reload.map(str::to_owned), login: login.map(str::to_owned) };
        let line = status_line(&standing(), &troubles);
        assert!(line.starts_with(wanted), "{line}");
        assert!(!line.contains('\n') && !line.contains('\r'), "{line}");
    }
}

/// A service and the service manager's end, which reads nothing by itself.
fn pair() -> (Service, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (Service { socket: Some(ours), said: Mutex::default() }, theirs)
}

fn heard(manager: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let len = manager.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned()
}

#[test]
fn what_is_said_is_said_once_and_in_time() {
    let (service, manager) = pair();
    service.status("too early");
    service.reloading();
    service.reloaded(false, "too early");
    service.ready("a");
    service.status("a");
    service.status("b");
    service.reloading();
    service.reloaded(true, "c\nSTOPPING=1");
    service.reloaded(false, "d");
    service.extend_timeout(Duration::from_secs(20));
    service.alive();
    service.stuck();
    service.stopping("e");
    service.stopping("f");
    service.reloading();
    service.reloaded(true, "too late");
    service.take_over();
    service.hand_on(7);
    service.status("g");
    service.alive();
    assert_eq!(heard(&manager), "READY=1\nSTATUS=a\n");
    assert_eq!(heard(&manager), "STATUS=b\n");
    let reloading = heard(&manager);
    let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(usec.trim_end().parse::<u64>().unwrap() > 0, "{reloading}");
    for wanted in [
        "READY=1\nERRNO=22\nSTATUS=c STOPPING=1\n",
        "READY=1\nERRNO=0\nSTATUS=d\n",
        "EXTEND_TIMEOUT_USEC=20000000\n",
        "WATCHDOG=1\n",
        "WATCHDOG=trigger\n",
        "STOPPING=1\nSTATUS=e\n",
        &format!("MAINPID={}\n", std::process::id()),
        "MAINPID=7\n",
    ] {
        assert_eq!(heard(&manager), wanted);
    }
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 16]).is_err());
}

#[test]
fn without_a_service_manager_nothing_happens() {
    let service = Service::default();
    service.ready("a");
    service.reloading();
    service.stopping("b");
    assert!(!service.is_present());
    assert!(service.store("a", &[]).is_err() && service.barrier(Duration::ZERO).is_err());
}

#[test]
fn a_deaf_service_manager_keeps_nobody_waiting() {
    let (service, _deaf) = pair();
    let start = Instant::now();
    let line = "x".repeat(10_000);
    let full = (0..10_000).any(|_| service.send(line.as_bytes(), &[]).is_err());
    assert!(full && start.elapsed() < Duration::from_secs(10));
    assert_eq!(service.barrier(Duration::from_millis(50)).unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn names_and_paths_of_the_socket_both_work() {
    use std::os::linux::net::SocketAddrExt;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("s");
    let name = format!("pgtandem-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let abstract_socket = UnixDatagram::bind_addr(&address).unwrap();
    let file = UnixDatagram::bind(&path).unwrap();
    for (address, manager) in [(format!("@{name}"), abstract_socket), (path.display().to_string(), file)] {
        connect(OsStr::new(&address)).unwrap().send(b"x").unwrap();
        assert_eq!(heard(&manager), "x");
    }
    assert!(connect(OsStr::new("/nobody/there")).is_err());
}

/// Descriptors that came with messages up to the barrier; closes what the barrier is made of.
fn stored(manager: &UnixDatagram) -> Vec<(String, Vec<RawFd>)> {
    let mut all = Vec::new();
    loop {
        let (mut text, mut space) = ([0; 1024], cmsg_space!([RawFd; DESCRIPTORS_MAX]));
        let mut parts = [IoSliceMut::new(&mut text)];
        let message = recvmsg::<()>(manager.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).unwrap();
        let len = message.bytes;
        let fds: Vec<RawFd> = message
            .cmsgs()
            .unwrap()
            .flat_map(|part| if let ControlMessageOwned::ScmRights(fds) = part { fds } else { Vec::new() })
            .collect();
        let text = String::from_utf8_lossy(text.get(..len).unwrap()).into_owned();
        if text == "BARRIER=1\n" {
            fds.into_iter().for_each(|fd| close(fd).unwrap());
            return all;
        }
        all.push((text, fds));
    }
}

#[test]
fn descriptors_are_kept_under_their_name_however_many_they_are() {
    let (service, manager) = pair();
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(b"state").unwrap();
    let keeper = thread::spawn(move || {
        let all = stored(&manager);
        service_side(&manager);
        all
    });
    let many: Vec<BorrowedFd<'_>> = std::iter::repeat_n(file.as_fd(), DESCRIPTORS_MAX + 2).collect();
    service.store("pgtandem-handover state", &many).unwrap();
    service.remove("x").unwrap();
    let all = keeper.join().unwrap();
    let counts: Vec<usize> = all.iter().map(|(_, fds)| fds.len()).collect();
    assert_eq!(counts, [DESCRIPTORS_MAX, 2]);
    assert!(all.iter().all(|(text, _)| text == "FDSTORE=1\nFDNAME=pgtandem-handover state\n"), "{all:?}");
    let fd = *all.first().unwrap().1.first().unwrap();
    let mut copy = File::open(format!("/proc/self/fd/{fd}")).unwrap();
    let mut text = String::new();
    copy.rewind().and_then(|()| copy.read_to_string(&mut text)).unwrap();
    assert_eq!(text, "state");
    all.iter().flat_map(|(_, fds)| fds).for_each(|fd| close(*fd).unwrap());
    for bad in ["", "a:b", "a\nb", "é", &"x".repeat(256)] {
        assert_eq!(service.store(bad, &[]).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad}");
    }
}

fn service_side(manager: &UnixDatagram) {
    assert_eq!(heard(manager), "FDSTOREREMOVE=1\nFDNAME=x\n");
}
