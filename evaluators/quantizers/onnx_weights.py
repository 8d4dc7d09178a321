"""Quantizers in the ONNX form that quantize weights only: onnxruntime's MatMulNBits with 8 and 4 bits, and tables."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.parameters import Choice, Parameter
from evaluators.quantizers.torch_weights import GROUP_SIZE
from evaluators.quantizers.weight_only import WeightOnly
from evaluators.source import SourceModel

_BLOCK_OF_INT8 = 128
_SMALLEST_BLOCK = 16  # MatMulNBits takes powers of two from here
_COMPUTED = {"fp32": 1, "int8": 4}
"""onnxruntime's ``accuracy_level`` of MatMulNBits by what products are computed in."""

_COMPUTE = Choice("compute", ("int8", "fp32"), "int8", "what products are computed in: inputs rounded anew, or float")
_SYMMETRIC = Choice("symmetric", (True, False), True, "weights with zero in the middle of their range")
_SMALLEST_TABLE = 2**10  # numbers; smaller ones are positions and flags, and gain nothing


class OnnxWeightInt8(WeightOnly):
    """int8 weights of matrix products, a scale for each block of 128 inputs, and tables in int8. No calibration."""

    scheme: ClassVar[str] = "weight_int8"
    backends: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    parameters: ClassVar[tuple[Parameter, ...]] = (_COMPUTE,)
    bits: ClassVar[int] = 8

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import onnx

        from evaluators.quantizers.onnx import MODEL, prepared

        with tempfile.TemporaryDirectory() as scratch, converting("onnxruntime cannot quantize the model's weights"):
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
            from onnxruntime.quantization.onnx_model import ONNXModel

            model = ONNXModel(onnx.load(prepared(source, Path(scratch))))
            model.replace_gemm_with_matmul()
            quantized = model.model
            blocks = blocks_of(quantized, int(values.get("group_size", _BLOCK_OF_INT8)))
            for block in sorted(set(blocks.values())):
                quantizer = MatMulNBitsQuantizer(
                    quantized,
                    bits=self.bits,
                    block_size=block,
                    is_symmetric=values.get("symmetric", True) is True,
                    accuracy_level=_COMPUTED[str(values["compute"])],
                    nodes_to_exclude=[name for name, other in blocks.items() if other != block],
                )
                quantizer.process()
                quantized = quantizer.model.model
        if not any(node.op_type == "MatMulNBits" for node in quantized.graph.node):
            raise UnsupportedError("onnxruntime found no product with constant weights in the model")
        store_tables_in_int8(quantized)
        (folder / MODEL).write_bytes(quantized.SerializeToString())


class OnnxWeightInt4(OnnxWeightInt8):
    """int4 weights of matrix products, a scale for each group of inputs; tables in int8. Needs no calibration."""

    scheme: ClassVar[str] = "weight_int4"
    parameters: ClassVar[tuple[Parameter, ...]] = (GROUP_SIZE, _SYMMETRIC, _COMPUTE)
    bits: ClassVar[int] = 4


def blocks_of(model: Any, group_size: int) -> dict[str, int]:
    """Return the inputs that share a scale for each product with constant weights, by the node's name.

    It is the largest power of two up to ``group_size`` that divides the product's inputs, so that no block is padded;
    where none from 16 does, the smallest. Nodes without a name get one.
    """
    rows = {tensor.name: tensor.dims[-2] for tensor in model.graph.initializer if len(tensor.dims) > 1}
    found: dict[str, int] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type == "MatMul" and node.input[1] in rows:
            node.name = node.name or f"product_{index}"
            block = group_size
            while block > _SMALLEST_BLOCK and rows[node.input[1]] % block:
                block //= 2
            found[node.name] = block
    return found


def store_tables_in_int8(model: Any) -> int:
    """Store float tables that are only looked up in int8, a scale for each row, and return how many there were.

    Looked-up rows are widened by ordinary operators, so the values that are computed with are float.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer if _is_table(tensor)}
    users: dict[str, list[Any]] = {name: [] for name in tables}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in users:
                users[name].append(node if _looks_up(node, place) else None)
    chosen = {name: found for name, found in users.items() if found and None not in found}
    taken = {id(node) for found in chosen.values() for node in found}
    for name in chosen:
        whole, scales = rounded_rows(numpy_helper.to_array(tables[name]))
        graph.initializer.remove(tables[name])
        graph.initializer.extend(
            [numpy_helper.from_array(whole, f"{name}_int8"), numpy_helper.from_array(scales, f"{name}_scale")]
        )
    nodes = []
    for node in graph.node:
        if id(node) not in taken:
            nodes.append(node)
            continue
        table, ids, result = node.input[0], node.input[1], node.output[0]
        for part in ("int8", "scale"):
            nodes.append(helper.make_node("Gather", [f"{table}_{part}", ids], [f"{result}_{part}"], axis=0))
        nodes.append(helper.make_node("Cast", [f"{result}_int8"], [f"{result}_float"], to=1))  # FLOAT
        nodes.append(helper.make_node("Mul", [f"{result}_float", f"{result}_scale"], [result]))
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return len(chosen)


def rounded_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a float table as int8 and a float32 scale for each row, in a column."""
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, np.float32(2.0**-23)).astype(np.float32)
    return np.clip(np.round(table / scales), -127, 127).astype(np.int8), scales


def _is_table(tensor: Any) -> bool:
    rows = list(tensor.dims)
    return bool(tensor.data_type == 1 and len(rows) == 2 and rows[0] * rows[1] >= _SMALLEST_TABLE)  # FLOAT


def _looks_up(node: Any, place: int) -> bool:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return bool(node.op_type == "Gather" and place == 0 and axis == 0)
