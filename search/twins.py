"""Twins: the trials of a search that differ from one trial in nothing but what is to be explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evaluators.candidate import Candidate, Pruning, Quantization, Runtime
from evaluators.outcome import Interval, Ratio
from search.result import TrialResult


@dataclass(frozen=True)
class Twin:
    """The trial that another one is compared with.

    Attributes:
        kind: ``float`` where it differs in its precision, ``unpruned`` where it differs in its pruning.
        differs: in what else it differs, for want of an exact twin.
    """

    trial: TrialResult
    kind: Literal["float", "unpruned"]
    differs: tuple[str, ...] = ()


def find_twin(trial: TrialResult, trials: Sequence[TrialResult]) -> Twin | None:
    """Return the float twin of a quantized trial, the unpruned twin of a pruned float one, None for all others.

    Where the exact one was not timed, the nearest at the same backend and batch size stands in: first the same
    threads, then the same pruning, then the same options.
    """
    candidate = trial.candidate
    if candidate.quantization.scheme != "fp32":
        wanted, kind = candidate.model_copy(update={"quantization": Quantization()}), "float"
    elif candidate.pruning.structure != "none":
        wanted, kind = candidate.model_copy(update={"pruning": Pruning()}), "unpruned"
    else:
        return None
    offered = [
        other for other in trials
        if other.latency_ms is not None and other.number != trial.number
        and other.candidate.quantization.scheme == "fp32" and other.candidate.backend == wanted.backend
        and other.candidate.batch_size == wanted.batch_size and other.candidate.target == wanted.target
        and (kind == "float" or other.candidate.pruning.structure == "none")
    ]  # fmt: skip
    if not offered:
        return None
    nearest = min(offered, key=lambda other: (*_distance(other.candidate, wanted), other.number))
    return Twin(nearest, "float" if kind == "float" else "unpruned", _differences(nearest.candidate, wanted))


def speedup_over(trial: TrialResult, other: TrialResult, percentile: str) -> tuple[Ratio | None, bool]:
    """Return how many times faster ``trial`` answers a call than ``other``, and whether drift cancels in it.

    Both were timed in turn with eager fp32: where batch size and threads are the same, the ratio of their speed-ups
    over it is the answer. Else it is the ratio of their latencies, which were measured at different times. The
    interval divides the ends of the two 95 % intervals, so it is wider than a 95 % interval of the ratio needs be.
    """
    ours, theirs = _over_eager(trial), _over_eager(other)
    alike = (trial.candidate.runtime.threads, trial.candidate.batch_size) == (
        other.candidate.runtime.threads, other.candidate.batch_size)  # fmt: skip
    if ours and theirs and alike:
        return _divided(ours.value, ours.ci95, theirs.value, theirs.ci95), True
    fast, slow = trial.latency_at(percentile), other.latency_at(percentile)
    if not fast or not slow or trial.latency_ms is None or other.latency_ms is None:
        return None, False
    return _divided(slow, other.latency_ms.ci95, fast, trial.latency_ms.ci95), False


def batch_siblings(trial: TrialResult, trials: Sequence[TrialResult]) -> tuple[TrialResult, ...]:
    """Return the timed trials that differ from ``trial`` in nothing but their batch size, the smallest first.

    An option that is asked at some batch sizes only counts as off at the others.
    """

    def key(each: TrialResult) -> str:
        runtime = each.candidate.runtime
        switched_on = Runtime.model_validate(
            {"threads": runtime.threads} | {k: v for k, v in runtime.knobs.items() if v}
        )
        return each.candidate.model_copy(update={"batch_size": 1, "runtime": switched_on}).canonical

    same = [other for other in trials if other.throughput_per_s and key(other) == key(trial)]
    return tuple(
        sorted((each for each in same if each.number != trial.number), key=lambda each: each.candidate.batch_size)
    )


def batch_utilization(trial: TrialResult, siblings: Sequence[TrialResult]) -> float | None:
    """Return throughput at this batch size over that of the same candidate at batch size 1; None without that one.

    1 says that batching gains nothing, the batch size itself that a larger batch costs no time at all.
    """
    single = next((other for other in siblings if other.candidate.batch_size == 1), None)
    if single is None or not single.throughput_per_s or not trial.throughput_per_s:
        return None
    return round(trial.throughput_per_s / single.throughput_per_s, 3)


def call_ms(trial: TrialResult) -> float | None:
    """Return the median latency of a call in milliseconds."""
    return trial.latency_ms.p50 if trial.latency_ms is not None else None


def _over_eager(trial: TrialResult) -> Ratio | None:
    candidate = trial.candidate
    if candidate.is_original:
        return Ratio(value=1.0, ci95=(1.0, 1.0))
    return trial.speedup


def _divided(above: float, above_ci95: Interval, below: float, below_ci95: Interval) -> Ratio | None:
    if not below or not all(below_ci95):
        return None
    low, high = above_ci95[0] / below_ci95[1], above_ci95[1] / below_ci95[0]
    return Ratio(value=round(above / below, 4), ci95=(round(low, 4), round(high, 4)))


def _distance(found: Candidate, wanted: Candidate) -> tuple[bool, bool, float, bool, bool]:
    return (
        found.runtime.threads != wanted.runtime.threads,
        found.pruning.structure != wanted.pruning.structure,
        abs(found.pruning.amount - wanted.pruning.amount),
        found.pruning != wanted.pruning,
        found.runtime.knobs != wanted.runtime.knobs,
    )


def _differences(found: Candidate, wanted: Candidate) -> tuple[str, ...]:
    differing = []
    if found.runtime.threads != wanted.runtime.threads:
        differing.append("threads")
    if found.pruning != wanted.pruning:
        differing.append("pruning")
    differing += [
        name for name in sorted(found.runtime.knobs.keys() | wanted.runtime.knobs.keys())
        if found.runtime.knobs.get(name) != wanted.runtime.knobs.get(name)
    ]  # fmt: skip
    return tuple(differing)
