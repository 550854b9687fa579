"""Cancel requests reach the query they are meant for, and no other."""

import random
import threading
import time

import psycopg
import pytest
from harness import wire
from harness.process import poll_until


def send_cancel(pooler, pid: int, secret: bytes) -> None:
    with pooler.raw() as canceller:
        canceller.send(wire.cancel(pid, secret))
        assert canceller.read_to_end() == b"", "a cancel request has no answer"


def test_cancel_of_a_running_query(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.send(wire.query("select pg_sleep(60)"))
        poll_until(lambda: pooler.pool()["sv_active"] == 1, "the query runs")
        send_cancel(pooler, client.pid, client.secret)
        reply = client.reply()
        assert reply.errors[0].sqlstate == "57014" and reply.status == "I"
        assert client.value("select 1") == "1"


def test_cancel_with_a_wrong_key_does_nothing(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.send(wire.query("select pg_sleep(1), 'whole'"))
        poll_until(lambda: pooler.pool()["sv_active"] == 1, "the query runs")
        wrong = bytes(b ^ 0x55 for b in client.secret)
        send_cancel(pooler, client.pid, wrong)
        send_cancel(pooler, client.pid ^ 1, client.secret)
        assert client.reply().rows[0][1] == "whole"


def test_cancel_of_an_idle_client_does_nothing(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as idle, pooler.wire() as busy:
        idle.query("select 1")
        busy.send(wire.query("select pg_sleep(1), 'whole'"))
        poll_until(lambda: pooler.pool()["sv_active"] == 1, "the query runs")
        for _ in range(10):
            send_cancel(pooler, idle.pid, idle.secret)
        assert busy.reply().rows[0][1] == "whole"


def test_cancel_beyond_the_pool_size(start_pooler):
    """Every server is busy, and the cancel still gets through."""
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.send(wire.query("select pg_sleep(60)"))
        poll_until(lambda: pooler.pool()["sv_active"] == 1, "the query runs")
        send_cancel(pooler, client.pid, client.secret)
        assert client.reply().errors[0].sqlstate == "57014"


def test_keys_differ(start_pooler):
    pooler = start_pooler()
    clients = [pooler.wire() for _ in range(20)]
    assert len({(c.pid, c.secret) for c in clients}) == 20
    assert len({c.secret for c in clients}) == 20
    for client in clients:
        client.close()


def test_hundred_cancels_in_a_row_never_hit_another_client(start_pooler):
    """Cancels early, in time and too late, while other clients use the very same servers."""
    pooler = start_pooler(default_pool_size=2)
    stop, hit, done = threading.Event(), [], [0]

    def innocent(number: int) -> None:
        with pooler.connect(connect_timeout=10) as connection:
            while not stop.is_set():
                try:
                    row = connection.execute(f"select {number}, pg_sleep(0.002)").fetchone()
                    assert row[0] == number
                    done[0] += 1
                except psycopg.errors.QueryCanceled as error:
                    hit.append((number, str(error)))

    threads = [threading.Thread(target=innocent, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    chance = random.Random(7)
    outcomes = {"cancelled": 0, "finished": 0}
    try:
        with pooler.wire() as client:
            for _ in range(100):
                client.send(wire.query(f"select pg_sleep({chance.choice([0, 0.001, 0.005, 0.02])})"))
                time.sleep(chance.random() * 0.01)  # the moment of the cancel is what is tried out here
                send_cancel(pooler, client.pid, client.secret)
                reply = client.reply()
                if reply.errors:
                    assert reply.errors[0].sqlstate == "57014"
                    outcomes["cancelled"] += 1
                else:
                    outcomes["finished"] += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not hit
    assert done[0] > 100 and min(outcomes.values()) > 0, (done, outcomes)


def test_cancel_storm_over_tls(site, start_pooler):
    pooler = start_pooler(client_tls_sslmode="require", client_tls_cert_file=site.pooler_cert.cert,
                          client_tls_key_file=site.pooler_cert.key)
    with pooler.connect(sslmode="require") as connection:
        for _ in range(10):
            waiting = threading.Timer(0.05, connection.cancel_safe)
            waiting.start()
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("select pg_sleep(60)")
            waiting.join()


def test_garbage_cancel_requests(start_pooler):
    pooler = start_pooler()
    for body in (b"", b"\0", b"\0" * 3, b"\0" * 8, b"\xff" * 8, b"\0" * 300, b"\xff" * 300):
        with pooler.raw() as client:
            length = 8 + len(body)
            client.send(length.to_bytes(4, "big") + wire.CANCEL_CODE.to_bytes(4, "big") + body)
            client.socket.shutdown(1)
            assert client.is_closed()
    pooler.connect().close()
