"""What torch executes on CUDA, read from its profiler's record; the records are written as such machines write them."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evaluators.backends.torch_device import DeviceRunner
from evaluators.diagnosis import cuda
from evaluators.diagnosis.executed import Executed
from tests.evaluators.test_torch_device import NUMBERS, a_manifest


def an_operator(name: str, begin: float, duration: float, id_: int, *types: str) -> dict[str, Any]:
    arguments = {"External id": id_, "Record function id": 0, "Input type": list(types)}
    return {
        "ph": "X",
        "cat": "cpu_op",
        "name": name,
        "pid": 7,
        "tid": 7,
        "ts": begin,
        "dur": duration,
        "args": arguments,
    }


def a_kernel(name: str, begin: float, duration: float, id_: int | None, cat: str = "kernel") -> dict[str, Any]:
    arguments = {"device": 0, "context": 1, "stream": 7, "correlation": 91}
    told = arguments if id_ is None else {"External id": id_, **arguments}
    return {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": 7, "ts": begin, "dur": duration, "args": told}


EAGER = {
    "schemaVersion": 1,
    "traceEvents": [
        {"ph": "M", "name": "process_name", "pid": 7, "tid": 0, "args": {"name": "python"}},
        an_operator("aten::to", 0, 9, 1, "float"),
        an_operator("aten::copy_", 2, 6, 2, "float"),
        a_kernel("Memcpy HtoD (Pinned -> Device)", 4, 3, 2, "gpu_memcpy"),
        an_operator("aten::conv2d", 10, 40, 3, "float", "float"),
        an_operator("aten::cudnn_convolution", 12, 35, 4, "float", "float"),
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 7, "tid": 7, "ts": 20, "dur": 5,
         "args": {"External id": 4, "correlation": 91}},
        a_kernel("void cudnn::ops::nchwToNhwcKernel<float, float>", 30, 2, 4),
        a_kernel("sm90_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc", 33, 20, 4),
        an_operator("aten::addmm", 60, 10, 5, "float", "float", "float"),
        a_kernel("ampere_sgemm_32x32_sliced1x4_tn", 70, 8, 5),
        an_operator("aten::relu", 75, 5, 6, "float"),
        a_kernel("void at::native::vectorized_elementwise_kernel<4, float>", 80, 1, 6),
    ],
}  # fmt: skip


def test_the_time_and_the_kernel_of_an_operator_are_those_of_what_it_launched() -> None:
    found = [item for item in cuda.with_kernels(EAGER) if item.kind in ("convolution", "linear", "relu")]

    assert found == [
        Executed("convolution", "fp32", "sm90_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc",
                 pytest.approx(22e-6)),
        Executed("linear", "fp32", "ampere_sgemm_32x32_sliced1x4_tn", pytest.approx(8e-6)),
        Executed("relu", "fp32", "void at::native::vectorized_elementwise_kernel<4, float>", pytest.approx(1e-6)),
    ]  # fmt: skip


def test_everything_that_the_device_did_is_counted_once() -> None:
    on_device = sum(event["dur"] for event in EAGER["traceEvents"] if event.get("cat") in ("kernel", "gpu_memcpy"))

    assert sum(item.seconds or 0.0 for item in cuda.with_kernels(EAGER)) == pytest.approx(on_device / 1e6)


def test_kernels_of_a_replayed_graph_belong_to_no_operator_and_are_told_by_their_names() -> None:
    trace = {
        "traceEvents": [
            an_operator("aten::copy_", 0, 5, 1, "float"),
            a_kernel("Memcpy HtoD (Pinned -> Device)", 1, 3, 1, "gpu_memcpy"),
            {"ph": "X", "cat": "cuda_runtime", "name": "cudaGraphLaunch", "pid": 7, "tid": 7, "ts": 6, "dur": 4},
            a_kernel("cutlass_80_tensorop_s16816gemm_f16_64x64_32x6_tn_align8", 10, 6, 44),
            a_kernel("triton_poi_fused_relu_0", 17, 2, None),
            a_kernel("Memset (Device)", 20, 1, 45, "gpu_memset"),
        ]
    }  # fmt: skip

    found = cuda.with_kernels(trace)

    assert [(item.kind, item.precision, item.seconds) for item in found] == [
        ("copy", "fp32", pytest.approx(3e-6)), ("linear", "fp16", pytest.approx(6e-6)),
        ("kernel", "", pytest.approx(2e-6)), ("gpu_memset", "", pytest.approx(1e-6)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind", "precision"),
    [
        ("ampere_sgemm_32x32_sliced1x4_tn", "linear", "fp32"),
        ("ampere_fp16_s16816gemm_fp16_128x64_ldg8_relu_f2f_stages_64x4_tn", "linear", "fp16"),
        ("ampere_bf16_s16816gemm_bf16_64x64_ldg8_f2f_stages_64x5_tn", "linear", "bf16"),
        ("sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize64x64x128", "linear", "fp8"),
        ("cutlass_80_tensorop_i16832gemm_s8_256x128_64x3_tn_align16", "linear", "int8"),
        ("cutlass_80_tensorop_s1688gemm_128x64_16x6_tn_align4", "linear", "fp32"),
        ("nvjet_hsh_64x8_64x16_4x1_v_bz_TNT", "linear", "fp16"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_coopA_TNN", "linear", "bf16"),
        ("void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false>", "linear", "fp32"),
        ("triton_tem_fused_addmm_relu_0", "linear", ""),
        ("triton_tem_fused_mm_1", "linear", ""),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x64x16", "convolution", "fp32"),
        ("cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688fprop_optimized_tf32_64x64_16x10>", "convolution", "fp32"),
        ("void cudnn::winograd_nonfused::winogradForwardData4x4<float, float>", "convolution", "fp32"),
        ("ampere_scudnn_128x64_relu_xregs_large_nn_v1", "convolution", "fp32"),
        ("fmha_cutlassF_f32_aligned_64x64_rf_sm80(PyTorchMemEffAttention)", "attention", "fp32"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_traits<32, 128, cutlass::bfloat16_t>>", "attention", "bf16"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_traits<32, 128, cutlass::half_t>>", "attention", "fp16"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "kernel", ""),
        ("triton_poi_fused__to_copy_0", "kernel", ""),
    ],
)  # fmt: skip
def test_a_kernel_s_name_tells_what_it_computes_and_in_what(name: str, kind: str, precision: str) -> None:
    (found,) = cuda.with_kernels({"traceEvents": [a_kernel(name, 0, 4, None)]})

    assert (found.kind, found.precision, found.kernel) == (kind, precision, name)


def test_a_span_on_the_device_is_the_time_between_two_events(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing, "an event without timing has no time"
            self.at = len(done)

        def record(self) -> None:
            done.append("record")

        def synchronize(self) -> None:
            done.append("synchronize")

        def elapsed_time(self, end: Event) -> float:
            assert done[-1] == "synchronize"
            return 2.5

    assert {"enable_timing"} <= set(inspect.signature(torch.cuda.Event.__new__).parameters)
    monkeypatch.setattr(torch.cuda, "Event", Event)

    assert cuda.device_seconds(lambda: done.append("call")) == pytest.approx(2.5e-3)
    assert done == ["record", "call", "record", "synchronize"]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_call_is_recorded_with_the_types_of_what_its_operators_took() -> None:
    """torch's profiler records the processor's part where there is no device."""
    weights = torch.ones(3, 2)

    trace = cuda.recorded(lambda: torch.ones(4, 3) @ weights)

    products = [event for event in trace["traceEvents"] if event.get("name") == "aten::mm"]
    assert products and products[0]["args"]["Input type"][:2] == ["float", "float"]
    assert isinstance(products[0]["args"]["External id"], int)


def test_a_diagnosis_counts_what_runs_lower_and_says_how_long_the_device_works(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = {
        "traceEvents": [
            an_operator("aten::_scaled_mm", 0, 9, 1, "c10::Float8_e4m3fn", "c10::Float8_e4m3fn"),
            a_kernel("nvjet_qqtst_64x8_64x16_4x1_v_bz_TNT", 2, 6, 1),
            an_operator("aten::addmm", 10, 5, 2, "float", "float"),
            a_kernel("ampere_sgemm_32x32_sliced1x4_tn", 12, 3, 2),
        ]
    }
    monkeypatch.setattr(cuda, "recorded", lambda call: call() or trace)
    monkeypatch.setattr(cuda, "device_seconds", lambda call: 0.001)
    calls: list[int] = []
    runner = SimpleNamespace(prepare=lambda batch: batch, run=lambda prepared: calls.append(1))

    told = cuda.diagnosed(runner, a_manifest(scheme="dynamic_fp8"), {})

    assert calls
    assert (told.quantized_share, told.fallbacks, told.instruction_set) == (0.5, 1, "sm90")
    assert {(item.kind, item.precision, item.kernel) for item in told.operators} == {
        ("linear", "fp8", "nvjet_qqtst_64x8_64x16_4x1_v_bz_TNT"), ("linear", "fp32", "ampere_sgemm_32x32_sliced1x4_tn"),
    }  # fmt: skip
    assert "lie 1.000 ms" in told.notes[0]


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_what_runs_on_a_gpu_is_told(graph: bool) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    weights = torch.ones(3, 64, device="cuda")
    manifest = a_manifest(NUMBERS)
    runner = DeviceRunner(lambda tensors: [tensors[0] @ weights], manifest, "cuda", graph=graph)

    told = cuda.diagnosed(runner, manifest, {"numbers": np.ones((2, 3), np.float32)})

    assert any(item.kind in ("linear", "matmul") and item.kernel for item in told.operators)
