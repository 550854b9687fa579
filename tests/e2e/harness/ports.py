"""Free TCP ports on loopback, below the range the kernel hands out, so that no outgoing connection takes them."""

from __future__ import annotations

import os
import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, on IPv4 and IPv6, and that this process has not given out before."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0)
    low = 12000 + (worker % 8) * 2000
    for _ in range(1000):
        port = random.randrange(low, low + 2000)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {low} and {low + 2000}")


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, port))
        except OSError as error:
            if family == socket.AF_INET6 and error.errno in (97, 99):  # no IPv6 on this host
                continue
            return False
    return True
