"""A shutdown that waits comes to an end: idle clients are closed one after the other, transactions finish, a deadline holds."""

import collections
import random
import select
import signal
import struct
import subprocess
import threading
import time

import psycopg
import pytest
import sqlalchemy
from harness import wire
from harness.process import clean_environment, poll_until
from harness.wire import Closed, WireError
from test_shutdown import INT, QUIT, TERM, await_refusal, ended, last_words, shut_down

pytestmark = pytest.mark.beyond_pgbouncer("PgBouncer waits for ever and hangs up without a word")

GOODBYE = ("FATAL", "57P01", "terminating connection due to administrator command")


def fields(error: WireError) -> tuple[str, str, str]:
    return error.fields["S"], error.sqlstate, error.text


def assert_goodbye(client) -> None:
    assert fields(last_words(client)) == GOODBYE


def ends(clients: list, began: float, timeout: float) -> list[float]:
    """Wait until each of these clients has been told to go; the seconds since `began`, in order."""
    waiting = {client.socket.fileno(): client for client in clients}
    poll = select.poll()
    for number in waiting:
        poll.register(number, select.POLLIN)
    times = []
    while waiting and time.monotonic() - began < timeout:
        for number, _ in poll.poll(100):
            times.append(time.monotonic() - began)
            poll.unregister(number)
            client = waiting.pop(number)
            assert_goodbye(client)
            client.close()
    assert not waiting, f"{len(waiting)} clients were not told"
    return times


def assert_even(times: list[float], begin: float, end: float, slack: float) -> None:
    """One after the other, at the same distance."""
    step = (end - begin) / len(times)
    for number, at in enumerate(sorted(times)):
        due = begin + number * step
        assert abs(at - due) < slack, f"client {number} went after {at:.2f} s and not after {due:.2f} s"


def test_idle_clients_go_one_after_the_other_and_transactions_finish(start_pooler, site):
    """200 idle clients, some in a transaction, one that never ends."""
    site.cluster.primary.sql("drop table if exists drained; create table drained (v int); "
                             "grant all on drained to public", "app")
    pooler = start_pooler(drain_grace=1, drain_spread=3, drain_timeout=7, default_pool_size=30)
    idle = [pooler.wire() for _ in range(200)]
    working = [pooler.wire() for _ in range(10)]
    sleeper = pooler.wire()
    for client in random.sample(idle, 50):
        client.query("select 1")
    for number, client in enumerate(working):
        client.query("begin")
        client.query(f"insert into drained values ({number})")
    sleeper.send(wire.query("select pg_sleep(60), 'outlasts the deadline'"))

    began = time.monotonic()
    shut_down(pooler, TERM)
    times = ends(idle, began, 6)
    assert_even(times, 1, 4, slack=0.35)
    # Those in a transaction go on until they are done with it, then they have to go.
    for client in working:
        assert client.value("select count(*) > 0 from drained") == "t"
        client.query("commit")
        assert_goodbye(client)
    assert pooler.process.poll() is None
    assert fields(last_words(sleeper)) == GOODBYE
    assert 6.8 < time.monotonic() - began < 8
    assert ended(pooler, 5) == 0
    assert time.monotonic() - began < 9
    assert site.cluster.primary.sql("select count(*) from drained", "app") == [(10,)]
    # Its query does not go on without it.
    running = "select count(*) from pg_stat_activity where query like '%outlasts the deadline%' and pid <> pg_backend_pid()"
    poll_until(lambda: site.cluster.primary.sql(running) == [(0,)], "the query is cancelled", timeout=5)
    assert "drain_timeout: closing 1 clients" in pooler.log()


def test_the_one_that_was_idle_longest_goes_first(start_pooler):
    pooler = start_pooler(drain_grace=0.5, drain_spread=2, drain_timeout=9)
    clients = [pooler.wire() for _ in range(8)]
    random.shuffle(clients)
    for client in clients:
        client.query("select 1")
    began = time.monotonic()
    shut_down(pooler, TERM)
    gone = []
    while len(gone) < len(clients):
        left = [c for c in clients if c not in gone]
        readable, _, _ = select.select([c.socket for c in left], [], [], 5)
        assert readable, "nobody goes"
        gone += [c for c in left if c.socket in readable]
    assert gone == clients
    assert time.monotonic() - began < 3.5
    for client in clients:
        assert_goodbye(client)
        client.close()
    assert ended(pooler) == 0


@pytest.mark.parametrize("how", [TERM, INT, "SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_SERVERS"])
def test_session_pooling_does_not_hold_up_the_end(start_pooler, how):
    """Clients that keep their servers for ever count as idle between transactions."""
    pooler = start_pooler(pool_mode="session", drain_grace=1, drain_spread=1, drain_timeout=10)
    with pooler.wire() as idle, pooler.wire() as busy:
        idle.query("select 1")
        busy.query("begin")
        began = time.monotonic()
        shut_down(pooler, how)
        assert_goodbye(idle)
        assert 0.9 < time.monotonic() - began < 2.5
        time.sleep(1)
        assert busy.value("select 'still at work'") == "still at work"
        assert pooler.process.poll() is None
        busy.query("commit")
        assert_goodbye(busy)
    assert ended(pooler) == 0


@pytest.mark.parametrize("how", [TERM, INT])
def test_the_deadline_holds_for_a_transaction_that_is_idle(start_pooler, site, how):
    pooler = start_pooler(drain_grace=0, drain_spread=0, drain_timeout=2)
    with pooler.wire() as client:
        client.query("begin")
        backend = client.value("select pg_backend_pid()")
        began = time.monotonic()
        shut_down(pooler, how)
        assert_goodbye(client)
        assert 1.9 < time.monotonic() - began < 3
    assert ended(pooler) == 0
    gone = "select count(*) = 0 from pg_stat_activity where pid = %s"
    poll_until(lambda: site.cluster.primary.sql(gone, parameters=(int(backend),))[0][0], "it is rolled back")


def test_an_insert_that_outlasts_the_deadline_is_not_done_behind_the_clients_back(start_pooler, site):
    site.cluster.primary.sql("drop table if exists late; create table late (v int); grant all on late to public", "app")
    pooler = start_pooler(drain_grace=0, drain_spread=0, drain_timeout=1)
    with pooler.wire() as client:
        client.send(wire.query("insert into late select 1 from pg_sleep(4)"))
        time.sleep(0.3)
        shut_down(pooler, TERM)
        assert_goodbye(client)
    ended(pooler)
    running = "select count(*) = 0 from pg_stat_activity where query like 'insert into late%'"
    poll_until(lambda: site.cluster.primary.sql(running)[0][0], "the insert has stopped", timeout=2)
    assert site.cluster.primary.sql("select count(*) from late", "app") == [(0,)]


def test_a_busy_client_goes_at_the_end_of_a_transaction(start_pooler):
    """pgbench never rests and still loses no transaction: every one that was begun is answered."""
    pooler = start_pooler(drain_grace=0.5, drain_spread=1, drain_timeout=20)
    outcomes = collections.Counter()

    def work() -> None:
        with pooler.connect(autocommit=False) as connection:
            while True:
                step = "begin"
                try:
                    connection.execute("select 1")
                    step = "inside"
                    connection.execute("select 2")
                    connection.commit()
                    outcomes["committed"] += 1
                except psycopg.OperationalError as error:
                    outcomes[f"{step}: {error.sqlstate or 'end'}"] += 1
                    return

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    poll_until(lambda: outcomes["committed"] > 200, "work is done")
    began = time.monotonic()
    shut_down(pooler, TERM)
    for thread in threads:
        thread.join(15)
    assert ended(pooler) == 0
    assert time.monotonic() - began < 4
    assert {key: outcomes[key] for key in outcomes if key.startswith("inside")} == {}, outcomes
    assert sum(outcomes[key] for key in ("begin: 57P01", "begin: end")) == 20, outcomes


def test_a_client_in_the_queue_gets_its_turn_first(start_pooler):
    pooler = start_pooler(default_pool_size=1, drain_grace=0, drain_spread=0, drain_timeout=20)
    with pooler.wire() as first, pooler.wire() as second:
        first.query("begin")
        second.send(wire.query("select 'my turn'"))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "a client waits")
        shut_down(pooler, TERM)
        await_refusal(pooler)
        time.sleep(0.3)
        first.query("commit")
        assert_goodbye(first)
        assert second.reply().rows == [["my turn"]]
        assert_goodbye(second)
    assert ended(pooler) == 0


def test_a_pool_that_keeps_its_connections_for_ever(start_pooler):
    """SQLAlchemy's pool: the process ends, and with another on the port the application goes on without an error."""
    one = start_pooler(drain_grace=0.3, drain_spread=0.7, drain_timeout=10)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(one.dsn()), pool_size=10, pool_pre_ping=True)
    held = [engine.connect() for _ in range(10)]
    for connection in held:
        assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1
        connection.close()
    assert engine.pool.checkedin() == 10
    began = time.monotonic()
    shut_down(one, TERM)
    assert ended(one, 10) == 0
    assert time.monotonic() - began < 3
    two = start_pooler(start=False)
    two.write(one.ini.read_text())
    two.port = one.port
    two.start()
    for _ in range(20):
        with engine.begin() as connection:
            assert connection.execute(sqlalchemy.text("select 1")).scalar() == 1
    engine.dispose()


def test_a_deadline_of_zero_waits_for_ever(start_pooler):
    pooler = start_pooler(drain_grace=0, drain_spread=0, drain_timeout=0)
    with pooler.wire() as client:
        shut_down(pooler, TERM)
        await_refusal(pooler)
        time.sleep(2.5)
        assert client.value("select 1") == "1" and pooler.process.poll() is None
    assert ended(pooler) == 0


def test_settings_hold_for_a_shutdown_under_way(start_pooler):
    pooler = start_pooler(drain_timeout=0, unix_socket_dir=None)
    with pooler.wire() as client, pooler.console() as console:
        shut_down(pooler, TERM)
        await_refusal(pooler)
        time.sleep(0.5)
        assert client.value("select 1") == "1"
        for setting in ("drain_grace = 0", "drain_spread = 0", "drain_timeout = 30"):
            console.execute(f"SET {setting}")
        began = time.monotonic()
        assert_goodbye(client)
        assert time.monotonic() - began < 2
        # The console is told last.
        with pytest.raises(psycopg.OperationalError) as caught:
            for _ in range(100):
                console.execute("SHOW VERSION")
                time.sleep(0.02)
        assert caught.value.sqlstate in ("57P01", None)
    assert ended(pooler) == 0


@pytest.mark.parametrize("how", [TERM, QUIT])
def test_over_tls_clients_are_told_too(start_pooler, site, how):
    pooler = start_pooler(client_tls_sslmode="require", client_tls_key_file=site.pooler_cert.key,
                          client_tls_cert_file=site.pooler_cert.cert, drain_grace=0, drain_spread=0)
    with pooler.raw() as client:
        client.request_tls(wire.client_context())
        client.login("app", "app", "app password")
        shut_down(pooler, how)
        assert_goodbye(client)
    assert ended(pooler) == 0


def test_a_client_that_does_not_read_does_not_hold_up_the_end(start_pooler):
    pooler = start_pooler(drain_grace=0, drain_spread=0, drain_timeout=1)
    with pooler.wire() as deaf:
        deaf.send(wire.query("select repeat('x', 1000) from generate_series(1, 1000000)"))
        time.sleep(0.5)
        began = time.monotonic()
        shut_down(pooler, TERM)
        assert ended(pooler) == 0
        assert time.monotonic() - began < 4
        # The end may cut a row off, but nothing of ours stands in the middle of one.
        row = struct.pack("!hi", 1, 1000) + b"x" * 1000
        with pytest.raises(Closed):
            assert deaf.read()[0] == "T"
            while True:
                assert deaf.read() == ("D", row)


def test_a_thousand_clients_are_told_within_the_time_of_sigquit(start_pooler):
    pooler = start_pooler(max_client_conn=1200)
    clients = [pooler.wire() for _ in range(1000)]
    began = time.monotonic()
    shut_down(pooler, QUIT)
    assert ended(pooler) == 0
    assert time.monotonic() - began < 2
    for client in clients:
        assert_goodbye(client)
        client.close()


def test_psql_says_why(start_pooler):
    pooler = start_pooler(drain_grace=0.5, drain_spread=0)
    psql = subprocess.Popen(["psql", "-XAt", pooler.dsn()], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=clean_environment())
    psql.stdin.write("select 'up';\n")
    psql.stdin.flush()
    assert psql.stdout.readline() == "up\n"
    shut_down(pooler, signal.SIGTERM)
    assert ended(pooler) == 0
    _, errors = psql.communicate("select 1;\n", timeout=10)
    assert "terminating connection due to administrator command" in errors and psql.returncode == 2
