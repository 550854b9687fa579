"""Logging in, on both sides of the pooler."""

import hashlib
import os

import psycopg
import pytest
from harness import certificates, process, wire
from harness.process import poll_until
from harness.wire import WireError


def scram_secret(cluster, user: str) -> str:
    """What PostgreSQL stores for the user."""
    return cluster.primary.sql("select rolpassword from pg_authid where rolname = %s", parameters=(user,))[0][0]


def md5_secret(user: str, password: str) -> str:
    return "md5" + hashlib.md5((password + user).encode()).hexdigest()


def answers_to(pooler, user: str, password: str, database: str = "app") -> list[tuple[str, bytes]]:
    """Every message of the server up to the end of a failing login, with random parts blanked."""
    seen = []
    with pooler.raw() as client:
        read = client.read

        def recording():
            kind, body = read()
            if kind == "R" and body[:4] == b"\0\0\0\x05":
                seen.append((kind, body[:4] + b"salt"))
            elif kind == "R" and body[:4] == b"\0\0\0\x0b":
                parts = dict(p.split("=", 1) for p in body[4:].decode().split(","))
                seen.append((kind, f"nonce {len(parts['r'])} salt {len(parts['s'])} i {parts['i']}".encode()))
            else:
                seen.append((kind, body.replace(user.encode(), b"USER")))
            return kind, body

        client.read = recording
        with pytest.raises(WireError):
            client.login(user, database, password)
        assert client.is_closed()
    return seen


@pytest.mark.parametrize("auth_type", ["md5", "scram-sha-256", "plain"])
def test_unknown_user_gets_byte_for_byte_what_a_wrong_password_gets(start_pooler, auth_type):
    pooler = start_pooler(auth_type=auth_type)
    wrong = answers_to(pooler, "app", "wrong")
    unknown = answers_to(pooler, "nobody", "wrong")
    assert unknown == wrong
    assert wrong[-1][0] == "E"
    assert answers_to(pooler, "nobody", "wrong", "nowhere") == answers_to(pooler, "app", "wrong", "nowhere") == wrong


@pytest.mark.parametrize("auth_type,text", [
    ("md5", "password authentication failed"), ("scram-sha-256", "SASL authentication failed"),
    ("plain", "password authentication failed")])
def test_wrong_password_text(start_pooler, auth_type, text):
    pooler = start_pooler(auth_type=auth_type)
    with pooler.raw() as client, pytest.raises(WireError) as caught:
        client.login("app", "app", "wrong")
    assert caught.value.text == text
    assert caught.value.sqlstate in ("08P01", "28P01") and caught.value.fields["S"] == "FATAL"


def test_fake_scram_salt_is_the_same_every_time(start_pooler):
    """A salt that changes from try to try would tell that the user does not exist."""
    pooler = start_pooler(auth_type="scram-sha-256")
    salts = set()
    for _ in range(3):
        with pooler.raw() as client:
            client.send(wire.startup({"user": "nobody", "database": "app"}))
            client.read()
            first = b"n,,n=,r=abcdefghijklmnopqrstuvwx"
            client.send(wire.message("p", wire.text("SCRAM-SHA-256") + len(first).to_bytes(4, "big") + first))
            kind, body = client.read()
            assert kind == "R"
            salts.add(dict(p.split("=", 1) for p in body[4:].decode().split(","))["s"])
    assert len(salts) == 1


@pytest.mark.parametrize("user", ["app", "bob"])
@pytest.mark.parametrize("auth_type", ["md5", "scram-sha-256", "plain", "trust", "any"])
def test_plain_secret_serves_every_auth_type_and_both_forms_in_postgresql(site, start_pooler, auth_type, user):
    forced = site.to_primary(f"user={user} password='{user} password'") if auth_type == "any" else site.to_primary()
    pooler = start_pooler(auth_type=auth_type, databases={"app": forced})
    with pooler.wire("app", user, f"{user} password") as client:
        assert client.value("select current_user") == user


def test_md5_secret_in_the_userlist(start_pooler):
    pooler = start_pooler(secrets={"bob": md5_secret("bob", "bob password")})
    with pooler.wire("app", "bob", "bob password") as client:
        assert client.value("select current_user") == "bob"


def test_scram_pass_through(start_pooler, cluster):
    """A SCRAM secret serves both sides: the keys of the client's login open the server."""
    pooler = start_pooler(auth_type="scram-sha-256", secrets={"app": scram_secret(cluster, "app")})
    with pooler.wire() as client:
        assert client.challenges[0][:4] == b"\0\0\0\x0a"
        assert client.value("select current_user") == "app"
        assert client.value("select pg_backend_pid()")
    with pooler.raw() as client, pytest.raises(WireError, match="SASL authentication failed"):
        client.login("app", "app", "wrong")


def test_scram_secret_with_auth_type_md5(start_pooler, cluster):
    """With auth_type=md5 a user who has a SCRAM secret is asked for SCRAM."""
    pooler = start_pooler(auth_type="md5", secrets={"app": scram_secret(cluster, "app")})
    with pooler.wire() as client:
        assert client.challenges[0][:4] == b"\0\0\0\x0a"
        assert client.value("select 1") == "1"


@pytest.mark.beyond_pgbouncer("PgBouncer offers SCRAM-SHA-256 only")
def test_scram_channel_binding_required_by_the_client(site, start_pooler, cluster):
    pooler = start_pooler(
        auth_type="scram-sha-256", secrets={"app": scram_secret(cluster, "app")}, client_tls_sslmode="require",
        client_tls_cert_file=site.pooler_cert.cert, client_tls_key_file=site.pooler_cert.key)
    with pooler.connect(sslmode="require", channel_binding="require") as connection:
        assert connection.execute("select current_user").fetchone() == ("app",)


def test_scram_over_tls_without_demanding_channel_binding(site, start_pooler):
    pooler = start_pooler(auth_type="scram-sha-256", client_tls_sslmode="require",
                          client_tls_cert_file=site.pooler_cert.cert, client_tls_key_file=site.pooler_cert.key)
    for binding in ("prefer", "disable"):
        with pooler.connect(sslmode="require", channel_binding=binding) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.beyond_pgbouncer("PgBouncer has these features")
def test_what_is_missing_is_said_at_start(start_pooler):
    pooler = start_pooler(resolv_conf="/etc/hosts")
    assert pooler.logfile.read_text().count("WARNING resolv_conf has no effect yet") == 1


@pytest.fixture(scope="module")
def client_pairs(site):
    """Client certificates of the test authority, and one of a stranger's."""
    place = site.base / "clients"
    place.mkdir(exist_ok=True)
    stranger = certificates.authority(place, "stranger")
    pairs = {
        "app": certificates.signed(place, "app", "app", site.ca),
        "app-v1": certificates.signed(place, "app-v1", "app", site.ca, version1=True, rsa=True),
        "alice": certificates.signed(place, "alice", "alice", site.ca),
        "stranger": certificates.signed(place, "app-stranger", "app", stranger),
        "cert_user": certificates.signed(place, "cert_user", "cert_user", site.ca),
        "pooler": certificates.signed(place, "pooler", "localhost", site.ca, names="DNS:localhost,IP:127.0.0.1"),
    }
    site.readable(place)
    return pairs


def as_client(pair) -> dict:
    """libpq's parameters for a client certificate."""
    return {"sslcert": str(pair.cert), "sslkey": str(pair.key)}


@pytest.fixture
def cert_pooler(site, start_pooler, client_pairs):
    return start_pooler(
        auth_type="cert", client_tls_sslmode="verify-full", client_tls_ca_file=site.ca.cert,
        client_tls_cert_file=client_pairs["pooler"].cert, client_tls_key_file=client_pairs["pooler"].key)


@pytest.mark.parametrize("which", ["app", "app-v1"])
def test_certificate_login(cert_pooler, client_pairs, which):
    with cert_pooler.connect(password=None, sslmode="require", **as_client(client_pairs[which])) as connection:
        assert connection.execute("select current_user").fetchone() == ("app",)


@pytest.mark.parametrize("which", ["alice", "stranger", None])
def test_certificate_login_refused(cert_pooler, client_pairs, which):
    own = as_client(client_pairs[which]) if which else {"sslcert": "/nonexistent"}
    with pytest.raises(psycopg.OperationalError):
        cert_pooler.connect(password=None, sslmode="require", **own)


@pytest.mark.parametrize("sslmode", ["require", "verify-ca", "verify-full"])
def test_pooler_shows_postgresql_a_client_certificate(site, start_pooler, client_pairs, sslmode):
    ca = site.server_cert.cert
    host = "host=127.0.0.1" if sslmode != "verify-full" else "host=localhost"
    if sslmode == "verify-full":
        # PostgreSQL's certificate is for postgres-primary: a wrong name must be refused.
        pooler = start_pooler(
            auth_type="trust", databases={"app": f"{host} port={site.cluster.primary.port} dbname=app user=cert_user"},
            server_tls_sslmode=sslmode, server_tls_ca_file=ca, server_tls_cert_file=client_pairs["cert_user"].cert,
            server_tls_key_file=client_pairs["cert_user"].key)
        client = pooler.raw()
        client.send(wire.startup({"user": "app", "database": "app"}))
        poll_until(lambda: "TLS" in pooler.log() or "certificate" in pooler.log(), "the name is refused", timeout=10)
        assert "SSL established" not in pooler.log()
        assert not pooler.servers() or all(s["state"] != "idle" for s in pooler.servers())
        client.close()
        return
    pooler = start_pooler(
        auth_type="trust",
        databases={"app": f"{host} port={site.cluster.primary.port} dbname=app user=cert_user"},
        server_tls_sslmode=sslmode, server_tls_ca_file=ca, server_tls_cert_file=client_pairs["cert_user"].cert,
        server_tls_key_file=client_pairs["cert_user"].key)
    with pooler.wire() as client:
        assert client.value("select current_user") == "cert_user"
        assert client.value("select client_dn from pg_stat_ssl where pid = pg_backend_pid()") == "/CN=cert_user"


def server_shape(site, shape: str):
    """A certificate for PostgreSQL, and what to trust for it."""
    place = site.tls
    match shape:
        case "self-signed, only a CN":  # the operators' command
            pair = certificates.self_signed(place, "shape", "localhost")
            return pair, pair.cert
        case "version 1, only a CN":
            return certificates.signed(place, "shape", "localhost", site.ca, version1=True), site.ca.cert
        case "version 1, RSA":
            return certificates.signed(place, "shape", "localhost", site.ca, version1=True, rsa=True), site.ca.cert
        case "alternative names":
            names = "DNS:example.org,DNS:localhost"
            return certificates.signed(place, "shape", "example.org", site.ca, names=names), site.ca.cert
        case "another name" | "another name, verify-ca":
            names = "DNS:example.org"
            return certificates.signed(place, "shape", "example.org", site.ca, names=names), site.ca.cert
    raise AssertionError(shape)


@pytest.mark.parametrize("shape", ["self-signed, only a CN", "version 1, only a CN", "version 1, RSA",
                                   "alternative names", "another name", "another name, verify-ca"])
def test_server_certificates_in_every_shape(site, start_pooler, shape):
    pair, trusted = server_shape(site, shape)
    site.readable()
    primary = site.cluster.primary
    configuration = primary.data / "postgresql.auto.conf"
    before = configuration.read_text()
    try:
        configuration.write_text(before + f"ssl_cert_file = '{pair.cert}'\nssl_key_file = '{pair.key}'\n")
        primary.sql("select pg_reload_conf()")
        poll_until(lambda: primary.sql("show ssl_cert_file") == [(str(pair.cert),)], "the new certificate")
        pooler = start_pooler(databases={"app": f"host=localhost port={primary.port} dbname=app"},
                              server_tls_sslmode="verify-ca" if "verify-ca" in shape else "verify-full",
                              server_tls_ca_file=trusted, auth_type="trust")
        client = pooler.raw()
        client.send(wire.startup({"user": "app", "database": "app"}))
        if shape == "another name":
            pooler.wait_log("TLS")
            assert "SSL established" not in pooler.log()
            assert not any(server["state"] == "idle" for server in pooler.servers())
        else:
            client.finish_login("app", "")
            assert client.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()") == "t"
        client.close()
    finally:
        configuration.write_text(before)
        primary.sql("select pg_reload_conf()")
        poll_until(lambda: primary.sql("show ssl_cert_file") != [(str(pair.cert),)], "the old certificate")


def test_console_login_of_user_pgbouncer_over_the_unix_socket(start_pooler, site):
    pooler = start_pooler(admin_users=None, auth_type="scram-sha-256")
    arguments = ["psql", "-XAt", "-h", pooler.sockets, "-p", pooler.port, "-U", "pgbouncer", "pgbouncer", "-c"]
    environment = process.clean_environment(PGPASSWORD="no matter")
    done = process.run([*arguments, "SHOW VERSION"], user=site.user, env=environment)
    assert done.stdout.strip() and "pgbouncer access from unix socket" in pooler.log()
    process.run([*arguments, "RELOAD"], user=site.user, env=environment)
    # Over TCP the name alone opens nothing.
    with pytest.raises(psycopg.OperationalError):
        pooler.connect("pgbouncer", "pgbouncer", "no matter")


def test_console_login_over_the_unix_socket_is_for_the_same_account_only(start_pooler, site):
    pooler = start_pooler(admin_users=None)
    if os.geteuid() != 0:
        pytest.skip("needs root: there is no second account to try from")
    with pytest.raises(psycopg.OperationalError):
        pooler.connect("pgbouncer", "pgbouncer", "no matter", host=str(pooler.sockets))


def test_console_is_for_admin_and_stats_users(start_pooler):
    pooler = start_pooler()
    with pooler.raw() as client, pytest.raises(WireError, match="not allowed"):
        client.login("app", "pgbouncer", "app password")
    with pooler.console("stats", "stats password") as connection:
        assert connection.execute("SHOW POOLS").fetchall()
        for command in ("RELOAD", "PAUSE", "SET query_timeout = 1", "SHOW FDS"):
            with pytest.raises(psycopg.DatabaseError, match="admin access needed"):
                connection.execute(command)


@pytest.mark.parametrize("shape", ["version 1", "RSA version 1", "EC with names"])
def test_certificates_of_the_pooler_in_every_shape(site, start_pooler, shape):
    pair = certificates.signed(site.tls, "front", "localhost", site.ca, version1="version 1" in shape,
                               rsa="RSA" in shape, names="DNS:localhost" if "names" in shape else "")
    site.readable()
    pooler = start_pooler(client_tls_sslmode="require", client_tls_cert_file=pair.cert, client_tls_key_file=pair.key)
    with pooler.connect(host="localhost", hostaddr="127.0.0.1", sslmode="verify-full",
                        sslrootcert=str(site.ca.cert)) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_reload_with_a_broken_certificate_keeps_the_old_one(site, start_pooler):
    pair = certificates.self_signed(site.tls, "kept", "kept")
    site.readable()
    pooler = start_pooler(client_tls_sslmode="require", client_tls_cert_file=pair.cert, client_tls_key_file=pair.key)
    good = pair.cert.read_text()
    for broken in ("", "no certificate\n", site.ca.cert.read_text()):  # the last does not belong to the key
        pair.cert.write_text(broken)
        with pytest.raises(psycopg.DatabaseError, match="RELOAD failed"):
            pooler.admin("RELOAD")
        pooler.connect(sslmode="require").close()
    pair.cert.write_text(good)
    pooler.admin("RELOAD")
    pooler.connect(sslmode="verify-ca", sslrootcert=str(pair.cert)).close()


def test_password_of_a_user_is_never_logged(start_pooler):
    pooler = start_pooler(auth_type="plain", verbose=3)
    with pooler.wire() as client:
        client.query("select 1")
    with pooler.raw() as client, pytest.raises(WireError):
        client.login("app", "app", "a wrong secret word")
    assert "app password" not in pooler.log() and "a wrong secret word" not in pooler.log()
