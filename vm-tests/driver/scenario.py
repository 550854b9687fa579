"""One scenario from its first boot to its end. Runs in namespaces of its own, whose end takes everything with it.

    python -m driver.scenario PATH [--keep]
"""

from __future__ import annotations

import code
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import hosts

from . import script
from .log import Log
from .machine import Machine
from .network import Network
from .root import Root

CACHE = Path(os.environ.get("PGTANDEM_VM_CACHE", "/nonexistent"))
KEPT = CACHE / "kept.json"
_LIMIT_S = int(os.environ.get("PGTANDEM_VM_LIMIT_S", "1200"))


class Interrupted(BaseException):
    """Somebody wants the driver to end."""


class OutOfTime(Exception):
    """The whole scenario takes too long."""


def _interrupted(number: int, _frame: object) -> None:
    # Once is enough: what happens now must not be interrupted again.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def _out_of_time(_number: int, _frame: object) -> None:
    raise OutOfTime(f"not done after {_LIMIT_S} s; PGTANDEM_VM_LIMIT_S allows more")


class Scenario:
    """The hosts of one scenario, and its script."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = Log()
        self._folder = Path(os.environ["PGTANDEM_SYSTEMD_FOLDER"])
        self._group = Path(os.environ["PGTANDEM_SYSTEMD_CGROUP"])
        self.network = Network(script.hosts_of(path, hosts.HOSTS))
        self.roots: dict[str, Root] = {}
        self.machines: list[Machine] = []

    def prepare(self) -> None:
        """Everything but the first boot."""
        self.network.up()
        for name in self.network.numbers:
            root = Root(CACHE / "image", self._folder / name)
            hosts.provision(name, root, self.network, self.path)
            self.roots[name] = root
            self.machines.append(Machine(name, root, self.network, self.log, self._folder / name, self._group / name))

    def names(self) -> dict[str, object]:
        """What the script finds defined."""
        return script.names(self.machines, hosts.VALUES, self.log)

    def keep_journals(self, folder: Path) -> None:
        """Write what each host has said into a folder that outlives the scenario."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for machine in self.machines:
            try:
                text = self.roots[machine.name].journal()
            except Exception as error:  # noqa: BLE001: the other hosts' must be kept in any case
                text = f"not to be had: {error}\n"
            (folder / f"{machine.name}.journal").write_text(text)
            for source in (machine.console, machine.complaints):
                if source.exists():
                    shutil.copy(source, folder / f"{machine.name}.{source.name}")

    def stay(self) -> None:
        """Leave everything open until somebody has seen enough."""
        outside = self._folder.name.split("-")[-2]
        up = {machine.name: machine.leader for machine in self.machines if machine.leader}
        KEPT.write_text(json.dumps({"outside": int(outside), "hosts": up}))
        self.log.text(f"\nkept open: {', '.join(up) or 'no host is up'}. Another terminal:\n"
                      "    vm-tests/run --enter HOST              a root shell in it\n"
                      "    vm-tests/run --enter HOST COMMAND …    one command\n")
        try:
            if sys.stdin.isatty():
                code.interact("Here: Python with the script's names, such as client.succeed(\"ip addr\"). Ctrl-D ends all.",
                              local=self.names())
            else:
                self.log.text(f"Ends with: kill {outside}")
                while True:
                    signal.pause()
        except Interrupted:
            # The way to end it; how the scenario ended is what counts.
            pass
        finally:
            KEPT.unlink(missing_ok=True)


def _failures(path: Path) -> Path:
    return CACHE / "failed" / path.stem


def _perform(scenario: Scenario) -> bool:
    """Run the script; was it as it should be?"""
    try:
        scenario.prepare()
        script.run(scenario.path, scenario.names())
        return True
    except (Exception, SystemExit) as error:  # noqa: BLE001: whatever it is, it is the scenario's result
        signal.setitimer(signal.ITIMER_REAL, 0)
        scenario.log.text(script.explain(error, scenario.path))
        folder = _failures(scenario.path)
        scenario.keep_journals(folder)
        scenario.log.text(f"journals of all hosts: {folder}")
        return False


def main(arguments: list[str]) -> int:
    """Run it; 0: passed, 1: failed, 130: interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)
    path = Path(arguments[0])
    shutil.rmtree(_failures(path), ignore_errors=True)
    try:
        scenario = Scenario(path)
        passed = _perform(scenario)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if "--keep" in arguments:
            scenario.stay()
    except Interrupted as error:
        print(f"interrupted by {error}", flush=True)
        return 130
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
