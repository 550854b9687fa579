//! Random clients over random servers: everyone must see what a server of its own would have told it.

use proptest::prelude::*;

use super::pooler::{Rules, World, direct, frames, show, without_noise};
use super::script::{Part, Script, sessions, wild_session};
use crate::prepared::Statements;
use crate::session::client::Turn;
use crate::session::server::Verdict as ServerVerdict;
use crate::wire::frame::{HEAD_LEN, Head, head};

fn rules() -> impl Strategy<Value = Rules> {
    (
        1usize..4,
        1usize..4,
        prop::sample::select(vec![0, 5, 50]),
        prop::sample::select(vec![1, 7, 60, 5000]),
        any::<u64>(),
    )
        .prop_map(|(servers, statements_max, noise, piece_max, seed)| Rules {
            servers,
            statements_max,
            noise,
            piece_max,
            seed,
        })
}

fn scripts(sessions: &[Vec<Part>]) -> Vec<Vec<u8>> {
    sessions.iter().enumerate().map(|(i, parts)| Script::of(i, parts).bytes).collect()
}

/// Runs the scripts over shared servers and compares those from client number `first` on with direct sessions.
fn compare(scripts: &[Vec<u8>], rules: Rules, first: usize) -> World {
    let mut world = World::new(scripts, rules);
    world.run();
    world.assert_over();
    for (i, (client, script)) in world.clients.iter().zip(scripts).enumerate().skip(first) {
        let (expected, committed) = direct(script);
        let said = || format!("client {i}: {:#?}", show(script));
        assert_eq!(client.ended, None, "{}", said());
        assert_eq!(show(&without_noise(&client.got)), show(&expected), "{}", said());
        assert!(without_noise(&client.got) == expected, "{}", said());
        let of_client = |row: &&String| row.split(' ').next_back().is_some_and(|id| id.starts_with(&format!("{i}-")));
        let log = world.log.borrow();
        let ours: Vec<&String> = log.iter().filter(of_client).collect();
        assert_eq!(ours, committed.iter().collect::<Vec<_>>(), "{}", said());
    }
    world
}

/// Every frame of `part` is one of `whole`, in the same order; what was left out satisfies `may_lack`.
fn is_part(part: &[u8], whole: &[u8], may_lack: impl Fn(u8) -> bool) -> bool {
    let mut left = frames(part).into_iter().peekable();
    let lacking: Vec<u8> = frames(whole).iter().filter(|f| left.next_if_eq(*f).is_none()).map(|f| f[0]).collect();
    left.peek().is_none() && lacking.into_iter().all(may_lack)
}

proptest! {
    #[test]
    fn pooled_clients_see_what_direct_clients_see(sessions in sessions(), rules in rules()) {
        compare(&scripts(&sessions), rules, 0);
    }

    #[test]
    fn the_order_of_things_changes_nothing(sessions in sessions(), rules in rules(), seed in any::<u64>()) {
        let scripts = scripts(&sessions);
        let one = compare(&scripts, Rules { noise: 0, ..rules }, 0);
        let other = compare(&scripts, Rules { noise: 0, seed, piece_max: 3, servers: 1, statements_max: 1 }, 0);
        for (one, other) in one.clients.iter().zip(&other.clients) {
            prop_assert_eq!(&one.got, &other.got);
            prop_assert_eq!(one.core.names.len(), other.core.names.len());
        }
    }

    #[test]
    fn a_wild_client_harms_nobody_else(wild in wild_session(), sessions in sessions(), rules in rules()) {
        let mut sessions = sessions;
        sessions.insert(0, wild);
        compare(&scripts(&sessions), rules, 1);
    }

    #[test]
    fn session_pooling_changes_no_byte(session in sessions(), rules in rules()) {
        let scripts = scripts(&session);
        let rules = Rules { servers: scripts.len(), statements_max: 0, ..rules };
        let world = compare(&scripts, rules, 0);
        for (client, script) in world.clients.iter().zip(&scripts) {
            let server = client.last_link.map(|l| &world.links[l].backend.received[..]).unwrap_or_default();
            // What an error skips or a copy ignores, and a Sync of nothing, need not reach the server.
            let skips = frames(&client.got).iter().any(|f| f[0] == b'E');
            prop_assert!(is_part(server, script, |tag| skips || matches!(tag, b'S' | b'H')), "{:?}", show(server));
        }
    }

    #[test]
    fn servers_without_sense_are_not_lent_again(
        script in wild_session(),
        said in prop::collection::vec((any::<bool>(), 0usize..40, prop::collection::vec(any::<u8>(), 0..4)), 0..60),
    ) {
        let script = Script::of(0, &script).bytes;
        let mut world = World::new(std::slice::from_ref(&script), Rules { servers: 1, statements_max: 2, noise: 0, piece_max: 9, seed: 1 });
        let (client, link) = (&mut world.clients[0], &mut world.links[0]);
        let mut asked = frames(&script).into_iter();
        for (client_speaks, tag, body) in said {
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            let mut turn = Turn {
                to_server: &mut to_server,
                to_client: &mut to_client,
                statements_max: 2,
                unknown_name_ends: false,
                intern: &|definition| Statements::default().intern(definition),
            };
            if client_speaks {
                let Some(frame) = asked.next() else { continue };
                let head = head(&frame).unwrap().unwrap();
                client.core.on_frame(head, &frame[HEAD_LEN..], Some(&mut link.core), &mut turn);
            } else {
                let tag = *b"123CITDtnZZZZZEGSsNAcdHV123CZZE\x00\xffRKWv".get(tag).unwrap_or(&b'Z');
                let body = if tag == b'Z' && body.len() > 1 { b"I".to_vec() } else { body };
                let head = Head { tag, total: HEAD_LEN + body.len() };
                let was_free = link.core.is_free();
                let verdict = link.core.on_frame(head, &body, Some(&mut client.core));
                prop_assert!(!matches!(verdict, ServerVerdict::NeedMore(_)), "the frame is whole");
                link.core.put_due_replies(&mut to_client);
                if matches!(verdict, ServerVerdict::Quarantine(_)) {
                    break;
                }
                if link.core.is_free() && !was_free {
                    prop_assert_eq!((tag, &body[..]), (b'Z', &b"I"[..]));
                }
            }
        }
    }

    #[test]
    fn frames_without_sense_never_panic(frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40), 0usize..50, any::<bool>()), 0..40)) {
        let mut world = World::new(&[Vec::new()], Rules { servers: 1, statements_max: 2, noise: 0, piece_max: 9, seed: 1 });
        let (client, link) = (&mut world.clients[0], &mut world.links[0]);
        for (tag, body, missing, from_client) in frames {
            let head = Head { tag, total: HEAD_LEN + body.len() + missing };
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            let mut turn = Turn {
                to_server: &mut to_server,
                to_client: &mut to_client,
                statements_max: 2,
                unknown_name_ends: false,
                intern: &|definition| Statements::default().intern(definition),
            };
            if from_client {
                client.core.on_frame(head, &body, Some(&mut link.core), &mut turn);
            } else {
                link.core.on_frame(head, &body, Some(&mut client.core));
            }
        }
    }
}
