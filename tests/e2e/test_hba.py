"""Access rules (auth_type=hba), user maps, and LDAP."""

import getpass
import socket
import threading
import time

import psycopg
import pytest
from harness import certificates, process
from harness.directory import BASE, Slapd
from harness.pooler import PoolerEnded, binary


def refusal(pooler, user: str = "app", password: str | None = "app password", **more) -> str:
    """What a client is told that is turned away."""
    with pytest.raises(psycopg.OperationalError) as caught:
        pooler.connect(user=user, password=password, **more)
    return str(caught.value)


def logs_in(pooler, user: str = "app", password: str | None = "app password", **more) -> None:
    with pooler.connect(user=user, password=password, **more) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.fixture
def place(site):
    """A folder for files that the pooler reads."""
    return site.new_folder("rules")


@pytest.fixture
def write(site, place):
    """Write a file of rules or maps; its path."""
    def write(text: str, name: str = "hba.conf"):
        (place / name).write_text(text)
        site.readable(place)
        return place / name
    return write


@pytest.fixture(scope="module")
def pairs(site):
    folder = site.base / "rule-clients"
    folder.mkdir(exist_ok=True)
    made = {name: certificates.signed(folder, name, cn, site.ca)
            for name, cn in [("pooler", "localhost"), ("joe", "joe@example.com"), ("app", "app")]}
    site.readable(folder)
    return made


CONSOLE = "host pgbouncer console 127.0.0.1/32 md5\n"


def test_the_first_line_that_holds_decides(start_pooler, write, pairs):
    rules = write(CONSOLE + "host all bob 127.0.0.1/32 reject\nhostssl app alice all scram-sha-256\n"
                  "host app app 127.0.0.0 255.0.0.0 password\nhost app stats 127.0.0.2/32 trust\n")
    pooler = start_pooler(auth_type="hba", auth_hba_file=rules, client_tls_sslmode="allow",
                          client_tls_cert_file=pairs["pooler"].cert, client_tls_key_file=pairs["pooler"].key)
    logs_in(pooler)
    assert "password authentication failed" in refusal(pooler, password="wrong")
    assert "login rejected" in refusal(pooler, "bob", "bob password")
    logs_in(pooler, "alice", "alice password", sslmode="require")
    assert "no authentication method is found" in refusal(pooler, "alice", "alice password", sslmode="disable")
    pooler.wait_log('no line of auth_hba_file for host 127.0.0.1, user "alice", database "app", without TLS')
    assert "no authentication method is found" in refusal(pooler, "stats", "stats password")


def test_certificates_and_user_maps(site, start_pooler, write, pairs):
    maps = write("people /^(.*)@example\\.com$ \\1\npeople joe@example.com app\n", "ident.conf")
    rules = write(CONSOLE + "hostssl app app,alice,joe all cert map=people\nhostssl app bob all cert\n")
    pooler = start_pooler(auth_type="hba", auth_hba_file=rules, auth_ident_file=maps, secrets={"joe": "x"},
                          databases={"app": site.to_primary("user=app password='app password'")},
                          client_tls_sslmode="require", client_tls_ca_file=site.ca.cert,
                          client_tls_cert_file=pairs["pooler"].cert, client_tls_key_file=pairs["pooler"].key)

    def shown(name):
        return {"sslmode": "require", "sslcert": str(pairs[name].cert), "sslkey": str(pairs[name].key)}

    logs_in(pooler, "joe", None, **shown("joe"))
    logs_in(pooler, "app", None, **shown("joe"))
    assert "certificate authentication failed" in refusal(pooler, "alice", None, **shown("joe"))
    pooler.wait_log("ident map: people does not have a match")
    assert "certificate authentication failed" in refusal(pooler, "app", None, **shown("app"))
    assert "certificate authentication failed" in refusal(pooler, "bob", None, **shown("app"))
    assert "certificate authentication failed" in refusal(pooler, "app", None, sslmode="require", sslcert="/nonexistent")


def test_peer_over_the_unix_socket(start_pooler, write):
    me = getpass.getuser()
    maps = write(f"mine {me} app\n", "ident.conf")
    rules = write(CONSOLE + "local app app,bob peer map=mine\nlocal app alice peer\n")
    pooler = start_pooler(auth_type="hba", auth_hba_file=rules, auth_ident_file=maps)
    here = {"host": str(pooler.sockets)}
    logs_in(pooler, "app", None, **here)
    assert "unix socket login rejected" in refusal(pooler, "bob", None, **here)
    pooler.wait_log("ident map mine cannot be matched")
    assert "unix socket login rejected" in refusal(pooler, "alice", None, **here)
    assert "no authentication method is found" in refusal(pooler)


def test_a_broken_file_changes_nothing_at_a_reload(start_pooler, write):
    rules = write(CONSOLE + "host app app all md5\n")
    pooler = start_pooler(auth_type="hba", auth_hba_file=rules)
    logs_in(pooler)
    write(CONSOLE + "host app app all reject\nhost app all samenet trust\n")
    with pytest.raises(psycopg.Error, match="RELOAD failed"):
        pooler.admin("RELOAD")
    pooler.wait_log(f"{rules}:3: auth_hba_file: invalid address samenet")
    logs_in(pooler)
    write(CONSOLE + "host app app all reject\n")
    pooler.admin("RELOAD")
    assert "login rejected" in refusal(pooler)
    rules.unlink()
    with pytest.raises(psycopg.Error, match="RELOAD failed"):
        pooler.admin("RELOAD")
    pooler.wait_log(f'auth_hba_file: could not open "{rules}"')
    assert "login rejected" in refusal(pooler)


@pytest.mark.beyond_pgbouncer("PgBouncer leaves the line out")
def test_a_bad_line_stops_the_start_and_the_check_names_it(site, write):
    rules = write("local all all peer\nhost all all 10.0.0.0/33 md5\nhost all all all gss\n")
    pooler = site.pooler(auth_type="hba", auth_hba_file=rules, start=False)
    with pytest.raises(PoolerEnded) as caught:
        pooler.start()
    for words in (f"{rules}:2: auth_hba_file: invalid mask /33", f"{rules}:3: auth_hba_file: unsupported method gss"):
        assert words in str(caught.value)
    pooler.process = None
    found = process.run([binary(), "check", pooler.ini], user=pooler.user, check=False)
    assert found.returncode == 1 and f"{rules}:2: auth_hba_file: invalid mask /33" in found.stdout + found.stderr


@pytest.fixture(scope="module")
def slapd(site):
    folder = site.base / "slapd"
    folder.mkdir()
    server = Slapd(folder, {"app": "app password", "carol": "carol secret"}, site.ca)
    yield server
    server.stop()


WAYS = [
    'ldapprefix="uid=" ldapsuffix=",{base}"',
    'ldapbasedn="{base}" ldapbinddn="cn=reader,{base}" ldapbindpasswd="reader secret"',
    'ldapbasedn="{base}" ldapsearchfilter="(|(uid=$username)(mail=$username))" ldapbinddn="cn=reader,{base}" '
    'ldapbindpasswd="reader secret"',
]


@pytest.mark.parametrize("tls", ["no", "ldaps", "starttls"])
@pytest.mark.parametrize("way", WAYS)
def test_ldap(site, place, slapd, write, way, tls, start_pooler):
    conf = write(f"TLS_CACERT {site.ca.cert}\n", "ldap.conf")
    port = slapd.tls_port if tls == "ldaps" else slapd.port
    more = {"no": "", "ldaps": "ldapscheme=ldaps", "starttls": "ldaptls=1"}[tls]
    rules = write(CONSOLE + f"host app all all ldap ldapserver=localhost ldapport={port} {more} {way.format(base=BASE)}\n")
    pooler = site.pooler(auth_type="hba", auth_hba_file=rules, start=False)
    pooler.start(env=process.clean_environment(LDAPCONF=str(conf)))
    try:
        logs_in(pooler)
        assert "LDAP authentication failed" in refusal(pooler, password="wrong")
        pooler.wait_log("Invalid credentials")
        assert "LDAP authentication failed" in refusal(pooler, "nobody", "app password")
        assert "LDAP authentication failed" in refusal(pooler, "bob", "bob password")
        assert "reader secret" not in pooler.log() and "app password" not in pooler.log()
    finally:
        site.discard(pooler)


def test_ldap_for_all_and_a_certificate_of_a_stranger(site, slapd, write):
    stranger = certificates.authority(site.new_folder("stranger"), "ldap-stranger")
    conf = write(f"TLS_CACERT {stranger.cert}\n", "ldap.conf")
    site.readable(stranger.cert.parent)
    pooler = site.pooler(auth_type="ldap", start=False, admin_users="app", auth_file=None,
                         auth_ldap_options=f'ldapserver=localhost ldapport={slapd.port} ldaptls=1 ldapprefix="uid=" '
                                           f'ldapsuffix=",{BASE}"')
    pooler.start(env=process.clean_environment(LDAPCONF=str(conf)))
    try:
        assert "LDAP authentication failed" in refusal(pooler)
        pooler.wait_log("could not start LDAP TLS session")
        conf.write_text("TLS_REQCERT never\n")
        pooler.hangup()
        process.poll_until(lambda: "is in force" in pooler.log(), "the reload")
        # There is no auth_file: PostgreSQL is logged in to with the password that the client told.
        logs_in(pooler)
    finally:
        site.discard(pooler)


def test_an_ldap_server_that_says_nothing_holds_up_nobody_else(start_pooler, write):
    mute = socket.create_server(("127.0.0.1", 0))
    rules = write(CONSOLE + "host app alice all ldap ldapserver=127.0.0.1 "
                  f"ldapport={mute.getsockname()[1]} ldapprefix=\"uid=\"\nhost app app all md5\n")
    pooler = start_pooler(auth_type="hba", auth_hba_file=rules, worker_threads=1)
    told = []
    waiting = threading.Thread(target=lambda: told.append(refusal(pooler, "alice", "alice password")))
    waiting.start()
    peer, _ = mute.accept()
    began = time.monotonic()
    for _ in range(5):
        logs_in(pooler)
    assert time.monotonic() - began < 5 and not told
    peer.close()
    mute.close()
    waiting.join(timeout=15)
    assert "LDAP authentication failed" in told[0]
