//! Lines of `auth_hba_file` to rules.

use std::iter::Peekable;
use std::net::IpAddr;
use std::sync::Arc;
use std::vec::IntoIter;

use super::tokens::{Line, Token, lines};
use super::{Address, Finding, Findings, IdentMaps, Kind, Names, ReadNames, Rule, Rules, Tls};
use crate::auth::Method;
use crate::auth::ldap::LdapOptions;

/// Files of names that name files of names: deeper than this is a circle.
const MAX_DEPTH: u8 = 10;

pub(super) fn rules(file: &[u8], maps: &IdentMaps, read: &mut ReadNames<'_>) -> (Rules, Vec<Finding>) {
    let (mut rules, mut findings) = (Rules::default(), Findings::default());
    for (number, line) in lines(file) {
        let mut reader = Reader { number, maps, read: &mut *read, warnings: Vec::new() };
        match reader.line(line) {
            Ok(None) => {}
            Ok(Some(rule)) => rules.rules.push(rule),
            Err(text) => findings.error(number, text),
        }
        for text in reader.warnings {
            findings.warning(number, text);
        }
    }
    (rules, findings.list)
}

type Words = Peekable<IntoIter<Token>>;

/// Which column names stand in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Database,
    User,
}

struct Reader<'a, 'b> {
    number: usize,
    maps: &'a IdentMaps,
    read: &'a mut ReadNames<'b>,
    warnings: Vec<String>,
}

impl Reader<'_, '_> {
    fn line(&mut self, line: &[u8]) -> Result<Option<Rule>, String> {
        let line = Line::read(line)?;
        let count = line.tokens.len();
        let mut words = line.tokens.clone().into_iter().peekable();
        let Some(kind) = words.next() else { return Ok(None) };
        let tls = match &kind {
            Token::Word(word) => match word.as_str() {
                "local" => None,
                "host" | "hostnogssenc" => Some(Tls::Either),
                "hostssl" => Some(Tls::With),
                "hostnossl" => Some(Tls::Without),
                "hostgssenc" => Some(Tls::Never),
                "include" | "include_if_exists" | "include_dir" => {
                    return Err(format!("{word}: other files of rules cannot be included; write their lines here"));
                }
                word => return Err(unknown_type(word)),
            },
            Token::Quoted(word) => return Err(unknown_type(word)),
            Token::Comma => return Err(unknown_type(",")),
        };
        let databases = self.names(&mut words, Column::Database)?;
        let users = self.names(&mut words, Column::User)?;
        let kind = match tls {
            None => Kind::Local,
            Some(tls) => Kind::Host { tls, from: self.address(&mut words)? },
        };
        if tls == Some(Tls::Never) {
            self.warnings.push("no client comes by GSS encryption, so this line holds for nobody".to_owned());
        }
        let method = self.method(&mut words, kind)?;
        let mut rule = Rule { line: self.number, method, map: None, ldap: None, kind, databases, users };
        if method == Method::Ldap {
            // Their words are cut in a way of their own.
            let options = LdapOptions::parse(line.behind(count - words.len() - 1))?;
            if options.ldaps && options.start_tls {
                self.warnings.push("ldaptls=1 and ldaps exclude each other, so this line refuses everybody".to_owned());
            }
            rule.ldap = Some(Arc::new(options));
        } else {
            self.options(&mut words, &mut rule)?;
        }
        Ok(Some(rule))
    }

    fn names(&mut self, words: &mut Words, column: Column) -> Result<Names, String> {
        let mut names = Names::default();
        loop {
            let Some(token) = words.next() else { return Err(format!("{} is missing", what(column))) };
            self.name(token, column, &mut names, 0)?;
            if words.next_if(|token| *token == Token::Comma).is_none() {
                return Ok(names);
            }
        }
    }

    fn name(&mut self, token: Token, column: Column, names: &mut Names, depth: u8) -> Result<(), String> {
        let word = match token {
            Token::Comma => return Err(format!("{} is missing before a comma", what(column))),
            Token::Quoted(name) => {
                names.names.insert(name);
                return Ok(());
            }
            Token::Word(word) => word,
        };
        match (word.as_str(), column) {
            ("all", _) => names.all = true,
            ("sameuser", _) => names.same = true,
            ("replication", Column::Database) => names.replication = true,
            ("samerole" | "samegroup", _) => return Err(format!("{word} is not supported: roles are not known here")),
            (word, _) if word.starts_with('+') => {
                return Err(format!("{word}: membership of a role is not known here; list its members"));
            }
            (word, _) if word.starts_with('@') => self.name_file(word, column, names, depth)?,
            (word, _) => {
                if word.starts_with('/') {
                    let text =
                        format!("{word}: regular expressions are not understood here; it counts as a plain name");
                    self.warnings.push(text);
                }
                names.names.insert(word.to_owned());
            }
        }
        Ok(())
    }

    /// `@file`: names separated by white space or commas.
    fn name_file(&mut self, word: &str, column: Column, names: &mut Names, depth: u8) -> Result<(), String> {
        let path = word.get(1..).filter(|path| !path.is_empty()).ok_or("the name of a file is missing behind @")?;
        if depth >= MAX_DEPTH {
            return Err(format!("{word}: files of names that name each other"));
        }
        let file = (self.read)(path).map_err(|error| format!("could not open {word}: {error}"))?;
        for (number, line) in lines(&file) {
            let at = |error: String| format!("{word}, line {number}: {error}");
            for token in Line::read(line).map_err(at)?.tokens {
                if token != Token::Comma {
                    self.name(token, column, names, depth + 1).map_err(at)?;
                }
            }
        }
        Ok(())
    }

    fn address(&mut self, words: &mut Words) -> Result<Address, String> {
        let Some(text) = words.next().and_then(|token| match token {
            Token::Word(word) => Some(word),
            Token::Quoted(_) | Token::Comma => None,
        }) else {
            return Err("the address is missing".to_owned());
        };
        if text == "all" {
            return Ok(Address::All);
        }
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text.as_str(), None),
        };
        let Ok(base) = base.parse::<IpAddr>() else {
            return Err(format!(
                "invalid address {text}: an IP address, or all, is wanted (host names, samehost and samenet are not \
                 supported)"
            ));
        };
        let address = match prefix {
            Some(prefix) => by_prefix(base, prefix)?,
            None => by_mask(base, words.next())?,
        };
        if address.has_stray_bits() {
            let text = format!("the address does not match its mask, so this line holds for nobody: {text}");
            self.warnings.push(text);
        }
        Ok(address)
    }

    fn method(&mut self, words: &mut Words, kind: Kind) -> Result<Method, String> {
        let Some(Token::Word(word)) = words.next() else { return Err("the method is missing".to_owned()) };
        let method = match word.as_str() {
            "trust" => Method::Trust,
            "reject" => Method::Reject,
            "md5" => Method::Md5,
            "password" => Method::Plain,
            "scram-sha-256" => Method::ScramSha256,
            "scram-sha-256-plus" => Method::ScramSha256Plus,
            "cert" => Method::Cert,
            "peer" => Method::Peer,
            "ldap" => Method::Ldap,
            _ => {
                return Err(format!(
                    "unsupported method {word}: trust, reject, md5, password, scram-sha-256, scram-sha-256-plus, cert, \
                     peer or ldap is wanted"
                ));
            }
        };
        let futile = match (method, kind) {
            (Method::Cert, Kind::Local | Kind::Host { tls: Tls::Without, .. }) => {
                "without TLS nobody has a certificate"
            }
            (Method::Peer, Kind::Host { .. }) => "only a Unix socket tells who is at its other end",
            _ => return Ok(method),
        };
        self.warnings.push(format!("{word}: {futile}, so this line refuses everybody"));
        Ok(method)
    }

    fn options(&mut self, words: &mut Words, rule: &mut Rule) -> Result<(), String> {
        while let Some(token) = words.next() {
            let Token::Word(option) = token else { return Err("unexpected text behind the method".to_owned()) };
            let Some(map) = option.strip_prefix("map=") else {
                return Err(format!("unsupported option {option}: only map=NAME is understood"));
            };
            let quoted = words.next_if(|token| map.is_empty() && matches!(token, Token::Quoted(_)));
            let name = quoted.and_then(Token::text).unwrap_or_else(|| map.to_owned());
            let found = self.maps.get(&name);
            rule.map = Some(found.cloned().ok_or_else(|| format!("map={name} is not found in auth_ident_file"))?);
            if !matches!(rule.method, Method::Cert | Method::Peer) {
                self.warnings.push("map= has an effect on cert and peer only".to_owned());
            }
        }
        Ok(())
    }
}

fn what(column: Column) -> &'static str {
    match column {
        Column::Database => "the database",
        Column::User => "the user",
    }
}

fn unknown_type(word: &str) -> String {
    format!("unknown type {word}: local, host, hostssl, hostnossl, hostgssenc or hostnogssenc is wanted")
}

fn by_prefix(base: IpAddr, prefix: &str) -> Result<Address, String> {
    let width = if base.is_ipv4() { 32 } else { 128 };
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let bits = prefix.parse::<u32>().ok().filter(|bits| digits && *bits <= width);
    let bits = bits.ok_or_else(|| format!("invalid mask /{prefix}: a number from 0 to {width} is wanted"))?;
    Ok(match base {
        IpAddr::V4(base) => {
            Address::V4 { base: base.to_bits(), mask: u32::MAX.checked_shl(width - bits).unwrap_or_default() }
        }
        IpAddr::V6(base) => {
            Address::V6 { base: base.to_bits(), mask: u128::MAX.checked_shl(width - bits).unwrap_or_default() }
        }
    })
}

fn by_mask(base: IpAddr, mask: Option<Token>) -> Result<Address, String> {
    let Some(Token::Word(text)) = mask else { return Err("the address has no mask: write address/bits".to_owned()) };
    match (base, text.parse::<IpAddr>()) {
        (IpAddr::V4(base), Ok(IpAddr::V4(mask))) => Ok(Address::V4 { base: base.to_bits(), mask: mask.to_bits() }),
        (IpAddr::V6(base), Ok(IpAddr::V6(mask))) => Ok(Address::V6 { base: base.to_bits(), mask: mask.to_bits() }),
        _ => Err(format!("the address has no mask: write {base}/bits; {text} is no mask for it")),
    }
}
