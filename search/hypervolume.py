"""Hypervolume: how much better than the original model a front is, in one number that only ever grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.front import objective_value
from search.result import SearchResult, TrialResult
from search.scene import accuracy_floor
from search.wording import in_shares


@dataclass(frozen=True)
class Yardstick:
    """What fronts of one search are measured against.

    Attributes:
        objective / percentile: those of the search.
        original: value of the original model's first measured trial, as ``objective_value`` returns it.
        floor: the lowest accuracy that the limits allow, 0 where they allow any.
        scale: 100 where accuracies are shares, so that they count in percentage points.
    """

    objective: str
    percentile: str
    original: float
    floor: float
    scale: float

    def times_better(self, trial: TrialResult) -> float | None:
        """Return the objective as a multiple of the original's, more is better; None if not measured."""
        value = objective_value(trial, self.objective, self.percentile)
        if value is None or not value or not self.original:
            return None
        return value / self.original if value < 0 else self.original / value


def yardstick(result: SearchResult, trials: Sequence[TrialResult]) -> Yardstick | None:
    """Return what the fronts of a search are measured against; None while the original model was not measured."""
    for trial in sorted(trials, key=lambda trial: trial.number):
        value = objective_value(trial, result.objective, result.percentile)
        if trial.candidate.is_original and value is not None:
            floor, scale = accuracy_floor(result) or 0.0, 100.0 if in_shares(result) else 1.0
            return Yardstick(result.objective, result.percentile, value, floor, scale)
    return None


def hypervolume(front: Sequence[TrialResult], by: Yardstick) -> float:
    """Return the area that a front dominates, beyond the point (as good as the original, lowest accuracy allowed).

    Its sides are how many times better than the original the objective is, less one, and accuracy above the floor, in
    percentage points where accuracies are shares. ``front`` comes with the best objective first, as ``pareto_front``
    returns it, so accuracy rises along it. (Zitzler and Thiele, 1998.)
    """
    area, reached = 0.0, by.floor
    for trial in front:
        times = by.times_better(trial)
        if times is None or trial.accuracy is None or trial.accuracy <= reached:
            continue
        area += max(0.0, times - 1) * (trial.accuracy - reached) * by.scale
        reached = trial.accuracy
    return area
