//! Message framing (PostgreSQL docs, "Message Formats"): one tag byte, a big-endian length that counts itself but not the tag,
//! then the body. The length is only believed as a number to count down from; no buffer is ever sized by it.

/// Tag byte and length field.
pub const HEAD_LEN: usize = 5;

/// The largest length field that PostgreSQL itself would accept in any message (`PQ_LARGE_MESSAGE_LIMIT`).
pub const LENGTH_MAX: u32 = 0x3fff_ffff;

/// The head of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The message type.
    pub tag: u8,
    /// Bytes of the whole message on the wire: tag, length field and body.
    pub total: usize,
}

impl Head {
    /// Bytes behind the head.
    #[must_use]
    pub fn body_len(self) -> usize {
        self.total - HEAD_LEN
    }
}

/// The length field is impossible: below 4 or beyond [`LENGTH_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message type {tag:#04x} has the impossible length {length}")]
pub struct BadLength {
    /// The message type.
    pub tag: u8,
    /// The length field as sent.
    pub length: u32,
}

/// Reads the head of the message at the start of `bytes`; `None` while fewer than five bytes are there.
///
/// # Errors
/// [`BadLength`] when the length field cannot be true: the stream is out of step and nothing behind it can be trusted.
pub fn head(bytes: &[u8]) -> Result<Option<Head>, BadLength> {
    let [tag, a, b, c, d, ..] = *bytes else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    if !(4..=LENGTH_MAX).contains(&length) {
        return Err(BadLength { tag, length });
    }
    Ok(Some(Head { tag, total: length as usize + 1 }))
}

/// Appends a message of `tag` whose body is written by `body`.
pub fn put(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    put_length_prefixed(out, body);
}

/// Appends a message without a tag (startup packets): the length field, then what `body` writes.
pub fn put_length_prefixed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    // A message of ours never comes near 4 GiB; a saturated length would be refused by the peer, not misread.
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    if let Some(field) = out.get_mut(at..at + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Splits a NUL-terminated string off the front of `body`: the string without its NUL, and what follows.
#[must_use]
pub fn cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = body.iter().position(|&b| b == 0)?;
    Some((body.get(..end)?, body.get(end + 1..)?))
}

/// Appends `text` and a NUL. A NUL inside would end the string early on the wire, so it is cut there.
pub fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(head(b"Q\0\0\0"), Ok(None));
        assert_eq!(head(b"Q\0\0\0\x03"), Err(BadLength { tag: b'Q', length: 3 }));
        assert_eq!(head(b"Q\0\0\0\x04"), Ok(Some(Head { tag: b'Q', total: 5 })));
        assert_eq!(head(b"Q\xff\xff\xff\xff"), Err(BadLength { tag: b'Q', length: u32::MAX }));
    }

    #[test]
    fn embedded_nul_cannot_smuggle_a_second_string() {
        let mut out = Vec::new();
        put_cstr(&mut out, b"a\0b");
        assert_eq!(out, b"a\0");
    }

    proptest! {
        #[test]
        fn any_chunking_yields_the_same_frames(bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..50)), 0..20)) {
            let mut stream = Vec::new();
            for (tag, body) in &bodies {
                put(&mut stream, *tag, |out| out.extend_from_slice(body));
            }
            let mut seen = Vec::new();
            let mut at = 0;
            // One byte at a time: a head must never be reported before it is whole, nor change when more arrives.
            for end in 0..=stream.len() {
                while let Ok(Some(h)) = head(&stream[at..end]) {
                    if at + h.total > end { break; }
                    seen.push((h.tag, stream[at + HEAD_LEN..at + h.total].to_vec()));
                    at += h.total;
                }
            }
            prop_assert_eq!(at, stream.len());
            prop_assert_eq!(seen, bodies);
        }
    }
}
