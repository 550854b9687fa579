//! Every kind of certificate under every `client_tls_sslmode` and `server_tls_sslmode`, with libpq and PostgreSQL at the
//! other ends of the real program; logins that rest on TLS; reload of certificates.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "tls_matrix/certificates.rs"]
mod certificates;
#[path = "driver_tokio_postgres/pooler.rs"]
mod pooler;
#[path = "driver_tokio_postgres/postgres.rs"]
mod postgres;
#[path = "driver_tokio_postgres/process.rs"]
mod process;
#[path = "tls_matrix/psql.rs"]
mod psql;

use certificates::{Certificates, KINDS};
use pooler::Pooler;
use postgres::Postgres;
use process::{Folder, find_wrong, wait_until};
use psql::Psql;

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Where a mode stands in the order of strictness.
fn rank(mode: &str) -> usize {
    MODES.iter().position(|it| *it == mode).unwrap()
}

/// What came of an attempt to connect.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Clear,
    Encrypted,
    /// With a reason that contains this.
    Refused(&'static str),
}
use Outcome::{Clear, Encrypted, Refused};

/// A description of the difference, if there is one. `Ok(true)`: it went well, with TLS.
fn difference(what: &str, expected: &Outcome, got: &Result<bool, String>) -> Option<String> {
    let same = match (expected, got) {
        (Clear, Ok(encrypted)) => !encrypted,
        (Encrypted, Ok(encrypted)) => *encrypted,
        (Refused(reason), Err(text)) => text.contains(reason),
        _ => false,
    };
    (!same).then(|| format!("{what}: expected {expected:?}, got {got:?}"))
}

/// A console that lets joe in without a password, and databases that nobody asks for.
fn console(folder: &Folder, port: u16) -> String {
    let users = folder.put("userlist.txt", "\"joe\" \"\"\n\"ann\" \"\"\n");
    format!(
        "[databases]\nx = host=127.0.0.1 port=1\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {}\nadmin_users = joe, ann\n",
        users.display()
    )
}

fn client_tls(folder: &Folder, mode: &str) -> String {
    let place = folder.path().display();
    format!(
        "client_tls_sslmode = {mode}\nclient_tls_cert_file = {place}/own.crt\nclient_tls_key_file = {place}/own.key\n\
         client_tls_ca_file = {place}/clients.crt\n"
    )
}

/// psql on the console.
fn visit(psql: &Psql, port: u16, conninfo: &str) -> Result<bool, String> {
    let said = psql.run(port, &format!("dbname=pgbouncer user=joe {conninfo}"), &["show version", "\\conninfo"])?;
    Ok(said.contains("SSL connection"))
}

#[test]
fn clients_under_every_sslmode() {
    let psql = Psql::find();
    let made = Certificates::make();
    let cases: Vec<_> = KINDS.iter().flat_map(|kind| MODES.map(|mode| (*kind, mode))).collect();
    let wrong = find_wrong(&cases, |&((kind, ca), ours)| {
        let pooler = Pooler::start(|folder, port| {
            made.install(kind, folder, "own");
            folder.put("clients.crt", made.certificate("ca"));
            console(folder, port) + &client_tls(folder, ours)
        });
        let mut wrong = Vec::new();
        let mut judge = |theirs: &str, shown: &str, root: &str, expected: Outcome| {
            let root = made.path(&format!("{root}.crt"));
            let got = visit(&psql, pooler.port, &format!("sslmode={theirs} sslrootcert={root} {shown}"));
            wrong.extend(difference(&format!("{kind}: {theirs} client {shown}, {ours}"), &expected, &got));
        };
        for theirs in ["disable", "require", "verify-ca", "verify-full"] {
            let expected = match (theirs, ours) {
                ("disable", "disable" | "allow" | "prefer") => Clear,
                ("disable", _) => Refused("SSL required"),
                (_, "disable") => Refused("server does not support SSL, but SSL was required"),
                _ => Encrypted,
            };
            judge(theirs, &made.shown("joe"), ca, expected);
        }
        if ours != "disable" && kind == "chain" {
            judge("verify-ca", "", "other", Refused("certificate verify failed"));
            // A client's certificate may be missing below verify-ca, but not be wrong.
            let none = if rank(ours) < rank("verify-ca") { Encrypted } else { Refused("certificate required") };
            judge("require", "", ca, none);
            judge("require", &made.shown("foreign"), ca, Refused("unknown ca"));
        }
        wrong
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const HBA: &str = "hostssl all secured localhost trust\nhostnossl all open localhost trust\n\
    hostssl all scram,changed localhost scram-sha-256\nhost all joe localhost trust\n";

const ROLES: [&str; 3] = [
    "create role joe login; create role secured login; create role open login",
    "create role scram login password 'the password'",
    "create role changed login password 'another'",
];

/// A pooler without TLS towards clients. The server is dialled by name, by address, and over its own user.
fn towards(server: &Postgres, folder: &Folder, port: u16, mode: &str) -> String {
    let users = folder.put("userlist.txt", "\"joe\" \"\"\n");
    let (place, server) = (folder.path().display(), server.port);
    format!(
        "[databases]\nname = host=localhost port={server} dbname=postgres\n\
         address = host=127.0.0.1 port={server} dbname=postgres\n\
         secured = host=localhost port={server} dbname=postgres user=secured\n\
         open = host=localhost port={server} dbname=postgres user=open\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n\
         auth_file = {}\nquery_wait_timeout = 1\nserver_login_retry = 1\nserver_tls_sslmode = {mode}\n\
         server_tls_ca_file = {place}/servers.crt\n",
        users.display()
    )
}

/// Asks the server whether its connection is encrypted. Why not, if not, is in the pooler's log.
fn reach(psql: &Psql, pooler: &Pooler, database: &str) -> Result<bool, String> {
    let query = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    let said = psql.run(pooler.port, &format!("dbname={database} user=joe sslmode=disable"), &[query]);
    said.map(|text| text == "t").map_err(|text| format!("{text}\n{}", pooler.log()))
}

/// Mode, whether the CA file is the right one, database, and what comes of it.
type Row = (&'static str, bool, &'static str, Outcome);

/// What to expect of a server that has TLS.
fn expected_of_servers() -> Vec<Row> {
    let mut table = Vec::new();
    for mode in MODES {
        let encrypted = || if mode == "disable" { Clear } else { Encrypted };
        table.push((mode, true, "name", encrypted()));
        let address = if mode == "verify-full" { Refused("certificate verify failed") } else { encrypted() };
        table.push((mode, true, "address", address));
        if rank(mode) >= rank("require") {
            let wrong_ca = if mode == "require" { Encrypted } else { Refused("certificate verify failed") };
            table.push((mode, false, "name", wrong_ca));
        }
    }
    table.push(("disable", true, "secured", Refused("no pg_hba.conf entry")));
    table.push(("disable", true, "open", Clear));
    table.push(("require", true, "secured", Encrypted));
    // PgBouncer asks for TLS under allow too, and does not try again without it.
    table.push(("allow", true, "open", Refused("no pg_hba.conf entry")));
    table.push(("prefer", true, "open", Refused("no pg_hba.conf entry")));
    table
}

#[test]
fn servers_under_every_sslmode() {
    let psql = Psql::find();
    let made = Certificates::make();
    let pair = |name: &str| (made.certificate(name), made.key(name));
    let first = pair(KINDS[0].0);
    let server = Postgres::start((&first.0, &first.1), HBA, &ROLES);
    let mut wrong = Vec::new();
    for (kind, ca) in KINDS {
        let (certificate, key) = pair(kind);
        server.show_certificate(Some((&certificate, &key)));
        let table = expected_of_servers();
        // One pooler for each mode and CA file.
        let mut cases: Vec<(&str, bool)> = table.iter().map(|row| (row.0, row.1)).collect();
        cases.sort_unstable();
        cases.dedup();
        wrong.extend(find_wrong(&cases, |&(mode, right)| {
            let pooler = Pooler::start(|folder, port| {
                folder.put("servers.crt", made.certificate(if right { ca } else { "other" }));
                towards(&server, folder, port, mode)
            });
            let rows = table.iter().filter(|row| (row.0, row.1) == (mode, right));
            let judge = |(_, _, database, expected): &Row| {
                difference(&format!("{kind}: {mode} to {database}"), expected, &reach(&psql, &pooler, database))
            };
            rows.filter_map(judge).collect()
        }));
    }
    server.show_certificate(None);
    wrong.extend(find_wrong(&MODES, |mode| {
        let pooler = Pooler::start(|folder, port| {
            folder.put("servers.crt", made.certificate("ca"));
            towards(&server, folder, port, mode)
        });
        let expected = if rank(mode) < rank("require") { Clear } else { Refused("server refused SSL") };
        let got = reach(&psql, &pooler, "name");
        difference(&format!("no TLS: {mode}"), &expected, &got).into_iter().collect()
    }));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn certificates_are_logins() {
    let psql = Psql::find();
    let made = Certificates::make();
    let pooler = Pooler::start(|folder, port| {
        made.install("chain", folder, "own");
        folder.put("clients.crt", made.certificate("ca"));
        let ini = console(folder, port).replace("auth_type = trust", "auth_type = cert");
        ini + &client_tls(folder, "verify-full")
    });
    let root = made.path("ca.crt");
    for (user, shown, expected) in [
        ("joe", made.shown("joe"), Encrypted),
        ("ann", made.shown("ann"), Encrypted),
        ("ann", made.shown("joe"), Refused("certificate authentication failed")),
        ("joe", made.shown("ann"), Refused("certificate authentication failed")),
        ("nobody", made.shown("joe"), Refused("")),
        ("joe", made.shown("foreign"), Refused("unknown ca")),
        ("joe", String::new(), Refused("certificate required")),
        // The CA signed it, but for servers: not a word of a user.
        ("localhost", made.shown("cnonly"), Refused("")),
    ] {
        let conninfo = format!("user={user} sslmode=verify-full sslrootcert={root} {shown}");
        let got = visit(&psql, pooler.port, &conninfo);
        assert_eq!(difference(&format!("{user} {shown}"), &expected, &got), None, "{}", pooler.log());
    }
    let clear = visit(&psql, pooler.port, "sslmode=disable");
    assert_eq!(difference("clear", &Refused("SSL required"), &clear), None);
}

/// SCRAM at the door, and the same keys on to the server: there is no password in the pooler's files.
fn scram(server: &Postgres, folder: &Folder, port: u16, method: &str) -> String {
    let secret = server.ask("select rolpassword from pg_authid where rolname = 'scram'");
    let ini =
        towards(server, folder, port, "verify-full").replace("auth_type = trust", &format!("auth_type = {method}"));
    folder.put("userlist.txt", format!("\"scram\" \"{secret}\"\n\"changed\" \"{secret}\"\n"));
    ini + &client_tls(folder, "allow")
}

#[test]
fn scram_is_bound_to_the_channel_and_passed_on() {
    let psql = Psql::find();
    let made = Certificates::make();
    let server = Postgres::start((&made.certificate("chain"), &made.key("chain")), HBA, &ROLES);
    let kinds: Vec<(&str, &str)> = KINDS.into_iter().chain([("ed25519", "ed25519")]).collect();
    let cases: Vec<_> =
        kinds.iter().flat_map(|kind| ["scram-sha-256", "scram-sha-256-plus"].map(|m| (*kind, m))).collect();
    let wrong = find_wrong(&cases, |&((kind, ca), method)| {
        let plus = method == "scram-sha-256-plus";
        let pooler = Pooler::start(|folder, port| {
            made.install(kind, folder, "own");
            folder.put("clients.crt", made.certificate("ca"));
            folder.put("servers.crt", made.certificate("ca"));
            scram(&server, folder, port, method)
        });
        let root = made.path(&format!("{ca}.crt"));
        let mut wrong = Vec::new();
        let mut judge = |conninfo: &str, expected: Outcome| {
            let query = "select current_user = 'scram' and ssl from pg_stat_ssl where pid = pg_backend_pid()";
            let full = format!("dbname=name user=scram password='the password' sslrootcert={root} {conninfo}");
            let said = psql.run(pooler.port, &full, &[query]).map(|text| text == "t");
            wrong.extend(difference(&format!("{kind} {method}: {conninfo}"), &expected, &said));
        };
        // There is no hash to bind to for a signature of Ed25519 (RFC 5929, 4.1), and libpq knows none either.
        let can_bind = kind != "ed25519";
        let bound = match (can_bind, plus) {
            (true, _) => Encrypted,
            (false, false) => Refused("channel binding"),
            // The log says why.
            (false, true) => Refused("bouncer config error"),
        };
        judge("sslmode=verify-full channel_binding=require", bound);
        let preferred = if plus && !can_bind { Refused("") } else { Encrypted };
        judge("sslmode=verify-full channel_binding=prefer", preferred);
        let unbound = || if plus { Refused("") } else { Encrypted };
        judge("sslmode=verify-full channel_binding=disable", unbound());
        judge("sslmode=disable", unbound());
        let clear = if plus { Refused("TLS required") } else { Refused("channel binding") };
        judge("sslmode=disable channel_binding=require", clear);
        if kind == "chain" {
            judge("sslmode=require password=wrong", Refused("FATAL"));
            // Let in with the keys of a password that the server has not any more.
            judge("sslmode=require user=changed", Refused("server's SCRAM secret of this user is not"));
        }
        wrong
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each of these must leave everything as it was: a certificate without its key, one cut short, one that is not there.
#[test]
fn certificates_are_reloaded_as_a_whole_or_not_at_all() {
    let psql = Psql::find();
    let made = Certificates::make();
    let pooler = Pooler::start(|folder, port| {
        made.install("selfsigned", folder, "own");
        folder.put("clients.crt", made.certificate("ca"));
        let servers = folder.put("servers.crt", made.certificate("ca"));
        let servers = format!("server_tls_sslmode = verify-full\nserver_tls_ca_file = {}\n", servers.display());
        console(folder, port) + &client_tls(folder, "require") + &servers
    });
    let shows = |name: &str| {
        let root = made.path(&format!("{name}.crt"));
        visit(&psql, pooler.port, &format!("sslmode=verify-full sslrootcert={root}")) == Ok(true)
    };
    let setting = |name: &str| {
        let rows = psql.run(pooler.port, "dbname=pgbouncer user=joe sslmode=require", &["show config"]).unwrap();
        let row = rows.lines().find(|line| line.starts_with(&format!("{name}|"))).unwrap().to_owned();
        row.split('|').nth(1).unwrap().to_owned()
    };
    assert!(shows("selfsigned") && !shows("selfother"));
    let (folder, pool_size) = (&pooler.folder, setting("default_pool_size"));
    // Not a word of the file counts while one of its certificates cannot be used.
    pooler.configure(|ini| ini + "default_pool_size = 77\n");
    let cut_short = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() - 100);
        bytes
    };
    // The file, what is wrong with it (`None`: it is not there), what is right.
    type Broken = (&'static str, Option<Vec<u8>>, Vec<u8>);
    let broken: [Broken; 8] = [
        ("own.crt", Some(b"not a certificate".to_vec()), made.certificate("selfsigned")),
        ("own.crt", Some(cut_short(made.certificate("selfsigned"))), made.certificate("selfsigned")),
        ("own.crt", Some(made.certificate("selfother")), made.certificate("selfsigned")),
        ("own.key", Some(made.key("selfother")), made.key("selfsigned")),
        ("own.key", Some(cut_short(made.key("selfsigned"))), made.key("selfsigned")),
        ("own.key", None, made.key("selfsigned")),
        ("clients.crt", Some(Vec::new()), made.certificate("ca")),
        ("servers.crt", None, made.certificate("ca")),
    ];
    for (file, bad, good) in broken {
        match bad {
            Some(bad) => drop(folder.put(file, bad)),
            None => std::fs::remove_file(folder.file(file)).unwrap(),
        }
        let before = pooler.log().len();
        pooler.reload("TLS setup failed: ");
        let said = pooler.log().split_off(before);
        assert!(["own.crt", "own.key", file].iter().any(|file| said.contains(file)), "{file} is not in: {said}");
        assert!(shows("selfsigned") && setting("default_pool_size") == pool_size, "{file}: {said}");
        folder.put(file, good);
    }
    made.install("selfother", folder, "own");
    assert!(shows("selfsigned"), "nothing happens before the reload");
    pooler.reload("got SIGHUP, re-reading config");
    wait_until("the new certificate is shown", || shows("selfother"));
    assert_eq!((shows("selfsigned"), setting("default_pool_size").as_str()), (false, "77"));
    // TLS can be switched off and on.
    for (old, new, sslmode) in [("require", "disable", "disable"), ("disable", "require", "verify-ca")] {
        let (old, new) = (format!("client_tls_sslmode = {old}"), format!("client_tls_sslmode = {new}"));
        pooler.configure(|ini| ini.replace(&old, &new));
        pooler.reload("got SIGHUP, re-reading config");
        let conninfo = format!("sslmode={sslmode} sslrootcert={}", made.path("selfother.crt"));
        wait_until(&new, || visit(&psql, pooler.port, &conninfo).is_ok());
    }
}

#[test]
fn servers_are_judged_by_the_reloaded_ca() {
    let psql = Psql::find();
    let made = Certificates::make();
    let server = Postgres::start((&made.certificate("chain"), &made.key("chain")), HBA, &ROLES);
    let pooler = Pooler::start(|folder, port| {
        folder.put("servers.crt", made.certificate("ca"));
        towards(&server, folder, port, "verify-full")
    });
    let pid = || psql.run(pooler.port, "dbname=name user=joe", &["select pg_backend_pid()"]);
    let first = pid().unwrap();
    assert_eq!(pid().unwrap(), first, "the same server again");
    // The server renews its certificate; nobody notices before new connections are made.
    server.show_certificate(Some((&made.certificate("selfsigned"), &made.key("selfsigned"))));
    assert_eq!(pid().unwrap(), first);
    pooler.folder.put("servers.crt", made.certificate("selfsigned"));
    pooler.reload("got SIGHUP, re-reading config");
    // Connections of the old settings are replaced, and the new ones judged by the new file.
    wait_until("a server of the new settings", || pid().is_ok_and(|second| second != first));
    assert_eq!(reach(&psql, &pooler, "name"), Ok(true));
}
