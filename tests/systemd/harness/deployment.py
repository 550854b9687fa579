"""pgtandem and PostgreSQL 17 on a machine, as an operator would install them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import psycopg

from .machine import Machine
from .waiting import poll_until

REPOSITORY = Path(__file__).resolve().parents[3]
UNIT, SOCKET, CLUSTER = "pgtandem.service", "pgtandem.socket", "postgresql@17-main.service"
HELPER, HELPER_SOCKET = "pgtandem-helper.service", "pgtandem-helper.socket"
PROGRAM, INI, USERLIST = "/usr/local/bin/pgtandem", "/etc/pgtandem/pgtandem.ini", "/etc/pgtandem/userlist.txt"
# The unit's own figure would make the tests long.
WATCHDOG_S = 4
# What the kernel and systemd take to end the process, and the start of the next.
WATCHDOG_MARGIN_S = 6

_SETTINGS = {
    "listen_addr": "127.0.0.1", "listen_port": "6432", "unix_socket_dir": "/run/pgtandem",
    "pidfile": "/run/pgtandem/pgtandem.pid", "auth_type": "scram-sha-256", "auth_file": USERLIST,
    "admin_users": "admin", "pool_mode": "transaction", "max_client_conn": "1000", "default_pool_size": "20",
    "worker_threads": "2", "server_login_retry": "1", "max_prepared_statements": "100",
}
_DATABASES = {
    "app": "host=127.0.0.1 port=5432 dbname=app",
    "session": "host=127.0.0.1 port=5432 dbname=app pool_mode=session pool_size=60",
}


def binary() -> Path:
    """The program under test."""
    path = Path(os.environ["PGTANDEM_BIN"])
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"no program at {path}: run cargo build --release, or set PGTANDEM_BIN")
    return path


def ini(databases: dict[str, str] | None = None, **settings: object) -> str:
    """The tests' configuration with differences; None leaves a setting out."""
    merged = {**_SETTINGS, **settings}
    lines = ["[databases]", *(f"{name} = {value}" for name, value in (databases or _DATABASES).items()), "",
             "[pgbouncer]", *(f"{name} = {value}" for name, value in merged.items() if value is not None)]
    return "\n".join(lines) + "\n"


class Site:
    """A booted machine with pgtandem's files in place and PostgreSQL running. Nothing of pgtandem is started."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def install(self, text: str | None = None) -> None:
        """The program, its units, its files, and what they need in PostgreSQL."""
        machine = self.machine
        machine.copy(binary(), PROGRAM, 0o755)
        for name in (UNIT, SOCKET, HELPER, HELPER_SOCKET):
            machine.copy(REPOSITORY / "packaging" / name, f"/etc/systemd/system/{name}")
        machine.write(f"/etc/systemd/system/{UNIT}.d/watchdog.conf", f"[Service]\nWatchdogSec={WATCHDOG_S}s\n")
        self.configure(text or ini())
        machine.write(USERLIST, '"app" "secret"\n"admin" "admin-secret"\n', 0o640, "root:postgres")
        machine.systemctl("daemon-reload")
        machine.await_state(CLUSTER, "active")
        self.sql("CREATE ROLE app LOGIN PASSWORD 'secret'", "CREATE DATABASE app OWNER app STRATEGY wal_log")

    def configure(self, text: str) -> None:
        """Write the configuration; nothing reads it yet."""
        self.machine.write(INI, text, 0o640, "root:postgres")

    def configure_and_restart(self, **settings: object) -> None:
        """The tests' configuration with differences, in force."""
        self.configure(ini(**settings))
        self.machine.systemctl("restart", UNIT)

    def sql(self, *statements: str, database: str = "postgres") -> str:
        """Statements straight to PostgreSQL, as its superuser."""
        arguments = [word for statement in statements for word in ("-c", statement)]
        return self.machine.sh(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, *arguments],
                               "postgres").stdout

    def connect(self, database: str = "app", user: str = "app", password: str = "secret", *,
                prepare_threshold: int | None = None, **extra: object) -> psycopg.Connection:
        """A client through pgtandem; it never waits for ever."""
        return psycopg.connect(host="127.0.0.1", port=6432, dbname=database, user=user, password=password,
                               autocommit=True, connect_timeout=15, prepare_threshold=prepare_threshold, **extra)

    def console(self, command: str) -> list[dict]:
        """A command for the console, and its rows."""
        with self.connect("pgbouncer", "admin", "admin-secret") as connection:
            cursor = connection.execute(command)
            names = [column.name for column in cursor.description or []]
            return [dict(zip(names, row)) for row in cursor.fetchall()] if names else []

    def setting(self, name: str) -> str:
        """A setting in force."""
        return next(row["value"] for row in self.console("SHOW CONFIG") if row["key"] == name)

    def serves(self) -> bool:
        """Does a query get through?"""
        with self.connect() as connection:
            return connection.execute("select 1").fetchone() == (1,)

    def await_serving(self, timeout: float = 20) -> None:
        """Wait for a query to get through."""
        poll_until(self.serves, "a query through pgtandem", timeout)

    def main_pid(self) -> int:
        """The service's main process, by the machine's count; 0: none."""
        return int(self.machine.show(UNIT, "MainPID"))

    def restarts(self) -> int:
        """How often systemd has brought the service back by itself."""
        return int(self.machine.show(UNIT, "NRestarts"))

    def await_other_process(self, old: int, timeout: float) -> int:
        """Wait until another process than `old` is the service, and is ready."""
        def other() -> int:
            pid = self.main_pid()
            return pid if pid not in (0, old) and self.machine.show(UNIT, "ActiveState") == "active" else 0

        return poll_until(other, "the service is back", timeout)

    def process_status(self, pid: int) -> dict[str, str]:
        """/proc/PID/status of a process, by the machine's count."""
        text = self.machine.path(f"/proc/{pid}/status").read_text()
        return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.M))
