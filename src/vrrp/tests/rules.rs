//! RFC 9568 section 6.4 and its errata, row by row, and RFC 3768 where version 2 differs.

use super::*;

#[test]
fn a_backup_waits_three_intervals_and_skew_to_the_nanosecond() {
    let mut bench = Bench::new(params(100));
    assert_eq!(bench.router.deadline(), None);
    let actions = bench.step(Event::Start { held: false });
    assert_eq!(reason(&actions), "initialize to backup: started");
    // Skew: (256 - 100) * 100 ms / 256.
    assert_eq!(bench.until_deadline(), us(300_000) + Duration::from_nanos(60_937_500));
    bench.wait(us(360_937));
    assert!(bench.step(Event::Timer).is_empty(), "an early timer");
    let actions = bench.timer();
    assert_eq!(
        actions,
        [
            Action::Send { priority: 100, interval: ms(100) },
            Action::Hold,
            Action::Transition {
                from: State::Backup,
                to: State::Active,
                reason: Reason::Silence { of: None, silent_for: Duration::from_nanos(360_937_500) }
            }
        ]
    );
    assert_eq!(reason(&actions), "backup to active: no advert of anybody for 361 ms (3 intervals and skew)");
}

#[test]
fn ten_milliseconds_have_a_skew() {
    let bench = Bench::started(Params { interval: ms(10), ..params(253) });
    assert_eq!(bench.until_deadline(), Duration::from_nanos(30_117_187));
}

#[test]
fn an_owner_starts_active() {
    let mut bench = Bench::new(params(255));
    let actions = bench.step(Event::Start { held: false });
    assert_eq!(actions[..2], [Action::Send { priority: 255, interval: ms(100) }, Action::Hold]);
    assert_eq!(reason(&actions), "initialize to active: started as the owner of the addresses (priority 255)");
}

#[test]
fn a_successor_goes_on_as_active() {
    let mut bench = Bench::new(params(100));
    let actions = bench.step(Event::Start { held: true });
    assert_eq!(actions[..2], [Action::Send { priority: 100, interval: ms(100) }, Action::Hold]);
    assert_eq!(reason(&actions), "initialize to active: started with the addresses held already");
}

#[test]
fn a_backup_learns_the_interval() {
    let mut bench = Bench::started(params(100));
    let advert = Advert { interval: ms(20), ..bench.advert(200) };
    let actions = bench.hear_from(PEER, &advert);
    assert_eq!(warning(&actions), "192.0.2.2 advertises every 20 ms, not every 100 ms as this node");
    assert_eq!(bench.until_deadline(), Duration::from_nanos(72_187_500));
    assert_eq!(bench.router.picture().active.unwrap().interval, ms(20));
    // Silence is told by the time since the last advert, and the own interval counts again.
    let actions = bench.timer();
    assert_eq!(reason(&actions), "backup to active: no advert of 192.0.2.2 for 72 ms (3 intervals and skew)");
    assert_eq!(bench.until_deadline(), ms(20), "the first announcement");
    assert_eq!(sent(&bench.run(ms(100)).into_iter().map(|(_, action)| action).collect::<Vec<_>>()), [100]);
}

#[test]
fn after_a_goodbye_a_backup_waits_for_the_skew() {
    let mut bench = Bench::started(params(156));
    bench.hear(200);
    let actions = bench.hear(0);
    assert!(actions.is_empty());
    assert_eq!(bench.until_deadline(), Duration::from_nanos(39_062_500));
    let actions = bench.timer();
    assert_eq!(reason(&actions), "backup to active: 192.0.2.2 has said goodbye");
}

#[test]
fn a_goodbye_never_makes_it_later() {
    let mut bench = Bench::started(params(1));
    bench.wait(ms(390));
    bench.hear(0);
    assert!(bench.until_deadline() < ms(10));
}

#[test]
fn a_lower_advert_is_heard_without_preemption() {
    let mut bench = Bench::started(params(200));
    bench.wait(ms(300));
    assert!(bench.hear(100).is_empty());
    assert!(bench.until_deadline() > ms(300));
}

#[test]
fn a_lower_advert_does_not_count_with_preemption() {
    let mut bench = Bench::started(Params { preempt: true, ..params(200) });
    bench.wait(ms(300));
    assert!(bench.hear(100).is_empty());
    assert!(bench.until_deadline() < ms(30));
    assert_eq!(reason(&bench.timer()), "backup to active: preempts 192.0.2.2, which has the lower priority 100");
}

#[test]
fn an_owner_preempts_whatever_is_configured() {
    let mut bench = Bench::started(params(255));
    bench.step(Event::AddressesLost);
    bench.wait(ms(300));
    bench.hear(254);
    assert!(bench.until_deadline() < ms(1));
}

#[test]
fn preemption_is_delayed_but_not_a_takeover() {
    let delayed = Params { preempt: true, preempt_delay: ms(1000), ..params(200) };
    let mut bench = Bench::started(delayed.clone());
    for _ in 0..10 {
        bench.hear(100);
        bench.wait(ms(100));
        assert!(bench.until_deadline() > ms(200), "preempts early");
    }
    bench.hear(100);
    let actions = bench.timer();
    assert_eq!(reason(&actions), "backup to active: preempts 192.0.2.2, which has the lower priority 100");
    // The one that is waited for falls silent: no delay.
    let mut bench = Bench::started(delayed.clone());
    bench.hear(100);
    assert!(bench.until_deadline() < ms(400));
    // It was not always the lower one.
    let mut bench = Bench::started(delayed);
    bench.hear(100);
    bench.wait(ms(100));
    bench.hear(250);
    bench.wait(ms(100));
    bench.hear(100);
    bench.wait(ms(950));
    bench.hear(100);
    assert!(bench.until_deadline() > ms(200));
}

#[test]
fn an_active_router_advertises_at_its_interval() {
    let mut bench = Bench::active(params(100));
    let sends = bench.run(ms(1000));
    let sends: Vec<Time> =
        sends.into_iter().filter(|(_, action)| matches!(action, Action::Send { .. })).map(|(time, _)| time).collect();
    assert_eq!(sends, (1..=10).map(|i| at(i * 100)).collect::<Vec<_>>());
}

#[test]
fn an_active_router_answers_a_goodbye_at_once() {
    let mut bench = Bench::active(params(100));
    bench.wait(ms(50));
    assert_eq!(bench.hear(0), [Action::Send { priority: 100, interval: ms(100) }, Action::Announce]);
    assert_eq!(bench.router.deadline(), Some(at(70)), "announcements begin anew");
    assert_eq!(bench.router.state(), State::Active);
}

#[test]
fn a_higher_priority_wins_and_hears_a_last_word() {
    let mut bench = Bench::active(params(100));
    let advert = Advert { interval: ms(200), ..bench.advert(150) };
    let actions = bench.hear_from(PEER, &advert);
    let actions: Vec<_> = actions.into_iter().filter(|action| !matches!(action, Action::Warn(_))).collect();
    assert_eq!(actions[..2], [Action::Send { priority: 100, interval: ms(100) }, Action::Release]);
    assert_eq!(reason(&actions), "active to backup: 192.0.2.2 is active with priority 150, higher than our 100");
    // Three of the winner's intervals and their skew.
    assert_eq!(bench.until_deadline(), Duration::from_nanos(721_875_000));
}

#[test]
fn equal_priorities_are_decided_by_the_address() {
    let mut bench = Bench::active(params(100));
    let actions = bench.hear(100);
    // The last word is lower, so that the winner answers it whoever it is.
    assert_eq!(actions[..2], [Action::Send { priority: 1, interval: ms(100) }, Action::Release]);
    assert!(reason(&actions).ends_with("192.0.2.2 is active with the same priority 100 and the higher address"));
    let mut bench = Bench::active(params(100));
    bench.wait(ms(50));
    let advert = bench.advert(100);
    let actions = bench.hear_from("192.0.2.0", &advert);
    assert_eq!(sent(&actions), [100]);
    assert_eq!(bench.router.state(), State::Active);
}

#[test]
fn a_lower_rival_is_answered_at_once() {
    let mut bench = Bench::active(params(100));
    bench.wait(ms(50));
    let actions = bench.hear(99);
    assert_eq!(actions[..2], [Action::Send { priority: 100, interval: ms(100) }, Action::Announce]);
    assert_eq!(warning(&actions), "192.0.2.2 is active too, with priority 99");
    assert_eq!(bench.router.picture().counters.rivals, 1);
    assert_eq!(bench.router.picture().active.unwrap().priority, 99);
}

#[test]
fn shutdown_says_goodbye_or_not() {
    let mut bench = Bench::active(params(100));
    let actions = bench.step(Event::Stop { goodbye: true });
    assert_eq!(actions[..2], [Action::Send { priority: 0, interval: ms(100) }, Action::Release]);
    assert_eq!(reason(&actions), "active to initialize: stopped, and said goodbye");
    assert_eq!(bench.router.deadline(), None);
    let mut bench = Bench::active(params(100));
    let actions = bench.step(Event::Stop { goodbye: false });
    assert_eq!(actions[..1], [Action::Release]);
    let mut bench = Bench::started(params(100));
    let actions = bench.step(Event::Stop { goodbye: true });
    assert!(sent(&actions).is_empty());
    assert_eq!(actions.len(), 1);
    assert!(bench.step(Event::Stop { goodbye: true }).is_empty());
}

#[test]
fn nothing_is_heard_before_the_start() {
    let mut bench = Bench::new(params(100));
    assert!(bench.hear(0).is_empty());
    assert!(bench.hear(200).is_empty());
    assert!(bench.step(Event::Rival).is_empty());
    assert!(bench.step(Event::AddressesLost).is_empty());
    assert!(bench.step(Event::TakeOver("no")).is_empty());
    assert!(bench.step(Event::Timer).is_empty());
    assert_eq!(bench.router.state(), State::Initialize);
}

#[test]
fn two_owners_are_logged_and_settle_by_address() {
    let mut bench = Bench::active(params(255));
    let actions = bench.hear(255);
    assert_eq!(warning(&actions), "192.0.2.2 has priority 255 too: only one node can own the addresses");
    assert_eq!(bench.router.state(), State::Backup);
}

#[test]
fn adverts_that_are_not_for_this_router_are_discarded_and_counted() {
    let mut bench = Bench::started(Params { unicast_peers: vec![ip(PEER)], ..params(100) });
    let good = bench.advert(200);
    let cases: [(&str, Advert, &str); 5] = [
        (PEER, Advert { vrid: 52, ..good.clone() }, "virtual router 52 is not configured here"),
        (PEER, Advert { version: Version::V2, ..good.clone() }, "version 2 is not the one that is configured"),
        ("192.0.2.3", good.clone(), "it comes from nobody who is configured as a peer"),
        (
            OWN,
            good.clone(),
            "it comes from this node's own address: a loop in the network, or an address that two nodes have",
        ),
        ("fe80::1", good.clone(), "virtual router 51 is not configured here"),
    ];
    let before = bench.router.deadline();
    bench.wait(ms(10));
    for (index, (from, advert, why)) in cases.into_iter().enumerate() {
        let actions = bench.hear_from(from, &advert);
        if index < 4 {
            assert_eq!(warning(&actions), format!("discards an advert of {from} (1 of this kind): {why}"));
        } else {
            assert_eq!(actions, [], "said within a minute");
        }
    }
    assert_eq!(bench.router.deadline(), before);
    let counters = bench.router.picture().counters;
    assert_eq!((counters.adverts_received, counters.discards.iter().sum::<u64>()), (0, 5));
    bench.step(Event::Discarded { from: ip(PEER), discard: Discard::Ttl { ttl: 254 } });
    assert_eq!(bench.router.picture().counters.discards[0], 1);
    bench.hear(200);
    assert_ne!(bench.router.deadline(), before);
}

#[test]
fn a_first_address_that_is_not_link_local_is_counted_or_discarded() {
    let v6 = Params { family: Family::V6, addresses: vec![ip("2001:db8::10")], ..params(100) };
    for link_local_first in [false, true] {
        let mut router = Router::new(at(0), Params { link_local_first, ..v6.clone() }, ip("fe80::1"));
        let mut out = Vec::new();
        router.step(at(0), Event::Start { held: false }, &mut out);
        let advert = router.advert(200, ms(100));
        router.step(at(5), Event::Advert { from: ip("fe80::2"), advert: &advert }, &mut out);
        let counters = router.picture().counters;
        assert_eq!(counters.discards.iter().sum::<u64>(), u64::from(link_local_first));
        assert_eq!(counters.not_link_local, u64::from(!link_local_first));
        assert!(warning(&out).contains("2001:db8::10"), "{}", warning(&out));
    }
}

#[test]
fn other_addresses_are_logged_in_version_3() {
    let mut bench = Bench::started(Params { addresses: vec![ip("192.0.2.10"), ip("192.0.2.11")], ..params(100) });
    let mut advert = bench.advert(200);
    advert.addresses.reverse();
    assert!(bench.hear_from(PEER, &advert).is_empty(), "the order says nothing");
    advert.addresses.pop();
    let actions = bench.hear_from(PEER, &advert);
    assert_eq!(warning(&actions), "192.0.2.2 advertises other addresses for this virtual router than this node");
    assert!(bench.hear_from(PEER, &advert).is_empty(), "once a minute");
    bench.wait(ms(60_000));
    assert!(!bench.hear_from(PEER, &advert).is_empty());
    assert_eq!(bench.router.picture().counters.adverts_received, 4);
}

#[test]
fn version_2_wants_the_same_interval_and_addresses() {
    let v2 = Params { version: Version::V2, interval: ms(1999), ..params(100) };
    let mut bench = Bench::started(v2);
    assert_eq!(bench.router.params().interval, ms(1000), "whole seconds");
    assert_eq!(bench.until_deadline(), Duration::from_nanos(3_609_375_000));
    let good = bench.advert(200);
    bench.wait(ms(500));
    let actions = bench.hear_from(PEER, &Advert { interval: ms(2000), ..good.clone() });
    assert!(warning(&actions).contains("its interval is 2s and not 1s as configured here"), "{actions:?}");
    let other = Advert { addresses: vec![ip("192.0.2.99")], ..good.clone() };
    let actions = bench.hear_from(PEER, &other);
    assert!(warning(&actions).contains("its addresses are not those"), "{actions:?}");
    assert!(bench.until_deadline() < ms(3200));
    bench.hear_from(PEER, &Advert { priority: 255, ..other });
    assert!(bench.until_deadline() > ms(3200), "an owner is heard");
    bench.wait(ms(500));
    bench.hear_from(PEER, &good);
    assert!(bench.until_deadline() > ms(3200));
}

#[test]
fn the_checksum_heard_is_the_checksum_sent() {
    let mut bench = Bench::started(params(100));
    assert_eq!(bench.router.checksum(), ChecksumVariant::Plain);
    let advert = Advert { checksum: ChecksumVariant::PseudoHeader, ..bench.advert(200) };
    bench.hear_from(PEER, &advert);
    assert_eq!(bench.router.checksum(), ChecksumVariant::PseudoHeader);
    assert_eq!(bench.router.advert(1, ms(10)).checksum, ChecksumVariant::PseudoHeader);
}

#[test]
fn intervals_and_priorities_have_bounds() {
    let bounded = |interval| Params { interval, priority: 0, vrid: 0, ..params(1) }.bounded();
    assert_eq!(bounded(Duration::ZERO).interval, ms(10));
    assert_eq!(bounded(us(15_999)).interval, ms(10));
    assert_eq!(bounded(Duration::MAX).interval, ms(40_950));
    assert_eq!((bounded(ms(1)).priority, bounded(ms(1)).vrid), (1, 1));
    let v2 = |interval| Params { version: Version::V2, interval, ..params(1) }.bounded().interval;
    assert_eq!((v2(Duration::ZERO), v2(Duration::MAX)), (ms(1000), ms(255_000)));
    let mut bench = Bench::active(params(100));
    assert_eq!(sent(&bench.step(Event::Priority(255))), [254]);
    assert_eq!(sent(&bench.step(Event::Priority(0))), [1]);
    assert!(sent(&bench.step(Event::Priority(1))).is_empty());
}
