"""Many clients over few servers, with servers killed under them: nobody sees another's data, nobody hangs.

Bounds: every operation ends within DEADLINE seconds (the clients share the cores with the servers; the summary tells
how late they were themselves); the pooler's resident memory, once the clients are there (10 s in a long run, half-time
in a short one), grows by no more than 10 % and 8 MiB.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import process

DEADLINE = 60
PROCESSES = 4
PROGRAM = Path(__file__).parent / "harness/stress_client.py"
POOLS = {"stress_tx": 10, "stress_stmt": 4, "stress_session": 3, "stress_replica": 3}
MODES = {"stress_stmt": "statement", "stress_session": "session"}


def start_clients(pooler, clients: int, seconds: int, lenient: bool) -> list[subprocess.Popen]:
    share, running = clients // PROCESSES, []
    for number in range(PROCESSES):
        options = {"port": pooler.port, "first": 1000 + number * share, "count": share, "seconds": seconds,
                   "deadline": DEADLINE, "lenient": lenient, "think": clients / 20_000,
                   "seed": int(os.environ.get("PGTANDEM_E2E_SEED", "1"))}
        running.append(subprocess.Popen([sys.executable, "-B", str(PROGRAM), json.dumps(options)], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=process.clean_environment()))
    return running


def kill_one_server(cluster) -> int:
    """End one random backend of the pooler's."""
    return len(cluster.primary.sql(
        "select pg_terminate_backend(pid) from (select pid from pg_stat_activity where usename = 'app'"
        " and datname = 'app' order by random() limit 1) chosen"))


def run_stress(site, cluster, start_pooler, clients: int, seconds: int) -> tuple[dict, dict]:
    cluster.primary.sql("create table if not exists stress_rows (client int, v int); grant all on stress_rows to app;"
                        "truncate stress_rows", "app")
    pooler = start_pooler(
        databases={name: (site.to_replica(0, f"pool_size={size}") if name == "stress_replica" else
                          site.to_primary(f"pool_size={size} pool_mode={MODES.get(name, 'transaction')}"))
                   for name, size in POOLS.items()},
        max_client_conn=clients + 100, query_wait_timeout=10, server_login_retry=1, server_check_delay=1,
        client_tls_sslmode="allow", client_tls_cert_file=site.pooler_cert.cert,
        client_tls_key_file=site.pooler_cert.key, log_connections=0, log_disconnections=0)
    running, memory, killed, most_servers = start_clients(pooler, clients, seconds, site.stand_in), [], 0, 0
    began = time.monotonic()
    restarted = False
    try:
        while time.monotonic() - began < seconds and all(p.poll() is None for p in running):
            time.sleep(1)  # the beat of the disturbance, not a wait
            killed += kill_one_server(cluster)
            memory.append((time.monotonic() - began, pooler.memory()))
            (servers,) = cluster.primary.sql("select count(*) from pg_stat_activity where usename = 'app'")[0]
            most_servers = max(most_servers, servers)
            if not restarted and time.monotonic() - began > seconds / 2:
                cluster.replicas[0].stop()
                cluster.replicas[0].start()
                restarted = True
        total = {"operations": {}, "errors": {}, "violations": [], "rows": 0, "slowest": 0.0, "lag": 0.0}
        for one in running:
            output, errors = one.communicate(timeout=3 * DEADLINE + 30)
            assert one.returncode == 0, errors[-3000:]
            found = json.loads(output)
            for kind in ("operations", "errors"):
                for key, count in found[kind].items():
                    total[kind][key] = total[kind].get(key, 0) + count
            total["violations"] += found["violations"]
            total["rows"] += found["rows"]
            for kind in ("slowest", "lag"):
                total[kind] = max(total[kind], found[kind])
    finally:
        for one in running:
            if one.poll() is None:
                one.kill()
            one.wait()
        if cluster.replicas[0].process is None:
            cluster.replicas[0].start()
    with pooler.wire("stress_tx") as client:
        assert client.value("select 'still serving'") == "still serving"
    return total, {"memory": memory, "killed": killed, "servers": most_servers, "restarted": restarted}


def judge(total: dict, course: dict, clients: int, seconds: int, say) -> None:
    settled = 10 if seconds >= 20 else seconds / 2
    early = [kib for at, kib in course["memory"] if at <= settled] or [course["memory"][0][1]]
    late = [kib for at, kib in course["memory"] if at > settled] or early[-1:]
    say(f"\nisolation stress: {clients} clients, {seconds} s, {sum(total['operations'].values())} operations, "
        f"{total['rows']} rows, {course['killed']} servers killed, "
        f"slowest {total['slowest']:.1f} s (clients late by {total['lag']:.1f} s), "
        f"memory {max(early) // 1024} -> {max(late) // 1024} MiB, {sum(total['errors'].values())} errors: "
        + f"memory every 10 s {[kib // 1024 for at, kib in course['memory']][::10]}: "
        + "; ".join(f"{n} x {e}" for e, n in sorted(total["errors"].items(), key=lambda item: -item[1])[:6]))
    assert not total["violations"], "\n".join(total["violations"][:20])
    assert sum(total["operations"].values()) > clients, "hardly anything was done"
    for mode in ("tx", "stmt", "session", "replica"):
        assert any(name.startswith(mode + " ") for name in total["operations"]), f"nothing was done in mode {mode}"
    assert course["killed"] > 0 and course["restarted"]
    assert course["servers"] <= sum(POOLS.values()) + 5, "more servers than the pools allow (5: being closed)"
    assert max(late) <= max(early) * 1.10 + 8 * 1024, f"memory grows: {course['memory']}"


@pytest.mark.timeout(240)
def test_isolation_quick(site, cluster, start_pooler, capsys):
    clients = int(os.environ.get("PGTANDEM_E2E_CLIENTS", "200"))
    seconds = int(os.environ.get("PGTANDEM_E2E_SECONDS", "10"))
    total, course = run_stress(site, cluster, start_pooler, clients, seconds)
    with capsys.disabled():
        judge(total, course, clients, seconds, print)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_isolation_full(site, cluster, start_pooler, capsys):
    clients = int(os.environ.get("PGTANDEM_E2E_CLIENTS", "1000"))
    seconds = int(os.environ.get("PGTANDEM_E2E_SECONDS", "60"))
    total, course = run_stress(site, cluster, start_pooler, clients, seconds)
    with capsys.disabled():
        judge(total, course, clients, seconds, print)
