//! The parameters of `[databases]`, `[users]`, `[peers]` and `[virtual_routers]` entries: how each is read and printed. In the
//! first three, which are PgBouncer's, numbers are read as C's `atoi` reads them and times are whole seconds; a parameter of
//! `[virtual_routers]` is read as the setting of `[ha]` that it replaces.

use std::time::Duration;

use super::choice::{LoadBalanceHosts, PoolMode};
use super::ha::{AddressList, HaSettings, RouterEntry};
use super::model::{Database, HostSpec, Peer, User};
use super::settings::{ANY, Kind};
use super::value::{Caution, Scalar, Secret, Value};

/// One parameter of an entry of type `T`.
pub(super) struct Param<T: 'static> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Read the text; the error is the whole text of the finding.
    pub(super) set: fn(&mut T, &str) -> Result<Caution, String>,
    /// What to print; `None` = not given.
    pub(super) get: fn(&T) -> Option<Scalar>,
    /// Must servers be connected anew when it changes?
    pub(super) reconnects: bool,
}

/// An old name that is still read.
pub(super) const ALIASES: [(&str, &str); 1] = [("reserve_pool", "reserve_pool_size")];

/// The parameters of PgBouncer's sections of entries, by section.
pub(super) fn names() -> [(&'static str, Vec<&'static str>); 3] {
    fn of<T>(params: &'static [Param<T>]) -> Vec<&'static str> {
        params.iter().map(|param| param.name).collect()
    }
    [("databases", of(DATABASE)), ("users", of(USER)), ("peers", of(PEER))]
}

/// The row for a name, old names included.
pub(super) fn find<T>(params: &'static [Param<T>], name: &str) -> Option<&'static Param<T>> {
    let name = ALIASES.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| *new);
    params.iter().find(|param| param.name == name)
}

/// C's `atoi`, but text that is no number at all is refused, and text behind the number is reported.
fn atoi(name: &str, text: &str) -> Result<(i64, Caution), String> {
    let trimmed = text.trim_start_matches(|c: char| c.is_ascii_whitespace());
    let unsigned = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    let digits = unsigned.find(|c: char| !c.is_ascii_digit()).unwrap_or(unsigned.len());
    let end = trimmed.len() - unsigned.len() + digits;
    let (number, junk) = trimmed.split_at(end);
    let number: i64 = number.parse().map_err(|_| format!("invalid value \"{text}\" for parameter {name}"))?;
    if i32::try_from(number).is_err() {
        return Err(format!("invalid value \"{text}\" for parameter {name}: too large"));
    }
    Ok((number, (!junk.is_empty()).then(|| format!("{name}={text} counts as {number}"))))
}

/// A number that is passed on to the wider scope when negative.
fn count(name: &str, text: &str) -> Result<(Option<u32>, Caution), String> {
    let (number, caution) = atoi(name, text)?;
    Ok((u32::try_from(number).ok(), caution))
}

/// A limit that is passed on to the wider scope when 0 or negative.
fn limit(name: &str, text: &str) -> Result<(Option<u32>, Caution), String> {
    let (number, caution) = count(name, text)?;
    let zero =
        || (number == Some(0)).then(|| format!("{name}=0 means the value of the global setting, not \"no limit\""));
    Ok((number.filter(|limit| *limit > 0), caution.or_else(zero)))
}

/// Whole seconds where zero has a meaning.
fn seconds(name: &str, text: &str) -> Result<(Option<Duration>, Caution), String> {
    let (number, caution) = atoi(name, text)?;
    match u64::try_from(number) {
        Ok(seconds) => Ok((Some(Duration::from_secs(seconds)), caution)),
        Err(_) => Err(format!("invalid value \"{text}\" for parameter {name}: a time cannot be negative")),
    }
}

/// Whole seconds where zero passes the question on to the wider scope.
fn nonzero_seconds(name: &str, text: &str) -> Result<(Option<Duration>, Caution), String> {
    let (time, caution) = seconds(name, text)?;
    let zero = || (time == Some(Duration::ZERO)).then(|| format!("{name}=0 means the value of the global setting"));
    Ok((time.filter(|time| !time.is_zero()), caution.or_else(zero)))
}

fn text(_: &str, text: &str) -> Result<(Option<String>, Caution), String> {
    Ok((Some(text.to_owned()), None))
}

fn pool_mode(_: &str, text: &str) -> Result<(Option<PoolMode>, Caution), String> {
    PoolMode::from_word(text).map(|mode| (Some(mode), None)).ok_or_else(|| format!("invalid pool mode: {text}"))
}

fn port(text: &str) -> Result<(u16, Caution), String> {
    let bad = || format!("invalid port: {text}");
    let (number, caution) = atoi("port", text).map_err(|_| bad())?;
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok((port, caution)),
        _ => Err(bad()),
    }
}

/// A comma list of hosts.
fn hosts(text: &str) -> Result<(Vec<HostSpec>, Caution), String> {
    let mut caution = None;
    let mut hosts = Vec::new();
    for item in text.split(',') {
        let trimmed = item.trim();
        if trimmed.len() != item.len() {
            caution = Some(format!("host={text}: PgBouncer does not take blanks in a list of hosts"));
        }
        hosts.push(host(trimmed)?);
    }
    Ok((hosts, caution))
}

fn host(text: &str) -> Result<HostSpec, String> {
    if text.contains(',') {
        return Err(format!("invalid host: {text} (only one host can be given here)"));
    }
    HostSpec::parse(text).ok_or_else(|| match text {
        "" => "invalid host: a list of hosts must not have empty places".to_owned(),
        _ => format!("invalid host: {text} has a colon but is not an IPv6 address (ports belong in port=)"),
    })
}

/// `param!(Type, field, kind, reader, value -> scalar)`: a parameter kept as an `Option` in the field of the same name.
macro_rules! param {
    ($type:ty, $name:ident, $kind:expr, $read:expr, $print:expr $(, $reconnects:literal)?) => {
        Param::<$type> {
            name: stringify!($name),
            kind: $kind,
            set: |entry, text| {
                let (value, caution) = $read(stringify!($name), text)?;
                entry.$name = value;
                Ok(caution)
            },
            get: |entry| entry.$name.clone().map($print),
            reconnects: false $(|| $reconnects)?,
        }
    };
}

fn int(number: u32) -> Scalar {
    Scalar::Int(u64::from(number))
}

fn mode(mode: PoolMode) -> Scalar {
    Scalar::Text(mode.as_str().to_owned())
}

/// The parameters of `[databases]`.
pub(super) static DATABASE: &[Param<Database>] = &[
    Param {
        name: "host",
        kind: Kind::List,
        set: |database, value| {
            let (hosts, caution) = hosts(value)?;
            database.hosts = hosts;
            Ok(caution)
        },
        get: |database| {
            let items: Vec<_> = database.hosts.iter().map(HostSpec::to_string).collect();
            let text = database.host_text()?;
            Some(if items.len() == 1 { Scalar::Text(text) } else { Scalar::List(items, text) })
        },
        reconnects: true,
    },
    Param {
        name: "port",
        kind: Kind::Int,
        set: |database, value| {
            let (port, caution) = port(value)?;
            database.port = port;
            Ok(caution)
        },
        get: |database| (database.port != super::model::DEFAULT_SERVER_PORT).then(|| int(u32::from(database.port))),
        reconnects: true,
    },
    param!(Database, dbname, Kind::Text, text, Scalar::Text, true),
    param!(Database, user, Kind::Text, text, Scalar::Text, true),
    Param {
        name: "password",
        kind: Kind::Text,
        set: |database, value| {
            database.password = Some(Secret::new(value));
            Ok(None)
        },
        get: |database| database.password.as_ref().map(|secret| Scalar::Text(secret.expose().to_owned())),
        reconnects: true,
    },
    param!(Database, auth_user, Kind::Text, text, Scalar::Text),
    param!(Database, auth_query, Kind::Text, text, Scalar::Text, true),
    param!(Database, auth_dbname, Kind::Text, text, Scalar::Text, true),
    param!(Database, pool_size, Kind::Int, count, int),
    param!(Database, min_pool_size, Kind::Int, count, int),
    param!(Database, reserve_pool_size, Kind::Int, count, int),
    param!(Database, connect_query, Kind::Text, text, Scalar::Text, true),
    param!(Database, pool_mode, Kind::Choice(PoolMode::WORDS), pool_mode, mode),
    param!(Database, query_wait_timeout, Kind::Time, seconds, Scalar::Time),
    Param {
        name: "load_balance_hosts",
        kind: Kind::Choice(LoadBalanceHosts::WORDS),
        set: |database, value| {
            let found = LoadBalanceHosts::from_word(value);
            database.load_balance_hosts = found.ok_or_else(|| format!("invalid load_balance_hosts: {value}"))?;
            Ok(None)
        },
        get: |database| {
            let given = database.load_balance_hosts != LoadBalanceHosts::RoundRobin;
            given.then(|| Scalar::Text(database.load_balance_hosts.as_str().to_owned()))
        },
        reconnects: true,
    },
    param!(Database, max_db_connections, Kind::Int, limit, int),
    param!(Database, max_db_client_connections, Kind::Int, limit, int),
    param!(Database, server_lifetime, Kind::Time, nonzero_seconds, Scalar::Time),
    param!(Database, client_encoding, Kind::Text, text, Scalar::Text, true),
    param!(Database, datestyle, Kind::Text, text, Scalar::Text, true),
    param!(Database, timezone, Kind::Text, text, Scalar::Text, true),
    param!(Database, application_name, Kind::Text, text, Scalar::Text, true),
];

/// The parameters of `[users]`.
pub(super) static USER: &[Param<User>] = &[
    param!(User, pool_mode, Kind::Choice(PoolMode::WORDS), pool_mode, mode),
    param!(User, pool_size, Kind::Int, count, int),
    param!(User, reserve_pool_size, Kind::Int, count, int),
    param!(User, max_user_connections, Kind::Int, limit, int),
    param!(User, max_user_client_connections, Kind::Int, limit, int),
    param!(User, query_timeout, Kind::Time, nonzero_seconds, Scalar::Time),
    param!(User, query_wait_timeout, Kind::Time, seconds, Scalar::Time),
    param!(User, idle_transaction_timeout, Kind::Time, nonzero_seconds, Scalar::Time),
    param!(User, transaction_timeout, Kind::Time, nonzero_seconds, Scalar::Time),
    param!(User, client_idle_timeout, Kind::Time, nonzero_seconds, Scalar::Time),
];

/// A peer while it is read: the host may still be missing.
#[derive(Clone, Debug, Default)]
pub(super) struct PeerDraft {
    pub(super) host: Option<HostSpec>,
    pub(super) port: Option<u16>,
    pub(super) pool_size: Option<u32>,
}

impl From<&Peer> for PeerDraft {
    fn from(peer: &Peer) -> Self {
        let port = (peer.port != super::model::DEFAULT_PEER_PORT).then_some(peer.port);
        Self { host: Some(peer.host.clone()), port, pool_size: peer.pool_size }
    }
}

/// The parameters of `[peers]`.
pub(super) static PEER: &[Param<PeerDraft>] = &[
    Param {
        name: "host",
        kind: Kind::Text,
        set: |peer, value| {
            peer.host = Some(host(value)?);
            Ok(None)
        },
        get: |peer| peer.host.as_ref().map(|host| Scalar::Text(host.to_string())),
        reconnects: true,
    },
    Param {
        name: "port",
        kind: Kind::Int,
        set: |peer, value| {
            let (port, caution) = port(value)?;
            peer.port = Some(port);
            Ok(caution)
        },
        get: |peer| peer.port.map(|port| int(u32::from(port))),
        reconnects: true,
    },
    param!(PeerDraft, pool_size, Kind::Int, count, int),
];

/// A parameter of a virtual router, read as the setting of the same name in `[ha]`.
fn as_setting<T: Value>(name: &str, text: &str) -> Result<(Option<T>, Caution), String> {
    let bounds = HaSettings::spec(name).map_or(ANY, |spec| spec.bounds);
    match T::parse(text, bounds) {
        Ok((value, caution)) => Ok((Some(value), caution.map(|caution| format!("{name}: {caution}")))),
        Err(why) => Err(format!("invalid value \"{text}\" for parameter {name}: it wants {why}")),
    }
}

fn number(number: u8) -> Scalar {
    Scalar::Int(number.into())
}

/// An address list of one item may be written as plain text.
fn addresses(list: AddressList) -> Scalar {
    let items: Vec<_> = list.iter().map(|address| address.to_string()).collect();
    let text = items.join(",");
    if items.len() == 1 { Scalar::Text(text) } else { Scalar::List(items, text) }
}

/// The parameters of `[virtual_routers]`.
pub(super) static ROUTER: &[Param<RouterEntry>] = &[
    param!(RouterEntry, address, Kind::List, as_setting, addresses),
    param!(RouterEntry, interface, Kind::Text, as_setting, Scalar::Text),
    param!(RouterEntry, virtual_router_id, Kind::Int, as_setting, number),
    param!(RouterEntry, priority, Kind::Int, as_setting, number),
    param!(RouterEntry, advertisement_interval_ms, Kind::Int, as_setting, int),
    param!(RouterEntry, preempt, Kind::Bool, as_setting, Scalar::Bool),
    param!(RouterEntry, preempt_delay, Kind::Time, as_setting, Scalar::Time),
    param!(RouterEntry, vrrp_version, Kind::Int, as_setting, number),
    param!(RouterEntry, virtual_mac, Kind::Bool, as_setting, Scalar::Bool),
];
