"""Blocks: calls timed one after the other for some tens of milliseconds, and the warm-up that comes first."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from evaluators.timing.contention import usage, waited_share

Clock = Callable[[], float]

WARMUP_SECONDS = (0.1, 2.0)
WARMUP_WINDOW = 10
SETTLING_SHARE, LONG_SHARE = 0.1, 0.25
"""Calls that do not count take this share of a block, and at least one, unless a call takes a good part of a block."""


@dataclass(frozen=True)
class WarmUp:
    """How many calls came before the first that counts, and whether they ended because two windows agreed."""

    calls: int
    settled: bool
    call_seconds: float


@dataclass(frozen=True)
class Block:
    """Seconds of each call, shape (N,), and how long threads waited for a processor, in seconds per second."""

    seconds: np.ndarray
    waited: float

    @property
    def total(self) -> float:
        """Seconds of all its calls."""
        return float(self.seconds.sum())


class Timed(Protocol):
    """A loaded model whose calls can be timed, in this process or in another."""

    def warm_up(self) -> WarmUp:
        """Call it until calls take equally long."""

    def block(self, seconds: float) -> Block:
        """Time calls for so long, and at least one."""


class LocalCalls:
    """Times a model in this process: ``run`` over prepared batches in turn."""

    def __init__(self, run: Callable[[Any], Any], batches: Sequence[Any], clock: Clock = time.perf_counter) -> None:
        self.run = run
        self.batches = batches
        self._clock = clock
        self._next = 0
        self._call_seconds = 0.0

    def warm_up(self) -> WarmUp:
        """Call until two windows of ten calls agree within 5 %, at least 0.1 s and at most 2 s."""
        start, calls, previous = self._clock(), 0, float("inf")
        while True:
            window = []
            for _ in range(WARMUP_WINDOW):
                window.append(self._call())
                calls += 1
                if self._clock() - start > WARMUP_SECONDS[1]:
                    return self._warm(calls, settled=False, window=window)
            median = float(np.median(window))
            if self._clock() - start > WARMUP_SECONDS[0] and abs(median - previous) <= 0.05 * previous:
                return self._warm(calls, settled=True, window=window)
            previous = median

    def block(self, seconds: float) -> Block:
        """Time calls for ``seconds``; where calls are short, a few that do not count bring caches back first."""
        with _no_collector():
            if self._call_seconds < LONG_SHARE * seconds:
                settled = self._clock() + SETTLING_SHARE * seconds
                self._call()
                while self._clock() < settled:
                    self._call()
            before, begun = usage(), self._clock()
            samples = [self._call()]
            while self._clock() - begun < seconds:
                samples.append(self._call())
            elapsed = self._clock() - begun
            return Block(np.asarray(samples), waited_share(before, usage(), elapsed))

    def _warm(self, calls: int, *, settled: bool, window: list[float]) -> WarmUp:
        self._call_seconds = float(np.median(window))
        return WarmUp(calls, settled, self._call_seconds)

    def _call(self) -> float:
        batch = self.batches[self._next % len(self.batches)]
        self._next += 1
        begun = self._clock()
        self.run(batch)
        return self._clock() - begun


@contextmanager
def _no_collector() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
