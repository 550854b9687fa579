//! `pgtandem doctor` on set-ups that are broken in one way each, and on healthy ones, with a real PostgreSQL server, real files
//! and real users. As root the program is called both as root (with the setting `user`) and as that user.

#![expect(clippy::unwrap_used, reason = "a failing case must stop")]

#[path = "auth_real_server/postgres.rs"]
#[expect(dead_code, reason = "shared with the tests of the login machines, which need more of it")]
mod postgres;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use postgres::Server;
use tempfile::TempDir;

/// One server for all cases: they only log in. It is stopped by the guard of the last case.
static SERVER: LazyLock<std::sync::Mutex<std::sync::Weak<Server>>> = LazyLock::new(Default::default);

fn server() -> std::sync::Arc<Server> {
    let mut known = SERVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    known.upgrade().unwrap_or_else(|| {
        let server = std::sync::Arc::new(Server::start());
        *known = std::sync::Arc::downgrade(&server);
        server
    })
}

fn is_root() -> bool {
    geteuid().is_root()
}

/// Who serves: `postgres` if these tests run as root, else who runs them.
fn serving() -> User {
    if is_root() { User::from_name("postgres").unwrap().unwrap() } else { User::from_uid(geteuid()).unwrap().unwrap() }
}

/// A set-up that works until a case breaks it.
struct Site {
    dir: TempDir,
    server: std::sync::Arc<Server>,
    port: u16,
    entry: String,
    more: String,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("doctor").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = server();
        let entry = format!("host=127.0.0.1 port={} dbname=postgres", server.port);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let site = Self { dir, server, port, entry, more: String::new() };
        fs::copy(env!("CARGO_BIN_EXE_pgtandem"), site.path("pgtandem")).unwrap();
        fs::create_dir(site.path("run")).unwrap();
        site.own("run");
        site.write("users.txt", "; users\n\"scram0\" \"foo\"\n", 0o600);
        site.certificate("pooler", "20200101000000Z", "20990101000000Z");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn own(&self, name: &str) {
        let user = serving();
        chown(self.path(name), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        self.own(name);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// `name.crt` and `name.key`, self-signed, valid between two ASN.1 times.
    fn certificate(&self, name: &str, from: &str, to: &str) {
        let script = r#"
            umask 077
            mkdir "$1.ca" && : >"$1.ca/index" && echo 01 >"$1.ca/serial"
            printf '[ca]\ndefault_ca=d\n[d]\ndatabase=%s/index\nserial=%s/serial\nnew_certs_dir=%s\npolicy=p\ndefault_md=sha256\n[p]\ncommonName=supplied\n' "$1.ca" "$1.ca" "$1.ca" >"$1.cnf"
            openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
            openssl req -new -key "$1.key" -subj "/CN=$1" -out "$1.csr"
            openssl ca -batch -selfsign -config "$1.cnf" -keyfile "$1.key" -in "$1.csr" -out "$1.crt" -startdate "$2" -enddate "$3" -notext
            chmod 644 "$1.crt"
        "#;
        let output = Command::new("sh")
            .args(["-e", "-c", script, "sh", name, from, to])
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
        for suffix in ["crt", "key"] {
            self.own(&format!("{name}.{suffix}"));
        }
    }

    fn configure(&self) -> PathBuf {
        let at = self.dir.path().display();
        let user = if is_root() { "user = postgres" } else { "" };
        let text = format!(
            "[databases]\napp = {}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n{user}\n\
             unix_socket_dir = {at}/run\npidfile = {at}/run/p.pid\nlogfile = {at}/run/p.log\n\
             auth_type = scram-sha-256\nauth_file = {at}/users.txt\nserver_tls_sslmode = require\n\
             client_tls_sslmode = require\nclient_tls_cert_file = {at}/pooler.crt\nclient_tls_key_file = {at}/pooler.key\n{}\n",
            self.entry, self.port, self.more
        );
        self.write("p.ini", &text, 0o640);
        self.path("p.ini")
    }

    fn doctor(&self, as_root: bool, before: &str, args: &[&str]) -> Output {
        let file = self.configure();
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{before} exec \"$0\" doctor \"$@\"")])
            .arg(self.path("pgtandem"))
            .args(args)
            .arg(file);
        if is_root() && !as_root {
            let user = serving();
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.current_dir("/").stdin(Stdio::null()).output().unwrap()
    }

    /// The findings, and the exit status.
    fn look(&self, as_root: bool) -> Diagnosis {
        Diagnosis::of(&self.doctor(as_root, "", &["--json"]))
    }

    /// The one that must be seen as root and as the user alike.
    #[track_caller]
    fn finds(&self, status: i32, level: &str, cause: &[&str], remedy: &[&str]) {
        for as_root in [true, false] {
            self.look(as_root).has(status, level, cause, remedy);
            if !is_root() {
                break;
            }
        }
    }
}

struct Diagnosis {
    status: Option<i32>,
    findings: Vec<serde_json::Value>,
    text: String,
}

impl Diagnosis {
    #[track_caller]
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{said}"));
        assert_eq!(value["status"].as_i64(), output.status.code().map(i64::from), "{text}");
        Self { status: output.status.code(), findings: value["findings"].as_array().unwrap().clone(), text }
    }

    /// There is a finding of this level with these words in its text and those in its remedy, and none is worse.
    #[track_caller]
    fn has(&self, status: i32, level: &str, cause: &[&str], remedy: &[&str]) {
        let holds = |finding: &serde_json::Value, field: &str, words: &[&str]| {
            let text = finding[field].as_str().unwrap_or_default();
            words.iter().all(|word| text.contains(word))
        };
        let found = self.findings.iter().any(|finding| {
            finding["level"] == level && holds(finding, "text", cause) && holds(finding, "remedy", remedy)
        });
        assert!(found, "no {level} with {cause:?} and {remedy:?} in {}", self.text);
        assert_eq!(self.status, Some(status), "{}", self.text);
        assert_eq!(self.problems(), 1, "one thing is broken: {}", self.text);
    }

    fn problems(&self) -> usize {
        self.findings.iter().filter(|finding| finding["level"] == "warning" || finding["level"] == "error").count()
    }
}

#[test]
fn a_healthy_set_up_has_nothing_wrong() {
    let site = Site::new();
    for as_root in [true, false] {
        let output = site.doctor(as_root, "", &[]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(!text.contains("warning  ") && !text.contains("error  "), "{text}");
        let user = serving().name;
        assert!(text.ends_with(&format!("p.ini for user {user}: nothing wrong\n")), "{text}");
        for what in
            ["scram0 logs in; PostgreSQL ", ", primary", "is free", "valid until 2099-01-01", "as the servers' clocks"]
        {
            assert!(text.contains(what), "{what}: {text}");
        }
        let quiet = site.doctor(as_root, "", &["-q"]);
        assert_eq!((quiet.status.code(), quiet.stdout.as_slice()), (Some(0), &b""[..]));
        if !is_root() {
            break;
        }
    }
}

#[test]
fn wrong_modes() {
    let site = Site::new();
    let users = site.path("users.txt").display().to_string();
    site.write("users.txt", "\"scram0\" \"foo\"\n", 0o644);
    let everybody = ["auth_file", &users, "everybody on this machine may read it", "mode 0644", "it holds passwords"];
    site.finds(1, "warning", &everybody, &[&format!("chmod 640 {users}")]);
    site.write("users.txt", "\"scram0\" \"foo\"\n", 0o600);
    let key = site.path("pooler.key").display().to_string();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o604)).unwrap();
    site.finds(1, "warning", &["client_tls_key_file", &key, "mode 0604"], &[&format!("chmod 600 {key}")]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    for as_root in [true, false].into_iter().take(if is_root() { 2 } else { 1 }) {
        let seen = site.look(as_root);
        let user = serving().name;
        seen.has(
            2,
            "error",
            &["client_tls_key_file", &key, &format!("user {user} may not read it"), "mode 0000"],
            &[&format!("chown {user} {key} && chmod 600 {key}")],
        );
    }
}

#[test]
fn an_expired_certificate() {
    let site = Site::new();
    for name in ["pooler.crt", "pooler.key", "pooler.cnf", "pooler.csr"] {
        fs::remove_file(site.path(name)).unwrap();
    }
    fs::remove_dir_all(site.path("pooler.ca")).unwrap();
    site.certificate("pooler", "20200101000000Z", "20210203000000Z");
    let (cert, key) = (site.path("pooler.crt").display().to_string(), site.path("pooler.key").display().to_string());
    site.finds(
        2,
        "error",
        &["client_tls_cert_file", &cert, "CN=pooler", "has expired on 2021-02-03"],
        &[&format!("openssl req -new -x509 -days 365 -key {key} -subj /CN=pooler -out {cert}")],
    );
}

#[test]
fn a_key_that_belongs_to_another_certificate() {
    let site = Site::new();
    site.certificate("other", "20200101000000Z", "20990101000000Z");
    fs::rename(site.path("other.key"), site.path("pooler.key")).unwrap();
    let (cert, key) = (site.path("pooler.crt").display().to_string(), site.path("pooler.key").display().to_string());
    site.finds(
        2,
        "error",
        &["private/public key mismatch", &cert, &key],
        &[&format!("openssl x509 -in {cert} -noout -pubkey; openssl pkey -in {key} -pubout")],
    );
}

#[test]
fn a_port_that_is_taken() {
    let mut site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    site.port = listener.local_addr().unwrap().port();
    let (pid, address) = (std::process::id(), listener.local_addr().unwrap().to_string());
    let program = fs::read_to_string("/proc/self/comm").unwrap();
    let taken = format!("{address} is taken by {} (pid {pid}", program.trim_end());
    site.look(true).has(2, "error", &[&taken], &[&format!("kill {pid}"), "listen_port"]);
    if is_root() {
        // It may not look into root's processes, and says so.
        let command = format!("sudo ss -ltnp 'sport = :{}'", site.port);
        site.look(false).has(2, "error", &[&address, "taken by a process of user root"], &[&command]);
    }
}

#[test]
fn too_few_open_files() {
    let mut site = Site::new();
    site.more = "max_client_conn = 1000".to_owned();
    let needed = 1000 + 20 + 64;
    for as_root in [true, false] {
        Diagnosis::of(&site.doctor(as_root, "ulimit -n 200;", &["--json"])).has(
            1,
            "warning",
            &["only 200 files", "max_client_conn = 1000", &format!("need {needed}")],
            &[&format!("LimitNOFILE={needed}"), &format!("ulimit -n {needed}")],
        );
        Diagnosis::of(&site.doctor(as_root, "ulimit -n 70;", &["--json"])).has(
            2,
            "error",
            &["only 70 files", "not enough for the servers alone"],
            &[&format!("LimitNOFILE={needed}")],
        );
        if !is_root() {
            break;
        }
    }
}

#[test]
fn a_missing_directory() {
    let mut site = Site::new();
    let dir = site.path("log/deep").display().to_string();
    site.more = format!("logfile = {dir}/p.log");
    let user = serving();
    site.finds(
        2,
        "error",
        &["logfile", &format!("there is no directory {dir}")],
        &[&format!("install -d -o {} -g ", user.name), &format!(" -m 755 {dir}")],
    );
}

#[test]
fn a_host_that_cannot_be_reached() {
    let mut site = Site::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.entry = format!("host=127.0.0.1 port={closed}");
    let refused = format!("database app at 127.0.0.1:{closed}: connection refused");
    site.finds(2, "error", &[&refused], &[&format!("pg_isready -h 127.0.0.1 -p {closed}"), "line 2"]);

    let directory = site.path("run").display().to_string();
    site.entry = format!("host={directory} port=5432");
    site.finds(2, "error", &["database app at", &directory, "no such Unix socket"], &["systemctl start postgresql"]);

    // Somebody who takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    site.entry = format!("host=127.0.0.1 port={}", silent.local_addr().unwrap().port());
    let began = Instant::now();
    let output = site.doctor(true, "", &["--json", "--timeout", "2"]);
    assert!(began.elapsed() < Duration::from_secs(4), "bounded: {:?}", began.elapsed());
    Diagnosis::of(&output).has(2, "error", &["database app", "no answer within"], &["firewall"]);
}

#[test]
fn a_wrong_password() {
    let mut site = Site::new();
    site.write("users.txt", "; users\n\"scram0\" \"never-shown\"\n", 0o600);
    let server = format!("database app at 127.0.0.1:{}", site.server.port);
    let line = format!("{}:2", site.path("users.txt").display());
    let remedy = [&format!("correct {line}"), "\\password \"scram0\""];
    site.finds(2, "error", &[&server, "wrong password of user scram0", &line], &remedy);
    // In the connection string it belongs to a line of the configuration.
    site.entry.push_str(" user=scram1 password=never-shown");
    let line = format!("password= in {}:2", site.path("p.ini").display());
    site.finds(2, "error", &[&server, "wrong password of user scram1", &line], &[&format!("correct {line}")]);
    let output = site.doctor(false, "", &[]);
    let all = [output.stdout, output.stderr].concat();
    assert!(!String::from_utf8_lossy(&all).contains("never-shown"), "secrets are never shown");
}

#[test]
fn secrets_without_passwords_are_compared_with_the_servers() {
    let site = Site::new();
    let secret = site.server.secret_of("scram0").to_text();
    site.write("users.txt", &format!("\"scram0\" \"{}\"\n", secret.as_str()), 0o600);
    let seen = site.look(true);
    assert_eq!((seen.status, seen.problems()), (Some(0), 0), "{}", seen.text);
    assert!(seen.text.contains("the SCRAM secret of scram0") && !seen.text.contains("SCRAM-SHA-256$"), "{}", seen.text);
    let other = site.server.secret_of("scram1").to_text();
    site.write("users.txt", &format!("\"scram0\" \"{}\"\n", other.as_str()), 0o600);
    site.finds(2, "error", &["scram0", "is not the one that we have"], &["rolpassword"]);
}

#[test]
fn more_servers_than_postgresql_takes() {
    let mut site = Site::new();
    site.more = "default_pool_size = 500".to_owned();
    site.finds(1, "warning", &["takes 97 connections", "want 500"], &["default_pool_size"]);
}

#[test]
fn a_pgtandem_that_runs_already_is_no_error() {
    let site = Site::new();
    let file = site.configure();
    let mut command = Command::new(site.path("pgtandem"));
    let log = fs::File::create(site.path("stderr")).unwrap();
    let mut child = command.arg(&file).current_dir("/").stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let began = Instant::now();
    while !site.path("run/p.pid").exists() || std::net::TcpStream::connect(("127.0.0.1", site.port)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", fs::read_to_string(site.path("stderr")).unwrap());
        std::thread::sleep(Duration::from_millis(20));
    }
    let seen: Vec<Diagnosis> = [true, false].into_iter().map(|as_root| site.look(as_root)).collect();
    let pid = child.id();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), nix::sys::signal::Signal::SIGQUIT)
        .unwrap();
    child.wait().unwrap();
    for seen in seen {
        assert_eq!((seen.status, seen.problems()), (Some(0), 0), "{}", seen.text);
        assert!(seen.text.contains(&format!("already running as pid {pid}")), "{}", seen.text);
    }
}

#[test]
fn what_cannot_be_looked_at_has_a_status_of_its_own() {
    let site = Site::new();
    let call = |args: &[&str]| Command::new(site.path("pgtandem")).args(args).output().unwrap();
    let output = call(&["doctor"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no configuration file specified"));
    // Everything that is wrong with the file comes first, and at once.
    let file = site.path("bad.ini");
    fs::write(&file, "[databases]\n[pgbouncer]\npool_moed = x\nauth_type = nonsense\n").unwrap();
    let output = call(&["doctor", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("line 3") && text.contains("line 4") && text.contains("once the configuration is valid"),
        "{text}"
    );
    let none = call(&["doctor", site.path("none.ini").to_str().unwrap()]);
    assert_eq!(none.status.code(), Some(2));
}
