//! What the outcome of every attempt means, and what to do about it. Pure.

use std::collections::BTreeMap;

use super::super::report::{Finding, Subject};
use super::super::words::{identifier, quoted};
use super::{Attempt, Ending, Probe, ServerFacts, Source, Unreached};

/// Judges every host of every database.
pub(in crate::daemon::doctor) fn judge(probes: &[Probe]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = probes.iter().flat_map(one).collect();
    findings.extend(capacity(probes));
    findings
}

fn about(probe: &Probe, text: &str) -> String {
    format!("database {} at {}: {text}", probe.database, probe.server())
}

fn at(probe: &Probe) -> String {
    probe.place.as_ref().map_or_else(String::new, |place| format!(" ({place})"))
}

fn one(probe: &Probe) -> Vec<Finding> {
    if let Err(reason) = &probe.reached {
        let (text, remedy) = unreached(probe, reason);
        return vec![Finding::error(Subject::Servers, about(probe, &text)).remedy(remedy)];
    }
    if probe.attempts.is_empty() {
        let text = format!("reachable; the login was not tried: {}", probe.untried);
        return vec![Finding::note(Subject::Servers, about(probe, &text))];
    }
    let worked = |attempt: &Attempt| matches!(attempt.ending, Ending::In(_) | Ending::SecretFits);
    let any_worked = probe.attempts.iter().any(worked);
    probe.attempts.iter().map(|attempt| login(probe, attempt, any_worked)).collect()
}

fn unreached(probe: &Probe, reason: &Unreached) -> (String, String) {
    let Probe { host, port, .. } = probe;
    let entry = format!("host= and port= of {}{}", probe.database, at(probe));
    let shown = quoted(host);
    match reason {
        Unreached::Name(reason) => (
            format!("the name {host} has no address ({reason})"),
            format!("getent ahosts {shown}; correct the name in {entry}, in DNS or in /etc/hosts"),
        ),
        Unreached::Refused if probe.unix => (
            "connection refused: nobody serves this Unix socket".to_owned(),
            format!("systemctl start postgresql; or correct {entry}"),
        ),
        Unreached::Refused => (
            "connection refused: nothing listens there".to_owned(),
            format!(
                "is PostgreSQL up there, and does its listen_addresses name that address? pg_isready -h {shown} -p {port}; \
                 or correct {entry}"
            ),
        ),
        Unreached::NoSocket => (
            "there is no such Unix socket".to_owned(),
            format!("systemctl start postgresql; or correct {entry} (SHOW unix_socket_directories at the server)"),
        ),
        Unreached::Denied => {
            ("this user may not use that Unix socket".to_owned(), format!("ls -l {shown}; namei -l {shown}"))
        }
        Unreached::Timeout(after) => (
            format!("no answer within {:.1} s: a firewall, or a wrong address?", after.as_secs_f32()),
            format!("pg_isready -h {shown} -p {port} -t 5; open the port in the firewall, or correct {entry}"),
        ),
        Unreached::NoTls => (
            "the server has no TLS, but server_tls_sslmode wants it".to_owned(),
            "ssl = on in the server's postgresql.conf; or server_tls_sslmode = prefer".to_owned(),
        ),
        Unreached::Handshake(reason) => (
            format!("TLS handshake failed: {reason}"),
            format!(
                "openssl s_client -starttls postgres -connect {shown}:{port} -showcerts </dev/null shows its certificate; \
                 its CA belongs into server_tls_ca_file"
            ),
        ),
        Unreached::Other(reason) => (reason.clone(), format!("pg_isready -h {shown} -p {port}; or correct {entry}")),
    }
}

fn secret_of(source: &Source) -> String {
    match source {
        Source::Entry(Some(place)) => format!("password= in {place}"),
        Source::Entry(None) => "password= of the entry".to_owned(),
        Source::Line(file, line) => format!("{file}:{line}"),
        Source::Nowhere => "no password known".to_owned(),
    }
}

fn login(probe: &Probe, attempt: &Attempt, any_worked: bool) -> Finding {
    let Attempt { user, source, ending } = attempt;
    match ending {
        Ending::In(Ok(facts)) => {
            let role = if facts.in_recovery { "replica" } else { "primary" };
            let text = format!("{user} logs in; PostgreSQL {}, {role}", facts.version);
            Finding::ok(Subject::Servers, about(probe, &text))
        }
        Ending::In(Err(reason)) => {
            let text = format!("{user} logs in, but the server could not be asked about itself ({reason})");
            Finding::note(Subject::Servers, about(probe, &text))
        }
        Ending::SecretFits => {
            let text = format!(
                "reachable; the SCRAM secret of {user} ({}) is the server's own, so clients who know the password get in",
                secret_of(source)
            );
            Finding::ok(Subject::Servers, about(probe, &text))
        }
        Ending::Refused { sqlstate, text } => refused(probe, attempt, sqlstate, text, any_worked),
        Ending::Unprovable { text, reason } => {
            let because = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            let text = format!("user {user} ({}): {text}{because}", secret_of(source));
            let make = if any_worked { Finding::warning } else { Finding::error };
            make(Subject::Servers, about(probe, &text)).remedy(unprovable_remedy(probe, attempt))
        }
        Ending::Broken(reason) => {
            let text = format!("the connection broke while {user} logged in: {reason}");
            let remedy =
                format!("see the server's log; psql -h {} -p {} -U {}", quoted(&probe.host), probe.port, quoted(user));
            Finding::error(Subject::Servers, about(probe, &text)).remedy(remedy)
        }
    }
}

fn unprovable_remedy(probe: &Probe, attempt: &Attempt) -> String {
    let user = quoted(&attempt.user);
    match &attempt.source {
        Source::Line(file, line) => format!(
            "put the password itself into {file}:{line}; or copy the server's secret there: psql -Atc \"SELECT rolpassword \
             FROM pg_authid WHERE rolname = {user}\" (in quotes), with auth_type = scram-sha-256"
        ),
        Source::Entry(_) => format!("put the password itself into password= of {}{}", probe.database, at(probe)),
        Source::Nowhere => format!(
            "add a line \"{}\" \"password\" to auth_file, or password= to {}{}",
            attempt.user,
            probe.database,
            at(probe)
        ),
    }
}

/// By SQLSTATE (PostgreSQL docs, appendix A).
fn refused(probe: &Probe, attempt: &Attempt, sqlstate: &str, said: &str, any_worked: bool) -> Finding {
    let Attempt { user, source, .. } = attempt;
    let role = identifier(user);
    let from = secret_of(source);
    let dbname = identifier(&probe.dbname);
    let make = if any_worked { Finding::warning } else { Finding::error };
    let finding = |text: String, remedy: String| make(Subject::Servers, about(probe, &text)).remedy(remedy);
    match sqlstate {
        "28P01" => {
            let place = match source {
                Source::Nowhere => "auth_file".to_owned(),
                _ => from.clone(),
            };
            let remedy =
                format!("correct {place}; or at the server: \\password {role} (or ALTER ROLE {role} PASSWORD …)");
            finding(format!("wrong password of user {user} ({from}): {said}"), remedy)
        }
        "28000" if said.contains("no pg_hba.conf entry") => {
            let kind = if probe.unix { "local" } else { "host" };
            let network = if probe.unix { "" } else { " ADDRESS-OF-THIS-MACHINE/32" };
            let remedy = format!(
                "in the server's pg_hba.conf: {kind} {dbname} {role}{network} scram-sha-256; then SELECT pg_reload_conf()"
            );
            finding(format!("user {user}: {said}"), remedy)
        }
        "28000" if said.contains("does not exist") => finding(
            format!("user {user} ({from}): {said}"),
            format!("at the server: CREATE ROLE {role} LOGIN PASSWORD …"),
        ),
        "28000" if said.contains("not permitted to log in") => {
            finding(format!("user {user}: {said}"), format!("at the server: ALTER ROLE {role} LOGIN"))
        }
        "3D000" => {
            let remedy = format!(
                "at the server: CREATE DATABASE {dbname}; or correct dbname= of {}{}",
                probe.database,
                at(probe)
            );
            finding(said.to_owned(), remedy)
        }
        "42501" => finding(
            format!("user {user}: {said}"),
            format!("at the server: GRANT CONNECT ON DATABASE {dbname} TO {role}"),
        ),
        "53300" => finding(
            format!("user {user}: {said}"),
            "a higher max_connections at the server, or a smaller default_pool_size here".to_owned(),
        ),
        "57P03" => {
            Finding::warning(Subject::Servers, about(probe, said)).remedy("wait until it is up, then look again")
        }
        _ => finding(format!("user {user} is refused: {said} ({sqlstate})"), "see the server's log".to_owned()),
    }
}

/// What all pools may want of one server: with one user each, and with every user of auth_file.
#[derive(Default)]
struct Demand<'a> {
    least: u64,
    most: u64,
    databases: Vec<&'a str>,
    facts: Option<&'a ServerFacts>,
}

/// Are there enough connections at each server for the pools that lead to it?
fn capacity(probes: &[Probe]) -> Vec<Finding> {
    let mut servers: BTreeMap<String, Demand<'_>> = BTreeMap::new();
    for probe in probes {
        let entry = servers.entry(probe.server()).or_default();
        entry.least = entry.least.saturating_add(probe.servers);
        entry.most = entry.most.saturating_add(probe.servers_of_all);
        entry.databases.push(&probe.database);
        entry.facts = entry.facts.or(probe.facts());
    }
    let mut findings = Vec::new();
    for (server, Demand { least, most, databases, facts }) in servers {
        let Some(room) = facts.map(|facts| facts.connections) else { continue };
        let names = databases.join(", ");
        let remedy = "a smaller default_pool_size (or pool_size=, max_db_connections), or a higher max_connections at the server";
        if least > room {
            let text = format!(
                "{server} takes {room} connections, but the pools of {names} may want {least} with one user each: clients \
                 would see \"too many clients already\""
            );
            findings.push(Finding::warning(Subject::Servers, text).remedy(remedy));
        } else if most > room {
            let text = format!(
                "{server} takes {room} connections; if every user of auth_file were busy at once, the pools of {names} could \
                 want {most}"
            );
            findings.push(
                Finding::note(Subject::Servers, text).remedy("max_db_connections sets a bound for all users together"),
            );
        } else {
            let text = format!("{server} takes {room} connections, the pools of {names} want {most} at most");
            findings.push(Finding::ok(Subject::Servers, text));
        }
    }
    findings
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
