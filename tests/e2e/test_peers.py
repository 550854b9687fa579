"""Processes that share a port pass cancel requests on to the one that issued the key ([peers])."""

import threading

import pytest
from harness import wire
from harness.process import poll_until


@pytest.fixture
def peers(start_pooler):
    """Three poolers, each with the others in its list by their Unix sockets; on ports of their own, so that it is certain
    whom a request reaches."""
    poolers = {number: start_pooler(start=False, peer_id=number, listen_port=None) for number in (1, 2, 3)}
    lines = "".join(f"{number} = host={p.folder} port={p.port} pool_size=2\n" for number, p in poolers.items())
    for pooler in poolers.values():
        pooler.write(pooler.configuration.text() + f"listen_port = {pooler.port}\n[peers]\n{lines}")
        pooler.start()
    return poolers


def cancel_at(pooler, pid, secret):
    with pooler.raw() as canceller:
        canceller.send(wire.cancel(pid, secret))
        assert canceller.read_to_end() == b"", "a cancel request has no answer"


@pytest.mark.parametrize("version", [wire.PROTOCOL_3_0, wire.PROTOCOL_3_0 + 2])
def test_a_request_that_reaches_another_process_goes_on_to_the_right_one(peers, version):
    with peers[2].raw().login("app", "app", "app password", version=version) as client:
        assert len(client.secret) == 4, "PgBouncer among the peers takes no longer key"
        for door in (1, 3, 2):
            client.send(wire.query("select pg_sleep(60)"))
            poll_until(lambda: peers[2].pool()["sv_active"] == 1, "the query runs")
            cancel_at(peers[door], client.pid, client.secret)
            assert client.reply().errors[0].sqlstate == "57014"
        assert client.value("select 1") == "1"


def test_nobody_elses_query_is_cancelled(peers):
    """The same key but for the number of the process: nobody's."""
    with peers[1].wire() as client:
        client.send(wire.query("select pg_sleep(1), 'whole'"))
        poll_until(lambda: peers[1].pool()["sv_active"] == 1, "the query runs")
        for wrong in (client.pid ^ (1 << 16 | 2 << 16), client.pid ^ (0x40 << 16), client.pid ^ 1):
            cancel_at(peers[1], wrong, client.secret)
            cancel_at(peers[3], wrong, client.secret)
        assert client.reply().rows[0][1] == "whole"
    assert "could not find peer to forward request to" in peers[1].log()


def test_a_request_that_has_gone_round_is_dropped(peers):
    with peers[1].wire() as client:
        client.send(wire.query("select pg_sleep(1), 'whole'"))
        poll_until(lambda: peers[1].pool()["sv_active"] == 1, "the query runs")
        spent = client.secret[:3] + bytes([client.secret[3] & 0xFC])
        cancel_at(peers[2], client.pid, spent)
        assert client.reply().rows[0][1] == "whole"
        client.send(wire.query("select pg_sleep(60)"))
        poll_until(lambda: peers[1].pool()["sv_active"] == 1, "the query runs")
        cancel_at(peers[1], client.pid, spent)  # at home it is as good as new
        assert client.reply().errors[0].sqlstate == "57014"
    assert "its TTL was exhausted" in peers[2].log()


def test_more_requests_at_once_than_there_are_connections(peers):
    with peers[1].wire() as client:
        client.send(wire.query("select pg_sleep(60)"))
        poll_until(lambda: peers[1].pool()["sv_active"] == 1, "the query runs")
        arguments = (peers[2], client.pid, client.secret)
        doors = [threading.Thread(target=cancel_at, args=arguments) for _ in range(20)]
        for door in doors:
            door.start()
        for door in doors:
            door.join(15)
            assert not door.is_alive()
        assert client.reply().errors[0].sqlstate == "57014"
        assert client.value("select 1") == "1"
    assert [row["cl_active_cancel_req"] for row in peers[2].admin("SHOW PEER_POOLS")] == [0, 0, 0]


def test_the_console_shows_the_peers(peers):
    rows = [(r["peer_id"], r["host"], r["port"], r["pool_size"]) for r in peers[1].admin("SHOW PEERS")]
    assert rows == [(n, str(p.folder), p.port, 2) for n, p in peers.items()]
    assert [r["peer_id"] for r in peers[1].admin("SHOW PEER_POOLS")] == [1, 2, 3]


def test_a_peer_that_is_down_is_told_in_the_log(peers):
    with peers[1].wire() as client:
        client.send(wire.query("select pg_sleep(1), 'whole'"))
        poll_until(lambda: peers[1].pool()["sv_active"] == 1, "the query runs")
        cancel_at(peers[2], (client.pid & 0xFF0000FF) | (3 << 16), client.secret)
        assert "could not be forwarded" not in peers[2].log()
        peers[3].stop()
        cancel_at(peers[2], (client.pid & 0xFF0000FF) | (3 << 16), client.secret)
        assert "cancel request could not be forwarded to its peer: connect failed" in peers[2].log()
        assert client.reply().rows[0][1] == "whole"
