"""A Debian machine with systemd as its first process, in a container that shares the tests' loopback network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import isolate
from .waiting import poll_until

IMAGE = Path(os.environ.get("PGTANDEM_SYSTEMD_CACHE", "/nonexistent")) / "image"
_BOOT_S, _POWEROFF_S = 60, 30
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8", "TERM": "dumb", "HOME": "/", "PAGER": "cat", "SYSTEMD_PAGER": "cat", "SYSTEMD_COLORS": "0",
}
_made = 0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Both streams, for messages."""
        return self.stdout + self.stderr


class Machine:
    """One boot of a throw-away copy of the image. One machine at a time: all share one loopback interface."""

    def __init__(self, *, dbus: bool = True, net_admin: bool = False) -> None:
        global _made
        _made += 1
        self._folder = Path(os.environ["PGTANDEM_SYSTEMD_FOLDER"]) / str(_made)
        self._group = Path(os.environ["PGTANDEM_SYSTEMD_CGROUP"]) / str(_made)
        self._root = self._folder / "root"
        self._dbus = dbus
        # Like a real machine, whose services may be allowed to change its interfaces.
        self._capabilities = ["--capability=CAP_NET_ADMIN"] if net_admin else []
        self._nspawn: subprocess.Popen | None = None
        self._leader = 0

    # ---- life

    def boot(self) -> None:
        """Start it and wait until its systemd says that it is up."""
        self._mount()
        if not self._dbus:
            for unit in ("dbus.service", "dbus.socket"):
                (self._root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        self._group.mkdir()
        path = self._folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self._console().open("wb") as console:
            notify.bind(str(path))
            self._nspawn = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--notify-ready=yes",
                 "--network-namespace-path=/proc/self/ns/net", "--settings=no", "--link-journal=no",
                 "--resolv-conf=off", "--timezone=off", "--console=pipe", f"--machine=test{_made}",
                 *self._capabilities, f"--directory={self._root}"],
                env={**_ENVIRONMENT, "NOTIFY_SOCKET": str(path), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                preexec_fn=self._enter_group)
            self._await_ready(notify)

    def _mount(self) -> None:
        upper, work = self._folder / "upper", self._folder / "work"
        for folder in (upper, work, self._root):
            folder.mkdir(parents=True)
        upper.chmod(0o755)
        isolate.mount("overlay", self._root, "overlay", data=f"lowerdir={IMAGE},upperdir={upper},workdir={work}")

    def _enter_group(self) -> None:
        (self._group / "cgroup.procs").write_text(str(os.getpid()))
        isolate.die_with_parent()

    def _console(self) -> Path:
        return self._folder / "console"

    def _await_ready(self, notify: socket.socket) -> None:
        deadline = time.monotonic() + _BOOT_S
        notify.settimeout(0.2)
        while True:
            try:
                said = notify.recv(65536).decode().splitlines()
            except TimeoutError:
                said = []
            for line in said:
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])
            if "READY=1" in said and self._leader:
                return
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                text = self._console().read_text(errors="replace")[-3000:]
                raise AssertionError(f"the machine did not boot (systemd-nspawn: {self._nspawn.returncode}):\n{text}")

    def poweroff(self) -> None:
        """Shut it down in order; without its consent after half a minute. Gone is gone: nothing of it remains."""
        if self._nspawn is None:
            return
        if self._nspawn.poll() is None and self._leader:
            try:
                os.kill(self._leader, signal.SIGRTMIN + 4)
                self._nspawn.wait(_POWEROFF_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        self._nspawn.kill()
        self._nspawn.wait()
        self._nspawn = None
        subprocess.run(["umount", "--lazy", str(self._root)], check=True, timeout=10)
        shutil.rmtree(self._folder / "upper", ignore_errors=True)

    # ---- commands and files

    def _argv(self, command: str | list, user: str) -> list[str]:
        command = ["bash", "-c", command] if isinstance(command, str) else [str(a) for a in command]
        # The death signal goes last: a change of user would undo it. Without it a killed nsenter would leave its child.
        change = [] if user == "root" else [f"--reuid={user}", f"--regid={self._group_of(user)}", "--init-groups"]
        return ["nsenter", f"--target={self._leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
                "setpriv", *change, "--pdeathsig=KILL", "--", *command]

    def _group_of(self, user: str) -> str:
        lines = (self._root / "etc/passwd").read_text().splitlines()
        return next(line.split(":")[3] for line in lines if line.startswith(f"{user}:"))

    def spawn(self, command: str | list, user: str = "root", **streams) -> subprocess.Popen:
        """Start a command in the machine, with subprocess's arguments for its streams."""
        return subprocess.Popen(self._argv(command, user), env=_ENVIRONMENT, start_new_session=True,
                                preexec_fn=isolate.die_with_parent, **streams)

    def sh(self, command: str | list, user: str = "root", *, check: bool = True, stdin: str = "",
           timeout: float = 60) -> Done:
        """Run a command (a str: by bash) to its end."""
        process = self.spawn(command, user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            stdout, stderr = process.communicate()
            raise AssertionError(f"not done after {timeout} s: {command}\n{stdout}{stderr}") from None
        done = Done(process.returncode, stdout, stderr)
        assert not check or done.code == 0, f"ended with {done.code}: {command}\n{done.output}"
        return done

    def path(self, inside: str) -> Path:
        """A path of the machine as it is reached from out here."""
        base = Path(f"/proc/{self._leader}/root") if self._leader else self._root
        return base / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644, owner: str | None = None) -> None:
        """Write a file, with the folders above it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self._own(inside, mode, owner)

    def copy(self, source: Path, inside: str, mode: int = 0o644, owner: str | None = None) -> None:
        """Copy a file into the machine; one that runs there now goes on with the old contents."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        shutil.copyfile(source, new)
        new.chmod(mode)
        new.rename(path)
        self._own(inside, mode, owner)

    def _own(self, inside: str, mode: int, owner: str | None) -> None:
        self.path(inside).chmod(mode)
        if owner is not None:
            self.sh(["chown", owner, inside])

    # ---- systemd

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 90) -> Done:
        """systemctl as root."""
        return self.sh(["systemctl", *arguments], check=check, timeout=timeout)

    def show(self, unit: str, name: str, user: str = "root") -> str:
        """One property of a unit."""
        return self.sh(["systemctl", "show", "--property", name, "--value", unit], user).stdout.rstrip("\n")

    def status(self, unit: str, user: str = "root") -> str:
        """What `systemctl status` prints; its exit status says no more than the text."""
        return self.sh(["systemctl", "status", "--no-pager", "--full", unit], user, check=False).stdout

    def journal(self, unit: str, *matches: str) -> list[dict]:
        """The unit's lines with all their fields, oldest first; matches are of the form FIELD=value."""
        text = self.sh(["journalctl", "--output=json", "--all", f"--unit={unit}", *matches]).stdout
        return [json.loads(line) for line in text.splitlines()]

    def messages(self, unit: str) -> str:
        """The unit's lines, for assertions and people."""
        return self.sh(["journalctl", "--output=cat", "--all", f"--unit={unit}"]).stdout

    def await_journal(self, unit: str, piece: str, timeout: float = 10) -> None:
        """Wait for a line that contains `piece`."""
        poll_until(lambda: piece in self.messages(unit), f"a line of {unit} in the journal with {piece!r}", timeout)

    def await_state(self, unit: str, state: str, timeout: float = 30) -> None:
        """Wait for an ActiveState."""
        poll_until(lambda: self.show(unit, "ActiveState") == state, f"{unit} is {state}", timeout)

    def pid_outside(self, inside: int) -> int:
        """The number by which a process of the machine goes out here."""
        depth = len(_numbers(self._leader))
        for status in Path("/proc").glob("[0-9]*"):
            try:
                numbers = _numbers(int(status.name))
            except (OSError, ValueError):
                continue
            if len(numbers) == depth and numbers[-1] == inside:
                return numbers[0]
        raise AssertionError(f"no process {inside} in the machine")


def _numbers(pid: int) -> list[int]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return [int(number) for number in line.split()[1:]]
    raise ValueError(pid)
