"""Standing: the trials of a search and what is decided from them, kept up with each that changes."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any

from search.finalists import MOST, NEAR, may_be_best, setting_of
from search.front import objective_value, total_violation
from search.result import TrialCounts, TrialResult
from search.spec import SearchSpec
from search.view import float_rank

NEAREST = 3


class Standing:
    """The trials of one search by number, its front, its counts, and the few trials that decide what comes next.

    A change costs about the same however many trials there are: nothing here looks at all of them.
    """

    def __init__(self, spec: SearchSpec) -> None:
        self._goal, self._percentile = spec.goal, spec.percentile
        self._trials: dict[int, TrialResult] = {}
        self._feasible: list[tuple[float, float, int]] = []
        self._front: list[tuple[float, float, int]] = []
        self._nearest: list[tuple[bool, float, int]] = []
        self._within: list[tuple[float, int]] = []
        self._settled: list[tuple[float, int]] = []
        self._alike: dict[tuple[str, int, int], list[tuple[float, int]]] = {}
        self._plain: set[int] = set()
        self._floats: dict[tuple[str, int], list[tuple[bool, float, int]]] = {}
        self._ended: dict[str, int] = {}
        self._shortlist: list[TrialResult] | None = None

    def __len__(self) -> int:
        return len(self._trials)

    def update(self, trial: TrialResult) -> None:
        """Take a trial in, or its change; whether it is on the front is worked out here."""
        if (known := self._trials.get(trial.number)) is not None:
            self._forget(known)
        self._trials[trial.number] = trial.model_copy(update={"pareto": False}) if trial.pareto else trial
        self._shortlist = None
        self._count(trial, 1)
        if trial.candidate.is_original or trial.source == "baseline":
            self._plain.add(trial.number)
        if (rank := float_rank(trial, self._percentile)) is not None:
            insort(self._floats.setdefault(_size(trial), []), (*rank, trial.number))
        if (near := _nearness(trial)) is not None:
            insort(self._nearest, near)
        value = objective_value(trial, self._goal, self._percentile)
        if may_be_best(trial) and value is not None:
            for values in self._by_objective(trial):
                insort(values, (value, trial.number))
        if (place := self._place(trial)) is not None:
            insort(self._feasible, place)
            self._enter_front(place)

    def trial(self, number: int) -> TrialResult:
        """Return one trial."""
        return self._trials[number]

    @property
    def trials(self) -> list[TrialResult]:
        """Every trial by number."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def front(self) -> list[TrialResult]:
        """The front, best objective first."""
        return [self._trials[number] for _, _, number in self._front]

    @property
    def best(self) -> TrialResult | None:
        """The best feasible trial, if there is one."""
        return self._trials[self._front[0][2]] if self._front else None

    @property
    def counts(self) -> TrialCounts:
        """How the finished trials ended."""
        kinds = {kind: self._ended.get(kind, 0) for kind in ("measured", "rejected", "failed", "cached")}
        return TrialCounts(total=sum(kinds.values()), undecided=self._ended.get("undecided", 0), **kinds)

    @property
    def shortlist(self) -> list[TrialResult]:
        """The trials from which front, nearest, finalists and their references follow as from all of them, by number.

        They are the front, the nearest, those that may be timed in turn with the best, and the originals and fastest
        floats that one of them may be compared with.
        """
        if self._shortlist is None:
            numbers = {number for _, _, number in self._front} | self._plain | self._finalists()
            numbers |= {number for _, _, number in self._nearest[:NEAREST]}
            numbers |= {ranked[0][2] for ranked in self._floats.values() if ranked}
            self._shortlist = [self._trials[number] for number in sorted(numbers)]
        return self._shortlist

    def _finalists(self) -> set[int]:
        """Return the numbers of those that may turn out to be the best of the setting of the best, and of the first."""
        if not self._within:
            return set()
        value, number = (self._settled or self._within)[0]
        alike = self._alike[setting_of(self._trials[number])]
        begin = bisect_left(alike, (min(value * NEAR, value / NEAR), -1))
        return {self._within[0][1], number, *(other for _, other in alike[begin : begin + MOST])}

    def _by_objective(self, trial: TrialResult) -> list[list[tuple[float, int]]]:
        """Return the lists, best objective first, that a trial which may be the best belongs to."""
        lists = [self._within, self._alike.setdefault(setting_of(trial), [])]
        return [*lists, self._settled] if trial.feasible else lists

    def _place(self, trial: TrialResult) -> tuple[float, float, int] | None:
        """Return where a feasible trial stands: by objective, then by accuracy; None for any other."""
        value = objective_value(trial, self._goal, self._percentile)
        if not trial.feasible or trial.accuracy is None or value is None:
            return None
        return value, -trial.accuracy, trial.number

    def _enter_front(self, place: tuple[float, float, int]) -> None:
        """Put a feasible trial on the front, unless something there beats it, and take off what it beats."""
        at = bisect_left(self._front, place)
        if at and self._front[at - 1][1] <= place[1]:
            return
        beaten = at
        while beaten < len(self._front) and self._front[beaten][1] >= place[1]:
            self._mark(self._front[beaten][2], False)
            beaten += 1
        self._front[at:beaten] = [place]
        self._mark(place[2], True)

    def _mark(self, number: int, pareto: bool) -> None:
        self._trials[number] = self._trials[number].model_copy(update={"pareto": pareto})

    def _forget(self, trial: TrialResult) -> None:
        """Take a trial out as it was."""
        self._count(trial, -1)
        if (rank := float_rank(trial, self._percentile)) is not None:
            _remove(self._floats[_size(trial)], (*rank, trial.number))
        if (near := _nearness(trial)) is not None:
            _remove(self._nearest, near)
        value = objective_value(trial, self._goal, self._percentile)
        if may_be_best(trial) and value is not None:
            for values in self._by_objective(trial):
                _remove(values, (value, trial.number))
        if (place := self._place(trial)) is not None:
            _remove(self._feasible, place)
            if trial.pareto:
                self._redraw_front()

    def _redraw_front(self) -> None:
        """Draw the front anew: what a trial kept off it that is no longer there may be on it now."""
        for _, _, number in self._front:
            self._mark(number, False)
        self._front = []
        for place in self._feasible:
            if not self._front or place[1] < self._front[-1][1]:
                self._front.append(place)
                self._mark(place[2], True)

    def _count(self, trial: TrialResult, by: int) -> None:
        if trial.answered_by is not None:
            self._ended["cached"] = self._ended.get("cached", 0) + by
        else:
            self._ended[trial.outcome] = self._ended.get(trial.outcome, 0) + by
        if trial.undecided:
            self._ended["undecided"] = self._ended.get("undecided", 0) + by


def _size(trial: TrialResult) -> tuple[str, int]:
    return trial.candidate.target, trial.candidate.batch_size


def _nearness(trial: TrialResult) -> tuple[bool, float, int] | None:
    """Return what the nearest are ranked by, as ``nearest_trials`` does."""
    if trial.outcome not in ("measured", "rejected") or not trial.verdicts:
        return None
    return not trial.undecided, total_violation(trial), trial.number


def _remove(values: list[Any], value: Any) -> None:
    del values[bisect_left(values, value)]
