//! TLS towards clients: the `client_tls_…` settings.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoClientAuth, danger::ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{DistinguishedName, ServerConfig};
use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::Certificate;
use super::chain::TrustStore;
use super::keypair::KeyPairFiles;
use super::protocols::Protocols;
use super::verifier::ClientVerifier;
use super::{PemFile, SslMode, TlsError, ciphers, pem, server_end_point_hash};

/// The application protocol of direct TLS (PostgreSQL docs, "Protocol Flow", ALPN).
pub const ALPN_POSTGRESQL: &[u8] = b"postgresql";

const PREFIX: &str = "client_tls";

/// The `client_tls_…` settings, with the contents of the files.
#[derive(Clone, Copy, Debug)]
pub struct AcceptorParams<'a> {
    /// `client_tls_sslmode`; with `disable` an acceptor is built as for `allow`, and it is the caller who does not use it.
    pub sslmode: SslMode,
    /// `client_tls_cert_file`.
    pub cert: PemFile<'a>,
    /// `client_tls_key_file`.
    pub key: PemFile<'a>,
    /// `client_tls_ca_file`, if set. Without it clients are not asked for certificates.
    pub ca: Option<PemFile<'a>>,
    /// `client_tls_protocols`.
    pub protocols: &'a str,
    /// `client_tls_ciphers`.
    pub ciphers: &'a str,
    /// `client_tls13_ciphers`.
    pub tls13_ciphers: &'a str,
    /// `client_tls_ecdhcurve`.
    pub ecdhcurve: &'a str,
    /// `client_tls_dheparams`.
    pub dheparams: &'a str,
}

/// What is needed to accept TLS from clients.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    server_end_point: Option<Arc<[u8]>>,
    sslmode: SslMode,
    expires_at: Option<i64>,
    warnings: Vec<String>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("sslmode", &self.sslmode).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Checks the settings and builds the configuration. Errors are for the operator; PgBouncer writes `TLS setup failed: `
    /// before them.
    pub fn new(params: &AcceptorParams<'_>) -> Result<Self, TlsError> {
        let protocols_setting = format!("{PREFIX}_protocols");
        let protocols = Protocols::parse(&protocols_setting, params.protocols)?;
        let versions = protocols.versions(&protocols_setting, params.protocols)?;
        ciphers::check_dheparams(&format!("{PREFIX}_dheparams"), params.dheparams)?;
        let provider = Arc::new(CryptoProvider {
            cipher_suites: ciphers::select(PREFIX, protocols, params.ciphers, params.tls13_ciphers)?,
            kx_groups: ciphers::key_exchange_groups(&format!("{PREFIX}_ecdhcurve"), params.ecdhcurve)?,
            ..aws_lc_rs::default_provider()
        });
        let (verifier, warnings) = client_verifier(params, &provider)?;
        let certified_key = KeyPairFiles { prefix: PREFIX, cert: params.cert, key: params.key }.load()?;
        let leaf = certified_key.cert.first();
        let server_end_point = leaf.and_then(|leaf| server_end_point_hash(leaf.as_ref())).map(Arc::from);
        let expires_at = leaf.and_then(|leaf| Certificate::read(leaf).ok()).map(|leaf| leaf.not_after);

        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key)));
        // Our order counts, as with PgBouncer; so the first suite of client_tls13_ciphers is the one that is used.
        config.ignore_client_order = true;
        // A client that offers no ALPN is let in, one that offers only other protocols is not (as PostgreSQL and PgBouncer do).
        config.alpn_protocols = vec![ALPN_POSTGRESQL.to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        // For a hand-over, where TLS goes from the library to the kernel (net/kernel_tls). It costs nothing before.
        config.enable_secret_extraction = true;
        Ok(Self { config: Arc::new(config), server_end_point, sslmode: params.sslmode, expires_at, warnings })
    }

    /// The library's configuration, good for TLS after an SSLRequest and for direct TLS. With direct TLS the caller must see to
    /// it that the connection has agreed on [`ALPN_POSTGRESQL`] (PostgreSQL requires it).
    #[must_use]
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// The channel-binding data `tls-server-end-point` of our certificate (RFC 5929). `None`: do not offer
    /// SCRAM-SHA-256-PLUS.
    #[must_use]
    pub fn server_end_point(&self) -> Option<&[u8]> {
        self.server_end_point.as_deref()
    }

    /// The mode that this was built for (it stays in force if a later configuration cannot be used).
    #[must_use]
    pub fn sslmode(&self) -> SslMode {
        self.sslmode
    }

    /// When our certificate ends, in seconds since 1970, for the status page and metrics. `None` if it cannot be told.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        self.expires_at
    }

    /// What is not an error but should be logged when the settings are loaded.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// With a CA file clients are asked for a certificate, which is optional below `verify-ca` but must be right if it is given.
fn client_verifier(
    params: &AcceptorParams<'_>,
    provider: &CryptoProvider,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<String>), TlsError> {
    let mandatory = params.sslmode.verifies_chain();
    let Some(ca) = params.ca else {
        if mandatory {
            let reason = format!("client_tls_sslmode requires client_tls_ca_file when it is {}", params.sslmode);
            return Err(TlsError::Missing { setting: format!("{PREFIX}_ca_file"), reason });
        }
        return Ok((Arc::new(NoClientAuth), Vec::new()));
    };
    let certificates = pem::certificates(&format!("{PREFIX}_ca_file"), ca)?;
    let (store, warnings) = trust_store(PREFIX, ca, &certificates, provider)?;
    let root_hints = root_hints(&certificates);
    Ok((ClientVerifier::new(store, mandatory, root_hints), warnings))
}

/// The names of the CAs travel in every handshake (at most 65535 octets, RFC 8446, 4.2.4). A list of public CAs helps no client;
/// then none are named, which means any. Naming only some would keep clients from showing the certificates of the others.
const MAX_ROOT_HINT_OCTETS: usize = 16 * 1024;

fn root_hints(certificates: &[CertificateDer<'_>]) -> Vec<DistinguishedName> {
    let hints: Vec<DistinguishedName> = certificates
        .iter()
        .filter_map(|der| X509Certificate::from_der(der.as_ref()).ok())
        .map(|(_, certificate)| DistinguishedName::from(certificate.subject().as_raw().to_vec()))
        .collect();
    let octets: usize = hints.iter().map(|hint| hint.as_ref().len()).sum();
    if octets > MAX_ROOT_HINT_OCTETS { Vec::new() } else { hints }
}

/// Reads the CA file's certificates into a store. With it come warnings.
pub(super) fn trust_store(
    prefix: &str,
    ca: PemFile<'_>,
    certificates: &[CertificateDer<'_>],
    provider: &CryptoProvider,
) -> Result<(TrustStore, Vec<String>), TlsError> {
    let setting = format!("{prefix}_ca_file");
    let (store, unreadable) = TrustStore::new(certificates, provider.signature_verification_algorithms);
    if store.is_empty() {
        return Err(TlsError::file(&setting, ca.path, "none of its certificates can be read"));
    }
    let mut warnings = Vec::new();
    if unreadable > 0 {
        let all = certificates.len();
        let reason = format!("{unreadable} of its {all} certificates cannot be read and are left out");
        warnings.push(TlsError::file(&setting, ca.path, reason).to_string());
    }
    Ok((store, warnings))
}
