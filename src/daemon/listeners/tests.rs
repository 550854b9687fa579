use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use socket2::{Domain, SockAddr};
use tempfile::TempDir;

use super::*;
use crate::daemon::files::Files;

fn config(port: u16, addresses: &str, dir: &str) -> Config {
    let text = format!(
        "[databases]\na = host=127.0.0.1\n[pgbouncer]\nlisten_addr = {addresses}\nlisten_port = {port}\n\
         unix_socket_dir = {dir}\nauth_type = trust\n"
    );
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.ini");
    std::fs::write(&file, text).unwrap();
    crate::daemon::configure::read(&file, &Files::default()).unwrap().0
}

fn listening(domain: Domain, address: &SockAddr, only_v6: bool) -> OwnedFd {
    let socket = socket2::Socket::new(domain, Type::STREAM, None).unwrap();
    if domain == Domain::IPV6 {
        socket.set_only_v6(only_v6).unwrap();
    }
    socket.bind(address).unwrap();
    socket.listen(5).unwrap();
    socket.set_cloexec(false).unwrap();
    socket.into()
}

fn tcp(address: &str) -> (OwnedFd, u16) {
    let address: SocketAddr = address.parse().unwrap();
    let socket = listening(Domain::for_address(address), &address.into(), false);
    let port = SockRef::from(&socket).local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

fn inherit(sockets: impl IntoIterator<Item = OwnedFd>) -> Vec<Listener> {
    let inherited = Inherited::from_descriptors(sockets.into_iter().map(|socket| ("pgtandem".to_owned(), socket)));
    assert_eq!(inherited.warnings, Vec::<String>::new());
    inherited.listeners
}

fn names(listeners: &Listeners) -> Vec<String> {
    listeners.iter().map(|listener| listener.name().to_string()).collect()
}

#[test]
fn an_inherited_address_is_not_bound_again_and_another_is_served_beside() {
    let ((wanted, port), (extra, extra_port)) = (tcp("127.0.0.1:0"), tcp("127.0.0.1:0"));
    let mut listeners = Listeners::open(&config(port, "127.0.0.1, 127.0.0.2", ""), inherit([extra, wanted])).unwrap();
    listeners.open_unix(&config(port, "127.0.0.1", "")).unwrap();
    let unused = listeners.unused.clone();
    listeners.log();
    let address = |ip: &str, port: u16| format!("{ip}:{port}");
    assert_eq!(
        names(&listeners),
        [address("127.0.0.1", extra_port), address("127.0.0.1", port), address("127.0.0.2", port)]
    );
    assert_eq!(unused, [ListenerName::Tcp(address("127.0.0.1", extra_port).parse().unwrap())]);
    for listener in listeners.iter() {
        let socket = SockRef::from(listener.socket());
        let flags = nix::fcntl::fcntl(listener.socket(), nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert!(socket.nonblocking().unwrap() && flags & nix::libc::FD_CLOEXEC != 0, "{listener:?}");
    }
    assert_eq!(listeners.descriptors().len(), 3);
    listeners.close_tcp();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn one_socket_may_serve_many_addresses() {
    let Ok(probe) = TcpListener::bind("[::1]:0") else { return };
    drop(probe);
    // As a socket unit's ListenStream=PORT makes it.
    let (both, port) = tcp("[::]:0");
    let listeners = Listeners::open(&config(port, "*", ""), inherit([both])).unwrap();
    assert_eq!((names(&listeners), listeners.refused.len()), (vec![format!("[::]:{port}")], 0));
    drop(listeners);
    let address: SocketAddr = "[::]:0".parse().unwrap();
    let six = listening(Domain::IPV6, &address.into(), true);
    let port = SockRef::from(&six).local_addr().unwrap().as_socket().unwrap().port();
    let listeners = Listeners::open(&config(port, "*", ""), inherit([six])).unwrap();
    assert_eq!(names(&listeners), [format!("[::]:{port}"), format!("0.0.0.0:{port}")]);
    drop(listeners);
    let (all, port) = tcp("0.0.0.0:0");
    let listeners = Listeners::open(&config(port, "127.0.0.1", ""), inherit([all])).unwrap();
    assert_eq!(names(&listeners), [format!("0.0.0.0:{port}")]);
}

#[test]
fn an_inherited_unix_socket_keeps_its_file_and_our_own_is_removed() {
    let (_, port) = tcp("127.0.0.1:0");
    for (inherited, handed_on) in [(true, false), (false, false), (false, true)] {
        let folder = TempDir::new().unwrap();
        let config = config(port, "", folder.path().to_str().unwrap());
        let path = folder.path().join(format!(".s.PGSQL.{port}"));
        let sockets = inherited.then(|| listening(Domain::UNIX, &SockAddr::unix(&path).unwrap(), false));
        let mut listeners = Listeners::open(&config, inherit(sockets)).unwrap();
        listeners.open_unix(&config).unwrap();
        assert_eq!(names(&listeners), [format!("unix:{}", path.display())]);
        assert!(listeners.unused.is_empty());
        if handed_on {
            listeners.hand_on();
        }
        listeners.close();
        assert_eq!(path.exists(), inherited || handed_on);
    }
}

#[test]
fn an_abstract_socket_is_known_by_its_name() {
    let dir = format!("@pgtandem-test-{}", std::process::id());
    let path = listen::unix_path(&dir, 6432);
    let address = SockAddr::unix(format!("\0{}", path.to_str().unwrap().trim_start_matches('@'))).unwrap();
    let config = config(6432, "", &dir);
    let mut listeners = Listeners::open(&config, inherit([listening(Domain::UNIX, &address, false)])).unwrap();
    listeners.open_unix(&config).unwrap();
    assert_eq!(names(&listeners), [format!("unix:{}", path.display())]);
}

#[test]
fn what_is_no_listener_is_closed_with_a_word_on_why() {
    let quiet = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let junk: Vec<(&str, OwnedFd)> = vec![
        ("a\nb", File::open("/dev/null").unwrap().into()),
        ("udp", UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        ("datagram", UnixDatagram::unbound().unwrap().into()),
        ("quiet", quiet.into()),
        ("pgtandem-handover-1", File::open("/dev/null").unwrap().into()),
    ];
    let inherited = Inherited::from_descriptors(junk.into_iter().map(|(name, fd)| (name.to_owned(), fd)));
    assert!(inherited.listeners.is_empty());
    assert_eq!(inherited.others.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["pgtandem-handover-1"]);
    let wanted = ["\"a\\nb\" is closed: it is no socket", "no stream socket", "no stream socket", "does not listen"];
    assert_eq!(inherited.warnings.len(), wanted.len());
    for (warning, wanted) in inherited.warnings.iter().zip(wanted) {
        assert!(warning.contains(wanted), "{warning}");
    }
}

#[test]
fn a_taken_address_is_an_error_only_if_there_is_no_other() {
    let (_taken, port) = tcp("127.0.0.1:0");
    let error = Listeners::open_tcp(&config(port, "127.0.0.1", "")).unwrap_err().to_string();
    assert!(error.contains("Address already in use") && error.contains("ss -ltnp"), "{error}");
    let listeners = Listeners::open_tcp(&config(port, "127.0.0.1, 127.0.0.2", "")).unwrap();
    assert_eq!(names(&listeners), [format!("127.0.0.2:{port}")]);
    let mut none = Listeners::open_tcp(&config(port, "", "")).unwrap();
    assert!(none.open_unix(&config(port, "", "")).unwrap_err().to_string().contains("nowhere to listen on"));
}
