"""Bucketing: rows of unequal length into batches of similar length, and the answers back in the order of the rows.

Nothing but arrays is needed: how long a row is follows from where its filling begins, so that what is measured, scored
and served is batched by the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evaluators.lengths import Buckets, Filling, Lengths

Arrays = Mapping[str, np.ndarray]


class Batch(NamedTuple):
    """The rows of one batch, at most as many as the batch size, and what they are filled up to."""

    rows: np.ndarray
    length: int


def choose_edges(counts: Sequence[tuple[int, int]], buckets: int) -> tuple[int, ...]:
    """Return the edges of at most ``buckets`` buckets with which the fewest positions are filling.

    Source: the optimal partition of sorted values into contiguous classes by dynamic programming (Fisher, On Grouping
    for Maximum Homogeneity, 1958), with the filled-up length of a class as its cost.

    Args:
        counts: (length, number of examples), lengths ascending.
        buckets: how many there may be.
    """
    lengths = np.array([length for length, _ in counts], dtype=np.int64)
    before = np.concatenate([[0], np.cumsum([count for _, count in counts])])
    size = len(lengths)
    # cost[j]: positions of the first j lengths in the buckets so far; from[k][j]: where the last of k buckets begins
    cost = np.concatenate([[0], lengths * before[1:]])
    begins = [np.zeros(size + 1, dtype=np.int64)]
    for _ in range(1, min(buckets, size)):
        longer = np.full(size + 1, np.iinfo(np.int64).max)
        longer[0] = 0
        begin = np.zeros(size + 1, dtype=np.int64)
        for j in range(1, size + 1):
            tried = cost[:j] + lengths[j - 1] * (before[j] - before[:j])
            begin[j] = int(tried.argmin())
            longer[j] = tried[begin[j]]
        cost = longer
        begins.append(begin)
    edges, end = list[int](), size
    for begin in reversed(begins):
        if end == 0:
            break
        edges.append(int(lengths[end - 1]))
        end = int(begin[end])
    return tuple(reversed(edges))


def buckets_of(lengths: Lengths | None, count: int) -> Buckets | None:
    """Return so many buckets for examples of these lengths; None where ``count`` is 0: batches are as they come."""
    if not count or lengths is None:
        return None
    return Buckets(axes=lengths.axes, padding=lengths.padding, edges=choose_edges(lengths.counts, count))


def row_lengths(arrays: Arrays, filling: Filling) -> np.ndarray:
    """Return the length of each row, shape (N,): where the last value is that is no filling, and at least 1."""
    found = np.ones(len(next(iter(arrays.values()))), dtype=np.int64)
    for name, axis in filling.axes.items():
        array = np.moveaxis(arrays[name], axis, 1)
        real = (array != filling.padding[name]).reshape(*array.shape[:2], -1).any(axis=2)
        last = real.shape[1] - real[:, ::-1].argmax(axis=1)
        found = np.maximum(found, np.where(real.any(axis=1), last, 1))
    return found


def planned(lengths: np.ndarray, edges: Sequence[int], batch_size: int) -> list[Batch]:
    """Return batches of exactly ``batch_size`` rows but for the last one; every row is in one of them.

    Rows come in their order, each batch of one bucket. What is left over of the buckets in the end is put together, the
    longest first.
    """
    bucket = np.searchsorted(np.asarray(edges), lengths)
    batches, left = list[Batch](), list[np.ndarray]()
    for number in range(len(edges), -1, -1):
        rows = np.flatnonzero(bucket == number)
        full = len(rows) // batch_size * batch_size
        batches += [_filled(rows[at : at + batch_size], lengths, edges) for at in range(0, full, batch_size)]
        left.append(rows[full:])
    rest = np.concatenate(left)
    return batches + [_filled(rest[at : at + batch_size], lengths, edges) for at in range(0, len(rest), batch_size)]


def spread(batches: Sequence[Batch], count: int) -> list[Batch]:
    """Return at most ``count`` batches that stand for all: of every length, in an order whose beginnings do, too.

    They are a systematic sample of the batches by length, in steps of the golden ratio.
    """
    ordered = sorted(batches, key=lambda batch: batch.length)
    count = min(count, len(ordered))
    chosen = [ordered[int((i + 0.5) * len(ordered) / count)] for i in range(count)]
    return [chosen[i] for i in sorted(range(count), key=lambda i: ((i + 1) * 0.6180339887498949) % 1)]


def batch_of(arrays: Arrays, batch: Batch, batch_size: int, filling: Filling | None) -> dict[str, np.ndarray]:
    """Return the arrays of one batch, by its last row filled up to ``batch_size`` rows.

    Where there is a ``filling``, each row is filled up, or cut, to the batch's length.
    """
    rows = batch.rows[np.minimum(np.arange(batch_size), len(batch.rows) - 1)]
    found = {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}
    if filling is not None:
        for name, axis in filling.axes.items():
            found[name] = _fitted(found[name], axis, batch.length, filling.padding[name])
    return found


def trimmed(arrays: Arrays, buckets: Buckets) -> dict[str, np.ndarray]:
    """Return the rows of one batch filled up to the edge of the bucket that holds the longest of them."""
    lengths = row_lengths(arrays, buckets)
    whole = _filled(np.arange(len(lengths)), lengths, buckets.edges)
    return batch_of(arrays, whole, len(lengths), buckets)


def joined(parts: Sequence[Arrays], filling: Filling) -> dict[str, np.ndarray]:
    """Return batches of unequal length as one, filled up to the longest."""
    found = {}
    for name in parts[0]:
        pieces = [part[name] for part in parts]
        if name in filling.axes:
            axis = filling.axes[name]
            longest = max(piece.shape[axis] for piece in pieces)
            pieces = [_fitted(piece, axis, longest, filling.padding[name]) for piece in pieces]
        found[name] = np.concatenate(pieces)
    return found


def _filled(rows: np.ndarray, lengths: np.ndarray, edges: Sequence[int]) -> Batch:
    longest = int(lengths[rows].max())
    return Batch(rows, next((edge for edge in edges if edge >= longest), longest))


def _fitted(array: np.ndarray, axis: int, length: int, padding: float) -> np.ndarray:
    """Cut or fill up one axis to ``length``."""
    if array.shape[axis] >= length:
        return np.ascontiguousarray(np.take(array, np.arange(length), axis=axis))
    missing = [(0, length - array.shape[axis] if each == axis else 0) for each in range(array.ndim)]
    return np.pad(array, missing, constant_values=array.dtype.type(padding))
