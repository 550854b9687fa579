"""Replication through the pooler: every such client has a server of its own, and nothing of the stream is lost."""

import os
import random
import re
import signal
import subprocess
import time

import psycopg
import pytest
from harness import process, wire
from harness.postgres import programs
from harness.process import poll_until
from harness.successor import ends_well, hand_over
from harness.wire import Closed, WireError

SECRETS = {"replicator": "replicator password"}
ROWS = 10_000


@pytest.fixture
def serve(start_pooler, site):
    """A pooler with the databases `app` and `replication`, the one that PostgreSQL's tools ask for."""
    def start(more="", **settings):
        databases = {"app": site.to_primary(more), "replication": site.to_primary(more)}
        return start_pooler(databases=databases, secrets=SECRETS, **settings)
    return start


@pytest.fixture
def slot(cluster):
    """A logical replication slot of the database `app`."""
    name = f"e2e_{os.getpid()}_{random.randrange(1_000_000)}"
    cluster.primary.sql(f"select pg_create_logical_replication_slot('{name}', 'test_decoding')", "app")
    yield name
    poll_until(lambda: not is_active(cluster, name), f"nobody uses {name}")
    cluster.primary.sql(f"select pg_drop_replication_slot('{name}')", "app")


@pytest.fixture
def table(cluster):
    name = f"ledger_{os.getpid()}_{random.randrange(1_000_000)}"
    cluster.primary.sql(f"create table {name} (n int, body text)", "app")
    yield name
    cluster.primary.sql(f"drop table {name}", "app")


def is_active(cluster, slot) -> bool:
    return cluster.primary.sql("select active from pg_replication_slots where slot_name = %s", "app", [slot])[0][0]


def dsn(pooler, dbname="app", **more) -> str:
    return pooler.dsn(dbname, "replicator", SECRETS["replicator"], **more)


def connect(pooler, kind="database", dbname="app", **more) -> wire.Wire:
    return pooler.wire(dbname, "replicator", SECRETS["replicator"], replication=kind, **more)


def stream(pooler, slot) -> wire.Wire:
    """A client in the middle of logical replication."""
    client = connect(pooler)
    client.send(wire.query(f"START_REPLICATION SLOT {slot} LOGICAL 0/0"))
    assert client.read()[0] == "W"
    return client


def recvlogical(pooler, slot, out, start="--start") -> subprocess.Popen:
    return process.spawn(
        [programs() / "pg_recvlogical", "-d", dsn(pooler), "--slot", slot, start, "--no-loop", "-f", out,
         "-F", "0", "-s", "1"],
        user=pooler.user, stderr=pooler.folder / "recvlogical.log")


def received(out, table) -> list[int]:
    """The numbers of the rows in what pg_recvlogical wrote, in order; the last line may be half there."""
    text = out.read_text() if out.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    return [int(n) for n in re.findall(rf"^table public\.{table}: INSERT: n\[integer\]:(\d+) ", whole, re.M)]


# -- what is streamed


@pytest.mark.parametrize("tls", ["disable", "require"])
def test_base_backup(serve, cluster, tls):
    """The backup and the WAL that comes beside it, by two connections; the manifest's checksums say what was lost."""
    pooler = serve(default_pool_size=2, server_tls_sslmode=tls)
    target = pooler.folder / "backup"
    process.run([programs() / "pg_basebackup", "-d", dsn(pooler, "replication"), "-c", "fast", "-X", "stream",
                 "--no-sync", "-D", target], user=pooler.user)
    process.run([programs() / "pg_verifybackup", target], user=pooler.user)
    poll_until(lambda: not pooler.servers("replication"), "both servers are closed")
    assert "replication=yes" in pooler.log()


def test_wal_is_received_until_ctrl_c(serve, cluster):
    pooler = serve()
    target = pooler.folder / "wal"
    target.mkdir()
    process.give_to_user(target, pooler.user)
    receiver = process.spawn([programs() / "pg_receivewal", "-d", dsn(pooler, "replication"), "-D", target, "--no-sync"],
                             user=pooler.user, stderr=pooler.folder / "receivewal.log")
    streaming = "select count(*) from pg_stat_replication where usename = 'replicator' and state = 'streaming'"
    poll_until(lambda: cluster.primary.sql(streaming) == [(1,)], "the stream has begun")
    for _ in range(3):
        cluster.primary.sql("select pg_switch_wal()")
        cluster.primary.sql("create table wal_filler as select 1; drop table wal_filler")
    poll_until(lambda: sum(f.suffix != ".partial" for f in target.iterdir()) >= 2, "whole segments arrive")
    receiver.send_signal(signal.SIGINT)
    assert receiver.wait(10) == 0, (pooler.folder / "receivewal.log").read_text()


def test_every_row_of_a_logical_stream_arrives_once_and_in_order(serve, cluster, slot, table):
    pooler = serve(pool_mode="transaction")
    out = pooler.folder / "changes"
    receiver = recvlogical(pooler, slot, out)
    poll_until(lambda: is_active(cluster, slot), "the stream has begun")
    with cluster.primary.connect("app") as writer:
        for first in range(0, ROWS, 500):
            # Some rows are longer than any buffer of the pooler.
            writer.execute(
                f"insert into {table} select n, repeat('x', case when n %% 500 = 0 then 300000 else n %% 700 end)"
                f" from generate_series(%s::int, %s::int) n", (first, first + 499))
    poll_until(lambda: len(received(out, table)) >= ROWS, "all rows have arrived", timeout=60)
    assert received(out, table) == list(range(ROWS))
    receiver.send_signal(signal.SIGINT)
    assert receiver.wait(10) == 0


def test_a_client_that_disappears_frees_its_slot_and_loses_nothing(serve, cluster, slot, table):
    pooler = serve()
    numbers = []
    for life in range(3):
        out = pooler.folder / f"changes-{life}"
        receiver = recvlogical(pooler, slot, out)
        poll_until(lambda: is_active(cluster, slot), "the stream has begun")
        cluster.primary.sql(f"insert into {table} select n, '' from generate_series({life * 100}, {life * 100 + 99}) n",
                            "app")
        poll_until(lambda: life * 100 + 99 in received(out, table), "the rows have arrived")  # noqa: B023
        receiver.kill()
        receiver.wait()
        numbers += received(out, table)
        poll_until(lambda: not is_active(cluster, slot), "the slot is free")
    # Of what the server was not told yet that it has arrived some may come again.
    assert sorted(set(numbers)) == list(range(300))
    assert "replication client was closed" in pooler.log()


def test_a_subscription_through_the_pooler(serve, cluster, site):
    name = f"sub_{os.getpid()}"
    cluster.primary.sql(f"create database {name}")
    try:
        for database in ("app", name):
            cluster.primary.sql(f"create table {name} (n int primary key)", database)
        cluster.primary.sql(f"insert into {name} values (1)", "app")
        cluster.primary.sql(f"grant select on {name} to replicator", "app")
        cluster.primary.sql(f"create publication {name} for table {name}", "app")
        cluster.primary.sql(f"select pg_create_logical_replication_slot('{name}', 'pgoutput')", "app")
        pooler = serve()
        conninfo = dsn(pooler).replace("'", "''")
        cluster.primary.sql(f"create subscription {name} connection '{conninfo}' publication {name}"
                            f" with (create_slot = false)", name)
        count = lambda: cluster.primary.sql(f"select count(*) from {name}", name)[0][0]  # noqa: E731
        poll_until(lambda: count() == 1, "the table is copied", timeout=30)
        cluster.primary.sql(f"insert into {name} select generate_series(2, 1000)", "app")
        poll_until(lambda: count() == 1000, "the changes are applied", timeout=30)
        cluster.primary.sql(f"drop subscription {name}", name)
    finally:
        cluster.primary.sql(f"drop database {name} with (force)")
        cluster.primary.sql(f"drop publication if exists {name}; drop table if exists {name}", "app")
        left = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active"
        cluster.primary.sql(left, "app", [name])


# -- whose server it is


def test_parameters_and_options_are_the_clients_own(serve):
    pooler = serve()
    mine = {"application_name": "mine", "options": "-c enable_seqscan=off -c work_mem=3MB"}
    with connect(pooler, **mine) as client, pooler.wire() as other:
        assert client.value("show application_name") == "mine"
        assert (client.value("show enable_seqscan"), client.value("show work_mem")) == ("off", "3MB")
        assert (other.value("show enable_seqscan"), other.value("show work_mem")) == ("on", "4MB")
        assert client.query("IDENTIFY_SYSTEM")[0][3] == "app"


def test_physical_replication_takes_no_sql(serve):
    pooler = serve(more="connect_query='select 1'")
    with connect(pooler, "true", "replication") as client:
        with pytest.raises(WireError, match="cannot execute SQL commands in WAL sender for physical replication"):
            client.query("select 1")
        assert client.query("IDENTIFY_SYSTEM")[0][3] is None


def test_the_console_names_the_kind(serve):
    pooler = serve()
    with connect(pooler), connect(pooler, "on", "replication"), pooler.wire() as ordinary:
        ordinary.query("select 1")
        for command in ("SHOW CLIENTS", "SHOW SERVERS"):
            kinds = {row["replication"] for row in pooler.admin(command)}
            assert kinds == {"none", "logical", "physical"}, command


def test_an_idle_server_gives_way_and_a_busy_one_does_not(serve, site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary("user=replicator password='replicator password'")},
                          default_pool_size=1, query_wait_timeout=2)
    with pooler.wire() as ordinary:
        ordinary.query("begin")
        began = time.monotonic()
        with pytest.raises(WireError, match="query_wait_timeout"):
            pooler.wire(replication="database")
        assert time.monotonic() - began > 1.5
        ordinary.query("commit")
        with pooler.wire(replication="database") as client:
            assert client.value("select 1") == "1"
            assert "closing because: evicted" in pooler.log()
        # The server of the client that replicated is not lent to anybody.
        assert ordinary.value("select 1") == "1"
        assert pooler.logfile.read_text().count("closing because: replication client was closed") == 1


def test_a_server_that_comes_back_gives_way_to_who_waited_longest(serve, site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary("user=replicator password='replicator password'")},
                          default_pool_size=1)
    with pooler.wire() as ordinary, pooler.raw() as waiting:
        ordinary.query("begin")
        waiting.send(wire.startup({"user": "app", "database": "app", "replication": "database"}))
        with pytest.raises(TimeoutError):
            # An MD5 challenge has no timeout; what times out is the welcome.
            waiting.socket.settimeout(0.5)
            waiting.finish_login("app", "app password")
        ordinary.query("commit")
        pooler.wait_log("closing because: evicted")


def test_who_may_not_replicate_is_told_so_and_nobody_else_is_disturbed(serve):
    pooler = serve()
    with pooler.wire() as ordinary:
        for kind, reason in (("database", "must be superuser or replication role|permission denied to start WAL sender"),
                             ("yes", "no pg_hba.conf entry for replication connection")):
            with pytest.raises(WireError) as refused:
                pooler.wire(replication=kind)
            assert refused.value.text == "login failed"
            assert re.search(reason, refused.value.fields["D"]), refused.value.fields
        assert ordinary.value("select 1") == "1"
    with pooler.wire() as client:
        assert client.value("select 1") == "1"


def test_a_value_that_is_no_kind_of_replication_is_refused(serve):
    pooler = serve()
    with pytest.raises(WireError, match='invalid value for parameter "replication": "perhaps"'):
        pooler.wire(replication="perhaps")


def test_cancel_reaches_the_query_of_a_replication_client(serve):
    pooler = serve()
    with connect(pooler) as client:
        client.send(wire.query("select pg_sleep(60)"))
        poll_until(lambda: pooler.pool("app", "replicator")["sv_active"] == 1, "the query runs")
        with pooler.raw() as canceller:
            canceller.send(wire.cancel(client.pid, client.secret))
            assert canceller.read_to_end() == b""
        assert client.reply().errors[0].sqlstate == "57014"


def test_timeouts_of_queries_do_not_end_a_stream(serve, cluster, slot, table):
    pooler = serve(query_timeout=1, transaction_timeout=1, idle_transaction_timeout=1, client_idle_timeout=1)
    out = pooler.folder / "changes"
    receiver = recvlogical(pooler, slot, out)
    poll_until(lambda: is_active(cluster, slot), "the stream has begun")
    time.sleep(3)  # longer than each of them
    cluster.primary.sql(f"insert into {table} values (7, '')", "app")
    poll_until(lambda: received(out, table) == [7], "the row arrives by the same stream")
    assert receiver.poll() is None
    receiver.kill()
    receiver.wait()


# -- when the pooler goes


def read_end(client) -> WireError:
    """Reads what is left of a stream up to the error that ends it."""
    while True:
        kind, body = client.read()
        if kind == "E":
            return WireError(wire.parse_fields(body))


@pytest.mark.beyond_pgbouncer("PgBouncer's -R drops such clients without a word")
def test_a_hand_over_ends_streams_at_once_and_they_go_on_at_the_successor(serve, cluster, slot, table):
    pooler = serve(server_tls_sslmode="disable")
    with stream(pooler, slot) as client, connect(pooler) as idle, pooler.wire() as ordinary:
        ordinary.query("select 1")
        began = time.monotonic()
        hand_over(pooler)
        assert time.monotonic() - began < 5
        assert read_end(client).sqlstate == "57P01"
        assert idle.expect_error().sqlstate == "57P01"
        assert ordinary.value("select 1") == "1"
    poll_until(lambda: not is_active(cluster, slot), "the slot is free")
    with stream(pooler, slot):
        assert is_active(cluster, slot)


@pytest.mark.beyond_pgbouncer("PgBouncer's -R drops such clients without a word")
def test_a_base_backup_goes_on_over_a_hand_over(serve):
    pooler = serve(server_tls_sslmode="disable")
    target = pooler.folder / "backup"
    backup = process.spawn([programs() / "pg_basebackup", "-d", dsn(pooler, "replication"), "-c", "fast", "-X", "fetch",
                            "--max-rate", "16M", "--no-sync", "-D", target],
                           user=pooler.user, stderr=pooler.folder / "backup.log")
    poll_until(lambda: (target / "base").exists(), "the backup has begun")
    former = hand_over(pooler, wait=False)
    assert backup.poll() is None, "it was over before the hand-over"
    assert backup.wait(60) == 0, (pooler.folder / "backup.log").read_text()
    ends_well(former)
    process.run([programs() / "pg_verifybackup", target], user=pooler.user)


def test_a_reload_that_leads_elsewhere_ends_streams(serve, cluster, slot):
    pooler = serve()
    with stream(pooler, slot) as client:
        pooler.admin("RECONNECT app")
        assert read_end(client).text == "database configuration changed"
        with pytest.raises(Closed):
            client.read()


def test_psycopg_sees_an_ordinary_refusal_while_the_database_is_disabled(serve):
    pooler = serve()
    pooler.admin("DISABLE app")
    with pytest.raises(psycopg.OperationalError, match='database "app" is disabled'):
        psycopg.connect(dsn(pooler, replication="database"))
