"""The Pareto front over accuracy and the objective, and the choice of the best: pure functions over trial results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from evaluators.outcome import ServerEvidence
from search.result import TrialResult


def objective_value(trial: TrialResult, objective: str, percentile: str) -> float | None:
    """The value to be *minimised*: latency in ms, negative throughput, size in bytes, or the cost of a
    million inferences; None if not measured.

    Of a trial that was put under load they are those of its requests: the latency at the rate, and the highest rate.
    A time that was measured beside other programs counts as not measured: it is shown, and decides nothing.
    """
    if objective == "size":
        return None if trial.size_bytes is None else float(trial.size_bytes)
    if trial.latency_ms is not None and not trial.latency_ms.clean:
        return None
    if trial.server is not None:
        return _under_load(trial.server, objective, trial)
    if objective == "latency":
        return trial.latency_at(percentile)
    if objective == "cost":
        return trial.cost_per_million
    return None if trial.throughput_per_s is None else -trial.throughput_per_s


def _under_load(server: ServerEvidence, objective: str, trial: TrialResult) -> float | None:
    if not server.clean:
        return None
    if objective == "latency":
        return server.value
    if objective == "cost":
        return trial.cost_per_million
    return None if server.sustained_per_s is None else -server.sustained_per_s


def pareto_front(trials: Iterable[TrialResult], objective: str, percentile: str) -> list[TrialResult]:
    """Return the feasible trials that no other one beats in both accuracy and objective, best objective first."""
    ranked = sorted(
        ((objective_value(trial, objective, percentile), -(trial.accuracy or 0.0), trial.number, trial)
         for trial in trials if trial.feasible and trial.accuracy is not None
         and objective_value(trial, objective, percentile) is not None),
        key=lambda item: item[:3],
    )  # fmt: skip
    front: list[TrialResult] = []
    best_accuracy = float("-inf")
    for _, negative_accuracy, _, trial in ranked:
        if -negative_accuracy > best_accuracy:
            front.append(trial)
            best_accuracy = -negative_accuracy
    return front


def best_trial(front: Sequence[TrialResult]) -> TrialResult | None:
    """Return the feasible trial with the best objective: the first of the front."""
    return front[0] if front else None


def timed_best(
    front: Sequence[TrialResult], trials: Iterable[TrialResult], compared: Collection[int], objective: str,
    percentile: str,
) -> TrialResult | None:  # fmt: skip
    """Return the best of the trials that were timed in turn, by number in ``compared``; without one that of the front.

    What was timed alone, at another time and so on a faster or slower machine, does not take its place from it.
    """
    leader = best_trial(front)
    if leader is None or leader.number in compared:
        return leader
    timed = (trial for trial in trials if trial.number in compared)
    return best_trial(pareto_front(timed, objective, percentile)) or leader


def total_violation(trial: TrialResult) -> float:
    """Sum of the normalized violations of the values; a constraint that was not reached counts as met."""
    return sum(max(0.0, verdict.violation) for verdict in trial.verdicts)


def undecided_trials(
    trials: Iterable[TrialResult], objective: str, percentile: str, count: int = 3
) -> list[TrialResult]:
    """Return the undecided trials whose values lie within every limit, best objective first.

    Those of which no clean time is known come last, in the order in which they were tried.
    """

    def rank(trial: TrialResult) -> tuple[bool, float, int]:
        value = objective_value(trial, objective, percentile)
        return value is None, value or 0.0, trial.number

    return sorted((trial for trial in trials if trial.undecided and not total_violation(trial)), key=rank)[:count]


def nearest_trials(trials: Iterable[TrialResult], count: int = 3) -> list[TrialResult]:
    """Return the trials that came closest to the limits: the undecided first, then the smallest total violation."""
    tried = [trial for trial in trials if trial.outcome in ("measured", "rejected") and trial.verdicts]
    return sorted(tried, key=lambda trial: (not trial.undecided, total_violation(trial), trial.number))[:count]
