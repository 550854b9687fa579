"""Settings that PgBouncer's own test suite never looks at. Where PgBouncer knows a setting, the test passes with it too."""

import os
import re
import stat
import struct
import time

import psycopg
import pytest
from harness import wire
from harness.process import poll_until

PID = "select pg_backend_pid()"


def pids_in_turn(pooler, rounds):
    """The backends that a client gets, one transaction after the other."""
    with pooler.wire() as client:
        return [client.value(PID) for _ in range(rounds)]


def fill_pool(pooler, size):
    """Let the pool have so many idle servers."""
    clients = [pooler.wire() for _ in range(size)]
    for client in clients:
        client.query("begin")
    for client in clients:
        client.query("commit")
        client.close()
    poll_until(lambda: pooler.pool()["sv_idle"] + pooler.pool()["sv_used"] == size, "the servers are idle")


def test_server_round_robin(start_pooler):
    for wanted, different in ((0, 1), (1, 3)):
        pooler = start_pooler(server_round_robin=wanted)
        fill_pool(pooler, 3)
        assert len(set(pids_in_turn(pooler, 6))) == different, f"server_round_robin={wanted}"


def test_application_name_add_host(start_pooler):
    pooler = start_pooler(application_name_add_host=1)
    with pooler.wire(application_name="report") as client:
        name = client.value("show application_name")
        port = client.socket.getsockname()[1]
        assert name == f"report - 127.0.0.1:{port}"


def test_disable_pqexec(start_pooler):
    pooler = start_pooler(disable_pqexec=1)
    with pooler.wire() as client:
        client.send(wire.query("select 1"))
        error = client.expect_error()
        assert "PQexec disallowed" in error.text and client.is_closed()
    with pooler.wire() as client:
        reply = client.ask(wire.parse("", "select 'extended'") + wire.bind("") + wire.execute() + wire.sync())
        assert not reply.errors and reply.rows == [["extended"]]


def test_max_packet_size(start_pooler):
    pooler = start_pooler(max_packet_size=10000)
    with pooler.wire() as client:
        assert client.value(f"select length('{'x' * 9000}')") == "9000"
        client.send(wire.query(f"select length('{'x' * 11000}')"))
        assert b"packet" in client.read_to_end()
    with pooler.wire() as client:
        assert client.value("select 1") == "1"


def test_server_reset_query(start_pooler):
    for always, mode, cleaned in ((0, "session", True), (0, "transaction", False), (1, "transaction", True)):
        pooler = start_pooler(pool_mode=mode, default_pool_size=1, server_reset_query="reset work_mem",
                              server_reset_query_always=always)
        with pooler.wire() as client:
            client.query("set work_mem = '7MB'")
        with pooler.wire() as client:
            assert (client.value("show work_mem") != "7MB") == cleaned, f"{mode} always={always}"


def test_connect_query_and_check_query(start_pooler, site):
    pooler = start_pooler(
        databases={"app": site.to_primary("connect_query='set work_mem to 7777'")},
        server_check_query="select 1", server_check_delay=0)
    with pooler.wire() as client:
        assert client.value("show work_mem") == "7777kB"


@pytest.mark.parametrize("mode", ["0700", "0770"])
def test_unix_socket_mode(start_pooler, mode):
    pooler = start_pooler(unix_socket_mode=mode)
    found = os.stat(f"{pooler.sockets}/.s.PGSQL.{pooler.port}")
    assert stat.S_IMODE(found.st_mode) == int(mode, 8)


def test_autodb_idle_timeout(start_pooler, site):
    # PgBouncer looks once a second, and a database must have been seen idle before its time begins.
    pooler = start_pooler(databases={"app": site.to_primary(), "*": f"host=127.0.0.1 port={site.cluster.primary.port}"},
                          autodb_idle_timeout=2, server_idle_timeout=1, server_lifetime=1)

    def known():
        return {row["name"] for row in pooler.admin("SHOW DATABASES")}

    with pooler.wire("postgres") as client:
        assert client.value("select current_database()") == "postgres"
        poll_until(lambda: not pooler.servers("postgres"), "its server is gone")
        time.sleep(2.5)  # Nothing may happen: the client is there.
        assert "postgres" in known()
        assert client.value("select current_database()") == "postgres"
    poll_until(lambda: "postgres" not in known(), "the database is forgotten", timeout=20)
    pooler.wait_log("dropping database 'postgres' as it does not exist anymore or inactive auto-database")
    assert "app" in known()
    with pooler.wire("postgres") as client:
        assert client.value("select current_database()") == "postgres"


def test_host_names_are_kept_and_shown(start_pooler, site):
    port = site.cluster.primary.port
    pooler = start_pooler(databases={"app": f"host=localhost port={port} dbname=app"}, dns_max_ttl=100)
    with pooler.wire() as client:
        assert client.value("select 1") == "1"
    rows = {row["hostname"]: row for row in pooler.admin("SHOW DNS_HOSTS")}
    assert 0 < int(rows["localhost"]["ttl"]) <= 100
    assert "127.0.0.1:0" in rows["localhost"]["addrs"].split(",")
    lists = {row["list"]: row["items"] for row in pooler.admin("SHOW LISTS")}
    assert int(lists["dns_names"]) == 1


def test_failed_look_ups_are_kept(start_pooler):
    pooler = start_pooler(databases={"app": "host=no-such-host.invalid dbname=app"}, dns_nxdomain_ttl=60,
                          server_login_retry=0.2, auth_type="trust")
    client = pooler.raw()
    client.send(wire.startup({"user": "app", "database": "app"}))
    pooler.wait_log("closing because: server DNS lookup failed", count=3)
    assert pooler.logfile.read_text().count("DNS lookup failed: no-such-host.invalid") == 1
    client.close()


@pytest.mark.beyond_pgbouncer(reason="PgBouncer watches zones, and this name is in none")
def test_dns_zone_check_period_renews_names(start_pooler, site):
    port = site.cluster.primary.port
    pooler = start_pooler(databases={"app": f"host=localhost port={port} dbname=app"}, dns_max_ttl=2,
                          dns_zone_check_period=1)
    with pooler.wire() as client:
        assert client.value("select 1") == "1"

    def ttl():
        return int(pooler.admin("SHOW DNS_HOSTS")[0]["ttl"])

    # Without the watch it would stay at 0 for good.
    began = time.monotonic()
    poll_until(lambda: time.monotonic() - began > 2.5 and ttl() > 0, "it was looked up again")


def test_log_stats(start_pooler):
    pooler = start_pooler(stats_period=1)
    pooler.wait_log("stats: ", count=2)
    quiet = start_pooler(stats_period=1, log_stats=0)
    pooler.wait_log("stats: ", count=5)
    assert "stats: " not in quiet.log()


def test_log_connections(start_pooler):
    for wanted in (1, 0):
        pooler = start_pooler(log_connections=wanted, log_disconnections=wanted)
        with pooler.wire() as client:
            client.value("select 1")
        poll_until(lambda p=pooler: p.pool()["cl_active"] == 0, "it has left")
        assert ("login attempt: db=app" in pooler.log()) == bool(wanted)
        assert (re.search(r"app/app@.* closing because", pooler.log()) is not None) == bool(wanted)


@pytest.mark.parametrize("ignored", ["", "statement_timeout, options"])
def test_ignore_startup_parameters(start_pooler, ignored):
    pooler = start_pooler(ignore_startup_parameters=ignored)
    if not ignored:
        with pytest.raises(wire.WireError, match="unsupported startup parameter: statement_timeout"):
            pooler.wire(statement_timeout="7777")
        return
    with pooler.wire(statement_timeout="7777") as client:
        assert client.value("show statement_timeout") == "0"


@pytest.mark.since_pgbouncer("1.20")
def test_track_extra_parameters(start_pooler):
    pooler = start_pooler(default_pool_size=1, track_extra_parameters="intervalstyle")
    with pooler.wire(intervalstyle="iso_8601") as one, pooler.wire() as other:
        assert one.value("select interval '1 day'") == "P1D"
        assert other.value("select interval '1 day'") == "1 day"
        other.query("set intervalstyle = 'postgres_verbose'")
        assert one.value("select interval '1 day'") == "P1D"
        assert other.value("select interval '1 day'") == "@ 1 day"


@pytest.mark.since_pgbouncer("1.24")
def test_login_notify_message(start_pooler):
    pooler = start_pooler(login_notify_message="be brief")
    with pooler.wire() as client:
        assert [notice["M"] for notice in client.notices] == ["be brief"]
        assert client.value("select 1") == "1"


@pytest.mark.since_pgbouncer("1.24")
def test_pool_idle_timeout(start_pooler):
    pooler = start_pooler(pool_idle_timeout=1, server_idle_timeout=1)
    with pooler.wire() as client:
        client.value("select 1")
    poll_until(lambda: not [r for r in pooler.admin("SHOW POOLS") if r["database"] == "app"], "the pool is forgotten",
               timeout=20)
    with pooler.wire() as client:
        assert client.value("select 1") == "1"


@pytest.mark.since_pgbouncer("1.26")
def test_kill_client_is_for_administrators(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client, pooler.console("stats", "stats password") as console:
        victim = pooler.admin("SHOW CLIENTS")
        ids = [row["id"] for row in victim if row["database"] == "app"]
        with pytest.raises(psycopg.Error, match="admin access needed"):
            console.execute(f"KILL_CLIENT {ids[0]}")
        assert client.value("select 1") == "1"


@pytest.mark.since_pgbouncer("1.26")
@pytest.mark.parametrize("options", ["-c=", "-c =", "--=", "-c", "--", "-c =x", "-c \\"])
def test_an_empty_option_name_is_refused(start_pooler, options):
    pooler = start_pooler()
    with pytest.raises(psycopg.OperationalError, match="options startup parameter|unsupported startup parameter"):
        pooler.connect(options=options)
    assert pooler.admin("SHOW VERSION")


@pytest.mark.since_pgbouncer("1.26")
@pytest.mark.parametrize("length", [0x80000000, 0x80000005, 0xFFFFFFFF, 0, 3])
def test_a_length_that_cannot_be(start_pooler, length):
    pooler = start_pooler(auth_type="trust")
    for kind in b"QPBDEHSCpXd":
        with pooler.wire() as client:
            client.send(bytes([kind]) + struct.pack("!I", length) + b"select 1\0")
            client.read_to_end()
    before = pooler.raw()
    before.send(struct.pack("!I", length) + struct.pack("!I", wire.PROTOCOL_3_0) + b"user\0app\0\0")
    before.read_to_end()
    with pooler.wire() as client:
        assert client.value("select 1") == "1"


@pytest.mark.since_pgbouncer("1.26")
def test_read_only_follows_the_client(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as careful, pooler.wire() as other:
        careful.query("set default_transaction_read_only = on")
        assert other.value("show default_transaction_read_only") == "off"
        assert careful.value("show default_transaction_read_only") == "on"
        assert other.value("show default_transaction_read_only") == "off"


@pytest.mark.beyond_pgbouncer(reason="PgBouncer closes the connection")
def test_unknown_prepared_statement(start_pooler):
    use = wire.bind("nobody") + wire.execute() + wire.sync()
    pooler = start_pooler(unknown_prepared_statement="error")
    with pooler.wire() as client:
        for ask in (use, wire.describe("S", "nobody") + wire.sync()):
            client.query("begin")
            reply = client.ask(ask)
            assert [error.sqlstate for error in reply.errors] == ["26000"] and reply.status == "E"
            assert '"nobody" does not exist' in reply.errors[0].text
            client.query("rollback")
        assert client.value("select 1") == "1"
    with pooler.console() as console:
        console.execute("SET unknown_prepared_statement = 'disconnect'")
    for ask in (use, wire.describe("S", "nobody") + wire.sync()):
        with pooler.wire() as client:
            client.send(ask)
            error = client.expect_error()
            assert error.text == "prepared statement did not exist" and error.fields["S"] == "FATAL"
            assert client.is_closed()


@pytest.mark.beyond_pgbouncer(reason="PgBouncer closes the connection")
def test_a_name_in_use_is_called_by_the_client_s_name(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        assert not client.ask(wire.parse("mine", "select 1") + wire.sync()).errors
        reply = client.ask(wire.parse("mine", "select 2") + wire.sync())
        assert reply.errors[0].sqlstate == "42P05" and reply.errors[0].text == 'prepared statement "mine" already exists'
        assert client.value("select 1") == "1"
    pooler.wait_log("prepared statement 'mine' was already prepared")


def test_query_timeout_of_a_waiting_client(start_pooler):
    pooler = start_pooler(default_pool_size=1, query_timeout=1)
    with pooler.wire() as holder, pooler.wire() as waiter:
        holder.query("begin")
        waiter.send(wire.query("select 1"))
        error = waiter.expect_error()
        assert error.text == "query_timeout" and waiter.is_closed()
