"""openvino: what it is told for each device, splitting a batch over streams, and settings that it would not honour.

No machine with a GPU or an NPU of Intel's was at hand: for those, what OpenVINO is told is tested here, and not run.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluators import registry
from evaluators.backends.openvino import OpenVino, SplitRunner, device_name
from evaluators.backends.openvino_settings import ignored, refuse_candidate, settings_of
from evaluators.bundle import read_manifest
from evaluators.candidate import Candidate, Quantization, Runtime, Scalar
from evaluators.errors import UnsupportedError
from evaluators.quantizers.openvino import float_precisions
from evaluators.space import Space, derive_space
from evaluators.target import Target, probe_processor
from evaluators.testing import conformance
from evaluators.testing.cases import answer, load
from evaluators.testing.computing import check_batch_invariance, check_parity, check_repeatable
from evaluators.testing.conformance import Case
from evaluators.testing.processes import elsewhere
from tests.search.factories import a_profile

TARGETS = {
    name: Target(name=name, processor="Xeon", features=features, cores=8, memory_bytes=2**36, system="Linux x86_64")
    for name, features in {
        "cpu-avx2": ("avx2",),
        "cpu-amx_int8": ("amx_int8", "amx_bf16", "avx512_fp16", "avx512_vnni"),
        "xpu-12_71_4": ("fp16", "int8"),
        "npu-3720": ("fp16", "int8"),
    }.items()
}
SPLIT = Case("openvino", "fp32", "images", 4, knob=("performance_hint", "throughput"), threads=2)
needs_openvino = pytest.mark.skipif(
    OpenVino().unusable(probe_processor()) is not None, reason=str(OpenVino().unusable(probe_processor()))
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openvino")


def _candidate(
    target: str, scheme: str = "fp32", batch_size: int = 8, threads: int = 1, hint: str = "", **knobs: Scalar
) -> Candidate:
    options = {"performance_hint": hint} if hint else {}
    return Candidate(
        target=target,
        backend="openvino",
        quantization=Quantization(scheme=scheme, **knobs),
        batch_size=batch_size,
        runtime=Runtime(threads=threads, **options),
    )


def _space(target: str, **restrictions: object) -> Space:
    return derive_space(a_profile(), TARGETS[target], only_backends=["openvino"], **restrictions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("candidate", "told"),
    [
        (_candidate("cpu-avx2", threads=4),
         {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1,
          "INFERENCE_NUM_THREADS": 4}),
        (_candidate("cpu-avx2", threads=4, hint="throughput"),
         {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 4,
          "INFERENCE_NUM_THREADS": 4}),
        (_candidate("cpu-amx_int8", "bf16"),
         {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 1,
          "INFERENCE_NUM_THREADS": 1}),
        (_candidate("cpu-amx_int8", "static_int8", float_precision="f16"),
         {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16", "NUM_STREAMS": 1,
          "INFERENCE_NUM_THREADS": 1}),
        (_candidate("xpu-12_71_4"),
         {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}),
        (_candidate("xpu-12_71_4", "static_int8"),
         {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16", "NUM_STREAMS": 1}),
        (_candidate("npu-3720", "fp16"), {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f16"}),
    ],
)  # fmt: skip
def test_openvino_is_told_everything_that_a_candidate_says(candidate: Candidate, told: dict[str, Scalar]) -> None:
    assert settings_of(candidate) == told


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (_candidate("cpu-avx2", batch_size=6, threads=4, hint="throughput"), "a batch of 6 is no equal shares for 4"),
        (_candidate("cpu-avx2", hint="throughput"), "no equal shares for 1"),
        (_candidate("cpu-avx2", hint="cumulative"), "must be one of"),
        (_candidate("npu-3720", "fp16", threads=2), "sets its threads itself on npu-3720"),
        (_candidate("cpu-avx2", threads=4, hint="throughput"), None),
    ],
)
def test_what_openvino_cannot_honour_is_refused(candidate: Candidate, reason: str | None) -> None:
    why = refuse_candidate(candidate)
    assert (reason is None and why is None) or (reason is not None and reason in str(why))


def test_a_setting_that_comes_back_changed_is_told() -> None:
    asked = {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 2, "PERFORMANCE_HINT": "LATENCY"}

    assert ignored(asked, {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 2}.__getitem__) is None
    why = ignored(asked, {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 2}.__getitem__)
    assert "INFERENCE_PRECISION_HINT f32 after bf16 was asked for" in str(why)


@pytest.mark.parametrize(
    ("target", "schemes", "precisions", "threads"),
    [
        ("cpu-avx2", ("fp32", "static_int8", "qat_int8"), ("f32",), (1, 2, 4, 8)),
        ("cpu-amx_int8", ("fp32", "static_int8", "bf16", "fp16", "qat_int8"), ("f32", "bf16", "f16"), (1, 2, 4, 8)),
        ("xpu-12_71_4", ("fp32", "static_int8", "fp16", "qat_int8"), ("f16", "f32"), (1,)),
        ("npu-3720", ("static_int8", "fp16", "qat_int8"), ("f16",), (1,)),
    ],
)
def test_a_device_is_offered_what_it_computes_in(
    target: str, schemes: tuple[str, ...], precisions: tuple[str, ...], threads: tuple[int, ...]
) -> None:
    space = _space(target)

    assert space.schemes["openvino"] == schemes
    assert float_precisions(TARGETS[target]) == precisions
    offered = [knob.values for knob in space.knobs["openvino", "static_int8"] if knob.name == "float_precision"]
    assert offered == ([precisions] if len(precisions) > 1 else [])
    assert space.threads_of("openvino") == threads
    assert dict(space.dimensions())["threads"].values == threads


def test_an_npu_takes_no_inputs_that_vary_in_shape() -> None:
    profile = a_profile()
    (tensor,) = profile.inputs.tensors
    varying = tensor.model_copy(update={"shape": (*tensor.shape[:-1], None)})
    varies = profile.model_copy(update={"inputs": profile.inputs.model_copy(update={"tensors": (varying,)})})
    quantizer = registry.quantizers()["openvino", "fp16"]

    assert quantizer.refuse(profile, TARGETS["npu-3720"]) is None
    assert "one shape only" in str(quantizer.refuse(varies, TARGETS["npu-3720"]))


def test_a_batch_is_split_only_where_threads_get_equal_shares() -> None:
    hardly_prunable = a_profile(layers={"Conv2d": 1}, widths=())
    space = derive_space(hardly_prunable, TARGETS["cpu-avx2"], only_backends=["openvino"], batch_sizes=(1, 6, 8))

    split = {
        (candidate.batch_size, candidate.runtime.threads)
        for candidate in space.candidates()
        if candidate.runtime.knobs.get("performance_hint") == "throughput"
    }

    assert split == {(6, 2), (8, 2), (8, 4), (8, 8)}
    assert space.size == len({candidate.hash for candidate in space.candidates()})
    recipe = space.recipe("openvino", "fp32", 8, 4)
    assert recipe.runtime.knobs == {"performance_hint": "latency"}
    assert space.recipe("openvino", "fp32", 1, 4).runtime.knobs == {}


def test_a_device_that_the_machine_lacks_is_a_reason() -> None:
    with pytest.raises(UnsupportedError, match="no device of xpu-99"):
        device_name("xpu-99")


@needs_openvino
@pytest.mark.parametrize("check", [check_parity, check_repeatable, check_batch_invariance])
def test_a_split_batch_computes_what_the_model_computes(check: object, home: Path) -> None:
    check(SPLIT, home)  # type: ignore[operator]


@needs_openvino
def test_a_split_batch_of_inputs_that_vary_and_of_several_outputs_is_put_together_again(home: Path) -> None:
    texts = replace(SPLIT, workload="texts")
    check_parity(texts, home)
    runner = load(conformance.build(texts, home))
    assert isinstance(runner, SplitRunner)


@needs_openvino
def test_a_split_batch_works_on_the_threads_that_were_asked_for(home: Path) -> None:
    """With a batch so large that handing it over is no real share of a call."""
    assert elsewhere(replace(SPLIT, batch_size=64), home, probe=True).probes["threads"] == 2


@needs_openvino
def test_both_hints_share_one_bundle(home: Path) -> None:
    whole = replace(SPLIT, knob=("performance_hint", "latency"))
    split, one = (conformance.build(case, home) for case in (SPLIT, whole))

    assert (split / "model.bin").read_bytes() == (one / "model.bin").read_bytes()
    (batch, *_) = conformance.inputs_of(SPLIT)
    mine, theirs = (answer(load(bundle), batch) for bundle in (split, one))
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@needs_openvino
def test_a_precision_that_the_processor_lacks_is_refused_and_not_computed_in_another(home: Path) -> None:
    import openvino

    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has bfloat16")
    bundle = conformance.build(Case("openvino", "fp32", "images", 4), home)
    manifest = read_manifest(bundle)
    asked = manifest.candidate.model_copy(update={"quantization": Quantization(scheme="bf16")})

    with pytest.raises(UnsupportedError, match="INFERENCE_PRECISION_HINT f32 after bf16"):
        OpenVino().load(bundle, manifest.model_copy(update={"candidate": asked}))


def test_only_transformers_are_smoothed_and_weights_alone_quantized_where_nothing_convolves() -> None:
    profile, target = a_profile(), TARGETS["cpu-avx2"]
    layers = {"Linear": 6, "LayerNorm": 4, "Embedding": 1}
    text = profile.model_copy(update={"layers": layers})
    quantizers = {scheme: item for (backend, scheme), item in registry.quantizers().items() if backend == "openvino"}

    static = quantizers["static_int8"]
    named = [{knob.name for knob in static.parameters_for(each, target)} for each in (profile, text)]

    assert named[1] - named[0] == {"smooth_quant"}
    assert {"per_channel", "bias_correction", "preset", "range"} <= named[0]
    for scheme in ("weight_int8", "weight_int4"):
        assert "Conv" in str(quantizers[scheme].refuse(profile, target))
        assert quantizers[scheme].refuse(text, target) is None
        assert not quantizers[scheme].known_good(text, target)
