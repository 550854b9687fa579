//! A configuration file taken apart but not yet understood: which names have which texts, and where. Both forms of file
//! become this.

use std::fmt;
use std::sync::Arc;

use super::problem::Place;

/// `key = value` with the line it stands on.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) place: Place,
}

impl fmt::Debug for Assignment {
    /// Without the value: it may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.key, self.place)
    }
}

/// One entry of `[databases]`, `[users]`, `[peers]` or `[virtual_routers]` with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) params: Vec<Assignment>,
    pub(super) place: Place,
}

/// Everything that a file and the files that it includes say, in their order.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) form: Form,
    pub(super) settings: Vec<Assignment>,
    /// Headers that put the settings back to their defaults: before how many of the settings, and where.
    pub(super) resets: Vec<(usize, Place)>,
    pub(super) databases: Vec<Entry>,
    pub(super) users: Vec<Entry>,
    pub(super) peers: Vec<Entry>,
    /// The settings of `[ha]`.
    pub(super) ha: Vec<Assignment>,
    /// Where `[ha]` begins, or else `[virtual_routers]`.
    pub(super) ha_place: Option<Place>,
    pub(super) routers: Vec<Entry>,
    pub(super) reserved: Vec<(String, toml::Table, Place)>,
    /// The file, or its main section, is missing: what else it lacks is not worth a word.
    pub(super) incomplete: bool,
}

impl Document {
    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            settings: Vec::new(),
            resets: Vec::new(),
            databases: Vec::new(),
            users: Vec::new(),
            peers: Vec::new(),
            ha: Vec::new(),
            ha_place: None,
            routers: Vec::new(),
            reserved: Vec::new(),
            incomplete: false,
        }
    }
}

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// PgBouncer's.
    Ini,
    /// The native one.
    Toml,
}

impl Form {
    /// The name of the section of settings.
    pub(super) fn main_section(self) -> &'static str {
        match self {
            Self::Ini => "pgbouncer",
            Self::Toml => "pgtandem",
        }
    }
}

/// Where the lines of a file begin, to turn offsets into lines.
pub(super) struct LineIndex {
    file: Arc<str>,
    starts: Vec<usize>,
}

impl LineIndex {
    pub(super) fn new(file: Arc<str>, text: &[u8]) -> Self {
        let newlines = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        Self { file, starts: newlines.map(|(at, _)| at + 1).collect() }
    }

    /// The place of the byte at `offset`.
    pub(super) fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset) + 1;
        Place { file: Arc::clone(&self.file), line: u32::try_from(line).unwrap_or(u32::MAX) }
    }
}
