"""The registry: every backend, quantizer and pruner, found through entry points, ours and third parties' alike."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from evaluators.backends.base import Backend
from evaluators.errors import UsageError
from evaluators.pruners.base import Pruner
from evaluators.quantizers.base import Quantizer

BACKENDS, QUANTIZERS, PRUNERS = "paretune.backends", "paretune.quantizers", "paretune.pruners"


@cache
def backends() -> dict[str, Backend]:
    """Return every declared backend by name, usable here or not."""
    return {item.name: item for item in _load(BACKENDS, Backend)}


@cache
def quantizers() -> dict[tuple[str, str], Quantizer]:
    """Return every declared quantizer by (backend, scheme)."""
    own = [quantizer() for backend in backends().values() for quantizer in backend.quantizers]
    return {(backend, item.scheme): item for item in (*_load(QUANTIZERS, Quantizer), *own) for backend in item.backends}


@cache
def pruners() -> dict[str, Pruner]:
    """Return every declared pruner by structure."""
    return {item.structure: item for item in _load(PRUNERS, Pruner)}


def backend(name: str) -> Backend:
    """Return one backend.

    Raises:
        UsageError: no backend has this name.
    """
    if name not in backends():
        raise UsageError(f"there is no backend {name!r}; known are {', '.join(sorted(backends()))}")
    return backends()[name]


@cache
def broken() -> dict[str, str]:
    """Return the entry points that cannot be loaded, by name, with the reason: one bad plugin stops nothing."""
    return {name: why for group in (BACKENDS, QUANTIZERS, PRUNERS) for name, why in _points(group)[1].items()}


def _load(group: str, kind: type) -> list[Any]:
    """Return an instance of every class that a group's entry points name."""
    loaded = _points(group)[0]
    for item in loaded:
        if not isinstance(item, kind):
            raise UsageError(f"entry point group {group} names {type(item).__name__}, which is not a {kind.__name__}")
    return loaded


@cache
def _points(group: str) -> tuple[list[Any], dict[str, str]]:
    loaded, failed = [], {}
    for point in sorted(metadata.entry_points(group=group), key=lambda point: point.name):
        try:
            loaded.append(point.load()())
        except (ImportError, AttributeError) as error:
            failed[point.name] = f"{point.value} cannot be loaded: {error}"
    return loaded, failed
