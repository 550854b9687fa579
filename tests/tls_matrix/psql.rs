//! psql (libpq) as client.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::process::Folder;

/// The program, without any configuration of whoever runs the tests.
pub(crate) struct Psql {
    program: PathBuf,
    home: Folder,
}

impl Psql {
    /// Without it installed the test fails.
    pub(crate) fn find() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let program = std::env::split_paths(&path).map(|it| it.join("psql")).find(|it| it.exists());
        let Some(program) = program else { panic!("no psql in PATH: install it (Debian: postgresql-client)") };
        Self { program, home: Folder::new() }
    }

    /// Runs the commands in one connection to the pooler on this port: what they print, or why they could not be run.
    pub(crate) fn run(&self, port: u16, conninfo: &str, commands: &[&str]) -> Result<String, String> {
        let place = format!("host=localhost hostaddr=127.0.0.1 port={port} connect_timeout=20 gssencmode=disable");
        let mut psql = Command::new(&self.program);
        psql.env_clear().env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        psql.args(["-X", "-w", "-At", "-v", "ON_ERROR_STOP=1"]).stdin(Stdio::null());
        for command in commands {
            psql.args(["-c", command]);
        }
        let output = psql.args(["-d", &format!("{place} {conninfo}")]).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
        }
    }
}
