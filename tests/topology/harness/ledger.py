"""Clients that write into a ledger, and know what they were told of each transaction.

`python ledger.py HOST PORT CLIENTS SECONDS FILE`: each client runs transactions, inserting one unique number each, and writes a line
for each: its number and `committed` (the client was told so), `failed` (it was told not) or `unknown` (the connection ended
between COMMIT and its answer). A line `gap CLIENT BEGAN ENDED` tells of each time without a connection (time.monotonic()),
`gap stuck CLIENT BEGAN` of one that has waited for an answer for STUCK_S, `gap slow CLIENT ...` of what one that was without for
SLOW_S has heard meanwhile.
pgbench ends a client whose connection is lost; this one connects again, as an application's pool does.
"""

from __future__ import annotations

import asyncio
import sys
import time

import psycopg


STUCK_S = 10
SLOW_S = 0.8


async def client(number: int, dsn: str, until: float, out) -> None:
    sequence, lost_at, story = 0, None, []
    while time.monotonic() < until:
        connection = None
        try:
            connection = await asyncio.wait_for(psycopg.AsyncConnection.connect(dsn, autocommit=True), 2)
            while time.monotonic() < until:
                sequence += 1
                name = number * 1_000_000 + sequence
                state = "failed"
                try:
                    began = time.monotonic()
                    await asyncio.wait_for(connection.execute("BEGIN"), STUCK_S)
                    await asyncio.wait_for(connection.execute(f"INSERT INTO ledger VALUES ({name})"), STUCK_S)
                    if lost_at is not None:
                        out.write(f"gap {number} {lost_at} {time.monotonic()}\n")
                        if time.monotonic() - lost_at > SLOW_S:
                            out.write(f"gap slow {number} {'; '.join(story)}\n")
                        lost_at, story = None, []
                    state = "unknown"
                    await asyncio.wait_for(connection.execute("COMMIT"), STUCK_S)
                    state = "committed"
                except asyncio.TimeoutError:
                    out.write(f"gap stuck {number} {began}\n")
                    raise
                finally:
                    out.write(f"{name} {state}\n")
                await asyncio.sleep(0.1)
        except (psycopg.Error, OSError, asyncio.TimeoutError) as error:
            told = " ".join(str(error).split()) or type(error).__name__
            story.append(f"{time.monotonic():.3f} {'in' if connection else 'out'}: {told}")
            if lost_at is None:
                lost_at = time.monotonic()
            await asyncio.sleep(0.05)
        finally:
            if connection is not None:
                connection.pgconn.finish()


async def main(host: str, port: str, clients: str, seconds: str, file: str) -> None:
    dsn = f"host={host} port={port} dbname=app user=app sslmode=disable connect_timeout=2"
    until = time.monotonic() + float(seconds)
    with open(file, "w", buffering=1, encoding="utf-8") as out:
        await asyncio.gather(*(client(number, dsn, until, out) for number in range(int(clients))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
