"""The life of the service under systemd: status, reload, restart, stop, crash."""

import itertools
import re
import signal
import time

import psycopg
import pytest
from harness import deployment
from harness.deployment import CLUSTER, INI, REPOSITORY, UNIT
from harness.waiting import holds_for, poll_until

# Far below the unit's TimeoutStopSec of 60 s.
STOP_S = 10


def goodbye_of(connection: psycopg.Connection) -> set:
    """Subscribe to what is said to an idle client; the SQLSTATEs come into the set."""
    states: set = set()
    connection.add_notice_handler(lambda diagnostic: states.add((diagnostic.severity_nonlocalized, diagnostic.sqlstate)))
    return states


def end_of(connection: psycopg.Connection) -> tuple:
    """What the next query of a client that was sent away meets."""
    with pytest.raises(psycopg.OperationalError) as caught:
        connection.execute("select 1")
    return caught.value.diag.severity_nonlocalized, caught.value.sqlstate


def test_an_ordinary_user_sees_that_it_serves_whom(served):
    """STATUS= is short, kept current, and to be had without being root."""
    clients = [served.connect() for _ in range(3)]
    for client in clients:
        client.execute("select 1")

    def text() -> str:
        return served.machine.show(UNIT, "StatusText", "nobody")

    poll_until(lambda: re.search(r"\bserving\b", text()) and re.search(r"\b3 clients\b", text())
               and re.search(r"\b[1-9]\d* servers?\b", text()), "a STATUS line with 3 clients and their servers")
    line = text()
    assert len(line) <= 120
    assert f'Status: "{line}"' in served.machine.status(UNIT, "nobody")
    for client in clients:
        client.close()
    poll_until(lambda: re.search(r"\b0 clients\b", text()), "a STATUS line with no client")


def test_ready_after_a_first_server_login_was_tried(site):
    """`systemctl start` returns when it is known how things stand; a dead PostgreSQL is said, and no failure."""
    machine = site.machine
    machine.systemctl("stop", UNIT)
    site.configure(deployment.ini({"app": "host=127.0.0.1 port=5432 dbname=app user=app password=secret"}))
    try:
        machine.systemctl("stop", CLUSTER)
        machine.systemctl("start", UNIT)
        lines = machine.messages(UNIT).rpartition("Starting pgtandem.service")[2]
        before, started, _ = lines.partition("Started pgtandem.service")
        assert started and "first login to a server" in before and "app" in before, lines
        text = machine.show(UNIT, "StatusText")
        print(text)
        assert "login" in text and "app" in text, text
    finally:
        machine.systemctl("start", CLUSTER)
    site.await_serving()
    poll_until(lambda: "login" not in machine.show(UNIT, "StatusText"), "STATUS is good again")


def test_reload_of_a_good_file(served):
    pid = served.main_pid()
    with served.connect() as client:
        served.configure(deployment.ini(default_pool_size=33))
        served.machine.systemctl("reload", UNIT)
        # Type=notify-reload: in force when the command returns.
        assert served.setting("default_pool_size") == "33"
        assert client.execute("select 1").fetchone() == (1,)
    assert served.main_pid() == pid and served.machine.show(UNIT, "ActiveState") == "active"


def test_reload_of_a_broken_file(served):
    pid, machine = served.main_pid(), served.machine
    with served.connect() as client:
        served.configure(deployment.ini(default_pool_size=34, nonsense=1, pool_mode="nonesuch"))
        failed = machine.systemctl("reload", UNIT, check=False)
        assert failed.code != 0, "systemctl reload of a broken file must fail"
        assert served.setting("default_pool_size") == "20"
        assert client.execute("select 1").fetchone() == (1,)
        assert machine.show(UNIT, "ActiveState") == "active" and served.main_pid() == pid
        # All that is wrong, with the setting's name, for who looks afterwards.
        messages = machine.messages(UNIT)
        assert "nonesuch" in messages and INI in messages
        poll_until(lambda: re.search(r"reload failed", machine.show(UNIT, "StatusText")), "STATUS says why")
        served.configure(deployment.ini(default_pool_size=35))
        machine.systemctl("reload", UNIT)
        assert served.setting("default_pool_size") == "35"
        poll_until(lambda: "failed" not in machine.show(UNIT, "StatusText"), "STATUS is good again")
        assert client.execute("select 1").fetchone() == (1,)
    assert served.main_pid() == pid and served.restarts() == 0


def test_reload_after_appending_a_line(served):
    served.machine.sh(f'echo "default_pool_size = 36" >> {INI}; systemctl reload pgtandem')
    assert served.setting("default_pool_size") == "36"


def test_reloads_one_after_the_other(served):
    """Each one is answered, also when the next is asked for at once."""
    for size in range(40, 50):
        served.configure(deployment.ini(default_pool_size=size))
        served.machine.systemctl("reload", UNIT)
        assert served.setting("default_pool_size") == str(size)
    assert served.restarts() == 0


def test_restart(served):
    pid = served.main_pid()
    served.machine.systemctl("restart", UNIT)
    assert served.main_pid() not in (0, pid)
    assert served.machine.show(UNIT, "ActiveState") == "active" and served.serves()


def test_stop_tells_idle_clients(served):
    """Pools keep their connections for ever; a stop ends all the same, and PostgreSQL lives on."""
    postmaster = served.machine.show(CLUSTER, "MainPID")
    clients = [served.connect() for _ in range(5)]
    for client in clients:
        client.execute("select 1")
    heard = [goodbye_of(client) for client in clients]
    before = time.monotonic()
    served.machine.systemctl("stop", UNIT)
    took = time.monotonic() - before
    print(f"systemctl stop with 5 idle clients: {took:.2f} s")
    assert took < STOP_S
    assert served.machine.show(UNIT, "ActiveState") == "inactive"
    assert served.machine.show(UNIT, "Result") == "success"
    for client, said in zip(clients, heard):
        said.add(end_of(client))
        assert ("FATAL", "57P01") in said, said
    # Under the same user: neither its processes nor its shared memory are this unit's.
    assert served.machine.show(CLUSTER, "MainPID") == postmaster
    assert served.sql("select 1") == "1\n"
    assert not served.machine.path("/run/pgtandem").exists()


def test_stop_lets_a_transaction_end(served):
    served.sql("drop table if exists kept", "create table kept (n int)", "grant all on kept to app", database="app")
    with served.connect() as client:
        client.execute("begin")
        client.execute("insert into kept values (1)")
        served.machine.systemctl("stop", "--no-block", UNIT)
        served.machine.await_state(UNIT, "deactivating")
        client.execute("insert into kept values (2)")
        client.execute("commit")
    served.machine.await_state(UNIT, "inactive", STOP_S)
    assert served.machine.show(UNIT, "Result") == "success"
    assert served.sql("select count(*) from kept", database="app") == "2\n"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_is_mended(served, how):
    pid, before = served.main_pid(), time.monotonic()
    served.machine.sh(["kill", f"-{how.value}", pid])
    if how == signal.SIGSEGV:
        # Rust's own handler, which looks for stack overflows, lets the fault happen once more; a kill has to be sent twice.
        served.machine.sh(["kill", f"-{how.value}", pid], check=False)
    served.await_other_process(pid, 10)
    print(f"back after {how.name}: {time.monotonic() - before:.2f} s")
    assert served.restarts() == 1
    assert served.serves()
    assert "core-dump" not in served.machine.show(UNIT, "Result")


def test_it_does_not_give_up_on_a_passing_fault(site):
    """More failed starts than systemd's usual limit of 5 in 10 s, never a spin, and back without a hand."""
    machine = site.machine
    machine.systemctl("stop", UNIT)
    site.configure("[pgbouncer]\nlisten_port = nonsense\n")
    before = time.monotonic()
    assert machine.systemctl("start", UNIT, check=False, timeout=20).code != 0, "a failed start must be told"
    poll_until(lambda: site.restarts() >= 7, "seven more starts", 60, 0.1)
    took = time.monotonic() - before
    print(f"eight starts in {took:.1f} s")
    assert took > 5, "it spins"
    site.configure(deployment.ini())
    machine.await_state(UNIT, "active", 10)
    site.await_serving()


def test_a_dead_postgresql_is_no_reason_to_restart(served):
    assert served.serves()
    pid = served.main_pid()
    try:
        served.machine.systemctl("stop", CLUSTER)
        holds_for(lambda: served.main_pid() == pid and served.machine.show(UNIT, "ActiveState") == "active",
                  "the service goes on without PostgreSQL", 3 * deployment.WATCHDOG_S)
        assert served.restarts() == 0
    finally:
        served.machine.systemctl("start", CLUSTER)
    served.await_serving()
    assert served.main_pid() == pid and served.restarts() == 0


@pytest.fixture
def drop_in(site):
    """Put a drop-in that the unit's own head recommends in force; it is gone after the test."""
    path = f"/etc/systemd/system/{UNIT}.d/recommended.conf"

    def put(after: str) -> None:
        below = (REPOSITORY / "packaging" / UNIT).read_text().partition(after)[2].splitlines()[1:]
        lines = [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#" + 27 * " "), below)]
        assert lines[0] == "[Service]", f"the head of {UNIT} has nothing about {after!r} any more"
        site.machine.systemctl("stop", UNIT)
        site.machine.write(path, "\n".join(lines) + "\n")
        site.machine.systemctl("daemon-reload")

    yield put
    site.machine.systemctl("stop", UNIT)
    site.machine.sh(["rm", "-f", path])
    site.machine.systemctl("daemon-reload")


def test_the_drop_in_for_debian_12(site, drop_in):
    """Type=notify and a signal: the reload takes effect a little later, a broken file still fails."""
    site.configure(deployment.ini())
    drop_in("systemd 252 (Debian 12) and older")
    site.machine.systemctl("start", UNIT)
    assert site.machine.show(UNIT, "Type") == "notify"
    site.configure(deployment.ini(default_pool_size=33))
    site.machine.systemctl("reload", UNIT)
    poll_until(lambda: site.setting("default_pool_size") == "33", "the reload")
    site.configure(deployment.ini(default_pool_size="many"))
    assert site.machine.systemctl("reload", UNIT, check=False).code != 0
    assert site.serves()


def test_the_drop_in_for_a_user_of_its_own(site, drop_in):
    """The files must be readable for it; nothing else is to be done."""
    site.configure(deployment.ini())
    drop_in("a user of its own")
    command = re.search(r"(useradd .*?),", (REPOSITORY / "packaging" / UNIT).read_text())[1]
    site.machine.sh(command)
    site.machine.sh(["chown", "pgtandem", deployment.INI, deployment.USERLIST])
    site.machine.systemctl("start", UNIT)
    user = site.machine.sh("id -u pgtandem").stdout.strip()
    assert site.process_status(site.main_pid())["Uid"].split() == [user] * 4
    assert site.serves()
