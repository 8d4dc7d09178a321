"""Saturation: throughput over batch size, where it stops growing, and what memory a larger batch would take."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

from evaluators.candidate import Candidate
from evaluators.lengths import BUCKETS
from search.curves import Curve, Point
from search.result import TrialResult
from search.wording import pruning_of

GROWTH = 0.05
"""A batch size that no larger one beats by this share of the throughput is where it saturates."""


def curve_key(candidate: Candidate) -> Hashable:
    """Tell curves apart: by everything but the batch size and the runtime options that may depend on it."""
    runtime = candidate.runtime
    return (
        candidate.target, candidate.backend, candidate.quantization, candidate.pruning, runtime.threads,
        runtime.knobs.get(BUCKETS.name, 0),
    )  # fmt: skip


def counts_for_curve(trial: TrialResult) -> bool:
    """Whether a trial's throughput is known and was measured without other programs in the way."""
    return bool(trial.throughput_per_s) and trial.latency_ms is not None and trial.latency_ms.clean


def points_of(trials: Iterable[TrialResult]) -> tuple[Point, ...]:
    """Return the fastest trial at each batch size, the smallest batch first."""
    found: dict[int, TrialResult] = {}
    for trial in trials:
        size = trial.candidate.batch_size
        if counts_for_curve(trial) and (size not in found or _speed(trial) > _speed(found[size])):
            found[size] = trial
    return tuple(
        Point(batch_size=size, throughput_per_s=_speed(trial), trial=trial.number,
              latency_ms=trial.latency_ms.p50 if trial.latency_ms else 0.0, peak_memory_bytes=trial.peak_memory_bytes)
        for size, trial in sorted(found.items())
    )  # fmt: skip


def saturation(points: Sequence[Point]) -> tuple[int, float] | None:
    """Return the batch size at which throughput saturates and what the next one gains, or None if it is not known."""
    for point, *larger in (points[i:] for i in range(len(points) - 1)):
        if max(other.throughput_per_s for other in larger) < (1 + GROWTH) * point.throughput_per_s:
            return point.batch_size, larger[0].throughput_per_s / point.throughput_per_s - 1
    return None


def curves_of(trials: Iterable[TrialResult]) -> tuple[Curve, ...]:
    """Return every curve with at least two batch sizes, that with the highest throughput first."""
    groups: dict[Hashable, list[TrialResult]] = {}
    for trial in trials:
        if counts_for_curve(trial):
            groups.setdefault(curve_key(trial.candidate), []).append(trial)
    curves = [_curve(group[0].candidate, points) for group in groups.values() if len(points := points_of(group)) > 1]
    return tuple(sorted(curves, key=lambda curve: -max(point.throughput_per_s for point in curve.points)))


def curve_of(trial: TrialResult, trials: Iterable[TrialResult]) -> Curve | None:
    """Return the curve that a trial is on, or None where no other batch size of it was measured."""
    key = curve_key(trial.candidate)
    found = curves_of(other for other in trials if curve_key(other.candidate) == key)
    return found[0] if found else None


def show_saturation(curve: Curve) -> str:
    """Say where a curve saturates: ``batch 16 is where it saturates: 32 gains 2 %``."""
    largest = curve.points[-1].batch_size
    if curve.saturates_at is None or curve.next_gain is None:
        return f"throughput still grows up to batch {largest}, the largest that was measured"
    gain = f"gains {curve.next_gain:.0%}" if curve.next_gain >= 0 else f"loses {-curve.next_gain:.0%}"
    return f"batch {curve.saturates_at} is where it saturates: {curve.next_size} {gain}"


def predicted_bytes(measured: Mapping[int, int], batch_size: int) -> int | None:
    """Return the memory that a larger batch will take, from those of two smaller ones at least; else None.

    Memory is a fixed part and one for each example; the line goes through the smallest and the largest of them.
    """
    smaller = sorted(size for size in measured if size < batch_size)
    if len(smaller) < 2:
        return None
    first, last = smaller[0], smaller[-1]
    each = max(0.0, (measured[last] - measured[first]) / (last - first))
    return round(measured[last] + each * (batch_size - last))


def _curve(candidate: Candidate, points: tuple[Point, ...]) -> Curve:
    found = saturation(points)
    pruning, threads = pruning_of(candidate), candidate.runtime.threads
    parts = [candidate.backend, candidate.quantization.scheme]
    parts += [pruning] if candidate.pruning.structure != "none" else []
    parts += [f"t{threads}", *([f"{count} buckets"] if (count := candidate.runtime.knobs.get(BUCKETS.name)) else [])]
    return Curve(
        target=candidate.target, backend=candidate.backend, scheme=candidate.quantization.scheme, pruning=pruning,
        threads=threads, label=" ".join(parts), points=points, saturates_at=found and found[0],
        next_gain=found and round(found[1], 4),
    )  # fmt: skip


def _speed(trial: TrialResult) -> float:
    return trial.throughput_per_s or 0.0
