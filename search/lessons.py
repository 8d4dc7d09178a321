"""Lessons: which of many trials a sampler is shown, when all of them would take it too long to think about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

MOST_SHOWN = 300
"""The sampler is shown every trial, answers to its repeats included, until it has seen so many."""

BEST_KEPT = 80
LATEST_KEPT = 120


class Told:
    """What the sampler is told of a candidate: objective values, or None where it was not measured, and violations."""

    def __init__(self, values: tuple[float, float] | None, violations: Mapping[str, float]) -> None:
        self.values = values
        self.violations = dict(violations)

    @property
    def violation(self) -> float:
        """The sum of what is violated."""
        return sum(value for value in self.violations.values() if value > 0)


def kept(told: Mapping[str, Told]) -> list[str]:
    """Return which candidates, by hash and in the order in which they were told, are worth showing.

    The best, ranked as TPE ranks them, are all that its picture of good candidates is made from; the latest stand for
    the rest, as they weigh most there anyway.
    """
    latest = set(list(told)[-LATEST_KEPT:])
    chosen = latest | set(best(told, BEST_KEPT))
    return [name for name in told if name in chosen]


def best(told: Mapping[str, Told], count: int) -> list[str]:
    """Return the best candidates by hash: feasible ones front by front, then unmeasured ones, then by violation.

    The first value is to be minimised, the second one maximised.
    """
    feasible = {name: each.values for name, each in told.items() if each.values and not each.violation}
    chosen: list[str] = []
    for front in _fronts(feasible):
        chosen += front
        if len(chosen) >= count:
            return chosen[:count]
    chosen += [name for name, each in told.items() if each.values is None and not each.violation]
    chosen += sorted((name for name, each in told.items() if each.violation), key=lambda name: told[name].violation)
    return chosen[:count]


def _fronts(values: Mapping[str, tuple[float, float]]) -> Iterator[Sequence[str]]:
    """Yield the names of what nothing beats, then what nothing beats in the rest, and so on."""
    rest = sorted(values, key=lambda name: (values[name][0], -values[name][1]))
    while rest:
        front, beaten, highest = [], [], float("-inf")
        for name in rest:
            if values[name][1] > highest:
                front.append(name)
                highest = values[name][1]
            else:
                beaten.append(name)
        yield front
        rest = beaten
