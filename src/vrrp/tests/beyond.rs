//! What goes beyond RFC 9568.

use super::*;

fn sole(priority: u8) -> Params {
    Params { sole_peer: true, ..params(priority) }
}

#[test]
fn a_sole_peer_takes_over_at_the_goodbye() {
    let mut bench = Bench::started(sole(100));
    bench.hear(200);
    bench.wait(ms(10));
    let actions = bench.hear(0);
    assert_eq!(actions[..2], [Action::Send { priority: 100, interval: ms(100) }, Action::Hold]);
    assert_eq!(reason(&actions), "backup to active: 192.0.2.2 has said goodbye");
}

fn announced(done: Vec<(Time, Action)>) -> Vec<u64> {
    done.into_iter().filter(|(_, action)| *action == Action::Announce).map(|(time, _)| time.0 / 1_000_000).collect()
}

#[test]
fn addresses_are_announced_at_growing_distances() {
    let mut bench = Bench::active(params(100));
    assert_eq!(announced(bench.run(ms(26_000))), [20, 100, 500, 2000, 5000, 15_000, 25_000]);
    bench.step(Event::Rival);
    assert_eq!(announced(bench.run(ms(3000))), [26_020, 26_100, 26_500, 28_000]);
}

#[test]
fn signs_of_a_rival_announce_no_faster_than_every_20_ms() {
    let mut bench = Bench::active(params(100));
    let mut times = Vec::new();
    for _ in 0..100 {
        bench.wait(ms(1));
        times.extend(announced(bench.run(Duration::ZERO)));
        if has(&bench.step(Event::Rival), Action::Announce) {
            times.push(bench.now.0 / 1_000_000);
        }
    }
    assert_eq!(times, [20, 40, 60, 80, 100]);
    assert_eq!(bench.router.picture().counters.rivals, 100);
}

#[test]
fn two_who_think_each_other_lower_do_not_storm() {
    let mut bench = Bench::active(params(100));
    let mut count = 0;
    for _ in 0..1000 {
        bench.wait(us(100));
        count += sent(&bench.hear(50)).len();
        if bench.router.deadline() <= Some(bench.now) {
            count += sent(&bench.step(Event::Timer)).len();
        }
    }
    assert!((15..=20).contains(&count), "{count} adverts in 100 ms");
}

#[test]
fn a_backup_that_was_late_listens_once_more() {
    let mut bench = Bench::started(params(100));
    let actions = bench.timer_late(ms(201));
    assert_eq!(warning(&actions), "its timer came 201 ms late: the process or the machine stood still");
    assert_eq!((bench.router.state(), bench.until_deadline()), (State::Backup, Duration::from_nanos(160_937_500)));
    let mut heard = Bench { router: bench.router.clone(), now: bench.now };
    heard.wait(ms(100));
    heard.hear(200);
    assert!(heard.until_deadline() > ms(300));
    // Only once, or a machine that is always late would never serve.
    assert!(has(&bench.timer_late(ms(201)), Action::Hold));
    let mut bench = Bench::started(params(100));
    assert!(has(&bench.timer_late(ms(199)), Action::Hold));
}

#[test]
fn an_active_router_that_was_a_little_late_goes_on() {
    let mut bench = Bench::active(params(100));
    bench.wait(ms(290));
    assert_eq!(sent(&bench.step(Event::Timer)), [100]);
    assert_eq!(bench.router.state(), State::Active);
}

#[test]
fn an_active_router_that_may_have_been_replaced_steps_down() {
    let mut bench = Bench::active(params(200));
    bench.wait(ms(301));
    let actions = bench.step(Event::Timer);
    assert_eq!(sent(&actions), [1, 0]);
    assert!(has(&actions, Action::Release));
    assert_eq!(
        reason(&actions),
        "active to backup: could not advertise for 301 ms, so that another may have taken over"
    );
    assert_eq!(bench.until_deadline(), us(321_875));
}

#[test]
fn an_active_router_that_was_late_goes_on_if_the_peer_is_not_active() {
    let mut bench = Bench::active(params(200));
    bench.wait(ms(1000));
    bench.step(Event::PeerActive(Some(false)));
    let actions = bench.step(Event::Timer);
    assert_eq!(sent(&actions), [200]);
    assert!(has(&actions, Action::Announce));
    // What the peer said before the stall says nothing.
    let mut bench = Bench::active(params(200));
    bench.step(Event::PeerActive(Some(false)));
    bench.wait(ms(1000));
    assert_eq!(sent(&bench.step(Event::Timer)), [1, 0]);
}

#[test]
fn an_owner_that_was_late_goes_on() {
    let mut bench = Bench::active(params(255));
    bench.wait(ms(1000));
    assert_eq!(sent(&bench.step(Event::Timer)), [255]);
}

#[test]
fn who_has_taken_over_during_a_stall_keeps_the_addresses() {
    let mut bench = Bench::active(params(200));
    bench.wait(ms(400));
    let actions = bench.hear(100);
    assert_eq!(actions[..2], [Action::Send { priority: 1, interval: ms(100) }, Action::Release]);
    assert_eq!(reason(&actions), "active to backup: could not advertise for 400 ms, and 192.0.2.2 has taken over");
    // With preemption it comes back by preempting: its addresses may have been taken from it meanwhile.
    let mut bench = Bench::active(Params { preempt: true, ..params(200) });
    bench.wait(ms(400));
    assert_eq!(sent(&bench.hear(100)), [1]);
    bench.wait(ms(300));
    bench.hear(100);
    bench.until_deadline();
    assert_eq!(reason(&bench.timer()), "backup to active: preempts 192.0.2.2, which has the lower priority 100");
    // Without a stall too.
    let mut bench = Bench::active(params(200));
    bench.wait(ms(299));
    assert_eq!(sent(&bench.hear(100)), [200]);
}

#[test]
fn to_yield_is_to_be_preempted() {
    let mut bench = Bench::active(params(200));
    bench.wait(ms(10));
    assert_eq!(bench.step(Event::Yield), [Action::Send { priority: 1, interval: ms(100) }]);
    assert!(bench.step(Event::Yield).is_empty());
    assert!(bench.step(Event::Priority(150)).is_empty(), "1 is advertised whatever else");
    bench.wait(ms(1));
    let actions = bench.hear(100);
    assert_eq!(actions[..2], [Action::Send { priority: 1, interval: ms(100) }, Action::Release]);
    assert_eq!(reason(&actions), "active to backup: has passed the addresses on to 192.0.2.2");
    // As a backup it comes last, but it comes.
    assert_eq!(bench.until_deadline(), Duration::from_nanos(399_609_375));
    assert_eq!(sent(&bench.timer()), [1]);
    assert_eq!(bench.router.state(), State::Active);
    bench.run(ms(2000));
    assert_eq!(bench.router.state(), State::Active, "nobody else is there");
    assert_eq!(sent(&bench.step(Event::NoYield)), [150]);
}

#[test]
fn who_yields_to_nobody_says_goodbye_and_stays_away() {
    let mut bench = Bench::active(params(200));
    bench.wait(ms(50));
    bench.step(Event::Yield);
    let done = bench.run(ms(10_000));
    let actions: Vec<Action> = done.iter().map(|(_, action)| *action).collect();
    assert_eq!(sent(&actions), [1, 1, 1, 0]);
    assert_eq!(done.last().unwrap().0, at(450));
    assert_eq!(reason(&actions), "active to backup: was to pass the addresses on, and nobody took them; said goodbye");
    let picture = bench.router.picture();
    assert!(picture.stood_down && picture.yielding && picture.deadline.is_none());
    bench.hear(0);
    bench.step(Event::Timer);
    assert_eq!(bench.router.state(), State::Backup);
    bench.step(Event::NoYield);
    assert_eq!(bench.until_deadline(), us(321_875));
}

#[test]
fn the_patience_of_a_yield_can_be_given() {
    let mut bench = Bench::active(params(200));
    bench.step(Event::YieldFor(ms(1234)));
    let done = bench.run(ms(10_000));
    assert_eq!((done.last().unwrap().0, bench.router.state()), (at(1234), State::Backup));
}

#[test]
fn a_yield_that_is_taken_back_leaves_all_as_it_was() {
    let mut bench = Bench::active(params(200));
    bench.step(Event::Yield);
    bench.wait(ms(60));
    assert_eq!(sent(&bench.step(Event::NoYield)), [200]);
    assert!(bench.step(Event::NoYield).is_empty());
    bench.run(ms(5000));
    assert_eq!(bench.router.state(), State::Active);
}

#[test]
fn a_planned_take_over_is_not_undone_by_what_was_under_way() {
    let mut bench = Bench::started(params(100));
    bench.hear(200);
    bench.wait(ms(10));
    let actions = bench.step(Event::TakeOver("switchover"));
    assert_eq!(actions[..2], [Action::Send { priority: 100, interval: ms(100) }, Action::Hold]);
    assert_eq!(reason(&actions), "backup to active: takes over: switchover");
    bench.wait(ms(30));
    assert_eq!(sent(&bench.hear(200)), [100]);
    bench.wait(ms(70));
    bench.hear(200);
    assert_eq!(bench.router.state(), State::Backup, "the peer did not mean it");
}

#[test]
fn a_take_over_ends_a_yield() {
    let mut bench = Bench::active(params(100));
    bench.step(Event::Yield);
    assert_eq!(sent(&bench.step(Event::TakeOver("changed its mind"))), [100]);
    bench.run(ms(5000));
    assert_eq!(bench.router.state(), State::Active);
}

#[test]
fn the_peers_word_keeps_a_backup_back() {
    let mut bench = Bench::started(params(100));
    bench.hear(200);
    // It goes on saying so every 50 ms, and no advert comes.
    let mut warnings = Vec::new();
    for _ in 0..200 {
        bench.wait(ms(50));
        bench.step(Event::PeerActive(Some(true)));
        warnings.extend(bench.run(Duration::ZERO));
    }
    assert_eq!(bench.router.state(), State::Backup);
    assert_eq!(warnings.len(), 1);
    assert!(
        warning(&[warnings[0].1])
            .ends_with("but the peer says that it is active: does a firewall drop IP protocol 112?")
    );
    assert!(bench.router.picture().counters.held_back > 10);
    // Then it says nothing more.
    let last = bench.now;
    bench.timer();
    assert_eq!((bench.router.state(), bench.now - last), (State::Active, Duration::from_nanos(260_937_501)));
}

#[test]
fn a_peer_that_was_just_alive_is_not_waited_for_longer_than_without_its_word() {
    // Its last word came right after its last advert.
    let mut bench = Bench::started(params(100));
    bench.hear(200);
    bench.wait(ms(99));
    bench.step(Event::PeerActive(Some(true)));
    assert!(has(&bench.timer(), Action::Hold));
    assert_eq!(bench.now.0, 360_937_500);
}

#[test]
fn a_backup_that_was_held_back_takes_over_when_the_word_changes() {
    for word in [None, Some(false)] {
        let mut bench = Bench::started(params(100));
        bench.wait(ms(300));
        bench.step(Event::PeerActive(Some(true)));
        bench.timer();
        assert_eq!(bench.router.state(), State::Backup);
        bench.wait(ms(10));
        bench.step(Event::PeerActive(word));
        assert_eq!(bench.router.deadline(), Some(bench.now));
        assert!(has(&bench.timer(), Action::Hold));
    }
}

#[test]
fn a_goodbye_counts_more_than_the_peers_word() {
    let mut bench = Bench::started(params(156));
    bench.hear(200);
    bench.step(Event::PeerActive(Some(true)));
    bench.hear(0);
    bench.step(Event::PeerActive(Some(true)));
    assert!(has(&bench.timer(), Action::Hold));
}

#[test]
fn addresses_left_on_an_interface_that_is_down_are_released() {
    let mut bench = Bench::new(params(200));
    bench.step(Event::Link { up: false, own_address: None });
    assert_eq!(bench.step(Event::Start { held: true }), [Action::Release]);
    let actions = bench.step(Event::Link { up: true, own_address: Some(ip("192.0.2.7")) });
    assert_eq!(reason(&actions), "initialize to backup: started");
}

#[test]
fn who_asks_by_another_way_may_change_its_mind_later() {
    let mut bench = Bench::active(params(200));
    bench.step(Event::YieldFor(ms(1000)));
    for _ in 0..9 {
        assert!(!has(&bench.timer(), Action::Release));
    }
    bench.step(Event::NoYield);
    assert_eq!((bench.router.state(), bench.router.priority()), (State::Active, 200));
}

#[test]
fn addresses_that_were_taken_away_make_a_silent_backup() {
    let mut bench = Bench::active(params(200));
    let actions = bench.step(Event::AddressesLost);
    // A request to hold them that is under way must not be the last one.
    assert_eq!(actions[0], Action::Release);
    assert_eq!(actions.len(), 2);
    assert_eq!(reason(&actions), "active to backup: the addresses were taken away");
    assert_eq!(bench.until_deadline(), us(321_875));
}

#[test]
fn a_link_that_goes_down_ends_everything_in_silence() {
    let down = || Event::Link { up: false, own_address: None };
    let mut bench = Bench::active(params(200));
    let actions = bench.step(down());
    assert_eq!(actions[..1], [Action::Release]);
    assert_eq!(reason(&actions), "active to initialize: the interface is down, gone, or without an address of its own");
    assert!(bench.step(down()).is_empty());
    let actions = bench.step(Event::Link { up: true, own_address: Some(ip("192.0.2.7")) });
    assert_eq!(reason(&actions), "initialize to backup: started");
    assert_eq!(bench.router.own_address(), ip("192.0.2.7"));
    // Up again says nothing new.
    let before = bench.router.deadline();
    bench.wait(ms(50));
    assert!(bench.step(Event::Link { up: true, own_address: Some(ip("192.0.2.7")) }).is_empty());
    assert_eq!(bench.router.deadline(), before);
    // Without an address there is nobody who could send.
    assert_eq!(bench.step(Event::Link { up: true, own_address: None }).len(), 1);
    assert_eq!(bench.router.state(), State::Initialize);
}

#[test]
fn a_start_waits_for_the_link_and_a_stop_outlives_it() {
    let mut bench = Bench::new(params(200));
    bench.step(Event::Link { up: false, own_address: None });
    assert!(bench.step(Event::Start { held: false }).is_empty());
    let up = || Event::Link { up: true, own_address: Some(ip(OWN)) };
    assert_eq!(bench.step(up()).len(), 1);
    bench.step(Event::Stop { goodbye: false });
    bench.step(Event::Link { up: false, own_address: None });
    assert!(bench.step(up()).is_empty());
}

#[test]
fn a_reload_moves_only_what_has_changed() {
    for mut bench in [Bench::started(params(100)), Bench::active(params(100))] {
        bench.step(Event::Priority(90));
        let before = bench.router.picture();
        bench.wait(ms(5));
        for same in [
            params(100),
            Params { preempt: true, ..params(100) },
            Params { preempt_delay: ms(7), ..params(100) },
            Params { sole_peer: true, link_local_first: true, ..params(100) },
        ] {
            assert!(bench.step(Event::Params(same)).is_empty());
            assert_eq!(bench.router.picture(), before);
        }
        let actions = bench.step(Event::Params(Params { vrid: 52, ..params(100) }));
        assert_eq!(warning(&actions), "new parameters are of another virtual router, and were not taken");
        assert_eq!(bench.router.picture(), before);
    }
}

#[test]
fn a_reload_is_advertised_where_others_must_know() {
    let mut bench = Bench::active(params(100));
    bench.run(ms(50));
    assert_eq!(sent(&bench.step(Event::Params(params(120)))), [120]);
    let faster = Params { interval: ms(10), ..params(120) };
    assert_eq!(bench.step(Event::Params(faster.clone())), [Action::Send { priority: 120, interval: ms(10) }]);
    assert_eq!(bench.until_deadline(), ms(10));
    let more = Params { addresses: vec![ip("192.0.2.10"), ip("192.0.2.11")], ..faster };
    let actions = bench.step(Event::Params(more));
    assert_eq!(actions, [Action::Send { priority: 120, interval: ms(10) }, Action::Announce]);
    assert_eq!(bench.router.advert(1, ms(10)).addresses.len(), 2);
    // A backup that hears somebody keeps to what it hears.
    let mut bench = Bench::started(params(100));
    bench.hear(200);
    let before = bench.router.deadline();
    assert!(bench.step(Event::Params(Params { interval: ms(10), ..params(100) })).is_empty());
    assert_eq!(bench.router.deadline(), before);
}
