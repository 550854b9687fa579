//! The outer form of a state: a head of fixed size with version and length, then the fields by name. Fields that a reader
//! does not know are skipped, those that a writer did not know have defaults; so versions only count what cannot be
//! overlooked.

use serde::Deserialize;
use zeroize::Zeroizing;

use super::state::State;

/// The version that this program writes.
pub const VERSION: u32 = 1;

/// The oldest version that this program reads.
pub const OLDEST: u32 = 1;

/// The largest state that is read, in bytes.
pub const STATE_LEN_MAX: usize = 1 << 30;

/// How deep fields may be nested, those that are not known included: each level takes some of the stack.
pub(super) const DEPTH_MAX: usize = 64;

const MAGIC: [u8; 8] = *b"pgtandem";
const HEAD_LEN: usize = 24;

/// Why a state cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// The head is not one of ours.
    #[error("this is no state of pgtandem")]
    Foreign,
    /// Written by a program that this one does not understand.
    #[error(
        "state version {written} (readable from version {readable} on) is not understood, only {OLDEST} to {VERSION}"
    )]
    Version {
        /// The version written.
        written: u32,
        /// The oldest reader that the writer thinks fit.
        readable: u32,
    },
    /// Fewer or more bytes than the head says.
    #[error("the state has {there} bytes instead of {announced}")]
    Length {
        /// Bytes that are there.
        there: usize,
        /// Bytes that the head announces.
        announced: u64,
    },
    /// The fields do not make sense.
    #[error("the state is damaged: {0}")]
    Damaged(String),
}

/// Both processes' versions as a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest that is understood.
    pub oldest: u32,
    /// The newest that is understood.
    pub newest: u32,
}

impl Versions {
    /// Those of this program.
    pub const OWN: Self = Self { oldest: OLDEST, newest: VERSION };

    /// Can a state that `self` writes (its newest) be read by `reader`?
    #[must_use]
    pub fn readable_by(self, reader: Self) -> bool {
        (reader.oldest..=reader.newest).contains(&self.newest)
    }
}

/// The bytes of a state.
///
/// # Errors
/// [`FormatError::Damaged`] if it cannot be written down, which no state of ours should cause.
pub fn encode(state: &State) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    let mut out = Zeroizing::new(Vec::with_capacity(64 * 1024));
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&OLDEST.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    let mut serializer = rmp_serde::Serializer::new(&mut *out).with_struct_map();
    serde::Serialize::serialize(state, &mut serializer).map_err(|e| FormatError::Damaged(e.to_string()))?;
    let len = (out.len() - HEAD_LEN) as u64;
    if let Some(field) = out.get_mut(16..HEAD_LEN) {
        field.copy_from_slice(&len.to_be_bytes());
    }
    Ok(out)
}

/// Reads a state, and checks that every place that it names is there.
///
/// # Errors
/// [`FormatError`].
pub fn decode(bytes: &[u8]) -> Result<State, FormatError> {
    let (head, body) = bytes.split_at_checked(HEAD_LEN).ok_or(FormatError::Foreign)?;
    let number = |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
    if !head.starts_with(&MAGIC) {
        return Err(FormatError::Foreign);
    }
    let (written, readable) = (number(8), number(12));
    if readable > VERSION || written < OLDEST {
        return Err(FormatError::Version { written, readable });
    }
    let announced = u64::from(number(16)) << 32 | u64::from(number(20));
    if body.len() as u64 != announced || body.len() > STATE_LEN_MAX {
        return Err(FormatError::Length { there: body.len(), announced });
    }
    let mut fields = rmp_serde::Deserializer::from_read_ref(body);
    fields.set_max_depth(DEPTH_MAX);
    let state = State::deserialize(&mut fields).map_err(|e| FormatError::Damaged(e.to_string()))?;
    check(&state).map_err(|what| FormatError::Damaged(what.to_owned()))?;
    Ok(state)
}

/// Does everything that is named exist, and once?
fn check(state: &State) -> Result<(), &'static str> {
    let has = |place: u32, len: usize| (place as usize) < len;
    let values = state.values.len();
    let mut statements = std::collections::HashSet::new();
    for statement in &state.statements {
        if !statements.insert(statement.id) || statement.id > state.last_statement {
            return Err("statement number");
        }
    }
    if !state.pools.iter().filter_map(|p| p.reported_values).all(|v| has(v, values)) {
        return Err("values of a pool");
    }
    let (mut sockets, mut ids) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    for server in &state.servers {
        let good = has(server.pool, state.pools.len())
            && has(server.values, values)
            && has(server.descriptor, state.descriptors as usize)
            && matches!(server.status, b'I' | b'T' | b'E')
            && (server.client.is_some() || server.status == b'I')
            && server.statements.iter().all(|id| statements.contains(id));
        if !(good && sockets.insert(server.descriptor) && ids.insert(server.id) && server.id <= state.last_id) {
            return Err("server");
        }
    }
    for client in &state.clients {
        let good = has(client.pool, state.pools.len())
            && has(client.values, values)
            && has(client.descriptor, state.descriptors as usize)
            && client.names.iter().all(|(_, id)| statements.contains(id));
        if !(good && sockets.insert(client.descriptor) && ids.insert(client.id) && client.id <= state.last_id) {
            return Err("client");
        }
    }
    let mut held = std::collections::HashSet::new();
    let clients: std::collections::HashMap<_, _> = state.clients.iter().map(|c| (c.id, c.pool)).collect();
    for (client, pool) in state.servers.iter().filter_map(|s| s.client.map(|c| (c, s.pool))) {
        if clients.get(&client) != Some(&pool) || !held.insert(client) {
            return Err("client of a server");
        }
    }
    Ok(())
}
