# hosts: client pooler1 primary
# The figures that exporters read on the console, as a user who may do nothing else, are those of the ledger and of PostgreSQL.
# There is no exporter on the hosts: this asks what PgBouncer's exporter asks, in its words.
import csv
import io
import json

CLIENTS, WAITING, NARROW = 10, 6, 2
UNIT = "pgtandem.service"
direct = "postgresql://app:secret@primary/app"
# What PgBouncer's exporter asks, and the columns (for LISTS and CONFIG: the rows) without which it would miss a figure.
QUESTIONS = {
    "STATS_TOTALS": "database query_count query_time bytes_received bytes_sent wait_time xact_count xact_time client_parse_count "
    "server_parse_count bind_count",
    "POOLS": "database user cl_active cl_active_cancel_req cl_waiting cl_waiting_cancel_req sv_active sv_active_cancel "
    "sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait",
    "DATABASES": "name host port database force_user pool_size pool_mode max_connections current_connections paused disabled",
    "LISTS": "databases users pools free_clients used_clients login_clients free_servers used_servers dns_names dns_zones "
    "dns_queries",
    "CONFIG": "max_client_conn max_user_connections",
}
# Each is text, and nothing that adds up.
LABELS = {"database", "user", "name", "host", "port", "force_user", "pool_mode"}


def psql(command: str) -> str:
    return f"psql -Xw --csv 'postgresql://app:secret@pooler1:6432/pgbouncer' -c '{command}'"


def show(what: str) -> list[dict[str, str]]:
    """A table of the console."""
    return list(csv.DictReader(io.StringIO(client.succeed(psql(f"SHOW {what};"), timeout=30))))


def of(what: str, database: str) -> dict[str, int]:
    """The figures of one database in such a table; they begin with its first client."""
    rows = [row for row in show(what) if row["database"] == database]
    t.assertLessEqual(len(rows), 1, f"{what} of {database}")
    return {name: int(value) for row in rows for name, value in row.items() if value.isdigit()}


def lists() -> dict[str, int]:
    return {row["list"]: int(row["items"]) for row in show("LISTS")}


def backends() -> int:
    """PostgreSQL's processes that serve the pooler."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE client_addr = '$(getent hosts pooler1 | cut -d ' ' -f 1)'"
    return int(client.succeed(f'psql -XwAtq {direct} -c "{query}"', timeout=30))


def servers(pool: dict[str, int]) -> int:
    """A pool's servers, in whatever state."""
    return sum(number for state, number in pool.items() if state.startswith("sv_"))


start_all()
with subtest("whoever is in stats_users may look, and touch nothing"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    pooler1.wait_for_unit(UNIT, timeout=120)
    for command in ("RELOAD", "PAUSE app", "KILL app", "SET max_client_conn = 1", "SHUTDOWN"):
        t.assertIn("admin access needed", client.fail(f"{psql(command)} 2>&1"))
    t.assertEqual({row["value"] for row in show("CONFIG") if row["key"] == "max_client_conn"}, {"500"})

with subtest("every figure of PgBouncer's exporter is there"):
    t.assertIn("PgBouncer 1.", client.succeed(psql("SHOW VERSION;")))
    for question, wanted in QUESTIONS.items():
        rows = show(question)
        names = rows[0].keys() if question not in ("LISTS", "CONFIG") else {row.get("list", row.get("key")) for row in rows}
        t.assertEqual(set(wanted.split()) - set(names), set(), question)
        if question != "CONFIG":
            for name, value in ((name, value) for row in rows for name, value in row.items()):
                if name in wanted.split() and name not in LABELS:
                    t.assertRegex(value, r"^\d+$", f"{question}: {name}")

with subtest("while clients are at work, each of them is counted, and each server"):
    client.succeed(f"ledger init {direct}")
    before = {question: of(question, "app") for question in ("STATS", "STATS_TOTALS")}
    client.succeed(f"systemd-run --unit=ledger ledger run postgresql://app:secret@pooler1:6432/app --clients {CLIENTS}")
    client.wait_until_succeeds("ledger back --acks 20", timeout=30)
    # The pool has grown to what it needs.
    pool = of("POOLS", "app")
    t.assertEqual(pool["cl_active"] + pool["cl_waiting"], CLIENTS)
    retry(lambda _: servers(of("POOLS", "app")) == backends(), 20)
    counts = lists()
    # The console's own client is one of them.
    t.assertEqual((counts["used_clients"], counts["login_clients"]), (CLIENTS + 1, 0))
    retry(lambda _: lists()["used_servers"] == backends(), 20)
    # With `pgbouncer`, which is the console itself and its own user.
    t.assertEqual((counts["databases"], counts["users"]), (3, 3))
    (row,) = (row for row in show("DATABASES") if row["name"] == "app")
    t.assertEqual(int(row["current_connections"]), servers(of("POOLS", "app")))
    # Averages are those of whole periods.
    retry(lambda _: of("STATS", "app")["avg_xact_count"] > CLIENTS, 20)

with subtest("what the ledger did is what was counted"):
    client.succeed("systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    t.assertEqual((report["failed"], report["unknown"], report["errors"]), (0, 0, {}))
    done = report["committed"]
    log.info(f"  {done} transactions")
    t.assertGreater(done, 20 * CLIENTS)
    for question, prefix in (("STATS", "total_"), ("STATS_TOTALS", "")):
        after = of(question, "app")
        grown = {name: value - before[question].get(name, 0) for name, value in after.items()}
        t.assertEqual(grown[f"{prefix}xact_count"], done, question)
        t.assertEqual(grown[f"{prefix}server_assignment_count"], done, question)
        # BEGIN, INSERT, COMMIT, as simple queries.
        t.assertEqual(grown[f"{prefix}query_count"], 3 * done, question)
        t.assertEqual((grown[f"{prefix}client_parse_count"], grown[f"{prefix}bind_count"]), (0, 0), question)
        t.assertEqual(grown[f"{prefix}client_login_count"], CLIENTS, question)
        # A query is a part of its transaction.
        t.assertGreater(grown[f"{prefix}query_time"], 0, question)
        t.assertGreaterEqual(grown[f"{prefix}xact_time"], grown[f"{prefix}query_time"], question)
    t.assertEqual(of("POOLS", "app")["cl_active"], 0)
    t.assertEqual(lists()["used_clients"], 1)
    retry(lambda _: of("STATS", "app")["avg_xact_count"] == 0, 20)

with subtest("clients that wait are counted, and for how long they have"):
    narrow = "postgresql://app:secret@pooler1:6432/narrow"
    client.succeed(f"systemd-run --unit=readers ledger reads {narrow} --clients {WAITING} --count 1 --hold 4")

    def queued(_last: bool) -> bool:
        pool = of("POOLS", "narrow")
        return [pool.get(name) for name in ("cl_active", "cl_waiting", "sv_active")] == [NARROW, WAITING - NARROW, NARROW]

    def gone(_last: bool) -> bool:
        # In one look: between two clients nobody is active for a moment.
        pool = of("POOLS", "narrow")
        return [pool.get(name) for name in ("cl_active", "cl_waiting")] == [0, 0]

    retry(queued, 30)
    retry(lambda _: of("POOLS", "narrow")["maxwait"] >= 2, 30)
    retry(gone, 60)
    # A transaction counts when its server has come back.
    retry(lambda _: of("STATS", "narrow")["total_xact_count"] == WAITING, 20)
    after = of("STATS", "narrow")
    t.assertEqual((after["total_xact_count"], after["total_query_count"]), (WAITING, WAITING))
    # In microseconds: two of them have waited for 4 s, two more for 8 s.
    t.assertGreaterEqual(after["total_wait_time"], 23_000_000)
    t.assertLess(after["total_wait_time"], 30_000_000)
    t.assertGreaterEqual(after["total_query_time"], WAITING * 4_000_000)
    t.assertEqual(of("POOLS", "narrow")["maxwait"], 0)
