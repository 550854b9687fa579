//! One certificate, read: all that judging it needs, in our own words.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::constraints::{Constraints, Subtree};
use super::der::{self, Envelope};
use super::dn::{self, Name};

/// A name of the subjectAltName extension (RFC 5280, 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AltName {
    Dns(String),
    /// 4 or 16 octets if the certificate is right.
    Ip(Vec<u8>),
    Directory(Name),
    Email,
    /// A kind that we only compare by kind.
    Other(&'static str),
    /// A name that cannot be read; it matches nothing.
    Unreadable,
}

/// What the certificate says about being a CA (basicConstraints, 4.2.1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BasicConstraints {
    pub(super) ca: bool,
    pub(super) path_length: Option<u32>,
}

/// keyUsage (4.2.1.3), the bits that count here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyUsage {
    pub(super) digital_signature: bool,
    pub(super) key_encipherment: bool,
    pub(super) key_agreement: bool,
    pub(super) key_cert_sign: bool,
}

/// extKeyUsage (4.2.1.12), the purposes that count here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purposes {
    pub(super) server_auth: bool,
    pub(super) client_auth: bool,
}

/// A certificate's contents. Times are seconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    der: CertificateDer<'static>,
    pub(super) subject: Name,
    pub(super) issuer: Name,
    pub(super) subject_has_email: bool,
    pub(super) common_name: Option<String>,
    pub(super) alt_names: Vec<AltName>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// X.509 version 1: no extensions exist.
    pub(super) is_version1: bool,
    pub(super) signature_oid: String,
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) purposes: Option<Purposes>,
    pub(super) constraints: Option<Constraints>,
    /// The first critical extension that nobody here handles.
    pub(super) unhandled_critical: Option<String>,
}

/// The DER is not a certificate, or an extension that counts cannot be read or is there twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Extensions that may be critical although only their presence is known here: policies are not asked for (OpenSSL's default as
/// well), CRLs are not fetched, and the rest only helps to find certificates.
const HARMLESS_WHEN_CRITICAL: &[&str] = &[
    "2.5.29.14", // subjectKeyIdentifier
    "2.5.29.18", // issuerAltName
    "2.5.29.31", // cRLDistributionPoints
    "2.5.29.32", // certificatePolicies
    "2.5.29.33", // policyMappings
    "2.5.29.35", // authorityKeyIdentifier
    "2.5.29.36", // policyConstraints
    "2.5.29.54", // inhibitAnyPolicy
];
/// Extensions that decide: if one cannot be read, the certificate is refused.
const DECIDING: &[&str] = &[
    "2.5.29.15", // keyUsage
    "2.5.29.17", // subjectAltName
    "2.5.29.19", // basicConstraints
    "2.5.29.30", // nameConstraints
    "2.5.29.37", // extKeyUsage
];

impl Certificate {
    /// Reads a certificate.
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let (rest, parsed) = X509Certificate::from_der(der.as_ref()).map_err(|_| Unreadable)?;
        if !rest.is_empty() || der::envelope(der.as_ref()).is_none() {
            return Err(Unreadable);
        }
        let subject = parsed.subject().as_raw();
        let mut certificate = Self {
            der: der.clone().into_owned(),
            subject: Name::read(subject),
            issuer: Name::read(parsed.issuer().as_raw()),
            subject_has_email: dn::has_email_address(subject),
            common_name: dn::common_name(subject),
            alt_names: Vec::new(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            is_version1: parsed.version() == X509Version::V1,
            signature_oid: parsed.signature_algorithm.algorithm.to_id_string(),
            basic_constraints: None,
            key_usage: None,
            purposes: None,
            constraints: None,
            unhandled_critical: None,
        };
        let extensions = parsed.extensions();
        for (index, extension) in extensions.iter().enumerate() {
            if extensions.iter().take(index).any(|earlier| earlier.oid == extension.oid) {
                return Err(Unreadable);
            }
            certificate.take_extension(extension)?;
        }
        Ok(certificate)
    }

    fn take_extension(&mut self, extension: &X509Extension<'_>) -> Result<(), Unreadable> {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(found) => {
                self.basic_constraints =
                    Some(BasicConstraints { ca: found.ca, path_length: found.path_len_constraint });
            }
            ParsedExtension::KeyUsage(found) => {
                self.key_usage = Some(KeyUsage {
                    digital_signature: found.digital_signature(),
                    key_encipherment: found.key_encipherment(),
                    key_agreement: found.key_agreement(),
                    key_cert_sign: found.key_cert_sign(),
                });
            }
            ParsedExtension::ExtendedKeyUsage(found) => {
                self.purposes = Some(Purposes { server_auth: found.server_auth, client_auth: found.client_auth });
            }
            ParsedExtension::SubjectAlternativeName(found) => {
                self.alt_names = found.general_names.iter().map(alt_name).collect();
            }
            ParsedExtension::NameConstraints(found) => {
                let read = |subtrees: &Option<Vec<x509_parser::extensions::GeneralSubtree<'_>>>| -> Vec<Subtree> {
                    subtrees.iter().flatten().map(|subtree| alt_name(&subtree.base).into()).collect()
                };
                self.constraints = Some(Constraints {
                    permitted: read(&found.permitted_subtrees),
                    excluded: read(&found.excluded_subtrees),
                });
            }
            _ => {
                let oid = extension.oid.to_id_string();
                if DECIDING.contains(&oid.as_str()) {
                    return Err(Unreadable);
                }
                if extension.critical && !HARMLESS_WHEN_CRITICAL.contains(&oid.as_str()) {
                    self.unhandled_critical.get_or_insert(oid);
                }
            }
        }
        Ok(())
    }

    /// The whole certificate.
    pub(super) fn der(&self) -> &[u8] {
        self.der.as_ref()
    }

    /// The signed part, the signature and the key.
    pub(super) fn envelope(&self) -> Option<Envelope<'_>> {
        der::envelope(self.der.as_ref())
    }

    /// Are subject and issuer the same?
    pub(super) fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }
}

fn alt_name(name: &GeneralName<'_>) -> AltName {
    match name {
        GeneralName::DNSName(text) if text.contains('\0') => AltName::Unreadable,
        GeneralName::DNSName(text) => AltName::Dns((*text).to_owned()),
        GeneralName::IPAddress(octets) => AltName::Ip(octets.to_vec()),
        GeneralName::DirectoryName(name) => AltName::Directory(Name::read(name.as_raw())),
        GeneralName::RFC822Name(_) => AltName::Email,
        GeneralName::URI(_) => AltName::Other("URI"),
        GeneralName::OtherName(..) => AltName::Other("otherName"),
        GeneralName::X400Address(_) => AltName::Other("x400Address"),
        GeneralName::EDIPartyName(_) => AltName::Other("ediPartyName"),
        GeneralName::RegisteredID(_) => AltName::Other("registeredID"),
        GeneralName::Invalid(..) => AltName::Unreadable,
    }
}
