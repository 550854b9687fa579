//! Distinguished names (RFC 5280, 4.1.2.4): compared the way OpenSSL compares them, and the CN as text.

use super::der::{self, SEQUENCE};

const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const TELETEX_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const VISIBLE_STRING: u8 = 0x1a;
const BMP_STRING: u8 = 0x1e;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 1.2.840.113549.1.9.1
const EMAIL_ADDRESS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01];

/// A name, made comparable: string types, letter case and runs of blanks do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Name {
    relative_names: Vec<Vec<u8>>,
}

impl Name {
    /// Reads the DER of a Name. What is not one stays comparable byte by byte.
    pub(super) fn read(der: &[u8]) -> Self {
        let relative_names = relative_names(der)
            .and_then(|names| names.into_iter().map(canonical).collect())
            .unwrap_or_else(|| vec![der.to_vec()]);
        Self { relative_names }
    }

    /// Has it no attribute at all?
    pub(super) fn is_empty(&self) -> bool {
        self.relative_names.is_empty()
    }

    /// Does it lie in the subtree of `base` (RFC 5280, 4.2.1.10, directoryName)?
    pub(super) fn is_within(&self, base: &Self) -> bool {
        self.relative_names.starts_with(&base.relative_names)
    }
}

/// The SETs of a name.
fn relative_names(der: &[u8]) -> Option<Vec<&[u8]>> {
    let mut rest = der::expect(der, SEQUENCE)?.value;
    let mut sets = Vec::new();
    while !rest.is_empty() {
        let set = der::expect(rest, SET)?;
        sets.push(set.value);
        rest = set.rest;
    }
    Some(sets)
}

/// One attribute: type, string tag, value.
struct Attribute<'a> {
    oid: &'a [u8],
    tag: u8,
    value: &'a [u8],
}

fn attributes(mut set: &[u8]) -> Option<Vec<Attribute<'_>>> {
    let mut found = Vec::new();
    while !set.is_empty() {
        let pair = der::expect(set, SEQUENCE)?;
        let oid = der::expect(pair.value, OID)?;
        let value = der::element(oid.rest)?;
        found.push(Attribute { oid: oid.value, tag: value.tag, value: value.value });
        set = pair.rest;
    }
    Some(found)
}

/// The text of an attribute in any of the string types that are in use.
fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING | VISIBLE_STRING => {
            std::str::from_utf8(value).ok().map(str::to_owned)
        }
        // T.61 as everybody uses it: Latin 1, or UTF-8 under a wrong label.
        TELETEX_STRING => Some(match std::str::from_utf8(value) {
            Ok(text) => text.to_owned(),
            Err(_) => value.iter().map(|&byte| char::from(byte)).collect(),
        }),
        BMP_STRING => {
            let (pairs, odd) = value.as_chunks::<2>();
            let units = pairs.iter().map(|&pair| u16::from_be_bytes(pair));
            if odd.is_empty() { char::decode_utf16(units).collect::<Result<_, _>>().ok() } else { None }
        }
        _ => None,
    }
}

/// One relative name in comparable form. Lengths stand before the parts, so no two names run together.
fn canonical(set: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for attribute in attributes(set)? {
        let (kind, value) = match text(attribute.tag, attribute.value) {
            Some(text) => {
                let folded: Vec<String> = text.split_whitespace().map(str::to_ascii_lowercase).collect();
                (0, folded.join(" ").into_bytes())
            }
            None => (attribute.tag, attribute.value.to_vec()),
        };
        out.extend_from_slice(&attribute.oid.len().to_be_bytes());
        out.extend_from_slice(attribute.oid);
        out.push(kind);
        out.extend_from_slice(&value.len().to_be_bytes());
        out.extend_from_slice(&value);
    }
    Some(out)
}

fn first_attribute(der: &[u8], oid: &[u8]) -> Option<Option<String>> {
    relative_names(der)?
        .into_iter()
        .filter_map(attributes)
        .flatten()
        .find_map(|attribute| (attribute.oid == oid).then(|| text(attribute.tag, attribute.value)))
}

/// The first CN of a name (as OpenSSL's `X509_NAME_get_index_by_NID` finds it). `None` too if it is empty or has a NUL in it,
/// which only a forger puts there.
pub(super) fn common_name(der: &[u8]) -> Option<String> {
    first_attribute(der, COMMON_NAME)?.filter(|name| !name.is_empty() && !name.contains('\0'))
}

/// Is there an emailAddress attribute?
pub(super) fn has_email_address(der: &[u8]) -> bool {
    first_attribute(der, EMAIL_ADDRESS).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A name of one CN in the given string type.
    fn name(tag: u8, value: &[u8]) -> Vec<u8> {
        let wrap = |tag: u8, body: &[u8]| [&[tag, u8::try_from(body.len()).unwrap()], body].concat();
        let pair = [wrap(OID, COMMON_NAME), wrap(tag, value)].concat();
        wrap(SEQUENCE, &wrap(SET, &wrap(SEQUENCE, &pair)))
    }

    #[test]
    fn string_type_case_and_blanks_do_not_count() {
        let plain = Name::read(&name(PRINTABLE_STRING, b"Test CA"));
        assert_eq!(plain, Name::read(&name(UTF8_STRING, b" test   ca ")));
        assert_eq!(plain, Name::read(&name(BMP_STRING, b"\0T\0e\0s\0t\0 \0C\0A")));
        assert_ne!(plain, Name::read(&name(UTF8_STRING, b"TestCA")));
        assert!(plain.is_within(&Name::default()) && !Name::default().is_within(&plain));
    }

    #[test]
    fn common_names_of_all_string_types() {
        assert_eq!(common_name(&name(UTF8_STRING, "bücher".as_bytes())).as_deref(), Some("bücher"));
        assert_eq!(common_name(&name(TELETEX_STRING, b"b\xfccher")).as_deref(), Some("bücher"));
        assert_eq!(common_name(&name(BMP_STRING, b"\0a\0b")).as_deref(), Some("ab"));
        assert_eq!(common_name(&name(BMP_STRING, b"\0a\0")), None);
        assert_eq!(common_name(&name(UTF8_STRING, b"a\0b")), None);
        assert_eq!(common_name(&name(UTF8_STRING, b"")), None);
        assert_eq!(common_name(b"\x30\0"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Name::read(&bytes);
            let _ = common_name(&bytes);
        }
    }
}
