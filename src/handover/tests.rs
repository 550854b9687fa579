//! The form of the state: nothing is lost on the way, nothing damaged is believed, other versions are told apart.

use proptest::prelude::*;

use super::dialogue::Message;
use super::format::{FormatError, OLDEST, VERSION, Versions, decode, encode};
use super::state::{Bytes, Client, Key, PassThrough, Place, Pool, Server, State, Statement};

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes)
}

prop_compose! {
    fn client(id: u64, at: u32)(
        input in bytes(), name in bytes(), user in ".{0,9}", since in any::<Option<u64>>(), times in any::<[u64; 4]>(),
        key in prop::option::of((any::<u32>(), bytes()).prop_map(|(pid, secret)| Key { pid, secret })), served in any::<bool>()
    ) -> Client {
        Client {
            descriptor: at, pool: 0, id, database: "d".into(), user, connected_at: times[0], request_at: times[1],
            application_name: "a".into(), tls: None, key, values: 0, names: vec![(name, 7)], input,
            waiting_since: since, transaction_began: times[2], ready_at: times[3], served, mode: b't',
        }
    }
}

prop_compose! {
    fn state()(count in 0u32..6)(
        clients in (0..count).map(|i| client(u64::from(i) + 1, i)).collect::<Vec<_>>(),
        held in any::<bool>(), place in prop_oneof![bytes().prop_map(Place::Unix), (".{0,9}", any::<u16>()).prop_map(|(h, p)| Place::Tcp(h, p))],
        keys in bytes(), definition in bytes(), value in bytes(), paused in any::<bool>()
    ) -> State {
        let count = u32::try_from(clients.len()).unwrap();
        let server = Server {
            descriptor: count, id: 50, client: clients.first().map(|c| c.id).filter(|_| held), status: b'I',
            cancel: Some((place, Key::default())), statements: vec![7], used: true, ..Server::default()
        };
        State {
            program: "pgtandem".into(), last_id: 99, last_statement: 7, descriptors: count + 1,
            values: vec![vec![("TimeZone".into(), value)]],
            statements: vec![Statement { id: 7, definition }],
            pools: vec![Pool {
                reported: vec![(Bytes(b"server_version".to_vec()), Bytes(b"15".to_vec()))], reported_values: Some(0),
                pass_through: Some(PassThrough { keys, iterations: 4096, ..PassThrough::default() }), ..Pool::default()
            }],
            servers: vec![server], clients, paused, ..State::default()
        }
    }
}

proptest! {
    #[test]
    fn a_state_comes_back_as_it_was(state in state()) {
        prop_assert_eq!(decode(&encode(&state).unwrap()), Ok(state));
    }

    #[test]
    fn damage_is_an_error_or_changes_plain_values_only(state in state(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encode(&state).unwrap().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(read) = decode(&bytes) {
            // What was believed is at least complete in itself.
            prop_assert_eq!(decode(&encode(&read).unwrap()), Ok(read));
        }
    }

    #[test]
    fn a_part_is_never_taken_for_the_whole(state in state(), at in any::<prop::sample::Index>()) {
        let bytes = encode(&state).unwrap();
        let cut = &bytes[..at.index(bytes.len())];
        let refused = matches!(decode(cut), Err(FormatError::Foreign | FormatError::Length { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn bytes_of_strangers_are_no_state(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
        let _ = Message::decode(&bytes);
    }
}

#[test]
fn a_newer_state_is_read_if_its_writer_says_so_and_declined_if_not() {
    let mut bytes = encode(&State::default()).unwrap().to_vec();
    bytes[8..12].copy_from_slice(&(VERSION + 5).to_be_bytes());
    assert!(decode(&bytes).is_ok());
    bytes[12..16].copy_from_slice(&(VERSION + 1).to_be_bytes());
    assert_eq!(decode(&bytes), Err(FormatError::Version { written: VERSION + 5, readable: VERSION + 1 }));
    bytes[8..16].copy_from_slice(&[0; 8]);
    assert_eq!(decode(&bytes), Err(FormatError::Version { written: 0, readable: 0 }));
    let older = Versions { oldest: 0, newest: OLDEST - 1 };
    assert!(!Versions::OWN.readable_by(older) && Versions::OWN.readable_by(Versions::OWN));
}

#[test]
fn unknown_fields_are_skipped_and_missing_ones_have_defaults() {
    let body =
        rmp_serde::to_vec_named(&serde_json::json!({ "last_id": 5, "of_the_future": [1, 2, { "a": null }] })).unwrap();
    let mut bytes = encode(&State::default()).unwrap()[..16].to_vec();
    bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
    bytes.extend_from_slice(&body);
    assert_eq!(decode(&bytes), Ok(State { last_id: 5, ..State::default() }));
}

#[test]
fn places_that_do_not_exist_are_not_believed() {
    let good = State {
        descriptors: 2,
        last_id: 9,
        values: vec![Vec::new()],
        pools: vec![Pool::default()],
        servers: vec![Server { status: b'I', id: 1, client: Some(2), ..Server::default() }],
        clients: vec![Client { id: 2, descriptor: 1, ..Client::default() }],
        ..State::default()
    };
    let reads = |change: &dyn Fn(&mut State)| {
        let mut state = good.clone();
        change(&mut state);
        decode(&encode(&state).unwrap()).is_ok()
    };
    assert!(reads(&|_| {}));
    assert!(!reads(&|s| s.clients[0].descriptor = 0), "one socket for two");
    assert!(!reads(&|s| s.clients[0].descriptor = 2));
    assert!(!reads(&|s| s.clients[0].pool = 1));
    assert!(!reads(&|s| s.clients[0].values = 1));
    assert!(!reads(&|s| s.clients[0].names = vec![(Bytes::default(), 1)]));
    assert!(!reads(&|s| s.clients[0].id = 10), "an id that may be given again");
    assert!(!reads(&|s| s.clients[0].id = 1), "one id for two");
    assert!(!reads(&|s| s.servers[0].client = Some(3)));
    assert!(!reads(&|s| s.servers[0].status = b'x'));
    assert!(!reads(&|s| s.servers[0].statements = vec![1]));
    assert!(
        !reads(&|s| {
            s.servers[0].client = None;
            s.servers[0].status = b'T';
        }),
        "idle inside a transaction"
    );
}

#[test]
fn messages_come_back_as_they_were() {
    let all = [
        Message::Hello { versions: (1, 2), program: "pgtandem 1".into(), pid: 7 },
        Message::Offer { listeners: vec!["tcp".into()], pidfile: true, helper: false, pid: 1, cancels: true },
        Message::Decline { reason: "busy".into() },
        Message::Ready,
        Message::Descriptors { count: 250 },
        Message::State { len: 1 << 40 },
        Message::Adopted,
        Message::Go,
        Message::Cancel { key: Key { pid: 7, secret: Bytes(vec![1; 32]) } },
        Message::Done,
    ];
    for message in all {
        assert_eq!(Message::decode(&message.encode()), Some(message));
    }
}
