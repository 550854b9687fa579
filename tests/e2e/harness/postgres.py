"""A throwaway PostgreSQL primary with two streaming replicas."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from . import process
from .certificates import Pair
from .ports import free_port

# Speed over safety: the data is thrown away.
_SETTINGS = """
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 64MB
max_connections = 300
max_wal_senders = 10
hot_standby = on
wal_level = logical
wal_keep_size = 256MB
checkpoint_timeout = 1h
max_wal_size = 8GB
max_parallel_workers_per_gather = 0
jit = off
log_connections = on
log_disconnections = on
log_line_prefix = '%m [%p] %u@%d '
listen_addresses = '127.0.0.1,::1'
ssl = on
ssl_cert_file = '{cert}'
ssl_key_file = '{key}'
ssl_ca_file = '{client_ca}'
"""

_HBA = """
local   all          postgres                  trust
local   all          all                       md5
local   replication  postgres                  trust
host    replication  replicator   127.0.0.1/32 md5
hostssl all          cert_user    127.0.0.1/32 cert
host    all          trusted      127.0.0.1/32 trust
host    all          all          127.0.0.1/32 md5
host    all          all          ::1/128      md5
"""


def programs() -> Path:
    """The folder with initdb and postgres."""
    asked = os.environ.get("PG_BINDIR")
    if asked:
        return Path(asked)
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parent.parent.name))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).parent
    raise RuntimeError("no PostgreSQL server programs: install postgresql, or set PG_BINDIR to their folder")


class Node:
    """One PostgreSQL server process and its data folder."""

    def __init__(self, base: Path, name: str, user: str | None):
        self.name, self.user = name, user
        self.port = free_port()
        self.data = base / name
        self.sockets = base
        self.log = base / f"{name}.log"
        self.process: subprocess.Popen | None = None

    def launch(self) -> None:
        """Start the server; `wait_ready` tells when it answers."""
        self.process = process.spawn(
            [programs() / "postgres", "-D", self.data, "-p", self.port, "-k", self.sockets], user=self.user,
            stderr=self.log, death_signal=signal.SIGQUIT)

    def wait_ready(self) -> None:
        """Block until a query goes through."""
        def answers() -> bool:
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()[-2000:]}")
            with self.connect(connect_timeout=2) as connection:
                return connection.execute("select 1").fetchone() == (1,)

        process.poll_until(answers, f"{self.name} answers", timeout=30, interval=0.05)

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def stop(self, how: int = signal.SIGINT) -> None:
        """SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one."""
        if self.process is not None:
            process.stop(self.process, how, timeout=15)
            self.process = None

    def connect(self, dbname: str = "postgres", user: str = "postgres", **more) -> psycopg.Connection:
        """A direct connection (autocommit) over the Unix socket, by default as superuser."""
        return psycopg.connect(host=str(self.sockets), port=self.port, dbname=dbname, user=user, autocommit=True,
                               **more)

    def sql(self, query: str, dbname: str = "postgres", parameters=None) -> list[tuple]:
        """Run one statement as superuser and give its rows."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []


class Cluster:
    """A primary and two replicas with the users and the database of the revenue-engine and enterprisescanner files."""

    def __init__(self, base: Path, user: str | None, server_cert: Pair, client_ca: Path, inputs: Path):
        self.base, self.user = base, user
        self.cert, self.client_ca, self.inputs = server_cert, client_ca, inputs
        self.primary = Node(base, "postgres-primary", user)
        self.replicas = [Node(base, f"postgres-replica-{n}", user) for n in (1, 2)]

    def start(self) -> None:
        self._make_primary()
        self._make_roles()
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._copy_primary, self.replicas))
        # Not from the threads above: a process is signalled as soon as the thread that started it ends.
        for node in self.replicas:
            node.launch()
        for node in self.replicas:
            node.wait_ready()

    def stop(self) -> None:
        nodes = (*self.replicas, self.primary)
        for node in nodes:  # all at once, then wait
            if node.process is not None and node.process.poll() is None:
                node.process.send_signal(signal.SIGQUIT)
        for node in nodes:
            node.stop(signal.SIGQUIT)

    def _make_primary(self) -> None:
        process.run([programs() / "initdb", "-D", self.primary.data, "-U", "postgres", "-A", "trust", "--no-sync",
                     "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"], user=self.user)
        with (self.primary.data / "postgresql.auto.conf").open("a") as file:
            file.write(_SETTINGS.format(cert=self.cert.cert, key=self.cert.key, client_ca=self.client_ca))
        (self.primary.data / "pg_hba.conf").write_text(_HBA)
        self.primary.start()

    def _copy_primary(self, node: Node) -> None:
        process.run([programs() / "pg_basebackup", "-R", "-c", "fast", "--no-sync", "-D", node.data, "-h",
                     self.primary.sockets, "-p", self.primary.port, "-U", "postgres"], user=self.user)

    def _make_roles(self) -> None:
        with self.primary.connect() as connection:
            def role(name: str, password: str, encryption: str, options: str = "") -> None:
                connection.execute(f"set password_encryption = '{encryption}'")
                connection.execute(f"""create role "{name}" login {options} password '{password}'""")

            # Both forms of stored password behind the md5 method of pg_hba.conf, as after a half-done migration.
            forms = {"revenue_user": "scram-sha-256", "analytics_user": "md5", "pgbouncer_admin": "scram-sha-256",
                     "monitor_user": "md5", "admin": "md5"}
            for name, password in userlist(self.inputs / "revenue-engine/userlist.txt").items():
                role(name, password, forms[name])
            for name, password in userlist(self.inputs / "enterprisescanner/userlist.txt").items():
                role(name, password, forms[name])
            for name, password, encryption in ROLES:
                role(name, password, encryption)
            role("replicator", "replicator password", "scram-sha-256", "replication")
            connection.execute("grant pg_signal_backend to app")
            connection.execute("create database revenue_engine owner revenue_user")
            connection.execute("create database enterprisescanner owner admin")
            connection.execute("create database app owner app")
        for database in ("app", "revenue_engine"):
            self.primary.sql("grant all on schema public to public", database)


# name, password, form in which PostgreSQL stores it
ROLES = [
    ("app", "app password", "scram-sha-256"),
    ("alice", "alice password", "scram-sha-256"),
    ("bob", "bob password", "md5"),
    ("cert_user", "unused", "scram-sha-256"),
    ("trusted", "unused", "scram-sha-256"),
]


def userlist(path: Path) -> dict[str, str]:
    """The names and secrets of a userlist.txt."""
    return dict(re.findall(r'^"([^"]*)" "([^"]*)"', path.read_text(), re.M))
