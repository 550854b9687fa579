//! What the kernel can do, found out by trying.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUlp;

use super::keys::{Direction, Keys};
use super::{Cipher, Version, WhyNot};

/// Which ciphers this kernel can do in which version of TLS. That there is one proves that it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Support {
    pub(super) usable: Vec<(Version, Cipher)>,
}

impl Support {
    /// Asks the kernel, over short-lived connections on the loopback interface; takes a few milliseconds at most. To be asked
    /// before each hand-over: the module may be loaded at any time. If it is asked once while the process still has
    /// CAP_NET_ADMIN, the kernel loads the module by itself.
    ///
    /// # Errors
    /// For the log: what is missing and what to do about it.
    pub fn probe() -> Result<Self, String> {
        let mut usable = Vec::new();
        let mut refusal = None;
        for version in Version::ALL {
            for cipher in Cipher::ALL {
                match try_cipher(version, cipher)? {
                    Ok(()) => usable.push((version, cipher)),
                    Err(error) => refusal = Some(error),
                }
            }
        }
        match refusal {
            Some(error) if usable.is_empty() => {
                Err(format!("the kernel has TLS and none of its ciphers works: {error}"))
            }
            _ => Ok(Self { usable }),
        }
    }

    pub(super) fn has(&self, version: Version, cipher: Cipher) -> bool {
        self.usable.contains(&(version, cipher))
    }
}

/// `AES-128-GCM, AES-256-GCM with TLS 1.2; AES-128-GCM with TLS 1.3`
impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for version in Version::ALL {
            let ciphers: Vec<_> = self.usable.iter().filter(|(v, _)| *v == version).map(|(_, c)| c.name()).collect();
            if !ciphers.is_empty() {
                write!(f, "{between}{} with {}", ciphers.join(", "), version.name())?;
                between = "; ";
            }
        }
        Ok(())
    }
}

/// Outer error: no TLS at all. Inner: not this cipher.
fn try_cipher(version: Version, cipher: Cipher) -> Result<io::Result<()>, String> {
    let (socket, _other_end) =
        connection().map_err(|error| format!("cannot try kernel TLS on a TCP socket: {error}"))?;
    attach(&socket).map_err(|why| why.to_string())?;
    let keys = Keys::zero(version, cipher);
    let install = || {
        keys.install(&socket, Direction::Send)?;
        keys.install(&socket, Direction::Receive)
    };
    Ok(install())
}

fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let one = TcpStream::connect(listener.local_addr()?)?;
    // Another process may have been quicker to connect; its connection does as well.
    let (other, _) = listener.accept()?;
    Ok((one, other))
}

/// Has the kernel load its module for TLS, which it does for those who have CAP_NET_ADMIN. Nobody is connected to for that.
/// Whether it has one is told by [`Support::probe`].
pub fn load_kernel_tls() {
    // Without a connection it is refused in any case, after the module has been looked for.
    if let Ok(socket) = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None) {
        let _ = attach(&socket);
    }
}

/// Gives the socket the upper-layer protocol `tls`. Without keys it goes on as plain TCP.
pub(super) fn attach(socket: &impl AsFd) -> Result<(), WhyNot> {
    match setsockopt(socket, TcpUlp::default(), b"tls") {
        // EEXIST: an earlier attempt got this far.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(Errno::ENOTCONN) => Err(WhyNot::Closing),
        Err(Errno::ENOENT) => Err(WhyNot::Refused(
            "the kernel's module for TLS is not loaded; load it with `modprobe tls`, and with a line `tls` in \
             /etc/modules-load.d/tls.conf at every boot (a kernel built without CONFIG_TLS has none)"
                .to_owned(),
        )),
        Err(Errno::ENOPROTOOPT) => {
            Err(WhyNot::Refused("this kernel knows no upper-layer protocols for TCP (TCP_ULP), so no TLS".to_owned()))
        }
        Err(error) => Err(WhyNot::Refused(format!("the kernel refuses TLS for the socket: {error}"))),
    }
}
