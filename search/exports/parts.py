"""What several formats are made of: the runner, requirements, real inputs, and the words of the V2 protocol."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.backends.shares import shares_of
from evaluators.bundle import Manifest
from evaluators.standalone import HERE, RUNNER, RUNTIME, SETTINGS, Standalone, standalone_of
from evaluators.standalone.serve import WORDS
from evaluators.structure import Structure
from search.exports.source import Source

Rows = dict[str, np.ndarray]


def needs_runner(manifest: Manifest) -> str | None:
    """Return why a bundle cannot be run without paretune, or None if it can."""
    found = standalone_of(manifest.candidate)
    return found if isinstance(found, str) else None


def standalone(manifest: Manifest) -> Standalone:
    """Return how a bundle runs without paretune, which ``needs_runner`` has found that it does."""
    found = standalone_of(manifest.candidate)
    if isinstance(found, str):
        raise TypeError(found)
    return found


def write_runner(source: Source, folder: Path) -> None:
    """Write the bundle and the code that runs it without paretune."""
    found = standalone(source.manifest)
    source.copy_bundle(folder / "bundle")
    shutil.copyfile(HERE / RUNNER, folder / RUNNER)
    shutil.copyfile(found.source, folder / RUNTIME)
    write_json(folder / SETTINGS, found.settings(source.manifest.candidate))


def requirements(manifest: Manifest, *more: str) -> str:
    """Return ``requirements.txt`` for the runner: NumPy and the runtime, with the versions that built the bundle."""
    names = ("numpy", *standalone(manifest).distributions)
    pinned = [f"{name}=={manifest.environment[name].partition('+')[0]}" if name in manifest.environment else name
              for name in names]  # fmt: skip
    return "\n".join([*pinned, *more]) + "\n"


def real_rows(source: Source) -> Rows | None:
    """Return real inputs, at most a batch of them, or None where none are kept."""
    if source.example is None:
        return None
    with np.load(source.example, allow_pickle=False) as stored:
        if not set(source.manifest.inputs.names) <= set(stored.files):
            return None
        size = source.manifest.candidate.batch_size
        return {tensor.name: stored[tensor.name][:size].astype(tensor.dtype, copy=False)
                for tensor in source.manifest.inputs.tensors}  # fmt: skip


def batching_notes(manifest: Manifest) -> tuple[str, ...]:
    """Say how whoever calls the bare model has to batch, to get what was measured."""
    found = [f"it takes batches of exactly {manifest.candidate.batch_size}"]
    if manifest.buckets is not None:
        edges = ", ".join(map(str, manifest.buckets.edges))
        found.append(f"rows of similar length were batched together, and filled up to {edges}: batch them so, or it is "
                     "slower than was measured")  # fmt: skip
    if (shares := shares_of(manifest.candidate)) > 1:
        found.append(f"{shares} threads ran a share of each batch at a time, in sessions of one thread")
    return tuple(found)


def write_examples(source: Source, folder: Path) -> tuple[str, ...]:
    """Write real inputs as arrays and as a request of the V2 protocol; return a note where there are none."""
    rows = real_rows(source)
    if rows is None:
        return ("no real inputs of this bundle are kept, so there is no example.npz",)
    np.savez(folder / "example.npz", **rows)  # type: ignore[arg-type]
    if all(str(array.dtype) in WORDS for array in rows.values()):
        write_json(folder / "request.json", v2_request({name: array[:1] for name, array in rows.items()}))
    return ()


def v2_request(rows: Rows) -> dict[str, Any]:
    """Return an inference request of the Open Inference Protocol."""
    return {"inputs": [
        {"name": name, "shape": list(array.shape), "datatype": WORDS[str(array.dtype)], "data": array.ravel().tolist()}
        for name, array in rows.items()
    ]}  # fmt: skip


def v2_tensors(structure: Structure) -> list[dict[str, Any]]:
    """Return the tensors of a model as the V2 protocol tells them; -1 varies."""
    return [
        {"name": tensor.name, "datatype": WORDS[tensor.dtype],
         "shape": [-1, *(-1 if size is None else size for size in tensor.shape[1:])]}
        for tensor in structure.tensors
    ]  # fmt: skip


def no_v2_type(manifest: Manifest) -> str | None:
    """Return which tensor the V2 protocol has no type for, or None."""
    for tensor in (*manifest.inputs.tensors, *manifest.outputs.tensors):
        if tensor.dtype not in WORDS:
            return f"{tensor.name!r} is {tensor.dtype}, for which the Open Inference Protocol has no type in JSON"
    return None


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON that people can read."""
    file.write_text(json.dumps(value, indent=2) + "\n")
