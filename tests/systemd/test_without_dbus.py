"""A machine without a message bus: root's systemctl works all the same, and so must the service."""

import pytest
from harness import deployment
from harness.deployment import UNIT, Site


@pytest.fixture(scope="module")
def site(boot):
    site = Site(boot(dbus=False))
    site.install()
    return site


def test_start_reload_restart_stop(served):
    machine = served.machine
    assert machine.sh("test -e /run/dbus/system_bus_socket", check=False).code != 0
    assert served.serves()
    assert "serving" in machine.show(UNIT, "StatusText")
    served.configure(deployment.ini(default_pool_size=33))
    machine.systemctl("reload", UNIT)
    assert served.setting("default_pool_size") == "33"
    machine.systemctl("restart", UNIT)
    assert served.serves()
    machine.systemctl("stop", UNIT)
    assert machine.show(UNIT, "Result") == "success"
