//! Host names of servers, for the console, and the watch over them (PgBouncer setting dns_zone_check_period).
//!
//! PgBouncer asks for a zone's serial and looks its names up again when that has changed. Here the names themselves are looked
//! up again, which also notices a change of `/etc/hosts` and needs no name server that tells serials.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::run::Daemon;
use crate::snapshot::{DnsHostRow, DnsZoneRow};

/// How often it is looked whether names are to be watched by now.
const IDLE: Duration = Duration::from_secs(1);

impl Daemon {
    /// The rows of SHOW DNS_HOSTS.
    pub(super) fn dns_hosts(&self) -> Vec<DnsHostRow> {
        let rows = self.shared.names.view().into_iter().map(|name| DnsHostRow {
            hostname: name.name,
            ttl_s: name.left.as_secs(),
            addrs: name.addresses.iter().map(|ip| SocketAddr::new(*ip, 0).to_string()).collect::<Vec<_>>().join(","),
        });
        rows.collect()
    }

    /// The rows of SHOW DNS_ZONES: the zones of the names in use. Their serials are not asked for.
    pub(super) fn dns_zones(&self) -> Vec<DnsZoneRow> {
        let mut zones: BTreeMap<String, u64> = BTreeMap::new();
        for name in self.shared.names.view() {
            if let Some((_, zone)) = name.name.split_once('.').filter(|(_, zone)| !zone.is_empty()) {
                *zones.entry(zone.to_owned()).or_default() += 1;
            }
        }
        zones.into_iter().map(|(zonename, count)| DnsZoneRow { zonename, serial: 0, count }).collect()
    }

    /// Looks all names up again, every dns_zone_check_period.
    pub(super) async fn watch_names(self: Arc<Self>) {
        loop {
            let period = self.config().settings.dns_zone_check_period;
            tokio::time::sleep(if period.is_zero() { IDLE } else { period }).await;
            if !period.is_zero() {
                self.shared.names.look_again().await;
            }
        }
    }
}
