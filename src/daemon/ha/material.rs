//! By what the nodes of a pair know each other: read with the configuration, as the user who may read it, and made into keys when
//! the link begins, since that takes a moment on purpose.

use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::config::check::pair_secret;
use crate::config::ha::Ha;
use crate::daemon::files::{Files, Kind};
use crate::tls::{PairFiles, PairTls, PemFile, TlsError};

/// The secret, or the certificates.
pub enum PairMaterial {
    /// setting pair_secret_file.
    Secret(Zeroizing<Vec<u8>>),
    /// settings pair_tls_…: path and content.
    Files {
        /// pair_tls_cert_file.
        cert: (String, Zeroizing<Vec<u8>>),
        /// pair_tls_key_file.
        key: (String, Zeroizing<Vec<u8>>),
        /// pair_tls_ca_file.
        ca: (String, Zeroizing<Vec<u8>>),
        /// pair_tls_peer_name.
        peer_name: String,
    },
}

impl fmt::Debug for PairMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "PairMaterial::Secret(..)",
            Self::Files { .. } => "PairMaterial::Files(..)",
        })
    }
}

impl PairMaterial {
    /// Reads what the settings name; `None` without a peer.
    ///
    /// # Errors
    /// What is wrong, with the setting's name.
    pub fn read(ha: &Ha, files: &Files) -> Result<Option<Self>, String> {
        let settings = &ha.settings;
        if !ha.has_peer() {
            return Ok(None);
        }
        let read = |setting: &str, path: &str, kind| {
            let bytes = files.read(Path::new(path), kind).map(Zeroizing::new);
            bytes.map_err(|error| format!("{setting}: could not open \"{path}\" ({error})"))
        };
        if !settings.pair_secret_file.is_empty() {
            let path = &settings.pair_secret_file;
            let bytes = read("pair_secret_file", path, Kind::PairSecret)?;
            let secret =
                pair_secret(&bytes).map_err(|finding| format!("pair_secret_file \"{path}\": {}", finding.text))?;
            return Ok(Some(Self::Secret(Zeroizing::new(secret.to_vec()))));
        }
        let file = |setting, path: &String, kind| read(setting, path, kind).map(|bytes| (path.clone(), bytes));
        let material = Self::Files {
            cert: file("pair_tls_cert_file", &settings.pair_tls_cert_file, Kind::Plain)?,
            key: file("pair_tls_key_file", &settings.pair_tls_key_file, Kind::PrivateKey)?,
            ca: file("pair_tls_ca_file", &settings.pair_tls_ca_file, Kind::Plain)?,
            peer_name: settings.pair_tls_peer_name.clone(),
        };
        // Now, so that a file that is none stops a start or a reload.
        material.tls().map_err(|error| error.to_string())?;
        Ok(Some(material))
    }

    /// The keys. Takes a tenth of a second for a secret.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub fn tls(&self) -> Result<PairTls, TlsError> {
        match self {
            Self::Secret(secret) => PairTls::by_secret(secret),
            Self::Files { cert, key, ca, peer_name } => {
                let files = PairFiles {
                    cert: PemFile { path: &cert.0, bytes: &cert.1 },
                    key: PemFile { path: &key.0, bytes: &key.1 },
                    ca: PemFile { path: &ca.0, bytes: &ca.1 },
                };
                PairTls::by_certificates(&files, peer_name)
            }
        }
    }
}
