"""Quantization-aware training: weights learn to be rounded, once for all backends that quantize them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evaluators import registry
from evaluators.batching import collated
from evaluators.bundle import open_bundle
from evaluators.candidate import Candidate, Pruning
from evaluators.errors import UnsupportedError
from evaluators.jobs import Prepared, PrepareJob, ProfileJob
from evaluators.profile import WorkloadProfile
from evaluators.pruners.unstructured import Unstructured
from evaluators.quantizers.qat import LEAST_EXAMPLES, QatInt8
from evaluators.run_job import run
from evaluators.space import derive_space
from evaluators.stages.qat import RoundedInput, round_weight, train_for_int8
from evaluators.stages.restore import build_model
from evaluators.target import probe_target
from tests import tiny
from tests.search.factories import a_profile

BACKENDS = ("eager", "onnxruntime", "openvino")
"""Those that build in a moment; inductor's quantizer differs from theirs in nothing but its class."""


def test_weights_are_rounded_per_channel_and_gradients_pass() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.3], [100.0, 33.0, -7.0]], requires_grad=True)

    rounded = round_weight(weight, 0)
    rounded.sum().backward()

    scale = torch.tensor([[1.0 / 127], [100.0 / 127]])
    assert torch.allclose(rounded, (weight / scale).round() * scale, atol=1e-5)
    assert torch.equal(weight.grad, torch.ones(2, 3))


def test_inputs_are_rounded_to_the_range_that_was_seen() -> None:
    rounded, layer = RoundedInput(), nn.Linear(1, 1)
    (seen,) = rounded(layer, (torch.tensor([-1.0, 4.1]),))
    rounded.rounds = True

    (found,) = rounded(layer, (torch.tensor([0.013, 2.0, -1.0]),))

    assert torch.equal(seen, torch.tensor([-1.0, 4.1]))
    assert float(found[0]) == pytest.approx(5.1 / 255, rel=0.02)  # the range has begun to follow what came
    assert torch.allclose(found[1:], torch.tensor([2.0, -1.0]), atol=5.1 / 255)


FAR = 40.0


def _lost(model: nn.Module, teacher: nn.Module) -> float:
    """Return the squared error of the answers of ``model`` with every weight in int8."""
    images = torch.stack([tiny.workload.validation()[i][0] for i in range(200)])
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.copy_(round_weight(layer.weight, 0))
        return float((model(images) - teacher(images)).square().mean())


def test_trained_weights_lose_less_when_they_are_rounded() -> None:
    teacher = build_model(tiny.workload)
    coarse = [build_model(tiny.workload) for _ in range(2)]
    for model in coarse:  # the same function, in which one input channel takes most of the 255 steps of its weights
        with torch.no_grad():
            for tensor in (model.features[1].weight, model.features[1].bias):
                tensor[0] /= FAR
            model.features[3].weight[:, 0] *= FAR
    train_for_int8(coarse[1], teacher, tiny.workload, steps=40, seed=0)

    assert _lost(coarse[1], teacher) < 0.5 * _lost(coarse[0], teacher)


def test_the_same_training_gives_the_same_weights_and_leaves_statistics_and_zeros() -> None:
    teacher, found = build_model(tiny.workload), []
    for _ in range(2):
        student = build_model(tiny.workload)
        Unstructured().prune(student, None, 0.5, {})
        pruned = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        train_for_int8(student, teacher, tiny.workload, steps=5, seed=3)
        found.append(student.state_dict())

    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    for name, tensor in found[0].items():
        if "running" in name:
            assert torch.equal(tensor, pruned[name])
        elif tensor.ndim > 1:
            assert bool((tensor[pruned[name] == 0] == 0).all()) and not torch.equal(tensor, pruned[name])
    assert not student._forward_pre_hooks and not any(layer._forward_pre_hooks for layer in student.modules())


class Tied(nn.Module):
    """Two layers that share their weight, called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"found": self.b(self.a(x).relu())}


def test_weights_that_layers_share_stay_shared() -> None:
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.zeros(64))
    workload = replace(tiny.workload, model=Tied, train=lambda: data, metric=None)
    student = Tied().eval()
    before = student.a.weight.clone()

    train_for_int8(student, Tied().eval(), workload, steps=3, seed=0)

    assert student.a.weight is student.b.weight
    assert not torch.equal(student.a.weight, before)


def test_a_model_without_layers_to_round_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no convolution or linear layer"):
        train_for_int8(nn.ReLU(), nn.ReLU(), tiny.workload, steps=1, seed=0)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"layers": {"LSTM": 1, "Linear": 1}}, "recurrent"),
        ({"layers": {"Embedding": 1}}, "no convolution or linear layer"),
        ({"has_train": False, "calibration_examples": LEAST_EXAMPLES - 1}, f"calibration has {LEAST_EXAMPLES - 1}"),
    ],
)
@pytest.mark.parametrize("backend", ["eager", "inductor", "onnxruntime", "openvino"])
def test_what_cannot_be_trained_is_said_beforehand(backend: str, facts: dict[str, Any], reason: str) -> None:
    quantizer = registry.quantizers()[backend, "qat_int8"]

    assert reason in str(quantizer.refuse(a_profile(**facts), probe_target()))
    assert quantizer.refuse(a_profile(has_train=True), probe_target()) is None


@pytest.mark.parametrize("backend", ["eager", "inductor", "onnxruntime", "openvino"])
def test_static_int8_decides_where_it_is_possible_and_which_code_runs(backend: str) -> None:
    quantizer = registry.quantizers()[backend, "qat_int8"]
    assert isinstance(quantizer, QatInt8)
    profile, target = a_profile(has_train=True), probe_target()
    gpu = target.model_copy(update={"name": "cuda-sm90", "features": ()})

    assert quantizer.static is not None and type(quantizer.static) is type(
        registry.quantizers()[backend, "static_int8"]
    )
    assert quantizer.refuse(profile, gpu) == quantizer.static.refuse(profile, gpu)
    own, *kernels = quantizer.parameters_for(profile, target)
    assert own.name == "qat_steps" and quantizer.training_steps({"qat_steps": 300}) == 300
    assert set(kernels) <= set(quantizer.static.parameters_for(profile, target))
    assert not quantizer.known_good(profile, target)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def profile(home: Path) -> WorkloadProfile:
    answer = run(ProfileJob(workload=f"{tiny.__file__}:workload", home=str(home)), lambda stage: None)
    assert answer.profile is not None
    return answer.profile


def _prepared(home: Path, profile: WorkloadProfile, backend: str, batch_size: int = 8) -> Prepared:
    space = derive_space(profile, probe_target(), only_backends=[backend])
    candidate = space.recipe(backend, "qat_int8", batch_size)
    answer = run(PrepareJob(candidate=candidate, profile=profile, home=str(home)), lambda stage: None)
    assert answer.prepared is not None, answer.outcome
    return answer.prepared


def test_one_training_serves_all_backends_and_batch_sizes_and_each_runs_its_result(
    home: Path, profile: WorkloadProfile
) -> None:
    first, *others = found = [_prepared(home, profile, backend) for backend in BACKENDS]
    again = _prepared(home, profile, BACKENDS[0], batch_size=4)

    assert "qat" not in first.cached_stages and first.training_seconds["qat"] > 0
    for other in (*others, again):
        assert "qat" in other.cached_stages
        assert other.training_seconds == pytest.approx(first.training_seconds, abs=1e-3)
    images, _ = collated([tiny.workload.validation()[i] for i in range(8)], None)
    with torch.no_grad():
        wanted = build_model(tiny.workload)(images).numpy()
    for prepared in found:
        manifest = open_bundle(Path(prepared.bundle), trusted=True)
        assert manifest.candidate.quantization.scheme == "qat_int8"
        runner = registry.backend(manifest.candidate.backend).load(Path(prepared.bundle), manifest)
        (answer,) = runner.outputs(runner.run(runner.prepare({"input": images.numpy()})))
        assert np.square(answer - wanted).sum() < 0.05 * np.square(wanted).sum()


def test_a_candidate_is_trained_after_it_recovered(home: Path, profile: WorkloadProfile) -> None:
    space = derive_space(profile, probe_target(), only_backends=["eager"])
    pruning = {"structure": "unstructured", "amount": 0.5, "recovery_steps": 4}
    candidate = space.recipe("eager", "qat_int8", 1, **pruning)
    assert candidate == Candidate.model_validate(candidate.to_json()) and candidate.pruning == Pruning(**pruning)

    answer = run(PrepareJob(candidate=candidate, profile=profile, home=str(home)), lambda stage: None)

    assert answer.prepared is not None, answer.outcome
    assert list(answer.prepared.training_seconds) == ["recover", "qat"]
