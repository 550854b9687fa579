"""COPY in every protocol form, and what is left after it fails."""

import psycopg
import pytest
from harness import wire
from harness.process import poll_until


@pytest.fixture
def copy_pooler(start_pooler, cluster):
    cluster.primary.sql("drop table if exists copied; create table copied (v int); grant all on copied to public",
                        "app")
    return start_pooler(default_pool_size=1, query_wait_timeout=5)


def data(payload: bytes) -> bytes:
    return wire.message("d", payload)


DONE = wire.message("c")


# Data sent before CopyInResponse is legal: PostgreSQL takes it.
EAGER = [False, pytest.param(True, marks=pytest.mark.beyond_pgbouncer("PgBouncer then keeps the server"))]


def copy_in(client, opening: bytes, following: bytes, eager: bool) -> wire.Reply:
    """Start a COPY and send what follows, either after the server has asked for it or at once."""
    if eager:
        client.send(opening + following)
        return client.reply()
    client.send(opening)
    seen = ""
    while not seen.endswith("G"):
        seen += client.read()[0]
    client.send(following)
    return client.reply()


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("how", ["simple", "extended", "prepared"])
def test_copy_in_and_out(copy_pooler, how, eager):
    into, out = "copy copied from stdin", "copy (select v from copied order by v) to stdout"
    with copy_pooler.wire() as client, copy_pooler.wire() as other:
        def opening(sql):
            if how == "simple":
                return wire.query(sql)
            if how == "prepared":
                client.ask(wire.parse(sql, sql) + wire.sync())
                return wire.bind(sql) + wire.execute() + wire.flush()
            return wire.parse("", sql) + wire.bind("") + wire.execute() + wire.flush()

        end = b"" if how == "simple" else wire.sync()
        reply = copy_in(client, opening(into), data(b"3\n1\n") + data(b"2\n") + DONE + end, eager)
        assert reply.tags == ["COPY 3"] and reply.status == "I"
        reply = client.ask(opening(out) + end)
        assert b"".join(b for k, b in reply.messages if k == "d") == b"1\n2\n3\n" and reply.tags == ["COPY 3"]
        assert other.value("select count(*) from copied") == "3"


def test_copy_fail(copy_pooler):
    with copy_pooler.wire() as client:
        reply = copy_in(client, wire.query("copy copied from stdin"),
                        data(b"1\n") + wire.message("f", b"changed my mind\0"), False)
        assert reply.errors[0].sqlstate == "57014" and "changed my mind" in reply.errors[0].text
        assert client.value("select count(*) from copied") == "0"


@pytest.mark.parametrize("eager", EAGER)
def test_bad_row_in_copy_in(copy_pooler, eager):
    with copy_pooler.wire() as client, copy_pooler.wire() as other:
        reply = copy_in(client, wire.query("copy copied from stdin"),
                        data(b"1\n") + data(b"not a number\n") + data(b"2\n") + DONE, eager)
        assert reply.errors[0].sqlstate == "22P02" and reply.status == "I"
        assert client.value("select 1") == "1"
        assert other.value("select count(*) from copied") == "0"


def test_bad_row_in_extended_copy_in(copy_pooler):
    with copy_pooler.wire() as client, copy_pooler.wire() as other:
        client.send(wire.parse("", "copy copied from stdin") + wire.bind("") + wire.execute() + wire.sync())
        assert [client.read()[0] for _ in range(3)] == ["1", "2", "G"]
        client.send(data(b"bad\n") + data(b"1\n") + DONE + wire.sync())
        reply = client.reply()
        assert reply.errors[0].sqlstate == "22P02" and reply.status == "I"
        assert client.value("select 'client'") == "client"
        assert other.value("select 'other'") == "other"


def test_copy_of_a_missing_table(copy_pooler):
    with copy_pooler.wire() as client:
        reply = client.ask(wire.query("copy missing from stdin"))
        assert reply.errors[0].sqlstate == "42P01" and reply.kinds == "EZ"
        assert client.value("select 1") == "1"


def test_client_that_leaves_during_copy_in(copy_pooler, cluster):
    with copy_pooler.wire() as client:
        client.send(wire.query("copy copied from stdin") + data(b"1\n"))
        assert client.read()[0] == "G"
    with copy_pooler.wire() as other:
        assert other.value("select count(*) from copied") == "0"


def test_client_that_leaves_during_copy_out(copy_pooler):
    with copy_pooler.wire() as client:
        client.send(wire.query("copy (select repeat('x', 1000) from generate_series(1, 1000000)) to stdout"))
        assert client.read()[0] == "H"
    with copy_pooler.wire() as other:
        assert other.value("select 'served'") == "served"
    poll_until(lambda: len(copy_pooler.servers()) <= 1, "the server of the COPY is gone")


def test_copy_both_ways_in_a_transaction(copy_pooler):
    with copy_pooler.connect(autocommit=False) as connection:
        with connection.cursor() as cursor:
            with cursor.copy("copy copied from stdin") as copy:
                for number in range(10_000):
                    copy.write_row((number,))
            with cursor.copy("copy copied to stdout") as copy:
                assert sum(1 for _ in copy.rows()) == 10_000
        connection.rollback()
        assert connection.execute("select count(*) from copied").fetchone() == (0,)


def test_exception_in_copy_leaves_a_usable_connection(copy_pooler):
    with copy_pooler.connect() as connection:
        with pytest.raises(psycopg.errors.BadCopyFileFormat), connection.cursor() as cursor:
            with cursor.copy("copy copied from stdin") as copy:
                copy.write("1\t2\t3\n")
        assert connection.execute("select count(*) from copied").fetchone() == (0,)


def test_copy_in_statement_mode(copy_pooler):
    copy_pooler.admin("SET pool_mode = 'statement'")
    with copy_pooler.wire() as client:
        assert copy_in(client, wire.query("copy copied from stdin"), data(b"1\n") + DONE, False).tags == ["COPY 1"]
        assert client.value("select count(*) from copied") == "1"


def test_copy_in_a_multi_statement_query(copy_pooler):
    with copy_pooler.wire() as client:
        opening = wire.query("select 1; copy copied from stdin; select 2")
        assert copy_in(client, opening, data(b"1\n") + DONE, False).tags == ["COPY 1", "SELECT 1"]
        assert client.value("select 'served'") == "served"
