//! From the settings of `[ha]` and the entries of `[virtual_routers]` to virtual routers, and what cannot work about them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::model::Config;
use super::super::problem::{Place, Problem};
use super::super::resolve::Places;
use super::super::settings::Settings;
use super::{AddressFamily, DEFAULT_ROUTER, Ha, RouterEntry, VirtualRouter, VrrpVersion, pair};

/// The address helper counts virtual routers in one byte, and nobody needs so many.
const MAX_ROUTERS: usize = 64;
/// The longest name of an interface (`IFNAMSIZ` of netdevice(7), less the final NUL).
const MAX_INTERFACE_BYTES: usize = 15;
/// The longest name of a virtual router, for it stands in console commands.
const MAX_NAME_BYTES: usize = 60;
/// VRRP version 3 counts in hundredths of a second (RFC 9568 section 5.2.7).
const INTERVAL_STEP_MS: u32 = 10;
/// VRRP version 2 counts in seconds, up to 255 (RFC 3768 section 5.3.7); [`super::HaSettings`] ends earlier.
const V2_STEP_MS: u32 = 1000;
/// The priority of the address owner (RFC 9568 section 5.2.4).
const OWNER_PRIORITY: u8 = 255;

/// Make the virtual routers of a configuration, and look at all of `[ha]`.
pub(in super::super) fn run(config: &mut Config, places: &Places, problems: &mut Vec<Problem>) {
    let Some(mut ha) = config.ha.take() else { return };
    let mut routers = Vec::new();
    let mut checks = Checks { ha: &ha, settings: &config.settings, places, problems };
    for (name, entry) in checks.entries() {
        routers.extend(checks.routers(&name, &entry));
    }
    routers.sort_by(|one, other| one.name.cmp(&other.name));
    checks.together(&routers);
    pair::run(&mut checks, &routers);
    ha.routers = routers;
    config.ha = Some(ha);
}

pub(super) struct Checks<'a> {
    pub(super) ha: &'a Ha,
    pub(super) settings: &'a Settings,
    pub(super) places: &'a Places,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Checks<'a> {
    /// The line of the first of these settings that is given, or of `[ha]`.
    fn place(&self, settings: &[&str]) -> Option<&'a Place> {
        settings.iter().find_map(|name| self.places.setting(name)).or(self.places.ha())
    }

    pub(super) fn error(&mut self, settings: &[&str], text: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::error(self.place(settings), text).hint(hint));
    }

    pub(super) fn warning(&mut self, settings: &[&str], text: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::warning(self.place(settings), text).hint(hint));
    }

    /// An error about one virtual router, on the line of the parameter.
    fn router_error(&mut self, entry: &str, params: &[&str], text: impl AsRef<str>, hint: impl Into<String>) {
        let text = format!("virtual router \"{entry}\": {}", text.as_ref());
        self.problems.push(Problem::error(self.places.router(entry, params), text).hint(hint));
    }

    fn router_warning(&mut self, entry: &str, params: &[&str], text: impl AsRef<str>, hint: impl Into<String>) {
        let text = format!("virtual router \"{entry}\": {}", text.as_ref());
        self.problems.push(Problem::warning(self.places.router(entry, params), text).hint(hint));
    }

    /// The entries, with the one that `[ha]` describes by itself.
    fn entries(&mut self) -> Vec<(String, RouterEntry)> {
        let settings = &self.ha.settings;
        let mut entries: Vec<_> = self.ha.entries.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect();
        let named = self.ha.entries.contains_key(DEFAULT_ROUTER);
        if settings.address.is_empty() {
            if settings.virtual_router_id.is_some() && !entries.is_empty() {
                let text = "virtual_router_id of [ha] goes with an address of [ha], and there is none";
                self.warning(&["virtual_router_id"], text, "give each entry of [virtual_routers] its own");
            } else if entries.is_empty() && !self.places.anything_refused() {
                let hint = "set address=192.0.2.10 (yours), interface=eth0 (yours) and virtual_router_id=51 (any that is \
                            free) in [ha]";
                self.error(&[], "[ha] has no floating address", hint);
            }
        } else if named {
            let text = "[ha] has an address, which makes a virtual router of this name";
            self.router_error(DEFAULT_ROUTER, &["address"], text, "give the entry another name");
        } else {
            let entry = RouterEntry {
                address: Some(settings.address.clone()),
                virtual_router_id: settings.virtual_router_id,
                ..RouterEntry::default()
            };
            entries.push((DEFAULT_ROUTER.to_owned(), entry));
        }
        entries
    }

    /// The virtual routers of one entry: one for each family of its addresses.
    fn routers(&mut self, name: &str, entry: &RouterEntry) -> Vec<VirtualRouter> {
        let settings = &self.ha.settings;
        self.name(name);
        let interface = entry.interface.clone().unwrap_or_else(|| settings.interface.clone());
        self.interface(name, &interface);
        let vrid = self.number(name, entry);
        let addresses: Vec<IpAddr> = entry.address.iter().flat_map(|list| list.iter()).collect();
        if addresses.is_empty() {
            self.router_error(name, &["address"], "it has no floating address", "set address=192.0.2.10 (yours)");
        }
        if let Some(address) = addresses.iter().find(|address| address.is_loopback()) {
            let text = format!("{address} exists on every machine and cannot be handed over");
            self.router_error(name, &["address"], text, "choose an address of the network that your clients use");
        }
        let version = match entry.vrrp_version.unwrap_or(settings.vrrp_version) {
            2 => VrrpVersion::V2,
            _ => VrrpVersion::V3,
        };
        let interval_ms = entry.advertisement_interval_ms.unwrap_or(settings.advertisement_interval_ms);
        self.interval(name, version, interval_ms);
        let priority = entry.priority.unwrap_or(settings.priority);
        let preempt = entry.preempt.unwrap_or(settings.preempt);
        let preempt_delay = entry.preempt_delay.unwrap_or(settings.preempt_delay);
        self.preemption(name, priority, preempt, preempt_delay);
        let families = [AddressFamily::V4, AddressFamily::V6].map(|family| {
            let own = addresses.iter().copied().filter(|address| AddressFamily::of(*address) == family);
            (family, own.collect::<Vec<_>>())
        });
        let both = families.iter().all(|(_, addresses)| !addresses.is_empty());
        if version == VrrpVersion::V2 && !families[1].1.is_empty() {
            let text = "VRRP version 2 does not know IPv6";
            let hint = match both {
                true => "move the IPv6 addresses to an entry of their own with vrrp_version=3",
                false => "set vrrp_version=3",
            };
            self.router_error(name, &["vrrp_version"], text, hint);
        }
        let router = |(family, addresses): (AddressFamily, Vec<IpAddr>)| VirtualRouter {
            name: if both && family == AddressFamily::V6 { format!("{name}/v6") } else { name.to_owned() },
            entry: name.to_owned(),
            interface: interface.clone(),
            vrid: vrid.unwrap_or(0),
            family,
            version,
            addresses,
            priority,
            interval: Duration::from_millis(interval_ms.into()),
            preempt,
            preempt_delay,
            virtual_mac: entry.virtual_mac.unwrap_or(settings.virtual_mac),
            unicast_peers: self.unicast_peers(family),
        };
        families.into_iter().filter(|(_, addresses)| !addresses.is_empty()).map(router).collect()
    }

    /// Names stand in commands, log lines and metrics.
    fn name(&mut self, name: &str) {
        let sound = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !sound || name.len() > MAX_NAME_BYTES {
            let text = "the name does not do";
            let hint = format!("use letters, digits and _.- only, at most {MAX_NAME_BYTES}");
            self.router_error(name, &[], text, hint);
        }
    }

    fn interface(&mut self, name: &str, interface: &str) {
        if interface.is_empty() {
            let hint = "set interface=eth0 (yours; `ip -brief link` lists them), here or in [ha]";
            self.router_error(name, &["interface", "address"], "it has no interface", hint);
            return;
        }
        let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        if interface.len() > MAX_INTERFACE_BYTES || interface.contains(odd) || [".", ".."].contains(&interface) {
            let text = format!("no interface can have the name {interface:?}");
            let hint = format!("`ip -brief link` lists the names, which have at most {MAX_INTERFACE_BYTES} bytes");
            self.router_error(name, &["interface"], text, hint);
        }
    }

    fn number(&mut self, name: &str, entry: &RouterEntry) -> Option<u8> {
        let refused = name == DEFAULT_ROUTER && self.places.was_refused("virtual_router_id");
        if entry.virtual_router_id.is_none() && !refused {
            let hint = "set virtual_router_id to a number from 1 to 255 that no other VRRP in this network has, the same on \
                        both nodes";
            self.router_error(name, &["virtual_router_id", "address"], "it has no virtual_router_id", hint);
        }
        entry.virtual_router_id
    }

    fn interval(&mut self, name: &str, version: VrrpVersion, interval_ms: u32) {
        let param = "advertisement_interval_ms";
        let next = |step: u32| interval_ms.div_ceil(step).saturating_mul(step);
        if version == VrrpVersion::V2 && !interval_ms.is_multiple_of(V2_STEP_MS) {
            let text = format!("VRRP version 2 counts in whole seconds, and {param} is {interval_ms}");
            let hint = format!("set {param}={}, or vrrp_version=3", next(V2_STEP_MS));
            self.router_error(name, &[param, "vrrp_version"], text, hint);
        } else if !interval_ms.is_multiple_of(INTERVAL_STEP_MS) {
            let text = format!("VRRP counts in hundredths of a second, and {param} is {interval_ms}");
            self.router_error(name, &[param], text, format!("set {param}={}", next(INTERVAL_STEP_MS)));
        }
    }

    fn preemption(&mut self, name: &str, priority: u8, preempt: bool, delay: Duration) {
        if priority == OWNER_PRIORITY {
            let text = "priority 255 is that of the address's owner: it takes the address at its start, whatever preempt says, \
                        and health cannot lower it";
            self.router_warning(name, &["priority"], text, "use 254, or less on the other node");
        }
        if !preempt && !delay.is_zero() {
            self.router_warning(
                name,
                &["preempt_delay"],
                "preempt_delay does nothing without preempt",
                "set preempt=1",
            );
        }
    }

    fn unicast_peers(&self, family: AddressFamily) -> Vec<IpAddr> {
        let settings = &self.ha.settings;
        let peers = settings.peer_address.iter().filter(|address| AddressFamily::of(*address) == family);
        if settings.unicast { peers.collect() } else { Vec::new() }
    }

    /// What virtual routers must not have in common.
    fn together(&mut self, routers: &[VirtualRouter]) {
        let (mut numbers, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        for router in routers {
            let (entry, family) = (router.entry.as_str(), router.family.as_str());
            for address in &router.addresses {
                if let Some(first) = addresses.insert(*address, entry) {
                    let text = match first == entry {
                        true => format!("{address} is given twice"),
                        false => format!("{address} is also an address of virtual router \"{first}\""),
                    };
                    self.router_error(entry, &["address"], text, "remove one of them");
                }
            }
            let key = (router.interface.as_str(), router.family, router.vrid);
            if let Some(first) = numbers.insert(key, entry).filter(|_| router.vrid > 0) {
                let text = format!(
                    "virtual_router_id {} on interface {} is also that of virtual router \"{first}\" ({family})",
                    router.vrid, router.interface
                );
                self.router_error(
                    entry,
                    &["virtual_router_id"],
                    text,
                    "give one of them another number, on both nodes",
                );
            }
        }
        if routers.len() > MAX_ROUTERS {
            let text = format!("{} virtual routers are too many, at most {MAX_ROUTERS} can be", routers.len());
            self.error(&[], text, "one virtual router can have many addresses");
        }
    }
}
