//! User maps (`auth_ident_file`; PostgreSQL docs, "User Name Maps"): which database users somebody may log in as whom a
//! certificate or the operating system names.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex_lite::Regex;

use super::tokens::{self, Token, lines};
use super::{Finding, Findings};

/// All maps of the file, by name.
#[derive(Clone, Debug, Default)]
pub struct IdentMaps {
    maps: BTreeMap<String, Arc<IdentMap>>,
}

/// The lines of one map.
#[derive(Clone, Debug, Default)]
pub struct IdentMap {
    /// Its name.
    pub name: String,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    system: SystemUser,
    database: DatabaseUser,
}

#[derive(Clone, Debug)]
enum SystemUser {
    Named(String),
    /// `/` and a regular expression, which need not match the whole name.
    Like(Box<Regex>),
}

#[derive(Clone, Debug)]
enum DatabaseUser {
    All,
    Named(String),
    /// `\1` stands for the first group of the regular expression.
    Group {
        before: String,
        after: String,
    },
}

impl IdentMap {
    /// May whoever bears the system name `name` log in as `user`? `bears` tells whether a name written out in the map is the
    /// system name; a certificate may have several, and `name` is then its CN.
    pub fn admits(&self, user: &str, name: Option<&str>, bears: &dyn Fn(&str) -> bool) -> bool {
        self.lines.iter().any(|line| match (&line.system, &line.database) {
            (SystemUser::Named(system), DatabaseUser::All) => bears(system),
            (SystemUser::Named(system), DatabaseUser::Named(database)) => database == user && bears(system),
            (SystemUser::Named(_), DatabaseUser::Group { .. }) => false,
            (SystemUser::Like(pattern), DatabaseUser::All) => name.is_some_and(|name| pattern.is_match(name)),
            (SystemUser::Like(pattern), DatabaseUser::Named(database)) => {
                database == user && name.is_some_and(|name| pattern.is_match(name))
            }
            (SystemUser::Like(pattern), DatabaseUser::Group { before, after }) => {
                let group = name.and_then(|name| pattern.captures(name)?.get(1));
                group.is_some_and(|group| format!("{before}{}{after}", group.as_str()) == user)
            }
        })
    }
}

impl IdentMaps {
    /// Reads the whole file. A line that cannot be read is left out and told as an error.
    #[must_use]
    pub fn parse(file: &[u8]) -> (Self, Vec<Finding>) {
        let (mut maps, mut findings) = (Self::default(), Findings::default());
        for (number, line) in lines(file) {
            match read_line(line) {
                Ok(None) => {}
                Ok(Some((name, line))) => {
                    let map = maps.maps.entry(name.clone()).or_default();
                    // Nobody else has it while the file is read.
                    let map = Arc::make_mut(map);
                    map.name = name;
                    map.lines.push(line);
                }
                Err(text) => findings.error(number, text),
            }
        }
        (maps, findings.list)
    }

    /// The map of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<IdentMap>> {
        self.maps.get(name)
    }
}

fn read_line(line: &[u8]) -> Result<Option<(String, Line)>, String> {
    let mut words = tokens::Line::read(line)?.tokens.into_iter();
    let Some(map) = words.next() else { return Ok(None) };
    let text = |token: Option<Token>, what: &str| {
        token.and_then(Token::text).filter(|text| !text.is_empty()).ok_or_else(|| format!("{what} is missing"))
    };
    let map = text(Some(map), "the map's name")?;
    let system = text(words.next(), "the system user")?;
    let database = words.next();
    let is_all = database.as_ref().is_some_and(|token| token.is("all"));
    let is_group = matches!(&database, Some(Token::Word(text)) if text.starts_with('+'));
    let database = text(database, "the database user")?;
    if words.next().is_some() {
        return Err("more than three fields: map, system user, database user".to_owned());
    }
    if is_group {
        return Err(format!("{database}: membership of a role is not known here; name the user, or all"));
    }
    let system = match system.strip_prefix('/') {
        None => SystemUser::Named(system),
        Some(pattern) => {
            let regex = Regex::new(pattern).map_err(|error| format!("the regular expression {pattern}: {error}"))?;
            SystemUser::Like(Box::new(regex))
        }
    };
    let database = match (&system, database.split_once("\\1")) {
        _ if is_all => DatabaseUser::All,
        (SystemUser::Like(pattern), Some((before, after))) => {
            if pattern.captures_len() < 2 {
                return Err(format!("{database}: the regular expression has no group in parentheses for \\1"));
            }
            DatabaseUser::Group { before: before.to_owned(), after: after.to_owned() }
        }
        (_, _) if database.starts_with('/') => {
            return Err(format!("{database}: regular expressions are understood for the system user only"));
        }
        (_, _) => DatabaseUser::Named(database),
    };
    Ok(Some((map, Line { system, database })))
}
