//! Named prepared statements across servers (PgBouncer setting max_prepared_statements). A client's name stands for a
//! [`Statement`], shared by everyone who prepared the same text with the same types; on servers it goes by one name for all.
//! This part decides what is the same statement and which one a server forgets first; it must never know sockets, clients or
//! what a query means.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::FxHashMap;

/// The front of every statement name that we use on servers; PgBouncer's, since dashboards over `pg_prepared_statements` match it.
pub const SERVER_NAME_PREFIX: &str = "PGBOUNCER_";

/// A prepared statement as servers know it.
#[derive(Debug, PartialEq, Eq)]
pub struct Statement {
    /// Never used twice in this process.
    pub id: u64,
    /// Its name on every server.
    pub server_name: Box<[u8]>,
    /// Query text and parameter types as in Parse: what makes it the same statement.
    pub definition: Box<[u8]>,
}

impl Statement {
    fn new(id: u64, definition: &[u8]) -> Self {
        let server_name = format!("{SERVER_NAME_PREFIX}{id}").into_bytes().into();
        Self { id, server_name, definition: definition.into() }
    }
}

/// All statements that some client or server still knows.
#[derive(Debug, Default)]
pub struct Statements {
    known: HashSet<ByDefinition>,
    last_id: u64,
    sweep_at: usize,
    bytes: usize,
    sweep_at_bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct ByDefinition(Arc<Statement>);

impl Hash for ByDefinition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.definition.hash(state);
    }
}

impl Borrow<[u8]> for ByDefinition {
    fn borrow(&self) -> &[u8] {
        &self.0.definition
    }
}

/// Below this many statements, and bytes of them, no sweep is worth its time.
const SWEEP_MIN: usize = 1024;
const SWEEP_MIN_BYTES: usize = 4 * 1024 * 1024;

impl Statements {
    /// The statement of this definition, made if nobody has it yet.
    pub fn intern(&mut self, definition: &[u8]) -> Arc<Statement> {
        if let Some(found) = self.known.get(definition) {
            return Arc::clone(&found.0);
        }
        let many = self.known.len() >= self.sweep_at.max(SWEEP_MIN);
        if many || self.bytes + definition.len() > self.sweep_at_bytes.max(SWEEP_MIN_BYTES) {
            self.known.retain(|s| Arc::strong_count(&s.0) > 1);
            self.bytes = self.known.iter().map(|s| s.0.definition.len()).sum();
            // Twice what is alive: the sweep's cost stays proportional to the statements made since the last one.
            self.sweep_at = self.known.len() * 2;
            self.sweep_at_bytes = self.bytes * 2;
        }
        self.bytes += definition.len();
        self.last_id += 1;
        let statement = Arc::new(Statement::new(self.last_id, definition));
        self.known.insert(ByDefinition(Arc::clone(&statement)));
        statement
    }

    /// Takes over a statement of a former process, under the number that servers know it by. One that is known by another
    /// number already keeps that.
    pub fn restore(&mut self, id: u64, definition: &[u8]) -> Arc<Statement> {
        if let Some(found) = self.known.get(definition) {
            return Arc::clone(&found.0);
        }
        self.last_id = self.last_id.max(id);
        self.bytes += definition.len();
        let statement = Arc::new(Statement::new(id, definition));
        self.known.insert(ByDefinition(Arc::clone(&statement)));
        statement
    }

    /// The largest number given so far.
    #[must_use]
    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Makes the next number larger than `id`.
    pub fn start_after(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// How many are remembered, for SHOW MEM.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Is none remembered?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// The most names that one client may hold, and the most bytes of definitions that it may name in all: a client that prepares
/// without end is told so instead of filling the memory of all.
pub const NAMES_PER_CLIENT_MAX: usize = 65_536;
/// See [`NAMES_PER_CLIENT_MAX`].
pub const NAMED_BYTES_PER_CLIENT_MAX: usize = 64 * 1024 * 1024;

/// Boxed where it stands: most clients have none.
type NameMap = HashMap<Box<[u8]>, Arc<Statement>>;

/// One client's names.
#[derive(Debug, Default)]
pub struct Names {
    map: Option<Box<NameMap>>,
}

/// What a name stood for before a message that may yet fail changed it.
#[derive(Debug, PartialEq, Eq)]
pub struct Undo {
    name: Box<[u8]>,
    before: Option<Arc<Statement>>,
}

impl Names {
    /// What `name` stands for.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        self.map.as_ref()?.get(name)
    }

    /// Would a definition of `len` bytes more be too much for one client?
    #[must_use]
    pub fn is_full_for(&self, len: usize) -> bool {
        let Some(map) = &self.map else { return false };
        // Summed only where it can matter: few names, or small ones, are the rule.
        map.len() >= NAMES_PER_CLIENT_MAX
            || len > NAMED_BYTES_PER_CLIENT_MAX / NAMES_PER_CLIENT_MAX
                && map.values().map(|s| s.definition.len()).sum::<usize>() + len > NAMED_BYTES_PER_CLIENT_MAX
    }

    /// Lets `name` stand for `statement`.
    pub fn insert(&mut self, name: &[u8], statement: Arc<Statement>) -> Undo {
        let before = self.map.get_or_insert_default().insert(name.into(), statement);
        Undo { name: name.into(), before }
    }

    /// Forgets `name`.
    pub fn remove(&mut self, name: &[u8]) -> Undo {
        let before = self.map.as_mut().and_then(|map| map.remove(name));
        Undo { name: name.into(), before }
    }

    /// Takes back one change. Several changes are taken back last first.
    pub fn undo(&mut self, undo: Undo) {
        match undo.before {
            Some(statement) => self.map.get_or_insert_default().insert(undo.name, statement),
            None => self.map.as_mut().and_then(|map| map.remove(&undo.name)),
        };
    }

    /// Forgets all names but those for which `keep` says yes (DISCARD ALL, DEALLOCATE ALL).
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) {
        if let Some(map) = &mut self.map {
            map.retain(|name, _| keep(name));
        }
    }

    /// All names and what they stand for.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        self.map.iter().flat_map(|map| map.iter()).map(|(name, statement)| (&**name, statement))
    }

    /// How many names the client holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.as_ref().map_or(0, |map| map.len())
    }

    /// Does it hold none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The name inside an [`Undo`], for the rule that statements prepared behind a DISCARD ALL outlive it.
impl Undo {
    /// The client's name that was changed.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What the name stood for before is gone for good: taking the change back leaves nothing.
    pub fn forget(&mut self) {
        self.before = None;
    }
}

/// The statements that one server has, least recently used first out.
///
/// Uses are noted in a queue whose outdated entries are skipped on eviction, so that a use costs two hash look-ups and no
/// list surgery.
#[derive(Debug, Default)]
pub struct Window {
    entries: FxHashMap<u64, Entry>,
    uses: VecDeque<(u64, u64)>,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    last_use: u64,
    statement: Arc<Statement>,
}

impl Window {
    /// Does the server have the statement? Counts as a use of it.
    pub fn touch(&mut self, id: u64) -> bool {
        self.clock += 1;
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.last_use = self.clock;
        self.note_use(id);
        true
    }

    fn note_use(&mut self, id: u64) {
        self.uses.push_back((self.clock, id));
        if self.uses.len() > 64 + self.entries.len() * 4 {
            self.uses.retain(|&(at, id)| self.entries.get(&id).is_some_and(|e| e.last_use == at));
        }
    }

    /// Notes that the server is about to have the statement.
    pub fn insert(&mut self, statement: Arc<Statement>) {
        self.clock += 1;
        let id = statement.id;
        self.entries.insert(id, Entry { last_use: self.clock, statement });
        self.note_use(id);
    }

    /// Takes out the least recently used statement if there are `max` or more.
    pub fn evict(&mut self, max: usize) -> Option<Arc<Statement>> {
        if self.entries.len() < max.max(1) {
            return None;
        }
        while let Some((at, id)) = self.uses.pop_front() {
            if self.entries.get(&id).is_some_and(|e| e.last_use == at) {
                return self.entries.remove(&id).map(|e| e.statement);
            }
        }
        None
    }

    /// The server does not have it after all.
    pub fn remove(&mut self, id: u64) {
        self.entries.remove(&id);
    }

    /// Forgets all but those for which `keep` says yes.
    pub fn retain(&mut self, mut keep: impl FnMut(u64) -> bool) {
        self.entries.retain(|&id, _| keep(id));
    }

    /// All statements that the server has, the least recently used first.
    #[must_use]
    pub fn by_use(&self) -> Vec<Arc<Statement>> {
        let mut entries: Vec<_> = self.entries.values().collect();
        entries.sort_unstable_by_key(|entry| entry.last_use);
        entries.into_iter().map(|entry| Arc::clone(&entry.statement)).collect()
    }

    /// How many statements the server has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Has it none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn same_definition_is_the_same_statement() {
        let mut all = Statements::default();
        let a = all.intern(b"SELECT 1\0\0\0");
        let b = all.intern(b"SELECT 1\0\0\0");
        let c = all.intern(b"SELECT 2\0\0\0");
        assert!(Arc::ptr_eq(&a, &b));
        assert_ne!(a.id, c.id);
        assert_eq!(&*a.server_name, b"PGBOUNCER_1");
    }

    #[test]
    fn forgotten_statements_do_not_pile_up() {
        let mut all = Statements::default();
        let kept = all.intern(b"kept");
        for i in 0..100_000u32 {
            all.intern(&i.to_be_bytes());
        }
        assert!(all.len() <= SWEEP_MIN + 1, "{} statements remembered", all.len());
        assert!(Arc::ptr_eq(&kept, &all.intern(b"kept")));
    }

    #[test]
    fn undo_restores_what_a_name_stood_for() {
        let mut all = Statements::default();
        let mut names = Names::default();
        let one = all.intern(b"1");
        let first = names.insert(b"s", Arc::clone(&one));
        let second = names.remove(b"s");
        names.undo(second);
        assert_eq!(names.get(b"s"), Some(&one));
        names.undo(first);
        assert_eq!(names.get(b"s"), None);
    }

    proptest! {
        #[test]
        fn window_is_an_lru(max in 1usize..6, ops in prop::collection::vec(0u64..10, 0..300)) {
            let statement = |id: u64| Arc::new(Statement { id, server_name: Box::default(), definition: Box::default() });
            let mut window = Window::default();
            let mut model: Vec<u64> = Vec::new();
            for id in ops {
                let had = model.iter().position(|&m| m == id);
                prop_assert_eq!(window.touch(id), had.is_some());
                if let Some(at) = had {
                    model.remove(at);
                } else {
                    let evicted = window.evict(max).map(|s| s.id);
                    let expected = (model.len() >= max).then(|| model.remove(0));
                    prop_assert_eq!(evicted, expected);
                    window.insert(statement(id));
                }
                model.push(id);
                prop_assert_eq!(window.len(), model.len());
                prop_assert!(window.uses.len() <= 64 + 4 * (max + 1) + 1);
            }
        }
    }
}
