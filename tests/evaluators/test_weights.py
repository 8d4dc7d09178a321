"""Weights in 8 and 4 bits: how they are stored, what is computed with them, and for which models they are offered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from evaluators.errors import IntegrityError
from evaluators.quantizers.torch_fx import EagerStaticInt8
from evaluators.quantizers.torch_recipe import Recipe, apply_recipe, read_recipe
from evaluators.quantizers.torch_weights import grains_of
from evaluators.quantizers.traits import narrowed_samples, refuse_weight_only, samples
from evaluators.quantizers.weight_layers import Int4Linear, Int8Embedding, Int8Linear, with_int8_tables, with_weights_in
from evaluators.stages.packed import SCALE, Grain, pack, read_tensors, rounded, widened
from evaluators.structure import Structure, TensorSpec
from evaluators.target import probe_processor
from evaluators.testing import conformance
from evaluators.testing.cases import Case, answer, load
from evaluators.testing.computing import sqnr_db
from evaluators.workload import load_workload

GRAINS = (Grain(8, "row"), Grain(8, "tensor"), Grain(4, 32))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Marked(nn.Linear):
    """A linear layer that may do anything in its forward."""


def a_model() -> nn.Module:
    """Linear layers of 64 to 48, 48 to 32 (marked), 32 to 32, 32 to 12 and 12 to 7."""
    torch.manual_seed(0)
    layers = (nn.Linear(64, 48), nn.ReLU(), Marked(48, 32), nn.ReLU(), nn.Linear(32, 32))
    return nn.Sequential(*layers, nn.Linear(32, 12), nn.Linear(12, 7)).eval().requires_grad_(False)


@pytest.mark.parametrize("grain", GRAINS, ids=str)
def test_what_is_read_back_is_rounded_to_the_same_numbers_again(grain: Grain) -> None:
    weight = noise(24, 64) * torch.logspace(-3, 3, 24)[:, None]

    whole, scales = rounded(weight, grain)
    again, _ = rounded(widened(whole, scales), grain)

    assert torch.equal(whole, again)
    assert int(whole.abs().max()) == grain.largest


@pytest.mark.parametrize("grain", GRAINS, ids=str)
def test_a_file_holds_whole_numbers_and_gives_floats(grain: Grain, tmp_path: Path) -> None:
    given = {"layer.weight": noise(16, 64), "layer.bias": noise(16)}
    path = tmp_path / "weights.safetensors"

    save_file(pack(given, {"layer.weight": grain}), path)
    found = read_tensors(path)

    assert load_file(path)["layer.weight"].element_size() == 1
    assert load_file(path)["layer.weight"].numel() == 16 * 64 * grain.bits // 8
    assert found.keys() == given.keys()
    assert torch.equal(found["layer.bias"], given["layer.bias"])
    assert torch.equal(found["layer.weight"], widened(*rounded(given["layer.weight"], grain)))


def test_rows_of_zeros_stay_zeros(tmp_path: Path) -> None:
    weight = torch.cat([torch.zeros(1, 8), noise(1, 8)])

    whole, scales = rounded(weight, Grain(8, "row"))

    assert torch.isfinite(scales).all()
    assert not widened(whole, scales)[0].any()


@pytest.mark.parametrize("broken", [{"a": torch.ones(6, dtype=torch.int8), f"a{SCALE}": torch.ones(4)},
                                    {f"a{SCALE}": torch.ones(4)}])  # fmt: skip
def test_scales_that_fit_no_weight_are_refused(broken: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(broken, tmp_path / "weights.safetensors")

    with pytest.raises(IntegrityError, match="scales"):
        read_tensors(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("scheme", "workload", "int8"),
    [
        ("static_int8", "images", {"stem.weight", "inner.weight", "last.weight", "head.weight"}),
        ("dynamic_int8", "series", {"lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight"}),
        ("dynamic_int8", "images", {"head.weight"}),
    ],
)
def test_an_eager_bundle_stores_what_it_computes_with(scheme: str, workload: str, int8: set[str], home: Path) -> None:
    """The bundle answers as the float model quantized by the same recipe does: the whole numbers are the same."""
    case = Case("eager", scheme, workload, 2)
    bundle, profile = conformance.build(case, home), conformance.profile_of(case.reference, home)
    floats = load_workload(case.reference).model().eval()

    stored = load_file(bundle / "weights.safetensors")
    quantized = apply_recipe(read_recipe(bundle), floats, profile.inputs)
    runner, batch = load(bundle), conformance.inputs_of(case)[0]

    assert {name for name, tensor in stored.items() if tensor.dtype == torch.int8} == int8
    with torch.inference_mode():
        wanted = quantized(torch.from_numpy(batch["input"])).numpy()
    np.testing.assert_allclose(answer(runner, batch)[0], wanted, rtol=1e-5, atol=1e-6)  # another whole number: 1e-3


def test_a_recipe_from_before_quantizes_over_torchs_own_range() -> None:
    """A bundle with float weights goes on computing what was measured when it was built."""
    inputs = Structure(style="tensor", tensors=(TensorSpec(name="input", dtype="float32", shape=(None, 64)),))

    before = apply_recipe(Recipe("dynamic_int8", engine="x86"), a_model(), inputs)
    packed = apply_recipe(Recipe("dynamic_int8", engine="x86", packed=True), a_model(), inputs)

    lowest = [int(module[0].weight().int_repr().min()) for module in (before, packed)]
    assert lowest[0] == -128 or int(before[0].weight().int_repr().max()) == 127
    assert lowest[1] >= -127
    scales = [module[0].weight().q_per_channel_scales() for module in (before, packed)]
    torch.testing.assert_close(scales[0] * 127.5, scales[1] * 127.0)


@pytest.mark.parametrize(("bits", "least_db"), [(8, 35.0), (4, 12.0)])
def test_layers_with_few_bits_compute_what_the_floats_do(bits: int, least_db: float) -> None:
    model, x = a_model(), noise(2, 5, 64, seed=1)
    wanted = model(x)

    found = with_weights_in(a_model(), bits, 32)(x)

    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert least_db < sqnr_db([found.numpy()], [wanted.numpy()]) < 80


def test_a_layer_that_the_kernel_for_4_bits_does_not_take_has_8_and_the_smallest_stay() -> None:
    """Twelve outputs are no multiple of 16, a group of 64 does not fit 32 inputs, and seven outputs are too few."""
    model = with_weights_in(a_model(), 4, 64)

    kinds = [type(model[index]) for index in (0, 2, 4, 5, 6)]
    assert kinds == [Int4Linear, Marked, Int4Linear, Int8Linear, nn.Linear]
    assert (model[0].group_size, model[4].group_size) == (64, 32)
    stored = {"0.weight": Grain(4, 64), "4.weight": Grain(4, 32), "5.weight": Grain(8, "row")}
    assert grains_of(a_model(), "weight_int4", 64) == stored


def test_a_table_in_int8_is_looked_up_row_by_row() -> None:
    table = nn.Embedding(40, 16)
    ids = torch.tensor([[3, 3, 39], [0, 7, 1]])

    found = with_int8_tables(nn.Sequential(table))

    assert isinstance(found[0], Int8Embedding)
    assert sqnr_db([found(ids).detach().numpy()], [table(ids).detach().numpy()]) > 35


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ({"Linear": 3, "LayerNorm": 2, "Embedding": 1}, None),
        ({"Linear": 1, "Conv2d": 9}, "the model has Conv2d layers"),
        ({"Linear": 1, "LSTM": 1}, "the model has LSTM layers"),
        ({"Embedding": 1}, "the model has none"),
    ],
)
def test_weights_alone_are_quantized_where_linear_layers_hold_them(
    layers: dict[str, int], why: str | None, home: Path
) -> None:
    profile = conformance.profile_of("evaluators.testing.workloads:texts", home).model_copy(update={"layers": layers})

    said = refuse_weight_only(profile)

    assert said is None if why is None else why in str(said)


@pytest.mark.parametrize(
    ("available", "values"), [(1000, (64, 128)), (128, (64, 128)), (65, (64, 128)), (64, None), (10, None)]
)
def test_the_number_of_samples_is_a_knob_where_more_than_few_examples_are_there(
    available: int, values: tuple[int, ...] | None, home: Path
) -> None:
    texts = conformance.profile_of("evaluators.testing.workloads:texts", home)

    knob = narrowed_samples(samples(128), texts.model_copy(update={"calibration_examples": available}))

    assert (knob and knob.values) == values
    assert knob is None or knob.default == 128


def test_tables_of_a_graph_are_stored_in_int8_where_they_are_only_looked_up() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    from evaluators.quantizers.onnx_weights import store_tables_in_int8

    table, tied = noise(64, 32).numpy(), noise(32, 32, seed=1).numpy()
    ids = np.array([[1, 5], [63, 0]])
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Gather", ["tied", "ids_of_tied"], ["others"]),
            helper.make_node("MatMul", ["others", "tied"], ["products"]),
        ],
        "lookups",
        [helper.make_tensor_value_info(name, TensorProto.INT64, [2, 2]) for name in ("ids", "ids_of_tied")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2, 32]) for name in ("rows", "products")],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(tied, "tied")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    feeds = {"ids": ids, "ids_of_tied": ids % 32}
    wanted = ReferenceEvaluator(model).run(None, feeds)

    count = store_tables_in_int8(model)

    onnx.checker.check_model(model)
    found = ReferenceEvaluator(model).run(None, feeds)
    assert count == 1
    assert {tensor.name for tensor in model.graph.initializer} == {"table_int8", "table_scale", "tied"}
    assert 35 < sqnr_db([found[0]], [wanted[0]]) < 80
    np.testing.assert_array_equal(found[1], wanted[1])


def test_blocks_of_a_product_divide_its_inputs() -> None:
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    from evaluators.quantizers.onnx_weights import blocks_of

    sizes = {"wide": 384, "narrow": 32, "odd": 20, "varies": 0}
    nodes = [helper.make_node("MatMul", [f"x_{name}", name], [f"y_{name}"], name=name) for name in sizes]
    weights = [numpy_helper.from_array(np.zeros((size, 8), np.float32), name) for name, size in sizes.items() if size]
    graph = helper.make_graph(
        nodes, "products", [helper.make_tensor_value_info("varies", TensorProto.FLOAT, [4, 8])], [], weights
    )

    blocks = blocks_of(helper.make_model(graph), 128)

    assert blocks == {"wide": 128, "narrow": 32, "odd": 16}


@pytest.mark.parametrize(("bytes_", "precision"), [(64 * 48 + 200, "int8"), (64 * 24 + 200, "int4")])
def test_a_product_with_few_bits_tells_how_many(bytes_: int, precision: str) -> None:
    from evaluators.diagnosis.onnxruntime import read_profile

    shapes = {"input_type_shape": [{"float": [2, 64]}], "output_type_shape": [{"float": [2, 48]}]}
    arguments = {"op_name": "MatMulNBits", "node_index": "0", "parameter_size": str(bytes_), **shapes}
    event = {"cat": "Node", "name": "product_kernel_time", "dur": 5, "args": arguments}

    assert [(item.kind, item.precision) for item in read_profile([event])] == [("linear", precision)]


@pytest.mark.parametrize(("scheme", "fallbacks"), [("weight_int4", 0), ("static_int8", 1)])
def test_products_in_float_are_what_quantizing_weights_alone_asks_for(scheme: str, fallbacks: int) -> None:
    from evaluators.diagnosis.executed import Executed, summarize

    assert summarize([Executed("linear", "bf16"), Executed("linear", "int8")], scheme).fallbacks == fallbacks


def test_eager_is_offered_the_engines_whose_sums_hold_on_the_processor(home: Path) -> None:
    images = conformance.profile_of("evaluators.testing.workloads:images", home)

    offered = {}
    for name, features in (("avx2", ("avx2",)), ("vnni", ("avx512_vnni",)), ("arm", ("neon",))):
        target = probe_processor().model_copy(update={"name": f"cpu-{name}", "features": features})
        target = target.model_copy(update={"system": "Linux aarch64" if name == "arm" else "Linux x86_64"})
        knobs = {knob.name: knob for knob in EagerStaticInt8().parameters_for(images, target)}
        offered[name] = (knobs["engine"].values if "engine" in knobs else None, knobs["per_channel"].default)

    assert offered == {
        "avx2": (("x86", "fbgemm", "qnnpack"), True),
        "vnni": (("x86", "fbgemm", "onednn"), True),
        "arm": (None, False),
    }
