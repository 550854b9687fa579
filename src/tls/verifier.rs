//! The verifiers that the TLS library asks about certificates and handshake signatures.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::chain::{Purpose, TrustStore};
use super::names;
use super::signature::{self, Handshake};

/// How a server's certificate is judged.
#[derive(Debug)]
pub(super) enum ServerCheck {
    /// Not at all (`require` and below); the server must only prove that it has the key.
    None,
    /// It comes from one of these CAs (`verify-ca`).
    Chain(TrustStore),
    /// It comes from one of these CAs and is made out to the host (`verify-full`).
    ChainAndName(TrustStore),
}

/// Judges the certificates of servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    check: ServerCheck,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// A verifier for one `server_tls_sslmode`.
    pub(super) fn new(check: ServerCheck, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { check, algorithms }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (store, name_counts) = match &self.check {
            ServerCheck::None => return Ok(ServerCertVerified::assertion()),
            ServerCheck::Chain(store) => (store, false),
            ServerCheck::ChainAndName(store) => (store, true),
        };
        let leaf = store.verify(end_entity, intermediates, Purpose::Server, now).map_err(CertificateError::from)?;
        if name_counts && !names::host_matches(&leaf, server_name) {
            return Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                expected: server_name.to_owned(),
                presented: names::presented(&leaf),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::check_handshake(Handshake::Tls12, message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::check_handshake(Handshake::Tls13, message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Judges the certificates of clients.
pub(super) struct ClientVerifier {
    store: TrustStore,
    mandatory: bool,
    root_hints: Vec<DistinguishedName>,
}

impl ClientVerifier {
    /// `root_hints`: the subjects of the CAs, which the client is told so that it can choose a certificate.
    pub(super) fn new(store: TrustStore, mandatory: bool, root_hints: Vec<DistinguishedName>) -> Arc<Self> {
        Arc::new(Self { store, mandatory, root_hints })
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("mandatory", &self.mandatory).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.root_hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.store.verify(end_entity, intermediates, Purpose::Client, now).map_err(CertificateError::from)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::check_handshake(Handshake::Tls12, message, cert, dss, self.store.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signature::check_handshake(Handshake::Tls13, message, cert, dss, self.store.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.store.algorithms().supported_schemes()
    }
}
