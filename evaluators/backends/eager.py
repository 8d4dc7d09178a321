"""The eager backend: the user's own module, run by torch as it is. Its bundles need the workload's code."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate, Scalar
from evaluators.outcome import Diagnosis
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.torch_recipe import FILES, apply_recipe, read_recipe
from evaluators.source import SourceModel
from evaluators.structure import call, flatten
from evaluators.target import Target

if TYPE_CHECKING:
    import torch


class Eager(Backend):
    """Builds from plan, weights and recipe; loading rebuilds the module from the workload's own code."""

    name: ClassVar[str] = "eager"
    options: ClassVar[tuple[Parameter, ...]] = (
        Choice("channels_last", (True, False), True, "images with their channels innermost, as convolutions like them"),
    )

    as_written: ClassVar[Mapping[str, Scalar]] = MappingProxyType({"channels_last": False})

    def options_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        images = any(len(tensor.shape) == 4 for tensor in profile.inputs.tensors)
        return self.options if images and "Conv2d" in profile.layers else ()

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        for name in FILES:
            shutil.copyfile(quantized / name, bundle / name)

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        import torch

        from evaluators.stages.restore import restore_module
        from evaluators.workload import load_workload

        torch.set_num_threads(manifest.candidate.runtime.threads)
        module: Any = restore_module(load_workload(manifest.workload), bundle)
        module = apply_recipe(read_recipe(bundle), module, manifest.inputs).eval()
        channels_last = manifest.candidate.runtime.knobs.get("channels_last") is True
        if channels_last:
            module = module.to(memory_format=torch.channels_last)
        return EagerRunner(module, manifest, channels_last)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        import torch

        from evaluators.diagnosis.eager import executed
        from evaluators.diagnosis.executed import WEIGHTED, summarize
        from evaluators.diagnosis.instructions import named_instructions
        from evaluators.diagnosis.onednn import computing_kernels, primitives, with_kernels
        from evaluators.diagnosis.timing import call_seconds

        prepared = runner.prepare(batch)
        run = call_seconds(lambda: runner.run(prepared))
        operators = executed(lambda: runner.run(prepared))
        found = primitives(lambda: runner.run(prepared))
        named = named_instructions(computing_kernels(found))
        capability = torch.backends.cpu.get_cpu_capability().lower()
        scheme = manifest.candidate.quantization.scheme
        return summarize(
            with_kernels(operators, found),
            scheme,
            call_seconds=run,
            asked=("linear", "recurrent") if scheme.startswith("dynamic") else WEIGHTED,
            instruction_set=named or capability,
            notes=() if named else (f"no kernel named its instructions; torch's own use {capability}",),
        )


class EagerRunner:
    """The module in inference mode; what an input has to go through before it is computed is part of the call."""

    def __init__(self, module: torch.nn.Module, manifest: Manifest, channels_last: bool) -> None:
        self._module = module
        self._inputs = manifest.inputs
        self._batch_size = manifest.candidate.batch_size
        self._channels_last = channels_last

    def prepare(self, batch: Arrays) -> Any:
        import torch

        self._inputs.check(batch, self._batch_size)
        tensors = [torch.tensor(batch[spec.name], dtype=getattr(torch, spec.dtype)) for spec in self._inputs.tensors]
        return self._inputs.pack(tensors)

    def run(self, prepared: Any) -> Any:
        import torch

        with torch.inference_mode():
            if self._channels_last:
                prepared = self._reordered(prepared)
            return call(self._module, prepared)

    def outputs(self, raw: Any) -> list[np.ndarray]:
        return tensors_to_arrays(flatten(raw, "output")[1].values())

    def _reordered(self, prepared: Any) -> Any:
        import torch

        tensors = flatten(prepared, "input")[1].values()
        return self._inputs.pack(
            [tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor for tensor in tensors]
        )


def tensors_to_arrays(tensors: Any) -> list[np.ndarray]:
    """Copy tensors out as arrays; bfloat16, which NumPy lacks, becomes float32."""
    import torch

    return [
        (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy().copy() for tensor in tensors
    ]
