"""Scoring: the metric of a workload over batches — per-example scores, a torchmetrics metric, or agreement."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluators.errors import NotFiniteError, WorkloadError
from evaluators.structure import Structure, flatten
from evaluators.workload import Workload

AGREEMENT = "agreement"


@dataclass(frozen=True)
class Scores:
    """A mean score, higher is better, and the per-example scores, shape (N,), where the metric gives them."""

    mean: float
    per_example: np.ndarray | None
    examples: int


def metric_name(workload: Workload) -> str:
    """Return the name under which scores are shown."""
    if workload.metric is None:
        return AGREEMENT
    return str(getattr(workload.metric, "__name__", type(workload.metric).__name__))


def score(
    workload: Workload,
    structure: Structure,
    batches: Iterable[tuple[list[np.ndarray], Any, int]],
    reference: Callable[[int], list[np.ndarray]] | None = None,
) -> Scores:
    """Score batches of ``(output arrays, targets, number of real examples)``.

    ``reference(i)`` gives the original model's outputs of batch i; it is what agreement is measured against.

    Raises:
        NotFiniteError: a score is NaN or infinite.
        WorkloadError: the metric breaks its contract.
    """
    import torch

    whole = _torchmetric(workload)
    per_example: list[np.ndarray] = []
    count = 0
    for i, (arrays, targets, real) in enumerate(batches):
        arrays = [array[:real] for array in arrays]
        if workload.metric is None:
            wanted = arrays if reference is None else [array[:real] for array in reference(i)]
            per_example.append(agreement(arrays, wanted))
            count += real
            continue
        outputs = structure.pack([torch.from_numpy(np.array(array)) for array in arrays])
        targets = _first(targets, real)
        if whole is not None:
            whole.update(outputs, targets)
        else:
            per_example.append(_checked(workload.metric(outputs, targets), real))
        count += real
    if count == 0:
        raise WorkloadError(f"validation of {workload.name} has no examples")
    if whole is not None:
        mean = float(whole.compute())
        values = None
    else:
        values = np.concatenate(per_example)
        mean = float(values.mean())
    if not np.isfinite(mean):
        raise NotFiniteError(f"{metric_name(workload)} over {count} examples is {mean}")
    return Scores(mean, values, count)


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


def _torchmetric(workload: Workload) -> Any | None:
    """Return a fresh metric object if that is what the workload's metric makes, else None.

    A function of outputs and targets scores examples; what can be called without arguments is a factory.
    """
    if workload.metric is None or _takes_batches(workload.metric):
        return None
    made = workload.metric()
    if hasattr(made, "update") and hasattr(made, "compute"):
        return made
    kind = type(made).__name__
    raise WorkloadError(
        f"metric() made a {kind}; it must take (outputs, targets), or make a torchmetrics.Metric without arguments"
    )


def _takes_batches(metric: Any) -> bool:
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    required = [p for p in positional if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    return len(required) >= 2 or (not isinstance(metric, type) and len(positional) >= 2)


def _first(targets: Any, real: int) -> Any:
    """Cut targets in whatever structure to the first ``real`` examples."""
    if hasattr(targets, "shape"):
        return targets[:real]
    if isinstance(targets, dict):
        return {name: _first(value, real) for name, value in targets.items()}
    if isinstance(targets, tuple):
        return tuple(_first(value, real) for value in targets)
    return targets[:real] if isinstance(targets, list) else targets


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
