//! Properties of the configuration: printing and reading again is the identity, the two forms of file agree, no bytes panic.

use std::io;
use std::path::Path;

use pgtandem::config::print::to_toml;
use pgtandem::config::settings::Kind;
use pgtandem::config::{Config, Settings, apply_reload, check, diff, load};
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
                    words.iter().filter(|word| !["cert", "hba", "scram-sha-256-plus"].contains(word)).collect();
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
    )
        .prop_map(|(settings, databases, users, peers)| Model { settings, databases, users, peers })
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
            "[databases]", "[pgbouncer]", "[users]", "[peers]", "[pgtandem]", "[databases.x]", "[ha]", "\n", "\r\n", "=",
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
