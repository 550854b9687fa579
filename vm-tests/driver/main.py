"""The command line: which scenarios there are, and one after the other in namespaces of its own."""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import hosts

from . import image, script
from .scenario import CACHE, KEPT

HERE = Path(__file__).resolve().parents[1]
# Whatever a scenario starts or mounts ends with the namespaces that this makes.
ISOLATE = HERE.parent / "tests" / "systemd" / "harness" / "isolate.py"
_END_S = 60
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def scenarios() -> dict[str, Path]:
    """All scenarios by name."""
    return {path.stem: path for path in sorted(HERE.glob("*.py")) if path.name != "hosts.py"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vm-tests/run", description="Runs scenarios in containers; without names, all of them.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a scenario: vm-tests/NAME.py")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--keep", action="store_true", help="leave everything open at the end of one scenario, to look around")
    parser.add_argument("--enter", nargs=argparse.REMAINDER, metavar="HOST",
                        help="a shell, or COMMAND, in a host of a scenario that is kept open")
    return parser.parse_args()


def _list() -> int:
    for name, path in scenarios().items():
        print(f"{name:18} {' '.join(script.hosts_of(path, hosts.HOSTS)):52} {script.summary_of(path)}")
    return 0


def _enter(words: list[str]) -> int:
    """Become a shell in a host of a kept scenario."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {"hosts": {}}
    children = Path(f"/proc/{kept.get('outside')}/task/{kept.get('outside')}/children")
    if not words or words[0] not in kept["hosts"] or not children.exists():
        print(f"vm-tests/run: no such host is open (open: {', '.join(kept['hosts']) or 'none'}): run NAME --keep", file=sys.stderr)
        return 2
    first = children.read_text().split()[0]
    command = words[1:] or ["bash", "-l"]
    home = pwd.getpwnam("root").pw_dir
    # The host's processes have numbers of their own, known only in the namespaces of the driver.
    os.execvp("nsenter", ["nsenter", f"--target={first}", "--mount", "--pid", "--", "nsenter",
                          f"--target={kept['hosts'][words[0]]}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
                          "env", f"HOME={home}", "LANG=C.UTF-8", f"--chdir={home}", *command])


def _run_one(path: Path, keep: bool) -> int:
    """Run one scenario, and see to its end whatever happens; its exit code."""
    command = [sys.executable, "-B", str(ISOLATE), sys.executable, "-B", "-m", "driver.scenario", str(path)]
    # Should this process be killed, the scenario is told to end.
    process = subprocess.Popen(command + (["--keep"] if keep else []),
                               preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) and None)
    try:
        return process.wait()
    except BaseException:
        # Ctrl-C has reached it already; a second signal does no harm.
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            # The kernel ends what is in its namespaces with it.
            process.kill()
            process.wait()
        raise


def _run(chosen: list[Path], keep: bool) -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    results: list[tuple[str, float, int]] = []
    with (CACHE / "lock").open("w") as lock:
        # Two runs at once would take each other's time, and the folder of failures.
        fcntl.flock(lock, fcntl.LOCK_EX)
        image.make(CACHE / "image")
        for path in chosen:
            print(f"\n=== {path.stem}", flush=True)
            began = time.monotonic()
            code = _run_one(path, keep)
            results.append((path.stem, time.monotonic() - began, code))
            if code not in (0, 1):
                break
    print()
    for name, seconds, code in results:
        print(f"{'passed' if code == 0 else 'FAILED' if code == 1 else f'ended with {code}':8} {seconds:7.1f} s  {name}")
    print(f"{'':8} {sum(seconds for _, seconds, _ in results):7.1f} s  in all")
    return max((code for _, _, code in results), default=0)


def _stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """0: all passed, 1: some failed, 2: wrong use, 130: interrupted."""
    arguments = _arguments()
    if arguments.list:
        return _list()
    if arguments.enter is not None:
        return _enter(arguments.enter)
    known = scenarios()
    unknown = [name for name in arguments.names if name not in known]
    if unknown or (arguments.keep and len(arguments.names) != 1):
        what = f"no scenario {', '.join(unknown)}" if unknown else "--keep takes one NAME"
        print(f"vm-tests/run: {what}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        return _run([known[name] for name in arguments.names] or list(known.values()), arguments.keep)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
