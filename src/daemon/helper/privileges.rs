//! What the helper may do: have two capabilities, be nobody in particular.

use crate::daemon::process::{self, Identity, ProcessError};

/// Addresses and interfaces (capabilities(7)).
const CAP_NET_ADMIN: u64 = 1 << 12;

/// Raw and packet sockets.
const CAP_NET_RAW: u64 = 1 << 13;

/// All that the helper keeps.
pub const KEPT: u64 = CAP_NET_ADMIN | CAP_NET_RAW;

/// Become the user who serves and give up all but [`KEPT`], for good: no other capability permitted, none ambient or
/// inheritable, none to be gained (no_new_privs), no look into memory, no core dump. Read back from the kernel, and root must be
/// out of reach. Call it while there is only one thread.
///
/// `identity`: whom root becomes; `None` for who is an ordinary user already, with both capabilities ambient (systemd).
///
/// # Errors
/// [`ProcessError`], with what to do. The process must end then.
pub fn confine(identity: Option<&Identity>) -> Result<(), ProcessError> {
    match identity {
        Some(identity) => identity.assume_keeping(KEPT),
        None => process::lock_down_to(KEPT),
    }
}
