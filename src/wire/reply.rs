//! What pgtandem says to clients in its own name. The bytes come from the `pgwire` crate wherever it carries them exactly;
//! values that need not be UTF-8 (parameters) are written here.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

use super::frame::{put, put_cstr};
use super::startup::CancelKey;
use crate::fault::Fault;

/// ReadyForQuery outside a transaction.
pub const READY_IDLE: &[u8] = b"Z\0\0\0\x05I";
/// ParseComplete.
pub const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";
/// CloseComplete.
pub const CLOSE_COMPLETE: &[u8] = b"3\0\0\0\x04";
/// AuthenticationOk.
pub const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";

fn put_pgwire(out: &mut Vec<u8>, message: &impl Message) {
    let mut bytes = BytesMut::new();
    // Encoding into memory fails only for a message that breaks pgwire's own rules; saying nothing is then the safe answer.
    if message.encode(&mut bytes).is_ok() {
        out.extend_from_slice(&bytes);
    }
}

fn fields(severity: &str, sqlstate: &str, text: &str) -> Vec<(u8, String)> {
    // A NUL would end the field early.
    let text = text.replace('\0', "");
    vec![(b'S', severity.into()), (b'V', severity.into()), (b'C', sqlstate.into()), (b'M', text)]
}

/// Appends an ErrorResponse.
pub fn put_error(out: &mut Vec<u8>, fault: &Fault) {
    let mut fields = fields(fault.severity.as_str(), &fault.sqlstate, &fault.text);
    if !fault.detail.is_empty() {
        fields.push((b'D', fault.detail.replace('\0', "")));
    }
    put_pgwire(out, &ErrorResponse::new(fields));
}

/// Appends a NoticeResponse with severity NOTICE and SQLSTATE 00000.
pub fn put_notice(out: &mut Vec<u8>, text: &str) {
    put_pgwire(out, &NoticeResponse::new(fields("NOTICE", "00000", text)));
}

/// Appends a ParameterStatus.
pub fn put_parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put(out, b'S', |out| {
        put_cstr(out, name);
        put_cstr(out, value);
    });
}

/// Appends a BackendKeyData.
pub fn put_backend_key_data(out: &mut Vec<u8>, key: &CancelKey) {
    put(out, b'K', |out| {
        out.extend_from_slice(&key.pid.to_be_bytes());
        out.extend_from_slice(&key.secret);
    });
}

/// Appends a NegotiateProtocolVersion: the newest version we speak of those asked for, and the extensions we do not know.
pub fn put_negotiate_protocol_version<'a>(
    out: &mut Vec<u8>,
    protocol: u32,
    unknown: impl IntoIterator<Item = &'a [u8]>,
) {
    put(out, b'v', |out| {
        out.extend_from_slice(&protocol.to_be_bytes());
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count: u32 = 0;
        for name in unknown {
            put_cstr(out, name);
            count += 1;
        }
        if let Some(field) = out.get_mut(at..at + 4) {
            field.copy_from_slice(&count.to_be_bytes());
        }
    });
}

/// Appends a simple Query for a server.
pub fn put_query(out: &mut Vec<u8>, sql: &[u8]) {
    put(out, b'Q', |out| put_cstr(out, sql));
}

/// The fields of an ErrorResponse or NoticeResponse body that a pooler looks at; missing ones are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// `V`, or `S` where a server before 9.6 sent only the translated one.
    pub severity: &'a [u8],
    /// `C`.
    pub sqlstate: &'a [u8],
    /// `M`.
    pub message: &'a [u8],
}

/// Reads the body of an ErrorResponse or NoticeResponse; what is malformed is left empty.
#[must_use]
pub fn error_fields(mut body: &[u8]) -> ErrorFields<'_> {
    let mut fields = ErrorFields::default();
    while let Some((&kind, rest)) = body.split_first() {
        let Some((value, rest)) = super::frame::cstr(rest) else { break };
        match kind {
            0 => break,
            b'V' => fields.severity = value,
            b'S' if fields.severity.is_empty() => fields.severity = value,
            b'C' => fields.sqlstate = value,
            b'M' => fields.message = value,
            _ => {}
        }
        body = rest;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Culprit;
    use proptest::prelude::*;

    #[test]
    fn an_error_reads_back() {
        let mut out = Vec::new();
        put_error(&mut out, &Fault::fatal(Culprit::Client, "no such\0 user").with_sqlstate("28000"));
        let head = crate::wire::frame::head(&out).unwrap().unwrap();
        assert_eq!((head.tag, head.total), (b'E', out.len()));
        let fields = error_fields(&out[5..]);
        assert_eq!(fields, ErrorFields { severity: b"FATAL", sqlstate: b"28000", message: b"no such user" });
    }

    #[test]
    fn constants_are_what_pgwire_says() {
        use pgwire::messages::extendedquery::{CloseComplete, ParseComplete};
        use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
        use pgwire::messages::startup::Authentication;
        let check = |ours: &[u8], theirs: &mut dyn FnMut(&mut Vec<u8>)| {
            let mut out = Vec::new();
            theirs(&mut out);
            assert_eq!(ours, out);
        };
        check(READY_IDLE, &mut |o| put_pgwire(o, &ReadyForQuery::new(TransactionStatus::Idle)));
        check(PARSE_COMPLETE, &mut |o| put_pgwire(o, &ParseComplete::new()));
        check(CLOSE_COMPLETE, &mut |o| put_pgwire(o, &CloseComplete::new()));
        check(AUTHENTICATION_OK, &mut |o| put_pgwire(o, &Authentication::Ok));
    }

    proptest! {
        #[test]
        fn bytes_from_outside_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = error_fields(&body);
        }
    }
}
