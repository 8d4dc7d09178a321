"""Curve: what batching does for one model on one backend, as a value of a search's result."""

from __future__ import annotations

from evaluators.frozen import Frozen


class Point(Frozen):
    """One measured batch size of a curve: the trial with the highest throughput there, and what it needs."""

    batch_size: int
    throughput_per_s: float
    latency_ms: float
    trial: int
    peak_memory_bytes: int | None = None


class Curve(Frozen):
    """Throughput and latency of one model on one backend over batch size.

    Attributes:
        label: backend, scheme, pruning and threads in words.
        points: the smallest batch first; at each the fastest of the trials that differ in runtime options only.
        saturates_at: the smallest batch size that none of the larger ones measured beats by 5 %; null where there is
            no larger one, or throughput grows up to the largest.
        next_gain: what the next larger batch size that was measured gains over it.
    """

    target: str
    backend: str
    scheme: str
    pruning: str
    threads: int
    label: str
    points: tuple[Point, ...]
    saturates_at: int | None = None
    next_gain: float | None = None

    @property
    def next_size(self) -> int | None:
        """The next larger batch size that was measured beyond saturation."""
        sizes = [point.batch_size for point in self.points]
        return None if self.saturates_at is None else sizes[sizes.index(self.saturates_at) + 1]
