"""Parameters: the knobs that a technique declares, each with its values, its known-good default and its meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from evaluators.candidate import Scalar


@dataclass(frozen=True)
class Choice:
    """A knob with a short list of values; ``default`` is the known-good one.

    ``unsaid`` is the value that candidates do not write down: what was done before there was this knob, so that a
    candidate from before it is the same one, under the same hash. ``when`` names a knob that is declared before it,
    and the values of that one with which this one makes a difference; with others it is not asked for.
    """

    name: str
    values: tuple[Scalar, ...]
    default: Scalar
    description: str
    unsaid: Scalar | None = None
    when: tuple[str, tuple[Scalar, ...]] | None = None

    def __post_init__(self) -> None:
        if self.default not in self.values:
            raise ValueError(f"default {self.default!r} of {self.name} is not among {self.values}")

    def narrowed(self, values: Sequence[Scalar]) -> Choice:
        """Return this knob with only ``values``; the default moves to the first one left if it was dropped."""
        kept = tuple(value for value in self.values if value in values)
        if not kept:
            raise ValueError(f"no value of {self.name} is left: declared {self.values}, allowed {tuple(values)}")
        return replace(self, values=kept, default=self.default if self.default in kept else kept[0])


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
    for name in values:
        if not applies(declared[name], values):
            return f"{owner}.{name} makes no difference with these values: leave it out"
    said = {name for name, parameter in declared.items() if parameter.unsaid is None and applies(parameter, values)}
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
    """Return the known-good value of every parameter that makes a difference with those of the others."""
    known: dict[str, Scalar] = {}
    for parameter in parameters:
        if applies(parameter, known):
            known[parameter.name] = parameter.default
    return known


def applies(parameter: Parameter, values: Mapping[str, Scalar]) -> bool:
    """Whether a parameter makes a difference beside these values of the others."""
    if isinstance(parameter, Number) or parameter.when is None:
        return True
    name, wanted = parameter.when
    return values.get(name) in wanted


def combinations(parameters: Sequence[Parameter]) -> int:
    """Return in how many ways the parameters can be set."""
    conditions = {parameter.when[0] for parameter in parameters if isinstance(parameter, Choice) and parameter.when}
    deciding = [parameter for parameter in parameters if parameter.name in conditions]
    others = [parameter for parameter in parameters if parameter.name not in conditions]
    total = 0
    for values in product(*(parameter.values for parameter in deciding)):
        chosen = dict(zip((parameter.name for parameter in deciding), values, strict=True))
        total += prod(len(parameter.values) for parameter in others if applies(parameter, chosen))
    return total


def written(parameters: Sequence[Parameter], values: dict[str, Scalar]) -> dict[str, Scalar]:
    """Return the values that a candidate writes down: all but those that are unsaid."""
    unsaid = {parameter.name: parameter.unsaid for parameter in parameters if parameter.unsaid is not None}
    return {name: value for name, value in values.items() if name not in unsaid or value != unsaid[name]}
