//! What this program does when it runs in another namespace or must be killed: it sees frames, sees addresses go, or is a pooler.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use pgtandem::clock::Time;
use pgtandem::config;
use pgtandem::daemon::helper::menu::{Event, PROTOCOL, Request};
use pgtandem::daemon::helper::{HelperClient, HelperConfig, start_child};
use pgtandem::sys::packet::bind_packet_socket;
use pgtandem::vrrp::frames::{self, ArpForm};
use socket2::{Domain, SockRef, Socket, Type};

/// The card that a claim comes from.
const RIVAL: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

pub(crate) fn play(role: &str) {
    match role {
        "frames" => see_frames(),
        "addresses" => see_addresses(),
        "server" => serve_and_vanish(),
        "client" => know_of_a_reset(),
        "closer" => serve_and_close(),
        "comer" => come_again(),
        other => match other.split_once('=') {
            Some(("reach", address)) => reach(address.parse().unwrap()),
            Some(("call", path)) => call(path),
            Some(("start", file)) => start(Path::new(file)),
            _ => pool(other),
        },
    }
}

fn say(what: &str) {
    say_at(Time::now(), what);
}

fn say_at(at: Time, what: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{} {what}", at.0).unwrap();
    out.flush().unwrap();
}

/// Tells of each frame on eth0. On its input: `claim ADDRESS` sends what a rival would.
fn see_frames() {
    let index = if_nametoindex("eth0").unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).unwrap();
    setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)).unwrap();
    bind_packet_socket(socket.as_fd(), index, u16::try_from(libc::ETH_P_ALL).unwrap()).unwrap();
    let sender = socket.try_clone().unwrap();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let address: IpAddr = line.strip_prefix("claim ").unwrap().parse().unwrap();
            let frame = match address {
                IpAddr::V4(address) => frames::gratuitous_arp(ArpForm::Request, RIVAL, address),
                IpAddr::V6(address) => frames::neighbour_advertisement(RIVAL, address, false),
            };
            send(sender.as_raw_fd(), &frame, MsgFlags::empty()).unwrap();
        }
    });
    say("ready");
    let mut frame = vec![0; 2048];
    loop {
        let len = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
        let at = Time::now();
        if let Some(what) = describe(&frame[..len]) {
            say_at(at, &what);
        }
    }
}

fn describe(frame: &[u8]) -> Option<String> {
    let mac = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?));
    let source = mac(frame.get(6..12)?);
    Some(match (frame.get(12..14)?, frame.get(20)?, frame.get(23)?) {
        ([8, 6], _, _) if v4(28) == v4(38) => format!("announce {} {source}", v4(28)?),
        ([8, 6], _, _) if v4(28)?.is_unspecified() => format!("ask {}", v4(38)?),
        ([8, 0], _, 112) => format!("advert4 {} {}", frame.get(36)?, v4(26)?),
        ([8, 0], _, 6) => format!("tcp{:02x} {}:{}", frame.get(47)?, v4(26)?, port(frame, 34)?),
        ([0x86, 0xdd], 112, _) => format!("advert6 {} {}", frame.get(56)?, v6(22)?),
        ([0x86, 0xdd], 6, _) => format!("tcp{:02x} {}:{}", frame.get(67)?, v6(22)?, port(frame, 54)?),
        ([0x86, 0xdd], 58, _) if *frame.get(54)? == 136 => format!("announce {} {source}", v6(62)?),
        ([0x86, 0xdd], 58, _) if *frame.get(54)? == 135 => format!("ask {}", v6(62)?),
        _ => return None,
    })
}

fn port(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

/// Tells when an address is gone.
fn see_addresses() {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).unwrap();
    let groups = libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned())).unwrap();
    say("ready");
    let mut packet = vec![0; 65536];
    loop {
        let len = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        let at = Time::now();
        let kind = u16::from_ne_bytes(packet[4..6].try_into().unwrap());
        if len > 24 && kind == libc::RTM_DELADDR {
            say_at(at, if i32::from(packet[16]) == libc::AF_INET { "gone4" } else { "gone6" });
        }
    }
}

/// A host that is there refuses a port on which nobody listens.
fn reach(address: IpAddr) {
    let error = TcpStream::connect_timeout(&SocketAddr::new(address, 9), Duration::from_secs(3)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}");
}

/// As a user who is neither root nor nobody, calls and prints what it hears.
fn call(path: &str) {
    nix::unistd::setgid(nix::unistd::Gid::from_raw(1)).unwrap();
    nix::unistd::setuid(nix::unistd::Uid::from_raw(1)).unwrap();
    let mut client = HelperClient::connect(Path::new(path)).unwrap();
    loop {
        match client.receive() {
            Ok(Some((event, _))) => say(&format!("{event:?}")),
            Ok(None) => thread::sleep(Duration::from_millis(1)),
            Err(error) => return say(&format!("{:?}", error.kind())),
        }
    }
}

/// A pooler that starts its helper itself and holds router 0.
fn start(file: &Path) {
    say("ready");
    let read = config::load(file, &mut |path| std::fs::read(path));
    let fingerprint = HelperConfig::from_config(&read.unwrap().0).unwrap().fingerprint;
    let mut client = HelperClient::from_fd(start_child(file, Some("nobody")).unwrap()).unwrap();
    client.send(&Request::Hello { protocol: PROTOCOL, fingerprint }).unwrap();
    client.send(&Request::Renew { lease_ms: 10_000 }).unwrap();
    loop {
        match client.receive().unwrap() {
            // Its interface may not be up yet.
            Some((Event::Welcome { .. } | Event::HoldFailed { .. }, _)) => {
                client.send(&Request::Hold { router: 0, check_us: 0, priority: 254 }).unwrap();
            }
            Some((Event::Held { .. }, _)) => say("held"),
            _ => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Accepts a client; on a word from outside it is gone, without one of its own if its address is gone before.
fn serve_and_vanish() {
    let listener = TcpListener::bind("10.77.0.10:6432").unwrap();
    say("ready");
    let (client, _) = listener.accept().unwrap();
    say("accepted");
    io::stdin().read_line(&mut String::new()).unwrap();
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    say("gone");
}

fn know_of_a_reset() {
    say("ready");
    let mut stream = TcpStream::connect("10.77.0.10:6432").unwrap();
    say(&format!("port {}", stream.local_addr().unwrap().port()));
    let error = stream.read(&mut [0]).unwrap_err();
    say(&format!("{:?}", error.kind()));
}

/// Closes the connection of a client, which leaves it in TIME-WAIT.
fn serve_and_close() {
    let listener = TcpListener::bind("10.77.0.10:6432").unwrap();
    say("ready");
    let (client, _) = listener.accept().unwrap();
    drop(client);
    say("closed");
    thread::park();
}

/// A client whose connection is closed, and who then has another one by the same port with a node that is gone.
fn come_again() {
    say("ready");
    let node: SocketAddr = "10.77.0.10:6432".parse().unwrap();
    let mut stream = TcpStream::connect(node).unwrap();
    let own = stream.local_addr().unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(stream);
    // TCP_REPAIR makes a connection without a word to anybody.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    setsockopt(&socket, sockopt::TcpRepair, &1).unwrap();
    socket.bind(&own.into()).unwrap();
    socket.connect(&node.into()).unwrap();
    // TCP_REPAIR_OFF_NO_WP: off, and still without a word.
    setsockopt(&socket, sockopt::TcpRepair, &u32::MAX).unwrap();
    say(&format!("port {}", own.port()));
    let error = TcpStream::from(socket).read(&mut [0]).unwrap_err();
    say(&format!("{:?}", error.kind()));
}

/// A pooler that can be killed: standard input is its socket, the role's name is its fingerprint. Holds routers 0 and 1.
fn pool(fingerprint: &str) {
    let (lease, fingerprint) = fingerprint.split_once(',').unwrap();
    let lease_ms: u32 = lease.parse().unwrap();
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&fingerprint[index * 2..index * 2 + 2], 16).unwrap();
    }
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned().unwrap();
    nix::unistd::dup2_stdin(std::fs::File::open("/dev/null").unwrap()).unwrap();
    let mut client = HelperClient::from_fd(socket).unwrap();
    client.send(&Request::Hello { protocol: PROTOCOL, fingerprint: bytes }).unwrap();
    let (mut greeted, mut held) = (false, 0);
    loop {
        match client.receive() {
            Ok(Some((Event::Welcome { .. }, _))) => {
                client.send(&Request::Renew { lease_ms }).unwrap();
                for router in [0, 1] {
                    client.send(&Request::Hold { router, check_us: 0, priority: 200 }).unwrap();
                }
                greeted = true;
            }
            Ok(Some((Event::Held { .. }, _))) => {
                held += 1;
                if held == 2 {
                    say("held");
                }
            }
            Ok(Some((Event::LeaseOver { .. }, _))) => say("lease over"),
            Ok(Some((event, _))) => say(&format!("{event:?}")),
            Ok(None) => {}
            Err(error) => {
                say(&format!("{error}"));
                return;
            }
        }
        if greeted {
            client.send(&Request::Renew { lease_ms }).unwrap();
        }
        thread::sleep(Duration::from_millis(10));
    }
}
