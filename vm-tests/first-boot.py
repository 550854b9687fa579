# hosts: client pooler1 pooler2 primary
# A pair comes up by itself, without a privilege, counts what it serves, and comes up again after both nodes were off.
import csv
import io

UNIT = "pgtandem.service"
QUERIES = 50
poolers = {"pooler1": pooler1, "pooler2": pooler2}


def psql(address: str, database: str, *statements: str) -> str:
    """Statements in one session of psql; what it prints."""
    user = "admin:admin-secret" if database == "pgbouncer" else "app:secret"
    host = f"[{address}]" if ":" in address else address
    words = " ".join(f'-c "{statement}"' for statement in statements)
    return client.succeed(f"psql -XwAtq --csv -v ON_ERROR_STOP=1 'postgresql://{user}@{host}:6432/{database}' {words}", timeout=60)


def total(name: str, column: str) -> int:
    """A figure of SHOW TOTALS, at the node's own address."""
    rows = dict(line.split(",") for line in psql(name, "pgbouncer", "SHOW TOTALS").splitlines())
    return int(rows[column])


def holder(address: str) -> str:
    """The one node that has a floating address."""
    found = [name for name, node in poolers.items() if f" {address}/" in node.execute("ip -o addr show dev eth1")[1]]
    t.assertEqual(len(found), 1, f"who has {address}: {found}")
    return found[0]


def state(name: str) -> list[dict[str, str]]:
    text = client.succeed(f"psql -Xw --csv 'postgresql://admin:admin-secret@{name}:6432/pgbouncer' -c 'SHOW HA'", timeout=30)
    return list(csv.DictReader(io.StringIO(text)))


def await_pair() -> None:
    """Both nodes serve, and of each family one is active."""
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)
        node.wait_for_open_port(6432, timeout=30)

    def settled(_last: bool) -> bool:
        rows = state("pooler1") + state("pooler2")
        families = sorted((row["family"], row["state"]) for row in rows)
        return all(row["peer_link"] == "up" for row in rows) and [state for _, state in families] == ["active", "backup"] * 2

    retry(settled, 60)
    for address in (floating, floating6):
        holder(address)


start_all()
with subtest("everything is up by itself"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    client.wait_for_unit("multi-user.target", timeout=120)
    await_pair()
    # At the first start the servers may not have been there yet, which is worth a warning.
    up_since = {name: node.succeed("date +%s").strip() for name, node in poolers.items()}

with subtest("no process has a privilege that it does not need"):
    for node in poolers.values():
        for unit, capabilities in ((UNIT, 0), ("pgtandem-helper.service", 1 << 12 | 1 << 13)):
            main = node.get_unit_property(unit, "MainPID")
            status = dict(
                line.split(":", 1) for line in node.succeed(f"cat /proc/{main}/status").splitlines() if ":" in line
            )
            t.assertNotIn("0", (status["Uid"] + status["Gid"] + status["Groups"]).split(), unit)
            t.assertEqual(int(status["CapEff"], 16), capabilities, unit)
            t.assertEqual(int(status["CapBnd"], 16) & ~capabilities, 0, unit)
            t.assertEqual(status["NoNewPrivs"].strip(), "1", unit)

with subtest("every query is counted, at every address"):
    psql(floating, "app", "CREATE TABLE visits (address text)")
    for address in (floating, floating6, "pooler1", "pooler2"):
        name = address if address in poolers else holder(address)
        before = total(name, "total_xact_count")
        psql(address, "app", *[f"INSERT INTO visits VALUES ('{address}')"] * QUERIES)
        t.assertGreaterEqual(total(name, "total_xact_count") - before, QUERIES, f"transactions of {name} by {address}")
    counted = client.succeed(
        "psql -XwAt 'postgresql://app:secret@primary/app' -c 'SELECT address, count(*) FROM visits GROUP BY 1 ORDER BY 1'"
    )
    t.assertEqual(
        sorted(counted.splitlines()), sorted(f"{address}|{QUERIES}" for address in (floating, floating6, "pooler1", "pooler2"))
    )

with subtest("nothing was worth a warning, nothing was started twice"):
    for name, node in poolers.items():
        journal = f"journalctl -q -b -o cat -u {UNIT} -u pgtandem-helper.service"
        t.assertEqual(node.succeed(f"{journal} -p err"), "")
        t.assertEqual(node.succeed(f"{journal} -p warning --since=@$(({up_since[name]} + 1))"), "")
        t.assertEqual(node.get_unit_property(UNIT, "NRestarts"), "0")
        t.assertEqual(node.succeed("systemctl list-units --failed --plain --no-legend"), "")

with subtest("both nodes off and on again: the same, without a hand"):
    for node in poolers.values():
        node.shutdown()
    client.fail(f"nc -z -w 2 {floating} 6432")
    for node in poolers.values():
        node.start()
    await_pair()
    t.assertEqual(psql(floating, "app", "SELECT count(*) FROM visits").strip(), str(4 * QUERIES))
