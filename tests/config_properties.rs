//! Properties of the configuration: printing and reading again is the identity, the two forms of file agree, no bytes panic.

use std::io;
use std::path::Path;

use pgtandem::config::print::to_toml;
use pgtandem::config::settings::Kind;
use pgtandem::config::{Config, HaSettings, Settings, apply_reload, check, diff, load};
use proptest::prelude::*;

/// `key = value` lines.
type Lines = Vec<(String, String)>;

/// A file in pieces, from which both forms can be written.
#[derive(Clone, Debug)]
struct Model {
    settings: Lines,
    databases: Vec<(String, Lines)>,
    users: Vec<(String, Lines)>,
    peers: Vec<(u16, Lines)>,
    /// Sections `[ha]` and `[virtual_routers]`, if this is a node of a pair.
    pair: Option<(Lines, Vec<(String, Lines)>)>,
}

/// Text for a value: anything in TOML, what an ini line can hold otherwise.
fn text(wild: bool) -> BoxedStrategy<String> {
    if wild { "[^\\x00]{1,12}".boxed() } else { "[a-zé0-9'\"#;=\\\\,]([a-z '=;#]{0,8}[a-z'])?".boxed() }
}

fn seconds() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..100_000u32).prop_map(|whole| whole.to_string()),
        (0..100u32, 0..1_000_000u32).prop_map(|(whole, micros)| format!("{whole}.{micros:06}")),
    ]
}

/// A value for each setting that may be set to any value without making the whole invalid.
fn setting(wild: bool) -> impl Strategy<Value = (String, String)> {
    let names: Vec<usize> = Settings::specs()
        .iter()
        .enumerate()
        .filter(|(_, spec)| {
            !matches!(
                spec.name,
                "client_tls_sslmode" | "client_tls_protocols" | "server_tls_protocols" | "unix_socket_dir"
            )
        })
        .map(|(index, _)| index)
        .collect();
    proptest::sample::select(names).prop_flat_map(move |index| {
        let spec = &Settings::specs()[index];
        let value = match spec.kind {
            Kind::Int | Kind::Mode => (spec.bounds.0..=spec.bounds.1).prop_map(|number| number.to_string()).boxed(),
            Kind::Bool => (0..2u8).prop_map(|on| on.to_string()).boxed(),
            Kind::Time => seconds().boxed(),
            Kind::Choice(words) => {
                let words: Vec<_> =
                    words.iter().filter(|word| !["cert", "hba", "ldap", "scram-sha-256-plus"].contains(word)).collect();
                proptest::sample::select(words).prop_map(|word| (*word).to_owned()).boxed()
            }
            Kind::List => "[a-z_]{0,5}(, ?[a-z_]{1,5}){0,3}".boxed(),
            Kind::Text | Kind::File => text(wild).prop_map(|text| text.replace("pgbouncer", "x")).boxed(),
        };
        value.prop_map(move |value| (spec.name.to_owned(), value))
    })
}

fn database_param(wild: bool) -> BoxedStrategy<(String, String)> {
    let texts = [
        "dbname",
        "user",
        "password",
        "auth_user",
        "auth_query",
        "auth_dbname",
        "connect_query",
        "timezone",
        "datestyle",
    ];
    let counts =
        ["pool_size", "min_pool_size", "reserve_pool", "max_db_connections", "server_lifetime", "query_wait_timeout"];
    prop_oneof![
        (proptest::sample::select(texts.to_vec()), text(wild)).prop_map(|(key, value)| (key.to_owned(), value)),
        (proptest::sample::select(counts.to_vec()), 0..1000u32)
            .prop_map(|(key, value)| (key.to_owned(), value.to_string())),
        (1..=u16::MAX).prop_map(|port| ("port".to_owned(), port.to_string())),
        "(/[a-z]{1,4}|@[a-z]{1,4}|[a-z]{1,4}|10\\.0\\.0\\.[1-9]|::[1-9a-f])(,[a-z]{1,4}){0,2}"
            .prop_map(|host| ("host".to_owned(), host)),
        proptest::sample::select(&["session", "Transaction", "statement"][..])
            .prop_map(|mode| ("pool_mode".to_owned(), mode.to_owned())),
        proptest::sample::select(&["disable", "round-robin"][..])
            .prop_map(|mode| ("load_balance_hosts".to_owned(), mode.to_owned())),
    ]
    .boxed()
}

fn user_param() -> BoxedStrategy<(String, String)> {
    let counts = [
        "pool_size",
        "reserve_pool_size",
        "max_user_connections",
        "max_user_client_connections",
        "query_timeout",
        "query_wait_timeout",
        "idle_transaction_timeout",
        "transaction_timeout",
        "client_idle_timeout",
    ];
    (proptest::sample::select(counts.to_vec()), 0..1000u32)
        .prop_map(|(key, value)| (key.to_owned(), value.to_string()))
        .boxed()
}

/// A sound value for a setting of `[ha]` that no other depends on.
fn ha_setting() -> impl Strategy<Value = (String, String)> {
    let fixed =
        ["address", "interface", "vrrp_version", "peer_address", "pair_listen_address", "pair_port", "node_name"];
    let names: Vec<usize> = HaSettings::specs()
        .iter()
        .enumerate()
        .filter(|(_, spec)| {
            !fixed.contains(&spec.name) && !spec.name.starts_with("pair_tls") && spec.name != "pair_secret_file"
        })
        .map(|(index, _)| index)
        .collect();
    proptest::sample::select(names).prop_flat_map(|index| {
        let spec = &HaSettings::specs()[index];
        let value = match (spec.name, spec.kind) {
            ("advertisement_interval_ms", _) => (1..=4095u32).prop_map(|step| (step * 10).to_string()).boxed(),
            ("notify_program" | "helper_socket", _) => "/[a-z ]{1,8}[a-z]".boxed(),
            ("notify_timeout" | "switchover_timeout", _) => (1..100u32).prop_map(|whole| whole.to_string()).boxed(),
            (_, Kind::Int) => (spec.bounds.0..=spec.bounds.1).prop_map(|number| number.to_string()).boxed(),
            (_, Kind::Bool) => (0..2u8).prop_map(|on| on.to_string()).boxed(),
            (_, Kind::Time) => seconds().boxed(),
            (_, Kind::Choice(words)) => proptest::sample::select(words).prop_map(|word| (*word).to_owned()).boxed(),
            (_, kind) => panic!("{} is a {kind:?}: what is a sound value for it?", spec.name),
        };
        value.prop_map(move |value| (spec.name.to_owned(), value))
    })
}

/// A sound pair: every virtual router has a number and addresses of its own.
fn pair() -> impl Strategy<Value = (Lines, Vec<(String, Lines)>)> {
    let line = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let param = prop_oneof![
        (1..=255u8).prop_map(|number| ("priority".to_owned(), number.to_string())),
        (1..=4095u32).prop_map(|step| ("advertisement_interval_ms".to_owned(), (step * 10).to_string())),
        (0..2u8).prop_map(|on| ("preempt".to_owned(), on.to_string())),
        seconds().prop_map(|time| ("preempt_delay".to_owned(), time)),
        (0..2u8).prop_map(|on| ("virtual_mac".to_owned(), on.to_string())),
        "[a-z0-9.]{3,15}".prop_map(|name| ("interface".to_owned(), name)),
    ];
    let routers = prop::collection::vec((0..3u8, prop::collection::vec(param, 0..4)), 1..4);
    let link = prop_oneof![
        Just(vec![line("pair_secret_file", "s")]),
        Just(vec![line("pair_tls_cert_file", "c"), line("pair_tls_key_file", "k"), line("pair_tls_ca_file", "a")]),
    ];
    (prop::collection::vec(ha_setting(), 0..8), link, routers, "[a-z0-9-]{1,9}", any::<bool>()).prop_map(
        move |(mut settings, link, routers, node, shortcut)| {
            settings.splice(0..0, link);
            settings.extend([
                line("interface", "eth0"),
                line("peer_address", "10.9.0.2,fd00::2"),
                line("node_name", &node),
            ]);
            // With an address of its own, `[ha]` needs a number, and else must have none.
            settings.retain(|(key, _)| key != "virtual_router_id");
            if shortcut {
                settings.extend([line("address", "192.0.2.1"), line("virtual_router_id", "200")]);
            }
            let router = |(at, (families, params)): (usize, (u8, Lines))| {
                let (v4, v6) = (format!("192.0.2.{}", at + 10), format!("2001:db8::{}", at + 10));
                let address = [v4.clone(), v6.clone(), format!("{v4},{v6}")][usize::from(families)].clone();
                let mut lines = vec![("address".to_owned(), address)];
                lines.push(("virtual_router_id".to_owned(), (at + 1).to_string()));
                lines.extend(params);
                (format!("r{at}"), unique(lines))
            };
            (unique(settings), routers.into_iter().enumerate().map(router).collect())
        },
    )
}

/// The same key at most once: TOML wants it.
fn unique(lines: Lines) -> Lines {
    let mut seen = std::collections::BTreeSet::new();
    lines.into_iter().filter(|(key, _)| seen.insert(key.clone())).collect()
}

fn model(wild: bool) -> impl Strategy<Value = Model> {
    let name = if wild { "[^\\x00]{1,6}" } else { "[a-zé *\"]{1,6}" };
    let lines = |param: BoxedStrategy<(String, String)>| prop::collection::vec(param, 0..6).prop_map(unique);
    let entries = move |param: BoxedStrategy<(String, String)>| {
        prop::collection::btree_map(name, lines(param), 0..4).prop_map(|map| map.into_iter().collect::<Vec<_>>())
    };
    let peer =
        prop::collection::btree_map(1..=u16::MAX, "[a-z]{1,4}".prop_map(|host| vec![("host".to_owned(), host)]), 0..3);
    (
        prop::collection::vec(setting(wild), 0..12).prop_map(unique),
        entries(database_param(wild)),
        entries(user_param()),
        peer.prop_map(|map| map.into_iter().collect()),
        prop::option::of(pair()),
    )
        .prop_map(|(mut settings, databases, users, peers, pair)| {
            // It must not be the port of the pair.
            settings.retain(|(key, _)| pair.is_none() || key != "listen_port");
            Model { settings, databases, users, peers, pair }
        })
}

impl Model {
    fn ini(&self) -> String {
        let entry = |(name, lines): &(String, Lines)| {
            let pairs: Vec<_> =
                lines.iter().map(|(key, value)| format!("{key}='{}'", value.replace('\'', "''"))).collect();
            format!("'{name}' = {}\n", pairs.join(" "))
        };
        let mut text = "[databases]\n".to_owned();
        text.extend(self.databases.iter().map(entry));
        text.push_str("[users]\n");
        text.extend(self.users.iter().map(entry));
        text.push_str("[peers]\n");
        text.extend(self.peers.iter().map(|(id, lines)| entry(&(id.to_string(), lines.clone()))));
        if let Some((settings, routers)) = &self.pair {
            text.push_str("[ha]\n");
            text.extend(settings.iter().map(|(key, value)| format!("{key} = {value}\n")));
            text.push_str("[virtual_routers]\n");
            text.extend(routers.iter().map(entry));
        }
        text.push_str("[pgbouncer]\n");
        text.extend(self.settings.iter().map(|(key, value)| format!("{key} = {value}\n")));
        text
    }

    fn toml(&self) -> String {
        let lines = |lines: &Lines| -> toml::Table {
            lines.iter().map(|(key, value)| (key.clone(), toml::Value::String(value.clone()))).collect()
        };
        let entries = |entries: &Vec<(String, Lines)>| -> toml::Table {
            entries.iter().map(|(name, entry)| (name.clone(), lines(entry).into())).collect()
        };
        let peers: Vec<_> = self.peers.iter().map(|(id, lines)| (id.to_string(), lines.clone())).collect();
        let mut root = toml::Table::new();
        root.insert("pgtandem".into(), lines(&self.settings).into());
        root.insert("databases".into(), entries(&self.databases).into());
        root.insert("users".into(), entries(&self.users).into());
        root.insert("peers".into(), entries(&peers).into());
        if let Some((settings, routers)) = &self.pair {
            root.insert("ha".into(), lines(settings).into());
            root.insert("virtual_routers".into(), entries(routers).into());
        }
        root.to_string()
    }
}

fn read(name: &str, text: &str) -> Config {
    match load(Path::new(name), &mut |_| Ok(text.as_bytes().to_vec())) {
        Ok((config, _)) => config,
        Err(problems) => panic!("{problems:#?}\n{text}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn printing_and_reading_is_the_identity(model in model(true)) {
        let config = read("a.toml", &model.toml());
        let printed = to_toml(&config);
        prop_assert_eq!(&read("b.toml", &printed), &config, "{}", printed);
        prop_assert!(diff(&config, &config).is_empty());
    }

    #[test]
    fn both_forms_mean_the_same(model in model(false)) {
        let ini = read("a.ini", &model.ini());
        let toml = read("a.toml", &model.toml());
        prop_assert_eq!(&ini, &toml);
        prop_assert_eq!(&read("b.toml", &to_toml(&ini)), &ini);
    }

    #[test]
    fn a_reload_settles(one in model(false), two in model(false)) {
        let (old, new) = (read("a.ini", &one.ini()), read("a.ini", &two.ini()));
        let running = apply_reload(&old, &new);
        prop_assert!(diff(&running, &new).applied().next().is_none());
        prop_assert_eq!(&apply_reload(&running, &new), &running, "the same reload again changes nothing");
        prop_assert_eq!(diff(&old, &new).is_empty(), old == new);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        survive(&bytes);
    }

    #[test]
    fn no_text_that_looks_like_a_file_panics(
        pieces in prop::collection::vec(prop::sample::select(&[
            "[databases]", "[pgbouncer]", "[users]", "[peers]", "[pgtandem]", "[databases.x]", "[ha]", "[virtual_routers]", "[virtual_routers.x]",
            "[metrics]", "address", "192.0.2.1", "::1/64", "virtual_router_id", "peer_address", "interface", "\n", "\r\n", "=",
            " ", "\t", "'", "''", "\"", "%include ", "a.ini", "x", "*", "host", "port", "pool_size", "=1", "=-1", ";", "#",
            "listen_port", "0x", "99999999999999999999", "1e999", "é", "\0", "{", "}", "]", ",", ".", "auth_dbname",
            "\u{feff}", "'a'b", "unix_socket_mode=777",
        ][..]), 0..40)
    ) {
        survive(pieces.concat().as_bytes());
    }
}

/// Read the bytes as every kind of file.
fn survive(bytes: &[u8]) {
    for name in ["a.ini", "a.toml"] {
        let mut left = 20;
        let mut file = |_: &Path| {
            left -= 1;
            if left > 0 { Ok(bytes.to_vec()) } else { Err(io::Error::other("enough")) }
        };
        if let Ok((config, _)) = load(Path::new(name), &mut file) {
            assert_eq!(read("b.toml", &to_toml(&config)), config);
        }
        let _ = check(Path::new(name), &mut file, &mut check::inspect);
    }
    for role in [check::FileRole::Users, check::FileRole::Certificates, check::FileRole::PrivateKey] {
        let _ = check::inspect(role, bytes);
    }
}
