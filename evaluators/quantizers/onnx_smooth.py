"""SmoothQuant for the ONNX form: channels of activations with large values are divided, and weights multiplied for it.

Xiao et al. 2023, "SmoothQuant": what enters products from a layer normalization has a few channels that are much larger
than the others, and with one scale for all channels these leave few steps for the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.errors import UnsupportedError

_SMALLEST = np.float32(1e-5)


@dataclass(frozen=True)
class Smoothable:
    """The output of a layer normalization and the products with weights that take it.

    ``alone`` says that nothing else does, and that the normalization's own weights can take the division.
    """

    name: str
    normalization: Any
    products: tuple[Any, ...]
    alone: bool


def smooth(path: Path, feeds: Sequence[Mapping[str, np.ndarray]], alpha: float) -> None:
    """Rewrite the float model at ``path`` so that it computes the same from smoother activations.

    ``alpha`` is how much of the range moves to the weights: 0 nothing but what evens out the weights, 1 all of it.

    Raises:
        UnsupportedError: no layer normalization feeds a product with weights.
    """
    import onnx

    model = onnx.load(str(path))
    found = smoothable(model)
    if not found:
        raise UnsupportedError("SmoothQuant divides what enters products from layer normalizations; here is none")
    largest = largest_values(model, [item.name for item in found], feeds)
    for item in found:
        _divide(model, item, largest[item.name], alpha)
    path.write_bytes(model.SerializeToString())


def smoothable(model: Any) -> list[Smoothable]:
    """Return what can be smoothed, in the order of the graph; a weight that several nodes use stays as it is."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) in (1, 2)}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    found = []
    for normalization in graph.node:
        if normalization.op_type != "LayerNormalization":
            continue
        name = normalization.output[0]
        products = tuple(
            node for node in graph.node
            if node.op_type == "MatMul" and node.input[0] == name and node.input[1] in weights
            and uses[node.input[1]] == 1
        )  # fmt: skip
        own = normalization.input[1:]
        alone = uses[name] == len(products) and all(each in weights and uses[each] == 1 for each in own)
        if products:
            found.append(Smoothable(name, normalization, products, alone))
    return found


def largest_values(
    model: Any, names: Sequence[str], feeds: Iterable[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Run a model and return the largest absolute value of each channel (last axis) of the values with these names."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto.FromString(model.SerializeToString())
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    largest: dict[str, np.ndarray] = {}
    for feed in feeds:
        for name, value in zip(names, session.run(list(names), dict(feed)), strict=True):
            most = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, most), most)
    return largest


def factors_of(activations: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """Return what each channel is divided by, from the largest values of activations and weights (equation 4)."""
    factors = np.maximum(activations, _SMALLEST) ** alpha / np.maximum(weights, _SMALLEST) ** (1 - alpha)
    clipped: np.ndarray = np.maximum(factors, _SMALLEST).astype(np.float32)
    return clipped


def _divide(model: Any, item: Smoothable, activations: np.ndarray, alpha: float) -> None:
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    matrices = {node.input[1]: numpy_helper.to_array(tensors[node.input[1]]) for node in item.products}
    rows = np.max([np.abs(matrix).max(axis=1) for matrix in matrices.values()], axis=0)
    factors = factors_of(activations, rows, alpha)
    for name, matrix in matrices.items():
        tensors[name].CopyFrom(numpy_helper.from_array(matrix * factors[:, None], name))
    if item.alone:
        for name in item.normalization.input[1:]:
            tensors[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensors[name]) / factors, name))
        return
    smoothed, divisor = f"{item.name}_smoothed", f"{item.name}_factors"
    graph.initializer.append(numpy_helper.from_array(1 / factors, divisor))
    place = next(index for index, node in enumerate(graph.node) if node.output[:1] == [item.name])
    for node in item.products:
        node.input[0] = smoothed
    graph.node.insert(place + 1, helper.make_node("Mul", [item.name, divisor], [smoothed], name=smoothed))
