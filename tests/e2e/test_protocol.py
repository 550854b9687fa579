"""What comes before the login, and messages that drivers do not send."""

import socket
import ssl
import struct

import pytest
from harness import wire
from harness.wire import Closed, WireError


@pytest.fixture
def tls_pooler(site, start_pooler):
    return start_pooler(client_tls_sslmode="allow", client_tls_cert_file=site.pooler_cert.cert,
                        client_tls_key_file=site.pooler_cert.key)


def serves(pooler) -> bool:
    with pooler.wire() as client:
        return client.value("select 'serves'") == "serves"


def test_gssenc_request_is_answered_n_and_the_login_goes_on(start_pooler):
    pooler = start_pooler()
    with pooler.raw() as client:
        client.send(wire.GSSENC_REQUEST)
        assert client.read_exactly(1) == b"N"
        assert client.login("app", "app", "app password").value("select 1") == "1"


def test_gssenc_request_then_ssl_request(tls_pooler):
    with tls_pooler.raw() as client:
        client.send(wire.GSSENC_REQUEST)
        assert client.read_exactly(1) == b"N"
        client.request_tls(wire.client_context())
        assert client.login("app", "app", "app password").value("select 1") == "1"


def test_ssl_request_is_answered_n_without_tls(start_pooler):
    pooler = start_pooler()
    with pooler.raw() as client:
        client.send(wire.SSL_REQUEST)
        assert client.read_exactly(1) == b"N"
        assert client.login("app", "app", "app password").value("select 1") == "1"


def test_ssl_request_twice(tls_pooler):
    with tls_pooler.raw() as client:
        client.request_tls(wire.client_context())
        client.send(wire.SSL_REQUEST)
        assert refused(client)
    assert serves(tls_pooler)


def test_plain_text_smuggled_behind_an_ssl_request(tls_pooler):
    """Bytes sent in the clear before the handshake must never count as sent inside it (CVE-2021-23214)."""
    with tls_pooler.raw() as client:
        client.send(wire.SSL_REQUEST + wire.startup({"user": "app", "database": "app"}))
        try:
            answer = client.read_exactly(1)
            if answer == b"S":
                client.start_tls(wire.client_context())
                client.socket.settimeout(2)
                client.read()
                pytest.fail("the plain-text startup packet was taken as if it had come through TLS")
        except (Closed, ssl.SSLError, OSError, TimeoutError):
            pass
    assert serves(tls_pooler)


def refused(client) -> bool:
    """The other side sends an error, or nothing, and closes."""
    try:
        rest = client.read_to_end()
    except OSError:
        return True
    return rest == b"" or rest[:1] in b"EN"


@pytest.mark.parametrize("alpn", [["postgresql"], ["http/1.1"], pytest.param(
    None, marks=pytest.mark.beyond_pgbouncer("PgBouncer takes direct TLS without ALPN too, PostgreSQL does not"))])
def test_direct_tls_needs_alpn(tls_pooler, alpn):
    """PostgreSQL 17's direct TLS: a handshake at once, only with ALPN `postgresql`."""
    context = wire.client_context()
    if alpn:
        context.set_alpn_protocols(alpn)
    with tls_pooler.raw() as client:
        if alpn == ["postgresql"]:
            client.start_tls(context)
            assert client.socket.selected_alpn_protocol() == "postgresql"
            assert client.login("app", "app", "app password").value("select 1") == "1"
        else:
            with pytest.raises((ssl.SSLError, OSError, Closed, WireError)):
                client.start_tls(context)
                client.login("app", "app", "app password")
    assert serves(tls_pooler)


def test_direct_tls_of_libpq(tls_pooler):
    with tls_pooler.connect(sslmode="require", sslnegotiation="direct") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_alpn_after_ssl_request(tls_pooler):
    context = wire.client_context()
    context.set_alpn_protocols(["postgresql"])
    with tls_pooler.raw() as client:
        client.request_tls(context)
        assert client.socket.selected_alpn_protocol() in ("postgresql", None)
        assert client.login("app", "app", "app password").value("select 1") == "1"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_tls_versions(tls_pooler, version):
    context = wire.client_context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with tls_pooler.raw() as client:
        client.request_tls(context)
        assert client.login("app", "app", "app password").value("select 1") == "1"
        assert client.socket.version() == version.replace("_", ".")


@pytest.mark.parametrize("asked,options", [((3 << 16) | 2, {}), ((3 << 16) | 9999, {}),
                                           (3 << 16, {"_pq_.future": "on"}),
                                           ((3 << 16) | 2, {"_pq_.one": "1", "_pq_.two": "2"})])
def test_protocol_version_negotiation(start_pooler, asked, options):
    """A newer minor version or an unknown option is answered by NegotiateProtocolVersion, not by an error."""
    pooler = start_pooler()
    with pooler.raw() as client:
        client.login("app", "app", "app password", version=asked, **options)
        assert client.negotiated is not None or (asked == wire.PROTOCOL_3_2 and not options)
        if client.negotiated is not None:
            newest, unknown = client.negotiated
            # Written as the bare minor version by older servers, as the whole number by newer ones.
            assert newest in (0, 2, wire.PROTOCOL_3_0, wire.PROTOCOL_3_2) and sorted(unknown) == sorted(options)
        assert client.value("select 1") == "1"


def test_protocol_3_2_of_libpq(start_pooler):
    pooler = start_pooler()
    with pooler.connect(max_protocol_version="3.2") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with pooler.connect(max_protocol_version="latest") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("version", [2 << 16, 4 << 16, 0, 0x7FFFFFFF])
def test_unknown_protocol_version(start_pooler, version):
    pooler = start_pooler()
    with pooler.raw() as client:
        client.send(wire.startup({"user": "app", "database": "app"}, version))
        assert refused(client)
    assert serves(pooler)


def test_startup_packet_in_single_bytes(start_pooler):
    pooler = start_pooler()
    with pooler.raw() as client:
        for byte in wire.startup({"user": "app", "database": "app"}):
            client.send(bytes([byte]))
        assert client.finish_login("app", "app password").value("select 1") == "1"
        for byte in wire.query("select 'byte by byte'"):
            client.send(bytes([byte]))
        assert client.reply().rows == [["byte by byte"]]


def test_startup_packet_with_long_values(start_pooler):
    pooler = start_pooler()
    with pooler.wire(application_name="x" * 6000) as client:
        assert client.value("select 1") == "1"


@pytest.mark.parametrize("parameters", [{}, {"database": "app"}, {"user": ""}, {"user": "app", "database": ""}])
def test_startup_packet_without_user_or_database(start_pooler, parameters):
    pooler = start_pooler()
    with pooler.raw() as client:
        client.send(wire.startup(parameters))
        if parameters == {"user": "app", "database": ""}:
            try:
                client.finish_login("app", "app password")  # the database is then named after the user
            except (WireError, Closed):
                pass
        else:
            assert client.expect_error().sqlstate
            assert client.is_closed()
    assert serves(pooler)


def test_database_defaults_to_the_users_name(start_pooler):
    pooler = start_pooler()
    with pooler.raw() as client:
        client.send(wire.startup({"user": "app"}))
        assert client.finish_login("app", "app password").value("select current_database()") == "app"


def test_function_call(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client, pooler.wire() as other:
        oid = int(client.value("select 'int4pl'::regproc::oid"))
        for number in range(3):
            reply = client.ask(wire.function_call(oid, [struct.pack("!i", 40), struct.pack("!i", number)]))
            assert reply.kinds == "VZ" and reply.status == "I"
            assert struct.unpack("!ii", reply.messages[0][1]) == (4, 40 + number)
            assert other.value("select 1") == "1", "the server is given back after a function call"
        reply = client.ask(wire.function_call(1, []))
        assert reply.errors and reply.status == "I"
        assert client.value("select 1") == "1"


def test_terminate(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.send(wire.message("X"))
        assert client.is_closed()


def test_half_closed_client_still_gets_its_answer_or_is_closed(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.send(wire.query("select 1"))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()
    assert serves(pooler)


@pytest.mark.parametrize("length", [0, 1, 3, -1, -2147483648])
def test_impossible_message_length(start_pooler, length):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.send(b"Q" + struct.pack("!i", length) + b"select 1\0")
        assert refused(client)
    assert serves(pooler)


def test_declared_length_allocates_nothing(start_pooler):
    """2 GB promised, 10 bytes sent: memory must not follow the promise."""
    pooler = start_pooler()
    assert serves(pooler)
    before = pooler.memory()
    clients = []
    for _ in range(20):
        client = pooler.wire()
        client.send(b"P" + struct.pack("!i", 2_000_000_000) + b"0123456789")
        clients.append(client)
    assert serves(pooler)
    assert pooler.memory() - before < 4096
    for client in clients:
        client.close()
    assert serves(pooler)


def test_max_packet_size(start_pooler):
    pooler = start_pooler(max_packet_size=10_000)
    with pooler.wire() as client:
        assert client.value("select 1") == "1"
        client.send(wire.query(f"select '{'x' * 20_000}'"))
        assert refused(client)
    assert serves(pooler)
