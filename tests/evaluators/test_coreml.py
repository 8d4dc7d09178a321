"""coreml: packages are built on any system, read operation by operation, and refused where they are not as asked."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path

import pytest

from evaluators.backends.coreml import CoreMl, refuse_candidate
from evaluators.backends.eager import Eager
from evaluators.bundle import read_manifest
from evaluators.bundle.opening import why_not_here
from evaluators.candidate import Candidate, Quantization, Runtime, Scalar
from evaluators.errors import UnsupportedError, UsageError
from evaluators.jobs import PrepareJob
from evaluators.quantizers.coreml import CoreMlStaticInt8, Recipe
from evaluators.stages.build_target import build_target
from evaluators.stages.clock import StageClock
from evaluators.stages.prepare import prepare
from evaluators.target import Target
from evaluators.testing import conformance

MAC = Target(name="apple-m2", processor="Apple M2", features=("fp16", "bf16", "neural_engine"), cores=8,
             memory_bytes=2**34, system="Darwin arm64")  # fmt: skip
LINUX = MAC.model_copy(update={"system": "Linux x86_64", "name": "cpu-avx2"})
HALF = Recipe(compute="fp16", deployment="ios17")
on_linux = pytest.mark.skipif(platform.system() == "Darwin", reason="a Mac can run what is built")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coreml")


def _candidate(scheme: str = "fp16", threads: int = 1, **units: Scalar) -> Candidate:
    knobs: dict[str, Scalar] = {"bits": 4} if scheme == "palettized" else {}
    return Candidate(
        target="apple-m2",
        backend="coreml",
        batch_size=2,
        quantization=Quantization(scheme=scheme, deployment="ios17", **knobs),
        runtime=Runtime(threads=threads, **units),
    )


def _bundle(workload: str, candidate: Candidate, home: Path) -> Path:
    profile = conformance.profile_of(f"evaluators.testing.workloads:{workload}", home)
    return Path(
        prepare(PrepareJob(candidate=candidate, profile=profile, home=str(home)), StageClock(lambda _: None)).bundle
    )


@pytest.mark.parametrize(
    ("scheme", "stored"), [("fp16", "fp16"), ("weight_int8", "int8"), ("palettized", "palettized4")]
)
def test_a_package_for_a_mac_is_built_here_and_holds_every_layer_as_asked(scheme: str, stored: str, home: Path) -> None:
    pytest.importorskip("coremltools")
    from evaluators.diagnosis.coreml import read_package

    bundle = _bundle("images", _candidate(scheme), home)
    package = read_package(bundle / "model.mlpackage")

    assert (package.count("convolution"), package.count("linear")) == (3, 1)
    convolutions = [operation for operation in package.operations if operation.kind == "convolution"]
    assert {operation.precision for operation in convolutions} == {"fp16"}
    assert {max(operation.reads, key=lambda tensor: tensor.elements).precision for operation in convolutions} == {
        stored
    }
    manifest = read_manifest(bundle)
    assert (manifest.candidate.target, manifest.candidate.batch_size) == ("apple-m2", 2)


def test_inputs_and_outputs_have_the_workloads_names_and_lengths_may_vary(home: Path) -> None:
    pytest.importorskip("coremltools")
    from coremltools.proto import Model_pb2

    from evaluators.diagnosis.coreml import PROGRAM

    bundle = _bundle("texts", _candidate("fp32"), home)
    spec = Model_pb2.Model()
    spec.ParseFromString((bundle / "model.mlpackage" / PROGRAM).read_bytes())

    assert [value.name for value in spec.description.input] == ["tokens", "mask"]
    assert [value.name for value in spec.description.output] == ["logits", "embedding"]
    batch, length = spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges
    assert (batch.lowerBound, batch.upperBound) == (2, 2)
    assert length.lowerBound < length.upperBound == 24


@on_linux
def test_a_bundle_cannot_be_loaded_elsewhere_than_on_macos(home: Path) -> None:
    pytest.importorskip("coremltools")
    bundle = _bundle("images", _candidate("fp16"), home)

    with pytest.raises(UnsupportedError, match="macOS only, and this is"):
        CoreMl().load(bundle, read_manifest(bundle))


def test_space_leaves_it_out_elsewhere_and_says_why() -> None:
    pytest.importorskip("coremltools")
    assert CoreMl().unusable(MAC) is None
    assert "macOS" in str(CoreMl().unusable(LINUX))


@on_linux
def test_ranges_of_activations_are_found_on_macos_only(home: Path) -> None:
    profile = conformance.profile_of("evaluators.testing.workloads:images", home)
    assert "macOS" in str(CoreMlStaticInt8().refuse(profile, LINUX))
    with pytest.raises(UnsupportedError, match="macOS"):
        _bundle("images", _candidate("static_int8"), home)


@pytest.mark.parametrize(
    ("candidate", "recipe", "reason"),
    [
        (_candidate(threads=2), HALF, "threads is 2"),
        (_candidate(compute_units="npu"), HALF, "compute_units is 'npu'"),
        (_candidate(compute_units="cpu_and_ne"), Recipe(compute="fp32", deployment="ios17"), "float32"),
        (_candidate().model_copy(update={"target": "cpu-arm64"}), HALF, "is a processor"),
    ],
)
def test_what_core_ml_cannot_honour_is_refused(candidate: Candidate, recipe: Recipe, reason: str) -> None:
    assert reason in str(refuse_candidate(candidate, recipe))


def test_a_processor_is_offered_itself_only(home: Path) -> None:
    profile = conformance.profile_of("evaluators.testing.workloads:images", home)
    (units,) = CoreMl().options_for(profile, MAC.model_copy(update={"name": "cpu-arm64"}))
    assert units.values == ("cpu_only",)


def test_a_package_that_lacks_a_layer_or_keeps_a_wide_weight_is_refused() -> None:
    from evaluators.diagnosis.coreml import Operation, Package, Stored, refuse_package

    wide = Package((Operation("conv", "a", "fp16", (Stored("fp16", 2304, 4),)),), weight_bytes=4608)
    eighth = Recipe(compute="fp16", weights="int8", deployment="ios17")

    assert "2304 elements in fp16, and int8" in str(refuse_package(wide, {"convolution": 1}, eighth))
    assert "the model has 2" in str(refuse_package(wide, {"convolution": 2}, HALF))
    assert refuse_package(wide, {"convolution": 1}, HALF) is None
    bias = Package((Operation("lstm", "a", "fp16", (Stored("fp16", 512, 1),)),), weight_bytes=1024)
    assert refuse_package(bias, {"recurrent": 1}, eighth) is None


def test_the_plan_tells_which_operations_reach_the_neural_engine() -> None:
    from evaluators.diagnosis.coreml import Operation, Package, Stored, diagnosis

    package = Package(
        (Operation("conv", "a", "fp16", (Stored("int8", 2304, 4),)), Operation("relu", "b", "fp16", ())), 1
    )
    told = diagnosis(package, [("conv", "ne", 0.75), ("relu", "cpu", 0.25)], "weight_int8")

    assert told.notes[:3] == (
        "Core ML plans 1 of 2 operations on ne, 75% of the estimated cost",
        "Core ML plans 1 of 2 operations on cpu, 25% of the estimated cost",
        "not on the Neural Engine: relu (1)",
    )
    assert Counter(item.kind for item in told.operators)["convolution"] == 1


def test_a_package_built_where_there_is_no_mac_is_for_every_mac_of_that_name(home: Path) -> None:
    pytest.importorskip("coremltools")
    manifest = read_manifest(_bundle("images", _candidate("fp16"), home))

    assert why_not_here(manifest, [MAC]) is None
    assert "apple-m3" in str(why_not_here(manifest, [MAC.model_copy(update={"name": "apple-m3"})]))
    elsewhere = manifest.model_copy(update={"target_fingerprint": "0" * 16})
    assert "another apple-m2" in str(why_not_here(elsewhere, [MAC]))


def test_only_a_backend_that_builds_anywhere_builds_for_a_machine_that_is_not_here() -> None:
    assert build_target("apple-m99", CoreMl()).device == "mps"
    with pytest.raises(UsageError, match="apple-m99"):
        build_target("apple-m99", Eager())
