# hosts: client pooler1 pooler2 primary
# Under load, over reload and restart, no thread is root or may do more than it must, and no secret is to be seen anywhere.
import json
import re

CLIENTS = 10
UNIT, HELPER = "pgtandem.service", "pgtandem-helper.service"
PIDFILE = "/run/pgtandem/pgtandem.pid"
NET_ADMIN, NET_RAW = 1 << 12, 1 << 13
# What each unit's threads may do, and how many threads it has at least.
units = {UNIT: (0, 2), HELPER: (NET_ADMIN | NET_RAW, 1)}
# The passwords as they stand between other signs: the names of files and settings have such a word in them too.
SECRETS = (
    "a secret of the scenarios",
    "admin-secret",
    r"""(^|[]["'`,;:= (])secret([]["'`,;:= )]|$)""",
    # What a client got wrong is most likely another of its passwords.
    "another-password-of-mine",
    "SCRAM-SHA-256[$]",
)
poolers = {"pooler1": pooler1, "pooler2": pooler2}
direct = "postgresql://app:secret@primary/app"


def ledger(name: str, words: str) -> str:
    """A command for the ledger of a node's clients."""
    return f"ledger --book /var/tmp/{name} --table of_{name} {words}"


def psql(host: str, user: str, database: str, *statements: str) -> str:
    """A command line of psql through a node, or to its console."""
    words = " ".join(f'-c "{statement}"' for statement in statements)
    return f"psql -XwAtq -v ON_ERROR_STOP=1 'postgresql://{user}@{host}:6432/{database}' {words}"


def await_clients() -> None:
    """The clients of both nodes are at work."""
    for name in poolers:
        client.succeed(ledger(name, "mark now"))
        client.wait_until_succeeds(ledger(name, "back"), timeout=20)


def of_cgroup(name: str, unit: str, file: str) -> list[str]:
    """All processes (`cgroup.procs`) or threads (`cgroup.threads`) of a unit, by their numbers."""
    group = poolers[name].get_unit_property(unit, "ControlGroup")
    return poolers[name].succeed(f"cat /sys/fs/cgroup{group}/{file}").split()


def check_threads(name: str) -> None:
    """Every thread of both units is the user, and has exactly what it needs."""
    node = poolers[name]
    user, group = node.succeed("id -u pgtandem; id -g pgtandem").split()
    t.assertNotIn("0", (user, group))
    for unit, (capabilities, least) in units.items():
        threads = of_cgroup(name, unit, "cgroup.threads")
        t.assertGreaterEqual(len(threads), least, unit)
        t.assertIn(node.get_unit_property(unit, "MainPID"), threads)
        # One that has ended meanwhile has nothing left to give up.
        text = node.succeed(f"for thread in {' '.join(threads)}; do cat /proc/$thread/status || true; echo end; done 2> /dev/null")
        seen = 0
        for status in text.split("end\n")[:-1]:
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if not fields or fields["State"].split()[0] in "ZX":
                continue
            who = f"{name}, {unit}, thread {fields['Name'].strip()}"
            t.assertEqual(fields["Uid"].split(), [user] * 4, who)
            t.assertEqual(fields["Gid"].split(), [group] * 4, who)
            t.assertEqual(set(fields["Groups"].split()) - {group}, set(), who)
            for held in ("CapEff", "CapPrm"):
                t.assertEqual(int(fields[held], 16), capabilities, f"{who}: {held}")
            # Nothing beyond that can be had, nor passed on.
            for limit in ("CapBnd", "CapInh", "CapAmb"):
                t.assertEqual(int(fields[limit], 16) & ~capabilities, 0, f"{who}: {limit}")
            t.assertEqual((fields["NoNewPrivs"].strip(), fields["Seccomp"].strip()), ("1", "2"), who)
            seen += 1
        t.assertGreaterEqual(seen, least, unit)


def check_processes(name: str) -> None:
    """One process for each unit, none of which would leave its memory behind; the pidfile has the pooler's number."""
    node = poolers[name]
    for unit in units:
        main = node.get_unit_property(unit, "MainPID")
        t.assertEqual(of_cgroup(name, unit, "cgroup.procs"), [main], unit)
        limits = node.succeed(f"cat /proc/{main}/limits")
        t.assertRegex(limits, re.compile(r"^Max core file size\s+0\s+0\s", re.M), unit)
        t.assertEqual(node.get_unit_property(unit, "LimitCORE"), "0", unit)
    t.assertEqual(node.succeed(f"cat {PIDFILE}").strip(), node.get_unit_property(UNIT, "MainPID"))


def check_secrets(name: str) -> None:
    """No secret in the arguments and the environment of a process, in the journal, or in a file that others may read."""
    node = poolers[name]
    # That the search would find one: the files that it must not look into.
    pattern = " ".join(f"-e '{secret}'" for secret in (one.replace("'", "'\\''") for one in SECRETS))
    credentials = node.succeed(f"cat /run/credentials/{UNIT}/auth_file /run/credentials/{UNIT}/pair_secret_file")
    found = node.succeed(f"cat /run/credentials/{UNIT}/* | grep -E -c {pattern}")
    t.assertEqual(int(found), len(credentials.splitlines()))

    for unit in units:
        for process in of_cgroup(name, unit, "cgroup.procs"):
            t.assertIn("pgtandem", node.succeed(f"tr '\\0' '\\n' < /proc/{process}/cmdline"))
            node.fail(f"cat /proc/{process}/cmdline /proc/{process}/environ | tr '\\0' '\\n' | grep -E {pattern}")
    journal = "journalctl -q --all --output=export"
    said = node.succeed(f"{journal} -u {UNIT} | grep -a ^MESSAGE")
    for reason in ("wrong password", "no such user", "no such database", "login attempt: db=pgbouncer user=admin"):
        t.assertIn(reason, said)
    t.assertEqual(node.execute(f"{journal} | grep -a -E {pattern}")[1], "")
    for place in ("/run/pgtandem", "/run/pgtandem-helper", "/var/log/pgtandem", "/etc/pgtandem"):
        readable = f"find {place}/ -type f -perm /044 -exec grep -E -l {pattern} {{}} +"
        t.assertEqual(node.execute(readable)[1], "", place)


def check(what: str) -> None:
    for name in poolers:
        with subtest(f"{name}, {what}"):
            check_threads(name)
            check_processes(name)
            check_secrets(name)


start_all()
with subtest("clients are at work on both nodes"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    for name, node in poolers.items():
        for unit in units:
            node.wait_for_unit(unit, timeout=120)
        client.succeed(ledger(name, f"init {direct}"))
        run = ledger(name, f"run postgresql://app:secret@{name}:6432/app --clients {CLIENTS}")
        client.succeed(f"systemd-run --unit=of-{name} {run}")
    await_clients()

with subtest("logins fail in every way, and the console shows everything"):
    for name in poolers:
        for user, database in (
            ("app:another-password-of-mine", "app"),
            ("nobody:another-password-of-mine", "app"),
            ("app:admin-secret", "pgbouncer"),
            ("app:secret", "nowhere"),
        ):
            client.fail(psql(name, user, database, "SELECT 1"))
        shown = client.succeed(
            psql(name, "admin:admin-secret", "pgbouncer", "SHOW CONFIG", "SHOW DATABASES", "SHOW USERS", "SHOW HA", "SHOW HA LINK")
        )
        t.assertIn("/run/credentials/", shown)
        for secret in SECRETS:
            t.assertNotRegex(shown, re.compile(secret, re.M))

check("while it serves")

with subtest("root is refused, and nothing is changed by it"):
    for name, node in poolers.items():
        main = node.get_unit_property(UNIT, "MainPID")
        for words in ("", "-d", "-R -d", "-u root", "-u 0"):
            said = node.fail(f"timeout 20 pgtandem {words} /etc/pgtandem/pgtandem.toml 2>&1")
            t.assertIn("should not run as root", said, words)
        t.assertEqual(node.get_unit_property(UNIT, "MainPID"), main)
        t.assertEqual(node.succeed(f"cat {PIDFILE}").strip(), main)

with subtest("both nodes reload, then restart"):
    for node in poolers.values():
        before = node.get_unit_property(UNIT, "MainPID")
        node.succeed(f"systemctl reload {UNIT}", timeout=60)
        t.assertEqual(node.get_unit_property(UNIT, "MainPID"), before)
        node.succeed(f"systemctl restart {UNIT}", timeout=60)
        t.assertNotEqual(node.get_unit_property(UNIT, "MainPID"), before)
        node.succeed(f"systemctl restart {HELPER}", timeout=60)
    await_clients()

check("after a restart")

with subtest("the ledgers: nobody has noticed"):
    for name in poolers:
        client.succeed(f"systemctl stop of-{name}")
        report = json.loads(client.succeed(ledger(name, f"report {direct}")))
        log.info(f"  {name}: {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown")
        t.assertEqual(report["errors"], {}, name)
        t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []), name)
        t.assertEqual((report["failed"], report["unknown"], report["there"]), (0, 0, report["committed"]), name)
        t.assertGreater(report["committed"], 20 * CLIENTS, name)
