"""A pair of which one node is a keepalived: both understand each other, in both directions."""

from __future__ import annotations

import subprocess

import pytest
from harness.lab import FLOATING4, FLOATING6, Lab, pause, run
from harness.nodes import Keepalived, Node, Pgtandem, Wish
from harness.waiting import until

KINDS = pytest.mark.parametrize("version, family", [(3, "4"), (3, "6"), (2, "4")], ids=("v3-ipv4", "v3-ipv6", "v2-ipv4"))
ORDERS = pytest.mark.parametrize("first, second", [(Pgtandem, Keepalived), (Keepalived, Pgtandem)],
                                 ids=("pgtandem-first", "keepalived-first"))


def held_by(lab: Lab, which: str, host: str, timeout: float = 15) -> None:
    until(lambda: lab.holders(which) == host, f"{host} alone holds {which}", timeout=timeout)


def complaints(lab: Lab, capture) -> list[str]:
    """What tshark finds wrong with the adverts of a capture, and how many there are of each source."""
    fields = ("ip.src", "ipv6.src", "vrrp.version", "vrrp.checksum.status", "_ws.malformed", "_ws.expert.message")
    words = ["tshark", "-r", capture, "-o", "vrrp.v3_checksum_as_in_v2:FALSE", "-Y", "vrrp", "-T", "fields"]
    for name in fields:
        words += ["-e", name]
    lines = run(*words).splitlines()
    assert len({line.split("\t")[0] + line.split("\t")[1] for line in lines}) == 2, lines[:4]
    # Status 0 is a wrong checksum. tshark knows one of both forms for IPv4 and version 3, so that there the other one may
    # be called wrong; which one is used follows the peer.
    return [line for line in lines if line.split("\t")[4] or "alformed" in line]


@KINDS
@ORDERS
def test_takeover_in_both_directions(lab, version, family, first: type[Node], second: type[Node]):
    which = FLOATING4 if family == "4" else FLOATING6
    interval = 1000 if version == 2 else 100
    wish = Wish(interval_ms=interval, version=version, families=family, priorities=(150, 100), preempt=True, ha="peer_address =\n"
                "pair_secret_file =")
    capture = lab.folder / "vrrp.pcap"
    sniffer = lab.spawn("c", "tshark", "-q", "-i", "eth0", "-w", capture, "-f", "proto 112 or ip6 proto 112",
                        stderr=subprocess.PIPE, text=True)
    assert sniffer.stderr is not None
    while "Capturing" not in (line := sniffer.stderr.readline()):
        assert line, "tshark has ended"
    a = first(lab, "a", wish).start()
    held_by(lab, which, "a")
    b = second(lab, "b", wish).start()
    pause(interval * 4 / 1000)
    # The lower priority waits. Of the two checksums of IPv4 adverts of version 3, keepalived 2.2 takes the one that we do not send
    # until we have heard its own: at its first advert both may hold the address for a moment.
    held_by(lab, which, "a")
    a.stop()
    held_by(lab, which, "b")
    a.start()
    held_by(lab, which, "a")
    pause(interval * 2 / 1000)
    assert lab.holders(which) == "a"
    a.kill()
    if first is Keepalived:
        # What it leaves behind when it is killed.
        run("ip", "-n", lab.namespace("a"), "addr", "del", f"{which}/{32 if family == '4' else 128}", "dev", "eth0", check=False)
    held_by(lab, which, "b")
    sniffer.terminate()
    sniffer.wait(timeout=20)
    assert complaints(lab, capture) == []
    ours = b if isinstance(b, Pgtandem) else None
    if ours is not None:
        assert ours.ha("discarded") == ["0"], ours.console("SHOW HA")


def test_a_switchover_to_keepalived(lab):
    """Without a link the address is passed on by being preempted."""
    wish = Wish(families="4", priorities=(150, 100), preempt=True, ha="peer_address =\npair_secret_file =")
    a = Pgtandem(lab, "a", wish).start()
    held_by(lab, FLOATING4, "a")
    b = Keepalived(lab, "b", wish).start()
    pause(0.5)
    a.switch_over()
    held_by(lab, FLOATING4, "b")
    pause(1)
    assert lab.holders() == "b", "it does not come straight back"
    b.stop()
    held_by(lab, FLOATING4, "a")
