//! The console seen from outside: bytes in, bytes out.

mod console;
mod docs;
mod driver;
mod grammar;
mod show;
mod sql;

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use jiff::tz::TimeZone;
use pgwire::messages::{DecodeContext, PgWireBackendMessage, ProtocolVersion};

use super::*;
use crate::snapshot::*;

fn context() -> DecodeContext {
    let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
    context.awaiting_frontend_ssl = false;
    context.awaiting_frontend_startup = false;
    context
}

/// Decodes answers with pgwire's decoder; every byte must be understood.
fn decode(reply: &BytesMut) -> Vec<PgWireBackendMessage> {
    let mut rest = reply.clone();
    let mut out = Vec::new();
    while !rest.is_empty() {
        let message = PgWireBackendMessage::decode(&mut rest, &context()).unwrap();
        out.push(message.expect("a whole message"));
    }
    out
}

/// One line per message: easy to compare.
fn lines(reply: &BytesMut) -> Vec<String> {
    decode(reply).iter().map(line).collect()
}

fn line(message: &PgWireBackendMessage) -> String {
    use PgWireBackendMessage as M;
    let fields = |fields: &[(u8, String)]| {
        let field = |code| fields.iter().find(|(c, _)| *c == code).map_or("", |(_, text)| text.as_str());
        format!("{} {} {}", field(b'S'), field(b'C'), field(b'M'))
    };
    match message {
        M::ParseComplete(_) => "ParseComplete".into(),
        M::BindComplete(_) => "BindComplete".into(),
        M::CloseComplete(_) => "CloseComplete".into(),
        M::PortalSuspended(_) => "PortalSuspended".into(),
        M::EmptyQueryResponse(_) => "Empty".into(),
        M::NoData(_) => "NoData".into(),
        M::CommandComplete(complete) => format!("Complete {}", complete.tag),
        M::ReadyForQuery(ready) => format!("Ready {}", char::from(ready.status as u8)),
        M::ErrorResponse(error) => fields(&error.fields),
        M::NoticeResponse(notice) => fields(&notice.fields),
        M::ParameterDescription(params) => format!("Params {:?}", params.types),
        M::ParameterStatus(status) => format!("Status {}={}", status.name, status.value),
        M::RowDescription(row) => {
            let names: Vec<_> = row.fields.iter().map(|f| format!("{}:{}", f.name, f.type_id)).collect();
            format!("Columns {}", names.join(" "))
        }
        M::DataRow(row) => format!("Row {}", text_row(&row.data).join("|")),
        other => panic!("not a console's message: {other:?}"),
    }
}

fn text_row(mut data: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk::<4>() {
        let len = i32::from_be_bytes(*len);
        let (value, rest) = rest.split_at(usize::try_from(len).unwrap_or(0));
        out.push(if len < 0 { "NULL".into() } else { String::from_utf8(value.to_vec()).unwrap() });
        data = rest;
    }
    out
}

fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn console(rights: Rights) -> Console {
    Console::new(rights, TimeZone::UTC)
}

fn simple(console: &mut Console, query: &str) -> Turn {
    console.on_frame(b'Q', &cstr(query))
}

fn counters(start: u64) -> Counters {
    let mut n = start..;
    let mut next = || n.next().unwrap();
    Counters {
        server_assignments: next(),
        xacts: next(),
        queries: next(),
        received_bytes: next(),
        sent_bytes: next(),
        xact_time_us: next(),
        query_time_us: next(),
        wait_time_us: next(),
        client_parses: next(),
        server_parses: next(),
        binds: next(),
        client_logins: next(),
    }
}

fn socket(state: SocketState, database: &str, id: u64) -> SocketRow {
    SocketRow {
        state,
        user: Some("ann".into()),
        database: Some(database.into()),
        replication: Replication::None,
        addr: "127.0.0.1".into(),
        port: 40_000,
        local_addr: "127.0.0.1".into(),
        local_port: 6432,
        connect_time_us: 1_700_000_000_000_000,
        request_time_us: 1_700_000_001_999_999,
        wait_us: 2_000_003,
        close_needed: false,
        ptr: 0xabc0 + id,
        link: None,
        remote_pid: 0,
        tls: "".into(),
        application_name: "psql".into(),
        prepared_statements: 0,
        id,
        buffer: BufferMarks::default(),
    }
}

fn pool(database: &str, user: &str, sv_idle: u32, pool_mode: PoolMode) -> PoolRow {
    PoolRow {
        database: database.into(),
        user: user.into(),
        cl_active: u32::from(database == CONSOLE_NAME),
        cl_waiting: 0,
        cl_active_cancel_req: 0,
        cl_waiting_cancel_req: 0,
        sv_active: 0,
        sv_active_cancel: 0,
        sv_being_canceled: 0,
        sv_idle,
        sv_used: 0,
        sv_tested: 0,
        sv_login: 0,
        maxwait_us: 1_500_000,
        pool_mode,
        load_balance_hosts: None,
    }
}

fn database(name: &str) -> DatabaseRow {
    DatabaseRow {
        name: name.into(),
        host: Some("10.0.0.1,10.0.0.2".into()),
        port: 5432,
        dbname: name.to_owned(),
        force_user: None,
        pool_size: 20,
        min_pool_size: 0,
        reserve_pool_size: 5,
        server_lifetime_s: 3600,
        pool_mode: None,
        load_balance_hosts: Some(LoadBalanceHosts::RoundRobin),
        max_connections: 50,
        current_connections: 1,
        max_client_connections: 0,
        current_client_connections: 2,
        paused: false,
        disabled: true,
    }
}

/// A bit of everything.
fn snapshot() -> Snapshot {
    let client = |state, db, id| socket(SocketState::Client(state), db, id);
    let server = |state, db, id| socket(SocketState::Server(state), db, id);
    let mut busy = client(ClientState::Active, "shop", 7);
    busy.link = Some(0xabc8);
    busy.buffer = BufferMarks { recv_pos: 10, pkt_pos: 9, pkt_remain: 8, send_pos: 7, ..BufferMarks::default() };
    let mut partner = server(ServerState::Active, "shop", 8);
    partner.link = Some(0xabc7);
    let peer = SocketRow { user: None, database: None, ..server(ServerState::ActiveCancel, "", 12) };
    Snapshot {
        version: "PgBouncer 1.25.2".into(),
        activity: Activity::Paused,
        databases: vec![database("shop"), database("crm")],
        pools: vec![
            pool("shop", "ann", 1, PoolMode::Transaction),
            pool(CONSOLE_NAME, CONSOLE_NAME, 0, PoolMode::Statement),
        ],
        clients: vec![
            client(ClientState::Login, "shop", 11),
            busy,
            client(ClientState::Active, CONSOLE_NAME, 9),
            client(ClientState::WaitingCancelReq, "shop", 10),
            client(ClientState::Waiting, "crm", 6),
        ],
        servers: vec![peer, partner, server(ServerState::New, "crm", 13)],
        stats: vec![
            StatsRow { database: "shop".into(), now: counters(100), last: counters(100), before: counters(0) },
            StatsRow { database: "crm".into(), now: counters(1), last: counters(1), before: counters(1) },
            StatsRow { database: "shop".into(), now: counters(1000), last: counters(1000), before: counters(1000) },
        ],
        stats_span_us: 10_000_000,
        users: vec![user("zoe", Some(7)), user("Ann", None)],
        lists: ListCounts { databases: 3, dns_pending: 9, ..ListCounts::default() },
        memory: vec![MemoryRow { name: "iobuf_cache", size_bytes: 4096, used: 2, free: 3 }],
        dns_hosts: vec![DnsHostRow { hostname: "db".into(), ttl_s: 15, addrs: "10.0.0.1:0".into() }],
        dns_zones: vec![DnsZoneRow { zonename: "example.org".into(), serial: u32::MAX, count: 2 }],
        peers: vec![PeerRow { peer_id: 2, host: Some("/tmp".into()), port: 6432, pool_size: 20 }],
        peer_pools: vec![PeerPoolRow {
            peer_id: 2,
            cl_active_cancel_req: 1,
            cl_waiting_cancel_req: 2,
            sv_active_cancel: 3,
            sv_login: 4,
        }],
        settings: vec![SettingRow { key: "verbose".into(), value: Some("0".into()), default: None, changeable: true }],
        descriptors: vec![DescriptorRow {
            fd: 6,
            task: "pooler",
            user: None,
            database: None,
            addr: "127.0.0.1".into(),
            port: 6432,
            link: 0,
        }],
        ha: Some(pair()),
        why: vec![WhyRow {
            client: 5,
            database: "crm".into(),
            user: "ann".into(),
            addr: "127.0.0.1".into(),
            port: 40_000,
            application_name: "psql".into(),
            since_us: 1_700_000_000_000_000,
            wait_us: 1_500_000,
            ahead: 0,
            in_login: false,
            cause: WhyCause::DatabasePaused,
        }],
    }
}

/// Two virtual routers, the second of which the peer does not know.
fn pair() -> HaPicture {
    let main = HaRouterRow {
        router: "main".into(),
        interface: "eth0".into(),
        family: "ipv4",
        virtual_router_id: 51,
        state: HaState::Active,
        since_us: 1_700_000_000_000_000,
        reason: "no advert for 301 ms".into(),
        priority: 254,
        effective_priority: 254,
        addresses: "192.0.2.10,192.0.2.11".into(),
        active_address: Some("192.0.2.1".into()),
        peer_state: Some(HaState::Backup),
        interval_ms: 100,
        adverts_sent: 1000,
        adverts_received: 5_000_000_000,
        discarded: 1,
        last_discard: Some("TTL 254".into()),
        hint: String::new(),
    };
    let hint = "allow protocol 112 to ff02::12".into();
    let v6 = HaRouterRow { router: "main/v6".into(), family: "ipv6", state: HaState::Initialize, hint, ..main.clone() };
    let v6 = HaRouterRow { active_address: None, peer_state: Some(HaState::NotConfigured), last_discard: None, ..v6 };
    let step = |time_us, from, to, took_us| {
        let router = "main".to_owned();
        HaTransitionRow { time_us, router, from, to, reason: "start".into(), took_us }
    };
    HaPicture {
        node: "a".into(),
        fit: true,
        fit_reason: String::new(),
        maintenance: false,
        peer: HaPeer { name: Some("b".into()), link: HaLinkState::Up, heard_ms_ago: Some(40) },
        drift: vec!["pool_mode".into(), "max_db_connections".into()],
        routers: vec![v6, main],
        history: vec![
            step(1_700_000_000_300_999, HaState::Backup, HaState::Active, Some(812)),
            step(1_700_000_000_000_000, HaState::Initialize, HaState::Backup, None),
        ],
        paths: vec![
            HaPathRow {
                path: "192.0.2.2:6433".into(),
                direction: "out",
                state: "up",
                heard_ms_ago: Some(40),
                round_trip_us: Some(350),
                error: None,
            },
            HaPathRow { path: "198.51.100.2:6433".into(), error: Some("timed out".into()), ..HaPathRow::default() },
        ],
    }
}

fn user(name: &str, pool_size: Option<u32>) -> UserRow {
    UserRow {
        name: Arc::from(name),
        pool_size,
        reserve_pool_size: None,
        pool_mode: pool_size.map(|_| PoolMode::Session),
        max_user_connections: 1,
        current_connections: 2,
        max_user_client_connections: 3,
        current_client_connections: 4,
    }
}

/// The body of a Parse.
fn parse_body(name: &str, query: &str) -> Vec<u8> {
    [cstr(name), cstr(query), vec![0, 0]].concat()
}

/// The body of a Bind with these result formats.
fn bind_body(portal: &str, statement: &str, formats: &[u16]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_slice(&cstr(portal));
    body.put_slice(&cstr(statement));
    body.put_u32(0);
    body.put_u16(u16::try_from(formats.len()).unwrap());
    for format in formats {
        body.put_u16(*format);
    }
    body.to_vec()
}

/// The body of an Execute.
fn execute_body(portal: &str, max_rows: i32) -> Vec<u8> {
    [cstr(portal), max_rows.to_be_bytes().to_vec()].concat()
}

/// The body of a Describe or Close.
fn target_body(kind: u8, name: &str) -> Vec<u8> {
    [vec![kind], cstr(name)].concat()
}
