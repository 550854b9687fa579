"""node-postgres and pgjdbc under the revenue-engine file: each step of their programs is a test."""

import os
import subprocess
from pathlib import Path

import pytest
from harness import process
from harness.pooler import REPOSITORY

CACHE = Path(os.environ.get("PGTANDEM_E2E_CACHE", REPOSITORY / "target/e2e"))
JDBC = os.environ.get("PGTANDEM_E2E_JDBC", "/usr/share/java/postgresql.jar")
STEPS = ["connect", "ddl_dml", "copy_in_and_out", "prepared", "cancel", "error", "large_result"]


def outcomes(revenue, site, program: list) -> dict[str, str]:
    """Run a driver program; for each step what it printed."""
    environment = process.clean_environment(
        E2E_PORT=str(revenue.port), E2E_USER="revenue_user", E2E_PASSWORD="secure_revenue_password",
        E2E_DATABASE="revenue_engine", E2E_CA=str(site.pooler_cert.cert))
    try:
        done = process.run(program, env=environment, timeout=60, check=False)
        output, errors = done.stdout, done.stderr
    except subprocess.TimeoutExpired as hung:
        output, errors = (hung.stdout or b"").decode(), (hung.stderr or b"").decode() + "\nthe program hung"
    seen = {}
    for line in output.splitlines():
        verdict, _, rest = line.partition(" ")
        if verdict in ("ok", "failed"):
            name, _, reason = rest.partition(": ")
            seen[name] = verdict if verdict == "ok" else reason + "\n" + errors[-3000:]
    seen[""] = output[-2000:] + errors[-2000:]
    return seen


@pytest.fixture(scope="module")
def node(revenue, site):
    program = CACHE / "node/matrix.js"
    assert program.exists(), f"no {program}: tests/e2e/run makes it"
    return outcomes(revenue, site, ["node", program])


@pytest.fixture(scope="module")
def java(revenue, site, request):
    assert (CACHE / "java/Matrix.class").exists(), f"no classes in {CACHE}/java: tests/e2e/run makes them"
    if request.config.getoption("--stand-in"):
        # pgjdbc always sends this one; without the line PgBouncer refuses it.
        revenue.write(revenue.ini.read_text() + "ignore_startup_parameters = extra_float_digits\n")
        revenue.admin("RELOAD")
    return outcomes(revenue, site, ["java", "-Xmx512m", "-cp", f"{CACHE}/java:{JDBC}", "Matrix"])


@pytest.mark.parametrize("step", [*STEPS, "pool"])
def test_node_postgres(node, step):
    assert node.get(step, f"did not run:\n{node['']}") == "ok"


@pytest.mark.parametrize("step", STEPS)
def test_pgjdbc(java, step):
    assert java.get(step, f"did not run:\n{java['']}") == "ok"
