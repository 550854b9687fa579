"""Fixtures of the tests of a pair of nodes. README.md tells how to run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness.lab import Lab  # noqa: E402
from harness.nodes import Node, Pgtandem, Wish  # noqa: E402
from harness.waiting import until  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="as many repetitions as figures are quoted from (10, 20)")


def pytest_configure(config: pytest.Config) -> None:
    # A polite kill must tear the fixtures down just as Ctrl-C does.
    def interrupted(_signal, _frame):
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Advertisement intervals: all that a test names with --full, else the common one and the shortest."""
    marker = metafunc.definition.get_closest_marker("intervals")
    if marker:
        full = metafunc.config.getoption("--full")
        metafunc.parametrize("interval_ms", [one for one in marker.args if full or one in (100, 10)])


def pytest_sessionstart(session: pytest.Session) -> None:
    if "PGTANDEM_PROBE" not in os.environ:
        raise pytest.UsageError("these tests need namespaces and a probe: start them with tests/topology/run")


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    return pytestconfig.getoption("--full")


@pytest.fixture(scope="session")
def probe() -> Path:
    return Path(os.environ["PGTANDEM_PROBE"])


@pytest.fixture
def lab(request: pytest.FixtureRequest, probe: Path):
    """Three hosts, or those that the test names by `@pytest.mark.hosts`, with an echo on each node."""
    marker = request.node.get_closest_marker("hosts")
    lab = Lab(marker.args[0] if marker else "abc")
    try:
        lab.up()
        for host in "ab":
            echo = lab.spawn(host, probe, "echo", "7777", host, stdout=subprocess.PIPE, text=True)
            assert echo.stdout is not None and echo.stdout.readline() == "ready\n"
        yield lab
        failed = getattr(request.node, "report", None)
        if failed is not None and failed.failed:
            for log in sorted(lab.folder.glob("*/log")):
                print(f"--- {log}\n{log.read_text()[-6000:]}")
    finally:
        lab.down()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call":
        item.report = report


def pair(lab: Lab, wish: Wish, kind: type[Node] = Pgtandem) -> tuple[Node, Node]:
    """Start both nodes, `a` first, and wait until it is active."""
    a = kind(lab, "a", wish).start()
    until(a.is_active, "the first node holds the addresses", timeout=20)
    b = kind(lab, "b", wish).start()
    return a, b
