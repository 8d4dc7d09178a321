"""Corpus: a metric of a whole split, such as F1 or a rank correlation, over any of the examples that it has seen."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from evaluators.errors import WorkloadError
from evaluators.structure import Structure

KEPT_BYTES = 200 * 2**20
GROUPS = 20


class Corpus:
    """The answers to a split, kept so that its metric can be taken over parts of it.

    Small answers are kept as rows, one for each example, from which examples can be drawn. Answers of more than
    200 MiB, or whose axes vary, are kept as the metric's own state for each of 20 groups of examples: the examples
    come in a fair order, so that twenty parts of equal length, one after the other, are random groups.
    """

    def __init__(self, make: Callable[[], Any], structure: Structure, of: int) -> None:
        self._make, self._structure, self._of = make, structure, of
        self._rows: list[list[np.ndarray]] | None = None if structure.varies else []
        self._targets: list[Any] = []
        self._whole = make()
        self._groups: dict[int, Any] = {}
        self._count = 0
        self._stacked: tuple[list[np.ndarray], Any] | None = None

    def add(self, arrays: Sequence[np.ndarray], targets: Any) -> None:
        """Take the answers to the next examples, one array for each output, and their targets."""
        real = len(arrays[0])
        if self._count == 0 and sum(array.nbytes for array in arrays) / real * self._of > KEPT_BYTES:
            self._rows = None
        with _one_thread():
            self._whole.update(self._packed(arrays), targets)
            if self._rows is None:
                self._add_to_groups(arrays, targets, real)
        if self._rows is not None:
            self._rows.append([np.array(array) for array in arrays])
            self._targets.append(targets)
        self._count += real
        self._stacked = None

    def value(self) -> float:
        """Return the metric over everything seen."""
        return float(self._whole.compute())

    def rows(self) -> list[np.ndarray] | None:
        """Return the answers as one array for each output, axis 0 the examples, or None where they are not kept."""
        if self._rows is None or not self._rows:
            return None
        try:
            return self._all()[0]
        except (ValueError, RuntimeError, WorkloadError):
            return None

    def over(self, answers: np.ndarray, targets: np.ndarray, rows: Sequence[np.ndarray] | None = None) -> float:
        """Return the metric over the examples of these indices, NaN where it has no value there.

        Args:
            answers: which answers are taken, shape (M,).
            targets: to which targets, shape (M,).
            rows: the answers of another model, instead of those seen.
        """
        kept, wanted = self._all()
        metric = self._make()
        with warnings.catch_warnings(), _one_thread():
            warnings.simplefilter("ignore")
            metric.update(self._packed([array[answers] for array in rows or kept]), take(wanted, targets))
            return float(metric.compute())

    def without_groups(self) -> np.ndarray | None:
        """Return the metric without each of the groups, shape (G,), or None where its states cannot be merged."""
        names = sorted(self._groups)
        if len(names) < 2 or not hasattr(self._whole, "merge_state"):
            return None
        try:
            merged = self._merged(names)
            if not np.isclose(merged, self.value(), rtol=1e-4, atol=1e-6):
                return None
            left = np.array([self._merged([other for other in names if other != name]) for name in names])
        except (RuntimeError, TypeError, ValueError):
            return None
        return left if np.isfinite(left).all() else None

    def _merged(self, names: Sequence[int]) -> float:
        metric = copy.deepcopy(self._groups[names[0]])
        for name in names[1:]:
            metric.merge_state(self._groups[name])
        return float(metric.compute())

    def _add_to_groups(self, arrays: Sequence[np.ndarray], targets: Any, real: int) -> None:
        group = np.arange(self._count, self._count + real) * GROUPS // max(self._of, GROUPS)
        for name in np.unique(group).tolist():
            part = slice(*(int(i) for i in np.searchsorted(group, [name, name + 1])))
            if name not in self._groups:
                self._groups[name] = self._make()
            self._groups[name].update(self._packed([array[part] for array in arrays]), take(targets, part))

    def _packed(self, arrays: Sequence[np.ndarray]) -> Any:
        import torch

        return self._structure.pack([torch.from_numpy(np.array(array)) for array in arrays])

    def _all(self) -> tuple[list[np.ndarray], Any]:
        if self._stacked is None:
            rows = [np.concatenate(parts) for parts in zip(*(self._rows or ()), strict=True)]
            self._stacked = rows, _joined(self._targets)
            self._rows, self._targets = [rows], [self._stacked[1]]
        return self._stacked


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: on the small tensors of a metric, threads wait for each other longer than they work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def take(targets: Any, which: slice | np.ndarray) -> Any:
    """Return the targets of these examples, in whatever structure they are."""
    if hasattr(targets, "shape"):
        return targets[which]
    if isinstance(targets, dict):
        return {name: take(value, which) for name, value in targets.items()}
    if isinstance(targets, tuple):
        return tuple(take(value, which) for value in targets)
    if isinstance(targets, list):
        return targets[which] if isinstance(which, slice) else [targets[i] for i in which]
    return targets


def _joined(parts: Sequence[Any]) -> Any:
    """Join the targets of batches.

    Raises:
        RuntimeError: their shapes differ in more than the number of examples.
        WorkloadError: they are of a structure that has no examples.
    """
    import torch

    first = parts[0]
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(list(column)) for column in zip(*parts, strict=True))
    if isinstance(first, list):
        return [item for part in parts for item in part]
    if hasattr(first, "shape"):
        return torch.cat([torch.as_tensor(part) for part in parts])
    raise WorkloadError(
        f"targets are a {type(first).__name__}; they must be tensors, or lists, tuples or dicts of them"
    )
