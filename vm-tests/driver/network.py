"""One segment of Ethernet: a bridge, and for each host a network namespace with the interface eth1.

Names and addresses are those that the NixOS test framework gives to machines on its first network. All of it lies in the
network and mount namespaces that the driver runs in, and goes with them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

BRIDGE = "br1"
_COMMAND_S = 20


def ip(*words: str, check: bool = True) -> str:
    """ip(8)."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


class Network:
    """The segment with its hosts, numbered from 1 in the order of the alphabet."""

    def __init__(self, hosts: list[str]) -> None:
        self.numbers = {host: number for number, host in enumerate(sorted(hosts), 1)}

    def address(self, host: str) -> str:
        """A host's own IPv4 address."""
        return f"192.168.1.{self.numbers[host]}"

    def address6(self, host: str) -> str:
        """A host's own IPv6 address."""
        return f"2001:db8:1::{self.numbers[host]:x}"

    def hosts_file(self) -> str:
        """/etc/hosts of every host."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        for host in self.numbers:
            lines += [f"{self.address(host)} {host}", f"{self.address6(host)} {host}"]
        return "\n".join(lines) + "\n"

    def up(self) -> None:
        """Make the bridge."""
        # A plain switch: no spanning tree to wait for, and no snooping to lose the first multicast packets to.
        ip("link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
        ip("link", "set", BRIDGE, "up")

    def namespace(self, host: str) -> str:
        """The name of a host's network namespace."""
        return f"pgt-{host}"

    def path(self, host: str) -> Path:
        """Where that namespace is to be found."""
        return Path("/run/netns") / self.namespace(host)

    def _port(self, host: str) -> str:
        """The end of a host's cable in the bridge."""
        return f"port{self.numbers[host]}"

    def plug_in(self, host: str) -> None:
        """A network card that is new, as after power has been off, with its cable in the bridge."""
        own, port, number = self.namespace(host), self._port(host), self.numbers[host]
        ip("netns", "add", own)
        # The hardware address stays over a boot, as a real card's does.
        ip("link", "add", port, "type", "veth",
           "peer", "name", "eth1", "address", f"52:54:00:12:01:{number:02x}", "netns", own)
        ip("link", "set", port, "master", BRIDGE, "up")
        ip("-n", own, "link", "set", "lo", "up")
        ip("-n", own, "addr", "add", f"{self.address(host)}/24", "dev", "eth1")
        ip("-n", own, "addr", "add", f"{self.address6(host)}/64", "dev", "eth1", "nodad")
        ip("-n", own, "link", "set", "eth1", "up")

    def silence(self, host: str) -> None:
        """From now on nothing of the host is heard; the host itself does not notice."""
        ip("link", "set", self._port(host), "nomaster")

    def unplug(self, host: str) -> None:
        """Remove the card and all that the kernel knows of the host's connections and addresses."""
        ip("link", "del", self._port(host), check=False)
        ip("netns", "del", self.namespace(host), check=False)

    def set_carrier(self, host: str, up: bool) -> None:
        """Pull the cable out of the bridge, which the host sees as a lost carrier, or put it in again."""
        ip("link", "set", self._port(host), "up" if up else "down")
