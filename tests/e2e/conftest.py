"""Fixtures and command-line options of the end-to-end tests. README.md tells how to run them."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import pooler as pooler_module  # noqa: E402
from harness import process  # noqa: E402
from harness.deployment import Deployment  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pgtandem")
    group.addoption("--full", action="store_true", help="run the long tests too")
    group.addoption("--stand-in", action="store_true",
                    help="PGTANDEM_BIN is a real PgBouncer: leave out what PgBouncer does not promise")


def pytest_configure(config: pytest.Config) -> None:
    # A polite kill must tear the fixtures down just as Ctrl-C does.
    def interrupted(_signal, _frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    # A shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, interrupted)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wants_full = config.getoption("--full") or "full" in (config.getoption("-m") or "")
    kept, left_out = [], []
    for item in items:
        beyond = item.get_closest_marker("beyond_pgbouncer") and config.getoption("--stand-in")
        newer = item.get_closest_marker("since_pgbouncer") if config.getoption("--stand-in") else None
        beyond = beyond or newer and stand_in_version() < tuple(map(int, newer.args[0].split(".")))
        long = item.get_closest_marker("full") and not wants_full
        (left_out if beyond or long else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def stand_in_version() -> tuple[int, ...]:
    """The version of the PgBouncer under test."""
    said = process.run([pooler_module.binary(), "--version"], user=process.unprivileged_user()).stdout
    return tuple(map(int, re.search(r"PgBouncer (\d+)\.(\d+)", said).groups()))


def pytest_sessionstart(session: pytest.Session) -> None:
    try:
        pooler_module.binary()
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> str:
    under_test = pooler_module.binary()
    version = process.run([under_test, "--version"], user=process.unprivileged_user()).stdout.splitlines()[:1]
    role = " (stand-in: promises that PgBouncer does not make are left out)" if config.getoption("--stand-in") else ""
    return f"pooler: {under_test} {version}{role}"


@pytest.fixture(scope="session")
def site(pytestconfig):
    """The session's cluster and certificates; `site.pooler(...)` makes poolers."""
    deployment = Deployment(stand_in=pytestconfig.getoption("--stand-in"))
    yield deployment
    deployment.close()


@pytest.fixture(scope="session")
def cluster(site):
    """The primary and its two replicas."""
    return site.cluster


@pytest.fixture
def start_pooler(site, request):
    """Make poolers for one test; they are stopped at its end and must not have died before."""
    made = []

    def start(**arguments):
        made.append(site.pooler(**arguments))
        return made[-1]

    yield start
    _close(site, made, request)


@pytest.fixture(scope="module")
def revenue(site, request):
    """A pooler with the revenue-engine file, shared by the tests of one module."""
    pooler = site.revenue_engine()
    yield pooler
    _close(site, [pooler], request)


@pytest.fixture(scope="module")
def scanner(site, request):
    """A pooler with the enterprisescanner file, shared by the tests of one module."""
    pooler = site.enterprisescanner()
    yield pooler
    _close(site, [pooler], request)


def _close(site, poolers, request) -> None:
    dead, broken = [], []
    for pooler in poolers:
        if pooler.process is not None and pooler.process.poll() is not None:
            dead.append(f"exit code {pooler.process.returncode}:\n{pooler.log()[-3000:]}")
        log = pooler.log()
        if "panicked at" in log or "Assert" in log:
            broken.append(log[-3000:])
        if getattr(request.node, "failed_call", False):
            request.node.add_report_section("call", "pooler log", log[-6000:])
        site.discard(pooler)
    assert not dead, f"the pooler died during the test: {dead[0]}"
    assert not broken, f"the pooler logged an internal error:\n{broken[0]}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        item.failed_call = True
        poolers = [v for v in item.funcargs.values() if isinstance(v, pooler_module.Pooler)]
        site = item.funcargs.get("site") or getattr(item, "_request", None) and item.funcargs.get("site")
        if site is not None:
            poolers += [p for p in site.poolers if p not in poolers]
        for pooler in poolers[-2:]:
            report.sections.append((f"log of the pooler on port {pooler.port}", pooler.log()[-4000:]))
