"""Serves the bundle beside this file in MLServer, which gathers requests into batches of the size that was measured.

The histogram ``paretune_rows`` of its metrics tells how many rows each call got. It is prometheus_client's own, since
MLServer shows those that are registered with itself only where it has workers.
"""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Any

import mlserver
import prometheus_client
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

HERE = Path(__file__).resolve().parent


class Served(mlserver.MLModel):  # type: ignore[misc]
    """The bundle behind MLServer's ``predict``."""

    _model: Any

    async def load(self) -> bool:
        """Check the files of the bundle and load it."""
        spec: Any = importlib.util.spec_from_file_location(f"runner_of_{HERE.name}", HERE / "runner.py")
        runner = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(runner)
        self._rows = _histogram().labels(self.name)
        self._model = await asyncio.to_thread(runner.Model, HERE)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer any number of rows."""
        arrays = {given.name: NumpyCodec.decode_input(given) for given in payload.inputs}
        self._rows.observe(len(next(iter(arrays.values()))))
        found = await asyncio.to_thread(self._model, arrays)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in found.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


def _histogram() -> Any:
    """Return the one histogram of the process, which other models of it may have made."""
    sizes = [2**power for power in range(13)]
    try:
        return prometheus_client.Histogram("paretune_rows", "rows in a call of the model", ["model"], buckets=sizes)
    except ValueError:
        return prometheus_client.REGISTRY._names_to_collectors["paretune_rows"]
