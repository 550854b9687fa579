//! Access rules of `auth_type = hba`: reads `auth_hba_file`, `auth_ident_file` and the files that they name.

use std::path::Path;
use std::sync::Arc;

use super::configure::{SetupError, system_text};
use super::files::{Files, Kind};
use crate::auth::Method;
use crate::auth::hba::{Finding, IdentMaps, Rules};
use crate::config::{AuthType, Settings, SslMode};

/// The rules, if the settings want any. What should be logged is added to `warnings`.
///
/// # Errors
/// [`SetupError::Rules`]: a file that cannot be read, or every line in them that cannot.
pub(super) fn read(
    settings: &Settings,
    files: &Files,
    warnings: &mut Vec<String>,
) -> Result<Option<Arc<Rules>>, SetupError> {
    if settings.auth_type != AuthType::Hba {
        return Ok(None);
    }
    let mut errors = Vec::new();
    let maps = match settings.auth_ident_file.get() {
        None => IdentMaps::default(),
        Some(path) => {
            let (maps, findings) = IdentMaps::parse(&content("auth_ident_file", path, files)?);
            sort_out("auth_ident_file", path, findings, &mut errors, warnings);
            maps
        }
    };
    let path = &settings.auth_hba_file;
    if path.is_empty() {
        return Err(SetupError::Rules("auth_type=hba needs auth_hba_file: name the file of access rules".to_owned()));
    }
    let bytes = content("auth_hba_file", path, files)?;
    let mut read = |name: &str| {
        let beside = Path::new(path).parent().unwrap_or(Path::new("")).join(name);
        files.read(&beside, Kind::Plain).map_err(|error| system_text(&error))
    };
    let (rules, findings) = Rules::parse(&bytes, &maps, &mut read);
    sort_out("auth_hba_file", path, findings, &mut errors, warnings);
    if !errors.is_empty() {
        return Err(SetupError::Rules(errors.join("\n")));
    }
    let at = |text: &str| format!("auth_hba_file {path}: {text}");
    if rules.is_empty() {
        warnings.push(at("no line, so nobody is let in"));
    }
    if rules.methods().any(|method| method == Method::Cert)
        && (settings.client_tls_sslmode == SslMode::Disable || settings.client_tls_ca_file.is_empty())
    {
        warnings.push(at(
            "nobody passes a line with the method cert: it needs client_tls_sslmode and client_tls_ca_file, which signs the \
             clients' certificates",
        ));
    }
    Ok(Some(Arc::new(rules)))
}

fn content(setting: &str, path: &str, files: &Files) -> Result<Vec<u8>, SetupError> {
    files.read(Path::new(path), Kind::Rules).map_err(|error| {
        let reason = system_text(&error);
        SetupError::Rules(format!("{setting}: could not open \"{path}\" ({reason}); create it or correct the setting"))
    })
}

fn sort_out(setting: &str, path: &str, findings: Vec<Finding>, errors: &mut Vec<String>, warnings: &mut Vec<String>) {
    for finding in findings {
        let text = format!("{path}:{}: {setting}: {}", finding.line, finding.text);
        if finding.is_error { errors.push(text) } else { warnings.push(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path, hba: &str, ident: &str) -> Settings {
        std::fs::write(dir.join("hba.conf"), hba).unwrap();
        std::fs::write(dir.join("ident.conf"), ident).unwrap();
        std::fs::write(dir.join("names"), "joe, ann\n# nobody else\n").unwrap();
        Settings {
            auth_type: AuthType::Hba,
            auth_hba_file: dir.join("hba.conf").display().to_string(),
            auth_ident_file: crate::config::Nullable(Some(dir.join("ident.conf").display().to_string())),
            ..Settings::default()
        }
    }

    #[test]
    fn reads_both_files_and_names_beside_them() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut warnings = Vec::new();
        let settings = settings(dir.path(), "local all @names peer map=m\nhostssl all all all cert\n", "m os joe\n");
        let rules = read(&settings, &Files::default(), &mut warnings).unwrap().unwrap();
        assert_eq!(rules.len(), 2);
        assert!(matches!(&warnings[..], [text] if text.contains("client_tls_ca_file")), "{warnings:?}");
        let other = Settings { auth_type: AuthType::Md5, auth_hba_file: "/nowhere".to_owned(), ..settings };
        assert!(read(&other, &Files::default(), &mut Vec::new()).unwrap().is_none());
    }

    #[test]
    fn every_bad_line_is_told_with_its_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let settings = settings(dir.path(), "local all all\nlocal all @none peer map=m\n", "m os\nm /( x\n");
        let text = read(&settings, &Files::default(), &mut Vec::new()).unwrap_err().to_string();
        let hba = dir.path().join("hba.conf").display().to_string();
        let ident = dir.path().join("ident.conf").display().to_string();
        for line in [
            format!("{ident}:1: auth_ident_file: the database user is missing"),
            format!("{ident}:2: auth_ident_file: the regular expression ("),
            format!("{hba}:1: auth_hba_file: the method is missing"),
            format!("{hba}:2: auth_hba_file: could not open @none: No such file or directory"),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let dir = tempfile::TempDir::new().unwrap();
        for (hba, words) in
            [("", "auth_type=hba needs auth_hba_file"), ("/nowhere/hba.conf", "could not open \"/nowhere/hba.conf\"")]
        {
            let settings = Settings { auth_hba_file: hba.to_owned(), ..settings(dir.path(), "", "") };
            let text = read(&settings, &Files::default(), &mut Vec::new()).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
    }
}
