//! The operator's program that is told of each transition (setting notify_program): for clouds where an interface of the
//! provider moves the address, or to page somebody. It runs as the user who serves, beside everything else, one at a time, and
//! is ended after notify_timeout. Nothing waits for it.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

/// Transitions that may wait for the program; those beyond are only logged.
const QUEUE_MAX: usize = 64;

/// One transition, as the program hears of it.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    /// setting notify_program.
    pub(super) program: String,
    /// setting notify_timeout.
    pub(super) timeout: Duration,
    /// This node's name.
    pub(super) node: String,
    /// The virtual router's name.
    pub(super) router: String,
    /// The interface.
    pub(super) interface: String,
    /// `active`, `backup` or `initialize`.
    pub(super) state: &'static str,
    /// The floating addresses, separated by blanks.
    pub(super) addresses: String,
    /// Why.
    pub(super) reason: String,
}

/// Where transitions are put in.
#[derive(Clone, Debug)]
pub(super) struct Notifier(Sender<Notice>);

impl Notifier {
    /// Begins to listen. To be called inside the runtime.
    pub(super) fn start() -> Self {
        let (sender, receiver) = channel(QUEUE_MAX);
        tokio::spawn(run(receiver));
        Self(sender)
    }

    /// Tells of a transition, as soon as the program is done with those before it.
    pub(super) fn tell(&self, notice: Notice) {
        if let Err(error) = self.0.try_send(notice) {
            tracing::warn!("notify_program is {QUEUE_MAX} transitions behind and does not hear of this one: {error}");
        }
    }
}

async fn run(mut notices: Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        let program = notice.program.clone();
        if let Err(reason) = one(notice).await {
            tracing::warn!("notify_program {program}: {reason}");
        }
    }
}

async fn one(notice: Notice) -> Result<(), String> {
    let Notice { program, timeout: patience, node, router, interface, state, addresses, reason } = notice;
    let mut command = Command::new(&program);
    command.args([state, &router]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // What this process was started with is nothing to it: sockets of the service manager, for one.
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("PGTANDEM_NODE", node).env("PGTANDEM_ROUTER", router).env("PGTANDEM_INTERFACE", interface);
    command.env("PGTANDEM_STATE", state).env("PGTANDEM_ADDRESSES", addresses).env("PGTANDEM_REASON", reason);
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| format!("cannot be started: {error}"))?;
    match timeout(patience, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{status}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("not done after notify_timeout ({} s), killed", patience.as_secs_f64())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(program: &str) -> Notice {
        Notice {
            program: program.to_owned(),
            timeout: Duration::from_millis(100),
            node: "one".into(),
            router: "default".into(),
            interface: "eth0".into(),
            state: "active",
            addresses: "192.0.2.10".into(),
            reason: "test".into(),
        }
    }

    fn script(folder: &std::path::Path, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn the_program_hears_what_happened_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let heard = folder.path().join("heard");
        let text = format!("echo \"$@ $PGTANDEM_ADDRESSES $PGTANDEM_REASON ${{HOME-nothing}}\" > {}", heard.display());
        let long = Notice { timeout: Duration::from_secs(20), ..notice(&script(folder.path(), "tell", &text)) };
        one(long).await.unwrap();
        assert_eq!(std::fs::read_to_string(heard).unwrap(), "active default 192.0.2.10 test nothing\n");
    }

    #[tokio::test]
    async fn what_fails_or_takes_too_long_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let failing = Notice { timeout: Duration::from_secs(20), ..notice(&script(folder.path(), "fail", "exit 3")) };
        assert_eq!(one(failing).await.unwrap_err(), "exit status: 3");
        let slow = one(notice(&script(folder.path(), "slow", "exec sleep 60"))).await.unwrap_err();
        assert_eq!(slow, "not done after notify_timeout (0.1 s), killed");
        assert!(one(notice("/nowhere")).await.unwrap_err().starts_with("cannot be started: "));
    }
}
