//! A connection to a server before the first word of a login: dial, then TLS as `server_tls_sslmode` says. The caller sets the
//! deadline by dropping the future.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::dial::{DialError, Target, TcpOptions, dial};
use crate::net::stream::Stream;
use crate::tls::{Connector, SslMode, TlsError, failure_text};
use crate::wire::startup::put_ssl_request;

/// Why there is no connection. The texts are PgBouncer's first, since tools match them.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host's name has no address.
    #[error("server DNS lookup failed")]
    Dns(#[source] io::Error),
    /// Nobody took the connection.
    #[error("connect failed: {0}")]
    Connect(io::Error),
    /// The connection ended or the server broke off while TLS was asked for.
    #[error("server conn crashed? ({0})")]
    Crashed(io::Error),
    /// The server has no TLS, and the mode wants it.
    #[error("server refused SSL")]
    Refused,
    /// What came back is no answer of PostgreSQL.
    #[error("server gave an unknown answer to the request for SSL")]
    Unknown,
    /// Our settings allow no TLS connection to this host.
    #[error(transparent)]
    Settings(TlsError),
    /// The handshake failed; the reason in words.
    #[error("TLS handshake error: handshake failed: {0}")]
    Handshake(String),
}

impl From<DialError> for ConnectError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Dns(source) => Self::Dns(source),
            DialError::Connect(source) => Self::Connect(source),
        }
    }
}

/// Dials and, if the mode and the server want it, turns TLS on (PostgreSQL docs, "SSL Session Encryption"). `name` is the host
/// as configured, for SNI and for the check of the certificate.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect_for(
    tcp: &TcpOptions,
    connector: &Connector,
    target: &Target,
    name: &str,
) -> Result<Stream, ConnectError> {
    secure(connector, dial(target, tcp).await?, name).await
}

/// Turns TLS on, on a connection just dialled, if the mode and the server want it. `name` as for [`connect_for`].
///
/// # Errors
/// [`ConnectError`].
pub async fn secure(connector: &Connector, stream: Stream, name: &str) -> Result<Stream, ConnectError> {
    let mode = connector.sslmode();
    if mode == SslMode::Disable || stream.is_unix() {
        return Ok(stream);
    }
    negotiate_tls(connector, stream, mode, name).await
}

async fn negotiate_tls(
    connector: &Connector,
    mut stream: Stream,
    mode: SslMode,
    name: &str,
) -> Result<Stream, ConnectError> {
    let mut request = Vec::new();
    put_ssl_request(&mut request);
    let mut answer = [0];
    let asked = async {
        stream.write_all(&request).await?;
        // Exactly one byte: anything that came behind it in the clear must be seen by TLS, which refuses it.
        stream.read_exact(&mut answer).await
    };
    asked.await.map_err(ConnectError::Crashed)?;
    match answer {
        [b'S'] => {}
        [b'N'] if matches!(mode, SslMode::Allow | SslMode::Prefer) => return Ok(stream),
        [b'N'] => return Err(ConnectError::Refused),
        _ => return Err(ConnectError::Unknown),
    }
    let (config, name) = connector.dial(name).map_err(ConnectError::Settings)?;
    stream.connect_tls(config, name).await.map_err(|error| {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        ConnectError::Handshake(inner.map_or_else(|| error.to_string(), failure_text))
    })
}
