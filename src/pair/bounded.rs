//! Strings, lists and bytes that cannot grow beyond what a message may hold: cut when they are made, refused when they are read,
//! before anything is allocated for them.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::message::{FLOWS_MAX, Flow};

/// A string of at most `MAX` bytes.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<const MAX: usize>(Box<str>);

impl<const MAX: usize> Text<MAX> {
    /// As much of `text` as fits.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut end = text.len().min(MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self(text.get(..end).unwrap_or_default().into())
    }

    /// The string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> Deref for Text<MAX> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> From<&str> for Text<MAX> {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl<const MAX: usize> fmt::Debug for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<const MAX: usize> Serialize for Text<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

struct TextVisitor<const MAX: usize>;

impl<const MAX: usize> Visitor<'_> for TextVisitor<MAX> {
    type Value = Text<MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string of at most {MAX} bytes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<MAX>, E> {
        if text.len() > MAX {
            return Err(E::invalid_length(text.len(), &self));
        }
        // What a peer says goes to logs and terminals.
        if text.chars().any(char::is_control) {
            let clean: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            return Ok(Text::new(&clean));
        }
        Ok(Text(text.into()))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Text<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A list of at most `MAX` elements.
#[derive(Clone, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// As many of `elements` as fit.
    #[must_use]
    pub fn new(mut elements: Vec<T>) -> Self {
        elements.truncate(MAX);
        Self(elements)
    }

    /// The elements.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> FromIterator<T> for List<T, MAX> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        Self(elements.into_iter().take(MAX).collect())
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: fmt::Debug, const MAX: usize> fmt::Debug for List<T, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T, MAX>, A::Error> {
        // The length that is announced is not believed: an element costs the sender a byte at least.
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element()? {
            if elements.len() == MAX {
                return Err(A::Error::invalid_length(MAX + 1, &self));
            }
            elements.push(element);
        }
        Ok(List(elements))
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// Exactly `LEN` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes<const LEN: usize>(pub [u8; LEN]);

impl<const LEN: usize> Default for Bytes<LEN> {
    fn default() -> Self {
        Self([0; LEN])
    }
}

impl<const LEN: usize> Serialize for Bytes<LEN> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

struct BytesVisitor<const LEN: usize>;

impl<const LEN: usize> Visitor<'_> for BytesVisitor<LEN> {
    type Value = Bytes<LEN>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LEN} bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes<LEN>, E> {
        bytes.try_into().map(Bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

impl<'de, const LEN: usize> Deserialize<'de> for Bytes<LEN> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

/// At most [`FLOWS_MAX`] flows, packed: for each one byte of family (4 or 6), then address and port of the client, then of our
/// end, all in network order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowList(Vec<Flow>);

const V4: u8 = 4;
const V6: u8 = 6;
/// Family, two addresses, two ports.
const FLOW_LEN_MAX: usize = 1 + 2 * (16 + 2);

impl FlowList {
    /// As many of `flows` as fit.
    #[must_use]
    pub fn new(mut flows: Vec<Flow>) -> Self {
        flows.truncate(FLOWS_MAX);
        Self(flows)
    }
}

impl Deref for FlowList {
    type Target = [Flow];
    fn deref(&self) -> &[Flow] {
        &self.0
    }
}

fn put_end(out: &mut Vec<u8>, end: SocketAddr, family: u8) {
    match (family, end.ip()) {
        (V4, IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
        (_, IpAddr::V4(ip)) => out.extend_from_slice(&ip.to_ipv6_mapped().octets()),
        (_, IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
    }
    out.extend_from_slice(&end.port().to_be_bytes());
}

fn take_end(bytes: &mut &[u8], family: u8) -> Option<SocketAddr> {
    let ip = if family == V4 {
        let (octets, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        IpAddr::V4(Ipv4Addr::from(*octets))
    } else {
        let (octets, rest) = bytes.split_first_chunk::<16>()?;
        *bytes = rest;
        IpAddr::V6(Ipv6Addr::from(*octets))
    };
    let (port, rest) = bytes.split_first_chunk::<2>()?;
    *bytes = rest;
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

impl Serialize for FlowList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = Vec::with_capacity(self.0.len() * FLOW_LEN_MAX);
        for flow in &self.0 {
            let family = if flow.client.is_ipv4() && flow.local.is_ipv4() { V4 } else { V6 };
            out.push(family);
            put_end(&mut out, flow.client, family);
            put_end(&mut out, flow.local, family);
        }
        serializer.serialize_bytes(&out)
    }
}

struct FlowsVisitor;

impl Visitor<'_> for FlowsVisitor {
    type Value = FlowList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {FLOWS_MAX} packed flows")
    }

    fn visit_bytes<E: Error>(self, mut bytes: &[u8]) -> Result<FlowList, E> {
        let mut flows = Vec::new();
        while let Some((&family, rest)) = bytes.split_first() {
            bytes = rest;
            let ends = match family {
                V4 | V6 if flows.len() < FLOWS_MAX => take_end(&mut bytes, family).zip(take_end(&mut bytes, family)),
                _ => None,
            };
            let (client, local) = ends.ok_or_else(|| E::custom("not packed flows, or too many"))?;
            flows.push(Flow { client, local });
        }
        Ok(FlowList(flows))
    }
}

impl<'de> Deserialize<'de> for FlowList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(FlowsVisitor)
    }
}
