"""One call of OpenVINO, with the device, precision, threads and streams that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino


def load(bundle: Path, settings: Any, manifest: Any) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    """Return a function from a batch by input name to its outputs in the manifest's order."""
    core, streams = openvino.Core(), settings["streams"]
    model = core.read_model(str(bundle / settings["model"]))
    if streams > 1:  # each stream computes its share of a batch as a request of its own
        shapes = {value.any_name: value.get_partial_shape() for value in model.inputs}
        for shape in shapes.values():
            shape[0] = manifest["candidate"]["batch_size"] // streams
        model.reshape(shapes)
    compiled = core.compile_model(model, settings["device"], settings["settings"])
    names = [tensor["name"] for tensor in manifest["outputs"]["tensors"]]
    requests = [compiled.create_infer_request() for _ in range(streams)]

    def call(batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        shares = {name: np.split(array, streams) for name, array in batch.items()}
        for index, request in enumerate(requests):
            request.start_async({name: share[index] for name, share in shares.items()})
        for request in requests:
            request.wait()
        return [np.concatenate([request.get_tensor(name).data for request in requests]) for name in names]

    return call
