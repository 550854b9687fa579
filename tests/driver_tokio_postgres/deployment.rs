//! A PostgreSQL, shared by the tests of this program that run at the same time, and a pooler of each test's own in front.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pgtandem::tls::{Connector, ConnectorParams, PemFile, SslMode};
use tokio_postgres::config::SslMode as ClientSslMode;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::pooler::Pooler;
use crate::postgres::Postgres;
use crate::process::Folder;

const INI: &str = include_str!("../data/config/revenue-engine/pgbouncer.ini");
const USERS: &str = include_str!("../data/config/revenue-engine/userlist.txt");

/// Both forms of stored passwords under the method md5, as after half a migration; nothing without TLS.
const HBA: &str = "hostssl all all 127.0.0.1/32 md5\nhostssl all all ::1/128 md5\n";

pub(crate) struct Deployment {
    database: String,
    pooler: Pooler,
    certificate: Vec<u8>,
    postgres: Arc<Backing>,
}

/// What the tests share.
struct Backing {
    postgres: Postgres,
    certificate: Vec<u8>,
}

impl Deployment {
    pub(crate) fn start() -> Self {
        let postgres = backing();
        // A database for each test: none stands in another's way.
        let database = format!("d{}", crate::process::free_port());
        postgres.postgres.ask(&format!("create database {database} owner revenue_user"));
        let (certificate, key) = self_signed("pgbouncer-service");
        let pooler = Pooler::start(|folder, port| {
            let place = folder.path().display().to_string();
            folder.put("userlist.txt", USERS);
            folder.put("pgbouncer.crt", &certificate);
            folder.put("pgbouncer.key", &key);
            folder.put("ca.crt", &postgres.certificate);
            adapt(&place, port, postgres.postgres.port, &database)
        });
        Self { database, pooler, certificate, postgres }
    }

    /// A client of its own.
    pub(crate) async fn connect(&self) -> Client {
        let mut config = Config::new();
        config.host("localhost").hostaddr([127, 0, 0, 1].into()).port(self.pooler.port).dbname("revenue_engine");
        config.user("revenue_user").password("secure_revenue_password").application_name("driver test");
        config.ssl_mode(ClientSslMode::Require).connect_timeout(Duration::from_secs(30));
        let connected = config.connect(self.tls()).await;
        let (client, connection) = connected.unwrap_or_else(|error| panic!("{error:?}\n{}", self.pooler.log()));
        tokio::spawn(connection);
        client
    }

    /// TLS that trusts the pooler's certificate and no other. (The library's own verifier refuses certificates that are
    /// their own CA.)
    pub(crate) fn tls(&self) -> MakeRustlsConnect {
        let connector = Connector::new(&ConnectorParams {
            sslmode: SslMode::VerifyCa,
            ca: Some(PemFile { path: "ca.crt", bytes: &self.certificate }),
            cert: None,
            key: None,
            protocols: "secure",
            ciphers: "default",
            tls13_ciphers: "",
        });
        let (config, _) = connector.unwrap().dial("localhost").unwrap();
        MakeRustlsConnect::new((*config).clone())
    }

    /// How many servers this test's pooler has.
    pub(crate) fn servers(&self) -> i64 {
        let count = format!("select count(*) from pg_stat_activity where datname = '{}'", self.database);
        self.postgres.postgres.ask(&count).parse().unwrap()
    }

    /// Waits until a server runs a statement with this text.
    pub(crate) async fn until_active(&self, text: &str) {
        let count = format!(
            "select count(*) from pg_stat_activity where datname = '{}' and state = 'active' and query like '%{text}%'",
            self.database
        );
        for _ in 0..600 {
            if self.postgres.postgres.ask(&count) == "1" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no server runs {text}");
    }
}

/// The operators' file with places of ours. Each must be there.
fn adapt(place: &str, port: u16, server_port: u16, database: &str) -> String {
    let mut text = INI.to_owned();
    let mut put = |old: &str, new: String| {
        assert!(text.contains(old), "the operators' file has no {old:?} any more");
        text = text.replace(old, &new);
    };
    for host in ["postgres-primary", "postgres-replica-1", "postgres-replica-2"] {
        put(&format!("host={host} port=5432"), format!("host=127.0.0.1 port={server_port}"));
    }
    put("dbname=revenue_engine", format!("dbname={database}"));
    put("listen_port = 6432", format!("listen_port = {port}"));
    put("unix_socket_dir = /tmp", format!("unix_socket_dir = {place}"));
    put("/etc/pgbouncer/userlist.txt", format!("{place}/userlist.txt"));
    put("/var/log/pgbouncer/pgbouncer.log", format!("{place}/pgbouncer.log"));
    put("/var/run/pgbouncer/pgbouncer.pid", format!("{place}/pgbouncer.pid"));
    put("/etc/ssl/certs/pgbouncer.crt", format!("{place}/pgbouncer.crt"));
    put("/etc/ssl/private/pgbouncer.key", format!("{place}/pgbouncer.key"));
    put("/etc/ssl/certs/ca.crt", format!("{place}/ca.crt"));
    text
}

fn backing() -> Arc<Backing> {
    static SHARED: Mutex<Weak<Backing>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return running;
    }
    let (certificate, key) = self_signed("postgres-primary");
    let roles = USERS.lines().filter(|line| line.starts_with('"')).enumerate().map(|(number, line)| {
        let [_, name, _, password, _] = *line.split('"').collect::<Vec<_>>() else { panic!("{line}") };
        let form = if number % 2 == 0 { "scram-sha-256" } else { "md5" };
        format!("set password_encryption = '{form}'; create role {name} login password '{password}'")
    });
    let roles: Vec<String> = roles.collect();
    let statements: Vec<&str> = roles.iter().map(String::as_str).collect();
    let postgres = Postgres::start((&certificate, &key), HBA, &statements);
    let started = Arc::new(Backing { postgres, certificate });
    *shared = Arc::downgrade(&started);
    started
}

/// Certificate and key as the operators make them: version 3, its own CA, no alternative name, text before the PEM block.
fn self_signed(name: &str) -> (Vec<u8>, Vec<u8>) {
    let folder = Folder::new();
    let (certificate, key) = (folder.file("c"), folder.file("k"));
    let output = Command::new("openssl")
        .args(["req", "-new", "-x509", "-days", "365", "-nodes", "-text", "-subj", &format!("/CN={name}"), "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (std::fs::read(certificate).unwrap(), std::fs::read(key).unwrap())
}
