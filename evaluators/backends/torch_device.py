"""Where a torch model computes when it is not the processor: a call begins and ends in the memory of the host.

What a request waits for is the way to the device, the computation and the way back (decision 0030). ``run`` returns
once the result has arrived, so that whoever times it needs to know nothing of devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.backends.base import Arrays
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.parameters import Choice
from evaluators.profile import WorkloadProfile
from evaluators.target import Target

if TYPE_CHECKING:
    from torch import Tensor

Function = Callable[[Sequence[Any]], Sequence[Any]]
"""Tensors on the device in, tensors on the device out."""

CUDA_GRAPHS = Choice(
    "cuda_graphs", (True, False), True, "the whole call recorded once and launched as one, for inputs of one shape"
)
_WARMUP_CALLS = 3
_PRECISION = {"fp32": "ieee", "tf32": "tf32"}


WITHOUT_GRAPHS = {CUDA_GRAPHS.name: "CUDA graphs need a CUDA device, and inputs of one shape"}
"""Why they are no choice, where they are none."""


def graphs_option(profile: WorkloadProfile, target: Target) -> tuple[Choice, ...]:
    """Return the knob for CUDA graphs where the device has them and every call has inputs of one shape."""
    return (CUDA_GRAPHS,) if target.has("graphs") and not profile.inputs.varies else ()


def with_graphs(manifest: Manifest, device: str) -> bool:
    """Return whether the candidate asks for CUDA graphs.

    Raises:
        UnsupportedError: it does, on another device or for inputs that vary in shape.
    """
    if manifest.candidate.runtime.knobs.get(CUDA_GRAPHS.name) is not True:
        return False
    if device != "cuda":
        raise UnsupportedError(f"cuda_graphs is set, and {manifest.candidate.target} is no CUDA device: leave it out")
    if manifest.inputs.varies:
        varying = ", ".join(spec.name for spec in manifest.inputs.tensors if spec.dynamic_axes)
        raise UnsupportedError(f"cuda_graphs is set, and inputs vary in shape ({varying}): set it to false")
    return True


def use_float_precision(candidate: Candidate, device: str) -> None:
    """Tell torch how products of float32 are computed on CUDA: fp32 means IEEE's, also where torch's default is TF32.

    It is a setting of the process; on other devices nothing is set. torch's older settings are set with it: inductor
    asks for them when it tunes, and torch raises an error where the two disagree.
    """
    if device != "cuda":
        return
    import torch

    word = _PRECISION.get(candidate.quantization.scheme, "ieee")
    backends: Any = torch.backends
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = word == "tf32"
    backends.cuda.matmul.fp32_precision = word
    backends.cudnn.conv.fp32_precision = word
    backends.cudnn.rnn.fp32_precision = word


class DeviceRunner:
    """A torch model on a device: inputs wait in the host's memory, page-locked for CUDA, and outputs come back there.

    ``function`` computes on the device; with ``graph`` it is recorded once and replayed.
    """

    def __init__(self, function: Function, manifest: Manifest, device: str, *, graph: bool = False) -> None:
        self._inputs = manifest.inputs
        self._batch_size = manifest.candidate.batch_size
        self._device = device
        self._computed: Function = function
        if graph:
            self._computed = Recorded(function, self._on_device(self.prepare(_example(manifest))))

    def prepare(self, batch: Arrays) -> list[Tensor]:
        import torch

        self._inputs.check(batch, self._batch_size)
        tensors = [torch.tensor(batch[spec.name], dtype=getattr(torch, spec.dtype)) for spec in self._inputs.tensors]
        return [tensor.pin_memory() for tensor in tensors] if self._device == "cuda" else tensors

    def run(self, prepared: Sequence[Tensor]) -> list[Tensor]:
        import torch

        with torch.inference_mode():
            return self._to_host(self._computed(self._on_device(prepared)))

    def outputs(self, raw: Sequence[Tensor]) -> list[np.ndarray]:
        from evaluators.backends.eager import tensors_to_arrays

        return tensors_to_arrays(raw)

    def _on_device(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.to(self._device, non_blocking=True) for tensor in tensors]

    def _to_host(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        if self._device != "cuda":
            return [tensor.to("cpu") for tensor in tensors]  # waits until each has arrived
        import torch

        copies = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into page-locked memory
        torch.cuda.current_stream().synchronize()
        return copies


class Recorded:
    """A function recorded as a CUDA graph: inputs are copied into the buffers that it was recorded with.

    Raises:
        UnsupportedError: it does something that cannot be recorded, such as reading a value back in between.
    """

    def __init__(self, function: Function, example: Sequence[Tensor]) -> None:
        import torch

        cuda: Any = torch.cuda
        self._inputs = [tensor.clone() for tensor in example]
        with converting("the model cannot be recorded as a CUDA graph"), torch.inference_mode():
            aside = cuda.Stream()
            aside.wait_stream(cuda.current_stream())
            with cuda.stream(aside):  # libraries choose kernels and take workspaces before it is recorded
                for _ in range(_WARMUP_CALLS):
                    function(self._inputs)
            cuda.current_stream().wait_stream(aside)
            self._graph = cuda.CUDAGraph()
            with cuda.graph(self._graph):
                self._outputs = function(self._inputs)

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Any]:
        for mine, given in zip(self._inputs, tensors, strict=True):
            mine.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._outputs


def _example(manifest: Manifest) -> Arrays:
    from evaluators.diagnosis import ones

    return ones(manifest)
