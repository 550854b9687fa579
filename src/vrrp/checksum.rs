//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// A one's complement sum that is not finished.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes as 16 bit words; an odd one is the upper half of the last.
    #[must_use]
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        let words = bytes.chunks(2).map(|pair| match *pair {
            [high, low] => u64::from(u16::from_be_bytes([high, low])),
            [high] => u64::from(high) << 8,
            _ => 0,
        });
        Self(self.0 + words.sum::<u64>())
    }

    /// Adds the pseudo-header of a message of `len` bytes (RFC 9293 section 3.1 for IPv4, RFC 8200 section 8.1 for IPv6).
    #[must_use]
    pub(super) fn pseudo_header(self, source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Self {
        let sum = self.add_address(source).add_address(destination);
        Self(sum.0 + u64::from(protocol) + len as u64)
    }

    fn add_address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.add(&address.octets()),
            IpAddr::V6(address) => self.add(&address.octets()),
        }
    }

    /// The checksum: the complement of the sum. A message that carries its right checksum gives 0.
    #[must_use]
    pub(super) fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap_or(u16::MAX)
    }
}
