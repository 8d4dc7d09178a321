"""What onnxruntime executes: its own profile of a session on the same model, node by node of the optimized graph."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators.diagnosis.executed import Executed, precision_of

_CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "QLinearConv", "ConvInteger")
_WITH_WEIGHTS = ("Gemm", "FusedGemm", "QGemm", "MatMulNBits")
_PRODUCTS = (
    "MatMul", "FusedMatMul", "FusedMatMulActivation", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "QLinearMatMul", "MatMulBnb4",
)  # fmt: skip
_ATTENTION = ("Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention", "DecoderMaskedMultiHeadAttention")
_RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
_KINDS = {
    **dict.fromkeys(_CONVOLUTIONS, "convolution"),
    **dict.fromkeys(_WITH_WEIGHTS, "linear"),
    **dict.fromkeys(_ATTENTION, "attention"),
    **dict.fromkeys(_RECURRENT, "recurrent"),
    "ReorderInput": "reorder", "ReorderOutput": "reorder", "QuantizeLinear": "quantize",
    "DynamicQuantizeLinear": "quantize", "DequantizeLinear": "dequantize",
}  # fmt: skip
_QUANTIZED = ("QLinear", "QGemm", "QAttention", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul",
              "DynamicQuantizeLSTM")  # fmt: skip
_SCALES_BYTES = 64  # parameters of a product that has no weights: a few scales and zero points
_KERNEL = "_kernel_time"


def executed(profile: Path) -> list[Executed]:
    """Read the profile that a session wrote: its nodes in their order, each with the median time of its calls."""
    return read_profile(json.loads(profile.read_text()))


def read_profile(events: Sequence[dict[str, Any]]) -> list[Executed]:
    """Read the nodes from the events of a profile."""
    calls: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL):
            calls.setdefault(event["args"]["node_index"], []).append(event)
    return [_operator(each) for each in calls.values()]


def spare_memory() -> bool:
    """Whether this process may take as much memory again as it has: loading the model twice must not end a trial."""
    import psutil

    process = psutil.Process()
    memory = process.memory_info()
    spare = psutil.virtual_memory().available
    if sys.platform == "linux":
        limit = process.rlimit(psutil.RLIMIT_DATA)[0]
        spare = spare if limit == psutil.RLIM_INFINITY else min(spare, limit - memory.data)
    return bool(spare > memory.rss)


def _operator(calls: Sequence[dict[str, Any]]) -> Executed:
    arguments = calls[0]["args"]
    name = str(arguments["op_name"])
    kind = _KINDS.get(name, name.lower())
    if name in _PRODUCTS:
        kind = "linear" if _has_weights(arguments) else "matmul"
    types = [precision_of(next(iter(shape))) for shape in arguments["input_type_shape"] if shape]
    bits = "int8" if name.startswith(_QUANTIZED) else "int4" if name == "MatMulBnb4" else None
    bits = _bits_of_weights(arguments) if name == "MatMulNBits" else bits
    seconds = statistics.median(call["dur"] for call in calls) / 1e6
    return Executed(kind, bits or (types[0] if types else ""), name, seconds)


def _bits_of_weights(arguments: dict[str, Any]) -> str:
    """Return the bits of the weights of a product that keeps them in few, by how many bytes it has for each."""
    columns, results = (next(iter(arguments[side][0].values())) for side in ("input_type_shape", "output_type_shape"))
    return "int8" if int(arguments["parameter_size"]) >= columns[-1] * results[-1] else "int4"


def _has_weights(arguments: dict[str, Any]) -> bool:
    """Whether a product has weights: among its parameters or, where they were packed, no longer among its inputs."""
    matrices = sum(len(next(iter(shape.values()))) > 1 for shape in arguments["input_type_shape"] if shape)
    return matrices < 2 or int(arguments["parameter_size"]) > _SCALES_BYTES
