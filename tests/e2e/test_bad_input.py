"""Strangers on the port: random, cut, oversized and slow input, and the pooler goes on serving others."""

import asyncio
import os
import random
import struct

import pytest
from harness import wire
from harness.process import poll_until

PACKETS = int(os.environ.get("PGTANDEM_E2E_PACKETS", "10000"))
AT_ONCE = 100
VALID = wire.startup({"user": "app", "database": "app", "application_name": "x"})


def bad_packet(chance: random.Random) -> bytes:
    """Something that is no startup packet, or one that breaks off."""
    kind = chance.randrange(10)
    noise = chance.randbytes(chance.randrange(0, 400))
    if kind == 0:
        return noise
    if kind == 1:
        return VALID[:chance.randrange(len(VALID))]
    if kind == 2:  # a length that does not fit what follows
        return struct.pack("!i", chance.choice([0, 1, 4, 7, 8, 9, 10001, 2**31 - 1, -1, -2**31])) + VALID[4:]
    if kind == 3:  # no terminator, or terminators only
        body = struct.pack("!i", wire.PROTOCOL_3_0) + chance.choice([b"user", b"user\0app", b"\0" * 50, b"user\0\0"])
        return struct.pack("!i", len(body) + 4) + body
    if kind == 4:  # any version
        return struct.pack("!ii", len(noise) + 8, chance.getrandbits(32) - 2**31) + noise
    if kind == 5:  # as large as PostgreSQL allows, and larger
        size = chance.choice([9_000, 10_000, 10_001, 60_000])
        return struct.pack("!ii", size, wire.PROTOCOL_3_0) + b"user\0app\0" + b"k\0" * (size // 2)
    if kind == 6:  # special requests with trailing or missing bytes
        code = chance.choice([80877102, 80877103, 80877104])
        return struct.pack("!ii", chance.choice([8, 9, 12, 16, 260]), code) + noise
    if kind == 7:  # the start of a TLS handshake
        return b"\x16\x03\x01" + struct.pack("!H", chance.randrange(2**16)) + noise
    if kind == 8:  # flipped bits in a good packet
        packet = bytearray(VALID)
        for _ in range(chance.randrange(1, 6)):
            packet[chance.randrange(len(packet))] ^= 1 << chance.randrange(8)
        return bytes(packet)
    # a good startup packet followed by no password
    return VALID + chance.choice([wire.query("select 1"), wire.message("p", b""), wire.message("p", noise),
                                  b"p\xff\xff\xff\xff", b"p\x7f\xff\xff\xff" + noise, noise])


async def throw(port: int, packet: bytes, patience: float) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(packet)
        await writer.drain()
        if random.random() < 0.5:
            writer.write_eof()
        await asyncio.wait_for(reader.read(1000), patience)
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort()


async def throw_all(port: int, count: int, seed: int) -> None:
    chance = random.Random(seed)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with gate:
            await throw(port, bad_packet(chance), 0.2)

    await asyncio.gather(*(one() for _ in range(count)))


@pytest.mark.timeout(180)
def test_bad_startup_packets(site, start_pooler):
    pooler = start_pooler(client_tls_sslmode="allow", client_tls_cert_file=site.pooler_cert.cert,
                          client_tls_key_file=site.pooler_cert.key, max_client_conn=1000, client_login_timeout=10)
    with pooler.wire() as steady:
        assert steady.value("select 1") == "1"
        asyncio.run(throw_all(pooler.port, max(PACKETS // 10, 1), seed=1))
        before = pooler.memory()
        asyncio.run(throw_all(pooler.port, PACKETS, seed=2))
        assert steady.value("select 'still served'") == "still served"
        with pooler.wire() as client:
            assert client.value("select 'a new one too'") == "a new one too"
        poll_until(lambda: lists(pooler)["login_clients"] == 0, "no stranger is left", timeout=20)
        grown = pooler.memory() - before
        assert grown < 8 * 1024, f"{grown} KiB more memory after {PACKETS} bad packets"


def lists(pooler) -> dict:
    return {row["list"]: row["items"] for row in pooler.admin("SHOW LISTS")}


def test_bad_messages_after_login(start_pooler):
    pooler = start_pooler(default_pool_size=5)
    chance = random.Random(3)
    with pooler.wire() as steady:
        for _ in range(300):
            with pooler.wire() as client:
                kind = chance.choice("QPBDESHCFdcfXp\0\xffzR1")
                body = chance.randbytes(chance.randrange(0, 60))
                length = chance.choice([len(body) + 4, len(body) + 4, 4, 3, -5, 2**31 - 1])
                client.send(kind.encode("latin1") + struct.pack("!i", length) + body)
                if chance.random() < 0.5:
                    client.send(wire.sync())
        assert steady.value("select 'steady'") == "steady"
    poll_until(lambda: lists(pooler)["used_clients"] <= 1, "every bad client is gone")
    with pooler.wire() as client:
        assert client.value("select 'fine'") == "fine"


def test_slow_loris_and_half_open_logins(start_pooler):
    pooler = start_pooler(client_login_timeout=3, max_client_conn=1000)
    strangers = []
    for number in range(150):
        client = pooler.raw(timeout=20)
        if number % 3 == 1:
            client.send(VALID[:number % len(VALID)])
        elif number % 3 == 2:
            client.send(VALID)
        strangers.append(client)
    with pooler.wire() as client:
        assert client.value("select 'served'") == "served"
    for client in strangers:
        assert client.is_closed(), "a login that does not go on must end by client_login_timeout"
        client.close()
    poll_until(lambda: lists(pooler)["login_clients"] == 0, "no login is left")


def test_a_byte_now_and_then_does_not_prolong_the_login(start_pooler):
    pooler = start_pooler(client_login_timeout=2)
    with pooler.raw() as client:
        client.socket.settimeout(0.25)
        for byte in VALID[:40]:
            try:
                client.send(bytes([byte]))
                client.socket.recv(1000)
            except TimeoutError:
                continue  # still open, nothing said
            except OSError:
                pass
            break  # closed, with or without an error text
        else:
            pytest.fail("the login went on beyond client_login_timeout")


def test_strangers_do_not_use_up_max_client_conn_for_ever(start_pooler):
    pooler = start_pooler(max_client_conn=20, client_login_timeout=2)
    strangers = [pooler.raw() for _ in range(40)]

    def gets_in() -> bool:
        with pooler.wire() as client:
            return client.value("select 1") == "1"

    poll_until(gets_in, "room again after client_login_timeout", timeout=15)
    for client in strangers:
        client.close()


def test_client_that_does_not_read_does_not_fill_memory(start_pooler):
    pooler = start_pooler(default_pool_size=2)
    with pooler.wire() as other:
        assert other.value("select 1") == "1"
        before = pooler.memory()
        with pooler.wire() as client:
            client.send(wire.query("select repeat('x', 1000000) from generate_series(1, 300)"))
            assert client.read()[0] == "T"
            for _ in range(20):
                assert other.value("select pg_sleep(0.05)") == ""
            assert pooler.memory() - before < 8 * 1024
