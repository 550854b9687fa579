"""A restart by `-R`: every client goes on at the successor as if nothing had been."""

import asyncio
import os
import signal
import threading
import time

import asyncpg
import psycopg
import pytest
from harness import process, wire
from harness.configuration import Ini
from harness.pooler import binary
from harness.process import poll_until
from harness.successor import call_successor, ends_well, hand_over, successor_log
from harness.wire import Closed, Wire, WireError
from test_auth import scram_secret

pytestmark = pytest.mark.beyond_pgbouncer("PgBouncer's -R loses clients inside transactions, pauses and prepared statements")


@pytest.fixture
def serve(start_pooler):
    """A pooler whose connections can be passed on with any kernel: no TLS to the servers."""
    def start(**settings):
        pooler = start_pooler(**{"server_tls_sslmode": "disable", **settings})
        if pooler.process is not None:
            pooler.wait_log("process up")
        return pooler
    return start


@pytest.fixture
def table(cluster, request):
    name = f"handover_{os.getpid()}_{abs(hash(request.node.name)) % 100_000}"
    cluster.primary.sql(f"create table {name} (n int, at timestamptz default clock_timestamp())", "app")
    cluster.primary.sql(f"grant all on {name} to public", "app")
    yield name
    cluster.primary.sql(f"drop table {name}", "app")


def count(cluster, table) -> int:
    return cluster.primary.sql(f"select count(*) from {table}", "app")[0][0]


def rewrite(pooler, databases=None, **settings) -> None:
    """Change the configuration file; None leaves a setting out."""
    old = pooler.configuration
    merged = {k: v for k, v in {**old.settings, **settings}.items() if v is not None}
    pooler.configuration = Ini(databases if databases is not None else old.databases, merged, old.users)
    pooler.write(pooler.configuration.text())


def prepared(client: Wire, name: str, value: int) -> str:
    """Run the prepared statement with a value."""
    reply = client.ask(wire.bind(name, (value,)) + wire.execute() + wire.sync())
    if reply.errors:
        raise reply.errors[0]
    return reply.rows[0][0]


# -- clients that rest


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_idle_clients_keep_their_parameters(serve, mode):
    pooler = serve(pool_mode=mode)
    clients = [pooler.wire(application_name=f"a{n}") for n in range(5)]
    for n, client in enumerate(clients):
        client.query(f"set timezone to 'Etc/GMT+{n + 1}'; set datestyle to 'German'")
    hand_over(pooler)
    for n, client in enumerate(clients):
        assert client.value("show timezone") == f"Etc/GMT+{n + 1}"
        assert client.value("show application_name") == f"a{n}"
        assert client.value("show datestyle").startswith("German")
    with pooler.wire() as fresh:
        assert fresh.value("show datestyle").startswith("ISO")


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_prepared_statements_of_the_protocol(serve, mode):
    pooler = serve(pool_mode=mode, max_prepared_statements=3, default_pool_size=1, unknown_prepared_statement="error")
    first, second = pooler.wire(), pooler.wire() if mode == "transaction" else None
    for n in range(6):
        # In transaction pooling more than the server may keep: the first are evicted from it.
        reply = first.ask(wire.parse(f"s{n}", f"select $1::int + {n}") + wire.sync())
        assert reply.kinds == "1Z"
    if second:
        second.ask(wire.parse("s0", "select $1::int * 2") + wire.sync())
    hand_over(pooler)
    for n in (0, 5, 3, 0, 4):
        assert prepared(first, f"s{n}", 40) == str(40 + n)
    if second:
        assert prepared(second, "s0", 21) == "42"
    # The name is free again after Close, and only then.
    assert first.ask(wire.parse("s1", "select 1") + wire.sync()).errors[0].sqlstate == "42P05"
    first.ask(wire.close("S", "s1") + wire.sync())
    with pytest.raises(WireError, match="does not exist"):
        prepared(first, "s1", 1)
    first.ask(wire.parse("s1", "select $1::int - 1") + wire.sync())
    assert prepared(first, "s1", 43) == "42"
    first.query("deallocate all")
    with pytest.raises(WireError, match="does not exist"):
        prepared(first, "s5", 1)
    # New statements do not get numbers that a server knows as others.
    with pooler.wire() if mode == "transaction" else first as third:
        for n in range(8):
            third.ask(wire.parse(f"t{n}", f"select $1::int - {n}") + wire.sync())
            assert prepared(third, f"t{n}", 50) == str(50 - n)


def test_prepared_statements_of_drivers_in_three_processes(serve):
    pooler = serve()
    with pooler.connect() as client:
        client.prepare_threshold = 0
        for _ in range(3):
            for n in range(5):
                assert client.execute(f"select %s::int + {n}", (1,)).fetchone() == (1 + n,)
            hand_over(pooler)
        client.execute("select 1")


def test_a_session_keeps_all_that_is_on_its_server(serve):
    pooler = serve(pool_mode="session")
    with pooler.connect() as client, pooler.wire() as listener, pooler.wire() as sender:
        client.execute("create temp table t as select generate_series(1, 3) n")
        client.execute("set work_mem = '7MB'")
        client.execute("prepare q as select count(*) from t")
        client.execute("select pg_advisory_lock(77123)")
        listener.query("listen news")
        pid = client.execute("select pg_backend_pid()").fetchone()
        hand_over(pooler)
        assert client.execute("select pg_backend_pid()").fetchone() == pid
        assert client.execute("execute q").fetchone() == (3,)
        assert client.execute("show work_mem").fetchone() == ("7MB",)
        sender.query("notify news, 'hello'")
        kind, body = listener.read()
        assert kind == "A" and b"hello" in body
        assert sender.value("select pg_try_advisory_lock(77123)") == "f"
        client.execute("deallocate q")
        client.execute("drop table t")


def test_a_notification_under_way_arrives(serve):
    pooler = serve(pool_mode="session")
    stop = threading.Event()
    with pooler.wire() as listener, pooler.wire() as sender:
        listener.query("listen ticks")
        sent = 0

        def send():
            nonlocal sent
            while not stop.is_set():
                sender.query(f"notify ticks, '{sent}'")
                sent += 1

        thread = threading.Thread(target=send)
        thread.start()
        for _ in range(2):
            hand_over(pooler)
        stop.set()
        thread.join()
        got = []
        while len(got) < sent:
            kind, body = listener.read()
            assert kind == "A"
            got.append(int(body[4:].split(b"\0")[1]))
    assert got == list(range(sent)) and sent > 1


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_open_transactions(serve, cluster, table, mode):
    pooler = serve(pool_mode=mode)
    with pooler.wire() as good, pooler.wire() as failed, pooler.wire() as undone:
        for client in (good, failed, undone):
            client.query(f"begin; insert into {table} values (1)")
        pid = good.value("select pg_backend_pid()")
        with pytest.raises(WireError):
            failed.query("select 1/0")
        hand_over(pooler)
        assert good.value("select pg_backend_pid()") == pid
        with pytest.raises(WireError) as caught:
            failed.query("select 1")
        assert caught.value.sqlstate == "25P02"
        assert failed.ask(wire.query("commit")).tags == ["ROLLBACK"]
        assert undone.ask(wire.query("rollback")).status == "I"
        hand_over(pooler)
        good.query(f"insert into {table} values (2)")
        assert good.ask(wire.query("commit")).tags == ["COMMIT"]
        assert count(cluster, table) == 2
        for client in (good, failed, undone):
            assert client.value("select 7") == "7"


def test_open_transactions_on_servers_with_tls(start_pooler, cluster, table):
    """Without TLS of the kernel they end on the former process, with it they move; the client sees no difference."""
    pooler = start_pooler(server_tls_sslmode="require")
    with pooler.wire() as client, pooler.wire() as idle:
        idle.query("select 1")
        client.query(f"begin; insert into {table} values (1)")
        former = hand_over(pooler, wait=False)
        assert idle.value("select 2") == "2"
        client.query(f"insert into {table} values (2)")
        client.query("commit")
        ends_well(former)
        assert client.value(f"select count(*) from {table}") == "2"


def test_clients_with_tls_move_or_are_told_to_connect_again(serve, site, cluster, table):
    """As the kernel can do TLS or not. A transaction comes to its end either way."""
    pooler = serve(client_tls_sslmode="require", client_tls_cert_file=site.pooler_cert.cert,
                   client_tls_key_file=site.pooler_cert.key)
    pooler.admin_sslmode = "require"
    with pooler.connect(sslmode="require") as idle, pooler.connect(sslmode="require") as inside:
        idle.execute("select 1")
        inside.execute(f"begin; insert into {table} values (1)")
        ending = threading.Timer(1, lambda: inside.execute("commit"))
        ending.start()
        former = hand_over(pooler, wait=False)
        ending.join()
        ends_well(former)
        for client in (idle, inside):
            try:
                assert client.execute("select 1").fetchone() == (1,)
            except psycopg.errors.AdminShutdown:
                with pooler.connect(sslmode="require") as again:
                    assert again.execute("select 1").fetchone() == (1,)
    assert count(cluster, table) == 1


def test_time_limits_count_on(serve):
    pooler = serve(idle_transaction_timeout=2, client_idle_timeout=2)
    with pooler.wire() as transaction, pooler.wire() as idle:
        idle.query("select 1")
        transaction.query("begin")
        began = time.monotonic()
        time.sleep(1)
        hand_over(pooler)
        assert idle.expect_error().text == "client_idle_timeout"
        assert transaction.expect_error().text == "idle transaction timeout"
        assert 1.8 < time.monotonic() - began < 2.9


def test_unix_socket(serve):
    pooler = serve()
    path = pooler.sockets / f".s.PGSQL.{pooler.port}"
    with Wire(pooler.port, unix=str(pooler.sockets)).login("app", "app", "app password") as client:
        client.query("begin")
        hand_over(pooler)
        client.query("commit")
        hand_over(pooler)
        assert client.value("select 1") == "1"
        assert path.is_socket()
        with Wire(pooler.port, unix=str(pooler.sockets)).login("app", "app", "app password") as fresh:
            assert fresh.value("select 1") == "1"
        assert {r["addr"] for r in pooler.admin("SHOW CLIENTS") if r["database"] == "app"} == {"unix"}


# -- clients that are busy


def test_a_running_query_ends_and_its_client_follows(serve, table):
    pooler = serve()
    with pooler.wire() as busy, pooler.wire() as idle:
        busy.send(wire.query(f"insert into {table} select 1 from pg_sleep(1.5) returning pg_backend_pid()"))
        former = hand_over(pooler, wait=False)
        assert idle.value("select 1") == "1"
        assert former.poll() is None
        reply = busy.reply()
        pid = reply.rows[0][0]
        ends_well(former)
        assert busy.value("select 2") == "2"
        # Its server has come along too.
        assert pid in [str(row["remote_pid"]) for row in pooler.servers()]


def test_a_query_that_takes_too_long_is_ended(serve):
    pooler = serve(handover_timeout=1)
    with pooler.wire() as busy, pooler.wire() as idle:
        busy.send(wire.query("select pg_sleep(60)"))
        former = hand_over(pooler, wait=False)
        assert busy.expect_error().sqlstate == "57P01"
        assert busy.is_closed()
        ends_well(former)
        assert idle.value("select 1") == "1"


def test_a_second_successor_while_the_first_still_waits_for_busy_clients(serve):
    """Of a chain of three nobody may be lost: the one in the middle must not leave before the first has."""
    pooler = serve()
    with pooler.wire() as busy, pooler.wire() as idle:
        busy.send(wire.query("select pg_sleep(2)"))
        first = hand_over(pooler, wait=False)
        second = pooler.process
        third = call_successor(pooler)
        try:
            third.wait(10)
        except Exception:  # it has taken over
            pooler.process = third
            ends_well(second)
        else:
            assert third.returncode == 1 and "still" in successor_log(third), successor_log(third)
        assert busy.reply().rows == [[""]]
        ends_well(first)
        assert busy.value("select 2") == "2" and idle.value("select 3") == "3"
        if pooler.process is second:
            hand_over(pooler)
            assert busy.value("select 2") == "2" and idle.value("select 3") == "3"


def test_copy_under_way(serve, cluster, table):
    pooler = serve()
    with pooler.connect() as reader, pooler.connect() as writer:
        with reader.cursor().copy("copy (select repeat('x', 100) from generate_series(1, 200000)) to stdout") as out, \
                writer.cursor().copy(f"copy {table} (n) from stdin") as into:
            rows = out.rows()
            taken = [next(rows) for _ in range(10)]
            into.write_row((1,))
            former = hand_over(pooler, wait=False)
            into.write_row((2,))
            taken += rows
            assert len(taken) == 200_000 and former.poll() is None
        ends_well(former)
        assert count(cluster, table) == 2
        assert reader.execute("select 1").fetchone() == writer.execute("select 1").fetchone() == (1,)


def test_pipelines(serve, cluster, table):
    pooler = serve()
    with pooler.connect() as client, client.pipeline() as pipeline:
        for n in range(50):
            client.execute(f"insert into {table} values (%s)", (n,))
        # Sent, but no Sync: the pipeline is open.
        former = hand_over(pooler, wait=False)
        for n in range(50):
            client.execute(f"insert into {table} values (%s)", (n,))
        pipeline.sync()
        ends_well(former)
        cursor = client.execute("select 42")
        pipeline.sync()
        assert cursor.fetchone() == (42,)
    assert count(cluster, table) == 100


@pytest.mark.parametrize("threads", [1, 4])
def test_asyncpg_all_the_time(serve, cluster, table, threads):
    pooler = serve(default_pool_size=4, worker_threads=threads)
    stop, done, failures = threading.Event(), 0, []

    async def work(pool: asyncpg.Pool, number: int) -> None:
        nonlocal done
        while not stop.is_set():
            async with pool.acquire() as client:
                assert await client.fetchval("select $1::int + 1", number) == number + 1
                async with client.transaction():
                    await client.execute(f"insert into {table} values ($1)", number)
                await client.executemany("select $1::int", [(n,) for n in range(20)])
                done += 1

    async def work_all() -> None:
        async with asyncpg.create_pool(host="127.0.0.1", port=pooler.port, user="app", password="app password",
                                       database="app", min_size=8, max_size=8) as pool:
            failures.extend(filter(None, await asyncio.gather(*(work(pool, n) for n in range(8)),
                                                              return_exceptions=True)))

    # Not the other way round: a process is killed when the thread ends that has started it.
    thread = threading.Thread(target=lambda: asyncio.run(work_all()))
    thread.start()
    try:
        for _ in range(4):
            hand_over(pooler)
    finally:
        stop.set()
        thread.join()
    assert not failures, failures
    assert count(cluster, table) == done > 8


@pytest.mark.parametrize("cut", [1, 3, 5, 9])
def test_half_a_message(serve, cut):
    pooler = serve()
    whole = wire.query("select 'a', 'b'")
    with pooler.wire() as outside, pooler.wire() as inside:
        inside.query("begin")
        for client in (outside, inside):
            client.send(whole[:cut])
        time.sleep(0.05)
        hand_over(pooler)
        for client in (outside, inside):
            assert client.ask(whole[cut:]).rows == [["a", "b"]]
        assert inside.ask(wire.query("commit")).status == "I"


def test_half_a_large_message(serve):
    """More than is held anywhere: a part is with the server already."""
    pooler = serve()
    whole = wire.query("select length('" + "x" * 3_000_000 + "')")
    with pooler.wire() as client:
        client.send(whole[:1_500_000])
        former = hand_over(pooler, wait=False)
        assert client.ask(whole[1_500_000:]).rows == [["3000000"]]
        ends_well(former)
        assert client.value("select 1") == "1"


def test_several_messages_at_once(serve):
    """What stands behind a running query in the client's socket moves unread."""
    pooler = serve()
    with pooler.wire() as client:
        client.send(wire.query("select pg_sleep(1)") + b"".join(wire.query(f"select {n}") for n in range(2000)))
        former = hand_over(pooler, wait=False)
        assert client.reply().rows == [[""]]
        assert [client.reply().rows[0][0] for n in range(2000)] == [str(n) for n in range(2000)]
        ends_well(former)


# -- clients that come


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize("said", ["nothing", "startup"])
@pytest.mark.parametrize("pool", ["known", "new"])
def test_in_the_middle_of_a_login(serve, site, said, pool, unix):
    """`new`: no server of this pool has been opened yet, so the login needs one."""
    pooler = serve(databases={"app": site.to_primary(), "other": site.to_primary()})
    known = pooler.wire()
    database = "app" if pool == "known" else "other"
    start = wire.startup({"user": "app", "database": database})
    with Wire(pooler.port, unix=str(pooler.sockets) if unix else None) as client:
        if said == "startup":
            client.send(start)
            kind, challenge = client.read()
            assert kind == "R"
        former = hand_over(pooler, wait=False)
        if said == "startup":
            client._authenticate(challenge, "app", "app password")
        else:
            client.send(start)
        client.finish_login("app", "app password")
        ends_well(former)
        assert client.value("select 1") == "1"
    assert known.value("select 1") == "1"


def test_who_says_nothing_does_not_keep_the_former_process(serve):
    pooler = serve(handover_timeout=2)
    # The kernel keeps silent clients over TCP waiting (tcp_defer_accept).
    with Wire(pooler.port, unix=str(pooler.sockets)) as silent, pooler.wire() as client:
        former = hand_over(pooler, wait=False)
        assert client.value("select 1") == "1"
        ends_well(former, timeout=5)
        assert silent.is_closed()


@pytest.mark.parametrize("threads", [1, 4])
def test_nobody_is_turned_away(serve, threads):
    """Clients that come, ask and go in a loop, over TCP and the Unix socket."""
    pooler = serve(default_pool_size=3, worker_threads=threads)
    stop, failures, done = threading.Event(), [], []

    def come_and_go(unix: str | None) -> None:
        while not stop.is_set():
            try:
                with Wire(pooler.port, unix=unix).login("app", "app", "app password") as client:
                    assert client.value("select 1") == "1"
                    client.send(wire.message("X"))
                done.append(1)
            except Exception as error:  # noqa: BLE001: each is told
                failures.append(error)

    threads = [threading.Thread(target=come_and_go, args=(unix,))
               for unix in (None, None, None, str(pooler.sockets))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            hand_over(pooler)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:5]
    assert len(done) > 20


# -- cancel requests


def cancel(pooler, client: Wire) -> None:
    with pooler.raw() as request:
        request.send(wire.cancel(client.pid, client.secret))
        assert request.is_closed()


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_the_key_of_before_cancels_a_query_of_afterwards(serve, mode):
    pooler = serve(pool_mode=mode)
    with pooler.wire() as client, pooler.wire() as inside:
        client.query("select 1")
        inside.query("begin")
        hand_over(pooler)
        hand_over(pooler)
        for wanted in (client, inside):
            wanted.send(wire.query("select pg_sleep(30)"))
            time.sleep(0.2)
            cancel(pooler, wanted)
            assert wanted.reply().errors[0].sqlstate == "57014"
        inside.query("rollback")
        assert client.value("select 1") == inside.value("select 1") == "1"


def test_a_query_that_still_runs_on_the_former_process_is_cancelled(serve):
    pooler = serve()
    with pooler.wire() as client, pooler.wire() as other:
        for busy in (client, other):
            busy.send(wire.query("select pg_sleep(20)"))
        former = hand_over(pooler, wait=False)
        # Keys that nobody has ever had do no harm there.
        for n in range(50):
            with pooler.raw() as stranger:
                stranger.send(wire.cancel(n, b"none"))
        cancel(pooler, client)
        assert client.reply().errors[0].sqlstate == "57014"
        assert client.value("select 1") == "1" and former.poll() is None
        cancel(pooler, other)
        assert other.reply().errors[0].sqlstate == "57014"
        ends_well(former)
        assert other.value("select 1") == "1"


def test_cancel_requests_all_the_time(serve):
    pooler = serve()
    stop = threading.Event()
    with pooler.wire() as client:
        def work():
            while not stop.is_set():
                reply = client.ask(wire.query("select pg_sleep(0.02)"))
                assert all(error.sqlstate == "57014" for error in reply.errors)

        def disturb():
            while not stop.is_set():
                cancel(pooler, client)

        threads = [threading.Thread(target=work), threading.Thread(target=disturb)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            hand_over(pooler)
        stop.set()
        for thread in threads:
            thread.join()
        # A late one may still hit.
        client.ask(wire.query("select 1"))
        assert poll_until(lambda: client.value("select 1"), "a query that is not cancelled") == "1"


# -- the queue


def test_who_waits_keeps_its_place(serve):
    pooler = serve(default_pool_size=1)
    holder, waiting = pooler.wire(), [pooler.wire() for _ in range(6)]
    holder.query("begin")
    for client in waiting:
        client.send(wire.query("select clock_timestamp()::text"))
        time.sleep(0.02)
    poll_until(lambda: pooler.pool()["cl_waiting"] == 6, "six wait")
    hand_over(pooler)
    assert pooler.pool()["cl_waiting"] == 6
    hand_over(pooler)
    assert holder.value("select 1") == "1"
    holder.query("commit")
    times = [client.reply().rows[0][0] for client in waiting]
    assert times == sorted(times)
    assert pooler.pool()["sv_idle"] == 1


def test_query_wait_timeout_counts_on(serve):
    pooler = serve(default_pool_size=1, query_wait_timeout=2)
    with pooler.wire() as holder, pooler.wire() as waiting:
        holder.query("begin")
        waiting.send(wire.query("select 1"))
        began = time.monotonic()
        time.sleep(1.2)
        hand_over(pooler)
        assert waiting.expect_error().text == "query_wait_timeout"
        assert 1.8 < time.monotonic() - began < 2.8


# -- the console


def test_the_list_of_clients_and_servers_stays(serve):
    pooler = serve()
    with pooler.wire() as client, pooler.wire(application_name="mine") as other:
        client.query("begin")
        other.query("select 1")
        columns = ("ptr", "user", "database", "addr", "port", "local_port", "connect_time", "application_name")

        def clients():
            rows = [r for r in pooler.admin("SHOW CLIENTS") if r["database"] == "app"]
            return sorted(tuple(str(r[c]) for c in columns) for r in rows)

        def servers():
            columns = ("ptr", "remote_pid", "port", "local_port", "connect_time", "state")
            return sorted(tuple(str(r[c]) for c in columns) for r in pooler.servers())

        before = clients(), servers()
        assert len(before[0]) == 2
        hand_over(pooler)
        assert (clients(), servers()) == before
        with pooler.wire() as fresh:
            # No id is given twice.
            assert fresh.value("select 1") == "1" and len({c[0] for c in clients()}) == 3


def test_pause_survives(serve, site):
    pooler = serve(databases={"app": site.to_primary(), "other": site.to_primary()})
    with pooler.wire() as client:
        client.query("select 1")
        pooler.admin("PAUSE")
        hand_over(pooler)
        client.send(wire.query("select 2"))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "it waits")
        hand_over(pooler)
        time.sleep(0.2)
        assert pooler.pool()["cl_waiting"] == 1
        pooler.admin("RESUME")
        assert client.reply().rows == [["2"]]
        pooler.admin("PAUSE app")
        hand_over(pooler)
        state = {row["name"]: (row["paused"], row["disabled"]) for row in pooler.admin("SHOW DATABASES")}
        assert state["app"] == (1, 0) and state["other"] == (0, 0)
        pooler.admin("RESUME app")
        assert client.value("select 3") == "3"


def test_disable_survives(serve, site):
    pooler = serve(databases={"*": f"host=127.0.0.1 port={site.cluster.primary.port}"})
    with pooler.wire() as client:
        client.query("select 1")
        # A database that only the line for all others knows.
        pooler.admin("DISABLE app")
        hand_over(pooler)
        with pooler.raw() as fresh, pytest.raises(WireError, match="is disabled"):
            fresh.login("app", "app", "app password")
        assert client.value("select 1") == "1"
        pooler.admin("ENABLE app")
        pooler.wire().close()


def test_resume_is_not_undone_by_clients_that_follow(serve, table):
    pooler = serve()
    with pooler.wire() as busy, pooler.wire() as client:
        busy.send(wire.query("select pg_sleep(1.5)"))
        poll_until(lambda: pooler.pool()["cl_active"] >= 1, "the query runs")
        with pooler.console() as console:
            def wait_for_the_pause():
                try:
                    console.execute("PAUSE app")
                except psycopg.Error:
                    pass  # the former process is gone

            pause = threading.Thread(target=wait_for_the_pause)
            pause.start()
            poll_until(lambda: {r["name"]: r["paused"] for r in pooler.admin("SHOW DATABASES")}["app"], "paused")
            former = hand_over(pooler, wait=False)
            pooler.admin("RESUME app")
            assert client.value("select 1") == "1"
            assert busy.reply().rows == [[""]]
            ends_well(former)
            pause.join()
        assert client.value("select 1") == "1" and busy.value("select 1") == "1"


def test_suspend(serve):
    """What PgBouncer's own -R does first."""
    pooler = serve()
    with pooler.wire() as client, pooler.wire() as inside:
        inside.query("begin")
        client.query("select 1")
        with pooler.console() as console:
            # A transaction at rest is no reason to wait.
            console.execute("SUSPEND")
            client.send(wire.query("select 2"))
            hand_over(pooler)
            assert client.reply().rows == [["2"]]
            assert inside.ask(wire.query("commit")).status == "I"


def test_console_clients_end_with_the_former_process(serve):
    pooler = serve()
    with pooler.console() as console:
        console.execute("SHOW VERSION")
        hand_over(pooler)
        with pytest.raises(psycopg.OperationalError):
            console.execute("SHOW VERSION")
    assert pooler.admin("SHOW VERSION")


def test_no_server_login_needs_a_new_client(serve, cluster):
    """SCRAM secrets: the keys of a login at the former process open servers for its successor."""
    pooler = serve(auth_type="scram-sha-256", secrets={"app": scram_secret(cluster, "app")}, default_pool_size=2)
    with pooler.wire() as client:
        pid = client.value("select pg_backend_pid()")
        hand_over(pooler)
        hand_over(pooler)
        # The console's own user has no such keys to give.
        pooler.admin("RECONNECT")
        assert client.value("select pg_backend_pid()") != pid


# -- another configuration


def test_a_database_that_is_gone(serve, site):
    pooler = serve(databases={"app": site.to_primary(), "gone": site.to_primary()})
    with pooler.wire() as stays, pooler.wire("gone") as idle, pooler.wire("gone") as inside:
        idle.query("select 1")
        inside.query("begin")
        rewrite(pooler, {"app": site.to_primary()})
        hand_over(pooler)
        for client in (idle, inside):
            error = client.expect_error()
            assert error.fields["S"] == "FATAL" and client.is_closed(), error
        assert stays.value("select 1") == "1"
        assert not pooler.servers("gone")


def test_a_database_that_is_elsewhere(serve, site):
    pooler = serve(databases={"app": site.to_primary()})
    with pooler.wire() as idle, pooler.wire() as inside:
        idle.query("select 1")
        inside.query("begin")
        assert inside.value("select pg_is_in_recovery()") == "f"
        rewrite(pooler, {"app": site.to_replica(0)})
        hand_over(pooler)
        assert idle.value("select pg_is_in_recovery()") == "t"
        # The transaction ends where it began.
        assert inside.value("select pg_is_in_recovery()") == "f"
        inside.query("commit")
        assert inside.value("select pg_is_in_recovery()") == "t"
        assert {row["port"] for row in pooler.servers()} == {site.cluster.replicas[0].port}


def test_smaller_limits_turn_nobody_away(serve):
    pooler = serve(default_pool_size=4)
    clients = [pooler.wire() for _ in range(6)]
    for client in clients[:4]:
        client.query("begin")
    rewrite(pooler, default_pool_size=2, max_client_conn=3)
    hand_over(pooler)
    for client in clients[:4]:
        assert client.value("select 1") == "1"
    with pooler.raw() as fresh, pytest.raises((WireError, Closed)):
        fresh.login("app", "app", "app password")
    for client in clients[:4]:
        client.query("commit")
    for client in clients:
        assert client.value("select 1") == "1"
    for client in clients[2:]:
        client.send(wire.message("X"))
    poll_until(lambda: len(pooler.servers()) <= 2, "the pool is as small as it should be")
    for client in clients[:2]:
        assert client.value("select 1") == "1"


def test_other_listen_addresses(serve):
    pooler = serve()
    with pooler.wire() as client:
        rewrite(pooler, listen_addr="127.0.0.1,127.0.0.2")
        hand_over(pooler)
        assert client.value("select 1") == "1"
        with Wire(pooler.port, host="127.0.0.2").login("app", "app", "app password") as other:
            rewrite(pooler, listen_addr="127.0.0.1")
            hand_over(pooler)
            assert client.value("select 1") == other.value("select 1") == "1"
            with pytest.raises(ConnectionRefusedError):
                Wire(pooler.port, host="127.0.0.2")


# -- processes


def test_no_process_to_take_over_from(serve):
    pooler = serve(start=False)
    pooler.start(arguments=["-R"])
    with pooler.wire() as client:
        assert client.value("select 1") == "1"
    assert "old process not found" in pooler.log()
    # Nor is what a killed one left behind in the way.
    pooler.process.kill()
    pooler.process.wait()
    pooler.start(arguments=["-R"]).wait_log("process up", 2)
    assert pooler.wire().value("select 1") == "1"
    hand_over(pooler)


def test_in_the_background_with_a_pidfile(serve):
    pooler = serve(start=False)
    pidfile = pooler.folder / "pgbouncer.pid"
    rewrite(pooler, pidfile=pidfile)
    pids = []

    def launch(*options):
        process.run([binary(), *options, pooler.ini], user=pooler.user, cwd=pooler.folder)
        pids.append(int(pidfile.read_text()))

    try:
        launch("-d")
        with pooler.wire() as client:
            client.query("begin")
            for _ in range(2):
                launch("-d", "-R")
                poll_until(lambda: not alive(pids[-2]), "the former process ends")
                assert client.value("select 1") == "1" and int(pidfile.read_text()) == pids[-1]
            client.query("commit")
        assert len(set(pids)) == 3
        # A start without -R is told that somebody serves.
        with pytest.raises(AssertionError, match="another instance running"):
            launch("-d")
        os.kill(pids[2], signal.SIGQUIT)
        poll_until(lambda: not alive(pids[2]), "the end")
        assert not pidfile.exists()
    finally:
        for pid in pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_successors_at_once(serve):
    pooler = serve(pidfile=None)
    clients = [pooler.wire() for _ in range(10)]
    clients[0].query("begin")
    for _ in range(3):
        former = pooler.process
        both = [call_successor(pooler), call_successor(pooler)]

        def settled():
            """One serves; the other has given up, or has taken over from it in turn."""
            up = [s for s in both if s.poll() is None and f"pid {s.pid}" in pooler.log()]
            return up if len([s for s in both if s.poll() is None]) == len(up) == 1 else None

        try:
            (winner,) = poll_until(settled, "one of two serves", timeout=15)
        finally:
            if pooler.process is former:
                pooler.process = next((s for s in both if s.poll() is None), former)
        loser = both[1 - both.index(winner)]
        pooler.process = winner
        ends_well(former)
        if loser.returncode != 0:
            assert loser.returncode == 1 and "FATAL" in successor_log(loser), successor_log(loser)
        for client in clients:
            assert client.value("select 1") == "1"


def serves_on(pooler, former, clients) -> None:
    """Nothing has happened to the process that serves nor to its clients; and it can still hand over."""
    assert pooler.process is former and former.poll() is None
    for client in clients:
        assert client.value("select 1") == "1"
    assert (pooler.sockets / f".s.PGSQL.{pooler.port}").is_socket()
    hand_over(pooler)
    for client in clients:
        assert client.value("select 1") == "1"


@pytest.mark.parametrize("broken", [
    {"pool_mode": "nonsense"}, {"client_tls_sslmode": "require", "client_tls_key_file": "/nonexistent",
                                "client_tls_cert_file": "/nonexistent"}, {"logfile": "/nonexistent/log"}])
def test_a_successor_that_cannot_start(serve, broken):
    pooler = serve()
    pidfile = pooler.folder / "pgbouncer.pid"
    rewrite(pooler, pidfile=pidfile)
    pooler.stop()
    pooler.start().wait_log("process up", 2)
    with pooler.wire() as client, pooler.wire() as inside:
        inside.query("begin")
        before = dict(pooler.configuration.settings)
        rewrite(pooler, **broken)
        successor = call_successor(pooler)
        assert successor.wait(10) == 1 and "FATAL" in successor_log(successor)
        assert int(pidfile.read_text()) == pooler.pid
        rewrite(pooler, **{**dict.fromkeys(broken), **before})
        serves_on(pooler, pooler.process, [client, inside])
        assert int(pidfile.read_text()) == pooler.pid


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a second account")
def test_another_user_may_not(serve):
    pooler = serve()
    with pooler.wire() as client:
        mine, pooler.user = pooler.user, "nobody"
        successor = call_successor(pooler)
        pooler.user = mine
        assert successor.wait(10) == 1 and "ermission denied" in successor_log(successor), successor_log(successor)
        serves_on(pooler, pooler.process, [client])


def test_a_process_on_its_way_out_declines(serve):
    pooler = serve()
    with pooler.wire() as client:
        client.query("begin")
        pooler.process.send_signal(signal.SIGTERM)
        pooler.wait_log("SIGTERM")
        successor = call_successor(pooler)
        assert successor.wait(10) == 1 and "shutting down" in successor_log(successor)
        client.query("commit")
        client.send(wire.message("X"))
    assert pooler.process.wait(10) == 0
    pooler.process = None


def test_ten_in_a_row_leak_nothing(serve):
    pooler = serve(default_pool_size=5)
    clients = [pooler.wire() for _ in range(60)]
    for client in clients[:3]:
        client.query("begin")
    for n, client in enumerate(clients):
        client.ask(wire.parse(f"s{n}", f"select $1::int + {n}") + wire.sync())

    def figures():
        return len(os.listdir(f"/proc/{pooler.pid}/fd")), pooler.memory()

    seen = []
    for _ in range(10):
        hand_over(pooler)
        for n, client in enumerate(clients):
            if n % 7 == 0 and n:
                assert prepared(client, f"s{n}", 1) == str(1 + n)
        seen.append(figures())
    descriptors, memory = zip(*seen, strict=True)
    assert max(descriptors) - min(descriptors) <= 3, seen
    assert memory[-1] < memory[0] + 4_000, seen
    for client in clients[:3]:
        client.query("commit")
    assert [prepared(client, f"s{n}", 0) for n, client in enumerate(clients)] == [str(n) for n in range(60)]
