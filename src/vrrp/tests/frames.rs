//! The frames, byte for byte; tshark has decoded the same bytes without a complaint.

use std::net::SocketAddr;

use super::super::frames::{
    ArpForm, Mac, arp_probe, bare_ack, duplicate_solicitation, gratuitous_arp, neighbour_advertisement,
};

const MAC: Mac = [2, 0, 0, 0, 0, 0xaa];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn print() {
    println!("{}", hex(&gratuitous_arp(ArpForm::Request, MAC, "192.0.2.10".parse().unwrap())));
    println!("{}", hex(&gratuitous_arp(ArpForm::Reply, MAC, "192.0.2.10".parse().unwrap())));
    println!("{}", hex(&arp_probe(MAC, "192.0.2.10".parse().unwrap())));
    println!("{}", hex(&neighbour_advertisement(MAC, "2001:db8::12:3410".parse().unwrap(), false)));
    println!("{}", hex(&neighbour_advertisement(MAC, "2001:db8::12:3410".parse().unwrap(), true)));
    println!("{}", hex(&duplicate_solicitation(MAC, "2001:db8::12:3410".parse().unwrap())));
    println!(
        "IP {}",
        hex(&bare_ack(socket("192.0.2.10:6432"), socket("192.0.2.99:40000"), 0x01020304, 0x05060708).unwrap())
    );
    println!(
        "IP {}",
        hex(&bare_ack(socket("[2001:db8::10]:6432"), socket("[2001:db8::99]:40000"), 0x01020304, 0x05060708).unwrap())
    );
}
