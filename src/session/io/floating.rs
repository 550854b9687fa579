//! Floating addresses, as sessions see them: a client whose address has left this node hears nothing more from it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::{future, io};

use tokio::sync::watch;

use super::shared::lock;
use crate::fault::{Culprit, Fault};

/// The floating addresses of a pair; none of them need be here at the moment.
#[derive(Debug)]
pub struct Floating {
    addresses: Mutex<Vec<IpAddr>>,
    left: watch::Sender<Vec<IpAddr>>,
}

impl Default for Floating {
    fn default() -> Self {
        Self { addresses: Mutex::default(), left: watch::Sender::new(Vec::new()) }
    }
}

impl Floating {
    /// These are all that there are.
    pub fn set(&self, addresses: Vec<IpAddr>) {
        *lock(&self.addresses) = addresses;
    }

    /// These have left this node: whoever is logging in by one of them is let go of.
    pub fn leave(&self, addresses: &[IpAddr]) {
        self.left.send_replace(addresses.to_vec());
    }

    /// Follows what becomes of the address by which a client came, from now on.
    #[must_use]
    pub fn follow(&self, local: Option<SocketAddr>) -> Hold {
        let address = local.map(|local| local.ip().to_canonical());
        let address = address.filter(|address| lock(&self.addresses).contains(address));
        Hold { address, left: address.map(|_| self.left.subscribe()) }
    }
}

/// How a client's address stands.
#[derive(Debug)]
pub struct Hold {
    /// Only if it is a floating one.
    address: Option<IpAddr>,
    left: Option<watch::Receiver<Vec<IpAddr>>>,
}

impl Hold {
    /// Is it elsewhere already? Such clients were in the queue of a listener when it left. The kernel is asked, as only it knows
    /// at every moment.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.address.is_some_and(|address| {
            UdpSocket::bind((address, 0)).is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
        })
    }

    /// Has it left since this began? Once only.
    pub fn has_left(&mut self) -> bool {
        let (Some(address), Some(left)) = (self.address, &mut self.left) else { return false };
        left.has_changed().unwrap_or(false) && left.borrow_and_update().contains(&address)
    }

    /// Waits until it leaves.
    pub async fn left(&mut self) {
        let (Some(address), Some(left)) = (self.address, &mut self.left) else { return future::pending().await };
        // The sender lives as long as the process.
        while left.changed().await.is_ok() {
            if left.borrow_and_update().contains(&address) {
                return;
            }
        }
        future::pending().await
    }
}

/// For the log: nobody can hear it any more.
#[must_use]
pub fn not_here() -> Fault {
    Fault::fatal(Culprit::Us, "the floating address is not held any more").with_sqlstate("08006").retryable()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const HERE: &str = "127.0.0.1:6432";
    /// RFC 5737: no machine has it.
    const ELSEWHERE: &str = "192.0.2.1:6432";

    fn end(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn both() -> Floating {
        let floating = Floating::default();
        floating.set(vec!["127.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap()]);
        floating
    }

    #[test]
    fn the_kernel_knows_what_is_here() {
        let floating = both();
        assert!(!floating.follow(end(HERE)).is_elsewhere());
        assert!(floating.follow(end(ELSEWHERE)).is_elsewhere());
        // A socket of IPv6 for clients of IPv4.
        assert!(floating.follow(end("[::ffff:192.0.2.1]:6432")).is_elsewhere());
        // Not floating, or no address at all.
        assert!(!floating.follow(end("192.0.2.2:6432")).is_elsewhere());
        assert!(!floating.follow(None).is_elsewhere());
    }

    #[tokio::test]
    async fn who_follows_learns_when_it_leaves() {
        let floating = both();
        floating.leave(&["127.0.0.1".parse().unwrap()]);
        let (mut follows, mut asks) = (floating.follow(end(HERE)), floating.follow(end(HERE)));
        assert!(follows.left().now_or_never().is_none(), "that was before");
        floating.leave(&["192.0.2.1".parse().unwrap()]);
        assert!(follows.left().now_or_never().is_none() && !asks.has_left(), "that was another one");
        floating.leave(&["127.0.0.1".parse().unwrap()]);
        follows.left().await;
        assert!(asks.has_left() && !asks.has_left());
        assert!(floating.follow(None).left().now_or_never().is_none());
    }
}
