"""Runs the bundle beside this file on any number of rows: python runner.py inputs.npz outputs.npz

It needs NumPy and the runtime that the bundle was built for, and nothing of paretune.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Model:
    """The bundle: call it with an array for each input by name, axis 0 the rows; one call of the runtime at a time."""

    def __init__(self, here: Path | str = Path(__file__).parent) -> None:
        bundle = Path(here).resolve() / "bundle"
        self.manifest = json.loads((bundle / "manifest.json").read_text())
        for name, wanted in self.manifest["files"].items():
            if hashlib.sha256((bundle / name).read_bytes()).hexdigest() != wanted:
                raise ValueError(f"{name} is not the file that was measured")
        self.inputs, self.outputs = (self.manifest[part]["tensors"] for part in ("inputs", "outputs"))
        self.batch_size = int(self.manifest["candidate"]["batch_size"])
        spec: Any = importlib.util.spec_from_file_location(f"runtime_of_{bundle}", bundle.parent / "runtime.py")
        runtime = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(runtime)
        self._call = runtime.load(bundle, json.loads((bundle.parent / "runtime.json").read_text()), self.manifest)
        self._turn = threading.Lock()

    def __call__(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run the rows in batches of the size that was measured; the last batch is filled up with its last row.

        Where rows of similar length were batched together when it was measured, they are here.
        """
        given = self._checked(arrays)
        total, parts = len(next(iter(given.values()))), []
        buckets = self.manifest.get("buckets")
        lengths = row_lengths(given, buckets) if buckets else np.zeros(total, dtype=int)
        order = in_buckets(lengths, buckets["edges"], self.batch_size) if buckets else np.arange(total)
        for start in range(0, total, self.batch_size):
            rows = order[np.minimum(np.arange(start, start + self.batch_size), total - 1)]
            batch = {name: np.ascontiguousarray(array[rows]) for name, array in given.items()}
            if buckets:
                longest = int(lengths[rows].max())
                fill_up(batch, buckets, next((edge for edge in buckets["edges"] if edge >= longest), longest))
            with self._turn:
                answers = self._call(batch)
            parts.append([np.array(answer[: total - start]) for answer in answers])
        names, places = [tensor["name"] for tensor in self.outputs], np.argsort(order)
        joined = (np.concatenate(pieces)[places] for pieces in zip(*parts, strict=True))
        return dict(zip(names, joined, strict=True))

    def _checked(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        wanted = {tensor["name"]: tensor for tensor in self.inputs}
        if arrays.keys() != wanted.keys():
            raise ValueError(f"the model takes {sorted(wanted)}, got {sorted(arrays)}")
        given = {name: np.asarray(array, dtype=wanted[name]["dtype"]) for name, array in arrays.items()}
        for name, array in given.items():
            shape = wanted[name]["shape"]
            fits = len(shape) == array.ndim and all(
                size in (None, found) for size, found in zip(shape[1:], array.shape[1:], strict=True)
            )
            if not fits:
                raise ValueError(f"{name} has the shape {list(array.shape)}; the model takes {shape}, null varies")
        if len(rows := {len(array) for array in given.values()}) != 1 or 0 in rows:
            raise ValueError(f"inputs must have the same number of rows, at least one; got {sorted(rows)}")
        return given


def row_lengths(arrays: Mapping[str, np.ndarray], buckets: Any) -> np.ndarray:
    """Return the length of each row: where the last value is that is not what short rows are filled up with."""
    found = np.ones(len(next(iter(arrays.values()))), dtype=int)
    for name, axis in buckets["axes"].items():
        array = np.moveaxis(arrays[name], axis, 1)
        real = (array != buckets["padding"][name]).reshape(*array.shape[:2], -1).any(axis=2)
        last = real.shape[1] - real[:, ::-1].argmax(axis=1)
        found = np.maximum(found, np.where(real.any(axis=1), last, 1))
    return found


def in_buckets(lengths: np.ndarray, edges: list[int], size: int) -> np.ndarray:
    """Return the rows in an order whose batches are of one bucket each; what is left over comes last, longest first."""
    bucket, whole, left = np.searchsorted(np.asarray(edges), lengths), [], []
    for number in range(len(edges), -1, -1):
        rows = np.flatnonzero(bucket == number)
        full = len(rows) // size * size
        whole.append(rows[:full])
        left.append(rows[full:])
    return np.concatenate([*whole, *left])


def fill_up(batch: dict[str, np.ndarray], buckets: Any, length: int) -> None:
    """Cut or fill up the rows of a batch to ``length``."""
    for name, axis in buckets["axes"].items():
        array = np.take(batch[name], np.arange(min(length, batch[name].shape[axis])), axis=axis)
        missing = [(0, length - array.shape[axis] if each == axis else 0) for each in range(array.ndim)]
        value = array.dtype.type(buckets["padding"][name])
        batch[name] = np.ascontiguousarray(np.pad(array, missing, constant_values=value))


if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as stored:
        np.savez(sys.argv[2], **Model()(dict(stored)))  # type: ignore[arg-type]
