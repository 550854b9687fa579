//! How to ask an LDAP server (setting `auth_ldap_options`, and the options of the method `ldap` in `auth_hba_file`): the options
//! of PostgreSQL (docs, "LDAP Authentication"), cut into words as PgBouncer does: `key=value`, separated by white space or
//! commas, either in quotation marks.

use std::fmt;
use std::net::Ipv6Addr;

use zeroize::Zeroizing;

/// How to ask.
#[derive(Clone, PartialEq, Eq)]
pub struct LdapOptions {
    /// The servers to try in turn: a host name, or an address (IPv6 in brackets).
    pub hosts: Vec<String>,
    /// Their port.
    pub port: u16,
    /// TLS from the first byte (`ldapscheme=ldaps`).
    pub ldaps: bool,
    /// TLS by StartTLS (`ldaptls=1`); together with `ldaps` nobody can log in.
    pub start_tls: bool,
    /// By which way the user's entry is found.
    pub way: LdapWay,
}

/// By which way the user's entry is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LdapWay {
    /// Its name is prefix, user, suffix.
    Bind {
        /// `ldapprefix`
        prefix: String,
        /// `ldapsuffix`
        suffix: String,
    },
    /// It is looked for.
    Search(Box<LdapSearch>),
}

/// How the user's entry is looked for.
#[derive(Clone, PartialEq, Eq)]
pub struct LdapSearch {
    /// `ldapbasedn`
    pub base: String,
    /// `ldapbinddn`: as whom; empty: nobody in particular.
    pub bind_dn: String,
    /// `ldapbindpasswd`
    pub bind_password: Zeroizing<String>,
    /// How deep.
    pub scope: LdapScope,
    /// `ldapsearchfilter`, in which `$username` stands for the user, or made of `ldapsearchattribute`.
    filter: String,
}

/// How deep below the base to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LdapScope {
    /// The base itself.
    Base,
    /// One level.
    One,
    /// Everything.
    Subtree,
}

impl fmt::Debug for LdapOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LdapOptions").field("hosts", &self.hosts).field("port", &self.port).finish_non_exhaustive()
    }
}

impl fmt::Debug for LdapSearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LdapSearch").field("base", &self.base).finish_non_exhaustive()
    }
}

impl LdapSearch {
    /// The filter for this user; `None`: the name has a character that would change what the filter means.
    #[must_use]
    pub fn filter(&self, user: &str) -> Option<String> {
        (!user.contains(['*', '(', ')', '\\', '/', '\0'])).then(|| self.filter.replace("$username", user))
    }
}

impl LdapOptions {
    /// Reads the options, of a line of `auth_hba_file` up to a comment.
    ///
    /// # Errors
    /// What cannot be: never the value of an option.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut given, mut rest) = (Given::default(), text);
        while let Some((key, value, behind)) = option(rest)? {
            given.set(&key, value)?;
            rest = behind;
        }
        given.finish()
    }

    /// Is TLS asked for, in one way or both?
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        self.ldaps || self.start_tls
    }
}

#[derive(Default)]
struct Given {
    ldaps: Option<bool>,
    start_tls: bool,
    port: Option<u16>,
    server: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<Zeroizing<String>>,
    attribute: Option<String>,
    filter: Option<String>,
    base: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    scope: Option<LdapScope>,
}

impl Given {
    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "ldaptls" => self.start_tls = value == "1",
            "ldapscheme" => self.ldaps = Some(scheme(&value)?),
            "ldapport" => self.port = Some(port(&value)?),
            "ldapserver" => self.server = Some(value),
            "ldapbinddn" => self.bind_dn = Some(value),
            "ldapbindpasswd" => self.bind_password = Some(Zeroizing::new(value)),
            "ldapsearchattribute" => self.attribute = Some(value),
            "ldapsearchfilter" => self.filter = Some(value),
            "ldapbasedn" => self.base = Some(value),
            "ldapprefix" => self.prefix = Some(value),
            "ldapsuffix" => self.suffix = Some(value),
            "ldapurl" => self.url(&value)?,
            // Whatever else stands here may be the end of a password that should have been quoted.
            key if key.starts_with("ldap") => return Err(format!("invalid LDAP option: \"{key}\"")),
            _ => return Err("invalid LDAP option; put values with commas or spaces into quotation marks".to_owned()),
        }
        Ok(())
    }

    /// `scheme://host:port/base?attribute?scope?filter` (RFC 4516).
    fn url(&mut self, url: &str) -> Result<(), String> {
        let bad = |why: &str| format!("could not parse ldapurl: {why}");
        let (start, rest) = url.split_once("://").ok_or_else(|| bad("it does not begin with ldap:// or ldaps://"))?;
        self.ldaps = Some(scheme(&start.to_ascii_lowercase())?);
        let (place, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, digits) = match place.rsplit_once(':') {
            Some((host, digits)) if !digits.contains(']') => (host, Some(digits)),
            _ => (place, None),
        };
        self.port = digits.map(port).transpose()?;
        self.server = Some(host.to_owned()).filter(|host| !host.is_empty());
        let mut parts = rest.split('?').map(|part| unescape(part).ok_or_else(|| bad("an invalid % escape")));
        let mut next = || parts.next().transpose().map(|part| part.filter(|part| !part.is_empty()));
        self.base = next()?.or_else(|| self.base.take());
        if let Some(attributes) = next()? {
            self.attribute = attributes.split(',').next().map(str::to_owned);
        }
        self.scope = Some(match next()?.map(|scope| scope.to_ascii_lowercase()).as_deref() {
            None | Some("base") => LdapScope::Base,
            Some("one" | "onelevel") => LdapScope::One,
            Some("sub" | "subtree") => LdapScope::Subtree,
            Some(_) => return Err(bad("the scope is none of base, one, sub")),
        });
        if let Some(filter) = next()? {
            self.filter = Some(filter);
        }
        match next()? {
            Some(extension) if extension.starts_with('!') => Err(bad("a critical extension")),
            _ => Ok(()),
        }
    }

    fn finish(self) -> Result<LdapOptions, String> {
        let way = if self.prefix.is_some() || self.suffix.is_some() {
            let others = [&self.base, &self.bind_dn, &self.attribute, &self.filter];
            if self.bind_password.is_some() || others.iter().any(|other| other.is_some()) {
                return Err("cannot mix options for simple bind and search+bind modes".to_owned());
            }
            LdapWay::Bind { prefix: self.prefix.unwrap_or_default(), suffix: self.suffix.unwrap_or_default() }
        } else {
            let needed = "authentication method \"ldap\" requires argument \"ldapbasedn\", \"ldapprefix\", or \
                          \"ldapsuffix\" to be set";
            let base = self.base.ok_or_else(|| needed.to_owned())?;
            let filter = match (self.attribute, self.filter) {
                (Some(_), Some(_)) => {
                    return Err("cannot use ldapsearchattribute together with ldapsearchfilter".to_owned());
                }
                (None, Some(filter)) => filter,
                (attribute, None) => format!("({}=$username)", attribute.as_deref().unwrap_or("uid")),
            };
            LdapWay::Search(Box::new(LdapSearch {
                base,
                bind_dn: self.bind_dn.unwrap_or_default(),
                bind_password: self.bind_password.unwrap_or_default(),
                scope: self.scope.unwrap_or(LdapScope::Subtree),
                filter,
            }))
        };
        let hosts: Result<Vec<_>, _> =
            self.server.as_deref().unwrap_or_default().split_whitespace().map(host).collect();
        let (hosts, ldaps) = (hosts?, self.ldaps.unwrap_or(false));
        if hosts.is_empty() {
            return Err("no LDAP server: set ldapserver (servers are not looked up in DNS)".to_owned());
        }
        let port = self.port.unwrap_or(if ldaps { 636 } else { 389 });
        Ok(LdapOptions { hosts, port, ldaps, start_tls: self.start_tls, way })
    }
}

fn scheme(word: &str) -> Result<bool, String> {
    match word {
        "ldap" => Ok(false),
        "ldaps" => Ok(true),
        _ => Err(format!("invalid ldapscheme value: \"{word}\"")),
    }
}

fn port(digits: &str) -> Result<u16, String> {
    let port = digits.parse::<u16>().ok().filter(|port| *port != 0 && !digits.starts_with('+'));
    port.ok_or_else(|| format!("invalid LDAP port number: \"{digits}\""))
}

fn host(word: &str) -> Result<String, String> {
    let address = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
    if address.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{address}]"));
    }
    let is_name = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    is_name.then(|| word.to_owned()).ok_or_else(|| format!("invalid LDAP server \"{word}\": a host name or address"))
}

/// The next option, and what follows it; `None`: no more.
fn option(text: &str) -> Result<Option<(String, String, &str)>, String> {
    let text = text.trim_start_matches(|char: char| char.is_whitespace() || char == ',');
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let (key, rest) = match text.strip_prefix('"') {
        Some(text) => quoted(text)?,
        None => {
            let end = text.find(['=', ' ', '\t', ',']).unwrap_or(text.len());
            let (key, rest) = text.split_at_checked(end).unwrap_or((text, ""));
            (key.to_owned(), rest)
        }
    };
    let rest = rest.strip_prefix('=').ok_or("an LDAP option without =, or with a space before it")?;
    let (value, rest) = match rest.strip_prefix('"') {
        Some(rest) => quoted(rest)?,
        None => {
            let end = rest.find(|char: char| char.is_whitespace() || char == ',').unwrap_or(rest.len());
            let (value, rest) = rest.split_at_checked(end).unwrap_or((rest, ""));
            (value.to_owned(), rest)
        }
    };
    if value.is_empty() || value.contains('\0') {
        return Err(format!("the LDAP option {} has no value", if key.starts_with("ldap") { &key } else { "" }));
    }
    Ok(Some((key, value, rest)))
}

/// The text up to the closing quotation mark, and what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let (mut value, mut rest) = (String::new(), text);
    loop {
        let Some((part, behind)) = rest.split_once('"') else {
            return Err("a quotation mark is not closed".to_owned());
        };
        value.push_str(part);
        match behind.strip_prefix('"') {
            Some(behind) => {
                value.push('"');
                rest = behind;
            }
            None => return Ok((value, behind)),
        }
    }
}

/// Percent escapes (RFC 3986); `None` if one is broken.
fn unescape(text: &str) -> Option<String> {
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn search(text: &str) -> (LdapOptions, LdapSearch) {
        let options = LdapOptions::parse(text).unwrap();
        let LdapWay::Search(search) = options.way.clone() else { panic!("{text}") };
        (options, *search)
    }

    #[test]
    fn reads_simple_binds() {
        for text in [
            "ldapserver=127.0.0.1 ldapport=1389 ldapprefix=\"uid=\" ldapsuffix=\",dc=example,dc=net\"\n",
            "ldapserver=127.0.0.1,ldapport=1389 , \"ldapprefix\"=\"uid=\",ldapsuffix=\",dc=example,dc=net\" # ldaptls=1",
        ] {
            let options = LdapOptions::parse(text).unwrap();
            assert_eq!(
                (options.hosts.join(" "), options.port, options.wants_tls()),
                ("127.0.0.1".to_owned(), 1389, false)
            );
            let way = LdapWay::Bind { prefix: "uid=".to_owned(), suffix: ",dc=example,dc=net".to_owned() };
            assert_eq!(options.way, way, "{text}");
        }
    }

    #[test]
    fn reads_searches() {
        let (options, found) = search("ldapserver=\"a.example b\" ldapbasedn=\"dc=example\" ldaptls=1");
        assert_eq!((options.hosts.join(" "), options.port, options.start_tls), ("a.example b".to_owned(), 389, true));
        assert_eq!((found.filter("joe"), found.scope), (Some("(uid=joe)".to_owned()), LdapScope::Subtree));
        let (_, found) = search(
            "ldapserver=a ldapbasedn=\"x\" ldapsearchattribute=mail ldapbinddn=\"cn=\"\"m\"\"\" ldapbindpasswd=a#b",
        );
        assert_eq!((found.filter("joe"), found.bind_dn.as_str()), (Some("(mail=joe)".to_owned()), "cn=\"m\""));
        assert_eq!(found.bind_password.as_str(), "a#b");
        let (_, found) = search("ldapserver=a ldapbasedn=\"x\" ldapsearchfilter=\"uid=$username\"");
        assert_eq!(found.filter("$username"), Some("uid=$username".to_owned()));
    }

    #[test]
    fn reads_urls() {
        let (options, found) =
            search("ldapurl=\"ldaps://h:77/dc=example,dc=net??sub?(|(uid=$username)(mail=$username))\" ldaptls=1");
        assert_eq!((options.port, options.ldaps, options.start_tls), (77, true, true));
        assert_eq!((found.base.as_str(), found.scope), ("dc=example,dc=net", LdapScope::Subtree));
        assert_eq!(found.filter("joe"), Some("(|(uid=joe)(mail=joe))".to_owned()));
        let (options, found) = search("ldapurl=ldap://[::1]/o=a%20b?cn?one ldapport=5");
        assert_eq!((options.hosts.join(" "), options.port), ("[::1]".to_owned(), 5));
        assert_eq!(
            (found.base.as_str(), found.scope, found.filter("x")),
            ("o=a b", LdapScope::One, Some("(cn=x)".to_owned()))
        );
        assert_eq!(search("ldapurl=ldap://h/o=a").1.scope, LdapScope::Base);
        assert_eq!(search("ldapurl=LDAPS://h/o=a").0.port, 636);
    }

    #[test]
    fn names_that_would_change_a_filter_are_refused() {
        let (_, found) = search("ldapserver=a ldapbasedn=x");
        for user in ["*", "a(b", "a)b", "a\\b", "a/b", "a\0"] {
            assert_eq!(found.filter(user), None, "{user}");
        }
    }

    #[test]
    fn what_cannot_be_is_told_without_values() {
        for (text, words) in [
            ("", "requires argument \"ldapbasedn\""),
            ("ldapserver=a", "requires argument \"ldapbasedn\""),
            ("ldapbasedn=x", "no LDAP server"),
            ("ldapurl=ldap:///o=x", "no LDAP server"),
            ("ldapserver=a ldapprefix=x ldapbasedn=y", "cannot mix options"),
            ("ldapserver=a ldapsuffix=x ldapbindpasswd=y", "cannot mix options"),
            ("ldapserver=a ldapbasedn=x ldapsearchattribute=a ldapsearchfilter=b", "cannot use ldapsearchattribute"),
            ("ldapserver=a ldapbasedn=x ldapport=0", "invalid LDAP port number: \"0\""),
            ("ldapserver=a ldapbasedn=x ldapport=65536", "invalid LDAP port number"),
            ("ldapserver=a ldapbasedn=x ldapscheme=http", "invalid ldapscheme value: \"http\""),
            ("ldapserver=a/b ldapbasedn=x", "invalid LDAP server \"a/b\""),
            ("ldapserver=a ldapbasedn=x ldapfoo=1", "invalid LDAP option: \"ldapfoo\""),
            ("ldapserver=a ldapbasedn=dc=x,dc=y", "put values with commas"),
            ("ldapserver=a ldapbindpasswd=S3CRET,S3CRET=S3CRET", "put values with commas"),
            ("ldapserver=a ldapbindpasswd=\"S3CRET", "a quotation mark is not closed"),
            ("ldapserver=a ldapbindpasswd = S3CRET", "without ="),
            ("ldapserver=a S3CRET", "without ="),
            ("ldapserver=", "the LDAP option ldapserver has no value"),
            ("ldapurl=http://a/b", "invalid ldapscheme value"),
            ("ldapurl=a/b", "could not parse ldapurl"),
            ("ldapurl=ldap://a/b?c?deep", "the scope is none of"),
            ("ldapurl=ldap://a/%zz", "an invalid % escape"),
            ("ldapurl=ldap://a/b????!x", "a critical extension"),
        ] {
            let error = LdapOptions::parse(text).unwrap_err();
            assert!(error.contains(words) && !error.contains("S3CRET"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_and_debug_keeps_secrets(text in ".{0,80}", secret in "S3CRET[a-z]{0,8}") {
            let _ = LdapOptions::parse(&text);
            let (options, found) = search(&format!("ldapserver=a ldapbasedn=x ldapbindpasswd={secret}"));
            prop_assert_eq!(found.bind_password.as_str(), &secret);
            let printed = format!("{options:?} {found:?}");
            prop_assert!(!printed.contains("S3CRET"));
        }
    }
}
