//! tokio-postgres over rustls, as an application in Rust uses it, through the real program under the configuration of the
//! revenue-engine operators: TLS on both sides with self-signed certificates, md5, transaction pooling.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "driver_tokio_postgres/deployment.rs"]
mod deployment;
#[path = "driver_tokio_postgres/pooler.rs"]
mod pooler;
#[path = "driver_tokio_postgres/postgres.rs"]
mod postgres;
#[path = "driver_tokio_postgres/process.rs"]
mod process;

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deployment::Deployment;
use futures_util::future::{join_all, try_join_all};
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row, SimpleQueryMessage};

fn code(error: &Error) -> &SqlState {
    error.code().unwrap_or_else(|| panic!("no SQLSTATE: {error:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_types_and_errors() {
    let place = Deployment::start();
    let client = place.connect().await;
    let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert!(client.query_one_scalar::<bool, _>(encrypted, &[]).await.unwrap(), "the server's side is encrypted too");
    client
        .batch_execute(
            "create type mood as enum ('calm', 'stormy');
             create table revenue (id bigint primary key, amount numeric not null, note text, mood mood, tags text[])",
        )
        .await
        .unwrap();
    let insert = "insert into revenue values ($1, $2::text::numeric, $3, $4::text::mood, $5)";
    let tags = vec!["a", "b"];
    let row: [&(dyn ToSql + Sync); 5] = [&1_i64, &"12.50", &None::<&str>, &"stormy", &tags];
    assert_eq!(client.execute(insert, &row).await.unwrap(), 1);

    // The same again: an error in the middle, with what the server says about it, and the client goes on.
    let error = client.execute(insert, &row).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::UNIQUE_VIOLATION);
    let details = error.as_db_error().unwrap();
    assert_eq!((details.constraint(), details.table()), (Some("revenue_pkey"), Some("revenue")));
    assert_eq!(details.detail(), Some("Key (id)=(1) already exists."));
    let error = client.query("select 1 / $1::int", &[&0]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::DIVISION_BY_ZERO);
    let error = client.query("selec", &[]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::SYNTAX_ERROR);
    let error = client.batch_execute("select 1; select 1 / 0; select 2").await.unwrap_err();
    assert_eq!(code(&error), &SqlState::DIVISION_BY_ZERO);

    // Asked for the type of a column that it does not know, the driver prepares queries of its own.
    let row = client.query_one("select mood, tags, amount::text from revenue", &[]).await.unwrap();
    assert_eq!(row.columns()[0].type_().name(), "mood");
    assert_eq!((row.get::<_, Vec<String>>(1), row.get::<_, &str>(2)), (vec!["a".into(), "b".into()], "12.50"));
    assert_eq!(client.execute("update revenue set amount = amount * 2 where id = $1", &[&1_i64]).await.unwrap(), 1);
    let messages = client.simple_query("select amount from revenue; delete from revenue").await.unwrap();
    let [_, SimpleQueryMessage::Row(row), _, SimpleQueryMessage::CommandComplete(1)] = messages.as_slice() else {
        panic!("{messages:?}");
    };
    assert_eq!(row.get(0), Some("25.00"));
    assert_eq!(client.query_typed("select $1", &[(&7_i32, Type::INT4)]).await.unwrap()[0].get::<_, i32>(0), 7);
    client.batch_execute("").await.unwrap();
    client.check_connection().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_in_and_out() {
    let place = Deployment::start();
    let client = place.connect().await;
    client.batch_execute("create table entry (id int, name text)").await.unwrap();

    let mut sink = pin!(client.copy_in::<_, bytes::Bytes>("copy entry from stdin").await.unwrap());
    for first in (0..100_000).step_by(1000) {
        let lines: String = (first..first + 1000).map(|id| format!("{id}\tname {id}\n")).collect();
        sink.send(lines.into()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 100_000);

    let sink = client.copy_in("copy entry from stdin (format binary)").await.unwrap();
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]));
    for id in 100_000..101_000 {
        writer.as_mut().write(&[&id, &format!("name {id}")]).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), 1000);

    // Given up half-way (the driver sends CopyFail), and refused by the server: nothing of either stays.
    let mut sink = Box::pin(client.copy_in::<_, bytes::Bytes>("copy entry from stdin").await.unwrap());
    sink.send("1\tlost\n".into()).await.unwrap();
    drop(sink);
    let mut sink = pin!(client.copy_in::<_, bytes::Bytes>("copy entry from stdin").await.unwrap());
    sink.send("not a number\tlost\n".into()).await.unwrap();
    let error = sink.finish().await.unwrap_err();
    assert_eq!(code(&error), &SqlState::INVALID_TEXT_REPRESENTATION);

    let out = client.copy_out("copy (select * from entry order by id) to stdout").await.unwrap();
    let text = out.try_fold(Vec::new(), async |mut all, bytes| {
        all.extend_from_slice(&bytes);
        Ok(all)
    });
    let text = String::from_utf8(text.await.unwrap()).unwrap();
    let wrong = text.lines().zip(0..).find(|(line, id)| *line != format!("{id}\tname {id}"));
    assert_eq!((wrong, text.lines().count()), (None, 101_000));

    // A reader that leaves in the middle of a result.
    let out = client.copy_out("copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout").await;
    let mut out = Box::pin(out.unwrap());
    assert!(out.try_next().await.unwrap().is_some());
    drop(out);
    assert_eq!(client.query_one_scalar::<i64, _>("select count(*) from entry", &[]).await.unwrap(), 101_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_survive_a_change_of_server() {
    let place = Deployment::start();
    let client = place.connect().await;
    let statement = client.prepare("select pg_backend_pid(), $1::text || ' of the first'").await.unwrap();
    let run = async |word: &str| {
        let row: Row = client.query_one(&statement, &[&word]).await.unwrap();
        assert_eq!(row.get::<_, String>(1), format!("{word} of the first"));
        row.get::<_, i32>(0)
    };
    let mut seen = HashSet::from([run("start").await]);
    let mut others = Vec::new();
    // The others keep whatever server the first has just used, and give their own statements the same names.
    for turn in 0..6 {
        let mut other = place.connect().await;
        let transaction = other.transaction().await.unwrap();
        let theirs = transaction.prepare("select pg_backend_pid(), $1::int8 * 2").await.unwrap();
        let row = transaction.query_one(&theirs, &[&turn]).await.unwrap();
        assert_eq!(row.get::<_, i64>(1), turn * 2);
        transaction.batch_execute("select 1").await.unwrap();
        let held = row.get::<_, i32>(0);
        std::mem::forget(transaction);
        let used = run(&turn.to_string()).await;
        assert_ne!(used, held, "another client is in a transaction there");
        seen.insert(used);
        others.push((other, theirs, held));
    }
    assert!(seen.len() >= 3, "{seen:?}");
    for (other, theirs, held) in &others {
        let row = other.query_one(theirs, &[&21_i64]).await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1)), (*held, 42));
        other.batch_execute("commit").await.unwrap();
    }
    // Many clients, few servers: every statement meets every server, under every other's name.
    let all = others.iter().flat_map(|(other, theirs, _)| {
        (0..30_i64).map(async |number| {
            let doubled: i64 = other.query_one(theirs, &[&number]).await.unwrap().get(1);
            assert_eq!(doubled, number * 2);
        })
    });
    let (_, mine) = tokio::join!(join_all(all), join_all((0..60).map(|_| run("again"))));
    assert_eq!(mine.len(), 60);
    // Closed by the driver; a new one takes its place.
    drop(statement);
    let row = client.query_one("select 'new'", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_what_runs_and_nothing_else() {
    let place = Deployment::start();
    let (client, bystander) = tokio::join!(place.connect(), place.connect());
    let sleep =
        async |client: &Client, seconds: f64| client.batch_execute(&format!("select pg_sleep({seconds})")).await;
    let token = client.cancel_token();
    let cancel = async {
        place.until_active("pg_sleep(30)").await;
        token.cancel_query(place.tls()).await.unwrap();
    };
    let start = Instant::now();
    let (slept, (), other) = tokio::join!(sleep(&client, 30.0), cancel, sleep(&bystander, 1.5));
    assert_eq!(code(&slept.unwrap_err()), &SqlState::QUERY_CANCELED);
    other.unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    // Too late: it hits nobody, whoever has the server now.
    let busy = async {
        for _ in 0..10 {
            token.cancel_query(place.tls()).await.unwrap();
        }
    };
    let (other, ()) = tokio::join!(sleep(&bystander, 1.0), busy);
    other.unwrap();
    let limited = "begin; set local statement_timeout = 50; select pg_sleep(30)";
    assert_eq!(code(&client.batch_execute(limited).await.unwrap_err()), &SqlState::QUERY_CANCELED);
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(client.query_one_scalar::<i32, _>("select 5", &[]).await.unwrap(), 5);
}

const ROWS: i64 = 10_000;
const ROW_LEN: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn streams_100_megabytes() {
    let place = Deployment::start();
    let client = place.connect().await;
    // Every row can be told from its neighbours by its end.
    let select = format!("select n, lpad(n::text, {ROW_LEN}, 'x') from generate_series(1::int8, {ROWS}) n");
    let rows = client.query_raw::<_, i32, _>(&select, []).await.unwrap();
    let count = rows.try_fold(0, async |count, row| {
        let (number, text) = (row.get::<_, i64>(0), row.get::<_, &str>(1));
        assert!(number == count + 1 && text.len() == ROW_LEN && text.ends_with(&format!("x{number}")), "{number}");
        Ok(number)
    });
    assert_eq!(count.await.unwrap(), ROWS);
    let out = client.copy_out(&format!("copy ({select}) to stdout")).await.unwrap();
    let len = out.try_fold(0, async |len, bytes| Ok(len + bytes.len())).await.unwrap();
    let numbers_len: usize = (1..=ROWS).map(|n| n.to_string().len()).sum();
    assert_eq!(len, numbers_len + (ROW_LEN + 2) * usize::try_from(ROWS).unwrap());
    // One value of 50 MB each way.
    let big = "y".repeat(50_000_000);
    let back = client.query_one("select $1::text, md5($1)", &[&big]).await.unwrap();
    assert!(back.get::<_, &str>(0) == big, "other bytes came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_and_transactions() {
    let place = Deployment::start();
    let mut client = place.connect().await;
    client.batch_execute("create table step (id int primary key)").await.unwrap();
    // An error ends one query of the pipeline and none of its neighbours.
    let numbers: Vec<i32> = (-250..250).collect();
    let divide = client.prepare("select 1000 / $1::int4").await.unwrap();
    let answers = join_all(numbers.iter().map(async |number| client.query_one(&divide, &[number]).await));
    for (number, answer) in numbers.iter().zip(answers.await) {
        match answer {
            Ok(row) => assert_eq!(row.get::<_, i32>(0), 1000 / number),
            Err(error) => assert_eq!((*number, code(&error)), (0, &SqlState::DIVISION_BY_ZERO)),
        }
    }
    // A whole transaction in one pipeline.
    let insert = client.prepare("insert into step values ($1)").await.unwrap();
    let (begun, inserted, committed) = tokio::join!(
        client.batch_execute("begin"),
        join_all((0..100).map(async |id| client.execute(&insert, &[&id]).await)),
        client.batch_execute("commit"),
    );
    begun.and(committed).unwrap();
    assert_eq!(inserted.into_iter().sum::<Result<u64, _>>().unwrap(), 100);

    let transaction = client.transaction().await.unwrap();
    transaction.execute("insert into step values (1000)", &[]).await.unwrap();
    transaction.rollback().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("insert into step values (1001)", &[]).await.unwrap();
    drop(transaction); // rolls back too

    let mut transaction = client.transaction().await.unwrap();
    transaction.execute("insert into step values (2000)", &[]).await.unwrap();
    let savepoint = transaction.savepoint("midway").await.unwrap();
    let error = savepoint.execute("insert into step values (2000)", &[]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::UNIQUE_VIOLATION);
    let error = savepoint.execute("insert into step values (2001)", &[]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::IN_FAILED_SQL_TRANSACTION);
    savepoint.rollback().await.unwrap();
    let portal = transaction.bind("select id from step order by id", &[]).await.unwrap();
    let first = transaction.query_portal(&portal, 60).await.unwrap();
    let rest = transaction.query_portal(&portal, 60).await.unwrap();
    assert_eq!((first.len(), rest.len(), rest.last().map(|row| row.get::<_, i32>(0))), (60, 41, Some(2000)));
    transaction.commit().await.unwrap();

    let transaction = client.build_transaction().read_only(true).start().await.unwrap();
    let error = transaction.execute("insert into step values (3000)", &[]).await.unwrap_err();
    assert_eq!(code(&error), &SqlState::READ_ONLY_SQL_TRANSACTION);
    drop(transaction);
    let ids: Vec<i32> = client.query_scalar("select id from step where id >= 1000", &[]).await.unwrap();
    assert_eq!(ids, [2000]);
}

/// How many servers the pool may have (default_pool_size, reserve_pool_size).
const SERVERS: i64 = 20 + 5;
const TASKS: i64 = 200;
const TURNS: i64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_tasks_never_see_each_other() {
    let place = Deployment::start();
    let place = Arc::new(place);
    place.connect().await.batch_execute("create table trace (task int8, turn int8, pid int)").await.unwrap();
    let tasks = (0..TASKS).map(|task| {
        let place = Arc::clone(&place);
        tokio::spawn(async move {
            let mut client = place.connect().await;
            for turn in 0..TURNS {
                take_a_turn(&mut client, task, turn).await?;
            }
            Ok::<_, Error>(())
        })
    });
    let watch = async {
        let mut most = 0;
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            most = place.servers().max(most);
        }
        most
    };
    let (ends, most) = tokio::join!(try_join_all(tasks), watch);
    ends.unwrap().into_iter().collect::<Result<(), _>>().unwrap();
    assert!((5..=SERVERS).contains(&most), "{most} servers");
    let client = place.connect().await;
    let counts = "select count(*), count(distinct (task, turn)), count(distinct pid) from trace";
    let row = client.query_one(counts, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (TASKS * TURNS, TASKS * TURNS));
    assert!((2..=SERVERS).contains(&row.get::<_, i64>(2)), "{} servers", row.get::<_, i64>(2));
}

/// Everything that comes back must carry the task's own number.
async fn take_a_turn(client: &mut Client, task: i64, turn: i64) -> Result<(), Error> {
    let mine = task * 1_000_000 + turn;
    let rows = client.query("select $1::int8, n from generate_series(1, 20) n", &[&mine]).await?;
    assert!(rows.len() == 20 && rows.iter().all(|row| row.get::<_, i64>(0) == mine), "task {task}: {rows:?}");
    let echo = client.query_one_scalar::<String, _>(&format!("select 'task {task}'"), &[]).await?;
    assert_eq!(echo, format!("task {task}"));

    let transaction = client.transaction().await?;
    let name = task.to_string();
    let row = transaction.query_one("select set_config('app.task', $1, true), pg_backend_pid()", &[&name]).await?;
    let pid = row.get::<_, i32>(1);
    transaction.execute("insert into trace values ($1, $2, $3)", &[&task, &turn, &pid]).await?;
    tokio::task::yield_now().await;
    let row = transaction.query_one("select current_setting('app.task'), pg_backend_pid()", &[]).await?;
    assert_eq!((row.get::<_, String>(0), row.get::<_, i32>(1)), (name, pid), "task {task}");
    transaction.commit().await?;

    let error = client.query(&format!("select 'error {task}'::int"), &[]).await.unwrap_err();
    assert!(code(&error) == &SqlState::INVALID_TEXT_REPRESENTATION, "task {task}: {error}");
    let text = error.as_db_error().unwrap().message().to_owned();
    assert!(text.ends_with(&format!("\"error {task}\"")), "task {task}: {text}");
    let out = client.copy_out(&format!("copy (select {task} from generate_series(1, 50)) to stdout")).await?;
    let text = out.try_fold(Vec::new(), async |all, bytes| Ok([all, bytes.to_vec()].concat())).await?;
    assert_eq!(String::from_utf8_lossy(&text), format!("{task}\n").repeat(50));
    Ok(())
}
