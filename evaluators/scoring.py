"""Scoring: the metric of a workload over batches — per-example scores, a torchmetrics metric, or agreement."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluators.corpus import Corpus, take
from evaluators.errors import NotFiniteError, WorkloadError
from evaluators.structure import Structure, flatten
from evaluators.workload import Workload

AGREEMENT = "agreement"


@dataclass(frozen=True)
class Scores:
    """A mean score, higher is better, and what its interval is drawn from.

    ``per_example`` are the scores of the examples in the order in which they came, shape (N,); a metric that has none
    leaves the answers themselves in ``corpus``.
    """

    mean: float
    per_example: np.ndarray | None
    examples: int
    corpus: Corpus | None = None


def metric_name(workload: Workload) -> str:
    """Return the name under which scores are shown."""
    if workload.metric is None:
        return AGREEMENT
    return str(getattr(workload.metric, "__name__", type(workload.metric).__name__))


class Scorer:
    """The metric of a workload, fed batch by batch; it can be asked for the scores so far at any time.

    ``of`` is how many examples there are in all.
    """

    def __init__(self, workload: Workload, structure: Structure, of: int) -> None:
        self._workload, self._structure = workload, structure
        self._corpus = Corpus(_metric_factory(workload), structure, of) if _is_factory(workload) else None
        self._per_example: list[np.ndarray] = []
        self._count = 0

    @property
    def whole_only(self) -> bool:
        """Whether the metric is of all examples together, so that its interval costs many evaluations."""
        return self._corpus is not None

    def add(self, arrays: list[np.ndarray], targets: Any, real: int, wanted: list[np.ndarray] | None = None) -> None:
        """Score a batch of output arrays, of which the first ``real`` examples count.

        ``wanted`` are the original model's outputs of the same batch: what agreement is measured against.

        Raises:
            WorkloadError: the metric breaks its contract.
        """
        import torch

        arrays = [array[:real] for array in arrays]
        self._count += real
        if self._workload.metric is None:
            self._per_example.append(
                agreement(arrays, arrays if wanted is None else [array[:real] for array in wanted])
            )
        elif self._corpus is not None:
            self._corpus.add(arrays, take(targets, slice(real)))
        else:
            outputs = self._structure.pack([torch.from_numpy(np.array(array)) for array in arrays])
            self._per_example.append(_checked(self._workload.metric(outputs, take(targets, slice(real))), real))

    def scores(self) -> Scores:
        """Return the scores of all examples seen so far.

        Raises:
            NotFiniteError: the score is NaN or infinite.
            WorkloadError: there was no example.
        """
        if self._count == 0:
            raise WorkloadError(f"validation of {self._workload.name} has no examples")
        values = None if self._corpus is not None else np.concatenate(self._per_example)
        mean = float(values.mean()) if values is not None else self._corpus.value() if self._corpus else math.nan
        if not np.isfinite(mean):
            raise NotFiniteError(f"{metric_name(self._workload)} over {self._count} examples is {mean}")
        return Scores(mean, values, self._count, self._corpus)


def score(
    workload: Workload, structure: Structure, batches: Iterable[tuple[list[np.ndarray], Any, int]], of: int
) -> Scores:
    """Score batches of ``(output arrays, targets, number of real examples)``, ``of`` examples in all.

    Raises:
        NotFiniteError: a score is NaN or infinite.
        WorkloadError: the metric breaks its contract.
    """
    scorer = Scorer(workload, structure, of)
    for arrays, targets, real in batches:
        scorer.add(arrays, targets, real)
    return scorer.scores()


def agreement(found: list[np.ndarray], wanted: list[np.ndarray]) -> np.ndarray:
    """Return how far each example's first output agrees with the original's, in [0, 1], shape (N,).

    Outputs with classes on the last axis agree where their arg-max does; others by one minus the relative error.
    """
    a, b = np.asarray(found[0], np.float64), np.asarray(wanted[0], np.float64)
    if a.ndim >= 2 and a.shape[-1] > 1:
        same = a.argmax(-1) == b.argmax(-1)
        mean: np.ndarray = same.reshape(len(same), -1).mean(1)
        return mean
    difference = np.abs(a - b).reshape(len(a), -1).sum(1)
    size = np.abs(b).reshape(len(b), -1).sum(1) + 1e-12
    clipped: np.ndarray = np.clip(1 - difference / size, 0, 1)
    return clipped


def _is_factory(workload: Workload) -> bool:
    """Whether the metric makes metric objects, instead of scoring examples.

    A function of outputs and targets scores examples; what can be called without arguments is a factory.
    """
    return workload.metric is not None and not _takes_batches(workload.metric)


def _metric_factory(workload: Workload) -> Callable[[], Any]:
    """Return what makes a fresh metric object.

    Raises:
        WorkloadError: it makes something else.
    """
    made = workload.metric() if workload.metric is not None else None
    if not (hasattr(made, "update") and hasattr(made, "compute")) or workload.metric is None:
        kind = type(made).__name__
        raise WorkloadError(
            f"metric() made a {kind}; it must take (outputs, targets), or make a torchmetrics.Metric without arguments"
        )
    return workload.metric


def _takes_batches(metric: Any) -> bool:
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    required = [p for p in positional if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    return len(required) >= 2 or (not isinstance(metric, type) and len(positional) >= 2)


def _checked(scores: Any, real: int) -> np.ndarray:
    values = np.asarray(getattr(scores, "detach", lambda: scores)())
    if values.shape != (real,):
        raise WorkloadError(
            f"metric returned shape {values.shape} for {real} examples; it must return one score per example, "
            f"shape ({real},), or be a factory of a torchmetrics.Metric"
        )
    return values.astype(np.float64)


def output_arrays(raw: Any) -> list[np.ndarray]:
    """Return a torch model's outputs as float arrays in order."""
    import torch

    tensors = flatten(raw, "output")[1].values()
    return [
        (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).detach().cpu().numpy()
        for tensor in tensors
    ]
