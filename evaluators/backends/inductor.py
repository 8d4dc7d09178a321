"""The inductor backend: torch's own compiler, ahead of time. Its bundles need torch and nothing of the user's code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.backends.eager import tensors_to_arrays
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.exported import read_program
from evaluators.source import SourceModel
from evaluators.stages.export import export_again
from evaluators.target import Target

if TYPE_CHECKING:
    import torch

MODEL = "model.pt2"
_COMPILERS = ("c++", "g++", "clang++")


class Inductor(Backend):
    """Builds from ``exported.pt2``; the bundle is an AOTInductor package compiled for its batch size and threads."""

    name: ClassVar[str] = "inductor"
    threads_at_build: ClassVar[bool] = True

    def unusable(self, target: Target) -> str | None:
        named = os.environ.get("CXX")
        if not any(shutil.which(compiler) for compiler in ((named,) if named else _COMPILERS)):
            missing = f"the C++ compiler {named!r} of $CXX" if named else "a C++ compiler"
            return f"{missing} is not on PATH: install one, for instance with apt-get install g++"
        return super().unusable(target)

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        import torch
        from torch._inductor import aoti_compile_and_package, config

        program = read_program(quantized)
        example = source.example(candidate.batch_size)
        fixed = export_again(program.module(), example, source.profile, candidate.batch_size)
        settings = {"freezing": True, "cpp.threads": candidate.runtime.threads}
        with converting("torch's inductor cannot compile the model"), torch.no_grad(), config.patch(settings):
            aoti_compile_and_package(fixed, package_path=str(bundle / MODEL))

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        import torch
        from torch._inductor import aoti_load_package

        torch.set_num_threads(manifest.candidate.runtime.threads)
        return InductorRunner(aoti_load_package(str(bundle / MODEL)), manifest)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        from evaluators.diagnosis.executed import summarize
        from evaluators.diagnosis.inductor import executed, instruction_set
        from evaluators.diagnosis.instructions import named_instructions
        from evaluators.diagnosis.onednn import computing_kernels, primitives, with_kernels
        from evaluators.diagnosis.timing import call_seconds

        prepared = runner.prepare(batch)
        run = call_seconds(lambda: runner.run(prepared))
        found = primitives(lambda: runner.run(prepared))
        named = named_instructions(computing_kernels(found))
        return summarize(
            with_kernels(executed(folder / MODEL), found),
            manifest.candidate.quantization.scheme,
            call_seconds=run,
            instruction_set=named or instruction_set(folder / MODEL),
            notes=() if named else ("the instructions are those that inductor compiled for, as the package says",),
        )


class InductorRunner:
    """One compiled model; takes tensors by position."""

    def __init__(self, model: Any, manifest: Manifest) -> None:
        self._model = model
        self._inputs = manifest.inputs
        self._batch_size = manifest.candidate.batch_size

    def prepare(self, batch: Arrays) -> tuple[torch.Tensor, ...]:
        import torch

        self._inputs.check(batch, self._batch_size)
        return tuple(torch.tensor(batch[spec.name], dtype=getattr(torch, spec.dtype)) for spec in self._inputs.tensors)

    def run(self, prepared: tuple[torch.Tensor, ...]) -> Any:
        import torch

        with torch.inference_mode():
            return self._model(*prepared)

    def outputs(self, raw: Any) -> list[np.ndarray]:
        return tensors_to_arrays(raw)
