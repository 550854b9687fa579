"""Bodies far larger than any buffer stream through: the pooler's peak memory does not follow them.

The bound is 2 MiB over the peak before, by VmHWM (proc(5)), which is reset right before the body.
"""

import struct
import time

import pytest
from harness import wire

MIB = 1 << 20
BOUND_KIB = 2048


def peak_growth(pooler, action) -> int:
    """KiB by which the resident peak grew during the action."""
    pooler.reset_peak()
    before = pooler.memory("VmHWM")
    action()
    return pooler.memory("VmHWM") - before


def warm_up(pooler) -> None:
    """Buffers and TLS sessions that are made once are not what is measured."""
    with pooler.wire() as client:
        receive(client, 8 * MIB)


def receive(client: wire.Wire, size: int) -> None:
    """A result of `size` bytes in rows of 1 MiB, thrown away as it comes."""
    client.send(wire.query(f"select repeat('x', {MIB}) from generate_series(1, {size // MIB})"))
    total = 0
    while True:
        kind, length = head(client)
        discard(client, length)
        if kind == "D":
            total += length - 6
        elif kind == "E":
            raise AssertionError("an error in place of the result")
        elif kind == "Z":
            break
    assert total == size


def head(client: wire.Wire) -> tuple[str, int]:
    raw = client.read_exactly(5)
    return chr(raw[0]), struct.unpack("!i", raw[1:])[0] - 4


_scratch = bytearray(MIB)


def discard(client: wire.Wire, count: int) -> None:
    view = memoryview(_scratch)
    while count:
        got = client.socket.recv_into(view[:min(count, MIB)])
        if not got:
            raise wire.Closed("end of stream")
        count -= got


def copy_in(client: wire.Wire, size: int, message_size: int = MIB) -> None:
    """COPY of `size` bytes into a table whose trigger keeps no row."""
    client.send(wire.query("copy discarded from stdin"))
    kind, body = client.read()
    assert kind == "G", body
    line = b"y" * (MIB - 1) + b"\n"
    chunk = wire.message("d", line * (message_size // MIB))
    for _ in range(size // message_size):
        client.send(chunk)
    client.send(wire.message("c"))
    reply = client.reply()
    assert not reply.errors and reply.tags == ["COPY 0"], (reply.errors, reply.tags)


def one_value(client: wire.Wire, size: int) -> None:
    """A single DataRow of `size` bytes."""
    client.send(wire.query(f"select repeat('z', {size})"))
    while True:
        kind, length = head(client)
        discard(client, length)
        if kind == "Z":
            return
        assert kind != "E"


def one_parameter(client: wire.Wire, size: int) -> None:
    """A single Bind message of `size` bytes."""
    client.send(wire.parse("", "select length($1)", (25,)))
    body = wire.text("") + wire.text("") + struct.pack("!hhi", 0, 1, size)
    tail = struct.pack("!h", 0)
    client.send(b"B" + struct.pack("!i", 4 + len(body) + size + len(tail)) + body)
    block = b"p" * MIB
    for _ in range(size // MIB):
        client.send(block)
    client.send(tail + wire.execute() + wire.sync())
    reply = client.reply()
    assert reply.rows == [[str(size)]], reply.errors


@pytest.fixture
def body_pooler(start_pooler, cluster, site):
    # The trigger keeps no row, so that only the way there is measured, and the disk stays empty.
    cluster.primary.sql(
        "create table if not exists discarded (t text); grant all on discarded to public;"
        "create or replace function forget() returns trigger language plpgsql as 'begin return null; end';"
        "create or replace trigger forget before insert on discarded for each row execute function forget()", "app")
    pooler = start_pooler(default_pool_size=2, client_tls_sslmode="allow", client_tls_cert_file=site.pooler_cert.cert,
                          client_tls_key_file=site.pooler_cert.key)
    warm_up(pooler)
    return pooler


def connect(pooler, tls: bool) -> wire.Wire:
    client = pooler.raw(timeout=120)
    if tls:
        client.request_tls(wire.client_context())
    return client.login("app", "app", "app password")


ACTIONS = {"result": receive, "copy_in": copy_in, "one_value": one_value, "one_parameter": one_parameter}


def stream(pooler, what: str, size: int, tls: bool, say) -> None:
    with connect(pooler, tls) as client:
        ACTIONS[what](client, 4 * MIB)
        began = time.monotonic()
        grown = peak_growth(pooler, lambda: ACTIONS[what](client, size))
        took = time.monotonic() - began
    say(f"\n{what} of {size // MIB} MiB{' over TLS' if tls else ''}: peak memory +{grown} KiB, {took:.1f} s")
    assert grown < BOUND_KIB


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("what", ACTIONS)
def test_body_of_64_mib(body_pooler, what, tls, capsys):
    with capsys.disabled():
        stream(body_pooler, what, 64 * MIB, tls, print)


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("what", ["result", "copy_in"])
def test_body_of_1_gib(body_pooler, what, tls, capsys):
    with capsys.disabled():
        stream(body_pooler, what, 1024 * MIB, tls, print)


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["one_value", "one_parameter"])
def test_single_message_near_the_largest_value(body_pooler, what, capsys):
    """PostgreSQL's own limit for one value is 1 GiB less a header; its buffers double, so stay below half."""
    with capsys.disabled():
        stream(body_pooler, what, 500 * MIB, False, print)


@pytest.mark.parametrize("server_tls", ["disable", "require"])
@pytest.mark.parametrize("client_tls", [False, True])
@pytest.mark.parametrize("row", [100, 1000, 8000, 100_000, MIB, 8 * MIB])
def test_rows_of_every_size_flow_to_the_end(site, start_pooler, row, client_tls, server_tls):
    """Wherever the rows fall in the buffers of both sides, the stream must not stop."""
    pooler = start_pooler(server_tls_sslmode=server_tls, client_tls_sslmode="allow",
                          client_tls_cert_file=site.pooler_cert.cert, client_tls_key_file=site.pooler_cert.key)
    rows = max(16 * MIB // row, 1)
    client = pooler.raw(timeout=10)
    if client_tls:
        client.request_tls(wire.client_context())
    client.login("app", "app", "app password")
    client.send(wire.query(f"select repeat('r', {row}) from generate_series(1, {rows})") + wire.query("select 'next'"))
    end, seen, total = wire.message("Z", b"I"), b"", 0
    while not (seen.endswith(end) and b"next" in seen):
        part = client.socket.recv(1 << 16)
        assert part, "the connection ended in the middle of a result"
        total += len(part)
        seen = (seen + part)[-200:]
    assert total > rows * (row + 11)
    client.close()
