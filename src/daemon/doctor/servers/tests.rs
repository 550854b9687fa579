use std::time::Duration;

use super::super::super::report::Level;
use super::*;

fn probe() -> Probe {
    Probe {
        database: "app".into(),
        place: Some("p.ini:2".into()),
        dbname: "app".into(),
        host: "10.0.0.5".into(),
        port: 5432,
        unix: false,
        forced: false,
        servers: 25,
        servers_of_all: 50,
        reached: Ok(()),
        untried: "no user is known",
        attempts: Vec::new(),
    }
}

fn attempt(ending: Ending) -> Attempt {
    Attempt { user: "joe".into(), source: Source::Line("/e/users.txt".into(), 4), ending }
}

fn refusal(sqlstate: &str, text: &str) -> Ending {
    Ending::Refused { sqlstate: sqlstate.into(), text: text.into() }
}

fn server(connections: u64) -> Ending {
    Ending::In(Ok(ServerFacts {
        version: "15.14".into(),
        in_recovery: true,
        connections,
        ahead_ms: 0,
        round_trip_ms: 1,
    }))
}

fn with(endings: Vec<Ending>) -> Probe {
    Probe { attempts: endings.into_iter().map(attempt).collect(), ..probe() }
}

#[test]
fn every_way_not_to_reach_a_server_has_its_cause_and_remedy() {
    for (reason, cause, remedy) in [
        (Unreached::Name("no such host".into()), "the name 10.0.0.5 has no address", "getent ahosts 10.0.0.5"),
        (
            Unreached::Refused,
            "connection refused",
            "pg_isready -h 10.0.0.5 -p 5432; or correct host= and port= of app (p.ini:2)",
        ),
        (Unreached::NoSocket, "no such Unix socket", "unix_socket_directories"),
        (Unreached::Denied, "may not use that Unix socket", "ls -l"),
        (Unreached::Timeout(Duration::from_secs(5)), "no answer within 5.0 s", "firewall"),
        (Unreached::NoTls, "has no TLS", "ssl = on"),
        (
            Unreached::Handshake("certificate verify failed: x".into()),
            "certificate verify failed: x",
            "server_tls_ca_file",
        ),
        (Unreached::Other("odd".into()), "odd", "pg_isready"),
    ] {
        let finding = judge(&[Probe { reached: Err(reason), ..probe() }]).remove(0);
        assert_eq!(finding.level, Level::Error);
        assert!(
            finding.text.starts_with("database app at 10.0.0.5:5432: ") && finding.text.contains(cause),
            "{finding:?}"
        );
        assert!(finding.remedy.as_ref().unwrap().contains(remedy), "{finding:?}");
    }
}

#[test]
fn a_wrong_password_names_all_that_is_needed_to_find_it() {
    let finding = judge(&[with(vec![refusal("28P01", "password authentication failed for user \"joe\"")])]).remove(0);
    assert_eq!(finding.level, Level::Error);
    for word in ["database app", "10.0.0.5:5432", "wrong password of user joe", "/e/users.txt:4"] {
        assert!(finding.text.contains(word), "{word}: {finding:?}");
    }
    assert!(finding.remedy.unwrap().starts_with("correct /e/users.txt:4; or at the server: \\password \"joe\""));
    let entry = Attempt { source: Source::Entry(Some("p.ini:2".into())), ..attempt(refusal("28P01", "no")) };
    let finding = judge(&[Probe { attempts: vec![entry], ..probe() }]).remove(0);
    assert!(finding.text.contains("(password= in p.ini:2)"), "{finding:?}");
}

#[test]
fn each_refusal_has_its_statement() {
    for (ending, remedy) in [
        (
            refusal("28000", "no pg_hba.conf entry for host"),
            "host \"app\" \"joe\" ADDRESS-OF-THIS-MACHINE/32 scram-sha-256",
        ),
        (refusal("28000", "role \"joe\" does not exist"), "CREATE ROLE \"joe\" LOGIN"),
        (refusal("28000", "role \"joe\" is not permitted to log in"), "ALTER ROLE \"joe\" LOGIN"),
        (
            refusal("3D000", "database \"app\" does not exist"),
            "CREATE DATABASE \"app\"; or correct dbname= of app (p.ini:2)",
        ),
        (refusal("42501", "permission denied"), "GRANT CONNECT ON DATABASE \"app\" TO \"joe\""),
        (refusal("53300", "sorry, too many clients already"), "max_connections"),
        (refusal("XX000", "odd"), "server's log"),
        (Ending::Unprovable { text: "wrong password type".into(), reason: "we have x".into() }, "/e/users.txt:4"),
        (Ending::Broken("reset".into()), "psql -h 10.0.0.5 -p 5432 -U joe"),
    ] {
        let finding = judge(&[with(vec![ending])]).remove(0);
        assert_eq!(finding.level, Level::Error, "{finding:?}");
        assert!(finding.remedy.as_ref().unwrap().contains(remedy), "{finding:?}");
    }
    assert_eq!(judge(&[with(vec![refusal("57P03", "starting up")])])[0].level, Level::Warning);
}

#[test]
fn one_user_who_gets_in_makes_the_others_a_warning() {
    let findings = judge(&[with(vec![refusal("28P01", "no"), server(97)])]);
    let levels: Vec<Level> = findings.iter().map(|finding| finding.level).collect();
    assert_eq!(levels, [Level::Warning, Level::Ok, Level::Ok]);
    assert!(findings[1].text.contains("joe logs in; PostgreSQL 15.14, replica"), "{findings:?}");
    assert_eq!(judge(&[with(vec![Ending::SecretFits])])[0].level, Level::Ok);
    assert_eq!(judge(&[with(vec![Ending::In(Err("x".into()))])])[0].level, Level::Note);
    assert_eq!(judge(&[probe()])[0].level, Level::Note);
}

#[test]
fn the_pools_must_fit_into_each_server() {
    let levels = |connections| -> Vec<Level> {
        let probes = [with(vec![server(connections)]), with(vec![server(connections)])];
        judge(&probes).iter().skip(2).map(|finding| finding.level).collect()
    };
    assert_eq!(levels(100), [Level::Ok]);
    assert_eq!(levels(97), [Level::Note]);
    assert_eq!(levels(49), [Level::Warning]);
}
