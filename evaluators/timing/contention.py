"""Contention: how long this process's threads were ready to run while other programs had the processors."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_TASKS = Path("/proc/self/task")
_STAT = Path("/proc/stat")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Totals in seconds: this process's threads on a processor and waiting for one, and all processors being busy.

    ``waiting`` and ``busy`` are None where the system does not count them.
    """

    running: float
    waiting: float | None
    busy: float | None = None


def usage() -> Usage:
    """Read the totals; costs tens of microseconds.

    Source: ``/proc/PID/task/TID/schedstat`` (Linux, Documentation/scheduler/sched-stats.rst: nanoseconds on the
    processor and on a run queue) and the first line of ``/proc/stat`` (proc(5): ticks).
    """
    if sys.platform != "linux":
        return Usage(time.process_time(), None)
    running = waiting = 0
    try:
        for task in os.listdir(_TASKS):
            on_processor, on_queue, _ = (_TASKS / task / "schedstat").read_text().split()
            running += int(on_processor)
            waiting += int(on_queue)
        with _STAT.open() as stat:
            user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.readline().split()[1:])
    except (OSError, ValueError):  # the kernel does not count, or a thread ended while we looked
        return Usage(time.process_time(), None)
    return Usage(running / 1e9, waiting / 1e9, (user + nice + system + irq + softirq + steal) / _TICKS)


def waited_share(before: Usage, after: Usage, elapsed: float) -> float:
    """Return the seconds that threads waited because of other programs, per second of ``elapsed``.

    Threads of one process also wait for each other where they are more than the processors; so it is no more than the
    time that others really had. 0 where nothing tells.
    """
    if before.waiting is None or after.waiting is None or elapsed <= 0:
        return 0.0
    waited = after.waiting - before.waiting
    if before.busy is not None and after.busy is not None:
        waited = min(waited, after.busy - before.busy - (after.running - before.running))
    return max(0.0, waited) / elapsed
