//! Queries against the commands that they mean.

use super::*;

fn text(query: &str) -> String {
    Command::parse(query.as_bytes()).expect_err(query).text.into_owned()
}

fn some(db: &str) -> Option<String> {
    Some(db.to_owned())
}

#[test]
fn commands() {
    let long_db = "d".repeat(63);
    let pair = |command| Command::OnPair(Box::new(command));
    let set = |key: &str, value: &str| Command::Set { key: key.into(), value: value.into() };
    let table = [
        ("SHOW POOLS", Command::Show(Item::Pools)),
        (" \t\r\nshow\nPools ; \n", Command::Show(Item::Pools)),
        ("select version;", Command::Show(Item::Version)),
        ("\"show\" \"VERSION\"", Command::Show(Item::Version)),
        ("RELOAD;", Command::Reload),
        ("RELOAD \"\"", Command::Reload),
        ("PAUSE", Command::Pause(None)),
        ("PAUSE Shop", Command::Pause(some("Shop"))),
        ("PAUSE \"a \"\"b\"\" c;\"", Command::Pause(some("a \"b\" c;"))),
        ("RESUME shop", Command::Resume(some("shop"))),
        ("SUSPEND", Command::Suspend),
        ("DISABLE", Command::Disable(None)),
        ("enable x1_", Command::Enable(some("x1_"))),
        ("RECONNECT", Command::Reconnect(None)),
        ("KILL shop", Command::Kill(some("shop"))),
        ("KILL_CLIENT 17", Command::KillClient(Some(17))),
        ("KILL_CLIENT", Command::KillClient(None)),
        ("KILL_CLIENT x17", Command::KillClient(None)),
        ("KILL_CLIENT 17x", Command::KillClient(None)),
        ("WAIT_CLOSE shop", Command::WaitClose(some("shop"))),
        ("SHUTDOWN", Command::Shutdown(ShutdownMode::Now)),
        ("shutdown wait_for_servers", Command::Shutdown(ShutdownMode::WaitForServers)),
        ("SHUTDOWN WAIT_FOR_CLIENTS", Command::Shutdown(ShutdownMode::WaitForClients)),
        ("SHOW HA", Command::Show(Item::Ha)),
        ("show ha History;", Command::Show(Item::HaHistory)),
        ("SHOW HA\nLINK", Command::Show(Item::HaLink)),
        ("SWITCHOVER", Command::Switchover(None)),
        ("switchover main;", Command::Switchover(some("main"))),
        ("SWITCHOVER \"main/v6\"", Command::Switchover(some("main/v6"))),
        ("HA MAINTENANCE ON", Command::HaMaintenance(true)),
        ("ha maintenance off ;", Command::HaMaintenance(false)),
        ("PAUSE ON PAIR", pair(Command::Pause(None))),
        ("PAUSE on", Command::Pause(some("on"))),
        ("pause shop on pair;", pair(Command::Pause(some("shop")))),
        ("PAUSE \"on pair\" ON PAIR", pair(Command::Pause(some("on pair")))),
        ("PAUSE on ON PAIR", pair(Command::Pause(some("on")))),
        ("RESUME ON PAIR", pair(Command::Resume(None))),
        ("RELOAD ON PAIR", pair(Command::Reload)),
        ("RECONNECT shop ON PAIR", pair(Command::Reconnect(some("shop")))),
        ("DISABLE shop ON PAIR", pair(Command::Disable(some("shop")))),
        ("ENABLE shop ON PAIR", pair(Command::Enable(some("shop")))),
        ("KILL ON PAIR", pair(Command::Kill(None))),
        ("WAIT_CLOSE ON PAIR", pair(Command::WaitClose(None))),
        ("set k=v", set("k", "v")),
        ("set k = v;", set("k", "v")),
        ("SET k='v w''s ;'", set("k", "v w's ;")),
        ("SET K TO V", set("K", "V")),
        ("SET k = ''", set("k", "")),
        ("SET k = \"\"", set("k", "")),
        ("SET k=\"a\"\"b\"", set("k", "a\"b")),
        ("SET \"a b\"to'c'", set("a b", "c")),
        ("SET keyTO value", set("key", "value")),
        ("SET to to to", set("to", "to")),
        ("SET datestyle = 'iso, mdy'", Command::SetIgnored),
        ("SET Extra_Float_Digits = 3", Command::SetIgnored),
        ("BEGIN", Command::Transaction(TransactionWord::Begin)),
        ("begin isolation level repeatable read, read only;", Command::Transaction(TransactionWord::Begin)),
        ("START TRANSACTION READ WRITE", Command::Transaction(TransactionWord::Start)),
        ("COMMIT;", Command::Transaction(TransactionWord::Commit)),
        ("END WORK", Command::Transaction(TransactionWord::Commit)),
        ("ROLLBACK", Command::Transaction(TransactionWord::Rollback)),
        ("abort transaction", Command::Transaction(TransactionWord::Rollback)),
        ("DISCARD ALL", Command::DiscardAll),
        ("RESET ALL", Command::ResetSession),
        ("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;", Command::ResetSession),
        ("DEALLOCATE ALL", Command::Deallocate(None)),
        ("DEALLOCATE PREPARE S1", Command::Deallocate(some("s1"))),
        ("DEALLOCATE \"_pg3_0\"", Command::Deallocate(some("_pg3_0"))),
    ];
    for (query, command) in table {
        assert_eq!(Command::parse(query.as_bytes()).as_ref(), Ok(&command), "{query}");
    }
    let longest = format!("PAUSE {long_db}");
    assert_eq!(Command::parse(longest.as_bytes()), Ok(Command::Pause(Some(long_db))));
    for (name, item) in Item::ALL {
        let query = format!("SHOW {}", name.to_uppercase());
        assert_eq!(Command::parse(query.as_bytes()), Ok(Command::Show(item)));
    }
    let Ok(Command::ShowFake(param)) = Command::parse(b"SHOW DateStyle") else { panic!("fake parameter") };
    assert_eq!((param.name, param.value), ("datestyle", "ISO"));
}

#[test]
fn what_is_no_command_is_told_back() {
    for query in [
        "",
        ";",
        " ; ",
        "SHOW",
        "SHOW nothing",
        "SHOW POOLS; SHOW POOLS",
        "SHOW POOLS;;",
        "SHOW POOLS x",
        "SHOW \"pools",
        "SHOW pools-",
        "SHOW\u{a0}POOLS",
        "SHOWPOOLS",
        "RELOAD now",
        "SUSPEND shop",
        "SHUTDOWN NOW",
        "SHOW HA nothing",
        "SHOW HA HISTORY x",
        "SHOW POOLS LINK",
        "HA",
        "HA MAINTENANCE",
        "HA MAINTENANCE maybe",
        "HA \"MAINTENANCE ON\"",
        "SWITCHOVER a b",
        "PAUSE, ON PAIR",
        "PAUSE shop ON",
        "PAUSE a b ON PAIR",
        "PAUSE ON PAIR ON PAIR",
        "RELOAD x ON PAIR",
        "SUSPEND ON PAIR",
        "SHUTDOWN ON PAIR",
        "KILL_CLIENT 3 ON PAIR",
        "SWITCHOVER ON PAIR",
        "SHOW POOLS ON PAIR",
        "BEGIN ON PAIR",
        "ON PAIR",
        "SET",
        "SET k",
        "SET k=",
        "SET k=v w",
        "SET k='v",
        "SET k==v",
        "SET ktov",
        "SET to v",
        "SELECT 1",
        "SELECT pool",
        "VALUES",
        "ROLLBACK TO SAVEPOINT s",
        "RESET ALL; RELOAD",
        "RESET ALL;;",
        "BEGIN now",
        "START",
        "COMMIT PREPARED 'x'",
        "DEALLOCATE",
    ] {
        assert_eq!(text(query), format!("invalid command '{query}', use SHOW HELP;"));
    }
}

#[test]
fn lengths_count_the_raw_text() {
    let d = |n| "d".repeat(n);
    for query in [
        d(16),
        format!("PAUSE {}", d(64)),
        format!("PAUSE \"{}\"", d(62)),
        format!("SET {}=x", d(64)),
        format!("SET k={}", d(256)),
        format!("SET k='{}'", d(254)),
        "SET \"\"=x".to_owned(),
        format!("PAUSE {} ON PAIR", d(64)),
        format!("SWITCHOVER {}", d(64)),
    ] {
        assert_eq!(text(&query), "bad arguments", "{query}");
    }
    for query in [
        format!("SET {}='{}'", d(63), d(253)),
        format!("SET k='{}{}'", "''".repeat(100), d(53)),
        format!("PAUSE \"{}\"", d(61)),
    ] {
        assert!(Command::parse(query.as_bytes()).is_ok(), "{query}");
    }
    assert_eq!(text(&d(15)), format!("invalid command '{}', use SHOW HELP;", d(15)));
    let long = text(&format!("{}ö{}", "- ".repeat(503), d(9000)));
    assert!(long.len() == 1023 || long.len() == 1022, "{}", long.len());
}

#[test]
fn only_what_is_shown_is_needed() {
    assert_eq!(needs(&Command::Show(Item::Version)), Needs::NONE);
    assert_eq!(needs(&Command::Show(Item::Clients)), Needs::CLIENTS);
    assert_eq!(needs(&Command::Reload), Needs::NONE);
}

proptest::proptest! {
    /// What one node sends, the other understands, whatever the database is called.
    #[test]
    fn commands_travel_to_the_peer(name in "[^\\x00]{1,20}|[a-z_0-9]{1,63}", which in 0..7_usize) {
        let db = || Some(name.clone());
        let action = match which {
            0 => Action::Pause(db()),
            1 => Action::Resume(db()),
            2 => Action::Disable(name.clone()),
            3 => Action::Enable(name.clone()),
            4 => Action::Reconnect(db()),
            5 => Action::Kill(db()),
            _ => Action::WaitClose(db()),
        };
        let text = action.to_command().unwrap();
        // Only a name that an operator could have typed comes here.
        if text.len() <= action.name().len() + 1 + 63 {
            proptest::prop_assert_eq!(Action::from_command(&text), Ok(action), "{}", text);
        }
    }
}

#[test]
fn a_peer_may_ask_for_little() {
    for action in [Action::Reload, Action::Pause(None), Action::Resume(None), Action::Kill(None)] {
        let text = action.to_command().unwrap();
        assert_eq!(Action::from_command(&text), Ok(action));
    }
    for query in [
        "SHUTDOWN",
        "SUSPEND",
        "SET k=v",
        "SHOW POOLS",
        "KILL_CLIENT 1",
        "SWITCHOVER",
        "HA MAINTENANCE ON",
        "PAUSE ON PAIR",
    ] {
        let error = Action::from_command(query).expect_err(query).text;
        assert!(error.ends_with("is not a command for the peer"), "{query}: {error}");
    }
    for query in ["", "BEGIN", "DISCARD ALL", "DISABLE", "nonsense", "PAUSE a; PAUSE b"] {
        assert!(Action::from_command(query).is_err(), "{query}");
    }
}
