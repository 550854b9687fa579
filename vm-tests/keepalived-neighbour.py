# hosts: client pooler1 pooler2 primary
# One node is pgtandem, the other still keepalived beside a plain pooler: they are one virtual router, and one has the address.
import datetime
import json
import re

# While nothing is cut, nobody else may have the address for longer than three intervals of 100 ms.
BOTH_S = 0.3
# From what happens to the last client's next acknowledged transaction.
BOUND_S = 3
CLIENTS = 10
UNIT = "pgtandem.service"
through = f"postgresql://app:secret@{floating}:6432/app"
direct = "postgresql://app:secret@primary/app"
poolers = {"pooler1": pooler1, "pooler2": pooler2}
Span = tuple[datetime.datetime, datetime.datetime]


def holders() -> list[str]:
    """The nodes that have the floating address."""
    return [
        name
        for name, node in poolers.items()
        if node.is_up() and f" {floating}/" in node.execute("ip -o addr show dev eth1")[1]
    ]


def now(name: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(poolers[name].succeed("date +%Y-%m-%dT%H:%M:%S.%6N").strip())


def keepalived() -> None:
    """Not by a unit of its package: what one is called, and whether it is there, differs."""
    pooler2.succeed("systemd-run --unit=vrrp keepalived --dont-fork --log-console --use-file=/etc/keepalived/keepalived.conf")
    # Its first state, in which it may hold no address yet.
    pooler2.wait_until_succeeds("journalctl -q -b -u vrrp | grep 'Entering BACKUP STATE'", timeout=20)


def await_holder(name: str) -> None:
    """This node has it, and each client is served there."""
    retry(lambda _: holders() == [name], 20)
    client.wait_until_succeeds("ledger back", timeout=20)
    t.assertEqual(holders(), [name])


def watch() -> dict[str, Span | None]:
    """Note on both nodes from now on when the address comes and goes; who has it now, if anybody."""
    for node in poolers.values():
        node.succeed("systemd-run --unit=watch -p StandardOutput=truncate:/var/tmp/watch ip -ts -o monitor address")
        # It listens once it has heard of this one.
        node.wait_until_succeeds("ip addr replace 192.0.2.9/32 dev lo && grep -q 192.0.2.9 /var/tmp/watch", timeout=20)
    found = holders()
    return {name: (now(name), now(name)) if name in found else None for name in poolers}


def spans(name: str, begun: Span | None) -> list[Span]:
    """When a node had the address, since watch()."""
    since = begun[0] if begun else None
    found = []
    for line in poolers[name].succeed("cat /var/tmp/watch").splitlines():
        event = re.match(rf"\[(\S+)\] (Deleted )?\d+: eth1 +inet {re.escape(floating)}/", line)
        if event is None:
            continue
        at = datetime.datetime.fromisoformat(event[1])
        if event[2] is None:
            # The same again is a renewal.
            since = since or at
        elif since is not None:
            found.append((since, at))
            since = None
    return found + ([(since, now(name))] if since is not None else [])


start_all()
with subtest("pgtandem makes room for keepalived on one node"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)
    pooler2.succeed(f"systemctl stop {UNIT} pgtandem-helper.socket pgtandem-helper.service", timeout=90)
    retry(lambda _: holders() == ["pooler1"], 20)
    pooler2.succeed(
        """install -m 600 -o pgtandem -g pgtandem /dev/stdin /etc/neighbour/userlist.txt <<< '"app" "secret"'""",
        "systemd-run --unit=neighbour -p User=pgtandem pgtandem /etc/neighbour/pgbouncer.ini",
    )
    pooler2.wait_for_open_port(6432, timeout=30)
    keepalived()

with subtest("clients are at work"):
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run {through} --clients {CLIENTS}")
    await_holder("pooler1")
    had = watch()

with subtest("keepalived goes and comes: the active node does not care"):
    client.succeed("ledger mark neighbour")
    pooler2.succeed("systemctl stop vrrp")
    client.wait_until_succeeds("ledger back", timeout=20)
    keepalived()
    await_holder("pooler1")

with subtest("pgtandem stops: keepalived takes over"):
    client.succeed("ledger mark stop")
    pooler1.succeed(f"systemctl stop --no-block {UNIT}")
    await_holder("pooler2")
    pooler1.wait_until_fails(f"systemctl is-active {UNIT}", timeout=90)
    t.assertEqual(holders(), ["pooler2"])

with subtest("pgtandem starts: it has the higher priority, and takes the address back"):
    client.succeed("ledger mark start")
    pooler1.succeed(f"systemctl start {UNIT}")
    await_holder("pooler1")
    client.wait_until_succeeds("ledger back --acks 20", timeout=20)

with subtest("keepalived and pgtandem had the address by turns"):
    had_by = {name: spans(name, had[name]) for name in poolers}
    t.assertEqual({name: len(found) for name, found in had_by.items()}, {"pooler1": 2, "pooler2": 1})
    (first, second), (between,) = had_by["pooler1"], had_by["pooler2"]
    for what, ends, begins in (("stop", first[1], between[0]), ("start", between[1], second[0])):
        both = (ends - begins).total_seconds()
        log.info(f"  {what:6} " + (f"both had it for {both:.3f} s" if both > 0 else f"nobody had it for {-both:.3f} s"))
        t.assertLessEqual(abs(both), BOTH_S, what)

with subtest("pgtandem's machine crashes and comes back: there and back again"):
    client.succeed("ledger mark crash")
    pooler1.crash()
    await_holder("pooler2")
    client.succeed("ledger mark back")
    pooler1.start()
    pooler1.wait_for_unit(UNIT, timeout=120)
    await_holder("pooler1")
    client.wait_until_succeeds("ledger back --acks 20", timeout=20)

with subtest("the ledger"):
    client.succeed("ledger mark end", "systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    marks = report["marks"]
    for event in ("neighbour", "stop", "start", "crash", "back"):
        log.info(f"  {event:10} the longest wait for an acknowledgement: {marks[event]['longest_s']:.3f} s")
        t.assertLessEqual(marks[event]["longest_s"], BOUND_S, event)
        t.assertGreaterEqual(marks[event]["committed"], 3 * CLIENTS, event)
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown; {report['errors']}")
    t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []))
    t.assertLessEqual(report["there"] - report["committed"], report["unknown"])
