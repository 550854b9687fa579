//! TLS between the two nodes of a pair: version 1.3 only, and both sides prove who they are, either by certificates or by a
//! secret that both know.
//!
//! From a secret both nodes derive the same signing key, and each accepts exactly that key of the other: as a raw public key
//! (RFC 7250), without any certificate. Whoever does not know the secret can neither be the server nor the client of a
//! handshake, and learns from one no more than a public key, against which each guess costs [`ITERATIONS`] rounds of PBKDF2.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::pbkdf2;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs as provider, verify_tls13_signature_with_raw_key};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use zeroize::Zeroizing;

use super::{Acceptor, AcceptorParams, Connector, ConnectorParams, PemFile, SslMode, TlsError, certificate_names_user};

/// The protocol's name (ALPN, RFC 7301): whoever speaks something else is in the wrong place.
pub const ALPN_PAIR: &[u8] = b"pgtandem-pair";

/// What the exported key is for (RFC 8446 section 7.5).
const EXPORT_LABEL: &[u8] = b"EXPORTER-pgtandem-pair-settings";

/// Rounds of PBKDF2-HMAC-SHA256 for the key: about a tenth of a second, once at a start.
const ITERATIONS: NonZeroU32 = match NonZeroU32::new(200_000) {
    Some(iterations) => iterations,
    None => NonZeroU32::MIN,
};

/// Two uses of one secret must not give one key.
const SALT: &[u8] = b"pgtandem pair link, version 1";

/// An Ed25519 public key in front of its 32 bytes (RFC 8410 section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Both directions of TLS with the peer.
#[derive(Clone)]
pub struct PairTls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// The name that the peer's certificate must bear; empty: any that its issuer has signed.
    peer_name: String,
    certificates: bool,
}

impl fmt::Debug for PairTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PairTls").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

/// The settings `pair_tls_…`, with the contents of the files.
#[derive(Clone, Copy, Debug)]
pub struct PairFiles<'a> {
    /// `pair_tls_cert_file`.
    pub cert: PemFile<'a>,
    /// `pair_tls_key_file`.
    pub key: PemFile<'a>,
    /// `pair_tls_ca_file`.
    pub ca: PemFile<'a>,
}

impl PairTls {
    /// By a secret that both nodes know.
    ///
    /// # Errors
    /// The TLS library's, which are bugs.
    pub fn by_secret(secret: &[u8]) -> Result<Self, TlsError> {
        let mut seed = Zeroizing::new([0; 32]);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, SALT, secret, seed.as_mut());
        let refused = |_| rustls::Error::General("the key of the pair cannot be derived".into());
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).map_err(refused)?;
        let refused = |_| rustls::Error::General("the key of the pair cannot be written".into());
        let document = pair.to_pkcs8v1().map_err(refused)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(document.as_ref()));
        let mut public = ED25519_SPKI.to_vec();
        public.extend_from_slice(pair.public_key().as_ref());

        let provider = Arc::new(provider::default_provider());
        let signing = provider.key_provider.load_private_key(private.clone_key())?;
        let own = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public.clone())], signing));
        let same = Arc::new(SameKey { public, algorithms: provider.signature_verification_algorithms });
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&same) as _)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&own))));
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(same)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
        Ok(Self::new(server, client, String::new(), false))
    }

    /// By certificates that a common issuer has signed. `peer_name`: whom the peer's must name (DNS name or CN); empty: anybody.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn by_certificates(files: &PairFiles<'_>, peer_name: &str) -> Result<Self, TlsError> {
        let (ciphers, protocols) = ("default", "tlsv1.3");
        let acceptor = Acceptor::new(&AcceptorParams {
            sslmode: SslMode::VerifyCa,
            cert: files.cert,
            key: files.key,
            ca: Some(files.ca),
            protocols,
            ciphers,
            tls13_ciphers: "",
            ecdhcurve: "auto",
            dheparams: "auto",
        })?;
        let connector = Connector::new(&ConnectorParams {
            sslmode: SslMode::VerifyCa,
            ca: Some(files.ca),
            cert: Some(files.cert),
            key: Some(files.key),
            protocols,
            ciphers,
            tls13_ciphers: "",
        })?;
        let (client, _) = connector.dial("pair")?;
        Ok(Self::new((**acceptor.config()).clone(), (*client).clone(), peer_name.to_owned(), true))
    }

    fn new(mut server: ServerConfig, mut client: ClientConfig, peer_name: String, certificates: bool) -> Self {
        server.alpn_protocols = vec![ALPN_PAIR.to_vec()];
        client.alpn_protocols = vec![ALPN_PAIR.to_vec()];
        // Each connection is proved anew.
        server.send_tls13_tickets = 0;
        client.resumption = Resumption::disabled();
        Self { server: Arc::new(server), client: Arc::new(client), peer_name, certificates }
    }

    /// For connections that the peer has made.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For connections to the peer.
    #[must_use]
    pub fn client(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        // Names are looked at in `admits`; of an address nothing is sent.
        (Arc::clone(&self.client), ServerName::from(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)))
    }

    /// After a handshake: is that the peer?
    ///
    /// # Errors
    /// Why not, with what to do.
    pub fn admits(&self, certificates: Option<&[CertificateDer<'_>]>, alpn: Option<&[u8]>) -> Result<(), String> {
        if alpn != Some(ALPN_PAIR) {
            return Err("it does not speak the protocol of the pair link (another program on pair_port?)".to_owned());
        }
        let Some(certificate) = certificates.and_then(|all| all.first()) else {
            return Err("it has shown no certificate".to_owned());
        };
        if self.certificates && !self.peer_name.is_empty() && !certificate_names_user(certificate, &self.peer_name) {
            return Err(format!("its certificate does not name {} (pair_tls_peer_name)", self.peer_name));
        }
        Ok(())
    }
}

/// The label under which both sides export a key for the fingerprints of settings.
#[must_use]
pub fn export_label() -> &'static [u8] {
    EXPORT_LABEL
}

/// Accepts one public key, in either direction.
#[derive(Debug)]
struct SameKey {
    public: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SameKey {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        verify_slices_are_equal(&self.public, shown.as_ref())
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(shown.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken between the nodes of a pair".into())
}

impl ServerCertVerifier for SameKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for SameKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
