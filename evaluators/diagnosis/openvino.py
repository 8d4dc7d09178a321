"""What OpenVINO executes: the nodes of the compiled model, with precision and kernel as it reports them."""

from __future__ import annotations

from typing import Any

from evaluators.diagnosis.executed import Executed, precision_of

_KINDS = {
    "Convolution": "convolution", "GroupConvolution": "convolution", "Deconvolution": "convolution",
    "BinaryConvolution": "convolution", "FullyConnected": "linear", "MatMul": "matmul",
    "ScaledDotProductAttention": "attention", "ScaledAttn": "attention", "MHA": "attention",
    "PagedAttention": "attention", "RNNSeq": "recurrent", "RNNCell": "recurrent", "Reorder": "reorder",
    "FakeQuantize": "quantize",
}  # fmt: skip
_NOTHING_TO_DO = ("Const", "Input", "Output", "Parameter", "Result", "Reshape", "ShapeOf")


def executed(compiled: Any) -> list[Executed]:
    """Return the nodes of a compiled model that has run, without those that do nothing in a call.

    ``compiled`` is an ``openvino.CompiledModel``; the properties are those of its ``get_runtime_model``.
    """
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        layer, precision, kernel = (
            node.rt_info[name].astype(str) for name in ("layerType", "runtimePrecision", "primitiveType")
        )
        if layer not in _NOTHING_TO_DO:
            found.append(Executed(_KINDS.get(layer, layer.lower()), precision_of(precision), kernel))
    return found
