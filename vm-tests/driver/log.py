"""Progress on the terminal, with the time since the start of the scenario."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_WIDTH = 150
_WORTH_TELLING_S = 0.5


class Log:
    """What a script knows as `log`, and what the driver itself reports with."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.subtests: list[tuple[str, float, bool]] = []

    def seconds(self) -> float:
        """How long the scenario has been running."""
        return time.monotonic() - self._began

    def line(self, text: str) -> None:
        """One line; a longer text is cut."""
        first, _, more = text.strip().partition("\n")
        if more or len(first) > _WIDTH:
            first = first[:_WIDTH] + " …"
        print(f"[{self.seconds():6.1f}] {first}", flush=True)

    def text(self, text: str) -> None:
        """Several lines, whole."""
        print(text.rstrip("\n"), flush=True)

    def info(self, text: str) -> None:
        """A message of the script."""
        self.text(text)

    def warning(self, text: str) -> None:
        """A message of the script."""
        self.text(f"warning: {text}")

    def error(self, text: str) -> None:
        """A message of the script."""
        self.text(f"error: {text}")

    def log_test_error(self, text: str) -> None:
        """A message of the script."""
        self.error(text)

    @contextmanager
    def nested(self, text: str) -> Iterator[None]:
        """Say what begins, and how long it took."""
        self.line(text)
        began = time.monotonic()
        # Not after a failure: that is told by whoever catches it.
        yield
        took = time.monotonic() - began
        if took > _WORTH_TELLING_S:
            self.line(f"(done in {took:.1f} s: {text.strip()[:60]})")

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        """A part of a scenario: its name, its duration, and whether it held."""
        self.line(f"subtest: {name}")
        began = time.monotonic()
        held = False
        try:
            yield
            held = True
        finally:
            took = time.monotonic() - began
            self.subtests.append((name, took, held))
            self.line(f"subtest {'passed' if held else 'FAILED'} in {took:.1f} s: {name}")
