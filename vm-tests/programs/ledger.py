#!/usr/bin/env python3
"""Clients that write into a ledger and remember what they were told of each transaction, and readers that count.

    ledger init DSN                    make an empty ledger
    ledger run DSN [options]           write until SIGTERM; each client connects again when its connection is lost
    ledger mark NAME                   note that something happens now
    ledger back [--acks N]             succeed once each client has N transactions acknowledged since the last mark
    ledger report DSN                  compare what was told with what is there; JSON
    ledger reads DSN [options]         count by which server reads are answered; JSON

What was told stands in a file (--book), a line each: `told CLIENT NUMBER STATE SECONDS` and `mark NAME SECONDS`, by the monotonic
clock of the machine. STATE is `committed` (the client was told so), `failed` (it was told not, or never asked), or `unknown` (the
connection ended between COMMIT and its answer). Two ledgers at once take a --book and a --table each.
"""

from __future__ import annotations

import argparse
import collections
import json
import select
import signal
import sys
import threading
import time
from typing import Any

import psycopg2
import psycopg2.extensions

BOOK = "/var/tmp/ledger"
# A client that waits longer than this for one answer takes its connection for dead.
STUCK_S = 10.0
CONNECT_S = 2.0
# Between two attempts to connect.
PAUSE_S = 0.05


class Stuck(psycopg2.OperationalError):
    """No answer in time."""


_patience = threading.local()


def _wait(connection: Any) -> None:
    """psycopg2's wait for the server, but not for ever."""
    deadline = time.monotonic() + getattr(_patience, "seconds", STUCK_S)
    while True:
        state = connection.poll()
        if state == psycopg2.extensions.POLL_OK:
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise Stuck("no answer in time")
        if state == psycopg2.extensions.POLL_READ:
            select.select([connection.fileno()], [], [], left)
        else:
            select.select([], [connection.fileno()], [], left)


def connect(dsn: str) -> Any:
    """A connection without transactions of the driver's own."""
    _patience.seconds = CONNECT_S
    try:
        connection = psycopg2.connect(dsn)
    finally:
        _patience.seconds = STUCK_S
    connection.autocommit = True
    return connection


def execute(connection: Any, text: str) -> list[tuple[Any, ...]]:
    """A statement, and its rows."""
    with connection.cursor() as cursor:
        cursor.execute(text)
        return list(cursor.fetchall()) if cursor.description else []


class Writer(threading.Thread):
    """One client: a transaction with one number, a pause, and so on."""

    def __init__(self, number: int, arguments: argparse.Namespace, book: Any, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.number, self.arguments, self.book, self.over = number, arguments, book, over
        self.sequence = 0

    def run(self) -> None:
        """Until it is over."""
        while not self.over.is_set():
            connection = None
            try:
                connection = connect(self.arguments.dsn)
                while not self.over.wait(self.arguments.pace):
                    self.transaction(connection)
            except psycopg2.Error as error:
                self.book.write(f"lost {self.number} {' '.join(str(error).split())[:200]}\n")
                self.over.wait(PAUSE_S)
            finally:
                if connection is not None:
                    connection.close()

    def transaction(self, connection: Any) -> None:
        """One number into the ledger, and what came of it into the book."""
        self.sequence += 1
        name = self.number * 1_000_000 + self.sequence
        state = "failed"
        try:
            execute(connection, "BEGIN")
            execute(connection, f"INSERT INTO {self.arguments.table} VALUES ({name})")
            state = "unknown"
            execute(connection, "COMMIT")
            state = "committed"
        finally:
            self.book.write(f"told {self.number} {name} {state} {time.monotonic():.4f}\n")


def run(arguments: argparse.Namespace) -> int:
    """All clients, until SIGTERM."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: over.set())
    with open(arguments.book, "w", encoding="utf-8"):
        pass
    # Appending: marks are written by other processes.
    with open(arguments.book, "a", buffering=1, encoding="utf-8") as book:
        clients = [Writer(number, arguments, book, over) for number in range(1, arguments.clients + 1)]
        for client in clients:
            client.start()
        # Not wait() without a limit: only between two waits can the signal be heard.
        while not over.wait(0.2):
            pass
        for client in clients:
            client.join(STUCK_S + CONNECT_S)
    return 0


def init(arguments: argparse.Namespace) -> int:
    """An empty ledger. Without a key: a number that is there twice is to be seen, not refused."""
    connection = connect(arguments.dsn)
    execute(connection, f"DROP TABLE IF EXISTS {arguments.table}")
    execute(connection, f"CREATE TABLE {arguments.table} (number bigint)")
    connection.close()
    return 0


def mark(arguments: argparse.Namespace) -> int:
    """Note the time."""
    with open(arguments.book, "a", encoding="utf-8") as book:
        book.write(f"mark {arguments.name} {time.monotonic():.4f}\n")
    return 0


def lines(book: str) -> list[list[str]]:
    """The book; its last line may be half written."""
    with open(book, encoding="utf-8") as text:
        return [line.split() for line in text if line.endswith("\n")]


def back(arguments: argparse.Namespace) -> int:
    """Is every client at work again?"""
    acks: collections.Counter[str] = collections.Counter()
    clients = set()
    for words in lines(arguments.book):
        if words[0] == "mark":
            acks.clear()
        elif words[0] == "told":
            clients.add(words[1])
            acks[words[1]] += words[3] == "committed"
    missing = [client for client in clients if acks[client] < arguments.acks]
    return 0 if clients and not missing else 1


def gaps(book: list[list[str]]) -> dict[str, dict[str, Any]]:
    """For each mark, until the next one: how many transactions were acknowledged, and the longest time that a client was without
    an acknowledgement."""
    marks = [(words[1], float(words[2])) for words in book if words[0] == "mark"]
    acked = collections.defaultdict(list)
    for words in book:
        if words[0] == "told" and words[3] == "committed":
            acked[words[1]].append(float(words[4]))
    found: dict[str, dict[str, Any]] = {}
    for index, (name, begun) in enumerate(marks):
        ended = marks[index + 1][1] if index + 1 < len(marks) else float("inf")
        longest = 0.0
        for times in acked.values():
            # What was acknowledged last before the mark counts from the mark; what has not been by the next one counts until then.
            within = [begun, *(at for at in times if begun < at < ended)] + [ended] * (ended != float("inf"))
            longest = max([longest, *(later - earlier for earlier, later in zip(within, within[1:]))])
        count = sum(begun < at < ended for times in acked.values() for at in times)
        found[name] = {"longest_s": round(longest, 3), "committed": count}
    return found


def report(arguments: argparse.Namespace) -> int:
    """What was told, beside what is there."""
    book = lines(arguments.book)
    told = {int(words[2]): words[3] for words in book if words[0] == "told"}
    connection = connect(arguments.dsn)
    there = [int(row[0]) for row in execute(connection, f"SELECT number FROM {arguments.table}")]
    connection.close()
    once = set(there)
    states = collections.Counter(told.values())
    print(json.dumps({
        "clients": len({words[1] for words in book if words[0] == "told"}),
        "committed": states["committed"], "failed": states["failed"], "unknown": states["unknown"], "there": len(there),
        "lost": sorted(number for number, state in told.items() if state == "committed" and number not in once),
        "doubled": sorted(number for number, count in collections.Counter(there).items() if count > 1),
        "ghosts": sorted(number for number in once if told.get(number, "failed") == "failed"),
        "marks": gaps(book),
        "errors": dict(collections.Counter(" ".join(words[2:]) for words in book if words[0] == "lost").most_common(20)),
    }))
    return 0


class Reader(threading.Thread):
    """One client that reads, and counts who has answered."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__(daemon=True)
        self.arguments = arguments
        self.answers: collections.Counter[str] = collections.Counter()
        self.errors: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0

    def run(self) -> None:
        """All its reads, each until it is answered."""
        connection = None
        for _ in range(self.arguments.count):
            begun = time.monotonic()
            while True:
                try:
                    connection = connection or connect(self.arguments.dsn)
                    rows = execute(connection, f"SELECT host(inet_server_addr()), pg_sleep({self.arguments.hold})")
                    break
                except psycopg2.Error as error:
                    self.errors[" ".join(str(error).split())[:200]] += 1
                    if connection is not None:
                        connection.close()
                    connection = None
                    if time.monotonic() - begun > self.arguments.limit:
                        self.errors["given up"] += 1
                        return
                    time.sleep(PAUSE_S)
            self.answers[str(rows[0][0])] += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
        if connection is not None:
            connection.close()


def reads(arguments: argparse.Namespace) -> int:
    """All readers at once, and the sums of what they saw."""
    readers = [Reader(arguments) for _ in range(arguments.clients)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    answers: collections.Counter[str] = collections.Counter()
    errors: collections.Counter[str] = collections.Counter()
    for reader in readers:
        answers.update(reader.answers)
        errors.update(reader.errors)
    print(json.dumps({"answers": dict(answers), "errors": dict(errors),
                      "slowest_s": round(max(reader.slowest for reader in readers), 3)}))
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="ledger")
    parser.add_argument("--book", default=BOOK)
    parser.add_argument("--table", default="ledger")
    commands = parser.add_subparsers(required=True)
    for function, positional in ((init, "dsn"), (run, "dsn"), (mark, "name"), (back, None), (report, "dsn"), (reads, "dsn")):
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        if positional:
            command.add_argument(positional)
        if function in (run, reads):
            command.add_argument("--clients", type=int, default=10)
        if function is run:
            command.add_argument("--pace", type=float, default=0.05, help="seconds between two transactions of a client")
        if function is back:
            command.add_argument("--acks", type=int, default=3)
        if function is reads:
            command.add_argument("--count", type=int, default=20, help="reads of each client")
            command.add_argument("--hold", type=float, default=0.02, help="seconds that each read takes")
            command.add_argument("--limit", type=float, default=20, help="seconds after which a client gives up")
    arguments = parser.parse_args()
    psycopg2.extensions.set_wait_callback(_wait)
    return int(arguments.function(arguments))


if __name__ == "__main__":
    sys.exit(main())
