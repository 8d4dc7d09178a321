"""What is in a built bundle, read from the artifact itself."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from evaluators.bundle import Manifest, read_manifest
from evaluators.candidate import Candidate, Pruning, Quantization
from evaluators.jobs import PrepareJob, ProfileJob
from evaluators.profile import WorkloadProfile
from evaluators.run_job import run
from evaluators.target import probe_target
from tests import tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def profile(home: Path) -> WorkloadProfile:
    answer = run(ProfileJob(workload=f"{tiny.__file__}:workload", home=str(home)), lambda stage: None)
    assert answer.profile is not None
    return answer.profile


def _built(home: Path, profile: WorkloadProfile, pruning: Pruning) -> tuple[Manifest, onnx.ModelProto]:
    candidate = Candidate(target=probe_target().name, backend="onnxruntime", quantization=Quantization(scheme="fp32"),
                          pruning=pruning, batch_size=2)  # fmt: skip
    answer = run(PrepareJob(candidate=candidate, profile=profile, home=str(home)), lambda stage: None)
    assert answer.prepared is not None, answer
    bundle = Path(answer.prepared.bundle)
    return read_manifest(bundle), onnx.load(bundle / "model.onnx")


def _parameters(model: onnx.ModelProto) -> int:
    return sum(prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 1)


def _multiply_adds(model: onnx.ModelProto, folder: Path) -> int:
    """Count those of convolutions and matrix products for one example from the shapes that the artifact runs with."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {value.name: np.zeros(value.shape, np.float32) for value in session.get_inputs()})
    total = 0
    for event in json.loads(Path(session.end_profiling()).read_text()):
        arguments = event.get("args", {})
        name = arguments.get("op_name", "") if event["name"].endswith("_kernel_time") else ""
        if "Conv" in name or name in ("Gemm", "FusedGemm", "MatMul"):
            weights = next(iter(arguments["input_type_shape"][1].values()))
            output = next(iter(arguments["output_type_shape"][0].values()))
            total += prod(weights) * (prod(output[2:]) if "Conv" in name else 1)
    return total


def test_a_channel_pruned_bundle_really_is_smaller(home: Path, profile: WorkloadProfile, tmp_path: Path) -> None:
    whole, whole_model = _built(home, profile, Pruning())
    pruned, pruned_model = _built(
        home, profile, Pruning(structure="channel", amount=0.5, recovery_steps=0, alignment=8)
    )
    assert 0 < _parameters(pruned_model) < 0.5 * _parameters(whole_model)
    counted = _multiply_adds(pruned_model, tmp_path)
    assert 0 < counted < 0.5 * _multiply_adds(whole_model, tmp_path)
    assert pruned.parameters is not None and whole.parameters is not None
    assert pruned.parameters < 0.5 * whole.parameters
    assert pruned.flops == pytest.approx(2 * counted, rel=0.02)
    convolutions = [t.dims[0] for t in pruned_model.graph.initializer if len(t.dims) == 4]
    assert convolutions == [16, 16]


def test_zeroed_weights_do_not_count_as_removed(home: Path, profile: WorkloadProfile) -> None:
    whole, _ = _built(home, profile, Pruning())
    zeroed, _ = _built(home, profile, Pruning(structure="unstructured", amount=0.5))
    assert zeroed.parameters == whole.parameters
    assert zeroed.flops == whole.flops
