//! `[ha]` and `[virtual_routers]` in both forms: what they mean, every complaint with its line, and what a reload changes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::super::check::{self, FileRole, input_files, pair_secret};
use super::super::diff::Effect;
use super::super::print::to_toml;
use super::super::settings::{Apply, Kind, Overrides, Settings};
use super::super::{Config, Problem, Severity, apply_reload, diff, load};
use super::*;

type Loaded = Result<(Config, Vec<Problem>), Vec<Problem>>;

fn load_files(files: &[(&str, &str)]) -> Loaded {
    let map: BTreeMap<PathBuf, Vec<u8>> =
        files.iter().map(|(name, text)| (name.into(), text.as_bytes().to_vec())).collect();
    load(Path::new(files[0].0), &mut |path| {
        map.get(path).cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "No such file or directory"))
    })
}

/// Four lines that are sound without a pair; what follows begins on line 5.
const MAIN: &str = "[pgbouncer]\nlisten_addr=*\nauth_type=trust\nauth_file=u\n";

fn ini(text: &str) -> Loaded {
    load_files(&[("a.ini", &format!("{MAIN}{text}"))])
}

fn toml(text: &str) -> Loaded {
    let main = "[pgtandem]\nlisten_addr=\"*\"\nauth_type=\"trust\"\nauth_file=\"u\"\n";
    load_files(&[("a.toml", &format!("{main}{text}"))])
}

#[track_caller]
fn pair(loaded: Loaded) -> Ha {
    match loaded {
        Ok((config, _)) => config.ha.expect("a pair"),
        Err(problems) => panic!("{problems:#?}"),
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A whole pair in few lines: `[ha]` stands on line 5.
const PAIR: &str =
    "[ha]\ninterface=eth0\naddress=192.0.2.10\nvirtual_router_id=51\npeer_address=192.0.2.2\npair_secret_file=s\n";

#[test]
fn the_table_is_sound() {
    let mut names: std::collections::BTreeSet<_> = Settings::specs().iter().map(|spec| spec.name).collect();
    for spec in HaSettings::specs() {
        assert!(names.insert(spec.name), "{} stands twice: places are found by name alone", spec.name);
        assert!(spec.help.ends_with('.') && spec.help.len() < 100, "{}", spec.name);
        let mut settings = HaSettings::default();
        if let Some(default) = spec.default {
            assert_eq!((spec.set)(&mut settings, default, spec.bounds), Ok(None), "default of {}", spec.name);
        }
        assert!(!settings.is_changed(spec), "{}", spec.name);
    }
    let of_routers: Vec<_> =
        HaSettings::specs().iter().filter(|spec| spec.overrides == Overrides::Router).map(|spec| spec.name).collect();
    let mut params: Vec<_> = super::super::params::ROUTER.iter().map(|param| param.name).collect();
    params.sort_unstable();
    let mut sorted = of_routers.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, params, "every parameter of a virtual router is read as the setting of its name");
}

/// `docs/settings.md` is written from the table.
#[test]
fn the_page_of_settings_has_every_row() {
    let page = include_str!("../../../docs/settings.md");
    for spec in HaSettings::specs() {
        let value = match spec.kind {
            Kind::Int => format!("number, {} to {}", spec.bounds.0, spec.bounds.1),
            Kind::Bool => "`0` or `1`".to_owned(),
            Kind::Time => "seconds".to_owned(),
            Kind::File => "file".to_owned(),
            Kind::List => "list".to_owned(),
            Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Kind::Text | Kind::Mode => "text".to_owned(),
        };
        let default = match spec.default {
            None => "(none)".to_owned(),
            Some("") => "(empty)".to_owned(),
            Some(text) => format!("`{text}`"),
        };
        let since = if spec.apply == Apply::Boot { "start" } else { "reload" };
        let also = if spec.overrides == Overrides::Router { "`[virtual_routers]`" } else { "" };
        let row = format!("| `{}` | {value} | {default} | {since} | {also} | works | {} |", spec.name, spec.help);
        assert!(page.lines().any(|line| line == row), "docs/settings.md lacks this row:\n{row}");
    }
}

#[test]
fn one_address_needs_no_entry() {
    let (config, problems) = ini(PAIR).unwrap();
    assert_eq!(problems, []);
    let ha = config.ha.unwrap();
    let router = VirtualRouter {
        name: "default".into(),
        entry: "default".into(),
        interface: "eth0".into(),
        vrid: 51,
        family: AddressFamily::V4,
        version: VrrpVersion::V3,
        addresses: addresses(&["192.0.2.10"]),
        priority: 254,
        interval: Duration::from_millis(100),
        preempt: false,
        preempt_delay: Duration::ZERO,
        virtual_mac: false,
        unicast_peers: Vec::new(),
    };
    assert_eq!(ha.routers, [router]);
    assert!(ha.has_peer() && ha.entries.is_empty());
    assert_eq!(ha.settings.helper_socket, "/run/pgtandem-helper/socket");
    assert_eq!(ini("").unwrap().0.ha, None);
}

#[test]
fn an_entry_of_both_families_is_two_routers() {
    let ha = pair(ini("[virtual_routers]\n\
         main = address=192.0.2.10,2001:db8::10 virtual_router_id=51 priority=200 interface=eth1\n\
         other = address='192.0.2.11, 192.0.2.12' virtual_router_id=52 preempt=1 preempt_delay=2.5 \
         advertisement_interval_ms=20 virtual_mac=1\n\
         old = address=192.0.2.13 virtual_router_id=53 vrrp_version=2 advertisement_interval_ms=2000\n\
         [ha]\ninterface=eth0\nadvertisement_interval_ms=1000\npeer_address=192.0.2.2 2001:db8::2\nunicast=1\n\
         pair_secret_file=s\n"));
    let shown: Vec<_> =
        ha.routers.iter().map(|r| (r.name.as_str(), r.entry.as_str(), r.interface.as_str(), r.vrid)).collect();
    assert_eq!(
        shown,
        [
            ("main", "main", "eth1", 51),
            ("main/v6", "main", "eth1", 51),
            ("old", "old", "eth0", 53),
            ("other", "other", "eth0", 52),
        ]
    );
    let [main, main_v6, old, other] = ha.routers.as_slice() else { panic!("{ha:#?}") };
    assert_eq!((main.family, main_v6.family), (AddressFamily::V4, AddressFamily::V6));
    assert_eq!(
        (&main.unicast_peers, &main_v6.unicast_peers),
        (&addresses(&["192.0.2.2"]), &addresses(&["2001:db8::2"]))
    );
    assert_eq!((main.priority, other.priority), (200, 254));
    assert_eq!((old.version, old.interval), (VrrpVersion::V2, Duration::from_secs(2)));
    assert_eq!((main.interval, other.interval), (Duration::from_secs(1), Duration::from_millis(20)));
    assert_eq!((other.preempt, other.preempt_delay, other.virtual_mac), (true, Duration::from_millis(2500), true));
    assert_eq!(other.addresses, addresses(&["192.0.2.11", "192.0.2.12"]));
    let named = |name: &str| ha.routers_named(name).map(|router| router.name.clone()).collect::<Vec<_>>();
    assert_eq!(named("main"), ["main", "main/v6"]);
    assert_eq!(named("main/v6"), ["main/v6"]);
    assert_eq!(named("nosuch"), Vec::<String>::new());
    assert_eq!(ha.addresses().count(), 5);
}

#[test]
fn both_forms_mean_the_same() {
    let from_ini =
        ini("[ha]\ninterface=eth0\naddress=192.0.2.10, 192.0.2.11\nvirtual_router_id=51\npeer_address=192.0.2.2\n\
         pair_secret_file=s\nservers_down_delay=0.5\nserver_budget=halves\nreset_clients_on_takeover=0\n\
         [virtual_routers]\nb = address=2001:db8::1 virtual_router_id=7 preempt=1\n");
    let from_toml = toml(
        "[ha]\ninterface = \"eth0\"\naddress = [\"192.0.2.10\", \"192.0.2.11\"]\nvirtual_router_id = 51\n\
         peer_address = \"192.0.2.2\"\npair_secret_file = \"s\"\nservers_down_delay = 0.5\nserver_budget = \"halves\"\n\
         reset_clients_on_takeover = false\n[virtual_routers.b]\naddress = [\"2001:db8::1\"]\nvirtual_router_id = 7\n\
         preempt = true\n",
    );
    let (one, other) = (from_ini.unwrap().0, from_toml.unwrap().0);
    assert_eq!(one, other);
    assert!(diff(&one, &other).is_empty());
    let printed = to_toml(&one);
    assert!(printed.contains("\n[ha]\n") && printed.contains("\n[virtual_routers.b]\n"), "{printed}");
    assert!(!printed.contains("pair_port"), "only what differs: {printed}");
    assert_eq!(load_files(&[("b.toml", &printed)]).unwrap().0, one, "{printed}");
}

#[test]
fn a_file_of_its_own_can_be_included() {
    let main = format!("[databases]\nx = host=h\n{MAIN}%include pgtandem-ha.ini\n");
    let (config, _) = load_files(&[("a.ini", &main), ("pgtandem-ha.ini", PAIR)]).unwrap();
    assert_eq!(config.ha.map(|ha| ha.routers.len()), Some(1));
    assert_eq!(config.settings.listen_addr.text(), "*");
    let broken = load_files(&[("a.ini", &main), ("pgtandem-ha.ini", "[ha]\n\npriorty=1\n")]).unwrap_err();
    assert_eq!((broken[0].file(), broken[0].line()), (Some("pgtandem-ha.ini"), Some(1)), "{broken:#?}");
    assert!(broken.iter().any(|problem| problem.line() == Some(3)), "{broken:#?}");
}

/// Is there a finding of this severity, on this line of `a.ini`, whose text and advice have these parts?
fn has(problems: &[Problem], severity: Severity, line: u32, text: &str, hint: &str) -> bool {
    problems.iter().any(|problem| {
        problem.severity == severity
            && problem.line() == Some(line)
            && problem.text.contains(text)
            && problem.hint.as_deref().unwrap_or_default().contains(hint)
    })
}

#[test]
fn errors_have_lines_and_advice() {
    // The settings come after PAIR, whose last line is 10: what follows begins on line 11.
    let after_pair: &[(&str, u32, &str, &str)] = &[
        ("nosuch=1\n", 11, "unknown parameter: ha/nosuch", ""),
        ("lease=1\n", 11, "unknown parameter: ha/lease", "`lease_ms`"),
        ("listen_port=1\n", 11, "unknown parameter: ha/listen_port", "section [pgbouncer]"),
        ("virtual_router_id=0\n", 11, "invalid value \"0\" for parameter virtual_router_id", "from 1 to 255"),
        ("virtual_router_id=256\n", 11, "invalid value \"256\" for parameter virtual_router_id", "from 1 to 255"),
        ("priority=0\n", 11, "invalid value \"0\" for parameter priority", "from 1 to 255"),
        ("advertisement_interval_ms=9\n", 11, "invalid value \"9\"", "from 10 to 40950"),
        ("advertisement_interval_ms=40960\n", 11, "invalid value \"40960\"", "from 10 to 40950"),
        ("advertisement_interval_ms=15\n", 11, "hundredths of a second", "=20"),
        ("vrrp_version=1\n", 11, "invalid value \"1\" for parameter vrrp_version", "from 2 to 3"),
        ("vrrp_version=2\n", 11, "whole seconds, and advertisement_interval_ms is 100", "=1000, or vrrp_version=3"),
        ("address=192.0.2.300\n", 11, "invalid value", "192.0.2.10 or 2001:db8::10, and 192.0.2.300 is none"),
        ("address=192.0.2.1/33\n", 11, "invalid value", "and 192.0.2.1/33 is none"),
        ("address=host.example\n", 11, "invalid value", "host.example is none"),
        ("address=224.0.0.18\n", 11, "invalid value", "single hosts"),
        ("address=0.0.0.0\n", 11, "invalid value", "single hosts"),
        ("address=127.0.0.1\n", 11, "127.0.0.1 exists on every machine", "network that your clients use"),
        ("address=192.0.2.10,192.0.2.10\n", 11, "192.0.2.10 is given twice", "remove"),
        ("interface=\n", 11, "it has no interface", "ip -brief link"),
        ("interface=a/b\n", 11, "no interface can have the name \"a/b\"", "ip -brief link"),
        ("interface=sixteen_bytes_xx\n", 11, "no interface can have the name", "15"),
        ("pair_secret_file=\n", 9, "pair_secret_file is not set", "openssl rand -hex 32"),
        (
            "pair_tls_cert_file=c\n",
            11,
            "needs all three files, and pair_tls_key_file, pair_tls_ca_file is missing",
            "CA",
        ),
        ("pair_tls_ca_file=c\n", 11, "needs all three files", "pair_secret_file"),
        ("pair_tls_cert_file=c\n", 10, "pair_secret_file and pair_tls_… are two ways", "leave one out"),
        ("pair_port=6432\n", 11, "pair_port and listen_port are both 6432", "another pair_port"),
        ("pair_port=0\n", 11, "invalid value \"0\" for parameter pair_port", "from 1 to 65535"),
        ("pair_listen_address=eth0\n", 11, "pair_listen_address: eth0 is no IP address", "own addresses"),
        ("pair_listen_address=192.0.2.10\n", 11, "pair_listen_address 192.0.2.10 is a floating address", "own address"),
        ("pair_listen_address=\n", 11, "the peer cannot reach this node", "`*`"),
        ("pair_listen_address=192.0.2.2\n", 9, "peer_address 192.0.2.2 is an address of this node", "other node's own"),
        ("peer_address=192.0.2.10\n", 11, "peer_address 192.0.2.10 is a floating address", "other node's own"),
        ("peer_address=192.0.2.2 192.0.2.2\n", 11, "peer_address 192.0.2.2 is given twice", "remove"),
        ("peer_address=\nunicast=1\n", 12, "unicast=1 without peer_address", "other node's own"),
        ("peer_address=2001:db8::2\nunicast=1\n", 11, "no peer_address is an ipv4 one", "of that family"),
        ("lease_ms=10001\n", 11, "invalid value \"10001\" for parameter lease_ms", "10000"),
        ("server_budget=half\n", 11, "invalid value \"half\"", "lend, halves, off"),
        ("listen=never\n", 11, "invalid value \"never\"", "always, active"),
        ("notify_program=notify.sh\n", 11, "notify_program notify.sh is not named by its whole path", "/"),
        ("notify_timeout=0\n", 11, "notify_timeout=0", "seconds"),
        ("switchover_timeout=0\n", 11, "switchover_timeout=0", "seconds"),
        ("node_name=a b\n", 11, "node_name does not do as a name", "one word"),
        (
            "[virtual_routers]\ndefault=address=192.0.2.20 virtual_router_id=1\n",
            12,
            "which makes a virtual router of this name",
            "another name",
        ),
        (
            "[virtual_routers]\nb=address=192.0.2.10 virtual_router_id=52\n",
            7,
            "192.0.2.10 is also an address of virtual router \"b\"",
            "remove",
        ),
        (
            "[virtual_routers]\nb=address=192.0.2.20 virtual_router_id=51\n",
            8,
            "virtual_router_id 51 on interface eth0 is also that of virtual router \"b\"",
            "another number",
        ),
        (
            "[virtual_routers]\nb=address=192.0.2.20\n",
            12,
            "virtual router \"b\": it has no virtual_router_id",
            "no other VRRP",
        ),
        (
            "[virtual_routers]\nb=virtual_router_id=52\n",
            12,
            "virtual router \"b\": it has no floating address",
            "address=",
        ),
        (
            "[virtual_routers]\nb=adress=192.0.2.20 virtual_router_id=52\n",
            12,
            "unrecognized parameter of a virtual router: adress",
            "`address`",
        ),
        (
            "[virtual_routers]\nb=pair_port=1\n",
            12,
            "unrecognized parameter of a virtual router: pair_port",
            "section [ha]",
        ),
        (
            "[virtual_routers]\nb=listen_port=1\n",
            12,
            "unrecognized parameter of a virtual router: listen_port",
            "section [pgbouncer]",
        ),
        (
            "[virtual_routers]\nb=address=x virtual_router_id=52\n",
            12,
            "invalid value \"x\" for parameter address: it wants IP addresses",
            "[virtual_routers] entry \"b\"",
        ),
        (
            "[virtual_routers]\nb=address=2001:db8::1 virtual_router_id=52 vrrp_version=2 advertisement_interval_ms=1000\n",
            12,
            "VRRP version 2 does not know IPv6",
            "vrrp_version=3",
        ),
        ("[virtual_routers]\nb/c=address=192.0.2.20 virtual_router_id=52\n", 12, "syntax error", "single quotes"),
        (
            "[virtual_routers]\n'b/c'=address=192.0.2.20 virtual_router_id=52\n",
            12,
            "virtual router \"b/c\": the name does not do",
            "letters",
        ),
        (
            "[virtual_routers]\nb=address=192.0.2.20, 192.0.2.21 virtual_router_id=52\n",
            12,
            "syntax error in parameters of \"b\"",
            "",
        ),
    ];
    for (text, line, what, hint) in after_pair {
        let problems = ini(&format!("{PAIR}{text}")).expect_err(text);
        assert!(has(&problems, Severity::Error, *line, what, hint), "{text}{problems:#?}");
    }
    let alone: &[(&str, u32, &str, &str)] = &[
        ("[ha]\n", 5, "[ha] has no floating address", "virtual_router_id=51"),
        ("[ha]\naddress=192.0.2.10\n", 6, "it has no interface", "interface=eth0"),
        ("[ha]\naddress=192.0.2.10\ninterface=eth0\n", 6, "it has no virtual_router_id", "both nodes"),
        ("[virtual_routers]\na=address=192.0.2.10\n", 6, "it has no interface", "interface=eth0"),
        ("[hab]\n", 5, "invalid section \"hab\"", "`ha`"),
    ];
    for (text, line, what, hint) in alone {
        let problems = ini(text).expect_err(text);
        assert!(has(&problems, Severity::Error, *line, what, hint), "{text}{problems:#?}");
    }
    let misplaced: &[(&str, u32, &str, &str)] = &[
        ("pair_secret_file=1\n", 5, "unknown parameter: pgbouncer/pair_secret_file", "section [ha]"),
        ("[databases]\nx=virtual_router_id=1\n", 6, "unrecognized connection parameter: virtual_router_id", ""),
    ];
    for (text, line, what, hint) in misplaced {
        let problems = ini(text).expect_err(text);
        assert!(has(&problems, Severity::Error, *line, what, hint), "{text}{problems:#?}");
    }
    let homeless = load_files(&[("a.ini", "interface=eth0\n[pgbouncer]\n")]).unwrap_err();
    assert!(has(&homeless, Severity::Error, 1, "value without section: interface", "section [ha]"), "{homeless:#?}");
}

#[test]
fn everything_is_reported_at_once_and_nothing_twice() {
    let problems =
        ini("[ha]\naddress=x\nvirtual_router_id=0\npeer_address=y\nunicast=1\nnosuch=1\n[virtual_routers]\n\
                        b=adress=1\nc=address=192.0.2.1 virtual_router_id=300\n")
        .unwrap_err();
    let lines: Vec<_> = problems.iter().map(|problem| problem.line().unwrap()).collect();
    assert_eq!(lines, [6, 7, 8, 10, 12, 13], "{problems:#?}");
}

#[test]
fn toml_errors_have_the_line_of_the_parameter() {
    let table: &[(&str, u32, &str, &str)] = &[
        ("[ha]\npriorty = 1\n", 6, "unknown parameter: ha/priorty", "`priority`"),
        ("[ha]\npriority = \"high\"\n", 6, "invalid value \"high\"", "whole number"),
        ("[ha]\npriority = true\n", 6, "invalid value for parameter priority", "not a TOML boolean"),
        ("[ha]\naddress = [1]\n", 6, "invalid value for parameter address", "a list of texts"),
        ("[ha]\nother = { a = 1 }\n", 6, "unknown parameter: ha/other", ""),
        ("ha = 1\n", 5, "unknown parameter: pgtandem/ha", ""),
        (
            "[virtual_routers]\na = \"x\"\n",
            6,
            "entry \"a\" of [virtual_routers] must be a table",
            "[virtual_routers.NAME]",
        ),
        (
            "[virtual_routers.a]\ninterface = \"eth0\"\naddress = [\"192.0.2.1\",\n\"192.0.2.1\"]\nvirtual_router_id = 1\n",
            7,
            "given twice",
            "",
        ),
        (
            "[virtual_routers.a]\ninterface = \"\"\naddress = \"192.0.2.1\"\nvirtual_router_id = 1\n",
            6,
            "no interface",
            "",
        ),
        ("[virtual_router.a]\n", 5, "invalid section \"virtual_router\"", "`virtual_routers`"),
    ];
    for (text, line, what, hint) in table {
        let problems = toml(text).expect_err(text);
        assert!(has(&problems, Severity::Error, *line, what, hint), "{text}{problems:#?}");
    }
}

#[test]
fn warnings() {
    let table: &[(&str, u32, &str)] = &[
        ("address=192.0.2.10/24\n", 11, "the prefix length in 192.0.2.10/24 is not used"),
        ("priority=255\n", 11, "priority 255 is that of the address's owner"),
        ("preempt_delay=3\n", 11, "preempt_delay does nothing without preempt"),
        ("lease_ms=1500\n", 11, "keeps the addresses for so long"),
        ("lease_ms=20\n", 11, "a busy machine"),
        ("pair_tls_peer_name=x\n", 11, "pair_tls_peer_name does nothing without certificates"),
        ("peer_address=\n", 11, "no peer_address: there is no pair link"),
        ("peer_address=\nserver_budget=lend\n", 12, "server_budget=lend needs a pair link"),
        (
            "[pgbouncer]\nlisten_addr=192.0.2.1,::\nauth_type=trust\nauth_file=u\n",
            12,
            "clients cannot reach the pooler at 192.0.2.10",
        ),
        (
            "[virtual_routers]\nb=address=192.0.2.20/24 virtual_router_id=1\n",
            12,
            "address: the prefix length in 192.0.2.20/24",
        ),
    ];
    for (text, line, what) in table {
        let (_, problems) = ini(&format!("{PAIR}{text}")).unwrap_or_else(|problems| panic!("{text}{problems:#?}"));
        let found = has(&problems, Severity::Warning, *line, what, "")
            || what.starts_with("no peer_address") && has(&problems, Severity::Warning, 5, what, "");
        assert!(found, "{text}{problems:#?}");
    }
    for sound in [
        "[pgbouncer]\nlisten_addr=192.0.2.10\nauth_type=trust\nauth_file=u\n",
        "[pgbouncer]\nlisten_addr=0.0.0.0\nauth_type=trust\nauth_file=u\n",
        "pair_secret_file=\npair_tls_cert_file=c\npair_tls_key_file=k\npair_tls_ca_file=a\npair_tls_peer_name=n\n",
        "preempt=1\npreempt_delay=3\n",
        "advertisement_interval_ms=40950\n",
        "vrrp_version=2\nadvertisement_interval_ms=3000\n",
        "[virtual_routers]\nb=address=2001:db8::1 virtual_router_id=51\nc=address=192.0.2.30 virtual_router_id=51 interface=eth1\n",
    ] {
        let (_, problems) = ini(&format!("{PAIR}{sound}")).unwrap_or_else(|problems| panic!("{sound}{problems:#?}"));
        let above = |problem: &&Problem| !problem.text.contains("header puts the settings above it");
        assert_eq!(problems.iter().filter(above).collect::<Vec<_>>(), Vec::<&Problem>::new(), "{sound}");
    }
}

#[test]
fn the_lease_follows_the_shortest_interval() {
    for (interval_ms, lease_ms, expected_ms) in [(10, 0, 100), (100, 0, 300), (1000, 0, 1000), (100, 250, 250)] {
        let ha = pair(ini(&format!(
            "{PAIR}advertisement_interval_ms={interval_ms}\nlease_ms={lease_ms}\n\
                                   [virtual_routers]\nb=address=192.0.2.20 virtual_router_id=1 advertisement_interval_ms=40000\n"
        )));
        assert_eq!(ha.lease(), Duration::from_millis(expected_ms));
    }
    assert_eq!(Ha::default().lease(), Duration::from_secs(1));
}

#[test]
fn a_reload_touches_only_what_changed() {
    let config = |text: &str| ini(&format!("{PAIR}{text}")).unwrap().0;
    let routers = "[virtual_routers]\nb=address=192.0.2.20 virtual_router_id=1 priority=100\n\
                   c=address=192.0.2.30 virtual_router_id=2\n";
    let old = config(routers);
    assert!(diff(&old, &config(&format!("{routers}[databases]\nx=host=h\n"))).ha == HaPlan::default());

    let new = config(
        "helper_socket=/x\nservers_down_delay=1\npriority=200\npeer_address=192.0.2.3\n\
         [virtual_routers]\nb=address=192.0.2.20 virtual_router_id=3 priority=100\nd=address=192.0.2.40 virtual_router_id=4\n",
    );
    let plan = diff(&old, &new);
    let effects: Vec<_> = plan.ha.settings.iter().map(|change| (change.name, change.effect)).collect();
    assert_eq!(
        effects,
        [
            ("priority", Effect::Applied),
            ("peer_address", Effect::Applied),
            ("servers_down_delay", Effect::Applied),
            ("helper_socket", Effect::NeedsRestart),
        ]
    );
    assert_eq!(plan.needing_restart().map(|change| change.name).collect::<Vec<_>>(), ["helper_socket"]);
    assert_eq!((plan.ha.routers_added.clone(), plan.ha.routers_removed.clone()), (vec!["d".into()], vec!["c".into()]));
    assert_eq!(
        plan.ha.routers_changed,
        [
            RouterChange { name: "b".into(), params: vec!["virtual_router_id"], anew: true },
            RouterChange { name: "default".into(), params: vec!["priority"], anew: false },
        ]
    );
    assert_eq!(plan.ha.entries_changed, ["b", "c", "d"]);
    let said = config(&routers.replace("priority=100", "priority=100 preempt=0"));
    let plan_of_nothing = HaPlan { entries_changed: vec!["b".into()], ..HaPlan::default() };
    assert_eq!(diff(&old, &said).ha, plan_of_nothing);
    assert!(plan.ha.link && plan.ha.touches_routers() && !plan.ha.switched);
    let running = apply_reload(&old, &new);
    let ha = running.ha.clone().unwrap();
    assert_eq!(ha.settings.helper_socket, "/run/pgtandem-helper/socket");
    assert_eq!(ha.routers, new.ha.clone().unwrap().routers);
    assert!(diff(&running, &new).applied().next().is_none());

    let without = ini("").unwrap().0;
    for (old, new) in [(&old, &without), (&without, &old)] {
        assert_eq!(diff(old, new).ha, HaPlan { switched: true, ..HaPlan::default() });
        assert!(!diff(old, new).is_empty());
        assert_eq!(apply_reload(old, new).ha, old.ha, "until a restart");
    }
}

#[test]
fn files_of_the_pair_are_checked() {
    let text = format!("{MAIN}{PAIR}");
    let mut files: Vec<(&str, &[u8])> = vec![("a.ini", text.as_bytes()), ("u", b""), ("s", b"short\n")];
    let check = |files: &[(&str, &[u8])]| {
        let mut read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| io::Error::other("missing"))
        };
        check::check(Path::new("a.ini"), &mut read, &mut check::inspect)
    };
    let problems = check(&files).problems;
    let shown: Vec<_> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        shown,
        [
            "pair_secret_file: a secret of 5 bytes is too short, it needs 16; make one with `openssl rand -hex 32` and copy it to \
          both nodes (s:1)"
        ]
    );
    files[2].1 = b"0123456789abcdef0123456789abcdef\n";
    let report = check(&files);
    assert_eq!(report.problems, []);
    let files: Vec<_> = input_files(&report.config.unwrap()).map(|file| (file.setting, file.role)).collect();
    assert_eq!(files, [("auth_file", FileRole::Users), ("pair_secret_file", FileRole::PairSecret)]);
}

#[test]
fn secrets_of_a_pair() {
    assert_eq!(pair_secret(b" 0123456789abcdef \r\n").unwrap(), b"0123456789abcdef");
    for bad in [&b""[..], b"0123456789abcde", b"                                ", &[b'x'; 64], &[b'x'; 5000]] {
        assert!(pair_secret(bad).is_err(), "{bad:?}");
    }
}
