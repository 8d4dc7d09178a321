"""Each runtime called by hand on the files of a bundle, with the bundle's own settings: what a user would write.

A function takes the bundle's folder, its manifest and named arrays, and returns the call and its prepared inputs.
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
                return model(*(image.contiguous(memory_format=torch.channels_last) for image in batch.values()))

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
    """``InferenceSession.run`` on the ONNX file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = manifest.candidate.runtime.threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    taken = [value.name for value in session.get_inputs()]
    return lambda batch: session.run(None, batch), [{name: batch[name] for name in taken} for batch in batches]


def openvino(folder: Path, manifest: Manifest, batches: Batches) -> Called:
    """``InferRequest.infer`` on the IR, with inputs and outputs shared."""
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": manifest.candidate.runtime.threads,
    }  # fmt: skip
    compiled = ov.Core().compile_model(str(folder / "model.xml"), "CPU", settings)
    request = compiled.create_infer_request()
    taken = [value.any_name for value in compiled.inputs]
    inputs = [{name: np.ascontiguousarray(batch[name]) for name in taken} for batch in batches]
    return lambda batch: request.infer(batch, share_inputs=True, share_outputs=True), inputs


BY_HAND: dict[str, Callable[[Path, Manifest, Batches], Called]] = {
    "eager": eager,
    "inductor": inductor,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
