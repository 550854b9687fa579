"""A client that runs one small transaction after the other and tells how long it had to wait.

    python meter.py CONNECTION_STRING

Prints `started` after the first transaction. A line on its input ends it; then it prints one JSON object: the number of
transactions, the failure if there was one, and every wait of more than 2 ms as [start, end] on the monotonic clock.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time

import psycopg

_WORTH_TELLING_S, _BETWEEN_S = 0.002, 0.001


def main(conninfo: str) -> int:
    """Measure until told to end."""
    # The pause of interest is the pooler's, not that of a busy machine's scheduler.
    os.nice(-15)
    waits, count, failure = [], 0, None
    try:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=15, prepare_threshold=0) as connection:
            connection.execute("select 1")
            print("started", flush=True)
            last = time.monotonic()
            while not select.select([sys.stdin], [], [], _BETWEEN_S)[0]:
                before = time.monotonic()
                connection.execute("select 1")
                last = time.monotonic()
                count += 1
                if last - before > _WORTH_TELLING_S:
                    waits.append([before, last])
    except psycopg.Error as error:
        failure = str(error)
        waits.append([before, float("inf")])
    print(json.dumps({"count": count, "failure": failure, "waits": waits}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
