"""What a plot of the front shows, before it is drawn: axes, ranges, and the trials by the part they play."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evaluators.outcome import Constraint, Interval
from search.result import SearchResult, TrialResult
from search.wording import in_shares

_WIDE = 10.0
_MOST_TICKS = 10


@dataclass(frozen=True)
class Axis:
    """One quantity that trials are drawn over.

    Attributes:
        name: ``latency``, ``throughput``, ``cost`` or ``size``, as in the search's objective.
        title: what the axis says, unit and better direction included.
        lower_is_better: whether the front lies to the left.
        value / interval: the quantity of a trial and its 95 % confidence interval; None where not measured.
        limit: the constraint on this quantity, if the search has one.
        scale: factor from the constraint's unit to the axis' unit.
    """

    name: str
    title: str
    lower_is_better: bool
    value: Callable[[TrialResult], float | None]
    interval: Callable[[TrialResult], Interval | None]
    limit: Constraint | None = None
    scale: float = 1.0

    @property
    def limit_value(self) -> float | None:
        """The limit in the axis' own unit."""
        return None if self.limit is None else self.limit.limit * self.scale


@dataclass(frozen=True)
class Range:
    """A drawn range, in data units; ``log`` where its ends are far apart."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Scene:
    """The trials of a search by the part they play in a plot; the marks may repeat a trial of a group.

    Attributes:
        front / dominated: feasible, on the front (best objective first) or beaten by it.
        undecided: measured in full, no limit is surely missed, and at least one is not surely kept.
        missed: accuracy was measured, and a limit is broken.
        early: rejected before accuracy was measured.
        failed: ended without evidence; only counted.
        marks: trials with a name of their own: ``best`` or ``nearest``, ``baseline``, ``best float``.
    """

    front: tuple[TrialResult, ...]
    dominated: tuple[TrialResult, ...]
    undecided: tuple[TrialResult, ...]
    missed: tuple[TrialResult, ...]
    early: tuple[TrialResult, ...]
    failed: tuple[TrialResult, ...]
    marks: dict[str, TrialResult]

    @property
    def drawn(self) -> tuple[TrialResult, ...]:
        """Every trial that has an accuracy."""
        return (*self.front, *self.dominated, *self.undecided, *self.missed)


def scene_of(result: SearchResult, trials: Sequence[TrialResult]) -> Scene:
    """Sort the trials of a search by the part they play."""
    named = {"best": result.best, "baseline": result.baseline, "best float": result.best_float}
    if result.best is None and result.nearest:
        named["nearest"] = result.nearest[0]
    marks = {name: trial for name, trial in named.items() if trial is not None and trial.accuracy is not None}
    front = {trial.number for trial in result.front}
    scored = [trial for trial in trials if trial.accuracy is not None and trial.outcome != "failed"]
    unscored = [trial for trial in trials if trial.accuracy is None and trial.outcome == "rejected"]
    references = {trial.number for trial in marks.values()}
    return Scene(
        front=result.front,
        dominated=tuple(trial for trial in scored if trial.feasible and trial.number not in front),
        undecided=tuple(trial for trial in scored if trial.undecided),
        missed=tuple(trial for trial in scored if trial.verdict == "fail" and trial.number not in references | front),
        early=tuple(unscored),
        failed=tuple(trial for trial in trials if trial.outcome == "failed"),
        marks=marks,
    )


def axes_of(result: SearchResult) -> tuple[Axis, ...]:
    """Return the axes to draw over: the objective first, but latency where nothing meets its limit."""
    limits = {constraint.metric: constraint for constraint in result.constraints}
    latency = f"{'latency' if result.scenario == 'single' else 'server'}_{result.percentile}_ms"
    timed = (
        Axis("latency", f"latency {result.percentile} of one batch (ms), less is better", True,
             lambda trial: trial.latency_at(result.percentile),
             lambda trial: trial.latency_ms.ci95 if trial.latency_ms else None, limits.get(latency)),
        Axis("throughput", "throughput (examples per second), more is better", False,
             lambda trial: trial.throughput_per_s, lambda trial: None),
    )  # fmt: skip
    known = (
        *(timed if result.scenario == "single" else _server_axes(result, limits.get(latency))),
        *([Axis("cost", "cost of a million inferences, less is better", True, lambda trial: trial.cost_per_million,
                lambda trial: None)] if result.objective == "cost" else []),
        Axis("size", "size on disk (MB), less is better", True,
             lambda trial: None if trial.size_bytes is None else trial.size_bytes / 1e6,
             lambda trial: None, limits.get("size_bytes"), 1e-6),
    )  # fmt: skip
    first = "latency" if result.best is None and latency in limits else result.objective
    return tuple(sorted(known, key=lambda axis: axis.name != first))


def _server_axes(result: SearchResult, limit: Constraint | None) -> tuple[Axis, ...]:
    """Return the axes of what requests saw; what was never put under load is not on them."""
    at = f" at {result.rate_per_s:g} requests per second" if result.rate_per_s else ""
    latency = Axis(
        "latency", f"latency {result.percentile} of a request{at} (ms), less is better", True,
        lambda trial: trial.server.value if trial.server else None,
        lambda trial: trial.server.ci95 if trial.server else None, limit,
    )  # fmt: skip
    rate = Axis(
        "throughput", "requests per second within the budget, more is better", False,
        lambda trial: trial.server.sustained_per_s if trial.server else None, lambda trial: None,
    )  # fmt: skip
    return latency, rate


def ticks_of(span: Range) -> list[float]:
    """Return round tick values of a logarithmic range: 1, 2 and 5 of every decade, or less where that is too many."""
    decades = range(math.floor(math.log10(span.low)), math.ceil(math.log10(span.high)) + 1)
    for steps in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        inside = [tick for tick in ticks if span.low <= tick <= span.high]
        if len(inside) <= _MOST_TICKS:
            break
    return inside


def show_tick(value: float) -> str:
    """Write a tick value shortly: ``0.05``, ``20``, ``5k``."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{suffix}"
    return f"{value:g}"


def accuracy_floor(result: SearchResult) -> float | None:
    """Return the lowest accuracy that the constraints allow; None if they set none that can be computed."""
    floors = []
    for constraint in result.constraints:
        if constraint.metric == "accuracy":
            floors.append(constraint.limit)
        elif constraint.metric == "accuracy_drop" and (reference := _reference_accuracy(result)) is not None:
            floors.append(reference - constraint.limit)
    return max(floors, default=None)


def horizontal_range(axis: Axis, trials: Iterable[TrialResult]) -> Range:
    """Return the range of ``axis`` that holds every trial and the limit, logarithmic when it spans more than 10×."""
    values = [value for trial in trials if (value := axis.value(trial)) is not None and value > 0]
    values += [axis.limit_value] if axis.limit_value else []
    if not values:
        return Range(0.0, 1.0)
    low, high = min(values), max(values)
    if high / low > _WIDE:
        pad = (high / low) ** 0.05
        return Range(low / pad, high * pad, log=True)
    pad = 0.08 * (high - low) or 0.1 * high
    return Range(max(0.0, low - pad), high + pad)


def accuracy_interval(trial: TrialResult, result: SearchResult) -> Interval | None:
    """Return the 95 % interval that is drawn of an accuracy: where the drop is limited, what the drop's says of it.

    The original model saw the same examples, so the drop is known more exactly than the accuracy itself.
    """
    limited = any(constraint.metric == "accuracy_drop" for constraint in result.constraints)
    drop, of_drop = trial.accuracy_drop, trial.accuracy_drop_ci95
    if not limited or trial.accuracy is None or drop is None or of_drop is None:
        return trial.accuracy_ci95
    return trial.accuracy + drop - of_drop[1], trial.accuracy + drop - of_drop[0]


def vertical_range(result: SearchResult, scene: Scene) -> tuple[Range, int]:
    """Return the range of accuracy around the limit and the feasible, and how many trials lie below it."""
    everything = [trial.accuracy for trial in (*scene.drawn, *scene.marks.values()) if trial.accuracy is not None]
    floor = accuracy_floor(result)
    wanted = (*scene.front, *scene.dominated, *scene.undecided, *scene.marks.values())
    near = [trial.accuracy for trial in wanted if trial.accuracy is not None] or everything
    near = [*near, floor] if floor is not None else near
    if not near:
        return Range(0.0, 1.0), 0
    span = max(max(near) - min(near), 0.004 * abs(max(near)), 1e-9)
    barred = (*scene.front, *scene.undecided)
    ends = [*near, *(bound for trial in barred for bound in accuracy_interval(trial, result) or ())]
    low, high = min(ends), min(max(ends), 1.0) if in_shares(result) else max(ends)
    top = min(high + 0.2 * span, max(high, 1.0) + 0.05 * span) if in_shares(result) else high + 0.2 * span
    shown = Range(max(low - 0.6 * span, min([low, *everything]) - 0.15 * span), top)
    return shown, sum(value < shown.low for value in everything)


def _reference_accuracy(result: SearchResult) -> float | None:
    """The original model's accuracy: a drop plus an accuracy of any one trial, since drops count from it."""
    for trial in (result.baseline, result.best_float, result.best, *result.front, *result.nearest):
        if trial is not None and trial.accuracy is not None and trial.accuracy_drop is not None:
            return trial.accuracy + trial.accuracy_drop
    return None
