"""Stop one thread of a process and keep it stopped, as a debugger would, until the thread is dead or this is killed.

    python hold.py THREAD

Prints `held` once the thread stands still. In a process of its own, since the dead must be waited for by who holds them.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PTRACE_SEIZE, _PTRACE_INTERRUPT = 0x4206, 0x4207
_WALL = 0x40000000


def main(thread: int) -> int:
    """Hold it; 0 when it has died."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    for request in (_PTRACE_SEIZE, _PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            print(f"cannot hold thread {thread}: {os.strerror(ctypes.get_errno())}", flush=True)
            return 1
    while True:
        _, status = os.waitpid(thread, _WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return 0
        # It is not told to go on.
        print("held", flush=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
