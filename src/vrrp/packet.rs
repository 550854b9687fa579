//! The one message of the protocol, the advert, in both versions: what stands behind the IP header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::checksum::Sum;
use super::params::centiseconds;
use super::{Discard, Family, PROTOCOL, TTL, Version};

/// Bytes before the addresses (RFC 9568 section 5.1, RFC 3768 section 5.1).
const HEAD_LEN: usize = 8;

/// Bytes of authentication data behind the addresses in version 2 (RFC 3768 section 5.3.10).
const AUTHENTICATION_LEN: usize = 8;

/// The only type of message, ADVERTISEMENT (RFC 9568 section 5.2.2).
const ADVERTISEMENT: u8 = 1;

/// The longest advert: 255 IPv6 addresses.
pub const ADVERT_LEN_MAX: usize = HEAD_LEN + 255 * 16;

/// What the IP header says of a received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who has sent it.
    pub source: IpAddr,
    /// To whom: the group, or this node's own address.
    pub destination: IpAddr,
    /// TTL or hop limit; 0 if the kernel did not say.
    pub ttl: u8,
    /// The interface on which it came; 0 if the kernel did not say.
    pub interface_index: u32,
}

/// What the checksum of a version 3 IPv4 advert covers. RFC 5798 was ambiguous; RFC 9568 section 5.2.8 says the message only,
/// keepalived and FRR add the pseudo-header unless told otherwise. Version 2 never has a pseudo-header, IPv6 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChecksumVariant {
    /// The message.
    Plain,
    /// The message and the pseudo-header of the packet. The default: a backup that discards our adverts would take over, and
    /// what runs beside us on Linux is keepalived or FRR.
    #[default]
    PseudoHeader,
    /// As old keepalived (before 1.3.6) does in unicast: with the multicast group in the pseudo-header.
    GroupPseudoHeader,
}

/// An advert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The version.
    pub version: Version,
    /// The virtual router identifier.
    pub vrid: u8,
    /// 0: the sender leaves.
    pub priority: u8,
    /// The sender's interval (Max Advertise Interval).
    pub interval: Duration,
    /// The floating addresses, all of one family, at most 255.
    pub addresses: Vec<IpAddr>,
    /// How its checksum is computed.
    pub checksum: ChecksumVariant,
}

/// The virtual router identifier of what may be an advert: several virtual routers of one interface hear each other's.
#[must_use]
pub fn vrid(bytes: &[u8]) -> Option<u8> {
    bytes.get(1).copied()
}

/// Reads a message (without IP header) and does the checks of RFC 9568 section 7.1 that need no configuration, in its order;
/// the others are [`Router`](super::Router)'s.
///
/// # Errors
/// The first check that it fails.
pub fn decode(bytes: &[u8], received: &Received) -> Result<Advert, Discard> {
    if received.ttl != TTL {
        return Err(Discard::Ttl { ttl: received.ttl });
    }
    let &[first, vrid, priority, count, fifth, sixth, ..] = bytes else {
        return Err(Discard::Length { there: bytes.len(), wanted: HEAD_LEN });
    };
    let family = Family::of(received.source);
    let version = match (first >> 4, family) {
        (3, _) => Version::V3,
        (2, Family::V4) => Version::V2,
        (version, _) => return Err(Discard::Version { version }),
    };
    if first & 0xf != ADVERTISEMENT {
        return Err(Discard::Type { kind: first & 0xf });
    }
    let address_len = if family == Family::V4 { 4 } else { 16 };
    let trailer_len = if version == Version::V2 { AUTHENTICATION_LEN } else { 0 };
    let wanted = HEAD_LEN + usize::from(count) * address_len + trailer_len;
    if bytes.len() != wanted {
        return Err(Discard::Length { there: bytes.len(), wanted });
    }
    let checksum = checksum_variant(bytes, version, received).ok_or(Discard::Checksum)?;
    if vrid == 0 {
        return Err(Discard::UnknownVrid { vrid });
    }
    if count == 0 {
        return Err(Discard::NoAddress);
    }
    let interval = match version {
        // The first byte is the authentication type there, the second the interval (RFC 3768 section 5.3).
        Version::V2 if fifth != 0 => return Err(Discard::Authentication { kind: fifth }),
        Version::V2 => Duration::from_secs(u64::from(sixth)),
        // The upper four bits are reserved and ignored (RFC 9568 section 5.2.6).
        Version::V3 => Duration::from_millis(10 * u64::from(u16::from_be_bytes([fifth & 0xf, sixth]))),
    };
    if interval.is_zero() {
        return Err(Discard::ZeroInterval);
    }
    let body = bytes.get(HEAD_LEN..wanted - trailer_len).unwrap_or_default();
    let addresses = body.chunks_exact(address_len).filter_map(address).collect();
    Ok(Advert { version, vrid, priority, interval, addresses, checksum })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    v4.ok().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))))
}

/// In which way the checksum is right.
fn checksum_variant(bytes: &[u8], version: Version, received: &Received) -> Option<ChecksumVariant> {
    let Received { source, destination, .. } = *received;
    let variants = [ChecksumVariant::Plain, ChecksumVariant::PseudoHeader, ChecksumVariant::GroupPseudoHeader];
    let possible = match (version, Family::of(source)) {
        (Version::V2, _) => &variants[..1],
        (_, Family::V6) => &variants[1..2],
        // To the group both pseudo-headers are the same, and the first is found.
        (_, Family::V4) => &variants[..],
    };
    possible.iter().copied().find(|&variant| sum(bytes, variant, source, destination).finish() == 0)
}

fn sum(bytes: &[u8], variant: ChecksumVariant, source: IpAddr, destination: IpAddr) -> Sum {
    let sum = Sum::default().add(bytes);
    match variant {
        ChecksumVariant::Plain => sum,
        ChecksumVariant::PseudoHeader => sum.pseudo_header(source, destination, PROTOCOL, bytes.len()),
        ChecksumVariant::GroupPseudoHeader => {
            sum.pseudo_header(source, Family::of(source).group(), PROTOCOL, bytes.len())
        }
    }
}

impl Advert {
    /// Writes the message that stands behind the IP header, with its checksum, over what `out` holds. What does not fit is
    /// brought to the nearest value; addresses of another family than the source, and those beyond 255, are left out.
    pub fn encode(&self, source: IpAddr, destination: IpAddr, out: &mut Vec<u8>) {
        let family = Family::of(source);
        let addresses = || self.addresses.iter().filter(|address| Family::of(**address) == family).take(255);
        let count = u8::try_from(addresses().count()).unwrap_or(u8::MAX);
        let [fifth, sixth] = match self.version {
            Version::V2 => [0, u8::try_from(self.interval.as_secs().clamp(1, 255)).unwrap_or(u8::MAX)],
            Version::V3 => u16::try_from(centiseconds(self.interval)).unwrap_or(4095).to_be_bytes(),
        };
        out.clear();
        let first = self.version.number() << 4 | ADVERTISEMENT;
        out.extend_from_slice(&[first, self.vrid, self.priority, count, fifth, sixth, 0, 0]);
        for address in addresses() {
            match address {
                IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
                IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
            }
        }
        let variant = match (self.version, family) {
            (Version::V2, _) => ChecksumVariant::Plain,
            (_, Family::V6) => ChecksumVariant::PseudoHeader,
            (_, Family::V4) => self.checksum,
        };
        if self.version == Version::V2 {
            out.extend_from_slice(&[0; AUTHENTICATION_LEN]);
        }
        let checksum = sum(out, variant, source, destination).finish();
        if let Some(field) = out.get_mut(6..8) {
            field.copy_from_slice(&checksum.to_be_bytes());
        }
    }
}
