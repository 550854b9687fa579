"""Run a command in namespaces of its own: mounts, processes, network, IPC.

    python isolate.py COMMAND [ARGUMENT...]

Whatever the command starts or mounts is gone when it ends, however it ends: the kernel sees to that. What is left to do
here, in the process that stays outside, is to remove a control group and a folder. There is no network in there but a
loopback interface of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

NAME = "pgtandem-systemd-test"

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWPID, _CLONE_NEWNET = (
    0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000)
_MS_SLAVE, _MS_REC = 1 << 19, 1 << 14
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str | Path, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    arguments = (source.encode(), str(target).encode(), kind and kind.encode(), ctypes.c_ulong(flags),
                 data and data.encode())
    _check(_libc.mount(*arguments), f"cannot mount {kind or source} on {target}")


def die_with_parent(death_signal: int = signal.SIGKILL) -> None:
    """Let the kernel end this process when the one that started it has ended."""
    _libc.prctl(_PR_SET_PDEATHSIG, death_signal)


def _unified_hierarchy() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    sys.exit(f"{NAME}: no cgroup2 file system is mounted; run mount -t cgroup2 none /sys/fs/cgroup/unified")


def _remove_group(group: Path) -> None:
    deadline = time.monotonic() + 10
    for folder, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                os.rmdir(folder)
                break
            except FileNotFoundError:
                break
            except OSError:
                # The kernel may need a moment to bury the last process.
                if time.monotonic() > deadline:
                    print(f"{NAME}: could not remove {folder}", file=sys.stderr)
                    return
                time.sleep(0.02)


def _sweep(hierarchy: Path, temporary: Path) -> None:
    """Remove what runs that were killed have left."""
    for leftover in [*hierarchy.glob(f"{NAME}-*"), *temporary.glob(f"{NAME}-*")]:
        owner = leftover.name.removeprefix(f"{NAME}-").split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            if leftover.is_relative_to(hierarchy):
                _remove_group(leftover)
            else:
                leftover.rmdir()


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("16sh", b"lo", 0).ljust(40, b"\0")
        flags = struct.unpack_from("16sh", fcntl.ioctl(probe, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(probe, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP).ljust(40, b"\0"))


def _inside(command: list[str]) -> None:
    """Run the command as the first process of the new namespaces, which has to bury the orphans."""
    die_with_parent()
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET), "cannot make namespaces")
    mount("none", "/", None, _MS_SLAVE | _MS_REC)
    mount("proc", "/proc", "proc")
    # systemd-nspawn keeps notes there; they go with this mount.
    mount("tmpfs", "/run", "tmpfs", data="mode=755")
    mount("tmpfs", os.environ["PGTANDEM_SYSTEMD_FOLDER"], "tmpfs", data="mode=755")
    _raise_loopback()
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execvp(command[0], command)
    os._exit(_exit_code(_watch(child)))


def _watch(child: int) -> int:
    """Hand signals on, bury the dead, and return how the child ended."""
    handed_on = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    while True:
        came = signal.sigwaitinfo(handed_on | {signal.SIGCHLD})
        if came.si_signo != signal.SIGCHLD:
            # The terminal tells the whole group itself.
            if came.si_code <= 0:
                os.kill(child, came.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                return os.waitstatus_to_exitcode(status)
            if pid == 0:
                break


def _exit_code(ended: int) -> int:
    return ended if ended >= 0 else 128 - ended


def main() -> int:
    """Make the namespaces, run the command in them, clean up, give its exit code."""
    hierarchy, temporary = _unified_hierarchy(), Path(tempfile.gettempdir())
    _sweep(hierarchy, temporary)
    group = hierarchy / f"{NAME}-{os.getpid()}"
    folder = Path(tempfile.mkdtemp(prefix=f"{NAME}-{os.getpid()}-"))
    os.environ["PGTANDEM_SYSTEMD_FOLDER"] = str(folder)
    os.environ["PGTANDEM_SYSTEMD_CGROUP"] = str(group)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD})
    try:
        group.mkdir()
        # Only the mounts of the child are its own, so that its folder can be removed from out here.
        _check(_libc.unshare(_CLONE_NEWPID), "cannot make a process namespace")
        child = os.fork()
        if child == 0:
            try:
                _inside(sys.argv[1:])
            except BaseException as error:  # noqa: BLE001: nothing may return from here
                print(f"{NAME}: {error}", file=sys.stderr)
            finally:
                os._exit(1)
        return _exit_code(_watch(child))
    finally:
        _remove_group(group)
        folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
