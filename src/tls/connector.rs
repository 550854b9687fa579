//! TLS towards PostgreSQL servers: the `server_tls_…` settings.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::ClientConfig;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::sign::SingleCertAndKey;
use rustls_pki_types::ServerName;

use super::acceptor::trust_store;
use super::keypair::KeyPairFiles;
use super::protocols::Protocols;
use super::verifier::{ServerCheck, ServerVerifier};
use super::{PemFile, SslMode, TlsError, ciphers, pem};

const PREFIX: &str = "server_tls";

/// The `server_tls_…` settings, with the contents of the files.
#[derive(Clone, Copy, Debug)]
pub struct ConnectorParams<'a> {
    /// `server_tls_sslmode`; with `disable` a connector is built as for `prefer`, and it is the caller who does not use it.
    pub sslmode: SslMode,
    /// `server_tls_ca_file`. Used by `verify-ca` and `verify-full` only (as in PgBouncer; libpq would use it with `require` too).
    /// Where it is not set PgBouncer takes the system's list of CAs: the caller may pass that file here.
    pub ca: Option<PemFile<'a>>,
    /// `server_tls_cert_file`: our certificate, if the servers want one.
    pub cert: Option<PemFile<'a>>,
    /// `server_tls_key_file`.
    pub key: Option<PemFile<'a>>,
    /// `server_tls_protocols`.
    pub protocols: &'a str,
    /// `server_tls_ciphers`.
    pub ciphers: &'a str,
    /// `server_tls13_ciphers`.
    pub tls13_ciphers: &'a str,
}

/// What is needed to speak TLS to PostgreSQL servers.
#[derive(Clone)]
pub struct Connector {
    /// An error: the settings are well-formed, but no TLS connection can come of them.
    config: Result<Arc<ClientConfig>, TlsError>,
    sslmode: SslMode,
    fingerprint: [u8; 32],
    warnings: Vec<String>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("sslmode", &self.sslmode).finish_non_exhaustive()
    }
}

impl Connector {
    /// Checks the settings and builds the configuration.
    ///
    /// A `server_tls_protocols` that only names TLS 1.0 and 1.1 is not an error here but of every [`Self::dial`]: with
    /// PgBouncer such a configuration loads, and works with servers that have no TLS.
    pub fn new(params: &ConnectorParams<'_>) -> Result<Self, TlsError> {
        let setting = format!("{PREFIX}_protocols");
        let protocols = Protocols::parse(&setting, params.protocols)?;
        let (config, warnings) = match protocols.versions(&setting, params.protocols) {
            Ok(versions) => {
                let (config, warnings) = client_config(params, protocols, &versions)?;
                (Ok(Arc::new(config)), warnings)
            }
            Err(error) => {
                let warning = format!("no TLS connection to a server is possible: {error}");
                (Err(error), vec![warning])
            }
        };
        Ok(Self { config, sslmode: params.sslmode, fingerprint: fingerprint(params), warnings })
    }

    /// The library's configuration, and the name for the handshake with `host` (as configured: a DNS name or an IP address).
    ///
    /// # Errors
    ///
    /// If no TLS connection can come of the settings, or if `verify-full` is asked of a host that a certificate cannot name.
    pub fn dial(&self, host: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>), TlsError> {
        let config = Arc::clone(self.config.as_ref().map_err(Clone::clone)?);
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if self.sslmode == SslMode::VerifyFull => {
                return Err(TlsError::ServerName { host: host.to_owned() });
            }
            // The name is not checked, and of an address nothing is sent: any will do.
            Err(_) => ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        };
        Ok((config, name))
    }

    /// Why no TLS connection can come of the settings, if so (it is among the warnings too).
    #[must_use]
    pub fn unusable(&self) -> Option<&TlsError> {
        self.config.as_ref().err()
    }

    /// What is not an error but should be logged when the settings are loaded.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Were both built from the same settings and file contents? If not, existing server connections must be replaced.
    #[must_use]
    pub fn same_settings(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Stands for all settings and file contents that it was built from.
    #[must_use]
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The mode that this was built for.
    #[must_use]
    pub fn sslmode(&self) -> SslMode {
        self.sslmode
    }
}

fn client_config(
    params: &ConnectorParams<'_>,
    protocols: Protocols,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<(ClientConfig, Vec<String>), TlsError> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: ciphers::select(PREFIX, protocols, params.ciphers, params.tls13_ciphers)?,
        kx_groups: ciphers::default_groups(),
        ..provider::default_provider()
    });
    let (check, warnings) = server_check(params, &provider)?;
    let verifier = ServerVerifier::new(check, provider.signature_verification_algorithms);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own_certificate(params)? {
        Some(resolver) => builder.with_client_cert_resolver(resolver),
        None => builder.with_no_client_auth(),
    };
    // PostgreSQL never resumes; and a resumed session would not show its certificate to the verifier again.
    config.resumption = Resumption::disabled();
    // For a hand-over, where TLS goes from the library to the kernel (net/kernel_tls). It costs nothing before.
    config.enable_secret_extraction = true;
    Ok((config, warnings))
}

fn server_check(
    params: &ConnectorParams<'_>,
    provider: &CryptoProvider,
) -> Result<(ServerCheck, Vec<String>), TlsError> {
    if !params.sslmode.verifies_chain() {
        return Ok((ServerCheck::None, Vec::new()));
    }
    let setting = format!("{PREFIX}_ca_file");
    let Some(ca) = params.ca else {
        let reason = format!("server_tls_sslmode={} needs the CA of the servers' certificates", params.sslmode);
        return Err(TlsError::Missing { setting, reason });
    };
    let (store, warnings) = trust_store(PREFIX, ca, &pem::certificates(&setting, ca)?, provider)?;
    let check = match params.sslmode {
        SslMode::VerifyFull => ServerCheck::ChainAndName(store),
        _ => ServerCheck::Chain(store),
    };
    Ok((check, warnings))
}

fn own_certificate(params: &ConnectorParams<'_>) -> Result<Option<Arc<dyn ResolvesClientCert>>, TlsError> {
    let missing = |which: &str, other: &str| TlsError::Missing {
        setting: format!("{PREFIX}_{which}_file"),
        reason: format!("{PREFIX}_{other}_file is set, and one is of no use without the other"),
    };
    match (params.cert, params.key) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing("key", "cert")),
        (None, Some(_)) => Err(missing("cert", "key")),
        (Some(cert), Some(key)) => {
            let certified_key = KeyPairFiles { prefix: PREFIX, cert, key }.load()?;
            Ok(Some(Arc::new(SingleCertAndKey::from(certified_key))))
        }
    }
}

/// A digest of all settings and file contents. Every part is preceded by its length, so that no two configurations look alike.
fn fingerprint(params: &ConnectorParams<'_>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let mut add = |part: &[u8]| {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    };
    for text in [params.sslmode.as_str(), params.protocols, params.ciphers, params.tls13_ciphers] {
        add(text.as_bytes());
    }
    for file in [params.ca, params.cert, params.key] {
        match file {
            Some(file) => {
                add(b"file");
                add(file.path.as_bytes());
                add(file.bytes);
            }
            None => add(b"none"),
        }
    }
    let mut out = [0; 32];
    out.iter_mut().zip(context.finish().as_ref()).for_each(|(slot, &byte)| *slot = byte);
    out
}
