//! What only a kernel with TLS can show, among it that another process goes on with a connection.

use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::Instant;

use super::*;
use crate::net::kernel_tls::probe::attach;
use crate::net::kernel_tls::{HandOverForm, KernelTlsState, TlsRole};

/// Set for the test program that [`successor`] runs in: what travels beside the descriptor.
const PASSED: &str = "PGTANDEM_TEST_PASSED";
const NAME: &str = "net::kernel_tls::tests::with_kernel_tls::successor";

fn converted(stream: &mut Stream) {
    assert_eq!(stream.try_kernel_tls(&Support::probe().unwrap(), &mut Context::from_waker(Waker::noop())), Ok(()));
}

/// Starts another process that gets the stream's descriptor (as its standard input) and sends back what it reads.
fn pass_on(stream: &Stream) -> Child {
    let HandOverForm::KernelTls(descriptor, state) = stream.hand_over_form() else { panic!("no kernel TLS") };
    let unread: String = state.unread.iter().map(|byte| format!("{byte:02x}")).collect();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--include-ignored", "--nocapture"])
        .env(PASSED, format!("{} {} {unread}", state.protocol, state.suite))
        .stdin(Stdio::from(descriptor.try_clone_to_owned().unwrap()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
fn the_module_is_loaded_without_a_connection() {
    load_kernel_tls();
    let modules = std::fs::read_to_string("/proc/modules").unwrap();
    assert!(modules.lines().any(|line| line.starts_with("tls ")), "{modules}");
}

/// Not a test of its own: the other process.
#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn successor() {
    let Ok(passed) = std::env::var(PASSED) else { return };
    let mut words = passed.split(' ');
    let mut number = || words.next().unwrap().parse().unwrap();
    let (protocol, suite) = (number(), number());
    let unread = words.next().unwrap().as_bytes().chunks(2);
    let unread = unread.map(|hex| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap()).collect();
    let descriptor = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let state = KernelTlsState { role: TlsRole::Server, protocol, suite, unread };
    let other = if protocol == 0x0304 { (0x0303, 0xc02b) } else { (0x0304, 0x1301) };
    let wrong = KernelTlsState { protocol: other.0, suite: other.1, ..state.clone() };
    let error = Stream::from_kernel_tls(descriptor.try_clone().unwrap(), wrong).unwrap_err();
    assert!(error.to_string().contains("another version or cipher"), "{error}");

    let mut stream = Stream::from_kernel_tls(descriptor, state).unwrap();
    assert_eq!(stream.tls(), Some((protocol.into(), suite.into())));
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let n = stream.read(&mut bytes).await.unwrap();
        if n == 0 {
            break;
        }
        write(&mut stream, &bytes[..n]).await;
    }
    // The end was close_notify: without it the read would have failed.
    stream.shutdown().await.unwrap();
}

/// The explicit nonces of AES-GCM records of TLS 1.2 (RFC 5288, 3) in what was seen, from the first encrypted record on.
fn explicit_nonces(mut seen: &[u8]) -> Vec<[u8; 8]> {
    let (mut nonces, mut encrypted) = (Vec::new(), false);
    while let Some((header, rest)) = seen.split_first_chunk::<5>() {
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if encrypted {
            nonces.push(rest[..8].try_into().unwrap());
        }
        encrypted |= header[0] == 20; // change_cipher_spec
        seen = &rest[len..];
    }
    nonces
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn another_process_goes_on_with_a_connection() {
    for (protocols, suite, (version, cipher)) in SUITES {
        let (mut stream, mut peer) = pair(protocols, suite).await;
        echo(&mut stream, &mut peer).await;
        converted(&mut stream);
        echo(&mut stream, &mut peer).await;
        // Idle and asleep, as an idle client's task is, when something comes.
        let (text, ()) = tokio::join!(read(&mut stream, 5), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            peer.send(b"awake").await;
        });
        assert_eq!(text, b"awake");

        let child = pass_on(&stream);
        drop(stream);
        for len in [1, 5_000, 100_000] {
            peer.send(&data(len)).await;
            assert!(peer.receive(len).await == data(len), "{len} bytes, {protocols} {suite}");
        }
        peer.session.send_close_notify();
        let goodbye = peer.sealed();
        peer.raw(&goodbye).await;
        assert!(peer.ends_politely().await, "close_notify came, {protocols} {suite}");
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");

        if version == Version::Tls12 && cipher != Cipher::Chacha20Poly1305 {
            let mut nonces = explicit_nonces(&peer.seen);
            let all = nonces.len();
            assert!(all > 20, "library and kernel both sent");
            nonces.sort_unstable();
            nonces.dedup();
            assert_eq!(nonces.len(), all, "no explicit nonce was used twice");
        }
    }
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn unread_bytes_travel_with_the_connection() {
    let (mut stream, mut peer) = pair("secure", "").await;
    peer.send(b"read and unread").await;
    assert_eq!(read(&mut stream, 4).await, b"read");
    converted(&mut stream);
    let child = pass_on(&stream);
    drop(stream);
    assert_eq!(peer.receive(11).await, b" and unread");
    peer.session.send_close_notify();
    let goodbye = peer.sealed();
    peer.raw(&goodbye).await;
    assert!(peer.ends_politely().await);
    assert!(child.wait_with_output().unwrap().status.success());
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn both_ends_may_be_ours_and_either_may_end_it() {
    for accepted_ends in [true, false] {
        let (far, near) = sockets().await;
        let (config, name) = connecting();
        let accepting = Stream::from(near).accept_tls(accepting("secure", ""), Vec::new());
        let (near, far) = tokio::join!(accepting, Stream::from(far).connect_tls(config, name));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        // Brings the session ticket, which TLS 1.3 sends when it likes, to the side that is the TLS client.
        converted(&mut near);
        converted(&mut far);
        let HandOverForm::KernelTls(_, state) = far.hand_over_form() else { panic!("no kernel TLS") };
        assert_eq!(state.role, TlsRole::Client);
        for len in [1, 1000, 60_000] {
            write(&mut near, &data(len)).await;
            assert_eq!(read(&mut far, len).await, data(len));
            write(&mut far, &data(len)).await;
            assert_eq!(read(&mut near, len).await, data(len));
        }
        let (ending, other) = if accepted_ends { (&mut near, &mut far) } else { (&mut far, &mut near) };
        write(ending, b"last words").await;
        ending.shutdown().await.unwrap();
        assert!(ending.write(b"x").await.is_err(), "nothing is sent after the end");
        assert_eq!(read(other, 10).await, b"last words");
        for _ in 0..2 {
            assert_eq!(other.read(&mut [0; 8]).await.unwrap(), 0, "an end, and it stays one");
        }
        assert_eq!(attempt(other), Err(WhyNot::Closing));
    }
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn what_the_kernel_cannot_follow_ends_the_connection_with_a_reason() {
    let mut byte = [0];
    let (mut stream, mut peer) = pair("tlsv1.3", "").await;
    converted(&mut stream);
    peer.session.refresh_traffic_keys().unwrap();
    peer.send(b"with new keys").await;
    let error = stream.read(&mut byte).await.unwrap_err();
    assert!(error.to_string().contains("KeyUpdate"), "{error}");

    let (mut stream, mut peer) = pair("tlsv1.3", "").await;
    converted(&mut stream);
    let mut record = peer.seal(b"tampered with");
    record[7] ^= 1;
    peer.raw(&record).await;
    let error = stream.read(&mut byte).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EBADMSG), "{error}");

    let (mut stream, peer) = pair("tlsv1.2", "").await;
    converted(&mut stream);
    drop(peer);
    let error = stream.read(&mut byte).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn a_half_closed_connection_is_refused_before_anything_is_lost() {
    let (mut stream, mut peer) = pair("secure", "").await;
    peer.send(b"and out").await;
    peer.tcp.shutdown().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(attempt(&mut stream), Err(WhyNot::Closing));
    assert_eq!(read(&mut stream, 7).await, b"and out");
}

/// The event loop tells of what comes, and a socket that has several records keeps telling: else a client would wait for ever.
async fn everything_that_has_come_is_read() {
    for round in 0..50 {
        let (mut stream, mut peer) = pair("secure", "").await;
        converted(&mut stream);
        let (one, two) = (peer.seal(&data(3000)), peer.seal(&data(20)));
        peer.session.send_close_notify();
        let end = peer.sealed();
        // Some of it while we wait, and some before we look.
        let (first, rest) = if round % 2 == 0 { (one, [two, end].concat()) } else { ([one, two].concat(), end) };
        let mut got = Vec::new();
        let mut bytes = vec![0; 64 * 1024];
        let receiving = async {
            loop {
                let n = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut bytes)).await.unwrap().unwrap();
                got.extend_from_slice(&bytes[..n]);
                if n == 0 {
                    return;
                }
            }
        };
        let (_, peer) = tokio::join!(receiving, async {
            peer.raw(&first).await;
            peer.tcp.write_all(&rest).await.unwrap();
            peer
        });
        drop(peer);
        assert_eq!(got, [data(3000), data(20)].concat());
    }
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn everything_that_has_come_is_read_on_one_thread() {
    everything_that_has_come_is_read().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn everything_that_has_come_is_read_on_two_threads() {
    tokio::spawn(everything_that_has_come_is_read()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn much_goes_through_both_ways_at_once() {
    let (mut stream, mut peer) = pair("secure", "").await;
    // The change happens in the middle of it, with the sockets full.
    let sent = data(3_000_000);
    let ours = async {
        for piece in sent.chunks(1_000_000) {
            write(&mut stream, piece).await;
            let support = Support::probe().unwrap();
            let change = std::future::poll_fn(|cx| match stream.try_kernel_tls(&support, cx) {
                Err(why) if why.is_temporary() => std::task::Poll::Pending,
                result => std::task::Poll::Ready(result),
            });
            assert_eq!(change.await, Ok(()));
        }
        read(&mut stream, 2_000_000).await
    };
    let theirs = async {
        let got = peer.receive(sent.len()).await;
        peer.send(&sent[..2_000_000]).await;
        got
    };
    let (to_us, from_us) = tokio::join!(ours, theirs);
    assert!(from_us == sent && to_us == sent[..2_000_000]);
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn a_change_that_got_half_way_can_be_repeated() {
    let (mut stream, mut peer) = pair("secure", "").await;
    assert_eq!(attach(&stream), Ok(()));
    echo(&mut stream, &mut peer).await;
    assert_eq!(attach(&stream), Ok(()));
    converted(&mut stream);
    echo(&mut stream, &mut peer).await;
}

/// A second implementation at the other end: OpenSSL.
#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn openssl_notices_nothing() {
    for version in ["-tls1_3", "-tls1_2"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = s_client(version, &listener.local_addr().unwrap().to_string());
        let mut to_client = client.stdin.take().unwrap();
        let accepted = listener.accept().await.unwrap().0;
        let mut stream = Stream::from(accepted).accept_tls(accepting("secure", ""), Vec::new()).await.unwrap();
        to_client.write_all(b"before\n").unwrap();
        assert_eq!(read(&mut stream, 7).await, b"before\n");
        write(&mut stream, b"one\n").await;
        converted(&mut stream);
        to_client.write_all(b"behind\n").unwrap();
        assert_eq!(read(&mut stream, 7).await, b"behind\n");
        write(&mut stream, b"two\n").await;
        drop(to_client);
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "OpenSSL says close_notify");
        stream.shutdown().await.unwrap();
        let output = client.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\n", "{version}");
    }
}

fn s_client(version: &str, address: &str) -> Child {
    Command::new("openssl")
        .args(["s_client", "-quiet", "-no_ign_eof", "-nocommands", version, "-connect", address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
#[ignore = "needs a kernel with TLS: tests/kernel_tls/run"]
async fn what_a_change_costs() {
    let mut pairs = Vec::new();
    for _ in 0..20 {
        pairs.push(pair("secure", "").await);
    }
    let start = Instant::now();
    let support = Support::probe().unwrap();
    println!("kernel TLS: {support}; asked in {} us", start.elapsed().as_micros());
    let start = Instant::now();
    for (stream, _) in &mut pairs {
        assert_eq!(stream.try_kernel_tls(&support, &mut Context::from_waker(Waker::noop())), Ok(()));
    }
    println!("{} connections changed in {} us", pairs.len(), start.elapsed().as_micros());
}
