//! The tricky cases one by one: what the server gets, what the client gets, and whether the server is free afterwards.

use std::cell::RefCell;
use std::sync::Arc;

use super::pooler::show;
use super::script::Script;
use crate::prepared::Statements;
use crate::session::client::{ClientCore, NAMES_LEN_MAX, Turn, Verdict as ClientVerdict};
use crate::session::params::{Tracked, Values};
use crate::session::server::{ServerCore, Verdict as ServerVerdict};
use crate::wire::frame::{HEAD_LEN, head, put, put_cstr};

/// A frame of the server, judged.
fn said(server: &mut ServerCore, tag: u8, body: &[u8]) -> ServerVerdict {
    let mut bytes = Vec::new();
    put(&mut bytes, tag, |out| out.extend_from_slice(body));
    server.on_frame(head(&bytes).unwrap().unwrap(), &bytes[HEAD_LEN..], None)
}

#[test]
fn a_stream_goes_both_ways_until_both_have_ended_it() {
    let mut desk = Desk::new(0);
    let frame = |desk: &mut Desk, tag, body: &[u8]| {
        let mut bytes = Vec::new();
        put(&mut bytes, tag, |out| out.extend_from_slice(body));
        desk.judge(&bytes, true).0
    };
    assert_eq!(frame(&mut desk, b'Q', b"START_REPLICATION SLOT s LOGICAL 0/0\0"), ClientVerdict::Forward);
    assert!(!desk.server.is_streaming());
    assert_eq!(said(&mut desk.server, b'W', &[0, 0, 0]), ServerVerdict::Forward);
    assert!(desk.server.is_streaming() && !desk.server.is_free());
    for _ in 0..3 {
        assert_eq!(said(&mut desk.server, b'd', b"w"), ServerVerdict::Forward);
        assert_eq!(frame(&mut desk, b'd', b"r"), ClientVerdict::Forward);
    }
    assert_eq!(frame(&mut desk, b'c', b""), ClientVerdict::Forward);
    // What was on its way still comes.
    assert_eq!(said(&mut desk.server, b'd', b"w"), ServerVerdict::Forward);
    assert_eq!(said(&mut desk.server, b'c', b""), ServerVerdict::Forward);
    for tag in [&b"START_STREAMING\0"[..], b"START_REPLICATION\0"] {
        assert_eq!(said(&mut desk.server, b'C', tag), ServerVerdict::Forward);
    }
    assert_eq!(said(&mut desk.server, b'Z', b"I"), ServerVerdict::ForwardReady);
    assert!(desk.server.is_free() && !desk.server.is_streaming());
}

#[test]
fn an_error_ends_a_stream() {
    let mut desk = Desk::new(0);
    let mut query = Vec::new();
    put(&mut query, b'Q', |out| out.extend_from_slice(b"START_REPLICATION 0/0\0"));
    assert_eq!(desk.judge(&query, true).0, ClientVerdict::Forward);
    assert_eq!(said(&mut desk.server, b'W', &[0, 0, 0]), ServerVerdict::Forward);
    assert_eq!(said(&mut desk.server, b'E', b"SERROR\0\0"), ServerVerdict::Forward);
    assert!(!desk.server.is_streaming());
    assert_eq!(said(&mut desk.server, b'Z', b"I"), ServerVerdict::ForwardReady);
    assert!(desk.server.is_free());
}

/// One client, one server, and what they say.
struct Desk {
    client: ClientCore,
    server: ServerCore,
    statements: RefCell<Statements>,
    statements_max: usize,
    unknown_name_ends: bool,
}

impl Desk {
    fn new(statements_max: usize) -> Self {
        let tracked = Arc::new(Tracked::new([]));
        let values = Values::unset(&tracked);
        let client = ClientCore::new(values.clone());
        let (server, statements) = (ServerCore::new(tracked, values), RefCell::default());
        Self { client, server, statements, statements_max, unknown_name_ends: false }
    }

    /// A frame or its front from the client: the verdict, and what it puts out.
    fn judge(&mut self, bytes: &[u8], with_server: bool) -> (ClientVerdict, Vec<u8>, Vec<u8>) {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut turn = Turn {
            to_server: &mut to_server,
            to_client: &mut to_client,
            statements_max: self.statements_max,
            unknown_name_ends: self.unknown_name_ends,
            intern: &|definition| self.statements.borrow_mut().intern(definition),
        };
        let head = head(bytes).unwrap().unwrap();
        let server = with_server.then_some(&mut self.server);
        let verdict = self.client.on_frame(head, &bytes[HEAD_LEN..], server, &mut turn);
        (verdict, to_server, to_client)
    }

    /// The client says all this: what the server gets, and what the client gets at once.
    fn client(&mut self, say: impl FnOnce(&mut Script) -> &mut Script) -> (Vec<String>, Vec<String>) {
        let mut script = Script::default();
        say(&mut script);
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut rest = &script.bytes[..];
        while !rest.is_empty() {
            let (frame, behind) = rest.split_at(head(rest).unwrap().unwrap().total);
            rest = behind;
            assert!(!self.server.is_full(), "the client was not made to wait");
            let (verdict, server, client) = self.judge(frame, true);
            to_server.extend(server);
            to_client.extend(client);
            match verdict {
                ClientVerdict::Forward => to_server.extend(frame),
                ClientVerdict::Rewritten(front) => to_server.extend(&frame[front..]),
                ClientVerdict::Consumed => {}
                other => panic!("{other:?} for {:?}", show(frame)),
            }
        }
        (show(&to_server), show(&to_client))
    }

    /// The server says all this: what the client gets.
    fn server(&mut self, frames: &[&str]) -> Vec<String> {
        let mut to_client = Vec::new();
        for frame in frames {
            let mut bytes = Vec::new();
            let (tag, text) = frame.split_once(' ').unwrap_or((frame, ""));
            put(&mut bytes, tag.as_bytes()[0], |o| match tag {
                "C" => put_cstr(o, text.as_bytes()),
                _ => o.extend_from_slice(text.as_bytes()),
            });
            let head = head(&bytes).unwrap().unwrap();
            match self.server.on_frame(head, &bytes[HEAD_LEN..], Some(&mut self.client)) {
                ServerVerdict::Forward | ServerVerdict::ForwardReady => to_client.extend(bytes),
                ServerVerdict::Swallow | ServerVerdict::SwallowReady => {}
                other => panic!("{other:?} for {frame}: {:?}", self.server),
            }
            self.server.put_due_replies(&mut to_client);
        }
        show(&to_client).iter().map(|f| f.trim_end().to_owned()).collect()
    }

    /// Prepares, binds and runs, and gets it all over with.
    fn warm_up(&mut self, name: &str, text: &str) {
        self.client(|c| c.parse(name, text).run(name).sync());
        self.server(&["1", "2", "C SELECT 1", "Z I"]);
        assert!(self.server.is_free());
    }
}

fn none() -> Vec<String> {
    Vec::new()
}

/// Something that the client says.
type Say = fn(&mut Script) -> &mut Script;

const NOTHING: [&str; 0] = [];

#[test]
fn syncs_ahead_of_copy_rows_are_no_syncs() {
    // The Sync may be known to be in the copy when it is sent, or only afterwards; the copy may be over by then.
    let mut early = Desk::new(1);
    early.client(|c| c.parse("", "COPYIN").run("").sync());
    early.server(&["1", "2", "G"]);
    assert!(early.server.in_copy_in() && !early.server.is_free());
    assert_eq!(early.client(|c| c.sync().flush().frame(b'd', b"x")).0, ["d x"]);
    early.client(|c| c.frame(b'c', b"").sync());
    assert_eq!(early.server(&["C COPY 1", "Z I"]), ["C COPY 1\\0", "Z I"]);
    assert!(early.server.is_free());

    let mut all_at_once = Desk::new(1);
    all_at_once.client(|c| c.parse("", "COPYIN").run("").sync().frame(b'd', b"x").frame(b'c', b"").sync());
    all_at_once.server(&["1", "2", "G", "C COPY 1"]);
    assert!(!all_at_once.server.is_free());
    all_at_once.server(&["Z I"]);
    assert!(all_at_once.server.is_free());
}

#[test]
fn a_copy_whose_only_sync_was_ignored_is_not_over() {
    let mut desk = Desk::new(1);
    desk.client(|c| c.parse("", "COPYIN").run("").sync().frame(b'c', b""));
    desk.server(&["1", "2", "G", "C COPY 0"]);
    assert!(!desk.server.is_free(), "the server waits for a Sync, and nothing is committed");
    desk.client(|c| c.sync());
    desk.server(&["Z I"]);
    assert!(desk.server.is_free());
}

#[test]
fn a_copy_that_fails_before_it_starts_leaves_its_first_sync_valid() {
    let mut desk = Desk::new(1);
    desk.client(|c| c.parse("", "COPYIN").run("").sync().frame(b'd', b"x").frame(b'c', b"").sync());
    assert_eq!(desk.server(&["1", "2", "E", "Z I", "Z I"]), ["1", "2", "E", "Z I", "Z I"]);
    assert!(desk.server.is_free());
}

#[test]
fn rows_behind_a_failed_copy_are_for_nobody() {
    let mut desk = Desk::new(1);
    desk.client(|c| c.query("COPYIN"));
    desk.server(&["G", "E"]);
    // The client has not seen the error yet.
    desk.client(|c| c.frame(b'd', b"x").frame(b'c', b""));
    desk.server(&["Z I"]);
    assert!(desk.server.is_free());
    let mut late = Vec::new();
    put(&mut late, b'c', |_| {});
    assert_eq!(desk.judge(&late, false), (ClientVerdict::Consumed, vec![], vec![]));

    let mut extended = Desk::new(1);
    extended.client(|c| c.parse("", "COPYIN").run(""));
    extended.server(&["1", "2", "G", "E"]);
    assert_eq!(extended.client(|c| c.frame(b'd', b"x").frame(b'c', b"").query("ROWS 1")), (none(), none()));
    assert_eq!(extended.client(|c| c.sync()).0, ["S "]);
    extended.server(&["Z I"]);
    assert!(extended.server.is_free());
}

#[test]
fn one_query_may_copy_twice() {
    let mut desk = Desk::new(1);
    desk.client(|c| c.query("COPYIN;COPYIN").frame(b'c', b"").frame(b'd', b"x").frame(b'c', b""));
    desk.server(&["G", "C COPY 0", "G", "C COPY 1"]);
    assert!(!desk.server.in_copy_in());
    desk.server(&["Z I"]);
    assert!(desk.server.is_free());
}

#[test]
fn a_message_inside_a_copy_ends_the_session() {
    let mut desk = Desk::new(1);
    desk.client(|c| c.query("COPYIN"));
    desk.server(&["G"]);
    let mut script = Script::default();
    script.query("ROWS 1");
    let ClientVerdict::Fatal(fault) = desk.judge(&script.bytes, true).0 else { panic!("it went on") };
    assert_eq!(fault.text, "unexpected message type 0x51 during COPY from stdin");
}

#[test]
fn names_made_behind_an_error_are_taken_back() {
    let mut desk = Desk::new(3);
    desk.client(|c| c.run("unknown").parse("a", "ROWS 1").sync());
    assert!(desk.server.is_full(), "what `a` is must be known before the next pipeline is judged");
    assert_eq!(desk.server(&["E", "Z I"]), ["E", "Z I"]);
    assert_eq!((desk.server.prepared(), desk.client.names.len()), (0, 0));
    let (to_server, _) = desk.client(|c| c.parse("a", "ROWS 2").run("a").sync());
    assert_eq!(to_server[0], "P PGBOUNCER_2\\0ROWS 2\\0\\0\\0");
    assert_eq!(to_server[1], "B \\0PGBOUNCER_2\\0");
    desk.server(&["1", "2", "C SELECT 2", "Z I"]);
    assert!(desk.server.is_free());
}

#[test]
fn a_close_behind_an_error_did_not_happen() {
    let mut desk = Desk::new(3);
    desk.warm_up("a", "ROWS 1");
    desk.client(|c| c.run("unknown").close_statement("a").parse("a", "ROWS 2").close_statement("a").sync());
    desk.server(&["E", "Z I"]);
    assert_eq!(desk.client(|c| c.run("a").sync()).0[0], "B \\0PGBOUNCER_1\\0");
    assert_eq!(desk.server.prepared(), 1);
}

#[test]
fn close_is_answered_here_in_its_place() {
    let mut desk = Desk::new(3);
    desk.warm_up("a", "ROWS 1");
    let (to_server, to_client) = desk.client(|c| c.run("a").close_statement("a").close_statement("no").sync());
    assert_eq!(to_server, ["B \\0PGBOUNCER_1\\0", "E \\0\\0\\0\\0\\0", "S "]);
    assert_eq!(to_client, NOTHING);
    assert_eq!(desk.server(&["2", "C SELECT 1"]), ["2", "C SELECT 1\\0", "3", "3"]);
    desk.server(&["Z I"]);
    assert_eq!(desk.server.prepared(), 1, "the server keeps it for others");
    // Without a server, and for what is nobody's name.
    let mut script = Script::default();
    script.close_statement("no");
    assert_eq!(desk.judge(&script.bytes, false), (ClientVerdict::Consumed, vec![], b"3\0\0\0\x04".to_vec()));
}

#[test]
fn a_known_statement_is_answered_between_real_replies() {
    let mut desk = Desk::new(3);
    desk.warm_up("a", "ROWS 1");
    let (to_server, to_client) =
        desk.client(|c| c.run("a").parse("b", "ROWS 1").describe_statement("b").run("b").sync());
    assert_eq!(to_client, NOTHING);
    assert!(!to_server.iter().any(|f| f.starts_with('P')), "{to_server:?}");
    let got = desk.server(&["2", "C SELECT 1", "t", "T", "2", "C SELECT 1", "Z I"]);
    assert_eq!(got, ["2", "C SELECT 1\\0", "1", "t", "T", "2", "C SELECT 1\\0", "Z I"]);
    // With nothing owed it is answered at once, and yet the server is kept until the Sync.
    assert_eq!(desk.client(|c| c.parse("c", "ROWS 1")), (none(), vec!["1 ".into()]));
    assert!(!desk.server.is_free());
}

#[test]
fn a_failed_transaction_refuses_a_known_statement_too() {
    let mut desk = Desk::new(3);
    desk.warm_up("a", "ROWS 1");
    desk.client(|c| c.query("BEGIN;FAIL"));
    // Neither before nor after the failure is known may we say ParseComplete.
    let (to_server, to_client) = desk.client(|c| c.parse("b", "ROWS 1").sync());
    assert_eq!(to_server, ["C SPGBOUNCER_1\\0", "P PGBOUNCER_1\\0ROWS 1\\0\\0\\0", "S "]);
    assert_eq!(to_client, NOTHING);
    assert_eq!(desk.server(&["C BEGIN", "E", "Z E", "3", "E", "Z E"]), ["C BEGIN\\0", "E", "Z E", "E", "Z E"]);
    assert_eq!(
        (desk.server.prepared(), desk.client.names.len()),
        (0, 1),
        "it is gone from the server, and b was not made"
    );
    desk.client(|c| c.parse("b", "ROLLBACK").run("b").sync());
    desk.server(&["1", "2", "C ROLLBACK", "Z I"]);
    assert!(desk.server.is_free());
}

#[test]
fn a_name_in_use_is_refused_by_the_server_itself() {
    let mut desk = Desk::new(3);
    desk.warm_up("a", "ROWS 1");
    let (to_server, _) = desk.client(|c| c.query("BEGIN").parse("a", "ROWS 2").run("a").sync());
    // A server's name never stands for a definition that is not its own, whatever becomes of this.
    assert_eq!(to_server[1..3], ["P PGBOUNCER_2\\0ROWS 2\\0\\0\\0"; 2]);
    let got = desk.server(&["C BEGIN", "Z T", "1", "E 42P05", "Z E"]);
    assert_eq!(got, ["C BEGIN\\0", "Z T", "E 42P05", "Z E"]);
    assert_eq!(desk.server.prepared(), 2);
    desk.client(|c| c.query("ROLLBACK"));
    desk.server(&["C ROLLBACK", "Z I"]);
    assert!(desk.server.is_free());
    assert_eq!(desk.client(|c| c.run("a")).0[0], "B \\0PGBOUNCER_1\\0", "a is what it was");
}

#[test]
fn unknown_names_are_refused_by_the_server_itself() {
    let mut desk = Desk::new(3);
    desk.warm_up("a", "ROWS 1");
    let (to_server, _) = desk.client(|c| c.run("b").describe_statement("PGBOUNCER_1").run("PGBOUNCER_1").sync());
    assert_eq!(to_server[0], "B \\0b\\0");
    assert_eq!(to_server[2], "D Sunknown PGBOUNCER_1\\0");
    assert_eq!(to_server[3], "B \\0unknown PGBOUNCER_1\\0");
    let text = |desk: &Desk| desk.server.misuse().map(|misuse| misuse.fault().text.into_owned());
    assert!(text(&desk).is_some_and(|text| text.contains("statement \"b\" does not exist")));
    desk.server(&["E 26000", "Z I"]);
    assert!(desk.server.is_free());
    assert_eq!(text(&desk), None);
}

#[test]
fn unknown_names_end_the_session_if_so_wanted() {
    let mut desk = Desk { unknown_name_ends: true, ..Desk::new(3) };
    desk.warm_up("a", "ROWS 1");
    desk.warm_up("", "ROWS 1");
    for say in [(|s| s.run("b")) as Say, |s| s.describe_statement("b")] {
        let mut script = Script::default();
        say(&mut script);
        let ClientVerdict::Fatal(fault) = desk.judge(&script.bytes, true).0 else { panic!("it went on") };
        assert_eq!(fault.text, "prepared statement did not exist");
    }
}

#[test]
fn clients_may_use_our_prefix_for_names_of_their_own() {
    let mut desk = Desk::new(3);
    desk.warm_up("a", "ROWS 1");
    desk.warm_up("PGBOUNCER_1", "ROWS 2");
    assert_eq!(desk.client(|c| c.run("PGBOUNCER_1").sync()).0[0], "B \\0PGBOUNCER_2\\0");
}

#[test]
fn the_least_recently_used_statement_makes_room() {
    let mut desk = Desk::new(2);
    desk.warm_up("a", "ROWS 1");
    desk.warm_up("b", "ROWS 2");
    desk.client(|c| c.run("a").sync());
    desk.server(&["2", "C SELECT 1", "Z I"]);
    let (to_server, _) = desk.client(|c| c.parse("c", "ROWS 3").run("b").sync());
    assert_eq!(to_server[..2], ["C SPGBOUNCER_2\\0", "P PGBOUNCER_3\\0ROWS 3\\0\\0\\0"]);
    assert_eq!(to_server[2..4], ["C SPGBOUNCER_1\\0", "P PGBOUNCER_2\\0ROWS 2\\0\\0\\0"]);
    assert_eq!(desk.server(&["3", "1", "3", "1", "2", "C SELECT 2", "Z I"]), ["1", "2", "C SELECT 2\\0", "Z I"]);
    assert_eq!(desk.server.prepared(), 2);
}

#[test]
fn an_eviction_that_was_skipped_did_not_happen() {
    let mut desk = Desk::new(1);
    desk.warm_up("a", "ROWS 1");
    let (to_server, _) = desk.client(|c| c.run("unknown").parse("b", "ROWS 2").sync());
    assert_eq!(to_server[2], "C SPGBOUNCER_1\\0");
    desk.server(&["E", "Z I"]);
    let (to_server, _) = desk.client(|c| c.run("a").sync());
    assert_eq!(to_server[0], "B \\0PGBOUNCER_1\\0", "the server still has it and would refuse a second Parse");
    desk.server(&["2", "C SELECT 1", "Z I"]);
    assert_eq!(desk.server.prepared(), 1);
}

#[test]
fn what_follows_discard_all_waits_for_it() {
    for (first, say) in [
        ("C DISCARD ALL", (|c| c.query(" Discard All")) as Say),
        ("C DEALLOCATE ALL", |c| c.query("deallocate all;")),
        ("1", |c| c.parse("", "DEALLOCATE ALL").run("").sync()),
    ] {
        let mut desk = Desk::new(3);
        desk.warm_up("a", "ROWS 1");
        desk.client(say);
        assert!(desk.server.is_full(), "{first}");
        let replies = if first == "1" { vec!["1", "2", "C DEALLOCATE ALL", "Z I"] } else { vec![first, "Z I"] };
        desk.server(&replies);
        assert!(!desk.server.is_full() && desk.server.is_free());
        assert_eq!((desk.server.prepared(), desk.client.names.len()), (0, 0));
        assert_eq!(desk.client(|c| c.parse("a", "ROWS 1")).0, ["P PGBOUNCER_1\\0ROWS 1\\0\\0\\0"]);
    }
}

#[test]
fn the_rows_of_a_copy_do_not_wait_for_a_deallocate_ahead_of_it() {
    let mut desk = Desk::new(3);
    desk.client(|c| c.query("DEALLOCATE ALL;COPYIN"));
    assert!(desk.server.is_full());
    desk.server(&["C DEALLOCATE ALL", "G"]);
    assert!(!desk.server.is_full(), "the server waits for rows");
}

#[test]
fn statements_parsed_behind_an_unforeseen_forgetting_stay() {
    // DISCARD ALL not at the front of a Query is only noticed when it is over.
    let mut desk = Desk::new(2);
    desk.warm_up("a", "ROWS 1");
    desk.warm_up("b", "ROWS 2");
    desk.client(|c| c.query("ROWS 1;DEALLOCATE ALL"));
    desk.client(|c| c.parse("c", "ROWS 3").close_statement("b").run("unknown").sync());
    // The Close of the evicted statement is skipped, but that does not bring it back; nor does it the name.
    desk.server(&["C SELECT 1", "C DEALLOCATE ALL", "Z I", "E", "Z I"]);
    assert_eq!((desk.server.prepared(), desk.client.names.len()), (0, 0));
    assert!(desk.server.is_free());

    desk.warm_up("a", "ROWS 1");
    desk.client(|c| c.query("ROWS 1;DEALLOCATE ALL").parse("c", "ROWS 3").sync());
    desk.server(&["C SELECT 1", "C DEALLOCATE ALL", "Z I", "1", "Z I"]);
    assert_eq!((desk.server.prepared(), desk.client.names.len()), (1, 1));

    // A name that was in use when it was judged, and free when the server came to it: all that we know is in doubt.
    desk.client(|c| c.query("ROWS 1;DEALLOCATE ALL").parse("c", "ROWS 3").sync());
    desk.server(&["C SELECT 1", "C DEALLOCATE ALL", "Z I"]);
    let verdict = desk.server.on_frame(head(b"1\0\0\0\x04").unwrap().unwrap(), b"", Some(&mut desk.client));
    assert_eq!(verdict, ServerVerdict::Quarantine("prepared statements went away unseen"));
}

#[test]
fn a_query_ends_a_pipeline() {
    let mut desk = Desk::new(1);
    desk.warm_up("a", "ROWS 1");
    // As drivers do that close old statements ahead of the next query.
    desk.client(|c| c.close_statement("a").query("ROWS 1"));
    desk.server(&["T", "D", "C SELECT 1", "Z I"]);
    assert!(desk.server.is_free());
    // But for the skipping after an error, which only a Sync ends.
    desk.client(|c| c.run("a").query("ROWS 1"));
    desk.server(&["E"]);
    assert!(!desk.server.is_free());
    assert_eq!(desk.client(|c| c.query("ROWS 1")).0, NOTHING);
    desk.client(|c| c.sync());
    desk.server(&["Z I"]);
    assert!(desk.server.is_free());
}

#[test]
fn an_error_at_the_sync_itself_is_followed_by_ready() {
    let mut desk = Desk::new(1);
    desk.client(|c| c.parse("", "DEFER").run("").sync());
    assert_eq!(desk.server(&["1", "2", "C INSERT 0 1", "E", "Z I"]).len(), 5);
    assert!(desk.server.is_free());
}

#[test]
fn names_of_any_length_up_to_the_limit_are_waited_for() {
    let mut desk = Desk::new(1);
    let name = "n".repeat(100_000);
    desk.client(|c| c.parse(&name, "ECHO").sync());
    desk.server(&["1", "Z I"]);
    let mut script = Script::default();
    script.bind("portal", &name, &[b'p'; 500_000]);
    let mut there = HEAD_LEN;
    let verdict = loop {
        // With and without a server the same is asked for, or a server would be lent and given back without end.
        let without = desk.judge(&script.bytes[..there], false).0;
        let (verdict, to_server, _) = desk.judge(&script.bytes[..there], true);
        match (verdict, without) {
            (ClientVerdict::NeedMore(len), ClientVerdict::NeedMore(same)) => {
                assert!(len > there && len < 300_000 && len == same, "{len} after {there}");
                there = len;
            }
            (verdict, without) => {
                assert_eq!(without, ClientVerdict::NeedServer);
                assert_eq!(&to_server[HEAD_LEN..], b"portal\0PGBOUNCER_1\0");
                assert_eq!(head(&to_server).unwrap().unwrap().total, HEAD_LEN + 7 + 12 + 500_000);
                break verdict;
            }
        }
    };
    assert_eq!(verdict, ClientVerdict::Rewritten(HEAD_LEN + 7 + 100_001));

    let mut endless = Script::default();
    endless.bind("", &"n".repeat(NAMES_LEN_MAX), b"");
    endless.target(b'D', b'S', &"n".repeat(NAMES_LEN_MAX));
    let mut rest = &endless.bytes[..];
    while !rest.is_empty() {
        let total = head(rest).unwrap().unwrap().total;
        let verdict = desk.judge(&rest[..HEAD_LEN + NAMES_LEN_MAX], true).0;
        assert!(matches!(verdict, ClientVerdict::Fatal(_)), "{verdict:?}");
        rest = &rest[total..];
    }
}

#[test]
fn no_server_is_asked_for_before_a_frame_can_be_judged() {
    let mut script = Script::default();
    script.query("ROWS 1").parse("a", "ROWS 1").parse("", "ROWS 1").describe_statement("a").close_statement("a");
    script.bind("", "a", b"").execute("", 0).target(b'C', b'P', "").frame(b'F', &[0; 10]);
    let mut rest = &script.bytes[..];
    while !rest.is_empty() {
        let total = head(rest).unwrap().unwrap().total;
        for there in HEAD_LEN..=total {
            let without = Desk::new(1).judge(&rest[..there], false).0;
            let with = Desk::new(1).judge(&rest[..there], true).0;
            match without {
                ClientVerdict::NeedServer => assert!(!matches!(with, ClientVerdict::NeedMore(_)), "{with:?}"),
                ClientVerdict::NeedMore(_) => assert_eq!(without, with),
                ClientVerdict::Consumed => assert!(there == total && rest[0] == b'C'),
                other => panic!("{other:?}"),
            }
        }
        rest = &rest[total..];
    }
}

#[test]
fn malformed_messages_end_the_session() {
    let frames: [(u8, &[u8]); 10] = [
        (b'P', b"a\0SELECT"),
        (b'P', b"a\0SELECT\0\0\x01"),
        (b'B', b""),
        (b'B', b"no end"),
        (b'D', b""),
        (b'D', b"Xa\0"),
        (b'C', b"Sa"),
        (b'C', b"Sa\0more"),
        (b'p', b"password\0"),
        (0, b""),
    ];
    for (tag, body) in frames {
        let mut frame = Vec::new();
        put(&mut frame, tag, |o| o.extend_from_slice(body));
        let verdict = Desk::new(1).judge(&frame, true).0;
        assert!(matches!(verdict, ClientVerdict::Fatal(_)), "{verdict:?} for {}", char::from(tag));
    }
}

#[test]
fn a_server_out_of_step_is_quarantined() {
    let cases: [(Say, &[&str]); 12] = [
        (|c| c, &["Z I"]),
        (|c| c, &["C SELECT 1"]),
        (|c| c, &["T"]),
        (|c| c, &["n"]),
        (|c| c, &["D row"]),
        (|c| c, &["1"]),
        (|c| c, &["R"]),
        (|c| c.query("ROWS 1"), &["2"]),
        (|c| c.query("ROWS 1"), &["Z ?"]),
        (|c| c.query("ROWS 1"), &["Z II"]),
        (|c| c.parse("", "ROWS 1").sync(), &["Z I"]),
        (|c| c.sync(), &["G"]),
    ];
    for (say, frames) in cases {
        let mut desk = Desk::new(1);
        desk.client(say);
        let mut bytes = Vec::new();
        let (tag, text) = frames[0].split_once(' ').unwrap_or((frames[0], ""));
        put(&mut bytes, tag.as_bytes()[0], |o| o.extend_from_slice(text.as_bytes()));
        let verdict = desk.server.on_frame(head(&bytes).unwrap().unwrap(), &bytes[HEAD_LEN..], Some(&mut desk.client));
        assert!(matches!(verdict, ServerVerdict::Quarantine(_)), "{verdict:?} for {frames:?}");
    }
    // A ReadyForQuery without a state must not borrow one from the next message.
    let mut desk = Desk::new(1);
    desk.client(|c| c.query("ROWS 1"));
    let bytes = b"Z\0\0\0\x04I";
    let verdict = desk.server.on_frame(head(bytes).unwrap().unwrap(), &bytes[HEAD_LEN..], Some(&mut desk.client));
    assert!(matches!(verdict, ServerVerdict::Quarantine(_)), "{verdict:?}");
}

#[test]
fn failing_statements_leave_no_trace_in_memory() {
    let mut desk = Desk::new(3);
    for i in 0..10_000 {
        desk.client(|c| c.parse("a", &format!("SYNTAX {i}")).sync());
        desk.server(&["E", "Z I"]);
    }
    assert!(desk.server.is_free());
    assert!(format!("{:?}", desk.server).len() < 10_000, "something piles up");
}
