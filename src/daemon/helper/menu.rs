//! All that the pooler may ask of the address helper, and all that the helper says: one packet of a Unix socket that keeps
//! their bounds each.
//!
//! The layout is fixed and has no nesting, so that a reader of a few lines, without an allocation of a size that the other
//! side names, does for a process with privileges. Numbers are little-endian. The first byte is the kind, then come the
//! fields in the order in which they stand below; a packet with a byte too few or too many is none. Routers are named by their
//! index in the configuration that both sides have read ([`Request::Hello`] compares fingerprints of it).
//!
//! ```text
//! pooler                              helper
//! Hello                            ->
//!                                  <- Welcome + a VRRP socket for each router that is up, or Refused
//! Renew, again and again           ->
//! Hold, Advertised, Announce …     ->
//!                                  <- Held, Released, Rival, Link, LeaseOver …
//! ```

use std::net::IpAddr;

/// The version of this menu.
pub const PROTOCOL: u16 = 1;

/// The longest packet, in bytes: a sweep of [`FLOWS_MAX`] IPv6 flows.
pub const PACKET_LEN_MAX: usize = 8 * 1024;

/// Virtual routers of one configuration. A socket for each goes beside [`Event::Welcome`], and the kernel takes 253.
pub const ROUTERS_MAX: usize = 64;

/// Floating addresses of one virtual router.
pub const ADDRESSES_MAX: usize = 32;

/// Flows in one [`Request::Sweep`].
pub const FLOWS_MAX: usize = 256;

/// Bytes of the reason in [`Event::Refused`]; what is longer is cut.
pub const REASON_LEN_MAX: usize = 512;

/// The address of a network interface (MAC).
pub type HardwareAddress = [u8; 6];

/// What the pooler asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Comes first, and again from each successor process on the same socket.
    Hello {
        /// [`PROTOCOL`] of the pooler.
        protocol: u16,
        /// What the pooler's configuration says of the routers (`HelperConfig::fingerprint`).
        fingerprint: [u8; 32],
    },
    /// The pooler is well: what it holds is its own for so long.
    Renew {
        /// Milliseconds from now.
        lease_ms: u32,
    },
    /// Take the addresses of a router and announce them.
    Hold {
        /// The router's index.
        router: u8,
        /// Microseconds to wait for an answer to a question who else has the addresses; 0: nobody is asked.
        check_us: u32,
        /// The priority that goodbyes and bridging adverts stand for; see [`Request::Advertised`].
        priority: u8,
    },
    /// Give the addresses of a router up, silently: the goodbye, if any, is the pooler's.
    Release {
        /// The router's index.
        router: u8,
    },
    /// Announce the addresses of a router again.
    Announce {
        /// The router's index.
        router: u8,
    },
    /// The priority that the pooler advertises; the helper bridges with it.
    Advertised {
        /// The router's index.
        router: u8,
        /// The priority, as in an advertisement.
        priority: u8,
    },
    /// The process is about to be replaced: the lease lasts so long, and the helper sends the adverts meanwhile. Ends with the
    /// next [`Request::Renew`].
    Bridge {
        /// Milliseconds from now.
        ms: u32,
    },
    /// Send a bare acknowledgment to each of these clients of the other node, so that those whose connection died with it learn
    /// so: their answer draws a reset from this node (RFC 9293 section 3.10.7.4; RFC 5961 section 4). It is on the menu because a
    /// segment without a connection takes a raw socket, which the pooler must not have. The source is an address that is held
    /// and a port that is listened on: whoever has taken the pooler can reset clients of the service that it was anyway.
    Sweep {
        /// The router's index; its addresses are the source, each flow's by family.
        router: u8,
        /// The source port, one of the ports that are listened on.
        port: u16,
        /// Addresses and ports of the clients.
        flows: Vec<(IpAddr, u16)>,
    },
    /// Read the configuration again; the answer is [`Event::Welcome`].
    Reread {
        /// As in [`Request::Hello`].
        fingerprint: [u8; 32],
    },
}

/// How a router stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterStanding {
    /// Its addresses are held.
    pub held: bool,
    /// Its interface can be used. A VRRP socket goes beside the event.
    pub up: bool,
    /// The node's own address there, from which it advertises.
    pub own_address: Option<IpAddr>,
}

/// What the helper says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer to [`Request::Hello`] and [`Request::Reread`]. Beside it go the VRRP sockets of the routers that are up, in their
    /// order.
    Welcome {
        /// [`PROTOCOL`] of the helper.
        protocol: u16,
        /// By index.
        routers: Vec<RouterStanding>,
    },
    /// The helper will not; it hangs up if this answers a Hello.
    Refused(String),
    /// The addresses are there and announced.
    Held {
        /// The router's index.
        router: u8,
        /// Who else claimed one of them just before, if somebody was asked.
        rival: Option<HardwareAddress>,
    },
    /// The addresses are gone.
    Released {
        /// The router's index.
        router: u8,
    },
    /// The addresses could not be had.
    HoldFailed {
        /// The router's index.
        router: u8,
        /// The kernel's error; ENODEV: the interface cannot be used; ETIME: no lease runs.
        errno: i32,
    },
    /// Somebody else claims an address that is held. Said once in 20 ms for each address.
    Rival {
        /// The router's index.
        router: u8,
        /// Which of its addresses.
        address_index: u8,
        /// Who sent the packet.
        mac: HardwareAddress,
    },
    /// Something has changed about the interface. Beside it goes a new VRRP socket if it is up.
    Link {
        /// The router's index.
        router: u8,
        /// It can be used.
        up: bool,
        /// The node's own address there.
        own_address: Option<IpAddr>,
    },
    /// The lease was not renewed: the helper has said goodbye and given the addresses up.
    LeaseOver {
        /// Of these routers.
        routers: Vec<u8>,
    },
    /// The answer to [`Request::Renew`]: the helper works.
    Renewed,
    /// An end to a sweep.
    Swept {
        /// The router's index.
        router: u8,
        /// Segments that went out.
        sent: u32,
    },
}

/// A packet that is not on the menu.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Of no known kind.
    #[error("a packet of unknown kind {0}")]
    Kind(u8),
    /// Its fields do not fill it, or run over its end.
    #[error("a packet of {0} bytes, which its kind does not have")]
    Length(usize),
    /// A field has a value that means nothing.
    #[error("a packet with an impossible {0}")]
    Value(&'static str),
}

impl Request {
    /// The packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Hello { protocol, fingerprint } => out.kind(1).u16(*protocol).bytes(fingerprint),
            Self::Renew { lease_ms } => out.kind(2).u32(*lease_ms),
            Self::Hold { router, check_us, priority } => out.kind(3).u8(*router).u32(*check_us).u8(*priority),
            Self::Release { router } => out.kind(4).u8(*router),
            Self::Announce { router } => out.kind(5).u8(*router),
            Self::Advertised { router, priority } => out.kind(6).u8(*router).u8(*priority),
            Self::Bridge { ms } => out.kind(7).u32(*ms),
            Self::Sweep { router, port, flows } => {
                let flows = flows.get(..flows.len().min(FLOWS_MAX)).unwrap_or_default();
                out.kind(8).u8(*router).u16(*port).u16(u16::try_from(flows.len()).unwrap_or(u16::MAX));
                for (address, port) in flows {
                    out.address(Some(*address)).u16(*port);
                }
                &mut out
            }
            Self::Reread { fingerprint } => out.kind(9).bytes(fingerprint),
        };
        out.0
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let mut input = Reader::new(packet);
        let request = match input.u8()? {
            1 => Self::Hello { protocol: input.u16()?, fingerprint: input.array()? },
            2 => Self::Renew { lease_ms: input.u32()? },
            3 => Self::Hold { router: input.u8()?, check_us: input.u32()?, priority: input.u8()? },
            4 => Self::Release { router: input.u8()? },
            5 => Self::Announce { router: input.u8()? },
            6 => Self::Advertised { router: input.u8()?, priority: input.u8()? },
            7 => Self::Bridge { ms: input.u32()? },
            8 => {
                let (router, port, count) = (input.u8()?, input.u16()?, input.u16()?);
                if usize::from(count) > FLOWS_MAX {
                    return Err(Malformed::Value("number of flows"));
                }
                let mut flows = Vec::new();
                for _ in 0..count {
                    let address = input.address()?.ok_or(Malformed::Value("address of a flow"))?;
                    flows.push((address, input.u16()?));
                }
                Self::Sweep { router, port, flows }
            }
            9 => Self::Reread { fingerprint: input.array()? },
            other => return Err(Malformed::Kind(other)),
        };
        input.end().map(|()| request)
    }
}

impl Event {
    /// The packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        match self {
            Self::Welcome { protocol, routers } => {
                let routers = routers.get(..routers.len().min(ROUTERS_MAX)).unwrap_or_default();
                out.kind(1).u16(*protocol).count(routers.len());
                for RouterStanding { held, up, own_address } in routers {
                    out.flag(*held).flag(*up).address(*own_address);
                }
                &mut out
            }
            Self::Refused(reason) => out.kind(2).bytes(cut(reason, REASON_LEN_MAX).as_bytes()),
            Self::Held { router, rival: None } => out.kind(3).u8(*router).flag(false),
            Self::Held { router, rival: Some(mac) } => out.kind(3).u8(*router).flag(true).bytes(mac),
            Self::Released { router } => out.kind(4).u8(*router),
            Self::HoldFailed { router, errno } => out.kind(5).u8(*router).bytes(&errno.to_le_bytes()),
            Self::Rival { router, address_index, mac } => out.kind(6).u8(*router).u8(*address_index).bytes(mac),
            Self::Link { router, up, own_address } => out.kind(7).u8(*router).flag(*up).address(*own_address),
            Self::LeaseOver { routers } => {
                let routers = routers.get(..routers.len().min(ROUTERS_MAX)).unwrap_or_default();
                out.kind(8).count(routers.len()).bytes(routers)
            }
            Self::Swept { router, sent } => out.kind(9).u8(*router).u32(*sent),
            Self::Renewed => out.kind(10),
        };
        out.0
    }

    /// Reads a packet.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let mut input = Reader::new(packet);
        let event = match input.u8()? {
            1 => {
                let (protocol, count) = (input.u16()?, input.count()?);
                let mut routers = Vec::new();
                for _ in 0..count {
                    let (held, up, own_address) = (input.flag()?, input.flag()?, input.address()?);
                    routers.push(RouterStanding { held, up, own_address });
                }
                Self::Welcome { protocol, routers }
            }
            2 => {
                let reason = std::str::from_utf8(input.rest()).map_err(|_| Malformed::Value("reason"))?;
                if reason.len() > REASON_LEN_MAX {
                    return Err(Malformed::Value("reason"));
                }
                Self::Refused(reason.to_owned())
            }
            3 => {
                let router = input.u8()?;
                Self::Held { router, rival: if input.flag()? { Some(input.array()?) } else { None } }
            }
            4 => Self::Released { router: input.u8()? },
            5 => Self::HoldFailed { router: input.u8()?, errno: i32::from_le_bytes(input.array()?) },
            6 => Self::Rival { router: input.u8()?, address_index: input.u8()?, mac: input.array()? },
            7 => Self::Link { router: input.u8()?, up: input.flag()?, own_address: input.address()? },
            8 => {
                let count = input.count()?;
                Self::LeaseOver { routers: input.take(count)?.to_vec() }
            }
            9 => Self::Swept { router: input.u8()?, sent: input.u32()? },
            10 => Self::Renewed,
            other => return Err(Malformed::Kind(other)),
        };
        input.end().map(|()| event)
    }
}

/// As much of a text as fits, in whole characters.
fn cut(text: &str, len_max: usize) -> &str {
    let mut end = text.len().min(len_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn kind(&mut self, kind: u8) -> &mut Self {
        self.u8(kind)
    }

    fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn flag(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    fn count(&mut self, value: usize) -> &mut Self {
        self.u8(u8::try_from(value).unwrap_or(u8::MAX))
    }

    fn address(&mut self, address: Option<IpAddr>) -> &mut Self {
        match address {
            None => self.u8(0),
            Some(IpAddr::V4(address)) => self.u8(4).bytes(&address.octets()),
            Some(IpAddr::V6(address)) => self.u8(6).bytes(&address.octets()),
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    fn new(packet: &'a [u8]) -> Self {
        Self { rest: packet, len: packet.len() }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Length(self.len))?;
        self.rest = rest;
        Ok(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| Malformed::Length(self.len))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed::Value("flag")),
        }
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        let count = usize::from(self.u8()?);
        if count <= ROUTERS_MAX { Ok(count) } else { Err(Malformed::Value("number of routers")) }
    }

    fn address(&mut self) -> Result<Option<IpAddr>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            4 => Ok(Some(IpAddr::from(self.array::<4>()?))),
            6 => Ok(Some(IpAddr::from(self.array::<16>()?))),
            _ => Err(Malformed::Value("kind of address")),
        }
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Length(self.len)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            any::<(u16, [u8; 32])>().prop_map(|(protocol, fingerprint)| Request::Hello { protocol, fingerprint }),
            any::<u32>().prop_map(|lease_ms| Request::Renew { lease_ms }),
            any::<(u8, u32, u8)>().prop_map(|(router, check_us, priority)| Request::Hold {
                router,
                check_us,
                priority
            }),
            any::<u8>().prop_map(|router| Request::Release { router }),
            any::<u8>().prop_map(|router| Request::Announce { router }),
            any::<(u8, u8)>().prop_map(|(router, priority)| Request::Advertised { router, priority }),
            any::<u32>().prop_map(|ms| Request::Bridge { ms }),
            (any::<(u8, u16)>(), vec((address(), any::<u16>()), 0..=FLOWS_MAX))
                .prop_map(|((router, port), flows)| Request::Sweep { router, port, flows }),
            any::<[u8; 32]>().prop_map(|fingerprint| Request::Reread { fingerprint }),
        ]
    }

    fn standing() -> impl Strategy<Value = RouterStanding> {
        (any::<(bool, bool)>(), prop::option::of(address())).prop_map(|((held, up), own_address)| RouterStanding {
            held,
            up,
            own_address,
        })
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (any::<u16>(), vec(standing(), 0..=ROUTERS_MAX))
                .prop_map(|(protocol, routers)| Event::Welcome { protocol, routers }),
            "\\PC{0,100}".prop_map(Event::Refused),
            any::<(u8, Option<[u8; 6]>)>().prop_map(|(router, rival)| Event::Held { router, rival }),
            any::<u8>().prop_map(|router| Event::Released { router }),
            any::<(u8, i32)>().prop_map(|(router, errno)| Event::HoldFailed { router, errno }),
            any::<(u8, u8, [u8; 6])>().prop_map(|(router, address_index, mac)| Event::Rival {
                router,
                address_index,
                mac
            }),
            (any::<(u8, bool)>(), prop::option::of(address())).prop_map(|((router, up), own_address)| Event::Link {
                router,
                up,
                own_address
            }),
            vec(any::<u8>(), 0..=ROUTERS_MAX).prop_map(|routers| Event::LeaseOver { routers }),
            any::<(u8, u32)>().prop_map(|(router, sent)| Event::Swept { router, sent }),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_back(request in request()) {
            let packet = request.encode();
            prop_assert!(packet.len() <= PACKET_LEN_MAX);
            prop_assert_eq!(Request::decode(&packet), Ok(request));
        }

        #[test]
        fn events_come_back(event in event()) {
            let packet = event.encode();
            prop_assert!(packet.len() <= PACKET_LEN_MAX);
            prop_assert_eq!(Event::decode(&packet), Ok(event));
        }

        #[test]
        fn a_byte_more_or_less_is_refused(request in request(), cut in any::<prop::sample::Index>()) {
            let mut packet = request.encode();
            prop_assert!(Request::decode(&packet[..cut.index(packet.len())]).is_err());
            packet.push(0);
            prop_assert!(Request::decode(&packet).is_err());
        }

        #[test]
        fn what_is_understood_is_all_there_is(packet in vec(any::<u8>(), 0..100)) {
            if let Ok(request) = Request::decode(&packet) {
                prop_assert_eq!(request.encode(), packet.clone());
            }
            if let Ok(event) = Event::decode(&packet) {
                prop_assert_eq!(event.encode(), packet);
            }
        }
    }

    #[test]
    fn the_layout_is_what_it_was() {
        let hold = Request::Hold { router: 2, check_us: 0x0102_0304, priority: 254 };
        assert_eq!(hold.encode(), [3, 2, 4, 3, 2, 1, 254]);
        let flows = vec![("192.0.2.1".parse().unwrap(), 0x1234)];
        assert_eq!(
            Request::Sweep { router: 0, port: 6432, flows }.encode(),
            [8, 0, 0x20, 0x19, 1, 0, 4, 192, 0, 2, 1, 0x34, 0x12]
        );
        let link = Event::Link { router: 1, up: true, own_address: Some("10.0.0.1".parse().unwrap()) };
        assert_eq!(link.encode(), [7, 1, 1, 4, 10, 0, 0, 1]);
    }

    #[test]
    fn too_much_is_cut_or_refused() {
        let reason = "ü".repeat(REASON_LEN_MAX);
        let Ok(Event::Refused(cut)) = Event::decode(&Event::Refused(reason).encode()) else { panic!() };
        assert_eq!(cut.chars().count(), REASON_LEN_MAX / 2);
        let mut sweep = Request::Sweep { router: 0, port: 1, flows: Vec::new() }.encode();
        sweep[4..6].copy_from_slice(&257_u16.to_le_bytes());
        assert_eq!(Request::decode(&sweep), Err(Malformed::Value("number of flows")));
        assert_eq!(Request::decode(&[]), Err(Malformed::Length(0)));
        assert_eq!(Request::decode(&[0]), Err(Malformed::Kind(0)));
    }
}
