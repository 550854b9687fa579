//! Who listens on a TCP port: read from /proc (proc(5)), as far as this process may see.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::account::user_name;

/// A process, as far as it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Its name (`comm`).
    pub(super) program: String,
}

/// A listening socket of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    pub(super) uid: u32,
    pub(super) user: String,
    inode: u64,
    /// Who has it; `None` if that may not be seen.
    pub(super) owner: Option<Process>,
}

/// LISTEN, as the table writes it (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// Everybody who listens on that port.
pub(super) fn listening(port: u16) -> Vec<Listening> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let mut found: Vec<Listening> = tables.iter().flat_map(|table| table.lines()).filter_map(entry).collect();
    found.retain(|socket| socket.address.port() == port);
    for socket in &mut found {
        socket.user = user_name(socket.uid);
    }
    if !found.is_empty() {
        find_owners(&mut found);
    }
    found
}

/// One line of /proc/net/tcp or tcp6, if it is a listening socket.
fn entry(line: &str) -> Option<Listening> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, state, _, _, _, uid, _, inode, ..] = fields.as_slice() else { return None };
    if *state != LISTEN {
        return None;
    }
    Some(Listening {
        address: address(local)?,
        uid: uid.parse().ok()?,
        user: String::new(),
        inode: inode.parse().ok()?,
        owner: None,
    })
}

/// `0100007F:1920`: 32-bit words in the order of this machine.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(host.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match host.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, slot) in octets.chunks_exact_mut(4).enumerate() {
                slot.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Looks through the open files of every process that lets itself be looked at.
fn find_owners(sockets: &mut [Listening]) {
    for pid in pids() {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for link in descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
            let name = link.to_string_lossy();
            let number = name.strip_prefix("socket:[").map(|rest| rest.trim_end_matches(']'));
            let Some(inode) = number.and_then(|number| number.parse::<u64>().ok()) else { continue };
            if let Some(socket) = sockets.iter_mut().find(|socket| socket.inode == inode && socket.owner.is_none()) {
                socket.owner = program(pid).map(|program| Process { pid, program });
            }
        }
    }
}

/// All process ids that can be seen.
pub(super) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process's name.
pub(super) fn program(pid: i32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

impl Listening {
    /// Does it stand in the way of listening on `wanted`?
    pub(super) fn covers(&self, wanted: SocketAddr) -> bool {
        let (own, asked) = (self.address.ip(), wanted.ip());
        self.address.port() == wanted.port()
            && (own == asked || own.is_unspecified() || (asked.is_unspecified() && own.is_ipv4() == asked.is_ipv4()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let line =
            "   0: 0100007F:1920 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4711 1 x";
        let found = entry(line).unwrap();
        assert_eq!(found.address, "127.0.0.1:6432".parse().unwrap());
        assert_eq!((found.uid, found.inode), (101, 4711));
        let six = "   1: 00000000000000000000000001000000:1920 0:0 0A 0:0 0:0 0 0 0 5 1";
        assert_eq!(entry(six).unwrap().address, "[::1]:6432".parse().unwrap());
        for odd in ["", "sl local_address", &line.replace(" 0A ", " 01 "), &line.replace("0100007F", "01")] {
            assert_eq!(entry(odd), None, "{odd}");
        }
    }

    #[test]
    fn wildcards_stand_in_the_way() {
        let at = |address: &str| Listening {
            address: address.parse().unwrap(),
            uid: 0,
            user: String::new(),
            inode: 0,
            owner: None,
        };
        for (own, asked, covers) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "[::]:1", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
        ] {
            assert_eq!(at(own).covers(asked.parse().unwrap()), covers, "{own} {asked}");
        }
    }

    #[test]
    fn our_own_listener_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = listening(address.port());
        let ours = found.iter().find(|socket| socket.covers(address)).unwrap();
        assert_eq!(ours.owner.as_ref().map(|owner| owner.pid), i32::try_from(std::process::id()).ok());
    }
}
