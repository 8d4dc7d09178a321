"""Contention: how long this process's threads were ready to run and another program had the processor."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Usage:
    """Totals since the process started, over all its threads, in seconds: on a processor, and waiting for one.

    ``waiting`` is None where the system does not count it.
    """

    running: float
    waiting: float | None


def usage() -> Usage:
    """Read this process's totals; costs tens of microseconds.

    Source: ``/proc/PID/task/TID/schedstat``, Linux, Documentation/scheduler/sched-stats.rst: nanoseconds on the
    processor and nanoseconds on a run queue.
    """
    if sys.platform != "linux":
        return Usage(time.process_time(), None)
    running = waiting = 0
    try:
        for task in os.listdir(_TASKS):
            on_processor, on_queue, _ = (_TASKS / task / "schedstat").read_text().split()
            running += int(on_processor)
            waiting += int(on_queue)
    except (OSError, ValueError):  # the kernel does not count, or a thread ended while we looked
        return Usage(time.process_time(), None)
    return Usage(running / 1e9, waiting / 1e9)


def waited_share(before: Usage, after: Usage, elapsed: float) -> float:
    """Return the seconds that threads waited for a processor, per second of ``elapsed``; 0 where nothing tells."""
    if before.waiting is None or after.waiting is None or elapsed <= 0:
        return 0.0
    return max(0.0, after.waiting - before.waiting) / elapsed
