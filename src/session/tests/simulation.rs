//! Random clients over random servers: everyone must see what a server of its own would have told it.

use proptest::prelude::*;

use super::pooler::{Rules, World, direct, show, without_noise};
use super::script::{Part, Script, sessions};

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

/// Runs the scripts over shared servers and compares each with a direct session.
pub(super) fn compare(scripts: &[Vec<u8>], rules: Rules) -> World {
    let mut world = World::new(scripts, rules);
    world.run();
    world.assert_over();
    for (i, (client, script)) in world.clients.iter().zip(scripts).enumerate() {
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

proptest! {
    #[test]
    fn pooled_clients_see_what_direct_clients_see(sessions in sessions(), rules in rules()) {
        compare(&scripts(&sessions), rules);
    }
}
