//! A change waits or is refused without harm, and loses nothing. Where the kernel has TLS these tests see it succeed.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use super::*;
use crate::net::kernel_tls::HandOverForm;
use crate::net::socket::{Socket, TlsSocket};

/// What becomes of a change that nothing of ours stands against.
fn assert_decided_by_kernel(stream: &Stream, result: Result<(), WhyNot>) {
    match Support::probe() {
        Ok(_) => {
            assert_eq!(result, Ok(()));
            assert!(matches!(stream.hand_over_form(), HandOverForm::KernelTls(..)));
        }
        Err(reason) => {
            assert_eq!(result, Err(WhyNot::Refused(reason)));
            assert!(matches!(stream.hand_over_form(), HandOverForm::UserTls));
        }
    }
}

async fn no_more_comes(stream: &mut Stream) -> bool {
    let mut bytes = [0; 64];
    let mut buf = ReadBuf::new(&mut bytes);
    tokio::time::sleep(Duration::from_millis(20)).await;
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut buf).is_pending())).await
}

#[test]
fn what_is_missing_is_said_with_its_remedy() {
    let found = Support::probe();
    println!("{found:?}");
    match found {
        Ok(support) => assert!(support.to_string().contains("AES-128-GCM"), "{support}"),
        Err(reason) => assert!(reason.contains("modprobe tls") || reason.contains("TCP_ULP"), "{reason}"),
    }
}

#[test]
fn clients_that_are_never_handed_over_pay_nothing() {
    assert_eq!(size_of::<Stream>(), size_of::<Socket>(), "a stream is as large as a socket");
    assert_eq!(size_of::<TlsSocket>(), size_of::<(Socket, Vec<u8>)>(), "what is counted fits where a vector would be");
}

#[tokio::test]
async fn a_stream_goes_on_whether_the_kernel_takes_it_or_not() {
    for (protocols, suite, _) in SUITES {
        let (mut stream, mut peer) = pair(protocols, suite).await;
        let tls = stream.tls();
        echo(&mut stream, &mut peer).await;
        for _ in 0..2 {
            let result = attempt(&mut stream);
            assert_decided_by_kernel(&stream, result);
            echo(&mut stream, &mut peer).await;
        }
        assert_eq!(stream.tls(), tls);
        assert_eq!(stream.local_addr(), peer.tcp.peer_addr().ok());
        assert_eq!(stream.peer(), crate::net::stream::Peer::Inet(peer.tcp.local_addr().unwrap()));
    }
}

#[tokio::test]
async fn the_rest_of_a_record_is_waited_for() {
    for (protocols, suite, _) in SUITES {
        for cut in [1, 4, 5, 6, 700] {
            let (mut stream, mut peer) = pair(protocols, suite).await;
            let (one, two) = (peer.seal(&data(1000)), peer.seal(b"another record"));
            peer.raw(&one[..cut]).await;
            assert!(no_more_comes(&mut stream).await, "no data of half a record");
            assert_eq!(attempt(&mut stream), Err(WhyNot::MidRecord), "cut at {cut}");
            peer.raw(&one[cut..one.len() - 1]).await;
            assert_eq!(attempt(&mut stream), Err(WhyNot::MidRecord), "cut at {cut}");
            // The next record is there already, and none of it may be read before the change.
            peer.raw(&[&one[one.len() - 1..], &two[..]].concat()).await;
            let result = attempt(&mut stream);
            assert_decided_by_kernel(&stream, result);
            assert_eq!(read(&mut stream, 1000).await, data(1000));
            assert_eq!(read(&mut stream, 14).await, b"another record");
            echo(&mut stream, &mut peer).await;
        }
    }
}

#[tokio::test]
async fn what_was_decrypted_and_not_read_is_kept() {
    let (mut stream, mut peer) = pair("secure", "").await;
    peer.send(b"read and unread").await;
    assert_eq!(read(&mut stream, 4).await, b"read");
    let result = attempt(&mut stream);
    assert_decided_by_kernel(&stream, result);
    if let HandOverForm::KernelTls(_, state) = stream.hand_over_form() {
        assert_eq!(state.unread, b" and unread");
    }
    peer.send(b", and later").await;
    assert_eq!(read(&mut stream, 22).await, b" and unread, and later");
    echo(&mut stream, &mut peer).await;
}

#[tokio::test]
async fn with_much_unread_a_record_cannot_be_completed_before_it_is_read() {
    let (mut stream, mut peer) = pair("secure", "").await;
    let (one, two, three) = (peer.seal(&data(16_384)), peer.seal(&data(1000)), peer.seal(&data(1000)));
    let all = [one, two, three].concat();
    let cut = all.len() - 500;
    peer.raw(&all[..cut]).await;
    assert_eq!(read(&mut stream, 1).await, data(1));
    assert_eq!(attempt(&mut stream), Err(WhyNot::Unread));
    assert_eq!(read(&mut stream, 16_383).await, data(16_384)[1..]);
    assert_eq!(attempt(&mut stream), Err(WhyNot::MidRecord));
    peer.raw(&all[cut..]).await;
    let result = attempt(&mut stream);
    assert_decided_by_kernel(&stream, result);
    assert_eq!(read(&mut stream, 2000).await, [data(1000), data(1000)].concat());
    echo(&mut stream, &mut peer).await;
}

#[tokio::test]
async fn what_was_written_leaves_first() {
    let (mut stream, mut peer) = pair("secure", "").await;
    let piece = data(16_384);
    let mut written = 0;
    // Until the sockets are full and the library holds some.
    while let Poll::Ready(n) = poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &piece))).await {
        written += n.unwrap();
    }
    assert_eq!(attempt(&mut stream), Err(WhyNot::Unsent));
    let mut got = Vec::new();
    let result = loop {
        match attempt(&mut stream) {
            Err(WhyNot::Unsent) => got.extend(peer.receive(10_000).await),
            result => break result,
        }
    };
    assert_decided_by_kernel(&stream, result);
    got.extend(peer.receive(written - got.len()).await);
    assert_eq!(got.len(), written);
    assert!(got.chunks(piece.len()).all(|chunk| piece.starts_with(chunk)));
    echo(&mut stream, &mut peer).await;
}

#[tokio::test]
async fn keys_that_were_changed_before_are_the_new_ones() {
    let (mut stream, mut peer) = pair("tlsv1.3", "").await;
    for round in 0..3 {
        peer.session.refresh_traffic_keys().unwrap();
        peer.send(b"with new keys").await;
        assert_eq!(read(&mut stream, 13).await, b"with new keys", "round {round}");
    }
    // Our answer to the last one has not left yet: it waits for data.
    let result = attempt(&mut stream);
    assert_decided_by_kernel(&stream, result);
    echo(&mut stream, &mut peer).await;
}

#[tokio::test]
async fn a_kernel_without_the_cipher_is_not_asked() {
    let (mut stream, mut peer) = pair("tlsv1.3", "TLS_AES_256_GCM_SHA384").await;
    let support = Support { usable: vec![(Version::Tls12, Cipher::Aes256Gcm), (Version::Tls13, Cipher::Aes128Gcm)] };
    assert_eq!(support.to_string(), "AES-256-GCM with TLS 1.2; AES-128-GCM with TLS 1.3");
    let why = stream.try_kernel_tls(&support, &mut Context::from_waker(Waker::noop())).unwrap_err();
    assert_eq!(why.to_string(), "the kernel does not know TLS13_AES_256_GCM_SHA384 with TLSv1_3");
    assert!(!why.is_temporary() && !why.is_fatal());
    echo(&mut stream, &mut peer).await;
}

#[tokio::test]
async fn secrets_that_are_not_given_away_are_noticed_in_time() {
    let mut config = ServerConfig::clone(&accepting("secure", ""));
    config.enable_secret_extraction = false;
    let (mut stream, mut peer) = pair_with(Arc::new(config)).await;
    assert_eq!(attempt(&mut stream), Err(WhyNot::Locked));
    echo(&mut stream, &mut peer).await;
}

#[tokio::test]
async fn only_tls_over_tcp_is_changed() {
    let (near, far) = UnixStream::pair().unwrap();
    let (config, name) = connecting();
    let accepting = Stream::from(near).accept_tls(accepting("secure", ""), Vec::new());
    let (near, far) = tokio::join!(accepting, Stream::from(far).connect_tls(config, name));
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    assert_eq!(attempt(&mut near), Err(WhyNot::NotTcp));
    assert_eq!(attempt(&mut far), Err(WhyNot::NotTcp));
    write(&mut near, b"goes on").await;
    assert_eq!(read(&mut far, 7).await, b"goes on");
    let mut plain = Stream::from(sockets().await.0);
    assert_eq!(attempt(&mut plain), Err(WhyNot::NoTls));
    assert!(matches!(plain.hand_over_form(), HandOverForm::Plain(_)));
}

#[tokio::test]
async fn a_connection_that_ends_is_let_end() {
    let (mut stream, mut peer) = pair("secure", "").await;
    peer.session.send_close_notify();
    let goodbye = peer.sealed();
    peer.raw(&goodbye).await;
    // Not yet read by us, so the kernel would have it.
    let mut seen = [0; 8];
    assert_eq!(AsyncReadExt::read(&mut stream, &mut seen).await.unwrap(), 0);
    assert_eq!(attempt(&mut stream), Err(WhyNot::Closing));
}

#[tokio::test]
async fn a_descriptor_is_not_believed_to_have_kernel_tls() {
    let (mut far, near) = sockets().await;
    let state = super::super::KernelTlsState {
        role: super::super::TlsRole::Server,
        protocol: 0x0304,
        suite: 0x1301,
        unread: Vec::new(),
    };
    let error = Stream::from_kernel_tls(near.into_std().unwrap().into(), state).unwrap_err();
    assert!(error.to_string().contains("no kernel TLS in both directions"), "{error}");
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0, "closed, and nothing was sent");
}
