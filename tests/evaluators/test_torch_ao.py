"""torchao's dynamic schemes: which layers they take, what they refuse; int8 is computed here, fp8 on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.diagnosis.eager import executed
from evaluators.diagnosis.executed import COMPUTING
from evaluators.errors import UnsupportedError
from evaluators.quantizers import exported, torch_ao
from evaluators.quantizers.exported import InductorDynamicFloat8, InductorDynamicInt8
from evaluators.quantizers.torch_ao import fits, quantize_dynamically, refuse_dynamic
from evaluators.quantizers.torch_float import EagerDynamicFloat8
from evaluators.quantizers.torch_fx import EagerDynamicInt8
from evaluators.quantizers.torch_recipe import Recipe, apply_recipe
from evaluators.structure import Structure, TensorSpec
from evaluators.target import Target, probe_target
from evaluators.testing import conformance
from evaluators.testing.computing import sqnr_db

pytest.importorskip("torchao")
INPUTS = Structure(style="tensor", tensors=(TensorSpec(name="input", dtype="float32", shape=(None, 32)),))


def a_gpu(*features: str) -> Target:
    return Target(name="cuda-sm90", processor="", features=features, cores=1, memory_bytes=1, system="")


class Marked(nn.Linear):
    """A linear layer that may do anything in its forward."""


def a_model() -> nn.Module:
    """Widths of 32, 48, 20 and 8: the last layer's inputs are no multiple of 8."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), Marked(48, 48), nn.Linear(48, 20), nn.Linear(20, 8)).eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch_ao")


@pytest.mark.parametrize(
    ("layer", "int8", "fp8"),
    [
        (nn.Linear(32, 48), True, True),
        (nn.Linear(8, 24), True, False),
        (nn.Linear(20, 16), False, False),
        (nn.Linear(16, 20), False, False),
        (Marked(32, 48), False, False),
        (nn.Conv2d(16, 16, 1), False, False),
    ],
)
def test_layers_are_taken_by_their_widths_and_only_plain_ones(layer: nn.Module, int8: bool, fp8: bool) -> None:
    assert (fits(layer, "dynamic_int8"), fits(layer, "dynamic_fp8")) == (int8, fp8)


@pytest.mark.parametrize(
    "quantizer", [EagerDynamicInt8, InductorDynamicInt8, EagerDynamicFloat8, InductorDynamicFloat8]
)
def test_a_gpu_without_the_units_is_refused_by_name(quantizer: Callable[[], Any], home: Path) -> None:
    made, profile = quantizer(), conformance.profile_of("evaluators.testing.workloads:texts", home)
    feature = made.scheme.removeprefix("dynamic_")

    assert made.refuse(profile, a_gpu("fp16")) == f"cuda-sm90 has no {feature} matrix units"
    assert made.refuse(profile, a_gpu("fp16", feature)) is None


def test_a_model_without_linear_layers_is_refused(home: Path) -> None:
    profile = conformance.profile_of("evaluators.testing.workloads:images", home)
    convolutional = profile.model_copy(update={"layers": {"Conv2d": 3}})

    assert "the model has none" in str(refuse_dynamic("int8", convolutional, a_gpu("int8")))


def test_without_torchao_the_reason_is_how_to_get_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(torch_ao.metadata, "version", version)
    profile = conformance.profile_of("evaluators.testing.workloads:texts", home)

    assert refuse_dynamic("int8", profile, a_gpu("int8")) == "torchao is not installed: pip install torchao"


def test_a_model_of_which_no_layer_fits_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"no Linear layer .* multiples of 8, as dynamic_int8 needs them"):
        quantize_dynamically(nn.Sequential(nn.Linear(20, 8), Marked(32, 32)), "dynamic_int8")


def test_int8_is_computed_and_only_in_the_layers_that_fit() -> None:
    model, numbers = a_model(), torch.randn(16, 32, generator=torch.Generator().manual_seed(1))
    wanted = model(numbers).detach()
    before = [parameter.clone() for parameter in model[4].parameters()]

    quantized = quantize_dynamically(model, "dynamic_int8")

    kinds = [type(layer.weight).__name__ for layer in quantized if hasattr(layer, "weight")]
    assert [kind == "Parameter" for kind in kinds] == [False, True, True, True]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(quantized[4].parameters(), before, strict=True))
    found = quantized(numbers).detach()
    assert 25 < sqnr_db([found.numpy()], [wanted.numpy()]) < 60, "close to the model, and not the model itself"


def test_each_row_of_activations_has_a_scale_of_its_own() -> None:
    """A large example beside a small one costs the small one nothing."""
    quantized = quantize_dynamically(a_model(), "dynamic_int8")
    row = torch.randn(1, 32, generator=torch.Generator().manual_seed(2))

    alone = quantized(row)
    beside = quantized(torch.cat([row, row * 1000]))[:1]

    np.testing.assert_allclose(beside.detach().numpy(), alone.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_recipe_of_torchao_gives_the_same_numbers_every_time() -> None:
    numbers = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    recipe = Recipe("dynamic_int8", engine=torch_ao.TORCHAO)

    first, second = (apply_recipe(recipe, a_model(), INPUTS)(numbers) for _ in range(2))

    assert torch.equal(first, second)
    assert not torch.equal(first, a_model()(numbers))


def test_a_diagnosis_sees_the_products_in_int8() -> None:
    model, numbers = quantize_dynamically(a_model(), "dynamic_int8"), torch.randn(16, 32)

    with torch.inference_mode():
        products = [item for item in executed(lambda: model(numbers)) if item.kind in COMPUTING]

    assert [item.precision for item in products] == ["int8", "fp32", "fp32", "fp32"]
    assert {item.kind for item in products} == {"linear"}


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="torchao is not used for 'static_int8'"):
        torch_ao._configuration("static_int8")


def test_the_configurations_are_torchaos_and_leave_inductors_settings_alone() -> None:
    from torchao.quantization import PerRow

    int8, fp8 = (torch_ao._configuration(scheme) for scheme in ("dynamic_int8", "dynamic_fp8"))

    assert (int8.set_inductor_config, fp8.set_inductor_config) == (False, False)
    granularity = fp8.granularity if isinstance(fp8.granularity, list | tuple) else [fp8.granularity]
    assert all(isinstance(each, PerRow) for each in granularity)


def test_a_quantized_module_is_exported_and_read_back(tmp_path: Path) -> None:
    """What ``InductorDynamicInt8`` writes and inductor compiles, with the module on the processor."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = quantize_dynamically(a_model(), "dynamic_int8")

        def forward(self, numbers: Tensor) -> tuple[Tensor]:
            return (self.model(numbers),)

    module, numbers = Rows().eval(), torch.randn(2, 32, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        program = torch.export.export(module, (numbers,), strict=False)
    torch.export.save(program, tmp_path / exported.PROGRAM)

    read = exported.read_program(tmp_path, "dynamic_int8").module()

    with torch.no_grad():
        np.testing.assert_allclose(read(numbers)[0].numpy(), module(numbers)[0].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", ["dynamic_int8", "dynamic_fp8"])
def test_products_are_computed_low_on_a_gpu(scheme: str) -> None:
    if not torch.cuda.is_available() or not probe_target().has(scheme.removeprefix("dynamic_")):
        pytest.skip(f"no GPU with {scheme}")
    numbers = torch.randn(32, 32, generator=torch.Generator().manual_seed(1)).cuda()
    model = a_model().cuda()
    wanted = model(numbers).detach().cpu()

    found = quantize_dynamically(model, scheme)(numbers).detach().cpu()

    assert 20 < sqnr_db([found.float().numpy()], [wanted.numpy()]) < 60
