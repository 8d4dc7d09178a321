"""The executorch backend: PyTorch's runtime for phones and small devices, with XNNPACK, or Core ML on macOS."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.backends.eager import tensors_to_arrays
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.executorch import DELEGATE, PROGRAM
from evaluators.source import SourceModel
from evaluators.stages.export import export_again

if TYPE_CHECKING:
    import torch

MODEL = "model.pte"
DELEGATION = "delegation.json"


class ExecuTorch(Backend):
    """Builds from ``exported.pt2``; the bundle is a ``.pte`` program for its batch size, and what runs where in it."""

    name: ClassVar[str] = "executorch"
    requires: ClassVar[tuple[str, ...]] = ("executorch", "torchao")
    extra: ClassVar[str] = "executorch"

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        import torch
        from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers quantized_decomposed::*

        from evaluators.diagnosis.executorch import delegation

        with converting("ExecuTorch cannot take the model"), torch.no_grad():
            exir = importlib.import_module("executorch.exir")
            importlib.import_module("executorch.kernels.quantized")  # what is quantized and not delegated
            program = torch.export.load(quantized / PROGRAM)
            example = source.example(candidate.batch_size)
            fixed = export_again(program.module(), example, source.profile, candidate.batch_size)
            edge = exir.to_edge_transform_and_lower(fixed, partitioner=partitioners(candidate))
            found = delegation(edge.exported_program().graph_module)
            (bundle / MODEL).write_bytes(edge.to_executorch().buffer)
        (bundle / DELEGATION).write_text(found.model_dump_json(indent=2))
        with converting("ExecuTorch cannot run the program that it made"):  # finds an operator without a kernel now
            importlib.import_module("executorch.extension.pybindings.portable_lib")._load_for_executorch(
                str(bundle / MODEL)
            ).method_meta("forward")

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        with converting("ExecuTorch cannot load the program"):
            runtime = importlib.import_module("executorch.extension.pybindings.portable_lib")
            importlib.import_module("executorch.kernels.quantized")
            _use_threads(runtime, manifest.candidate.runtime.threads)
            return ExecuTorchRunner(runtime._load_for_executorch(str(bundle / MODEL)), manifest)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        from evaluators.diagnosis.executorch import Delegation, diagnosis
        from evaluators.target import probe_target

        found = Delegation.model_validate_json((folder / DELEGATION).read_bytes())
        return diagnosis(found, manifest.candidate.quantization.scheme, probe_target(manifest.candidate.target))


def partitioners(candidate: Candidate) -> list[Any]:
    """Return what takes operators out of the graph for a library to compute, in the order in which they may choose."""
    if candidate.quantization.knobs.get(DELEGATE.name, DELEGATE.default) == "coreml":
        return [_core_ml_partitioner()]
    module = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    if candidate.quantization.scheme == "dynamic_int8":
        return [module.XnnpackDynamicallyQuantizedPartitioner(), module.XnnpackPartitioner()]
    return [module.XnnpackPartitioner()]


def _core_ml_partitioner() -> Any:
    import coremltools

    compiler = importlib.import_module("executorch.backends.apple.coreml.compiler")
    partition = importlib.import_module("executorch.backends.apple.coreml.partition")
    specs = compiler.CoreMLBackend.generate_compile_specs(compute_precision=coremltools.precision.FLOAT32)
    return partition.CoreMLPartitioner(compile_specs=specs)


def _use_threads(runtime: Any, threads: int) -> None:
    """Set the threads of the process's one pool, in which XNNPACK and ExecuTorch's own kernels compute.

    Raises:
        UnsupportedError: the pool has another size.
    """
    runtime._unsafe_reset_threadpool(threads)  # unsafe while something runs, and nothing does yet
    if (found := runtime._threadpool_get_thread_count()) != threads:
        raise UnsupportedError(f"ExecuTorch's pool has {found} threads after {threads} were asked for")


class ExecuTorchRunner:
    """One loaded method; takes tensors by position, and its outputs lie in its own memory until the next call."""

    def __init__(self, module: Any, manifest: Manifest) -> None:
        self._module = module  # owns the memory of outputs
        self._run = module.run_method
        self._inputs, self._batch_size = manifest.inputs, manifest.candidate.batch_size

    def prepare(self, batch: Arrays) -> tuple[torch.Tensor, ...]:
        import torch

        self._inputs.check(batch, self._batch_size)
        return tuple(torch.tensor(batch[spec.name], dtype=getattr(torch, spec.dtype)) for spec in self._inputs.tensors)

    def run(self, prepared: tuple[torch.Tensor, ...]) -> Any:
        return self._run("forward", prepared, False)  # clone_outputs

    def outputs(self, raw: Any) -> list[np.ndarray]:
        return tensors_to_arrays(raw)
