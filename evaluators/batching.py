"""Batches: examples to named arrays of exactly one batch size, and any number of rows through a fixed-size bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from evaluators.backends.base import Runner
from evaluators.bucketing import Batch, batch_of, joined, planned, row_lengths
from evaluators.errors import WorkloadError
from evaluators.lengths import Buckets
from evaluators.structure import flatten

WINDOW = 32
"""So many batches of examples at a time are put into buckets where all of a split is answered."""


def collated(examples: Sequence[Any], collate: Callable[..., Any] | None) -> tuple[Any, Any]:
    """Turn ``[(inputs, target), …]`` into one batch ``(inputs, targets)`` in the user's own structure.

    Raises:
        WorkloadError: the examples cannot be batched.
    """
    from torch.utils.data import default_collate

    try:
        batch = (collate or default_collate)(list(examples))
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        advice = "" if collate else "; inputs of varying length need Workload(collate=…)"
        raise WorkloadError(f"collating {len(examples)} examples failed: {error}{advice}") from error
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise WorkloadError(f"collate returned a {type(batch).__name__}; it must return (inputs, targets)")
    return batch[0], batch[1]


def fair_order(examples: int, digest: str) -> np.ndarray:
    """Return the order in which a split of this data digest is scored: a permutation, shape (N,), always the same one.

    Any first part of it is a simple random sample, also of a split that is sorted by class or by length.
    """
    seed = int.from_bytes(hashlib.sha256(digest.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).permutation(examples)


def example_batches(
    dataset: Any,
    collate: Callable[..., Any] | None,
    batch_size: int,
    limit: int | None = None,
    order: np.ndarray | None = None,
) -> Iterator[tuple[Any, Any, int]]:
    """Yield ``(inputs, targets, real)`` of exactly ``batch_size`` examples; only the first ``real`` count.

    The last batch is filled up by repeating its last example, so that a bundle of fixed batch size serves it.

    Args:
        dataset: where the examples are from.
        collate: makes a batch of them; torch's default where it is None.
        batch_size: of every batch.
        limit: take no more than these.
        order: the indices of the examples, in the order in which they are taken; that of the dataset where None.
    """
    total = len(dataset) if limit is None else min(limit, len(dataset))
    for start in range(0, total, batch_size):
        chosen = range(start, min(start + batch_size, total))
        examples = [dataset[i if order is None else int(order[i])] for i in chosen]
        real = len(examples)
        examples += [examples[-1]] * (batch_size - real)
        inputs, targets = collated(examples, collate)
        yield inputs, targets, real


def as_arrays(inputs: Any) -> dict[str, np.ndarray]:
    """Return the tensors of a batch as NumPy arrays by name."""
    _, named = flatten(inputs, "input")
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in named.items()}


def answered_batches(
    runner: Runner, batches: Iterator[tuple[Any, Any, int]], batch_size: int, buckets: Buckets | None = None
) -> Iterator[tuple[Any, list[np.ndarray], Any, int]]:
    """Yield ``(inputs, outputs, targets, real)`` for each of ``example_batches``; at least ``real`` outputs are there.

    With buckets, the examples of 32 batches are batched anew, as they are where the bundle is served, and their answers
    put back where they belong.
    """
    if buckets is None:
        for inputs, targets, real in batches:
            yield inputs, runner.outputs(runner.run(runner.prepare(as_arrays(inputs)))), targets, real
        return
    while window := list(islice(batches, WINDOW)):
        rows = joined([first_rows(as_arrays(inputs), real) for inputs, _, real in window], buckets)
        outputs, start = run_in_batches(runner, rows, batch_size, buckets), 0
        for inputs, targets, real in window:
            yield inputs, [output[start : start + real] for output in outputs], targets, real
            start += real


def first_rows(arrays: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Return the first rows of every array."""
    return {name: array[:count] for name, array in arrays.items()}


def run_in_batches(
    runner: Runner, arrays: Mapping[str, np.ndarray], batch_size: int, buckets: Buckets | None = None
) -> list[np.ndarray]:
    """Run any number of rows through a bundle that serves exactly ``batch_size``; return one array per output.

    With buckets, rows of similar length are run together; the answers come in the order of the rows all the same.

    Raises:
        WorkloadError: the inputs have no rows, or different numbers of rows.
    """
    rows = {len(array) for array in arrays.values()}
    if len(rows) != 1 or 0 in rows:
        raise WorkloadError(f"inputs must have the same number of rows, at least one; got {sorted(rows)}")
    total = rows.pop()
    if buckets is None:
        batches = [Batch(np.arange(at, min(at + batch_size, total)), 0) for at in range(0, total, batch_size)]
    else:
        batches = planned(row_lengths(arrays, buckets), buckets.edges, batch_size)
    parts: list[list[np.ndarray]] = []
    for batch in batches:
        raw = runner.run(runner.prepare(batch_of(arrays, batch, batch_size, buckets)))
        parts.append([output[: len(batch.rows)] for output in runner.outputs(raw)])
    places = np.argsort(np.concatenate([batch.rows for batch in batches]))
    return [np.concatenate(pieces)[places] for pieces in zip(*parts, strict=True)]
