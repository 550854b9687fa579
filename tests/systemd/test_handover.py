"""A restart costs no client anything: ten in a row under load, by systemctl and by `-R` without systemd."""

import os
import re
import time
from collections import Counter
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from harness import deployment
from harness.clients import Load, Meter, Psql
from harness.deployment import INI, PROGRAM, UNIT
from harness.waiting import holds_for, poll_until
from psycopg.pq import ExecStatus

RESTARTS = 10
CLIENTS, IDLE, SECONDS, RATE = 200, 50, int(os.environ.get("PGTANDEM_SYSTEMD_SECONDS", "25")), 1000
# The goal is printed beside the figure; the limit is for machines that are busy with other things.
GOAL_MS, LIMIT_MS = 50, float(os.environ.get("PGTANDEM_SYSTEMD_PAUSE_MS", "2000"))


class ByService:
    """`systemctl restart pgtandem`."""

    def __init__(self, site, tls: bool = False) -> None:
        self.site, self.tls = site, tls

    def start(self) -> None:
        """Start it for the first time."""
        self.site.configure(deployment.ini(server_tls_sslmode="require" if self.tls else "disable"))
        self.site.machine.systemctl("restart", UNIT)

    def pid(self) -> int:
        """The process that serves."""
        return self.site.main_pid()

    def restart(self) -> None:
        """Returns when the next process serves."""
        self.site.machine.systemctl("restart", UNIT)

    def stop(self) -> None:
        """End it."""
        self.site.machine.systemctl("stop", UNIT)

    def log(self) -> str:
        """For messages."""
        return self.site.machine.messages(UNIT)


class ByHand:
    """`pgtandem -d FILE`, then `pgtandem -d -R FILE`, without systemd."""

    _FOLDER = "/tmp/by-hand"

    def __init__(self, site, tls: bool = False) -> None:
        self.site, self.tls = site, tls
        site.machine.sh(f"install -d -o postgres {self._FOLDER}")

    def _run(self, option: str) -> None:
        self.site.machine.sh(f"su - postgres -c '{PROGRAM} -d {option} {INI}'", timeout=60)

    def start(self) -> None:
        """Start it for the first time."""
        self.site.machine.systemctl("stop", UNIT)
        self.site.configure(deployment.ini(
            server_tls_sslmode="require" if self.tls else "disable", unix_socket_dir=self._FOLDER,
            pidfile=f"{self._FOLDER}/pid", logfile=f"{self._FOLDER}/log"))
        self._run("")

    def pid(self) -> int:
        """The process that serves."""
        return int(self.site.machine.path(f"{self._FOLDER}/pid").read_text())

    def restart(self) -> None:
        """Returns when the next process serves and the old one is gone."""
        old = self.pid()
        self._run("-R")
        poll_until(lambda: not self.site.machine.path(f"/proc/{old}").exists(), "the old process ends", 30)

    def stop(self) -> None:
        """End it."""
        pid = self.pid()
        self.site.machine.sh(["kill", "-QUIT", pid])
        poll_until(lambda: not self.site.machine.path(f"/proc/{pid}").exists(), "it ends", 30)

    def log(self) -> str:
        """For messages."""
        path = self.site.machine.path(f"{self._FOLDER}/log")
        return path.read_text() if path.exists() else ""


@pytest.fixture(params=[(ByService, False), (ByHand, False), (ByService, True)],
                ids=["systemctl", "by hand", "systemctl, TLS to servers"])
def pooler(request, site):
    """A pooler that runs and knows how to be replaced."""
    kind, tls = request.param
    running = kind(site, tls)
    try:
        running.start()
        yield running
    finally:
        if request.session.testsfailed:
            print(running.log()[-20000:])
        running.stop()


class Stateful:
    """A psql session with state that must survive, and the questions that show whether it has."""

    def __init__(self, site, number: int) -> None:
        self.number = number
        # Every other one in session pooling, where everything belongs to the client for as long as it stays. In
        # transaction pooling it is the tracked parameters (and statements prepared by protocol: see Prepared).
        self.pinned = number % 2 == 0
        self.name = f"psql {number} in {'session' if self.pinned else 'transaction'} pooling"
        self._psql = Psql(site, "session" if self.pinned else "app")
        self._psql.send(f"set application_name = 'idle {number}'; set timezone = 'Etc/GMT+{number % 12}';")

    def settle(self) -> None:
        """Its state is in place."""
        text = self._psql.answer()
        assert text == "", text
        if self.pinned:
            text = self._psql.ask(f"set work_mem = '{2001 + self.number}kB'; prepare answer as select {self.number}; "
                                  f"create temporary table mine as select {self.number} as n;")
            assert text == "", text
        self.check()

    def ask(self) -> None:
        """Put the questions."""
        text = "show application_name; show timezone;"
        self._psql.send(text + (" show work_mem; execute answer; select n from mine;" if self.pinned else ""))

    def judge(self) -> None:
        """The answers are the right ones."""
        wanted = [f"idle {self.number}", f"Etc/GMT+{self.number % 12}"]
        if self.pinned:
            wanted += [f"{2001 + self.number}kB", str(self.number), str(self.number)]
        text = self._psql.answer()
        assert text.splitlines() == wanted, f"session {self.number}: {text!r} instead of {wanted}"

    def check(self) -> None:
        """`ask` and `judge`."""
        self.ask()
        self.judge()

    def close(self) -> None:
        """End it."""
        self._psql.close()


class Prepared:
    """A driver's session in transaction pooling: a statement prepared by protocol, a parameter of its own."""

    def __init__(self, site, number: int) -> None:
        self._number, self.name = number, f"driver {number}"
        self._connection = site.connect(application_name=f"driver {number}")
        self._pgconn = self._connection.pgconn
        self._pgconn.prepare(b"mine", f"select {number} + $1::int, current_setting('application_name')".encode())

    def check(self) -> None:
        """The statement is still there and means the same."""
        result = self._pgconn.exec_prepared(b"mine", [b"1"])
        assert result.status == ExecStatus.TUPLES_OK, result.error_message
        row = (result.get_value(0, 0), result.get_value(0, 1))
        assert row == (str(self._number + 1).encode(), f"driver {self._number}".encode()), row

    def close(self) -> None:
        """End it."""
        self._connection.close()


@contextmanager
def everybody(site, every: int = 1):
    """The idle sessions, with their state in place; with `every` = 2 only those in transaction pooling."""
    with ExitStack() as stack:
        sessions = [Stateful(site, number) for number in range(every - 1, IDLE * every, every)]
        for session in sessions:
            stack.callback(session.close)
        for session in sessions:
            session.settle()
        drivers = []
        for number in range(10):
            drivers.append(Prepared(site, number))
            stack.callback(drivers[-1].close)
            drivers[-1].check()
        yield sessions, drivers


def those_broken(sessions: list) -> list[str]:
    """What is wrong with those whose state is not as it was."""
    found = []
    for session in sessions:
        try:
            session.check()
        except (AssertionError, OSError, psycopg.Error) as error:
            found.append(f"{session.name}: {error}")
    return found


def anonymous(reason: str) -> str:
    """Without numbers, and without the usual words on lost connections, so that equal reasons can be counted."""
    return re.sub(r"\d+", "N", " ".join(reason.split()).partition("server closed the connection")[0])


@pytest.mark.timeout(240)
def test_ten_restarts_under_load(site, pooler):
    """Nobody notices. Where servers have TLS, and the kernel has none, that is promised to transaction pooling only."""
    Load.prepare(site)
    with ExitStack() as stack:
        sessions, drivers = stack.enter_context(everybody(site, 2 if pooler.tls else 1))
        load = Load(site, CLIENTS, SECONDS, RATE)
        stack.callback(load.close)
        load.await_progress()
        meters = [Meter("app")] if pooler.tls else [Meter("app"), Meter("session")]
        for meter in meters:
            stack.callback(meter.close)
        before = time.monotonic()
        holds_for(load.runs, "the load runs", 2)
        quiet = before, time.monotonic()
        windows, broken = [], []
        for turn in range(RESTARTS):
            old, before = pooler.pid(), time.monotonic()
            pooler.restart()
            # A few idle ones are asked between the restarts, the others have to last over several.
            broken += those_broken(sessions[turn::RESTARTS])
            windows.append((before, time.monotonic()))
            assert pooler.pid() != old, "it is the same process"
        assert load.runs(), f"the restarts took longer than the load: raise PGTANDEM_SYSTEMD_SECONDS ({SECONDS})"
        broken += those_broken(sessions) + those_broken(drivers)
        result = load.result(SECONDS + 60)
        for meter in meters:
            meter.stop()
    lines = [f"{result.transactions} transactions of {CLIENTS} clients, {result.failed} failed; {IDLE} psql sessions; "
             f"{RESTARTS} restarts took {', '.join(f'{b - a:.2f}' for a, b in windows)} s",
             f"{result.text.count('aborted')} clients of the load aborted, {len(broken)} idle sessions broken"]
    longest = 0.0
    for meter, pooling in zip(meters, ("transaction", "session")):
        pauses = [meter.longest_ms(*window) for window in windows]
        longest = max(longest, *pauses)
        lines.append(f"longest wait in {pooling} pooling: {max(pauses):.1f} ms (goal {GOAL_MS}; each: "
                     f"{', '.join(f'{pause:.1f}' for pause in pauses)}; with no restart: {meter.longest_ms(*quiet):.1f})")
    lines += [f"{number} times: {reason}" for reason, number in Counter(map(anonymous, broken)).most_common()]
    told = [line for line in result.text.splitlines() if line.startswith("pgbench: error:")]
    lines += [f"{number} times: {reason}" for reason, number in Counter(map(anonymous, told)).most_common()]
    print("\n".join(lines))
    for meter in meters:
        assert meter.failure is None, meter.failure
    assert not broken, broken[0]
    assert result.failed == 0 and "aborted" not in result.text, result.text
    # Nothing was done twice, nothing confirmed was lost.
    assert site.sql("select count(*) from pgbench_history", database="app") == f"{result.changes}\n"
    assert longest <= LIMIT_MS


@pytest.mark.parametrize("fault", ["broken file", "too few descriptors"])
def test_a_successor_that_fails_changes_nothing(site, fault):
    """`-R`: the old process serves on as if nothing had been, with all its clients, and can be replaced later."""
    by_hand = ByHand(site)
    by_hand.start()
    machine, good = site.machine, site.machine.path(INI).read_text()
    try:
        pid = by_hand.pid()
        with everybody(site) as (sessions, drivers), site.connect() as client:
            command = f"{PROGRAM} -d -R {INI}"
            if fault == "broken file":
                site.configure(good + "nonsense = 1\npool_mode = nonesuch\n")
            else:
                # It understands what it is told, and cannot hold all the sockets.
                command = f"ulimit -n 50; {command}"
            failed = machine.sh(["su", "-", "postgres", "-c", command], check=False, timeout=60)
            assert failed.code != 0
            assert client.execute("select 1").fetchone() == (1,)
            for session in sessions:
                session.check()
            site.configure(good)
            assert by_hand.pid() == pid and site.serves()
            by_hand.restart()
            assert by_hand.pid() != pid
            for one in (*sessions, *drivers):
                one.check()
            assert client.execute("select 1").fetchone() == (1,)
    finally:
        by_hand.stop()


@pytest.mark.parametrize("damage", ["nonsense = 1\npool_mode = nonesuch\n", "auth_file = /etc/pgtandem/nowhere.txt\n",
                                    "client_tls_sslmode = require\nclient_tls_cert_file = /nowhere.crt\n"
                                    "client_tls_key_file = /nowhere.key\n"],
                         ids=["unknown setting", "no auth_file", "no certificate"])
def test_a_broken_file_costs_no_client_at_a_restart(site, damage):
    """The next process goes on with the former configuration, and says so to whoever looks."""
    service = ByService(site)
    service.start()
    machine, good = site.machine, site.machine.path(INI).read_text()
    with everybody(site) as (sessions, drivers):
        pid = service.pid()
        site.configure(good + damage)
        service.restart()
        assert service.pid() != pid
        for one in (*sessions, *drivers):
            one.check()
        assert site.serves(), "new clients come in too"
        assert "the former configuration stays in force until" in machine.messages(UNIT)
        poll_until(lambda: "reload failed" in machine.status(UNIT), "the status line tells it", 10)
        site.configure(good)
        machine.systemctl("reload", UNIT)
        poll_until(lambda: "reload failed" not in machine.status(UNIT).split("Status:")[1].splitlines()[0],
                   "the status line is clean again", 10)
        service.restart()
        for one in (*sessions, *drivers):
            one.check()
    service.stop()


def test_a_crash_at_the_start_costs_no_client(site):
    """A successor that cannot even start leaves everything in the store, for the next attempt."""
    service = ByService(site)
    service.start()
    machine = site.machine
    with everybody(site) as (sessions, drivers):
        good = machine.path(PROGRAM).read_bytes()
        broken = machine.path(PROGRAM).with_name("broken")
        broken.write_text("#!/bin/sh\nkill -ABRT $$\n")
        broken.chmod(0o755)
        broken.rename(machine.path(PROGRAM))
        machine.systemctl("restart", UNIT, check=False)
        poll_until(lambda: site.restarts() >= 3, "it is tried again and again", 30)
        whole = machine.path(PROGRAM).with_name("whole")
        whole.write_bytes(good)
        whole.chmod(0o755)
        whole.rename(machine.path(PROGRAM))
        machine.await_state(UNIT, "active")
        for one in (*sessions, *drivers):
            one.check()
    service.stop()
