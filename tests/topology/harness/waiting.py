"""Waiting for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(is_so: Callable[[], object], what: str, timeout: float = 15, interval: float = 0.01) -> float:
    """Wait until something is so, and give the seconds that it took."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > timeout:
            raise AssertionError(f"waited {timeout} s in vain: {what}")
        time.sleep(interval)
    return time.monotonic() - began
