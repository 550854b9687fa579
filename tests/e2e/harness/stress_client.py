"""One process of the isolation stress: many clients, each of which knows what only it may see.

Started by test_isolation_stress.py with one JSON argument; prints one JSON object at the end. Every row that a client
gets must carry its own number; every error an SQLSTATE and a text; nothing may take longer than the deadline.
"""

from __future__ import annotations

import asyncio
import collections
import io
import json
import random
import ssl
import sys
import time

import asyncpg
import psycopg


# Here the client still sends when its server dies. A pooler that then closes with bytes unread makes the kernel send a
# reset, which takes the error text away from the client. PgBouncer does so.
STREAMING = ("pipeline", "copy_in")


class Wrong(Exception):
    """A client saw what is not its own."""


class Tally:
    """What all clients of this process have met."""

    def __init__(self) -> None:
        self.operations: collections.Counter = collections.Counter()
        self.errors: collections.Counter = collections.Counter()
        self.violations: list[str] = []
        self.rows = 0
        self.slowest = 0.0
        self.lag = 0.0

    def violation(self, text: str) -> None:
        if len(self.violations) < 50:
            self.violations.append(text)

    def as_json(self) -> dict:
        return {"operations": dict(self.operations), "errors": dict(self.errors), "violations": self.violations,
                "rows": self.rows, "slowest": self.slowest, "lag": self.lag}


class Client:
    """One client: its number, its pool mode and its driver."""

    def __init__(self, number: int, options: dict, tally: Tally):
        self.number, self.options, self.tally = number, options, tally
        self.chance = random.Random(number * 7919 + options["seed"])
        # 13 is no factor of the shares below, so that every mode meets every driver and both kinds of transport.
        share = (number * 13) % 20
        self.mode = "tx" if share < 11 else "stmt" if share < 14 else "session" if share < 17 else "replica"
        self.tls = number % 4 == 0

    async def live(self, until: float) -> None:
        """Connect, work, leave, again and again."""
        while time.monotonic() < until:
            try:
                async with self.timed("connect"):
                    await self.connect()
            except Exception as error:  # noqa: BLE001: every kind is judged
                self.judge("connect", error)
                await asyncio.sleep(self.chance.uniform(0.05, 0.3))
                continue
            turns = self.chance.randrange(2, 5) if self.mode == "session" else self.chance.randrange(20, 200)
            await self.work(turns, until)
            try:
                async with asyncio.timeout(self.options["deadline"]):
                    await self.disconnect()
            except Exception:  # noqa: BLE001: the connection may be gone already
                pass

    async def work(self, turns: int, until: float) -> None:
        names = self.names()
        for _ in range(turns):
            if time.monotonic() > until:
                return
            name = self.chance.choice(names)
            try:
                async with self.timed(name):
                    await getattr(self, name)()
                self.tally.operations[f"{self.mode} {name}"] += 1
                # Thinking time: the clients' own processor time must not become what is measured.
                await asyncio.sleep(self.chance.uniform(0, 2 * self.options["think"]))
            except Exception as error:  # noqa: BLE001: every kind is judged
                self.judge(name, error)
                if self.is_broken() or self.is_stuck() or isinstance(error, TimeoutError) or name in STREAMING:
                    return

    def timed(self, _name: str):
        return Deadline(self.options["deadline"], self.tally)

    def check(self, rows, at_least: int = 1) -> None:
        """Every row begins with this client's number."""
        rows = list(rows)
        self.tally.rows += len(rows)
        if len(rows) < at_least:
            raise Wrong(f"client {self.number}: {len(rows)} rows instead of {at_least}")
        for row in rows:
            if int(row[0]) != self.number:
                raise Wrong(f"client {self.number} got a row of client {row[0]}: {tuple(row)!r:.200}")

    def judge(self, name: str, error: Exception) -> None:
        where = f"client {self.number} ({type(self).__name__} {self.mode}) {name}"
        if isinstance(error, Wrong):
            self.tally.violation(str(error))
        elif isinstance(error, TimeoutError):
            self.tally.violation(f"{where}: no answer within {self.options['deadline']} s")
        else:
            state, text = self.describe(name, error)
            if not state and isinstance(self, Psycopg) and self.is_broken():
                # Connected to PostgreSQL directly it does the same: in its pipeline mode psycopg reports the end of the
                # connection in place of the server's FATAL that came before it, and a block that is to be rolled back
                # ends with Rollback when the rollback itself met the broken connection.
                if name == "pipeline" or isinstance(error, psycopg.Rollback):
                    state, text = "(hidden by psycopg)", str(error) or "Rollback"
            if not state and self.options["lenient"] and name in STREAMING and self.is_broken():
                state = "(reset)"
            if not state or not text:
                self.tally.violation(f"{where}: an error without SQLSTATE or text: {type(error).__name__} {error!r}")
            self.tally.errors[f"{state} {text.splitlines()[0][:90] if text else ''}"] += 1

    def is_stuck(self) -> bool:
        return False

    def rows_wanted(self) -> int:
        return self.chance.choice([1, 1, 3, 20, 200])


class Deadline:
    """asyncio.timeout that also notes the slowest."""

    def __init__(self, seconds: float, tally: Tally):
        self.timeout, self.tally = asyncio.timeout(seconds), tally

    async def __aenter__(self):
        self.began = time.monotonic()
        await self.timeout.__aenter__()

    async def __aexit__(self, *exception):
        self.tally.slowest = max(self.tally.slowest, time.monotonic() - self.began)
        return await self.timeout.__aexit__(*exception)


class Psycopg(Client):
    """psycopg 3: simple, extended, prepared, pipelined, COPY."""

    def names(self) -> list[str]:
        names = ["simple", "extended", "prepared", "pipeline", "copy_out", "fails", "name", "large"]
        if self.mode in ("tx", "session"):
            names += ["copy_in", "transaction", "transaction"]
        return names

    async def connect(self) -> None:
        self.connection = await psycopg.AsyncConnection.connect(
            host="127.0.0.1", port=self.options["port"], user="app", password="app password",
            dbname=f"stress_{self.mode}", autocommit=True, sslmode="require" if self.tls else "disable",
            connect_timeout=int(self.options["deadline"]) + 5, application_name=f"client-{self.number}")
        # What ends a connection between two queries comes to libpq as a notice.
        self.farewell: tuple[str, str] | None = None
        self.connection.add_notice_handler(self.note)

    def note(self, diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "FATAL":
            self.farewell = (diagnostic.sqlstate or "", diagnostic.message_primary or "")

    async def disconnect(self) -> None:
        await self.connection.close()

    def is_broken(self) -> bool:
        return self.connection.closed

    def is_stuck(self) -> bool:
        """psycopg has let go of a COPY that ended with a FATAL, and libpq still waits for its end: nothing works any more."""
        return self.connection.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE

    def describe(self, name: str, error: Exception) -> tuple[str, str]:
        text = str(error)
        if name == "connect" and "FATAL:" in text:
            return "(in text)", text.split("FATAL:", 1)[1].strip()  # psycopg gives no SQLSTATE for a failed login
        while getattr(error, "sqlstate", None) is None and isinstance(error.__context__, psycopg.Error):
            error = error.__context__  # an error on the way out of a block hides the one that was the reason
        state = getattr(error, "sqlstate", None)
        if state is None and any(own in text for own in ("pipeline mode", "received 2 results", "COPY cannot be mixed")):
            return "(psycopg)", text  # its own state machine, when a connection ends at an unexpected moment
        if state is None and self.connection.closed and self.farewell:
            return self.farewell
        return state or "", text

    async def fetch(self, sql: str, *values, **more) -> list:
        cursor = await self.connection.execute(sql, values or None, **more)
        return await cursor.fetchall()

    async def simple(self) -> None:
        wanted = self.rows_wanted()
        self.check(await self.fetch(f"select {self.number}, g from generate_series(1, {wanted}) g"), wanted)

    async def extended(self) -> None:
        wanted = self.rows_wanted()
        rows = await self.fetch("select %s::int, g from generate_series(1, %s) g", self.number, wanted, prepare=False)
        self.check(rows, wanted)

    async def prepared(self) -> None:
        variant = self.chance.randrange(5)
        self.check(await self.fetch(f"select %s::int, {variant}", self.number, prepare=True))

    async def pipeline(self) -> None:
        async with self.connection.pipeline():
            cursors = [await self.connection.execute("select %s::int, %s::int", (self.number, n), prepare=bool(n % 2))
                       for n in range(10)]
            for n, cursor in enumerate(cursors):
                row = await cursor.fetchone()
                self.check([row])
                if row[1] != n:
                    raise Wrong(f"client {self.number}: answer {row[1]} of a pipeline in place {n}")

    async def copy_out(self) -> None:
        wanted = self.rows_wanted()
        async with self.connection.cursor() as cursor:
            query = f"copy (select {self.number}, g from generate_series(1, {wanted}) g) to stdout"
            async with cursor.copy(query) as copy:
                self.check([row async for row in copy.rows()], wanted)

    async def copy_in(self) -> None:
        async with self.connection.transaction(), self.connection.cursor() as cursor:
            async with cursor.copy("copy stress_rows (client, v) from stdin") as copy:
                for n in range(50):
                    await copy.write_row((self.number, n))
            await cursor.execute("select client, v from stress_rows where xmin = pg_current_xact_id()::xid")
            self.check(await cursor.fetchall(), 50)
            raise psycopg.Rollback

    async def transaction(self) -> None:
        async with self.connection.transaction():
            await self.fetch("select set_config('stress.client', %s, true)", str(self.number))
            first = await self.fetch("select current_setting('stress.client')::int, pg_backend_pid()")
            await asyncio.sleep(self.chance.uniform(0, 0.01))
            second = await self.fetch("select current_setting('stress.client')::int, pg_backend_pid()")
            self.check(first + second)
            if first[0][1] != second[0][1]:
                raise Wrong(f"client {self.number}: two servers in one transaction")

    async def name(self) -> None:
        (row,) = await self.fetch("show application_name")
        self.check([(row[0].removeprefix("client-"),)])

    async def large(self) -> None:
        size = self.chance.choice([10_000, 10_000, 10_000, 100_000, 1_000_000])
        (row,) = await self.fetch(f"select {self.number}, repeat('{self.number}', {size})")
        self.check([row])
        if row[1] != str(self.number) * size:
            raise Wrong(f"client {self.number}: a large value was changed")

    async def fails(self) -> None:
        try:
            await self.fetch(f"select {self.number} / 0")
        except psycopg.errors.DivisionByZero:
            return
        raise Wrong(f"client {self.number}: an error was lost")


class Asyncpg(Client):
    """asyncpg: named statements for everything, binary results."""

    def names(self) -> list[str]:
        names = ["simple", "prepared", "prepared", "copy_out", "fails", "name", "large"]
        if self.mode in ("tx", "session"):
            names += ["transaction", "transaction", "many"]
        return names

    async def connect(self) -> None:
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.last_log: list = []
        self.connection = await asyncpg.connect(
            host="127.0.0.1", port=self.options["port"], user="app", password="app password",
            database=f"stress_{self.mode}", ssl=context or False, timeout=self.options["deadline"] + 5,
            server_settings={"application_name": f"client-{self.number}"}, statement_cache_size=20)

    async def disconnect(self) -> None:
        self.connection.terminate()

    def is_broken(self) -> bool:
        return self.connection.is_closed()

    def describe(self, name: str, error: Exception) -> tuple[str, str]:
        made_by_driver = (asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError, asyncpg.InternalClientError)
        if isinstance(error, made_by_driver) and name != "connect":
            # asyncpg may put errors of its own in the place of a FATAL one that ended the connection.
            return "(asyncpg)", str(error)
        return getattr(error, "sqlstate", None) or "", str(error)

    async def simple(self) -> None:
        status = await self.connection.execute(f"select {self.number}, g from generate_series(1, 20) g")
        if status != "SELECT 20":
            raise Wrong(f"client {self.number}: {status}")

    async def prepared(self) -> None:
        wanted, variant = self.rows_wanted(), self.chance.randrange(5)
        rows = await self.connection.fetch(f"select $1::int, g, {variant} from generate_series(1, $2) g", self.number,
                                           wanted)
        self.check(rows, wanted)
        if rows[0][2] != variant:
            raise Wrong(f"client {self.number}: the answer of another statement")

    async def copy_out(self) -> None:
        out = io.BytesIO()
        query = "select $1::int, g from generate_series(1, 100) g"
        await self.connection.copy_from_query(query, self.number, output=out)
        self.check((line.split(b"\t") for line in out.getvalue().splitlines()), 100)

    async def transaction(self) -> None:
        async with self.connection.transaction():
            await self.connection.execute(f"set local stress.client = '{self.number}'")
            await asyncio.sleep(self.chance.uniform(0, 0.01))
            self.check(await self.connection.fetch("select current_setting('stress.client')::int"))

    async def many(self) -> None:
        async with self.connection.transaction():
            await self.connection.executemany("insert into stress_rows (client, v) values ($1, $2)",
                                              [(self.number, n) for n in range(20)])
            mine = "select client from stress_rows where xmin = pg_current_xact_id()::xid"
            self.check(await self.connection.fetch(mine), 20)
            await self.connection.execute("delete from stress_rows where client = $1", self.number)

    async def name(self) -> None:
        value = await self.connection.fetchval("show application_name")
        self.check([(value.removeprefix("client-"),)])

    async def large(self) -> None:
        size = self.chance.choice([10_000, 10_000, 10_000, 1_000_000])
        row = await self.connection.fetchrow("select $1::int, repeat($1::int::text, $2)", self.number, size)
        self.check([row])
        if row[1] != str(self.number) * size:
            raise Wrong(f"client {self.number}: a large value was changed")

    async def fails(self) -> None:
        try:
            await self.connection.fetch("select $1::int / 0", self.number)
        except asyncpg.DivisionByZeroError:
            return
        raise Wrong(f"client {self.number}: an error was lost")


async def watch_lag(tally: Tally) -> None:
    """Note how late this process itself is: what part of a slow operation is the clients' own fault."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(0.1)
        tally.lag = max(tally.lag, time.monotonic() - began - 0.1)


async def main(options: dict) -> dict:
    tally = Tally()
    until = time.monotonic() + options["seconds"]
    numbers = range(options["first"], options["first"] + options["count"])
    clients = [(Psycopg if n % 2 else Asyncpg)(n, options, tally) for n in numbers]
    lag = asyncio.create_task(watch_lag(tally))
    # One task that never ends must not hide what the others found.
    tasks = [asyncio.create_task(client.live(until)) for client in clients]
    _, hung = await asyncio.wait(tasks, timeout=options["seconds"] + 3 * options["deadline"])
    lag.cancel()
    for task in hung:
        tally.violation(f"a client hangs: {task}")
        task.cancel()
    for task in tasks:
        if task.done() and not task.cancelled() and task.exception():
            tally.violation(f"a client ended with {task.exception()!r}")
    return tally.as_json()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
