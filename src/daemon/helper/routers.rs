//! What the helper knows of the configuration: the virtual routers and nothing else.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::menu::{ADDRESSES_MAX, ROUTERS_MAX};
use crate::config::Config;
use crate::config::ha::{AddressFamily, VirtualRouter, VrrpVersion};
use crate::vrrp::{Family, Version};

/// The part of the configuration that concerns the helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperConfig {
    /// The virtual routers; requests name them by their place here.
    pub routers: Vec<HeldRouter>,
    /// The ports that clients connect to.
    pub listen_ports: Vec<u16>,
    /// Set `arp_ignore` and `arp_announce` of the interfaces, so that they do not answer for each other's addresses.
    pub set_arp_sysctls: bool,
    /// SHA-256 over all of this: what both sides must agree on before an index means anything.
    pub fingerprint: [u8; 32],
}

/// One virtual router of one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRouter {
    /// The interface that bears the addresses.
    pub interface: String,
    /// The virtual router identifier, 1 to 255.
    pub vrid: u8,
    /// The family of its addresses.
    pub family: Family,
    /// The version of its adverts.
    pub version: Version,
    /// Between two adverts.
    pub interval: Duration,
    /// The floating addresses, in the order in which they are advertised.
    pub addresses: Vec<IpAddr>,
    /// The other nodes, if adverts go to them and not to the group.
    pub unicast_peers: Vec<IpAddr>,
    /// The addresses stand on an interface of their own with the MAC of the virtual router (RFC 9568 section 7.3).
    pub virtual_mac: bool,
}

/// What the helper cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutersError {
    /// Too many.
    #[error("{0} virtual routers are too many: {ROUTERS_MAX} at most, an address family of an entry being one")]
    Routers(usize),
    /// None, or too many, or not of one family.
    #[error(
        "virtual router {vrid} on {interface} needs 1 to {ADDRESSES_MAX} addresses, all of its own address family, and not {count}"
    )]
    Addresses {
        /// Its number.
        vrid: u8,
        /// Its interface.
        interface: String,
        /// How many it has of its family.
        count: usize,
    },
}

impl HelperConfig {
    /// From the configuration; without `[ha]`, nothing.
    ///
    /// # Errors
    /// [`RoutersError`].
    pub fn from_config(config: &Config) -> Result<Self, RoutersError> {
        let Some(ha) = &config.ha else { return Self::from_routers(Vec::new(), Vec::new(), false) };
        let router = |router: &VirtualRouter| HeldRouter {
            interface: router.interface.clone(),
            vrid: router.vrid,
            family: match router.family {
                AddressFamily::V4 => Family::V4,
                AddressFamily::V6 => Family::V6,
            },
            version: match router.version {
                VrrpVersion::V2 => Version::V2,
                VrrpVersion::V3 => Version::V3,
            },
            interval: router.interval,
            addresses: router.addresses.clone(),
            unicast_peers: router.unicast_peers.clone(),
            virtual_mac: router.virtual_mac,
        };
        let routers = ha.routers.iter().map(router).collect();
        Self::from_routers(routers, vec![config.settings.listen_port], ha.settings.set_arp_sysctls)
    }

    /// From what both processes read.
    ///
    /// # Errors
    /// [`RoutersError`].
    pub fn from_routers(
        routers: Vec<HeldRouter>,
        listen_ports: Vec<u16>,
        set_arp_sysctls: bool,
    ) -> Result<Self, RoutersError> {
        if routers.len() > ROUTERS_MAX {
            return Err(RoutersError::Routers(routers.len()));
        }
        for HeldRouter { vrid, interface, family, addresses, .. } in &routers {
            let count = addresses.iter().filter(|address| Family::of(**address) == *family).count();
            if count == 0 || count != addresses.len() || count > ADDRESSES_MAX {
                return Err(RoutersError::Addresses { vrid: *vrid, interface: interface.clone(), count });
            }
        }
        let mut text = String::new();
        // The derived form names every field, so that none can be forgotten. Writing to a string does not fail.
        let _ = write!(text, "{routers:?}\n{listen_ports:?}\n{set_arp_sysctls}");
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        Ok(Self { routers, listen_ports, set_arp_sysctls, fingerprint })
    }
}

impl fmt::Display for HeldRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtual router {} ({}) on {}", self.vrid, self.family, self.interface)
    }
}

impl HeldRouter {
    /// The interface of its own that it has with `virtual_mac`. IPv4 and IPv6 with one number have different MACs.
    #[must_use]
    pub fn virtual_interface(&self) -> String {
        match self.family {
            Family::V4 => format!("vrrp.{}", self.vrid),
            Family::V6 => format!("vrrp6.{}", self.vrid),
        }
    }

    /// Are both the same virtual router, perhaps with other addresses?
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.interface, self.vrid, self.family, self.virtual_mac)
            == (&other.interface, other.vrid, other.family, other.virtual_mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn router() -> HeldRouter {
        HeldRouter {
            interface: "eth0".to_owned(),
            vrid: 51,
            family: Family::V4,
            version: Version::V3,
            interval: Duration::from_millis(100),
            addresses: vec!["192.0.2.10".parse().unwrap()],
            unicast_peers: Vec::new(),
            virtual_mac: false,
        }
    }

    #[test]
    fn every_field_shows_in_the_fingerprint() {
        let print = |router: HeldRouter, ports: &[u16], arp| {
            HelperConfig::from_routers(vec![router], ports.to_vec(), arp).unwrap().fingerprint
        };
        let base = print(router(), &[6432], true);
        assert_eq!(base, print(router(), &[6432], true));
        let others = [
            print(HeldRouter { interface: "eth1".to_owned(), ..router() }, &[6432], true),
            print(HeldRouter { vrid: 52, ..router() }, &[6432], true),
            print(HeldRouter { version: Version::V2, ..router() }, &[6432], true),
            print(HeldRouter { interval: Duration::from_millis(10), ..router() }, &[6432], true),
            print(HeldRouter { addresses: vec!["192.0.2.11".parse().unwrap()], ..router() }, &[6432], true),
            print(HeldRouter { unicast_peers: vec!["192.0.2.2".parse().unwrap()], ..router() }, &[6432], true),
            print(HeldRouter { virtual_mac: true, ..router() }, &[6432], true),
            print(router(), &[6433], true),
            print(router(), &[6432], false),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn what_cannot_be_held_is_refused() {
        let refused = |router: HeldRouter| HelperConfig::from_routers(vec![router], vec![], true).is_err();
        assert!(refused(HeldRouter { addresses: Vec::new(), ..router() }));
        assert!(refused(HeldRouter { addresses: vec!["2001:db8::1".parse().unwrap()], ..router() }));
        assert!(refused(HeldRouter { addresses: vec!["192.0.2.1".parse().unwrap(); ADDRESSES_MAX + 1], ..router() }));
        assert!(HelperConfig::from_routers(vec![router(); ROUTERS_MAX + 1], vec![], true).is_err());
        assert!(HelperConfig::from_routers(vec![router(); ROUTERS_MAX], vec![], true).is_ok());
        assert!(HelperConfig::from_routers(vec![], vec![], true).is_ok());
    }
}
