//! How many server connections this node may have of a limit that holds for both nodes together.
//!
//! Each node owns half of every limit. A node that needs more asks, and the other *lends* what it does not use. A loan is a
//! lease: it is granted for a time that the borrower counts from the moment of its own report that the grant answers
//! (`echo`), and that the lender counts from the moment it sends the grant, which is later. So the lender always takes its share
//! back after the borrower has given it up, whatever the network loses, delays, doubles or reorders, and without clocks
//! that agree. Before a grant goes out, the lender's pools must have confirmed the lower allotment ([`Event::Applied`]); before a
//! lower grant counts as accepted, the borrower's pools must have come down to it. No other rule is needed for the promise; how
//! much is lent is a matter of taste (`desired_loan`).
//!
//! # What is promised
//!
//! | mode | the sum of both nodes' servers |
//! |---|---|
//! | [`Mode::Lend`] | never above the limit while neither node is frozen: both act within [`Params::shed_grace`] on what they are told, and clocks run alike to 2 %; but see transactions below |
//! | [`Mode::Halves`] | never above the limit, whatever happens |
//! | [`Mode::Off`] | each node has the whole limit for itself: up to twice the limit |
//!
//! - A *frozen* node (SIGSTOP, a paused virtual machine) that has borrowed keeps its servers open beyond its lease; once the
//!   other has its half back, the sum may be above the limit by what was borrowed (at most the lender's half less its reserve), until
//!   the frozen node runs again, when it sheds at once, or until the server notices that it is gone.
//! - A *transaction* is never cut because a loan is over. When the link is lost, the borrower closes idle servers at once, and
//!   the others when their transactions end (clients in session pooling are told to go at that moment). Until then the sum may
//!   be above the limit by those that take longer than the lease and [`Params::shed_grace`]. While the link is up the lender
//!   waits for them.
//! - A node that *dies without closing its connections* (power, cut cable) leaves them to the server's keepalive. They count
//!   for the server, not here: the survivor has its own half, never more, so that both together are the limit at most,
//!   and what the dead node had borrowed can come on top for as long as the server keeps it open.
//! - A process that starts does not know what its predecessor has lent. Until the peer has told it, or any loan must be over, it
//!   has only the reserve that is never lent.
//! - While two configurations differ in a limit, the larger one holds for the sum.
//! - Which node has the larger half of an odd limit follows from the names ([`Rank`]), so a node that has never heard the other
//!   takes the smaller one; of a limit of 1 that is nothing.

mod line;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use self::line::{Line, Terms};
pub use self::line::{never_lent, surely_own};
use super::bounded::List;
use super::message::{BUDGETS_MAX, BootId, BudgetEntry, BudgetKey, BudgetReport};
use super::picture::BudgetPicture;
use crate::clock::Time;

/// The most budgets that are shared; further ones stay at halves.
pub const LINES_MAX: usize = 1024;

/// The shortest time between two reports.
const GAP: Duration = Duration::from_millis(5);

/// How often a node without news reports.
const IDLE: Duration = Duration::from_secs(1);

/// `server_budget`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Half each, and what one does not use the other may borrow.
    #[default]
    Lend,
    /// Half each.
    Halves,
    /// All each: limits are each node's own.
    Off,
}

/// Which of the two nodes this is, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rank {
    /// The other was never heard.
    #[default]
    Unknown,
    /// The one with the lower name: it has the larger half of an odd limit.
    First,
    /// The other one.
    Second,
}

impl Rank {
    /// Of the node `own`, if the other is `peer`.
    #[must_use]
    pub fn of(own: &str, peer: &str) -> Self {
        if own < peer { Self::First } else { Self::Second }
    }
}

/// Settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// How limits are shared.
    pub mode: Mode,
    /// How often to report while something is lent or asked for (the link's interval).
    pub interval: Duration,
    /// For how long a grant holds (the link's timeout).
    pub lease: Duration,
    /// In how long the pools shed what is beyond an allotment that they must come down to.
    pub shed_grace: Duration,
}

/// How many servers a node may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allotment {
    /// So many. None may be opened above it; those that are there above it go when they are idle.
    pub servers: u32,
    /// The peer may be about to use what is above this number: it should be reached within [`Params::shed_grace`], by having
    /// clients go that keep servers between transactions too. `None`: nothing presses.
    pub shed_to: Option<u32>,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The limit of a key for both nodes; `None`: there is none any more.
    Limit {
        /// Which.
        key: &'a BudgetKey,
        /// How many.
        servers: Option<u32>,
    },
    /// What the pools have, including servers that are being opened, and how many more they would like now.
    Use {
        /// Which.
        key: &'a BudgetKey,
        /// Servers that are there or being opened.
        in_use: u32,
        /// Clients that wait for one more.
        waiting: u32,
    },
    /// The pools adhere to this allotment from now on, and have so many servers.
    Applied {
        /// Which.
        key: &'a BudgetKey,
        /// [`Allotment::servers`].
        servers: u32,
        /// Servers that are there or being opened.
        in_use: u32,
    },
    /// The peer is there, with this run.
    LinkUp {
        /// Its run.
        peer: BootId,
        /// This node's rank.
        rank: Rank,
    },
    /// The peer is not heard any more.
    LinkLost,
    /// A report has come in.
    Report(&'a BudgetReport),
    /// The deadline has passed.
    Timer,
    /// A reload.
    Params(Params),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the pools, then say [`Event::Applied`].
    Allot {
        /// Which.
        key: BudgetKey,
        /// So many.
        allotment: Allotment,
    },
    /// Tell the peer.
    Send(BudgetReport),
}

/// The budgets of one node.
#[derive(Debug)]
pub struct Budget {
    params: Params,
    boot: BootId,
    rank: Rank,
    /// The run of the peer that counts.
    peer: Option<BootId>,
    up: bool,
    /// The peer's last stamp.
    peer_stamp: u64,
    /// The last of our stamps that the peer has, and until when what it knows of us holds.
    contact_until: Time,
    peer_echo: u64,
    /// The stamp of our last report.
    stamp: u64,
    /// Until when an earlier run of this node may have lent, and whether that is over or known.
    unsettled_until: Time,
    settled: bool,
    lines: BTreeMap<BudgetKey, Line>,
    /// There is news that cannot wait for the interval.
    urgent: bool,
    reported_at: Time,
}

impl Budget {
    /// The budgets of a process that starts now, with this run.
    #[must_use]
    pub fn new(now: Time, boot: BootId, params: Params) -> Self {
        Self {
            params,
            boot,
            rank: Rank::Unknown,
            peer: None,
            up: false,
            peer_stamp: 0,
            contact_until: Time(0),
            peer_echo: 0,
            stamp: 0,
            unsettled_until: now + settling_time(params.lease, params.shed_grace),
            settled: false,
            lines: BTreeMap::new(),
            urgent: false,
            reported_at: Time(0),
        }
    }

    /// What this node may have of a key; `None`: the key has no limit.
    #[must_use]
    pub fn allotment(&self, now: Time, key: &BudgetKey) -> Option<Allotment> {
        let terms = self.terms(now);
        self.lines.get(key)?.allotment(now, &terms)
    }

    /// All budgets, for the console.
    #[must_use]
    pub fn picture(&self, now: Time) -> Vec<BudgetPicture> {
        let terms = self.terms(now);
        let lines = self.lines.iter();
        lines.filter_map(|(key, line)| line.picture(key, now, &terms)).collect()
    }

    /// When to come back with [`Event::Timer`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let lines = self.lines.values().filter_map(|line| line.deadline(self.contact_until)).min();
        let settled = (!self.settled).then_some(self.unsettled_until);
        [lines, settled, self.next_report()].into_iter().flatten().min()
    }

    /// Takes in what has happened, and appends what is to be done.
    pub fn step(&mut self, now: Time, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::Limit { key, servers } => {
                if let Some(line) = self.line(key) {
                    line.set_limit(servers);
                }
            }
            Event::Use { key, in_use, waiting } => {
                if let Some(line) = self.line(key) {
                    line.set_use(now, in_use, waiting);
                }
            }
            Event::Applied { key, servers, in_use } => {
                if let Some(line) = self.line(key) {
                    line.set_applied(servers, in_use);
                }
            }
            Event::LinkUp { peer, rank } => self.link_up(peer, rank),
            Event::LinkLost => {
                self.up = false;
                self.contact_until = self.contact_until.min(now);
                self.lines.values_mut().for_each(Line::give_up_borrowed);
            }
            Event::Report(report) => self.report_in(now, report),
            Event::Timer => {}
            Event::Params(params) => self.params = params,
        }
        self.settled |= now >= self.unsettled_until;
        self.settle(now, out);
        self.report_out(now, out);
    }

    fn line(&mut self, key: &BudgetKey) -> Option<&mut Line> {
        if !self.lines.contains_key(key) && self.lines.len() >= LINES_MAX {
            return None;
        }
        Some(self.lines.entry(key.clone()).or_default())
    }

    fn terms(&self, now: Time) -> Terms {
        Terms {
            mode: self.params.mode,
            rank: self.rank,
            settled: self.settled,
            lending: self.up,
            contact: now < self.contact_until,
            lease: self.params.lease,
            until: now + settling_time(self.params.lease, self.params.shed_grace),
        }
    }

    fn link_up(&mut self, peer: BootId, rank: Rank) {
        if self.peer != Some(peer) {
            self.peer = Some(peer);
            self.peer_stamp = 0;
            self.peer_echo = 0;
            self.lines.values_mut().for_each(Line::new_peer);
        }
        self.rank = rank;
        self.up = true;
        self.urgent = true;
    }

    fn report_in(&mut self, now: Time, report: &BudgetReport) {
        let ours = Some(report.boot) == self.peer && report.to == self.boot && self.up;
        if !ours || report.stamp <= self.peer_stamp || self.params.mode != Mode::Lend {
            return;
        }
        self.peer_stamp = report.stamp;
        if report.echo > self.peer_echo && report.echo <= self.stamp {
            self.peer_echo = report.echo;
            self.contact_until = Time(report.echo) + Duration::from_micros(report.lease_us);
        }
        let granted_until = Time(self.peer_echo) + Duration::from_micros(report.lease_us);
        let peer_grace = Duration::from_micros(report.shed_grace_us);
        let terms = self.terms(now);
        for entry in report.entries.iter() {
            if let Some(line) = self.line(&entry.key) {
                line.report_in(now, entry, granted_until, peer_grace, &terms);
            }
        }
        if report.whole {
            // What an earlier run of this node has lent is among the entries.
            self.settled = true;
        }
    }

    /// Lets go of what is over, decides what to lend, and tells the pools what has changed.
    fn settle(&mut self, now: Time, out: &mut Vec<Action>) {
        let terms = self.terms(now);
        for (key, line) in &mut self.lines {
            self.urgent |= line.settle(now, &terms);
            if let Some(allotment) = line.news(now, &terms) {
                out.push(Action::Allot { key: key.clone(), allotment });
            }
        }
        self.lines.retain(|_, line| !line.is_empty());
    }

    fn next_report(&self) -> Option<Time> {
        let pause = match self.up {
            false => return None,
            true if self.params.mode != Mode::Lend => return None,
            true if self.urgent => GAP,
            true if self.lines.values().any(Line::is_lively) => self.params.interval,
            true => IDLE.max(self.params.interval),
        };
        Some(self.reported_at + pause)
    }

    fn report_out(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(peer) = self.peer else { return };
        if self.next_report().is_none_or(|at| at > now) {
            return;
        }
        let terms = self.terms(now);
        self.urgent = false;
        self.reported_at = now;
        let entries: Vec<BudgetEntry> =
            self.lines.iter_mut().filter_map(|(key, line)| line.report_out(key, now, &terms)).collect();
        let whole = entries.len() <= BUDGETS_MAX;
        let mut entries = entries.into_iter().peekable();
        loop {
            self.stamp = now.0.max(self.stamp + 1);
            out.push(Action::Send(BudgetReport {
                boot: self.boot,
                to: peer,
                stamp: self.stamp,
                echo: self.peer_stamp,
                lease_us: micros(self.params.lease),
                shed_grace_us: micros(self.params.shed_grace),
                whole,
                entries: entries.by_ref().take(BUDGETS_MAX).collect::<List<_, BUDGETS_MAX>>(),
            }));
            if entries.peek().is_none() {
                return;
            }
        }
    }
}

/// After so long all that an earlier run of a node has lent is certainly over.
#[must_use]
pub fn settling_time(lease: Duration, shed_grace: Duration) -> Duration {
    // A fiftieth for clocks that do not run alike.
    lease + lease / 50 + shed_grace
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
