"""SmoothQuant in ONNX graphs: the same function from smoother activations, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.errors import UnsupportedError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from evaluators.quantizers.onnx_smooth import factors_of, largest_values, smooth, smoothable  # noqa: E402

WIDTH = 16
FEEDS = [{"x": np.random.default_rng(seed).normal(size=(2, 5, WIDTH)).astype(np.float32)} for seed in range(3)]


def a_graph(*, residual: bool, normalized: bool = True) -> Any:
    """A layer normalization with one channel a hundred times the others, and two products that take its output."""
    random = np.random.default_rng(0)
    scale = np.ones(WIDTH, np.float32)
    scale[3] = 100.0
    weights = {name: random.normal(size=(WIDTH, 8)).astype(np.float32) for name in ("query", "key")}
    first = (
        helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["h"], axis=-1)
        if normalized
        else helper.make_node("Mul", ["x", "scale"], ["h"])
    )
    nodes = [first, *(helper.make_node("MatMul", ["h", name], [f"{name}_out"], name=name) for name in weights)]
    outputs = {f"{name}_out": 8 for name in weights}
    if residual:
        nodes.append(helper.make_node("Add", ["h", "x"], ["sum"]))
        outputs["sum"] = WIDTH
    tensors = {"scale": scale, "bias": random.normal(size=WIDTH).astype(np.float32), **weights}
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 5, width]) for name, width in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answers(model: Any) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [array for feed in FEEDS for array in session.run(None, feed)]


def spread(model: Any) -> float:
    """How many times the median channel the largest one has, in what enters the products."""
    entering = next(node.input[0] for node in model.graph.node if node.op_type == "MatMul")
    largest = largest_values(model, [entering], FEEDS)[entering]
    return float(largest.max() / np.median(largest))


@pytest.mark.parametrize("residual", [False, True])
def test_a_smoothed_model_computes_the_same_from_smoother_activations(residual: bool, tmp_path: Path) -> None:
    before, path = a_graph(residual=residual), tmp_path / "model.onnx"
    path.write_bytes(before.SerializeToString())

    smooth(path, FEEDS, 0.5)

    after = onnx.load(str(path))
    onnx.checker.check_model(after)
    for mine, theirs in zip(answers(after), answers(before), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)
    assert spread(before) > 50 > 15 > spread(after)


@pytest.mark.parametrize(("residual", "nodes"), [(False, []), (True, ["Mul"])])
def test_the_division_is_a_node_only_where_something_else_takes_the_output(
    residual: bool, nodes: list[str], tmp_path: Path
) -> None:
    before, path = a_graph(residual=residual), tmp_path / "model.onnx"
    path.write_bytes(before.SerializeToString())

    smooth(path, FEEDS, 0.5)

    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert [kind for kind in kinds if kind == "Mul"] == nodes
    assert len(kinds) == len(before.graph.node) + len(nodes)


def test_a_weight_that_two_products_share_is_left_alone() -> None:
    model = a_graph(residual=False)
    model.graph.node[2].input[1] = "query"

    assert smoothable(model) == []


def test_a_model_without_layer_normalizations_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(a_graph(residual=False, normalized=False).SerializeToString())

    with pytest.raises(UnsupportedError, match="layer normalizations"):
        smooth(path, FEEDS, 0.5)


def test_factors_even_out_activations_and_weights() -> None:
    activations, weights = np.array([100.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0])

    factors = factors_of(activations, weights, 0.5)

    np.testing.assert_allclose(factors[:2], [10.0, 1.0], rtol=1e-6)
    assert np.isfinite(factors).all() and (factors > 0).all()
