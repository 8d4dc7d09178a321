"""The openvino backend: Intel's runtime for x86 and ARM processors, and Intel's GPUs and NPUs.

Its bundles run without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.backends.openvino_settings import (
    PERFORMANCE_HINT,
    ignored,
    refuse_candidate,
    settings_of,
    streams_of,
)
from evaluators.backends.shares import splits
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.parameters import Parameter
from evaluators.profile import WorkloadProfile
from evaluators.source import SourceModel
from evaluators.target import Target, device_of, devices_of

MODEL = "model.xml"
_NO_INPUTS: dict[int, Any] = {}
"""The inputs of a call whose tensors have been set."""


class OpenVino(Backend):
    """Builds from ``model.xml`` and ``model.bin``; the bundle is the same model with its batch size fixed."""

    name: ClassVar[str] = "openvino"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "xpu", "npu")
    requires: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "onnxscript")
    extra: ClassVar[str] = "openvino"
    options: ClassVar[tuple[Parameter, ...]] = (PERFORMANCE_HINT,)
    left_out: ClassVar[Mapping[str, str]] = MappingProxyType(
        {PERFORMANCE_HINT.name: "a batch is split only on processors, and where the model takes any batch size"}
    )
    own_threads: ClassVar[tuple[str, ...]] = ("xpu", "npu")

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def options_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        """A batch is split only on processors, whose threads share it, and where the model takes any batch size."""
        return self.options if target.device == "cpu" and profile.dynamic_batch else ()

    def options_given(self, options: tuple[Parameter, ...], batch_size: int, threads: int) -> tuple[Parameter, ...]:
        return options if splits(batch_size, threads) else ()

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        import openvino

        if source.batch_size is not None and streams_of(candidate) > 1:
            raise UnsupportedError(f"the model is exported for batches of {source.batch_size}, which cannot be split")
        with converting(f"openvino cannot take batches of {candidate.batch_size}"):
            model = _fixed(openvino.Core().read_model(str(quantized / MODEL)), candidate.batch_size)
            openvino.save_model(model, str(bundle / MODEL), compress_to_fp16=False)
            _compile(bundle, candidate)  # finds an operator without a kernel now

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        compiled = _compile(bundle, manifest.candidate)
        if streams_of(manifest.candidate) > 1:
            return SplitRunner(compiled, manifest)
        return OpenVinoRunner(compiled, manifest)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        from evaluators.diagnosis.executed import COMPUTING, executed_precisions, summarize
        from evaluators.diagnosis.instructions import named_instructions, offered_instructions
        from evaluators.diagnosis.openvino import executed
        from evaluators.target import probe_processor

        runner.run(runner.prepare(batch))  # kernels for shapes that vary are chosen in the call
        found, candidate = executed(runner.compiled), manifest.candidate
        named = named_instructions(item.kernel for item in found if item.kind in COMPUTING)
        width = "openvino names the width of a kernel's instructions, and not whether they are VNNI's"
        unnamed = "no kernel named its instructions; they are the best that the processor has"
        on_processor = device_of(candidate.target) == "cpu"
        offered = offered_instructions(probe_processor(), executed_precisions(found))
        return summarize(
            found,
            candidate.quantization.scheme,
            instruction_set=named or (offered if on_processor else None),
            notes=(width if named else unnamed,) if on_processor else (),
        )


def _fixed(model: Any, batch_size: int) -> Any:
    """Fix the batch size of a model's inputs; their other axes stay as they are."""
    shapes = {value.any_name: value.get_partial_shape() for value in model.inputs}
    for shape in shapes.values():
        shape[0] = batch_size
    model.reshape(shapes)
    return model


def _compile(bundle: Path, candidate: Candidate) -> Any:
    """Compile a bundle's model for the candidate's device, each request for its share of the batch.

    Raises:
        UnsupportedError: the candidate, or a setting of it, cannot be honoured here.
    """
    import openvino

    if (why := refuse_candidate(candidate)) is not None:
        raise UnsupportedError(why)
    device, settings, streams = device_name(candidate.target), settings_of(candidate), streams_of(candidate)
    core = openvino.Core()
    model: Any = str(bundle / MODEL)
    if streams > 1:
        with converting(f"openvino cannot split batches of {candidate.batch_size}"):
            model = _fixed(core.read_model(model), candidate.batch_size // streams)
    compiled = core.compile_model(model, device, settings)
    if (why := ignored(settings, compiled.get_property)) is not None:
        raise UnsupportedError(why)
    return compiled


def device_name(target: str) -> str:
    """Return OpenVINO's name for the device of a target: ``CPU``, ``GPU.0``, ``NPU``.

    Raises:
        UnsupportedError: this machine has no such device.
    """
    if device_of(target) == "cpu":
        return "CPU"
    if not (found := devices_of(target)):
        raise UnsupportedError(f"OpenVINO shows no device of {target} on this machine: see paretune doctor")
    return found[0]


class OpenVinoRunner:
    """One infer request; inputs and outputs are shared with the runtime, not copied."""

    def __init__(self, compiled: Any, manifest: Manifest) -> None:
        self.compiled = compiled
        request: Any = compiled.create_infer_request()
        self._set_input = request.set_input_tensor
        # The method that InferRequest.infer wraps: the wrapping takes a tenth of a call on a small model.
        self._infer = _unwrapped(request).infer
        self._declared, self._batch_size = manifest.inputs, manifest.candidate.batch_size
        self._dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs.tensors}
        self._inputs = [value.any_name for value in compiled.inputs]
        self._outputs = _positions(compiled, manifest)

    def prepare(self, batch: Arrays) -> list[Any]:
        import openvino

        self._declared.check(batch, self._batch_size)
        arrays = [np.array(batch[name], dtype=self._dtypes[name], order="C") for name in self._inputs]
        return [openvino.Tensor(array, shared_memory=True) for array in arrays]

    def run(self, prepared: list[Any]) -> Any:
        if len(prepared) == 1:
            self._set_input(prepared[0])
        else:
            for index, tensor in enumerate(prepared):
                self._set_input(index, tensor)
        return self._infer(_NO_INPUTS, True, False)  # share_outputs, decode_strings

    def outputs(self, raw: Any) -> list[np.ndarray]:
        arrays = list(raw.values())
        return [np.array(arrays[index]) for index in self._outputs]


class SplitRunner:
    """As many requests as streams: each computes its share of a batch at the same time as the others."""

    def __init__(self, compiled: Any, manifest: Manifest) -> None:
        self.compiled = compiled
        candidate = manifest.candidate
        self._declared, self._batch_size = manifest.inputs, candidate.batch_size
        self._requests = [compiled.create_infer_request() for _ in range(streams_of(candidate))]
        self._starts = [_unwrapped(request).start_async for request in self._requests]
        self._dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs.tensors}
        self._inputs = [value.any_name for value in compiled.inputs]
        self._outputs = _positions(compiled, manifest)

    def prepare(self, batch: Arrays) -> list[list[Any]]:
        import openvino

        self._declared.check(batch, self._batch_size)
        arrays = [np.array(batch[name], dtype=self._dtypes[name], order="C") for name in self._inputs]
        shares = zip(*(np.split(array, len(self._requests)) for array in arrays), strict=True)
        return [[openvino.Tensor(view, shared_memory=True) for view in share] for share in shares]

    def run(self, prepared: list[list[Any]]) -> list[Any]:
        for request, start, share in zip(self._requests, self._starts, prepared, strict=True):
            for index, tensor in enumerate(share):
                request.set_input_tensor(index, tensor)
            start(_NO_INPUTS, None)  # userdata
        for request in self._requests:
            request.wait()
        return self._requests

    def outputs(self, raw: list[Any]) -> list[np.ndarray]:
        return [np.concatenate([request.get_output_tensor(index).data for request in raw]) for index in self._outputs]


def _unwrapped(request: Any) -> Any:
    return super(type(request), request)


def _positions(compiled: Any, manifest: Manifest) -> list[int]:
    """Return where the manifest's outputs are among the compiled model's."""
    order = {name: index for index, value in enumerate(compiled.outputs) for name in value.names}
    return [order[name] for name in manifest.outputs.names]
