"""A host as a script sees it: the part of the NixOS test driver's class Machine that our scenarios use.

Signatures and meanings are those of the NixOS driver for virtual machines. What differs is below the surface: the machine is
a container with systemd as its first process, and there is no page cache to lose in a crash.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from .log import Log
from .network import Network
from .root import Root

_BOOT_S, _POWEROFF_S, _CRASH_S = 120, 120, 30
# What nsenter and the kernel may take beyond a command's own time.
_MARGIN_S = 30
_POLL_S = 0.2
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": pwd.getpwnam("root").pw_dir, "USER": "root", "LOGNAME": "root",
    "LANG": "C.UTF-8", "TERM": "dumb", "PAGER": "cat", "SYSTEMD_PAGER": "cat", "SYSTEMD_COLORS": "0",
}


class MachineError(Exception):
    """The machine itself failed: it did not boot, or its shell does not answer."""


class RequestedAssertionFailed(AssertionError):
    """Something that the script asked for is not so."""


def retry(fn: Callable[[bool], object], timeout_seconds: float = 900) -> None:
    """Call `fn(False)` until it is true, and `fn(True)` once more when the time is up."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if fn(False):
            return
        time.sleep(_POLL_S)
    if not fn(True):
        raise RequestedAssertionFailed(f"action timed out after {timeout_seconds} seconds")


class Machine:
    """One host: it is made switched off, and any command switches it on."""

    def __init__(self, name: str, root: Root, network: Network, log: Log, folder: Path, group: Path) -> None:
        self.name = name
        self._root, self._network, self._log = root, network, log
        self._folder, self._group = folder, group
        self._boots = 0
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._notify: socket.socket | None = None
        self._leader = 0
        self._connected = False
        # What the last command wrote on standard error, for messages.
        self._last_complaint = ""

    # ---- power and cable

    def start(self) -> None:
        """Switch on; returns at once. Nothing happens if it is on."""
        if self._runs():
            return
        if self._nspawn is not None:
            self._gone()
        self._boots += 1
        self._log.line(f"{self.name}: start")
        self._network.plug_in(self.name)
        group = self._group / str(self._boots)
        group.mkdir(parents=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        path = self._folder / f"notify{self._boots}"
        self._notify.bind(str(path))
        with self.console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--notify-ready=yes",
                 f"--network-namespace-path={self._network.path(self.name)}", "--settings=no", "--link-journal=no",
                 "--resolv-conf=off", "--timezone=off", "--console=pipe", f"--machine={self.name}",
                 # A host of its own may change its interfaces and its packet filter.
                 "--capability=CAP_NET_ADMIN", f"--directory={self._root.path}"],
                env={**_ENVIRONMENT, "NOTIFY_SOCKET": str(path), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None)

    @property
    def console(self) -> Path:
        """What the host writes on its console, over all boots."""
        return self._folder / "console"

    @property
    def complaints(self) -> Path:
        """What the script's commands write on standard error."""
        return self._folder / "stderr"

    def _runs(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    def is_up(self) -> bool:
        """Is it on, and do commands work?"""
        return self._runs() and self._connected

    def shutdown(self) -> None:
        """Shut down in order, and wait until it is off."""
        if not self._runs():
            return
        self.connect()
        assert self._nspawn is not None
        with self._log.nested(f"{self.name}: shut down"):
            # What systemd takes for "power off".
            os.kill(self._leader, signal.SIGRTMIN + 4)
            try:
                self._nspawn.wait(_POWEROFF_S)
            except subprocess.TimeoutExpired:
                raise MachineError(f"{self.name} is not off after {_POWEROFF_S} s") from None
            self._gone()

    def crash(self) -> None:
        """Power is gone: nothing more is heard of the host, no process ends in order, the disk stays."""
        if not self._runs():
            return
        self._await_leader(time.monotonic() + _BOOT_S)
        assert self._nspawn is not None
        with self._log.nested(f"{self.name}: crash"):
            # First of all: the kernel would close the connections of processes that die, which a dead host's cannot.
            self._network.silence(self.name)
            os.kill(self._leader, signal.SIGKILL)
            try:
                self._nspawn.wait(_CRASH_S)
            except subprocess.TimeoutExpired:
                raise MachineError(f"{self.name} is not gone after {_CRASH_S} s") from None
            self._gone()

    def _gone(self) -> None:
        """Forget the boot that has ended. Its network card goes as well: addresses must not answer for a host that is off."""
        if self._notify is not None:
            self._notify.close()
        self._notify, self._nspawn, self._leader, self._connected = None, None, 0, False
        self._network.unplug(self.name)

    def block(self) -> None:
        """Pull the cable of eth1."""
        self._log.line(f"{self.name}: pull the cable")
        self._network.set_carrier(self.name, False)

    def unblock(self) -> None:
        """Put the cable of eth1 in again."""
        self._log.line(f"{self.name}: put the cable in")
        self._network.set_carrier(self.name, True)

    # ---- the way in

    def connect(self) -> None:
        """Switch on if it is off, and wait until commands work."""
        self.start()
        if self._connected:
            return
        with self._log.nested(f"{self.name}: wait until it is up"):
            deadline = time.monotonic() + _BOOT_S
            self._await_leader(deadline)
            # As in a virtual machine, whose root shell is a service behind this target.
            while self._ask("systemctl", "is-active", "basic.target") != "active":
                self._still_booting(deadline)
        self._connected = True

    def _await_leader(self, deadline: float) -> None:
        """Learn the number of the host's first process from systemd-nspawn."""
        while not self._leader:
            assert self._notify is not None
            try:
                said = self._notify.recv(65536).decode().splitlines()
            except BlockingIOError:
                self._still_booting(deadline)
                continue
            for line in said:
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])
        if self._notify is not None:
            # It says more, and would wait for ever once nobody has read enough of it.
            self._notify.close()
            self._notify = None

    def _still_booting(self, deadline: float) -> None:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None or time.monotonic() > deadline:
            text = self.console.read_text(errors="replace")[-3000:]
            raise MachineError(f"{self.name} did not boot (systemd-nspawn: {self._nspawn.returncode}):\n{text}")
        time.sleep(_POLL_S)

    def entry(self) -> list[str]:
        """The start of a command line that is run in the host, as root."""
        return ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]

    def _ask(self, *command: str) -> str:
        """A command of the driver's own, on a host that may not be ready for it."""
        try:
            done = subprocess.run([*self.entry(), *command], env=_ENVIRONMENT, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=_MARGIN_S, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip()

    # ---- commands

    def execute(self, command: str, check_return: bool = True, check_output: bool = True,
                timeout: int | None = 900) -> tuple[int, str]:
        """Run a command by bash; its status (124: it took too long) and what it printed."""
        self.connect()
        limit = [] if timeout is None else ["timeout", str(timeout)]
        argv = [*self.entry(), "env", "--chdir=/tmp", *limit, "bash", "-c", f"set -euo pipefail; {command}"]
        with self.complaints.open("ab") as complaints:
            if not check_output:
                subprocess.Popen(argv, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=complaints, start_new_session=True)
                return -2, ""
            with tempfile.TemporaryFile() as errors:
                status, output = self._run(argv, errors, None if timeout is None else timeout + _MARGIN_S)
                errors.seek(0)
                self._last_complaint = errors.read().decode(errors="replace")
            complaints.write(f"$ {command}\n{self._last_complaint}".encode())
        return (status if check_return else -1), output

    def _run(self, argv: list[str], errors: IO[bytes], limit: float | None) -> tuple[int, str]:
        process = subprocess.Popen(argv, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                   start_new_session=True)
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise MachineError(f"{self.name}: no end after {limit} s: {argv[-1]}") from None
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process.returncode, output.decode(errors="replace")

    def succeed(self, *command: str, timeout: int | None = None) -> str:
        """Run commands that must succeed; all that they printed."""
        output = ""
        for one in command:
            began = time.monotonic()
            status, out = self.execute(one, timeout=timeout)
            self._log.line(f"{self.name}: {one.strip()}  ({time.monotonic() - began:.1f} s)")
            if status != 0:
                raise RequestedAssertionFailed(
                    f"{self.name}: command `{one}` failed (exit code {status})\n{out}{self._last_complaint}")
            output += out
        return output

    def fail(self, *command: str, timeout: int | None = None) -> str:
        """Run commands that must not succeed; all that they printed."""
        output = ""
        for one in command:
            status, out = self.execute(one, timeout=timeout)
            self._log.line(f"{self.name}: must fail: {one.strip()}")
            if status == 0:
                raise RequestedAssertionFailed(f"{self.name}: command `{one}` unexpectedly succeeded\n{out}")
            output += out
        return output

    def wait_until_succeeds(self, command: str, timeout: int = 900) -> str:
        """Run a command again and again until it succeeds; what it printed then."""
        return self._until(command, lambda status: status == 0, "succeed", timeout)

    def wait_until_fails(self, command: str, timeout: int = 900) -> str:
        """Run a command again and again until it fails; what it printed then."""
        return self._until(command, lambda status: status != 0, "fail", timeout)

    def _until(self, command: str, enough: Callable[[int], bool], word: str, timeout: int) -> str:
        last = (0, "")

        def attempt(_last_try: bool) -> bool:
            nonlocal last
            last = self.execute(command, timeout=timeout)
            return enough(last[0])

        with self._log.nested(f"{self.name}: until {word}: {command}"):
            try:
                retry(attempt, timeout)
            except RequestedAssertionFailed as error:
                raise RequestedAssertionFailed(
                    f"{self.name}: `{command}` did not {word}: {error}\nlast ({last[0]}): {last[1]}{self._last_complaint}"
                ) from None
        return last[1]

    # ---- systemd

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        """systemctl, of the system or of a user."""
        if user is None:
            return self.execute(f"systemctl {q}")
        inner = f"XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl --user {q}"
        return self.execute(f"su -l {user} --shell /bin/sh -c {shlex.quote(inner)}")

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        """All properties of a unit that have a value."""
        status, lines = self.systemctl(f'--no-pager show "{unit}"', user)
        if status != 0:
            raise RequestedAssertionFailed(f"{self.name}: retrieving info of unit {unit} failed with exit code {status}")
        found = (re.match(r"^([^=]+)=(.+)$", line) for line in lines.splitlines())
        return {one[1]: one[2] for one in found if one}

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:  # noqa: A002: the name is given
        """One property of a unit; one without a value is an error."""
        status, lines = self.systemctl(f'--no-pager show "{unit}" --property="{property}"', user)
        found = re.match(r"^[^=]+=(.+)$", lines.strip())
        if status != 0 or found is None:
            raise RequestedAssertionFailed(f"{self.name}: unit {unit} has no value for {property} (exit code {status}): {lines}")
        return found[1]

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        """The unit must be in this state now."""
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise RequestedAssertionFailed(f"{self.name}: expected unit {unit} to be {require_state}, but it is {state}")

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = 900) -> None:
        """Wait until a unit is active; one that has failed, or that nothing will start, is an error at once."""
        def active(_last_try: bool) -> bool:
            state = self.get_unit_property(unit, "ActiveState", user)
            if state == "failed":
                raise RequestedAssertionFailed(f"{self.name}: unit {unit} has failed")
            if state == "inactive":
                _, jobs = self.systemctl("list-jobs --full 2>&1", user)
                if "No jobs" in jobs and self.get_unit_info(unit, user)["ActiveState"] == state:
                    raise RequestedAssertionFailed(f"{self.name}: unit {unit} is inactive and there are no pending jobs")
            return state == "active"

        self._wait(f"for unit {unit}", active, timeout)

    def _wait(self, what: str, condition: Callable[[bool], object], timeout: int) -> None:
        self.connect()
        with self._log.nested(f"{self.name}: wait {what}"):
            try:
                retry(condition, timeout)
            except RequestedAssertionFailed as error:
                raise RequestedAssertionFailed(f"{self.name}: waited {what}: {error}") from None

    def _wait_for_status(self, what: str, command: str, good: bool, timeout: int) -> None:
        self._wait(what, lambda _last_try: (self.execute(command, timeout=timeout)[0] == 0) == good, timeout)

    # ---- ports and files

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: int = 900) -> None:
        """Wait until somebody listens."""
        self._wait_for_status(f"for port {port} of {addr}", f"nc -z {addr} {port}", True, timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: int = 900) -> None:
        """Wait until nobody listens."""
        self._wait_for_status(f"until port {port} of {addr} is closed", f"nc -z {addr} {port}", False, timeout)

    def wait_for_open_unix_socket(self, addr: str, is_datagram: bool = False, timeout: int = 900) -> None:
        """Wait until somebody listens on a Unix socket."""
        flags = "-uU" if is_datagram else "-U"
        self._wait_for_status(f"for the socket {addr}", f"nc -z {flags} {addr}", True, timeout)

    def wait_for_file(self, path: str, timeout: int = 900) -> None:
        """Wait until a file is there."""
        self._wait_for_status(f"for the file {path}", f"test -e {path}", True, timeout)

    def copy_from_host(self, source: str, target: str) -> None:
        """Copy a file or a folder from this machine into the host, where it belongs to root."""
        self.connect()
        self._log.line(f"{self.name}: copy {source} to {target}")
        path = Path(f"/proc/{self._leader}/root") / target.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            shutil.copytree(source, path, dirs_exist_ok=True)
        else:
            shutil.copy(source, path)

    # ---- for the driver

    @property
    def leader(self) -> int:
        """The host's first process, by the driver's count; 0: it is off."""
        return self._leader if self._runs() else 0
