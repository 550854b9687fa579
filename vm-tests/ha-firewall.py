# hosts: client pooler1 pooler2 primary
# A firewall that eats adverts is named, and moves no address; with the pair link cut as well both nodes serve until it heals.
import csv
import io
import json

# From the end of the split until one node alone has the addresses.
HEAL_S = 2
# The longest that a client may wait. In a split the address may change its node while a client connects, who gives up after 2 s.
BOUND_S = 5
CLIENTS = 10
UNIT = "pgtandem.service"
# What both nodes drop in a split: adverts, and the pair link in whichever direction it was opened.
ADVERTS = ["meta l4proto 112"]
EVERYTHING = [*ADVERTS, "tcp dport 6433", "tcp sport 6433"]
through = f"postgresql://app:secret@{floating}:6432/app"
direct = "postgresql://app:secret@primary/app"
poolers = {"pooler1": pooler1, "pooler2": pooler2}
addresses = (floating, floating6)


def console(name: str, command: str) -> list[dict[str, str]]:
    """A command for a node's console, at its own address; its rows."""
    text = client.succeed(f"psql -Xw --csv 'postgresql://admin:admin-secret@{name}:6432/pgbouncer' -c '{command}'", timeout=30)
    return list(csv.DictReader(io.StringIO(text)))


def holders() -> dict[str, list[str]]:
    """The nodes that have each floating address."""
    lines = {name: node.succeed("ip -o addr show dev eth1") for name, node in poolers.items()}
    return {address: [name for name, text in lines.items() if f" {address}/" in text] for address in addresses}


def only(name: str) -> dict[str, list[str]]:
    """One node has all of them."""
    return {address: [name] for address in addresses}


def cut(name: str, what: list[str]) -> None:
    """Drop what comes in."""
    rules = " ".join(f"add rule inet cut input iifname eth1 {one} drop;" for one in what)
    chain = "add chain inet cut input { type filter hook input priority -10; };"
    poolers[name].succeed(f"nft 'add table inet cut; {chain} {rules}'")


def mend(name: str) -> None:
    poolers[name].succeed("nft delete table inet cut")


def await_pair() -> None:
    """Both nodes know each other, and each address has one of them."""

    def settled(_last: bool) -> bool:
        rows = console("pooler1", "SHOW HA") + console("pooler2", "SHOW HA")
        states = sorted((row["family"], row["state"]) for row in rows)
        known = all((row["peer_link"], row["hint"]) == ("up", "") for row in rows)
        return known and [state for _, state in states] == ["active", "backup"] * 2

    retry(settled, 60)
    t.assertEqual([len(names) for names in holders().values()], [1, 1])


def transitions(name: str) -> int:
    """How often a state has changed on a node."""
    return sum(row["to"] != row["from"] for row in console(name, "SHOW HA HISTORY") if row["router"])


def watch(acks: int) -> list[dict[str, list[str]]]:
    """Who has the addresses at any time until each client has so many transactions acknowledged."""
    seen: list[dict[str, list[str]]] = []

    def enough(_last: bool) -> bool:
        found = holders()
        if found not in seen:
            seen.append(found)
        return client.execute(f"ledger back --acks {acks}")[0] == 0

    retry(enough, 60)
    return seen


start_all()
with subtest("the pair comes up"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)
    await_pair()
    # Who was up first has an address; both families may have come to different nodes.
    active, standby = "pooler1", "pooler2"
    if holders() != only(active):
        console(standby, "SWITCHOVER")
        await_pair()
    t.assertEqual(holders(), only(active))

with subtest("clients are at work"):
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run {through} --clients {CLIENTS}")
    client.wait_until_succeeds("ledger back", timeout=20)

with subtest("the standby hears no advert: it says why, and takes nothing"):
    before = {name: transitions(name) for name in poolers}
    client.succeed("ledger mark unheard")
    cut(standby, ADVERTS)

    def named(_last: bool) -> bool:
        return all("IP protocol 112" in row["hint"] and "eth1" in row["hint"] for row in console(standby, "SHOW HA"))

    retry(named, 15)
    # Much longer than the three intervals after which silence would make it active.
    t.assertEqual(watch(80), [only(active)])
    t.assertEqual({name: transitions(name) for name in poolers}, before)
    said = poolers[standby].succeed(f"journalctl -q -b -o cat -u {UNIT} -p warning")
    t.assertIn("does a firewall drop IP protocol 112?", said)

with subtest("adverts are let in again: the hint goes"):
    mend(standby)
    retry(lambda _: all(row["hint"] == "" for name in poolers for row in console(name, "SHOW HA")), 15)
    await_pair()
    t.assertEqual(holders(), only(active))

with subtest("adverts and the link are cut: both are active, and clients are served"):
    client.succeed("ledger mark split")
    for name in poolers:
        cut(name, EVERYTHING)
    retry(lambda _: holders() == {address: list(poolers) for address in addresses}, 20)
    retry(lambda _: all(row["peer_link"] == "lost" for name in poolers for row in console(name, "SHOW HA")), 20)
    for name in poolers:
        t.assertEqual([row["state"] for row in console(name, "SHOW HA")], ["active"] * 2, name)
    client.wait_until_succeeds("ledger back --acks 20", timeout=30)

with subtest("it heals: one node has them, at once and for good"):
    client.succeed("ledger mark heal")
    for name in poolers:
        mend(name)
    retry(lambda _: all(len(names) == 1 for names in holders().values()), HEAL_S)
    await_pair()
    # The one with the higher priority.
    t.assertEqual(watch(40), [only(active)])

with subtest("the ledger"):
    client.succeed("ledger mark end", "systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    marks = report["marks"]
    for event in ("unheard", "split", "heal"):
        log.info(f"  {event:8} the longest wait for an acknowledgement: {marks[event]['longest_s']:.3f} s")
        t.assertLessEqual(marks[event]["longest_s"], BOUND_S, event)
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown; {report['errors']}")
    t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []))
    t.assertLessEqual(report["there"] - report["committed"], report["unknown"])
