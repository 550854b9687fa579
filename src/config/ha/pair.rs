//! What cannot work between the two nodes: their link, its authentication, and who can reach whom.

use std::net::IpAddr;
use std::path::Path;

use super::super::check::MAKE_A_SECRET;
use super::super::choice::ServerBudget;
use super::resolve::Checks;
use super::{AddressFamily, VirtualRouter};

/// The longest path of a Unix socket (`sun_path` of unix(7), less the final NUL).
const MAX_SOCKET_PATH: usize = 107;
/// The longest name of a node, as of a host (RFC 1035 section 2.3.4).
const MAX_NODE_NAME_BYTES: usize = 255;
/// A node whose pooler hangs keeps the addresses for the lease: longer than this is an outage that people notice.
const LONG_LEASE_MS: u32 = 1000;
/// A pooler on a busy machine may be kept from running for so long without being dead.
const SHORT_LEASE_MS: u32 = 50;

/// Look at everything that is not about single virtual routers.
pub(super) fn run(checks: &mut Checks<'_>, routers: &[VirtualRouter]) {
    checks.authentication();
    checks.peer(routers);
    checks.unicast(routers);
    checks.link(routers);
    checks.clients(routers);
    checks.lease();
    checks.programs();
    checks.node_name();
}

impl Checks<'_> {
    fn authentication(&mut self) {
        let settings = &self.ha.settings;
        let secret = !settings.pair_secret_file.is_empty();
        let files = [
            ("pair_tls_cert_file", settings.pair_tls_cert_file.is_empty()),
            ("pair_tls_key_file", settings.pair_tls_key_file.is_empty()),
            ("pair_tls_ca_file", settings.pair_tls_ca_file.is_empty()),
        ];
        let names = files.map(|(name, _)| name);
        let given = files.iter().any(|(_, empty)| !empty);
        let missing: Vec<&str> = files.iter().filter(|(_, empty)| *empty).map(|(name, _)| *name).collect();
        if secret && given {
            let text = "pair_secret_file and pair_tls_… are two ways to know the peer, and both are set";
            self.error(&["pair_secret_file"], text, "leave one out, on both nodes");
        }
        if given && !missing.is_empty() {
            let text = format!("a pair with certificates needs all three files, and {} is missing", missing.join(", "));
            let hint = "name certificate, key and the CA that signs the peer's, or use pair_secret_file";
            self.error(&names, text, hint);
        }
        if !settings.pair_tls_peer_name.is_empty() && !given {
            let text = "pair_tls_peer_name does nothing without certificates";
            self.warning(&["pair_tls_peer_name"], text, "set pair_tls_cert_file, pair_tls_key_file, pair_tls_ca_file");
        }
        if self.ha.has_peer() && !secret && !given {
            let text =
                "peer_address is given, but nothing by which the nodes know each other: pair_secret_file is not set";
            let hint = format!("set pair_secret_file; {MAKE_A_SECRET}");
            self.error(&["peer_address"], text, hint);
        }
    }

    fn peer(&mut self, routers: &[VirtualRouter]) {
        let settings = &self.ha.settings;
        if !self.ha.has_peer() {
            if self.places.was_refused("peer_address") {
                return;
            }
            let text = "no peer_address: there is no pair link, so no second opinion when adverts are lost, no shared budget of \
                        server connections, no commands for the pair";
            self.warning(&[], text, "set peer_address to the other node's own address and pair_secret_file");
            if self.places.setting("server_budget").is_some() && settings.server_budget == ServerBudget::Lend {
                let text = "server_budget=lend needs a pair link: without peer_address each node has half";
                self.warning(&["server_budget"], text, "set peer_address, or server_budget=halves");
            }
            return;
        }
        let peers: Vec<IpAddr> = settings.peer_address.iter().collect();
        for (at, peer) in peers.iter().enumerate() {
            if routers.iter().any(|router| router.addresses.contains(peer)) {
                let text = format!("peer_address {peer} is a floating address, which may be on this node");
                self.error(&["peer_address"], text, "name the other node's own address");
            }
            if peers.iter().take(at).any(|earlier| earlier == peer) {
                let text = format!("peer_address {peer} is given twice");
                self.error(&["peer_address"], text, "remove one of them");
            }
            if settings.pair_listen_address.iter().any(|own| own.parse() == Ok(*peer)) {
                let text = format!("peer_address {peer} is an address of this node: pair_listen_address has it");
                self.error(&["peer_address", "pair_listen_address"], text, "name the other node's own address");
            }
        }
    }

    fn unicast(&mut self, routers: &[VirtualRouter]) {
        let settings = &self.ha.settings;
        if !settings.unicast {
            return;
        }
        if !self.ha.has_peer() {
            if !self.places.was_refused("peer_address") {
                let text = "unicast=1 without peer_address: adverts have nowhere to go";
                self.error(&["unicast"], text, "set peer_address to the other node's own address");
            }
            return;
        }
        for family in [AddressFamily::V4, AddressFamily::V6] {
            let named = routers.iter().find(|router| router.family == family && router.unicast_peers.is_empty());
            if let Some(router) = named {
                let text = format!(
                    "unicast=1, but no peer_address is an {} one, as virtual router \"{}\" needs",
                    family.as_str(),
                    router.name
                );
                self.error(&["peer_address", "unicast"], text, "add the other node's address of that family");
            }
        }
    }

    fn link(&mut self, routers: &[VirtualRouter]) {
        let settings = &self.ha.settings;
        if settings.pair_port == self.settings.listen_port {
            let text = format!("pair_port and listen_port are both {}", settings.pair_port);
            self.error(&["pair_port", "listen_port"], text, "choose another pair_port, on both nodes");
        }
        if settings.pair_listen_address.is_empty() && self.ha.has_peer() {
            let text = "pair_listen_address is empty, so the peer cannot reach this node";
            self.error(&["pair_listen_address"], text, "set it to `*` or to this node's own address");
        }
        for own in settings.pair_listen_address.iter().filter(|own| *own != "*") {
            match own.parse::<IpAddr>() {
                Err(_) => {
                    let text = format!("pair_listen_address: {own} is no IP address");
                    self.error(&["pair_listen_address"], text, "use `*` or this node's own addresses");
                }
                Ok(own) if routers.iter().any(|router| router.addresses.contains(&own)) => {
                    let text =
                        format!("pair_listen_address {own} is a floating address, which may be on the other node");
                    self.error(&["pair_listen_address"], text, "use `*` or this node's own address");
                }
                Ok(_) => {}
            }
        }
    }

    /// Can clients reach the pooler at the floating addresses?
    fn clients(&mut self, routers: &[VirtualRouter]) {
        let listed: Vec<&str> = self.settings.listen_addr.iter().collect();
        let open = |address: &IpAddr| {
            let all = if address.is_ipv4() { "0.0.0.0" } else { "::" };
            listed.iter().any(|item| *item == "*" || *item == all || item.parse() == Ok(*address))
        };
        let closed = routers.iter().flat_map(|router| &router.addresses).filter(|address| !open(address));
        let closed: Vec<String> = closed.map(IpAddr::to_string).collect();
        if !closed.is_empty() {
            let text = format!(
                "clients cannot reach the pooler at {}: listen_addr has neither `*` nor the address",
                closed.join(", ")
            );
            self.warning(&["listen_addr"], text, "set listen_addr=* in [pgbouncer], or add the address to it");
        }
    }

    fn lease(&mut self) {
        match self.ha.settings.lease_ms {
            0 => {}
            lease if lease > LONG_LEASE_MS => {
                let text = format!("lease_ms={lease}: a node whose pooler hangs keeps the addresses for so long");
                self.warning(&["lease_ms"], text, format!("{LONG_LEASE_MS} or less, or 0"));
            }
            lease if lease < SHORT_LEASE_MS => {
                let text = format!("lease_ms={lease}: a busy machine may keep the pooler from running for so long");
                self.warning(&["lease_ms"], text, format!("{SHORT_LEASE_MS} or more, or 0"));
            }
            _ => {}
        }
    }

    fn programs(&mut self) {
        let settings = &self.ha.settings;
        let program = &settings.notify_program;
        if !program.is_empty() && !Path::new(program).is_absolute() {
            let text = format!("notify_program {program} is not named by its whole path");
            self.error(&["notify_program"], text, "begin it with /");
        }
        let times = [("notify_timeout", settings.notify_timeout), ("switchover_timeout", settings.switchover_timeout)];
        for (name, _) in times.into_iter().filter(|(_, time)| time.is_zero()) {
            self.error(&[name], format!("{name}=0 would mean no time at all"), "set it to some seconds");
        }
        if settings.helper_socket.len() > MAX_SOCKET_PATH {
            let text = format!("helper_socket is longer than {MAX_SOCKET_PATH} bytes, which no Unix socket can be");
            self.error(&["helper_socket"], text, "choose a shorter path");
        }
    }

    fn node_name(&mut self) {
        let odd = |c: char| c.is_whitespace() || c.is_control();
        let name = self.ha.settings.node_name.get().unwrap_or_default();
        if name.contains(odd) || name.len() > MAX_NODE_NAME_BYTES {
            let hint = format!("one word of at most {MAX_NODE_NAME_BYTES} bytes");
            self.error(&["node_name"], "node_name does not do as a name", hint);
        }
    }
}
