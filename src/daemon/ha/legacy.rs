//! What a process leaves to its successor of its part in the pair, and what that makes of it.

use std::collections::HashSet;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

use super::Testament;
use crate::config::ha::VirtualRouter;
use crate::ha::{Picture, RouterKey, RouterPicture};
use crate::vrrp::{Family, State};

/// What a successor has to know of this.
pub(super) fn testament(ha: Picture) -> Testament {
    let those = |family, which: fn(&RouterPicture) -> bool| {
        let routers = ha.routers.iter().filter(|router| which(router) && router.key.family == family);
        routers.map(|router| router.key.vrid).collect()
    };
    let moved = |router: &RouterPicture| router.moved;
    let active = |router: &RouterPicture| router.state == State::Active;
    Testament {
        moved_v4: those(Family::V4, moved),
        moved_v6: those(Family::V6, moved),
        active_v4: those(Family::V4, active),
        active_v6: those(Family::V6, active),
        maintenance: ha.maintenance.unwrap_or_default(),
    }
}

/// The virtual routers that these numbers stand for.
pub(super) fn keys(v4: &[u8], v6: &[u8]) -> Vec<RouterKey> {
    let key = |family| move |vrid: &u8| RouterKey { vrid: *vrid, family };
    v4.iter().map(key(Family::V4)).chain(v6.iter().map(key(Family::V6))).collect()
}

/// Those of the virtual routers, by index, that the predecessor was active for and whose addresses are here still. To be asked
/// where the address helper is another one too: it knows nothing of before, and addresses that are gone may be on the other
/// node by now.
pub(super) fn still_here(routers: &[VirtualRouter], left: &[RouterKey]) -> Vec<usize> {
    let here = addresses_here();
    let key = |router: &VirtualRouter| RouterKey { vrid: router.vrid, family: super::seat::family(router.family) };
    let is_here = |router: &VirtualRouter| {
        left.contains(&key(router)) && router.addresses.iter().all(|address| here.contains(address))
    };
    routers.iter().enumerate().filter(|(_, router)| is_here(router)).map(|(index, _)| index).collect()
}

fn addresses_here() -> HashSet<IpAddr> {
    // An error is as if none were here: what a process without a predecessor begins with.
    let interfaces = getifaddrs().into_iter().flatten();
    let address = |found: nix::ifaddrs::InterfaceAddress| {
        let found = found.address?;
        let v4 = found.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| found.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    interfaces.filter_map(address).collect()
}
