"""Legality: every technique on every backend, legal for a workload on a target, or refused with the reason.

Nothing is decided here: what is legal is read from the space, and why something is not from what the space left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from evaluators import registry
from evaluators.backends.base import Backend
from evaluators.candidate import Scalar
from evaluators.frozen import Frozen
from evaluators.joint_space import JointSpace
from evaluators.parameters import Parameter
from evaluators.space import Space

Kind = Literal["scheme", "pruning", "knob", "option"]
NOT_ASKED = "other backends were asked for"


class Pair(Frozen):
    """One technique on one backend.

    Attributes:
        kind: a scheme, a structure of pruning, a knob of either, or a runtime option.
        backend: where it would run; None for a knob of pruning, which is the same on every backend.
        technique: ``static_int8``, ``channel``, ``static_int8.preset``, ``split_batch``, …
        values: those of a knob or an option that the pair is about; empty for a scheme or a structure.
        why: why it is refused; for what is legal in some settings only, in which.
    """

    target: str
    backend: str | None
    kind: Kind
    technique: str
    values: tuple[Scalar, ...] = ()
    legal: bool
    why: str | None = None


def explain_legality(space: JointSpace) -> tuple[Pair, ...]:
    """Return every pair of technique and backend that somebody declares, on each target of a space."""
    return tuple(pair for part in space.parts.values() for pair in _pairs(part))


def _pairs(space: Space) -> Iterator[Pair]:
    for name, backend in sorted(registry.backends().items()):
        for scheme in sorted(scheme for owner, scheme in registry.quantizers() if owner == name):
            yield from _scheme(space, name, scheme)
        for structure in sorted(registry.pruners()):
            legal = structure in space.amounts and name in space.schemes
            yield _pair(space, name, "pruning", structure, None if legal else _why(space, name, f"{structure} pruning"))
        if name in space.schemes:
            yield from _options(space, name, backend)
    for structure, knobs in space.pruner_knobs.items():
        pruner = registry.pruners()[structure]
        offered = (space.amounts[structure], *knobs)
        declared = _with_others(pruner.parameters, offered)
        yield from _parameters(space, None, "knob", structure, declared, offered, pruner.left_out)
        for owner, amount, name in space.narrowed:
            if owner == structure:
                knob = next(knob for knob in knobs if knob.name == name)
                yield from _narrowed(space, None, "knob", (structure, amount), knob)


def _scheme(space: Space, backend: str, scheme: str) -> Iterator[Pair]:
    """Yield a scheme on a backend and, where it is legal, its knobs."""
    if scheme not in space.schemes.get(backend, ()):
        yield _pair(space, backend, "scheme", scheme, _why(space, backend, f"{backend} {scheme}"))
        return
    yield _pair(space, backend, "scheme", scheme, None)
    quantizer, offered = registry.quantizers()[backend, scheme], space.knobs[backend, scheme]
    declared = _with_others(quantizer.parameters, offered)
    yield from _parameters(space, backend, "knob", scheme, declared, offered, quantizer.left_out)
    for option in space.options[backend]:
        if (backend, scheme, option.name) in space.narrowed:
            yield from _narrowed(space, backend, "option", (backend, scheme), option)


def _narrowed(
    space: Space, backend: str | None, kind: Kind, beside: tuple[str, str], parameter: Parameter
) -> Iterator[Pair]:
    """Yield the values of an option that do not go with a scheme, or of a knob that do not go with an amount."""
    left = space.narrowed[(*beside, parameter.name)].values
    technique = f"{beside[1]}.{parameter.name}" if kind == "option" else f"{'.'.join(beside)}.{parameter.name}"
    for value in (value for value in parameter.values if value not in left):
        why = _why(space, "", f"{' '.join(beside)} {parameter.name} {value}")
        yield _pair(space, backend, kind, technique, why, (value,))


def _options(space: Space, name: str, backend: Backend) -> Iterator[Pair]:
    """Yield the runtime options of a backend; one that only some batch sizes and threads give says which."""
    offered = space.options[name]
    for pair in _parameters(
        space, name, "option", "", _with_others(backend.options, offered), offered, backend.left_out
    ):
        yield pair.model_copy(update={"why": _settings(space, name, pair.technique)}) if pair.legal else pair


def _parameters(
    space: Space, backend: str | None, kind: Kind, owner: str, declared: Sequence[Parameter],
    offered: Sequence[Parameter], reasons: Mapping[str, str],
) -> Iterator[Pair]:  # fmt: skip
    known = {parameter.name: parameter.values for parameter in offered}
    for parameter in declared:
        technique = f"{owner}.{parameter.name}" if owner else parameter.name
        legal = known.get(parameter.name, ())
        if legal:
            yield _pair(space, backend, kind, technique, None, legal)
        if missing := tuple(value for value in parameter.values if value not in legal):
            why = reasons.get(parameter.name, f"it makes no difference to this model on {space.target.name}")
            yield _pair(space, backend, kind, technique, why, missing)


def _with_others(declared: Sequence[Parameter], offered: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Return the declared parameters and those that only this model or target has."""
    names = {parameter.name for parameter in declared}
    return (*declared, *(parameter for parameter in offered if parameter.name not in names))


def _settings(space: Space, backend: str, option: str) -> str | None:
    """Say at which batch sizes and threads an option makes a difference, where it does not at all of them."""
    threads, scheme = space.threads_of(backend), space.schemes[backend][0]
    settings = {
        count: tuple(
            size for size in space.batch_sizes
            if any(each.name == option for each in space.options_given(backend, scheme, size, count))
        )
        for count in threads
    }  # fmt: skip
    if all(sizes == space.batch_sizes for sizes in settings.values()):
        return None
    shown = [
        f"with {count} thread{'s' if count > 1 else ''} at batch size {', '.join(map(str, sizes))}"
        for count, sizes in settings.items() if sizes
    ]  # fmt: skip
    return "only " + "; ".join(shown) if shown else "at none of the batch sizes and threads that were asked for"


def _why(space: Space, backend: str, what: str) -> str:
    """Return why the space left something out on a backend: for a reason of its own, or with the backend."""
    reasons = {item.what: item.why for item in space.exclusions}
    return reasons.get(what) or reasons.get(backend) or NOT_ASKED


def _pair(
    space: Space, backend: str | None, kind: Kind, technique: str, why: str | None, values: tuple[Scalar, ...] = ()
) -> Pair:
    return Pair(target=space.target.name, backend=backend, kind=kind, technique=technique, values=values,
                legal=why is None, why=why)  # fmt: skip
