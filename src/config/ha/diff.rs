//! What a reload changes about the pair, so that what did not change is left alone: a reload must not move an address.

use std::collections::{BTreeMap, BTreeSet};

use super::super::diff::{Effect, SettingChange};
use super::super::settings::Apply;
use super::{Ha, HaSettings, VirtualRouter};

/// What a reload changes about the pair. Equal configurations give the default, empty plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaPlan {
    /// `[ha]` came or went. Either needs a restart: until then this node stays what it is.
    pub switched: bool,
    /// Settings of `[ha]` that differ; what comes of them for virtual routers stands below.
    pub settings: Vec<SettingChange>,
    /// Entries of `[virtual_routers]` that were added, removed or changed, even if nothing comes of it (a value that is the
    /// default is now written down).
    pub entries_changed: Vec<String>,
    /// Virtual routers that are new.
    pub routers_added: Vec<String>,
    /// Virtual routers that are gone.
    pub routers_removed: Vec<String>,
    /// Virtual routers that differ.
    pub routers_changed: Vec<RouterChange>,
    /// The pair link must be made anew: the peer's addresses, the own ones, the port or the proof of identity changed.
    /// (That a file's content changed only its reader can see.)
    pub link: bool,
}

/// A virtual router that is in both configurations and differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterChange {
    /// Its name.
    pub name: String,
    /// The parameters that differ.
    pub params: Vec<&'static str>,
    /// Is it another virtual router to the network, so that this one must end and the new one start?
    pub anew: bool,
}

impl HaPlan {
    /// Must the VRRP side be told anything?
    #[must_use]
    pub fn touches_routers(&self) -> bool {
        !(self.routers_added.is_empty() && self.routers_removed.is_empty() && self.routers_changed.is_empty())
    }
}

/// The pair that holds after a reload: the new one, but with what only a restart changes.
#[must_use]
pub(in super::super) fn apply_reload(old: Option<&Ha>, new: Option<&Ha>) -> Option<Ha> {
    let (Some(old), Some(new)) = (old, new) else { return old.cloned() };
    let mut merged = new.clone();
    for spec in HaSettings::specs().iter().filter(|spec| spec.apply == Apply::Boot) {
        (spec.copy)(&mut merged.settings, &old.settings);
    }
    Some(merged)
}

/// Compare the running pair with that of the file.
#[must_use]
pub(in super::super) fn diff(old: Option<&Ha>, new: Option<&Ha>) -> HaPlan {
    let (Some(old), Some(new)) = (old, new) else {
        return HaPlan { switched: old.is_some() != new.is_some(), ..HaPlan::default() };
    };
    let mut plan = HaPlan::default();
    for spec in HaSettings::specs().iter().filter(|spec| !(spec.same)(&old.settings, &new.settings)) {
        let effect = match spec.apply {
            Apply::Boot => Effect::NeedsRestart,
            Apply::Reload => Effect::Applied,
        };
        let show = |ha: &Ha| (spec.get)(&ha.settings).map(|value| value.show());
        plan.settings.push(SettingChange { name: spec.name, old: show(old), new: show(new), effect });
        plan.link |= spec.name.starts_with("pair_") || spec.name == "peer_address";
    }
    let names: BTreeSet<&String> = old.entries.keys().chain(new.entries.keys()).collect();
    let differs = |name: &&String| old.entries.get(*name) != new.entries.get(*name);
    plan.entries_changed = names.into_iter().filter(differs).cloned().collect();
    let by_name = |ha: &'_ Ha| -> BTreeMap<String, VirtualRouter> {
        ha.routers.iter().map(|router| (router.name.clone(), router.clone())).collect()
    };
    let (was, is) = (by_name(old), by_name(new));
    plan.routers_added = is.keys().filter(|name| !was.contains_key(*name)).cloned().collect();
    plan.routers_removed = was.keys().filter(|name| !is.contains_key(*name)).cloned().collect();
    let both = was.iter().filter_map(|(name, was)| Some((was, is.get(name)?)));
    plan.routers_changed = both.filter(|(was, is)| was != is).map(|(was, is)| change(was, is)).collect();
    plan
}

fn change(was: &VirtualRouter, is: &VirtualRouter) -> RouterChange {
    // The first five decide what the router is to others: to them another one would have come.
    let identity = [
        ("interface", was.interface == is.interface),
        ("virtual_router_id", was.vrid == is.vrid),
        ("vrrp_version", was.version == is.version),
        ("virtual_mac", was.virtual_mac == is.virtual_mac),
        ("unicast", was.unicast_peers == is.unicast_peers),
    ];
    let rest = [
        ("address", was.addresses == is.addresses && was.family == is.family),
        ("priority", was.priority == is.priority),
        ("advertisement_interval_ms", was.interval == is.interval),
        ("preempt", was.preempt == is.preempt),
        ("preempt_delay", was.preempt_delay == is.preempt_delay),
    ];
    let anew = identity.iter().any(|(_, same)| !same) || was.family != is.family;
    let params = identity.into_iter().chain(rest).filter(|(_, same)| !same).map(|(name, _)| name).collect();
    RouterChange { name: is.name.clone(), params, anew }
}
