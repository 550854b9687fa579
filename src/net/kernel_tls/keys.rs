//! Keys on their way from the TLS library to the kernel.

use std::io;
use std::os::fd::AsFd;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{TcpTlsRx, TcpTlsTx, TlsCryptoInfo};
use rustls::ConnectionTrafficSecrets;
use zeroize::Zeroize;

use super::{Cipher, Version};

/// What the kernel must know of one direction of a connection. Wiped from memory when dropped; must never get a `Debug`.
pub(super) struct Keys(TlsCryptoInfo);

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Send,
    Receive,
}

/// The first explicit nonce that the kernel uses for sending with AES-GCM under TLS 1.2.
///
/// A nonce must never be used twice with one key (RFC 5288, 3). The TLS library has used `base ^ 0`, `base ^ 1`, … for the
/// records that it sent, in the order of their sequence numbers; the kernel counts up from what it is told. To let it begin at
/// `base` would repeat the library's nonces. It begins at the lower end of that half of the numbers in which `base` does not lie:
/// a library that sent less than 2^63 records has never been there, and a kernel that sends less never leaves it.
pub(super) fn first_explicit_nonce(base: [u8; 8]) -> [u8; 8] {
    (!u64::from_be_bytes(base) & (1 << 63)).to_be_bytes()
}

impl Keys {
    /// Zeros. Keys are copied into it in place, so that no copy of them is left where it was moved from.
    pub(super) fn zero(version: Version, cipher: Cipher) -> Self {
        let info = libc::tls_crypto_info { version: version.number(), cipher_type: cipher.number() };
        Self(match cipher {
            Cipher::Aes128Gcm => TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
                info,
                iv: [0; 8],
                key: [0; 16],
                salt: [0; 4],
                rec_seq: [0; 8],
            }),
            Cipher::Aes256Gcm => TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
                info,
                iv: [0; 8],
                key: [0; 32],
                salt: [0; 4],
                rec_seq: [0; 8],
            }),
            Cipher::Chacha20Poly1305 => TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                info,
                iv: [0; 12],
                key: [0; 32],
                salt: [],
                rec_seq: [0; 8],
            }),
        })
    }

    /// The parts of the kernel's structure: salt, nonce, key, sequence number.
    fn parts(&mut self) -> (&mut [u8], &mut [u8], &mut [u8], &mut [u8; 8]) {
        match &mut self.0 {
            TlsCryptoInfo::Aes128Gcm(info) => (&mut info.salt, &mut info.iv, &mut info.key, &mut info.rec_seq),
            TlsCryptoInfo::Aes256Gcm(info) => (&mut info.salt, &mut info.iv, &mut info.key, &mut info.rec_seq),
            TlsCryptoInfo::Chacha20Poly1305(info) => (&mut info.salt, &mut info.iv, &mut info.key, &mut info.rec_seq),
        }
    }

    /// The keys of one direction; `sequence` is the number of its next record. `None` if the secrets are not of this cipher.
    pub(super) fn new(
        version: Version,
        cipher: Cipher,
        direction: Direction,
        (sequence, secrets): &(u64, ConnectionTrafficSecrets),
    ) -> Option<Self> {
        let ((Cipher::Aes128Gcm, ConnectionTrafficSecrets::Aes128Gcm { key, iv })
        | (Cipher::Aes256Gcm, ConnectionTrafficSecrets::Aes256Gcm { key, iv })
        | (Cipher::Chacha20Poly1305, ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv })) = (cipher, secrets)
        else {
            return None;
        };
        let mut keys = Self::zero(version, cipher);
        let (to_salt, to_iv, to_key, to_sequence) = keys.parts();
        let (salt, nonce) = iv.as_ref().split_at_checked(to_salt.len())?;
        if (to_iv.len(), to_key.len()) != (nonce.len(), key.as_ref().len()) {
            return None;
        }
        to_salt.copy_from_slice(salt);
        to_iv.copy_from_slice(nonce);
        to_key.copy_from_slice(key.as_ref());
        *to_sequence = sequence.to_be_bytes();
        // With TLS 1.3 and with ChaCha20-Poly1305 library and kernel alike use iv ^ sequence number; for what is received under
        // TLS 1.2 with AES-GCM the nonce stands in the record.
        if version == Version::Tls12 && cipher != Cipher::Chacha20Poly1305 && direction == Direction::Send {
            let base = <[u8; 8]>::try_from(nonce).ok()?;
            to_iv.copy_from_slice(&first_explicit_nonce(base));
        }
        Some(keys)
    }

    /// Gives the keys to the kernel, for a TCP socket with the TLS upper-layer protocol.
    pub(super) fn install(&self, socket: &impl AsFd, direction: Direction) -> io::Result<()> {
        match direction {
            Direction::Send => setsockopt(socket, TcpTlsTx, &self.0)?,
            Direction::Receive => setsockopt(socket, TcpTlsRx, &self.0)?,
        }
        Ok(())
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let (salt, iv, key, _) = self.parts();
        salt.zeroize();
        iv.zeroize();
        key.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    proptest! {
        #[test]
        fn no_nonce_is_used_twice(base: u64, by_library in 0u64..1 << 63, by_kernel in 0u64..1 << 63) {
            let first = u64::from_be_bytes(first_explicit_nonce(base.to_be_bytes()));
            prop_assert_ne!(base ^ by_library, first + by_kernel);
        }
    }

    fn secrets() -> ConnectionTrafficSecrets {
        let mut key = [7; 32];
        key[0] = 1;
        ConnectionTrafficSecrets::Aes256Gcm {
            key: AeadKey::from(key),
            iv: Iv::from([9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8]),
        }
    }

    #[test]
    fn every_part_in_its_place() {
        for (version, direction, iv) in [
            (Version::Tls13, Direction::Send, [1, 2, 3, 4, 5, 6, 7, 8]),
            (Version::Tls13, Direction::Receive, [1, 2, 3, 4, 5, 6, 7, 8]),
            (Version::Tls12, Direction::Receive, [1, 2, 3, 4, 5, 6, 7, 8]),
            (Version::Tls12, Direction::Send, [128, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            let keys = Keys::new(version, Cipher::Aes256Gcm, direction, &(0x0102, secrets())).unwrap();
            let TlsCryptoInfo::Aes256Gcm(info) = &keys.0 else { panic!("another cipher") };
            assert_eq!((info.info.version, info.info.cipher_type), (version.number(), libc::TLS_CIPHER_AES_GCM_256));
            assert_eq!((info.salt, info.iv), ([9; 4], iv), "{version:?} {direction:?}");
            assert_eq!((info.key[0], info.key[31]), (1, 7));
            assert_eq!(info.rec_seq, [0, 0, 0, 0, 0, 0, 1, 2]);
        }
        assert!(Keys::new(Version::Tls13, Cipher::Aes128Gcm, Direction::Send, &(0, secrets())).is_none());
    }
}
