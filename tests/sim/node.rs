//! One node: its clock, the thread of the pooler process that VRRP and the decision live on, the helper process, and the kernel
//! that has the addresses.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use pgtandem::clock::Time;
use pgtandem::ha::{Event, Ha, Item, RouterKey, Status};
use pgtandem::vrrp::{Family, Router};

use super::{MILLI, SECOND};

/// What arrives at the pooler.
#[derive(Clone, Debug)]
pub(crate) enum Mail {
    /// From the helper.
    Helper(Said),
    /// From the rest of the process.
    Consider(Box<Event>),
    /// From the link.
    Beat(Box<Status>),
    Ask {
        id: u64,
        routers: Vec<RouterKey>,
        reason: String,
    },
    Answer {
        id: u64,
        accepted: bool,
        text: String,
    },
    /// From the network.
    Advert {
        router: usize,
        priority: u8,
        interval: Duration,
    },
    Reload,
}

/// What a reload may change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reload {
    pub(crate) interval: Duration,
    pub(crate) preempt: bool,
}

/// What the helper says.
#[derive(Clone, Debug)]
pub(crate) enum Said {
    Welcome {
        held: Vec<usize>,
    },
    Held {
        router: usize,
    },
    HoldFailed {
        router: usize,
    },
    LeaseOver {
        routers: Vec<usize>,
    },
    Interface {
        up: bool,
    },
    Renewed,
    /// It is gone.
    Eof,
}

/// What the pooler asks of the helper.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    Hello,
    Renew {
        lease: u64,
    },
    Hold {
        router: usize,
        check: u64,
    },
    Release {
        router: usize,
    },
    Advertised {
        router: usize,
        priority: u8,
    },
    Bridge {
        span: u64,
    },
    /// The pooler is gone.
    Eof,
}

/// A monotonic clock with an origin and a drift of its own. It may stand still while the machine is paused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) origin: u64,
    /// Parts per million, too fast.
    pub(crate) drift: u64,
    /// For how long it has stood still.
    pub(crate) lost: u64,
}

impl Clock {
    pub(crate) fn read(&self, t: u64) -> Time {
        let t = t.saturating_sub(self.lost);
        Time(self.origin + t + (u128::from(t) * u128::from(self.drift) / 1_000_000) as u64)
    }

    /// When the clock shows `time`.
    pub(crate) fn when(&self, time: Time) -> u64 {
        let local = time.0.saturating_sub(self.origin);
        let t = (u128::from(local) * 1_000_000 / u128::from(1_000_000 + self.drift)) as u64;
        t.saturating_add(self.lost + 1)
    }
}

/// The pooler process. Times are true ones, as far as they do not belong to the library's machines.
pub(crate) struct Pooler {
    pub(crate) ha: Ha,
    pub(crate) routers: Vec<Router>,
    /// The helper has the addresses, as far as is known here; since when they are asked for; the advert that waits for them.
    pub(crate) held: Vec<bool>,
    pub(crate) pending: Vec<Option<(u8, Duration, u64)>>,
    pub(crate) advertised: Vec<u8>,
    pub(crate) welcomed: bool,
    /// Addresses that a predecessor has left may be taken over.
    pub(crate) inherits: bool,
    pub(crate) helper_gone: Option<u64>,
    /// Since when a lease that was asked for was not granted.
    pub(crate) unanswered: Option<u64>,
    pub(crate) examined_at: u64,
    pub(crate) call_at: u64,
    pub(crate) renew_at: u64,
    /// What the helper's absence was last said to be, and the state of the interface.
    pub(crate) said_helper: Option<bool>,
    pub(crate) said_interface: Option<bool>,
    pub(crate) interface: bool,
    /// The link: when the peer was heard last, whether it counts as there, when the next beat is due, and what it says.
    pub(crate) heard: Option<u64>,
    pub(crate) link_up: bool,
    pub(crate) beat_at: u64,
    pub(crate) status: Status,
    /// It is only here until its addresses are gone.
    pub(crate) leaving: bool,
}

/// The helper process.
pub(crate) struct Helper {
    pub(crate) lease: Option<u64>,
    pub(crate) bridging: bool,
    pub(crate) held: Vec<bool>,
    pub(crate) checks: Vec<Option<u64>>,
    pub(crate) advertised: Vec<u8>,
    pub(crate) refresh_at: Vec<u64>,
    pub(crate) advert_at: u64,
}

impl Helper {
    pub(crate) fn new(routers: usize) -> Self {
        Self {
            lease: None,
            bridging: false,
            held: vec![false; routers],
            checks: vec![None; routers],
            advertised: vec![100; routers],
            refresh_at: vec![u64::MAX; routers],
            advert_at: u64::MAX,
        }
    }
}

/// What is true of a node, whatever its processes have noticed.
#[derive(Clone, Debug)]
pub(crate) struct Truth {
    pub(crate) bad: [bool; Item::COUNT],
    pub(crate) servers: bool,
    pub(crate) maintenance: bool,
    pub(crate) draining: bool,
    pub(crate) leaving: bool,
    pub(crate) interface: bool,
}

impl Default for Truth {
    fn default() -> Self {
        Self {
            bad: [false; Item::COUNT],
            servers: true,
            maintenance: false,
            draining: false,
            leaving: false,
            interface: true,
        }
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) clock: Clock,
    pub(crate) pooler: Option<Pooler>,
    pub(crate) helper: Option<Helper>,
    /// Counts the processes: what was meant for a predecessor is lost.
    pub(crate) pooler_run: u32,
    pub(crate) helper_run: u32,
    pub(crate) pooler_stopped: bool,
    pub(crate) helper_stopped: bool,
    /// Since when the machine as a whole stands still, and whether its clock does too.
    pub(crate) paused: Option<(u64, bool)>,
    /// What the pooler has not read yet: of the helper, of the process, of the network. In this order it is read.
    pub(crate) inbox: [VecDeque<Mail>; 3],
    pub(crate) requests: VecDeque<Request>,
    /// When pooler and helper are woken next, and when the last message of each channel arrives: nothing overtakes.
    pub(crate) wake: [u64; 2],
    pub(crate) last: [u64; 3],
    /// Until when the kernel keeps each address.
    pub(crate) addresses: Vec<Option<u64>>,
    pub(crate) truth: Truth,
    /// A hand-over to a successor is under way.
    pub(crate) replacing: bool,
}

/// The kernel forgets an address that is not refreshed (whole seconds, and its own timer comes up to 110 ms late).
pub(crate) const VALID: u64 = 2 * SECOND;
pub(crate) const VALID_LATE: u64 = 110 * MILLI;
pub(crate) const REFRESH: u64 = 400 * MILLI;

impl Node {
    pub(crate) fn new(clock: Clock, routers: usize) -> Self {
        Self {
            clock,
            pooler: None,
            helper: Some(Helper::new(routers)),
            pooler_run: 0,
            helper_run: 0,
            pooler_stopped: false,
            helper_stopped: false,
            paused: None,
            inbox: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            requests: VecDeque::new(),
            wake: [u64::MAX; 2],
            last: [0; 3],
            addresses: vec![None; routers],
            truth: Truth::default(),
            replacing: false,
        }
    }

    pub(crate) fn pooler_runs(&self) -> bool {
        self.pooler.is_some() && !self.pooler_stopped && self.paused.is_none()
    }

    pub(crate) fn helper_runs(&self) -> bool {
        self.helper.is_some() && !self.helper_stopped && self.paused.is_none()
    }

    /// Nothing is wrong with its processes and its interface.
    pub(crate) fn sound(&self) -> bool {
        self.pooler_runs() && self.helper_runs() && self.truth.interface
    }

    /// Do clients that ask for the address reach this node?
    pub(crate) fn holds(&self, router: usize) -> bool {
        self.addresses[router].is_some() && self.truth.interface && self.paused.is_none()
    }

    pub(crate) fn well(&self) -> bool {
        self.truth.bad.iter().all(|bad| !bad)
    }

    /// May it hold an address, whatever it knows? A draining node may, but nobody counts on it.
    pub(crate) fn eligible(&self) -> bool {
        let truth = &self.truth;
        self.sound() && self.well() && !truth.maintenance && !truth.draining && !truth.leaving
    }

    /// The clock of the machine has stood still for `span`: so has all that is timed by it.
    pub(crate) fn shift(&mut self, span: u64) {
        self.clock.lost += span;
        let later = |at: &mut u64| *at = at.saturating_add(span);
        self.addresses.iter_mut().flatten().for_each(later);
        if let Some(helper) = &mut self.helper {
            helper.lease.iter_mut().for_each(later);
            helper.checks.iter_mut().flatten().for_each(later);
            helper.refresh_at.iter_mut().for_each(later);
            later(&mut helper.advert_at);
        }
        if let Some(pooler) = &mut self.pooler {
            pooler.helper_gone.iter_mut().for_each(later);
            pooler.unanswered.iter_mut().for_each(later);
            later(&mut pooler.examined_at);
            pooler.heard.iter_mut().for_each(later);
            pooler.pending.iter_mut().flatten().for_each(|(_, _, at)| later(at));
            [&mut pooler.call_at, &mut pooler.renew_at, &mut pooler.beat_at].into_iter().for_each(later);
        }
    }
}

/// The node's own address: the second node has the higher one.
pub(crate) fn own_address(node: usize, family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1 + node as u8)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1 + node as u16)),
    }
}
