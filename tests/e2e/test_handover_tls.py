"""A successor (-R) and clients with TLS. Without kernel TLS they have to go, between transactions; with it they move too.

The same with kernel TLS, under load: tests/kernel_tls/restart.sh.
"""

import re
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from harness import process
from harness.pooler import binary
from harness.process import poll_until

pytestmark = pytest.mark.beyond_pgbouncer("PgBouncer's -R does not take over sockets with TLS")

TOLD = "clients with TLS cannot be passed on and are told to connect again"


def kernel_has_tls() -> bool:
    """Is the kernel's module for TLS loaded? The pooler has no right to load it."""
    return "tls" in Path("/proc/sys/net/ipv4/tcp_available_ulp").read_text().split()


@pytest.fixture
def start_secure(site, start_pooler):
    """A pooler that takes clients with and without TLS, and has TLS to its servers or not."""

    def start(server_tls: str = "disable", **settings):
        return start_pooler(client_tls_sslmode="allow", client_tls_cert_file=site.tls / "pgbouncer.crt",
                            client_tls_key_file=site.tls / "pgbouncer.key", server_tls_sslmode=server_tls, **settings)

    return start


def succeed(pooler, timeout: float = 20) -> subprocess.Popen:
    """Start a successor and wait until it serves; the former process, which may still have clients."""
    former = pooler.process
    pooler.process = process.spawn([binary(), "-R", pooler.ini], user=pooler.user, stderr=pooler.stderr,
                                   cwd=pooler.folder)
    poll_until(lambda: pooler.says_up(pooler.pid) or pooler.process.poll() is not None,
               "the successor serves", timeout)
    assert pooler.process.poll() is None, pooler.log()[-3000:]
    return former


@contextmanager
def succession(pooler):
    """What is still to be done while the former process has clients stands in the block."""
    former = succeed(pooler)
    try:
        yield
        assert former.wait(10) == 0
    finally:
        process.stop(former, signal.SIGKILL)


def secure(pooler, **more) -> psycopg.Connection:
    client = pooler.connect(sslmode="require", **more)
    assert client.pgconn.ssl_in_use
    return client




def assert_told_or_moved(pooler, client) -> None:
    """Between transactions the client is told to go; where the kernel has TLS it goes on."""
    if kernel_has_tls():
        assert client.execute("select 'moved'").fetchone() == ("moved",)
        return
    with pytest.raises(psycopg.OperationalError) as told:
        client.execute("select 1")
    assert "terminating connection due to administrator command" in str(told.value)


def test_idle_clients_are_told_and_plain_ones_move(start_secure):
    pooler = start_secure()
    idle = [secure(pooler) for _ in range(20)]
    plain = [pooler.connect(sslmode="disable") for _ in range(10)]
    for client in idle + plain:
        client.execute("set timezone = 'Asia/Tokyo'")
    with succession(pooler):
        began = time.monotonic()
        with secure(pooler) as again:
            assert again.execute("select 1").fetchone() == (1,)
        assert time.monotonic() - began < 2
    for client in idle:
        assert_told_or_moved(pooler, client)
    for client in plain:
        assert client.execute("show timezone").fetchone() == ("Asia/Tokyo",)
    if kernel_has_tls():
        assert TOLD not in pooler.log()
    else:
        line = re.search(rf"WARNING (\d+) {TOLD}: (.*)", pooler.log())
        assert line and line[1] == "20"
        assert "modprobe tls" in line[2] or "TCP_ULP" in line[2]
    taken = re.search(r"took over (\d+) clients", pooler.log())
    assert int(taken[1]) == (30 if kernel_has_tls() else 10)


@pytest.mark.parametrize("server_tls", ["disable", "require"])
def test_a_long_transaction_holds_up_nobody_and_ends_well(start_secure, site, server_tls):
    """Longer than the two processes wait for each other's words."""
    site.cluster.primary.sql("drop table if exists kept; create table kept (v int); grant all on kept to public", "app")
    pooler = start_secure(server_tls)
    with secure(pooler, autocommit=False) as long, pooler.connect(sslmode="disable") as plain:
        long.execute("insert into kept values (1)")
        began = time.monotonic()
        with succession(pooler):
            assert time.monotonic() - began < 5
            with secure(pooler) as other:
                assert other.execute("select 1").fetchone() == (1,)
            assert plain.execute("select 1").fetchone() == (1,)
            assert time.monotonic() - began < 6
            while time.monotonic() - began < 12:
                long.execute("insert into kept values (2)")
                time.sleep(0.25)
            long.execute("insert into kept values (3)")
            long.commit()
            if not kernel_has_tls():
                with pytest.raises(psycopg.OperationalError, match="administrator command"):
                    long.execute("select 1")
    assert site.cluster.primary.sql("select count(*) from kept where v <> 2", "app") == [(2,)]


def test_who_waits_for_a_server_is_told_at_once(start_secure):
    pooler = start_secure(default_pool_size=1)
    with pooler.connect(sslmode="disable", autocommit=False) as holder, secure(pooler) as waiting:
        holder.execute("select 1")
        failure = []

        def wait() -> None:
            try:
                failure.append(waiting.execute("select 1").fetchone())
            except psycopg.OperationalError as error:
                failure.append(str(error))

        thread = threading.Thread(target=wait)
        thread.start()
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "it waits")
        with succession(pooler):
            if not kernel_has_tls():
                thread.join(3)
                assert failure and "administrator command" in failure[0]
            assert holder.execute("select 2").fetchone() == (2,)
            holder.commit()
            thread.join(10)
            assert failure


@pytest.mark.parametrize("server_tls", ["disable", "require"])
def test_no_transaction_fails_under_load(start_secure, site, server_tls):
    """Whoever is told to go is between transactions: at the first statement of one, which is tried again."""
    site.cluster.primary.sql("drop table if exists paid; create table paid (client int, number int, part int); "
                             "grant all on paid to public", "app")
    pooler = start_secure(server_tls, default_pool_size=5)
    stop, failures, reconnects, numbers = threading.Event(), [], [], [0] * 16

    def work(me: int, sslmode: str) -> None:
        client = pooler.connect(sslmode=sslmode, autocommit=True)
        try:
            while not stop.is_set():
                try:
                    client.execute("begin")
                except psycopg.OperationalError as error:
                    # libpq reports the message that came before the end.
                    assert "administrator command" in str(error), error
                    assert sslmode == "require", "a plain client was told to go"
                    reconnects.append(me)
                    client = pooler.connect(sslmode=sslmode, autocommit=True)
                    continue
                for part in range(3):
                    client.execute("insert into paid values (%s, %s, %s)", (me, numbers[me], part))
                client.execute("commit")
                numbers[me] += 1
        except Exception as error:  # noqa: BLE001: every failure counts
            failures.append((me, repr(error)))
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(n, "require" if n % 2 else "disable")) for n in range(16)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            time.sleep(1)
            with succession(pooler):
                pass
        time.sleep(0.5)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not failures
    assert sum(numbers) > 100
    assert bool(reconnects) != kernel_has_tls()
    rows = site.cluster.primary.sql("select count(*), count(distinct (client, number)) from paid", "app")
    assert rows == [(3 * sum(numbers), sum(numbers))]
