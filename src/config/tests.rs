//! The table of settings, single values, SET and SHOW CONFIG.

use std::path::Path;
use std::time::Duration;

use super::settings::{Apply, Origin, SetDone, SetError, Settings, Status};
use super::value::{Scalar, format_g};
use super::*;

/// A setting's value as `SHOW CONFIG` prints it after a file gave it this text; `None` if the text is refused.
fn shown(name: &str, text: &str) -> Option<String> {
    let mut settings = Settings::default();
    settings.assign(name, text).ok()?;
    settings.get(name)
}

#[test]
fn show_config_has_the_rows_of_pgbouncer_first() {
    // As PgBouncer prints them, but for auth_query, whose default is the same query with every name qualified.
    let expected = include_str!("../../tests/data/config/show-config-defaults.txt");
    let rows = Settings::default().show_config("/etc/p.ini");
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let value = row.value.as_deref().unwrap_or("NULL");
            let changeable = if row.changeable { "yes" } else { "no" };
            format!("{}|{value}|{}|{changeable}", row.key, row.default.unwrap_or("NULL"))
        })
        .collect();
    let expected: Vec<&str> = expected.lines().collect();
    assert_eq!(expected.len(), 100);
    assert_eq!(lines[..100], expected[..]);
    let own = [
        "drain_grace|5|5|yes",
        "drain_spread|15|15|yes",
        "drain_timeout|45|45|yes",
        "handover_timeout|30|30|yes",
        "hide_unknown_users|0|0|yes",
        "log_format|pgbouncer|pgbouncer|no",
        "unknown_prepared_statement|disconnect|disconnect|yes",
        "worker_threads|0|0|no",
    ];
    assert_eq!(lines[100..], own);
}

#[test]
fn the_table_is_sound() {
    let mut names = std::collections::BTreeSet::new();
    for spec in Settings::specs() {
        assert!(names.insert(spec.name), "{} stands twice", spec.name);
        assert!(spec.help.ends_with('.') && spec.help.len() < 100, "{}", spec.name);
        let mut settings = Settings::default();
        if let Some(default) = spec.default {
            assert_eq!((spec.set)(&mut settings, default, spec.bounds), Ok(None), "default of {}", spec.name);
        }
        assert!(!settings.is_changed(spec), "{}", spec.name);
        if let Status::Later(missing) = spec.status {
            assert!(!missing.is_empty());
        }
    }
    assert!(Settings::specs().iter().skip(100).all(|spec| spec.origin == Origin::Pgtandem));
}

/// What PgBouncer itself shows for these texts (tried on the program); `None` = it refuses them.
#[test]
fn values_are_read_as_pgbouncer_reads_them() {
    let table: &[(&str, &str, Option<&str>)] = &[
        ("default_pool_size", "7", Some("7")),
        ("default_pool_size", "0x10", Some("16")),
        ("default_pool_size", "0X1f", Some("31")),
        ("default_pool_size", "010", Some("8")),
        ("default_pool_size", "+5", Some("5")),
        ("default_pool_size", "5x", None),
        ("default_pool_size", "", None),
        ("default_pool_size", "1e2", None),
        ("default_pool_size", "08", None),
        ("default_pool_size", "0x", None),
        ("default_pool_size", "--5", None),
        ("default_pool_size", "1 2", None),
        ("max_packet_size", "-1", Some("4294967295")),
        ("max_packet_size", "0xffffffff", Some("4294967295")),
        ("server_lifetime", "1.5", Some("1.5")),
        ("server_lifetime", ".5", Some("0.5")),
        ("server_lifetime", "5.", Some("5")),
        ("server_lifetime", "1e3", Some("1000")),
        ("server_lifetime", "0x10", Some("16")),
        ("server_lifetime", "-0", Some("0")),
        ("server_lifetime", "+2", Some("2")),
        ("server_lifetime", "0.0000015", Some("1e-06")),
        ("server_lifetime", "1234567.8", Some("1.23457e+06")),
        ("server_lifetime", "123456", Some("123456")),
        ("server_lifetime", "1e-7", Some("0")),
        ("server_lifetime", "-1", None),
        ("server_lifetime", "5s", None),
        ("server_lifetime", "", None),
        ("server_lifetime", ".", None),
        ("server_lifetime", "1e400", None),
        ("pool_mode", "SESSION", Some("session")),
        ("pool_mode", "Transaction", Some("transaction")),
        ("pool_mode", "tx", None),
        ("pool_mode", "", None),
        ("pool_mode", "'session'", None),
        ("log_connections", "00", Some("0")),
        ("log_connections", "on", None),
        ("admin_users", "a, b", Some("a, b")),
        ("admin_users", "a ; b # c", Some("a ; b # c")),
        ("unix_socket_mode", "0777", Some("511")),
        ("unix_socket_mode", "511", Some("511")),
        ("verbose", "1", Some("1")),
        ("auth_type", "MD5", Some("md5")),
        ("server_tls_sslmode", "Verify-Full", Some("verify-full")),
        ("auth_dbname", "pgbouncer", None),
        ("peer_id", "16383", Some("16383")),
        ("peer_id", "16384", None),
    ];
    for (name, text, expected) in table {
        assert_eq!(shown(name, text).as_deref(), *expected, "{name} = {text}");
    }
}

/// PgBouncer wraps these round or takes nonsense from them; here they are refused.
#[test]
fn nonsense_numbers_are_refused() {
    for (name, text) in [
        ("default_pool_size", "99999999999"),
        ("default_pool_size", "99999999999999999999"),
        ("default_pool_size", "999999999999999999999999999999999999999999999999"),
        ("max_packet_size", "5000000000"),
        ("max_packet_size", "-2"),
        ("server_lifetime", "inf"),
        ("server_lifetime", "nan"),
        ("server_lifetime", "1e30"),
        ("listen_port", "65536"),
        ("worker_threads", "1025"),
    ] {
        assert_eq!(shown(name, text), None, "{name} = {text}");
    }
}

#[test]
fn cautions_are_given() {
    let mut settings = Settings::default();
    for (name, text) in [
        ("default_pool_size", "-5"),
        ("log_connections", "2"),
        ("unix_socket_mode", "777"),
        ("syslog_facility", "bogus"),
    ] {
        assert!(matches!(settings.assign(name, text), Ok(Some(_))), "{name} = {text}");
    }
    assert_eq!(settings.default_pool_size, 0);
}

#[test]
fn numbers_print_as_percent_g() {
    for (number, text) in [
        (0.0, "0"),
        (0.5, "0.5"),
        (3600.0, "3600"),
        (100_000.0, "100000"),
        (1_000_000.0, "1e+06"),
        (123_456.7, "123457"),
        (999_999.5, "1e+06"),
        (0.0001, "0.0001"),
        (0.000_01, "1e-05"),
        (1.000_001, "1"),
        (9_223_372_036_854.0, "9.22337e+12"),
    ] {
        assert_eq!(format_g(number), text, "{number}");
    }
}

#[test]
fn set_ignores_boot_only_settings_and_suggests_names() {
    let mut settings = Settings::default();
    assert_eq!(settings.set("listen_port", "nonsense"), Ok(SetDone::BootOnly));
    assert_eq!(settings.listen_port, 6432);
    assert_eq!(settings.set("default_pool_size", "7"), Ok(SetDone::Changed(None)));
    assert_eq!(settings.default_pool_size, 7);
    assert!(matches!(settings.set("default_pool_size", "x"), Err(SetError::Value(_))));
    assert_eq!(settings.default_pool_size, 7);
    for (wrong, right) in [
        ("pool_size", "default_pool_size"),
        ("max_client_connections", "max_client_conn"),
        ("log_stat", "log_stats"),
        ("SERVER-LIFETIME", "server_lifetime"),
        ("servr_lifetime", "server_lifetime"),
    ] {
        let found = settings.set(wrong, "1");
        let Err(SetError::Unknown(candidate)) = found else { panic!("{wrong}: {found:?}") };
        if wrong != "pool_size" && wrong != "max_client_connections" {
            assert_eq!(candidate.as_deref(), Some(right), "{wrong}");
        }
    }
    assert_eq!(settings.set("xyzzy", "1"), Err(SetError::Unknown(None)));
}

#[test]
fn boot_only_is_what_pgbouncer_says() {
    let boot: Vec<_> =
        Settings::specs().iter().filter(|spec| spec.apply == Apply::Boot).map(|spec| spec.name).collect();
    let known = [
        "disable_pqexec",
        "job_name",
        "listen_addr",
        "listen_backlog",
        "listen_port",
        "pidfile",
        "pkt_buf",
        "resolv_conf",
        "so_reuseport",
        "track_extra_parameters",
        "unix_socket_dir",
        "unix_socket_group",
        "unix_socket_mode",
        "user",
        "log_format",
        "worker_threads",
    ];
    assert_eq!(boot, known);
}

#[test]
fn lists_are_split_and_searched() {
    let list = NameList::new(" a, b  c,,my user ,");
    assert_eq!(list.iter().collect::<Vec<_>>(), ["a", "b", "c", "my", "user"]);
    for name in ["a", "b", "c", "my user"] {
        assert!(list.contains(name), "{name}");
    }
    for name in ["", "d", "y user", "a, b  c,,my use"] {
        assert!(!list.contains(name), "{name}");
    }
    assert_eq!(NameList::new("a,b"), NameList::new(" a , b"));
    assert_eq!(NameList::new("a,b").text(), "a,b");
}

#[test]
fn secrets_stay_secret() {
    let ini =
        b"[databases]\nx = user=u password=hunter2\n[pgbouncer]\nauth_ldap_options = ldapbindpasswd=\"hunter2\"\n";
    let (config, problems) = load(Path::new("a.ini"), &mut |_| Ok(ini.to_vec())).unwrap();
    assert_eq!(config.databases["x"].password.as_ref().map(Secret::expose), Some("hunter2"));
    assert!(!format!("{config:?}{problems:?}").contains("hunter2"));
    let rows = config.settings.show_config("a.ini");
    assert!(!format!("{rows:?}").contains("hunter2"));
    assert!(!format!("{:?}", diff(&Config::default(), &config)).contains("hunter2"));
    let ini = b"[databases]\nx = user=u password=hunter2 bad\ny = password='hunter2\nz = password=hunter2 nosuch=1\n[pgbouncer]\n";
    let problems = load(Path::new("a.ini"), &mut |_| Ok(ini.to_vec())).unwrap_err();
    assert_eq!(problems.iter().filter(|problem| problem.severity == Severity::Error).count(), 3);
    assert!(!format!("{problems:?}").contains("hunter2"));
}

#[test]
fn times_are_exact() {
    let mut settings = Settings::default();
    settings.assign("query_timeout", "0.000003").unwrap();
    assert_eq!(settings.query_timeout, Duration::from_micros(3));
    assert_eq!(Scalar::Time(settings.query_timeout).show(), "3e-06");
}

#[test]
fn hosts_are_told_apart() {
    let table = [
        ("/tmp", Some(HostSpec::UnixDir("/tmp".into()))),
        ("@abs", Some(HostSpec::Abstract("abs".into()))),
        ("10.0.0.1", Some(HostSpec::Ipv4([10, 0, 0, 1].into()))),
        ("::1", Some(HostSpec::Ipv6("::1".parse().unwrap()))),
        ("db-1.example", Some(HostSpec::Name("db-1.example".into()))),
        ("127.1", Some(HostSpec::Name("127.1".into()))),
        ("db:5432", None),
        ("[::1]", None),
        ("", None),
    ];
    for (text, expected) in table {
        assert_eq!(HostSpec::parse(text), expected, "{text}");
        if let Some(host) = HostSpec::parse(text) {
            assert_eq!(host.to_string(), text);
        }
    }
}
