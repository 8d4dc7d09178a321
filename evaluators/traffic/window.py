"""The batching window: which waiting requests leave together, and when. Pure: the clock is passed in.

A live server asks the same question of the real clock as a simulation does of one that never waits.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Batching(NamedTuple):
    """How requests are gathered: at most so many, no longer than the window; those that wait too long are dropped."""

    max_batch: int
    window_s: float
    timeout_s: float


class Batch(NamedTuple):
    """Requests from ``first`` up to, not including ``last`` leave together at ``at`` seconds; empty if nobody is left.

    The ``dropped`` before them never leave.
    """

    dropped: int
    first: int
    last: int
    at: float

    @property
    def size(self) -> int:
        """How many requests are in it."""
        return self.last - self.first


def next_batch(arrivals: Sequence[float], head: int, free_at: float, batching: Batching) -> Batch:
    """Return the batch that somebody who is free at ``free_at`` runs next.

    It leaves when it is full, or when its oldest request has waited for the window, but not before somebody is free;
    what has arrived until then is in it.

    Args:
        arrivals: when each request arrives, in seconds and in order.
        head: the first that nobody has taken yet.
        free_at: in the same seconds.
        batching: how requests are gathered.
    """
    first = bisect_left(arrivals, free_at - batching.timeout_s, head)
    if first == len(arrivals):
        return Batch(first - head, first, first, free_at)
    full = first + batching.max_batch - 1
    due = arrivals[first] + batching.window_s
    if full < len(arrivals):
        due = min(due, arrivals[full])
    at = max(free_at, due)
    last = bisect_right(arrivals, at, first, min(first + batching.max_batch, len(arrivals)))
    return Batch(first - head, first, last, at)


def simulate(
    arrivals: Sequence[float], service_s: Sequence[float], batching: Batching, instances: int = 1
) -> np.ndarray:
    """Return the latency of every request in seconds, shape (N,), as a server without any overhead would have it.

    Args:
        arrivals: in seconds and in order.
        service_s: how long batches take, in turn; a bundle takes as long for one request as for a full batch.
        batching: how requests are gathered; what is dropped counts as having taken the timeout.
        instances: how many batches can be under way at a time.
    """
    latencies = np.full(len(arrivals), batching.timeout_s)
    times = np.asarray(arrivals)
    free = [0.0] * instances
    head = served = 0
    while head < len(arrivals):
        batch = next_batch(arrivals, head, heapq.heappop(free), batching)
        end = batch.at + service_s[served % len(service_s)]
        latencies[batch.first : batch.last] = end - times[batch.first : batch.last]
        heapq.heappush(free, end)
        head, served = batch.last, served + 1
    return latencies
