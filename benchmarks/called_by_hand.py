"""Each runtime called by hand on the files of a bundle, with the bundle's own settings: what a user would write.

A function takes the bundle's folder, its manifest and named arrays, and returns the call and its prepared inputs. The
float bundles of processors only. What a backend sets is spelled out here once more, and
tests/benchmarks/test_called_by_hand.py compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from evaluators.bundle import Manifest

Batches = Sequence[dict[str, np.ndarray]]
Called = tuple[Callable[[Any], Any], list[Any]]


def eager(folder: Path, manifest: Manifest, batches: Batches) -> Called:
    """The user's own model, called as torch's documentation says."""
    import torch

    from evaluators.workload import load_workload

    torch.set_num_threads(manifest.candidate.runtime.threads)
    model = load_workload(manifest.workload).model().eval()
    style = manifest.inputs.style
    inputs = [{name: torch.from_numpy(array.copy()) for name, array in batch.items()} for batch in batches]
    if manifest.candidate.runtime.knobs.get("channels_last") is True:
        model = model.to(memory_format=torch.channels_last)

        def call_images(batch: dict[str, Any]) -> Any:
            with torch.inference_mode():
                images = {name: _channels_last(tensor) for name, tensor in batch.items()}
                return model(**images) if style == "dict" else model(*images.values())

        return call_images, inputs

    def call(batch: dict[str, Any]) -> Any:
        with torch.inference_mode():
            return model(**batch) if style == "dict" else model(*batch.values())

    return call, inputs


def inductor(folder: Path, manifest: Manifest, batches: Batches) -> Called:
    """The AOTInductor package, through its own loader."""
    import torch
    from torch._inductor import aoti_load_package

    torch.set_num_threads(manifest.candidate.runtime.threads)
    model = aoti_load_package(str(folder / "model.pt2"))

    def call(batch: tuple[Any, ...]) -> Any:
        with torch.inference_mode():
            return model(*batch)

    names = manifest.inputs.names
    return call, [tuple(torch.from_numpy(batch[name].copy()) for name in names) for batch in batches]


def onnxruntime(folder: Path, manifest: Manifest, batches: Batches) -> Called:
    """``InferenceSession.run`` on the ONNX file, whose graph was optimized when it was built."""
    session = onnxruntime_session(folder, manifest)
    taken = [value.name for value in session.get_inputs()]
    return lambda batch: session.run(None, batch), [{name: batch[name] for name in taken} for batch in batches]


def onnxruntime_session(folder: Path, manifest: Manifest) -> Any:
    """Open the ONNX file on the processor, as it is."""
    import onnxruntime as ort

    if (provider := manifest.candidate.runtime.knobs.get("provider", "cpu")) != "cpu":
        raise SystemExit(f"nobody wrote down how onnxruntime is called by hand on the provider {provider}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = manifest.candidate.runtime.threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])


def openvino(folder: Path, manifest: Manifest, batches: Batches) -> Called:
    """``InferRequest.infer`` on the IR, with inputs and outputs shared."""
    import openvino as ov

    compiled = ov.Core().compile_model(str(folder / "model.xml"), "CPU", openvino_settings(manifest))
    request = compiled.create_infer_request()
    taken = [value.any_name for value in compiled.inputs]
    inputs = [{name: np.ascontiguousarray(batch[name]) for name in taken} for batch in batches]
    return lambda batch: request.infer(batch, share_inputs=True, share_outputs=True), inputs


def openvino_settings(manifest: Manifest) -> dict[str, Any]:
    """All threads on one request, in float32."""
    if (hint := manifest.candidate.runtime.knobs.get("performance_hint", "latency")) != "latency":
        raise SystemExit(f"nobody wrote down how openvino is called by hand with the hint {hint}")
    return {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": manifest.candidate.runtime.threads,
    }  # fmt: skip


def _channels_last(tensor: Any) -> Any:
    import torch

    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


BY_HAND: dict[str, Callable[[Path, Manifest, Batches], Called]] = {
    "eager": eager,
    "inductor": inductor,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
