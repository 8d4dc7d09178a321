"""Latency: real batches through the loaded bundle, in turn with the original model in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from evaluators.jobs import Protocol
from evaluators.outcome import LatencyEvidence
from evaluators.timing.blocks import Clock, LocalCalls, Timed
from evaluators.timing.sequence import time_bundle


def measure_latency(
    run: Callable[[Any], Any],
    batches: Sequence[Any],
    protocol: Protocol,
    budget_ms: float | None = None,
    load_seconds: float = 0.0,
    clock: Clock = time.perf_counter,
    reference: Timed | None = None,
) -> LatencyEvidence:
    """Time single calls of ``run`` over ``batches`` in turn, each with the whole batch, beside ``reference``."""
    return time_bundle(LocalCalls(run, batches, clock), reference, protocol, budget_ms, load_seconds, clock)
