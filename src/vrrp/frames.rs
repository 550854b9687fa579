//! Packets around a change of holder, byte for byte: announcements to neighbours, questions whether somebody else has the
//! address, and the segment that makes a client of a dead node learn of it. All are built here and none is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::checksum::Sum;

/// A link-layer address.
pub type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_ICMPV6: u8 = 58;

/// Neighbour discovery must not have passed a router (RFC 4861 sections 7.1.1 and 7.1.2).
const HOP_LIMIT_NEIGHBOUR: u8 = 255;

/// The usual TTL of what hosts send (RFC 1700).
const TTL_HOST: u8 = 64;

const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;

const TCP_ACK: u8 = 0x10;

/// The two forms of a gratuitous ARP. Some hosts heed only one (RFC 5227 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpForm {
    /// As a request, which is how RFC 5227 section 2.3 and RFC 9568 section 6.4.1 want it.
    Request,
    /// As a reply that nobody has asked for.
    Reply,
}

/// A gratuitous ARP, to everybody: sender and target are `address`, at `mac` (RFC 9568 section 6.4.1 with errata 7947 and 7949).
#[must_use]
pub fn gratuitous_arp(form: ArpForm, mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let operation = if form == ArpForm::Request { 1 } else { 2 };
    arp(operation, mac, address, mac, address)
}

/// Asks whether anybody has `address`, without claiming it (RFC 5227 section 2.1.1).
#[must_use]
pub fn arp_probe(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    arp(1, mac, Ipv4Addr::UNSPECIFIED, [0; 6], address)
}

/// RFC 826, for Ethernet and IPv4, to everybody.
fn arp(operation: u8, sender_mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut out = ethernet(BROADCAST, sender_mac, ETHERTYPE_ARP);
    out.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    out.extend_from_slice(&sender_mac);
    out.extend_from_slice(&sender.octets());
    out.extend_from_slice(&target_mac);
    out.extend_from_slice(&target.octets());
    out
}

/// An unsolicited neighbour advertisement, to all nodes: `address` is at `mac`, whatever was known before (RFC 4861 section
/// 7.2.6, RFC 9568 section 6.4.1). `router`: the holder is a router; hosts take one that stops being a router off their list.
#[must_use]
pub fn neighbour_advertisement(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let flags = if router { FLAG_ROUTER | FLAG_OVERRIDE } else { FLAG_OVERRIDE };
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut body = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    body.extend_from_slice(&address.octets());
    // Target Link-Layer Address, one unit of eight bytes (RFC 4861 section 4.6.1).
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&mac);
    icmpv6(mac, address, all_nodes, body)
}

/// Asks whether anybody has `address`, without claiming it: duplicate address detection (RFC 4862 section 5.4.2).
#[must_use]
pub fn duplicate_solicitation(mac: Mac, address: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    let solicited_node = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut body = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&address.octets());
    icmpv6(mac, Ipv6Addr::UNSPECIFIED, solicited_node, body)
}

/// A frame to a multicast group, with the checksum put in its place.
fn icmpv6(mac: Mac, source: Ipv6Addr, group: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let sum = Sum::default().add(&body).pseudo_header(source.into(), group.into(), PROTOCOL_ICMPV6, body.len());
    put(&mut body, 2, sum.finish());
    // Ethernet addresses of groups: RFC 2464 section 7.
    let [.., a, b, c, d] = group.octets();
    let mut out = ethernet([0x33, 0x33, a, b, c, d], mac, ETHERTYPE_IPV6);
    ipv6_header(&mut out, source, group, PROTOCOL_ICMPV6, HOP_LIMIT_NEIGHBOUR, body.len());
    out.extend_from_slice(&body);
    out
}

/// A TCP segment with nothing but ACK set, with its IP header and without a link-layer header. To a peer whose connection is
/// elsewhere in its sequence numbers it is wrong, and draws a challenge ACK (RFC 5961 section 4.2 for SYN, RFC 9293 section
/// 3.10.7.4 for others) with the right ones, which a host without that connection answers with an exact reset. `None` if the two
/// addresses are not of one family.
#[must_use]
pub fn bare_ack(source: SocketAddr, destination: SocketAddr, sequence: u32, acknowledgement: u32) -> Option<Vec<u8>> {
    let mut segment = Vec::with_capacity(20);
    segment.extend_from_slice(&source.port().to_be_bytes());
    segment.extend_from_slice(&destination.port().to_be_bytes());
    segment.extend_from_slice(&sequence.to_be_bytes());
    segment.extend_from_slice(&acknowledgement.to_be_bytes());
    // Five words of header; an open window, should the numbers happen to fit.
    segment.extend_from_slice(&[0x50, TCP_ACK, 0xff, 0xff, 0, 0, 0, 0]);
    let len = segment.len();
    let sum = Sum::default().add(&segment).pseudo_header(source.ip(), destination.ip(), PROTOCOL_TCP, len);
    put(&mut segment, 16, sum.finish());
    let mut out = Vec::with_capacity(60);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_header(&mut out, from, to, PROTOCOL_TCP, len),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_header(&mut out, from, to, PROTOCOL_TCP, TTL_HOST, len),
        _ => return None,
    }
    out.extend_from_slice(&segment);
    Some(out)
}

fn ethernet(destination: Mac, source: Mac, ethertype: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(86);
    out.extend_from_slice(&destination);
    out.extend_from_slice(&source);
    out.extend_from_slice(&ethertype.to_be_bytes());
    out
}

/// RFC 791 section 3.1: no options, not to be fragmented.
fn ipv4_header(out: &mut Vec<u8>, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, body_len: usize) {
    let total = u16::try_from(20 + body_len).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, TTL_HOST, protocol, 0, 0];
    header.extend_from_slice(&source.octets());
    header.extend_from_slice(&destination.octets());
    let checksum = Sum::default().add(&header).finish();
    put(&mut header, 10, checksum);
    out.extend_from_slice(&header);
}

/// RFC 8200 section 3.
fn ipv6_header(
    out: &mut Vec<u8>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: u8,
    hop_limit: u8,
    body_len: usize,
) {
    let len = u16::try_from(body_len).unwrap_or(u16::MAX).to_be_bytes();
    out.extend_from_slice(&[0x60, 0, 0, 0, len[0], len[1], protocol, hop_limit]);
    out.extend_from_slice(&source.octets());
    out.extend_from_slice(&destination.octets());
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}
