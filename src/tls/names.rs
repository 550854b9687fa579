//! Is a certificate made out to this host, or to this user?
//!
//! Hosts are matched as libpq does (PostgreSQL docs, 34.19.1 "Client Verification of Server Certificates"): the
//! subjectAltName decides if it has a name of the host's kind; only else does the CN. PgBouncer also looks at the CN when a
//! subjectAltName of that kind is there and does not match; that is not followed (RFC 6125, 6.4.4). Wildcards are
//! PgBouncer's: `*.` in front of at least two labels, standing for exactly one label, never for part of an IP address.

use std::net::IpAddr;

use rustls_pki_types::{CertificateDer, ServerName};

use super::certificate::{AltName, Certificate};

/// Does the certificate belong to the host?
pub(super) fn host_matches(certificate: &Certificate, host: &ServerName<'_>) -> bool {
    match host {
        ServerName::DnsName(name) => dns_host_matches(certificate, name.as_ref()),
        ServerName::IpAddress(address) => ip_host_matches(certificate, IpAddr::from(*address)),
        _ => false,
    }
}

fn dns_host_matches(certificate: &Certificate, host: &str) -> bool {
    let mut dns_names = certificate.alt_names.iter().filter_map(dns_name).peekable();
    if dns_names.peek().is_some() {
        return dns_names.any(|name| name_matches(name, host));
    }
    // A name that cannot be read may have been the one that counts: no way round it by the CN.
    let readable = !certificate.alt_names.contains(&AltName::Unreadable);
    readable && certificate.common_name.as_deref().is_some_and(|name| name_matches(name, host))
}

/// An address matches an iPAddress by its octets, and a dNSName or CN by its text. The CN counts if there is no iPAddress.
fn ip_host_matches(certificate: &Certificate, host: IpAddr) -> bool {
    let is_text_of_host = |text: &str| text.parse() == Ok(host);
    let mut has_address = false;
    for name in &certificate.alt_names {
        match name {
            AltName::Ip(octets) => {
                has_address = true;
                if address(octets) == Some(host) {
                    return true;
                }
            }
            AltName::Dns(text) if is_text_of_host(text) => return true,
            _ => {}
        }
    }
    !has_address && certificate.common_name.as_deref().is_some_and(is_text_of_host)
}

fn dns_name(name: &AltName) -> Option<&str> {
    match name {
        AltName::Dns(text) => Some(text),
        _ => None,
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(octets).map(IpAddr::from).ok())
}

/// Compares one name of a certificate with a host name.
fn name_matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return !pattern.is_empty();
    }
    let Some(pattern_domain) = pattern.strip_prefix("*.") else {
        return false;
    };
    let Some((host_label, host_domain)) = host.split_once('.') else {
        return false;
    };
    let has_two_labels =
        pattern_domain.split('.').count() >= 2 && pattern_domain.split('.').all(|label| !label.is_empty());
    has_two_labels && !host_label.is_empty() && pattern_domain.eq_ignore_ascii_case(host_domain)
}

/// The names that the certificate is made out to, for error texts.
pub(super) fn presented(certificate: &Certificate) -> Vec<String> {
    let mut names: Vec<String> = certificate
        .alt_names
        .iter()
        .filter_map(|name| match name {
            AltName::Dns(text) => Some(text.clone()),
            AltName::Ip(octets) => address(octets).map(|address| address.to_string()),
            _ => None,
        })
        .take(8)
        .collect();
    if names.is_empty() {
        names.extend(certificate.common_name.clone());
    }
    names
}

/// The common name of a certificate (DER), for logs. The certificate must already be verified.
#[must_use]
pub fn peer_common_name(certificate: &[u8]) -> Option<String> {
    Certificate::read(&CertificateDer::from(certificate)).ok()?.common_name
}

/// Is this verified client certificate (DER) made out to `user` (PgBouncer: `auth_type=cert`)?
///
/// As in PgBouncer the user may stand in the CN or in a dNSName of the subjectAltName, and upper and lower case are the same.
/// Wildcards never count: a certificate for hosts is not one for users.
#[must_use]
pub fn certificate_names_user(certificate: &[u8], user: &str) -> bool {
    let Ok(certificate) = Certificate::read(&CertificateDer::from(certificate)) else {
        return false;
    };
    let mut names = certificate.alt_names.iter().filter_map(dns_name).chain(certificate.common_name.as_deref());
    !user.is_empty() && names.any(|name| name.eq_ignore_ascii_case(user))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards_stand_for_one_label_in_front_of_two() {
        for (pattern, host, matches) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.com", "example.com", false),
            ("*", "localhost", false),
            ("*.", "localhost.", false),
            ("d*.example.com", "db.example.com", false),
            ("*.*.com", "a.b.com", false),
            ("*..com", "a..com", false),
            ("", "", false),
        ] {
            assert_eq!(name_matches(pattern, host), matches, "{pattern} {host}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_names_never_panic(pattern in "\\PC{0,30}", host in "\\PC{0,30}") {
            let _ = name_matches(&pattern, &host);
        }

        #[test]
        fn arbitrary_certificates_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!certificate_names_user(&bytes, "x"));
            prop_assert!(peer_common_name(&bytes).is_none());
        }
    }
}
