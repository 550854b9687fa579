"""Every timeout of the [pgbouncer] section: it fires, it says why, and not too early."""

import socket
import time

import pytest
from harness import wire
from harness.process import poll_until

PID = "select pg_backend_pid()"


def error_and_end(client):
    """The error that ended the client, and the seconds it took to come."""
    began = time.monotonic()
    error = client.expect_error()
    took = time.monotonic() - began
    assert error.sqlstate and error.text
    assert client.is_closed(), f"the connection stays open after {error}"
    return error, took


def test_query_wait_timeout(start_pooler):
    pooler = start_pooler(default_pool_size=1, query_wait_timeout=1)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("begin")
        holder.query("select 1")
        waiter.send(wire.query("select 1"))
        error, took = error_and_end(waiter)
        assert error.text == "query_wait_timeout" and error.sqlstate == "08P01" and error.fields["S"] == "FATAL"
        assert 0.6 < took < 3
        holder.query("commit")


@pytest.mark.parametrize("where", ["database", "user"])
def test_query_wait_timeout_of_database_and_user(site, start_pooler, where):
    pooler = start_pooler(
        default_pool_size=1, query_wait_timeout=60,
        databases={"app": site.to_primary("query_wait_timeout=1" if where == "database" else "")},
        users={"app": "query_wait_timeout=1"} if where == "user" else None)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("begin")
        waiter.send(wire.query("select 1"))
        assert error_and_end(waiter)[0].text == "query_wait_timeout"


def test_query_timeout(start_pooler, cluster):
    pooler = start_pooler(default_pool_size=1, query_timeout=1)
    with pooler.wire() as client:
        client.query("select pg_sleep(0.2)")
        client.send(wire.query("select pg_sleep(30)"))
        error, took = error_and_end(client)
        assert error.text == "query timeout" and error.sqlstate == "08P01" and 0.6 < took < 3
    with pooler.wire() as other:
        assert other.value("select 1") == "1"


def test_query_timeout_does_not_count_an_idle_transaction(start_pooler):
    pooler = start_pooler(query_timeout=1)
    with pooler.wire() as client:
        client.query("begin")
        # Fixed waiting is the point here: nothing may happen.
        client.socket.settimeout(1.8)
        with pytest.raises(TimeoutError):
            client.read()
        client.socket.settimeout(10)
        client.query("commit")


def test_idle_transaction_timeout(start_pooler, cluster):
    pooler = start_pooler(idle_transaction_timeout=1)
    with pooler.wire() as client:
        client.query("begin")
        backend = client.value(PID)
        error, took = error_and_end(client)
        assert error.text == "idle transaction timeout" and error.sqlstate == "08P01" and 0.6 < took < 3
    gone = "select count(*) = 0 from pg_stat_activity where pid = %s"
    poll_until(lambda: cluster.primary.sql(gone, parameters=(int(backend),))[0][0], "the transaction is rolled back")


def test_idle_transaction_timeout_spares_a_running_query(start_pooler):
    pooler = start_pooler(idle_transaction_timeout=1)
    with pooler.wire() as client:
        client.query("begin")
        client.query("select pg_sleep(2)")
        client.query("commit")


def test_transaction_timeout(start_pooler):
    pooler = start_pooler(transaction_timeout=1)
    with pooler.wire() as client:
        client.query("begin")
        began = time.monotonic()
        client.send(wire.query("select pg_sleep(30)"))
        error, _ = error_and_end(client)
        assert error.text == "transaction timeout" and error.sqlstate == "08P01"
        assert 0.6 < time.monotonic() - began < 3


def test_client_idle_timeout(start_pooler):
    pooler = start_pooler(client_idle_timeout=1)
    with pooler.wire() as client:
        client.query("select 1")
        error, took = error_and_end(client)
        assert error.text == "client_idle_timeout" and error.sqlstate == "08P01" and 0.6 < took < 3


def test_user_timeouts_override(start_pooler):
    pooler = start_pooler(client_idle_timeout=0, query_timeout=0,
                          users={"alice": "client_idle_timeout=1", "bob": "query_timeout=1"})
    with pooler.wire("app", "alice", "alice password") as alice, pooler.wire("app", "bob", "bob password") as bob, \
            pooler.wire() as app:
        bob.send(wire.query("select pg_sleep(30)"))
        app.send(wire.query("select pg_sleep(2)"))
        assert error_and_end(alice)[0].text == "client_idle_timeout"
        assert error_and_end(bob)[0].text == "query timeout"
        assert not app.reply().errors


def test_client_login_timeout(start_pooler):
    pooler = start_pooler(client_login_timeout=1)
    silent = pooler.raw()
    halfway = pooler.raw()
    halfway.send(wire.startup({"user": "app", "database": "app"}))
    for client in (silent, halfway):
        assert client.is_closed()
        client.close()


def test_server_lifetime(start_pooler):
    pooler = start_pooler(default_pool_size=1, server_lifetime=1, server_check_delay=0)
    with pooler.wire() as client:
        first = client.value(PID)
        poll_until(lambda: not pooler.servers(), "the old server is closed", timeout=5)
        assert client.value(PID) != first


def test_server_lifetime_does_not_interrupt_a_transaction(start_pooler):
    pooler = start_pooler(default_pool_size=1, server_lifetime=1)
    with pooler.wire() as client:
        client.query("begin")
        first = client.value(PID)
        client.query("select pg_sleep(2)")
        assert client.value(PID) == first
        client.query("commit")
        poll_until(lambda: client.value(PID) != first, "a new server afterwards", timeout=5)


def test_server_idle_timeout(start_pooler):
    pooler = start_pooler(server_idle_timeout=1)
    with pooler.wire() as client:
        first = client.value(PID)
        assert len(pooler.servers()) == 1
        poll_until(lambda: not pooler.servers(), "the idle server is closed", timeout=5)
        assert client.value(PID) != first


def test_server_connect_timeout_and_server_login_retry(start_pooler):
    # Accepts in the kernel's backlog and never answers.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        pooler = start_pooler(
            databases={"app": f"host=127.0.0.1 port={silent.getsockname()[1]} dbname=app"},
            server_connect_timeout=1, server_login_retry=1, auth_type="trust")
        client = pooler.raw()
        client.send(wire.startup({"user": "app", "database": "app"}))
        pooler.wait_log("closing because: connect timeout", count=2, timeout=8)
        client.close()


def test_query_wait_notify(start_pooler):
    pooler = start_pooler(default_pool_size=1, query_wait_notify=1)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("begin")
        waiter.send(wire.query("select 'at last'"))
        kind, body = waiter.read()
        assert kind == "N"
        assert wire.parse_fields(body)["M"] == \
            "No server connection available in postgres backend, client being queued"
        holder.query("commit")
        assert waiter.reply().rows == [["at last"]]


def test_cancel_of_a_waiting_client(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("begin")
        waiter.send(wire.query("select 1"))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "the second client waits")
        with pooler.raw() as canceller:
            canceller.send(wire.cancel(waiter.pid, waiter.secret))
            assert canceller.is_closed()
        # The waiter may be told that its query was cancelled, or may still get its turn. The holder, in whose
        # transaction nothing was cancelled, must not notice.
        assert holder.value("select 1") == "1"
        holder.query("commit")
        kind, body = waiter.read()
        assert kind == "T" or (kind == "E" and wire.parse_fields(body)["C"])
