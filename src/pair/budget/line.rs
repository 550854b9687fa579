//! One budget: what is lent, what is borrowed, and what is left for this node.

use std::time::Duration;

use super::{Allotment, Mode, Rank};
use crate::clock::Time;
use crate::pair::message::{BudgetEntry, BudgetKey};
use crate::pair::picture::BudgetPicture;

/// How long a node goes on wishing for what it has needed: loans need not follow every ripple.
const WISH: Duration = Duration::from_secs(1);

/// The most loans that are told apart; beyond that they are added up to one that covers all.
const LOANS_MAX: usize = 8;

/// What holds for all budgets now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) mode: Mode,
    pub(super) rank: Rank,
    /// What an earlier run of this node has lent is known, or over.
    pub(super) settled: bool,
    /// The peer is there to lend to.
    pub(super) lending: bool,
    /// The peer knows how many servers we have.
    pub(super) contact: bool,
    /// For how long a report of the peer counts.
    pub(super) lease: Duration,
    /// When the peer has certainly given up what it is told to have now.
    pub(super) until: Time,
}

/// What the peer may have of our share.
#[derive(Clone, Copy, Debug)]
struct Loan {
    /// The last grant that said so.
    serial: u64,
    servers: u32,
    until: Time,
}

/// The smaller half of a limit: what belongs to a node whatever the other one is called.
#[must_use]
pub fn surely_own(limit: u32) -> u32 {
    limit / 2
}

/// What a node never lends: what it may have although it does not know what an earlier run of it has lent.
#[must_use]
pub fn never_lent(limit: u32) -> u32 {
    (limit / 10).max(1).min(surely_own(limit))
}

/// One budget.
#[derive(Debug, Default)]
pub(super) struct Line {
    limit: Option<u32>,
    in_use: u32,
    waiting: u32,
    /// What the pools adhere to; `None`: to nothing yet.
    applied: Option<u32>,
    told: Option<Allotment>,
    /// The most that was needed lately, and until when that counts.
    wish: u32,
    wish_until: Time,
    reported_wish: u32,

    /// Taken out of our allotment for a loan; granted as soon as the pools have followed.
    reserved: u32,
    granted: u32,
    serial: u64,
    loans: Vec<Loan>,

    borrowed: u32,
    borrowed_until: Time,
    /// The last grant taken in, and the last that our pools have come down to.
    accepted: u64,
    confirmed: u64,
    /// Until when the lender counts with what was borrowed before the last grant that was lower: it may not know yet how much of
    /// that is used.
    covered_until: Time,

    peer_in_use: u32,
    peer_wants: u32,
    peer_until: Time,
    /// Until when the peer may have more than it should, as it has said itself.
    peer_over_until: Time,
}

impl Line {
    pub(super) fn set_limit(&mut self, servers: Option<u32>) {
        self.limit = servers;
    }

    pub(super) fn set_use(&mut self, now: Time, in_use: u32, waiting: u32) {
        self.in_use = in_use;
        self.waiting = waiting;
        let need = in_use.saturating_add(waiting);
        if need >= self.wish || now >= self.wish_until {
            self.wish = need;
            self.wish_until = now + WISH;
        }
    }

    pub(super) fn set_applied(&mut self, servers: u32, in_use: u32) {
        self.applied = Some(servers);
        self.in_use = in_use;
    }

    pub(super) fn give_up_borrowed(&mut self) {
        self.borrowed = 0;
    }

    /// The peer's process is another one: it counts its grants anew. What we have of the former is ours until it is over.
    pub(super) fn new_peer(&mut self) {
        self.accepted = 0;
        self.confirmed = 0;
        self.peer_wants = 0;
    }

    /// Both halves: ours, and the peer's.
    fn halves(&self, rank: Rank) -> (u32, u32) {
        let limit = self.limit.unwrap_or(0);
        let small = surely_own(limit);
        let large = limit - small;
        match rank {
            Rank::First => (large, small),
            Rank::Second => (small, large),
            Rank::Unknown => (small, small),
        }
    }

    /// What is never lent.
    fn reserve(&self, half: u32) -> u32 {
        never_lent(self.limit.unwrap_or(0)).min(half)
    }

    /// What the peer may have of our share.
    fn lent(&self, now: Time, rank: Rank) -> u32 {
        let loans = self.loans.iter().filter(|loan| loan.until > now).map(|loan| loan.servers).max().unwrap_or(0);
        let (_, peer_half) = self.halves(rank);
        let over = if self.peer_over_until > now { self.peer_in_use.saturating_sub(peer_half) } else { 0 };
        loans.max(over)
    }

    fn borrowed(&self, now: Time) -> u32 {
        if self.borrowed_until > now { self.borrowed } else { 0 }
    }

    pub(super) fn allotment(&self, now: Time, terms: &Terms) -> Option<Allotment> {
        let limit = self.limit?;
        let (half, _) = self.halves(terms.rank);
        let lent = self.lent(now, terms.rank).max(self.reserved);
        let of = |own: u32| own.saturating_sub(lent).saturating_add(self.borrowed(now)).min(limit);
        let (servers, certain) = match terms.mode {
            Mode::Off => (limit, limit),
            Mode::Lend if !terms.settled => (of(self.reserve(half)), of(half)),
            // Halves too: loans of a time before a reload are still out.
            Mode::Lend | Mode::Halves => (of(half), of(half)),
        };
        let uncovered = !terms.contact || now >= self.covered_until;
        let shed_to = (self.in_use > certain && uncovered && terms.mode != Mode::Off).then_some(certain);
        Some(Allotment { servers, shed_to })
    }

    /// A grant was taken in, and the pools may have to come down to it yet.
    fn is_coming_down(&self) -> bool {
        self.confirmed != self.accepted
    }

    /// The allotment, if the pools do not know it yet.
    pub(super) fn news(&mut self, now: Time, terms: &Terms) -> Option<Allotment> {
        let allotment = self.allotment(now, terms);
        if allotment == self.told {
            return None;
        }
        self.told = allotment;
        allotment
    }

    pub(super) fn picture(&self, key: &BudgetKey, now: Time, terms: &Terms) -> Option<BudgetPicture> {
        Some(BudgetPicture {
            key: key.clone(),
            limit: self.limit?,
            allotment: self.allotment(now, terms)?.servers,
            in_use: self.in_use,
            lent: self.lent(now, terms.rank),
            borrowed: self.borrowed(now),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.limit.is_none() && self.loans.is_empty() && self.borrowed == 0 && self.in_use == 0
    }

    /// Is something lent, borrowed or wished for?
    pub(super) fn is_lively(&self) -> bool {
        self.borrowed > 0
            || self.granted > 0
            || self.confirmed != self.accepted
            || !self.loans.is_empty()
            || self.told.is_some_and(|told| self.in_use.saturating_add(self.waiting) > told.servers)
    }

    pub(super) fn deadline(&self, contact_until: Time) -> Option<Time> {
        let loans = self.loans.iter().map(|loan| loan.until).min();
        let borrowed = (self.borrowed > 0).then_some(self.borrowed_until);
        let over = (self.peer_over_until > Time(0)).then_some(self.peer_over_until);
        let shed = self.told.is_some_and(|told| told.shed_to.is_none() && self.in_use > told.servers);
        let covered = shed.then_some(self.covered_until);
        [loans, borrowed, over, shed.then_some(contact_until), covered].into_iter().flatten().min()
    }

    /// The peer's line of a report. What it grants holds until `granted_until`.
    pub(super) fn report_in(
        &mut self,
        now: Time,
        entry: &BudgetEntry,
        granted_until: Time,
        peer_grace: Duration,
        terms: &Terms,
    ) {
        // As the lender: what it has accepted makes everything before it void.
        self.loans.retain(|loan| loan.serial >= entry.accepted);
        if entry.borrowed > 0 && entry.accepted == 0 {
            let left = Duration::from_micros(entry.borrowed_left_us);
            let until = (now + left + left / 50 + peer_grace).min(terms.until + peer_grace);
            self.add_loan(Loan { serial: 0, servers: entry.borrowed, until });
        }
        self.peer_in_use = entry.in_use;
        self.peer_wants = entry.wants;
        self.peer_until = now + terms.lease;
        self.peer_over_until = terms.until + peer_grace;
        // As the borrower.
        if entry.serial > self.accepted {
            self.accepted = entry.serial;
            self.borrowed = entry.grant;
            self.borrowed_until = granted_until;
        } else if entry.serial == self.accepted && entry.serial > 0 {
            // Perhaps it was given up meanwhile: the lender stands to it.
            self.borrowed = entry.grant;
            self.borrowed_until = self.borrowed_until.max(granted_until);
        }
        if !self.is_coming_down() {
            self.covered_until = self.borrowed_until;
        }
    }

    fn add_loan(&mut self, loan: Loan) {
        let same = self.loans.iter_mut().find(|other| other.servers == loan.servers && other.serial == loan.serial);
        if let Some(other) = same {
            other.until = other.until.max(loan.until);
        } else if self.loans.len() < LOANS_MAX {
            self.loans.push(loan);
        } else if let Some(last) = self.loans.last_mut() {
            last.servers = last.servers.max(loan.servers);
            last.until = last.until.max(loan.until);
            last.serial = last.serial.max(loan.serial);
        }
    }

    /// How much to lend now, if it were up to nobody else.
    fn desired_loan(&self, now: Time, terms: &Terms) -> u32 {
        if terms.mode != Mode::Lend || !terms.lending || !terms.settled || self.limit.is_none() {
            return 0;
        }
        if self.borrowed(now) > 0 || self.peer_until <= now {
            return 0;
        }
        let (half, peer_half) = self.halves(terms.rank);
        let lacks = self.peer_wants.saturating_sub(peer_half);
        if lacks == 0 {
            return 0;
        }
        // A little more than asked for, so that the next one need not ask again.
        let asked = lacks.saturating_add(self.reserve(half));
        let need = self.in_use.saturating_add(self.waiting).max(self.reserve(half));
        asked.min(half.saturating_sub(need))
    }

    /// Drops what is over and adjusts what is lent. True: the peer should know at once.
    pub(super) fn settle(&mut self, now: Time, terms: &Terms) -> bool {
        self.loans.retain(|loan| loan.until > now);
        if self.borrowed_until <= now || terms.mode != Mode::Lend {
            self.borrowed = 0;
        }
        if self.peer_over_until <= now {
            self.peer_over_until = Time(0);
            self.peer_in_use = 0;
        }
        if now >= self.wish_until {
            self.wish = self.in_use.saturating_add(self.waiting);
        }
        let mut urgent = false;
        self.reserved = self.desired_loan(now, terms);
        // What the pools may have taken since they were told last.
        let held = self.applied.unwrap_or(u32::MAX).max(self.in_use);
        let (half, _) = self.halves(terms.rank);
        let free = half.saturating_add(self.borrowed(now)).saturating_sub(held);
        let grant =
            if self.reserved > self.granted { self.reserved.min(free.max(self.granted)) } else { self.reserved };
        if grant != self.granted {
            self.granted = grant;
            self.serial += 1;
            urgent = true;
        }
        let servers = self.allotment(now, terms).map_or(u32::MAX, |allotment| allotment.servers);
        if self.confirmed != self.accepted && held <= servers {
            self.confirmed = self.accepted;
            self.covered_until = self.borrowed_until;
            urgent = true;
        }
        urgent || (self.wish > self.reported_wish && self.wish > servers)
    }

    /// Our line of a report, if it says anything. From here on the peer may have what is granted.
    pub(super) fn report_out(&mut self, key: &BudgetKey, now: Time, terms: &Terms) -> Option<BudgetEntry> {
        let wants = self.wish.max(self.in_use.saturating_add(self.waiting));
        self.reported_wish = wants;
        let quiet = wants == 0 && self.serial == 0 && self.accepted == 0 && self.borrowed == 0 && self.in_use == 0;
        if quiet || (self.limit.is_none() && self.borrowed == 0) {
            return None;
        }
        if self.granted > 0 {
            self.add_loan(Loan { serial: self.serial, servers: self.granted, until: terms.until });
        }
        let left = if self.borrowed(now) > 0 { self.borrowed_until.since(now) } else { Duration::ZERO };
        Some(BudgetEntry {
            key: key.clone(),
            in_use: self.in_use,
            wants,
            borrowed: self.borrowed(now),
            borrowed_left_us: super::micros(left),
            accepted: self.confirmed,
            grant: self.granted,
            serial: self.serial,
        })
    }
}
