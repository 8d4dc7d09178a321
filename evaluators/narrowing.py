"""Narrowing: values that are no choice beside another one: of an option beside a scheme, of a knob beside an amount."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from evaluators.backends.base import Backend
from evaluators.candidate import Scalar
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.target import Target

Key = tuple[str, str, str]
"""Backend, scheme and option; or structure, amount and knob."""


class Narrowed(NamedTuple):
    """A choice with the values that are left, and why the others are not."""

    choice: Choice
    refused: Mapping[Scalar, str]


def narrowed_options(
    backend: Backend, schemes: Iterable[str], options: Sequence[Parameter], target: Target
) -> dict[Key, Narrowed]:
    """Return the options of which a scheme does not allow every value."""
    found = {}
    for scheme, option in itertools.product(schemes, options):
        reasons = {value: backend.refuse_option(scheme, option.name, value, target.name) for value in option.values}
        found[backend.name, scheme, option.name] = _narrowed(option, reasons)
    return {key: left for key, left in found.items() if left is not None}


def narrowed_knobs(pruner: Pruner, profile: WorkloadProfile) -> dict[Key, Narrowed]:
    """Return the knobs of a pruner of which an amount does not allow every value."""
    found = {}
    for share, knob in itertools.product(pruner.amount_for(profile).values, pruner.parameters_for(profile)):
        amount = float(share)
        reasons = {value: pruner.refuse_value(amount, knob.name, value, profile) for value in knob.values}
        found[pruner.structure, str(amount), knob.name] = _narrowed(knob, reasons)
    return {key: left for key, left in found.items() if left is not None}


def _narrowed(parameter: Parameter, reasons: Mapping[Scalar, str | None]) -> Narrowed | None:
    """Return a choice without the values that there is a reason against; None if there is none, or against all."""
    refused = {value: why for value, why in reasons.items() if why is not None}
    left = [value for value in parameter.values if value not in refused]
    if not refused or not left or not isinstance(parameter, Choice):
        return None
    return Narrowed(parameter.narrowed(left), refused)
