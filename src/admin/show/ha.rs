//! SHOW HA, SHOW HA HISTORY and SHOW HA LINK: the pair. Not PgBouncer's; made to be read by scripts, one row per thing.

use jiff::tz::TimeZone;

use super::{Column, Row, TO_THE_SECOND, gauge, int4, int8, local_time, text, yes_no};
use crate::snapshot::{HaPathRow, HaPicture, HaRouterRow, HaState, HaTransitionRow, Snapshot};

type Rows<'a> = Box<dyn Iterator<Item = Row<'a>> + 'a>;

pub(super) const ROUTERS: &[Column] = &[
    text("router"),
    text("interface"),
    text("family"),
    int4("virtual_router_id"),
    text("state"),
    text("since_time"),
    text("reason"),
    int4("priority"),
    int4("effective_priority"),
    text("addresses"),
    text("active_address"),
    text("node"),
    text("fit"),
    text("fit_reason"),
    text("maintenance"),
    text("peer"),
    text("peer_state"),
    text("peer_link"),
    int8("peer_heard_ms_ago"),
    int4("interval_ms"),
    int8("adverts_sent"),
    int8("adverts_received"),
    int8("discarded"),
    text("last_discard"),
    text("hint"),
    text("drift"),
];

pub(super) const HISTORY: &[Column] =
    &[text("time"), text("router"), text("from"), text("to"), text("reason"), int8("took_us")];

pub(super) const LINK: &[Column] =
    &[text("path"), text("direction"), text("state"), int8("heard_ms_ago"), int8("round_trip_us"), text("error")];

pub(super) fn routers<'a>(snapshot: &'a Snapshot, zone: &'a TimeZone) -> Rows<'a> {
    let Some(pair) = &snapshot.ha else { return Box::new(std::iter::empty()) };
    let mut routers: Vec<_> = pair.routers.iter().collect();
    routers.sort_by_key(|router| router.router.as_str());
    Box::new(routers.into_iter().map(move |row| router(pair, row, zone)))
}

fn router<'a>(pair: &'a HaPicture, row: &'a HaRouterRow, zone: &TimeZone) -> Row<'a> {
    vec![
        row.router.as_str().into(),
        row.interface.as_str().into(),
        row.family.into(),
        gauge(row.virtual_router_id),
        row.state.as_str().into(),
        local_time(row.since_us, zone, TO_THE_SECOND),
        row.reason.as_str().into(),
        gauge(row.priority),
        gauge(row.effective_priority),
        row.addresses.as_str().into(),
        row.active_address.as_deref().into(),
        pair.node.as_str().into(),
        yes_no(pair.fit),
        pair.fit_reason.as_str().into(),
        yes_no(pair.maintenance),
        pair.peer.name.as_deref().into(),
        row.peer_state.map(HaState::as_str).into(),
        pair.peer.link.as_str().into(),
        pair.peer.heard_ms_ago.into(),
        gauge(row.interval_ms),
        row.adverts_sent.into(),
        row.adverts_received.into(),
        row.discarded.into(),
        row.last_discard.as_deref().into(),
        row.hint.as_str().into(),
        pair.drift.join(",").into(),
    ]
}

/// Transitions lie milliseconds apart.
const TO_THE_MILLISECOND: &str = "%Y-%m-%d %H:%M:%S%.3f %Z";

/// The oldest first, so that the last line on the screen is the last thing that happened.
pub(super) fn history<'a>(snapshot: &'a Snapshot, zone: &'a TimeZone) -> Rows<'a> {
    let mut rows: Vec<_> = snapshot.ha.iter().flat_map(|pair| &pair.history).collect();
    rows.sort_by_key(|row| row.time_us);
    Box::new(rows.into_iter().map(move |row| transition(row, zone)))
}

fn transition<'a>(row: &'a HaTransitionRow, zone: &TimeZone) -> Row<'a> {
    vec![
        local_time(row.time_us, zone, TO_THE_MILLISECOND),
        row.router.as_str().into(),
        row.from.as_str().into(),
        row.to.as_str().into(),
        row.reason.as_str().into(),
        row.took_us.into(),
    ]
}

pub(super) fn link(snapshot: &Snapshot) -> Rows<'_> {
    Box::new(snapshot.ha.iter().flat_map(|pair| &pair.paths).map(path))
}

fn path(row: &HaPathRow) -> Row<'_> {
    vec![
        row.path.as_str().into(),
        row.direction.into(),
        row.state.into(),
        row.heard_ms_ago.into(),
        row.round_trip_us.into(),
        row.error.as_deref().into(),
    ]
}
