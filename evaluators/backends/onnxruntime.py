"""The onnxruntime backend: an ONNX file on onnxruntime's own CPU kernels. Its bundles run without torch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.profile import WorkloadProfile
from evaluators.source import SourceModel

MODEL = "model.onnx"
_BATCH = "batch"
_PROVIDER = "CPUExecutionProvider"


class OnnxRuntime(Backend):
    """Builds from ``model.onnx``; the bundle is the same graph with its batch size fixed."""

    name: ClassVar[str] = "onnxruntime"
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx", "onnxscript")
    extra: ClassVar[str] = "onnxruntime"

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        import onnx
        from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

        with converting(f"onnxruntime cannot take batches of {candidate.batch_size}"):
            model = onnx.load(str(quantized / MODEL))
            make_dim_param_fixed(model.graph, _BATCH, candidate.batch_size)
            (bundle / MODEL).write_bytes(model.SerializeToString())
            self._session(bundle / MODEL, threads=1)  # finds an operator without a kernel now

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        session = self._session(bundle / MODEL, manifest.candidate.runtime.threads)
        return OnnxRuntimeRunner(session, manifest)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        from evaluators.diagnosis.executed import executed_precisions, summarize
        from evaluators.diagnosis.instructions import offered_instructions
        from evaluators.diagnosis.onnxruntime import executed, spare_memory
        from evaluators.diagnosis.timing import call_seconds
        from evaluators.target import probe_target

        candidate, feeds = manifest.candidate, runner.prepare(batch)
        if not spare_memory():
            return Diagnosis(notes=("there is too little memory to load the model once more and profile it",))
        with tempfile.TemporaryDirectory() as scratch:
            session = self._session(folder / MODEL, candidate.runtime.threads, profile=Path(scratch) / "profile")
            call_seconds(lambda: session.run(None, feeds))
            found = executed(Path(session.end_profiling()))
        return summarize(
            found,
            candidate.quantization.scheme,
            call_seconds=call_seconds(lambda: runner.run(feeds)),
            instruction_set=offered_instructions(probe_target(), executed_precisions(found)),
            notes=("onnxruntime does not tell its kernels' instructions; they are the best that the processor has",),
        )

    @staticmethod
    def _session(path: Path, threads: int, profile: Path | None = None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        session = onnxruntime.InferenceSession(str(path), options, providers=[_PROVIDER])
        if (found := session.get_providers()) != [_PROVIDER]:
            raise UnsupportedError(f"onnxruntime fell back: it runs on {', '.join(found)} instead of {_PROVIDER}")
        return session


class OnnxRuntimeRunner:
    """One session; takes arrays by name."""

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self._call = session.run
        self._outputs = list(manifest.outputs.names)
        self._declared, self._batch_size = manifest.inputs, manifest.candidate.batch_size
        self._dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs.tensors}
        self._inputs = [value.name for value in session.get_inputs()]

    def prepare(self, batch: Arrays) -> dict[str, np.ndarray]:
        self._declared.check(batch, self._batch_size)
        return {name: np.ascontiguousarray(batch[name], dtype=self._dtypes[name]) for name in self._inputs}

    def run(self, prepared: dict[str, np.ndarray]) -> Sequence[Any]:
        result: Sequence[Any] = self._call(self._outputs, prepared)
        return result

    def outputs(self, raw: Sequence[Any]) -> list[np.ndarray]:
        return [np.asarray(array) for array in raw]
