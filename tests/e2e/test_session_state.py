"""What belongs to a client follows it from server to server."""

import psycopg
import pytest
from harness import wire
from harness.wire import WireError

TRACKED = {
    "application_name": ("client one", "client two"),
    "DateStyle": ("ISO, DMY", "German, DMY"),
    "TimeZone": ("Asia/Tokyo", "America/New_York"),
    "client_encoding": ("LATIN1", "UTF8"),
    "standard_conforming_strings": ("off", "on"),
    "IntervalStyle": ("iso_8601", "sql_standard"),
}


@pytest.mark.parametrize("name", TRACKED)
@pytest.mark.parametrize("how", ["startup", "set"])
def test_tracked_parameter_of_each_client(start_pooler, name, how):
    pooler = start_pooler(default_pool_size=1)
    clients = []
    for value in TRACKED[name]:
        if how == "startup":
            clients.append(pooler.wire(**{name: value}))
        else:
            clients.append(pooler.wire())
            clients[-1].query(f"set {name} = '{value}'" if name != "DateStyle" else f"set {name} = {value}")
    pids = set()
    for _ in range(3):
        for client, value in zip(clients, TRACKED[name]):
            assert client.value(f"show {name}") == value
            assert client.parameters[name] == value
            pids.add(client.value("select pg_backend_pid()"))
    assert len(pids) == 1, "both clients are on one server"
    for client in clients:
        client.close()


def test_parameter_status_is_told_when_a_tracked_parameter_changes(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        assert "S" in client.ask(wire.query("set application_name = 'told'")).kinds
        assert client.parameters["application_name"] == "told"


def test_login_tells_the_servers_parameters(start_pooler, cluster):
    pooler = start_pooler()
    with pooler.wire() as through, wire.Wire(cluster.primary.port) as direct:
        direct.login("app", "app", "app password")
        for name in ("server_version", "server_encoding", "integer_datetimes", "standard_conforming_strings",
                     "DateStyle", "TimeZone", "client_encoding", "IntervalStyle"):
            assert through.parameters[name] == direct.parameters[name], name
        assert through.pid and len(through.secret) == 4


def test_untracked_setting_in_a_transaction_stays_inside(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as one, pooler.wire() as two:
        one.query("begin; set local work_mem = '77kB'")
        assert one.value("show work_mem") == "77kB"
        one.query("commit")
        assert two.value("show work_mem") != "77kB"


def test_track_extra_parameters(start_pooler, cluster):
    # PostgreSQL reports this one to every client (GUC_REPORT), so it can be tracked.
    pooler = start_pooler(default_pool_size=1, track_extra_parameters="IntervalStyle, search_path")
    with pooler.wire(IntervalStyle="postgres_verbose") as one, pooler.wire() as two:
        assert one.value("show IntervalStyle") == "postgres_verbose"
        assert two.value("show IntervalStyle") == "postgres"


def test_startup_parameter_that_is_not_supported(start_pooler):
    pooler = start_pooler()
    with pytest.raises(WireError, match="unsupported startup parameter: enable_seqscan"):
        pooler.wire(enable_seqscan="off")


def test_ignored_startup_parameters(start_pooler):
    pooler = start_pooler(ignore_startup_parameters="extra_float_digits, enable_seqscan, options")
    with pooler.wire(enable_seqscan="off", extra_float_digits="3", options="-c geqo=off") as client:
        assert client.value("show enable_seqscan") == "on"


def test_options_startup_parameter(start_pooler):
    pooler = start_pooler()
    with pooler.wire(options="-c timezone=Asia/Tokyo --datestyle=German,DMY") as client:
        assert client.value("show timezone") == "Asia/Tokyo"
        assert client.value("show datestyle") == "German, DMY"
    with pytest.raises(WireError, match="unsupported startup parameter in options: geqo"):
        pooler.wire(options="-c geqo=off")


def test_application_name_add_host(start_pooler):
    pooler = start_pooler(application_name_add_host=1)
    with pooler.wire(application_name="billing") as client:
        assert client.value("show application_name").startswith("billing - 127.0.0.1:")


def test_application_name_is_seen_in_pg_stat_activity(start_pooler, cluster):
    pooler = start_pooler(default_pool_size=1)
    for name in ("first", "second"):
        with pooler.connect(application_name=name) as connection:
            (seen,) = connection.execute(
                "select application_name from pg_stat_activity where pid = pg_backend_pid()").fetchone()
            assert seen == name


def test_value_that_must_be_quoted_is_replayed_safely(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    nasty = "it's; drop table students; --\\"
    with pooler.wire(application_name=nasty) as one, pooler.wire(application_name="plain") as two:
        for _ in range(2):
            assert one.value("show application_name") == nasty
            assert two.value("show application_name") == "plain"


def test_failed_transaction_and_next_client(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.connect() as one, pooler.connect() as two:
        with pytest.raises(psycopg.errors.DivisionByZero):
            one.execute("select 1/0")
        assert two.execute("select 1").fetchone() == (1,)


@pytest.mark.beyond_pgbouncer("PgBouncer only follows parameters that the server reports")
@pytest.mark.parametrize("pool_size", [1, 3])
def test_parameters_that_the_server_does_not_report_follow_their_client(start_pooler, pool_size):
    pooler = start_pooler(default_pool_size=pool_size, track_extra_parameters="search_path")
    with (pooler.wire(options="-c search_path=tenant_a") as a, pooler.wire(options="-c search_path=tenant_b") as b,
          pooler.wire() as nobody):
        for _ in range(3):
            assert a.value("show search_path") == "tenant_a"
            assert b.value("show search_path") == "tenant_b"
            assert nobody.value("show search_path") == '"$user", public'
            assert b.value("show search_path") == "tenant_b"
