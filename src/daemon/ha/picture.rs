//! The pair for SHOW HA, SHOW HA HISTORY and SHOW HA LINK.

use std::time::UNIX_EPOCH;

use super::Node;
use super::tell::RouterView;
use crate::clock::Time;
use crate::ha;
use crate::snapshot::{HaLinkState, HaPeer, HaPicture, HaRouterRow, HaState, HaTransitionRow};
use crate::vrrp::State;

/// So many intervals without an advert of the peer's, although it says that it sends some, are no accident.
const UNHEARD_INTERVALS: u32 = 5;

pub(super) fn state(state: State) -> HaState {
    match state {
        State::Initialize => HaState::Initialize,
        State::Backup => HaState::Backup,
        State::Active => HaState::Active,
    }
}

fn unix_us(at: Time) -> i64 {
    let since = at.system().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

impl Node {
    /// The pair as this node sees it. What the thread does not say in time is left out.
    #[must_use]
    pub fn picture(&self) -> HaPicture {
        let mut picture = HaPicture { node: self.name.clone(), ..HaPicture::default() };
        let Some(view) = self.view() else {
            "the virtual routers do not answer".clone_into(&mut picture.fit_reason);
            return picture;
        };
        let now = Time::now();
        picture.fit = view.ha.fit;
        picture.fit_reason.clone_from(&view.ha.reason);
        picture.maintenance = view.ha.maintenance.is_some();
        if let Some(peer) = &view.ha.peer {
            picture.peer = HaPeer {
                name: Some(peer.name.clone()).filter(|name| !name.is_empty()),
                link: if peer.up { HaLinkState::Up } else { HaLinkState::Lost },
                heard_ms_ago: peer.heard.map(|at| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX)),
            };
        }
        if let Some(link) = self.link() {
            picture.drift = link.drift();
            picture.paths = link.path_rows(now);
        }
        let rows = view.routers.iter().enumerate().map(|(index, router)| row(now, index, router, &view.ha));
        picture.routers = rows.collect();
        picture.history = view.ha.history.iter().map(transition).collect();
        picture
    }
}

fn row(now: Time, index: usize, router: &RouterView, ha: &ha::Picture) -> HaRouterRow {
    let RouterView { config, vrrp, last_discard, .. } = router;
    let led = ha.routers.get(index);
    let peer = ha.peer.as_ref().filter(|peer| peer.up);
    let key = led.map(|led| led.key);
    let at_peer = peer.map(|peer| {
        peer.status
            .routers
            .iter()
            .find(|status| Some(status.key) == key)
            .map_or(HaState::NotConfigured, |status| state(status.state))
    });
    let active_address = match vrrp.state {
        State::Active => Some(vrrp.own_address),
        State::Backup | State::Initialize => vrrp.active.map(|active| active.address),
    };
    let addresses: Vec<_> = config.addresses.iter().map(ToString::to_string).collect();
    HaRouterRow {
        router: config.name.clone(),
        interface: config.interface.clone(),
        family: config.family.as_str(),
        virtual_router_id: config.vrid,
        state: state(vrrp.state),
        since_us: unix_us(vrrp.since),
        reason: led.map(|led| led.reason.clone()).unwrap_or_default(),
        priority: config.priority,
        effective_priority: vrrp.priority,
        addresses: addresses.join(","),
        active_address: active_address.map(|address| address.to_string()),
        peer_state: at_peer,
        interval_ms: u32::try_from(vrrp.interval.as_millis()).unwrap_or(u32::MAX),
        adverts_sent: vrrp.counters.adverts_sent,
        adverts_received: vrrp.counters.adverts_received,
        discarded: vrrp.counters.discards.iter().sum(),
        last_discard: last_discard.clone(),
        hint: hint(now, router, at_peer),
    }
}

/// What is odd about a router, and what to do about it.
fn hint(now: Time, router: &RouterView, at_peer: Option<HaState>) -> String {
    let vrrp = &router.vrrp;
    let protocol = "IP protocol 112 (VRRP)";
    let unheard = vrrp.active.is_none_or(|active| now.since(active.heard) > active.interval * UNHEARD_INTERVALS);
    match (state(vrrp.state), at_peer) {
        (HaState::Active, Some(HaState::Active)) if unheard => format!(
            "both nodes are active and do not hear each other: does a firewall drop {protocol} on {}?",
            router.config.interface
        ),
        (HaState::Active, Some(HaState::Active)) => "both nodes are active".to_owned(),
        (HaState::Backup, Some(HaState::Active))
            if unheard && now.since(vrrp.since) > vrrp.interval * UNHEARD_INTERVALS =>
        {
            format!(
                "the peer is active, but its adverts do not arrive: let {protocol} in on {}",
                router.config.interface
            )
        }
        (_, Some(HaState::NotConfigured)) => {
            format!("the peer has no virtual router {} for {}", router.config.vrid, router.config.family.as_str())
        }
        _ if vrrp.counters.addresses_differ > 0 => {
            "the other node advertises other addresses for this router".to_owned()
        }
        _ if vrrp.counters.interval_differs > 0 => "the other node advertises at another interval".to_owned(),
        _ => String::new(),
    }
}

fn transition(entry: &ha::Entry) -> HaTransitionRow {
    HaTransitionRow {
        time_us: unix_us(entry.at),
        router: entry.router.clone().unwrap_or_default(),
        from: entry.from.map_or(HaState::NotConfigured, state),
        to: entry.to.map_or(HaState::NotConfigured, state),
        reason: entry.reason.clone(),
        took_us: entry.took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
    }
}
