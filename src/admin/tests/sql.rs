//! SQL over the tables: the engine by itself, and the console's protocol with the engine behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::admin::show::Type;
use crate::admin::sql::{Answer, Ask, Found, Job, MAX_ROWS, VIEW_PREFIX, Value, World, find, run, tables};
use crate::fault::Fault;

/// More looks than any query of these tests should need, some 50 steps each.
const PATIENCE: u64 = 400_000;

fn job(text: &str, ask: Ask) -> Job {
    Job { text: text.into(), rights: Rights::Admin, ask }
}

/// Does a job; it is stopped after so many looks at the clock.
fn perform_within(job: &Job, looks: u64) -> Result<Answer, Fault> {
    within(looks, |world| run(job, world))
}

fn find_within(job: &Job, looks: u64) -> Result<Found, Fault> {
    let Ask::Run { params, types, .. } = &job.ask else { panic!("{job:?}") };
    within(looks, |world| find(job, world, params, types.as_deref()))
}

fn run_ask(params: &[Value], types: Option<&[Type]>) -> Ask {
    Ask::Run { params: params.to_vec(), types: types.map(<[Type]>::to_vec), formats: Formats::TEXT }
}

fn within<T>(looks: u64, work: impl FnOnce(&mut World<'_>) -> T) -> T {
    let looked = AtomicU64::new(0);
    work(&mut World {
        zone: &TimeZone::UTC,
        now_us: 1_700_000_000_123_456,
        picture: &mut |needs| {
            let mut picture = snapshot();
            // What was not asked for is not there.
            if !needs.has(Needs::POOLS) {
                picture.pools.clear();
            }
            picture
        },
        stop: Arc::new(move || looked.fetch_add(1, Ordering::Relaxed) >= looks),
    })
}

fn ask_with(text: &str, params: &[Value]) -> Result<(String, Vec<String>), Fault> {
    let Found { columns, rows } = find_within(&job(text, run_ask(params, None)), PATIENCE)?;
    let head: Vec<String> = columns.iter().map(|c| format!("{}:{:?}", c.name, c.ty)).collect();
    let cell = |value: &Value| match value {
        Value::Null => "NULL".to_owned(),
        Value::Int(n) => n.to_string(),
        Value::Float(n) => format!("{n:?}"),
        Value::Text(text) => text.clone(),
        Value::Bytes(bytes) => format!("{bytes:?}"),
    };
    Ok((head.join(" "), rows.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join("|")).collect()))
}

fn rows(text: &str) -> Vec<String> {
    ask_with(text, &[]).unwrap().1
}

fn refusal(text: &str) -> (String, String) {
    let fault = ask_with(text, &[]).unwrap_err();
    (fault.sqlstate.into_owned(), fault.text.into_owned())
}

#[test]
fn every_table_answers_under_both_its_names_with_the_columns_of_show() {
    let mut count = 0;
    for table in tables() {
        let name = table.name();
        let plain = ask_with(&format!("SELECT * FROM {name}"), &[]).unwrap();
        assert_eq!(ask_with(&format!("select * from {VIEW_PREFIX}{name};"), &[]).unwrap(), plain, "{name}");
        let wanted: Vec<String> = table.columns().map(|(name, ty)| format!("{name}:{ty:?}")).collect();
        assert_eq!(plain.0, wanted.join(" "), "{name}");
        count += 1;
    }
    assert_eq!(count, Item::ALL.len() - 1, "all but HELP");
    let shown = crate::admin::show::table(Item::Pools, &snapshot(), &TimeZone::UTC).rows.count();
    assert_eq!(rows("SELECT database FROM pools").len(), shown);
    assert_eq!(rows("SELECT version FROM version"), ["PgBouncer 1.25.2"]);
}

#[test]
fn the_query_of_the_operators_and_of_the_issue() {
    let (head, rows) = ask_with(
        "SELECT database, user, cl_active, cl_waiting, sv_active, sv_idle, sv_used, sv_tested, sv_login, maxwait \
         FROM pg_stat_pgbouncer_pools",
        &[],
    )
    .unwrap();
    assert_eq!(
        head,
        "database:Text user:Text cl_active:Int8 cl_waiting:Int8 sv_active:Int8 sv_idle:Int8 sv_used:Int8 sv_tested:Int8 \
         sv_login:Int8 maxwait:Int8"
    );
    assert!(rows.len() > 1 && rows.iter().any(|row| row.starts_with("shop|")), "{rows:?}");
    let query = "SELECT database, user, cl_active, maxwait FROM pg_stat_pgbouncer_pools \
                 WHERE cl_waiting > 0 ORDER BY 4 DESC LIMIT 10";
    assert!(ask_with(query, &[]).is_ok());
}

#[test]
fn joins_aggregates_sub_queries_and_with() {
    let clients = rows("SELECT count(*) FROM clients");
    let joined =
        rows("SELECT count(*) FROM clients c LEFT JOIN pools p ON p.database = c.database AND p.user = c.user");
    assert_eq!(joined, clients);
    assert_eq!(rows("WITH big AS (SELECT * FROM pools) SELECT count(*) > 0 FROM big"), ["1"]);
    let sum = "SELECT database, sum(sv_idle) AS idle FROM pools GROUP BY 1 HAVING sum(sv_idle) > 0 ORDER BY idle DESC";
    let (head, found) = ask_with(sum, &[]).unwrap();
    assert_eq!((head.as_str(), found[0].as_str()), ("database:Text idle:Int8", "shop|1"));
    let nested =
        "SELECT name FROM databases d WHERE EXISTS (SELECT 1 FROM pools p WHERE p.database = d.name) ORDER BY 1";
    assert!(!rows(nested).is_empty());
    assert_eq!(rows("SELECT 'a' || 'b', round(1.5), coalesce(NULL, 'x')"), ["ab|2.0|x"]);
    assert_eq!(rows("VALUES (1, 'x'), (2, NULL)"), ["1|x", "2|NULL"]);
    assert_eq!(rows("SELECT row_number() OVER (ORDER BY database) FROM pools LIMIT 1"), ["1"]);
}

#[test]
fn a_few_functions_of_postgresql() {
    let (head, found) = ask_with("SELECT now(), version(), current_database()", &[]).unwrap();
    assert_eq!(head, "now():Text version():Text current_database():Text");
    assert_eq!(found, ["2023-11-14 22:13:20.123456+00|PgBouncer 1.25.2|pgbouncer"]);
}

#[test]
fn types_of_expressions_follow_their_values() {
    let head = |text: &str| ask_with(text, &[]).unwrap().0;
    assert_eq!(
        head("SELECT 1 AS a, 1.5 AS b, 'x' AS c, NULL AS d, x'00' AS e"),
        "a:Int8 b:Float8 c:Text d:Text e:Bytea"
    );
    assert_eq!(ask_with("SELECT column1 AS a FROM (VALUES (1), (2.5))", &[]).unwrap().1, ["1.0", "2.5"]);
    assert_eq!(
        ask_with("SELECT column1 AS a FROM (VALUES (1), ('x'))", &[]).unwrap(),
        ("a:Text".into(), vec!["1".into(), "x".into()])
    );
}

#[test]
fn parameters() {
    let text = |text: &str| Value::Text(text.to_owned());
    let found = |query: &str, params: &[Value]| ask_with(query, params).unwrap().1;
    let by_name = "SELECT database FROM pools WHERE database = $1 AND sv_idle >= $2";
    assert_eq!(found(by_name, &[text("shop"), Value::Int(1)]), ["shop"]);
    assert_eq!(found(by_name, &[text("shop"), text("1")]), ["shop"], "a number as text, as drivers send it");
    assert_eq!(found("SELECT $1::int + 1, $2::text", &[text("41"), Value::Int(7)]), ["42|7"]);
    assert_eq!(found("SELECT $2, $1, $2", &[Value::Int(1), Value::Int(2)]), ["2|1|2"]);
    assert_eq!(found("SELECT database FROM pools ORDER BY 1 LIMIT $1", &[text("1")]).len(), 1);
    assert_eq!(found("SELECT $1", &[text("'; DROP TABLE pools --")]), ["'; DROP TABLE pools --"]);
    let state = |query: &str, params: &[Value]| ask_with(query, params).unwrap_err().sqlstate.into_owned();
    assert_eq!(state("SELECT $2", &[Value::Int(1)]), "42P02");
    assert_eq!(state("SELECT $1::int", &[text("x")]), "22P02");
    assert_eq!(state("SELECT $1::box", &[text("x")]), "42704");
    for bad in ["SELECT ?", "SELECT ?1", "SELECT :a", "SELECT @a", "SELECT $a", "SELECT $0", "SELECT $99999"] {
        assert_eq!(state(bad, &[]), "42601", "{bad}");
    }
    let parse = |text: &str, given: &[u32]| perform_within(&job(text, Ask::Parse(given.to_vec())), PATIENCE);
    let parsed = |params: &[u32], columns: &[&str]| Answer::Parsed {
        params: params.to_vec(),
        columns: columns.iter().map(|&name| name.to_owned()).collect(),
    };
    let query = "SELECT database AS d FROM pools WHERE user = $1 LIMIT $2::int";
    assert_eq!(parse(query, &[]).unwrap(), parsed(&[25, 20], &["d"]));
    assert_eq!(parse(query, &[0, 23]).unwrap(), parsed(&[25, 23], &["d"]));
}

#[test]
fn nothing_but_the_tables_can_be_read_and_nothing_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    for (query, state) in [
        ("WITH x AS (SELECT 1) DELETE FROM pools", "25006"),
        ("WITH x AS (SELECT 1) INSERT INTO pools SELECT * FROM pools", "25006"),
        ("WITH x AS (SELECT 1) UPDATE pools SET database = 'x'", "25006"),
        ("DELETE FROM pools", "25006"),
        ("CREATE TABLE x (a)", "25006"),
        ("CREATE TEMP VIEW x AS SELECT 1", "25006"),
        ("DROP TABLE pools", "25006"),
        ("PRAGMA writable_schema = 1", "25006"),
        ("PRAGMA hard_heap_limit = 0", "25006"),
        ("ATTACH '/etc/passwd' AS x", "25006"),
        ("ATTACH ':memory:' AS x", "25006"),
        (&format!("VACUUM INTO '{}'", path.display()), "25006"),
        ("BEGIN", "25006"),
        ("SAVEPOINT x", "25006"),
        ("SELECT load_extension('/tmp/x.so')", "42501"),
        ("SELECT * FROM sqlite_master", "42501"),
        ("SELECT * FROM sqlite_schema", "42501"),
        ("SELECT 1 FROM sqlite_temp_master", "42501"),
        ("SELECT * FROM pragma_database_list", "42501"),
        ("SELECT * FROM pragma_table_info('pools')", "42501"),
        ("SELECT * FROM dbstat", "42501"),
        ("SELECT sqlite_version()", "42501"),
        ("SELECT fts3_tokenizer('simple')", "42501"),
        ("SELECT 1; SELECT 2", "42601"),
        ("SELECT database FROM pools; DROP TABLE pools", "25006"),
    ] {
        let (got, text) = refusal(query);
        assert_eq!(got, state, "{query}: {text}");
        let parsed = perform_within(&job(query, Ask::Parse(Vec::new())), PATIENCE);
        assert!(parsed.is_err(), "{query}");
    }
    assert!(!path.exists());
}

#[test]
fn who_may_not_show_a_table_may_not_read_it() {
    for name in ["fds", "pg_stat_pgbouncer_fds"] {
        let text = format!("SELECT count(*) FROM clients WHERE exists (SELECT 1 FROM {name})");
        let stats = Job { rights: Rights::Stats, ..job(&text, run_ask(&[], None)) };
        assert_eq!(perform_within(&stats, PATIENCE).unwrap_err().text, "admin access needed");
        assert!(perform_within(&Job { rights: Rights::Admin, ..stats }, PATIENCE).is_ok());
    }
}

#[test]
fn errors_are_postgresqls() {
    let tables: Vec<String> = tables().map(|table| table.name()).collect();
    assert_eq!(
        refusal("SELECT * FROM pool"),
        (
            "42P01".into(),
            format!(
                "relation \"pool\" does not exist; the tables are {} (or pg_stat_pgbouncer_pools and so on)",
                tables.join(", ")
            )
        )
    );
    for (query, state, text) in [
        ("SELECT dbname FROM pools", "42703", "column \"dbname\" does not exist"),
        ("SELECT \"x\" FROM pools", "42703", "column \"x\" does not exist"),
        ("SELECT database FROM pools, clients", "42702", "column reference \"database\" is ambiguous"),
        ("SELECT pg_sleep(1) FROM pools", "42883", "function pg_sleep does not exist"),
        ("SELECT pg_sleep(1)", "08P01", "invalid command 'SELECT pg_sleep(1)', use SHOW HELP;"),
        ("SELECT FROM pools", "42601", "syntax error at or near \"FROM\""),
        ("SELECT 1 +", "42601", "syntax error at end of input"),
        ("SELECT maxwait::int FROM pools", "42601", "write CAST(x AS INTEGER)"),
        ("SELECT 1 FROM pools WHERE user ILIKE 'a%'", "42601", "write LIKE"),
        ("SELECT database FROM pools WHERE sum(1) > 0", "42803", "misuse of aggregate"),
        ("SELECT abs(1, 2) FROM pools", "42883", "wrong number of arguments"),
        ("SELECT sum(column1) FROM (VALUES (9223372036854775807), (1))", "22003", "integer overflow"),
        ("SELECT json('{')", "22032", "malformed JSON"),
        ("SELECT 1 UNION SELECT 1, 2", "42601", "SELECTs to the left and right"),
        ("", "42601", "syntax error at end of input"),
        ("-- nothing", "42601", "syntax error at end of input"),
    ] {
        let got = refusal(query);
        assert!(got.0 == state && got.1.contains(text), "{query}: {got:?}");
    }
}

#[test]
fn every_cost_is_bounded() {
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let fault = perform_within(&job(endless, run_ask(&[], None)), 100).unwrap_err();
    assert_eq!(fault.sqlstate, "57014");
    assert_eq!(perform_within(&job(endless, Ask::Describe(Vec::new())), 100).unwrap_err().sqlstate, "57014");
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let (state, text) = refusal(numbers);
    assert_eq!((state.as_str(), text.contains(&MAX_ROWS.to_string())), ("54000", true), "{text}");
    for (query, state) in [
        (format!("SELECT {}1", "-(".repeat(50)), "42601"),
        (format!("SELECT {}1{}", "-(".repeat(500), ")".repeat(500)), "54001"),
        (format!("SELECT {}", vec!["1"; 300].join(",")), "54000"),
        (format!("SELECT {}", vec!["1"; 60].join(" UNION ALL SELECT ")), "54000"),
        ("SELECT length(group_concat(hex(zeroblob(30000)))) FROM pools, pools a, pools b".to_owned(), "54000"),
        ("SELECT printf('%.*c', 1000000, 'x')".to_owned(), "54000"),
        (format!("SELECT * FROM {}", (0..70).map(|n| format!("pools p{n}")).collect::<Vec<_>>().join(",")), "54000"),
        (
            "WITH RECURSIVE n(i, t) AS (SELECT 1, hex(zeroblob(30000)) UNION ALL SELECT i + 1, t || '' FROM n) \
             SELECT i FROM n ORDER BY t || i DESC"
                .to_owned(),
            "53200",
        ),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999) \
             SELECT hex(zeroblob(30000)) FROM n"
                .to_owned(),
            "54000",
        ),
    ] {
        let got = refusal(&query);
        assert_eq!(got.0, state, "{}: {}", &query[..query.len().min(80)], got.1);
    }
}

/// SQLite's parser and planner go down with what is nested: never so far that a thread's stack is at its end. The driver's
/// threads have four times the stack of this one.
#[test]
fn whatever_is_nested_fits_the_stack() {
    let nested = |open: &str, middle: &str, close: &str| {
        let depth = (MAX_QUERY_BYTES - 100) / (open.len() + close.len());
        for depth in [10, 60, 90, 120, 300, depth] {
            let text = format!("SELECT {}{middle}{}", open.repeat(depth), close.repeat(depth));
            assert!(text.len() <= MAX_QUERY_BYTES);
            for ask in [Ask::Parse(vec![]), run_ask(&[], None)] {
                if let Err(fault) = perform_within(&job(&text, ask), 2_000) {
                    assert!(fault.sqlstate != "XX000", "{open}: {fault:?}");
                }
            }
        }
    };
    let threads = std::thread::Builder::new().stack_size(2 << 20);
    let all = threads.spawn(move || {
        nested("(", "1", ")");
        nested("-(", "1", ")");
        nested("NOT ", "1", "");
        nested("- ", "1", "");
        nested("(SELECT ", "1", ")");
        nested("1 FROM (SELECT ", "1", ")");
        nested("* FROM (SELECT ", "* FROM pools", " LIMIT 9)");
        nested("count(*) FROM (SELECT ", "1 FROM pools", ")");
        nested("1 WHERE EXISTS (SELECT ", "1", ")");
        nested("1 IN (SELECT ", "1", ")");
        nested("CASE WHEN 1 THEN ", "1", " END");
        nested("abs(", "1", ")");
        nested("1+", "1", "");
        nested("1 UNION SELECT ", "1", "");
        nested("1 FROM (VALUES (1)) JOIN (SELECT ", "1", ")");
        nested("* FROM (pools JOIN ", "pools", ")");
        nested("* FROM (WITH x AS (SELECT 1) SELECT ", "1", ")");
        nested("1 FROM pools WHERE 1 AND (", "1", ")");
        nested("'a' || (", "1", ")");
        nested("sum(1) OVER (ORDER BY (SELECT ", "1", "))");
        nested("(1, ", "1", ")");
    });
    all.unwrap().join().unwrap();
}

#[test]
fn types_that_were_described_are_kept() {
    let describe = |text: &str, params: &[u32]| match perform_within(
        &job(text, Ask::Describe(params.to_vec())),
        PATIENCE,
    )
    .unwrap()
    {
        Answer::Described(columns) => columns.iter().map(|column| column.ty).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let aggregates = "SELECT database, count(*), avg(cl_active) FROM pools GROUP BY 1";
    assert_eq!(describe(aggregates, &[]), [Type::Text, Type::Int8, Type::Float8]);
    let limited = "SELECT $1, $2 + 1, maxwait FROM pools LIMIT $1";
    assert_eq!(describe(limited, &[25, 20]), [Type::Text, Type::Int8, Type::Int8]);
    let none =
        "SELECT sum(maxwait), CAST(sum(maxwait) AS INTEGER), CAST(max(user) AS REAL), 1 FROM pools WHERE user = $1";
    assert_eq!(describe(none, &[25]), [Type::Text, Type::Int8, Type::Float8, Type::Int8]);
    let failing = "SELECT database, json_extract($1, '$.x') FROM pools";
    assert_eq!(describe(failing, &[17]), [Type::Text, Type::Text]);
    let with = |text: &str, types: &[Type]| {
        let found = find_within(&job(text, run_ask(&[], Some(types))), PATIENCE);
        found.map(|found| found.rows[0].clone()).map_err(|fault| fault.sqlstate.into_owned())
    };
    assert_eq!(
        with("SELECT 5, 5, 2.0, '7', NULL", &[Type::Text, Type::Float8, Type::Int8, Type::Int8, Type::Int8]).unwrap(),
        [Value::Text("5".into()), Value::Float(5.0), Value::Int(2), Value::Int(7), Value::Null]
    );
    assert_eq!(with("SELECT 1.5", &[Type::Int8]).unwrap_err(), "42804");
    assert_eq!(with("SELECT 'x'", &[Type::Float8]).unwrap_err(), "42804");
}

/// Words of which queries are made.
const WORDS: [&str; 48] = [
    "SELECT",
    "FROM",
    "WHERE",
    "pools",
    "clients",
    "stats",
    "pg_stat_pgbouncer_pools",
    "database",
    "user",
    "*",
    "(",
    ")",
    ",",
    "count(*)",
    "sum(",
    "WITH",
    "RECURSIVE",
    "x",
    "AS",
    "UNION ALL",
    "JOIN",
    "ON",
    "ORDER BY",
    "1",
    "LIMIT",
    "'a'",
    "$1",
    "$2::int",
    "GROUP BY",
    "HAVING",
    "||",
    "+",
    "LIKE",
    "replace(",
    "hex(",
    "zeroblob(9999)",
    "NULL",
    ";",
    "--",
    "/*",
    "\"",
    "VALUES",
    "CASE",
    "WHEN",
    "END",
    "OVER",
    "sqlite_master",
    "PRAGMA",
];

fn queries() -> impl Strategy<Value = String> {
    let words = proptest::collection::vec(proptest::sample::select(WORDS.to_vec()), 1..40);
    prop_oneof![
        4 => words.prop_map(|words| words.join(" ")),
        2 => proptest::collection::vec(proptest::sample::select(WORDS.to_vec()), 1..30)
            .prop_map(|words| format!("SELECT {}", words.join(" "))),
        1 => any::<String>(),
        1 => any::<String>().prop_map(|text| format!("SELECT {text}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is asked, there is an answer or an error with a SQLSTATE, within the time that it is given.
    #[test]
    fn any_text_is_answered_or_refused(text in queries()) {
        let started = std::time::Instant::now();
        for ask in [
            Ask::Parse(vec![]),
            Ask::Describe(vec![20, 25]),
            run_ask(&[Value::Int(1), Value::Text("x".into())], None),
        ] {
            match perform_within(&job(&text, ask), 2_000) {
                Ok(Answer::Rows { columns, count, data }) => {
                    prop_assert!(!columns.is_empty() && (count == 0) == data.is_empty());
                }
                Ok(_) => {}
                Err(fault) => prop_assert!(fault.sqlstate.len() == 5 && !fault.text.is_empty(), "{fault:?}"),
            }
        }
        prop_assert!(started.elapsed() < Duration::from_secs(20), "{text}");
    }
}

/// The answer of a console whose driver has the engine at hand.
fn converse(console: &mut Console, tag: u8, body: &[u8]) -> Vec<String> {
    let mut turn = console.on_frame(tag, body);
    let mut out = turn.reply;
    while let Then::Act(action) = turn.then {
        let Action::Sql(job) = action else { panic!("{action:?}") };
        let result = match perform_within(&job, PATIENCE) {
            Ok(answer) => ActionResult::Sql(answer),
            Err(fault) => ActionResult::Failed(fault),
        };
        turn = console.finish(result);
        out.extend_from_slice(&turn.reply);
    }
    // Answers may wait for a Sync.
    assert_eq!(turn.then, Then::Read);
    lines(&out)
}

fn query(console: &mut Console, text: &str) -> Vec<String> {
    converse(console, b'Q', &cstr(text))
}

fn exchange(console: &mut Console, frames: &[(u8, Vec<u8>)]) -> Vec<String> {
    frames.iter().flat_map(|(tag, body)| converse(console, *tag, body)).collect()
}

#[test]
fn simple_queries() {
    let mut console = console(Rights::Stats);
    assert_eq!(
        query(&mut console, "select database, sv_idle, 0.5 as half from pools where database = 'shop';"),
        ["Columns database:25 sv_idle:20 half:701", "Row shop|1|0.5", "Complete SELECT 1", "Ready I"]
    );
    assert_eq!(query(&mut console, "/* grafana */ -- x\nSELECT 1 AS one, 2 AS two").len(), 4);
    assert_eq!(query(&mut console, "SELECT x FROM pools"), ["ERROR 42703 column \"x\" does not exist", "Ready I"]);
    assert_eq!(query(&mut console, "SELECT $1 FROM pools"), ["ERROR 42P02 there is no parameter $1", "Ready I"]);
    // As in PgBouncer: no SQL.
    for probe in ["SELECT 1", "select 1;", "SELECT foo"] {
        let refused = format!("ERROR 08P01 invalid command '{probe}', use SHOW HELP;");
        assert_eq!(query(&mut console, probe), [refused, "Ready I".into()]);
    }
}

/// Parse, with parameter types.
fn parse_typed(name: &str, query: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [cstr(name), cstr(query)].concat();
    body.put_u16(u16::try_from(types.len()).unwrap());
    types.iter().for_each(|oid| body.put_u32(*oid));
    body
}

/// Bind, with parameters in text form and results in text form.
fn bind_text(portal: &str, statement: &str, params: &[Option<&str>]) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement)].concat();
    body.put_u16(0);
    body.put_u16(u16::try_from(params.len()).unwrap());
    for param in params {
        match param {
            None => body.put_i32(-1),
            Some(text) => {
                body.put_i32(i32::try_from(text.len()).unwrap());
                body.extend_from_slice(text.as_bytes());
            }
        }
    }
    body.put_u16(0);
    body
}

#[test]
fn the_extended_protocol_with_a_portal_described() {
    let mut console = console(Rights::Stats);
    let text = "SELECT database, count(*) AS n FROM pools WHERE database = $1 GROUP BY 1";
    let frames = [
        (b'P', parse_typed("", text, &[])),
        (b'B', bind_text("", "", &[Some("shop")])),
        (b'D', target_body(b'P', "")),
        (b'E', execute_body("", 0)),
        (b'S', Vec::new()),
    ];
    assert_eq!(
        exchange(&mut console, &frames),
        ["ParseComplete", "BindComplete", "Columns database:25 n:20", "Row shop|1", "Complete SELECT 1", "Ready I"]
    );
}

#[test]
fn the_extended_protocol_with_a_statement_described() {
    let mut console = console(Rights::Stats);
    let text = "SELECT database, sv_idle + $2::int AS n FROM pools ORDER BY 1";
    let text = text.replace("$2", "$1");
    let frames = [(b'P', parse_typed("s", &text, &[])), (b'D', target_body(b'S', "s")), (b'S', Vec::new())];
    let said = exchange(&mut console, &frames);
    assert_eq!(said, ["ParseComplete", "Params [20]", "Columns database:25 n:20", "Ready I"]);
    for _ in 0..2 {
        let frames = [
            (b'B', bind_text("p", "s", &[Some("2")])),
            (b'E', execute_body("p", 1)),
            (b'E', execute_body("p", 0)),
            (b'S', Vec::new()),
        ];
        let said = exchange(&mut console, &frames);
        assert_eq!(said[0], "BindComplete");
        assert_eq!(said[2], "PortalSuspended");
        assert!(said[1].starts_with("Row ") && said[3].starts_with("Row "), "{said:?}");
        let rows = said.iter().filter(|line| line.starts_with("Row ")).count();
        assert_eq!(said[said.len() - 2], format!("Complete SELECT {}", rows - 1));
    }
}

#[test]
fn errors_in_the_extended_protocol() {
    let mut console = console(Rights::Stats);
    let refused = |console: &mut Console, text: &str, types: &[u32], params: &[Option<&str>]| {
        let frames = [
            (b'P', parse_typed("", text, types)),
            (b'B', bind_text("", "", params)),
            (b'E', execute_body("", 0)),
            (b'S', Vec::new()),
        ];
        let said = exchange(console, &frames);
        said.iter()
            .find_map(|line| line.strip_prefix("ERROR ").map(str::to_owned))
            .unwrap_or_else(|| panic!("{said:?}"))
    };
    assert!(refused(&mut console, "SELECT x FROM pools", &[], &[]).starts_with("42703"));
    assert!(refused(&mut console, "SELECT database FROM pools, x", &[], &[]).starts_with("42P01"));
    assert!(refused(&mut console, "WITH a AS (SELECT 1) DELETE FROM pools", &[], &[]).starts_with("25006"));
    assert!(refused(&mut console, "SELECT $1, $2", &[], &[Some("x")]).starts_with("08P01"));
    assert!(refused(&mut console, "SELECT $1, 1", &[23], &[Some("x")]).starts_with("22P02"));
    assert!(refused(&mut console, "SHOW POOLS", &[23], &[Some("1")]).starts_with("0A000"));
    assert!(refused(&mut console, "SELECT count(*) FROM fds", &[], &[]).contains("admin access needed"));
    assert_eq!(query(&mut console, "VALUES (1)")[1], "Row 1", "and the console goes on");
}

/// Plays the daemon for one console client, until it leaves.
async fn serve(mut stream: tokio::io::DuplexStream) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let startup_len = stream.read_u32().await?;
    stream.read_exact(&mut vec![0; startup_len as usize - 4]).await?;
    stream.write_all(b"R\0\0\0\x08\0\0\0\0").await?;
    stream.write_all(&welcome([])).await?;
    stream.write_all(b"Z\0\0\0\x05I").await?;
    let mut console = Console::new(Rights::Stats, TimeZone::UTC);
    loop {
        let Ok(tag) = stream.read_u8().await else { return Ok(()) };
        let len = stream.read_u32().await? as usize - 4;
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await?;
        let mut turn = console.on_frame(tag, &body);
        stream.write_all(&turn.reply).await?;
        while let Then::Act(Action::Sql(job)) = turn.then {
            let result = perform_within(&job, PATIENCE);
            turn = console.finish(result.map_or_else(ActionResult::Failed, ActionResult::Sql));
            stream.write_all(&turn.reply).await?;
        }
    }
}

#[tokio::test]
async fn tokio_postgres_asks_with_parameters_and_gets_binary_results() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(serve(far));
    let mut config = tokio_postgres::Config::new();
    let stream = config.user("pgbouncer").dbname("pgbouncer").connect_raw(near, tokio_postgres::NoTls);
    let (client, connection) = stream.await.unwrap();
    let connection = tokio::spawn(connection);
    let text = "SELECT database, sv_idle, sv_idle / 2.0 AS half FROM pools WHERE database = $1 AND sv_idle >= $2::int";
    let row = client.query_one(text, &[&"shop", &1_i64]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(1)), ("shop", 1));
    let all = "SELECT database, sv_idle / 2.0 AS half FROM pools ORDER BY database DESC";
    let halves = client.query(all, &[]).await.unwrap();
    assert_eq!(halves[0].get::<_, f64>("half"), 0.5);
    let error = client.query("SELECT elsewhere FROM pools", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42703");
    drop(client);
    connection.await.unwrap().unwrap();
    server.await.unwrap().unwrap();
}
