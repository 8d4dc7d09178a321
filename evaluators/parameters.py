"""Parameters: the knobs that a technique declares, each with its values, its known-good default and its meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.candidate import Scalar


@dataclass(frozen=True)
class Choice:
    """A knob with a short list of values; ``default`` is the known-good one.

    ``unsaid`` is the value that candidates do not write down: what was done before there was this knob, so that a
    candidate from before it is the same one, under the same hash.
    """

    name: str
    values: tuple[Scalar, ...]
    default: Scalar
    description: str
    unsaid: Scalar | None = None

    def __post_init__(self) -> None:
        if self.default not in self.values:
            raise ValueError(f"default {self.default!r} of {self.name} is not among {self.values}")

    def narrowed(self, values: Sequence[Scalar]) -> Choice:
        """Return this knob with only ``values``; the default moves to the first one left if it was dropped."""
        kept = tuple(value for value in self.values if value in values)
        if not kept:
            raise ValueError(f"no value of {self.name} is left: declared {self.values}, allowed {tuple(values)}")
        default = self.default if self.default in kept else kept[0]
        return Choice(self.name, kept, default, self.description, self.unsaid)


@dataclass(frozen=True)
class Number:
    """A numeric knob on a grid: ``low``, ``low + step``, … up to ``high``; ``unsaid`` is as that of a ``Choice``."""

    name: str
    low: float
    high: float
    step: float
    default: float
    description: str
    unsaid: Scalar | None = None

    @property
    def values(self) -> tuple[Scalar, ...]:
        """Every value of the grid, rounded to four decimals."""
        count = round((self.high - self.low) / self.step) + 1
        return tuple(round(self.low + i * self.step, 4) for i in range(count))


Parameter = Choice | Number


def check_values(parameters: Sequence[Parameter], values: dict[str, Scalar], owner: str) -> str | None:
    """Return why ``values`` are not exactly what ``parameters`` declare, or None if they are."""
    declared = {parameter.name: parameter for parameter in parameters}
    if unknown := sorted(set(values) - set(declared)):
        return f"{owner} has no parameter {unknown[0]!r}; it has {sorted(declared) or 'none'}"
    said = {name for name, parameter in declared.items() if parameter.unsaid is None}
    if missing := sorted(said - set(values)):
        return f"{owner} needs a value for {missing[0]!r}: one of {list(declared[missing[0]].values)}"
    for name, value in values.items():
        if isinstance(declared[name], Choice) and value not in declared[name].values:
            return f"{owner}.{name} is {value!r}; it must be one of {list(declared[name].values)}"
        parameter = declared[name]
        if isinstance(parameter, Number) and not (
            isinstance(value, int | float) and parameter.low <= value <= parameter.high
        ):
            return f"{owner}.{name} is {value!r}; it must lie in [{parameter.low}, {parameter.high}]"
    return None


def defaults(parameters: Sequence[Parameter]) -> dict[str, Scalar]:
    """Return the known-good value of every parameter."""
    return {parameter.name: parameter.default for parameter in parameters}


def written(parameters: Sequence[Parameter], values: dict[str, Scalar]) -> dict[str, Scalar]:
    """Return the values that a candidate writes down: all but those that are unsaid."""
    unsaid = {parameter.name: parameter.unsaid for parameter in parameters if parameter.unsaid is not None}
    return {name: value for name, value in values.items() if name not in unsaid or value != unsaid[name]}
