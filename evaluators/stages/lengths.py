"""How long a workload's examples are, and how its collating fills them up: learnt from the examples themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from evaluators.batching import as_arrays, collated
from evaluators.errors import WorkloadError
from evaluators.lengths import Lengths
from evaluators.scoring import output_arrays
from evaluators.structure import Structure, call
from evaluators.workload import Workload

MOST_EXAMPLES = 2000
MOST_LENGTHS = 256
TOLERANCE = 1e-3
"""An answer that changes by more than this, relative to the largest, depends on how far its example was filled up."""


class _Refused(Exception):
    """Why batches of this workload cannot be drawn from buckets."""


def read_lengths(workload: Workload, model: Any, dataset: Any, inputs: Structure, outputs: Structure) -> Lengths | None:
    """Return the lengths of the examples of ``dataset``, of more than 2000 of a sample; None where none varies."""
    if not inputs.varies:
        return None
    try:
        axes = _axes(inputs, outputs)
        spread = np.unique(np.linspace(0, len(dataset) - 1, MOST_EXAMPLES).astype(int))
        lengths = np.array([_length(workload, dataset[int(i)], axes) for i in spread])
        shortest, longest = (dataset[int(spread[k])] for k in (lengths.argmin(), lengths.argmax()))
        padding = _padding(workload, shortest, longest, axes)
        _check_filling(workload, model, shortest, longest)
    except _Refused as why:
        return Lengths(refused=str(why))
    return Lengths(axes=axes, padding=padding, counts=counted(lengths))


def counted(lengths: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return (length, number of examples), of at most 256 lengths; others are rounded up to the next of these."""
    found, counts = np.unique(lengths, return_counts=True)
    if len(found) > MOST_LENGTHS:
        kept = found[np.unique(np.linspace(0, len(found) - 1, MOST_LENGTHS).round().astype(int))]
        found, counts = np.unique(kept[np.searchsorted(kept, lengths)], return_counts=True)
    return tuple((int(length), int(count)) for length, count in zip(found, counts, strict=True))


def _axes(inputs: Structure, outputs: Structure) -> dict[str, int]:
    if outputs.varies:
        raise _Refused("the shape of the model's outputs depends on the length of a batch")
    axes = {tensor.name: tensor.dynamic_axes for tensor in inputs.tensors if tensor.dynamic_axes}
    if (several := next((name for name, found in axes.items() if len(found) > 1), None)) is not None:
        raise _Refused(f"{several} varies in {len(axes[several])} axes, and buckets are by one length")
    return {name: found[0] for name, found in axes.items()}


def _length(workload: Workload, example: Any, axes: dict[str, int]) -> int:
    arrays = as_arrays(collated([example], workload.collate)[0])
    found = {int(arrays[name].shape[axis]) for name, axis in axes.items()}
    if len(found) != 1:
        raise _Refused(f"the inputs of one example have the lengths {sorted(found)}, and buckets are by one length")
    return found.pop()


def _padding(workload: Workload, shortest: Any, longest: Any, axes: dict[str, int]) -> dict[str, float]:
    """Return what a short example is filled up with beside a long one."""
    alone = as_arrays(collated([shortest], workload.collate)[0])
    beside = as_arrays(collated([shortest, longest], workload.collate)[0])
    padding = {}
    for name, axis in axes.items():
        length = alone[name].shape[axis]
        head, tail = np.split(beside[name][:1], [length], axis=axis)
        if not np.array_equal(head, alone[name]):
            raise _Refused(f"collating fills {name} up elsewhere than at its end")
        if tail.size == 0 or not (tail == tail.flat[0]).all() or not np.isfinite(tail.flat[0]):
            raise _Refused(f"collating does not fill {name} up with one value")
        padding[name] = float(tail.flat[0])
    return padding


def _check_filling(workload: Workload, model: Any, shortest: Any, longest: Any) -> None:
    """Refuse a model whose answer to an example depends on how far it was filled up."""
    answers = []
    for other in (shortest, longest):
        try:
            answers.append(output_arrays(call(model, collated([shortest, other], workload.collate)[0])))
        except (RuntimeError, WorkloadError) as error:
            raise _Refused(f"the model cannot take a short example beside a long one: {error}") from error
    for alone, beside in zip(*answers, strict=True):
        change = np.abs(alone[0].astype(np.float64) - beside[0]).max(initial=0.0)
        if change > TOLERANCE * max(np.abs(alone[0]).max(initial=0.0), 1e-6):
            raise _Refused("the model's answer to an example depends on how far the example is filled up")
