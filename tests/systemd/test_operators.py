"""The operators' own sequences, by hand and with systemctl, on their own files and paths."""

import re
from pathlib import Path

import pytest
from harness import deployment
from harness.deployment import REPOSITORY, UNIT, Site
from harness.waiting import poll_until

INPUTS = REPOSITORY / "tests" / "e2e" / "inputs"
SCANNER, REVENUE = INPUTS / "enterprisescanner", INPUTS / "revenue-engine"


def commands(folder: Path) -> str:
    """What the operators wrote down."""
    return (folder / "operator-commands.sh").read_text()


def only(pattern: str, text: str) -> str:
    """The one place that matches."""
    found = re.findall(pattern, text, re.M)
    assert len(found) == 1, (pattern, found)
    return found[0]


@pytest.fixture(scope="module")
def scanner(site) -> Site:
    """The operators' machine: their files where they have them, and the program under the name they call."""
    machine = site.machine
    for name in ("pgbouncer.ini", "userlist.txt"):
        machine.copy(SCANNER / name, f"/etc/pgbouncer/{name}", 0o640, "postgres:postgres")
    machine.sh(["ln", "-s", deployment.PROGRAM, "/usr/local/bin/pgbouncer"])
    password = only(r'^"admin" "(.*)"$', (SCANNER / "userlist.txt").read_text())
    site.sql(f"CREATE ROLE admin LOGIN PASSWORD '{password}'", "CREATE DATABASE enterprisescanner OWNER admin")
    return site


@pytest.fixture
def by_hand(scanner):
    """Nothing runs before and after."""
    machine = scanner.machine
    machine.systemctl("stop", UNIT)
    yield scanner
    machine.sh("pkill -INT pgbouncer", check=False)
    await_end(machine)


def await_end(machine) -> None:
    """Wait until no program of that name runs."""
    poll_until(lambda: machine.sh("pgrep pgbouncer", check=False).code == 1, "pgbouncer ends")


def test_the_sequence_by_hand(by_hand):
    """Edit, folder, start, query, SHOW, ps, restart, reload: each line as it stands in the notes."""
    machine, text = by_hand.machine, commands(SCANNER)
    machine.sh(["rm", "-rf", "/var/run/postgresql/pgbouncer.pid"])
    machine.sh(only(r"^sed -i .*$", text))
    machine.sh(only(r"^mkdir -p .*$", text))
    machine.sh(only(r"^chown postgres.*$", text))
    start = re.findall(r"^su - postgres -c .*$", text, re.M)[0]
    machine.sh(start, timeout=20)
    first = pid_of(machine)
    status = by_hand.process_status(first)
    assert "0" not in status["Uid"].split() + status["Gid"].split()
    assert int(status["CapEff"], 16) == 0 and status["NoNewPrivs"] == "1"
    query = only(r"^\$ (PGPASSWORD=\S+ psql .*)$", text)
    assert "PostgreSQL 17" in machine.sh(query).stdout
    shown = machine.sh(only(r"^(PGPASSWORD=\S+ psql .* -d pgbouncer .*)$", text)).stdout
    assert "cl_active" in shown and "total_xact_count" in shown
    assert "/etc/pgbouncer/pgbouncer.ini" in machine.sh(only(r"^ps aux .*$", text)).stdout
    # Reload.
    machine.sh('echo "default_pool_size = 26" >> /etc/pgbouncer/pgbouncer.ini')
    machine.sh(only(r"^killall -HUP pgbouncer$", text))
    poll_until(lambda: setting(machine, "default_pool_size") == "26", "the reload")
    # Restart.
    machine.sh(only(r"^pkill pgbouncer$", text))
    await_end(machine)
    machine.sh(start, timeout=20)
    assert pid_of(machine) != first
    assert "PostgreSQL 17" in machine.sh(query).stdout


def pid_of(machine) -> int:
    """What the pidfile says; it must be the process that runs."""
    pid = int(machine.path("/run/postgresql/pgbouncer.pid").read_text())
    assert machine.sh("pgrep pgbouncer").stdout.split() == [str(pid)]
    return pid


def setting(machine, name: str) -> str:
    """A setting in force, by the operators' own login."""
    password = only(r'^"admin" "(.*)"$', (SCANNER / "userlist.txt").read_text())
    text = machine.sh(f"PGPASSWORD='{password}' psql -XAt -h 127.0.0.1 -p 6432 -U admin -d pgbouncer -c 'SHOW CONFIG'")
    return only(rf"^{name}\|([^|]*)\|", text.stdout)


def test_started_as_root_without_a_user(by_hand):
    """It refuses, and says the ways out."""
    done = by_hand.machine.sh("pgbouncer -d /etc/pgbouncer/pgbouncer.ini", check=False, timeout=20)
    assert done.code == 1
    assert "should not run as root" in done.output and "User=postgres" in done.output and "su - postgres" in done.output


def test_daemon_without_pidfile(by_hand):
    """The operators' first trouble: -d, and no pidfile in the file."""
    machine = by_hand.machine
    machine.sh("sed '/^pidfile/d' /etc/pgbouncer/pgbouncer.ini > /tmp/none.ini; chown postgres /tmp/none.ini")
    done = machine.sh('su - postgres -c "pgbouncer -d /tmp/none.ini"', check=False, timeout=20)
    assert done.code == 1 and "daemon needs pidfile configured" in done.output


@pytest.fixture
def as_service(scanner):
    """The same file under the unit, by a drop-in of two lines, and under the name they reload."""
    machine = scanner.machine
    machine.write(f"/etc/systemd/system/{UNIT}.d/operators.conf",
                  "[Service]\nEnvironment=PGTANDEM_CONFIG=/etc/pgbouncer/pgbouncer.ini\n"
                  "[Install]\nAlias=pgbouncer.service\n")
    machine.systemctl("daemon-reload")
    machine.systemctl("enable", UNIT)
    machine.systemctl("start", "pgbouncer")
    yield scanner
    machine.systemctl("stop", UNIT)
    machine.systemctl("disable", UNIT)
    machine.sh(["rm", f"/etc/systemd/system/{UNIT}.d/operators.conf"])
    machine.systemctl("daemon-reload")


def test_systemctl_reload_after_appending_lines(as_service):
    """`echo ... >> pgbouncer.ini` and `systemctl reload pgbouncer`, as in the other operators' notes."""
    machine, text = as_service.machine, commands(REVENUE)
    query = only(r"^\$ (PGPASSWORD=\S+ psql .*)$", commands(SCANNER))
    assert "PostgreSQL 17" in machine.sh(query).stdout
    pid = as_service.main_pid()
    machine.sh(only(r'^(echo "default_pool_size = 30" >> .*\nsystemctl reload pgbouncer)$', text))
    assert setting(machine, "default_pool_size") == "30"
    machine.sh(only(r'^(echo "server_connect_timeout = 30" >> .*\necho .*\nsystemctl reload pgbouncer)$', text))
    assert setting(machine, "server_connect_timeout") == "30" and setting(machine, "client_login_timeout") == "120"
    # One that only a restart can change is no failure.
    machine.sh(only(r'^(echo "pkt_buf = 8192" >> .*)$', text) + "\nsystemctl reload pgbouncer")
    assert setting(machine, "pkt_buf") == "4096"
    # A slip of the pen is told by systemctl itself, and harms nobody.
    machine.sh('echo "default_pool_size = thirty" >> /etc/pgbouncer/pgbouncer.ini')
    assert machine.systemctl("reload", "pgbouncer", check=False).code != 0
    assert setting(machine, "default_pool_size") == "30"
    assert "PostgreSQL 17" in machine.sh(query).stdout
    machine.sh("sed -i '$d' /etc/pgbouncer/pgbouncer.ini")
    machine.systemctl("reload", "pgbouncer")
    assert as_service.main_pid() == pid and as_service.restarts() == 0
