"""Foresight: what the batch sizes that were measured say of larger ones: no more throughput, or no room in memory."""

from __future__ import annotations

from collections.abc import Hashable

from evaluators.candidate import Candidate
from evaluators.outcome import Failure, FailureKind, Outcome
from evaluators.target import Target
from search.result import TrialResult
from search.saturation import counts_for_curve, curve_key, points_of, predicted_bytes, saturation
from search.units import show_bytes


class Foresight:
    """The trials of a search by the curve that they are on, kept up with each that ends."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, dict[str, TrialResult]] = {}
        self._beyond: dict[Hashable, tuple[int, str] | None] = {}

    def take(self, trial: TrialResult) -> None:
        """Take in a trial that has ended."""
        key = curve_key(trial.candidate)
        self._groups.setdefault(key, {})[trial.candidate.hash] = trial
        self._beyond.pop(key, None)

    def instead_of(self, candidate: Candidate) -> str | None:
        """Return the hash of the candidate that says what can be expected of a larger batch; None below saturation.

        Beyond it, throughput grows by less than 5 %, and a call only takes longer.
        """
        key = curve_key(candidate)
        if key not in self._beyond:
            self._beyond[key] = self._saturated(key)
        found = self._beyond[key]
        return found[1] if found is not None and candidate.batch_size > found[0] else None

    def refusal(self, candidate: Candidate, target: Target, limit_bytes: int | None) -> Outcome | None:
        """Return the outcome of a candidate that cannot fit into memory, by what smaller batches took; else None."""
        group = self._groups.get(curve_key(candidate), {}).values()
        smaller = [trial for trial in group if trial.candidate.batch_size < candidate.batch_size]
        size, needs = candidate.batch_size, dict[int, int]()
        if died := next((trial for trial in smaller if trial.failure_kind == FailureKind.OUT_OF_MEMORY), None):
            return _refused(f"a batch of {died.candidate.batch_size} ran out of memory (trial {died.number}), and this "
                            f"one is of {size}")  # fmt: skip
        device = target.accelerator is not None and any(trial.device_memory_bytes for trial in smaller)
        limit = target.accelerator.memory_bytes if device and target.accelerator else limit_bytes
        for trial in smaller:
            taken = trial.device_memory_bytes if device else trial.peak_memory_bytes
            if taken:
                needs[trial.candidate.batch_size] = max(taken, needs.get(trial.candidate.batch_size, 0))
        wanted = predicted_bytes(needs, size)
        if wanted is None or limit is None or wanted <= limit:
            return None
        known = ", ".join(f"batch {each} took {show_bytes(taken)}" for each, taken in sorted(needs.items()))
        return _refused(f"a batch of {size} would take about {show_bytes(wanted)}, and there are {show_bytes(limit)}: "
                        f"{known}")  # fmt: skip

    def _saturated(self, key: Hashable) -> tuple[int, str] | None:
        group = [trial for trial in self._groups.get(key, {}).values() if counts_for_curve(trial)]
        points = points_of(group)
        if (found := saturation(points)) is None:
            return None
        known = next(point.trial for point in points if point.batch_size == found[0])
        return found[0], next(trial.candidate.hash for trial in group if trial.number == known)


def _refused(reason: str) -> Outcome:
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, stage="forecast", reason=f"not tried: {reason}")
    return Outcome(kind="failed", failure=failure)
