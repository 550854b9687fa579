//! What is needed to ask LDAP servers: `auth_ldap_options`, and TLS as OpenLDAP's configuration has it (ldap.conf(5)), which
//! PgBouncer's library reads too.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::configure::{SetupError, system_text};
use super::files::{Files, Kind};
use crate::auth::hba::Rules;
use crate::auth::ldap::LdapOptions;
use crate::config::{AuthType, Settings};
use crate::session::io::ldap::LdapAccess;
use crate::tls::{Connector, ConnectorParams, PemFile, SslMode};

/// Where distributions keep it.
const CONF_FILES: [&str; 3] = ["/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf", "/usr/local/etc/openldap/ldap.conf"];
/// Where they keep the certificates of CAs; for a configuration that names none.
const CA_FILES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// What asks LDAP servers; `None` if no client has to be asked about. What should be logged is added to `warnings`.
///
/// # Errors
/// `auth_ldap_options` cannot be used.
pub(super) fn access(
    settings: &Settings,
    rules: Option<&Rules>,
    files: &Files,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<LdapAccess>>, SetupError> {
    let mut options = None;
    if settings.auth_type == AuthType::Ldap {
        let bad = |error: String| SetupError::Rules(format!("auth_ldap_options: {error}"));
        let text = settings.auth_ldap_options.as_ref().map(|text| text.expose()).unwrap_or_default();
        options = Some(Arc::new(LdapOptions::parse(text).map_err(bad)?));
    }
    let all: Vec<_> = options.iter().chain(rules.into_iter().flat_map(Rules::ldap_options)).cloned().collect();
    if all.is_empty() {
        return Ok(None);
    }
    let tls = tls(files);
    if let Err(error) = &tls
        && all.iter().any(|options| options.wants_tls())
    {
        warnings.push(format!("LDAP servers cannot be asked by TLS: {error}"));
    }
    Ok(Some(Arc::new(LdapAccess::new(options, tls))))
}

/// What ldap.conf says of TLS.
#[derive(Debug, Default, PartialEq, Eq)]
struct Conf {
    /// `TLS_REQCERT never` or `allow`: any certificate will do.
    any_certificate: bool,
    /// `TLS_CACERT`
    ca: Option<PathBuf>,
}

impl Conf {
    fn read(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            self.set(&key.to_ascii_uppercase(), value.trim());
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            "TLS_REQCERT" => self.any_certificate = matches!(value.to_ascii_lowercase().as_str(), "never" | "allow"),
            "TLS_CACERT" if !value.is_empty() => self.ca = Some(PathBuf::from(value)),
            _ => {}
        }
    }

    /// The file, or the one of variable `LDAPCONF`, and the variables `LDAPTLS_REQCERT` and `LDAPTLS_CACERT`.
    fn of_this_machine(files: &Files) -> Self {
        let mut conf = Self::default();
        if env::var_os("LDAPNOINIT").is_some() {
            return conf;
        }
        let own = env::var_os("LDAPCONF").map(PathBuf::from);
        let path = own.or_else(|| CONF_FILES.iter().map(PathBuf::from).find(|path| path.exists()));
        if let Some(bytes) = path.and_then(|path| files.read(&path, Kind::Plain).ok()) {
            conf.read(&String::from_utf8_lossy(&bytes));
        }
        for (variable, key) in [("LDAPTLS_REQCERT", "TLS_REQCERT"), ("LDAPTLS_CACERT", "TLS_CACERT")] {
            if let Ok(value) = env::var(variable) {
                conf.set(key, &value);
            }
        }
        conf
    }
}

fn tls(files: &Files) -> Result<Connector, String> {
    connector(&Conf::of_this_machine(files), files)
}

fn connector(conf: &Conf, files: &Files) -> Result<Connector, String> {
    let path = conf.ca.clone().or_else(|| CA_FILES.iter().map(PathBuf::from).find(|path| path.exists()));
    let path = path.filter(|_| !conf.any_certificate);
    let shown = path.as_deref().unwrap_or(Path::new("")).display().to_string();
    let bytes = path.map(|path| files.read(&path, Kind::Plain)).transpose();
    let bytes = bytes.map_err(|error| format!("TLS_CACERT of ldap.conf: {shown}: {}", system_text(&error)))?;
    if bytes.is_none() && !conf.any_certificate {
        return Err("no certificates of CAs are known; name their file as TLS_CACERT in ldap.conf".to_owned());
    }
    Connector::new(&ConnectorParams {
        sslmode: if conf.any_certificate { SslMode::Require } else { SslMode::VerifyFull },
        ca: bytes.as_ref().map(|bytes| PemFile { path: &shown, bytes }),
        cert: None,
        key: None,
        protocols: "secure",
        ciphers: "default",
        tls13_ciphers: "",
    })
    .map_err(|error| format!("TLS_CACERT of ldap.conf: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_concerns_tls() {
        for (text, any_certificate, ca) in [
            ("", false, None),
            ("# TLS_REQCERT never\nBASE dc=x\n", false, None),
            ("TLS_REQCERT never\n", true, None),
            ("tls_reqcert\tALLOW\nTLS_CACERT  /a b\n", true, Some("/a b")),
            ("TLS_REQCERT never\nTLS_REQCERT demand\nTLS_CACERT /x", false, Some("/x")),
            ("TLS_REQCERT try\nTLS_CACERT\n", false, None),
        ] {
            let mut conf = Conf::default();
            conf.read(text);
            assert_eq!(conf, Conf { any_certificate, ca: ca.map(PathBuf::from) }, "{text}");
        }
    }

    #[test]
    fn certificates_are_checked_unless_ldap_conf_says_no() {
        let files = Files::default();
        let any = connector(&Conf { any_certificate: true, ca: Some("/nowhere".into()) }, &files).unwrap();
        assert_eq!(any.sslmode(), SslMode::Require);
        let error = connector(&Conf { any_certificate: false, ca: Some("/nowhere".into()) }, &files).unwrap_err();
        assert!(error.contains("/nowhere: No such file"), "{error}");
    }

    #[test]
    fn only_those_who_ask_get_access() {
        let files = Files::default();
        let mut warnings = Vec::new();
        let settings = Settings::default();
        assert!(access(&settings, None, &files, &mut warnings).unwrap().is_none());
        let ldap = Settings { auth_type: AuthType::Ldap, ..settings };
        let error = access(&ldap, None, &files, &mut warnings).err().unwrap().to_string();
        assert!(error.starts_with("auth_ldap_options: authentication method \"ldap\" requires"), "{error}");
    }
}
