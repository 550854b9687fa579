//! The four messages of SCRAM (RFC 5802 section 7): readers that borrow from the message and never take its word for a
//! length. What the fields mean for the login is decided elsewhere.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::scram::{Key, decode_key, parse_iterations, split_once};

/// A message that is not what RFC 5802 says, and in what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed SCRAM message: {}", self.0)
    }
}

impl std::error::Error for Malformed {}

/// The first field of the client's first message: what it thinks of channel binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gs2Flag<'a> {
    /// `n`: it cannot.
    Unsupported,
    /// `y`: it can, but believes that the server cannot.
    ServerLacksIt,
    /// `p=NAME`: it does, by this type.
    Used(&'a [u8]),
}

/// client-first-message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst<'a> {
    /// Flag about channel binding.
    pub flag: Gs2Flag<'a>,
    /// The header as sent, with its last comma: it comes back inside the client's final message.
    pub gs2_header: &'a [u8],
    /// The rest: goes into the signatures.
    pub bare: &'a [u8],
    /// The client's half of the nonce.
    pub nonce: &'a [u8],
}

/// server-first-message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFirst<'a> {
    /// Both halves of the nonce.
    pub nonce: &'a [u8],
    /// The salt, decoded; never empty.
    pub salt: Vec<u8>,
    /// The iteration count as sent, not yet bounded.
    pub iterations: NonZeroU32,
}

/// client-final-message.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientFinal<'a> {
    /// The GS2 header and the channel binding data, decoded.
    pub channel_binding: Vec<u8>,
    /// Both halves of the nonce.
    pub nonce: &'a [u8],
    /// Everything before the proof: goes into the signatures.
    pub without_proof: &'a [u8],
    /// ClientProof.
    pub proof: Zeroizing<Key>,
}

impl fmt::Debug for ClientFinal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The proof gives ClientKey away to whoever holds the stored secret.
        f.debug_struct("ClientFinal").field("nonce", &self.nonce).finish_non_exhaustive()
    }
}

/// server-final-message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFinal<'a> {
    /// `v=`: ServerSignature.
    Signature(Key),
    /// `e=`: the server says why not.
    Error(&'a [u8]),
}

/// Reads a client-first-message.
///
/// # Errors
/// [`Malformed`] if it breaks the grammar, names an authorization identity or demands an extension.
pub fn parse_client_first(message: &[u8]) -> Result<ClientFirst<'_>, Malformed> {
    let (flag, rest) = split_once(message, b',').ok_or(Malformed("it ends inside the header"))?;
    let flag = match flag {
        b"n" => Gs2Flag::Unsupported,
        b"y" => Gs2Flag::ServerLacksIt,
        _ => match flag.strip_prefix(b"p=") {
            Some(name) if !name.is_empty() => Gs2Flag::Used(name),
            _ => return Err(Malformed("channel binding flag is none of n, y, p=")),
        },
    };
    let (identity, bare) = split_once(rest, b',').ok_or(Malformed("it ends inside the header"))?;
    if !identity.is_empty() {
        return Err(Malformed("an authorization identity is not supported"));
    }
    let gs2_header = message.get(..message.len() - bare.len()).unwrap_or_default();
    let mut fields = Fields::new(bare);
    // PostgreSQL knows the user from the start-up message and ignores this name.
    fields.expect(b'n', "user name expected")?;
    let nonce = printable(fields.expect(b'r', "nonce expected")?)?;
    fields.skip_extensions()?;
    Ok(ClientFirst { flag, gs2_header, bare, nonce })
}

/// Reads a server-first-message.
///
/// # Errors
/// [`Malformed`] if it breaks the grammar or demands an extension.
pub fn parse_server_first(message: &[u8]) -> Result<ServerFirst<'_>, Malformed> {
    let mut fields = Fields::new(message);
    let nonce = printable(fields.expect(b'r', "nonce expected")?)?;
    let salt = fields.expect(b's', "salt expected")?;
    let iterations = fields.expect(b'i', "iteration count expected")?;
    fields.skip_extensions()?;
    let salt = STANDARD.decode(salt).map_err(|_| Malformed("the salt is not base64"))?;
    if salt.is_empty() {
        return Err(Malformed("the salt is empty"));
    }
    let iterations = parse_iterations(iterations).ok_or(Malformed("the iteration count is not a positive number"))?;
    Ok(ServerFirst { nonce, salt, iterations })
}

/// Reads a client-final-message.
///
/// # Errors
/// [`Malformed`] if it breaks the grammar.
pub fn parse_client_final(message: &[u8]) -> Result<ClientFinal<'_>, Malformed> {
    let mut fields = Fields::new(message);
    let channel_binding = fields.expect(b'c', "channel binding expected")?;
    let nonce = printable(fields.expect(b'r', "nonce expected")?)?;
    // Extensions may stand between; the proof is the last field.
    let (proof, rest) = loop {
        let before = fields.rest.map_or(0, <[u8]>::len);
        match fields.next()? {
            Some((b'p', proof)) => break (proof, before),
            Some(_) => {}
            None => return Err(Malformed("proof expected")),
        }
    };
    if fields.rest.is_some() {
        return Err(Malformed("something follows the proof"));
    }
    // One less for the comma in front of the proof.
    let without_proof = message.len().checked_sub(rest + 1).and_then(|end| message.get(..end)).unwrap_or_default();
    Ok(ClientFinal {
        channel_binding: STANDARD
            .decode(channel_binding)
            .map_err(|_| Malformed("the channel binding is not base64"))?,
        nonce,
        without_proof,
        proof: decode_key(proof).ok_or(Malformed("the proof is not 32 bytes of base64"))?,
    })
}

/// Reads a server-final-message.
///
/// # Errors
/// [`Malformed`] if it breaks the grammar.
pub fn parse_server_final(message: &[u8]) -> Result<ServerFinal<'_>, Malformed> {
    let mut fields = Fields::new(message);
    let found = match fields.next()? {
        Some((b'e', reason)) => ServerFinal::Error(reason),
        Some((b'v', signature)) => {
            ServerFinal::Signature(*decode_key(signature).ok_or(Malformed("the signature is not 32 bytes of base64"))?)
        }
        _ => return Err(Malformed("signature expected")),
    };
    fields.skip_extensions()?;
    Ok(found)
}

/// Walks over `a=value,b=value`.
struct Fields<'a> {
    /// `None` when the last field has been read.
    rest: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn new(message: &'a [u8]) -> Self {
        Self { rest: Some(message) }
    }

    fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, Malformed> {
        let Some(rest) = self.rest else { return Ok(None) };
        let (field, after) = match split_once(rest, b',') {
            Some((field, after)) => (field, Some(after)),
            None => (rest, None),
        };
        self.rest = after;
        match field {
            // "m" is reserved: RFC 5802 section 5.1 wants the login to fail wherever it stands.
            [b'm', b'=', ..] => Err(Malformed("it demands an extension that we do not have")),
            [name, b'=', value @ ..] if name.is_ascii_alphabetic() => Ok(Some((*name, value))),
            _ => Err(Malformed("a field is not of the form x=value")),
        }
    }

    fn expect(&mut self, wanted: u8, missing: &'static str) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            Some((name, value)) if name == wanted => Ok(value),
            _ => Err(Malformed(missing)),
        }
    }

    /// Optional extensions are to be ignored (RFC 5802 section 5.1), as long as they are well-formed.
    fn skip_extensions(&mut self) -> Result<(), Malformed> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

/// A nonce is one or more printable characters other than the comma.
fn printable(nonce: &[u8]) -> Result<&[u8], Malformed> {
    if nonce.is_empty() || !nonce.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed("the nonce is empty or not printable"));
    }
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_first() {
        let first = parse_client_first(b"p=tls-server-end-point,,n=joe,r=x!,a=b").unwrap();
        assert_eq!(first.flag, Gs2Flag::Used(b"tls-server-end-point"));
        assert_eq!((first.gs2_header, first.bare), (&b"p=tls-server-end-point,,"[..], &b"n=joe,r=x!,a=b"[..]));
        assert_eq!(first.nonce, b"x!");
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "x,,n=,r=a",
            "p=,,n=,r=a",
            "n,a=joe,n=,r=a",
            "n,,m=1,n=,r=a",
            "n,,r=a",
            "n,,n=,r=",
            "n,,n=,r=a b",
            "n,,n=,r=a,",
            "n,,n=,r=a,1=2",
            "n,,n=,r=\u{e4}",
        ] {
            assert!(parse_client_first(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn client_final() {
        let proof = STANDARD.encode([9; 32]);
        let message = format!("c=biws,r=abc,x=y,p={proof}");
        let last = parse_client_final(message.as_bytes()).unwrap();
        assert_eq!(last.without_proof, b"c=biws,r=abc,x=y");
        assert_eq!((last.channel_binding.as_slice(), last.nonce, *last.proof), (&b"n,,"[..], &b"abc"[..], [9; 32]));
        assert!(!format!("{last:?}").contains("9, 9"));
        for bad in [
            String::new(),
            "c=biws,r=abc".to_owned(),
            "c=biws,r=abc,p=".to_owned(),
            format!("c=biw,r=abc,p={proof}"),
            format!("c=biws,r=abc,p={proof},x=y"),
            format!("c=biws,r=abc,p={proof},"),
            format!("c=biws,r=abc,m=1,p={proof}"),
            format!("r=abc,c=biws,p={proof}"),
        ] {
            assert!(parse_client_final(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
