"""The inductor backend: torch's own compiler, ahead of time. Its bundles need torch and nothing of the user's code.

A package is compiled for one device, batch size and number of threads. On CUDA it holds kernels for one architecture.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.backends.eager import tensors_to_arrays
from evaluators.backends.placement import require_target
from evaluators.backends.torch_device import (
    CUDA_GRAPHS,
    WITHOUT_GRAPHS,
    DeviceRunner,
    graphs_option,
    use_float_precision,
    with_graphs,
)
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate, Scalar
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.exported import read_program, tree_map_to
from evaluators.quantizers.traits import convolutional
from evaluators.source import SourceModel
from evaluators.stages.export import export_again, positional
from evaluators.target import Target, device_of

if TYPE_CHECKING:
    import torch

MODEL = "model.pt2"
MAX_AUTOTUNE = Choice(
    "max_autotune", (True, False), False, "kernels for matrix products are generated and timed when it is built"
)
_COMPILERS = ("c++", "g++", "clang++")


class Inductor(Backend):
    """Builds from ``exported.pt2``; the bundle is an AOTInductor package compiled for its batch size and threads."""

    name: ClassVar[str] = "inductor"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    options: ClassVar[tuple[Parameter, ...]] = (MAX_AUTOTUNE, CUDA_GRAPHS)
    left_out: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            MAX_AUTOTUNE.name: "on processors templates are tried for matrix products only, and convolutions work here",
            **WITHOUT_GRAPHS,
        }
    )
    as_written: ClassVar[Mapping[str, Scalar]] = MappingProxyType({MAX_AUTOTUNE.name: False, CUDA_GRAPHS.name: False})
    threads_at_build: ClassVar[bool] = True
    options_at_build: ClassVar[tuple[str, ...]] = (MAX_AUTOTUNE.name,)

    def unusable(self, target: Target) -> str | None:
        named = os.environ.get("CXX")
        if not any(shutil.which(compiler) for compiler in ((named,) if named else _COMPILERS)):
            missing = f"the C++ compiler {named!r} of $CXX" if named else "a C++ compiler"
            return f"{missing} is not on PATH: install one, for instance with apt-get install g++"
        return super().unusable(target)

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def options_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        """On processors, templates are tried for matrix products only: where convolutions work, it is no knob."""
        products = "Linear" in profile.layers and not convolutional(profile)
        tuned = (MAX_AUTOTUNE,) if target.device != "cpu" or products else ()
        return (*tuned, *graphs_option(profile, target))

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        import torch
        from torch._inductor import aoti_compile_and_package, config

        device = source.target.device
        use_float_precision(candidate, device)
        program = on_device(read_program(quantized, candidate.quantization.scheme), device)
        example = tree_map_to(source.example(candidate.batch_size), device)
        fixed = export_again(program.module(), example, source.profile, candidate.batch_size)
        settings = compile_settings(candidate)
        with converting("torch's inductor cannot compile the model"), torch.no_grad(), config.patch(settings):
            aoti_compile_and_package(fixed, package_path=str(bundle / MODEL))
        if device != "cpu":
            _try(bundle, positional(example, source.profile.inputs))

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        import torch
        from torch._inductor import aoti_load_package

        device = device_of(manifest.candidate.target)
        graph = with_graphs(manifest, device)
        if device != "cpu":
            require_target(manifest.candidate.target, "the package")
        torch.set_num_threads(manifest.candidate.runtime.threads)
        use_float_precision(manifest.candidate, device)
        # What a package does to keep threads apart asks for events, which may not be done while a graph is recorded.
        model = aoti_load_package(str(bundle / MODEL), run_single_threaded=graph)
        if device == "cpu":
            return InductorRunner(model, manifest)
        return DeviceRunner(lambda tensors: list(model(*tensors)), manifest, device, graph=graph)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        if device_of(manifest.candidate.target) == "cuda":
            from evaluators.diagnosis.cuda import diagnosed

            return diagnosed(runner, manifest, batch)
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


def compile_settings(candidate: Candidate) -> dict[str, Any]:
    """Return what inductor is told besides its defaults: constants folded into the code, threads, and autotuning."""
    settings: dict[str, Any] = {"freezing": True, "cpp.threads": candidate.runtime.threads}
    if candidate.runtime.knobs.get(MAX_AUTOTUNE.name) is True:
        settings["max_autotune"] = True
    return settings


def on_device(program: Any, device: str) -> Any:
    """Return an exported program that computes on ``device``, tensors that it makes itself included."""
    from torch.export.passes import move_to_device_pass

    return program if device == "cpu" else move_to_device_pass(program, device)


def _try(bundle: Path, tensors: Sequence[torch.Tensor]) -> None:
    """Run what was compiled once: kernels that do not take the model's shapes are found now.

    Raises:
        UnsupportedError: it does not run.
    """
    import torch
    from torch._inductor import aoti_load_package

    with converting("the compiled model does not run"), torch.inference_mode():
        aoti_load_package(str(bundle / MODEL))(*tensors)


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
