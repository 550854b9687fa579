//! nameConstraints (RFC 5280, 4.2.1.10): a CA that may speak only for some names.

use super::certificate::{AltName, Certificate};
use super::chain::Purpose;
use super::dn::Name;

/// One subtree of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subtree(AltName);

impl From<AltName> for Subtree {
    fn from(base: AltName) -> Self {
        Self(base)
    }
}

/// The names that a CA may and may not certify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Constraints {
    pub(super) permitted: Vec<Subtree>,
    pub(super) excluded: Vec<Subtree>,
}

impl Constraints {
    /// Do all names of the certificate keep to them? The error is the kind of name that does not.
    pub(super) fn check(&self, certificate: &Certificate, purpose: Purpose) -> Result<(), &'static str> {
        let subtrees = || self.permitted.iter().chain(&self.excluded);
        if subtrees().any(|subtree| subtree.0 == AltName::Unreadable) {
            return Err("unreadable constraint");
        }
        let mut names = certificate.alt_names.clone();
        if !certificate.subject.is_empty() {
            names.push(AltName::Directory(certificate.subject.clone()));
        }
        if certificate.subject_has_email {
            names.push(AltName::Email);
        }
        names.extend(host_in_common_name(certificate, purpose));
        for name in &names {
            if self.excluded.iter().any(|subtree| subtree.excludes(name)) {
                return Err(kind(name));
            }
            let mut same_kind = self.permitted.iter().filter(|subtree| kind(&subtree.0) == kind(name)).peekable();
            if same_kind.peek().is_some() && !same_kind.any(|subtree| subtree.contains(name)) {
                return Err(kind(name));
            }
        }
        Ok(())
    }
}

/// The CN where it may stand for a host name: without it a constrained CA could get round its limits by leaving the
/// subjectAltName out. A client's CN is mostly a user name; only what looks like a domain counts there (as in OpenSSL).
fn host_in_common_name(certificate: &Certificate, purpose: Purpose) -> Option<AltName> {
    if certificate.alt_names.iter().any(|name| matches!(name, AltName::Dns(_))) {
        return None;
    }
    let name = certificate.common_name.as_ref()?;
    let host_like = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte));
    (host_like && (purpose == Purpose::Server || name.contains('.'))).then(|| AltName::Dns(name.clone()))
}

fn kind(name: &AltName) -> &'static str {
    match name {
        AltName::Dns(_) => "dNSName",
        AltName::Ip(_) => "iPAddress",
        AltName::Directory(_) => "directoryName",
        AltName::Email => "rfc822Name",
        AltName::Other(kind) => kind,
        AltName::Unreadable => "unreadable name",
    }
}

impl Subtree {
    /// Does a name surely lie in the subtree? Kinds that we cannot compare never do.
    fn contains(&self, name: &AltName) -> bool {
        match (&self.0, name) {
            (AltName::Dns(base), AltName::Dns(name)) => dns_within(name, base),
            (AltName::Ip(base), AltName::Ip(address)) => ip_within(address, base),
            (AltName::Directory(base), AltName::Directory(name)) => directory_within(name, base),
            _ => false,
        }
    }

    /// Might a name lie in the subtree? Kinds that we cannot compare may.
    fn excludes(&self, name: &AltName) -> bool {
        match (&self.0, name) {
            (AltName::Dns(base), AltName::Dns(name)) => {
                // A wildcard name stands for all its children, one of which may be the excluded one.
                let parent = name.strip_prefix("*.").filter(|parent| dns_within(base.trim_start_matches('.'), parent));
                dns_within(name, base) || parent.is_some()
            }
            (AltName::Ip(_), AltName::Ip(_)) | (AltName::Directory(_), AltName::Directory(_)) => self.contains(name),
            (base, name) => kind(base) == kind(name),
        }
    }
}

/// Is `name` the domain `base` or below it? `.base` means only below; the empty base is everything.
fn dns_within(name: &str, base: &str) -> bool {
    let (name, base) = (name.to_ascii_lowercase(), base.to_ascii_lowercase());
    match name.strip_suffix(&base) {
        Some(head) => base.is_empty() || base.starts_with('.') || head.is_empty() || head.ends_with('.'),
        None => false,
    }
}

/// `base` is an address followed by a mask of the same length.
fn ip_within(address: &[u8], base: &[u8]) -> bool {
    if base.len() != address.len() * 2 {
        return false;
    }
    let (network, mask) = base.split_at(address.len());
    address.iter().zip(network).zip(mask).all(|((octet, network), mask)| octet & mask == network & mask)
}

fn directory_within(name: &Name, base: &Name) -> bool {
    name.is_within(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains() {
        for (name, base, within) in [
            ("db.example.com", "example.com", true),
            ("EXAMPLE.com", "example.COM", true),
            ("badexample.com", "example.com", false),
            ("db.example.com", ".example.com", true),
            ("example.com", ".example.com", false),
            ("anything", "", true),
            ("*.example.com", "example.com", true),
        ] {
            assert_eq!(dns_within(name, base), within, "{name} {base}");
        }
    }

    #[test]
    fn a_wildcard_may_hide_an_excluded_child() {
        let excluded = Subtree(AltName::Dns("secret.example.com".into()));
        assert!(excluded.excludes(&AltName::Dns("*.example.com".into())));
        assert!(!excluded.excludes(&AltName::Dns("*.example.org".into())));
    }

    #[test]
    fn networks() {
        let base = [10, 1, 0, 0, 255, 255, 0, 0];
        assert!(ip_within(&[10, 1, 2, 3], &base) && !ip_within(&[10, 2, 2, 3], &base));
        assert!(!ip_within(&[0; 16], &base) && !ip_within(&[], &base));
    }

    #[test]
    fn kinds_that_cannot_be_compared_are_refused() {
        let email = Subtree(AltName::Email);
        assert!(email.excludes(&AltName::Email) && !email.contains(&AltName::Email));
        assert!(!email.excludes(&AltName::Dns("x".into())));
    }
}
