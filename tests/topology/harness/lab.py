"""Hosts as network namespaces on a bridge: nodes `a` and `b`, clients `c`, PostgreSQL on `p`. Links can be cut, packets eaten."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .waiting import until

# Documentation networks would not be routed anywhere either, but these are what the addresses of the tests read like.
HOSTS = {"a": 1, "b": 2, "c": 9, "p": 20}
FLOATING4, FLOATING6 = "10.77.0.100", "fd77::100"
USER = "postgres"


def address(host: str, family: int = 4) -> str:
    return f"10.77.0.{HOSTS[host]}" if family == 4 else f"fd77::{HOSTS[host]:x}"


def run(*command: str | Path, check: bool = True, **more) -> str:
    done = subprocess.run([str(word) for word in command], text=True, capture_output=True, check=False, **more)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


class Lab:
    """The hosts. Everything that is started in them ends with them."""

    def __init__(self, hosts: str = "abc"):
        self.prefix = f"pgt{os.getpid()}"
        self.hosts = hosts
        self.folder = Path(tempfile.mkdtemp(prefix="pgtandem-topology-"))
        self.folder.chmod(0o755)
        self.processes: list[subprocess.Popen] = []

    def namespace(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def up(self) -> "Lab":
        bridge = self.namespace("br")
        run("ip", "netns", "add", bridge)
        run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", bridge, "link", "set", "br0", "up")
        for host in self.hosts:
            own = self.namespace(host)
            run("ip", "netns", "add", own)
            run("ip", "-n", own, "link", "set", "lo", "up")
            self.plug_in(host)
        until(lambda: all("tentative" not in run("ip", "-n", self.namespace(host), "-6", "addr") for host in self.hosts),
              "link-local addresses are usable")
        return self

    def plug_in(self, host: str) -> None:
        """Make the interface eth0 of a host, as at its start or as somebody who takes it out and puts it in again."""
        bridge, own = self.namespace("br"), self.namespace(host)
        run("ip", "-n", own, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{host}", "netns", bridge)
        run("ip", "-n", bridge, "link", "set", f"p{host}", "master", "br0", "up")
        run("ip", "-n", own, "addr", "add", f"{address(host)}/24", "dev", "eth0")
        run("ip", "-n", own, "addr", "add", f"{address(host, 6)}/64", "dev", "eth0", "nodad")
        run("ip", "-n", own, "link", "set", "eth0", "up")

    def unplug(self, host: str) -> None:
        run("ip", "-n", self.namespace(host), "link", "del", "eth0")

    def down(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for host in self.hosts + "r":
            name = self.namespace("br" if host == "r" else host)
            for pid in run("ip", "netns", "pids", name, check=False).split():
                os.kill(int(pid), signal.SIGKILL)
            run("ip", "netns", "del", name, check=False)
        if not os.environ.get("PGTANDEM_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def cut(self, host: str) -> None:
        """The cable is pulled on the other side: the host itself sees its interface up."""
        run("ip", "-n", self.namespace("br"), "link", "set", f"p{host}", "down")

    def mend(self, host: str) -> None:
        run("ip", "-n", self.namespace("br"), "link", "set", f"p{host}", "up")

    def nft(self, host: str, rules: str) -> None:
        """Replace the host's packet filter by these rules (nft syntax, in a table of the family inet)."""
        text = "flush ruleset\n" + (f"table inet t {{\n{rules}\n}}\n" if rules else "")
        run("ip", "netns", "exec", self.namespace(host), "nft", "-f", "-", input=text)

    def spawn(self, host: str, *command: str | Path, **more) -> subprocess.Popen:
        words = ["ip", "netns", "exec", self.namespace(host), *map(str, command)]
        process = subprocess.Popen(words, **more)
        self.processes.append(process)
        return process

    def run(self, host: str, *command: str | Path, **more) -> str:
        return run("ip", "netns", "exec", self.namespace(host), *command, **more)

    def holds(self, host: str, which: str = FLOATING4) -> bool:
        """Is the address on an interface of this host?"""
        return f" {which}/" in run("ip", "-n", self.namespace(host), "-o", "addr")

    def holders(self, which: str = FLOATING4) -> str:
        return "".join(host for host in "ab" if host in self.hosts and self.holds(host, which))


class Gaps:
    """What a probe saw: for how long nobody answered, and who did."""

    def __init__(self, lines: list[str]):
        asked = [(int(at), name) for at, name in (line.split() for line in lines if line.count(" ") == 1)]
        # The last ones may be answered after the end.
        end = asked[-1][0] if asked else 0
        while asked and asked[-1][1] == "-" and asked[-1][0] > end - 5000:
            asked.pop()
        self.answers = [(at, name) for at, name in asked if name != "-"]
        # From the last question that was answered to the next one, where one between them was not. Two that were answered are
        # no gap, however far apart: then it was the probe that stood still.
        self.longest_ms, self.resumed_us, last, missed = 1.0, 0, None, False
        for at, name in asked:
            if name == "-":
                missed = True
                continue
            if missed and last is not None and (at - last) / 1000 > self.longest_ms:
                self.longest_ms, self.resumed_us = (at - last) / 1000, at
            last, missed = at, False
        if missed and last is not None:
            self.longest_ms = max(self.longest_ms, (asked[-1][0] - last) / 1000)
        self.names = "".join(name for index, (_, name) in enumerate(self.answers)
                             if index == 0 or self.answers[index - 1][1] != name)


class Prober:
    """Asks the floating address each millisecond from the clients' host."""

    def __init__(self, lab: Lab, binary: Path, seconds: float, which: str = FLOATING4):
        self.process = lab.spawn("c", binary, "ask", which, "7777", str(seconds), stdout=subprocess.PIPE, text=True)

    def gaps(self) -> Gaps:
        output, _ = self.process.communicate(timeout=60)
        gaps = Gaps(output.splitlines())
        assert len(gaps.answers) > 50, f"the probe was hardly ever answered: {len(gaps.answers)} times"
        return gaps


SEE_ADVERTS = """
import socket, time
heard = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
heard.bind(("eth0", 0))
while True:
    packet = heard.recv(128)
    now = time.monotonic_ns() // 1000
    if packet[0] >> 4 == 4 and packet[9] == 112 or packet[0] >> 4 == 6 and packet[6] == 112:
        print(packet[0] >> 4, now, flush=True)
"""


class Adverts:
    """Notes when VRRP adverts come by at the clients' host."""

    def __init__(self, lab: Lab):
        self.process = lab.spawn("c", sys.executable, "-c", SEE_ADVERTS, stdout=subprocess.PIPE, text=True)

    def last_before(self, us: int) -> dict[str, int]:
        """The last one of each family before this time, in microseconds of the monotonic clock. Ends it."""
        self.process.terminate()
        output, _ = self.process.communicate(timeout=10)
        found = {}
        for family, at in (line.split() for line in output.splitlines()):
            if int(at) < us:
                found[family] = int(at)
        return found


def chown(path: Path) -> None:
    user = pwd.getpwnam(USER)
    os.chown(path, user.pw_uid, user.pw_gid)


def pause(seconds: float) -> None:
    """Let time pass that is itself what is tested: a number of intervals, a timeout."""
    time.sleep(seconds)
