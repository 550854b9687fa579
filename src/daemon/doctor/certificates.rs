//! Certificates and keys: can they be used, and for how long?

use std::fs;

use super::report::{Finding, Level, Subject};
use super::words::{counted, day, quoted};
use crate::config::{Config, Settings, SslMode};
use crate::daemon::configure;
use crate::daemon::files::Files;
use crate::tls::{CertificateSummary, Connector, PemFile, summarize_certificates};

/// Days before its end from which on a certificate is worth a warning.
const WARNING_DAYS: i64 = 30;
const DAY: i64 = 86_400;

/// One side's files, as far as dates matter.
struct Side {
    cert: (&'static str, String),
    key: (&'static str, String),
    ca: (&'static str, String),
    /// Are certificates of the other side checked against `ca`?
    ca_decides: bool,
}

fn sides(settings: &Settings) -> Vec<Side> {
    let mut sides = Vec::new();
    if settings.client_tls_sslmode != SslMode::Disable {
        sides.push(Side {
            cert: ("client_tls_cert_file", settings.client_tls_cert_file.clone()),
            key: ("client_tls_key_file", settings.client_tls_key_file.clone()),
            ca: ("client_tls_ca_file", settings.client_tls_ca_file.clone()),
            ca_decides: settings.client_tls_sslmode >= SslMode::VerifyCa,
        });
    }
    if settings.server_tls_sslmode != SslMode::Disable {
        sides.push(Side {
            cert: ("server_tls_cert_file", settings.server_tls_cert_file.clone()),
            key: ("server_tls_key_file", settings.server_tls_key_file.clone()),
            ca: ("server_tls_ca_file", settings.server_tls_ca_file.clone()),
            ca_decides: settings.server_tls_sslmode >= SslMode::VerifyCa,
        });
    }
    sides
}

/// Looks at both sides, as the user who serves; `now` in seconds since 1970. The connector is there if servers can be tried.
pub(super) fn examine(config: &Config, now: i64) -> (Vec<Finding>, Option<Connector>) {
    let settings = &config.settings;
    let mut findings = Vec::new();
    for side in sides(settings) {
        if !side.cert.1.is_empty()
            && let Ok(found) = summaries(side.cert.0, &side.cert.1)
        {
            findings.extend(judge_own(&side, &found, now));
        }
        if !side.ca.1.is_empty()
            && let Ok(found) = summaries(side.ca.0, &side.ca.1)
        {
            findings.extend(judge_authorities(&side, &found, now));
        }
    }
    let (files, mut warnings) = (Files::default(), Vec::new());
    let acceptor = configure::acceptor(settings, &files, &mut warnings);
    let connector = configure::connector(settings, &files, &mut warnings);
    findings.extend(warnings.into_iter().map(|text| Finding::warning(Subject::Certificates, text)));
    let unusable = |error: configure::SetupError| judge_unusable(settings, &error.to_string());
    match acceptor {
        Ok(Some(_)) => {
            let text = "client_tls_cert_file and client_tls_key_file belong together";
            findings.push(Finding::ok(Subject::Certificates, text));
        }
        Ok(None) => {}
        Err(error) => findings.extend(unusable(error)),
    }
    let connector = connector.map_err(|error| findings.extend(unusable(error))).ok();
    (findings, connector)
}

fn summaries(setting: &str, path: &str) -> Result<Vec<CertificateSummary>, ()> {
    let bytes = fs::read(path).map_err(|_| ())?;
    summarize_certificates(setting, PemFile { path, bytes: &bytes }).map_err(|_| ())
}

/// What makes the settings useless. A file that cannot be read has its own finding.
fn judge_unusable(settings: &Settings, reason: &str) -> Option<Finding> {
    if reason.contains(": could not read \"") {
        return None;
    }
    let finding = Finding::error(Subject::Certificates, reason);
    if !reason.contains("private/public key mismatch") {
        return Some(finding.remedy("correct the file or the setting that is named, then: pgtandem check"));
    }
    let (cert, key) = if reason.contains("client_tls_key_file") {
        (&settings.client_tls_cert_file, &settings.client_tls_key_file)
    } else {
        (&settings.server_tls_cert_file, &settings.server_tls_key_file)
    };
    let (cert, key) = (quoted(cert), quoted(key));
    Some(finding.remedy(format!(
        "both must print the same: openssl x509 -in {cert} -noout -pubkey; openssl pkey -in {key} -pubout"
    )))
}

/// What a certificate's dates say.
enum Dates {
    Expired,
    NotYet,
    Soon(u64),
    Fine(u64),
}

fn dates(certificate: &CertificateSummary, now: i64) -> Dates {
    let days = |seconds: i64| u64::try_from(seconds / DAY).unwrap_or(0);
    let left = certificate.not_after.saturating_sub(now);
    if left < 0 {
        Dates::Expired
    } else if certificate.not_before > now {
        Dates::NotYet
    } else if left < WARNING_DAYS * DAY {
        Dates::Soon(days(left))
    } else {
        Dates::Fine(days(left))
    }
}

fn name(certificate: &CertificateSummary) -> String {
    certificate.common_name.as_ref().map_or_else(|| "without a common name".to_owned(), |name| format!("CN={name}"))
}

/// Our own certificate and those that are sent with it.
fn judge_own(side: &Side, found: &[CertificateSummary], now: i64) -> Vec<Finding> {
    let (setting, path) = &side.cert;
    let judge = |certificate: &CertificateSummary| {
        let what = format!("{setting} {path}: the certificate {}", name(certificate));
        let (level, text) = verdict(&what, certificate, now);
        let finding = Finding::new(Subject::Certificates, level, text);
        if level >= Level::Warning { finding.remedy(renewal(side, certificate)) } else { finding }
    };
    found.iter().map(judge).collect()
}

fn verdict(what: &str, certificate: &CertificateSummary, now: i64) -> (Level, String) {
    let until = day(certificate.not_after);
    match dates(certificate, now) {
        Dates::Expired => (Level::Error, format!("{what} has expired on {until}")),
        Dates::NotYet => {
            (Level::Error, format!("{what} is not valid before {}; is the clock right?", day(certificate.not_before)))
        }
        Dates::Soon(days) => (Level::Warning, format!("{what} expires in {}, on {until}", counted(days, "day"))),
        Dates::Fine(days) => (Level::Ok, format!("{what} is valid until {until} ({})", counted(days, "day"))),
    }
}

fn renewal(side: &Side, certificate: &CertificateSummary) -> String {
    let (cert, key) = (quoted(&side.cert.1), quoted(&side.key.1));
    let subject = quoted(&format!("/CN={}", certificate.common_name.as_deref().unwrap_or("pgtandem")));
    let then = "then reload (systemctl reload pgtandem, or kill -HUP)";
    if certificate.self_issued {
        format!("openssl req -new -x509 -days 365 -key {key} -subj {subject} -out {cert}, {then}")
    } else {
        format!(
            "openssl req -new -key {key} -subj {subject}, have the request signed by your CA, store the certificate as \
             {cert}, {then}"
        )
    }
}

/// Those that others' certificates must lead to: a bundle may hold old ones, but not only.
fn judge_authorities(side: &Side, found: &[CertificateSummary], now: i64) -> Vec<Finding> {
    let (setting, path) = &side.ca;
    let bad = found.iter().filter(|certificate| matches!(dates(certificate, now), Dates::Expired | Dates::NotYet));
    let (bad, all) = (bad.count(), found.len());
    let last = found.iter().max_by_key(|certificate| certificate.not_after);
    let Some(last) = last else { return Vec::new() };
    let remedy = format!("put the CA certificate that is in use now into {}", quoted(path));
    if bad == all {
        let (_, text) = verdict(&format!("{setting} {path}: the CA certificate {}", name(last)), last, now);
        let text = if all > 1 { format!("{text} (as all {all} of the file)") } else { text };
        let level = if side.ca_decides { Level::Error } else { Level::Warning };
        return vec![Finding::new(Subject::Certificates, level, text).remedy(remedy)];
    }
    let (level, text) = verdict(&format!("{setting} {path}: the CA certificate {}", name(last)), last, now);
    let finding = Finding::new(Subject::Certificates, level, text);
    let mut findings = vec![if level >= Level::Warning { finding.remedy(remedy) } else { finding }];
    if bad > 0 {
        let text = format!("{setting} {path}: {bad} of {all} CA certificates are out of date");
        findings.push(Finding::note(Subject::Certificates, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn side(ca_decides: bool) -> Side {
        Side {
            cert: ("client_tls_cert_file", "/e/p.crt".into()),
            key: ("client_tls_key_file", "/e/p.key".into()),
            ca: ("client_tls_ca_file", "/e/ca.crt".into()),
            ca_decides,
        }
    }

    fn certificate(from_days: i64, to_days: i64, self_issued: bool) -> CertificateSummary {
        CertificateSummary {
            common_name: Some("pooler".into()),
            self_issued,
            not_before: NOW + from_days * DAY,
            not_after: NOW + to_days * DAY,
        }
    }

    #[test]
    fn dates_decide() {
        for (from, to, level, cause) in [
            (-10, 365, Level::Ok, "valid until"),
            (-10, 29, Level::Warning, "expires in 29 days"),
            (-10, 1, Level::Warning, "expires in 1 day,"),
            (-10, -1, Level::Error, "has expired on 2027-01-14"),
            (3, 365, Level::Error, "not valid before"),
        ] {
            let finding = judge_own(&side(true), &[certificate(from, to, true)], NOW).remove(0);
            assert!(finding.level == level && finding.text.contains(cause), "{finding:?}");
            assert!(finding.text.contains("client_tls_cert_file /e/p.crt") && finding.text.contains("CN=pooler"));
            let remedy = finding.remedy.unwrap_or_default();
            assert_eq!(
                remedy.contains("-x509 -days 365 -key /e/p.key -subj /CN=pooler -out /e/p.crt"),
                level != Level::Ok
            );
        }
        let signed = judge_own(&side(true), &[certificate(-10, -1, false)], NOW).remove(0);
        assert!(signed.remedy.unwrap().contains("signed by your CA"));
    }

    #[test]
    fn a_bundle_may_hold_old_authorities_but_not_only() {
        let (old, good) = (certificate(-9, -1, true), certificate(-9, 900, true));
        let levels = |decides, found: &[CertificateSummary]| -> Vec<Level> {
            judge_authorities(&side(decides), found, NOW).iter().map(|finding| finding.level).collect()
        };
        assert_eq!(levels(true, std::slice::from_ref(&good)), [Level::Ok]);
        assert_eq!(levels(true, &[old.clone(), good]), [Level::Ok, Level::Note]);
        assert_eq!(levels(true, &[old.clone(), old.clone()]), [Level::Error]);
        assert_eq!(levels(false, &[old]), [Level::Warning]);
    }

    #[test]
    fn a_mismatch_has_its_commands_and_unread_files_no_second_finding() {
        let settings = Settings {
            client_tls_cert_file: "/e/a b.crt".into(),
            client_tls_key_file: "/e/p.key".into(),
            ..Settings::default()
        };
        let reason = "TLS setup failed: private/public key mismatch: the key in client_tls_key_file …";
        let finding = judge_unusable(&settings, reason).unwrap();
        assert!(
            finding.remedy.unwrap().contains("openssl x509 -in '/e/a b.crt' -noout -pubkey; openssl pkey -in /e/p.key")
        );
        assert_eq!(
            judge_unusable(&settings, "TLS setup failed: client_tls_cert_file: could not read \"/x\": no"),
            None
        );
    }
}
