//! SHOW CLIENTS, SERVERS, SOCKETS and ACTIVE_SOCKETS.

use jiff::tz::TimeZone;

use super::{Column, Row, TO_THE_SECOND, gauge, int4, local_time, text};
use crate::snapshot::{ClientState, ServerState, Snapshot, SocketRow, SocketState};

type Rows<'a> = Box<dyn Iterator<Item = Row<'a>> + 'a>;

/// How many of [`BUFFER_COLUMNS`] SHOW CLIENTS and SHOW SERVERS have.
const PLAIN_COLUMNS: usize = 21;

pub(super) const COLUMNS: &[Column] = BUFFER_COLUMNS.split_at(PLAIN_COLUMNS).0;

pub(super) const BUFFER_COLUMNS: &[Column] = &[
    text("type"),
    text("user"),
    text("database"),
    text("replication"),
    text("state"),
    text("addr"),
    int4("port"),
    text("local_addr"),
    int4("local_port"),
    text("connect_time"),
    text("request_time"),
    int4("wait"),
    int4("wait_us"),
    int4("close_needed"),
    text("ptr"),
    text("link"),
    int4("remote_pid"),
    text("tls"),
    text("application_name"),
    int4("prepared_statements"),
    int4("id"),
    int4("recv_pos"),
    int4("pkt_pos"),
    int4("pkt_remain"),
    int4("send_pos"),
    int4("send_remain"),
    int4("pkt_avail"),
    int4("send_avail"),
];

const MICROS_PER_SECOND: u64 = 1_000_000;

/// The clients that have logged in, pool by pool.
pub(super) fn clients<'a>(snapshot: &'a Snapshot, zone: &'a TimeZone) -> Rows<'a> {
    let logged_in = snapshot.clients.iter().filter(|s| s.state != SocketState::Client(ClientState::Login));
    let rows = in_pool_order(logged_in.collect());
    Box::new(rows.into_iter().map(move |socket| plain(socket, state(socket), zone)))
}

/// The servers, pool by pool.
pub(super) fn servers<'a>(snapshot: &'a Snapshot, zone: &'a TimeZone) -> Rows<'a> {
    let rows = in_pool_order(snapshot.servers.iter().collect());
    Box::new(rows.into_iter().map(move |socket| plain(socket, state(socket), zone)))
}

/// Clients and servers pool by pool, then the clients still logging in. Those busy with cancel requests are left out.
pub(super) fn both<'a>(snapshot: &'a Snapshot, zone: &'a TimeZone, only_active: bool) -> Rows<'a> {
    let all = snapshot.clients.iter().chain(&snapshot.servers);
    let shown = all.filter(|s| list_name(s.state).is_some() && !(only_active && s.buffer.is_empty()));
    let (logins, rest): (Vec<_>, Vec<_>) = shown.partition(|s| s.state == SocketState::Client(ClientState::Login));
    let rows = in_pool_order(rest).into_iter().chain(logins);
    Box::new(rows.map(move |socket| {
        let mut row = plain(socket, list_name(socket.state).unwrap_or_default(), zone);
        let marks = &socket.buffer;
        let marks = [
            marks.recv_pos,
            marks.pkt_pos,
            marks.pkt_remain,
            marks.send_pos,
            marks.send_remain,
            marks.pkt_avail,
            marks.send_avail,
        ];
        row.extend(marks.into_iter().map(gauge));
        row
    }))
}

/// By database, user and state; what belongs to no database comes last.
fn in_pool_order(mut sockets: Vec<&SocketRow>) -> Vec<&SocketRow> {
    sockets.sort_by_key(|s| (s.database.is_none(), s.database.as_deref(), s.user.as_deref(), s.state));
    sockets
}

fn state(socket: &SocketRow) -> &'static str {
    match socket.state {
        SocketState::Client(ClientState::Active) | SocketState::Server(ServerState::Active) => {
            if socket.link.is_some() { "active" } else { "idle" }
        }
        SocketState::Client(ClientState::Waiting) => "waiting",
        SocketState::Client(ClientState::ActiveCancelReq) => "active_cancel_req",
        SocketState::Client(ClientState::WaitingCancelReq) => "waiting_cancel_req",
        SocketState::Client(ClientState::Login) => "login",
        SocketState::Server(ServerState::Idle) => "idle",
        SocketState::Server(ServerState::Used) => "used",
        SocketState::Server(ServerState::Tested) => "tested",
        SocketState::Server(ServerState::New) => "new",
        SocketState::Server(ServerState::ActiveCancel) => "active_cancel",
        SocketState::Server(ServerState::BeingCanceled) => "being_canceled",
    }
}

/// The state in SHOW SOCKETS, which says nothing about links; `None` for what it does not list.
fn list_name(state: SocketState) -> Option<&'static str> {
    Some(match state {
        SocketState::Client(ClientState::Active) => "cl_active",
        SocketState::Client(ClientState::Waiting) => "cl_waiting",
        SocketState::Client(ClientState::Login) => "cl_login",
        SocketState::Server(ServerState::Active) => "sv_active",
        SocketState::Server(ServerState::Idle) => "sv_idle",
        SocketState::Server(ServerState::Used) => "sv_used",
        SocketState::Server(ServerState::Tested) => "sv_tested",
        SocketState::Server(ServerState::New) => "sv_login",
        SocketState::Client(ClientState::ActiveCancelReq | ClientState::WaitingCancelReq)
        | SocketState::Server(ServerState::ActiveCancel | ServerState::BeingCanceled) => return None,
    })
}

fn plain<'a>(socket: &'a SocketRow, state: &'static str, zone: &TimeZone) -> Row<'a> {
    let mut row = Vec::with_capacity(BUFFER_COLUMNS.len());
    row.extend([
        match socket.state {
            SocketState::Client(_) => "C".into(),
            SocketState::Server(_) => "S".into(),
        },
        socket.user.as_deref().unwrap_or("(nouser)").into(),
        socket.database.as_deref().unwrap_or("(nodb)").into(),
        socket.replication.as_str().into(),
        state.into(),
        socket.addr.as_str().into(),
        socket.port.into(),
        socket.local_addr.as_str().into(),
        socket.local_port.into(),
        local_time(socket.connect_time_us, zone, TO_THE_SECOND),
        local_time(socket.request_time_us, zone, TO_THE_SECOND),
        gauge(socket.wait_us / MICROS_PER_SECOND),
        gauge(socket.wait_us % MICROS_PER_SECOND),
        socket.close_needed.into(),
        format!("{:#x}", socket.ptr).into(),
        socket.link.map_or_else(|| "".into(), |ptr| format!("{ptr:#x}").into()),
        gauge(socket.remote_pid),
        socket.tls.as_ref().into(),
        socket.application_name.as_ref().into(),
        gauge(socket.prepared_statements),
        socket.id.into(),
    ]);
    row
}
