# hosts: client pooler1 pooler2 primary
# Under load the pair gets another program, one node after the other and then both in place: no client hears more than that it is
# to connect again, once for each planned switch, and nothing is lost.
import csv
import io
import json

CLIENTS = 20
# From each step to the last client's next acknowledged transaction.
BOUND_S = 2
UNIT, HELPER = "pgtandem.service", "pgtandem-helper.service"
FILE = "/etc/pgtandem/pgtandem.toml"
through = f"postgresql://app:secret@{floating}:6432/app"
direct = "postgresql://app:secret@primary/app"
poolers = {"pooler1": pooler1, "pooler2": pooler2}
# What clients are told when the address moves: PostgreSQL's words for 57P01.
TOLD = "terminating connection due to administrator command"


def console(name: str, command: str) -> list[dict[str, str]]:
    """A command for a node's console, at its own address; its rows."""
    text = client.succeed(f"psql -Xw --csv 'postgresql://admin:admin-secret@{name}:6432/pgbouncer' -c '{command}'", timeout=30)
    return list(csv.DictReader(io.StringIO(text)))


def holders() -> list[str]:
    """The nodes that have the floating address."""
    return [name for name, node in poolers.items() if f" {floating}/" in node.succeed("ip -o addr show dev eth1", timeout=30)]


def other(name: str) -> str:
    return "pooler2" if name == "pooler1" else "pooler1"


def await_pair(active: str) -> None:
    """Both nodes know each other, and it is this one that is active."""

    def settled(_last: bool) -> bool:
        for name, state in ((active, "active"), (other(active), "backup")):
            for row in console(name, "SHOW HA"):
                if row["addresses"] == floating and (row["state"] != state or row["peer_link"] != "up"):
                    return False
        return True

    retry(settled, 60)
    t.assertEqual(holders(), [active])


def await_clients() -> None:
    client.wait_until_succeeds("ledger back", timeout=20)


def programs(name: str) -> set[str]:
    """What the processes of a node run."""
    mains = [poolers[name].get_unit_property(unit, "MainPID") for unit in (UNIT, HELPER)]
    return set(poolers[name].succeed(f"readlink {' '.join(f'/proc/{main}/exe' for main in mains)}").split())


def install(name: str, release: str) -> None:
    """Another program in another place, which is all that a new package is."""
    node = poolers[name]
    program = f"/var/lib/releases/{release}/pgtandem"
    lines = {UNIT: f"ExecStart={program} {FILE}", HELPER: f"ExecStart={program} address-helper {FILE}"}
    node.succeed(f"install -D -m 755 $(readlink -f $(type -p pgtandem)) {program}")
    for unit, line in lines.items():
        # As packages would, and NixOS on a machine that is switched: under /run, which is the same on both.
        folder = f"/run/systemd/system/{unit}.d"
        node.succeed(f"mkdir -p {folder}", f"printf '[Service]\\nExecStart=\\n{line}\\n' > {folder}/release.conf")
    node.succeed("systemctl daemon-reload")


def runs_only(name: str, release: str) -> None:
    """It runs nothing else, and did not have to be started twice."""
    t.assertEqual(programs(name), {f"/var/lib/releases/{release}/pgtandem"})
    for unit in (UNIT, HELPER):
        t.assertEqual(poolers[name].get_unit_property(unit, "NRestarts"), "0", unit)


def upgrade_standby(name: str, release: str) -> None:
    """As a switch to another system does it: both units at once."""
    install(name, release)
    poolers[name].succeed(f"systemctl restart {HELPER} {UNIT}", timeout=60)
    runs_only(name, release)


def upgrade_in_place(name: str, release: str) -> None:
    """A node that may be active: one unit after the other, so that somebody holds the address."""
    install(name, release)
    for unit in (HELPER, UNIT):
        poolers[name].succeed(f"systemctl restart {unit}", timeout=60)
        await_pair(active)
    runs_only(name, release)


def connections(name: str) -> set[str]:
    """The clients' connections to a node, by what is not the same for two: the port of the client's own end."""
    return {row["port"] for row in console(name, "SHOW CLIENTS") if row["database"] == "app"}


start_all()
with subtest("the pair comes up, clients are at work"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)
    retry(lambda _: len(holders()) == 1, 30)
    active = holders()[0]
    standby = other(active)
    await_pair(active)
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run {through} --clients {CLIENTS}")
    await_clients()

with subtest("the standby is upgraded: nothing happens"):
    connected = connections(active)
    t.assertEqual(len(connected), CLIENTS)
    client.succeed("ledger mark standby")
    upgrade_standby(standby, "new")
    await_pair(active)
    await_clients()
    t.assertEqual(connections(active), connected)

with subtest("the upgraded node takes over from the old one"):
    client.succeed("ledger mark switchover")
    console(active, "SWITCHOVER")
    await_pair(standby)
    await_clients()
    t.assertEqual(len(connections(standby)), CLIENTS)
    t.assertEqual(connections(active), set())

with subtest("the other node is upgraded, and takes the address back"):
    client.succeed("ledger mark other")
    upgrade_standby(active, "new")
    await_pair(standby)
    await_clients()
    client.succeed("ledger mark switchover-back")
    console(standby, "SWITCHOVER")
    await_pair(active)
    await_clients()
    t.assertEqual(len(connections(active)), CLIENTS)

with subtest("in place: both nodes, the active one too, without a switch"):
    connected = connections(active)
    client.succeed("ledger mark in-place")
    for name in (active, standby):
        upgrade_in_place(name, "newer")
    await_pair(active)
    await_clients()
    # Handed over, not connected anew.
    t.assertEqual(connections(active), connected)

with subtest("the ledger"):
    client.succeed("ledger mark end", "systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    marks = report["marks"]
    for name, one in marks.items():
        log.info(f"  {name:16} the longest wait for an acknowledgement: {one['longest_s']:.3f} s")
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown; {report['errors']}")
    t.assertEqual(report["clients"], CLIENTS)
    t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []))
    t.assertEqual((report["unknown"], report["there"]), (0, report["committed"]), "nobody was cut off behind a COMMIT")
    # Each client was told twice, between transactions: what failed was never begun.
    t.assertLessEqual(report["failed"], 2 * CLIENTS)
    for error, count in report["errors"].items():
        t.assertIn(TOLD, error)
    t.assertLessEqual(sum(report["errors"].values()), 2 * CLIENTS)
    for name, one in marks.items():
        if name != "end":
            t.assertLessEqual(one["longest_s"], BOUND_S, name)
