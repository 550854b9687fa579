"""The exporters that people run beside PgBouncer, as they are: Debian's package and PyPI's, both named
prometheus-pgbouncer-exporter. Each is scraped, and every metric that it knows must be there."""

import ast
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from harness import process
from harness.ports import free_port
from harness.process import poll_until

pytestmark = pytest.mark.beyond_pgbouncer("Debian's exporter asks for columns that PgBouncer has dropped")

PLACE = Path(os.environ["PGTANDEM_E2E_CACHE"]) / "exporters"


@pytest.fixture(scope="module")
def pooler(site):
    """A pooler that has done something for a client, which is still there."""
    pooler = site.pooler()
    with pooler.connect() as client:
        client.execute("select 1")
        yield pooler
    site.discard(pooler)


def scrape(arguments: list, environment: dict, port: int, log: Path) -> dict[str, list[tuple[str, float]]]:
    """Start an exporter; its metrics by name: labels and value."""
    with log.open("w") as out, subprocess.Popen(arguments, env=environment, stdout=out, stderr=out) as exporter:
        try:
            def answer() -> str:
                assert exporter.poll() is None, log.read_text()
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
                    return page.read().decode()

            text = poll_until(answer, "the exporter answers", timeout=30)
        finally:
            exporter.kill()
    found: dict[str, list[tuple[str, float]]] = {}
    for name, labels, value in re.findall(r"^(pgbouncer_\w+)(?:\{(.*)\})? (\S+)$", text, re.M):
        found.setdefault(name, []).append((labels, float(value)))
    return found


def value(found: dict, name: str, labels: str = "") -> float:
    (value,) = [value for known, value in found[name] if labels in known]
    return value


def environment(folder: str, **more: str) -> dict:
    return process.clean_environment(PYTHONPATH=str(PLACE / folder), PYTHONDONTWRITEBYTECODE="1", **more)


def test_pypi(pooler, tmp_path):
    port = free_port()
    config = tmp_path / "config.yml"
    config.write_text(
        f"exporter_host: 127.0.0.1\nexporter_port: {port}\npgbouncers:\n"
        f"  - dsn: postgresql://stats:stats%20password@127.0.0.1:{pooler.port}/pgbouncer\n    connect_timeout: 5\n")
    found = scrape([sys.executable, "-W", "ignore", "-m", "prometheus_pgbouncer_exporter.cli", "--config", config],
                   environment("pypi"), port, tmp_path / "log")
    source = (PLACE / "pypi/prometheus_pgbouncer_exporter/collector.py").read_text()
    prefixes = re.findall(r'"(pgbouncer_\w+_)", \[(.*?)\]', source, re.S)
    wanted = {prefix + name for prefix, block in prefixes for name in re.findall(r'"metric": "(\w+)"', block)}
    assert len(wanted) > 20
    # The library ends the names of counters with _total.
    missing = {name for name in wanted if name not in found and name + "_total" not in found}
    assert missing == set()
    assert value(found, "pgbouncer_up") == 1
    assert value(found, "pgbouncer_stats_queries_total", 'database="app"') >= 1
    assert value(found, "pgbouncer_pools_client_active_connections", 'database="app"') == 1
    assert value(found, "pgbouncer_config_max_client_conn") == int(pooler.setting("max_client_conn"))


def test_debian(pooler, tmp_path):
    port = free_port()
    passwords = tmp_path / "pgpass"
    passwords.write_text("*:*:*:stats:stats password\n")
    passwords.chmod(0o600)
    module = PLACE / "debian/prometheus_pgbouncer_exporter"
    found = scrape([sys.executable, "-m", "prometheus_pgbouncer_exporter", "--host", "127.0.0.1", "--port", str(port),
                    "--pgbouncer-user", "stats", "--pgbouncer-host", "127.0.0.1", "--pgbouncer-port", str(pooler.port)],
                   environment("debian", PGPASSFILE=str(passwords)), port, tmp_path / "log")
    wanted = set()
    for node in ast.walk(ast.parse((module / "collectors.py").read_text())):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "metrics":
            wanted |= {f"pgbouncer_{name}" for name, _ in ast.literal_eval(node.value).values()}
    assert len(wanted) > 15
    assert wanted - set(found) == set()
    assert value(found, "pgbouncer_requests_total", 'database="app"') >= 1
    assert value(found, "pgbouncer_active_clients", 'database="app"') == 1
    assert value(found, "pgbouncer_pool_size", 'database="app"') == 20
