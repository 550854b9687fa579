//! Adverts that have passed the checks of their bytes: those checks that need the configuration, and what is learned whatever
//! the state.

use std::net::{IpAddr, Ipv6Addr};

use super::super::picture::Rival;
use super::super::{Advert, Discard, Family, PRIORITY_GOODBYE, PRIORITY_OWNER, Version, Warning};
use super::{Action, Phase, Router};
use crate::clock::Time;

impl Router {
    pub(super) fn discard(&mut self, now: Time, from: IpAddr, discard: Discard, out: &mut Vec<Action>) {
        let mut count = 0;
        if let Some(counter) = self.counters.discards.get_mut(discard.kind()) {
            *counter += 1;
            count = *counter;
        }
        self.warn(now, Warning::Discarded { from, discard, count }, out);
    }

    pub(super) fn hear(&mut self, now: Time, from: IpAddr, advert: &Advert, out: &mut Vec<Action>) {
        if let Err(discard) = self.check(from, advert) {
            self.discard(now, from, discard, out);
            return;
        }
        self.counters.adverts_received += 1;
        self.counters.goodbyes_received += u64::from(advert.priority == PRIORITY_GOODBYE);
        self.compare(now, from, advert, out);
        if (self.params.family, self.params.version) == (Family::V4, Version::V3) {
            self.checksum = advert.checksum;
        }
        let rival = Rival { address: from, priority: advert.priority, interval: advert.interval, heard: now };
        match self.phase {
            Phase::Initialize => {}
            Phase::Backup(_) => self.backup_hears(now, rival, out),
            Phase::Active(_) => self.active_hears(now, rival, out),
        }
    }

    /// RFC 9568 section 7.1, and RFC 3768 section 7.1 for version 2.
    fn check(&self, from: IpAddr, advert: &Advert) -> Result<(), Discard> {
        if advert.vrid != self.params.vrid || Family::of(from) != self.params.family {
            return Err(Discard::UnknownVrid { vrid: advert.vrid });
        }
        if from == self.own_address {
            return Err(Discard::OwnAddress);
        }
        if advert.version != self.params.version {
            return Err(Discard::OtherVersion { version: advert.version.number() });
        }
        if !self.params.unicast_peers.is_empty() && !self.params.unicast_peers.contains(&from) {
            return Err(Discard::UnknownSource);
        }
        if let Some(address) = not_link_local(advert).filter(|_| self.params.link_local_first) {
            return Err(Discard::NotLinkLocal { address });
        }
        if advert.version == Version::V2 {
            if advert.interval != self.params.interval {
                return Err(Discard::Interval { heard: advert.interval, own: self.params.interval });
            }
            if advert.priority != PRIORITY_OWNER && !self.same_addresses(advert) {
                return Err(Discard::Addresses);
            }
        }
        Ok(())
    }

    /// What is said and not discarded.
    fn compare(&mut self, now: Time, from: IpAddr, advert: &Advert, out: &mut Vec<Action>) {
        if advert.interval != self.params.interval {
            self.counters.interval_differs += 1;
            let (heard, own) = (advert.interval, self.params.interval);
            self.warn(now, Warning::IntervalDiffers { from, heard, own }, out);
        }
        if !self.same_addresses(advert) {
            self.counters.addresses_differ += 1;
            self.warn(now, Warning::AddressesDiffer { from }, out);
        }
        if let Some(address) = not_link_local(advert) {
            self.counters.not_link_local += 1;
            self.warn(now, Warning::NotLinkLocal { from, address }, out);
        }
        if advert.priority == PRIORITY_OWNER && self.params.priority == PRIORITY_OWNER {
            self.warn(now, Warning::TwoOwners { from }, out);
        }
    }

    /// In whatever order.
    fn same_addresses(&self, advert: &Advert) -> bool {
        let (own, heard) = (&self.params.addresses, &advert.addresses);
        own == heard || (own.len() == heard.len() && own.iter().all(|address| heard.contains(address)))
    }
}

fn not_link_local(advert: &Advert) -> Option<IpAddr> {
    let first = advert.addresses.first().copied()?;
    matches!(first, IpAddr::V6(v6) if !is_link_local(v6)).then_some(first)
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}
