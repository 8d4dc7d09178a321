"""Diagnoses: what each runtime says that it executes, and how its own words become ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators import registry
from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.bundle import Manifest, read_manifest
from evaluators.candidate import Candidate
from evaluators.diagnosis import diagnose, eager, inductor, onednn, onnxruntime
from evaluators.diagnosis.executed import COMPUTING, Executed, bits_of, precision_of, summarize, weights_only
from evaluators.diagnosis.instructions import named_instructions, offered_instructions
from evaluators.outcome import Diagnosis
from evaluators.source import SourceModel
from evaluators.structure import Structure, TensorSpec
from evaluators.target import Target, probe_target
from evaluators.testing import conformance
from evaluators.testing.conformance import Case, UnavailableError

CASES = [
    case
    for case in conformance.cases()
    if case.workload == "images" or (case.workload == "texts" and case.backend != "inductor")
]
CONVOLUTIONS, LINEARS = 3, {"images": 1, "texts": 7}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("diagnosis")


def loaded(case: Case, home: Path) -> tuple[Backend, Runner, Path, Manifest]:
    """Return a loaded bundle of the case, or skip where it cannot be tried here."""
    try:
        folder = conformance.build(case, home)
    except UnavailableError as reason:
        pytest.skip(str(reason))  # test_conformance.py says which backends CI must have
    manifest = read_manifest(folder)
    backend = registry.backend(case.backend)
    return backend, backend.load(folder, manifest), folder, manifest


def count(diagnosis: Diagnosis, *kinds: str) -> int:
    return sum(item.count for item in diagnosis.operators if item.kind in kinds)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_runs_is_told_and_running_goes_on_as_before(
    case: Case, home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    backend, runner, folder, manifest = loaded(case, home)
    batch = conformance.inputs_of(case)[0]
    before = runner.outputs(runner.run(runner.prepare(batch)))
    capfd.readouterr()

    found = diagnose(backend, runner, folder, manifest, batch)

    assert capfd.readouterr() == ("", "")
    assert found.quantized_share is not None, found.notes
    if not weights_only(case.scheme):  # what products of such weights are computed in is the runtime's choice
        assert (found.quantized_share > 0) == ("int8" in case.scheme)
    assert count(found, "linear") == LINEARS[case.workload]
    assert count(found, "convolution") == (CONVOLUTIONS if case.workload == "images" else 0)
    assert found.instruction_set is not None
    assert found.fallbacks == 0
    if case.scheme == "bf16":
        assert {item.precision for item in found.operators if item.kind in COMPUTING} == {"bf16"}
    after = runner.outputs(runner.run(runner.prepare(batch)))
    for mine, theirs in zip(after, before, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("backend", ["eager", "onnxruntime", "openvino"])
def test_a_batch_of_ones_stands_in_for_a_real_one(backend: str, home: Path) -> None:
    parts = loaded(Case(backend, "fp32", "texts", 1), home)

    assert count(diagnose(*parts), "linear") == LINEARS["texts"]


class Telling(Backend):
    """A backend that tells nothing, or fails to tell."""

    name = "telling"

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None: ...

    def load(self, bundle: Path, manifest: Manifest) -> Any: ...

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        if self._error is not None:
            raise self._error
        return super().diagnose(runner, folder, manifest, batch)


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (None, "telling does not tell what it executes"),
        (RuntimeError("the graph is gone"), "what telling executes cannot be read: the graph is gone"),
        (MemoryError(), "there was no memory left to read what telling executes"),
    ],
)
def test_what_cannot_be_told_is_a_note_and_no_error(error: Exception | None, note: str, tmp_path: Path) -> None:
    runner: Any = None

    found = diagnose(Telling(error), runner, tmp_path, a_manifest())

    assert found == Diagnosis(notes=(note,))


def a_manifest() -> Manifest:
    spec = TensorSpec(name="input", dtype="float32", shape=(None, 4))
    structure = Structure(style="tensor", tensors=(spec,))
    return Manifest(
        candidate=Candidate(target="cpu-avx2", backend="telling"), workload="w.py:w", inputs=structure,
        outputs=structure, files={}, environment={}, target_fingerprint="0" * 16,
    )  # fmt: skip


def test_shares_and_fallbacks_count_only_what_computes() -> None:
    found = summarize(
        [
            Executed("convolution", "int8", "a", 0.002),
            Executed("linear", "fp32", "b", 0.004),
            Executed("matmul", "fp32", "c", 0.001),
            Executed("quantize", "fp32", "d", 0.001),
            Executed("gelu", "fp32", "e", 0.001),
        ],
        "static_int8",
        call_seconds=0.01,
    )

    assert found.quantized_share == pytest.approx(1 / 3, abs=1e-4)
    assert found.fallbacks == 1
    assert found.reorders == 1
    assert [(item.kind, item.time_share) for item in found.operators][:2] == [("linear", 0.4), ("convolution", 0.2)]


@pytest.mark.parametrize(("scheme", "fallbacks"), [("fp32", 0), ("static_int8", 2), ("bf16", 3)])
def test_a_fallback_is_wider_than_the_scheme_asked_for(scheme: str, fallbacks: int) -> None:
    executed = [Executed("convolution", "fp32"), Executed("linear", "fp32"), Executed("attention", "fp32")]

    assert summarize(executed, scheme).fallbacks == fallbacks


def test_kinds_that_a_scheme_leaves_alone_are_no_fallbacks() -> None:
    assert summarize([Executed("convolution", "fp32")], "dynamic_int8", asked=("linear",)).fallbacks == 0


def test_nothing_that_computes_has_no_share() -> None:
    assert summarize([Executed("relu", "fp32")], "fp32").quantized_share is None


def test_a_share_that_is_partly_unknown_is_unknown() -> None:
    found = summarize([Executed("linear", "fp32", "k", 0.1), Executed("linear", "fp32", "k")], "fp32", call_seconds=1.0)

    assert [item.time_share for item in found.operators] == [None]


@pytest.mark.parametrize(
    ("name", "word"),
    [("u8", "int8"), ("c10::quint8", "int8"), ("c10::BFloat16", "bf16"), ("f32", "fp32"), ("i64", "i64")],
)
def test_each_runtime_s_word_for_a_type_becomes_ours(name: str, word: str) -> None:
    assert precision_of(name) == word


def test_a_scheme_s_name_says_its_bits() -> None:
    assert [bits_of(scheme) for scheme in ("fp32", "bf16", "dynamic_int8", "weight_int4")] == [32, 16, 8, 4]


@pytest.mark.parametrize(
    ("kernels", "widest"),
    [
        (["jit:avx512_core", "brg_conv_fwd:avx512_core_vnni"], "avx512_vnni"),
        (["brgconv_avx512_I8", "brgconv_avx512_amx_I8"], "amx"),
        (["brg_matmul:avx2", "jit_uni"], "avx2"),
        (["gemm_mlas_f32"], None),
    ],
)
def test_names_of_kernels_tell_their_instructions(kernels: list[str], widest: str | None) -> None:
    assert named_instructions(kernels) == widest


def test_the_processor_offers_what_the_precision_can_use() -> None:
    target = Target(name="t", processor="p", features=("avx512_vnni", "avx512f"), cores=1, memory_bytes=1, system="s")

    assert offered_instructions(target, ["int8", "fp32"]) == "avx512_vnni"
    assert offered_instructions(target, ["fp32"]) == "avx512"
    assert offered_instructions(target.model_copy(update={"features": ()}), ["fp32"]) is None


VERBOSE = """\
onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with Intel DL Boost
something else was printed
onednn_verbose,v1,primitive,exec,cpu,reorder,jit:blk,undef,src:f32::blocked:abcd dst:f32::blocked:Acdb16a,,,16x1,0.5
onednn_verbose,v1,primitive,exec,cpu,convolution,brg:avx512_core_vnni,fwd,src:u8::blocked wei:s8:a,attr,alg,mb16,2
onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx512_core,undef,src:f32:a:blocked:ab wei:f32,,,16x64:64x10,4
"""


def test_onednn_s_lines_name_kernels_and_reorders() -> None:
    found = onednn.parse(VERBOSE)
    executed = [Executed("convolution", "int8", "conv", 0.1), Executed("linear", "fp32", "addmm")]

    named = onednn.with_kernels(executed, found)

    assert named == [
        Executed("convolution", "int8", "brg:avx512_core_vnni", 0.1),
        Executed("linear", "fp32", "brg_matmul:avx512_core", 0.004),
        Executed("reorder", "fp32", "jit:blk", 0.0005),
    ]


def test_kernels_are_not_guessed_where_only_some_ran_in_onednn() -> None:
    executed = [Executed("convolution", "int8", "a"), Executed("convolution", "int8", "b")]

    assert onednn.with_kernels(executed, onednn.parse(VERBOSE))[:2] == executed


def an_event(name: str, begin: float, duration: float, *types: str) -> dict[str, Any]:
    return {"cat": "cpu_op", "name": name, "tid": 1, "ts": begin, "dur": duration, "args": {"Input type": list(types)}}


def test_a_composite_of_torch_counts_as_what_computes_within_it() -> None:
    trace = {
        "traceEvents": [
            {"cat": "user_annotation", "name": "other", "ts": 0, "dur": 1000},
            an_event("aten::layer", 0, 100, "float"),
            an_event("aten::conv2d", 10, 50, "float"),
            an_event("aten::mkldnn_convolution", 12, 45, "float"),
            an_event("quantized::linear_dynamic", 70, 20, "float"),
            an_event("aten::relu", 200, 5, "", "float"),
        ]
    }

    assert eager.read_trace(trace) == [
        Executed("convolution", "fp32", "aten::mkldnn_convolution", pytest.approx(50e-6)),
        Executed("linear", "int8", "quantized::linear_dynamic", pytest.approx(20e-6)),
        Executed("relu", "fp32", "aten::relu", pytest.approx(5e-6)),
    ]


def a_node(index: str, name: str, duration: int, parameters: int, *inputs: dict[str, list[int]]) -> dict[str, Any]:
    arguments = {"node_index": index, "op_name": name, "parameter_size": str(parameters), "input_type_shape": inputs}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration, "args": arguments}


def test_a_product_of_onnxruntime_has_weights_or_two_activations() -> None:
    events = [
        a_node("0", "MatMul", 3, 0, {"float": [4, 8]}),  # its weights were packed
        a_node("1", "MatMulIntegerToFloat", 4, 600, {"uint8": [4, 8]}, {"int8": [8, 8]}),
        a_node("2", "FusedMatMul", 5, 0, {"float": [4, 8]}, {"float": [8, 4]}),
        a_node("0", "MatMul", 5, 0, {"float": [4, 8]}),
        a_node("0", "MatMul", 90, 0, {"float": [4, 8]}),
    ]

    assert onnxruntime.read_profile(events) == [
        Executed("linear", "fp32", "MatMul", pytest.approx(5e-6)),
        Executed("linear", "int8", "MatMulIntegerToFloat", pytest.approx(4e-6)),
        Executed("matmul", "fp32", "FusedMatMul", pytest.approx(5e-6)),
    ]


WRAPPER = """
    constants_info_[0].dtype = cached_torch_dtype_bfloat16;
void AOTInductorModel::run_impl(
    [[maybe_unused]] auto& weight = constants_->at(0);
    cpp_fused_quantize_per_tensor_0((const float*)(a.data_ptr()));
    CHECK(aoti_torch_cpu__qconv_pointwise_tensor(buf0, weight));
    CHECK(aoti_torch_cpu__linear_pointwise(buf1, &temporary_reference(weight.get())));
    CHECK(aoti_torch_cpu_mm_out(buf1, buf2, buf3));
    cpp_fused_gelu_quantize_per_tensor_view_1((const float*)(a.data_ptr()));
} // AOTInductorModel::run_impl
    aoti_torch_cpu_bmm_out(elsewhere);
"""


def test_the_calls_of_a_package_are_read_from_its_own_code() -> None:
    found = inductor.read_wrapper(WRAPPER)

    assert [(item.kind, item.precision) for item in found] == [
        ("quantize", ""), ("convolution", "int8"), ("linear", "bf16"), ("matmul", "fp32"), ("fused", ""),
    ]  # fmt: skip


def test_a_model_is_loaded_twice_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    pytest.importorskip("onnxruntime")
    parts = loaded(Case("onnxruntime", "fp32", "images", 4), home)
    monkeypatch.setattr(onnxruntime, "spare_memory", lambda: False)

    found = diagnose(*parts)

    assert found.operators == ()
    assert "too little memory" in found.notes[0]


def test_this_machine_has_instructions_to_tell() -> None:
    assert offered_instructions(probe_target(), ["fp32"]) is not None
