# hosts: client pooler1 pooler2 primary
# A pair through crash, power-off, cut cable, hang and planned switch: clients go on, nothing acknowledged is lost or doubled.
import csv
import io
import json

# From what happens to the last client's next acknowledged transaction.
BOUND_S = 3
CLIENTS = 10
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
    return [
        name
        for name, node in poolers.items()
        if node.is_up() and f" {floating}/" in node.execute("ip -o addr show dev eth1")[1]
    ]


def other(name: str) -> str:
    return "pooler2" if name == "pooler1" else "pooler1"


def await_pair(active: str) -> None:
    """Both nodes know each other, and it is this one that is active."""

    def settled(_last: bool) -> bool:
        if client.execute(f"nc -z {other(active)} 6432")[0] != 0:
            return False
        for name, state in ((active, "active"), (other(active), "backup")):
            for row in console(name, "SHOW HA"):
                if row["addresses"] == floating and (row["state"] != state or row["peer_link"] != "up"):
                    return False
        return True

    retry(settled, 60)
    t.assertEqual(holders(), [active])


def pid(name: str) -> str:
    return poolers[name].get_unit_property(UNIT, "MainPID")


def on(name: str, what: str) -> None:
    """Do one thing to the active node, and see the other take over and the clients go on."""
    standby = other(name)
    client.succeed(f"ledger mark {what}")
    if what == "crash":
        poolers[name].crash()
    elif what == "power-off":
        poolers[name].shutdown()
    elif what == "cable":
        poolers[name].block()
    elif what == "hang":
        poolers[name].succeed(f"systemctl kill --kill-whom=main --signal=SIGSTOP {UNIT}")
    else:
        console(name, "SWITCHOVER")
    retry(lambda _: floating in poolers[standby].execute("ip -o addr show dev eth1")[1], 10)
    client.wait_until_succeeds("ledger back", timeout=20)


def mend(name: str, what: str) -> None:
    """Undo it; the other node stays active."""
    if what in ("crash", "power-off"):
        poolers[name].start()
        poolers[name].wait_for_unit(UNIT, timeout=120)
    elif what == "cable":
        poolers[name].unblock()
    elif what == "hang":
        poolers[name].succeed(f"systemctl kill --kill-whom=main --signal=SIGCONT {UNIT}")


start_all()
with subtest("the pair comes up with one address"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)
    retry(lambda _: len(holders()) == 1, 30)
    await_pair(holders()[0])

with subtest("clients are at work"):
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run {through} --clients {CLIENTS}")
    client.wait_until_succeeds("ledger back", timeout=20)

events = ["planned", "crash", "power-off", "cable", "hang", "planned-back"]
for event in events:
    with subtest(event):
        active = holders()[0]
        standby = other(active)
        before = {name: pid(name) for name in poolers}
        on(active, event)
        if event == "hang":
            # Not only the standby has it: the one that hangs has lost it.
            retry(lambda _: holders() == [standby], BOUND_S)
        mend(active, event)
        await_pair(standby)
        t.assertEqual(pid(standby), before[standby], "the node that took over was restarted")
        if event not in ("crash", "power-off"):
            t.assertEqual(pid(active), before[active], "the node that lost the address was restarted")

with subtest("the ledger"):
    client.succeed("ledger mark end", "systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    marks = report["marks"]
    for event in events:
        log.info(f"  {event:12} the longest wait for an acknowledgement: {marks[event]['longest_s']:.3f} s")
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown; {report['errors']}")
    t.assertEqual(report["clients"], CLIENTS)
    t.assertEqual(report["lost"], [], "acknowledged, and not there")
    t.assertEqual(report["doubled"], [], "there more than once")
    t.assertEqual(report["ghosts"], [], "there, though the client was told otherwise")
    for event in events:
        t.assertLessEqual(marks[event]["longest_s"], BOUND_S, event)
        t.assertGreater(marks[event]["committed"], 3 * CLIENTS, event)
    t.assertLessEqual(report["there"] - report["committed"], report["unknown"])
