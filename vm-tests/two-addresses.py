# hosts: client pooler1 pooler2 primary
# Two floating addresses with crossed priorities: both nodes carry traffic, one takes both over, each gets its own back by itself.
import csv
import io
import json

# From what happens to the last client's next acknowledged transaction.
BOUND_S = 3
CLIENTS = 8
UNIT = "pgtandem.service"
direct = "postgresql://app:secret@primary/app"
poolers = {"pooler1": pooler1, "pooler2": pooler2}
# By the table of each ledger: the address, and the node that it belongs to while both are well.
addresses = {"first": (floating, "pooler1"), "second": ("192.168.1.101", "pooler2")}


def console(name: str, command: str) -> list[dict[str, str]]:
    """A command for a node's console, at its own address; its rows."""
    text = client.succeed(f"psql -Xw --csv 'postgresql://admin:admin-secret@{name}:6432/pgbouncer' -c '{command}'", timeout=30)
    return list(csv.DictReader(io.StringIO(text)))


def on_interface(name: str) -> set[str]:
    """The ledgers whose addresses a node has."""
    shown = poolers[name].succeed("ip -o addr show dev eth1", timeout=30)
    return {table for table, (address, _) in addresses.items() if f" {address}/" in shown}


def ledger(table: str, words: str) -> str:
    """A command for one of the two ledgers."""
    return f"ledger --book /var/tmp/{table} --table {table} {words}"


def mark(what: str) -> None:
    client.succeed(*[ledger(table, f"mark {what}") for table in addresses])


def await_clients() -> None:
    """Every client of both addresses is at work again."""
    for table in addresses:
        client.wait_until_succeeds(ledger(table, "back"), timeout=20)


def await_each_with_its_own() -> None:
    """Both nodes serve and know each other, and each has the address that is its own."""

    def settled(_last: bool) -> bool:
        for name in poolers:
            if client.execute(f"nc -z {name} 6432")[0] != 0:
                return False
            for row in console(name, "SHOW HA"):
                want = "active" if addresses[row["router"]][1] == name else "backup"
                if row["state"] != want or row["peer_link"] != "up":
                    return False
        return True

    retry(settled, 60)
    for name in poolers:
        t.assertEqual(on_interface(name), {table for table, (_, owner) in addresses.items() if owner == name}, name)


def ports(name: str, table: str) -> set[str]:
    """The connections of a ledger's clients to a node, by what is not the same for two: the port of the client's own end."""
    address, _ = addresses[table]
    return {row["port"] for row in console(name, "SHOW CLIENTS") if row["database"] == "app" and row["local_addr"] == address}


def served_by() -> dict[str, dict[str, int]]:
    """How many clients of the ledgers each node has at each address, as its console says."""
    return {name: {table: len(ports(name, table)) for table in addresses} for name, node in poolers.items() if node.is_up()}


def crash_and_back(name: str) -> None:
    """One node crashes, the other serves both addresses; when it is back it takes its own again, and no other."""
    (own,) = (table for table, (_, owner) in addresses.items() if owner == name)
    (others,) = set(addresses) - {own}
    (survivor,) = set(poolers) - {name}
    pid, unmoved = poolers[survivor].get_unit_property(UNIT, "MainPID"), ports(survivor, others)

    mark(f"{name}-crash")
    poolers[name].crash()
    retry(lambda _: on_interface(survivor) == set(addresses), 10)
    await_clients()
    t.assertEqual(served_by(), {survivor: {table: CLIENTS for table in addresses}})

    mark(f"{name}-back")
    poolers[name].start()
    poolers[name].wait_for_unit(UNIT, timeout=120)
    await_each_with_its_own()
    await_clients()
    t.assertEqual(served_by(), {name: {own: CLIENTS, others: 0}, survivor: {own: 0, others: CLIENTS}})
    t.assertEqual(poolers[survivor].get_unit_property(UNIT, "MainPID"), pid, "the node that went on was restarted")
    t.assertEqual(ports(survivor, others), unmoved, "what happens to one address is felt at the other")


start_all()
with subtest("each node is active for an address of its own"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)
    await_each_with_its_own()

with subtest("clients are at work on both"):
    for table, (address, _) in addresses.items():
        client.succeed(ledger(table, f"init {direct}"))
        through = f"postgresql://app:secret@{address}:6432/app"
        client.succeed(f"systemd-run --unit={table} {ledger(table, f'run {through} --clients {CLIENTS}')}")
    await_clients()
    t.assertEqual(served_by(), {"pooler1": {"first": CLIENTS, "second": 0}, "pooler2": {"first": 0, "second": CLIENTS}})

for crashing in poolers:
    with subtest(f"{crashing} crashes and comes back"):
        crash_and_back(crashing)

with subtest("a planned switch moves both to one node, and the next one brings them back"):
    mark("switchover")
    console("pooler1", "SWITCHOVER first")
    retry(lambda _: on_interface("pooler2") == set(addresses), 10)
    t.assertEqual(on_interface("pooler1"), set())
    await_clients()
    t.assertEqual(served_by(), {"pooler1": {"first": 0, "second": 0}, "pooler2": {"first": CLIENTS, "second": CLIENTS}})
    mark("switchover-back")
    console("pooler2", "SWITCHOVER first")
    await_each_with_its_own()
    await_clients()

with subtest("the ledgers"):
    mark("end")
    client.succeed(*[f"systemctl stop {table}" for table in addresses])
    for table in addresses:
        report = json.loads(client.succeed(ledger(table, f"report {direct}")))
        marks = report["marks"]
        log.info(f"  {table}: {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown")
        log.info("    " + ", ".join(f"{name} {one['longest_s']:.3f} s" for name, one in marks.items() if name != "end"))
        log.info(f"    {report['errors']}")
        t.assertEqual(report["clients"], CLIENTS)
        t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []), table)
        t.assertLessEqual(report["there"] - report["committed"], report["unknown"])
        for name, one in marks.items():
            if name != "end":
                t.assertLessEqual(one["longest_s"], BOUND_S, f"{table}: {name}")
                t.assertGreater(one["committed"], 3 * CLIENTS, f"{table}: {name}")
