# hosts: client pooler1 primary
# Under load: changed settings take effect by a reload, a broken file changes nothing, another port takes a new process, and
# through all of it no client loses its connection, its session or a transaction.
import csv
import io
import json

CLIENTS = 20
SESSIONS = 5
UNIT = "pgtandem.service"
FILE = "/etc/pgtandem/pgtandem.toml"
OLD_PORT, NEW_PORT = 6432, 6543
# No client waits longer than that for its next acknowledged transaction.
RELOAD_S, HANDOVER_S = 0.5, 2
direct = "postgresql://app:secret@primary/app"


def console(port: int, command: str) -> list[dict[str, str]]:
    """A command for the console, asked on the pooler itself: the firewall knows nothing of the new port."""
    dsn = f"postgresql://admin:admin-secret@localhost:{port}/pgbouncer"
    text = pooler1.succeed(f"psql -Xw --csv '{dsn}' -c '{command}'", timeout=30)
    return list(csv.DictReader(io.StringIO(text)))


def setting(port: int, name: str) -> str:
    (value,) = (row["value"] for row in console(port, "SHOW CONFIG") if row["key"] == name)
    return value


def edit(expression: str) -> None:
    """Change the settings file. It may be a link to one that nobody can write: a new one takes its place."""
    pooler1.succeed(f"sed -i '{expression}' {FILE}", f"test -s {FILE}")


def pid() -> str:
    return pooler1.get_unit_property(UNIT, "MainPID")


def connections(port: int) -> set[str]:
    """The clients' connections, by what cannot be the same for two of them: the ports of the client's own end."""
    rows = console(port, "SHOW CLIENTS")
    return {f"{row['addr']}:{row['port']}" for row in rows if row["database"] in ("app", "pinned")}


def backends() -> dict[str, set[str]]:
    """PostgreSQL's processes for the pooler, by the kind of client they are for."""
    query = (
        "SELECT CASE WHEN application_name LIKE 'session%' THEN 'sessions' ELSE 'pool' END, pid FROM pg_stat_activity "
        "WHERE usename = 'app' AND pid <> pg_backend_pid()"
    )
    found: dict[str, set[str]] = {"sessions": set(), "pool": set()}
    for line in client.succeed(f'psql -XwAtq {direct} -c "{query}"').splitlines():
        kind, _, number = line.partition("|")
        found[kind].add(number)
    return found


def sessions() -> dict[str, set[str]]:
    """What each session in session pooling has said of itself since the last time: its backend, and its own table."""
    found = {}
    for number in range(SESSIONS):
        name = f"session{number}"
        client.succeed(f": > /var/tmp/{name}")
        said = client.wait_until_succeeds(f"[ $(wc -l < /var/tmp/{name}) -gt 3 ] && cat /var/tmp/{name}", timeout=30)
        # The last one may be half written.
        found[name] = {line for line in said.splitlines()[:-1] if line}
    return found


def await_clients(what: str) -> None:
    client.succeed(f"ledger mark {what}")
    client.wait_until_succeeds("ledger back --acks 10", timeout=20)


start_all()
with subtest("clients are at work, by transactions and in sessions"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    pooler1.wait_for_unit(UNIT, timeout=120)
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run postgresql://app:secret@pooler1:{OLD_PORT}/app --clients {CLIENTS}")
    for number in range(SESSIONS):
        name = f"session{number}"
        client.succeed(
            f"printf '%s\\n' 'CREATE TEMPORARY TABLE own AS SELECT {number} AS n;' "
            f"'SELECT pg_backend_pid(), n FROM own \\watch 0.1' > /var/tmp/{name}.sql",
            f"systemd-run --unit={name} --property=StandardOutput=append:/var/tmp/{name} psql -XwAtq -v ON_ERROR_STOP=1 "
            f"-f /var/tmp/{name}.sql 'postgresql://app:secret@pooler1:{OLD_PORT}/pinned?application_name={name}'",
        )
    await_clients("begin")
    connected, own = connections(OLD_PORT), sessions()
    t.assertEqual(len(connected), CLIENTS + SESSIONS)
    for number in range(SESSIONS):
        (said,) = own[f"session{number}"]
        t.assertEqual(said.partition("|")[2], str(number))
    t.assertEqual(len(set().union(*own.values())), SESSIONS)
    t.assertEqual(backends()["sessions"], {said.partition("|")[0] for (said,) in own.values()})


def check_nothing_dropped(port: int) -> None:
    """The same connections, the same sessions with what is theirs."""
    t.assertEqual(connections(port), connected)
    t.assertEqual(sessions(), own)


with subtest("a reload: settings change, nobody is dropped"):
    process = pid()
    await_clients("reload")
    edit("s/^default_pool_size = .*/default_pool_size = 3/; s/^max_client_conn = .*/max_client_conn = 900/")
    pooler1.succeed(f"systemctl reload {UNIT}", timeout=60)
    t.assertEqual((setting(OLD_PORT, "default_pool_size"), setting(OLD_PORT, "max_client_conn")), ("3", "900"))
    (size,) = (row["pool_size"] for row in console(OLD_PORT, "SHOW DATABASES") if row["name"] == "app")
    t.assertEqual(size, "3")
    await_clients("reloaded")
    t.assertEqual(pid(), process)
    check_nothing_dropped(OLD_PORT)

with subtest("a broken file: the reload fails and says why, nothing changes"):
    before = pooler1.succeed("date +%s").strip()
    edit("s/^default_pool_size = .*/default_pool_size = 7/; s/^pool_mode = \"transaction\"/pool_mode = \"transactions\"/")
    pooler1.fail(f"systemctl reload {UNIT}", timeout=60)
    t.assertIn("transactions", pooler1.succeed(f"journalctl -q -o cat -u {UNIT} --since=@{before}"))
    t.assertEqual((setting(OLD_PORT, "default_pool_size"), setting(OLD_PORT, "pool_mode")), ("3", "transaction"))
    await_clients("broken")
    t.assertEqual(pid(), process)
    pooler1.require_unit_state(UNIT, "active")
    check_nothing_dropped(OLD_PORT)

with subtest("the file is mended: a reload takes all of it"):
    edit("s/^pool_mode = \"transactions\"/pool_mode = \"transaction\"/")
    pooler1.succeed(f"systemctl reload {UNIT}", timeout=60)
    t.assertEqual(setting(OLD_PORT, "default_pool_size"), "7")
    t.assertEqual(pid(), process)

with subtest("another port: a reload keeps the old one, and says that it takes a restart"):
    before = pooler1.succeed("date +%s").strip()
    edit(f"s/^listen_port = .*/listen_port = {NEW_PORT}/")
    pooler1.succeed(f"systemctl reload {UNIT}", timeout=60)
    pooler1.succeed(f"nc -z localhost {OLD_PORT}")
    pooler1.fail(f"nc -z localhost {NEW_PORT}")
    t.assertIn("listen_port", pooler1.succeed(f"journalctl -q -o cat -u {UNIT} --since=@{before}"))

with subtest("a restart hands everybody over to the new process, which listens at the new port"):
    await_clients("restart")
    connected, pool = connections(OLD_PORT), backends()["pool"]
    pooler1.succeed(f"systemctl restart {UNIT}", timeout=60)
    t.assertNotEqual(pid(), process)
    pooler1.wait_for_open_port(NEW_PORT, timeout=10)
    pooler1.fail(f"nc -z localhost {OLD_PORT}")
    t.assertEqual(setting(NEW_PORT, "listen_port"), str(NEW_PORT))
    await_clients("restarted")
    check_nothing_dropped(NEW_PORT)
    # The servers went along: none was opened anew for a client that was there before.
    t.assertGreaterEqual(len(backends()["pool"] & pool), 1, "the pool's servers are others")
    t.assertEqual(pooler1.get_unit_property(UNIT, "NRestarts"), "0")

with subtest("and back to the old port"):
    process = pid()
    edit(f"s/^listen_port = .*/listen_port = {OLD_PORT}/")
    await_clients("restart-back")
    pooler1.succeed(f"systemctl restart {UNIT}", timeout=60)
    t.assertNotEqual(pid(), process)
    pooler1.wait_for_open_port(OLD_PORT, timeout=10)
    pooler1.fail(f"nc -z localhost {NEW_PORT}")
    await_clients("back")
    check_nothing_dropped(OLD_PORT)

with subtest("the ledger: nobody has noticed more than a delay"):
    client.succeed("ledger mark end", "systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    marks = report["marks"]
    for name, one in marks.items():
        log.info(f"  {name:12} the longest wait for an acknowledgement: {one['longest_s']:.3f} s")
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown")
    t.assertEqual(report["errors"], {}, "connections were lost")
    t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []))
    t.assertEqual((report["clients"], report["failed"], report["unknown"]), (CLIENTS, 0, 0))
    t.assertEqual(report["there"], report["committed"])
    for name, one in marks.items():
        if name != "end":
            t.assertLessEqual(one["longest_s"], HANDOVER_S if name in ("restart", "restart-back") else RELOAD_S, name)
