//! The first packet of a client (PostgreSQL docs, "Start-up", "Cancel Request", "SSL Session Encryption"): a startup message,
//! a request for TLS or GSSAPI encryption, or a cancel request; and the startup message that we send to servers.

use super::frame::{cstr, put_cstr, put_length_prefixed};

/// The largest first packet that PostgreSQL takes (`MAX_STARTUP_PACKET_LENGTH`), in bytes with the length field.
pub const PACKET_LEN_MAX: usize = 10_000;

/// The longest secret of a cancel key in protocol 3.2, in bytes.
pub const CANCEL_SECRET_LEN_MAX: usize = 256;

const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// Protocol 3.0, spoken by everyone.
pub const PROTOCOL_3_0: u32 = 0x0003_0000;
/// Protocol 3.2: cancel keys of any length (PostgreSQL 18).
pub const PROTOCOL_3_2: u32 = 0x0003_0002;

/// What the first packet wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// TLS, please; answered by one byte.
    Ssl,
    /// GSSAPI encryption, please; answered by one byte.
    Gss,
    /// Cancel what the client with this key runs.
    Cancel(CancelKey),
    /// A session.
    Startup(Startup),
}

/// The key of BackendKeyData and CancelRequest: process id and secret, which is 4 bytes long in protocol 3.0.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// The first four bytes; a process id for PostgreSQL, random for our clients.
    pub pid: u32,
    /// 4 to 256 bytes.
    pub secret: Box<[u8]>,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey(pid {}, secret of {} bytes)", self.pid, self.secret.len())
    }
}

/// A parameter's name and value, neither of which need be UTF-8.
pub type Param = (Box<[u8]>, Box<[u8]>);

/// A startup message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// Major version in the upper, minor in the lower 16 bits.
    pub protocol: u32,
    /// Names and values in the order sent, duplicates kept; values are not UTF-8 by any rule.
    pub params: Vec<Param>,
}

impl Startup {
    /// The value sent for `name`; of duplicates the last, as PostgreSQL takes it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.params.iter().rev().find(|(n, _)| &**n == name.as_bytes()).map(|(_, v)| &**v)
    }

    /// The protocol that will be spoken: what was asked for, at most 3.2, and 3.0 in place of the never-published 3.1.
    #[must_use]
    pub fn negotiated(&self) -> u32 {
        if self.protocol >= PROTOCOL_3_2 { PROTOCOL_3_2 } else { PROTOCOL_3_0 }
    }

    /// Names of protocol extensions asked for (`_pq_.…`), none of which we speak.
    pub fn extensions(&self) -> impl Iterator<Item = &[u8]> {
        self.params.iter().map(|(n, _)| &**n).filter(|n| n.starts_with(b"_pq_."))
    }

    /// Must a NegotiateProtocolVersion be sent before anything else?
    #[must_use]
    pub fn needs_negotiation(&self) -> bool {
        self.protocol != self.negotiated() || self.extensions().next().is_some()
    }
}

/// Why a first packet was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFirst {
    /// Shorter than its own fixed part or longer than [`PACKET_LEN_MAX`].
    #[error("invalid length of startup packet")]
    Length,
    /// Not protocol 3.
    #[error("unsupported frontend protocol {0}.{1}")]
    Protocol(u16, u16),
    /// Parameters not terminated, or a name without a value.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
}

/// Length of the first packet from its first four bytes; `None` while they are not there.
///
/// # Errors
/// [`BadFirst::Length`] when no such packet is allowed.
pub fn packet_len(bytes: &[u8]) -> Result<Option<usize>, BadFirst> {
    let [a, b, c, d, ..] = *bytes else { return Ok(None) };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if (8..=PACKET_LEN_MAX).contains(&len) { Ok(Some(len)) } else { Err(BadFirst::Length) }
}

/// Reads a whole first packet, its length field included.
///
/// # Errors
/// [`BadFirst`] says what is wrong with it.
pub fn first(packet: &[u8]) -> Result<First, BadFirst> {
    let Some((head, body)) = packet.split_at_checked(8) else { return Err(BadFirst::Length) };
    let Some(&[a, b, c, d]) = head.get(4..8) else { return Err(BadFirst::Length) };
    match u32::from_be_bytes([a, b, c, d]) {
        SSL_REQUEST if body.is_empty() => Ok(First::Ssl),
        GSSENC_REQUEST if body.is_empty() => Ok(First::Gss),
        SSL_REQUEST | GSSENC_REQUEST => Err(BadFirst::Length),
        CANCEL_REQUEST => cancel(body),
        protocol if protocol >> 16 == 3 => Ok(First::Startup(Startup { protocol, params: params(body)? })),
        other => Err(BadFirst::Protocol((other >> 16) as u16, (other & 0xffff) as u16)),
    }
}

fn cancel(body: &[u8]) -> Result<First, BadFirst> {
    let [a, b, c, d, secret @ ..] = body else { return Err(BadFirst::Length) };
    if !(4..=CANCEL_SECRET_LEN_MAX).contains(&secret.len()) {
        return Err(BadFirst::Length);
    }
    Ok(First::Cancel(CancelKey { pid: u32::from_be_bytes([*a, *b, *c, *d]), secret: secret.into() }))
}

fn params(mut body: &[u8]) -> Result<Vec<Param>, BadFirst> {
    let mut params = Vec::new();
    loop {
        let (name, rest) = cstr(body).ok_or(BadFirst::Layout)?;
        if name.is_empty() {
            return if rest.is_empty() { Ok(params) } else { Err(BadFirst::Layout) };
        }
        let (value, rest) = cstr(rest).ok_or(BadFirst::Layout)?;
        params.push((name.into(), value.into()));
        body = rest;
    }
}

/// Appends a startup message for a server.
pub fn put_startup<'a>(out: &mut Vec<u8>, protocol: u32, params: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) {
    put_length_prefixed(out, |out| {
        out.extend_from_slice(&protocol.to_be_bytes());
        for (name, value) in params {
            put_cstr(out, name);
            put_cstr(out, value);
        }
        out.push(0);
    });
}

/// Appends the request for TLS.
pub fn put_ssl_request(out: &mut Vec<u8>) {
    put_length_prefixed(out, |out| out.extend_from_slice(&SSL_REQUEST.to_be_bytes()));
}

/// Appends a cancel request.
pub fn put_cancel(out: &mut Vec<u8>, key: &CancelKey) {
    put_length_prefixed(out, |out| {
        out.extend_from_slice(&CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&key.pid.to_be_bytes());
        out.extend_from_slice(&key.secret);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn startup_bytes(params: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        put_startup(&mut out, PROTOCOL_3_0, params.iter().copied());
        out
    }

    #[test]
    fn startup_round_trip_keeps_order_and_duplicates() {
        let bytes = startup_bytes(&[(b"user", b"a"), (b"user", b"b\xff"), (b"database", b"")]);
        let Ok(First::Startup(startup)) = first(&bytes) else { panic!("not a startup message") };
        assert_eq!(startup.params.len(), 3);
        assert_eq!(startup.get("user"), Some(&b"b\xff"[..]));
        assert_eq!(startup.get("database"), Some(&b""[..]));
        assert!(!startup.needs_negotiation());
    }

    #[test]
    fn unterminated_parameters_are_refused() {
        let mut bytes = startup_bytes(&[(b"user", b"a")]);
        bytes.pop();
        assert_eq!(first(&bytes), Err(BadFirst::Layout));
        assert_eq!(first(&[0, 0, 0, 8, 0, 2, 0, 0]), Err(BadFirst::Protocol(2, 0)));
        assert_eq!(packet_len(&[0, 0, 0, 7]), Err(BadFirst::Length));
        assert_eq!(packet_len(&[0xff, 0xff, 0xff, 0xff]), Err(BadFirst::Length));
    }

    #[test]
    fn newer_minor_versions_and_extensions_ask_for_negotiation() {
        let ask = |protocol, name: &[u8]| Startup { protocol, params: vec![(name.into(), (*b"1").into())] };
        assert!(ask(0x0003_270f, b"user").needs_negotiation());
        assert!(ask(0x0003_0001, b"user").needs_negotiation());
        assert!(!ask(PROTOCOL_3_2, b"user").needs_negotiation());
        assert!(ask(PROTOCOL_3_2, b"_pq_.x").needs_negotiation());
    }

    proptest! {
        #[test]
        fn bytes_from_outside_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = packet_len(&bytes);
            let _ = first(&bytes);
        }

        #[test]
        fn cancel_round_trip(pid: u32, secret in prop::collection::vec(any::<u8>(), 4..=256)) {
            let key = CancelKey { pid, secret: secret.into() };
            let mut out = Vec::new();
            put_cancel(&mut out, &key);
            prop_assert_eq!(packet_len(&out), Ok(Some(out.len())));
            prop_assert_eq!(first(&out), Ok(First::Cancel(key)));
        }
    }
}
