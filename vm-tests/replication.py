# hosts: client pooler1 primary replica1 replica2
# Writes to the primary, reads over two replicas; one replica is lost, the reads go on, it comes back and is used again.
import json

CLIENTS, COUNT = 10, 40
writes = "postgresql://app:secret@pooler1:6432/app"
reads_dsn = "postgresql://app:secret@pooler1:6432/app_ro"
direct = "postgresql://app:secret@primary/app"
replicas = {"replica1": replica1, "replica2": replica2}


def sql(host: str, statement: str) -> str:
    """A statement straight to a server."""
    return client.succeed(f'psql -XwAtq "postgresql://app:secret@{host}/app" -c "{statement}"', timeout=60).strip()


def name_of(address: str) -> str:
    """The host that has an address."""
    return client.succeed(f"getent hosts {address}").split()[1]


def reads(clients: int = CLIENTS, count: int = COUNT) -> dict[str, int]:
    """Reads through the pooler, all of which must be answered in time; how many were answered by which server."""
    result = json.loads(client.succeed(f"ledger reads {reads_dsn} --clients {clients} --count {count}", timeout=120))
    found: dict[str, int] = {}
    for address, number in result["answers"].items():
        found[name_of(address)] = found.get(name_of(address), 0) + number
    log.info(f"  reads: {found}, the slowest {result['slowest_s']} s, errors {result['errors']}")
    t.assertEqual(sum(found.values()), clients * count, f"every read is answered: {result}")
    t.assertLessEqual(result["slowest_s"], 10)
    return found


def streaming(count: int) -> None:
    retry(lambda _: sql("primary", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == str(count), 60)


def same_everywhere() -> int:
    """Each server has the same ledger; its length."""
    length = int(sql("primary", "SELECT count(*) FROM ledger"))
    total = sql("primary", "SELECT sum(number) FROM ledger")
    for name in replicas:
        retry(lambda _: sql(name, "SELECT count(*) FROM ledger") == str(length), 30)
        t.assertEqual(sql(name, "SELECT sum(number) FROM ledger"), total, name)
    return length


start_all()
with subtest("two replicas stream"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    for node in replicas.values():
        node.wait_for_unit("postgresql.target", timeout=180)
    pooler1.wait_for_unit("pgtandem.service", timeout=120)
    streaming(2)
    for name in replicas:
        t.assertEqual(sql(name, "SELECT pg_is_in_recovery()"), "t")

with subtest("writes go to the primary, and reach both replicas"):
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run {writes} --clients {CLIENTS}")
    client.wait_until_succeeds("ledger back --acks 20", timeout=30)
    t.assertIn("read-only", client.fail(f"psql -Xw {reads_dsn} -c 'INSERT INTO ledger VALUES (0)' 2>&1"))

with subtest("both replicas answer reads"):
    found = reads()
    t.assertEqual(sorted(found), sorted(replicas))
    for name, number in found.items():
        t.assertGreaterEqual(number, CLIENTS * COUNT // 5, name)

with subtest("one replica crashes: reads go on with the other, writes never stop"):
    client.succeed("ledger mark crash")
    replica1.crash()
    found = reads()
    t.assertLessEqual(found.get("replica1", 0), 0)
    client.succeed("ledger back --acks 20")

with subtest("it comes back, has what it missed, and is used again"):
    replica1.start()
    replica1.wait_for_unit("postgresql.target", timeout=120)
    streaming(2)
    client.succeed("ledger mark back")

    def used(_last: bool) -> bool:
        return reads(count=10).get("replica1", 0) > 0

    retry(used, 60)

with subtest("the ledger is whole on all three"):
    client.succeed("systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown; {report['marks']}")
    t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []))
    t.assertEqual((report["failed"], report["unknown"]), (0, 0), "the primary was never away")
    t.assertLessEqual(report["marks"]["crash"]["longest_s"], 1)
    t.assertEqual(same_everywhere(), report["committed"])
