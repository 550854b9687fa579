//! The native form of the configuration: the same settings in TOML.
//!
//! `[pgtandem]` holds the settings, `[databases.NAME]`, `[users.NAME]`, `[peers.ID]` and `[virtual_routers.NAME]` the entries,
//! `[ha]` the settings of the pair; `[metrics]` and `[topology]` are kept for later. A value may have its TOML type (number, true, list) or be text as in the ini file.

use std::sync::Arc;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};
use serde::Deserialize;

use super::document::{Assignment, Document, Entry, Form, LineIndex};
use super::ha::HaSettings;
use super::params::{self, Param};
use super::problem::{Place, Problem};
use super::settings::{Kind, Settings};
use super::suggest;

const MAIN: &str = "pgtandem";
const TABLES: [&str; 8] = ["pgtandem", "databases", "users", "peers", "ha", "virtual_routers", "metrics", "topology"];

/// Read the text of a file.
pub(super) fn read(file: &str, bytes: &[u8], problems: &mut Vec<Problem>) -> Document {
    let lines = LineIndex::new(Arc::from(file), bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let place = lines.place(error.valid_up_to());
            problems
                .push(Problem::error(Some(&place), "syntax error in configuration").hint("TOML must be UTF-8 text"));
            return Document { incomplete: true, ..Document::new(Form::Toml) };
        }
    };
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { lines, problems, document: Document::new(Form::Toml) };
    for error in errors {
        let place = reader.lines.place(error.span().map_or(0, |span| span.start));
        let problem = Problem::error(Some(&place), "syntax error in configuration");
        reader.problems.push(problem.hint(error.message().to_owned()));
    }
    for (key, value) in root.get_ref() {
        reader.table(key.get_ref(), reader.lines.place(key.span().start), value);
    }
    // The parser sorts by name; findings and precedence should follow the file.
    let document = &mut reader.document;
    document.settings.sort_by(|one, other| one.place.cmp(&other.place));
    document.databases.sort_by(|one, other| one.place.cmp(&other.place));
    document.users.sort_by(|one, other| one.place.cmp(&other.place));
    document.ha.sort_by(|one, other| one.place.cmp(&other.place));
    document.routers.sort_by(|one, other| one.place.cmp(&other.place));
    reader.document
}

struct Reader<'a> {
    lines: LineIndex,
    problems: &'a mut Vec<Problem>,
    document: Document,
}

impl Reader<'_> {
    fn table(&mut self, name: &str, place: Place, value: &Spanned<DeValue<'_>>) {
        if !TABLES.contains(&name) {
            let problem = Problem::error(Some(&place), format!("invalid section \"{name}\" in configuration"));
            self.problems.push(problem.hint(table_hint(name)));
            return;
        }
        let Some(table) = value.get_ref().as_table() else {
            let problem = Problem::error(Some(&place), format!("`{name}` must be a table"));
            self.problems.push(problem.hint(format!("write [{name}]")));
            return;
        };
        match name {
            MAIN => self.document.settings = self.settings(table, |name| Settings::spec(name).map(|spec| spec.kind)),
            "ha" => {
                self.document.ha = self.settings(table, |name| HaSettings::spec(name).map(|spec| spec.kind));
                self.document.ha_place = Some(place);
            }
            "databases" => {
                let entries = self.entries(name, params::DATABASE, table);
                self.document.databases = entries;
            }
            "users" => {
                let entries = self.entries(name, params::USER, table);
                self.document.users = entries;
            }
            "peers" => {
                let entries = self.entries(name, params::PEER, table);
                self.document.peers = entries;
            }
            "virtual_routers" => {
                let entries = self.entries(name, params::ROUTER, table);
                self.document.routers = entries;
            }
            _ => self.reserved(name, place, value),
        }
    }

    fn settings(&mut self, table: &DeTable<'_>, kind_of: fn(&str) -> Option<Kind>) -> Vec<Assignment> {
        let mut lines = Vec::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            let place = self.lines.place(key.span().start);
            lines.extend(self.assignment(name, kind_of(name), place, value));
        }
        lines
    }

    fn entries<T>(&mut self, section: &str, params: &'static [Param<T>], table: &DeTable<'_>) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            let place = self.lines.place(key.span().start);
            let Some(table) = value.get_ref().as_table() else {
                let hint = match Settings::spec(name) {
                    Some(_) => format!("`{name}` is a setting and belongs in section [{MAIN}]"),
                    None => format!("write [{section}.NAME] and the parameters below it"),
                };
                let text = format!("entry \"{name}\" of [{section}] must be a table");
                self.problems.push(Problem::error(Some(&place), text).hint(hint));
                continue;
            };
            let mut lines = Vec::new();
            for (key, value) in table {
                let name: &str = key.get_ref();
                let place = self.lines.place(key.span().start);
                let kind = params::find(params, name).map(|param| param.kind);
                lines.extend(self.assignment(name, kind, place, value));
            }
            lines.sort_by(|one, other| one.place.cmp(&other.place));
            entries.push(Entry { name: name.to_owned(), params: lines, place });
        }
        entries
    }

    /// The value as the text that the ini file would have. Names that are not known have no kind; they are reported later.
    fn assignment(
        &mut self,
        name: &str,
        kind: Option<Kind>,
        place: Place,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<Assignment> {
        let text = match kind {
            None => Ok(String::new()),
            Some(kind) => text_of(value.get_ref(), kind),
        };
        match text {
            Ok(value) => Some(Assignment { key: name.to_owned(), value, place }),
            Err(wants) => {
                let kind = value.get_ref().type_str();
                let text = format!("invalid value for parameter {name} in configuration");
                let hint = format!("{name} wants {wants}, not a TOML {kind}");
                self.problems.push(Problem::error(Some(&place), text).hint(hint));
                None
            }
        }
    }

    fn reserved(&mut self, name: &str, place: Place, value: &Spanned<DeValue<'_>>) {
        match ::toml::Table::deserialize(::toml::de::ValueDeserializer::from(value.clone())) {
            Ok(table) => self.document.reserved.push((name.to_owned(), table, place)),
            Err(error) => {
                let problem = Problem::error(Some(&place), "syntax error in configuration");
                self.problems.push(problem.hint(error.message().to_owned()));
            }
        }
    }
}

/// A TOML value as the ini file would write it, or what is wanted instead.
fn text_of(value: &DeValue<'_>, kind: Kind) -> Result<String, &'static str> {
    let wants = match kind {
        Kind::Int | Kind::Mode => "a whole number",
        Kind::Bool => "true or false",
        Kind::Time => "a number of seconds",
        Kind::Text | Kind::File | Kind::Choice(_) => "text in quotes",
        Kind::List => "a list of texts",
    };
    match (value, kind) {
        (DeValue::String(text), _) => Ok(text.to_string()),
        (DeValue::Boolean(on), Kind::Bool) => Ok(u8::from(*on).to_string()),
        (DeValue::Integer(number), Kind::Int | Kind::Mode | Kind::Bool | Kind::Time) => {
            let number = i128::from_str_radix(number.as_str(), number.radix()).map_err(|_| wants)?;
            // Read back by rules under which a leading 0 means octal: only then is 511 known to be meant as permissions.
            Ok(if kind == Kind::Mode && number > 0 { format!("0{number:o}") } else { number.to_string() })
        }
        (DeValue::Float(number), Kind::Time) => Ok(number.as_str().to_owned()),
        (DeValue::Array(items), Kind::List) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            Ok(texts.ok_or(wants)?.join(","))
        }
        _ => Err(wants),
    }
}

fn table_hint(name: &str) -> String {
    if Settings::spec(name).is_some() {
        return format!("`{name}` is a setting and belongs in section [{MAIN}]");
    }
    if name == "pgbouncer" {
        return format!("in this form of file the section is called [{MAIN}]");
    }
    suggest::hint(name, TABLES).unwrap_or_else(|| format!("the tables are [{}]", TABLES.join("], [")))
}
