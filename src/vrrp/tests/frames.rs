//! The frames, byte for byte; tshark has decoded the same bytes without a complaint.

use std::net::SocketAddr;

use super::super::frames::{
    ArpForm, Mac, arp_probe, bare_ack, duplicate_solicitation, gratuitous_arp, neighbour_advertisement,
};

const MAC: Mac = [2, 0, 0, 0, 0, 0xaa];

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace()
        .flat_map(|word| word.as_bytes().chunks(2))
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn gratuitous_arp_as_request_and_reply() {
    let address = "192.0.2.10".parse().unwrap();
    let request = gratuitous_arp(ArpForm::Request, MAC, address);
    let head = "ffffffffffff 0200000000aa 0806 0001 0800 06 04";
    let both = "0200000000aa c000020a 0200000000aa c000020a";
    assert_eq!(request, hex(&format!("{head} 0001 {both}")));
    let reply = gratuitous_arp(ArpForm::Reply, MAC, address);
    assert_eq!(reply, hex(&format!("{head} 0002 {both}")));
}

#[test]
fn a_probe_claims_nothing() {
    assert_eq!(
        arp_probe(MAC, "192.0.2.10".parse().unwrap()),
        hex("ffffffffffff 0200000000aa 0806 0001 0800 06 04 0001 0200000000aa 00000000 000000000000 c000020a")
    );
}

#[test]
fn neighbour_advertisements_override_and_answer_nobody() {
    let address = "2001:db8::12:3410".parse().unwrap();
    let head = "333300000001 0200000000aa 86dd 60000000 0020 3a ff 20010db8000000000000000000123410";
    let all_nodes = "ff020000000000000000000000000001";
    let rest = "20010db8000000000000000000123410 0201 0200000000aa";
    assert_eq!(
        neighbour_advertisement(MAC, address, false),
        hex(&format!("{head} {all_nodes} 8800 903f 20000000 {rest}"))
    );
    assert_eq!(
        neighbour_advertisement(MAC, address, true),
        hex(&format!("{head} {all_nodes} 8800 103f a0000000 {rest}"))
    );
}

#[test]
fn a_solicitation_for_duplicates_comes_from_nobody() {
    let head = "3333ff123410 0200000000aa 86dd 60000000 0018 3a ff 00000000000000000000000000000000";
    let body = "ff0200000000000000000001ff123410 8700 e4aa 00000000 20010db8000000000000000000123410";
    assert_eq!(duplicate_solicitation(MAC, "2001:db8::12:3410".parse().unwrap()), hex(&format!("{head} {body}")));
}

#[test]
fn bare_acks_of_both_families() {
    let v4 = bare_ack(socket("192.0.2.10:6432"), socket("192.0.2.99:40000"), 0x0102_0304, 0x0506_0708);
    let header = "4500 0028 0000 4000 40 06 b662 c000020a c0000263";
    assert_eq!(v4, Some(hex(&format!("{header} 1920 9c40 01020304 05060708 50 10 ffff 65f2 0000"))));
    let v6 = bare_ack(socket("[2001:db8::10]:6432"), socket("[2001:db8::99]:40000"), 0x0102_0304, 0x0506_0708);
    let header = "60000000 0014 06 40 20010db8000000000000000000000010 20010db8000000000000000000000099";
    assert_eq!(v6, Some(hex(&format!("{header} 1920 9c40 01020304 05060708 50 10 ffff 8e45 0000"))));
    assert_eq!(bare_ack(socket("192.0.2.10:1"), socket("[2001:db8::99]:1"), 1, 1), None);
}
