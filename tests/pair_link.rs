//! Two pair links on loopback with real TLS, and those who must not be heard: strangers, a wrong secret, an old TLS, garbage, frames of
//! impossible length, and somebody who connects and says nothing.

#![expect(clippy::unwrap_used, reason = "a failing case must stop")]

use std::future::Future;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgtandem::pair::budget::{Allotment, Mode};
use pgtandem::pair::event::{Event, FlowChange};
use pgtandem::pair::io::{Answering, Host, Identity, LinkParams, PairLink};
use pgtandem::pair::message::{Answer, BootId, BudgetKey, CancelKey, Flow, Name, Reason, Request, RouterId, Status};
use pgtandem::pair::picture::{PeerPicture, PeerState};
use pgtandem::tls::PairTls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::{TlsConnector, client::TlsStream};

const SECRET: &[u8] = b"a secret that is long enough for a pair";
const PATIENCE: Duration = Duration::from_secs(30);

/// What was asked of this node.
#[derive(Default)]
struct Node {
    asked: Mutex<Vec<String>>,
    allotted: Mutex<Option<u32>>,
    came: Mutex<Vec<Flow>>,
}

impl Node {
    fn note(&self, what: String) -> Answering {
        self.asked.lock().unwrap().push(what.clone());
        Box::pin(async move { Answer::yes(&what) })
    }
}

impl Host for Node {
    fn take_over(&self, routers: Vec<RouterId>, reason: String) -> Answering {
        self.note(format!("take over {}: {reason}", routers.len()))
    }

    fn cancel(&self, key: CancelKey) -> Answering {
        self.note(format!("cancel {}", key.pid))
    }

    fn command(&self, text: String) -> Answering {
        self.note(text)
    }

    fn peer_changed(&self, _: &Arc<PeerPicture>) {}

    fn flows_came(&self, flows: &[Flow]) {
        self.came.lock().unwrap().extend(flows);
    }

    fn allotted(&self, _: &BudgetKey, allotment: Allotment) -> u32 {
        *self.allotted.lock().unwrap() = Some(allotment.servers);
        0
    }
}

/// An address that nobody listens on now, of this test alone.
async fn free_address(ip: &str) -> SocketAddr {
    TcpListener::bind((ip, 0)).await.unwrap().local_addr().unwrap()
}

fn link(name: &str, listen: SocketAddr, peers: &[SocketAddr], secret: &[u8], host: Arc<Node>) -> PairLink {
    let params = LinkParams {
        listen: vec![listen],
        peers: peers.to_vec(),
        link_interval: Duration::from_millis(50),
        link_timeout: Duration::from_millis(500),
        budget: Mode::Lend,
        shed_grace: Duration::from_millis(500),
    };
    let identity = Identity { node: name.to_owned(), program: "pgtandem".to_owned() };
    let mut boot = [0; 16];
    getrandom::fill(&mut boot).unwrap();
    PairLink::start(&identity, BootId::new(boot), params, PairTls::by_secret(secret).unwrap(), host)
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, check: impl Fn() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn until_peer(link: &PairLink, what: &str, good: impl Fn(&PeerPicture) -> bool) -> Arc<PeerPicture> {
    until(what, async || Some(link.peer()).filter(|peer| good(peer))).await
}

async fn pair(secrets: [&[u8]; 2]) -> ([PairLink; 2], [SocketAddr; 2], [Arc<Node>; 2]) {
    let addresses = [free_address("127.0.0.1").await, free_address("127.0.0.1").await];
    let nodes = [Arc::new(Node::default()), Arc::new(Node::default())];
    let left = link("left", addresses[0], &addresses[1..], secrets[0], Arc::clone(&nodes[0]));
    let right = link("right", addresses[1], &addresses[..1], secrets[1], Arc::clone(&nodes[1]));
    ([left, right], addresses, nodes)
}

async fn up([left, right]: &[PairLink; 2]) {
    for link in [left, right] {
        until_peer(link, "up", |peer| peer.state == PeerState::Up && peer.hears_us && peer.paths.len() == 2).await;
    }
}

#[tokio::test]
async fn two_nodes_tell_each_other_what_they_have_to() {
    let (links, _, nodes) = pair([SECRET, SECRET]).await;
    up(&links).await;
    let [left, right] = &links;
    left.set_status(Status { clients: 42, reason: Reason::new("as well as can be"), ..Status::default() }).await;
    let peer = until_peer(right, "the status", |peer| peer.status.clients == 42).await;
    assert_eq!((peer.name.as_str(), peer.status.reason.as_str()), ("left", "as well as can be"));
    assert!(peer.round_trip.is_some_and(|time| time < Duration::from_secs(1)));
    let command = Request::Command { text: Reason::new("PAUSE app") };
    assert_eq!(left.ask(command, PATIENCE).await.unwrap(), Answer::yes("PAUSE app"));
    let key = CancelKey { pid: 7, secret: [1, 2, 3, 4].into_iter().collect() };
    assert_eq!(right.ask(Request::Cancel { key }, PATIENCE).await.unwrap(), Answer::yes("cancel 7"));
    let taken = right.ask_to_take_over(vec![RouterId::default()], "SWITCHOVER by admin", PATIENCE).await;
    assert_eq!(taken.unwrap(), Answer::yes("take over 1: SWITCHOVER by admin"));
    assert_eq!(*nodes[1].asked.lock().unwrap(), ["PAUSE app"]);
    assert_eq!(*nodes[0].asked.lock().unwrap(), ["cancel 7", "take over 1: SWITCHOVER by admin"]);
}

#[tokio::test]
async fn clients_of_the_other_node_are_known_when_it_is_gone() {
    let ([left, right], addresses, nodes) = pair([SECRET, SECRET]).await;
    let links = [left, right];
    up(&links).await;
    let local: SocketAddr = "192.0.2.10:6432".parse().unwrap();
    let flows = (1..=1500).map(|port| Flow { client: ([192, 0, 2, 99], port).into(), local });
    for flow in flows.clone() {
        links[0].tell(vec![Event::Flow { flow, change: FlowChange::Came }]).await;
    }
    let flow = Flow { client: ([192, 0, 2, 99], 1).into(), local };
    links[0].tell(vec![Event::Flow { flow, change: FlowChange::Went }]).await;
    sleep(Duration::from_millis(300)).await;
    let [left, right] = links;
    drop(left);
    until_peer(&right, "lost", |peer| peer.state == PeerState::Lost).await;
    let mut taken = right.take_flows(local.ip()).await;
    taken.sort();
    assert_eq!(taken, flows.clone().skip(1).collect::<Vec<_>>());
    let came = std::mem::take(&mut *nodes[1].came.lock().unwrap());
    assert!(flows.skip(1).all(|flow| came.contains(&flow)) && nodes[0].came.lock().unwrap().is_empty());
    // A process that comes after it is found by itself.
    let _left = link("left", addresses[0], &addresses[1..], SECRET, Arc::default());
    until_peer(&right, "up again", |peer| peer.state == PeerState::Up).await;
}

#[tokio::test]
async fn both_have_of_a_limit_what_is_their_part() {
    let (links, _, nodes) = pair([SECRET, SECRET]).await;
    up(&links).await;
    let key = BudgetKey::Database(Name::new("app"));
    let limit = || Event::Limit { key: key.clone(), servers: Some(20) };
    links[0].tell(vec![limit(), Event::Use { key: key.clone(), in_use: 10, waiting: 8 }]).await;
    links[1].tell(vec![limit()]).await;
    until("what the other does not use", async || (*nodes[0].allotted.lock().unwrap() == Some(18)).then_some(())).await;
    assert_eq!(*nodes[1].allotted.lock().unwrap(), Some(2));
}

#[tokio::test]
async fn with_another_secret_neither_hears_the_other() {
    let (links, _, nodes) = pair([SECRET, b"another secret that is long enough too"]).await;
    for link in &links {
        let peer = until_peer(link, "a refusal", |peer| {
            peer.paths.iter().any(|path| path.error.is_some()) && peer.counters.strangers > 0
        });
        let peer = peer.await;
        let error = peer.paths.iter().find_map(|path| path.error.clone()).unwrap();
        assert!(error.contains("do pair_secret_file or pair_tls_… on both nodes belong together?"), "{error}");
        assert_eq!(peer.state, PeerState::Never);
        let asked = link.ask(Request::Command { text: Reason::new("PAUSE") }, Duration::from_secs(1)).await;
        assert_eq!(asked.unwrap_err(), "the peer is not heard on the pair link");
    }
    assert!(nodes.iter().all(|node| node.asked.lock().unwrap().is_empty()));
}

/// A connection that has proved itself, by hand.
async fn proved(address: SocketAddr) -> TlsStream<TcpStream> {
    let (config, name) = PairTls::by_secret(SECRET).unwrap().client();
    let stream = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(config).connect(name, stream).await.unwrap()
}

/// The other side closes.
async fn closes(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await;
    // A reset is an end too.
    let _: std::io::Result<usize> = read.unwrap();
    all
}

#[tokio::test]
async fn strangers_and_the_garbled_change_nothing() {
    let (links, [address, _], nodes) = pair([SECRET, SECRET]).await;
    up(&links).await;
    // In the clear: a frame that would be a request, and an HTTP request.
    let message =
        pgtandem::pair::message::Message::Request { id: 1, request: Request::Command { text: Reason::new("PAUSE") } };
    for bytes in [message.encode(), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        closes(&mut stream).await;
    }
    // Proved, but not in the language: a frame of 4 GiB, one of nothing, one that cannot be read, a request before a hello.
    let frames: [&[u8]; 4] = [&[0xff; 64], &[0, 0, 0, 0], &[0, 0, 0, 3, 2, 0xc1, 0xc1], &message.encode()];
    for bytes in frames {
        let mut stream = proved(address).await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        closes(&mut stream).await;
    }
    let peer =
        until_peer(&links[0], "what has come", |peer| peer.counters.strangers >= 2 && peer.counters.damaged >= 3).await;
    assert_eq!((peer.state, peer.counters.lost), (PeerState::Up, 0));
    assert!(nodes.iter().all(|node| node.asked.lock().unwrap().is_empty()));
}

#[tokio::test]
async fn tls_before_1_3_and_tls_without_proof_are_refused() {
    let (links, [address, _], _) = pair([SECRET, SECRET]).await;
    up(&links).await;
    let to = address.to_string();
    for (arguments, said) in
        [(&["-tls1_2"][..], "protocol version"), (&["-tls1_3"], ""), (&["-tls1_3", "-alpn", "h2"], "")]
    {
        let before = links[0].peer().counters.strangers;
        let mut command = tokio::process::Command::new("openssl");
        command.args(["s_client", "-connect", &to]).args(arguments).stdin(Stdio::null());
        let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(said), "{text}");
        until_peer(&links[0], "one more stranger", |peer| peer.counters.strangers > before).await;
    }
    assert_eq!(links[0].peer().counters.lost, 0);
}

#[tokio::test]
async fn who_says_nothing_is_hung_up_and_keeps_nobody_out() {
    let (listen, peer) = (free_address("127.0.0.1").await, free_address("127.0.0.2").await);
    let left = link("left", listen, &[peer], SECRET, Arc::default());
    until("listening", async || TcpStream::connect(listen).await.ok()).await;
    let begun = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(listen).await.unwrap());
    }
    // From the peer's address, while strangers have all places.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((peer.ip(), 0).into()).unwrap();
    let (config, name) = PairTls::by_secret(SECRET).unwrap().client();
    let stream = socket.connect(listen).await.unwrap();
    let mut proved = TlsConnector::from(config).connect(name, stream).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "the peer has waited for strangers");
    let mut head = [0; 5];
    proved.read_exact(&mut head).await.unwrap();
    assert_eq!(head[4], 1, "a hello");
    for stream in &mut silent {
        closes(stream).await;
    }
    // It has said nothing either.
    closes(&mut proved).await;
    assert_eq!(left.peer().state, PeerState::Never);
}
