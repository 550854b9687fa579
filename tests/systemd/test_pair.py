"""A node of a pair under systemd: the helper with its socket, who may do what, and an address that stays over restarts and
goes with its owner. The other node is not there."""

import re
import subprocess
import time

import psycopg
import pytest
import conftest
from harness import deployment
from harness.deployment import HELPER, HELPER_SOCKET, UNIT, Site
from harness.waiting import holds_for, poll_until

ADDRESSES = ("192.0.2.10", "2001:db8::10")
HA = """
[ha]
interface = pair0
address = 192.0.2.10, 2001:db8::10
virtual_router_id = 51
peer_address = 192.0.2.2
pair_secret_file = /etc/pgtandem/pair.secret
"""
# CAP_NET_ADMIN and CAP_NET_RAW.
CAPABILITIES = 1 << 12 | 1 << 13


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=10).stdout


@pytest.fixture(scope="module")
def node(boot) -> Site:
    """As the README tells: the secret, the section, the helper's socket enabled, then pgtandem restarted."""
    ip("link", "add", "pair0", "type", "veth", "peer", "name", "pair1")
    ip("addr", "add", "192.0.2.1/24", "dev", "pair0")
    ip("-6", "addr", "add", "2001:db8::1/64", "dev", "pair0", "nodad")
    # Its own address would answer for those of the other end.
    ip("link", "set", "pair1", "arp", "off")
    for name in ("pair0", "pair1"):
        ip("link", "set", name, "up")
    site = Site(boot(net_admin=True))
    machine = site.machine
    conftest._sites[:] = [site]
    site.install(deployment.ini(listen_addr="*"))
    machine.systemctl("start", UNIT)
    machine.sh("openssl rand -hex 32 > /etc/pgtandem/pair.secret; chown postgres /etc/pgtandem/pair.secret; "
               "chmod 600 /etc/pgtandem/pair.secret")
    machine.sh(f"cat >> {deployment.INI}", stdin=HA)
    machine.systemctl("enable", "--now", HELPER_SOCKET)
    machine.systemctl("restart", UNIT)
    yield site
    ip("link", "del", "pair0")


@pytest.fixture
def active(node) -> Site:
    """It holds both addresses."""
    node.machine.systemctl("start", UNIT)
    poll_until(lambda: held() == set(ADDRESSES), "the node holds its addresses", 20)
    return node


def held() -> set[str]:
    return {a for a in ADDRESSES if f" {a}/" in ip("-o", "addr", "show", "dev", "pair0")}


class Watch:
    """Whether an address goes or comes, as the kernel says."""

    def __enter__(self):
        self._monitor = subprocess.Popen(["ip", "-o", "monitor", "address", "dev", "pair0"], stdout=subprocess.PIPE,
                                         text=True)
        return self

    def __exit__(self, *_):
        self._monitor.terminate()
        lines = self._monitor.communicate(timeout=10)[0].splitlines()
        self.removed = [line for line in lines if line.startswith("Deleted") and any(a in line for a in ADDRESSES)]
        self.renewed = len(lines) - len(self.removed)


def client(address: str = ADDRESSES[0]) -> psycopg.Connection:
    return psycopg.connect(host=address, port=6432, dbname="app", user="app", password="secret", autocommit=True,
                           connect_timeout=10, prepare_threshold=None)


def takeovers(node: Site) -> int:
    return node.machine.messages(UNIT).count("from backup to active")


def helper_pid(node: Site) -> int:
    return int(node.machine.show(HELPER, "MainPID"))


def test_it_becomes_active_and_serves_its_addresses(active):
    for address in ADDRESSES:
        with client(address) as session:
            assert session.execute("select 1").fetchone() == (1,)
    poll_until(lambda: re.search(r"; active\b", active.machine.show(UNIT, "StatusText")), "STATUS says that it is active")
    # They would not outlive a machine without anybody to refresh them.
    for line in ip("-o", "addr", "show", "dev", "pair0").splitlines():
        if any(f" {address}/" in line for address in ADDRESSES):
            assert int(re.search(r"valid_lft (\d+)sec", line)[1]) <= 2, line
            assert "/32" in line or "/128" in line and "deprecated" in line, line


def test_who_may_do_what(active):
    helper, pooler = (active.process_status(pid) for pid in (helper_pid(active), active.main_pid()))
    for status in (helper, pooler):
        assert "0" not in status["Uid"].split() + status["Gid"].split() + status["Groups"].split()
        assert status["NoNewPrivs"] == "1" and int(status["Seccomp"]) == 2
    sets = ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")
    assert all(int(pooler[name], 16) == 0 for name in sets)
    print({name: helper[name] for name in sets})
    assert all(int(helper[name], 16) & ~CAPABILITIES == 0 for name in sets)
    assert int(helper["CapEff"], 16) == CAPABILITIES
    # It listens to nobody but the pooler.
    sockets = active.machine.sh(f"ss -H -ltnup | grep 'pid={helper_pid(active)},' || true").stdout
    assert sockets == ""
    assert active.machine.sh(["stat", "-c", "%U %a", "/run/pgtandem-helper/socket"]).stdout == "postgres 600\n"


@pytest.mark.parametrize("unit", [HELPER, HELPER_SOCKET])
def test_systemd_has_nothing_to_remark(node, unit):
    done = node.machine.sh(["systemd-analyze", "verify", "--man=no", f"/etc/systemd/system/{unit}"], check=False)
    assert done.output == "" and done.code == 0


def test_exposure(active):
    for unit, most in ((UNIT, 1.5), (HELPER, 2.1)):
        text = active.machine.sh(["systemd-analyze", "security", "--no-pager", unit]).stdout
        figure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", text)[1])
        print(f"systemd-analyze security {unit}: {figure}")
        print("\n".join(line for line in text.splitlines() if "✗" in line))
        assert figure <= most


def test_a_restart_keeps_address_and_clients(active):
    pid = active.main_pid()
    with client() as session, Watch() as watch:
        session.execute("create temp table if not exists kept (n int)")
        active.machine.systemctl("restart", UNIT)
        assert session.execute("select 1").fetchone() == (1,)
        assert held() == set(ADDRESSES)
    assert active.main_pid() != pid
    assert watch.removed == [] and watch.renewed > 0
    poll_until(lambda: re.search(r"; active\b", active.machine.show(UNIT, "StatusText")), "it is active again")


def test_a_restart_of_the_helper_keeps_the_address(active):
    pid = helper_pid(active)
    with client() as session, Watch() as watch:
        active.machine.systemctl("restart", HELPER)
        poll_until(lambda: helper_pid(active) not in (0, pid), "another helper")
        # Longer than an address lives without one.
        holds_for(lambda: held() == set(ADDRESSES), "the addresses are there", 4)
        assert session.execute("select 1").fetchone() == (1,)
    print(watch.removed)


def test_a_restart_of_both_at_once_keeps_address_and_clients(active):
    pooler, helper = active.main_pid(), helper_pid(active)
    before = takeovers(active)
    with client() as session, Watch() as watch:
        active.machine.systemctl("restart", UNIT, HELPER)
        assert active.main_pid() != pooler and helper_pid(active) not in (0, helper)
        # Longer than an address lives without a helper.
        holds_for(lambda: held() == set(ADDRESSES), "the addresses are there", 4)
        assert session.execute("select 1").fetchone() == (1,)
    assert watch.removed == []
    # Not as one that has heard nobody, either: the other node would have been first.
    assert takeovers(active) == before
    assert re.search(r"; active\b", active.machine.show(UNIT, "StatusText"))


def test_a_killed_helper_comes_back_before_the_address_goes(active):
    pid = helper_pid(active)
    active.machine.sh(["kill", "-KILL", str(pid)])
    poll_until(lambda: helper_pid(active) not in (0, pid), "another helper")
    holds_for(lambda: held() == set(ADDRESSES), "the addresses are there", 4)


def test_a_crash_of_the_pooler_takes_the_address_away_at_once(active):
    pid, restarts = active.main_pid(), active.restarts()
    before = time.monotonic()
    active.machine.sh(["kill", "-KILL", str(pid)])
    poll_until(lambda: not held(), "the addresses are gone", 1, 0.001)
    print(f"gone {1000 * (time.monotonic() - before):.0f} ms after kill was begun")
    active.await_other_process(pid, 20)
    assert active.restarts() == restarts + 1
    poll_until(lambda: held() == set(ADDRESSES), "the next process holds them", 20)


def test_a_stop_takes_the_address_away(active):
    active.machine.systemctl("stop", UNIT)
    assert held() == set()
    # The helper stays, and has nothing to hold.
    assert active.machine.show(HELPER, "ActiveState") == "active"
