"""Gathers what Triton's dynamic batcher brings into one batch of the size that was measured, filled up to it.

Where ``batch_model`` names a model, that one computes the batch in a backend of Triton's; else the bundle beside this
file does, in its own runtime.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

Call = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class TritonPythonModel:
    """The model as clients see it: any number of rows up to the batch size."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the configuration, and load the bundle where it is computed here."""
        config = json.loads(args["model_config"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        self._batch_size = max(1, int(config["max_batch_size"]))
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        self._call = self._native(parameters["batch_model"]) if "batch_model" in parameters else _bundled()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request from one call."""
        given = [
            {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        counts = [len(arrays[self._inputs[0]]) for arrays in given]
        rows = {name: np.concatenate([arrays[name] for arrays in given]) for name in self._inputs}
        try:
            found = self._call(rows)
        except Exception as error:
            refused = triton.TritonError(f"{type(error).__name__}: {error}")
            return [triton.InferenceResponse(output_tensors=[], error=refused) for _ in requests]
        ends = np.cumsum(counts)
        return [
            triton.InferenceResponse(output_tensors=[
                triton.Tensor(name, np.ascontiguousarray(found[name][end - count : end])) for name in self._outputs
            ])
            for end, count in zip(ends, counts, strict=True)
        ]  # fmt: skip

    def _native(self, model: str) -> Call:
        def call(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            total = len(rows[self._inputs[0]])
            index = np.minimum(np.arange(self._batch_size), total - 1)
            tensors = [triton.Tensor(name, np.ascontiguousarray(rows[name][index])) for name in self._inputs]
            asked = triton.InferenceRequest(
                model_name=model, requested_output_names=self._outputs, inputs=tensors,
                preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
            )  # fmt: skip
            answer = asked.exec()
            if answer.has_error():
                raise RuntimeError(answer.error().message())
            return {name: triton.get_output_tensor_by_name(answer, name).as_numpy()[:total] for name in self._outputs}

        return call


def _bundled() -> Call:
    here = Path(__file__).resolve().parent
    spec: Any = importlib.util.spec_from_file_location(f"runner_of_{here.parent.name}", here / "runner.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    model: Call = runner.Model(here)
    return model
