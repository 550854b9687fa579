//! The machine of the link alone, then two of them over a network that loses, delays, doubles and cuts.

use std::collections::BTreeSet;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;
use crate::pair::bounded::List;
use crate::pair::budget::Mode;
use crate::pair::message::CancelKey;

const INTERVAL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_millis(500);
const PEER: &str = "192.0.2.2:7432";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn params() -> Params {
    let budget = budget::Params { mode: Mode::Lend, interval: INTERVAL, lease: TIMEOUT, shed_grace: ms(500) };
    Params { interval: INTERVAL, timeout: TIMEOUT, budget }
}

fn who(node: &str, boot: u8, started_us: u64) -> Hello {
    hello(node, "pgtandem", BootId::new([boot; 16]), started_us)
}

fn flow(port: u16) -> Flow {
    Flow { client: ([192, 0, 2, 99], port).into(), local: ([192, 0, 2, 10], 6432).into() }
}

struct Bench {
    link: Link,
    now: Time,
}

impl Bench {
    fn new() -> Self {
        let now = Time(1_000_000_000);
        Self { link: Link::new(now, params(), who("left", 1, 100)), now }
    }

    /// With a peer that is up on path 1.
    fn up() -> Self {
        let mut bench = Self::new();
        bench.greet(1, who("right", 2, 100));
        bench.hear(1, Message::Beat(Box::new(Beat { seq: 1, ..Beat::default() })));
        assert_eq!(bench.link.picture().state, PeerState::Up);
        bench
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.link.step(self.now, event, &mut out);
        assert!(self.link.deadline() > self.now, "it must not spin");
        out
    }

    fn hear(&mut self, path: PathId, message: Message) -> Vec<Action> {
        self.step(Event::Heard { path, message: Box::new(message) })
    }

    fn connect(&mut self, path: PathId) -> Vec<Action> {
        let key = Box::new(DriftKey::new(&Zeroizing::new([7; 32])));
        let address = PEER.parse().unwrap();
        self.step(Event::Connected { path, direction: Direction::Incoming, address, key })
    }

    fn greet(&mut self, path: PathId, hello: Hello) -> Vec<Action> {
        let actions = self.connect(path);
        let own = sent(&actions)
            .into_iter()
            .any(|(_, message)| matches!(message, Message::Hello(own) if own.node.as_str() == "left"));
        assert!(own);
        self.hear(path, Message::Hello(hello))
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let (end, mut out) = (self.now + time, Vec::new());
        while self.link.deadline() <= end {
            self.now = self.link.deadline();
            out.extend(self.step(Event::Timer));
        }
        self.now = end;
        out
    }

    fn ask(&mut self, token: u64) -> Vec<Action> {
        let request = Request::Command { text: Reason::new("PAUSE app") };
        self.step(Event::Ask { token, request, deadline: self.now + ms(2000) })
    }
}

fn sent(actions: &[Action]) -> Vec<(PathId, &Message)> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Send { path, message } => Some((*path, message)),
        _ => None,
    });
    sent.collect()
}

fn closed(actions: &[Action]) -> Vec<(PathId, &str)> {
    let closed = actions.iter().filter_map(|action| match action {
        Action::Close { path, reason } => Some((*path, reason.as_str())),
        _ => None,
    });
    closed.collect()
}

fn answers(actions: &[Action]) -> Vec<(u64, Result<&str, &str>)> {
    let answers = actions.iter().filter_map(|action| match action {
        Action::Answered { token, answer } => {
            Some((*token, answer.as_ref().map(|answer| answer.text.as_str()).map_err(String::as_str)))
        }
        _ => None,
    });
    answers.collect()
}

#[test]
fn whoever_speaks_before_a_hello_is_not_heard() {
    let request = Request::TakeOver { routers: List::default(), reason: Reason::new("because") };
    for message in [
        Message::Beat(Box::default()),
        Message::Settings(Settings::default()),
        Message::Request { id: 1, request },
        Message::Answer { id: 1, answer: Answer::yes("") },
        Message::Flows(crate::pair::message::Flows::default()),
        Message::Budget(crate::pair::message::BudgetReport::default()),
        Message::Unknown(99),
    ] {
        let mut bench = Bench::new();
        bench.connect(1);
        let actions = bench.hear(1, message);
        assert_eq!(closed(&actions), [(1, "it speaks before it says who it is")]);
        assert!(!actions.iter().any(|action| matches!(action, Action::Asked { .. } | Action::Peer(_))));
        assert_eq!(bench.link.picture().state, PeerState::Never);
    }
}

#[test]
fn a_path_that_says_nothing_ends() {
    let mut bench = Bench::new();
    bench.connect(1);
    assert!(closed(&bench.pass(ms(1990))).is_empty());
    assert_eq!(closed(&bench.pass(ms(20))), [(1, "nothing was heard for too long")]);
    assert!(bench.link.picture().paths.is_empty());
}

#[test]
fn a_hello_of_whom_it_cannot_be_is_refused_with_the_reason() {
    let versions = |protocol, oldest_readable| Hello { protocol, oldest_readable, ..who("right", 2, 100) };
    for (hello, reason) in [
        (who("left", 2, 100), "it calls itself left as this node does"),
        (who("right", 1, 100), "it calls itself right as this node does"),
        (versions(9, 9), "right speaks a version of the link that left does not understand: upgrade left"),
        (versions(0, 0), "left speaks a version of the link that right does not understand: upgrade right"),
    ] {
        let mut bench = Bench::new();
        let actions = bench.greet(1, hello);
        let goodbye = sent(&actions).into_iter().find_map(|(_, message)| match message {
            Message::Goodbye(reason) => Some(reason.as_str().to_owned()),
            _ => None,
        });
        assert!(goodbye.unwrap().starts_with(reason));
        assert!(closed(&actions)[0].1.starts_with(reason));
        assert_eq!((bench.link.picture().counters.refused, bench.link.picture().paths.len()), (1, 0));
    }
}

#[test]
fn a_newer_peer_that_this_one_can_read_is_welcome() {
    let mut bench = Bench::new();
    assert!(closed(&bench.greet(1, Hello { protocol: 9, ..who("right", 2, 100) })).is_empty());
}

#[test]
fn a_third_node_and_a_former_process_do_not_displace_the_peer() {
    let mut bench = Bench::up();
    assert!(closed(&bench.greet(2, who("third", 3, 200)))[0].1.contains("third claims to be the peer, which is right"));
    assert!(closed(&bench.greet(3, who("right", 3, 50)))[0].1.contains("a later process of right is there already"));
    assert_eq!(bench.link.picture().boot, BootId::new([2; 16]));
    // A later one does, and hangs up what was the former's.
    let actions = bench.greet(4, who("right", 4, 300));
    assert_eq!(closed(&actions), [(1, "a later process of this node has come")]);
    assert_eq!(bench.link.picture().boot, BootId::new([4; 16]));
}

#[test]
fn the_peer_is_lost_after_the_timeout_and_found_again() {
    let mut bench = Bench::up();
    let actions = bench.pass(ms(490));
    assert_eq!(bench.link.picture().state, PeerState::Up);
    assert_eq!(sent(&actions).iter().filter(|(_, message)| matches!(message, Message::Beat(_))).count(), 5);
    let actions = bench.pass(ms(20));
    assert_eq!(bench.link.picture().state, PeerState::Lost);
    let said = actions.iter().any(|action| {
        matches!(action, Action::Log { warning: true, text }
        if text == "pair link: right has not been heard for 500 ms")
    });
    assert!(said && actions.iter().any(|action| matches!(action, Action::Peer(_))));
    bench.hear(1, Message::Beat(Box::new(Beat { seq: 2, ..Beat::default() })));
    assert_eq!((bench.link.picture().state, bench.link.picture().counters.lost), (PeerState::Up, 1));
}

#[test]
fn who_was_stopped_itself_reads_before_it_says_that_the_peer_is_lost() {
    let mut bench = Bench::up();
    bench.now = bench.now + ms(30_000);
    bench.step(Event::Timer);
    assert_eq!(bench.link.picture().state, PeerState::Up);
    bench.hear(1, Message::Beat(Box::new(Beat { seq: 2, ..Beat::default() })));
    bench.pass(ms(400));
    assert_eq!((bench.link.picture().state, bench.link.picture().counters.lost), (PeerState::Up, 0));
}

#[test]
fn a_status_that_comes_late_changes_nothing() {
    let mut bench = Bench::up();
    let beat = |seq, clients| {
        Message::Beat(Box::new(Beat { seq, status: Status { clients, ..Status::default() }, ..Beat::default() }))
    };
    bench.hear(1, beat(5, 50));
    bench.hear(1, beat(4, 40));
    assert_eq!(bench.link.picture().status.clients, 50);
}

#[test]
fn a_request_is_done_once_and_answered_as_often_as_it_is_said() {
    let mut bench = Bench::up();
    bench.greet(2, who("right", 2, 100));
    let cancel = || Request::Cancel { key: CancelKey { pid: 5, secret: List::new(vec![1, 2, 3, 4]) } };
    let asked = |actions: &[Action]| {
        actions.iter().find_map(|action| match action {
            Action::Asked { id, .. } => Some(*id),
            _ => None,
        })
    };
    let id = asked(&bench.hear(1, Message::Request { id: 7, request: cancel() })).unwrap();
    assert_eq!(asked(&bench.hear(2, Message::Request { id: 7, request: cancel() })), None);
    let actions = bench.step(Event::Reply { id, answer: Answer::yes("done") });
    let answered: Vec<PathId> = sent(&actions)
        .iter()
        .filter(|(_, message)| matches!(message, Message::Answer { id: 7, .. }))
        .map(|(path, _)| *path)
        .collect();
    assert_eq!(answered, [1, 2]);
    let actions = bench.hear(2, Message::Request { id: 7, request: cancel() });
    assert_eq!(asked(&actions), None);
    assert!(matches!(sent(&actions)[..], [(2, Message::Answer { id: 7, .. })]));
}

#[test]
fn a_request_is_said_again_on_another_path_and_answered_in_any_case() {
    let mut bench = Bench::new();
    assert_eq!(answers(&bench.ask(1)), [(1, Err("the peer is not heard on the pair link"))]);
    let mut bench = Bench::up();
    bench.greet(2, who("right", 2, 100));
    bench.hear(1, Message::Beat(Box::new(Beat { seq: 2, ..Beat::default() })));
    let first: Vec<(PathId, u64)> = sent(&bench.ask(1))
        .iter()
        .filter_map(|(path, message)| match message {
            Message::Request { id, .. } => Some((*path, *id)),
            _ => None,
        })
        .collect();
    let (path, id) = first[0];
    let actions = bench.step(Event::Disconnected { path, error: "reset".to_owned() });
    let again = sent(&actions)
        .iter()
        .any(|(other, message)| *other != path && matches!(message, Message::Request { id: same, .. } if *same == id));
    assert!(again);
    let actions = bench.hear(3 - path, Message::Answer { id, answer: Answer::no("not now") });
    assert_eq!(answers(&actions), [(1, Ok("not now"))]);
    assert!(answers(&bench.hear(3 - path, Message::Answer { id, answer: Answer::yes("twice") })).is_empty());
    // Never answered: late, or with the loss of the peer, whatever is first.
    bench.ask(2);
    assert_eq!(
        answers(&bench.pass(ms(2100))),
        [(2, Err("the peer is not heard any more, and has perhaps not done it"))]
    );
}

#[test]
fn unanswered_requests_have_a_bound() {
    let mut bench = Bench::up();
    let refused = (0..10_000).find_map(|token| match answers(&bench.ask(token))[..] {
        [] => None,
        [(refused, Err(reason))] => Some((refused, reason.to_owned())),
        _ => panic!("answered by nobody"),
    });
    let (token, reason) = refused.unwrap();
    assert!((16..=4096).contains(&token), "{token}");
    assert_eq!(reason, "there are too many requests to the peer already");
}

#[test]
fn settings_that_differ_are_named_and_no_value_is_sent() {
    let mut bench = Bench::up();
    let settings = |pool: &str| vec![Setting::new("default_pool_size", pool), Setting::new("auth_user", "hunter2")];
    let actions = bench.step(Event::Settings(settings("20")));
    let sent = sent(&actions).into_iter().find(|(_, message)| matches!(message, Message::Settings(_))).unwrap().1;
    let bytes = sent.encode();
    assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    // The peer has the same key for this path.
    let key = DriftKey::new(&Zeroizing::new([7; 32]));
    bench.hear(1, Message::Settings(key.fingerprints(1, &settings("30"))));
    let picture = bench.link.picture();
    assert!(picture.compared);
    assert_eq!(picture.drift.len(), 1);
    assert!(picture.drift[0].contains("default_pool_size"), "{:?}", picture.drift);
    bench.hear(1, Message::Settings(key.fingerprints(2, &settings("20"))));
    assert!(bench.link.picture().drift.is_empty());
}

#[test]
fn flows_go_to_the_peer_and_are_taken_once() {
    let mut two = Two::new();
    two.run(ms(300));
    two.step(0, Event::Flow { flow: flow(1), change: FlowChange::Came });
    two.step(0, Event::Flow { flow: flow(2), change: FlowChange::Came });
    two.run(ms(300));
    two.step(0, Event::Flow { flow: flow(2), change: FlowChange::Went });
    two.run(ms(300));
    two.cut = [true; 2];
    two.run(ms(3000));
    let right = &mut two.links[1];
    assert_eq!(right.picture().state, PeerState::Lost);
    assert!(right.take_flows("192.0.2.11".parse().unwrap()).is_empty());
    assert_eq!(right.take_flows("192.0.2.10".parse().unwrap()), [flow(1)]);
    assert!(right.take_flows("192.0.2.10".parse().unwrap()).is_empty());
}

#[test]
fn the_peer_may_have_few_paths() {
    let mut bench = Bench::up();
    for path in 2..100 {
        bench.greet(path, who("right", 2, 100));
        assert!(bench.link.picture().paths.len() <= INCOMING_MAX);
    }
}

#[test]
fn a_path_that_cannot_be_read_ends_and_is_counted() {
    let mut bench = Bench::up();
    assert_eq!(closed(&bench.step(Event::Damaged(1))), [(1, "a message that cannot be read")]);
    assert_eq!(bench.link.picture().counters.damaged, 1);
    // What still comes of it counts no more.
    assert!(bench.hear(1, Message::Beat(Box::new(Beat { seq: 9, ..Beat::default() }))).is_empty());
}

/// Two links and what is under way between them: path 1 and path 2 of both are the same connections.
struct Two {
    links: [Link; 2],
    now: Time,
    wire: Vec<(Time, usize, PathId, Message)>,
    /// The connections with even and with odd numbers.
    paths: [PathId; 2],
    cut: [bool; 2],
    asked: [BTreeSet<u64>; 2],
    answered: [BTreeSet<u64>; 2],
}

impl Two {
    fn new() -> Self {
        let now = Time(1_000_000_000);
        let links = [who("left", 1, 100), who("right", 2, 100)].map(|hello| Link::new(now, params(), hello));
        let none = || [BTreeSet::new(), BTreeSet::new()];
        let mut two =
            Self { links, now, wire: Vec::new(), paths: [2, 1], cut: [false; 2], asked: none(), answered: none() };
        two.connect(1);
        two.connect(2);
        two
    }

    /// The connection breaks, and is made anew: an even one stays even.
    fn lose(&mut self, parity: u64) {
        let old = self.paths[parity as usize];
        self.wire.retain(|(_, _, path, _)| *path != old);
        for side in 0..2 {
            self.step(side, Event::Disconnected { path: old, error: "reset".to_owned() });
        }
        self.paths[parity as usize] = old + 2;
        self.connect(old + 2);
    }

    fn connect(&mut self, path: PathId) {
        for side in 0..2 {
            let direction = if side == 0 { Direction::Outgoing } else { Direction::Incoming };
            let key = Box::new(DriftKey::new(&Zeroizing::new([path as u8; 32])));
            self.step(side, Event::Connected { path, direction, address: PEER.parse().unwrap(), key });
        }
    }

    fn step(&mut self, side: usize, event: Event) {
        let mut actions = Vec::new();
        self.links[side].step(self.now, event, &mut actions);
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Send { path, message } if !self.cut[(path % 2) as usize] => {
                        let frame = message.encode();
                        let message = Message::decode(&frame[4..]).unwrap();
                        self.wire.push((self.now + Duration::from_micros(200), 1 - side, path, message));
                    }
                    Action::Close { path, .. } => {
                        self.wire.retain(|(_, _, other, _)| *other != path);
                        let error = "it hung up".to_owned();
                        self.step(1 - side, Event::Disconnected { path, error });
                    }
                    Action::Asked { id, .. } => {
                        let event = Event::Reply { id, answer: Answer::yes("done") };
                        self.links[side].step(self.now, event, &mut actions);
                    }
                    Action::Answered { token, .. } => assert!(self.answered[side].insert(token), "answered twice"),
                    Action::Allot { key, allotment } => {
                        let event = Event::Applied { key, servers: allotment.servers, in_use: 0 };
                        self.links[side].step(self.now, event, &mut actions);
                    }
                    _ => {}
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for round in 0.. {
            assert!(
                round < 50_000,
                "they never come to rest: {:?}",
                self.links.each_ref().map(|link| (self.now, link.deadline()))
            );
            let wire = self.wire.iter().map(|(at, ..)| *at).min();
            let next = [wire, Some(self.links[0].deadline()), Some(self.links[1].deadline())];
            let Some(next) = next.into_iter().flatten().min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if let Some(index) = self.wire.iter().position(|(at, ..)| *at <= self.now) {
                let (_, side, path, message) = self.wire.remove(index);
                self.step(side, Event::Heard { path, message: Box::new(message) });
            } else {
                for side in 0..2 {
                    if self.links[side].deadline() <= self.now {
                        self.step(side, Event::Timer);
                    }
                }
            }
        }
        self.now = end;
    }
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Cut(usize, bool),
    Lose(u64),
    Ask(usize),
    Flow(usize, u16, bool),
    Pass(u64),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        (0..2usize, any::<bool>()).prop_map(|(path, cut)| Happening::Cut(path, cut)),
        (0..2u64).prop_map(Happening::Lose),
        (0..2usize).prop_map(Happening::Ask),
        (0..2usize, 1..50u16, any::<bool>()).prop_map(|(side, port, came)| Happening::Flow(side, port, came)),
        (1..1500u64).prop_map(Happening::Pass),
    ];
    prop::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens to the paths: each request is answered once, and as soon as the paths are good again both hear each
    /// other and have the list of the other's clients.
    #[test]
    fn two_links_agree_again(happenings in happenings()) {
        let mut two = Two::new();
        let mut flows = [BTreeSet::new(), BTreeSet::new()];
        let mut token = 0;
        for happening in happenings {
            match happening {
                Happening::Cut(path, cut) => two.cut[path] = cut,
                Happening::Lose(parity) => two.lose(parity),
                Happening::Ask(side) => {
                    token += 1;
                    two.asked[side].insert(token);
                    let request = Request::Command { text: Reason::new("PAUSE") };
                    two.step(side, Event::Ask { token, request, deadline: two.now + ms(2000) });
                }
                Happening::Flow(side, port, came) => {
                    if came { flows[side].insert(flow(port)) } else { flows[side].remove(&flow(port)) };
                    let change = if came { FlowChange::Came } else { FlowChange::Went };
                    two.step(side, Event::Flow { flow: flow(port), change });
                }
                Happening::Pass(time) => two.run(ms(time)),
            }
        }
        two.cut = [false; 2];
        // Over TCP nothing is lost but with its connection.
        two.lose(0);
        two.lose(1);
        two.run(ms(4000));
        for (side, flows) in flows.iter().enumerate() {
            let picture = two.links[side].picture();
            prop_assert_eq!(picture.state, PeerState::Up);
            prop_assert!(picture.hears_us);
            prop_assert_eq!(&two.asked[side], &two.answered[side]);
            let seen: BTreeSet<Flow> = two.links[1 - side].take_flows("192.0.2.10".parse().unwrap()).into_iter().collect();
            prop_assert_eq!(&seen, flows);
        }
    }
}
