"""Diagnosis: what a runtime really makes of a bundle, read once it is measured, so that nothing timed is disturbed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.bundle import Manifest
from evaluators.errors import ParetuneError
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.structure import TensorSpec

__all__ = ["diagnose"]

_UNKNOWN_LENGTH = 16


def diagnose(
    backend: Backend, runner: Runner, folder: Path, manifest: Manifest, batch: Arrays | None = None
) -> Diagnosis:
    """Return what ``backend`` executes for the loaded bundle in ``folder``; if that fails, a note says why.

    ``batch`` is one real batch by input name; operators are timed on it. Without one, a batch of ones stands in.
    """
    try:
        with converting(f"what {backend.name} executes cannot be read"):
            return backend.diagnose(runner, folder, manifest, ones(manifest) if batch is None else batch)
    except (ParetuneError, MemoryError) as error:
        return Diagnosis(notes=(str(error) or f"there was no memory left to read what {backend.name} executes",))


def ones(manifest: Manifest) -> Arrays:
    """Return a batch of the bundle's size that is all ones: a valid token, a mask that masks nothing, a flat image."""
    return {spec.name: _ones(spec, manifest.candidate.batch_size) for spec in manifest.inputs.tensors}


def _ones(spec: TensorSpec, batch_size: int) -> np.ndarray:
    shape = [batch_size, *(_UNKNOWN_LENGTH if size is None else size for size in spec.shape[1:])]
    return np.ones(shape, dtype=spec.dtype)
