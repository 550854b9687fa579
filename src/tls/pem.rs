//! PEM files as operators have them: text around the blocks, several blocks, any line ends (RFC 7468, read leniently).

use std::fmt;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

use super::TlsError;

/// The contents of a file that a setting names, and its path for error texts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PemFile<'a> {
    /// As written in the configuration.
    pub path: &'a str,
    /// The file's contents.
    pub bytes: &'a [u8],
}

impl fmt::Debug for PemFile<'_> {
    /// Without the contents: they may be a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One block: what stands behind `BEGIN`, and the decoded contents.
struct Block<'a> {
    label: &'a str,
    encrypted: bool,
    contents: Option<Zeroizing<Vec<u8>>>,
}

const LENIENT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

fn begin_label(line: &str) -> Option<&str> {
    line.strip_prefix("-----BEGIN ")?.strip_suffix("-----")
}

/// Reads lines up to the END line of `label`. A missing END or bad base64 gives `contents: None`.
fn read_block<'a>(label: &'a str, lines: &mut impl Iterator<Item = &'a str>) -> Block<'a> {
    // Roomy, so that growing leaves no unwiped copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(16 * 1024));
    let mut encrypted = false;
    let mut ended = false;
    for line in lines {
        let line = line.trim();
        if line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) == Some(label) {
            ended = true;
            break;
        }
        if line.contains(':') {
            // An RFC 1421 header of a traditional key, such as `Proc-Type: 4,ENCRYPTED`. Base64 has no colon.
            encrypted |= line.contains("ENCRYPTED");
        } else if !encrypted {
            text.push_str(line);
        }
    }
    let decoded = if ended && !encrypted { LENIENT_BASE64.decode(text.as_bytes()).ok() } else { None };
    Block { label, encrypted, contents: decoded.map(Zeroizing::new) }
}

/// All blocks. Bytes that are not UTF-8 may stand around and between blocks (comments in a local code page).
fn blocks<'a>(bytes: &'a [u8]) -> Vec<Block<'a>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines =
        bytes.split(|&byte| byte == b'\n' || byte == b'\r').map(|line| std::str::from_utf8(line).unwrap_or(""));
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(label) = begin_label(line.trim()) {
            found.push(read_block(label, &mut lines));
        }
    }
    found
}

/// What to say of a file without the block that is wanted.
fn nothing_found(file: PemFile<'_>, wanted: &str) -> String {
    if file.bytes.is_empty() {
        return "the file is empty".to_owned();
    }
    if file.bytes.first() == Some(&super::der::SEQUENCE) {
        return "the file looks like DER; convert it to PEM (openssl … -inform DER -out FILE.pem)".to_owned();
    }
    let labels: Vec<&str> = blocks(file.bytes).iter().map(|block| block.label).take(4).collect();
    if labels.is_empty() {
        format!("no {wanted} found (a PEM block starts with a line -----BEGIN …-----)")
    } else {
        format!("no {wanted} found, only: {}", labels.join(", "))
    }
}

/// All certificates of a file in file order; at least one.
pub(super) fn certificates(setting: &str, file: PemFile<'_>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let mut found = Vec::new();
    for (index, block) in blocks(file.bytes).into_iter().enumerate() {
        if !matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE") {
            continue;
        }
        let contents = block.contents.ok_or_else(|| {
            TlsError::file(
                setting,
                file.path,
                format!("block {} ({}) is cut off or not base64", index + 1, block.label),
            )
        })?;
        // A TRUSTED CERTIFICATE has OpenSSL's own trust settings behind the certificate.
        let certificate = match super::der::expect(&contents, super::der::SEQUENCE) {
            Some(element) => element.whole.to_vec(),
            None => contents.to_vec(),
        };
        found.push(CertificateDer::from(certificate));
    }
    if found.is_empty() {
        return Err(TlsError::file(setting, file.path, nothing_found(file, "certificate")));
    }
    Ok(found)
}

/// The first private key of a file. Encrypted keys are refused: nobody is there to type the password.
pub(super) fn private_key(setting: &str, file: PemFile<'_>) -> Result<Zeroizing<PrivateKeyDer<'static>>, TlsError> {
    for block in blocks(file.bytes) {
        if block.encrypted || block.label == "ENCRYPTED PRIVATE KEY" {
            return Err(TlsError::file(
                setting,
                file.path,
                "the private key is encrypted; store it without a password (openssl pkey -in OLD -out NEW) and protect \
                 the file by its permissions",
            ));
        }
        let wrap: fn(Vec<u8>) -> PrivateKeyDer<'static> = match block.label {
            "PRIVATE KEY" => |der| PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der)),
            "RSA PRIVATE KEY" => |der| PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(der)),
            "EC PRIVATE KEY" => |der| PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(der)),
            _ => continue,
        };
        let contents = block.contents.ok_or_else(|| {
            TlsError::file(setting, file.path, format!("the block {} is cut off or not base64", block.label))
        })?;
        return Ok(Zeroizing::new(wrap(contents.to_vec())));
    }
    Err(TlsError::file(setting, file.path, nothing_found(file, "private key")))
}

#[cfg(test)]
#[path = "pem_tests.rs"]
mod tests;
