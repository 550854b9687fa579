"""Clients that notice when a restart costs them something: a load, idle psql sessions, a meter of pauses."""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .deployment import Site

_HERE = Path(__file__).parent
_SELECT = "\\set aid random(1, 100000)\nselect abalance from pgbench_accounts where aid = :aid;\n"
# Several messages in one transaction, and a row that tells whether it took place once, never or twice.
_CHANGE = """\\set aid random(1, 100000)
\\set delta random(-5000, 5000)
begin;
update pgbench_accounts set abalance = abalance + :delta where aid = :aid;
select abalance from pgbench_accounts where aid = :aid;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :aid, :delta, current_timestamp);
end;
"""


class Psql:
    """An interactive psql on a pipe."""

    def __init__(self, site: Site, database: str) -> None:
        self._asked = 0
        self._read = b""
        uri = f"postgresql://app:secret@127.0.0.1:6432/{database}?connect_timeout=30"
        self._process = site.machine.spawn(["psql", "-XqAt", "--no-readline", uri], "nobody", stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)

    def send(self, text: str) -> None:
        """Type something; `answer` tells what came of it."""
        self._asked += 1
        self._process.stdin.write(f"{text}\n\\echo --end-{self._asked}--\n".encode())

    def answer(self, timeout: float = 60) -> str:
        """All that was printed for what was typed last, errors too; what was printed unasked comes first."""
        end = f"--end-{self._asked}--\n".encode()
        deadline = time.monotonic() + timeout
        while end not in self._read:
            left = deadline - time.monotonic()
            assert left > 0, f"psql did not answer within {timeout} s: {self._read!r}"
            if not select.select([self._process.stdout], [], [], left)[0]:
                continue
            chunk = self._process.stdout.read(65536)
            if not chunk:
                raise AssertionError(f"psql ended: {self._read.decode(errors='replace')!r}")
            self._read += chunk
        text, _, self._read = self._read.partition(end)
        return text.decode()

    def ask(self, text: str) -> str:
        """`send` and `answer`."""
        self.send(text)
        return self.answer()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@dataclass(frozen=True)
class Result:
    """What pgbench says at its end."""

    text: str
    transactions: int
    changes: int
    failed: int


class Load:
    """pgbench with many clients: single selects and transactions of several statements, at a steady rate."""

    def __init__(self, site: Site, clients: int, seconds: int, rate: int, database: str = "app",
                 mode: str = "extended") -> None:
        machine = site.machine
        machine.write("/tmp/select.sql", _SELECT)
        machine.write("/tmp/change.sql", _CHANGE)
        uri = f"postgresql://app:secret@127.0.0.1:6432/{database}?connect_timeout=60"
        self._process = machine.spawn(
            ["pgbench", "-n", "-c", clients, "-j", 1, "-T", seconds, "-R", rate, "-M", mode, "-P", 1,
             "-f", "/tmp/select.sql@3", "-f", "/tmp/change.sql@1", uri],
            "nobody", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._lines: list[str] = []

    @staticmethod
    def prepare(site: Site) -> None:
        """The tables, straight in PostgreSQL."""
        site.machine.sh("PGPASSWORD=secret pgbench -i -q -s 1 -h 127.0.0.1 -U app app")

    def await_progress(self, timeout: float = 60) -> None:
        """Wait until every client is connected and a second of work has been reported."""
        deadline = time.monotonic() + timeout
        while not any(line.startswith("progress:") for line in self._lines):
            assert select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))[0], self._lines
            line = self._process.stdout.readline()
            assert line, f"pgbench ended: {''.join(self._lines)}"
            self._lines.append(line)

    def runs(self) -> bool:
        """Is it still at work?"""
        return self._process.poll() is None

    def result(self, timeout: float) -> Result:
        """Wait for its end."""
        rest, _ = self._process.communicate(timeout=timeout)
        text = "".join(self._lines) + rest
        done = re.search(r"number of transactions actually processed: (\d+)", text)
        changes = re.findall(r"^ - (\d+) transactions \(", text, re.M)
        failed = re.search(r"number of failed transactions: (\d+)", text)
        assert done and failed and len(changes) == 2, text
        return Result(text, int(done[1]), int(changes[1]), int(failed[1]))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Meter:
    """The longest waits of a client that is always at work."""

    def __init__(self, database: str = "app") -> None:
        conninfo = f"host=127.0.0.1 port=6432 dbname={database} user=app password=secret"
        self._process = subprocess.Popen([sys.executable, "-B", str(_HERE / "meter.py"), conninfo],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = self._process.stdout.readline()
        assert said == "started\n", said
        self.failure: str | None = None
        self.count = 0
        self._waits: list[list[float]] = []

    def stop(self) -> None:
        """End it, and take in what it saw."""
        said, _ = self._process.communicate("\n", timeout=30)
        seen = json.loads(said)
        self.count, self.failure, self._waits = seen["count"], seen["failure"], seen["waits"]

    def longest_ms(self, start: float, end: float) -> float:
        """The longest wait that reached into this time, in ms; 0: none worth telling."""
        return max((1000 * (b - a) for a, b in self._waits if a < end and b > start), default=0.0)

    def close(self) -> None:
        """End it without a word."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
