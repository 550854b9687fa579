"""Run the pooler under test with a given pgbouncer.ini."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from . import process
from .configuration import Ini
from .wire import Wire

REPOSITORY = Path(__file__).resolve().parents[3]


def binary() -> Path:
    """The program under test: PGTANDEM_BIN, else the release build of this repository."""
    asked = os.environ.get("PGTANDEM_BIN")
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    path = Path(asked).resolve() if asked else target / "release" / "pgtandem"
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"no pooler to test at {path}: run `cargo build --release`, or set PGTANDEM_BIN")
    return path


class Pooler:
    """One pooler process. `ini` is its configuration file, which a test may rewrite before `reload`."""

    def __init__(self, folder: Path, text: str, port: int, user: str | None, sockets: Path):
        self.folder, self.port, self.user, self.sockets = folder, port, user, sockets
        self.ini = folder / "pgbouncer.ini"
        self.stderr = folder / "stderr.log"
        self.logfile: Path | None = None
        self.process: subprocess.Popen | None = None
        # Credentials of a console user, when the test's configuration has one.
        self.admin_user, self.admin_password = "console", "console password"
        self.admin_sslmode = "prefer"
        self.configuration: Ini | None = None
        self.write(text)

    @property
    def pid(self) -> int:
        assert self.process is not None, "the pooler is not running"
        return self.process.pid

    def write(self, text: str) -> None:
        """Replace the configuration file; nothing happens before a reload."""
        self.ini.write_text(text)
        process.give_to_user(self.ini, self.user)

    def start(self, arguments: list | None = None, env: dict | None = None) -> Pooler:
        self.process = process.spawn([binary(), *(arguments or []), self.ini], user=self.user, stderr=self.stderr,
                                     cwd=self.folder, env=env)
        process.poll_until(self._serves, "the pooler serves", timeout=15)
        return self

    def says_up(self, pid: int) -> bool:
        """Whether this process has logged that it serves."""
        lines = [line for line in self.log().splitlines() if "process up" in line]
        # PgBouncer before 1.25 names its pid only in front.
        return any(line.endswith(f"pid {pid}") or f"[{pid}] LOG" in line for line in lines)

    def _serves(self) -> bool:
        if self.process.poll() is not None:
            # Not an Exception: poll_until must not go on polling a dead process.
            raise PoolerEnded(f"the pooler ended with {self.process.returncode}:\n{self.log()[-3000:]}")
        with socket.create_connection(("127.0.0.1", self.port), timeout=1):
            # TCP sockets are open before the Unix socket is, and before signals are handled.
            return self.says_up(self.pid)

    def stop(self, how: int = signal.SIGQUIT) -> int | None:
        if self.process is None:
            return None
        code = process.stop(self.process, how)
        self.process = None
        return code

    def log(self) -> str:
        """Everything logged so far, whether to the log file or to standard error."""
        text = self.stderr.read_text(errors="replace") if self.stderr.exists() else ""
        if self.logfile is not None and self.logfile.exists():
            text += self.logfile.read_text(errors="replace")
        return text

    def wait_log(self, text: str, count: int = 1, timeout: float = 10) -> None:
        """Wait until the log holds `text` at least `count` times."""
        process.poll_until(lambda: self.log().count(text) >= count, f"{text!r} in the log", timeout)

    def hangup(self) -> None:
        """SIGHUP: reload the configuration."""
        os.kill(self.pid, signal.SIGHUP)

    # -- clients

    def dsn(self, dbname: str = "app", user: str = "app", password: str | None = "app password", **more) -> str:
        """A connection string of libpq for this pooler."""
        fields = {"host": "127.0.0.1", "port": self.port, "dbname": dbname, "user": user, "connect_timeout": 15,
                  "password": password, **more}
        return psycopg.conninfo.make_conninfo(**{k: v for k, v in fields.items() if v is not None})

    def connect(self, dbname: str = "app", user: str = "app", password: str | None = "app password",
                autocommit: bool = True, **more) -> psycopg.Connection:
        """A psycopg connection through the pooler, autocommit unless told otherwise."""
        return psycopg.connect(self.dsn(dbname, user, password, **more), autocommit=autocommit)

    def console(self, user: str | None = None, password: str | None = None) -> psycopg.Connection:
        """A connection to the admin console."""
        return psycopg.connect(
            self.dsn("pgbouncer", user or self.admin_user, password or self.admin_password,
                     sslmode=self.admin_sslmode),
            autocommit=True, cursor_factory=psycopg.ClientCursor)

    def admin(self, command: str) -> list[dict]:
        """Run one console command; the rows by column name."""
        with self.console() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(command)
            return cursor.fetchall() if cursor.description else []

    def setting(self, key: str) -> str | None:
        """A value of SHOW CONFIG."""
        rows = {row["key"]: row["value"] for row in self.admin("SHOW CONFIG")}
        assert key in rows, f"SHOW CONFIG has no {key}"
        return rows[key]

    def pool(self, database: str = "app", user: str = "app") -> dict:
        """The row of SHOW POOLS for (database, user)."""
        rows = [r for r in self.admin("SHOW POOLS") if (r["database"], r["user"]) == (database, user)]
        assert rows, f"SHOW POOLS has no row for {database}/{user}"
        return rows[0]

    def servers(self, database: str = "app") -> list[dict]:
        """The rows of SHOW SERVERS of one database."""
        return [r for r in self.admin("SHOW SERVERS") if r["database"] == database]

    def wire(self, database: str = "app", user: str = "app", password: str = "app password", **more: str) -> Wire:
        """A logged-in connection of raw frames."""
        return self.raw().login(user, database, password, **more)

    def raw(self, timeout: float = 15) -> Wire:
        """A connection of raw frames on which nothing has been sent."""
        return Wire(self.port, timeout=timeout)

    # -- memory, KiB

    def memory(self, field: str = "VmRSS") -> int:
        """A field of /proc/PID/status in KiB: VmRSS now, VmHWM the highest since `reset_peak`."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise AssertionError(f"no {field} in /proc/{self.pid}/status")

    def reset_peak(self) -> None:
        """Forget the highest resident size so far (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


class PoolerEnded(BaseException):
    """The pooler ended at start: no polling will help."""
