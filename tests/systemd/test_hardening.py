"""What the unit forbids, and that systemd understands it as it is meant."""

import os
import re
import socket

import psycopg
import pytest
from harness.deployment import SOCKET, UNIT
from harness.waiting import poll_until

EXPOSURE_MAX = 1.5


def test_exposure(served):
    text = served.machine.sh(["systemd-analyze", "security", "--no-pager", UNIT]).stdout
    figure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", text)[1])
    print(f"systemd-analyze security {UNIT}: {figure}")
    print("\n".join(line for line in text.splitlines() if "✗" in line))
    assert figure <= EXPOSURE_MAX


@pytest.mark.parametrize("unit", [UNIT, SOCKET])
def test_systemd_has_nothing_to_remark(site, unit):
    done = site.machine.sh(["systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{unit}"], check=False)
    assert done.output == "" and done.code == 0


def test_identity(served):
    """Not root, no capability to be had, and none to be gained."""
    status = served.process_status(served.main_pid())
    print({name: status[name] for name in ("Uid", "Gid", "CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs")})
    assert "0" not in status["Uid"].split() + status["Gid"].split() + status["Groups"].split()
    assert all(int(status[name], 16) == 0 for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"))
    assert status["NoNewPrivs"] == "1"
    assert int(status["Seccomp"]) == 2


def test_no_core_and_files_enough(served):
    limits = served.machine.path(f"/proc/{served.main_pid()}/limits").read_text()
    assert re.search(r"^Max core file size\s+0\s+0\b", limits, re.M), limits
    soft, hard = re.search(r"^Max open files\s+(\d+)\s+(\d+)", limits, re.M).groups()
    # As far as the machine that the tests run on allows.
    assert soft == hard and int(soft) > 1144


def test_what_it_may_not_touch(served):
    """Seen from inside: PostgreSQL's data are out of reach, /tmp is its own, the rest is read-only."""
    machine = served.machine
    user, group = machine.sh("id -u postgres; id -g postgres").stdout.split()
    inside = ["nsenter", f"--target={served.main_pid()}", "--mount", f"--setuid={user}", f"--setgid={group}", "--"]
    assert machine.sh([*inside, "cat", "/var/lib/postgresql/17/main/PG_VERSION"], check=False).code != 0
    assert machine.sh([*inside, "touch", "/etc/pgtandem/new"], check=False).code != 0
    assert machine.sh([*inside, "touch", "/var/log/pgtandem/new"]).code == 0
    assert machine.sh([*inside, "touch", "/run/postgresql/new"]).code == 0
    machine.write("/tmp/everybodys", "")
    assert machine.sh([*inside, "cat", "/tmp/everybodys"], check=False).code != 0
    machine.sh(["rm", "/tmp/everybodys", "/var/log/pgtandem/new", "/run/postgresql/new"])


def test_the_unix_socket_is_for_everybody(served):
    """UMask=0077 concerns files; unix_socket_mode (0777) is what holds for the socket."""
    command = "PGPASSWORD=secret psql -XAt -h /run/pgtandem -p 6432 -U app -d app -c 'select 1'"
    assert served.machine.sh(command, "nobody").stdout == "1\n"


def test_journal_has_fields(served):
    """A login is to be found by database, user and client, and its words need no parsing."""
    served.configure_and_restart(log_connections=1)
    with served.connect() as client:
        client.execute("select 1")
        with socket.socket(fileno=os.dup(client.pgconn.socket)) as twin:
            port = twin.getsockname()[1]

    def with_fields() -> list[dict]:
        entries = served.machine.journal(UNIT, "PGTANDEM_DATABASE=app", "PGTANDEM_USER=app")
        return [entry for entry in entries if entry.get("PGTANDEM_PEER") == f"127.0.0.1:{port}"]

    found = poll_until(with_fields, "the login with its fields")
    print({name: value for name, value in found[0].items() if name.startswith(("PGTANDEM_", "PRIORITY", "MESSAGE"))})
    (login,) = [entry for entry in found if "login attempt" in entry["MESSAGE"]]
    assert login["PRIORITY"] == "6"
    assert login["SYSLOG_IDENTIFIER"] == "pgtandem"
    # The name that SHOW and the other lines give it.
    assert re.fullmatch("C-0x[0-9a-f]+", login["PGTANDEM_CLIENT"]) and login["PGTANDEM_CLIENT"] in login["MESSAGE"]


def test_journal_has_priorities(served):
    """`journalctl -p warning` shows the failed login, and not the others."""
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        served.connect(password="wrong")
    served.connect().close()
    text = poll_until(lambda: served.machine.sh(
        ["journalctl", "--output=cat", f"--unit={UNIT}", "--priority=warning"]).stdout, "a warning")
    assert "login attempt" not in text and "authentication failed" in text
