"""What goes wrong in the field, each as a story with the end that it should have."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import pair
from harness.lab import FLOATING4, FLOATING6, Lab, Prober, address, pause, run
from harness.nodes import PORT, SECRET, VRID, Pgtandem, Wish
from harness.waiting import until

INPUT = "chain i { type filter hook input priority 0; %s; }"
NO_VRRP = INPUT % "meta l4proto 112 drop"
# Where no address may move: no client misses more than what a busy machine takes from anybody. A takeover takes 300 ms.
STALL_MS = 60


def settled(lab: Lab, holder: str, families: str = "46") -> None:
    which = [one for one, family in ((FLOATING4, "4"), (FLOATING6, "6")) if family in families]
    until(lambda: all(lab.holders(one) == holder for one in which), f"{holder} holds the addresses", timeout=20)


def linked(*nodes: Pgtandem) -> None:
    for node in nodes:
        until(lambda: all(word == "up" for word in node.ha("peer_link")), f"{node.host} hears its peer on the link")


def transitions(node: Pgtandem) -> int:
    return len([row for row in node.console("SHOW HA HISTORY") if row["router"]])


def test_a_backup_that_blips_leaves_no_stale_neighbours(lab, probe):
    """Adverts do not reach the backup for a moment; it becomes active and gives way again; clients reach the right node at once."""
    wish = Wish(priorities=(150, 100))
    a, b = pair(lab, wish)
    settled(lab, "a")
    linked(a, b)
    for _ in range(3):
        probers = [Prober(lab, probe, 4.0, which) for which in (FLOATING4, FLOATING6)]
        pause(0.3)
        # The link is cut too, or it would tell the backup that the other one lives.
        lab.nft("b", INPUT % f"ip saddr {address('a')} drop; meta l4proto 112 drop")
        until(lambda: lab.holds("b") and lab.holds("b", FLOATING6), "the backup has taken over")
        lab.nft("b", "")
        settled(lab, "a")
        for prober in probers:
            gaps = prober.gaps()
            assert gaps.longest_ms <= 100, gaps.longest_ms
            assert gaps.names[-1] == "a", gaps.names


@pytest.mark.parametrize("deaf", "ab")
def test_a_firewall_that_eats_adverts_makes_no_second_active(lab, deaf):
    """One node does not hear the other; the link does. Both say so."""
    a, b = pair(lab, Wish(priorities=(150, 100)))
    settled(lab, "a")
    linked(a, b)
    lab.nft(deaf, NO_VRRP)
    pause(2)
    assert lab.holders() == "a" and lab.holders(FLOATING6) == "a"
    if deaf == "b":
        assert all("112" in hint for hint in b.ha("hint")), b.ha("hint")
        assert "does a firewall drop IP protocol 112?" in b.text()
    # And it is no obstacle to a real takeover.
    a.kill()
    settled(lab, "b")


def test_both_nodes_started_at_once(lab):
    wish = Wish(priorities=(254, 254))
    nodes = [Pgtandem(lab, host, wish) for host in "ab"]
    files = [node.configure() for node in nodes]
    starts = [
        subprocess.Popen(["ip", "netns", "exec", lab.namespace(node.host), os.environ["PGTANDEM_BIN"], "-d", str(file)])
        for node, file in zip(nodes, files)]
    assert [start.wait(timeout=30) for start in starts] == [0, 0]
    for which in (FLOATING4, FLOATING6):
        until(lambda: len(lab.holders(which)) == 1, "one node holds the address")
    linked(*nodes)
    before = [lab.holders(which) for which in (FLOATING4, FLOATING6)]
    pause(1)
    assert [lab.holders(which) for which in (FLOATING4, FLOATING6)] == before


def test_a_reload_moves_nothing(lab, probe):
    """Neither one that changes nothing about the pair, nor one that changes a little."""
    a, b = pair(lab, Wish(priorities=(150, 100)))
    settled(lab, "a")
    linked(a, b)
    before = transitions(a), transitions(b)
    prober = Prober(lab, probe, 2.0)
    for round_ in range(10):
        for node in (a, b):
            node.wish.settings = f"default_pool_size = {20 + round_}"
            node.reload()
        pause(0.05)
    a.wish.ha = b.wish.ha = "servers_down_delay = 7"
    a.reload()
    b.reload()
    assert prober.gaps().longest_ms < STALL_MS
    until(lambda: a.text().count("is in force") >= 11, "all reloads are done")
    assert (transitions(a), transitions(b)) == before
    assert lab.holders() == "a"


def test_an_interface_that_is_made_anew(lab):
    a, b = pair(lab, Wish(priorities=(150, 100)))
    settled(lab, "a")
    linked(a, b)
    lab.unplug("a")
    settled(lab, "b")
    until(lambda: a.ha("state") == ["initialize"] * 2, "the node without its interface takes no part")
    lab.plug_in("a")
    until(lambda: a.ha("state") == ["backup"] * 2, "it is back", timeout=20)
    linked(a, b)
    b.switch_over()
    settled(lab, "a")


def test_addresses_left_behind_go(lab):
    """Pooler and helper die at once; the addresses die by themselves, and a start does not mistake them for its own."""
    a, b = pair(lab, Wish(priorities=(150, 100)))
    settled(lab, "a")
    linked(a, b)
    a.die()
    until(lambda: lab.holders() == "b", "the dead node's address is gone, the other one's is there", timeout=4)
    # Left by another program, without an end.
    for which, length in ((FLOATING4, 32), (FLOATING6, 128)):
        run("ip", "-n", lab.namespace("a"), "addr", "add", f"{which}/{length}", "dev", "eth0", "nodad")
    a.start()
    settled(lab, "b")


def test_a_helper_that_is_killed(lab):
    """Nobody can hold addresses for this node any more: it gives way, and two holders do not stay."""
    a, b = pair(lab, Wish(priorities=(150, 100)))
    settled(lab, "a")
    linked(a, b)
    os.kill(a.helper(), signal.SIGKILL)
    until(lambda: lab.holds("b"), "the other node has taken over", timeout=3)
    until(lambda: lab.holders() == "b" and lab.holders(FLOATING6) == "b", "the first node's addresses are gone", timeout=4)
    assert a.runs() and a.ha("fit") == ["no"] * 2


def test_postgresql_down_for_both_does_not_bounce(lab):
    wish = Wish(priorities=(150, 100), ha="servers_down_delay = 1")
    a, b = pair(lab, wish)
    settled(lab, "a")
    linked(a, b)
    until(lambda: "the servers are out of reach" in a.text() and "the servers are out of reach" in b.text(), "both have noticed")
    before = transitions(a), transitions(b)
    pause(4)
    assert (transitions(a), transitions(b)) == before and lab.holders() == "a"


def test_postgresql_in_reach_of_the_other_node_only(lab):
    wish = Wish(priorities=(150, 100), ha="servers_down_delay = 1", databases=f"app = host={address('c')} port=5432")
    server = lab.spawn("c", sys.executable, "-c", LISTENER)
    until(lambda: "5432" in lab.run("c", "ss", "-ltn"), "something listens")
    a, b = pair(lab, wish)
    settled(lab, "a")
    linked(a, b)
    lab.nft("a", f"chain o {{ type filter hook output priority 0; ip daddr {address('c')} tcp dport 5432 drop; }}")
    settled(lab, "b")
    assert "only node-b reaches the servers" in a.text()
    server.kill()
    pause(3)
    assert lab.holders() == "b"


LISTENER = """
import socket
s = socket.create_server(('0.0.0.0', 5432))
while True:
    s.accept()[0].close()
"""


def test_a_peer_with_another_secret(lab):
    """It is not believed, and the log says what to do; VRRP goes on without the link."""
    a, b = pair(lab, Wish(priorities=(150, 100), secrets=(SECRET, "another secret, of the same length")))
    settled(lab, "a")
    until(lambda: "do pair_secret_file or pair_tls_… on both nodes belong together?" in a.text() + b.text(), "the log says so")
    assert a.ha("peer_link") == ["lost"] * 2
    a.kill()
    settled(lab, "b")


def test_strangers_on_the_link_change_nothing(lab):
    a, b = pair(lab, Wish(priorities=(150, 100)))
    settled(lab, "a")
    linked(a, b)
    before = transitions(a), transitions(b)
    lab.run("c", sys.executable, "-c", STRANGERS % {"hosts": [address("a"), address("b")]})
    assert all(word == "up" for node in (a, b) for word in node.ha("peer_link"))
    assert (transitions(a), transitions(b)) == before and lab.holders() == "a"


STRANGERS = """
import os, socket, ssl
for host in %(hosts)r:
    held = []
    for number in range(40):
        try:
            s = socket.create_connection((host, 6433), 1)
        except OSError:
            continue
        s.settimeout(0.2)
        try:
            s.sendall([b'', b'GET / HTTP/1.1\\r\\n\\r\\n', os.urandom(4096), bytes(4) + b'x'][number %% 4])
            held.append(s)
        except OSError:
            pass
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.maximum_version = version
        try:
            t = context.wrap_socket(socket.create_connection((host, 6433), 1))
            t.settimeout(1)
            t.sendall(b'\\0\\0\\0\\2\\1\\x80')
            assert t.recv(100) == b'', 'a stranger was answered'
        except (OSError, ssl.SSLError):
            pass
"""


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def forged(priority: int = 255, vrid: int = VRID, version: int = 3, kind: int = 1, count: int = 1, interval: int = 10,
           spoil: bool = False) -> bytes:
    body = bytearray(struct.pack("!BBBBHH4s", version << 4 | kind, vrid, priority, count, interval, 0,
                                 socket.inet_aton(FLOATING4)))
    body[6:8] = struct.pack("!H", checksum(bytes(body)) ^ (0x5555 if spoil else 0))
    return bytes(body)


FORGER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, %d)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton('10.77.0.9'))
for _ in range(20):
    s.sendto(bytes.fromhex('%s'), ('224.0.0.18', 0))
"""


@pytest.mark.parametrize("what, ttl, packet", [
    ("ttl", 254, forged()),
    ("vrid", 255, forged(vrid=VRID + 1)),
    ("checksum", 255, forged(spoil=True)),
    ("version", 255, forged(version=5)),
    ("type", 255, forged(kind=2)),
    ("count", 255, forged(count=9)),
    ("no address", 255, forged(count=0)),
    ("interval", 255, forged(interval=0)),
    ("short", 255, forged()[:7]),
    ("empty", 255, b""),
])
def test_a_forged_advert_changes_nothing(lab, what, ttl, packet):
    """Whoever is on the network can speak VRRP, which has no secrets; but nothing that fails RFC 9568 section 7.1 is heard."""
    a, b = pair(lab, Wish(families="4", priorities=(150, 100)))
    settled(lab, "a", "4")
    before = transitions(a), transitions(b)
    lab.run("c", sys.executable, "-c", FORGER % (ttl, packet.hex()))
    pause(0.5)
    assert (transitions(a), transitions(b)) == before and lab.holders() == "a"
    if packet:
        assert int(a.ha("discarded")[0]) >= 20, f"{what}: {a.console('SHOW HA')}"


def status(pid: int, thread: int | None = None) -> dict[str, str]:
    path = Path(f"/proc/{pid}/task/{thread or pid}/status")
    return dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)


def test_who_may_do_what(lab):
    """The pooler is nobody in particular; the helper may change addresses and send raw packets, and no more."""
    a, b = pair(lab, Wish(priorities=(150, 100)))
    settled(lab, "a")
    uid = run("id", "-u", "postgres").strip()
    for pid, wanted in ((a.pooler(), 0), (a.helper(), 1 << 12 | 1 << 13)):
        for thread in map(int, os.listdir(f"/proc/{pid}/task")):
            found = status(pid, thread)
            assert found["Uid"].split() == [uid] * 4 and "0" not in found["Groups"].split()
            assert found["NoNewPrivs"].strip() == "1"
            assert [int(found[name], 16) for name in ("CapEff", "CapPrm")] == [wanted, wanted], (pid, thread)
            assert [int(found[name], 16) for name in ("CapInh", "CapAmb", "CapBnd")] == [0, 0, 0], (pid, thread)
        # Not dumpable: /proc belongs to root then.
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0


def test_a_restart_is_no_failover(lab, probe):
    """-R, ten times in a row: the address stays, adverts go on, nobody takes over."""
    a, b = pair(lab, Wish(priorities=(150, 100)))
    settled(lab, "a")
    linked(a, b)
    before = transitions(b)
    probers = [Prober(lab, probe, 9.0, which) for which in (FLOATING4, FLOATING6)]
    for _ in range(5):
        old = a.pooler()
        done = subprocess.run(
            ["ip", "netns", "exec", lab.namespace("a"), os.environ["PGTANDEM_BIN"], "-d", "-R",
             str(a.folder / "pgtandem.ini")], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + a.text()
        until(lambda: a.pooler() != old and not Path(f"/proc/{old}").exists(), "the former process is gone")
        until(lambda: a.ha("state") == ["active"] * 2, "the successor is active")
    assert [prober.gaps().longest_ms < STALL_MS for prober in probers] == [True, True]
    assert transitions(b) == before and lab.holders() == "a" and lab.holders(FLOATING6) == "a"
    linked(a, b)


SOCKET_UNIT = """
import os, socket, subprocess, sys
path, binary, file = sys.argv[1:]
door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
door.bind(path)
os.chmod(path, 0o600)
os.chown(path, int(sys.stdin.readline()), -1)
door.listen(4)
print('ready', flush=True)
caps = '+net_admin,+net_raw'
while True:
    def listen():
        os.dup2(door.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES='helper')
        os.execvp('setpriv', ['setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups', '--inh-caps=' + caps,
                              '--ambient-caps=' + caps, binary, 'address-helper', file])
    pid = os.fork()
    if pid == 0:
        listen()
    print(pid, flush=True)
    os.waitpid(pid, 0)
"""


def test_a_helper_of_a_service_manager_may_be_restarted(lab, probe):
    """The helper has a socket that stays open, the pooler starts as an ordinary user; neither a stop nor a kill of the helper moves
    the address, as it is started again at once."""
    wish = Wish(priorities=(150, 100), ha=f"helper_socket = {lab.folder}/helper")
    a = Pgtandem(lab, "a", wish)
    file = a.configure()
    file.write_text(file.read_text().replace("user = postgres\n", ""))
    manager = lab.spawn("a", sys.executable, "-c", SOCKET_UNIT, lab.folder / "helper", os.environ["PGTANDEM_BIN"], file,
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert manager.stdin is not None and manager.stdout is not None
    manager.stdin.write(run("id", "-u", "postgres"))
    manager.stdin.flush()
    assert manager.stdout.readline() == "ready\n"
    helper = int(manager.stdout.readline())
    lab.run("a", "runuser", "-u", "postgres", "--", os.environ["PGTANDEM_BIN"], "-d", file)
    b = Pgtandem(lab, "b", Wish(priorities=(150, 100))).start()
    settled(lab, "a")
    linked(a, b)
    before = transitions(b)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        prober = Prober(lab, probe, 2.0)
        pause(0.2)
        os.kill(helper, number)
        helper = int(manager.stdout.readline())
        assert prober.gaps().longest_ms < STALL_MS
    assert transitions(b) == before and lab.holders() == "a" and lab.holders(FLOATING6) == "a"
    a.kill()
    settled(lab, "b")


def test_maintenance(lab):
    a, b = pair(lab, Wish(priorities=(150, 100), preempt=True))
    settled(lab, "a")
    linked(a, b)
    a.console("HA MAINTENANCE ON")
    settled(lab, "b")
    b.kill()
    until(lambda: lab.holders() == "", "nobody holds the address: the operator has said so")
    a.console("HA MAINTENANCE OFF")
    settled(lab, "a")


def test_crossed_priorities_let_both_nodes_carry_traffic(lab):
    second = "10.77.0.101"
    wish = Wish(families="4", preempt=True)
    nodes = []
    for host, other in (("a", 100), ("b", 200)):
        own = Wish(families="4", preempt=True, priorities=(200, 100),
                   ha=f"[virtual_routers]\nsecond = address={second} virtual_router_id=52 priority={other}")
        nodes.append(Pgtandem(lab, host, own).start())
    until(lambda: (lab.holders(), lab.holders(second)) == ("a", "b"), "each holds its own", timeout=20)
    nodes[0].kill()
    until(lambda: (lab.holders(), lab.holders(second)) == ("b", "b"), "the other has both")
    assert wish.families == "4"
    assert lab.run("c", "bash", "-c", f"exec 3<>/dev/tcp/{second}/{PORT}") == ""
