//! The bytes of adverts. Those of the examples were computed by another program, or captured from keepalived 2.2.7.

use proptest::prelude::*;

use super::super::packet::{ADVERT_LEN_MAX, decode, vrid};
use super::*;

/// From 192.0.2.1 to the group: VRID 51, priority 100, every 100 ms, 192.0.2.10.
const PLAIN: &str = "31336401000aa8b6c000020a";
const PSEUDO_HEADER: &str = "31336401000a0626c000020a";
/// From fe80::1 to the group: fe80::10 and 2001:db8::10.
const V6: &str = "31336402000a4037fe80000000000000000000000000001020010db8000000000000000000000010";
/// Version 2, every second, no authentication.
const V2: &str = "213364010001b8bfc000020a0000000000000000";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

fn received(source: &str) -> Received {
    let source = ip(source);
    Received { source, destination: Family::of(source).group(), ttl: 255, interface_index: 2 }
}

fn v4() -> Received {
    received("192.0.2.1")
}

fn example(checksum: ChecksumVariant) -> Advert {
    Advert {
        version: Version::V3,
        vrid: 51,
        priority: 100,
        interval: ms(100),
        addresses: vec![ip("192.0.2.10")],
        checksum,
    }
}

fn encode(advert: &Advert, received: &Received) -> Vec<u8> {
    let mut out = vec![7; 3];
    advert.encode(received.source, received.destination, &mut out);
    out
}

/// With this byte changed, and the checksum made right.
fn changed(text: &str, at: usize, to: u8, received: &Received) -> Vec<u8> {
    let mut bytes = hex(text);
    bytes[at] = to;
    bytes[6..8].fill(0);
    let sum = checksum::Sum::default().add(&bytes);
    let sum = match received.source {
        IpAddr::V4(_) => sum,
        IpAddr::V6(_) => sum.pseudo_header(received.source, received.destination, PROTOCOL, bytes.len()),
    };
    bytes[6..8].copy_from_slice(&sum.finish().to_be_bytes());
    bytes
}

#[test]
fn examples_are_read_and_written_as_they_are() {
    let v6 = Advert { addresses: vec![ip("fe80::10"), ip("2001:db8::10")], ..example(ChecksumVariant::PseudoHeader) };
    let v2 = Advert { version: Version::V2, interval: ms(1000), ..example(ChecksumVariant::Plain) };
    for (bytes, received, advert) in [
        (PLAIN, v4(), example(ChecksumVariant::Plain)),
        (PSEUDO_HEADER, v4(), example(ChecksumVariant::PseudoHeader)),
        (V6, received("fe80::1"), v6),
        (V2, v4(), v2),
    ] {
        assert_eq!(decode(&hex(bytes), &received), Ok(advert.clone()));
        assert_eq!(encode(&advert, &received), hex(bytes));
        assert_eq!(vrid(&hex(bytes)), Some(51));
    }
}

#[test]
fn old_keepalived_has_the_group_in_the_pseudo_header_of_unicast() {
    let unicast = Received { destination: ip("192.0.2.2"), ..v4() };
    let advert = decode(&hex(PSEUDO_HEADER), &unicast).unwrap();
    assert_eq!(advert.checksum, ChecksumVariant::GroupPseudoHeader);
    assert_eq!(encode(&advert, &unicast), hex(PSEUDO_HEADER));
    let new = encode(&example(ChecksumVariant::PseudoHeader), &unicast);
    assert_eq!(decode(&new, &unicast).unwrap().checksum, ChecksumVariant::PseudoHeader);
}

#[test]
fn every_check_of_section_7_1_discards() {
    let local = received("fe80::1");
    for (bytes, received, why) in [
        (hex(PLAIN), Received { ttl: 254, ..v4() }, Discard::Ttl { ttl: 254 }),
        (hex(V6), Received { ttl: 254, ..local }, Discard::Ttl { ttl: 254 }),
        (hex(V6), Received { ttl: 0, ..local }, Discard::Ttl { ttl: 0 }),
        (changed(PLAIN, 0, 0x41, &v4()), v4(), Discard::Version { version: 4 }),
        (changed(V6, 0, 0x21, &local), local, Discard::Version { version: 2 }),
        (changed(PLAIN, 0, 0x32, &v4()), v4(), Discard::Type { kind: 2 }),
        (Vec::new(), v4(), Discard::Length { there: 0, wanted: 8 }),
        (hex(&PLAIN[..10]), v4(), Discard::Length { there: 5, wanted: 8 }),
        (hex(&PLAIN[..22]), v4(), Discard::Length { there: 11, wanted: 12 }),
        (hex(&format!("{PLAIN}00")), v4(), Discard::Length { there: 13, wanted: 12 }),
        (hex(&V2[..24]), v4(), Discard::Length { there: 12, wanted: 20 }),
        (hex(&V6[..32]), local, Discard::Length { there: 16, wanted: 40 }),
        (hex(PLAIN), received("192.0.2.3"), Discard::Checksum),
        (hex(V6), received("fe80::3"), Discard::Checksum),
        (changed(PLAIN, 1, 0, &v4()), v4(), Discard::UnknownVrid { vrid: 0 }),
        (changed(&PLAIN[..16], 3, 0, &v4()), v4(), Discard::NoAddress),
        (changed(PLAIN, 5, 0, &v4()), v4(), Discard::ZeroInterval),
        (changed(V2, 5, 0, &v4()), v4(), Discard::ZeroInterval),
        (changed(V2, 4, 1, &v4()), v4(), Discard::Authentication { kind: 1 }),
    ] {
        let ours = decode(&bytes, &received);
        // A plain checksum does not depend on the source.
        if why == Discard::Checksum && received.source.is_ipv4() {
            assert!(ours.is_ok());
            let mut broken = bytes.clone();
            broken[2] ^= 1;
            assert_eq!(decode(&broken, &received), Err(why));
        } else {
            assert_eq!(ours, Err(why), "{bytes:02x?}");
        }
    }
}

#[test]
fn reserved_bits_are_ignored() {
    assert_eq!(decode(&changed(PLAIN, 4, 0xf0, &v4()), &v4()), Ok(example(ChecksumVariant::Plain)));
}

#[test]
fn what_does_not_fit_is_brought_to_bounds() {
    let mut addresses = vec![ip("fe80::10")];
    addresses.extend(std::iter::repeat_n(ip("192.0.2.10"), 300));
    let advert = Advert { interval: Duration::MAX, addresses, ..example(ChecksumVariant::Plain) };
    let read = decode(&encode(&advert, &v4()), &v4()).unwrap();
    assert_eq!((read.addresses.len(), read.interval), (255, ms(40_950)));
    let shortest = Advert { interval: Duration::ZERO, ..example(ChecksumVariant::Plain) };
    assert_eq!(decode(&encode(&shortest, &v4()), &v4()).unwrap().interval, ms(10));
}

#[test]
fn every_kind_of_discard_has_its_own_number_and_text() {
    let all = [
        Discard::Ttl { ttl: 1 },
        Discard::Version { version: 1 },
        Discard::Type { kind: 2 },
        Discard::Length { there: 1, wanted: 2 },
        Discard::Checksum,
        Discard::NoAddress,
        Discard::ZeroInterval,
        Discard::Authentication { kind: 1 },
        Discard::UnknownVrid { vrid: 1 },
        Discard::OtherVersion { version: 2 },
        Discard::NotLinkLocal { address: ip("::1") },
        Discard::OwnAddress,
        Discard::UnknownSource,
        Discard::Interval { heard: ms(1), own: ms(2) },
        Discard::Addresses,
    ];
    assert_eq!(all.map(Discard::kind), std::array::from_fn::<_, { Discard::KINDS }, _>(|i| i));
    let texts: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), Discard::KINDS);
}

fn adverts() -> impl Strategy<Value = (Advert, Received)> {
    let version =
        prop_oneof![Just((Version::V3, Family::V4)), Just((Version::V3, Family::V6)), Just((Version::V2, Family::V4))];
    let checksum = prop_oneof![
        Just(ChecksumVariant::Plain),
        Just(ChecksumVariant::PseudoHeader),
        Just(ChecksumVariant::GroupPseudoHeader)
    ];
    let numbers = (1u8.., any::<u8>(), 1u64..4096, any::<u128>(), any::<u128>());
    let addresses = prop::collection::vec(any::<u128>(), 1..=255);
    (version, checksum, numbers, addresses).prop_map(|((version, family), checksum, numbers, addresses)| {
        let (vrid, priority, interval, source, destination) = numbers;
        let address = |bits: u128| match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        let interval = match version {
            Version::V2 => Duration::from_secs(interval.min(255)),
            Version::V3 => ms(interval * 10),
        };
        let advert = Advert {
            version,
            vrid,
            priority,
            interval,
            addresses: addresses.into_iter().map(address).collect(),
            checksum,
        };
        let (source, destination) = (address(source), address(destination));
        (advert, Received { source, destination, ttl: 255, interface_index: 0 })
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read((advert, received) in adverts()) {
        let bytes = encode(&advert, &received);
        prop_assert!(bytes.len() <= ADVERT_LEN_MAX);
        let read = decode(&bytes, &received).unwrap();
        // Different pseudo-headers can have the same sum; then the bytes are the same too.
        prop_assert_eq!(encode(&read, &received), bytes);
        prop_assert_eq!(Advert { checksum: advert.checksum, ..read }, advert);
    }

    #[test]
    fn one_bit_changed_is_never_the_same_advert((advert, received) in adverts(), bit in any::<prop::sample::Index>()) {
        let mut bytes = encode(&advert, &received);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read = decode(&bytes, &received);
        prop_assert!(read.is_err(), "{read:?}");
    }

    #[test]
    fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..64), v6 in any::<bool>()) {
        let received = if v6 { received("fe80::1") } else { v4() };
        if let Ok(advert) = decode(&bytes, &received) {
            prop_assert!(advert.addresses.len() <= 255 && !advert.interval.is_zero());
        }
    }
}
