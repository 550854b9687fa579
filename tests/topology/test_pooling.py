"""The whole topology: a primary with two replicas, two poolers, clients that go by the floating address only, and one failure after the other."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from conftest import pair
from harness.lab import FLOATING4, USER, Lab, address, chown, pause, run
from harness.nodes import PORT, Pgtandem, Wish
from harness.waiting import until

LIMIT = 20
CLIENTS = 200


def programs() -> Path:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))[-1]


class Cluster:
    """A primary and two streaming replicas on the host p."""

    def __init__(self, lab: Lab):
        self.lab = lab
        self.folder = lab.folder / "postgresql"
        self.folder.mkdir()
        chown(self.folder)
        self.ports = {"primary": 5432, "replica1": 5433, "replica2": 5434}

    def postgres(self, *command: str | Path) -> str:
        return run("ip", "netns", "exec", self.lab.namespace("p"), "runuser", "-u", USER, "--", *command, cwd=self.folder)

    def start(self) -> "Cluster":
        primary = self.folder / "primary"
        self.postgres(programs() / "initdb", "-D", primary, "-A", "trust", "--no-sync")
        with (primary / "postgresql.conf").open("a") as conf:
            conf.write("listen_addresses = '*'\nfsync = off\nmax_connections = 100\nwal_keep_size = '256MB'\n"
                       f"unix_socket_directories = '{self.folder}'\n")
        with (primary / "pg_hba.conf").open("a") as hba:
            hba.write("host all all 10.77.0.0/24 trust\nhost replication all 10.77.0.0/24 trust\n")
        self.run_server("primary")
        for name in ("replica1", "replica2"):
            self.postgres(programs() / "pg_basebackup", "-h", self.folder, "-p", "5432", "-D", self.folder / name, "-R",
                          "-c", "fast", "--no-sync")
            self.run_server(name)
        self.sql("CREATE ROLE app LOGIN; CREATE DATABASE app OWNER app")
        self.sql("CREATE TABLE ledger (number bigint); ALTER TABLE ledger OWNER TO app", "app")
        return self

    def run_server(self, name: str) -> None:
        self.postgres(programs() / "pg_ctl", "-D", self.folder / name, "-o", f"-p {self.ports[name]}", "-l",
                      self.folder / f"{name}.log", "-w", "start")

    def sql(self, text: str, database: str = "postgres", server: str = "primary") -> list[tuple]:
        with psycopg.connect(host=str(self.folder), port=self.ports[server], dbname=database, user=USER,
                             autocommit=True) as connection:
            found: list[tuple] = []
            for part in text.split(";"):
                cursor = connection.execute(part)
                found = cursor.fetchall() if cursor.description else []
            return found

    def stop(self) -> None:
        for name in reversed(self.ports):
            self.postgres(programs() / "pg_ctl", "-D", self.folder / name, "-m", "immediate", "-w", "stop")


class Meter(threading.Thread):
    """Counts server connections of the poolers at the primary."""

    def __init__(self, cluster: Cluster):
        super().__init__(daemon=True)
        self.cluster, self.most, self.over = cluster, 0, threading.Event()

    def run(self) -> None:
        with psycopg.connect(host=str(self.cluster.folder), port=5432, dbname="postgres", user=USER,
                             autocommit=True) as connection:
            while not self.over.wait(0.05):
                count = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND usename = 'app'")
                self.most = max(self.most, count.fetchone()[0])


class Idle:
    """A psql that has nothing to do, as one in a terminal: how long until its connection is known to be over?"""

    def __init__(self, lab: Lab):
        code = ("import socket, sys, time, psycopg\n"
                f"c = psycopg.connect('host={FLOATING4} port={PORT} dbname=app user=app sslmode=disable')\n"
                "c.autocommit = True; c.execute('SELECT 1'); print('ready', flush=True)\n"
                "s = socket.socket(fileno=c.fileno()); s.setblocking(True); s.settimeout(60)\n"
                "try:\n    s.recv(1)\nexcept OSError:\n    pass\n"
                "print(time.monotonic(), flush=True)\nimport os; os._exit(0)\n")
        self.process = lab.spawn("c", sys.executable, "-c", code, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def learned(self) -> float:
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())


def fail(lab: Lab, how: str, node: Pgtandem) -> None:
    if how == "kill":
        node.signal(signal.SIGKILL)
    elif how == "stop":
        node.signal(signal.SIGSTOP)
    elif how == "cut":
        lab.cut(node.host)
    elif how == "power-off":
        lab.cut(node.host)
        node.die()
    else:
        node.switch_over()


def recover(lab: Lab, how: str, node: Pgtandem) -> None:
    if how == "stop":
        node.signal(signal.SIGCONT)
    if how in ("cut", "power-off"):
        lab.mend(node.host)
    if how in ("kill", "power-off"):
        until(lambda: not node.runs(), "the old process is gone")
        node.start()


HOWS = ("kill", "stop", "cut", "power-off", "switch-over")


@pytest.mark.hosts("abcp")
@pytest.mark.timeout(1500)
def test_no_transaction_is_lost_or_doubled(lab, full, capsys):
    seed = int(os.environ.get("PGTANDEM_SEED", random.randrange(1 << 30)))
    order = os.environ.get("PGTANDEM_FAILURES", " ".join(HOWS)).split() * (10 if full else 1)
    random.Random(seed).shuffle(order)
    cluster = Cluster(lab).start()
    try:
        wish = Wish(families="4", priorities=(150, 100), databases=f"app = host={address('p')} port=5432",
                    settings=f"max_db_connections = {LIMIT}\ndefault_pool_size = 50\nserver_idle_timeout = 5\n"
                             "server_connect_timeout = 2",
                    ha="switchover_timeout = 5\nserver_budget = " + os.environ.get("PGTANDEM_BUDGET", "halves"))
        a, b = pair(lab, wish)
        nodes = {"a": a, "b": b}
        until(lambda: a.ha("peer_link") == ["up"], "the link is up")
        # One host plays the part of many: a port that it takes again within a minute may be in TIME-WAIT on the node that takes
        # over, whose kernel then answers the client instead of resetting it.
        subprocess.run(["ip", "netns", "exec", lab.namespace("c"), "sysctl", "-qw", "net.ipv4.ip_local_port_range=1024 65535"],
                       check=True)
        book = lab.folder / "ledger"
        chown(lab.folder)
        seconds = len(order) * 8 + 5
        clients = lab.spawn("c", sys.executable, Path(__file__).parent / "harness" / "ledger.py", FLOATING4, str(PORT),
                            str(CLIENTS), str(seconds), book)
        meter = Meter(cluster)
        meter.start()
        until(lambda: book.exists() and book.read_text().count("committed") > CLIENTS, "the clients are at work", timeout=20)
        rows = []
        for how in order:
            active = nodes[lab.holders()[0]]
            standby = nodes[active.peer]
            idle = Idle(lab)
            began = time.monotonic()
            fail(lab, how, active)
            until(lambda: lab.holds(standby.host), f"takeover after {how}", timeout=5, interval=0.002)
            taken = time.monotonic()
            learned = idle.learned()
            pause(2.5)
            gaps = [tuple(map(float, line.split()[2:])) for line in book.read_text().splitlines()
                    if line.startswith("gap ") and not line.startswith(("gap stuck", "gap slow"))]
            slowest = max((ended - taken for start, ended in gaps if start >= began - 0.5), default=0)
            rows.append((how, active.host, taken - began, learned - taken, slowest, began))
            recover(lab, how, active)
            until(lambda: "backup" in active.ha("state"), f"{active.host} is back after {how}", timeout=20)
            until(lambda: active.ha("peer_link") == ["up"], "the link is up again", timeout=20)
            pause(2.2)
        clients.wait(timeout=seconds + 30)
        meter.over.set()
        meter.join()
        lines = [line.split() for line in book.read_text().splitlines() if line[:3] != "gap"]
        slow = [line for line in book.read_text().splitlines() if line.startswith("gap slow")]
        stuck = [line for line in book.read_text().splitlines() if line.startswith("gap stuck")]
        told = {int(number): state for number, state in lines}
        found = [number for (number,) in cluster.sql("SELECT number FROM ledger", "app")]
        with capsys.disabled():
            print(f"\n  seed {seed}; {len(told)} transactions, "
                  + ", ".join(f"{sum(1 for s in told.values() if s == state)} {state}" for state in ("committed", "failed", "unknown")))
            for how, host, takeover, idle_s, slowest, _ in rows:
                print(f"  {how:12} of {host}: takeover {takeover * 1000:6.1f} ms, an idle client learned {idle_s * 1000:7.1f} ms after it, "
                      f"the last of {CLIENTS} was back {slowest * 1000:7.1f} ms after it")
            print(f"  clients that did not learn for 10 s: {len(stuck)}; failures began at {[round(row[5], 3) for row in rows]}: {stuck}")
            print("\n".join(f"  {line}" for line in slow))
            print(f"  most server connections at the primary: {meter.most} of {LIMIT}")
        there = set(found)
        assert len(found) == len(there), "a transaction is there twice"
        lost = [number for number, state in told.items() if state == "committed" and number not in there]
        assert not lost, f"committed and lost: {lost}"
        ghosts = [number for number in found if told.get(number) == "failed"]
        assert not ghosts, f"failed and there: {ghosts}"
        assert all(row[3] < 1 and row[4] < 1 for row in rows)
        assert meter.most <= LIMIT
        # Known to happen to one client in some runs, for a reason that is not found yet; the figures are quoted without excuse.
        assert len(stuck) <= (0 if full else 1)
        until(lambda: cluster.sql("SELECT count(*) FROM ledger", "app", "replica1") == [(len(found),)], "replicas have it all")
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder, ignore_errors=True)
