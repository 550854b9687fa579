//! A PostgreSQL server of our own in a temporary directory, for as long as a test runs.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::digest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use pgtandem::auth::ScramSecret;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The passwords of the roles `scram0`, `scram1`, …: among them what SASLprep maps, drops, prohibits or empties.
pub(crate) const PASSWORDS: [&str; 7] =
    ["foo", "I\u{ad}X", "\u{ad}", "man\u{303}ana", "\u{627}1", "a\u{a0}\u{2168}", "p\u{e000}\u{1f600}\u{1}"];

const HBA: &str = "local all postgres trust\nlocal all clear_foo password\nlocal all md5_foo md5\n\
                   local all all scram-sha-256\nhost all all 127.0.0.1/32 scram-sha-256\n";

pub(crate) struct Server {
    binaries: PathBuf,
    directory: tempfile::TempDir,
    child: Child,
    pub(crate) port: u16,
}

/// Runs a command as `postgres` if we are root, for the server refuses to be.
fn unprivileged(command: &mut Command) -> &mut Command {
    if let Some(user) = account() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null())
}

fn account() -> Option<User> {
    nix::unistd::geteuid().is_root().then(|| User::from_name("postgres").unwrap().unwrap())
}

fn find_binaries() -> Option<PathBuf> {
    let named = std::env::var_os("PGTANDEM_TEST_PG_BIN").map(PathBuf::from);
    let debian =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|it| it.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    named.into_iter().chain(debian).chain(std::env::split_paths(&path)).find(|it| it.join("initdb").exists())
}

impl Server {
    /// Starts it; without one installed the test fails.
    pub(crate) fn start() -> Self {
        let Some(binaries) = find_binaries() else {
            panic!(
                "no PostgreSQL found: install its server (Debian: postgresql) or name its bin directory in PGTANDEM_TEST_PG_BIN"
            );
        };
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path();
        if let Some(user) = account() {
            chown(home, Some(user.uid), Some(user.gid)).unwrap();
        }
        let data = home.join("data");
        run(Command::new(binaries.join("initdb"))
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data));
        make_certificate(home);
        std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let child = unprivileged(&mut Command::new(binaries.join("postgres")))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(home)
            .args(["-F", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-c"])
            .arg(set("ssl_cert_file", &home.join("cert.pem")))
            .arg("-c")
            .arg(set("ssl_key_file", &home.join("key.pem")))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { binaries, directory, child, port };
        server.wait_until_up();
        server.make_roles();
        server
    }

    fn wait_until_up(&self) {
        for _ in 0..200 {
            let probe = Command::new(self.program("psql"))
                .args(["-X", "-c", "select", &self.conninfo()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if probe.unwrap().success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("PostgreSQL did not come up within 20 s");
    }

    fn make_roles(&self) {
        let mut statements = "set client_encoding = utf8; set password_encryption = md5; \
             create role clear_foo login password 'foo'; create role md5_foo login password 'foo'; \
             set password_encryption = 'scram-sha-256';"
            .to_owned();
        for (number, word) in PASSWORDS.iter().enumerate() {
            statements += &format!("create role scram{number} login password '{word}';");
        }
        self.ask(&statements);
    }

    fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.directory.path().display(), self.port)
    }

    fn ask(&self, statements: &str) -> String {
        let output = Command::new(self.program("psql"))
            .args(["-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", statements, &self.conninfo()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// The SCRAM secret that the server made for a role.
    pub(crate) fn secret_of(&self, role: &str) -> ScramSecret {
        let text = self.ask(&format!("select rolpassword from pg_authid where rolname = '{role}'"));
        ScramSecret::parse(text.as_bytes()).unwrap()
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    pub(crate) fn unix(&self) -> UnixStream {
        UnixStream::connect(self.directory.path().join(format!(".s.PGSQL.{}", self.port))).unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// tls-server-end-point: the certificate is signed with SHA-256.
    pub(crate) fn certificate_hash(&self) -> Vec<u8> {
        let certificate = CertificateDer::from_pem_file(self.file("cert.pem")).unwrap();
        digest::digest(&digest::SHA256, &certificate).as_ref().to_vec()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) {
    let output = unprivileged(command).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn make_certificate(home: &Path) {
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(home.join("key.pem"))
        .arg("-out")
        .arg(home.join("cert.pem")));
}
