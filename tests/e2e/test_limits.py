"""How many servers and clients there may be."""

import contextlib

import psycopg
import pytest
from harness import wire
from harness.process import poll_until
from harness.wire import WireError


def refused(pooler, database="app", user="app", password="app password") -> WireError:
    client = pooler.raw()
    with pytest.raises(WireError) as caught:
        client.login(user, database, password)
    assert client.is_closed()
    assert caught.value.fields["S"] == "FATAL" and caught.value.sqlstate
    return caught.value


@contextlib.contextmanager
def clients(pooler, count, **login):
    """So many logged-in clients."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(pooler.wire(**login)) for _ in range(count)]


def test_pool_size_bounds_the_servers(start_pooler):
    pooler = start_pooler(default_pool_size=3)
    with clients(pooler, 10) as many:
        for client in many:
            client.send(wire.query("select pg_sleep(0.1), pg_backend_pid()"))
        pids = {client.reply().rows[0][1] for client in many}
        assert len(pids) <= 3
        assert len(pooler.servers()) <= 3


def test_default_pool_size_change_at_run_time(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    pooler.admin("SET default_pool_size = 3")
    with clients(pooler, 3) as many:
        for client in many:
            client.query("begin")
        assert len(pooler.servers()) == 3


def test_min_pool_size_without_clients_for_a_forced_user(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary("user=app min_pool_size=3")})
    poll_until(lambda: pooler.pool()["sv_idle"] == 3, "three idle servers")


def test_min_pool_size_with_a_client(start_pooler):
    pooler = start_pooler(min_pool_size=4)
    with pooler.wire() as client:
        client.query("select 1")
        poll_until(lambda: pooler.pool()["sv_idle"] == 4, "four idle servers")


def test_reserve_pool(start_pooler):
    pooler = start_pooler(default_pool_size=1, reserve_pool_size=1, reserve_pool_timeout=1)
    with clients(pooler, 2) as (one, two):
        one.query("begin")
        two.send(wire.query("select 'from the reserve'"))
        assert two.reply().rows == [["from the reserve"]]
    pooler.wait_log("taking connection from reserve_pool")


def test_max_db_connections(site, start_pooler):
    pooler = start_pooler(default_pool_size=5, databases={"app": site.to_primary("max_db_connections=2")},
                          query_wait_timeout=1)
    with clients(pooler, 3) as (one, two, three):
        one.query("begin")
        two.query("begin")
        three.send(wire.query("select 1"))
        assert three.expect_error().text == "query_wait_timeout"


def test_max_db_connections_of_a_database_made_from_star(site, start_pooler):
    pooler = start_pooler(default_pool_size=5, databases={"*": site.to_primary()}, max_db_connections=2,
                          query_wait_timeout=1)
    with clients(pooler, 3) as (one, two, three):
        one.query("begin")
        two.query("begin")
        three.send(wire.query("select 1"))
        assert three.expect_error().text == "query_wait_timeout"
        # A reload changes it as it does for the others.
        pooler.admin("SET max_db_connections = 3")
    with clients(pooler, 3) as (one, two, three):
        for client in (one, two, three):
            client.query("begin")
        assert len(pooler.servers()) == 3


def test_max_db_client_connections_of_a_database_made_from_star(site, start_pooler):
    pooler = start_pooler(databases={"*": site.to_primary()}, max_db_client_connections=1)
    with clients(pooler, 1):
        assert refused(pooler).text == "client connections exceeded (max_db_client_connections)"


def test_max_db_connections_evicts_an_idle_server_of_another_user(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary("max_db_connections=1")})
    with pooler.wire() as app, pooler.wire("app", "alice", "alice password") as alice:
        assert app.value("select current_user") == "app"
        assert alice.value("select current_user") == "alice"
        assert app.value("select current_user") == "app"
        assert len(pooler.servers()) == 1


def test_max_user_connections(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary(), "other": site.to_primary()},
                          max_user_connections=1, query_wait_timeout=1)
    with pooler.wire() as one, pooler.wire("other") as two, pooler.wire("app", "alice", "alice password") as alice:
        one.query("begin")
        two.send(wire.query("select 1"))
        assert two.expect_error().text == "query_wait_timeout"
        assert alice.value("select 1") == "1"


def test_max_client_conn_text(start_pooler):
    pooler = start_pooler(max_client_conn=2)
    with clients(pooler, 2):
        assert refused(pooler).text == "no more connections allowed (max_client_conn)"
        # The console stays open to the operator.
        assert pooler.admin("SHOW VERSION")
    poll_until(lambda: pooler.wire().close() is None, "room again")


def test_max_db_client_connections_text(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary("max_db_client_connections=1")})
    with clients(pooler, 1):
        assert refused(pooler).text == "client connections exceeded (max_db_client_connections)"


def test_max_user_client_connections_text(start_pooler):
    pooler = start_pooler(users={"app": "max_user_client_connections=1"})
    with clients(pooler, 1):
        assert refused(pooler).text == "client connections exceeded (max_user_client_connections)"
        with pooler.wire("app", "alice", "alice password") as alice:
            assert alice.value("select 1") == "1"


def test_counts_are_current_as_soon_as_a_client_has_left(start_pooler):
    pooler = start_pooler(users={"app": "max_user_client_connections=1"})
    for _ in range(20):
        with pooler.connect() as connection:
            connection.execute("select 1")
        poll_until(lambda: counted(pooler) == 0, "the client is not counted any more", timeout=2)


def counted(pooler) -> int:
    return next(r for r in pooler.admin("SHOW USERS") if r["name"] == "app")["current_client_connections"]


def test_fallback_database(site, start_pooler):
    pooler = start_pooler(databases={"*": f"host=127.0.0.1 port={site.cluster.primary.port}"})
    with pooler.connect("app") as connection:
        assert connection.execute("select current_database()").fetchone() == ("app",)
    pooler.wait_log("registered new auto-database")


def test_unknown_database(start_pooler):
    pooler = start_pooler()
    assert refused(pooler, database="nowhere").text == "no such database: nowhere"


def test_database_that_postgresql_does_not_have(site, start_pooler):
    pooler = start_pooler(databases={"ghost": site.to_primary(dbname="ghost")})
    error = refused(pooler, database="ghost")
    assert error.text == 'database "ghost" does not exist' and error.sqlstate == "3D000"


def test_connect_query_and_forced_settings(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary(
        "connect_query='set work_mem to ''321kB''; select 1' timezone=Asia/Tokyo datestyle=German")})
    with pooler.wire() as client:
        assert client.value("show work_mem") == "321kB"


def test_host_list_goes_on_to_the_next_host(site, start_pooler):
    port = site.cluster.primary.port
    pooler = start_pooler(databases={"app": f"host=127.0.0.1,::1 port={port} dbname=app"}, default_pool_size=2)
    with clients(pooler, 2) as (one, two):
        one.query("begin")
        two.query("begin")
        where = {client.value("select host(inet_server_addr())") for client in (one, two)}
        assert where == {"127.0.0.1", "::1"}


def test_ipv6_listen(start_pooler):
    pooler = start_pooler(listen_addr="127.0.0.1, ::1")
    for host in ("::1", "127.0.0.1"):
        with pooler.connect(host=host) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_unix_socket_and_its_mode(start_pooler):
    pooler = start_pooler(unix_socket_mode="0700")
    path = pooler.sockets / f".s.PGSQL.{pooler.port}"
    assert path.stat().st_mode & 0o777 == 0o700
    pooler = start_pooler()
    path = pooler.sockets / f".s.PGSQL.{pooler.port}"
    assert path.stat().st_mode & 0o777 == 0o777
    with pooler.connect(host=str(pooler.sockets)) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    pooler.stop()
    assert not path.exists()


def test_unix_socket_only(start_pooler, site):
    pooler = start_pooler(start=False, listen_addr=None)
    site_path = pooler.sockets / f".s.PGSQL.{pooler.port}"
    pooler._serves = lambda: pooler.says_up(pooler.pid) and site_path.exists()
    pooler.start()
    with psycopg.connect(pooler.dsn(host=str(pooler.sockets))) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
