"""One call of onnxruntime, with the provider, threads and optimization that were measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def load(bundle: Path, settings: Any, manifest: Any) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    """Return a function from a batch by input name to its outputs in the manifest's order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = settings["threads"], 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, settings["level"])
    options.log_severity_level = 3
    provider = (settings["provider"], settings["provider_settings"])
    session = onnxruntime.InferenceSession(str(bundle / settings["model"]), options, providers=[provider])
    if (found := session.get_providers()[0]) != settings["provider"]:
        raise RuntimeError(f"onnxruntime fell back to {found}; {settings['provider']} was measured")
    names = [tensor["name"] for tensor in manifest["outputs"]["tensors"]]
    if (shares := settings["shares"]) == 1:
        return lambda batch: list(session.run(names, dict(batch)))
    others = ThreadPoolExecutor(shares)

    def call(batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        parts = {name: np.split(array, shares) for name, array in batch.items()}
        feeds = [{name: part[index] for name, part in parts.items()} for index in range(shares)]
        answers = list(others.map(lambda feed: session.run(names, feed), feeds))
        return [np.concatenate(pieces) for pieces in zip(*answers, strict=True)]

    return call
