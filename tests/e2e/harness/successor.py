"""Hand-overs (option `-R`): real successors, and both sides of the dialogue by hand (src/handover/dialogue.rs)."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import msgpack

from . import process
from .pooler import Pooler, binary

_count = 0


def call_successor(pooler: Pooler, *arguments: str) -> subprocess.Popen:
    """Start a successor and do not wait for anything. Its standard error is in `successor_log`."""
    global _count
    _count += 1
    stderr = pooler.folder / f"successor-{_count}.log"
    successor = process.spawn([binary(), "-R", *arguments, pooler.ini], user=pooler.user, stderr=stderr,
                              cwd=pooler.folder)
    successor.log_file = stderr
    return successor


def successor_log(successor: subprocess.Popen) -> str:
    return successor.log_file.read_text(errors="replace")


def is_up(pooler: Pooler, successor: subprocess.Popen) -> bool:
    """Has it taken over? A process that ended instead fails the test."""
    if successor.poll() is not None:
        raise SuccessorEnded(f"the successor ended with {successor.returncode}:\n{successor_log(successor)}")
    return pooler.says_up(successor.pid)


def hand_over(pooler: Pooler, wait: bool = True) -> subprocess.Popen:
    """`-R`: the pooler is now the successor. Gives the former process, whose end is waited for with `wait`."""
    former = pooler.process
    successor = call_successor(pooler)
    try:
        process.poll_until(lambda: is_up(pooler, successor), "the successor is up", timeout=15)
    except BaseException:
        if successor.poll() is None:
            successor.kill()
        successor.wait()
        raise
    pooler.process = successor
    if wait:
        ends_well(former)
    return former


def ends_well(former: subprocess.Popen, timeout: float = 10) -> None:
    """The former process ends by itself, without an error."""
    try:
        assert former.wait(timeout) == 0
    except subprocess.TimeoutExpired:
        former.kill()
        former.wait()
        raise AssertionError(f"the former process was still there after {timeout} s") from None


class SuccessorEnded(BaseException):
    """Not an Exception, so that nobody goes on polling a dead process."""


# -- the dialogue by hand

HEAD = struct.Struct("!8sIIQ")


def place(pooler: Pooler) -> Path:
    """Where the running process waits for its successor."""
    return pooler.sockets / f".s.pgtandem.{pooler.port}.handover"


class Channel:
    """One end of a dialogue; each word is a packet."""

    def __init__(self, connected: socket.socket, timeout: float = 15):
        self.socket = connected
        self.socket.settimeout(timeout)

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_exception) -> None:
        self.socket.close()

    def say(self, word: str, descriptors=(), **fields) -> None:
        packet = msgpack.packb({word: fields} if fields else word)
        socket.send_fds(self.socket, [packet], list(descriptors))

    def say_raw(self, packet: bytes) -> None:
        self.socket.send(packet)

    def hear(self) -> tuple[str, dict, list[int]]:
        """The next word; an empty one if the other side is gone."""
        packet, descriptors, _flags, _address = socket.recv_fds(self.socket, 1 << 16, 250)
        if not packet:
            return "", {}, []
        word = msgpack.unpackb(packet, strict_map_key=False)
        if isinstance(word, str):
            return word, {}, descriptors
        ((name, fields),) = word.items()
        return name, fields, descriptors

    def say_state(self, state: dict, descriptors=(), version: int = 1, readable: int = 1) -> None:
        body = msgpack.packb(state)
        file = os.memfd_create("state")
        data = HEAD.pack(b"pgtandem", version, readable, len(body)) + body
        os.write(file, data)
        if descriptors:
            self.say("Descriptors", descriptors, count=len(descriptors))
        self.say("State", [file], len=len(data))
        os.close(file)

    def hear_state(self) -> tuple[dict, list[int]]:
        """The state with its sockets, which are ours to close."""
        sockets = []
        while True:
            word, fields, descriptors = self.hear()
            if word == "Descriptors":
                sockets += descriptors
                continue
            assert word == "State", word
            data = os.pread(descriptors[0], fields["len"], 0)
            os.close(descriptors[0])
            return msgpack.unpackb(data[HEAD.size:], strict_map_key=False), sockets


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def call(pooler: Pooler) -> Channel:
    """A successor's end, to the process that serves."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.connect(str(place(pooler)))
    return Channel(end)


def hello(channel: Channel, versions=(1, 1)) -> None:
    channel.say("Hello", versions=list(versions), program="a test", pid=os.getpid())


class Predecessor:
    """A process that has served so far: a listener on the pooler's port, and the place where successors call."""

    def __init__(self, pooler: Pooler):
        self.pooler = pooler
        self.listener = socket.create_server(("127.0.0.1", pooler.port), backlog=64)
        self.desk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.desk.bind(str(place(pooler)))
        place(pooler).chmod(0o666)
        self.desk.listen(4)
        self.desk.settimeout(15)

    def close(self) -> None:
        self.listener.close()
        self.desk.close()

    def client(self) -> tuple[socket.socket, socket.socket]:
        """A connection to the listener: the client's end and ours."""
        outside = socket.create_connection(("127.0.0.1", self.pooler.port), timeout=15)
        return outside, self.listener.accept()[0]

    @contextmanager
    def offered(self, **more):
        """Start a successor and talk with it up to its Ready; `more` goes into the Offer."""
        successor = call_successor(self.pooler)
        with Channel(self.desk.accept()[0]) as channel:
            try:
                word, fields, _ = channel.hear()
                assert word == "Hello", word
                channel.told = fields
                channel.say("Offer", [self.listener.fileno()], listeners=[f"127.0.0.1:{self.pooler.port}"],
                            pidfile=False, pid=os.getpid(), **more)
                word, _, _ = channel.hear()
                assert word == "Ready", (word, successor_log(successor))
                # As a predecessor does before Go, so that the successor can wait there for its own.
                self.desk.close()
                place(self.pooler).unlink()
                yield successor, channel
            finally:
                if self.pooler.process is not successor:
                    process.stop(successor, 9)
