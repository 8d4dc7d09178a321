"""Resident memory of this process: what it holds now, and the most that it ever held."""

from __future__ import annotations

import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def resident_bytes(status: Path = STATUS) -> int:
    """Return the resident memory of this process now, shared libraries included."""
    if (found := status_bytes(status, "VmRSS")) is not None:
        return found
    import psutil

    return int(psutil.Process().memory_info().rss)


def peak_resident_bytes(status: Path = STATUS) -> int:
    """Return the most resident memory that this program ever held.

    Linux counts it as VmHWM and starts anew with each program (proc_pid_status(5)). ``ru_maxrss`` does not: there a
    program begins with what the process held that started it, and a fork with all that it shares with its parent.
    """
    if (found := status_bytes(status, "VmHWM")) is not None:
        return found
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def status_bytes(status: Path, field: str) -> int | None:
    """Return a field of a file like ``/proc/PID/status`` in bytes, or None where there is no such file or field.

    Raises:
        ValueError: the field is not a number of kB.
    """
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            number, _, unit = value.strip().partition(" ")
            if unit != "kB":
                raise ValueError(f"{field} in {status} is {value.strip()!r}, not a number of kB")
            return int(number) * 1024
    return None
