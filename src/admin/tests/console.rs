//! The protocol machine: simple and extended, errors, actions, and arbitrary bytes.

use proptest::prelude::*;

use super::*;
use crate::fault::{Culprit, Fault};

/// Runs a whole simple query for which the daemon has `result` ready.
fn act(console: &mut Console, query: &str, result: ActionResult) -> Vec<String> {
    let turn = simple(console, query);
    assert!(turn.reply.is_empty() && turn.ran_query, "{turn:?}");
    assert!(matches!(turn.then, Then::Act(_)), "{turn:?}");
    assert!(console.pending().is_some());
    lines(&console.finish(result).reply)
}

/// The answer to a simple query that needs no daemon.
fn answer(console: &mut Console, query: &str) -> Vec<String> {
    let turn = simple(console, query);
    assert_eq!(turn.then, Then::Read, "{query}");
    lines(&turn.reply)
}

#[test]
fn a_simple_show() {
    let mut console = console(Rights::Stats);
    assert_eq!(
        act(&mut console, "SHOW VERSION;", ActionResult::Snapshot(Box::new(snapshot()))),
        ["Columns version:25", "Row PgBouncer 1.25.2", "Complete SHOW", "Ready I"]
    );
    let Then::Act(action) = simple(&mut console, "SHOW SOCKETS").then else { panic!("no action") };
    assert_eq!(action, Action::Show { item: Item::Sockets, needs: Needs::CLIENTS | Needs::SERVERS | Needs::LOGINS });
    let Turn { reply, .. } = console.finish(ActionResult::Snapshot(Box::new(snapshot())));
    let lines = lines(&reply);
    assert_eq!(lines.len(), 1 + 6 + 2);
    assert!(lines[1].starts_with("Row C|ann|crm|none|cl_waiting|"), "{}", lines[1]);
}

#[test]
fn commands_and_their_tags() {
    let mut console = console(Rights::Admin);
    for (query, tag) in [
        ("RELOAD", "RELOAD"),
        ("pause shop", "PAUSE"),
        ("RESUME", "RESUME"),
        ("SUSPEND", "SUSPEND"),
        ("DISABLE shop", "DISABLE"),
        ("ENABLE shop", "ENABLE"),
        ("RECONNECT", "RECONNECT"),
        ("KILL", "KILL"),
        ("KILL_CLIENT 3", "KILL_CLIENT"),
        ("WAIT_CLOSE", "WAIT_CLOSE"),
        ("SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN"),
        ("SWITCHOVER main", "SWITCHOVER"),
        ("ha maintenance on", "HA MAINTENANCE ON"),
        ("HA MAINTENANCE OFF", "HA MAINTENANCE OFF"),
        ("PAUSE shop ON PAIR", "PAUSE"),
        ("set Verbose = '2'", "SET Verbose=2"),
    ] {
        assert_eq!(act(&mut console, query, ActionResult::Done), [format!("Complete {tag}"), "Ready I".into()]);
    }
    assert_eq!(
        act(&mut console, "SET client_tls_key_file='x'", ActionResult::DoneWithNotice(TLS_NOT_APPLIED.into())),
        [format!("NOTICE 00000 {TLS_NOT_APPLIED}"), "Complete SET client_tls_key_file=x".into(), "Ready I".into()]
    );
    assert!(act(&mut console, "SHUTDOWN", ActionResult::Done).is_empty());
}

#[test]
fn refusals_speak_pgbouncers_words() {
    use Refusal::*;
    let mut console = console(Rights::Admin);
    for (query, refusal, text) in [
        ("PAUSE", AlreadyPaused, "already suspended/paused"),
        ("PAUSE dne", NoSuchDatabase, "no such database: dne"),
        ("PAUSE pgbouncer", ConsoleDatabase, "cannot pause admin db: pgbouncer"),
        ("RESUME", NotPaused, "pooler is not paused/suspended"),
        ("RESUME", ShuttingDown, "pooler is shutting down"),
        ("RESUME shop", NotPaused, "database shop is not paused"),
        ("SUSPEND", PausedDatabases, "cannot suspend with paused databases"),
        ("DISABLE pgbouncer", ConsoleDatabase, "cannot disable admin db: pgbouncer"),
        ("ENABLE pgbouncer", ConsoleDatabase, "cannot enable admin db: pgbouncer"),
        ("RECONNECT pgbouncer", ConsoleDatabase, "cannot reconnect admin db: pgbouncer"),
        ("KILL pgbouncer", ConsoleDatabase, "cannot kill admin db: pgbouncer"),
        ("WAIT_CLOSE pgbouncer", ConsoleDatabase, "cannot wait in admin db: pgbouncer"),
        ("KILL_CLIENT 1000", NoSuchClient, "client not found"),
        ("SET nokey=1", SetFailed, "SET failed"),
        ("SWITCHOVER main", NoSuchRouter, "no such virtual router: main"),
        ("PAUSE dne ON PAIR", NoSuchDatabase, "no such database: dne"),
        ("PAUSE pgbouncer ON PAIR", ConsoleDatabase, "cannot pause admin db: pgbouncer"),
    ] {
        let lines = act(&mut console, query, ActionResult::Refused(refusal));
        assert_eq!(lines, [format!("ERROR 08P01 {text}"), "Ready I".into()]);
    }
    assert_eq!(
        act(&mut console, "RELOAD", ActionResult::Refused(ReloadFailed)),
        ["ERROR F0000 RELOAD failed, see logs for additional details", "Ready I"]
    );
    assert_eq!(
        act(&mut console, "PAUSE", ActionResult::Cancelled),
        ["ERROR 57014 canceling statement due to user request", "Ready I"]
    );
    let failed = ActionResult::Failed(Fault::error(Culprit::Us, "out of luck").with_sqlstate("58000"));
    assert_eq!(act(&mut console, "RECONNECT", failed), ["ERROR 58000 out of luck", "Ready I"]);
}

#[test]
fn a_node_without_a_pair_says_so() {
    let alone = || ActionResult::Snapshot(Box::default());
    let mut console = console(Rights::Stats);
    for query in ["SHOW HA", "SHOW HA HISTORY", "SHOW HA LINK"] {
        let lines = act(&mut console, query, alone());
        let notice = "NOTICE 00000 no [ha] section: this node is not part of a pair";
        assert_eq!(lines[1..], [notice, "Complete SHOW", "Ready I"], "{query}");
    }
    assert_eq!(act(&mut console, "SHOW HA", ActionResult::Snapshot(Box::new(snapshot()))).len(), 1 + 2 + 2);
    let mut console = super::console(Rights::Admin);
    for query in ["SWITCHOVER", "HA MAINTENANCE ON", "PAUSE shop ON PAIR"] {
        let lines = act(&mut console, query, ActionResult::Refused(Refusal::NoPair));
        assert_eq!(lines, ["ERROR 55000 no [ha] section: this node is not part of a pair", "Ready I"], "{query}");
    }
}

#[test]
fn verdicts_and_log_lines() {
    let shop = DatabaseStanding { is_console: false, is_paused: true };
    let idle = Standing { database: Some(shop), ..Standing::default() };
    let paused = Standing { activity: Activity::Paused, ..idle };
    let db = || Some("shop".to_owned());
    let verdict = |action: &Action, standing: &Standing| {
        let Verdict { log, refusal } = action.verdict(standing);
        (log, refusal)
    };
    assert_eq!(verdict(&Action::Pause(None), &idle), (true, None));
    assert_eq!(verdict(&Action::Pause(db()), &paused), (false, Some(Refusal::AlreadyPaused)));
    assert_eq!(verdict(&Action::Pause(db()), &Standing::default()), (true, Some(Refusal::NoSuchDatabase)));
    assert_eq!(verdict(&Action::Kill(None), &paused), (false, Some(Refusal::AlreadyPaused)));
    assert_eq!(verdict(&Action::Resume(None), &idle), (true, Some(Refusal::NotPaused)));
    assert_eq!(verdict(&Action::Resume(None), &paused), (true, None));
    let ending = Standing { shutting_down: true, ..paused };
    assert_eq!(verdict(&Action::Resume(None), &ending), (true, Some(Refusal::ShuttingDown)));
    assert_eq!(verdict(&Action::Resume(db()), &ending), (true, None));
    let running = Standing { database: Some(DatabaseStanding::default()), ..idle };
    assert_eq!(verdict(&Action::Resume(db()), &running), (true, Some(Refusal::NotPaused)));
    let one_paused = Standing { paused_databases: 1, ..idle };
    assert_eq!(verdict(&Action::Suspend, &one_paused), (false, Some(Refusal::PausedDatabases)));
    let own = Standing { database: Some(DatabaseStanding { is_console: true, is_paused: false }), ..idle };
    assert_eq!(verdict(&Action::Disable("pgbouncer".into()), &own), (true, Some(Refusal::ConsoleDatabase)));
    assert_eq!(verdict(&Action::KillClient(3), &idle), (false, None));

    assert_eq!(Action::Reload.log_text().as_deref(), Some("RELOAD command issued"));
    assert_eq!(Action::Enable("shop".into()).log_text().as_deref(), Some("ENABLE 'shop' command issued"));
    let pair = |action| Action::OnPair(Box::new(action));
    assert_eq!(Action::Switchover(None).log_text().as_deref(), Some("SWITCHOVER command issued"));
    assert_eq!(Action::Switchover(db()).log_text().as_deref(), Some("SWITCHOVER 'shop' command issued"));
    assert_eq!(Action::HaMaintenance(true).log_text().as_deref(), Some("HA MAINTENANCE ON command issued"));
    assert_eq!(pair(Action::Pause(db())).log_text().as_deref(), Some("PAUSE 'shop' ON PAIR command issued"));
    assert_eq!(pair(Action::Reload).log_text().as_deref(), Some("RELOAD ON PAIR command issued"));
    assert_eq!(verdict(&pair(Action::Pause(db())), &paused), (false, Some(Refusal::AlreadyPaused)));
    assert_eq!(verdict(&pair(Action::Resume(None)), &idle), (true, Some(Refusal::NotPaused)));
    assert_eq!(verdict(&pair(Action::Pause(db())), &idle), (true, None));
    assert!(pair(Action::Pause(None)).is_already_so(Refusal::AlreadyPaused));
    assert!(Action::Resume(db()).is_already_so(Refusal::NotPaused));
    assert!(!Action::Kill(None).is_already_so(Refusal::AlreadyPaused), "nobody was killed");
    assert_eq!(verdict(&Action::Switchover(db()), &paused), (true, None), "a router is no database");
    assert!(pair(Action::Pause(db())).registers_database() && !pair(Action::Resume(db())).registers_database());
    let wait = Action::Shutdown(ShutdownMode::WaitForClients);
    assert_eq!(wait.log_text().as_deref(), Some("SHUTDOWN WAIT_FOR_CLIENTS command issued"));
    assert!(Action::Pause(db()).registers_database() && !Action::Resume(db()).registers_database());
}

#[test]
fn stats_users_may_only_look() {
    let mut console = console(Rights::Stats);
    for query in [
        "RELOAD",
        "SHOW FDS",
        "DISABLE",
        "KILL_CLIENT x",
        "SET k=v",
        "SHUTDOWN",
        "PAUSE shop",
        "SWITCHOVER",
        "HA MAINTENANCE ON",
        "PAUSE ON PAIR",
    ] {
        assert_eq!(answer(&mut console, query), ["ERROR 08P01 admin access needed", "Ready I"], "{query}");
    }
    // What is no command is no command for anybody.
    let invalid = "ERROR 08P01 invalid command 'RELOAD x', use SHOW HELP;";
    assert_eq!(answer(&mut console, "RELOAD x"), [invalid, "Ready I"]);
    assert_eq!(answer(&mut console, "SET datestyle=ISO"), ["NOTICE 00000 SET ignored", "Complete SET", "Ready I"]);
}

#[test]
fn arguments_are_checked_after_rights() {
    let mut console = console(Rights::Admin);
    assert_eq!(answer(&mut console, "DISABLE"), ["ERROR 08P01 a database is required", "Ready I"]);
    assert_eq!(answer(&mut console, "ENABLE \"\""), ["ERROR 08P01 a database is required", "Ready I"]);
    let invalid = "ERROR 08P01 invalid client pointer supplied";
    assert_eq!(answer(&mut console, "KILL_CLIENT non_existant"), [invalid, "Ready I"]);
    assert_eq!(answer(&mut console, ""), ["ERROR 08P01 invalid command '', use SHOW HELP;", "Ready I"]);
    let turn = simple(&mut console, "nonsense");
    assert_eq!(turn.errors[0].text, "invalid command 'nonsense', use SHOW HELP;");
    let long = answer(&mut console, &"x".repeat(MAX_QUERY_BYTES + 1));
    assert!(long[0].starts_with("ERROR 54000 query too long"), "{}", long[0]);
}

#[test]
fn what_drivers_send_unasked_is_answered() {
    let mut console = console(Rights::Stats);
    assert_eq!(
        answer(&mut console, "SHOW standard_conforming_strings"),
        ["Columns standard_conforming_strings:25", "Row on", "Complete SHOW", "Ready I"]
    );
    assert_eq!(answer(&mut console, "BEGIN"), ["NOTICE 00000 BEGIN ignored", "Complete BEGIN", "Ready I"]);
    assert_eq!(answer(&mut console, "SHOW HELP"), ["NOTICE 00000 Console usage", "Complete SHOW", "Ready I"]);
    assert_eq!(answer(&mut console, "UNLISTEN *; RESET ALL"), ["Complete RESET", "Ready I"]);
    assert_eq!(answer(&mut console, "DISCARD ALL"), ["Complete DISCARD ALL", "Ready I"]);
    let missing = "ERROR 26000 prepared statement \"s1\" does not exist";
    assert_eq!(answer(&mut console, "DEALLOCATE s1"), [missing, "Ready I"]);
}

#[test]
fn other_messages_end_the_session() {
    let closed = |tag, body: &[u8]| {
        let turn = console(Rights::Admin).on_frame(tag, body);
        let Then::Close(reason) = turn.then else { panic!("still open") };
        (lines(&turn.reply), reason)
    };
    assert_eq!(closed(b'X', b""), (vec![], "close req".into()));
    let unsupported =
        ["ERROR 08P01 unsupported packet type for admin console: 70", "Ready I", "FATAL 08P01 bad packet"];
    assert_eq!(closed(b'F', b""), (unsupported.map(String::from).to_vec(), "bad packet".into()));
    assert_eq!(closed(b'Q', b"SHOW"), (vec!["FATAL 08P01 incomplete query".into()], "incomplete query".into()));

    let mut console = console(Rights::Admin);
    drop(simple(&mut console, "PAUSE"));
    assert!(matches!(simple(&mut console, "RESUME").then, Then::Close(_)));
    assert!(matches!(console.oversized().then, Then::Close(_)));
}

#[test]
fn welcome_reports_the_console() {
    let reply = welcome([("application_name", "psql")]);
    assert_eq!(
        lines(&reply).join(" ").replace("Status ", ""),
        "server_version=1.25.2/bouncer client_encoding=UTF8 server_encoding=UTF8 DateStyle=ISO TimeZone=GMT \
         standard_conforming_strings=on is_superuser=on application_name=psql"
    );
}

#[test]
fn bytes_are_exactly_those_of_pgbouncer() {
    let mut console = console(Rights::Stats);
    let error = simple(&mut console, "RELOAD").reply;
    assert_eq!(error[..], b"E\0\0\0\x28SERROR\0C08P01\0Madmin access needed\0\0Z\0\0\0\x05I"[..]);
    let notice = simple(&mut console, "SET timezone='UTC'").reply;
    assert_eq!(notice[..], b"N\0\0\0\x21SNOTICE\0C00000\0MSET ignored\0\0C\0\0\0\x08SET\0Z\0\0\0\x05I"[..]);
    drop(simple(&mut console, "SHOW VERSION"));
    let version = console.finish(ActionResult::Snapshot(Box::new(snapshot()))).reply;
    let expected = [
        &b"T\0\0\0\x20\0\x01version\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0"[..],
        b"D\0\0\0\x1a\0\x01\0\0\0\x10PgBouncer 1.25.2C\0\0\0\x09SHOW\0Z\0\0\0\x05I",
    ];
    assert_eq!(version[..], expected.concat());
}

/// Feeds frames, answers actions, returns everything sent.
fn feed(console: &mut Console, frames: &[(u8, Vec<u8>)]) -> Vec<String> {
    let mut all = BytesMut::new();
    for (tag, body) in frames {
        let turn = console.on_frame(*tag, body);
        all.extend_from_slice(&turn.reply);
        if let Then::Act(action) = turn.then {
            let show = matches!(action, Action::Show { .. });
            let result = if show { ActionResult::Snapshot(Box::new(snapshot())) } else { ActionResult::Done };
            all.extend_from_slice(&console.finish(result).reply);
        }
    }
    lines(&all)
}

fn sync() -> (u8, Vec<u8>) {
    (b'S', vec![])
}

#[test]
fn an_extended_show_with_a_named_statement() {
    let mut console = console(Rights::Stats);
    let frames = [
        (b'P', parse_body("s1", "SHOW PEERS")),
        (b'D', target_body(b'S', "s1")),
        sync(),
        (b'B', bind_body("", "s1", &[])),
        (b'D', target_body(b'P', "")),
        (b'E', execute_body("", 0)),
        sync(),
    ];
    let columns = "Columns peer_id:23 host:25 port:23 pool_size:23";
    let expected = [
        "ParseComplete",
        "Params []",
        columns,
        "Ready I",
        "BindComplete",
        columns,
        "Row 2|/tmp|6432|20",
        "Complete SHOW",
        "Ready I",
    ];
    assert_eq!(feed(&mut console, &frames), expected);
    let gone = feed(&mut console, &[(b'E', execute_body("", 0)), sync()]);
    assert_eq!(gone, ["ERROR 34000 portal \"\" does not exist", "Ready I"]);
    let close = [(b'C', target_body(b'S', "s1")), (b'B', bind_body("", "s1", &[])), (b'H', vec![]), sync()];
    let closed = ["CloseComplete", "ERROR 26000 prepared statement \"s1\" does not exist", "Ready I"];
    assert_eq!(feed(&mut console, &close), closed);
}

#[test]
fn answers_wait_for_sync_or_flush() {
    let mut console = console(Rights::Stats);
    assert!(console.on_frame(b'P', &parse_body("", "SHOW HELP")).reply.is_empty());
    assert_eq!(lines(&console.on_frame(b'H', b"").reply), ["ParseComplete"]);
}

#[test]
fn an_error_skips_everything_up_to_sync() {
    let mut console = console(Rights::Stats);
    let frames = [
        (b'P', parse_body("", "SHOW nonsense")),
        (b'B', bind_body("", "", &[])),
        (b'Q', cstr("SHOW VERSION")),
        (b'd', vec![]),
        sync(),
        (b'P', parse_body("", " ; ")),
        (b'B', bind_body("", "", &[])),
        (b'D', target_body(b'P', "")),
        (b'E', execute_body("", 0)),
        (b'P', parse_body("", "RELOAD")),
        (b'B', bind_body("p", "", &[])),
        (b'E', execute_body("p", 0)),
        sync(),
    ];
    let expected = [
        "ERROR 08P01 invalid command 'SHOW nonsense', use SHOW HELP;",
        "Ready I",
        "ParseComplete",
        "BindComplete",
        "NoData",
        "Empty",
        "ParseComplete",
        "BindComplete",
        "ERROR 08P01 admin access needed",
        "Ready I",
    ];
    assert_eq!(feed(&mut console, &frames), expected);
}

#[test]
fn extended_commands_act() {
    let mut console = console(Rights::Admin);
    let frames = [
        (b'P', parse_body("", "PAUSE shop")),
        (b'B', bind_body("", "", &[])),
        (b'D', target_body(b'P', "")),
        (b'E', execute_body("", 1)),
        sync(),
    ];
    assert_eq!(feed(&mut console, &frames), ["ParseComplete", "BindComplete", "NoData", "Complete PAUSE", "Ready I"]);
}

#[test]
fn row_limits_suspend_the_portal() {
    let mut console = console(Rights::Stats);
    let frames = [
        (b'P', parse_body("", "SHOW STATE")),
        (b'B', bind_body("c", "", &[])),
        (b'E', execute_body("c", 2)),
        (b'E', execute_body("c", 2)),
        (b'B', bind_body("d", "", &[])),
        (b'E', execute_body("d", 3)),
        sync(),
    ];
    let expected = [
        "ParseComplete",
        "BindComplete",
        "Row active|no",
        "Row paused|yes",
        "PortalSuspended",
        "Row suspended|no",
        "Complete SHOW",
        "BindComplete",
        "Row active|no",
        "Row paused|yes",
        "Row suspended|no",
        "Complete SHOW",
        "Ready I",
    ];
    assert_eq!(feed(&mut console, &frames), expected);
}

#[test]
fn named_portals_outlive_sync_for_drivers_that_fetch_in_a_transaction() {
    let mut console = console(Rights::Stats);
    let bind = (b'B', bind_body("c", "s", &[]));
    let fetch = (b'E', execute_body("c", 2));
    let frames = [(b'P', parse_body("s", "SHOW STATE")), bind.clone(), fetch.clone(), sync(), fetch.clone(), sync()];
    let fetched = feed(&mut console, &frames);
    assert_eq!(fetched[4..], ["PortalSuspended", "Ready I", "Row suspended|no", "Complete SHOW", "Ready I"]);
    assert_eq!(feed(&mut console, &[bind, sync()]), ["BindComplete", "Ready I"]);
    drop(simple(&mut console, "COMMIT"));
    assert_eq!(feed(&mut console, &[fetch, sync()])[0], "ERROR 34000 portal \"c\" does not exist");
}

#[test]
fn parameters_bad_formats_and_floods_are_refused_with_a_reason() {
    let mut console = console(Rights::Stats);
    let mut refused = |frames: &[(u8, Vec<u8>)]| {
        let mut lines = feed(&mut console, &[frames, &[sync()]].concat());
        assert_eq!(lines.pop().as_deref(), Some("Ready I"));
        lines.pop().unwrap()
    };
    let typed = [cstr(""), cstr("SHOW POOLS"), vec![0, 1, 0, 0, 0, 25]].concat();
    assert_eq!(refused(&[(b'P', typed)]), "ERROR 0A000 commands of the admin console take no parameters");
    let with_value = [cstr(""), cstr("s"), vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    let parse = (b'P', parse_body("s", "SHOW STATE"));
    let bound = refused(&[parse.clone(), (b'B', with_value)]);
    assert!(bound.starts_with("ERROR 08P01 bind message supplies 1 parameters"), "{bound}");
    let three = refused(&[(b'B', bind_body("", "s", &[1, 1, 1]))]);
    assert_eq!(three, "ERROR 08P01 bind message has 3 result formats but the command has 2 columns");
    let odd = refused(&[(b'B', bind_body("", "s", &[7]))]);
    assert_eq!(odd, "ERROR 08P01 unsupported format code: 7");
    assert_eq!(refused(&[parse]), "ERROR 42P05 prepared statement \"s\" already exists");
    assert_eq!(refused(&[(b'E', vec![])]), "ERROR 08P01 invalid message format");
    assert_eq!(refused(&[(b'D', target_body(b'Q', ""))]), "ERROR 08P01 invalid message format");
    let twice = (b'B', bind_body("p", "s", &[]));
    assert_eq!(refused(&[twice.clone(), twice]), "ERROR 42P03 portal \"p\" already exists");
    let statements: Vec<_> = (0..600).map(|n| (b'P', parse_body(&format!("x{n}"), "SHOW STATE"))).collect();
    assert!(refused(&statements).starts_with("ERROR 53400 too many prepared statements"));
    let portals: Vec<_> = (0..600).map(|n| (b'B', bind_body(&format!("x{n}"), "s", &[]))).collect();
    assert!(refused(&portals).starts_with("ERROR 53400 too many portals"));
}

/// Frames near enough to real ones to get past the first check.
fn frames() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let query = prop_oneof![
        "(SHOW|SELECT|SET|KILL_CLIENT|PAUSE|begin|DEALLOCATE) ?[a-z_]{0,12} ?(=|to)? ?('[a-z]*'|\"[a-z\"]*\")?;?",
        Just("SHOW STATE".to_owned()),
        Just("SHOW CLIENTS".to_owned()),
        Just("RELOAD".to_owned()),
        any::<String>(),
    ];
    let formats = proptest::collection::vec(0u16..3, 0..4);
    prop_oneof![
        query.clone().prop_map(|query| (b'Q', cstr(&query))),
        (query, "[ab]?").prop_map(|(query, name)| (b'P', parse_body(&name, &query))),
        ("[ab]?", "[ab]?", formats).prop_map(|(portal, name, formats)| (b'B', bind_body(&portal, &name, &formats))),
        ("[ab]?", -1i32..4).prop_map(|(portal, rows)| (b'E', execute_body(&portal, rows))),
        (prop_oneof![Just(b'D'), Just(b'C')], prop_oneof![Just(b'S'), Just(b'P')], "[ab]?")
            .prop_map(|(tag, kind, name)| (tag, target_body(kind, &name))),
        Just(sync()),
        Just((b'H', vec![])),
        (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)),
    ]
}

proptest! {
    /// Whatever comes: no panic, only whole messages, and each Query that is not skipped, like each Sync, ends in exactly
    /// one ReadyForQuery that comes last.
    #[test]
    fn arbitrary_frames(frames in proptest::collection::vec(frames(), 1..40), admin: bool, fail: bool) {
        let mut console = console(if admin { Rights::Admin } else { Rights::Stats });
        let mut skipping = false;
        for (tag, body) in frames {
            let mut turn = console.on_frame(tag, &body);
            let mut reply = turn.reply.split();
            let mut shutdown = false;
            if let Then::Act(action) = &turn.then {
                let show = matches!(action, Action::Show { .. });
                shutdown = *action == Action::Shutdown(ShutdownMode::Now) && !fail;
                turn = console.finish(match (fail, show) {
                    (true, _) => ActionResult::Refused(Refusal::NoSuchDatabase),
                    (false, true) => ActionResult::Snapshot(Box::new(snapshot())),
                    (false, false) => ActionResult::Done,
                });
                reply.extend_from_slice(&turn.reply);
            }
            let messages = decode(&reply);
            if matches!(turn.then, Then::Close(_)) {
                break;
            }
            let is_ready = |m: &PgWireBackendMessage| matches!(m, PgWireBackendMessage::ReadyForQuery(_));
            let is_error = |m: &PgWireBackendMessage| matches!(m, PgWireBackendMessage::ErrorResponse(_));
            let ready = messages.iter().filter(|m| is_ready(m)).count();
            let due = tag == b'S' || (tag == b'Q' && !skipping && !shutdown);
            prop_assert_eq!(ready, usize::from(due));
            prop_assert!(!due || messages.last().is_some_and(is_ready));
            prop_assert!(!skipping || due || messages.is_empty());
            skipping = match tag {
                b'S' => false,
                b'Q' => skipping,
                _ => skipping || messages.iter().any(is_error),
            };
        }
    }
}
