//! Adverts on a real network: two network namespaces and a veth pair, the kernel's raw sockets, keepalived as the other node, and
//! tshark as the judge of what we send. Needs root, and the programs `ip`, `keepalived` and `tshark`.

#![expect(clippy::unwrap_used, reason = "a failing case must stop")]

#[path = "vrrp_wire/lab.rs"]
mod lab;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use pgtandem::vrrp::io::socket::{RECEIVE_LEN, VrrpSocket};
use pgtandem::vrrp::packet::decode;
use pgtandem::vrrp::{Advert, ChecksumVariant, Discard, Family, Received, Version};
use socket2::SockRef;

use lab::{Keepalived, Lab};

/// Longer than anything here takes, even on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

const ADDRESSES: [[&str; 2]; 2] = [["192.0.2.1", "192.0.2.2"], ["fe80::1", "fe80::2"]];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The own addresses of both sides.
fn own(family: Family) -> [IpAddr; 2] {
    ADDRESSES[usize::from(family == Family::V6)].map(ip)
}

fn advert(version: Version, family: Family, priority: u8) -> Advert {
    let v6 = ["fe80::10", "2001:db8::10"].map(ip).to_vec();
    Advert {
        version,
        vrid: 51,
        priority,
        interval: Duration::from_millis(if version == Version::V2 { 1000 } else { 100 }),
        addresses: if family == Family::V4 { vec![ip("192.0.2.10")] } else { v6 },
        checksum: if version == Version::V2 { ChecksumVariant::Plain } else { ChecksumVariant::PseudoHeader },
    }
}

fn send(socket: &VrrpSocket, advert: &Advert, destination: IpAddr) {
    let source = own(socket.family())[0];
    let mut message = Vec::new();
    advert.encode(source, destination, &mut message);
    socket.send(&message, source, destination).unwrap();
}

/// The next message, if one comes within this time.
fn receive(socket: &VrrpSocket, patience: Duration) -> Option<(Vec<u8>, Received)> {
    let end = Instant::now() + patience;
    let mut buffer = [0; RECEIVE_LEN];
    loop {
        match socket.receive(&mut buffer) {
            Ok((message, received)) => return Some((message.to_vec(), received)),
            Err(e) if e.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
            Err(e) => panic!("{e}"),
        }
    }
}

/// Nothing comes any more.
const QUIET: Duration = Duration::from_millis(200);

fn to_group_and_to_one(family: Family) {
    let lab = Lab::new();
    let [ours, theirs] = [0, 1].map(|side| lab.socket(side, family, true));
    let [source, peer] = own(family);
    for destination in [family.group(), peer] {
        let sent = advert(Version::V3, family, 100);
        send(&ours, &sent, destination);
        let (message, received) = receive(&theirs, PATIENCE).unwrap();
        let interface_index = lab.index(1);
        assert_eq!(received, Received { source, destination, ttl: 255, interface_index });
        assert_eq!(decode(&message, &received).as_ref(), Ok(&sent));
    }
    assert_eq!(receive(&theirs, QUIET), None);
    assert_eq!(receive(&ours, QUIET), None, "it must not hear itself");
}

#[test]
fn adverts_arrive_with_what_the_ipv4_header_says() {
    to_group_and_to_one(Family::V4);
}

#[test]
fn adverts_arrive_with_what_the_ipv6_header_says() {
    to_group_and_to_one(Family::V6);
}

#[test]
fn a_ttl_of_254_is_seen() {
    let lab = Lab::new();
    for family in [Family::V4, Family::V6] {
        let [ours, theirs] = [0, 1].map(|side| lab.socket(side, family, true));
        let options = SockRef::from(&ours);
        match family {
            Family::V4 => {
                options.set_multicast_ttl_v4(254).unwrap();
                options.set_ttl_v4(254).unwrap();
            }
            Family::V6 => {
                options.set_multicast_hops_v6(254).unwrap();
                options.set_unicast_hops_v6(254).unwrap();
            }
        }
        for destination in [family.group(), own(family)[1]] {
            send(&ours, &advert(Version::V3, family, 100), destination);
            let (message, received) = receive(&theirs, PATIENCE).unwrap();
            assert_eq!(decode(&message, &received), Err(Discard::Ttl { ttl: 254 }));
        }
    }
}

#[test]
fn without_the_group_only_what_is_sent_to_this_node_is_heard() {
    let lab = Lab::new();
    for family in [Family::V4, Family::V6] {
        let (ours, theirs) = (lab.socket(0, family, false), lab.socket(1, family, false));
        send(&ours, &advert(Version::V3, family, 100), family.group());
        assert_eq!(receive(&theirs, QUIET), None);
        send(&ours, &advert(Version::V3, family, 100), own(family)[1]);
        assert!(receive(&theirs, PATIENCE).is_some());
    }
}

#[test]
fn another_interface_is_not_heard() {
    let lab = Lab::new();
    lab.ip(1, &["link", "add", "other", "type", "veth", "peer", "name", "other-peer"]);
    lab.ip(1, &["link", "set", "other", "up"]);
    for family in [Family::V4, Family::V6] {
        let ours = lab.socket(0, family, true);
        let elsewhere = lab.socket_on(1, "other", family, true);
        send(&ours, &advert(Version::V3, family, 100), family.group());
        send(&ours, &advert(Version::V3, family, 100), own(family)[1]);
        assert_eq!(receive(&elsewhere, QUIET), None);
    }
}

#[test]
fn an_address_that_the_interface_has_not_is_no_source() {
    let lab = Lab::new();
    for (family, source) in [(Family::V4, "192.0.2.77"), (Family::V6, "fe80::77")] {
        let socket = lab.socket(0, family, true);
        assert!(socket.send(&[0; 12], ip(source), family.group()).is_err(), "{source}");
    }
}

#[test]
fn the_longest_advert_goes_through() {
    let lab = Lab::new();
    for family in [Family::V4, Family::V6] {
        let [ours, theirs] = [0, 1].map(|side| lab.socket(side, family, true));
        let mut sent = advert(Version::V3, family, 100);
        sent.addresses = vec![*sent.addresses.first().unwrap(); 255];
        send(&ours, &sent, family.group());
        let (message, received) = receive(&theirs, PATIENCE).unwrap();
        assert_eq!(decode(&message, &received), Ok(sent));
    }
}

#[test]
fn a_socket_may_be_passed_on() {
    let lab = Lab::new();
    let [ours, theirs] = [0, 1].map(|side| lab.socket(side, Family::V4, true));
    let theirs = VrrpSocket::from_fd(theirs.into(), Family::V4);
    send(&ours, &advert(Version::V3, Family::V4, 100), Family::V4.group());
    assert!(receive(&theirs, PATIENCE).is_some());
}

/// Sends until the log says so.
fn send_until(socket: &VrrpSocket, sent: &Advert, keepalived: &Keepalived, text: &str, count: usize) {
    let end = Instant::now() + PATIENCE;
    while keepalived.said(text) < count {
        assert!(Instant::now() < end, "{text:?} not {count} times in\n{}", keepalived.log());
        send(socket, sent, socket.family().group());
        thread::sleep(Duration::from_millis(20));
    }
}

/// keepalived is understood, gives way to us, stays away while we advertise, and takes over when we leave.
fn beside_keepalived(version: Version, family: Family) {
    let (master, backup) = ("Entering MASTER STATE", "Entering BACKUP STATE");
    let lab = Lab::new();
    let ours = lab.socket(0, family, true);
    let keepalived = Keepalived::start(&lab, version, family);
    let (message, received) = receive(&ours, PATIENCE).unwrap_or_else(|| panic!("{}", keepalived.log()));
    let heard = decode(&message, &received).unwrap();
    assert_eq!(heard, advert(version, family, 150), "{received:?}");
    assert_eq!((received.source, received.ttl), (own(family)[1], 255));
    keepalived.wait(master, 1, PATIENCE);
    let mut better = Advert { priority: 200, ..heard };
    let before = keepalived.said(backup);
    send_until(&ours, &better, &keepalived, backup, before + 1);
    let end = Instant::now() + better.interval * 5;
    while Instant::now() < end {
        send(&ours, &better, family.group());
        thread::sleep(better.interval / 5);
    }
    assert_eq!(keepalived.said(master), 1, "{}", keepalived.log());
    better.priority = 0;
    send(&ours, &better, family.group());
    keepalived.wait("Backup received priority 0 advertisement", 1, PATIENCE);
    keepalived.wait(master, 2, PATIENCE);
    assert_eq!(keepalived.said("Invalid VRRP"), 0, "{}", keepalived.log());
    // Its own goodbye.
    while receive(&ours, Duration::from_millis(5)).is_some() {}
    keepalived.stop();
    let goodbye = std::iter::from_fn(|| receive(&ours, Duration::from_secs(1)))
        .find_map(|(message, received)| decode(&message, &received).ok().filter(|heard| heard.priority == 0));
    assert_eq!(goodbye, Some(advert(version, family, 0)));
}

#[test]
fn keepalived_version_3_ipv4() {
    beside_keepalived(Version::V3, Family::V4);
}

#[test]
fn keepalived_version_3_ipv6() {
    beside_keepalived(Version::V3, Family::V6);
}

#[test]
fn keepalived_version_2() {
    beside_keepalived(Version::V2, Family::V4);
}

#[test]
fn tshark_has_nothing_to_complain_of() {
    let lab = Lab::new();
    let (plain, pseudo_header) = (ChecksumVariant::Plain, ChecksumVariant::PseudoHeader);
    for (version, family, group, checksum) in [
        (Version::V3, Family::V4, true, pseudo_header),
        (Version::V3, Family::V4, true, plain),
        (Version::V3, Family::V4, false, pseudo_header),
        (Version::V3, Family::V6, true, pseudo_header),
        (Version::V3, Family::V6, false, pseudo_header),
        (Version::V2, Family::V4, true, plain),
    ] {
        let ours = lab.socket(0, family, group);
        let destination = if group { family.group() } else { own(family)[1] };
        let sent = Advert { checksum, ..advert(version, family, 100) };
        let text = lab.decoded_by_tshark(|| send(&ours, &sent, destination), checksum == plain, PATIENCE);
        let lower = text.to_lowercase();
        for bad in ["malformed", "incorrect", "expert info", "bad checksum", "unreassembled"] {
            assert!(!lower.contains(bad), "{bad}: {version:?} {family}\n{text}");
        }
        let wanted = [
            format!("version {}, packet type 1 (advertisement)", version.number()),
            "virtual rtr id: 51".to_owned(),
            "priority: 100".to_owned(),
            if family == Family::V4 { "ip address: 192.0.2.10" } else { "ipv6 address: 2001:db8::10" }.to_owned(),
            if family == Family::V4 { "time to live: 255" } else { "hop limit: 255" }.to_owned(),
            "class selector 6".to_owned(),
            "[checksum status: good]".to_owned(),
        ];
        for good in wanted {
            assert!(lower.contains(&good), "no {good:?}: {version:?} {family}\n{text}");
        }
    }
}

#[test]
fn the_tools_are_there() {
    for tool in ["ip", "keepalived", "tshark"] {
        lab::require(tool);
    }
    assert!(Command::new("ip").arg("-V").output().unwrap().status.success());
}
