"""Signals and SHUTDOWN, as PgBouncer has them. How a shutdown that waits comes to an end is in test_drain.py."""

import signal
import socket
import subprocess
import time

import psycopg
import pytest
from harness import wire
from harness.process import poll_until
from harness.wire import Closed, WireError

TERM, INT, QUIT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP
USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


def shut_down(pooler, how) -> None:
    """A signal, or a command on the console."""
    if isinstance(how, str):
        pooler.admin(how)
    else:
        pooler.process.send_signal(how)


def ended(pooler, timeout: float = 10) -> int:
    """Wait for the end of the process; its exit code."""
    code = pooler.process.wait(timeout)
    pooler.process = None
    return code


def refuses(pooler) -> bool:
    """Is there nobody on the TCP port?"""
    try:
        pooler.raw().close()
    except ConnectionRefusedError:
        return True
    return False


def await_refusal(pooler) -> None:
    poll_until(lambda: refuses(pooler), "no new TCP clients")


def by_socket(pooler, dbname: str, user: str = "app", password: str = "app password") -> psycopg.Connection:
    """A connection over the Unix socket."""
    return psycopg.connect(pooler.dsn(dbname, user, password, host=str(pooler.sockets)), autocommit=True,
                           cursor_factory=psycopg.ClientCursor)


def last_words(client) -> WireError | None:
    """The error before the end of the connection; None if the end comes without one."""
    try:
        error = client.expect_error()
    except Closed:
        return None
    assert client.is_closed()
    return error


def assert_told(site, client) -> None:
    """The client learns that the pooler is going. PgBouncer just hangs up."""
    error = last_words(client)
    if not site.stand_in:
        assert (error.fields["S"], error.sqlstate) == ("FATAL", "57P01"), error
        assert error.text == "terminating connection due to administrator command"
        # What programs look for that know a lost connection by libpq's words.
        assert "server closed the connection unexpectedly" in error.fields["D"]


def state(pooler) -> dict:
    return {row["key"]: row["value"] for row in pooler.admin("SHOW STATE")}


# -- waiting for clients


@pytest.mark.parametrize("how", [TERM, "SHUTDOWN WAIT_FOR_CLIENTS"])
def test_clients_are_waited_for(start_pooler, how):
    pooler = start_pooler(start=False)
    pidfile, sock = pooler.folder / "pooler.pid", pooler.sockets / f".s.PGSQL.{pooler.port}"
    pooler.write(pooler.ini.read_text() + f"pidfile = {pidfile}\n")
    pooler.start()
    with pooler.wire() as busy, pooler.wire() as idle:
        busy.query("begin")
        shut_down(pooler, how)
        await_refusal(pooler)
        pooler.wait_log("got SIGTERM, shutting down, waiting for all clients disconnect" if how == TERM
                        else "SHUTDOWN WAIT_FOR_CLIENTS command issued")
        # Everybody goes on as before, with new transactions too.
        assert busy.value("select 'still here'") == "still here"
        busy.query("commit")
        for client in (busy, idle):
            client.query("begin")
            assert client.value("select 1") == "1"
            client.query("commit")
        # Over the Unix socket only the console lets in.
        with pytest.raises(psycopg.OperationalError, match="pooler is shutting down"):
            by_socket(pooler, "app")
        with by_socket(pooler, "pgbouncer", pooler.admin_user, pooler.admin_password) as console:
            assert console.execute("SHOW VERSION").fetchone()
            with pytest.raises(psycopg.errors.ProtocolViolation, match="pooler is shutting down"):
                console.execute("RESUME")
        busy.close()
        assert pooler.process.poll() is None and sock.exists() and pidfile.exists()
    assert ended(pooler) == 0
    assert "client connections dropped, exiting" in pooler.log()
    assert not sock.exists() and not pidfile.exists()


def test_a_shutdown_without_clients_ends_at_once(start_pooler):
    pooler = start_pooler()
    shut_down(pooler, TERM)
    assert ended(pooler, 3) == 0


def test_a_client_that_was_just_logging_in_is_refused(start_pooler):
    pooler = start_pooler()
    with pooler.wire(), pooler.raw() as late:
        late.send(wire.startup({"user": "app", "database": "app"}))
        late.socket.recv(1, socket.MSG_PEEK)
        shut_down(pooler, TERM)
        await_refusal(pooler)
        with pytest.raises(WireError, match="pooler is shutting down") as refused:
            late.finish_login("app", "app password")
        assert refused.value.fields["S"] == "FATAL"
    assert ended(pooler) == 0


# -- waiting for servers


@pytest.mark.parametrize("how", [INT, "SHUTDOWN WAIT_FOR_SERVERS"])
def test_servers_are_waited_for(start_pooler, how, site):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as busy, pooler.wire() as waiting, pooler.wire() as idle, pooler.wire() as silent:
        busy.query("begin")
        waiting.send(wire.query("select 1"))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "a client waits")
        shut_down(pooler, how)
        pooler.wait_log("got SIGINT, shutting down, waiting for all servers connections to be released" if how == INT
                        else "SHUTDOWN WAIT_FOR_SERVERS command issued")
        # Who waits for a server need not wait any longer, and who asks for one gets none.
        assert last_words(waiting).text == "server shutting down"
        await_refusal(pooler)
        idle.send(wire.query("select 1"))
        error = last_words(idle)
        assert error.text == "server shutting down"
        assert error.sqlstate == ("08P01" if site.stand_in else "57P01")
        with pytest.raises(psycopg.OperationalError, match="shutting down"):
            by_socket(pooler, "app")
        assert busy.value("select 'to the end'") == "to the end"
        assert pooler.process.poll() is None
        busy.query("commit")
        assert ended(pooler) == 0
        assert_told(site, silent)
    assert "server connections dropped, exiting" in pooler.log()


def test_sigint_lets_a_client_of_session_pooling_work_on(start_pooler):
    pooler = start_pooler(pool_mode="session")
    with pooler.wire() as client:
        client.query("create temporary table mine (v int)")
        shut_down(pooler, INT)
        await_refusal(pooler)
        for _ in range(3):
            client.query("insert into mine values (1)")
        assert client.value("select count(*) from mine") == "3"
        assert pooler.process.poll() is None
    assert ended(pooler) == 0


# -- at once


@pytest.mark.parametrize("first", [TERM, INT, "SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_SERVERS"])
@pytest.mark.parametrize("second", [TERM, INT])
def test_the_second_signal_ends_at_once(start_pooler, site, first, second):
    pooler = start_pooler()
    with pooler.wire() as busy, pooler.wire() as idle:
        busy.query("begin")
        shut_down(pooler, first)
        await_refusal(pooler)
        assert busy.value("select 1") == "1"
        began = time.monotonic()
        shut_down(pooler, second)
        assert ended(pooler) == 0
        assert time.monotonic() - began < 2
        assert f"got {second.name} while shutting down, fast exit" in pooler.log()
        assert_told(site, busy)
        assert_told(site, idle)


@pytest.mark.parametrize("how", [QUIT, "SHUTDOWN"])
def test_immediate_shutdown(start_pooler, site, how):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as sleeping, pooler.wire() as waiting, pooler.wire() as idle:
        sleeping.send(wire.query("select pg_sleep(60)"))
        poll_until(lambda: pooler.pool()["cl_active"] > 0, "a query runs")
        waiting.send(wire.query("select 1"))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "a client waits")
        began = time.monotonic()
        if how == QUIT:
            shut_down(pooler, how)
        else:
            with pytest.raises(psycopg.OperationalError):
                shut_down(pooler, how)
        assert ended(pooler) == 0
        assert time.monotonic() - began < 2
        for client in (sleeping, waiting, idle):
            assert_told(site, client)
    assert ("got SIGQUIT, fast exit" if how == QUIT else "SHUTDOWN command issued") in pooler.log()
    site.cluster.primary.sql("select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(60)'")


def test_sigquit_during_a_shutdown_that_waits(start_pooler, site):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.query("begin")
        shut_down(pooler, TERM)
        await_refusal(pooler)
        shut_down(pooler, QUIT)
        assert ended(pooler) == 0
        assert_told(site, client)
    assert "got SIGQUIT, fast exit" in pooler.log()


@pytest.mark.parametrize("how", [TERM, INT])
def test_signals_during_suspend_end_at_once(start_pooler, site, how):
    pooler = start_pooler()
    with pooler.wire() as client, pooler.console() as console:
        client.query("select 1")
        console.execute("SUSPEND")
        shut_down(pooler, how)
        # PgBouncer calls this a failure.
        assert ended(pooler) == (1 if site.stand_in else 0)
    assert "suspend was in progress, going down immediately" in pooler.log()


def test_psql_leaves_as_it_does_when_a_server_is_shut_down(start_pooler):
    pooler = start_pooler()
    psql = subprocess.run(["psql", "-X", pooler.dsn("pgbouncer", pooler.admin_user, pooler.admin_password), "-c",
                           "SHUTDOWN"], capture_output=True, text=True, timeout=15)
    assert psql.returncode == 2
    assert "server closed the connection unexpectedly" in psql.stderr
    ended(pooler)


# -- the other signals


def test_sigusr1_pauses_and_sigusr2_resumes(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.query("select 1")
        shut_down(pooler, USR2)
        pooler.wait_log("got SIGUSR2, but not paused/suspended")
        shut_down(pooler, USR1)
        pooler.wait_log("got SIGUSR1, pausing all activity")
        poll_until(lambda: state(pooler)["paused"] == "yes", "paused")
        client.send(wire.query("select 'resumed'"))
        shut_down(pooler, USR1)
        pooler.wait_log("got SIGUSR1, but already paused/suspended")
        shut_down(pooler, USR2)
        pooler.wait_log("got SIGUSR2, continuing from PAUSE")
        assert client.reply().rows == [["resumed"]]


def test_sigusr2_continues_from_suspend(start_pooler):
    pooler = start_pooler()
    with pooler.console() as console:
        console.execute("SUSPEND")
        shut_down(pooler, USR2)
        pooler.wait_log("got SIGUSR2, continuing from SUSPEND")
    poll_until(lambda: state(pooler)["suspended"] == "no", "active again")


@pytest.mark.parametrize("how", [TERM, INT])
def test_signals_during_a_shutdown(start_pooler, how):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.query("begin")
        shut_down(pooler, how)
        await_refusal(pooler)
        shut_down(pooler, USR2)
        pooler.wait_log("got SIGUSR2 while shutting down, ignoring")
        pooler.hangup()
        pooler.wait_log("got SIGHUP, re-reading config")
        assert client.value("select 1") == "1"
        client.query("commit")
    assert ended(pooler) == 0


@pytest.mark.parametrize("how", [TERM, "SHUTDOWN WAIT_FOR_CLIENTS"])
def test_a_rolling_restart_of_two_on_one_port(start_pooler, site, how):
    one = start_pooler(so_reuseport=1)
    with one.wire() as old:
        two = start_pooler(so_reuseport=1, start=False)
        two.write(two.ini.read_text().replace(f"listen_port = {two.port}", f"listen_port = {one.port}"))
        two.port = one.port
        shut_down(one, how)
        await_refusal(one)
        assert old.value("select 1") == "1"
        two.start()
        with two.wire() as new:
            assert new.value("select 1") == old.value("select 1") == "1"
    assert ended(one) == 0
