//! The decisions, one by one. How they work together with VRRP, the helper and a network is simulated in `tests/sim.rs`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::*;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const KEY: RouterKey = RouterKey { vrid: 51, family: Family::V4 };

/// One router, and what was ordered since somebody last looked.
struct Bench {
    ha: Ha,
    now: Time,
    out: Vec<Action>,
}

fn params(preempt: bool, link: bool) -> Params {
    let interval = Duration::from_millis(100);
    let router = RouterParams { name: "default".to_owned(), key: KEY, interval, priority: 254, preempt };
    Params::new("pooler1".to_owned(), vec![router], link)
}

fn status(state: State) -> Status {
    Status {
        fit: true,
        servers_reachable: true,
        routers: vec![RouterStatus { key: KEY, state, interface_up: true }],
        ..Status::default()
    }
}

impl Bench {
    fn new(params: Params) -> Self {
        let now = Time(5_000_000_000);
        Self { ha: Ha::new(now, params, &[]), now, out: Vec::new() }
    }

    /// Fit, the peer there as a backup, and active.
    fn active(preempt: bool) -> Self {
        let mut bench = Self::new(params(preempt, true));
        bench.all_good();
        bench.step(Event::PeerLink { up: true, name: Some("pooler2".to_owned()) });
        bench.peer(status(State::Backup));
        bench.router(State::Backup, Reason::Started);
        bench.router(State::Active, Reason::Silence { of: None, silent_for: Duration::from_millis(301) });
        bench.out.clear();
        bench
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        self.out.clear();
        self.ha.step(self.now, event, &mut self.out);
        self.out.clone()
    }

    fn all_good(&mut self) -> Vec<Action> {
        Item::ALL.iter().flat_map(|item| self.step(Event::Health(*item, Health::Good))).collect()
    }

    fn peer(&mut self, status: Status) -> Vec<Action> {
        self.step(Event::PeerStatus(Box::new(status)))
    }

    fn router(&mut self, to: State, reason: Reason) -> Vec<Action> {
        self.step(Event::Router { router: 0, to, reason })
    }

    /// Time passes, in which the peer goes on saying the same.
    fn pass(&mut self, ms: u64) -> Vec<Action> {
        let status = self.ha.peer.status.clone();
        let mut all = Vec::new();
        for _ in 0..ms / 50 {
            self.now = self.now + Duration::from_millis(50);
            if self.ha.peer.up {
                all.extend(self.peer(status.clone()));
            }
            all.extend(self.step(Event::Timer));
        }
        all
    }

    fn switchover(&mut self) -> Vec<Action> {
        self.step(Event::Switchover { command: 7, router: None, by: "admin".to_owned() })
    }
}

/// The orders to the router, without what the peer says of itself.
fn orders(actions: &[Action]) -> Vec<Order> {
    let orders = actions.iter().filter_map(|action| match action {
        Action::Router { order: Order::PeerActive(_), .. } => None,
        Action::Router { order, .. } => Some(*order),
        _ => None,
    });
    orders.collect()
}

fn done(actions: &[Action]) -> Option<(bool, &str)> {
    actions.iter().find_map(|action| match action {
        Action::CommandDone { command: 7, ok, text } => Some((*ok, text.as_str())),
        _ => None,
    })
}

fn quiesces(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Quiesce { .. }))
}

fn asked(actions: &[Action]) -> Option<(u64, &str)> {
    actions.iter().find_map(|action| match action {
        Action::AskPeer { id, reason, .. } => Some((*id, reason.as_str())),
        _ => None,
    })
}

fn resumed(actions: &[Action]) -> Option<bool> {
    actions.iter().find_map(|action| match action {
        Action::Resume { moved, .. } => Some(*moved),
        _ => None,
    })
}

fn bad(text: &str) -> Health {
    Health::Bad(text.to_owned())
}

const YIELD: Order = Order::YieldFor(Duration::from_millis(1000));

#[test]
fn a_node_takes_part_once_all_is_known_to_be_well() {
    let mut bench = Bench::new(params(false, true));
    for item in &Item::ALL[1..] {
        assert!(orders(&bench.step(Event::Health(*item, Health::Good))).is_empty());
    }
    assert_eq!(bench.ha.picture().reason, "the worker threads: not looked at yet");
    assert_eq!(orders(&bench.step(Event::Health(Item::Workers, Health::Good))), [Order::Start { held: false }]);
}

#[test]
fn a_fault_gives_the_address_up_and_only_lasting_health_brings_it_back() {
    let mut bench = Bench::active(false);
    let actions = bench.step(Event::Health(Item::Workers, bad("worker thread 2 has not moved for 2.1 s")));
    assert_eq!(orders(&actions), [Order::StepDown { goodbye: true }]);
    assert!(actions.contains(&Action::StatusChanged) && !bench.ha.is_well());
    assert_eq!(bench.ha.status().reason, "worker thread 2 has not moved for 2.1 s");
    bench.router(State::Initialize, Reason::Stopped { goodbye: true });
    bench.pass(500);
    assert!(orders(&bench.step(Event::Health(Item::Workers, Health::Good))).is_empty());
    assert!(orders(&bench.pass(1900)).is_empty());
    // Broken: it counts from the beginning.
    bench.step(Event::Health(Item::Probe, bad("no answer")));
    bench.step(Event::Health(Item::Probe, Health::Good));
    assert!(orders(&bench.pass(1950)).is_empty());
    assert_eq!(bench.ha.deadline(), Some(bench.now + Duration::from_millis(50)));
    assert_eq!(orders(&bench.pass(50)), [Order::Start { held: false }]);
}

#[test]
fn a_switchover_brings_clients_to_rest_then_asks_and_yields() {
    let mut bench = Bench::active(false);
    let actions = bench.switchover();
    assert!(quiesces(&actions) && orders(&actions).is_empty() && asked(&actions).is_none());
    let actions = bench.step(Event::Quiesced);
    assert_eq!(orders(&actions), [YIELD]);
    assert_eq!(asked(&actions), Some((1, "SWITCHOVER by admin")));
    assert!(bench.step(Event::PeerAnswers { id: 1, accepted: true, text: String::new() }).is_empty());
    let actions = bench.router(State::Backup, Reason::Yielded { to: PEER });
    assert_eq!((orders(&actions), resumed(&actions)), (vec![Order::NoYield], Some(true)));
    assert_eq!(done(&actions), Some((true, "planned move of default is done after 0 ms: SWITCHOVER by admin")));
    let entry = bench.ha.picture().history.pop().unwrap();
    assert_eq!(entry.reason, "SWITCHOVER by admin: has passed the addresses on to 192.0.2.2");
    assert_eq!((entry.from, entry.to), (Some(State::Active), Some(State::Backup)));
}

#[test]
fn with_preempt_a_node_that_was_switched_over_stays_low_until_it_is_active() {
    let mut bench = Bench::active(true);
    bench.switchover();
    bench.step(Event::Quiesced);
    assert!(orders(&bench.router(State::Backup, Reason::Yielded { to: PEER })).is_empty());
    assert!(bench.ha.picture().routers[0].lowered);
    // Asked to take it back, it does not lower itself again.
    bench.peer(status(State::Active));
    let actions = bench.step(Event::PeerAsks { id: 3, routers: vec![KEY], reason: "SWITCHOVER by admin".to_owned() });
    assert_eq!(orders(&actions), [Order::TakeOver("the peer asked for it")]);
    assert!(orders(&bench.step(Event::Timer)).is_empty());
    assert!(orders(&bench.router(State::Active, Reason::TakeOver("the peer asked for it"))).is_empty());
    assert_eq!(bench.ha.picture().routers[0].reason, "pooler2 asked for it (SWITCHOVER by admin)");
    assert!(bench.ha.picture().history.last().unwrap().took.is_some());
}

#[test]
fn clients_that_do_not_come_to_rest_are_not_waited_for_for_ever() {
    let mut bench = Bench::active(false);
    bench.switchover();
    assert!(orders(&bench.pass(9_950)).is_empty());
    assert_eq!(orders(&bench.pass(50)), [YIELD]);
}

#[test]
fn a_peer_that_declines_or_is_silent_lets_this_node_serve_on() {
    let mut bench = Bench::active(false);
    bench.switchover();
    bench.step(Event::Quiesced);
    let actions = bench.step(Event::PeerAnswers { id: 1, accepted: false, text: "no helper".to_owned() });
    assert_eq!((orders(&actions), resumed(&actions)), (vec![Order::NoYield], Some(false)));
    assert_eq!(done(&actions), Some((false, "pooler2 has declined: no helper")));
    bench.switchover();
    bench.step(Event::Quiesced);
    assert!(orders(&bench.pass(450)).is_empty());
    let actions = bench.pass(50);
    assert_eq!((orders(&actions), done(&actions)), (vec![Order::NoYield], Some((false, "pooler2 does not answer"))));
    // A late word changes nothing.
    assert!(bench.step(Event::PeerAnswers { id: 2, accepted: true, text: String::new() }).is_empty());
}

#[test]
fn a_peer_that_accepts_and_is_not_heard_is_left_to_it() {
    let mut bench = Bench::active(false);
    bench.switchover();
    bench.step(Event::Quiesced);
    bench.step(Event::PeerAnswers { id: 1, accepted: true, text: String::new() });
    assert_eq!(orders(&bench.pass(500)), [Order::StepDown { goodbye: true }, Order::Start { held: false }]);
}

#[test]
fn a_switchover_is_refused_with_a_reason() {
    let refused = |bench: &mut Bench| match done(&bench.switchover()) {
        Some((false, text)) => text.to_owned(),
        other => format!("{other:?}"),
    };
    let mut bench = Bench::active(false);
    bench.peer(Status { fit: false, reason: "no answer".to_owned(), ..status(State::Initialize) });
    assert_eq!(refused(&mut bench), "pooler2 is unfit: no answer");
    bench.peer(status(State::Initialize));
    assert_eq!(refused(&mut bench), "pooler2 takes no part in this virtual router");
    bench.peer(Status { maintenance: true, ..status(State::Initialize) });
    assert_eq!(refused(&mut bench), "pooler2 is in maintenance");
    bench.peer(status(State::Backup));
    bench.switchover();
    assert_eq!(refused(&mut bench), "another move is under way: SWITCHOVER by admin");
    bench.step(Event::PeerLink { up: false, name: None });
    assert_eq!(refused(&mut bench), "pooler2 is not heard on the pair link");
    bench.router(State::Backup, Reason::Started);
    assert_eq!(refused(&mut bench), "not active here");
}

#[test]
fn without_a_link_a_router_yields_to_whoever_is_there() {
    let mut bench = Bench::new(params(false, false));
    bench.all_good();
    bench.router(State::Active, Reason::Started);
    assert!(quiesces(&bench.switchover()));
    assert_eq!(orders(&bench.step(Event::Quiesced)), [Order::Yield]);
    let actions = bench.router(State::Backup, Reason::NobodyTookOver);
    assert_eq!(orders(&actions), [Order::NoYield]);
}

#[test]
fn a_router_that_nobody_relieves_wants_its_addresses_again_though_as_the_last() {
    let mut bench = Bench::new(params(true, false));
    bench.all_good();
    bench.router(State::Active, Reason::Started);
    bench.switchover();
    assert_eq!(orders(&bench.step(Event::Quiesced)), [Order::Yield]);
    let actions = bench.router(State::Backup, Reason::NobodyTookOver);
    assert_eq!(orders(&actions), [Order::NoYield, Order::Yield]);
    assert!(bench.ha.picture().routers[0].lowered);
}

#[test]
fn servers_out_of_reach_here_alone_move_the_address_once() {
    let mut bench = Bench::active(false);
    let gone = || Event::Servers(Servers::Unreachable("connection refused".to_owned()));
    bench.step(gone());
    assert!(!quiesces(&bench.pass(4_950)));
    assert!(quiesces(&bench.pass(50)));
    let actions = bench.step(Event::Quiesced);
    assert_eq!(asked(&actions).unwrap().1, "only pooler2 reaches the servers: connection refused");
    bench.router(State::Backup, Reason::Yielded { to: PEER });
    // The peer dies; this node holds it again, and does not move it for half a minute whatever happens.
    bench.router(State::Active, Reason::Started);
    assert!(!quiesces(&bench.pass(29_900)));
    assert!(quiesces(&bench.pass(200)));
}

#[test]
fn servers_out_of_reach_of_both_move_nothing() {
    let mut bench = Bench::active(false);
    bench.peer(Status { servers_reachable: false, ..status(State::Backup) });
    bench.step(Event::Servers(Servers::Unreachable("connection refused".to_owned())));
    assert!(!quiesces(&bench.pass(20_000)));
    // The peer's are back, but not yet for long.
    bench.peer(status(State::Backup));
    assert!(!quiesces(&bench.pass(9_900)));
    assert!(quiesces(&bench.pass(150)));
}

#[test]
fn maintenance_moves_the_address_or_gives_it_up() {
    let on = |on| Event::Maintenance { on, by: "admin".to_owned() };
    let mut bench = Bench::active(false);
    assert!(quiesces(&bench.step(on(true))));
    bench.step(Event::Quiesced);
    let actions = bench.router(State::Backup, Reason::Yielded { to: PEER });
    assert_eq!((resumed(&actions), orders(&actions)), (Some(true), vec![Order::StepDown { goodbye: true }]));
    assert_eq!(bench.ha.summary(), "holds no address: HA MAINTENANCE ON by admin");
    assert!(orders(&bench.pass(10_000)).is_empty());
    assert_eq!(orders(&bench.step(on(false))), [Order::Start { held: false }]);

    let mut alone = Bench::active(false);
    alone.step(Event::PeerLink { up: false, name: None });
    let actions = alone.step(on(true));
    assert_eq!(orders(&actions), [Order::StepDown { goodbye: true }]);
    let warns = |action: &Action| matches!(action, Action::Log { level: Level::Warn, text } if text.contains("gives"));
    assert!(actions.iter().any(warns));
}

#[test]
fn draining_moves_the_address_if_somebody_is_there_and_leaving_gives_it_up() {
    let mut bench = Bench::active(false);
    bench.step(Event::PeerLink { up: false, name: None });
    let actions = bench.step(Event::Draining(true));
    assert!(!quiesces(&actions) && orders(&actions).is_empty());
    bench.step(Event::PeerLink { up: true, name: None });
    assert!(quiesces(&bench.peer(status(State::Backup))));
    bench.step(Event::PeerLink { up: false, name: None });
    assert!(!bench.ha.is_out());
    assert_eq!(orders(&bench.step(Event::Leave)), [Order::StepDown { goodbye: true }]);
    assert!(bench.ha.is_out());
}

#[test]
fn a_request_to_take_over_is_refused_by_who_cannot() {
    let mut bench = Bench::new(params(false, true));
    bench.step(Event::PeerLink { up: true, name: Some("pooler2".to_owned()) });
    let ask = |bench: &mut Bench, key: RouterKey| {
        let actions = bench.step(Event::PeerAsks { id: 9, routers: vec![key], reason: "drain".to_owned() });
        let answer = actions.iter().find_map(|action| match action {
            Action::AnswerPeer { id: 9, accepted, text } => Some((*accepted, text.clone())),
            _ => None,
        });
        answer.unwrap()
    };
    let (accepted, text) = ask(&mut bench, KEY);
    assert!(!accepted && text == "pooler1 is unfit: the worker threads: not looked at yet", "{text}");
    bench.all_good();
    assert_eq!(ask(&mut bench, KEY).1, "pooler1 takes no part in this virtual router");
    bench.router(State::Backup, Reason::Started);
    bench.step(Event::Interface { router: 0, health: bad("interface eth0 is down") });
    assert_eq!(ask(&mut bench, KEY).1, "the interface of pooler1 is not usable: interface eth0 is down");
    bench.step(Event::Interface { router: 0, health: Health::Good });
    assert_eq!(ask(&mut bench, RouterKey { vrid: 9, ..KEY }).1, "not all of these virtual routers are configured here");
    bench.step(Event::Draining(true));
    assert_eq!(ask(&mut bench, KEY).1, "pooler1 waits for its clients to leave");
    bench.step(Event::Draining(false));
    assert!(ask(&mut bench, KEY).0);
}

#[test]
fn the_peers_word_counts_while_it_is_fit_and_heard() {
    let word = |actions: &[Action]| {
        actions.iter().find_map(|action| match action {
            Action::Router { order: Order::PeerActive(word), .. } => Some(*word),
            _ => None,
        })
    };
    let mut bench = Bench::active(false);
    assert_eq!(word(&bench.peer(status(State::Active))), Some(Some(true)));
    assert_eq!(word(&bench.peer(status(State::Backup))), Some(Some(false)));
    assert_eq!(word(&bench.peer(Status { fit: false, ..status(State::Active) })), Some(Some(false)));
    assert_eq!(word(&bench.step(Event::PeerLink { up: false, name: None })), Some(None));
}

#[test]
fn what_a_predecessor_held_is_held_or_given_up_in_due_form() {
    let mut bench = Bench::new(params(false, true));
    bench.step(Event::Health(Item::Helper, bad("the address helper has not answered yet")));
    let mut out = Vec::new();
    bench.ha.inherit(bench.now, params(false, true), &[0], &mut out);
    assert!(out.is_empty());
    assert_eq!(orders(&bench.step(Event::Timer)), [Order::Start { held: true }]);

    let mut ill = Bench::new(params(false, true));
    ill.step(Event::Health(Item::Listeners, bad("nobody listens")));
    ill.ha.inherit(ill.now, params(false, true), &[0], &mut out);
    assert_eq!(orders(&ill.step(Event::Timer)), [Order::Start { held: true }, Order::StepDown { goodbye: true }]);
    assert!(orders(&ill.step(Event::Timer)).is_empty());
}

#[test]
fn maintenance_outlives_a_reload_and_ends_no_command_unanswered() {
    let mut bench = Bench::active(false);
    bench.switchover();
    bench.step(Event::Maintenance { on: true, by: "admin".to_owned() });
    let mut out = Vec::new();
    bench.ha.inherit(bench.now, params(false, true), &[], &mut out);
    assert_eq!(done(&out), Some((false, "the virtual routers have changed")));
    assert!(orders(&bench.step(Event::Timer)).is_empty());
    assert!(bench.ha.status().maintenance);
}

#[test]
fn the_history_is_bounded() {
    let mut bench = Bench::active(false);
    for _ in 0..100 {
        bench.step(Event::PeerLink { up: false, name: None });
        bench.step(Event::PeerLink { up: true, name: None });
    }
    assert_eq!(bench.ha.picture().history.len(), HISTORY_LEN);
}

#[test]
fn a_switchover_that_nobody_takes_has_failed() {
    let mut bench = Bench::new(params(true, false));
    bench.all_good();
    bench.router(State::Backup, Reason::Started);
    bench.router(State::Active, Reason::Silence { of: None, silent_for: Duration::from_millis(301) });
    assert!(quiesces(&bench.switchover()));
    assert_eq!(orders(&bench.step(Event::Quiesced)), [Order::Yield]);
    let actions = bench.router(State::Backup, Reason::NobodyTookOver);
    assert_eq!((done(&actions), orders(&actions)), (None, vec![Order::NoYield, Order::Yield]));
    assert!(actions.contains(&Action::Resume { routers: vec![0], moved: true }), "nobody stands still meanwhile");
    bench.pass(400);
    let actions = bench.router(State::Active, Reason::Silence { of: None, silent_for: Duration::from_millis(399) });
    let (ok, text) = done(&actions).unwrap();
    assert!(!ok && text.contains("nobody has taken over"), "{text}");
}

#[test]
fn a_switchover_to_one_who_does_not_preempt_succeeds_after_the_goodbye() {
    let mut bench = Bench::new(params(true, false));
    bench.all_good();
    bench.router(State::Active, Reason::Started);
    bench.switchover();
    bench.step(Event::Quiesced);
    bench.router(State::Backup, Reason::NobodyTookOver);
    assert!(bench.ha.picture().routers[0].moved);
    assert_eq!(done(&bench.pass(600)).map(|(ok, _)| ok), Some(true));
    assert!(!bench.ha.is_moving() && bench.ha.picture().routers[0].moved);
}

#[test]
fn a_switchover_of_which_one_router_comes_back_early_is_answered() {
    let mut two = params(true, false);
    let first = two.routers.first().unwrap();
    two.routers.push(RouterParams { key: RouterKey { vrid: 52, ..KEY }, ..first.clone() });
    let mut bench = Bench::new(two);
    bench.all_good();
    let is = |bench: &mut Bench, router, to, reason| bench.step(Event::Router { router, to, reason });
    for router in [0, 1] {
        is(&mut bench, router, State::Active, Reason::Started);
    }
    bench.switchover();
    bench.step(Event::Quiesced);
    is(&mut bench, 0, State::Backup, Reason::Yielded { to: PEER });
    is(&mut bench, 1, State::Backup, Reason::NobodyTookOver);
    let actions = is(&mut bench, 0, State::Active, Reason::Preempts { of: PEER, priority: 253 });
    assert_eq!(done(&actions), None, "the other one may still be taken over");
    let (ok, text) = done(&bench.pass(600)).map(|(ok, text)| (ok, text.to_owned())).unwrap();
    assert!(!ok && text.contains("have come back"), "{text}");
    assert!(!bench.ha.is_moving());
}

#[test]
fn whoever_drains_without_a_link_lets_another_one_win() {
    let mut bench = Bench::new(params(false, false));
    bench.all_good();
    bench.router(State::Backup, Reason::Started);
    bench.router(State::Active, Reason::Silence { of: None, silent_for: Duration::from_millis(301) });
    assert!(quiesces(&bench.step(Event::Draining(true))));
    assert_eq!(orders(&bench.step(Event::Quiesced)), [Order::Yield]);
}

#[test]
fn what_an_administrator_has_said_outlives_the_process() {
    let mut bench = Bench::active(true);
    bench.switchover();
    bench.step(Event::Quiesced);
    bench.router(State::Backup, Reason::Yielded { to: PEER });
    assert!(bench.ha.picture().routers[0].moved);
    // The successor of this process: it is told before it knows anything else.
    let mut next = Bench::new(params(true, true));
    next.step(Event::Moved(vec![KEY]));
    next.step(Event::Maintenance { on: true, by: "admin".to_owned() });
    next.all_good();
    next.ha.inherit(next.now, params(true, true), &[], &mut next.out);
    let picture = next.ha.picture();
    assert!(picture.routers[0].moved && picture.maintenance.as_deref() == Some("admin"));
    let actions = next.step(Event::Maintenance { on: false, by: "admin".to_owned() });
    assert_eq!(orders(&actions), [Order::Start { held: false }, Order::Yield], "it does not preempt");
}
