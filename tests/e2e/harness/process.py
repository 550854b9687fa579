"""Start and stop processes so that nothing outlives the tests, however the tests end."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def unprivileged_user() -> str | None:
    """The account for PostgreSQL and the pooler, both of which refuse root; None: the tests' own account."""
    if os.geteuid() != 0:
        return None
    return os.environ.get("PGTANDEM_E2E_USER", "postgres")


def identity(user: str | None) -> dict:
    """subprocess arguments that run a program as `user` (None: no change)."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def give_to_user(path: Path, user: str | None) -> None:
    """Make `user` the owner of `path` (None: no change)."""
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def _die_with_parent(death_signal: int) -> Callable[[], None]:
    # Runs after the change of user, which would have cleared it.
    def arm() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, death_signal)

    return arm


def spawn(argv: list, *, user: str | None, stderr: Path, death_signal: int = signal.SIGKILL, cwd: Path | str = "/",
          env: dict | None = None) -> subprocess.Popen:
    """Start a long-running program in a session of its own; the kernel signals it if the tests die first."""
    with stderr.open("ab") as sink:
        return subprocess.Popen(
            [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, cwd=cwd,
            env=env if env is not None else clean_environment(), start_new_session=True,
            preexec_fn=_die_with_parent(death_signal), **identity(user))


def run(argv: list, *, user: str | None = None, timeout: float = 60, check: bool = True, env: dict | None = None,
        stdin: str | None = None, cwd: Path | str = "/") -> subprocess.CompletedProcess:
    """Run a program to its end; a failure carries its output."""
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, timeout=timeout, input=stdin, cwd=cwd,
        env=env if env is not None else clean_environment(), preexec_fn=_die_with_parent(signal.SIGKILL),
        **identity(user))
    if check and done.returncode != 0:
        raise AssertionError(
            f"{argv[0]} ended with {done.returncode}: {' '.join(map(str, argv))}\n{done.stdout}\n{done.stderr}")
    return done


def clean_environment(**extra: str) -> dict:
    """The environment without any PG* variable: none of the developer's own settings may leak into a test."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "NOTIFY_SOCKET"}
    return {**kept, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **extra}


def stop(process: subprocess.Popen, how: int, timeout: float = 10) -> int:
    """Signal the process, wait, and kill it if it does not obey."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return process.returncode


def poll_until(condition: Callable[[], T], what: str, timeout: float = 10, interval: float = 0.02) -> T:
    """Call `condition` until it is true and give its value; what it raised last is told on time-out."""
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            value = condition()
            if value:
                return value
            last = value
        except Exception as error:  # noqa: BLE001: any failure means "not yet"
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last: {last!r})")
        time.sleep(interval)
