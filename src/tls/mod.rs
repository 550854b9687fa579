//! TLS: turns the TLS settings and the contents of the files that they name into configurations for the TLS library.
//!
//! Decides which protocol versions and cipher suites are spoken, which certificate we show, which certificates of the other
//! side are accepted and for which names, and what the channel-binding hash of a certificate is. It is pure: file contents
//! come in as bytes, the time of a check comes from the TLS library's caller. It must never know of sockets, files, pools,
//! users' passwords or the configuration's syntax, and it must never skip a check that a mode promises.
//!
//! Certificates are judged by our own verifier ([`verifier`]), not by the library's: operators run PostgreSQL with
//! certificates that OpenSSL accepts and a browser-minded verifier does not (self-signed ones that are their own root,
//! names in the CN only, X.509 version 1). What is accepted is what OpenSSL accepts, with the deviations written down at
//! [`chain`] and [`names`].

mod acceptor;
mod binding;
mod certificate;
mod chain;
mod ciphers;
mod connector;
mod constraints;
mod der;
mod dn;
mod error;
mod inspect;
mod keypair;
mod names;
mod p521;
mod pair;
mod pem;
mod protocols;
mod signature;
mod sslmode;
mod verifier;

pub use acceptor::{ALPN_POSTGRESQL, Acceptor, AcceptorParams};
pub use binding::server_end_point_hash;
pub use ciphers::{openssl_name, protocol_name};
pub use connector::{Connector, ConnectorParams};
pub use error::{TlsError, failure_text};
pub use inspect::{CertificateSummary, summarize_certificates};
pub use names::{certificate_names_user, peer_common_name};
pub use pair::{ALPN_PAIR, PairFiles, PairTls, export_label};
pub use pem::PemFile;
pub use sslmode::{SslMode, UnknownSslMode};
