"""Users who are not in auth_file: a server is asked who they are (auth_user, auth_query, auth_dbname)."""

import re
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from harness import certificates, wire
from harness.process import poll_until
from harness.successor import ends_well, hand_over
from harness.wire import WireError
from test_auth import answers_to

ASKER, ASKER_PASSWORD = "asker", "asker password"
FAILED = "(SASL|password) authentication failed"


@pytest.fixture(scope="module")
def roles(cluster):
    """Users whom only PostgreSQL knows, and the one who asks about them."""
    sql = cluster.primary.sql
    sql(f"create role {ASKER} login superuser password '{ASKER_PASSWORD}'")
    for form in ("md5", "scram"):
        encryption = "scram-sha-256" if form == "scram" else "md5"
        sql(f"set password_encryption = '{encryption}'; create role found_{form} login password 'found password'")
    sql("create role found_without login")
    yield cluster.primary
    for role in (ASKER, "found_md5", "found_scram", "found_without"):
        sql(f"drop role {role}")


@pytest.fixture
def ask(roles, site, start_pooler):
    """A pooler that asks as ASKER."""
    def start(databases=None, secrets=None, **settings):
        settings = {"auth_user": ASKER, **settings}
        return start_pooler(databases=databases or {"app": site.to_primary()},
                            secrets={ASKER: ASKER_PASSWORD, **(secrets or {})}, **settings)
    return start


@contextmanager
def changed(node, to: str, back: str, database: str = "postgres"):
    """Something that holds for the length of a test."""
    node.sql(to, database)
    try:
        yield
    finally:
        node.sql(back, database)


def refused(pooler, match: str, user: str, password: str = "found password", database: str = "app", **more) -> None:
    with pooler.raw() as client, pytest.raises(WireError) as caught:
        client.login(user, database, password, **more)
    assert re.search(match, caught.value.text), caught.value.text


@pytest.mark.parametrize("user,auth_type,asked", [
    ("found_scram", "md5", 10), ("found_scram", "scram-sha-256", 10), ("found_scram", "plain", 3),
    ("found_md5", "md5", 5), ("found_md5", "plain", 3)])
def test_what_is_found_lets_in_and_opens_servers(ask, user, auth_type, asked):
    pooler = ask(auth_type=auth_type)
    with pooler.wire("app", user, "found password") as client:
        assert client.challenges[0][:4] == struct.pack("!i", asked)
        assert client.value("select current_user") == user
    refused(pooler, FAILED, user, "wrong")
    assert [row for row in pooler.admin("SHOW USERS") if row["name"] == user]
    assert "found password" not in pooler.log()


def test_a_user_in_auth_file_is_not_asked_about(ask, roles):
    pooler = ask(auth_query="SELECT 1/0, $1")
    with pooler.wire() as client:
        assert client.value("select current_user") == "app"
    refused(pooler, "bouncer config error", "found_md5")
    # Without a password in auth_file it is as if the user did not stand there.
    other = ask(secrets={"found_md5": ""})
    with other.wire("app", "found_md5", "found password") as client:
        assert client.value("select current_user") == "found_md5"


def test_nobody_and_users_without_password(ask):
    pooler = ask()
    refused(pooler, "^no such user$", "nobody")
    refused(pooler, f"{FAILED}|empty password", "found_without", "")
    refused(pooler, FAILED, "found_without", "x")
    # What is asked is a parameter, never SQL.
    refused(pooler, "^no such user$", "x' OR rolname='found_md5' --")
    assert "no such user" in pooler.log()


@pytest.mark.beyond_pgbouncer("PgBouncer always gives it away")
@pytest.mark.parametrize("auth_type,user", [("md5", "found_scram"), ("md5", "found_md5"), ("plain", "found_md5"),
                                            ("scram-sha-256", "found_scram")])
def test_nobody_stands_out_if_unknown_users_are_hidden(ask, auth_type, user):
    """Byte for byte the same for a wrong password, nobody, and somebody without a password."""
    pooler = ask(auth_type=auth_type, hide_unknown_users=1)
    wrong = answers_to(pooler, user, "wrong")
    assert wrong[-1][0] == "E"
    assert answers_to(pooler, "nobody", "wrong") == answers_to(pooler, "found_without", "wrong") == wrong
    pooler.wire("app", user, "found password").close()


def test_trust_lets_in_who_is_found(ask):
    pooler = ask(auth_type="trust")
    with pooler.wire("app", "trusted", "") as client:
        assert client.value("select current_user") == "trusted"
    refused(pooler, "^no such user$", "nobody", "")


def test_certificates_let_in_who_is_found(site, ask):
    place = site.base / "found"
    place.mkdir()
    front = certificates.signed(place, "front", "localhost", site.ca, names="DNS:localhost,IP:127.0.0.1")
    pairs = {user: certificates.signed(place, user, user, site.ca) for user in ("found_md5", "nobody")}
    site.readable(place)
    pooler = ask(auth_type="cert", client_tls_sslmode="verify-full", client_tls_ca_file=site.ca.cert,
                 client_tls_cert_file=front.cert, client_tls_key_file=front.key)

    def enter(user: str, certificate: str) -> psycopg.Connection:
        return pooler.connect(user=user, password=None, sslmode="require", sslcert=str(pairs[certificate].cert),
                              sslkey=str(pairs[certificate].key))

    # What was found opens the server, too.
    with enter("found_md5", "found_md5") as connection:
        assert connection.execute("select current_user").fetchone() == ("found_md5",)
    with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
        enter("found_md5", "nobody")
    with pytest.raises(psycopg.OperationalError, match="no such user"):
        enter("nobody", "nobody")


def test_nobody_is_asked_about_with_auth_type_any(site, ask):
    pooler = ask({"app": site.to_primary("user=app password='app password'")}, auth_type="any",
                 auth_query="SELECT 1/0, $1")
    with pooler.wire("app", "nobody", "") as client:
        assert client.value("select current_user") == "app"


@pytest.mark.parametrize("auth_type", ["md5", "scram-sha-256", "plain"])
def test_an_expired_password_lets_nobody_in(ask, roles, auth_type):
    """CVE-2025-2291."""
    pooler = ask(auth_type=auth_type)
    for until, holds in [("infinity", True), ("2001-01-01", False), ("2999-01-01", True)]:
        roles.sql(f"alter role found_scram valid until '{until}'")
        if holds:
            pooler.wire("app", "found_scram", "found password").close()
        else:
            refused(pooler, FAILED, "found_scram")
            refused(pooler, f"{FAILED}|empty password", "found_scram", "")
            refused(pooler, FAILED, "found_scram", "md5")
    roles.sql("alter role found_scram valid until 'infinity'")


def test_a_new_password_holds_at_once(ask, roles):
    pooler = ask()
    pooler.wire("app", "found_md5", "found password").close()
    change = "set password_encryption = 'md5'; alter role found_md5 password '{}'"
    with changed(roles, change.format("other password"), change.format("found password")):
        refused(pooler, FAILED, "found_md5")
        pooler.admin("RECONNECT")
        with pooler.wire("app", "found_md5", "other password") as client:
            assert client.value("select current_user") == "found_md5"
    # The server now refuses what was found before; the next login finds what it takes.
    pooler.admin("RECONNECT")
    with pooler.wire("app", "found_md5", "found password") as client:
        assert client.value("select current_user") == "found_md5"


@pytest.fixture
def lures(roles):
    """Tables of users: the one that is meant, and one in a schema of somebody's own."""
    roles.sql("create schema evil; create table public.people (name text, secret text); "
              "create table evil.people (name text, secret text); "
              "insert into evil.people values ('mallory', 'own password'); "
              "grant usage on schema evil to public", "app")
    yield "SELECT name, secret FROM people WHERE name = $1"
    roles.sql("drop schema evil cascade; drop table public.people", "app")


@pytest.mark.parametrize("how", [{"search_path": "evil"}, {"options": "-c search_path=evil,public"}])
def test_startup_parameters_do_not_reach_the_query(ask, lures, how):
    """CVE-2025-12819."""
    pooler = ask(auth_query=lures, track_extra_parameters="search_path", auth_type="plain", default_pool_size=1)
    for _ in range(3):
        refused(pooler, "^no such user$", "mallory", "own password", **how)
    with pooler.wire("app", "app", "app password", **how) as client:
        assert "evil" in client.value("show search_path")
    refused(pooler, "^no such user$", "mallory", "own password", **how)


@pytest.mark.beyond_pgbouncer("PgBouncer asks on the servers of the auth_user's own clients")
def test_what_a_client_leaves_on_a_server_does_not_reach_the_query(ask, site, lures):
    """Clients that log in to servers as the auth_user too have servers of their own."""
    forced = site.to_primary(f"user={ASKER} password='{ASKER_PASSWORD}' pool_size=1")
    pooler = ask({"app": forced}, auth_query=lures, auth_type="plain")
    with pooler.wire() as client:
        assert client.value("select current_user") == ASKER
        client.query("set search_path = evil")
        assert client.value("show search_path") == "evil"
        refused(pooler, "^no such user$", "mallory", "own password")
    with pooler.wire("app", ASKER, ASKER_PASSWORD) as client:
        client.query("select 1")
        rows = [row for row in pooler.admin("SHOW POOLS") if row["database"] == "app"]
        assert [(row["user"], row["sv_idle"]) for row in rows] == [(ASKER, 2)]


@pytest.mark.beyond_pgbouncer("PgBouncer's default query resolves operators by search_path")
def test_the_default_query_means_the_same_under_any_search_path(ask, roles):
    roles.sql("create schema evil; "
              "create function evil.never(timestamptz, timestamptz) returns bool language sql return false; "
              "create operator evil.< (leftarg = timestamptz, rightarg = timestamptz, function = evil.never)", "app")
    with (changed(roles, "alter role found_md5 valid until '2001-01-01'", "alter role found_md5 valid until 'infinity'"),
          changed(roles, f"alter role {ASKER} set search_path = evil, pg_catalog", f"alter role {ASKER} reset search_path"),
          changed(roles, "select 1", "drop schema evil cascade", "app")):
        pooler = ask()
        refused(pooler, FAILED, "found_md5")


def test_the_auth_database(ask, site):
    databases = {"app": site.to_primary("auth_dbname=users"), "users": site.to_primary(dbname="postgres"),
                 "lost": site.to_primary("auth_dbname=nowhere"), "console": site.to_primary("auth_dbname=pgbouncer")}
    pooler = ask(databases)
    pooler.wire("app", "found_md5", "found password").close()
    assert {row["user"] for row in pooler.servers("users")} == {ASKER}
    for database, reason in [("lost", 'authentication database "nowhere" is not configured'),
                             ("console", 'cannot use the reserved "pgbouncer" database as an auth_dbname'),
                             ("pgbouncer", 'cannot use the reserved "pgbouncer" database as an auth_dbname')]:
        before = pooler.logfile.read_text().count(reason)
        # `stats` may enter the console, but auth_file has no password for it here.
        user = "stats" if database == "pgbouncer" else "found_md5"
        if user == "stats":
            (pooler.folder / "userlist.txt").write_text('"console" "console password"\n')
            pooler.admin("RELOAD")
        refused(pooler, "^bouncer config error$", user, database=database)
        assert pooler.logfile.read_text().count(reason) == before + 1
    pooler.admin("DISABLE users")
    refused(pooler, 'authentication database "users" is disabled', "found_md5")


def test_a_function_for_a_user_who_may_do_nothing_else(roles, site, start_pooler):
    """As docs/settings.md has it."""
    page = (Path(__file__).parents[2] / "docs/settings.md").read_text()
    sql = page[page.index("    CREATE ROLE pooler"):page.index("\nwith `auth_user = pooler`")]
    query = re.search(r"`auth_query = (SELECT [^`]*pooler[^`]*)`", page)[1]
    with changed(roles, sql.replace("'…'", "'pooler password'"), "drop schema pooler cascade; drop role pooler", "app"):
        pooler = start_pooler(databases={"app": site.to_primary()}, secrets={"pooler": "pooler password"},
                              auth_user="pooler", auth_query=query)
        with pooler.wire("app", "found_scram", "found password") as client:
            assert client.value("select current_user") == "found_scram"
        refused(pooler, "^no such user$", "postgres", "x")


def test_paused_databases_and_clients_that_go_meanwhile(ask):
    pooler = ask()
    pooler.admin("PAUSE app")
    waiting = pooler.raw()
    waiting.send(wire.startup({"user": "found_md5", "database": "app"}))
    pooler_waits = lambda user: pooler.pool("app", user)["cl_waiting"]  # noqa: E731
    poll_until(lambda: pooler_waits(ASKER) == 1, "the login waits")
    gone = pooler.raw()
    gone.send(wire.startup({"user": "found_md5", "database": "app"}))
    poll_until(lambda: pooler_waits(ASKER) == 2, "the second login waits")
    gone.close()
    poll_until(lambda: pooler_waits(ASKER) == 1, "who hung up is not waited for")
    pooler.admin("RESUME app")
    waiting.finish_login("found_md5", "found password")
    assert waiting.value("select current_user") == "found_md5"
    waiting.close()


def test_a_question_that_takes_too_long(ask):
    pooler = ask(auth_query="SELECT pg_sleep(60)::text, $1", client_login_timeout=1)
    refused(pooler, "client_login_timeout", "found_md5")
    # The server that is still at it is nobody's any more.
    poll_until(lambda: not pooler.servers(), "its server is closed")
    with pooler.wire() as client:
        assert client.value("select 1") == "1"


@pytest.mark.beyond_pgbouncer("PgBouncer uses the whole pool for it")
def test_a_storm_of_strangers_takes_few_servers(ask, roles):
    query = "SELECT rolname, rolpassword FROM pg_authid, pg_sleep(0.05) WHERE rolname = $1"
    pooler = ask(auth_query=query, default_pool_size=20, auth_type="md5")
    most = 0
    over = threading.Event()
    # Backends of other tests may not have noticed yet that they are alone.
    others = roles.sql("select array_agg(pid) from pg_stat_activity")[0][0]

    def knock(number: int) -> str:
        with pooler.raw(timeout=30) as client, pytest.raises(WireError) as caught:
            client.login(f"stranger_{number}", "app", "x")
        return caught.value.text

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            ours = roles.sql("select count(*) from pg_stat_activity where usename = %s and pid <> all(%s)",
                             parameters=(ASKER, others))
            most = max(most, ours[0][0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with pooler.wire() as inside, ThreadPoolExecutor(60) as crowd:
            told = [crowd.submit(knock, number) for number in range(120)]
            assert inside.value("select 1") == "1"
            with pooler.wire("app", "found_md5", "found password") as client:
                assert client.value("select current_user") == "found_md5"
            assert {answer.result() for answer in told} == {"no such user"}
    finally:
        over.set()
        watcher.join()
    assert 1 <= most <= 4
    names = {row["name"] for row in pooler.admin("SHOW USERS")}
    assert not [name for name in names if name.startswith("stranger_")]


@pytest.mark.beyond_pgbouncer("PgBouncer remembers every name")
def test_names_of_databases_that_strangers_make_up_are_forgotten(ask, site):
    pooler = ask({"*": f"host=127.0.0.1 port={site.cluster.primary.port}"}, server_login_retry=0)
    for number in range(20):
        refused(pooler, f'database "made_up_{number}" does not exist', "found_md5", database=f"made_up_{number}")
    # One that is there stays, also if nobody got in.
    refused(pooler, "no such user", "nobody", database="app")
    pooler.wire("app", "found_md5", "found password").close()
    names = {row["name"] for row in pooler.admin("SHOW DATABASES")}
    assert names == {"app", "pgbouncer"}
    assert {row["database"] for row in pooler.admin("SHOW POOLS")} == {"app", "pgbouncer"}


@pytest.mark.beyond_pgbouncer("PgBouncer passes the server's words on")
def test_a_stranger_does_not_hear_as_whom_is_asked(ask):
    pooler = ask(secrets={ASKER: "wrong password"}, server_login_retry=0)
    for _ in range(2):
        refused(pooler, "^bouncer config error$", "found_md5")
    pooler.wait_log(f'password authentication failed for user "{ASKER}"')


def test_user_limits_hold_for_who_is_found(roles, site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary()}, secrets={ASKER: ASKER_PASSWORD}, auth_user=ASKER,
                          users={"found_md5": "max_user_client_connections=1"})
    with pooler.wire("app", "found_md5", "found password"):
        refused(pooler, "max_user_client_connections", "found_md5")
        pooler.wire("app", "found_scram", "found password").close()
        row = next(row for row in pooler.admin("SHOW USERS") if row["name"] == "found_md5")
        assert (row["max_user_client_connections"], row["current_client_connections"]) == (1, 1)


def test_user_limits_count_the_client_and_not_the_user_of_the_server(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary("user=app password='app password'")},
                          users={"bob": "max_user_client_connections=1"})
    with pooler.wire("app", "bob", "bob password") as client:
        assert client.value("select current_user") == "app"
        refused(pooler, "max_user_client_connections", "bob", "bob password")
        pooler.wire("app", "alice", "alice password").close()


def test_limits_of_clients_on_the_console(start_pooler):
    pooler = start_pooler(max_db_client_connections=1)
    with pooler.console("stats", "stats password"):
        with pytest.raises(psycopg.OperationalError, match="max_db_client_connections"):
            pooler.console("stats", "stats password")
        # An admin gets in when everything is full.
        row = next(row for row in pooler.admin("SHOW DATABASES") if row["name"] == "pgbouncer")
        assert (row["max_client_connections"], row["current_client_connections"]) == (1, 2)


@pytest.mark.beyond_pgbouncer("PgBouncer's -R does not pass this on")
def test_what_was_found_goes_to_the_successor(ask, cluster):
    pooler = ask(server_tls_sslmode="disable")
    pooler.wait_log("process up")
    client = pooler.wire("app", "found_md5", "found password")
    assert client.value("select current_user") == "found_md5"
    hand_over(pooler)
    pooler.admin("RECONNECT")
    # A new server, for which the successor needs the secret.
    assert client.value("select current_user") == "found_md5"
    client.close()
    pooler.wire("app", "found_scram", "found password").close()


@pytest.mark.beyond_pgbouncer("PgBouncer's -R does not wait for logins")
def test_a_login_under_way_finishes_during_a_hand_over(ask):
    """A question that waits for a server when the pools come to a stand-still gets one of its own."""
    query = "SELECT rolname, rolpassword FROM pg_authid, pg_sleep(0.3) WHERE rolname = $1"
    pooler = ask(auth_query=query, default_pool_size=1, server_tls_sslmode="disable")
    pooler.wait_log("process up")
    clients = [pooler.raw(timeout=30) for _ in range(4)]
    for client in clients:
        client.send(wire.startup({"user": "found_md5", "database": "app"}))
    poll_until(lambda: pooler.pool("app", ASKER)["cl_waiting"] >= 2, "logins wait for the only server")
    former = hand_over(pooler, wait=False)
    for client in clients:
        client.finish_login("found_md5", "found password")
    ends_well(former)
    for client in clients:
        assert client.value("select current_user") == "found_md5"
        client.close()


# -- what clients send instead of SCRAM


def sasl(data: bytes, mechanism: str = "SCRAM-SHA-256", length: int | None = None) -> bytes:
    length = len(data) if length is None else length
    return wire.message("p", wire.text(mechanism) + struct.pack("!i", length) + data)


FIRST = b"n,,n=,r=abcdefghijklmnopqrstuvwx"


@pytest.mark.parametrize("messages", [
    [wire.startup({"user": "app", "database": "app"})],
    [sasl(FIRST), wire.startup({"user": "app", "database": "app"})],
    [wire.query("select 1")],
    [sasl(b"n,,n=,r=" + b"x" * 5000)],
    [sasl(FIRST, length=4_000_000)],
    [sasl(FIRST, length=-1)],
    [sasl(FIRST, mechanism="SCRAM-SHA-1")],
    [sasl(b"")],
    [sasl(b"\xff" * 64)],
    [sasl(b"p=tls-unique,,n=,r=abcdefghijklmnop")],
    [sasl(b"y,,n=,r=")],
    [sasl(FIRST), wire.message("p", b"")],
    [sasl(FIRST), wire.message("p", b"c=biws,r=abc,p=AAAA")],
    [sasl(FIRST), wire.message("p", b"c=" + b"A" * 5000)],
    [sasl(FIRST), b"p" + struct.pack("!i", 0x7FFF_FFFF)],
    [sasl(FIRST), b"p" + struct.pack("!i", 3)],
    [b"p" + struct.pack("!i", -1)],
], ids=lambda messages: f"{len(messages)} of {len(messages[-1])} bytes")
def test_whatever_comes_instead_of_scram_is_refused(ask, messages):
    """A second startup packet, malformed and over-long messages."""
    pooler = ask(auth_type="scram-sha-256")
    with pooler.raw() as client:
        client.send(wire.startup({"user": "found_scram", "database": "app"}))
        for message in messages:
            kind, _ = client.read()
            assert kind == "R"
            client.send(message)
        kind, body = client.read()
        assert kind == "E" and wire.parse_fields(body)["S"] == "FATAL"
        assert client.is_closed()
    pooler.wire("app", "found_scram", "found password").close()


# -- what servers answer instead


class FakeServer:
    """Lets everybody in, and answers each question with the same bytes."""

    def __init__(self, answer: bytes, greeting: bytes | None = None):
        self.answer = answer
        self.greeting = wire.message("R", bytes(4)) + wire.message("Z", b"I") if greeting is None else greeting
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        # The pooler hangs up when it has heard enough.
        with connection, suppress(OSError):
            connection.settimeout(15)
            while True:
                length = struct.unpack("!i", self._exactly(connection, 4))[0]
                code = struct.unpack("!i", self._exactly(connection, length - 4)[:4])[0]
                if code == 80877103:  # SSLRequest
                    connection.sendall(b"N")
                    continue
                break
            connection.sendall(self.greeting)
            while True:
                kind = self._exactly(connection, 1)
                length = struct.unpack("!i", self._exactly(connection, 4))[0]
                self._exactly(connection, length - 4)
                if kind == b"S":
                    connection.sendall(self.answer)
                elif kind == b"X":
                    return

    @staticmethod
    def _exactly(connection: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = connection.recv(count - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return data

    def close(self) -> None:
        self.listener.close()


READY = wire.message("Z", b"I")


def row(*values: bytes | None) -> bytes:
    columns = b"".join(b"\xff\xff\xff\xff" if v is None else struct.pack("!i", len(v)) + v for v in values)
    return wire.message("D", struct.pack("!h", len(values)) + columns)


def table(columns: int, *rows: bytes) -> bytes:
    return wire.message("T", struct.pack("!h", columns)) + b"".join(rows) + wire.message("C", wire.text("SELECT")) + READY


@pytest.mark.parametrize("answer,logged", [
    (wire.message("E", b"Mno state here\0\0") + READY, "no state here"),
    (wire.message("E", b"\0") + READY, "error in auth_query"),
    (wire.message("E", b"not even fields") + READY, "error in auth_query"),
    (table(1, row(b"joe")), "expected 2 columns from auth_query, not 1"),
    (table(2, row(b"jim", b"secret")), "another user"),
    (table(2, row(None, b"secret")), "null user name"),
    (table(2, row(b"joe", b"secret"), row(b"joe", b"other")), "rows that differ"),
    (table(2, wire.message("D", b"\0\x02\0\0\0\x09joe")), "does not have 2 columns"),
    (table(2, row(b"joe", b"x" * 65_536)), "longer than 65535 bytes"),
    (table(2, row(b"joe", b"x" * 100_000)), "too long"),
    (wire.message("G", b"\0\0\0") + READY, "unexpected response"),
    (wire.message("Z", b"T"), "transaction open"),
    (table(2, row(b"joe", b"secret")) + READY, "unexpected response"),
    (b"D" + struct.pack("!i", 0x7FFF_FFFF), "bad packet header"),
    (b"D" + struct.pack("!i", 1_000_000), "too long"),
    (b"D" + struct.pack("!i", 2), "bad packet header"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_odd_answers_let_nobody_in(start_pooler, answer, logged):
    server = FakeServer(answer)
    try:
        pooler = start_pooler(databases={"app": f"host=127.0.0.1 port={server.port}"}, auth_user=ASKER,
                              server_tls_sslmode="disable", auth_type="plain")
        for _ in range(2):
            refused(pooler, "^bouncer config error$", "joe", "secret")
        assert logged in pooler.log()
    finally:
        server.close()


@pytest.mark.parametrize("greeting", [
    wire.message("E", b"SFATAL\0Mno state here\0\0"), wire.message("E", b"\0"), wire.message("E", b"Mno end")],
    ids=["no state", "nothing", "no end"])
def test_a_login_error_of_the_server_without_sqlstate(start_pooler, greeting):
    server = FakeServer(b"", greeting)
    try:
        pooler = start_pooler(databases={"app": f"host=127.0.0.1 port={server.port}"}, auth_user=ASKER,
                              server_tls_sslmode="disable", auth_type="plain")
        with pooler.raw() as client, pytest.raises(WireError) as caught:
            client.login("joe", "app", "secret")
        assert caught.value.fields["S"] == "FATAL" and len(caught.value.sqlstate) == 5
        assert pooler.admin("SHOW VERSION")
    finally:
        server.close()


def test_a_fitting_answer_lets_in(start_pooler):
    """The other half of the tests above: the same server with a right answer."""
    server = FakeServer(table(2, row(b"joe", b"secret"), row(b"joe", b"secret")))
    try:
        pooler = start_pooler(databases={"app": f"host=127.0.0.1 port={server.port}"}, auth_user=ASKER,
                              server_tls_sslmode="disable", auth_type="plain")
        pooler.wire("app", "joe", "secret").close()
        refused(pooler, FAILED, "joe", "wrong")
    finally:
        server.close()
