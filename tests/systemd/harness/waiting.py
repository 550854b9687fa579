"""Waiting for conditions, with deadlines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def poll_until(condition: Callable[[], T], what: str, timeout: float = 10, interval: float = 0.02) -> T:
    """Call `condition` until it is true and give its value; what it said or raised last is told on time-out."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            value = last = condition()
            if value:
                return value
        except Exception as error:  # noqa: BLE001: any failure means "not yet"
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last: {last!r})")
        time.sleep(interval)


def holds_for(condition: Callable[[], object], what: str, seconds: float, interval: float = 0.1) -> None:
    """Look again and again for `seconds`: `condition` must be true each time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        assert value, f"not for all of {seconds} s: {what} (now: {value!r})"
        time.sleep(interval)
