//! Sockets to listen on: can they be had, and who has them if not?

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, Protocol, Socket, Type};

use super::report::{Finding, Subject};
use super::sockets::{Listening, Process, program};
use super::words::{quoted_path, system_text};
use crate::config::{Config, Settings};
use crate::net::listen;

/// What came of trying for one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    /// The element of listen_addr.
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) outcome: Outcome,
}

/// The kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Free,
    /// Somebody listens there; who, as far as it can be seen.
    Taken(Option<Listening>),
    /// A port below the first one that everybody may use.
    Privileged {
        first_free: u16,
    },
    /// The address is not one of this machine.
    NotOurs,
    /// This machine does not speak IPv6 at all.
    NoFamily,
    /// Anything else.
    Other(String),
}

/// Is this element of listen_addr an address, for which nobody has to be asked?
pub(super) fn is_literal(name: &str) -> bool {
    name == "*" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// Tries for the addresses that an element of listen_addr means.
pub(super) fn attempts(
    name: &str,
    addresses: Vec<SocketAddr>,
    settings: &Settings,
    listening: &[Listening],
) -> Vec<Attempt> {
    let attempt = |address| Attempt {
        name: name.to_owned(),
        address,
        outcome: outcome(address, settings.so_reuseport, listening),
    };
    addresses.into_iter().map(attempt).collect()
}

fn outcome(address: SocketAddr, reuse_port: bool, listening: &[Listening]) -> Outcome {
    match bind(address, reuse_port) {
        Ok(()) => Outcome::Free,
        Err(error) => match error.kind() {
            io::ErrorKind::AddrInUse => Outcome::Taken(listening.iter().find(|socket| socket.covers(address)).cloned()),
            io::ErrorKind::PermissionDenied => Outcome::Privileged { first_free: first_unprivileged() },
            io::ErrorKind::AddrNotAvailable => Outcome::NotOurs,
            _ if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => Outcome::NoFamily,
            _ => Outcome::Other(system_text(&error)),
        },
    }
}

/// As the listener itself is bound, but without listening: no client can come in, and a start at the same moment succeeds.
fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())
}

/// ip(7), ip_unprivileged_port_start.
fn first_unprivileged() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

/// Judges one address. `others_free`: another address of the configuration can be had, so that the start would not fail.
pub(super) fn judge(attempt: &Attempt, running: Option<&Process>, others_free: bool) -> Finding {
    let Attempt { name, address, outcome } = attempt;
    let port = address.port();
    match outcome {
        Outcome::Free => Finding::ok(Subject::Ports, format!("{address} is free")),
        Outcome::Taken(owner) => taken(*address, owner.as_ref(), running),
        Outcome::Privileged { first_free } => {
            let text = format!(
                "{address}: only root may listen below port {first_free} (no CAP_NET_BIND_SERVICE in this process)"
            );
            let remedy = format!(
                "start it as root with user = set (it gives root up); or AmbientCapabilities=CAP_NET_BIND_SERVICE in the \
                 unit; or sysctl -w net.ipv4.ip_unprivileged_port_start={port}; or listen_port = 6432"
            );
            Finding::error(Subject::Ports, text).remedy(remedy)
        }
        Outcome::NotOurs => {
            let text = format!("listen_addr {name}: this machine does not have the address {}", address.ip());
            let remedy = "ip -br address shows those that it has; for one that comes later: \
                          sysctl -w net.ipv4.ip_nonlocal_bind=1";
            let make = if others_free { Finding::warning } else { Finding::error };
            make(Subject::Ports, text).remedy(remedy)
        }
        Outcome::NoFamily if others_free => {
            Finding::note(Subject::Ports, format!("{address}: this machine does not speak IPv6"))
        }
        Outcome::NoFamily => {
            let text = format!("{address}: this machine does not speak IPv6");
            Finding::error(Subject::Ports, text).remedy("listen_addr = 0.0.0.0")
        }
        Outcome::Other(reason) => Finding::error(Subject::Ports, format!("{address}: {reason}"))
            .remedy(format!("correct listen_addr ({name}) or listen_port ({port})")),
    }
}

fn taken(address: SocketAddr, owner: Option<&Listening>, running: Option<&Process>) -> Finding {
    let port = address.port();
    let process = owner.and_then(|socket| socket.owner.as_ref());
    // A process that made itself undumpable hides its descriptors from its own user.
    let is_running = match (process, running) {
        (Some(process), Some(running)) => process.pid == running.pid,
        (None, Some(_)) => true,
        _ => false,
    };
    if let Some(running) = running.filter(|_| is_running) {
        let how = if process.is_some() { "" } else { ", as it seems" };
        let text = format!("{address} is taken by the pgtandem that serves already (pid {}){how}", running.pid);
        return Finding::note(Subject::Ports, text);
    }
    let look = format!("sudo ss -ltnp 'sport = :{port}'");
    match (process, owner) {
        (Some(Process { pid, program }), socket) => {
            let user = socket.map_or_else(String::new, |socket| format!(", user {}", socket.user));
            let text = format!("{address} is taken by {program} (pid {pid}{user})");
            Finding::error(Subject::Ports, text).remedy(format!(
                "kill {pid} (systemctl status {pid} names its unit, if it has one), or set another listen_port"
            ))
        }
        (None, Some(socket)) => {
            let text =
                format!("{address} is taken by a process of user {}, which this user may not look into", socket.user);
            Finding::error(Subject::Ports, text).remedy(format!("{look}; stop it, or set another listen_port"))
        }
        (None, None) => {
            let text = format!("{address} is taken, by whom cannot be seen (another network namespace?)");
            Finding::error(Subject::Ports, text).remedy(format!("{look}; stop it, or set another listen_port"))
        }
    }
}

/// A name in listen_addr that has no address.
pub(super) fn unknown_name(name: &str, reason: &str) -> Finding {
    let text = format!("listen_addr: the name {name} has no address ({reason})");
    Finding::error(Subject::Ports, text).remedy(format!("getent ahosts {name}; or write the address itself"))
}

/// What is at the path of the Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnixState {
    Free,
    /// A living process answers.
    Served(Option<Process>),
    /// Left behind by a process that is gone; `removable` by this user?
    Stale {
        removable: bool,
    },
    /// Something else has that name.
    NoSocket,
    Unknown(String),
}

/// Looks at the Unix socket, as the user who serves; `None` if none is configured.
pub(super) fn unix_socket(config: &Config) -> Option<(PathBuf, UnixState)> {
    let settings = &config.settings;
    let path = listen::unix_path(&settings.unix_socket_dir, settings.listen_port);
    if settings.unix_socket_dir.is_empty() || settings.unix_socket_dir.starts_with('@') {
        return None;
    }
    let state = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => UnixState::Free,
        // The directory has its own findings.
        Err(_) => return None,
        Ok(metadata) if !metadata.file_type().is_socket() => UnixState::NoSocket,
        Ok(metadata) => match UnixStream::connect(&path) {
            Ok(stream) => UnixState::Served(peer(&stream)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                UnixState::Stale { removable: is_removable(&path, &metadata) }
            }
            Err(error) => UnixState::Unknown(system_text(&error)),
        },
    };
    Some((path, state))
}

/// In a directory with the sticky bit only the owner of a file, or of the directory, removes it.
fn is_removable(path: &Path, metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let own = nix::unistd::geteuid().as_raw();
    let dir = path.parent().unwrap_or(Path::new("/"));
    let sticky = fs::metadata(dir).is_ok_and(|dir| dir.mode() & 0o1000 != 0 && dir.uid() != own);
    super::access::is_writable_dir(dir) && (own == 0 || !sticky || metadata.uid() == own)
}

/// Who listens: the kernel notes it when listen(2) is called (unix(7), SO_PEERCRED).
fn peer(stream: &UnixStream) -> Option<Process> {
    let pid = getsockopt(stream, PeerCredentials).ok()?.pid();
    Some(Process { pid, program: program(pid)? })
}

/// Judges the Unix socket.
pub(super) fn judge_unix(path: &Path, state: &UnixState, running: Option<&Process>) -> Finding {
    let shown = path.display();
    let name = quoted_path(path);
    let other = "stop it, or set another unix_socket_dir or listen_port";
    match state {
        UnixState::Free => Finding::ok(Subject::Ports, format!("unix socket {shown} is free")),
        UnixState::Served(Some(process)) if running.is_some_and(|running| running.pid == process.pid) => {
            let text = format!("unix socket {shown} is served by the pgtandem that runs already (pid {})", process.pid);
            Finding::note(Subject::Ports, text)
        }
        UnixState::Served(Some(Process { pid, program })) => {
            let text = format!("unix socket {shown} is served by {program} (pid {pid})");
            Finding::error(Subject::Ports, text)
                .remedy(format!("kill {pid}, or set another unix_socket_dir or listen_port"))
        }
        UnixState::Served(None) if running.is_some() => Finding::note(
            Subject::Ports,
            format!("unix socket {shown} is served, by the pgtandem that runs already as it seems"),
        ),
        UnixState::Served(None) => {
            let text = format!("unix socket {shown} is served by a process that cannot be seen");
            Finding::error(Subject::Ports, text).remedy(format!("sudo ss -lxp src {name}; {other}"))
        }
        UnixState::Stale { removable: true } => {
            let text =
                format!("unix socket {shown} was left behind by a process that is gone; the next start replaces it");
            Finding::note(Subject::Ports, text)
        }
        UnixState::Stale { removable: false } => {
            let text = format!("unix socket {shown} was left behind by another user's process and cannot be replaced");
            Finding::error(Subject::Ports, text).remedy(format!("sudo rm {name}"))
        }
        UnixState::NoSocket => {
            let text = format!("{shown} is no socket, and it stands where the unix socket belongs");
            Finding::error(Subject::Ports, text).remedy(format!("mv {name} {name}.old"))
        }
        UnixState::Unknown(reason) => {
            let text = format!("unix socket {shown} exists, and who serves it cannot be found out: {reason}");
            Finding::error(Subject::Ports, text).remedy(format!("sudo ss -lxp src {name}; {other}"))
        }
    }
}

/// Everything about the addresses: `attempts` in the order of the configuration.
pub(super) fn judge_all(attempts: &[Attempt], running: Option<&Process>) -> Vec<Finding> {
    let free = attempts.iter().any(|attempt| matches!(attempt.outcome, Outcome::Free | Outcome::Taken(_)));
    attempts.iter().map(|attempt| judge(attempt, running, free)).collect()
}

/// The addresses of a name; a resolver that takes too long is not waited for.
pub(super) fn look_up(name: &str, port: u16, patience: Duration) -> Result<Vec<SocketAddr>, String> {
    let (sender, receiver) = mpsc::channel();
    let asked = name.to_owned();
    std::thread::spawn(move || sender.send(listen::addresses(&asked, port)));
    match receiver.recv_timeout(patience) {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(listen::ListenError::Name { source, .. })) => Err(source.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn attempt(outcome: Outcome) -> Attempt {
        Attempt { name: "*".into(), address: "127.0.0.1:6432".parse().unwrap(), outcome }
    }

    fn process(pid: i32, program: &str) -> Process {
        Process { pid, program: program.into() }
    }

    #[test]
    fn a_free_port_is_free_and_a_taken_one_names_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let table = super::super::sockets::listening(taken.port());
        let Outcome::Taken(Some(owner)) = outcome(taken, false, &table) else { panic!("free?") };
        let found = Attempt { name: "127.0.0.1".into(), address: taken, outcome: Outcome::Taken(Some(owner)) };
        let finding = judge(&found, None, false);
        let pid = std::process::id();
        assert!(finding.level == Level::Error && finding.text.contains(&format!("pid {pid}")), "{finding:?}");
        assert!(finding.remedy.unwrap().starts_with(&format!("kill {pid}")));
        drop(listener);
        assert_eq!(outcome(taken, false, &table), Outcome::Free);
    }

    #[test]
    fn the_pgtandem_that_runs_is_no_error() {
        let found = attempt(Outcome::Taken(None));
        let finding = judge(&found, Some(&process(9, "pgtandem")), false);
        assert!(finding.level == Level::Note && finding.text.contains("pid 9"), "{finding:?}");
        assert_eq!(judge(&found, None, false).level, Level::Error);
        let path = Path::new("/t/s");
        let served = UnixState::Served(Some(process(9, "pgtandem")));
        assert_eq!(judge_unix(path, &served, Some(&process(9, "pgtandem"))).level, Level::Note);
        assert_eq!(judge_unix(path, &served, Some(&process(8, "pgtandem"))).level, Level::Error);
        assert_eq!(judge_unix(path, &served, None).level, Level::Error);
    }

    #[test]
    fn each_refusal_has_its_way_out() {
        for (outcome, level, remedy) in [
            (Outcome::Privileged { first_free: 1024 }, Level::Error, "CAP_NET_BIND_SERVICE"),
            (Outcome::NotOurs, Level::Error, "ip -br address"),
            (Outcome::NoFamily, Level::Error, "0.0.0.0"),
            (Outcome::Other("odd".into()), Level::Error, "correct listen_addr"),
        ] {
            let finding = judge(&attempt(outcome), None, false);
            assert!(finding.level == level && finding.remedy.as_ref().unwrap().contains(remedy), "{finding:?}");
        }
        assert_eq!(judge(&attempt(Outcome::NotOurs), None, true).level, Level::Warning);
        assert_eq!(judge(&attempt(Outcome::NoFamily), None, true).level, Level::Note);
    }

    #[test]
    fn unix_sockets_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.settings.unix_socket_dir = dir.path().to_str().unwrap().to_owned();
        config.settings.listen_port = 7;
        let look = || unix_socket(&config).unwrap();
        assert_eq!(look().1, UnixState::Free);
        let path = look().0;
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let UnixState::Served(Some(owner)) = look().1 else { panic!("not served?") };
        assert_eq!(owner.pid, i32::try_from(std::process::id()).unwrap());
        drop(listener);
        assert_eq!(look().1, UnixState::Stale { removable: true });
        fs::remove_file(&path).unwrap();
        fs::write(&path, "x").unwrap();
        assert_eq!(look().1, UnixState::NoSocket);
        for (state, level) in [
            (UnixState::Stale { removable: true }, Level::Note),
            (UnixState::Stale { removable: false }, Level::Error),
            (UnixState::NoSocket, Level::Error),
        ] {
            assert_eq!(judge_unix(&path, &state, None).level, level);
        }
    }

    #[test]
    fn only_names_are_looked_up() {
        assert!(is_literal("*") && is_literal("::1") && is_literal("[::1]") && is_literal("10.0.0.1"));
        assert!(!is_literal("localhost"));
    }
}
