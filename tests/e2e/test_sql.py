"""SQL over the tables of the admin console, and SHOW WHY."""

import threading
import time

import asyncpg
import psycopg
import pytest
from harness import process, wire
from harness.process import poll_until

pytestmark = pytest.mark.beyond_pgbouncer("PgBouncer's console knows no SQL")

OPERATORS = ("SELECT database, user, cl_active, maxwait FROM pg_stat_pgbouncer_pools WHERE cl_waiting > 0 "
             "ORDER BY 4 DESC LIMIT 10")
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture(scope="module")
def busy(site):
    """A pooler with one server, held by one client, for which two more wait."""
    pooler = site.pooler(default_pool_size=1, reserve_pool_size=0)
    holder = pooler.wire()
    holder.query("begin")
    waiting = [pooler.wire() for _ in range(2)]
    for client in waiting:
        client.send(wire.query("select 1"))
    poll_until(lambda: pooler.pool()["cl_waiting"] == 2, "two waiting clients")
    yield pooler
    holder.query("commit")
    for client in waiting:
        assert client.reply().tags == ["SELECT 1"]
        client.close()
    holder.close()
    site.discard(pooler)


def psql(pooler, text: str, user: str = "console", password: str = "console password", check: bool = True):
    return process.run(["psql", "-XAt", "-v", "VERBOSITY=verbose", pooler.dsn("pgbouncer", user, password), "-c", text],
                       env=process.clean_environment(), check=check)


@pytest.mark.parametrize("user", ["console", "stats"])
def test_psql(busy, user):
    done = psql(busy, OPERATORS, user, f"{user} password")
    assert done.stderr == ""
    (row,) = done.stdout.splitlines()
    assert row.startswith("app|app|1|")


def test_every_table(busy):
    page = busy.admin("SELECT * FROM pg_stat_pgbouncer_databases")
    assert [row["name"] for row in page] == [row["name"] for row in busy.admin("SHOW DATABASES")]
    for name in ("pools", "clients", "servers", "stats", "stats_totals", "stats_averages", "totals", "users", "config",
                 "lists", "mem", "sockets", "active_sockets", "state", "version", "ha", "ha_history", "ha_link", "why",
                 "fds", "peers", "peer_pools", "dns_hosts", "dns_zones"):
        shown = busy.admin(f"SHOW {name.replace('_', ' ') if name.startswith('ha_') else name}")
        found = busy.admin(f"SELECT * FROM pg_stat_pgbouncer_{name}")
        if shown:
            assert list(shown[0]) == list(found[0]), name
        assert len(shown) == len(found) or name in ("fds", "sockets"), name


def test_joins_and_aggregates(busy):
    (row,) = busy.admin("SELECT p.database, d.pool_size, count(*) AS waiting, max(c.wait) >= 0 AS waited FROM pools p"
                        " JOIN databases d ON d.name = p.database"
                        " JOIN clients c ON c.database = p.database AND c.user = p.user"
                        " WHERE c.state = 'waiting' GROUP BY 1, 2")
    assert row == {"database": "app", "pool_size": 1, "waiting": 2, "waited": 1}
    (row,) = busy.admin("WITH w AS (SELECT * FROM pools WHERE cl_waiting > 0)"
                        " SELECT (SELECT count(*) FROM w) AS n, version() AS v, now() AS t, 1 / 2.0 AS half")
    assert row["n"] == 1 and row["v"].startswith("PgBouncer ") and row["half"] == 0.5
    assert row["t"].startswith(time.strftime("%Y-", time.gmtime()))


@pytest.mark.parametrize("binary", [False, True])
def test_psycopg_with_parameters(busy, binary):
    query = "SELECT database, cl_waiting, cl_waiting / 4.0, NULL FROM pools WHERE database = %s AND cl_waiting >= %s"
    with busy.console() as console:
        cursor = psycopg.Cursor(console)
        for _ in range(7):
            # After a few runs psycopg prepares the statement.
            assert cursor.execute(query, ("app", 2), binary=binary).fetchall() == [("app", 2, 0.5, None)]
        assert cursor.execute(query, ("app'; --", 0), binary=binary).fetchall() == []
        assert cursor.execute("SELECT %s::int + 1, %s", ("41", 2.5), binary=binary).fetchall() == [(42, 2.5)]
        with pytest.raises(psycopg.errors.UndefinedColumn):
            cursor.execute("SELECT colour FROM pools WHERE database = %s", ("app",), binary=binary)
        assert cursor.execute("SHOW VERSION").fetchone()[0].startswith("PgBouncer ")


async def test_asyncpg_describes_first(busy):
    connection = await asyncpg.connect(host="127.0.0.1", port=busy.port, user="stats", password="stats password",
                                       database="pgbouncer", ssl=False)
    try:
        row = await connection.fetchrow(
            "SELECT database, cl_waiting, CAST(sum(maxwait) AS INTEGER) AS waited FROM pools "
            "WHERE database = $1 AND cl_waiting >= $2::int GROUP BY 1", "app", 2)
        assert row["database"] == "app" and row["cl_waiting"] == 2 and row["waited"] >= 0
        statement = await connection.prepare("SELECT key, value FROM config WHERE key LIKE $1 ORDER BY key")
        for pattern in ("%", "no such %"):
            rows = await statement.fetch(pattern)
            assert len(rows) == (len(busy.admin("SHOW CONFIG")) if pattern == "%" else 0)
    finally:
        await connection.close()


@pytest.mark.parametrize(("query", "sqlstate", "text"), [
    ("SELECT * FROM nowhere", "42P01", "the tables are active_sockets, clients, config"),
    ("SELECT colour FROM pools", "42703", 'column "colour" does not exist'),
    ("SELECT database FORM pools", "42601", "syntax error at or near"),
    ("SELECT cl_active::int FROM pools", "42601", "write CAST(x AS INTEGER)"),
    ("WITH x AS (SELECT 1) DELETE FROM pools", "25006", "can only be read"),
    ("SELECT load_extension('/tmp/x.so') FROM pools", "42501", "permission denied"),
    ("SELECT name FROM sqlite_master", "42501", "permission denied for table sqlite_master"),
    ("SELECT database FROM pools WHERE user = $1", "42P02", "there is no parameter $1"),
    ("SELECT pg_sleep(1)", "08P01", "use SHOW HELP"),
    ("INSERT INTO pools VALUES (1)", "08P01", "use SHOW HELP"),
    ("ATTACH '/etc/passwd' AS x", "08P01", "use SHOW HELP"),
    ("PRAGMA database_list", "08P01", "use SHOW HELP"),
    ("SELECT 1", "08P01", "use SHOW HELP"),
])
def test_errors(busy, query, sqlstate, text):
    with busy.console() as console:
        with pytest.raises(psycopg.DatabaseError) as caught:
            console.execute(query)
        assert caught.value.sqlstate == sqlstate and text in str(caught.value)
        assert console.execute(OPERATORS).fetchone()[0] == "app", "the console goes on"


def test_what_stats_users_may_not_show_they_may_not_query(busy):
    with busy.console("stats", "stats password") as console:
        with pytest.raises(psycopg.DatabaseError, match="admin access needed"):
            console.execute("SELECT count(*) FROM clients, pg_stat_pgbouncer_fds")
        assert console.execute("SELECT count(*) > 0 FROM clients").fetchone() == (1,)


def test_a_heavy_query_ends_and_delays_nobody(start_pooler):
    pooler = start_pooler()
    outcome = []

    def heavy() -> None:
        with pooler.console() as console:
            began = time.monotonic()
            try:
                console.execute(ENDLESS)
            except psycopg.DatabaseError as error:
                outcome.append((error.sqlstate, time.monotonic() - began))

    threads = [threading.Thread(target=heavy) for _ in range(2)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    with pooler.connect() as client:
        while any(thread.is_alive() for thread in threads):
            began = time.monotonic()
            assert client.execute("select 1").fetchone() == (1,)
            slowest = max(slowest, time.monotonic() - began)
    for thread in threads:
        thread.join()
    assert [sqlstate for sqlstate, _ in outcome] == ["57014", "57014"]
    assert all(4 < seconds < 30 for _, seconds in outcome), outcome
    assert slowest < 2, f"a client waited {slowest:.2f} s"


def test_a_query_ends_when_its_client_leaves(start_pooler):
    pooler = start_pooler()
    clients = [pooler.wire("pgbouncer", "console", "console password") for _ in range(4)]
    for client in clients:
        client.send(wire.query(ENDLESS))
    for client in clients:
        client.close()
    began = time.monotonic()
    assert pooler.admin("SELECT count(*) AS n FROM pools")[0]["n"] >= 1
    assert time.monotonic() - began < 4, "the slots are free again at once"


def why(pooler) -> list[dict]:
    return pooler.admin("SHOW WHY")


def test_why_the_pool_is_full(busy):
    first, second = why(busy)
    assert (first["database"], first["user"], first["reason"], first["ahead"]) == ("app", "app", "pool_full", 0)
    assert first["waits_for"] == "a free server: all 1 of the pool are in use (default_pool_size = 1)"
    assert first["settings"] == "default_pool_size, reserve_pool_size"
    assert second["ahead"] == 1
    ids = {row["id"] for row in busy.admin("SHOW CLIENTS") if row["state"] == "waiting"}
    assert {first["id"], second["id"]} == ids
    assert busy.admin("SELECT reason, count(*) AS n FROM why GROUP BY 1") == [{"reason": "pool_full", "n": 2}]


def waiting_because(pooler, reason: str) -> dict:
    poll_until(lambda: [row["reason"] for row in why(pooler)] == [reason], f"a client that waits for {reason}")
    (row,) = why(pooler)
    return row


def test_why_other_reasons(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary("pool_size=1")})
    holder = pooler.wire()
    holder.query("begin")
    client = pooler.wire()
    client.send(wire.query("select 1"))
    assert "pool_size of database app = 1" in waiting_because(pooler, "pool_full")["waits_for"]
    holder.query("commit")
    client.reply()
    pooler.admin("PAUSE app")
    client.send(wire.query("select 1"))
    assert waiting_because(pooler, "paused")["advice"] == "RESUME app"
    pooler.admin("RESUME app")
    client.reply()


def test_why_a_limit_of_the_user(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary(), "other": site.to_primary()},
                          max_user_connections=1)
    holder = pooler.wire()
    holder.query("begin")
    other = threading.Thread(target=lambda: pooler.wire("other").close())
    other.start()
    row = waiting_because(pooler, "max_user_connections")
    assert row["database"] == "other" and row["waits_for"].endswith("(to be let in)")
    holder.query("commit")
    other.join()


def test_why_the_server_is_down(start_pooler):
    pooler = start_pooler(databases={"app": "host=127.0.0.1 port=1 dbname=app user=app password=x"},
                          server_login_retry=60)
    client = pooler.raw()
    thread = threading.Thread(target=lambda: pytest.raises(Exception, client.login, "app", "app", "app password"))
    thread.start()
    row = waiting_because(pooler, "server_down")
    assert "the last attempt failed: " in row["waits_for"] and "the next one is in 5" in row["waits_for"]
    assert row["settings"] == "server_login_retry"
    client.close()
    thread.join()
