"""From what was seen in a test to evidence: percentiles, intervals, and who else used the processor. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np

from evaluators.outcome import CallTimes, ServerEvidence
from evaluators.statistics import block_interval, percentile, samples_needed, supports_upper_bound
from evaluators.traffic.instance import InstanceRun
from evaluators.traffic.values import LoadTest, Serving
from evaluators.traffic.window import Batching

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
BLOCKS = 40
"""Latencies are looked at in so many blocks in order of time, to see whether they drift."""
ENOUGH = 4
"""A test has so many times the requests that an upper bound of its percentile takes if they are independent."""
LEAST_SECONDS = 10.0
LEAST_REQUESTS = 20
"""A rate at which fewer are expected in a whole test is not tried."""


@dataclass(frozen=True)
class Observed:
    """One test: how long each request took, in seconds and in order of arrival, those of the lead-in included.

    Attributes:
        latencies: shape (N,); what was dropped or failed took the timeout, at least.
        dropped / failed: which of them, shape (N,).
        elapsed: seconds from the first arrival to the last answer.
        batch_sizes / call_s / busy_s: of each call, and seconds of instances at work; empty and 0 for a URL.
        foreign_load: how long threads waited for a processor that other programs used, in seconds per second.
        batching / instances: how requests were gathered, and by how many processes they were run; None for a URL.
    """

    latencies: np.ndarray
    dropped: np.ndarray
    failed: np.ndarray
    elapsed: float
    batch_sizes: np.ndarray
    call_s: np.ndarray
    busy_s: float = 0.0
    foreign_load: float = 0.0
    batching: Batching | None = None
    instances: int | None = None


class Server(Interface):
    """Whatever answers requests: a bundle in processes of its own, or a URL."""

    def run(self, arrivals: list[float], timeout_s: float) -> Observed:
        """Send requests at these times, in seconds and in order, and wait for all of them."""


def seconds_for(rate_per_s: float, test: LoadTest, least: float = LEAST_SECONDS) -> float:
    """Return how long requests must arrive before the percentile can be judged, the lead-in left out."""
    if test.seconds is not None:
        return test.seconds
    needed = ENOUGH * samples_needed(QUANTILES[test.percentile], test.confidence)
    return min(max(least, needed / rate_per_s), test.most_seconds)


def least_rate(test: LoadTest) -> float:
    """Return the lowest rate that can be judged at all."""
    return LEAST_REQUESTS / (test.seconds or test.most_seconds)


def observed_of(runs: list[InstanceRun], arrivals: list[float], batching: Batching) -> Observed:
    """Put together what instances did; a request that none of them ran was dropped."""
    times = np.asarray(arrivals)
    latencies = np.full(len(times), batching.timeout_s)
    dropped = np.ones(len(times), dtype=bool)
    served = sorted((batch for run in runs for batch in run.served), key=lambda batch: batch.first)
    for batch in served:
        latencies[batch.first : batch.last] = batch.end - times[batch.first : batch.last]
        dropped[batch.first : batch.last] = False
    elapsed = max([batch.end for batch in served] + [float(times[-1]) if len(times) else 0.0])
    return Observed(
        latencies=latencies, dropped=dropped, failed=np.zeros(len(times), dtype=bool), elapsed=elapsed,
        batch_sizes=np.array([batch.last - batch.first for batch in served]),
        call_s=np.array([batch.call_s for batch in served]),
        busy_s=sum(batch.end - batch.at for batch in served), foreign_load=foreign_load(runs, elapsed),
        batching=batching, instances=len(runs),
    )  # fmt: skip


def foreign_load(runs: list[InstanceRun], elapsed: float) -> float:
    """Return how long the threads of all instances waited because of other programs, in seconds per second.

    Where there are more threads than processors they also wait for each other: it is no more than the time that others
    had. 0 where nothing tells.
    """
    waiting, busy = [run.waiting for run in runs], [run.busy for run in runs]
    if elapsed <= 0 or None in waiting or None in busy:
        return 0.0
    others = max(value or 0.0 for value in busy) - sum(run.running for run in runs)
    return max(0.0, min(sum(value or 0.0 for value in waiting), others)) / elapsed


def summarize(
    seen: Observed, arrivals: list[float], rate_per_s: float, test: LoadTest, **extra: float | bool
) -> ServerEvidence:
    """Draw percentiles and intervals from the requests after the lead-in.

    Raises:
        ValueError: there is none.
    """
    times = np.asarray(arrivals)
    counts = times >= test.lead_in_seconds
    if not counts.any():
        raise ValueError(f"no request arrived after the lead-in of {test.lead_in_seconds:g} s; test for longer")
    latencies_ms = seen.latencies[counts] * 1e3
    dropped, failed = int(seen.dropped[counts].sum()), int(seen.failed[counts].sum())
    quantile, span = QUANTILES[test.percentile], max(float(times[-1]) - test.lead_in_seconds, 1e-9)
    blocks = np.array_split(latencies_ms, max(1, min(BLOCKS, len(latencies_ms) // 2)))
    answered = len(latencies_ms) - dropped - failed
    found = {name: percentile(latencies_ms, share) for name, share in QUANTILES.items()}
    last = float((times[counts] + seen.latencies[counts]).max()) - test.lead_in_seconds
    return ServerEvidence(
        percentile=test.percentile, budget_ms=test.budget_ms, rate_per_s=rate_per_s,
        offered_per_s=len(latencies_ms) / span, achieved_per_s=answered / max(last, span),
        requests=len(latencies_ms), answered=answered, dropped=dropped, errors=failed,
        p50=float(np.median(latencies_ms)), p90=found["p90"], p95=found["p95"], p99=found["p99"],
        mean=float(latencies_ms.mean()), over_budget=float((latencies_ms > test.budget_ms).mean()),
        ci95=block_interval(blocks, quantile),
        bounds=block_interval(blocks, quantile, test.confidence, one_sided=True),
        bounded=supports_upper_bound(blocks, quantile, test.confidence),
        window_ms=seen.batching and seen.batching.window_s * 1e3,
        max_batch=seen.batching and seen.batching.max_batch, instances=seen.instances,
        **_batches(seen, quantile), clean=seen.foreign_load <= test.max_foreign_load,
        foreign_load=seen.foreign_load, **extra,
    )  # fmt: skip


def _batches(seen: Observed, quantile: float) -> dict[str, object]:
    if seen.instances is None or not len(seen.batch_sizes):
        return {}
    call_ms = seen.call_s * 1e3
    pieces = np.array_split(call_ms, max(1, min(BLOCKS, len(call_ms) // 2)))
    calls = CallTimes(calls=len(call_ms), p50=float(np.median(call_ms)), p95=percentile(call_ms, 0.95),
                      p99=percentile(call_ms, 0.99), ci95=block_interval(pieces, quantile))  # fmt: skip
    return {
        "batches": len(seen.batch_sizes), "mean_batch": float(seen.batch_sizes.mean()),
        "busy_share": min(1.0, seen.busy_s / (seen.instances * max(seen.elapsed, 1e-9))), "call_ms": calls,
    }  # fmt: skip


def batching_of(serving: Serving, batch_size: int, test: LoadTest) -> Batching:
    """Return how requests to a bundle of this batch size are gathered."""
    return Batching(min(serving.max_batch or batch_size, batch_size), serving.window_ms / 1e3, test.timeout_s)
