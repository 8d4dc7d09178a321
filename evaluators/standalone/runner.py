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
        """Run the rows in batches of the size that was measured; the last batch is filled up with its last row."""
        given = self._checked(arrays)
        total, parts = len(next(iter(given.values()))), []
        for start in range(0, total, self.batch_size):
            index = np.minimum(np.arange(start, start + self.batch_size), total - 1)
            with self._turn:
                answers = self._call({name: np.ascontiguousarray(array[index]) for name, array in given.items()})
            parts.append([np.array(answer[: total - start]) for answer in answers])
        names = [tensor["name"] for tensor in self.outputs]
        return {name: np.concatenate(pieces) for name, pieces in zip(names, zip(*parts, strict=True), strict=True)}

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


if __name__ == "__main__":
    with np.load(sys.argv[1], allow_pickle=False) as stored:
        np.savez(sys.argv[2], **Model()(dict(stored)))  # type: ignore[arg-type]
