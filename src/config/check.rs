//! `pgtandem check FILE`: the configuration and every file that it names, all findings at once.

use std::path::Path;

use super::choice::{AuthType, SslMode};
use super::ha::HaSettings;
use super::problem::{Place, Problem, Severity, has_errors};
use super::resolve::{Places, is_input_file};
use super::settings::Settings;
use super::{Config, ReadFile, understand};

/// What a file is for, so that its content can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileRole {
    /// `auth_file`: users and secrets.
    Users,
    /// `auth_hba_file`: access rules.
    Hba,
    /// `auth_ident_file`: user maps.
    Ident,
    /// Certificates in PEM form.
    Certificates,
    /// A private key in PEM form.
    PrivateKey,
    /// `resolv_conf`.
    Resolver,
    /// `pair_secret_file`: what both nodes of a pair know.
    PairSecret,
}

/// A finding inside a file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The line in that file, from 1; 0 = the file as a whole.
    pub line: u32,
    /// What is wrong; must not hold a secret.
    pub text: String,
}

/// Looks into a file that the configuration names.
pub type InspectFile<'a> = dyn FnMut(FileRole, &[u8]) -> Vec<Finding> + 'a;

/// What a check found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The configuration, if it is usable.
    pub config: Option<Config>,
    /// All findings, in the order of the files.
    pub problems: Vec<Problem>,
}

/// Read a configuration, and none of the files that it names but those that it includes: for a machine that does not have them.
pub fn check_alone(path: &Path, read: &mut ReadFile<'_>) -> Report {
    let mut problems = Vec::new();
    let (config, _) = understand(path, read, &mut problems);
    report(config, problems)
}

/// Read a configuration and every file that it names. `inspect` judges their content; [`inspect`] is a plain judge that
/// knows PEM, to which the caller adds the parsers that it has.
pub fn check(path: &Path, read: &mut ReadFile<'_>, inspect: &mut InspectFile<'_>) -> Report {
    let mut problems = Vec::new();
    let (config, places) = understand(path, read, &mut problems);
    files(&config, &places, read, inspect, &mut problems);
    report(config, problems)
}

fn report(config: Config, mut problems: Vec<Problem>) -> Report {
    super::problem::sort(&mut problems);
    let config = (!has_errors(&problems)).then_some(config);
    Report { config, problems }
}

fn files(
    config: &Config,
    places: &Places,
    read: &mut ReadFile<'_>,
    inspect: &mut InspectFile<'_>,
    problems: &mut Vec<Problem>,
) {
    for InputFile { setting, role, name } in input_files(config) {
        let place = places.setting(setting);
        match read(Path::new(&name)) {
            Err(error) => {
                // PgBouncer goes on without a user file and refuses every login; everything else stops it.
                let text = format!("could not open {setting} {name}: {error}");
                problems.push(Problem::error(place, text).hint("does the file exist, and may this user read it?"));
            }
            Ok(bytes) => {
                for finding in inspect(role, &bytes) {
                    let line = finding.line.max(1);
                    let place = Place { file: name.as_str().into(), line };
                    let text = format!("{setting}: {}", finding.text);
                    problems.push(Problem { severity: finding.severity, ..Problem::error(Some(&place), text) });
                }
            }
        }
    }
}

/// A file that the configuration names and the program reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// The setting that names it.
    pub setting: &'static str,
    /// What it is for.
    pub role: FileRole,
    /// Its name, as the setting has it.
    pub name: String,
}

/// Every file that is read with these settings.
pub fn input_files(config: &Config) -> impl Iterator<Item = InputFile> {
    let main = Settings::specs().iter().filter(|spec| is_input_file(spec)).filter_map(|spec| {
        let name = config.settings.get(spec.name).unwrap_or_default();
        let used = !name.is_empty() && is_used(config, spec.name);
        used.then(|| InputFile { setting: spec.name, role: role(spec.name), name })
    });
    let pair = config.ha.iter().flat_map(|ha| {
        HaSettings::specs().iter().filter(|spec| is_input_file(spec)).filter_map(|spec| {
            let name = ha.settings.get(spec.name).unwrap_or_default();
            (!name.is_empty()).then(|| InputFile { setting: spec.name, role: role(spec.name), name })
        })
    });
    main.chain(pair)
}

fn role(setting: &str) -> FileRole {
    match setting {
        "auth_file" => FileRole::Users,
        "auth_hba_file" => FileRole::Hba,
        "auth_ident_file" => FileRole::Ident,
        "resolv_conf" => FileRole::Resolver,
        "pair_secret_file" => FileRole::PairSecret,
        key if key.ends_with("_key_file") => FileRole::PrivateKey,
        _ => FileRole::Certificates,
    }
}

/// Is a file read at all with these settings?
fn is_used(config: &Config, setting: &str) -> bool {
    let settings = &config.settings;
    match setting {
        "auth_hba_file" | "auth_ident_file" => settings.auth_type == AuthType::Hba,
        name if name.starts_with("client_tls") => settings.client_tls_sslmode != SslMode::Disable,
        name if name.starts_with("server_tls") => settings.server_tls_sslmode != SslMode::Disable,
        "auth_file" => settings.auth_type != AuthType::Any,
        _ => true,
    }
}

/// A judge of PEM files; the other kinds have parsers of their own elsewhere.
#[must_use]
pub fn inspect(role: FileRole, bytes: &[u8]) -> Vec<Finding> {
    match role {
        FileRole::Certificates => pem(bytes, "CERTIFICATE-----", "certificate"),
        FileRole::PrivateKey => pem(bytes, "PRIVATE KEY-----", "private key"),
        FileRole::PairSecret => pair_secret(bytes).err().into_iter().collect(),
        FileRole::Users | FileRole::Hba | FileRole::Ident | FileRole::Resolver => Vec::new(),
    }
}

/// The shortest secret of a pair, in bytes: what a machine makes of 128 random bits, or more.
pub const MIN_PAIR_SECRET_BYTES: usize = 16;
/// A file larger than this was named by mistake.
const MAX_PAIR_SECRET_BYTES: usize = 4096;

/// The secret in a `pair_secret_file`: all of it but white space at both ends, so that a line break does no harm.
///
/// # Errors
/// The finding: too short, too long, or nothing but one and the same byte.
pub fn pair_secret(bytes: &[u8]) -> Result<&[u8], Finding> {
    let secret = bytes.trim_ascii();
    let finding = |text: String| Err(Finding { severity: Severity::Error, line: 0, text });
    if secret.len() < MIN_PAIR_SECRET_BYTES {
        return finding(format!(
            "a secret of {} bytes is too short, it needs {MIN_PAIR_SECRET_BYTES}; {MAKE_A_SECRET}",
            secret.len()
        ));
    }
    if secret.len() > MAX_PAIR_SECRET_BYTES {
        return finding(format!(
            "the file holds more than {MAX_PAIR_SECRET_BYTES} bytes, which is no secret; {MAKE_A_SECRET}"
        ));
    }
    if secret.iter().all(|byte| Some(byte) == secret.first()) {
        return finding(format!("the secret is one and the same character again and again; {MAKE_A_SECRET}"));
    }
    Ok(secret)
}

/// How an operator comes to a secret.
pub(super) const MAKE_A_SECRET: &str = "make one with `openssl rand -hex 32` and copy it to both nodes";

fn pem(bytes: &[u8], label: &str, what: &str) -> Vec<Finding> {
    let found =
        String::from_utf8_lossy(bytes).lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label));
    let finding =
        || Finding { severity: Severity::Error, line: 0, text: format!("the file holds no {what} in PEM form") };
    if found { Vec::new() } else { vec![finding()] }
}
