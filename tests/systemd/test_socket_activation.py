"""pgtandem.socket: systemd opens the port, the first client starts the service."""

import time

import psycopg
import pytest
from harness import deployment
from harness.deployment import SOCKET, UNIT
from harness.waiting import poll_until


@pytest.fixture
def listening(site):
    """The socket is enabled, the service not started."""
    machine = site.machine
    machine.systemctl("stop", SOCKET, UNIT)
    machine.systemctl("reset-failed", SOCKET, UNIT, check=False)
    site.configure(deployment.ini())
    machine.systemctl("enable", "--now", SOCKET)
    yield site
    machine.systemctl("disable", "--now", SOCKET)
    machine.systemctl("stop", UNIT)


def test_the_first_client_starts_the_service(listening):
    machine = listening.machine
    assert machine.show(UNIT, "ActiveState") == "inactive" and machine.show(SOCKET, "ActiveState") == "active"
    before = time.monotonic()
    with listening.connect() as client:
        assert client.execute("select 1").fetchone() == (1,)
        print(f"the first client was served after {time.monotonic() - before:.2f} s")
        assert machine.show(UNIT, "ActiveState") == "active"
        # The address of the socket unit is wider than listen_addr.
        with psycopg.connect(host="::1", port=6432, dbname="app", user="app", password="secret") as other:
            assert other.execute("select 1").fetchone() == (1,)
        # The Unix socket of the settings is there too.
        assert machine.path("/run/pgtandem/.s.PGSQL.6432").exists()
    assert listening.restarts() == 0


def test_nobody_is_refused_while_it_restarts(listening):
    """The port stays open: whoever comes meanwhile waits in the queue of the socket."""
    assert listening.serves()
    machine = listening.machine
    restart = machine.spawn(["systemctl", "restart", UNIT])
    served = 0
    while restart.poll() is None:
        assert listening.serves()
        served += 1
    assert restart.returncode == 0
    print(f"{served} new clients were served during the restart")
    assert listening.serves()


def test_a_client_starts_it_again_after_a_stop(listening):
    assert listening.serves()
    machine = listening.machine
    # systemctl remarks that the socket can start it again.
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "ActiveState") == "inactive"
    assert listening.serves()
    poll_until(lambda: machine.show(UNIT, "ActiveState") == "active", "the service is back")
