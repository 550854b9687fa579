//! The helper process: it has the addresses as long as the pooler renews its lease, and says goodbye for a pooler that cannot.

use super::node::{REFRESH, Request, Said};
use super::world::World;
use super::{MILLI, SECOND};

impl World {
    pub(crate) fn helper_turn(&mut self, node: usize) {
        if !self.nodes[node].helper_runs() {
            return;
        }
        // All of it before a lease is believed to be over: both may have been stopped together.
        while let Some(request) = self.nodes[node].requests.pop_front() {
            self.serve(node, request);
        }
        let t = self.t;
        let Some(helper) = &mut self.nodes[node].helper else { return };
        if helper.lease.is_some_and(|lease| t >= lease) {
            let routers = self.give_up(node);
            if !routers.is_empty() {
                self.note(|| format!("node {node}: the lease is over"));
                self.say(node, Said::LeaseOver { routers });
            }
        }
        self.helper_timers(node);
    }

    fn helper_timers(&mut self, node: usize) {
        let (t, interval) = (self.t, super::world::nanos(self.setup.interval));
        for router in 0..self.setup.routers.len() {
            let Some(helper) = &mut self.nodes[node].helper else { return };
            if helper.checks[router].take_if(|until| *until <= t).is_some() {
                self.take_address(node, router);
            }
            let Some(helper) = &mut self.nodes[node].helper else { return };
            if helper.held[router] && t >= helper.refresh_at[router] {
                helper.refresh_at[router] = t + REFRESH;
                self.put_address(node, router);
            }
        }
        let Some(helper) = &mut self.nodes[node].helper else { return };
        if helper.bridging && t >= helper.advert_at {
            helper.advert_at = t + interval;
            let held: Vec<(usize, u8)> =
                helper.advertised.iter().copied().enumerate().filter(|(router, _)| helper.held[*router]).collect();
            for (router, priority) in held {
                self.multicast(node, router, priority, self.setup.interval);
            }
        }
        let Some(helper) = &self.nodes[node].helper else { return };
        let refresh = helper.refresh_at.iter().zip(&helper.held).filter(|(_, held)| **held).map(|(at, _)| *at);
        let advert = helper.bridging.then_some(helper.advert_at);
        let checks = helper.checks.iter().flatten().copied();
        let next = refresh.chain(helper.lease).chain(advert).chain(checks).min();
        if let Some(next) = next {
            self.wake_helper(node, next);
        }
    }

    fn serve(&mut self, node: usize, request: Request) {
        let t = self.t;
        let Some(helper) = &mut self.nodes[node].helper else { return };
        match request {
            Request::Hello => {
                let held = (0..helper.held.len()).filter(|router| helper.held[*router]).collect();
                self.say(node, Said::Welcome { held });
            }
            Request::Renew { lease } => {
                (helper.lease, helper.bridging) = (Some(t + lease), false);
                self.say(node, Said::Renewed);
            }
            Request::Hold { router, .. } if helper.lease.is_none_or(|lease| t >= lease) => {
                self.say(node, Said::HoldFailed { router });
            }
            Request::Hold { router, check } if check > 0 && !helper.held[router] => {
                helper.checks[router] = Some(t + check);
            }
            Request::Hold { router, .. } => self.take_address(node, router),
            Request::Release { router } => {
                helper.held[router] = false;
                helper.checks[router] = None;
                self.nodes[node].addresses[router] = None;
            }
            Request::Advertised { router, priority } => helper.advertised[router] = priority,
            Request::Bridge { span } => {
                if helper.lease.is_some_and(|lease| t < lease) {
                    (helper.lease, helper.bridging, helper.advert_at) = (Some(t + span.min(60 * SECOND)), true, t);
                }
            }
            Request::Eof => {
                self.give_up(node);
            }
        }
    }

    fn take_address(&mut self, node: usize, router: usize) {
        let t = self.t;
        if !self.nodes[node].truth.interface {
            return self.say(node, Said::HoldFailed { router });
        }
        let Some(helper) = &mut self.nodes[node].helper else { return };
        helper.held[router] = true;
        helper.refresh_at[router] = t + REFRESH;
        self.put_address(node, router);
        self.say(node, Said::Held { router });
    }

    /// Goodbye for all that is held, then without it.
    fn give_up(&mut self, node: usize) -> Vec<usize> {
        let Some(helper) = &mut self.nodes[node].helper else { return Vec::new() };
        (helper.lease, helper.bridging) = (None, false);
        helper.checks.fill(None);
        let held: Vec<usize> = (0..helper.held.len()).filter(|router| helper.held[*router]).collect();
        helper.held.fill(false);
        for &router in &held {
            self.multicast(node, router, 0, self.setup.interval);
            self.nodes[node].addresses[router] = None;
        }
        held
    }

    /// The interface has come up or gone down; the addresses go with it.
    pub(crate) fn set_interface(&mut self, node: usize, up: bool) {
        let there = &mut self.nodes[node];
        if there.truth.interface == up {
            return;
        }
        there.truth.interface = up;
        let watched = there.helper_runs();
        // A helper that does not run now sees it when it does.
        let late = if watched { 0 } else { 10 * MILLI };
        self.say(node, Said::Interface { up });
        self.wake_helper(node, self.t + late);
    }
}
