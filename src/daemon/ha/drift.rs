//! Which settings both nodes should have alike: what is compared over the link, and what differs by nature.

use crate::config::Config;
use crate::config::print::to_toml;
use crate::pair::drift::Setting;

/// Settings that belong to one node or one machine.
const OWN: [&str; 18] = [
    "node_name",
    "interface",
    "priority",
    "peer_address",
    "pair_listen_address",
    "pair_tls_peer_name",
    "pair_secret_file",
    "pair_tls_cert_file",
    "pair_tls_key_file",
    "pair_tls_ca_file",
    "helper_socket",
    "notify_program",
    "logfile",
    "pidfile",
    "unix_socket_dir",
    "user",
    "peer_id",
    "conffile",
];

/// Every setting that should be the same, by the name under which an operator finds it.
pub(super) fn settings(config: &Config) -> Vec<Setting> {
    let text = to_toml(config);
    let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
    let mut found = Vec::new();
    for (section, value) in &table {
        walk(section, value, &mut found);
    }
    found
}

fn walk(name: &str, value: &toml::Value, found: &mut Vec<Setting>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let own = OWN.contains(&key.as_str()) && !name.starts_with("databases") && !name.starts_with("users");
                // The machine's own addresses may stand there.
                if !own && key != "listen_addr" {
                    walk(&format!("{name}.{key}"), value, found);
                }
            }
        }
        other => found.push(Setting::new(name, &other.to_string())),
    }
}
