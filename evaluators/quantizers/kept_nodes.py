"""float_share in the ONNX and OpenVINO forms: which nodes of a graph a layer of the model became.

torch's exporter notes at each node which layer it comes from; where folding a batch norm has put another layer's name
there, the layer's weight still has its own. OpenVINO's operators are found by the tensors that both graphs have.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.quantizers.kept_float import exported_name, kept_layers, without_call
from evaluators.source import SourceModel

COMPUTING = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU"})
_SCOPES = "pkg.torch.onnx.name_scopes"
_OPENVINO_COMPUTING = ("Convolution", "MatMul", "LSTMSequence", "GRUSequence", "LSTMCell", "GRUCell")
_INTEGERS = ("i8", "u8", "i4", "u4")
_ON_THE_WAY = (
    "Convert",
    "Multiply",
    "Subtract",
    "Transpose",
    "Split",
    "VariadicSplit",
    "Concat",
    "Squeeze",
    "Unsqueeze",
)
"""What stands between a constant weight and the operator that reads it."""

_DEEPEST = 4
"""How many operators OpenVINO may put after the computing one of an ONNX node: bias, transposition."""

Tensors = dict[str, list[str]]
"""The names of the tensors that come out of a layer's nodes, by the layer's name, those that compute first."""


def kept_tensors(source: SourceModel, values: Mapping[str, Scalar], kinds: Collection[str]) -> Tensors:
    """Return what the layers that stay in float write in the exported ONNX graph; none is read where there are none.

    Raises:
        UnsupportedError: the graph does not tell which nodes a layer became.
    """
    names = kept_layers(source, values, kinds)
    return layer_tensors(read_graph(source.onnx()), names) if names else {}


def read_graph(path: Path) -> Any:
    """Read the graph of an ONNX file."""
    import onnx

    return onnx.load(str(path), load_external_data=False).graph


def layer_tensors(graph: Any, names: Sequence[str]) -> Tensors:
    """Return the tensors that the nodes of each of these layers write in an exported ONNX graph.

    Raises:
        UnsupportedError: the graph does not tell which nodes a layer became.
    """
    return {name: [node.output[0] for node in _nodes_of(graph, exported_name(name), name)] for name in names}


def _nodes_of(graph: Any, exported: str, name: str) -> list[Any]:
    nodes = [node for node in graph.node if _scope(node) == exported]
    if not any(node.op_type in COMPUTING for node in nodes):
        nodes += [node for node in graph.node if f"{exported}.weight" in node.input]
    nodes.sort(key=lambda node: node.op_type not in COMPUTING)
    if not nodes or nodes[0].op_type not in COMPUTING:
        raise UnsupportedError(f"layer {name!r} is to stay in float, and is not found in the ONNX graph")
    return nodes


def _scope(node: Any) -> str | None:
    """Return the innermost module that a node comes from, as the exporter noted it."""
    noted = next((prop.value for prop in node.metadata_props if prop.key == _SCOPES), None)
    try:
        *modules, _ = ast.literal_eval(noted or "[]")
    except (ValueError, SyntaxError):
        return None
    return without_call(str(modules[-1])) if modules else None


def nodes_to_exclude(graph: Any, tensors: Tensors) -> list[str]:
    """Return the names of the nodes that write these tensors in a graph that onnxruntime has optimized.

    Raises:
        UnsupportedError: nothing that computes is left of a layer under its own name.
    """
    writers = _writers(graph)
    for name, written in tensors.items():
        if not any(writers[each].op_type in COMPUTING for each in written if each in writers):
            raise UnsupportedError(f"layer {name!r} is to stay in float, and onnxruntime has fused it away")
    return [writers[each].name for written in tensors.values() for each in written if each in writers]


def require_float_onnx(path: Path, tensors: Tensors) -> None:
    """Refuse a quantized graph in which one of these layers computes with a quantized weight.

    Raises:
        UnsupportedError: it does.
    """
    writers = _writers(read_graph(path)) if tensors else {}
    for name, written in tensors.items():
        computing = [writers[each] for each in written if each in writers and writers[each].op_type in COMPUTING]
        weights = [writers.get(each) for node in computing for each in node.input[1:2]]
        if not computing or any(node is not None and node.op_type == "DequantizeLinear" for node in weights):
            raise UnsupportedError(f"layer {name!r} was to stay in float, and onnxruntime quantized it")


def _writers(graph: Any) -> dict[str, Any]:
    """Return the nodes of a graph by the tensors that they write."""
    return {output: node for node in graph.node for output in node.output}


def openvino_operators(model: Any, tensors: Tensors) -> dict[str, str]:
    """Return the friendly name of OpenVINO's operator that computes each layer.

    Raises:
        UnsupportedError: none is found for a layer.
    """
    writers = {name: value.get_node() for op in model.get_ops() for value in op.outputs() for name in value.get_names()}
    found: dict[str, str] = {}
    for layer, written in tensors.items():
        first = next((writers[each] for each in written if each in writers), None)
        computing = None if first is None else _computing_above(first)
        if computing is None:
            raise UnsupportedError(f"layer {layer!r} is to stay in float, and is not found in OpenVINO's model")
        found[layer] = computing.get_friendly_name()
    return found


def _computing_above(operator: Any) -> Any:
    """Return the nearest operator that computes: this one, or one that it reads."""
    level = [operator]
    for _ in range(_DEEPEST):
        for each in level:
            if _computes(each):
                return each
        level = [value.get_node() for each in level for value in each.input_values()]
    return None


def _computes(operator: Any) -> bool:
    return any(word in str(operator.get_type_name()) for word in _OPENVINO_COMPUTING)


def require_float_openvino(model: Any, operators: Mapping[str, str]) -> None:
    """Refuse a quantized model in which the operator of one of these layers reads a quantized weight.

    Raises:
        UnsupportedError: it does, or is not there any more.
    """
    named = {op.get_friendly_name(): op for op in model.get_ops()}
    for layer, name in operators.items():
        weights = [value.get_node() for value in named[name].input_values()[1:]] if name in named else []
        if not weights or any(_holds_integers(each) for each in weights):
            raise UnsupportedError(f"layer {layer!r} was to stay in float, and nncf quantized it")


def _holds_integers(operator: Any) -> bool:
    """Whether a weight is rounded to integers where it is read: they are kept as such, and scaled on the way."""
    kind = str(operator.get_type_name())
    if kind == "Constant":
        return str(operator.get_element_type().get_type_name()) in _INTEGERS
    above = (value.get_node() for value in operator.input_values()) if kind in _ON_THE_WAY else ()
    return kind == "FakeQuantize" or any(_holds_integers(each) for each in above)
