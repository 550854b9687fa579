//! The few messages of a login on the wire (PostgreSQL docs, "Message Formats"): authentication requests `R` and the
//! client's answers `p`.

use zeroize::Zeroizing;

/// The longest SASL message that we read, either way; PostgreSQL draws its own line at 1024.
pub(super) const MAX_SASL_BYTES: usize = 4096;

/// Names of the mechanisms.
pub(super) const SCRAM: &[u8] = b"SCRAM-SHA-256";
pub(super) const SCRAM_PLUS: &[u8] = b"SCRAM-SHA-256-PLUS";

/// The request codes of `R` messages.
pub(super) mod code {
    pub(crate) const OK: u32 = 0;
    pub(crate) const KERBEROS_V5: u32 = 2;
    pub(crate) const CLEARTEXT: u32 = 3;
    pub(crate) const MD5: u32 = 5;
    pub(crate) const SCM: u32 = 6;
    pub(crate) const GSS: u32 = 7;
    pub(crate) const GSS_CONTINUE: u32 = 8;
    pub(crate) const SSPI: u32 = 9;
    pub(crate) const SASL: u32 = 10;
    pub(crate) const SASL_CONTINUE: u32 = 11;
    pub(crate) const SASL_FINAL: u32 = 12;
}

/// The complete AuthenticationOk message.
pub const AUTHENTICATION_OK: [u8; 9] = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];

fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + 4;
    let mut out = Vec::with_capacity(length + 1);
    out.push(tag);
    // Every part is one of ours and far below the limit of the length field.
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// An `R` message.
pub(super) fn request(code: u32, payload: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes(), payload])
}

/// AuthenticationSASL with these mechanisms, the preferred one first.
pub(super) fn sasl_request(mechanisms: &[&[u8]]) -> Vec<u8> {
    let mut payload = Vec::new();
    for name in mechanisms {
        payload.extend_from_slice(name);
        payload.push(0);
    }
    payload.push(0);
    request(code::SASL, &payload)
}

/// PasswordMessage.
pub(super) fn password(text: &[u8]) -> Vec<u8> {
    message(b'p', &[text, b"\0"])
}

/// SASLInitialResponse.
pub(super) fn sasl_initial(mechanism: &[u8], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    message(b'p', &[mechanism, b"\0", &length.to_be_bytes(), data])
}

/// SASLResponse.
pub(super) fn sasl_response(data: &[u8]) -> Vec<u8> {
    message(b'p', &[data])
}

/// Reads the body of a PasswordMessage: one string that ends in a zero, and nothing else.
pub(super) fn parse_password(body: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    match body.split_last() {
        Some((0, text)) if !text.contains(&0) => Some(Zeroizing::new(text.to_vec())),
        _ => None,
    }
}

/// Reads the body of a SASLInitialResponse: mechanism, and data unless the client leaves the first word to the server.
pub(super) fn parse_sasl_initial(body: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (mechanism, rest) = super::scram::split_once(body, 0)?;
    let (length, data) = rest.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 if data.is_empty() => Some((mechanism, None)),
        length if usize::try_from(length).ok()? == data.len() => Some((mechanism, Some(data))),
        _ => None,
    }
}
