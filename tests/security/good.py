"""Small sound bundles, one of each kind, for tests to spoil."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evaluators.bundle import Manifest, write_manifest
from evaluators.candidate import Candidate
from evaluators.structure import Structure, TensorSpec
from evaluators.target import probe_target


def sealed(folder: Path, backend: str, workload: str = "w.py:w") -> Manifest:
    """Write a manifest over what lies in the folder, as somebody who means ill can, too."""
    one = Structure(style="tensor", tensors=(TensorSpec(name="input", dtype="float32", shape=(None, 4)),))
    two = Structure(style="tensor", tensors=(TensorSpec(name="output", dtype="float32", shape=(None, 3)),))
    target = probe_target()
    return write_manifest(
        folder, candidate=Candidate(target=target.name, backend=backend), workload=workload, inputs=one, outputs=two,
        environment={}, target_fingerprint=target.fingerprint,
    )  # fmt: skip


def onnx_model() -> object:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["output"])],
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def onnx_bundle(folder: Path, spoil: Callable[[object], None] = lambda model: None) -> None:
    model = onnx_model()
    spoil(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())  # type: ignore[attr-defined]


IR = """<?xml version="1.0"?>
<net name="linear" version="11"><layers>
<layer id="0" name="input" type="Parameter" version="opset1"><data shape="1,4" element_type="f32"/>
<output><port id="0" precision="FP32" names="input"><dim>1</dim><dim>4</dim></port></output></layer>
<layer id="1" name="weights" type="Const" version="opset1"><data element_type="f32" shape="4,3" offset="0" size="48"/>
<output><port id="0" precision="FP32"><dim>4</dim><dim>3</dim></port></output></layer>
<layer id="2" name="product" type="MatMul" version="opset1"><data transpose_a="false" transpose_b="false"/>
<input><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port>
<port id="1" precision="FP32"><dim>4</dim><dim>3</dim></port></input>
<output><port id="2" precision="FP32" names="output"><dim>1</dim><dim>3</dim></port></output></layer>
<layer id="3" name="result" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim><dim>3</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
<edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
<edge from-layer="2" from-port="2" to-layer="3" to-port="0"/></edges></net>
"""


def openvino_bundle(folder: Path, ir: str = IR) -> None:
    (folder / "model.xml").write_text(ir)
    (folder / "model.bin").write_bytes(np.ones(12, np.float32).tobytes())


def safetensors_bytes(header: object, data: bytes = b"\0" * 48) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def eager_bundle(folder: Path, plan: object = None, recipe: object = None, weights: bytes | None = None) -> None:
    header = {
        "weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]},
        "bias": {"dtype": "F32", "shape": [3], "data_offsets": [48, 60]},
    }
    plain = {"scheme": "fp32", "engine": "", "everything": False, "activations": {}}
    unpruned = {"structure": "none", "attributes": {}, "shared": {}}
    (folder / "plan.json").write_text(json.dumps(unpruned if plan is None else plan))
    (folder / "quantization.json").write_text(json.dumps(plain if recipe is None else recipe))
    (folder / "weights.safetensors").write_bytes(weights or safetensors_bytes(header, b"\0" * 60))


def archive(path: Path, members: dict[str, bytes], **options: int) -> None:
    """Write members as torch lays them out."""
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as file:
        for name, content in {"archive_format": b"pt2", "byteorder": b"little", **members}.items():
            file.writestr(f"model/{name}", content)
