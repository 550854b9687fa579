//! The one table of the settings of `[ha]`: as that of `[pgbouncer]` in `config/table.rs`.

use std::sync::LazyLock;
use std::time::Duration;

use super::super::choice::{ListenWhen, ServerBudget};
use super::super::settings::Apply::{Boot, Reload};
use super::super::settings::Kind::{Bool, Choice, File, Int, List, Text, Time};
use super::super::settings::Origin::Pgtandem;
use super::super::settings::Status::Works;
use super::super::settings::{ANY, Overrides, Spec};
use super::super::table::{from_default, settings};
use super::super::value::{NameList, Nullable, Value};
use super::AddressList;

settings! {
    /// Every setting of section `[ha]` under its own name.
    struct HaSettings;
    node_name: Nullable = None, Text, ANY, Boot, None, Works, Pgtandem, "The name of this node to its peer and in SHOW HA; not given = the host's name.";
    interface: String = Some(""), Text, ANY, Reload, Router, Works, Pgtandem, "The network interface that bears the floating addresses.";
    address: AddressList = Some(""), List, ANY, Reload, Router, Works, Pgtandem, "The floating addresses of the virtual router `default`.";
    virtual_router_id: Option<u8> = None, Int, (1, 255), Reload, Router, Works, Pgtandem, "The number of the virtual router `default`, the same on both nodes.";
    priority: u8 = Some("254"), Int, (1, 255), Reload, Router, Works, Pgtandem, "Which node becomes active if both could: the higher.";
    advertisement_interval_ms: u32 = Some("100"), Int, (10, 40950), Reload, Router, Works, Pgtandem, "Milliseconds between two adverts; whole seconds with vrrp_version=2.";
    preempt: bool = Some("0"), Bool, ANY, Reload, Router, Works, Pgtandem, "Take the address back from a fit node of lower priority.";
    preempt_delay: Duration = Some("0"), Time, ANY, Reload, Router, Works, Pgtandem, "Wait this long after the start before taking the address back.";
    vrrp_version: u8 = Some("3"), Int, (2, 3), Reload, Router, Works, Pgtandem, "The version of VRRP: 3 (RFC 9568), or 2 (RFC 3768, IPv4 only).";
    virtual_mac: bool = Some("0"), Bool, ANY, Reload, Router, Works, Pgtandem, "Hold the addresses on a macvlan interface with the virtual router's MAC.";
    unicast: bool = Some("0"), Bool, ANY, Reload, None, Works, Pgtandem, "Send adverts to peer_address instead of to the multicast group.";
    peer_address: AddressList = Some(""), List, ANY, Reload, None, Works, Pgtandem, "The other node's own addresses, one for each way to it.";
    pair_listen_address: NameList = Some("*"), List, ANY, Reload, None, Works, Pgtandem, "Addresses of this node on which the pair link listens; `*` = all.";
    pair_port: u16 = Some("6433"), Int, (1, 65535), Reload, None, Works, Pgtandem, "The port of the pair link, the same on both nodes.";
    pair_secret_file: String = Some(""), File, ANY, Reload, None, Works, Pgtandem, "The file with the secret that both nodes share.";
    pair_tls_cert_file: String = Some(""), File, ANY, Reload, None, Works, Pgtandem, "The certificate shown to the peer, instead of a secret.";
    pair_tls_key_file: String = Some(""), File, ANY, Reload, None, Works, Pgtandem, "The private key of pair_tls_cert_file.";
    pair_tls_ca_file: String = Some(""), File, ANY, Reload, None, Works, Pgtandem, "The certificates that sign the peer's certificate.";
    pair_tls_peer_name: String = Some(""), Text, ANY, Reload, None, Works, Pgtandem, "The name that the peer's certificate must bear; empty = any.";
    link_timeout_ms: u32 = Some("1000"), Int, (200, 60000), Reload, None, Works, Pgtandem, "Milliseconds of silence after which the peer counts as lost.";
    lease_ms: u32 = Some("0"), Int, (0, 10000), Reload, None, Works, Pgtandem, "Milliseconds the helper keeps the addresses of a silent pooler; 0 = by interval.";
    health_timeout_ms: u32 = Some("2000"), Int, (100, 60000), Reload, None, Works, Pgtandem, "Milliseconds without progress after which the data path counts as dead.";
    servers_down_delay: Duration = Some("5"), Time, ANY, Reload, None, Works, Pgtandem, "Give the address to a peer that reaches the servers after this time without.";
    switchover_timeout: Duration = Some("10"), Time, ANY, Reload, None, Works, Pgtandem, "How long a planned switch may take.";
    server_budget: ServerBudget = Some("lend"), Choice(ServerBudget::WORDS), ANY, Reload, None, Works, Pgtandem, "How both nodes share max_db_connections and max_user_connections.";
    listen: ListenWhen = Some("always"), Choice(ListenWhen::WORDS), ANY, Reload, None, Works, Pgtandem, "Take clients always, or only while a floating address is here.";
    helper_socket: String = Some("/run/pgtandem-helper/socket"), File, ANY, Boot, None, Works, Pgtandem, "The socket of the address helper; empty = start one as a child.";
    notify_program: String = Some(""), File, ANY, Reload, None, Works, Pgtandem, "The program that is told of each transition.";
    notify_timeout: Duration = Some("10"), Time, ANY, Reload, None, Works, Pgtandem, "End notify_program after this time.";
    set_arp_sysctls: bool = Some("1"), Bool, ANY, Reload, None, Works, Pgtandem, "Let the helper set arp_ignore and arp_announce of the interface.";
    reset_clients_on_takeover: bool = Some("1"), Bool, ANY, Reload, None, Works, Pgtandem, "After the peer's crash, reset its clients' connections so that they learn.";
}
