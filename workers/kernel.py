"""What only the Linux kernel can promise about families of processes; elsewhere these do nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` dies, and die at once if it already has."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> bool:
    """Become the parent of every descendant whose own parent dies; False where the kernel cannot do that."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def out_of_memory_kills() -> int | None:
    """Return how many processes this kernel has killed for want of memory since it started; None where it is silent.

    Kills within a control group count too: proc(5), ``oom_kill`` in ``/proc/vmstat``.
    """
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.removeprefix("oom_kill "))
    return None


def _prctl(option: int, value: int) -> bool:
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
