//! SHOW DATABASES, POOLS, USERS and the other lists of one row per object.

use super::{Cell, Column, Row, bytea, gauge, int4, int8, text, yes_no};
use crate::snapshot::{
    DatabaseRow, DescriptorRow, DnsHostRow, DnsZoneRow, ListCounts, LoadBalanceHosts, MemoryRow, PoolMode, PoolRow,
    SettingRow, Snapshot, UserRow,
};

type Rows<'a> = Box<dyn Iterator<Item = Row<'a>> + 'a>;

pub(super) const CONFIG: &[Column] = &[text("key"), text("value"), text("default"), text("changeable")];

pub(super) const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    int4("port"),
    text("database"),
    text("force_user"),
    int4("pool_size"),
    int4("min_pool_size"),
    int4("reserve_pool_size"),
    int4("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int4("max_connections"),
    int4("current_connections"),
    int4("max_client_connections"),
    int4("current_client_connections"),
    int4("paused"),
    int4("disabled"),
    // The name of reserve_pool_size before PgBouncer 1.23, which exporters still ask for.
    int4("reserve_pool"),
];

pub(super) const DNS_HOSTS: &[Column] = &[text("hostname"), int8("ttl"), text("addrs")];

pub(super) const DNS_ZONES: &[Column] = &[text("zonename"), int8("serial"), int4("count")];

pub(super) const FDS: &[Column] = &[
    int4("fd"),
    text("task"),
    text("user"),
    text("database"),
    text("addr"),
    int4("port"),
    int8("cancel"),
    int4("link"),
    text("client_encoding"),
    text("std_strings"),
    text("datestyle"),
    text("timezone"),
    text("password"),
    bytea("scram_client_key"),
    bytea("scram_server_key"),
];

pub(super) const LISTS: &[Column] = &[text("list"), int4("items")];

pub(super) const MEM: &[Column] = &[text("name"), int4("size"), int4("used"), int4("free"), int4("memtotal")];

pub(super) const PEERS: &[Column] = &[int4("peer_id"), text("host"), int4("port"), int4("pool_size")];

pub(super) const PEER_POOLS: &[Column] = &[
    int4("peer_id"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active_cancel"),
    int4("sv_login"),
];

pub(super) const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    int4("cl_active"),
    int4("cl_waiting"),
    int4("cl_active_cancel_req"),
    int4("cl_waiting_cancel_req"),
    int4("sv_active"),
    int4("sv_active_cancel"),
    int4("sv_being_canceled"),
    int4("sv_idle"),
    int4("sv_used"),
    int4("sv_tested"),
    int4("sv_login"),
    int4("maxwait"),
    int4("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
];

pub(super) const USERS: &[Column] = &[
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int4("max_user_connections"),
    int4("current_connections"),
    int4("max_user_client_connections"),
    int4("current_client_connections"),
];

const MICROS_PER_SECOND: u64 = 1_000_000;

/// References to the rows, in the order of a key.
fn sorted_by<'a, T, K: Ord>(rows: &'a [T], key: impl Fn(&'a T) -> K) -> impl Iterator<Item = &'a T> {
    let mut rows: Vec<&T> = rows.iter().collect();
    rows.sort_by_key(|row| key(row));
    rows.into_iter()
}

pub(super) fn config(setting: &SettingRow) -> Row<'_> {
    vec![
        setting.key.as_str().into(),
        setting.value.as_deref().into(),
        setting.default.as_deref().into(),
        yes_no(setting.changeable),
    ]
}

pub(super) fn databases(snapshot: &Snapshot) -> Rows<'_> {
    Box::new(sorted_by(&snapshot.databases, |db| db.name.as_ref()).map(database))
}

fn database(db: &DatabaseRow) -> Row<'_> {
    vec![
        db.name.as_ref().into(),
        db.host.as_deref().into(),
        db.port.into(),
        db.dbname.as_str().into(),
        db.force_user.as_deref().into(),
        gauge(db.pool_size),
        gauge(db.min_pool_size),
        gauge(db.reserve_pool_size),
        gauge(db.server_lifetime_s),
        db.pool_mode.map(PoolMode::as_str).into(),
        db.load_balance_hosts.map(LoadBalanceHosts::as_str).into(),
        gauge(db.max_connections),
        gauge(db.current_connections),
        gauge(db.max_client_connections),
        gauge(db.current_client_connections),
        db.paused.into(),
        db.disabled.into(),
        gauge(db.reserve_pool_size),
    ]
}

pub(super) fn dns_host(host: &DnsHostRow) -> Row<'_> {
    vec![host.hostname.as_str().into(), host.ttl_s.into(), host.addrs.as_str().into()]
}

pub(super) fn dns_zone(zone: &DnsZoneRow) -> Row<'_> {
    vec![zone.zonename.as_str().into(), zone.serial.into(), gauge(zone.count)]
}

pub(super) fn descriptor(row: &DescriptorRow) -> Row<'_> {
    let mut cells = vec![
        gauge(row.fd),
        row.task.into(),
        row.user.as_deref().into(),
        row.database.as_deref().into(),
        row.addr.as_str().into(),
        row.port.into(),
        Cell::Int(0),
        gauge(row.link),
    ];
    cells.resize(FDS.len(), Cell::Null);
    cells
}

pub(super) fn lists<'a>(counts: &ListCounts) -> impl Iterator<Item = Row<'a>> + use<'a> {
    let rows = [
        ("databases", counts.databases),
        ("users", counts.users),
        ("peers", counts.peers),
        ("pools", counts.pools),
        ("peer_pools", counts.peer_pools),
        ("free_clients", counts.free_clients),
        ("used_clients", counts.used_clients),
        ("login_clients", counts.login_clients),
        ("free_servers", counts.free_servers),
        ("used_servers", counts.used_servers),
        ("dns_names", counts.dns_names),
        ("dns_zones", counts.dns_zones),
        ("dns_queries", counts.dns_queries),
        ("dns_pending", counts.dns_pending),
    ];
    rows.into_iter().map(|(name, items)| vec![name.into(), gauge(items)])
}

pub(super) fn memory(row: &MemoryRow) -> Row<'_> {
    let total_bytes = row.used.saturating_add(row.free).saturating_mul(row.size_bytes);
    vec![row.name.into(), gauge(row.size_bytes), gauge(row.used), gauge(row.free), gauge(total_bytes)]
}

pub(super) fn peers(snapshot: &Snapshot) -> Rows<'_> {
    Box::new(
        sorted_by(&snapshot.peers, |peer| peer.peer_id).map(|peer| {
            vec![gauge(peer.peer_id), peer.host.as_deref().into(), peer.port.into(), gauge(peer.pool_size)]
        }),
    )
}

pub(super) fn peer_pools(snapshot: &Snapshot) -> Rows<'_> {
    Box::new(sorted_by(&snapshot.peer_pools, |pool| pool.peer_id).map(|pool| {
        let counts =
            [pool.peer_id, pool.cl_active_cancel_req, pool.cl_waiting_cancel_req, pool.sv_active_cancel, pool.sv_login];
        counts.into_iter().map(gauge).collect()
    }))
}

pub(super) fn pools(snapshot: &Snapshot) -> Rows<'_> {
    Box::new(sorted_by(&snapshot.pools, |pool| (pool.database.as_ref(), pool.user.as_ref())).map(pool))
}

fn pool(pool: &PoolRow) -> Row<'_> {
    vec![
        pool.database.as_ref().into(),
        pool.user.as_ref().into(),
        gauge(pool.cl_active),
        gauge(pool.cl_waiting),
        gauge(pool.cl_active_cancel_req),
        gauge(pool.cl_waiting_cancel_req),
        gauge(pool.sv_active),
        gauge(pool.sv_active_cancel),
        gauge(pool.sv_being_canceled),
        gauge(pool.sv_idle),
        gauge(pool.sv_used),
        gauge(pool.sv_tested),
        gauge(pool.sv_login),
        gauge(pool.maxwait_us / MICROS_PER_SECOND),
        gauge(pool.maxwait_us % MICROS_PER_SECOND),
        pool.pool_mode.as_str().into(),
        pool.load_balance_hosts.map(LoadBalanceHosts::as_str).into(),
    ]
}

pub(super) fn users(snapshot: &Snapshot) -> Rows<'_> {
    Box::new(sorted_by(&snapshot.users, |user| user.name.as_ref()).map(user))
}

fn user(user: &UserRow) -> Row<'_> {
    // Text in PgBouncer, so that "not set" can be told from 0; right-aligned as there.
    let size = |n: Option<u32>| n.map_or_else(|| "".into(), |n| format!("{n:9}").into());
    vec![
        user.name.as_ref().into(),
        size(user.pool_size),
        size(user.reserve_pool_size),
        user.pool_mode.map(PoolMode::as_str).into(),
        gauge(user.max_user_connections),
        gauge(user.current_connections),
        gauge(user.max_user_client_connections),
        gauge(user.current_client_connections),
    ]
}
