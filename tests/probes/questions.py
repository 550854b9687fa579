"""What both programs are asked."""

import re

SHOWN = [
    "ACTIVE_SOCKETS", "CLIENTS", "CONFIG", "DATABASES", "DNS_HOSTS", "DNS_ZONES", "FDS", "HELP", "LISTS", "MEM", "PEERS",
    "PEER_POOLS", "POOLS", "SERVERS", "SOCKETS", "STATE", "STATS", "STATS_AVERAGES", "STATS_TOTALS", "TOTALS", "USERS", "VERSION",
]

# Each in a session of its own, by this user.
CONSOLE = [
    ("SHOW STATE", "admin"), ("SHOW LISTS", "stats"), ("SHOW USERS", "admin"), ("SHOW USERS", "stats"),
    ("SHOW DATABASES", "admin"), ("SHOW POOLS", "admin"), ("SHOW PEERS", "admin"), ("SHOW DNS_HOSTS", "admin"),
    ("SHOW", "admin"), ("SHOW NOTHING", "admin"), ("SHOW POOLS;", "stats"), ("show pools", "stats"), ("SHOW POOLS app", "admin"),
    ("PAUSE nosuch", "admin"), ("RESUME nosuch", "admin"), ("RESUME", "admin"), ("RESUME app", "admin"),
    ("PAUSE app", "admin"), ("PAUSE  app ;", "admin"), ("RESUME app;", "admin"), ("PAUSE pgbouncer", "admin"),
    ("PAUSE app x", "admin"), ("DISABLE", "admin"), ("DISABLE nosuch", "admin"), ("DISABLE small", "admin"),
    ("ENABLE small", "admin"), ("ENABLE", "admin"), ("ENABLE nosuch", "admin"), ("ENABLE pgbouncer", "admin"),
    ("DISABLE pgbouncer", "admin"), ("RECONNECT", "admin"), ("RECONNECT app", "admin"), ("RECONNECT nosuch", "admin"),
    ("KILL nosuch", "admin"), ("KILL small", "admin"), ("RESUME small", "admin"), ("KILL_CLIENT", "admin"),
    ("KILL_CLIENT nosuch", "admin"), ("KILL_CLIENT 99999", "admin"), ("WAIT_CLOSE small", "admin"), ("WAIT_CLOSE nosuch", "admin"),
    ("RELOAD", "admin"), ("RELOAD x", "admin"), ("SUSPEND", "admin"), ("RESUME ;", "admin"), ("SHUTDOWN x", "admin"),
    ("SHUTDOWN WAIT_FOR_NOTHING", "admin"), ("PAUSE", "stats"), ("RELOAD", "stats"), ("SET verbose = 1", "stats"),
    ("KILL_CLIENT 1", "stats"), ("SHUTDOWN", "stats"), ("SUSPEND", "stats"), ("DISABLE app", "stats"), ("SHOW FDS", "stats"),
    ("SET nosuch = 1", "admin"), ("SET", "admin"), ("SET verbose", "admin"), ("SET verbose = ", "admin"),
    ("SET verbose TO 0", "admin"), ("SET verbose = '0'", "admin"), ("SET verbose='0';", "admin"), ("SET Verbose = 0", "admin"),
    ("SET verbose = 0 x", "admin"), ("set verbose = \"0\"", "admin"), ("SET client_encoding = 'UTF8'", "admin"),
    ("SHOW client_encoding", "admin"), ("SHOW standard_conforming_strings", "admin"), ("SHOW timezone", "admin"),
    ("SHOW datestyle", "admin"), ("SHOW transaction_isolation", "admin"), ("SHOW default_transaction_isolation", "admin"),
]

STATEMENTS = [
    "", ";", " ; ", "nosuch", "nosuch command", "PAUSE; RESUME", "SELECT", "SELECT pools", "-- a comment", "SHOW\tSTATE",
    "SHOW\nSTATE", "'SHOW STATE'", "SHOW 'STATE'", "SHOW \"state\"", "\"SHOW\" STATE", "x" * 15, "x" * 16, "SHOW " + "x" * 63,
    "SHOW " + "x" * 64, "SET verbose = '" + "0" * 255 + "'", "SET verbose = '" + "0" * 256 + "'", "SHOW STATE -- now", "KILL \"\"",
    "PAUSE \"app\"", "RESUME \"app\"", "RESUME 'app'", "PAUSE APP", "show Version x y", "ABORT NOW", "()", "SHOW STATE)", "SHOW\0STATE"[:4],
]

# For every setting.
INVALID = ["nosuch value", "-7"]

VALID = [
    ("verbose", "1"), ("pool_mode", "session"), ("pool_mode", "Session"), ("pool_mode", "STATEMENT"), ("default_pool_size", "7"),
    ("default_pool_size", " 7"), ("default_pool_size", "7.5"), ("default_pool_size", "0x10"), ("default_pool_size", "1e2"),
    ("max_client_conn", "60"), ("server_lifetime", "7.5"), ("server_lifetime", "1d"), ("server_idle_timeout", "0"),
    ("query_timeout", "1.25"), ("query_timeout", "0.0001"), ("server_reset_query", ""), ("server_reset_query", "SELECT 1"),
    ("server_check_query", "select 1"), ("server_fast_close", "1"), ("server_fast_close", "yes"), ("server_fast_close", "on"),
    ("server_fast_close", "true"), ("tcp_keepalive", "0"), ("tcp_keepidle", "60"), ("tcp_user_timeout", "1000"), ("log_connections", "0"),
    ("log_connections", "2"), ("stats_period", "30"), ("ignore_startup_parameters", "extra_float_digits, search_path"),
    ("server_tls_sslmode", "prefer"), ("server_tls_sslmode", "PREFER"), ("server_tls_protocols", "all"),
    ("server_tls_protocols", "tlsv1.2,tlsv1.3"), ("client_tls_sslmode", "disable"), ("auth_type", "trust"), ("auth_type", "scram-sha-256"),
    ("auth_type", "SCRAM-SHA-256"), ("auth_type", "pam"), ("admin_users", "admin, other"), ("stats_users", ""), ("listen_port", "1"),
    ("unix_socket_mode", "0700"), ("unix_socket_mode", "9"), ("max_prepared_statements", "5"), ("application_name_add_host", "1"),
    ("disable_pqexec", "1"), ("query_wait_timeout", "5"), ("cancel_wait_timeout", "5"), ("idle_transaction_timeout", "60"),
    ("client_idle_timeout", "60"), ("min_pool_size", "1"), ("reserve_pool_size", "3"), ("reserve_pool_timeout", "1.5"),
    ("max_db_connections", "30"), ("max_user_connections", "30"), ("server_round_robin", "1"), ("server_login_retry", "2"),
    ("dns_max_ttl", "30"), ("dns_nxdomain_ttl", "3"), ("autodb_idle_timeout", "60"), ("suspend_timeout", "5"), ("peer_id", "3"),
    ("so_reuseport", "1"), ("syslog_facility", "local0"), ("syslog_ident", "other"), ("max_packet_size", "1000000"),
    ("pkt_buf", "8192"), ("sbuf_loopcnt", "3"), ("logfile", "/nonexistent/log"),
]


def client(name: str, question: str = "SELECT 1", **parameters) -> tuple[str, dict, str]:
    return name, {"database": "app", "user": "app", "password": "app-secret"} | parameters, question


CLIENTS = [
    client("all is well"),
    client("md5 secret", user="hashed", password="hashed-secret"),
    client("wrong password", password="no"),
    client("empty password", password=""),
    client("no such user", user="nosuch"),
    client("no such database", database="nosuch"),
    client("no such user and database", user="nosuch", database="nosuch"),
    client("wrong password, no such database", database="nosuch", password="no"),
    client("console as an ordinary user", database="pgbouncer"),
    client("console with a wrong password", database="pgbouncer", user="admin", password="no"),
    client("console as a statistics user", "SHOW VERSION", database="pgbouncer", user="stats", password="stats-secret"),
    client("server that is not there", "SELECT 1", database="closed", options="", connect_timeout=3),
    client("forced user", "SELECT current_user", database="forced"),
    client("options", "SHOW application_name", options="-c application_name=other"),
    client("options with an unknown parameter", options="-c enable_seqscan=off"),
    client("options of another kind", options="-d 5"),
    client("application_name", "SHOW application_name", application_name="mine"),
    client("client_encoding", "SHOW client_encoding", client_encoding="latin1"),
    client("error of the server", "SELECT nosuch"),
    client("several statements", "SELECT 1; SELECT 2"),
    client("an empty statement", ""),
    client("transaction", "BEGIN"),
    client("set and show in transaction pooling", "SET statement_timeout = 1000; SHOW statement_timeout"),
    client("long user name", user="u" * 200),
    client("long database name", database="d" * 200),
    client("replication to the console", database="pgbouncer", user="admin", password="admin-secret", replication="database"),
]


def more(*lines: str):
    return lambda text: text + "\n".join(lines) + "\n"


def without(setting: str):
    return lambda text: re.sub(rf"(?m)^{setting} = .*\n", "", text)


def databases(line: str):
    return lambda text: text.replace("[databases]\n", f"[databases]\n{line}\n")


def users(line: str):
    return lambda text: text.replace("[users]\n", f"[users]\n{line}\n")


BROKEN_FILES = [
    ("as it is", more()),
    ("unknown setting", more("nosuch = 1")),
    ("a word that is no number", more("max_client_conn = many")),
    ("negative number", more("default_pool_size = -1")),
    ("number with a unit", more("query_timeout = 5s")),
    ("setting twice", more("max_client_conn = 10", "max_client_conn = 20")),
    ("empty value", more("max_client_conn =")),
    ("line without =", more("max_client_conn")),
    ("section that is not closed", more("[pgbouncer")),
    ("unknown section", more("[nosuch]", "a = 1")),
    ("comment by ;", more("; comment")),
    ("comment by #", more("# comment")),
    ("comment behind a value", more("max_client_conn = 10 ; comment")),
    ("indented", lambda text: "\n".join("   " + line for line in text.splitlines()) + "\n"),
    ("carriage returns", lambda text: text.replace("\n", "\r\n")),
    ("empty file", lambda _: ""),
    ("no section", lambda _: "listen_port = 1\n"),
    ("auth_type unknown", more("auth_type = nosuch")),
    ("pool_mode unknown", more("pool_mode = nosuch")),
    ("auth_file missing", more("auth_file = /nonexistent/users")),
    ("no auth_file", without("auth_file")),
    ("no listen_addr", without("listen_addr")),
    ("listen_addr that is no address", more("listen_addr = no.such.host.invalid")),
    ("listen_port too large", more("listen_port = 70000")),
    ("unix_socket_dir missing", more("unix_socket_dir = /nonexistent")),
    ("pidfile in a missing folder", more("pidfile = /nonexistent/pid")),
    ("logfile in a missing folder", more("logfile = /nonexistent/log")),
    ("TLS without a key", more("client_tls_sslmode = require")),
    ("TLS with a missing key", more("client_tls_sslmode = require", "client_tls_key_file = /nonexistent", "client_tls_cert_file = /nonexistent")),
    ("TLS mode unknown", more("client_tls_sslmode = nosuch")),
    ("TLS protocol unknown", more("server_tls_protocols = tlsv9")),
    ("auth_type cert without TLS", more("auth_type = cert")),
    ("database with an unknown parameter", databases("x = host=127.0.0.1 nosuch=1")),
    ("database with a bad port", databases("x = host=127.0.0.1 port=many")),
    ("database with a bad pool_mode", databases("x = host=127.0.0.1 pool_mode=nosuch")),
    ("database without a value", databases("x =")),
    ("database without =", databases("x")),
    ("database named pgbouncer", databases("pgbouncer = host=127.0.0.1")),
    ("database in quotes", databases("\"my db\" = host=127.0.0.1")),
    ("database with a quote that is not closed", databases("x = host='127.0.0.1")),
    ("database for all others", databases("* = host=127.0.0.1")),
    ("database with a connect_query", databases("x = host=127.0.0.1 connect_query='SELECT 1; SELECT 2'")),
    ("database with a host list", databases("x = host=127.0.0.1,127.0.0.2")),
    ("database twice", databases("app = host=127.0.0.1")),
    ("user with an unknown parameter", users("x = nosuch=1")),
    ("user with a bad number", users("x = max_user_connections=many")),
    ("user without a value", users("x =")),
    ("include of a missing file", more("%include /nonexistent")),
    ("include without a file", more("%include")),
    ("unknown directive", more("%nosuch x")),
    ("peers with a word as number", more("[peers]", "one = host=127.0.0.1")),
    ("peer without a host", more("[peers]", "1 = port=7000")),
    ("unix_socket_mode that is not octal", more("unix_socket_mode = 999")),
    ("server_check_delay with a unit", more("server_check_delay = 30s")),
    ("syslog_facility unknown", more("syslog_facility = nosuch")),
    ("user unknown", more("user = nosuchuser")),
]
