"""Picking: which trial of the front is promoted, as pure functions over a result."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from evaluators.errors import InfeasibleError, UsageError
from search.front import objective_value
from search.result import SearchResult, TrialResult

Pick = Literal["fastest", "accurate", "knee", "cheapest"]
PICKS: tuple[str, ...] = get_args(Pick)


def pick_trial(result: SearchResult, pick: str | None) -> TrialResult:
    """Return the trial of the front that ``pick`` names; the best of the search without one.

    ``fastest`` has the lowest latency of a call, ``accurate`` the highest accuracy, ``cheapest`` the lowest cost of a
    million inferences (on one target without a price the highest throughput, which is the same), ``knee`` lies
    furthest from the line between the ends of the front.

    Raises:
        InfeasibleError: nothing is feasible.
        UsageError: there is no such pick, or the front does not have what it asks for.
    """
    if pick is not None and pick not in PICKS:
        raise UsageError(f"there is no pick {pick!r}; choose one of {', '.join(PICKS)}")
    if result.best is None or not result.front:
        raise InfeasibleError(
            f"search {result.name} has no feasible trial, so there is nothing to promote; paretune status shows the "
            "nearest"
        )
    if pick is None:
        return result.best
    choose: dict[str, Callable[[SearchResult], TrialResult]] = {
        "fastest": _fastest, "accurate": _accurate, "cheapest": _cheapest, "knee": knee,
    }  # fmt: skip
    return choose[pick](result)


def find_trial(trials: list[TrialResult], number: int, name: str) -> TrialResult:
    """Return the trial of that number, if it may be promoted.

    Raises:
        UsageError: there is none, or it is not feasible.
    """
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:
        raise UsageError(f"search {name} has no trial {number}; it has 0 to {len(trials) - 1}")
    if not trial.feasible or trial.bundle is None:
        why = trial.reason or f"it is {trial.outcome}"
        raise UsageError(f"trial {number} is not feasible ({why}), so it is not promoted; paretune front {name} lists "
                         "what is")  # fmt: skip
    return trial


def knee(result: SearchResult) -> TrialResult:
    """Return the trial of the front furthest from the line between its ends, both axes scaled to the front's range.

    Source: Branke, Deb, Dierolf, Osswald, Finding Knees in Multi-objective Optimization, PPSN 2004; the distance to
    the line is that of Das, On characterizing the knee of the Pareto curve, 1999. With fewer than three, the best.
    """
    if len(result.front) < 3:
        return result.front[0]
    points = [
        (objective_value(trial, result.objective, result.percentile) or 0.0, -(trial.accuracy or 0.0))
        for trial in result.front
    ]
    (x0, y0), (x1, y1) = points[0], points[-1]
    width, height = x1 - x0, y1 - y0

    def below_the_line(index: int) -> float:
        x, y = ((points[index][0] - x0) / width, (points[index][1] - y0) / height) if width and height else (0.0, 0.0)
        # The ends are (0, 0) and (1, 1) after scaling; the front lies where its accuracy comes sooner.
        return (y - x) / math.sqrt(2)

    return result.front[max(range(len(points)), key=below_the_line)]


def _fastest(result: SearchResult) -> TrialResult:
    timed = [(trial.latency_at(result.percentile), trial) for trial in result.front]
    return min(((value, trial.number, trial) for value, trial in timed if value is not None), key=lambda x: x[:2])[2]


def _accurate(result: SearchResult) -> TrialResult:
    return max(result.front, key=lambda trial: (trial.accuracy or 0.0, -trial.number))


def _cheapest(result: SearchResult) -> TrialResult:
    priced = [trial for trial in result.front if trial.cost_per_million is not None]
    if len(priced) == len(result.front):
        return min(priced, key=lambda trial: (trial.cost_per_million or 0.0, trial.number))
    if len({trial.candidate.target for trial in result.front}) > 1:
        raise UsageError("the cheapest of several targets needs their prices; search with --target NAME=PRICE,…")
    return max(result.front, key=lambda trial: (_per_second(trial), -trial.number))


def _per_second(trial: TrialResult) -> float:
    """What a trial does in a second: of requests at random where it was put under load, else of its own calls."""
    return (trial.throughput_per_s if trial.server is None else trial.server.sustained_per_s) or 0.0
