"""Fixtures of the tests under a real systemd. README.md tells how to run them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import deployment  # noqa: E402
from harness.deployment import UNIT, Site  # noqa: E402
from harness.machine import IMAGE, Machine  # noqa: E402


_sites: list[Site] = []


def pytest_configure(config: pytest.Config) -> None:
    # A polite kill must tear the fixtures down just as Ctrl-C does.
    def interrupted(_signal, _frame):
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupted)


def pytest_sessionstart(session: pytest.Session) -> None:
    if "PGTANDEM_SYSTEMD_CGROUP" not in os.environ or not IMAGE.is_dir():
        raise pytest.UsageError("these tests need namespaces and a root file system: start them with tests/systemd/run")
    try:
        deployment.binary()
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> str:
    return f"pooler: {deployment.binary()}"


@pytest.fixture(scope="module")
def boot():
    """Boot machines for a module, one after the other: the next ends the one before."""
    running: list[Machine] = []

    def start(**arguments) -> Machine:
        end()
        running.append(Machine(**arguments))
        running[0].boot()
        return running[0]

    def end() -> None:
        while running:
            running.pop().poweroff()

    try:
        yield start
    finally:
        end()


@pytest.fixture(scope="module")
def site(boot) -> Site:
    """A machine for the module, with everything installed and the service not started."""
    site = Site(boot())
    _sites[:] = [site]
    site.install()
    return site


@pytest.fixture
def served(site) -> Site:
    """The same, with the tests' configuration and the service newly started by `systemctl start`."""
    site.machine.systemctl("stop", UNIT)
    site.machine.systemctl("reset-failed", UNIT, check=False)
    site.configure(deployment.ini())
    site.machine.systemctl("start", UNIT)
    return site


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed and _sites:
        try:
            text = _sites[-1].machine.messages(UNIT)[-200000:]
            text += "\n\n" + _sites[-1].machine.messages(deployment.HELPER)[-50000:]
        except Exception as error:  # noqa: BLE001: the failure itself must be told in any case
            text = f"not to be had: {error}"
        report.sections.append(("journal of pgtandem", text))
