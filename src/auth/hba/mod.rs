//! Access rules (`auth_type = hba`): reads `auth_hba_file` and `auth_ident_file` and decides which line holds for a client.
//! Must never know of files (the text comes in as bytes, a file that a line names through a callback), sockets or settings.
//!
//! Sources: PgBouncer docs "HBA file format" and "Ident map file format"; PostgreSQL docs "The pg_hba.conf File" and "User Name
//! Maps". PgBouncer leaves out a line that it cannot read, and whoever that line should have refused may be let in by a later
//! one; here such a line is an error, and the caller must not use the rules.

mod ident;
mod parse;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

pub use ident::{IdentMap, IdentMaps};

use super::Method;
use super::ldap::LdapOptions;

/// A line that cannot be used, or does not do what it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Counted from 1.
    pub line: usize,
    /// Must the file not be used?
    pub is_error: bool,
    /// What is wrong; never a secret.
    pub text: String,
}

/// More findings of one file are only counted.
const MAX_FINDINGS: usize = 50;

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn error(&mut self, line: usize, text: String) {
        self.add(Finding { line, is_error: true, text });
    }

    fn warning(&mut self, line: usize, text: String) {
        self.add(Finding { line, is_error: false, text });
    }

    fn add(&mut self, finding: Finding) {
        if self.list.len() < MAX_FINDINGS {
            self.list.push(finding);
        } else if let Some(last) = self.list.last_mut() {
            let is_error = last.is_error || finding.is_error;
            *last = Finding { line: last.line, is_error, text: "more lines like these from here on".to_owned() };
        }
    }
}

/// Reads a file that a line names with `@`; the path is as written, or beside the file of rules.
pub type ReadNames<'a> = dyn FnMut(&str) -> Result<Vec<u8>, String> + 'a;

/// The lines of `auth_hba_file`.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Where it stands, counted from 1.
    pub line: usize,
    /// How a client for which it holds must prove who it is.
    pub method: Method,
    /// Option `map`: who may log in as whom.
    pub map: Option<Arc<IdentMap>>,
    /// How to ask the LDAP server, with the method `ldap`.
    pub ldap: Option<Arc<LdapOptions>>,
    kind: Kind,
    databases: Names,
    users: Names,
}

/// The record types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Host { tls: Tls, from: Address },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tls {
    Either,
    With,
    Without,
    /// GSS encryption, which no client has here.
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Address {
    All,
    V4 { base: u32, mask: u32 },
    V6 { base: u128, mask: u128 },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    /// `sameuser`: database and user have one name.
    same: bool,
    /// `replication`: physical replication, which is to no database.
    replication: bool,
    names: BTreeSet<String>,
}

/// A client at the door.
#[derive(Clone, Copy, Debug)]
pub struct Knock<'a> {
    /// Its address; `None`: by a Unix socket.
    pub from: Option<IpAddr>,
    /// By TLS.
    pub tls: bool,
    /// Wants physical replication.
    pub replication: bool,
    /// The database that it named.
    pub database: &'a str,
    /// The user that it named.
    pub user: &'a str,
}

impl Rules {
    /// Reads the whole file. Lines that cannot be read are left out; if there is one (a finding that is an error) the rules must
    /// not be used.
    pub fn parse(file: &[u8], maps: &IdentMaps, read: &mut ReadNames<'_>) -> (Self, Vec<Finding>) {
        parse::rules(file, maps, read)
    }

    /// The first line that holds for a client; `None`: it must be turned away.
    #[must_use]
    pub fn find(&self, knock: &Knock<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.holds(knock))
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How LDAP servers are asked by lines of the method `ldap`.
    pub fn ldap_options(&self) -> impl Iterator<Item = &Arc<LdapOptions>> {
        self.rules.iter().filter_map(|rule| rule.ldap.as_ref())
    }

    /// The methods that lines ask for.
    pub fn methods(&self) -> impl Iterator<Item = Method> {
        self.rules.iter().map(|rule| rule.method)
    }
}

impl Rule {
    fn holds(&self, knock: &Knock<'_>) -> bool {
        let place = match (self.kind, knock.from) {
            (Kind::Local, None) => true,
            (Kind::Host { tls, from }, Some(address)) => tls.admits(knock.tls) && from.holds(address),
            (Kind::Local, Some(_)) | (Kind::Host { .. }, None) => false,
        };
        let database = if knock.replication {
            self.databases.replication
        } else {
            self.databases.hold(knock.database, knock.user)
        };
        place && database && self.users.hold(knock.user, knock.database)
    }
}

impl Tls {
    fn admits(self, tls: bool) -> bool {
        match self {
            Self::Either => true,
            Self::With => tls,
            Self::Without => !tls,
            Self::Never => false,
        }
    }
}

impl Address {
    /// The base is compared as written: bits beyond the mask make it match nobody, as in PgBouncer.
    fn holds(self, address: IpAddr) -> bool {
        // An IPv4 client that comes to an IPv6 socket has its own address still.
        match (self, address.to_canonical()) {
            (Self::All, _) => true,
            (Self::V4 { base, mask }, IpAddr::V4(address)) => address.to_bits() & mask == base,
            (Self::V6 { base, mask }, IpAddr::V6(address)) => address.to_bits() & mask == base,
            (Self::V4 { .. }, IpAddr::V6(_)) | (Self::V6 { .. }, IpAddr::V4(_)) => false,
        }
    }

    fn has_stray_bits(self) -> bool {
        match self {
            Self::All => false,
            Self::V4 { base, mask } => base & !mask != 0,
            Self::V6 { base, mask } => base & !mask != 0,
        }
    }
}

impl Names {
    fn hold(&self, name: &str, other: &str) -> bool {
        self.all || (self.same && name == other) || self.names.contains(name)
    }
}
