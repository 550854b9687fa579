//! The program under test.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::fs::File;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::process::{Folder, Process, account, free_port, unprivileged, wait_until};

pub(crate) struct Pooler {
    process: Process,
    /// Holds its files. It may only be removed after the process, so it stands behind.
    pub(crate) folder: Folder,
    pub(crate) port: u16,
}

impl Pooler {
    /// Starts it with the configuration that `ini` writes for a folder and a port, and waits until it listens. Of an
    /// unprivileged user if we are one, and else one that drops its privileges itself.
    pub(crate) fn start(ini: impl FnOnce(&Folder, u16) -> String) -> Self {
        let (folder, port) = (Folder::new(), free_port());
        let ini = folder.put("pgbouncer.ini", ini(&folder, port));
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgtandem"));
        match account() {
            Some(user) => command.args(["-u", &user.name]).current_dir("/").stdin(Stdio::null()),
            None => unprivileged(&mut command),
        };
        let log = File::create(folder.file("stderr")).unwrap();
        command.arg(ini).env_remove("JOURNAL_STREAM").stdout(Stdio::null()).stderr(log);
        let mut pooler = Self { process: Process::spawn(&mut command, Signal::SIGTERM), folder, port };
        wait_until("the pooler listens", || {
            assert!(!pooler.process.has_ended(), "the pooler has ended:\n{}", pooler.log());
            pooler.log().contains("process up:") && TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        pooler
    }

    /// Everything that it has logged, to whatever place.
    pub(crate) fn log(&self) -> String {
        let read = |name: &str| std::fs::read(self.folder.file(name)).unwrap_or_default();
        String::from_utf8_lossy(&[read("stderr"), read("pgbouncer.log")].concat()).into_owned()
    }

    /// Replaces the configuration file.
    pub(crate) fn configure(&self, change: impl FnOnce(String) -> String) {
        let old = std::fs::read_to_string(self.folder.file("pgbouncer.ini")).unwrap();
        self.folder.put("pgbouncer.ini", change(old));
    }

    /// SIGHUP; returns once its log has one more line with this text.
    pub(crate) fn reload(&self, text: &str) {
        let before = self.log().matches(text).count();
        self.process.signal(Signal::SIGHUP);
        wait_until(&format!("{text:?} in the log"), || self.log().matches(text).count() > before);
    }
}
