//! Lists of addresses, as `address` and `peer_address` have them.

use std::net::IpAddr;

use super::super::value::{BadValue, Caution, Scalar, Value};

/// Most addresses in one list. Adverts with more would not fit into one packet of the usual size, for IPv6.
pub(super) const MAX_ADDRESSES: usize = 64;

/// A comma list of IP addresses. Equal when the addresses are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressList(Vec<IpAddr>);

impl AddressList {
    /// The addresses in their order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().copied()
    }

    /// Is the address one of the list?
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Does the list name nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<IpAddr> for AddressList {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        Self(addresses.into_iter().collect())
    }
}

impl Value for AddressList {
    fn null() -> Self {
        Self::default()
    }
    fn parse(text: &str, _: (i64, i64)) -> Result<(Self, Caution), BadValue> {
        let (mut addresses, mut prefixed) = (Vec::new(), None);
        let items = text.split(|c: char| c == ',' || c.is_ascii_whitespace()).filter(|item| !item.is_empty());
        for item in items {
            let (address, prefix) = one(item)?;
            if prefix {
                prefixed.get_or_insert(item);
            }
            addresses.push(address);
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(BadValue(format!("at most {MAX_ADDRESSES} addresses")));
        }
        let caution = prefixed.map(|item| {
            format!(
                "the prefix length in {item} is not used: the address is one of a single host (/32 or /128), its network \
                 is that of the interface's own address"
            )
        });
        Ok((Self(addresses), caution))
    }
    fn scalar(&self) -> Option<Scalar> {
        let items: Vec<_> = self.0.iter().map(IpAddr::to_string).collect();
        let text = items.join(",");
        Some(Scalar::List(items, text))
    }
}

/// An address, and whether a prefix length stood behind it.
fn one(item: &str) -> Result<(IpAddr, bool), BadValue> {
    let (address, prefix) = item.split_once('/').map_or((item, None), |(address, prefix)| (address, Some(prefix)));
    let wants = || BadValue(format!("IP addresses such as 192.0.2.10 or 2001:db8::10, and {item} is none"));
    let address: IpAddr = address.parse().map_err(|_| wants())?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let sound = |prefix: &str| prefix.parse::<u8>().is_ok_and(|length| length <= longest);
    if prefix.is_some_and(|prefix| !sound(prefix)) {
        return Err(wants());
    }
    if address.is_unspecified() || address.is_multicast() || is_broadcast(address) {
        return Err(BadValue(format!("addresses of single hosts, and {item} is none")));
    }
    Ok((address, prefix.is_some()))
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}
