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
SETTLING_SHARE, THREADS_SETTLING_SECONDS = 0.1, 0.01
"""Calls that do not count take this share of a block, with several threads so many seconds, and are at least one."""
LONG_CALL_SECONDS, THREADS_LONG_CALL_SECONDS = 0.1, 0.25
"""Unless a call takes so long: then a cold beginning matters less than the time of a call that does not count."""

SEVERAL_THREADS = 1.2
"""A block that used so many processor seconds per second was computed by several threads."""
REST_POLLS, REST_POLL_SECONDS, REST_SHARE = 500, 0.001, 0.3
"""It is asked so often, in such intervals, whether the process uses less than this share of a processor."""


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
    """Times a model in this process: ``run`` over prepared batches in turn.

    ``clock`` tells the time and ``used`` how long processors have worked for this process, in seconds.
    """

    def __init__(
        self, run: Callable[[Any], Any], batches: Sequence[Any], clock: Clock = time.perf_counter,
        used: Clock = time.process_time,
    ) -> None:  # fmt: skip
        self.run = run
        self.batches = batches
        self._clock = clock
        self._used = used
        self._next = 0
        self._call_seconds = 0.0
        self._several = False

    def warm_up(self) -> WarmUp:
        """Call until two windows of ten calls agree within 5 %, at least 0.1 s and at most 2 s."""
        start, calls, previous, used = self._clock(), 0, float("inf"), self._used()
        while True:
            window = []
            for _ in range(WARMUP_WINDOW):
                window.append(self._call())
                calls += 1
                if self._clock() - start > WARMUP_SECONDS[1]:
                    return self._warm(calls, settled=False, window=window)
            median = float(np.median(window))
            self._several = self._used() - used > SEVERAL_THREADS * (self._clock() - start)
            if self._clock() - start > WARMUP_SECONDS[0] and abs(median - previous) <= 0.05 * previous:
                return self._warm(calls, settled=True, window=window)
            previous = median

    def block(self, seconds: float) -> Block:
        """Time calls for ``seconds``; a few that do not count bring caches and threads back first.

        It returns when this process's threads rest: runtimes let them spin after a call, on processors that whoever
        is timed next needs.
        """
        with _no_collector():
            self._settle(SETTLING_SHARE * seconds)
            before, used, begun = usage(), self._used(), self._clock()
            samples = [self._call()]
            while self._clock() - begun < seconds:
                samples.append(self._call())
            elapsed = self._clock() - begun
            block = Block(np.asarray(samples), waited_share(before, usage(), elapsed))
        self._several = self._used() - used > SEVERAL_THREADS * elapsed
        if self._several:
            self._rest()
        return block

    def _settle(self, seconds: float) -> None:
        """Call until what ran meanwhile is forgotten: with two threads the first 10 ms take up to twice as long."""
        if self._call_seconds > (THREADS_LONG_CALL_SECONDS if self._several else LONG_CALL_SECONDS):
            return
        until = self._clock() + max(seconds, THREADS_SETTLING_SECONDS if self._several else 0.0)
        self._call()
        while self._clock() < until:
            self._call()

    def _rest(self) -> None:
        """Wait until the threads of this process hardly use a processor."""
        for _ in range(REST_POLLS):
            used = self._used()
            time.sleep(REST_POLL_SECONDS)
            if self._used() - used <= REST_SHARE * REST_POLL_SECONDS:
                return

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
