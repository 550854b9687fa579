"""The operators' two configuration files start as they are, and serve."""

import psycopg
import pytest

REVENUE_USERS = {
    "pgbouncer_admin": "secure_admin_password",
    "monitor_user": "secure_monitor_password",
    "revenue_user": "secure_revenue_password",
    "analytics_user": "secure_analytics_password",
}


@pytest.mark.parametrize("user", REVENUE_USERS)
@pytest.mark.parametrize("database", ["revenue_engine", "revenue_engine_replica1", "revenue_engine_replica2",
                                      "analytics_db"])
def test_revenue_every_user_reaches_every_database(revenue, cluster, user, database):
    with revenue.connect(database, user, REVENUE_USERS[user], sslmode="require") as connection:
        row = connection.execute(
            "select current_user, inet_server_port(), ssl, pg_is_in_recovery() from pg_stat_ssl"
            " where pid = pg_backend_pid()").fetchone()
    primary = database == "revenue_engine"
    ports = {"revenue_engine": cluster.primary.port, "revenue_engine_replica2": cluster.replicas[1].port}
    assert row == (user, ports.get(database, cluster.replicas[0].port), True, not primary)


def test_revenue_refuses_plain_text_clients(revenue):
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        revenue.connect("revenue_engine", "revenue_user", REVENUE_USERS["revenue_user"], sslmode="disable")


@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
def test_revenue_certificate_of_the_operators_openssl_command(revenue, site, sslmode):
    with revenue.connect("revenue_engine", "revenue_user", REVENUE_USERS["revenue_user"], sslmode=sslmode,
                         host="pgbouncer-service", hostaddr="127.0.0.1",
                         sslrootcert=str(site.pooler_cert.cert)) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("select 1").fetchone() == (1,)


def test_revenue_writes_pidfile_and_logfile(revenue):
    assert int((revenue.folder / "run/pgbouncer.pid").read_text()) == revenue.pid
    revenue.connect("revenue_engine", "revenue_user", REVENUE_USERS["revenue_user"], sslmode="require").close()
    revenue.wait_log("login attempt: db=revenue_engine user=revenue_user tls=TLSv1.3")


def test_revenue_settings_as_written(revenue):
    expected = {
        "default_pool_size": "20", "max_client_conn": "1000", "min_pool_size": "5", "reserve_pool_size": "5",
        "reserve_pool_timeout": "3", "max_db_connections": "50", "max_user_connections": "100",
        "pool_mode": "transaction", "server_check_query": "SELECT 1", "server_reset_query": "DISCARD ALL",
        "client_tls_sslmode": "require", "server_tls_sslmode": "require", "auth_user": "pgbouncer_admin",
        "autodb_idle_timeout": "3600", "max_packet_size": "2147483647", "pkt_buf": "4096", "listen_backlog": "128",
        "admin_users": "pgbouncer_admin", "stats_users": "monitor_user",
    }
    shown = {row["key"]: row["value"] for row in revenue.admin("SHOW CONFIG")}
    assert {key: shown.get(key) for key in expected} == expected


def test_enterprisescanner_serves(scanner, cluster):
    with scanner.connect("enterprisescanner", "admin", "SecurePass2024!") as connection:
        one, version = connection.execute("SELECT 1, version();").fetchone()
    assert one == 1 and version.startswith("PostgreSQL")
    assert int((scanner.folder / "pgbouncer.pid").read_text()) == scanner.pid


def test_enterprisescanner_console_accepts_its_admin(scanner):
    assert [row["database"] for row in scanner.admin("SHOW POOLS;")][-1] == "pgbouncer"
