//! Every SHOW item against the columns of PgBouncer 1.25, and rows in text.

use super::*;
use crate::admin::show::{Cell, Type, table};

static UTC: TimeZone = TimeZone::UTC;

/// SHOW CLIENTS and SHOW SERVERS.
const SOCKET_COLUMNS: &str = "type text, user text, database text, replication text, state text, addr text, port int4, \
     local_addr text, local_port int4, connect_time text, request_time text, wait int4, wait_us int4, \
     close_needed int4, ptr text, link text, remote_pid int4, tls text, application_name text, \
     prepared_statements int4, id int4";

const COLUMNS: [(Item, &str); 20] = [
    (Item::Version, "version text"),
    (Item::State, "key text, value text"),
    (Item::Config, "key text, value text, default text, changeable text"),
    (
        Item::Databases,
        "name text, host text, port int4, database text, force_user text, pool_size int4, min_pool_size int4, \
         reserve_pool_size int4, server_lifetime int4, pool_mode text, load_balance_hosts text, \
         max_connections int4, current_connections int4, max_client_connections int4, \
         current_client_connections int4, paused int4, disabled int4, reserve_pool int4",
    ),
    (Item::Peers, "peer_id int4, host text, port int4, pool_size int4"),
    (
        Item::Pools,
        "database text, user text, cl_active int4, cl_waiting int4, cl_active_cancel_req int4, \
         cl_waiting_cancel_req int4, sv_active int4, sv_active_cancel int4, sv_being_canceled int4, sv_idle int4, \
         sv_used int4, sv_tested int4, sv_login int4, maxwait int4, maxwait_us int4, pool_mode text, \
         load_balance_hosts text",
    ),
    (
        Item::PeerPools,
        "peer_id int4, cl_active_cancel_req int4, cl_waiting_cancel_req int4, sv_active_cancel int4, sv_login int4",
    ),
    (Item::Clients, SOCKET_COLUMNS),
    (Item::Servers, SOCKET_COLUMNS),
    (Item::Totals, "name text, value numeric"),
    (
        Item::Users,
        "name text, pool_size text, reserve_pool_size text, pool_mode text, max_user_connections int4, \
         current_connections int4, max_user_client_connections int4, current_client_connections int4",
    ),
    (Item::Lists, "list text, items int4"),
    (Item::Mem, "name text, size int4, used int4, free int4, memtotal int4"),
    (Item::DnsHosts, "hostname text, ttl int8, addrs text"),
    (Item::DnsZones, "zonename text, serial int8, count int4"),
    (
        Item::Fds,
        "fd int4, task text, user text, database text, addr text, port int4, cancel int8, link int4, \
         client_encoding text, std_strings text, datestyle text, timezone text, password text, \
         scram_client_key bytea, scram_server_key bytea",
    ),
    (
        Item::Ha,
        "router text, interface text, family text, virtual_router_id int4, state text, since_time text, reason text, \
         priority int4, effective_priority int4, addresses text, active_address text, node text, fit text, fit_reason text, \
         maintenance text, peer text, peer_state text, peer_link text, peer_heard_ms_ago int8, interval_ms int4, \
         adverts_sent int8, adverts_received int8, discarded int8, last_discard text, hint text, drift text",
    ),
    (Item::HaHistory, "time text, router text, from text, to text, reason text, took_us int8"),
    (Item::HaLink, "path text, direction text, state text, heard_ms_ago int8, round_trip_us int8, error text"),
    (Item::Help, ""),
];

/// Name and type of columns that are all numeric but the first, which is `database text`.
const STATS: [(Item, &str); 3] = [
    (
        Item::Stats,
        "total_server_assignment_count total_xact_count total_query_count total_received total_sent total_xact_time \
         total_query_time total_wait_time total_client_parse_count total_server_parse_count total_bind_count \
         total_client_login_count avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent \
         avg_xact_time avg_query_time avg_wait_time avg_client_parse_count avg_server_parse_count avg_bind_count \
         avg_client_login_count total_requests",
    ),
    (
        Item::StatsTotals,
        "server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time \
         client_parse_count server_parse_count bind_count client_login_count",
    ),
    (
        Item::StatsAverages,
        "server_assignment_count xact_count query_count bytes_received bytes_sent xact_time query_time wait_time \
         avg_client_parse_count avg_server_parse_count avg_bind_count avg_client_login_count",
    ),
];

fn described(item: Item) -> String {
    let name = |ty| match ty {
        Type::Bytea => "bytea",
        Type::Int8 => "int8",
        Type::Int4 => "int4",
        Type::Text => "text",
        Type::Numeric => "numeric",
        Type::Float8 => "float8",
    };
    let columns: Vec<_> = item.columns().iter().map(|c| format!("{} {}", c.name, name(c.ty))).collect();
    columns.join(", ")
}

#[test]
fn columns_are_those_of_pgbouncer() {
    for (item, columns) in COLUMNS {
        assert_eq!(described(item), columns, "{item:?}");
    }
    for (item, names) in STATS {
        let numeric: Vec<_> = names.split_whitespace().map(|name| format!("{name} numeric")).collect();
        assert_eq!(described(item), format!("database text, {}", numeric.join(", ")));
    }
    let with_buffers = format!(
        "{SOCKET_COLUMNS}, recv_pos int4, pkt_pos int4, pkt_remain int4, send_pos int4, send_remain int4, \
         pkt_avail int4, send_avail int4"
    );
    assert_eq!(described(Item::Sockets), with_buffers);
    assert_eq!(described(Item::ActiveSockets), with_buffers);
    let oids = [Type::Bytea, Type::Int8, Type::Int4, Type::Text, Type::Numeric].map(|ty| (ty.oid(), ty.typlen()));
    assert_eq!(oids, [(17, -1), (20, 8), (23, 4), (25, -1), (1700, -1)]);
}

/// The rows of an item, cells joined by `|`.
fn rows(item: Item) -> Vec<String> {
    let snapshot = snapshot();
    let table = table(item, &snapshot, &UTC);
    let width = table.columns.len();
    let types: Vec<Type> = table.columns.iter().map(|c| c.ty).collect();
    let text = |(cell, ty): (Cell<'_>, &Type)| match (cell, ty) {
        (Cell::Null, _) => "NULL".to_owned(),
        (Cell::Text(text), Type::Text) => text.into_owned(),
        (Cell::Int(n), Type::Int4 | Type::Int8) => n.to_string(),
        (Cell::Numeric(n), Type::Numeric) => n.to_string(),
        (cell, ty) => panic!("{cell:?} in a {ty:?} column of {item:?}"),
    };
    let row = |row: Vec<Cell<'_>>| {
        assert_eq!(row.len(), width, "{item:?}");
        row.into_iter().zip(&types).map(text).collect::<Vec<_>>().join("|")
    };
    table.rows.map(row).collect()
}

#[test]
fn every_item_fills_its_columns() {
    for (_, item) in Item::ALL {
        assert_eq!(rows(item).is_empty(), item == Item::Help, "{item:?}");
    }
}

#[test]
fn small_tables() {
    assert_eq!(rows(Item::Version), ["PgBouncer 1.25.2"]);
    assert_eq!(rows(Item::State), ["active|no", "paused|yes", "suspended|no"]);
    assert_eq!(rows(Item::Config), ["verbose|0|NULL|yes"]);
    assert_eq!(rows(Item::Peers), ["2|/tmp|6432|20"]);
    assert_eq!(rows(Item::PeerPools), ["2|1|2|3|4"]);
    assert_eq!(rows(Item::Mem), ["iobuf_cache|4096|2|3|20480"]);
    assert_eq!(rows(Item::DnsHosts), ["db|15|10.0.0.1:0"]);
    assert_eq!(rows(Item::DnsZones), ["example.org|4294967295|2"]);
    let nulls = ["NULL"; 7].join("|");
    assert_eq!(rows(Item::Fds), [format!("6|pooler|NULL|NULL|127.0.0.1|6432|0|0|{nulls}")]);
    assert_eq!(rows(Item::Users), ["Ann|||NULL|1|2|3|4", "zoe|        7||session|1|2|3|4"]);
    let lists: Vec<String> = rows(Item::Lists);
    let names: Vec<&str> = lists.iter().map(|row| row.split('|').next().unwrap()).collect();
    let expected = "databases users peers pools peer_pools free_clients used_clients login_clients free_servers \
                    used_servers dns_names dns_zones dns_queries dns_pending";
    assert_eq!(names.join(" "), expected);
    assert_eq!((lists[0].as_str(), lists[13].as_str()), ("databases|3", "dns_pending|9"));
}

#[test]
fn the_pair() {
    let node = "a|yes||no|b";
    assert_eq!(
        rows(Item::Ha),
        [
            format!(
                "main|eth0|ipv4|51|active|2023-11-14 22:13:20 UTC|no advert for 301 ms|254|254|192.0.2.10,192.0.2.11|\
                 192.0.2.1|{node}|backup|up|40|100|1000|5000000000|1|TTL 254||pool_mode,max_db_connections"
            ),
            format!(
                "main/v6|eth0|ipv6|51|initialize|2023-11-14 22:13:20 UTC|no advert for 301 ms|254|254|\
                 192.0.2.10,192.0.2.11|NULL|{node}|not_configured|up|40|100|1000|5000000000|1|NULL|\
                 allow protocol 112 to ff02::12|pool_mode,max_db_connections"
            ),
        ]
    );
    assert_eq!(
        rows(Item::HaHistory),
        [
            "2023-11-14 22:13:20.000 UTC|main|initialize|backup|start|NULL",
            "2023-11-14 22:13:20.300 UTC|main|backup|active|start|812",
        ]
    );
    assert_eq!(rows(Item::HaLink), ["192.0.2.2:6433|out|up|40|350|NULL", "198.51.100.2:6433|||NULL|NULL|timed out"]);
}

#[test]
fn databases_and_pools_are_sorted() {
    let row = |name| format!("{name}|10.0.0.1,10.0.0.2|5432|{name}|NULL|20|0|5|3600|NULL|round-robin|50|1|0|2|0|1|5");
    assert_eq!(rows(Item::Databases), [row("crm"), row("shop")]);
    assert_eq!(
        rows(Item::Pools),
        [
            "pgbouncer|pgbouncer|1|0|0|0|0|0|0|0|0|0|0|1|500000|statement|NULL",
            "shop|ann|0|0|0|0|0|0|0|1|0|0|0|1|500000|transaction|NULL",
        ]
    );
}

#[test]
fn sockets_come_pool_by_pool_with_their_states() {
    let brief = |row: &String| {
        let cells: Vec<&str> = row.split('|').collect();
        [cells[0], cells[2], cells[4], cells[20]].join(" ")
    };
    let brief = |item| rows(item).iter().map(brief).collect::<Vec<_>>();
    assert_eq!(
        brief(Item::Clients),
        ["C crm waiting 6", "C pgbouncer idle 9", "C shop active 7", "C shop waiting_cancel_req 10"]
    );
    assert_eq!(brief(Item::Servers), ["S crm new 13", "S shop active 8", "S (nodb) active_cancel 12"]);
    assert_eq!(
        brief(Item::Sockets),
        [
            "C crm cl_waiting 6",
            "S crm sv_login 13",
            "C pgbouncer cl_active 9",
            "C shop cl_active 7",
            "S shop sv_active 8",
            "C shop cl_login 11",
        ]
    );
    let row = "C|ann|shop|none|cl_active|127.0.0.1|40000|127.0.0.1|6432|2023-11-14 22:13:20 UTC|\
               2023-11-14 22:13:21 UTC|2|3|0|0xabc7|0xabc8|0||psql|0|7|10|9|8|7|0|0|0";
    assert_eq!(rows(Item::ActiveSockets), [row]);
}

#[test]
fn times_follow_the_zone() {
    let snapshot = snapshot();
    let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let row = table(Item::Clients, &snapshot, &zone).rows.next().unwrap();
    assert_eq!(row[9], "2023-11-14 23:13:20 CET".into());
}

#[test]
fn statistics_add_up_rows_of_one_database() {
    let stats = rows(Item::Stats);
    assert_eq!(stats.len(), 2);
    assert!(stats[0].starts_with("crm|1|2|3|4|5|6|7|8|9|10|11|12|0|0"), "{}", stats[0]);
    let totals = "1100|1102|1104|1106|1108|1110|1112|1114|1116|1118|1120|1122";
    // 100 in 10 s each; 100 microseconds over 100 transactions.
    let averages = "10|10|10|10|10|1|1|1|10|10|10|10";
    assert_eq!(stats[1], format!("shop|{totals}|{averages}|1104"));
    assert_eq!(rows(Item::StatsTotals)[1], format!("shop|{totals}"));
    assert_eq!(rows(Item::StatsAverages)[1], format!("shop|{averages}"));
    let all = rows(Item::Totals);
    let names: Vec<&str> = all.iter().map(|row| row.split('|').next().unwrap()).collect();
    let name = "server_assignment_count xact_count query_count client_bytes server_bytes xact_time query_time \
                wait_time ps_client_parse_count ps_server_parse_count ps_bind_count client_login_count";
    let expected: Vec<String> = ["total_", "avg_"]
        .iter()
        .flat_map(|prefix| name.split_whitespace().map(move |name| format!("{prefix}{name}")))
        .collect();
    assert_eq!(names, expected);
    assert_eq!(
        (all[0].as_str(), all[12].as_str()),
        ("total_server_assignment_count|1101", "avg_server_assignment_count|10")
    );
}

#[test]
fn numbers_too_large_for_int4_are_capped_but_for_ids() {
    let mut snapshot = snapshot();
    snapshot.clients.truncate(2);
    snapshot.clients[1].id = 3_000_000_000;
    snapshot.clients[1].wait_us = u64::MAX;
    let row = table(Item::Clients, &snapshot, &UTC).rows.next().unwrap();
    assert_eq!(row[20], Cell::Int(3_000_000_000));
    assert_eq!(row[11], Cell::Int(i64::from(i32::MAX)));
}
