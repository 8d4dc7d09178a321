"""What holds for single backends beyond the conformance suite (see test_conformance.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.stages.export import export_program
from evaluators.testing import conformance
from evaluators.testing.computing import check_parity
from evaluators.testing.conformance import Case, UnavailableError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.mark.parametrize(
    "case",
    [case for case in conformance.variations(workload="texts") if case.backend != "inductor"],  # compiles for seconds
    ids=str,
)
def test_every_value_of_a_knob_works_on_inputs_of_varying_length(case: Case, home: Path) -> None:
    try:
        check_parity(case, home)
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_bundle_runs_without_torch(backend: str, home: Path, tmp_path: Path) -> None:
    case = Case(backend, "fp32", "images", 4)
    pytest.importorskip(backend)
    bundle = conformance.build(case, home)

    conformance.run_elsewhere(bundle, conformance.inputs_of(case), tmp_path)

    assert "torch" not in conformance.modules_of(tmp_path)


@pytest.mark.parametrize("scheme", ["fp32", "dynamic_int8", "static_int8"])
def test_eager_bundle_holds_no_pickle(scheme: str, home: Path) -> None:
    bundle = conformance.build(Case("eager", scheme, "images", 4), home)

    assert {path.suffix for path in bundle.iterdir()} == {".json", ".safetensors"}


def test_reloaded_static_int8_module_is_the_calibrated_one(home: Path) -> None:
    from torch.ao.quantization.quantize_fx import convert_fx

    from evaluators.quantizers.torch_recipe import Recipe, apply_recipe, calibrate, observed
    from evaluators.testing.workloads import images

    inputs = conformance.profile_of("evaluators.testing.workloads:images", home).inputs
    batch = torch.stack([example for example, _ in images.calibration()])
    recipe = Recipe("static_int8", engine="x86", everything=True)
    prepared = observed(images.model(), inputs, recipe, "histogram", reduce_range=False)
    activations = calibrate(prepared, [batch])

    reloaded = apply_recipe(
        Recipe("static_int8", engine="x86", everything=True, activations=activations), images.model(), inputs
    )

    np.testing.assert_array_equal(reloaded(batch).numpy(), convert_fx(prepared)(batch).numpy())


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_model_that_branches_on_its_data_is_refused_with_a_reason(home: Path) -> None:
    profile = conformance.profile_of("evaluators.testing.workloads:images", home)

    with pytest.raises(UnsupportedError, match=r"^torch.export cannot capture the model: .*data-dependent"):
        export_program(Branching(), torch.randn(2, 3, 16, 16), profile, None)


def test_a_library_out_of_memory_is_no_property_of_the_model() -> None:
    with pytest.raises(MemoryError), converting("conversion failed"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")
