"""A process that hangs is restarted."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import deployment
from harness.deployment import UNIT, WATCHDOG_S
from harness.waiting import holds_for, poll_until

HOLD = Path(__file__).parent / "harness" / "hold.py"


def threads(pid: int) -> dict[int, str]:
    """The threads of a process out here, oldest first, with their names."""
    numbers = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    return {number: Path(f"/proc/{pid}/task/{number}/comm").read_text().strip() for number in numbers}


def held(thread: int) -> subprocess.Popen:
    """Start to hold a thread."""
    holder = subprocess.Popen([sys.executable, str(HOLD), str(thread)], stdout=subprocess.PIPE, text=True)
    said = holder.stdout.readline().strip()
    assert said == "held", said
    return holder


@pytest.mark.parametrize("worker", [0, 1])
def test_a_stuck_worker_thread_leads_to_a_restart(served, worker):
    """One thread stops; the others, and the process's main thread, go on as if nothing were."""
    def last_report() -> str:
        return served.machine.show(UNIT, "WatchdogTimestampMonotonic")

    assert served.serves()
    pid, first = served.main_pid(), last_report()
    poll_until(lambda: last_report() != first, "it reports to the watchdog while all is well", WATCHDOG_S)
    assert served.main_pid() == pid and served.restarts() == 0, "it was restarted although all was well"
    outside = served.machine.pid_outside(pid)
    # The runtime's workers are the first threads that are made, and two are configured.
    workers = [number for number, name in threads(outside).items() if number != outside and name == "pgtandem"][:2]
    holder = held(workers[worker])
    try:
        before = time.monotonic()
        served.await_other_process(pid, WATCHDOG_S + deployment.WATCHDOG_MARGIN_S)
        took = time.monotonic() - before
    finally:
        holder.kill()
        holder.wait()
    print(f"a stuck worker thread: restarted after {took:.1f} s (WatchdogSec={WATCHDOG_S})")
    assert took > WATCHDOG_S / 4, "that was not for the thread"
    assert served.restarts() == 1
    assert "Failed with result 'watchdog'" in served.machine.messages(UNIT)
    served.await_serving()


def test_an_idle_process_is_left_alone(served):
    pid = served.main_pid()
    holds_for(lambda: served.main_pid() == pid, "the service is left alone", 2 * WATCHDOG_S)
    assert served.restarts() == 0
