"""Named prepared statements and pipelines in transaction and statement pooling."""

import psycopg
import pytest
from harness import wire
from harness.process import poll_until

PID = "select pg_backend_pid()"


def run(name: str, *values) -> bytes:
    return wire.bind(name, values) + wire.execute() + wire.sync()


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_statement_follows_its_client_to_other_servers(start_pooler, mode):
    pooler = start_pooler(pool_mode=mode, default_pool_size=2)
    with pooler.wire() as client, pooler.wire() as other:
        client.ask(wire.parse("s", "select $1::int + pg_backend_pid() * 0, pg_backend_pid()") + wire.sync())
        pids = set()
        for value in range(4):
            if value == 2:
                # Occupy the server used so far, so that the client gets another one.
                other.send(wire.query("select pg_sleep(0.4)"))
                poll_until(lambda: pooler.pool()["sv_active"] == 1, "the first server is taken")
            reply = client.ask(run("s", value))
            assert reply.rows[0][0] == str(value)
            pids.add(reply.rows[0][1])
        other.reply()
        assert len(pids) == 2


def test_the_same_name_means_something_else_for_each_client(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        one.ask(wire.parse("s", "select 'one', $1::text") + wire.sync())
        two.ask(wire.parse("s", "select 'two', $1::int * 2") + wire.sync())
        for _ in range(3):
            assert one.ask(run("s", "x")).rows == [["one", "x"]]
            assert two.ask(run("s", 21)).rows == [["two", "42"]]


def test_describe_of_a_statement(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.ask(wire.parse("s", "select $1::int as number") + wire.sync())
        reply = client.ask(wire.describe("S", "s") + wire.sync())
        assert reply.kinds == "tTZ"
        assert reply.messages[1][1].split(b"\0")[1].endswith(b"number")


def test_parse_bind_execute_in_one_go_answers_in_order(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        reply = client.ask(wire.parse("s", "select 1") + wire.describe("S", "s") + wire.bind("s")
                           + wire.describe("P", "") + wire.execute() + wire.close("S", "s") + wire.sync())
        assert reply.kinds == "1tT2TDC3Z"


def test_closed_statement_is_gone(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.ask(wire.parse("s", "select 1") + wire.sync())
        assert client.ask(wire.close("S", "s") + wire.sync()).kinds == "3Z"
        assert client.ask(wire.close("S", "never was") + wire.sync()).kinds == "3Z"
        assert client.ask(wire.parse("s", "select 2") + run("s")).rows == [["2"]]


def test_reuse_of_a_name_is_an_error(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.ask(wire.parse("s", "select 1") + wire.sync())
        client.send(wire.parse("s", "select 2") + wire.sync())
        assert "already" in client.expect_error().text


@pytest.mark.beyond_pgbouncer("PgBouncer remembers the name although PostgreSQL does not")
def test_failed_parse_is_not_remembered(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        reply = client.ask(wire.parse("s", "select * from missing_yet") + wire.sync())
        assert reply.errors[0].sqlstate == "42P01" and reply.status == "I"
        assert client.ask(wire.parse("s", "select 2") + run("s")).rows == [["2"]]


@pytest.mark.parametrize("how", ["simple", "extended"])
@pytest.mark.parametrize("command", ["DISCARD ALL", "DEALLOCATE ALL", "deallocate all;"])
def test_discard_all_forgets_the_statements_of_this_client_only(start_pooler, command, how):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        for client in (one, two):
            client.ask(wire.parse("s", "select 'before'") + wire.sync())
            assert client.ask(run("s")).rows == [["before"]]
        if how == "simple":
            assert not one.ask(wire.query(command)).errors
        else:
            assert not one.ask(wire.parse("", command) + run("")).errors
        assert two.ask(run("s")).rows == [["before"]]
        assert one.ask(wire.parse("s", "select 'after'") + run("s")).rows == [["after"]]
        assert two.ask(run("s")).rows == [["before"]]


def test_least_recently_used_statement_is_evicted(start_pooler):
    pooler = start_pooler(default_pool_size=1, max_prepared_statements=3)
    with pooler.wire() as client:
        for number in range(8):
            client.ask(wire.parse(f"s{number}", f"select {number}") + wire.sync())
            assert client.ask(run(f"s{number}")).rows == [[str(number)]]
        assert int(client.value("select count(*) from pg_prepared_statements")) == 3
        for number in (0, 7, 3, 0):
            assert client.ask(run(f"s{number}")).rows == [[str(number)]]
        assert int(client.value("select count(*) from pg_prepared_statements")) <= 3


def test_equal_statements_of_many_clients_are_one_on_the_server(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    clients = [pooler.wire() for _ in range(5)]
    for number, client in enumerate(clients):
        client.ask(wire.parse(f"name{number}", "select 'shared'") + wire.sync())
        assert client.ask(run(f"name{number}")).rows == [["shared"]]
    assert clients[0].value("select count(*) from pg_prepared_statements") == "1"
    for client in clients:
        client.close()


def test_switched_off_names_go_through_as_they_are(start_pooler):
    pooler = start_pooler(default_pool_size=1, max_prepared_statements=0)
    with pooler.wire() as client:
        client.ask(wire.parse("own_name", "select 1") + wire.sync())
        assert client.value("select name from pg_prepared_statements") == "own_name"


def test_session_mode_leaves_names_alone(start_pooler):
    pooler = start_pooler(pool_mode="session", default_pool_size=1)
    with pooler.wire() as client:
        client.ask(wire.parse("own_name", "select 1") + wire.sync())
        assert client.value("select name from pg_prepared_statements") == "own_name"


def test_long_names_and_queries(start_pooler):
    pooler = start_pooler(pkt_buf=4096)
    with pooler.wire() as client:
        for size in (4000, 4096, 5000, 16384):
            name = "n" * size
            query = f"select {size} /* {'c' * 40000} */"
            assert client.ask(wire.parse(name, query) + run(name)).rows == [[str(size)]]


def test_error_in_a_pipeline_skips_to_the_next_sync(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.ask(wire.parse("ok", "select $1::int") + wire.parse("div", "select 1 / $1::int") + wire.sync())
        client.send(wire.bind("ok", (1,)) + wire.execute() + wire.bind("div", (0,)) + wire.execute()
                    + wire.bind("ok", (2,)) + wire.execute() + wire.parse("late", "select 'late'") + wire.sync()
                    + run("ok", 3))
        first, second = client.reply(), client.reply()
        assert first.rows == [["1"]] and first.errors[0].sqlstate == "22012" and first.status == "I"
        assert first.kinds.endswith("EZ")
        assert second.rows == [["3"]] and not second.errors


@pytest.mark.beyond_pgbouncer("PgBouncer remembers the name although PostgreSQL does not")
def test_statement_skipped_after_an_error_was_never_made(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.ask(wire.parse("", "select 1/0") + wire.bind("") + wire.execute() + wire.parse("late", "select 'late'")
                   + wire.sync())
        client.ask(wire.parse("late", "select 'now'") + wire.sync())
        assert client.ask(run("late")).rows == [["now"]]


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_psycopg_pipeline(start_pooler, mode):
    pooler = start_pooler(pool_mode=mode, default_pool_size=2)
    with pooler.connect() as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("select %s::int", (n,), prepare=True) for n in range(100)]
            pipeline.sync()
            assert [c.fetchone()[0] for c in cursors] == list(range(100))
        with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
            connection.execute("select 1 / %s::int", (1,), prepare=True)
            connection.execute("select 1 / %s::int", (0,), prepare=True)
            connection.execute("select 1 / %s::int", (1,), prepare=True)
        assert connection.execute("select 'fine'").fetchone() == ("fine",)


def test_flush_brings_answers_without_sync_and_keeps_the_server(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client, pooler.wire() as other:
        client.send(wire.parse("", "select 'flushed'") + wire.bind("") + wire.execute() + wire.flush())
        assert [client.read()[0] for _ in range(4)] == ["1", "2", "D", "C"]
        other.send(wire.query("select 'other'"))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "the other client waits")
        client.send(wire.sync())
        assert client.reply().status == "I"
        assert other.reply().rows == [["other"]]


def test_portal_fetched_in_parts(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.send(wire.parse("", "select g from generate_series(1, 5) g") + wire.bind("", (), "p")
                    + wire.execute("p", 2) + wire.execute("p", 2) + wire.execute("p", 2) + wire.sync())
        reply = client.reply()
        assert [row[0] for row in reply.rows] == list("12345") and reply.kinds == "12DDsDDsDCZ"


def test_two_syncs_in_a_row_and_a_lone_sync(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.send(wire.sync() + wire.sync() + wire.query("select 1"))
        assert [client.reply().kinds for _ in range(3)] == ["Z", "Z", "TDCZ"]


def test_many_queries_sent_at_once_are_answered_in_order(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.send(b"".join(wire.query(f"select {n}") for n in range(200)))
        assert [client.reply().rows[0][0] for _ in range(200)] == [str(n) for n in range(200)]


def test_bind_of_an_unknown_statement(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.send(run("never_prepared"))
        error = client.expect_error()
        assert error.sqlstate in ("08P01", "26000") and "prepared statement" in error.text


def test_sql_prepare_inside_one_transaction(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.query("begin; prepare p(int) as select $1 * 2")
        assert client.value("execute p(21)") == "42"
        client.query("deallocate p; commit")


def test_statement_counters(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.ask(wire.parse("s", "select 1") + wire.sync())
        for _ in range(4):
            client.ask(run("s"))
    row = next(r for r in pooler.admin("SHOW STATS") if r["database"] == "app")
    counts = [int(row[f"total_{name}"]) for name in ("client_parse_count", "server_parse_count", "bind_count")]
    assert counts == [1, 1, 4]
