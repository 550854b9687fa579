//! The helper as a child of the pooler, where no service manager starts one.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};

/// Starts `pgtandem address-helper --child FILE` and returns the pooler's end of a socket pair; the child has the other one as
/// its standard input. To be called while the pooler is still root (or has the helper's capabilities), thus before
/// `Identity::assume`, and not by a successor, which gets the predecessor's end. `user`: what `-u` said.
///
/// It is this program once more rather than a fork: the pooler's keys and passwords are not in the helper's memory, and its
/// sockets and locks, which are all closed at exec, are not in its hands. The child ends when the last copy of this end does.
///
/// # Errors
/// The kernel's: the program cannot be started again, or there are no descriptors left.
pub fn start_child(file: &Path, user: Option<&str>) -> io::Result<OwnedFd> {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("address-helper").arg("--child");
    if let Some(user) = user {
        command.arg(format!("--user={user}"));
    }
    command.arg("--").arg(file);
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
    // Nobody waits for it: that it has ended is seen by its end of the pair, and what is left of it goes with the pooler.
    drop(command.spawn()?);
    Ok(ours.into())
}
