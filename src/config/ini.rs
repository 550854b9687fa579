//! PgBouncer's ini file, read as PgBouncer reads it, but with every mistake found instead of the first only.
//!
//! Facts: `doc/config.md`; details that it leaves open were tried on the program. Comment lines start with `;` or `#`; a
//! section may occur again; each `[pgbouncer]` header puts the settings back to their defaults; the last of several equal
//! keys wins; `%include FILE` is relative to the working directory and may nest ten deep; keys outside the set
//! `[0-9A-Za-z_.*-]` stand in single quotes.

use std::path::Path;
use std::sync::Arc;

use super::ReadFile;
use super::connstr;
use super::document::{Assignment, Document, Entry, Form, LineIndex};
use super::ha::HaSettings;
use super::problem::{Place, Problem};
use super::settings::Settings;
use super::suggest;

/// How deep `%include` may nest.
const MAX_INCLUDE_DEPTH: u32 = 10;
/// How many files may be included in all: ten levels of files that include several could go on for ever.
const MAX_INCLUDES: u32 = 1000;

const SECTIONS: [&str; 7] = ["pgbouncer", "pgtandem", "databases", "users", "peers", "ha", "virtual_routers"];

/// Read the file and all that it includes.
pub(super) fn read(path: &Path, read_file: &mut ReadFile<'_>, problems: &mut Vec<Problem>) -> Document {
    let mut reader = Reader {
        read_file,
        problems,
        document: Document::new(Form::Ini),
        section: Section::Missing,
        includes: 0,
        opened: false,
        main: false,
    };
    reader.file(path, 0, None);
    if !reader.main && reader.opened {
        let place = Place { file: display(path), line: 1 };
        let text = "main section missing from config file";
        reader
            .problems
            .push(Problem::error(Some(&place), text).hint("settings belong in a section [pgbouncer]: add one"));
    }
    reader.document.incomplete = !reader.main;
    reader.document
}

fn display(path: &Path) -> Arc<str> {
    Arc::from(path.to_string_lossy())
}

enum Section {
    /// Before the first header.
    Missing,
    Pgbouncer,
    Databases,
    Users,
    Peers,
    Ha,
    VirtualRouters,
    /// A header that was refused: its lines are passed over.
    Unknown,
}

struct Reader<'a, 'b> {
    read_file: &'a mut ReadFile<'b>,
    problems: &'a mut Vec<Problem>,
    document: Document,
    section: Section,
    /// Files read so far, the first included.
    includes: u32,
    /// Could the first file be read?
    opened: bool,
    /// Was there a `[pgbouncer]` header?
    main: bool,
}

/// A file being read.
struct Cursor<'t> {
    text: &'t [u8],
    at: usize,
    lines: LineIndex,
}

impl<'t> Cursor<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Move on while the bytes are of a kind; returns them.
    fn take_while(&mut self, kind: impl Fn(u8) -> bool) -> &'t [u8] {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| !kind(*byte)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn rest_of_line(&mut self) -> &'t [u8] {
        self.take_while(|byte| byte != b'\n')
    }

    fn starts_with_include(&self) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        rest.starts_with(b"%include") && rest.get(8).copied().is_some_and(is_blank)
    }

    fn place(&self, at: usize) -> Place {
        self.lines.place(at)
    }
}

/// C's `isspace` in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// C's `isblank`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-*".contains(&byte)
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|byte| !is_space(*byte)).map_or(0, |last| last + 1);
    bytes.get(..end).unwrap_or_default()
}

impl Reader<'_, '_> {
    fn file(&mut self, path: &Path, depth: u32, from: Option<&Place>) {
        self.includes += 1;
        let text = match (self.read_file)(path) {
            Ok(text) => text,
            Err(error) => {
                let text = format!("could not load file \"{}\": {error}", path.display());
                self.problems.push(Problem::error(from, text));
                return;
            }
        };
        self.opened = true;
        let lines = LineIndex::new(display(path), &text);
        if let Some(at) = text.iter().position(|byte| *byte == 0) {
            let problem = Problem::error(Some(&lines.place(at)), "the file contains a NUL byte");
            self.problems.push(problem.hint("is it a text file?"));
            return;
        }
        // Editors on Windows put this mark in front; PgBouncer calls it a syntax error.
        let at = if text.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        let mut cursor = Cursor { text: &text, at, lines };
        loop {
            cursor.take_while(is_space);
            match cursor.peek() {
                None => break,
                Some(b'%') if cursor.starts_with_include() => self.include(&mut cursor, depth),
                Some(b'#' | b';') => {
                    cursor.rest_of_line();
                }
                Some(b'[') => self.header(&mut cursor),
                Some(_) => self.pair(&mut cursor),
            }
        }
    }

    fn include(&mut self, cursor: &mut Cursor<'_>, depth: u32) {
        let place = cursor.place(cursor.at);
        cursor.at += 8;
        cursor.take_while(is_blank);
        let name = trim_end(cursor.rest_of_line());
        if depth >= MAX_INCLUDE_DEPTH || self.includes > MAX_INCLUDES {
            let problem = Problem::error(Some(&place), "include nesting level too deep");
            self.problems.push(problem.hint("does a file include itself?"));
            return;
        }
        match std::str::from_utf8(name) {
            Ok(name) => self.file(Path::new(name), depth + 1, Some(&place)),
            Err(_) => self.problems.push(Problem::error(Some(&place), "the name of the included file is not UTF-8")),
        }
    }

    fn header(&mut self, cursor: &mut Cursor<'_>) {
        let place = cursor.place(cursor.at);
        cursor.at += 1;
        let name = cursor.take_while(|byte| byte != b']' && byte != b'\n');
        if cursor.peek() != Some(b']') {
            self.syntax_error(&place, "the section header lacks its `]`");
            self.section = Section::Unknown;
            return;
        }
        cursor.at += 1;
        self.section = match name {
            b"pgbouncer" => {
                self.main = true;
                self.document.resets.push((self.document.settings.len(), place));
                Section::Pgbouncer
            }
            // Ours: what comes on top of the settings of an included file, without putting them back.
            b"pgtandem" => {
                self.main = true;
                Section::Pgbouncer
            }
            b"databases" => Section::Databases,
            b"users" => Section::Users,
            b"peers" => Section::Peers,
            b"ha" => {
                self.document.ha_place.get_or_insert(place);
                Section::Ha
            }
            b"virtual_routers" => Section::VirtualRouters,
            _ => {
                let name = String::from_utf8_lossy(name);
                let problem = Problem::error(Some(&place), format!("invalid section \"{name}\" in configuration"));
                self.problems.push(problem.hint(section_hint(&name)));
                Section::Unknown
            }
        };
    }

    fn syntax_error(&mut self, place: &Place, why: &str) {
        self.problems.push(Problem::error(Some(place), "syntax error in configuration").hint(why));
    }

    /// `key = value`, the key perhaps in single quotes.
    fn pair(&mut self, cursor: &mut Cursor<'_>) {
        let place = cursor.place(cursor.at);
        let quoted = cursor.peek() == Some(b'\'');
        let key = if quoted {
            cursor.at += 1;
            // PgBouncer looks for the closing quote on later lines as well; a name with a line break is a forgotten quote.
            let key = cursor.take_while(|byte| byte != b'\'' && byte != b'\n');
            if cursor.peek() != Some(b'\'') || key.is_empty() {
                self.syntax_error(&place, "the quoted name is empty or lacks its closing quote");
                cursor.rest_of_line();
                return;
            }
            cursor.at += 1;
            key
        } else {
            cursor.take_while(is_key_byte)
        };
        cursor.take_while(is_blank);
        if cursor.peek() != Some(b'=') {
            let why = match cursor.peek() {
                None | Some(b'\n' | b'\r') => "a line must read `name = value`",
                _ => {
                    "a line must read `name = value`; a name with other characters than letters, digits and _.-* must \
                      stand in single quotes"
                }
            };
            self.syntax_error(&place, why);
            cursor.rest_of_line();
            return;
        }
        cursor.at += 1;
        cursor.take_while(is_blank);
        let value = trim_end(cursor.rest_of_line());
        match (std::str::from_utf8(key), std::str::from_utf8(value)) {
            (Ok(key), Ok(value)) => self.assign(key, value, place),
            _ => {
                let key = String::from_utf8_lossy(key);
                let problem =
                    Problem::error(Some(&place), format!("invalid value for parameter {key} in configuration"));
                self.problems.push(problem.hint("the line is not UTF-8 text"));
            }
        }
    }

    fn assign(&mut self, key: &str, value: &str, place: Place) {
        let unit = match self.section {
            Section::Pgbouncer => {
                let line = Assignment { key: key.to_owned(), value: value.to_owned(), place };
                return self.document.settings.push(line);
            }
            Section::Ha => {
                let line = Assignment { key: key.to_owned(), value: value.to_owned(), place };
                return self.document.ha.push(line);
            }
            Section::Missing => {
                let text = format!("load_init_file: value without section: {key}");
                return self.problems.push(Problem::error(Some(&place), text).maybe_hint(homeless(key)));
            }
            Section::Unknown => return,
            Section::Users => "user settings",
            Section::Databases | Section::Peers => "connection string",
            Section::VirtualRouters => "parameters",
        };
        let Some(entry) = self.entry(key, value, place, unit) else { return };
        match self.section {
            Section::Databases => self.document.databases.push(entry),
            Section::Users => self.document.users.push(entry),
            Section::VirtualRouters => self.document.routers.push(entry),
            _ => self.document.peers.push(entry),
        }
    }

    fn entry(&mut self, name: &str, value: &str, place: Place, unit: &str) -> Option<Entry> {
        match connstr::parse(value) {
            Ok(pairs) => {
                let mut params = Vec::with_capacity(pairs.len());
                for pair in pairs {
                    if let Some(caution) = pair.caution {
                        self.problems.push(Problem::warning(Some(&place), format!("\"{name}\": {caution}")));
                    }
                    params.push(Assignment { key: pair.key, value: pair.value, place: place.clone() });
                }
                Some(Entry { name: name.to_owned(), params, place })
            }
            Err(error) => {
                let text = format!("syntax error in {unit} of \"{name}\"");
                let comment = [" ;", " #", "\t;", "\t#"].iter().any(|mark| value.contains(mark));
                let comment = comment.then(|| "a comment must have a line of its own".to_owned());
                let hint = misplaced(name).or(comment).unwrap_or(error.0);
                self.problems.push(Problem::error(Some(&place), text).hint(hint));
                None
            }
        }
    }
}

/// What to do about a section that does not exist.
fn section_hint(name: &str) -> String {
    let plain = name.trim();
    if ["metrics", "topology"].contains(&plain) {
        return format!("[{plain}] exists only in the TOML form of the configuration");
    }
    if plain == "pgtandem" {
        return "in this form of file the section is called [pgbouncer]".to_owned();
    }
    suggest::hint(plain, SECTIONS).unwrap_or_else(|| format!("the sections are [{}]", SECTIONS.join("], [")))
}

/// The advice for a setting that stands in no section.
fn homeless(name: &str) -> Option<String> {
    let of_the_pair = || HaSettings::spec(name).map(|_| format!("`{name}` is a setting and belongs in section [ha]"));
    misplaced(name).or_else(of_the_pair)
}

/// The advice for a setting that stands in a wrong section.
fn misplaced(name: &str) -> Option<String> {
    Settings::spec(name).map(|_| format!("`{name}` is a setting and belongs in section [pgbouncer]"))
}
