"""The code of every model that paretune logs to MLflow: loads a bundle with its own runtime and serves any batch.

MLflow copies this file into the model and runs it on load (models from code), so that nothing is pickled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np

from evaluators.backends.base import Runner
from evaluators.batching import run_in_batches
from evaluators.bundle import Manifest, open_bundle
from evaluators.errors import WorkloadError
from evaluators.registry import backend
from evaluators.structure import Structure

ALLOW_OTHER_TARGET = "PARETUNE_ALLOW_OTHER_TARGET"
"""Environment variable that lets a portable bundle be served by other hardware than it was measured on."""


class ServedBundle(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A bundle behind MLflow's ``predict``: the very files that were measured, checked against their hashes."""

    _runner: Runner
    _manifest: Manifest

    def load_context(self, context: Any) -> None:
        """Check the bundle and load it.

        Raises:
            IntegrityError: the bundle is not what was measured.
            TargetMismatchError: it was measured on other hardware, and ``PARETUNE_ALLOW_OTHER_TARGET`` is not set.
        """
        bundle = Path(context.artifacts["bundle"])
        # Models from code run code by being loaded; whoever loads one trusts the store that it came from.
        other_target = os.environ.get(ALLOW_OTHER_TARGET, "") not in ("", "0")
        self._manifest = open_bundle(bundle, trusted=True, other_target=other_target)
        self._runner = backend(self._manifest.candidate.backend).load(bundle, self._manifest)

    # MLflow takes the hint of ``model_input`` for a schema unless it is an array's; the signature says what it may be.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """Return the model's output for any number of rows: an array, or a dict of arrays by name.

        ``model_input`` is an array, or arrays by input name (a mapping, or a DataFrame with a column for each).

        Raises:
            WorkloadError: an input is missing or unknown, or the inputs differ in length.
        """
        arrays = named_arrays(model_input, self._manifest.inputs)
        manifest = self._manifest
        outputs = run_in_batches(self._runner, arrays, manifest.candidate.batch_size, manifest.buckets)
        if self._manifest.outputs.style == "tensor":
            return outputs[0]
        return dict(zip(self._manifest.outputs.names, outputs, strict=True))


def named_arrays(value: Any, structure: Structure) -> dict[str, np.ndarray]:
    """Return what a caller passed as arrays by input name, in the model's order and types.

    Raises:
        WorkloadError: an input is missing or unknown.
    """
    specs = {tensor.name: tensor for tensor in structure.tensors}
    columns = getattr(value, "columns", None)
    if isinstance(value, Mapping) or (columns is not None and set(specs) <= {str(name) for name in columns}):
        given = {str(name): value[name] for name in (value if columns is None else columns)}
    elif len(specs) == 1:
        given = {next(iter(specs)): value}
    else:
        raise WorkloadError(f"this model takes {', '.join(specs)}; pass a dict of arrays by these names")
    if given.keys() != specs.keys():
        raise WorkloadError(f"this model takes {', '.join(specs)}, got {', '.join(given)}")
    return {name: _array(given[name], specs[name].dtype) for name in specs}


def _array(value: Any, dtype: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == object:
        array = np.stack([np.asarray(row) for row in array])
    return array.astype(dtype, copy=False)


mlflow.models.set_model(ServedBundle())
