"""Latency: real batches through the loaded bundle, warm, long enough and often enough."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluators.jobs import Protocol
from evaluators.outcome import LatencyEvidence
from evaluators.statistics import percentile, percentile_interval, samples_needed

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

WARMUP_SECONDS = (0.1, 2.0)
WARMUP_WINDOW = 10
QUICK_CALLS, QUICK_SECONDS = 30, 0.2
HOPELESS = 1.25
"""A quick look ends the measurement where the interval of p50 lies this far above the budget."""


def warm_up(run: Callable[[Any], Any], batches: Sequence[Any], clock: Callable[[], float] = time.perf_counter) -> int:
    """Call until two windows of ten calls agree within 5 %, at least 0.1 s and at most 2 s; return the calls made."""
    start, calls, previous = clock(), 0, float("inf")
    while True:
        window = []
        for _ in range(WARMUP_WINDOW):
            begun = clock()
            run(batches[calls % len(batches)])
            window.append(clock() - begun)
            calls += 1
            if clock() - start > WARMUP_SECONDS[1]:
                return calls
        median = float(np.median(window))
        if clock() - start > WARMUP_SECONDS[0] and abs(median - previous) <= 0.05 * previous:
            return calls
        previous = median


def measure_latency(
    run: Callable[[Any], Any],
    batches: Sequence[Any],
    protocol: Protocol,
    budget_ms: float | None = None,
    load_seconds: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> LatencyEvidence:
    """Time single calls of ``run`` over ``batches`` in turn, each with the whole batch.

    It goes on for the protocol's minimum time and count. With ``budget_ms`` it ends after a quick look where even the
    median surely lies above the budget.
    """
    warmup_calls = warm_up(run, batches, clock)
    needed = samples_needed(QUANTILES[protocol.percentile])
    samples: list[float] = []
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start = clock()
        quick = budget_ms is not None
        while True:
            begun = clock()
            run(batches[len(samples) % len(batches)])
            end = clock()
            samples.append(end - begun)
            elapsed = end - start
            if elapsed > protocol.patience_seconds or (len(samples) >= needed and elapsed > protocol.max_seconds):
                break
            if len(samples) >= max(needed, protocol.min_calls) and elapsed >= protocol.min_seconds:
                break
            if quick and budget_ms is not None and len(samples) >= QUICK_CALLS and elapsed >= QUICK_SECONDS:
                quick = False
                if percentile_interval(samples, 0.5)[0] * 1e3 > HOPELESS * budget_ms:
                    break
    finally:
        if enabled:
            gc.enable()
    return summarize(np.asarray(samples) * 1e3, protocol, warmup_calls, load_seconds)


def summarize(samples_ms: np.ndarray, protocol: Protocol, warmup_calls: int, load_seconds: float) -> LatencyEvidence:
    """Draw percentiles and the interval of the protocol's percentile from samples in milliseconds."""
    found = {name: percentile(samples_ms, quantile) for name, quantile in QUANTILES.items()}
    return LatencyEvidence(
        percentile=protocol.percentile,
        p50=float(np.median(samples_ms)),
        p90=found["p90"],
        p95=found["p95"],
        p99=found["p99"],
        mean=float(samples_ms.mean()),
        ci95=percentile_interval(samples_ms, QUANTILES[protocol.percentile]),
        samples=len(samples_ms),
        warmup_calls=warmup_calls,
        load_seconds=load_seconds,
    )
