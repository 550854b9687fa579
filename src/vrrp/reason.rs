//! Why a virtual router has changed its state, and what it finds worth a line in the log.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::Discard;

/// Why the state has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Started; waits for adverts first.
    Started,
    /// Started with the addresses held already.
    StartedHeld,
    /// Started as the owner of the addresses.
    StartedOwner,
    /// Nobody has advertised for an Active_Down_Interval.
    Silence {
        /// The last Active Router, if there was one.
        of: Option<IpAddr>,
        /// Since its last advert, or since the start.
        silent_for: Duration,
    },
    /// The Active Router has a lower priority, and preemption is on.
    Preempts {
        /// Whom.
        of: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// The Active Router has said goodbye.
    Goodbye {
        /// Who.
        from: IpAddr,
    },
    /// The owner of this router wants it, and says why.
    TakeOver(&'static str),
    /// Another Active Router is better.
    BetterRival {
        /// Who.
        from: IpAddr,
        /// Its priority.
        priority: u8,
        /// Our own.
        own: u8,
    },
    /// This node had stalled, and another one has taken over meanwhile, or may have.
    Stalled {
        /// Since our last advert.
        for_: Duration,
        /// Who has taken over, if it was heard.
        to: Option<IpAddr>,
    },
    /// Wanted to be preempted, and was.
    Yielded {
        /// By whom.
        to: IpAddr,
    },
    /// Wanted to be preempted, and nobody has done so in time.
    NobodyTookOver,
    /// Stopped by its owner.
    Stopped {
        /// With a last advert of priority 0.
        goodbye: bool,
    },
    /// The interface is down or gone, or has no address of its own.
    LinkDown,
    /// The addresses were taken away.
    AddressesLost,
}

/// A duration as a log line wants it: milliseconds, below ten with a fraction.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros < 10_000 {
            write!(f, "{}.{} ms", micros / 1000, micros % 1000 / 100)
        } else {
            write!(f, "{} ms", (micros + 500) / 1000)
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::StartedHeld => f.write_str("started with the addresses held already"),
            Self::StartedOwner => f.write_str("started as the owner of the addresses (priority 255)"),
            Self::Silence { of: Some(of), silent_for } => {
                write!(f, "no advert of {of} for {} (3 intervals and skew)", Millis(*silent_for))
            }
            Self::Silence { of: None, silent_for } => {
                write!(f, "no advert of anybody for {} (3 intervals and skew)", Millis(*silent_for))
            }
            Self::Preempts { of, priority } => write!(f, "preempts {of}, which has the lower priority {priority}"),
            Self::Goodbye { from } => write!(f, "{from} has said goodbye"),
            Self::TakeOver(why) => write!(f, "takes over: {why}"),
            Self::BetterRival { from, priority, own } if priority == own => {
                write!(f, "{from} is active with the same priority {priority} and the higher address")
            }
            Self::BetterRival { from, priority, own } => {
                write!(f, "{from} is active with priority {priority}, higher than our {own}")
            }
            Self::Stalled { for_, to: Some(to) } => {
                write!(f, "could not advertise for {}, and {to} has taken over", Millis(*for_))
            }
            Self::Stalled { for_, to: None } => {
                write!(f, "could not advertise for {}, so that another may have taken over", Millis(*for_))
            }
            Self::Yielded { to } => write!(f, "has passed the addresses on to {to}"),
            Self::NobodyTookOver => f.write_str("was to pass the addresses on, and nobody took them; said goodbye"),
            Self::Stopped { goodbye: true } => f.write_str("stopped, and said goodbye"),
            Self::Stopped { goodbye: false } => f.write_str("stopped in silence"),
            Self::LinkDown => f.write_str("the interface is down, gone, or without an address of its own"),
            Self::AddressesLost => f.write_str("the addresses were taken away"),
        }
    }
}

/// Worth a line in the log. Each kind comes at most once a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// An advert was not heard.
    Discarded {
        /// Who has sent it.
        from: IpAddr,
        /// Why not.
        discard: Discard,
        /// How many of this kind there have been.
        count: u64,
    },
    /// The Active Router advertises at another interval than ours (version 3: it is followed).
    IntervalDiffers {
        /// Who.
        from: IpAddr,
        /// Its interval.
        heard: Duration,
        /// Ours.
        own: Duration,
    },
    /// Another node has other addresses configured for this virtual router.
    AddressesDiffer {
        /// Who.
        from: IpAddr,
    },
    /// An IPv6 advert whose first address is not link-local was heard all the same.
    NotLinkLocal {
        /// Who.
        from: IpAddr,
        /// Its first address.
        address: IpAddr,
    },
    /// Both have priority 255 (RFC 9568 erratum 8298: log it).
    TwoOwners {
        /// Who.
        from: IpAddr,
    },
    /// Another node is active while we are.
    Rival {
        /// Who.
        from: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// The peer says by another way that it is active, and its adverts do not arrive.
    AdvertsDoNotArrive {
        /// Since the last advert, or since the start.
        silent_for: Duration,
    },
    /// Our own timer came late: the process or the machine stood still.
    Late {
        /// By how much.
        by: Duration,
    },
    /// New parameters name another virtual router and are not taken.
    OtherRouter,
}

impl Warning {
    /// How many kinds there are.
    pub(super) const KINDS: usize = Discard::KINDS + 8;

    /// Its number among the kinds.
    pub(super) fn kind(self) -> usize {
        let other = match self {
            Self::Discarded { discard, .. } => return discard.kind(),
            Self::IntervalDiffers { .. } => 0,
            Self::AddressesDiffer { .. } => 1,
            Self::NotLinkLocal { .. } => 2,
            Self::TwoOwners { .. } => 3,
            Self::Rival { .. } => 4,
            Self::AdvertsDoNotArrive { .. } => 5,
            Self::Late { .. } => 6,
            Self::OtherRouter => 7,
        };
        Discard::KINDS + other
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discarded { from, discard, count } => {
                write!(f, "discards an advert of {from} ({count} of this kind): {discard}")
            }
            Self::IntervalDiffers { from, heard, own } => {
                write!(f, "{from} advertises every {}, not every {} as this node", Millis(*heard), Millis(*own))
            }
            Self::AddressesDiffer { from } => {
                write!(f, "{from} advertises other addresses for this virtual router than this node")
            }
            Self::NotLinkLocal { from, address } => {
                write!(f, "{from} advertises {address} first, which is not link-local (RFC 9568 section 5.2.9)")
            }
            Self::TwoOwners { from } => write!(f, "{from} has priority 255 too: only one node can own the addresses"),
            Self::Rival { from, priority } => write!(f, "{from} is active too, with priority {priority}"),
            Self::AdvertsDoNotArrive { silent_for } => write!(
                f,
                "no advert for {}, but the peer says that it is active: does a firewall drop IP protocol 112?",
                Millis(*silent_for)
            ),
            Self::Late { by } => {
                write!(f, "its timer came {} late: the process or the machine stood still", Millis(*by))
            }
            Self::OtherRouter => f.write_str("new parameters are of another virtual router, and were not taken"),
        }
    }
}
