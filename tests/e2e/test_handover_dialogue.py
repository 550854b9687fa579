"""The dialogue of a hand-over with one side played by hand: whoever gives up half-way has changed nothing."""

import os
import socket
import struct
import threading
import time

import pytest
from harness import process, wire
from harness.process import poll_until
from harness.successor import (Predecessor, call, call_successor, close_all, hand_over, hello, is_up, place,
                               successor_log)
from harness.wire import Wire

pytestmark = pytest.mark.beyond_pgbouncer("PgBouncer's -R asks for the sockets on the console")


@pytest.fixture
def pooler(start_pooler):
    """One that serves, with a client inside a transaction, a client outside, and one that never rests."""
    pooler = start_pooler(server_tls_sslmode="disable", default_pool_size=3)
    pooler.wait_log("process up")
    failures, stop = [], threading.Event()
    inside, outside = pooler.wire(), pooler.wire()
    inside.query("begin")
    outside.ask(wire.parse("s", "select $1::int") + wire.sync())

    def work():
        with pooler.wire() as client:
            while not stop.is_set():
                try:
                    assert client.value("select 1") == "1"
                except Exception as error:  # noqa: BLE001: told below
                    return failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    former = pooler.process

    def serves_on():
        assert pooler.process is former and former.poll() is None
        assert inside.value("select 1") == "1"
        assert outside.ask(wire.bind("s", (7,)) + wire.execute() + wire.sync()).rows == [["7"]]
        with pooler.wire() as fresh, Wire(pooler.port, unix=str(pooler.sockets)).login(
                "app", "app", "app password") as local:
            assert fresh.value("select 1") == local.value("select 1") == "1"
        assert not failures, failures

    pooler.serves_on = serves_on
    yield pooler
    serves_on()
    # A real one still works, and takes everybody.
    hand_over(pooler)
    former = pooler.process
    serves_on()
    inside.query("commit")
    stop.set()
    thread.join()
    assert not failures, failures


def until_state(pooler):
    """A dialogue up to the state; the sockets are closed when it is left."""
    channel = call(pooler)
    hello(channel)
    word, fields, descriptors = channel.hear()
    assert word == "Offer" and len(descriptors) == len(fields["listeners"]) == 2
    close_all(descriptors)
    channel.say("Ready")
    state, sockets = channel.hear_state()
    return channel, state, sockets


@pytest.mark.parametrize("versions", [(0, 0), (7, 9)])
def test_a_successor_that_reads_other_versions_is_declined(pooler, versions):
    with call(pooler) as channel:
        hello(channel, versions)
        word, fields, _ = channel.hear()
        assert word == "Decline"
        assert f"writes state version 1, the new process reads {versions[0]} to {versions[1]}" in fields["reason"]
        assert channel.hear()[0] == ""
    pooler.wait_log("may not take over")


def test_a_successor_that_hangs_up_at_once(pooler):
    for _ in range(3):
        call(pooler).socket.close()
    pooler.wait_log("a successor gave up, serving on", 3)


@pytest.mark.parametrize("words", [b"", b"\xc1", b"Hello", b"\xa5Ready", b"\x81\xa5Hello\x80", b"\x90" * 20_000,
                                   b"\xdd\xff\xff\xff\xff", b"\x91" * 16_000])
def test_a_successor_that_talks_nonsense(pooler, words):
    with call(pooler) as channel:
        channel.say_raw(words)
        assert channel.hear()[0] == ""
    pooler.wait_log("a successor gave up, serving on")


def test_a_successor_that_stops_after_hello(pooler):
    with call(pooler) as channel:
        hello(channel)
    pooler.wait_log("a successor gave up, serving on")


def test_a_successor_that_stops_after_the_offer(pooler):
    with call(pooler) as channel:
        hello(channel)
        word, fields, descriptors = channel.hear()
        assert word == "Offer" and fields["pid"] == pooler.pid and not fields["pidfile"]
        close_all(descriptors)
    pooler.wait_log("a successor gave up, serving on")


def test_a_successor_that_stops_after_ready(pooler):
    with call(pooler) as channel:
        hello(channel)
        close_all(channel.hear()[2])
        channel.say("Ready")
    pooler.wait_log("a successor gave up, serving on")


def test_a_successor_that_stops_after_the_state(pooler):
    for n in range(3):
        channel, state, sockets = until_state(pooler)
        assert len(sockets) == state["descriptors"]
        # The one that never rests is in it if its query was over in time.
        assert len(state["clients"]) in (2, 3) and [s for s in state["servers"] if s["status"] == ord("T")]
        channel.socket.close()
        close_all(sockets)
        pooler.wait_log("a successor gave up, serving on", n + 1)
        pooler.serves_on()
        # Those who have just been served are gone.
        poll_until(lambda: len([c for c in pooler.admin("SHOW CLIENTS") if c["database"] == "app"]) <= 3, "as many as before")


@pytest.mark.parametrize("word", ["Ready", "Done", "Go"])
def test_a_successor_that_says_something_else_instead_of_adopted(pooler, word):
    channel, _, sockets = until_state(pooler)
    close_all(sockets)
    channel.say(word)
    assert channel.hear()[0] == ""
    pooler.wait_log(f"unexpected {word}")


@pytest.mark.full
@pytest.mark.parametrize("after", ["connect", "hello", "ready", "state"])
def test_a_successor_that_hangs(pooler, after):
    """Nobody waits for it for longer than ten seconds; up to the state everybody is served meanwhile."""
    channel, sockets = call(pooler), []
    with channel:
        if after != "connect":
            hello(channel)
            close_all(channel.hear()[2])
        if after in ("ready", "state"):
            channel.say("Ready")
        if after == "state":
            _, sockets = channel.hear_state()
        else:
            pooler.serves_on() if after != "ready" else None
        pooler.wait_log("a successor gave up, serving on", timeout=20)
        close_all(sockets)
        pooler.serves_on()


def test_a_pidfile_is_offered_and_stays(start_pooler):
    pooler = start_pooler(server_tls_sslmode="disable", start=False)
    pidfile = pooler.folder / "pid"
    pooler.configuration.settings["pidfile"] = pidfile
    pooler.write(pooler.configuration.text())
    pooler.start().wait_log("process up")
    with call(pooler) as channel:
        hello(channel)
        _, fields, descriptors = channel.hear()
        assert fields["pidfile"] and len(descriptors) == 3
        assert os.pread(descriptors[2], 64, 0).decode().strip() == str(pooler.pid)
        close_all(descriptors)
    pooler.wait_log("serving on")
    assert pidfile.read_text().strip() == str(pooler.pid)
    hand_over(pooler)
    assert pidfile.read_text().strip() == str(pooler.pid)


# -- a predecessor played by hand


@pytest.fixture
def predecessor(start_pooler):
    pooler = start_pooler(server_tls_sslmode="disable", start=False)
    predecessor = Predecessor(pooler)
    yield predecessor
    predecessor.close()
    place(pooler).unlink(missing_ok=True)


def state_of(**more) -> dict:
    """A state with one client in the pool app/app."""
    client = {"descriptor": 0, "pool": 0, "id": 5, "database": "app", "user": "app", "values": 0,
              "connected_at": time.monotonic_ns(), "input": b"", "names": [[b"s", 7]]}
    return {"program": "a test", "last_id": 10, "last_statement": 9, "descriptors": 1,
            "values": [[["TimeZone", b"Etc/GMT+3"]]], "statements": [{"id": 7, "definition": b"select $1::int + 1\0\0\0"}],
            "pools": [{"database": "app", "user": "app", "leads_to": "elsewhere"}], "servers": [], "clients": [client],
            **more}


def go(predecessor, channel, successor) -> None:
    channel.say("Go")
    poll_until(lambda: is_up(predecessor.pooler, successor), "the successor is up")
    predecessor.pooler.process = successor


def wire_on(outside: socket.socket) -> Wire:
    client = Wire.__new__(Wire)
    client.socket, client.parameters = outside, {}
    return client


@pytest.mark.parametrize("version", [1, 6])
def test_a_newer_state_that_may_be_read_is_understood(predecessor, version):
    """Fields that nobody knows yet are passed over at every level."""
    outside, ours = predecessor.client()
    state = state_of()
    if version > 1:
        state["news"] = {"deep": [1, {"x": b"y"}]}
        state["clients"][0]["mood"] = [None, 1.5, -3]
        state["pools"][0]["colour"] = "green"
        state["statements"][0]["age"] = 1 << 60
    with predecessor.offered() as (successor, channel):
        assert channel.told["versions"] == [1, 1] and channel.told["pid"] == successor.pid
        channel.say_state(state, [ours.fileno()], version=version, readable=1)
        assert channel.hear()[0] == "Adopted"
        go(predecessor, channel, successor)
        ours.close()
        channel.say("Done")
        client = wire_on(outside)
        assert client.value("show timezone") == "Etc/GMT+3"
        assert client.ask(wire.bind("s", (41,)) + wire.execute() + wire.sync()).rows == [["42"]]
        assert [c["ptr"] for c in predecessor.pooler.admin("SHOW CLIENTS") if c["database"] == "app"] == ["0x5"]
        hand_over(predecessor.pooler)
        assert client.value("show timezone") == "Etc/GMT+3"


def broken(**changes):
    """The state with something wrong in it."""
    def change(state):
        for path, value in changes.items():
            *way, last = path.split("_0_")
            place = state
            for step in way:
                place = place[step][0]
            place[last] = value
    return change


@pytest.mark.parametrize("change,text", [
    (broken(descriptors=2), "sockets came instead of 2"),
    (broken(clients_0_pool=3), "damaged: client"),
    (broken(clients_0_descriptor=1), "damaged: client"),
    (broken(clients_0_id=99), "damaged: client"),
    (broken(clients_0_names=[[b"s", 8]]), "damaged: client"),
    (broken(clients="all"), "damaged"),
    (broken(statements_0_id=10), "damaged: statement number"),
])
def test_a_state_that_makes_no_sense_is_refused(predecessor, change, text):
    outside, ours = predecessor.client()
    state = state_of()
    change(state)
    with predecessor.offered() as (successor, channel):
        channel.say_state(state, [ours.fileno()])
        assert channel.hear()[0] == ""
        assert successor.wait(10) == 1 and text in successor_log(successor), successor_log(successor)
    # The client has not been touched.
    ours.sendall(b"still here")
    assert outside.recv(64) == b"still here"


@pytest.mark.parametrize("version,readable", [(7, 6), (2, 2), (0, 0)])
def test_a_state_of_another_version_is_refused(predecessor, version, readable):
    outside, ours = predecessor.client()
    with predecessor.offered() as (successor, channel):
        channel.say_state(state_of(), [ours.fileno()], version=version, readable=readable)
        assert channel.hear()[0] == ""
        assert successor.wait(10) == 1
        assert f"state version {version} (readable from version {readable} on) is not understood" in \
            successor_log(successor)
    ours.sendall(b"still here")
    assert outside.recv(64) == b"still here"


def server_state() -> dict:
    servers = [{"descriptor": 1, "pool": 0, "id": 6, "status": ord("I"), "values": 0, "used": True},
               {"descriptor": 2, "pool": 0, "id": 7, "status": ord("T"), "values": 0, "client": 5}]
    return state_of(servers=servers, descriptors=3)


@pytest.mark.parametrize("database", ["app", "gone"])
def test_nothing_is_said_to_anybody_before_go(predecessor, database):
    """Until then the predecessor may serve on. Not even servers that are of no use any more may hear of it."""
    outside, ours = predecessor.client()
    idle, held = socket.socketpair(), socket.socketpair()
    state = server_state()
    state["pools"][0]["database"] = state["clients"][0]["database"] = database
    with predecessor.offered() as (successor, channel):
        channel.say_state(state, [ours.fileno(), idle[0].fileno(), held[0].fileno()])
        assert channel.hear()[0] == "Adopted"
        channel.socket.close()
        assert successor.wait(10) == 1, successor_log(successor)
    for end in (outside, idle[1], held[1]):
        end.setblocking(False)
        with pytest.raises(BlockingIOError):
            end.recv(64)


def test_servers_that_lead_elsewhere_are_closed_after_go(predecessor):
    outside, ours = predecessor.client()
    idle, held = socket.socketpair(), socket.socketpair()
    with predecessor.offered() as (successor, channel):
        channel.say_state(server_state(), [ours.fileno(), idle[0].fileno(), held[0].fileno()])
        assert channel.hear()[0] == "Adopted"
        go(predecessor, channel, successor)
        for mine in (idle[0], held[0], ours):
            mine.close()
        channel.say("Done")
        idle[1].settimeout(10)
        assert idle[1].recv(64) == b"X\0\0\0\x04" and idle[1].recv(64) == b""
        # The other one is inside a transaction: that goes on, and the server is not used again.
        client = wire_on(outside)
        client.send(wire.query("commit"))
        held[1].settimeout(10)
        assert held[1].recv(64) == wire.query("commit")
        held[1].sendall(wire.message("C", wire.text("COMMIT")) + wire.message("Z", b"I"))
        assert client.reply().tags == ["COMMIT"]
        assert held[1].recv(64) == b"X\0\0\0\x04"
        assert client.value("select 1") == "1"


def test_a_predecessor_that_dies_before_go(predecessor):
    outside, ours = predecessor.client()
    with predecessor.offered() as (successor, channel):
        channel.say_state(state_of(), [ours.fileno()])
        channel.socket.close()
        assert successor.wait(10) == 1


def test_a_predecessor_that_dies_after_go(predecessor):
    """Those who have come are served."""
    outside, ours = predecessor.client()
    with predecessor.offered() as (successor, channel):
        channel.say_state(state_of(), [ours.fileno()])
        assert channel.hear()[0] == "Adopted"
        go(predecessor, channel, successor)
        ours.close()
    predecessor.pooler.wait_log("the former process ended the hand-over")
    assert wire_on(outside).value("select 1") == "1"
    hand_over(predecessor.pooler)
    assert wire_on(outside).value("select 1") == "1"


def test_many_sockets_come_in_several_messages(predecessor):
    ends = [predecessor.client() for _ in range(600)] if predecessor.listener else []
    state = state_of(descriptors=len(ends))
    (one,) = state["clients"]
    state["clients"] = [{**one, "descriptor": n, "id": n + 20} for n in range(len(ends))]
    state["last_id"] = 5000
    with predecessor.offered() as (successor, channel):
        for at in range(0, len(ends), 250):
            some = [ours.fileno() for _, ours in ends[at:at + 250]]
            channel.say("Descriptors", some, count=len(some))
        channel.say_state(state)
        assert channel.hear()[0] == "Adopted"
        go(predecessor, channel, successor)
        for _, ours in ends:
            ours.close()
        channel.say("Done")
        # More than max_client_conn (500).
        hand_over(predecessor.pooler)
        for outside, _ in ends[::40]:
            assert wire_on(outside).value("select 1") == "1"
        for outside, _ in ends:
            outside.close()


@pytest.mark.parametrize("cancels", [False, True])
def test_only_a_predecessor_that_says_so_hears_of_cancel_requests(predecessor, cancels):
    """One that does not know the word would give up its busy clients over it."""
    outside, ours = predecessor.client()
    with predecessor.offered(**({"cancels": True} if cancels else {})) as (successor, channel):
        channel.say_state(state_of(), [ours.fileno()])
        assert channel.hear()[0] == "Adopted"
        go(predecessor, channel, successor)
        ours.close()
        with predecessor.pooler.raw() as request:
            request.send(wire.cancel(77, b"abcd"))
            assert request.is_closed()
        if cancels:
            assert channel.hear()[:2] == ("Cancel", {"key": {"pid": 77, "secret": b"abcd"}})
        channel.say("Done")
        predecessor.pooler.wait_log("has handed over everything")
        with predecessor.pooler.raw() as request:
            request.send(wire.cancel(77, b"abcd"))
            assert request.is_closed()
        assert channel.hear()[0] == ""
        assert wire_on(outside).value("select 1") == "1"


def test_cancel_requests_of_a_successor(pooler, cluster):
    """Also in place of the word that is waited for; and those without sense change nothing."""
    with pooler.wire() as busy:
        busy.send(wire.query("select pg_sleep(30), 'cancel me'"))
        running = "select 1 from pg_stat_activity where state = 'active' and query ~ '^select pg_sleep.*cancel me'"
        poll_until(lambda: cluster.primary.sql(running), "the query runs")
        channel, state, sockets = until_state(pooler)
        with channel:
            close_all(sockets)
            channel.say("Cancel", key={"pid": busy.pid, "secret": busy.secret})
            channel.say("Cancel", key={"pid": 0, "secret": b""})
            assert busy.reply().errors[0].sqlstate == "57014"
        pooler.wait_log("a successor gave up, serving on")
