//! A throwaway PostgreSQL with TLS.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{Folder, Process, free_port, unprivileged, wait_until};

/// Speed over safety: the data is thrown away.
const SETTINGS: &str = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nautovacuum = off\n\
    shared_buffers = 32MB\nmax_connections = 200\nmax_wal_size = 4GB\njit = off\nmax_parallel_workers_per_gather = 0\n\
    listen_addresses = 'localhost'\nssl = on\nssl_cert_file = '../server.crt'\nssl_key_file = '../server.key'\n";

pub(crate) struct Postgres {
    process: Process,
    binaries: PathBuf,
    folder: Folder,
    pub(crate) port: u16,
}

fn find_binaries() -> Option<PathBuf> {
    let named = std::env::var_os("PGTANDEM_TEST_PG_BIN").map(PathBuf::from);
    let debian =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|it| it.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    named.into_iter().chain(debian).chain(std::env::split_paths(&path)).find(|it| it.join("initdb").exists())
}

impl Postgres {
    /// Starts it with this certificate and key (PEM), pg_hba.conf, and statements of the superuser. Without a
    /// PostgreSQL installed the test fails.
    pub(crate) fn start(pair: (&[u8], &[u8]), hba: &str, statements: &[&str]) -> Self {
        let Some(binaries) = find_binaries() else {
            panic!(
                "no PostgreSQL found: install its server (Debian: postgresql) or name its bin directory in PGTANDEM_TEST_PG_BIN"
            );
        };
        let folder = Folder::new();
        let data = folder.file("data");
        let output = unprivileged(&mut Command::new(binaries.join("initdb")))
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        folder.put("server.crt", pair.0);
        folder.put("server.key", pair.1);
        folder.put("data/postgresql.auto.conf", SETTINGS);
        folder.put("data/pg_hba.conf", format!("local all postgres trust\n{hba}"));
        let port = free_port();
        let log = File::create(folder.file("log")).unwrap();
        let mut command = Command::new(binaries.join("postgres"));
        unprivileged(&mut command).arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-p", &port.to_string()]);
        // SIGQUIT: immediate shutdown.
        let process = Process::spawn(command.stdout(Stdio::null()).stderr(log), Signal::SIGQUIT);
        let server = Self { process, binaries, folder, port };
        wait_until("PostgreSQL answers", || server.try_ask("select").is_ok());
        for statement in statements {
            server.ask(statement);
        }
        server
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.file("log")).unwrap()
    }

    /// The answer to statements of the superuser.
    pub(crate) fn ask(&self, statements: &str) -> String {
        self.try_ask(statements).unwrap()
    }

    fn try_ask(&self, statements: &str) -> Result<String, String> {
        let conninfo = format!("host={} port={} user=postgres", self.folder.path().display(), self.port);
        let output = Command::new(self.program("psql"))
            .args([
                "-X",
                "-At",
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                statements,
                "-d",
                &format!("{conninfo} dbname=postgres"),
            ])
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    }

    /// Stops it and all its children, or lets them go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.process.signal(signal);
        let children =
            Command::new("ps").args(["-o", "pid=", "--ppid", &self.process.id().to_string()]).output().unwrap();
        for child in String::from_utf8_lossy(&children.stdout).split_whitespace() {
            // One that has just ended needs no stopping.
            let _ = kill(Pid::from_raw(child.parse().unwrap()), signal);
        }
    }

    /// Makes it show another certificate to those who connect from now on, or none (`ssl = off`).
    pub(crate) fn show_certificate(&self, pair: Option<(&[u8], &[u8])>) {
        if let Some((certificate, key)) = pair {
            self.folder.put("server.crt", certificate);
            self.folder.put("server.key", key);
        }
        let ssl = if pair.is_some() { "on" } else { "off" };
        self.folder.put("data/postgresql.auto.conf", format!("{SETTINGS}ssl = {ssl}\n"));
        // Between this line and the next connection that it accepts it has read the files.
        const RELOADING: &str = "received SIGHUP, reloading configuration files";
        let before = self.log().matches(RELOADING).count();
        self.process.signal(Signal::SIGHUP);
        wait_until("PostgreSQL reloads", || self.log().matches(RELOADING).count() > before);
        assert_eq!(self.ask("show ssl"), ssl);
        assert!(!self.log().contains("SSL configuration was not reloaded"), "{}", self.log());
    }
}
