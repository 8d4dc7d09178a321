"""float_share keeps in float exactly the layers that int8 costs most, in every backend's own form of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluators.cache import StageCache
from evaluators.candidate import Candidate
from evaluators.errors import UnsupportedError
from evaluators.quantizers.kept_float import require_float_nodes
from evaluators.quantizers.kept_nodes import layer_tensors, nodes_to_exclude, openvino_operators
from evaluators.registry import backend, quantizers
from evaluators.stages.build_target import build_target
from evaluators.stages.clock import StageClock
from evaluators.stages.restore import restore_module
from evaluators.stages.source import StagedSource
from evaluators.stages.sourcing import Sourcing
from evaluators.target import probe_target
from evaluators.testing import conformance
from evaluators.testing.computing import sqnr_db
from tests.evaluators.spiked import SPOILT, workload

SPIKED = "tests.evaluators.spiked:workload"
LAYERS = {"stem", "inner", "last", "wide", "head"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("float_share")


def quantized(backend_name: str, share: float, home: Path, folder: Path) -> StagedSource:
    """Quantize the spiked model with every other knob at its default, into ``folder``."""
    pytest.importorskip({"eager": "torch", "inductor": "torchao"}.get(backend_name, backend_name))
    profile, target = conformance.profile_of(SPIKED, home), build_target(probe_target().name, backend(backend_name))
    quantizer = quantizers()[backend_name, "static_int8"]
    if why := quantizer.refuse(profile, target):
        pytest.skip(why)
    cache = StageCache(home / "cache" / "stages")
    clock = StageClock(lambda _: None)
    weights = Sourcing(workload, profile, cache, clock, 0).weights(Candidate(target=target.name, backend="eager"))
    source = StagedSource(workload, profile, weights, cache, 4, target)
    values = {knob.name: knob.default for knob in quantizer.parameters_for(profile, target)}
    folder.mkdir()
    quantizer.quantize(source, {**values, "float_share": share}, folder)
    return source


def eager_outputs(folder: Path, source: StagedSource) -> tuple[Any, set[str]]:
    from evaluators.quantizers.torch_recipe import apply_recipe, read_recipe

    module = apply_recipe(read_recipe(folder), restore_module(workload, folder), source.profile.inputs)
    kept = {name for name, layer in module.named_modules() if name in LAYERS and ".quantized" not in str(type(layer))}
    return (lambda images: module(images).numpy()), kept


def inductor_outputs(folder: Path, source: StagedSource) -> tuple[Any, set[str]]:
    from evaluators.quantizers.exported import read_program

    program = read_program(folder, "static_int8").module()
    kept = set()
    for node in program.graph.nodes:
        computes = "conv2d" in str(node.target) or "linear" in str(node.target)
        if computes and "dequantize" not in str(node.args[1].target):
            kept.add(str(node.args[1].target).removeprefix("model.").removesuffix(".weight"))
    return (lambda images: program(images)[0].numpy()), kept


def onnxruntime_outputs(folder: Path, source: StagedSource) -> tuple[Any, set[str]]:
    import onnx
    import onnxruntime

    graph = onnx.load(str(folder / "model.onnx")).graph
    names = {name for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul") for name in node.input[1:2]}
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    kept = {layer for layer in LAYERS if f"model.{layer}.weight" in names}
    return (lambda images: session.run(None, {"input": images.numpy()})[0]), kept


def openvino_outputs(folder: Path, source: StagedSource) -> tuple[Any, set[str]]:
    import openvino

    model = openvino.Core().read_model(str(folder / "model.xml"))
    shapes = {tuple(layer.weight.shape): name for name, layer in source.module().named_modules() if name in LAYERS}
    computing = [each for each in model.get_ops() if each.get_type_name() in ("Convolution", "MatMul")]
    weights = [each.input_value(1).get_node() for each in computing]  # those of int8 are scaled by a Multiply
    kept = {shapes[tuple(each.get_output_shape(0))] for each in weights if each.get_type_name() == "Constant"}
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return (lambda images: compiled(images.numpy())[0]), kept


FORMS: dict[str, Callable[[Path, StagedSource], tuple[Any, set[str]]]] = {
    "eager": eager_outputs, "inductor": inductor_outputs, "onnxruntime": onnxruntime_outputs,
    "openvino": openvino_outputs,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_the_layer_that_int8_costs_most_stays_in_float_and_the_outputs_are_nearer(
    name: str, home: Path, tmp_path: Path
) -> None:
    images = torch.stack([workload.validation()[i][0] for i in range(32)])
    wanted = workload.model()(images).detach().numpy()
    found = {}

    for share in (0.0, 0.1):
        folder = tmp_path / str(share)
        outputs, kept = FORMS[name](folder, quantized(name, share, home, folder))
        found[share] = (kept, sqnr_db([outputs(images)], [wanted]))

    assert found[0.0][0] == set()
    assert found[0.1][0] == {SPOILT}
    assert found[0.1][1] > found[0.0][1] + 6


@pytest.mark.parametrize("name", FORMS)
def test_half_of_the_layers_are_the_first_half_of_the_ranking(name: str, home: Path, tmp_path: Path) -> None:
    source = quantized(name, 0.5, home, tmp_path / "half")

    _, kept = FORMS[name](tmp_path / "half", source)

    assert kept == {layer.name for layer in source.sensitivity()[:3]}


def a_graph(*scopes: str | None) -> Any:
    """A chain of convolutions, each with the module that the exporter noted at it, and a weight of its own."""
    onnx = pytest.importorskip("onnx")
    nodes = [
        onnx.helper.make_node("Conv", [f"t{i}", f"model.conv{i}.weight"], [f"t{i + 1}"], name=f"node_{i}")
        for i in range(len(scopes))
    ]
    for node, scope in zip(nodes, scopes, strict=True):
        if scope is not None:
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', 'model', {scope!r}, 'conv2d']")
    return onnx.helper.make_graph(nodes, "chain", [], [])


@pytest.mark.parametrize(
    ("scopes", "tensors"),
    [
        (("model.conv0", "model.conv1", "model.conv2"), ["t2"]),
        (("model.conv0", "model.norm1", "model.conv2"), ["t2"]),  # a batch norm was folded into it
        ((None, None, None), ["t2"]),
        (("model.conv1", "model.conv1@1", "model.conv2"), ["t1", "t2"]),  # called twice
    ],
)
def test_the_nodes_of_a_layer_are_those_of_its_module_or_else_of_its_weight(
    scopes: tuple[str | None, ...], tensors: list[str]
) -> None:
    graph = a_graph(*scopes)

    assert layer_tensors(graph, ["conv1"]) == {"conv1": tensors}
    assert nodes_to_exclude(graph, {"conv1": tensors}) == [f"node_{int(name[1:]) - 1}" for name in tensors]


def test_a_layer_that_a_graph_does_not_tell_of_is_refused() -> None:
    graph = a_graph("model.conv0", "model.conv1")

    with pytest.raises(UnsupportedError, match="'head' is to stay in float, and is not found in the ONNX graph"):
        layer_tensors(graph, ["conv0", "head"])
    with pytest.raises(UnsupportedError, match="'conv0' is to stay in float, and onnxruntime has fused it away"):
        nodes_to_exclude(graph, {"conv0": ["renamed"]})


def test_a_layer_that_openvino_does_not_tell_of_is_refused() -> None:
    openvino = pytest.importorskip("openvino")
    parameter = openvino.opset13.parameter([1, 4], name="input")
    model = openvino.Model([openvino.opset13.relu(parameter)], [parameter], "relu")

    with pytest.raises(UnsupportedError, match="'head' is to stay in float, and is not found in OpenVINO's model"):
        openvino_operators(model, {"head": ["output"]})


@pytest.mark.parametrize(
    ("name", "excluding"),
    [
        ("eager", "torch.ao.quantization.QConfigMapping.set_module_name"),
        ("inductor", "evaluators.quantizers.exported.exported_paths"),
        ("onnxruntime", "evaluators.quantizers.onnx.nodes_to_exclude"),
        ("openvino", "nncf.IgnoredScope"),
    ],
)
def test_a_layer_that_was_quantized_all_the_same_is_an_error(
    name: str, excluding: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(excluding.partition(".")[0])
    monkeypatch.setattr(excluding, lambda *_, **__: None if name == "openvino" else [])

    with pytest.raises(UnsupportedError, match="layer 'stem' was to stay in float, and "):
        quantized(name, 0.1, home, tmp_path / "all")


def test_a_layer_that_an_exported_program_does_not_tell_of_is_refused() -> None:
    program = torch.export.export(nn.Sequential(nn.Linear(4, 4)), (torch.randn(2, 4),)).module()

    with pytest.raises(UnsupportedError, match="'head' is to stay in float, and is not found"):
        require_float_nodes(program, ["head"])
