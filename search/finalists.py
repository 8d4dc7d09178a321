"""Finalists: which trials are timed in turn at the end of a search, and what that takes, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evaluators.timing.comparison import ROUND_SECONDS, TURNS
from search.front import objective_value, total_violation
from search.result import TrialResult
from search.spec import SearchSpec
from search.view import find_baseline, find_best_float

MOST = 4
NEAR = 1.2
"""A trial whose objective is worse by more than this factor is not mistaken for the best by a noisy look."""

STARTING_S = 0.3
WARM_UP_S = (0.2, 2.0)
WARM_UP_CALLS = 20


def finalists(trials: Sequence[TrialResult], spec: SearchSpec) -> list[TrialResult]:
    """Return the trials of which one may be the best, best objective first: close to it and not surely out of limits.

    What would be compared with other float models than the best feasible one is left out: those were not measured.
    """
    found = _within(trials, spec)
    if not found or spec.goal == "size":
        return found[:1]
    first = next((trial for trial in found if trial.feasible), found[0])
    return [trial for trial in found if _near(trial, first, spec) and setting_of(trial) == setting_of(first)][:MOST]


def references(trials: Sequence[TrialResult], best: TrialResult, spec: SearchSpec) -> list[TrialResult]:
    """Return what the best is compared with: the baseline, and the fastest unmodified float model."""
    found = (find_baseline(trials, best), find_best_float(trials, best, spec))
    return distinct(trial for trial in found if trial is not None and trial.bundle is not None)


def distinct(trials: Iterable[TrialResult]) -> list[TrialResult]:
    """Return each trial once, in the order in which they come first."""
    return list({trial.number: trial for trial in trials}.values())


def comparison_seconds(trials: Sequence[TrialResult], spec: SearchSpec) -> float:
    """Estimate what timing the finalists and their references in turn takes."""
    chosen = finalists(trials, spec)
    if not chosen:
        return 0.0
    return sum(_seconds(trial, spec) for trial in distinct([*chosen, *references(trials, chosen[0], spec)]))


def _seconds(trial: TrialResult, spec: SearchSpec) -> float:
    call_s = trial.latency_ms.p50 / 1e3 if trial.latency_ms else 0.0
    warm_up = min(max(WARM_UP_S[0], WARM_UP_CALLS * call_s), WARM_UP_S[1])
    load = trial.stage_seconds.get("load", 0.0) + trial.stage_seconds.get("read", 0.0)
    return spec.protocol.rounds * (STARTING_S + load + warm_up + max(ROUND_SECONDS, TURNS[0] * call_s))


def _within(trials: Sequence[TrialResult], spec: SearchSpec) -> list[TrialResult]:
    """Return what was measured in full with every value within its limit, best objective first."""
    ranked = [
        (value, trial.number, trial)
        for trial in trials
        if may_be_best(trial)
        and (value := objective_value(trial, spec.goal, spec.percentile)) is not None
    ]  # fmt: skip
    return [trial for _, _, trial in sorted(ranked, key=lambda item: item[:2])]


def may_be_best(trial: TrialResult) -> bool:
    """Whether a trial was measured in full with every value within its limit, and can be timed again."""
    return (trial.feasible or trial.undecided) and not total_violation(trial) and trial.bundle is not None


def _near(trial: TrialResult, first: TrialResult, spec: SearchSpec) -> bool:
    a, b = (objective_value(item, spec.goal, spec.percentile) or 0.0 for item in (trial, first))
    return max(abs(a), abs(b)) <= NEAR * min(abs(a), abs(b))


def setting_of(trial: TrialResult) -> tuple[str, int, int]:
    """Return target, batch size and threads: float models are compared with what has all three."""
    return trial.candidate.target, trial.candidate.batch_size, trial.candidate.runtime.threads
