"""Runs the text of a scenario with the names that the NixOS test driver gives it."""

from __future__ import annotations

import re
import traceback
import unittest
from pathlib import Path

from .log import Log
from .machine import Machine, MachineError, RequestedAssertionFailed, retry


class _Assertions(unittest.TestCase):
    """`t`: unittest's assertions, whose failures are the script's."""

    failureException = RequestedAssertionFailed
    # A difference is to be seen whole.
    maxDiff = None


def hosts_of(path: Path, default: tuple[str, ...]) -> list[str]:
    """The hosts that a scenario wants, as its first line says: `# hosts: client pooler1`."""
    with path.open(encoding="utf-8") as text:
        found = re.match(r"# hosts: +(.+)", text.readline())
    if found is None:
        return list(default)
    hosts = found[1].split()
    for host in hosts:
        if host not in default:
            raise ValueError(f"{path.name}: there is no host {host}; there are {', '.join(default)}")
    return hosts


def summary_of(path: Path) -> str:
    """The first comment line behind that of the hosts."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# hosts:"):
            return line.lstrip("# ")
    return ""


def names(machines: list[Machine], values: dict[str, str], log: Log) -> dict[str, object]:
    """All that a script finds defined."""
    def start_all() -> None:
        for machine in machines:
            machine.start()

    found: dict[str, object] = {
        "__name__": "__main__", "start_all": start_all, "subtest": log.subtest, "retry": retry, "t": _Assertions(), "log": log,
    }
    found.update(values)
    found.update((re.sub(r"[^A-Za-z0-9_]", "_", machine.name), machine) for machine in machines)
    if len(machines) == 1:
        found["machine"] = machines[0]
    return found


def run(path: Path, found: dict[str, object]) -> None:
    """Run it to its end, or to its first failure."""
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), found)  # noqa: S102: that is what it is for


def explain(error: BaseException, path: Path) -> str:
    """A failure with the script's own lines; with the driver's as well if it is those that have failed."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, (MachineError, RequestedAssertionFailed)) or frames[-1].filename == str(path):
        frames = traceback.StackSummary.from_list([frame for frame in frames if frame.filename == str(path)])
    return "".join(frames.format()) + f"{type(error).__name__}: {error}"
