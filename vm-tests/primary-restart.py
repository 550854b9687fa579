# hosts: client pooler1 pooler2 primary
# PostgreSQL restarts, stops and crashes: the address stays, clients go on, and with PAUSE they wait and see no error at all.
import csv
import io
import json
import time
from typing import Any

CLIENTS, PATIENT = 10, 5
# Longer than both nodes need to see that the server is gone, and than servers_down_delay behind that.
OUTAGE_S = 15
# From the end of an outage until the last client is served.
BOUND_S = 15
UNIT = "pgtandem.service"
through = f"postgresql://app:secret@{floating}:6432/app"
direct = "postgresql://app:secret@primary/app"
poolers = {"pooler1": pooler1, "pooler2": pooler2}


def console(name: str, command: str) -> list[dict[str, str]]:
    """A command for a node's console, at its own address; its rows."""
    text = client.succeed(f"psql -Xw --csv 'postgresql://admin:admin-secret@{name}:6432/pgbouncer' -c '{command}'", timeout=30)
    return list(csv.DictReader(io.StringIO(text)))


def holders() -> list[str]:
    """The nodes that have the floating address."""
    return [name for name, node in poolers.items() if f" {floating}/" in node.succeed("ip -o addr show dev eth1")]


def standing() -> tuple[list[str], list[int], list[str]]:
    """What no event may change: who has the address, how often a node has changed its state, and the processes."""
    changes = [
        sum(row["to"] != row["from"] for row in console(name, "SHOW HA HISTORY") if row["router"]) for name in poolers
    ]
    return holders(), changes, [node.get_unit_property(UNIT, "MainPID") for node in poolers.values()]


def load() -> None:
    """Clients at work on a new ledger."""
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run {through} --clients {CLIENTS}")
    client.wait_until_succeeds("ledger back", timeout=20)


def ended() -> dict[str, Any]:
    """The load stops; its report, in which nothing may be missing or be there twice."""
    client.succeed("ledger mark end", "systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    for event, found in report["marks"].items():
        log.info(f"  {event:8} the longest wait for an acknowledgement: {found['longest_s']:.3f} s, {found['committed']} committed")
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown; {report['errors']}")
    t.assertEqual(report["clients"], CLIENTS)
    t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []))
    t.assertLessEqual(report["there"] - report["committed"], report["unknown"])
    return report


start_all()
with subtest("the pair comes up"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)

    def settled(_last: bool) -> bool:
        rows = console("pooler1", "SHOW HA") + console("pooler2", "SHOW HA")
        return all(row["peer_link"] == "up" for row in rows) and sum(row["state"] == "active" for row in rows) == 2

    retry(settled, 60)
    t.assertEqual(len(holders()), 1)

with subtest("PAUSE on the pair, a restart, RESUME: nobody sees an error, and who comes meanwhile waits"):
    load()
    client.succeed(f"psql -Xqw {direct} -c 'CREATE TABLE patience (number int)'")
    before = standing()
    client.succeed("ledger mark paused")
    console("pooler1", "PAUSE app ON PAIR")
    for name in poolers:
        t.assertEqual([row["paused"] for row in console(name, "SHOW DATABASES") if row["name"] == "app"], ["1"], name)
    primary.succeed("systemctl stop postgresql")
    for number in range(PATIENT):
        client.succeed(
            f"systemd-run --unit=patient{number} psql -Xw '{through}?application_name=patient' "
            f"-c 'INSERT INTO patience VALUES ({number})'"
        )

    def waiting(_last: bool) -> bool:
        clients = console(before[0][0], "SHOW CLIENTS")
        return sum(row["application_name"] == "patient" and row["state"] == "waiting" for row in clients) == PATIENT

    retry(waiting, 5)
    primary.succeed("systemctl start postgresql")
    # Through the node that PAUSE was not said to.
    console("pooler2", "RESUME app ON PAIR")
    client.succeed("ledger mark resumed")
    counted = f"psql -XwAtq {direct} -c 'SELECT count(*), count(DISTINCT number) FROM patience'"
    client.wait_until_succeeds(f"[ $({counted}) = '{PATIENT}|{PATIENT}' ]", timeout=60)
    client.wait_until_succeeds("ledger back --acks 20", timeout=30)
    t.assertEqual(client.succeed("systemctl list-units --failed --plain --no-legend"), "")
    report = ended()
    t.assertEqual((report["failed"], report["unknown"], report["errors"]), (0, 0, {}))
    t.assertEqual(standing(), before)

with subtest("a restart under load: clients go on"):
    load()
    client.succeed("ledger mark restart")
    primary.succeed("systemctl restart postgresql")
    client.wait_until_succeeds("ledger back --acks 20", timeout=60)
    t.assertEqual(standing(), before)

with subtest("without PAUSE, who comes while it is down is told why, as by PgBouncer; all go on when it is back"):
    client.succeed("ledger mark down")
    primary.succeed("systemctl stop postgresql")
    told = "server login has been failing, cached error: connect failed"
    client.wait_until_succeeds(f"! psql -Xw {through} -c 'SELECT 1' > /tmp/told 2>&1 && grep '{told}' /tmp/told", timeout=20)
    primary.succeed("systemctl start postgresql")
    client.succeed("ledger mark up")
    client.wait_until_succeeds("ledger back --acks 20", timeout=60)
    t.assertEqual(standing(), before)

with subtest("its machine crashes, and is away for longer than it takes to give the address to a node that reaches it"):
    client.succeed("ledger mark crash")
    primary.crash()
    client.succeed("ledger mark gone")
    down = time.monotonic()
    seen: list[list[str]] = []

    def over(_last: bool) -> bool:
        seen.append(holders())
        return time.monotonic() - down > OUTAGE_S

    retry(over, 60)
    t.assertEqual([found for found in seen if found != before[0]], [])
    client.succeed("ledger mark boot")
    primary.start()
    primary.wait_for_unit("postgresql.service", timeout=120)
    client.succeed("ledger mark back")
    client.wait_until_succeeds("ledger back --acks 20", timeout=60)
    t.assertEqual(standing(), before)

with subtest("the ledger"):
    marks = ended()["marks"]
    for event in ("restart", "up", "back"):
        t.assertLessEqual(marks[event]["longest_s"], BOUND_S, event)
        t.assertGreater(marks[event]["committed"], 3 * CLIENTS, event)
    t.assertEqual(marks["gone"]["committed"], 0, "acknowledged by a machine that is off")
