"""The openvino backend: Intel's runtime for x86 and ARM processors. Its bundles run without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.profile import WorkloadProfile
from evaluators.source import SourceModel

MODEL = "model.xml"
_DEVICE = "CPU"
_NO_INPUTS: dict[int, Any] = {}
"""The inputs of a call whose tensors have been set."""


class OpenVino(Backend):
    """Builds from ``model.xml`` and ``model.bin``; the bundle is the same model with its batch size fixed."""

    name: ClassVar[str] = "openvino"
    requires: ClassVar[tuple[str, ...]] = ("openvino", "onnx", "onnxscript")
    extra: ClassVar[str] = "openvino"

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        import openvino

        with converting(f"openvino cannot take batches of {candidate.batch_size}"):
            model = openvino.Core().read_model(str(quantized / MODEL))
            shapes = {value.any_name: value.get_partial_shape() for value in model.inputs}
            for shape in shapes.values():
                shape[0] = candidate.batch_size
            model.reshape(shapes)
            openvino.save_model(model, str(bundle / MODEL), compress_to_fp16=False)
            _compile(bundle, candidate)  # finds an operator without a kernel now

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        return OpenVinoRunner(_compile(bundle, manifest.candidate), manifest)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        from evaluators.diagnosis.executed import COMPUTING, executed_precisions, summarize
        from evaluators.diagnosis.instructions import named_instructions, offered_instructions
        from evaluators.diagnosis.openvino import executed
        from evaluators.target import probe_processor

        runner.run(runner.prepare(batch))  # kernels for shapes that vary are chosen in the call
        found = executed(runner.compiled)
        named = named_instructions(item.kernel for item in found if item.kind in COMPUTING)
        width = "openvino names the width of a kernel's instructions, and not whether they are VNNI's"
        unnamed = "no kernel named its instructions; they are the best that the processor has"
        return summarize(
            found,
            manifest.candidate.quantization.scheme,
            instruction_set=named or offered_instructions(probe_processor(), executed_precisions(found)),
            notes=(width if named else unnamed,),
        )


def _compile(bundle: Path, candidate: Candidate) -> Any:
    import openvino

    # Without a hint the runtime lowers float32 to what the processor likes best.
    precision = "bf16" if candidate.quantization.scheme == "bf16" else "f32"
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": candidate.runtime.threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    return openvino.Core().compile_model(str(bundle / MODEL), _DEVICE, settings)


class OpenVinoRunner:
    """One infer request; inputs and outputs are shared with the runtime, not copied."""

    def __init__(self, compiled: Any, manifest: Manifest) -> None:
        self.compiled = compiled
        request: Any = compiled.create_infer_request()
        self._set_input = request.set_input_tensor
        # The method that InferRequest.infer wraps: the wrapping takes a tenth of a call on a small model.
        wrapped: Any = super(type(request), request)
        self._infer = wrapped.infer
        self._declared, self._batch_size = manifest.inputs, manifest.candidate.batch_size
        self._dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs.tensors}
        self._inputs = [value.any_name for value in compiled.inputs]
        order = {name: index for index, value in enumerate(compiled.outputs) for name in value.names}
        self._outputs = [order[name] for name in manifest.outputs.names]

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
