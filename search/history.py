"""History: what a search had found after each of its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.front import objective_value, pareto_front
from search.hypervolume import hypervolume, yardstick
from search.result import SearchResult, TrialResult

_BEST_AS = {
    "latency": "best_latency_{percentile}_ms", "throughput": "best_throughput_per_s", "size": "best_size_mb",
    "cost": "best_cost_per_million",
}  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """A search after some of its trials, in the order of their numbers.

    Attributes:
        trials: how many had finished.
        feasible: how many of them keep every limit.
        front: the Pareto front of these, best objective first.
        hypervolume: what the front dominates; None while the original model was not measured.
    """

    trials: int
    feasible: int
    front: tuple[TrialResult, ...]
    hypervolume: float | None


def moments_of(result: SearchResult, trials: Sequence[TrialResult]) -> list[Moment]:
    """Return the search after each of its finished trials."""
    finished = sorted((trial for trial in trials if trial.outcome not in ("queued", "running")),
                      key=lambda trial: trial.number)  # fmt: skip
    by = yardstick(result, finished)
    moments: list[Moment] = []
    front: list[TrialResult] = []
    feasible = 0
    for count, trial in enumerate(finished, 1):
        if trial.feasible:
            # A trial that is beaten once stays beaten: the front of all is that of the front and the new one.
            feasible, front = feasible + 1, pareto_front([*front, trial], result.objective, result.percentile)
        moments.append(Moment(count, feasible, tuple(front), None if by is None else hypervolume(front, by)))
    return moments


def turning_points(moments: Sequence[Moment], most: int) -> list[Moment]:
    """Return the moments at which the front changed: at most so many, evenly chosen, the last one always."""
    changed = [after for before, after in zip((None, *moments), moments, strict=False)
               if after.front and (before is None or after.front != before.front)]  # fmt: skip
    if len(changed) <= most:
        return changed
    return [changed[round(i * (len(changed) - 1) / (most - 1))] for i in range(most)]


def moment_metrics(moment: Moment, result: SearchResult) -> dict[str, float]:
    """Return a moment as metrics: together they are curves over the number of finished trials."""
    found: dict[str, float | None] = {
        "trials": moment.trials, "feasible": moment.feasible, "front": len(moment.front),
        "hypervolume": moment.hypervolume,
    }  # fmt: skip
    if moment.front and (value := objective_value(moment.front[0], result.objective, result.percentile)) is not None:
        scale = 1e-6 if result.objective == "size" else 1.0
        found[_BEST_AS[result.objective].format(percentile=result.percentile)] = abs(value) * scale
    return {f"progress/{name}": float(value) for name, value in found.items() if value is not None}
