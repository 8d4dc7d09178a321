"""Real bundles for tests of serving and promotion: small ONNX graphs, built without a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluators.bundle import Manifest, write_manifest
from evaluators.candidate import Candidate
from evaluators.outcome import Constraint, Evidence
from evaluators.structure import Structure, TensorSpec
from evaluators.target import environment
from search.promotion.certificate import Certificate
from tests.search.factories import a_candidate

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10


def a_bundle(folder: Path, batch_size: int = 4, candidate: Candidate | None = None) -> Manifest:
    """Write a bundle that multiplies its one input, rows of 4 numbers, by ``WEIGHTS``."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["output"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch_size, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch_size, 3])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    tensors = {
        name: TensorSpec(name=name, dtype="float32", shape=(None, n)) for name, n in (("input", 4), ("output", 3))
    }
    return _written(
        folder,
        graph,
        candidate or a_candidate("onnxruntime", batch_size=batch_size),
        inputs=Structure(style="tensor", tensors=(tensors["input"],)),
        outputs=Structure(style="tensor", tensors=(tensors["output"],)),
    )


def a_bundle_of_two(folder: Path, batch_size: int = 4) -> Manifest:
    """Write a bundle that takes ``left`` and ``right`` by name and returns their ``sum`` and ``product``."""
    from onnx import TensorProto, helper

    def value(name: str) -> object:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch_size, 2])

    nodes = [
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Mul", ["left", "right"], ["product"]),
    ]
    graph = helper.make_graph(nodes, "pair", [value("left"), value("right")], [value("sum"), value("product")])

    def structure(*names: str) -> Structure:
        tensors = tuple(TensorSpec(name=name, dtype="float32", shape=(None, 2)) for name in names)
        return Structure(style="dict", tensors=tensors)

    candidate = a_candidate("onnxruntime", batch_size=batch_size)
    return _written(folder, graph, candidate, inputs=structure("left", "right"), outputs=structure("sum", "product"))


def a_certificate(manifest: Manifest, **fields: Any) -> Certificate:
    """Return the certificate of a bundle; ``fields`` override it."""
    values: dict[str, Any] = {
        "search": "3f9a21c7", "trial": 7, "label": "onnxruntime fp32 b4 t1", "home": "home", "bundle": "bundle",
        "digest": manifest.digest, "candidate": manifest.candidate, "target": manifest.candidate.target,
        "target_fingerprint": manifest.target_fingerprint, "environment": manifest.environment,
        "workload": "w.py:workload", "workload_fingerprint": "0" * 64, "test_digest": None,
        "constraints": (Constraint(metric="accuracy_drop", max=0.01),), "percentile": "p95", "confidence": 0.95,
        "scored_by": "top1", "measured": Evidence(size_bytes=1234), "verdicts": (), "certified_at": 1.8e9,
    }  # fmt: skip
    return Certificate(**{**values, **fields})


def _written(folder: Path, graph: object, candidate: Candidate, inputs: Structure, outputs: Structure) -> Manifest:
    from onnx import helper, save

    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    save(model, str(folder / "model.onnx"))
    return write_manifest(
        folder,
        candidate=candidate,
        workload="examples/images/workload.py:workload",
        inputs=inputs,
        outputs=outputs,
        environment=environment("onnxruntime"),
        target_fingerprint="0" * 16,
    )
