"""How long calls take while they are diagnosed: enough to say which share an operator has, no evidence."""

from __future__ import annotations

import time
from collections.abc import Callable

_CALLS = 3
_PATIENCE_SECONDS = 0.05


def repeated(call: Callable[[], object]) -> list[float]:
    """Return the seconds of up to three calls, fewer where they are slow."""
    taken: list[float] = []
    while len(taken) < _CALLS and sum(taken) < _PATIENCE_SECONDS:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def call_seconds(call: Callable[[], object]) -> float:
    """Return the shortest of up to three calls."""
    return min(repeated(call))
