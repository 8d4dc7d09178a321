"""The eager backend: the user's own module, run by torch as it is. Its bundles need the workload's code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
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
from evaluators.quantizers.torch_recipe import FILES, apply_recipe, read_recipe
from evaluators.source import SourceModel
from evaluators.stages.export import positional
from evaluators.structure import Structure, call, flatten
from evaluators.target import Target, device_of

if TYPE_CHECKING:
    import torch


class Eager(Backend):
    """Builds from plan, weights and recipe; loading rebuilds the module from the workload's own code."""

    name: ClassVar[str] = "eager"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps")
    options: ClassVar[tuple[Parameter, ...]] = (
        Choice("channels_last", (True, False), True, "images with their channels innermost, as convolutions like them"),
        CUDA_GRAPHS,
    )

    left_out: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"channels_last": "no convolution of the model takes images", **WITHOUT_GRAPHS}
    )
    as_written: ClassVar[Mapping[str, Scalar]] = MappingProxyType({"channels_last": False, "cuda_graphs": False})

    def options_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        images = any(len(tensor.shape) == 4 for tensor in profile.inputs.tensors)
        layout = self.options[:1] if images and "Conv2d" in profile.layers else ()
        return (*layout, *graphs_option(profile, target))

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        for name in FILES:
            shutil.copyfile(quantized / name, bundle / name)
        if (device := device_of(candidate.target)) != "cpu":
            _try_on(device, bundle, source, candidate)

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        import torch

        from evaluators.stages.restore import restore_module
        from evaluators.workload import load_workload

        torch.set_num_threads(manifest.candidate.runtime.threads)
        device = device_of(manifest.candidate.target)
        graph = with_graphs(manifest, device)
        use_float_precision(manifest.candidate, device)
        module: Any = restore_module(load_workload(manifest.workload), bundle).to(device)
        module = apply_recipe(read_recipe(bundle), module, manifest.inputs).eval()
        channels_last = manifest.candidate.runtime.knobs.get("channels_last") is True
        if channels_last:
            module = module.to(memory_format=torch.channels_last)
        if device == "cpu":
            return EagerRunner(module, manifest, channels_last)
        return DeviceRunner(_called(module, manifest.inputs, channels_last), manifest, device, graph=graph)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        import torch

        if device_of(manifest.candidate.target) == "cuda":
            from evaluators.diagnosis.cuda import diagnosed

            return diagnosed(runner, manifest, batch)
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
        tensors = flatten(prepared, "input")[1].values()
        return self._inputs.pack(_channels_last(tensors))


def _channels_last(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    import torch

    return [tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor for tensor in tensors]


def _called(module: Any, inputs: Structure, channels_last: bool) -> Callable[[Sequence[Any]], list[Any]]:
    """Return the module's call as a function from tensors in call order to tensors."""

    def function(tensors: Sequence[Any]) -> list[Any]:
        ordered = _channels_last(tensors) if channels_last else tensors
        return list(flatten(call(module, inputs.pack(ordered)), "output")[1].values())

    return function


def _try_on(device: str, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
    """Run what was built once on its device: a model that makes tensors elsewhere is found now.

    Raises:
        UnsupportedError: it does not run there.
    """
    import torch

    inputs = source.profile.inputs
    use_float_precision(candidate, device)
    with converting(f"the model does not run on {device}"), torch.inference_mode():
        module = apply_recipe(read_recipe(bundle), source.module().to(device), inputs).eval()
        example = positional(source.example(candidate.batch_size), inputs)
        _called(module, inputs, False)([tensor.to(device) for tensor in example])


def tensors_to_arrays(tensors: Any) -> list[np.ndarray]:
    """Copy tensors out as arrays; bfloat16, which NumPy lacks, becomes float32."""
    import torch

    return [
        (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy().copy() for tensor in tensors
    ]
