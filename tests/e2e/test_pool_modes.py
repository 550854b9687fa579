"""When a client has a server, and when it gives it back."""

import psycopg
import pytest
from harness import wire
from harness.process import poll_until
from harness.wire import WireError

PID = "select pg_backend_pid()"


def test_transaction_mode_shares_one_server_between_transactions(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        pids = {client.value(PID) for client in (one, two, one, two)}
    assert len(pids) == 1


def test_transaction_mode_keeps_the_server_during_a_transaction(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("begin")
        mine = one.value(PID)
        two.send(wire.query(PID))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "the second client waits")
        assert one.value(PID) == mine
        one.query("commit")
        assert two.reply().rows == [[mine]]


def test_transaction_mode_keeps_the_server_of_a_failed_transaction_until_rollback(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("begin")
        assert one.ask(wire.query("select 1/0")).status == "E"
        two.send(wire.query("select 'two'"))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "the second client waits")
        assert one.ask(wire.query("select 1")).errors[0].sqlstate == "25P02"
        one.query("rollback")
        assert two.reply().rows == [["two"]]


def test_transaction_mode_client_that_leaves_in_a_transaction_rolls_back(start_pooler, cluster):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as one:
        one.query("create table if not exists left_behind (v int); truncate left_behind")
        one.query("begin")
        one.query("insert into left_behind values (1)")
    with pooler.wire() as two:
        assert two.query("select * from left_behind") == []
        assert two.ask(wire.query("select 1")).status == "I"


def test_session_mode_keeps_the_server_until_the_client_leaves(start_pooler):
    pooler = start_pooler(pool_mode="session", default_pool_size=1)
    with pooler.wire() as one:
        mine = one.value(PID)
        two = pooler.wire()
        two.send(wire.query(PID))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "the second client waits")
        assert one.value(PID) == mine
    assert two.reply().rows == [[mine]]
    two.close()


def test_session_mode_resets_the_server_between_clients(start_pooler):
    pooler = start_pooler(pool_mode="session", default_pool_size=1)
    with pooler.wire() as one:
        mine = one.value(PID)
        one.query("set work_mem = '123kB'; create temp table mine (v int); prepare p as select 1; listen news")
    with pooler.wire() as two:
        assert two.value(PID) == mine
        assert two.value("show work_mem") != "123kB"
        assert two.value("select to_regclass('pg_temp.mine') is null") == "t"
        assert two.value("select count(*) from pg_prepared_statements") == "0"
        assert two.value("select count(*) from pg_listening_channels()") == "0"


def test_server_reset_query_always_in_transaction_mode(start_pooler):
    pooler = start_pooler(default_pool_size=1, server_reset_query_always=1, server_reset_query="reset work_mem")
    with pooler.wire() as one:
        one.query("set work_mem = '123kB'")
        assert poll_until(lambda: one.value("show work_mem") != "123kB", "the setting is reset")


def test_statement_mode_gives_the_server_back_after_each_statement(start_pooler):
    pooler = start_pooler(pool_mode="statement", default_pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        assert len({client.value(PID) for client in (one, two, one)}) == 1


@pytest.mark.parametrize("how", ["simple", "extended"])
def test_statement_mode_refuses_transaction_blocks(start_pooler, how):
    pooler = start_pooler(pool_mode="statement")
    with pooler.wire() as client:
        client.send(wire.query("begin") if how == "simple" else
                    wire.parse("", "begin") + wire.bind("") + wire.execute() + wire.sync())
        error = client.expect_error()
        assert "transaction blocks not allowed in statement pooling mode" in error.text
        assert error.sqlstate == "08P01"
        assert client.is_closed()


def test_pool_mode_of_database_and_user(site, start_pooler):
    pooler = start_pooler(
        pool_mode="transaction", default_pool_size=1,
        databases={"app": site.to_primary(), "by_db": site.to_primary("pool_mode=session")},
        users={"alice": "pool_mode=session"})
    for database, user, password in (("by_db", "app", "app password"), ("app", "alice", "alice password")):
        with pooler.wire(database, user, password) as one:
            one.value(PID)
            assert pooler.pool(database, user)["sv_active"] == 1, "session mode keeps the server"
            assert pooler.pool(database, user)["pool_mode"] == "session"
    with pooler.wire() as one:
        one.value(PID)
        poll_until(lambda: pooler.pool()["sv_active"] == 0, "transaction mode gives the server back")


def test_pool_mode_change_at_run_time(start_pooler):
    pooler = start_pooler(pool_mode="session")
    pooler.admin("SET pool_mode = 'transaction'")
    with pooler.wire() as one:
        one.value(PID)
        poll_until(lambda: pooler.pool()["sv_active"] == 0, "the server is given back")
        assert pooler.pool()["pool_mode"] == "transaction"


def test_multi_statement_query_and_empty_query(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        reply = client.ask(wire.query("select 1; select 'two'; select 3"))
        assert reply.rows == [["1"], ["two"], ["3"]] and reply.tags == ["SELECT 1"] * 3
        assert client.ask(wire.query("")).kinds == "IZ"
        assert client.ask(wire.query(" ; ; ")).kinds == "IZ"
        reply = client.ask(wire.query("select 1; select 1/0; select 3"))
        assert reply.rows == [["1"]] and reply.errors[0].sqlstate == "22012" and reply.status == "I"


def test_listen_notify_in_session_mode(start_pooler):
    pooler = start_pooler(pool_mode="session")
    with pooler.wire() as one, pooler.wire() as two:
        one.query("listen news")
        two.query("notify news, 'hello'")
        kind, body = one.read()
        assert kind == "A" and body.endswith(b"news\0hello\0")


def test_server_that_dies_between_transactions_is_replaced_unseen(start_pooler, cluster):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        first = client.value(PID)
        cluster.primary.sql("select pg_terminate_backend(%s)", parameters=(int(first),))
        poll_until(lambda: not pooler.servers(), "the pooler sees that its server is gone")
        assert client.value(PID) != first


def test_server_that_dies_in_a_transaction_ends_the_client_with_its_reason(start_pooler, cluster):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.query("begin")
        cluster.primary.sql("select pg_terminate_backend(%s)", parameters=(int(client.value(PID)),))
        error = client.expect_error()
        assert error.sqlstate == "57P01" and "terminating connection" in error.text
        assert client.is_closed()


def test_unknown_message_type_ends_the_client(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.send(wire.message("y", b"nonsense"))
        assert client.expect_error().sqlstate == "08P01"
        assert client.is_closed()
    pooler.connect().close()


def test_error_has_the_servers_fields(start_pooler):
    pooler = start_pooler()
    with pooler.connect() as connection:
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            connection.execute("create temp table u (v int constraint u_v unique); insert into u values (1), (1)")
        assert caught.value.diag.constraint_name == "u_v"
    with pooler.wire() as client, pytest.raises(WireError) as caught:
        client.query("select * from no_such_table")
    assert caught.value.sqlstate == "42P01"
