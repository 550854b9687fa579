"""Host names of servers that lead elsewhere after a while: a pooler with an /etc/hosts of its own."""

import os

import pytest
from harness import process
from harness.pooler import binary
from harness.process import poll_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can give a process another /etc/hosts")
PID = "select pg_backend_pid()"


class Hosts:
    """What the pooler finds in /etc/hosts."""

    def __init__(self, folder):
        self.path = folder / "hosts"
        self.point_to("127.0.0.1")

    def point_to(self, *addresses: str) -> None:
        # In place: the pooler has this very file.
        self.path.write_text("127.0.0.1 localhost\n" + "".join(f"{a} db.moving.test\n" for a in addresses))
        self.path.chmod(0o644)


@pytest.fixture
def moving(site, start_pooler):
    def start(**settings):
        database = f"host=db.moving.test port={site.cluster.primary.port} dbname=app"
        pooler = start_pooler(start=False, databases={"app": database}, **settings)
        hosts = Hosts(pooler.folder)
        user = ["setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--init-groups"] if site.user else []
        bind = 'mount --bind "$0" /etc/hosts && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", bind, hosts.path, *user, binary(), pooler.ini]
        pooler.process = process.spawn(command, user=None, stderr=pooler.stderr, cwd=pooler.folder)
        poll_until(lambda: pooler.says_up(pooler.pid), "the pooler serves")
        return pooler, hosts

    return start


@needs_root
@pytest.mark.beyond_pgbouncer(reason="PgBouncer watches the serials of DNS zones instead")
def test_servers_at_a_former_address_end_with_their_transactions(moving):
    pooler, hosts = moving(dns_max_ttl=60, dns_zone_check_period=0.5, min_pool_size=0)
    with pooler.wire() as busy, pooler.wire() as idle:
        busy.query("begin")
        held, free = busy.value(PID), idle.value(PID)
        assert held != free
        # Nobody listens there, so only what is there already can go on.
        hosts.point_to("127.0.0.9")
        pooler.wait_log("host name db.moving.test no longer leads to 127.0.0.1")
        poll_until(lambda: len(pooler.servers()) == 1, "the idle server is closed")
        assert busy.value(PID) == held, "a transaction is left alone"
        hosts.point_to("127.0.0.1")
        poll_until(lambda: pooler.admin("SHOW DNS_HOSTS")[0]["addrs"] == "127.0.0.1:0", "it leads here again")
        busy.query("commit")
        assert busy.value(PID) not in (held, free)
    assert [(row["zonename"], int(row["count"])) for row in pooler.admin("SHOW DNS_ZONES")] == [("moving.test", 1)]


@needs_root
def test_a_new_address_is_used_when_the_old_answer_is_too_old(moving):
    pooler, hosts = moving(dns_max_ttl=1, server_lifetime=1, server_connect_timeout=2)
    with pooler.wire() as client:
        assert client.value("select 1") == "1"
    poll_until(lambda: not pooler.servers(), "the server is gone")
    poll_until(lambda: pooler.admin("SHOW DNS_HOSTS")[0]["ttl"] in (0, "0"), "the answer is old")
    hosts.point_to("127.0.0.9")
    with pooler.wire() as client:
        client.send(b"Q\0\0\0\x0dselect 1\0")
        pooler.wait_log("closing because: connect failed")
        hosts.point_to("127.0.0.1")
        assert client.reply().rows == [["1"]]


@needs_root
@pytest.mark.beyond_pgbouncer(reason="PgBouncer tries one address for each server_login_retry")
def test_an_address_that_does_not_answer_costs_nothing(moving):
    pooler, hosts = moving(dns_max_ttl=0, server_login_retry=30)
    hosts.point_to("127.0.0.9", "127.0.0.1", "127.0.0.8")
    for _ in range(4):
        with pooler.wire() as client:
            assert client.value("select 1") == "1"
        pooler.admin("RECONNECT")
    assert "connect failed" not in pooler.log()
