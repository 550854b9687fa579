//! The SHOW items: from a [`Snapshot`] to a [`Table`] with PgBouncer's columns, types and order of rows.
//!
//! It decides names, types and text of every cell. It must never know the protocol (`reply` makes bytes of a table) nor
//! where the snapshot comes from. Columns are fixed per item and known without a snapshot: Describe needs them.

mod ha;
mod objects;
mod sockets;
mod stats;
mod why;

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::snapshot::{Activity, Needs, Snapshot};

/// A type of PostgreSQL's catalog `pg_type`, as far as the console uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `bytea`.
    Bytea,
    /// `int8`.
    Int8,
    /// `int4`.
    Int4,
    /// `text`.
    Text,
    /// `numeric`.
    Numeric,
    /// `float8`.
    Float8,
}

impl Type {
    /// The object id in `pg_type`.
    #[must_use]
    pub fn oid(self) -> u32 {
        match self {
            Self::Bytea => 17,
            Self::Int8 => 20,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Numeric => 1700,
            Self::Float8 => 701,
        }
    }

    /// `typlen` of `pg_type`: bytes, or -1 for "varies".
    #[must_use]
    pub fn typlen(self) -> i16 {
        match self {
            Self::Int8 | Self::Float8 => 8,
            Self::Int4 => 4,
            Self::Bytea | Self::Text | Self::Numeric => -1,
        }
    }
}

/// One column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: Cow<'static, str>,
    /// Type.
    pub ty: Type,
}

const fn text(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), ty: Type::Text }
}

const fn int4(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), ty: Type::Int4 }
}

const fn int8(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), ty: Type::Int8 }
}

const fn bytea(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), ty: Type::Bytea }
}

const fn numeric(name: &'static str) -> Column {
    Column { name: Cow::Borrowed(name), ty: Type::Numeric }
}

const VERSION: &[Column] = &[text("version")];
const STATE: &[Column] = &[text("key"), text("value")];

/// One value. Which column type it goes with: see the variants.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// `text`.
    Text(Cow<'a, str>),
    /// `int4` and `int8`. May be larger than an int4 column should hold (socket numbers do so in the end): as text it is
    /// printed in full.
    Int(i64),
    /// `numeric`.
    Numeric(u64),
    /// `float8`.
    Float(f64),
    /// `bytea`.
    Bytes(Cow<'a, [u8]>),
}

impl<'a> From<&'a str> for Cell<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Cell<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<'a> From<Option<&'a str>> for Cell<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::Null, Self::from)
    }
}

impl From<u32> for Cell<'_> {
    fn from(n: u32) -> Self {
        Self::Int(i64::from(n))
    }
}

impl From<u16> for Cell<'_> {
    fn from(n: u16) -> Self {
        Self::Int(i64::from(n))
    }
}

impl From<u64> for Cell<'_> {
    fn from(n: u64) -> Self {
        Self::Int(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl From<Option<u64>> for Cell<'_> {
    fn from(n: Option<u64>) -> Self {
        n.map_or(Self::Null, Self::from)
    }
}

impl From<bool> for Cell<'_> {
    fn from(yes: bool) -> Self {
        Self::Int(i64::from(yes))
    }
}

/// A gauge in an int4 column: what does not fit is shown as the largest that does.
fn gauge<'a>(n: impl TryInto<i32>) -> Cell<'a> {
    Cell::Int(i64::from(n.try_into().unwrap_or(i32::MAX)))
}

/// As many cells as the table has columns.
pub type Row<'a> = Vec<Cell<'a>>;

/// An answer. Rows are made one by one, for SHOW CLIENTS may have a hundred thousand of them.
pub struct Table<'a> {
    /// The columns.
    pub columns: &'static [Column],
    /// The rows, in order.
    pub rows: Box<dyn Iterator<Item = Row<'a>> + 'a>,
}

/// What SHOW can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// Sockets with something in their buffers.
    ActiveSockets,
    /// Clients.
    Clients,
    /// Settings.
    Config,
    /// Databases.
    Databases,
    /// Names in the DNS cache.
    DnsHosts,
    /// Zones in the DNS cache.
    DnsZones,
    /// File descriptors.
    Fds,
    /// The pair: one row for each virtual router.
    Ha,
    /// The last transitions of the virtual routers.
    HaHistory,
    /// The ways to the peer.
    HaLink,
    /// The list of commands: a notice, no table.
    Help,
    /// Counts of everything.
    Lists,
    /// Memory.
    Mem,
    /// Pools towards peers.
    PeerPools,
    /// Peers.
    Peers,
    /// Pools.
    Pools,
    /// Servers.
    Servers,
    /// Clients and servers with their buffers.
    Sockets,
    /// Active, paused or suspended.
    State,
    /// Counters and averages by database.
    Stats,
    /// Averages by database.
    StatsAverages,
    /// Counters by database.
    StatsTotals,
    /// Counters and averages of everything.
    Totals,
    /// Users.
    Users,
    /// The version line.
    Version,
    /// Waiting clients, and what they wait for.
    Why,
}

impl Item {
    /// Every item, by name.
    pub const ALL: [(&'static str, Self); 26] = [
        ("active_sockets", Self::ActiveSockets),
        ("clients", Self::Clients),
        ("config", Self::Config),
        ("databases", Self::Databases),
        ("dns_hosts", Self::DnsHosts),
        ("dns_zones", Self::DnsZones),
        ("fds", Self::Fds),
        ("ha", Self::Ha),
        ("ha history", Self::HaHistory),
        ("ha link", Self::HaLink),
        ("help", Self::Help),
        ("lists", Self::Lists),
        ("mem", Self::Mem),
        ("peer_pools", Self::PeerPools),
        ("peers", Self::Peers),
        ("pools", Self::Pools),
        ("servers", Self::Servers),
        ("sockets", Self::Sockets),
        ("state", Self::State),
        ("stats", Self::Stats),
        ("stats_averages", Self::StatsAverages),
        ("stats_totals", Self::StatsTotals),
        ("totals", Self::Totals),
        ("users", Self::Users),
        ("version", Self::Version),
        ("why", Self::Why),
    ];

    /// The item of that name, in either case.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, item)| *item)
    }

    /// The parts of a snapshot that it is made from.
    #[must_use]
    pub fn needs(self) -> Needs {
        match self {
            Self::Help | Self::State | Self::Version => Needs::NONE,
            Self::Clients => Needs::CLIENTS,
            Self::Servers => Needs::SERVERS,
            Self::Sockets | Self::ActiveSockets => Needs::CLIENTS | Needs::SERVERS | Needs::LOGINS,
            Self::Config => Needs::SETTINGS,
            Self::Databases => Needs::DATABASES,
            Self::DnsHosts => Needs::DNS_HOSTS,
            Self::DnsZones => Needs::DNS_ZONES,
            Self::Fds => Needs::DESCRIPTORS,
            Self::Ha | Self::HaHistory | Self::HaLink => Needs::HA,
            Self::Lists => Needs::LISTS,
            Self::Mem => Needs::MEMORY,
            Self::PeerPools => Needs::PEER_POOLS,
            Self::Peers => Needs::PEERS,
            Self::Pools => Needs::POOLS,
            Self::Stats | Self::StatsAverages | Self::StatsTotals | Self::Totals => Needs::STATS,
            Self::Users => Needs::USERS,
            Self::Why => Needs::WHY,
        }
    }

    /// The columns of its answer; none for [`Self::Help`], which is no table.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Help => &[],
            Self::Version => VERSION,
            Self::State => STATE,
            Self::Clients | Self::Servers => sockets::COLUMNS,
            Self::Sockets | Self::ActiveSockets => sockets::BUFFER_COLUMNS,
            Self::Config => objects::CONFIG,
            Self::Databases => objects::DATABASES,
            Self::DnsHosts => objects::DNS_HOSTS,
            Self::DnsZones => objects::DNS_ZONES,
            Self::Fds => objects::FDS,
            Self::Ha => ha::ROUTERS,
            Self::HaHistory => ha::HISTORY,
            Self::HaLink => ha::LINK,
            Self::Lists => objects::LISTS,
            Self::Mem => objects::MEM,
            Self::PeerPools => objects::PEER_POOLS,
            Self::Peers => objects::PEERS,
            Self::Pools => objects::POOLS,
            Self::Users => objects::USERS,
            Self::Why => why::COLUMNS,
            Self::Stats => stats::STATS,
            Self::StatsAverages => stats::AVERAGES,
            Self::StatsTotals => stats::TOTALS_BY_DATABASE,
            Self::Totals => stats::TOTALS,
        }
    }
}

/// The answer to `SHOW item`. Times of day are given in `zone`.
#[must_use]
pub fn table<'a>(item: Item, snapshot: &'a Snapshot, zone: &'a TimeZone) -> Table<'a> {
    let rows: Box<dyn Iterator<Item = Row<'a>> + 'a> = match item {
        Item::Help => Box::new(std::iter::empty()),
        Item::Version => Box::new(std::iter::once(vec![snapshot.version.as_str().into()])),
        Item::State => Box::new(state(snapshot.activity)),
        Item::Clients => sockets::clients(snapshot, zone),
        Item::Servers => sockets::servers(snapshot, zone),
        Item::Sockets => sockets::both(snapshot, zone, false),
        Item::ActiveSockets => sockets::both(snapshot, zone, true),
        Item::Config => Box::new(snapshot.settings.iter().map(objects::config)),
        Item::Databases => objects::databases(snapshot),
        Item::DnsHosts => Box::new(snapshot.dns_hosts.iter().map(objects::dns_host)),
        Item::DnsZones => Box::new(snapshot.dns_zones.iter().map(objects::dns_zone)),
        Item::Fds => Box::new(snapshot.descriptors.iter().map(objects::descriptor)),
        Item::Ha => ha::routers(snapshot, zone),
        Item::HaHistory => ha::history(snapshot, zone),
        Item::HaLink => ha::link(snapshot),
        Item::Lists => Box::new(objects::lists(&snapshot.lists)),
        Item::Mem => Box::new(snapshot.memory.iter().map(objects::memory)),
        Item::PeerPools => objects::peer_pools(snapshot),
        Item::Peers => objects::peers(snapshot),
        Item::Pools => objects::pools(snapshot),
        Item::Users => objects::users(snapshot),
        Item::Why => why::rows(snapshot, zone),
        Item::Stats => stats::by_database(snapshot, true, true),
        Item::StatsTotals => stats::by_database(snapshot, true, false),
        Item::StatsAverages => stats::by_database(snapshot, false, true),
        Item::Totals => stats::totals(snapshot),
    };
    Table { columns: item.columns(), rows }
}

/// Why the answer has no rows although the question was right, if there is something to say.
pub(super) fn remark(item: Item, snapshot: &Snapshot) -> Option<&'static str> {
    let about_pair = matches!(item, Item::Ha | Item::HaHistory | Item::HaLink);
    (about_pair && snapshot.ha.is_none()).then_some(NO_PAIR)
}

/// What is said of a node without `[ha]`.
pub const NO_PAIR: &str = "no [ha] section: this node is not part of a pair";

fn yes_no<'a>(yes: bool) -> Cell<'a> {
    if yes { "yes".into() } else { "no".into() }
}

/// `YYYY-MM-DD HH:MM:SS TZ`, as `format` has it; empty for a time that no calendar has.
fn local_time<'a>(epoch_us: i64, zone: &TimeZone, format: &str) -> Cell<'a> {
    let time = Timestamp::from_microsecond(epoch_us).map(|time| time.to_zoned(zone.clone()));
    time.map_or_else(|_| "".into(), |time| time.strftime(format).to_string().into())
}

/// The form of times of day in PgBouncer's tables.
const TO_THE_SECOND: &str = "%Y-%m-%d %H:%M:%S %Z";

fn state<'a>(activity: Activity) -> impl Iterator<Item = Row<'a>> {
    let states = [("active", Activity::Active), ("paused", Activity::Paused), ("suspended", Activity::Suspended)];
    states.into_iter().map(move |(key, state)| vec![key.into(), yes_no(state == activity)])
}
