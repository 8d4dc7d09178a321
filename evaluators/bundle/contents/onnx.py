"""ONNX: a graph with every tensor inside it. Tensors in other files are how ONNX models read what they should not.

Looks into graphs, the graphs of If, Loop and Scan within them, functions, training graphs, attributes and sparse
tensors (CVE-2022-25882, CVE-2024-27318 and later ones each forgot one of these). Field numbers: onnx.proto.
"""

from __future__ import annotations

from pathlib import Path

from evaluators.bundle.contents.protobuf import Message, Walk
from evaluators.bundle.tree import open_file
from evaluators.errors import IntegrityError

_TABLES: dict[str, Message] = {
    "Model": {7: "Graph", 14: "Entry", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
    "Entry": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_OP_TYPE, _DOMAIN, _KEY = 4, 7, 1
_OPENS_FILES = frozenset(("EPContext", "PyOp", "PyFunc"))
_FOR_ONE_PROCESSOR = frozenset(("com.microsoft.nchwc", "com.ms.internal.nhwc"))


def check_onnx(folder: Path, name: str) -> bool:
    """Walk the model; return whether it is portable: not laid out for one kind of processor.

    Raises:
        IntegrityError: it is no ONNX model, or it refers to a file, or it brings settings for its own session.
    """
    portable = True

    def see(message: str, number: int, value: int | tuple[int, int]) -> None:
        nonlocal portable
        if message == "Tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            raise IntegrityError(f"{name} keeps a tensor in another file (ONNX external data); save it as one file")
        if message == "Node" and number == _OP_TYPE and (operator := walk.text(value)) in _OPENS_FILES:
            raise IntegrityError(f"{name} has an operator {operator}, which reads a file or runs code of its own")
        if message == "Node" and number == _DOMAIN and walk.text(value) in _FOR_ONE_PROCESSOR:
            portable = False
        if message == "Entry" and number == _KEY and walk.text(value) == "ort_config":
            raise IntegrityError(f"{name} brings settings for the session of onnxruntime (ort_config)")

    with open_file(folder, name) as file:
        walk = Walk(file, _TABLES, see, name)
        walk.run("Model")
    return portable
