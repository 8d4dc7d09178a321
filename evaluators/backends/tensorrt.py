"""The tensorrt backend: NVIDIA's compiler through Torch-TensorRT. Its bundles need torch and nothing of the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from evaluators.backends import torch_tensorrt
from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.backends.torch_device import DeviceRunner
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.pruners.sparse_2_4 import Sparse24
from evaluators.quantizers.tensorrt import PROGRAM
from evaluators.source import SourceModel
from evaluators.stages.export import dynamic_axes, export_again, positional

MODEL = "model.pt2"
PARTITION = "partition.json"
MOST_FALLBACK = 0.25
"""A model of which a greater share of operators falls back to PyTorch is refused: it is hardly TensorRT's any more."""

_LEVEL = Choice("optimization_level", (3, 5), 3, "how long TensorRT looks for faster kernels; 5 can take minutes")
_CALIBRATION_BATCHES = 16


class TensorRt(Backend):
    """Builds from ``exported.pt2``; the bundle is an AOTInductor package that holds the engines, ``model.pt2``."""

    name: ClassVar[str] = "tensorrt"
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    requires: ClassVar[tuple[str, ...]] = ("torch-tensorrt", "tensorrt")
    extra: ClassVar[str] = "tensorrt"
    options: ClassVar[tuple[Parameter, ...]] = (_LEVEL,)
    options_at_build: ClassVar[tuple[str, ...]] = (_LEVEL.name,)

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        from evaluators.diagnosis.tensorrt import partition, refuse_partition

        inputs = source.profile.inputs
        program = read_program(quantized, candidate.quantization.scheme)
        example = source.example(candidate.batch_size)
        fixed = export_again(program.module(), example, source.profile, candidate.batch_size)
        compiled = torch_tensorrt.compile_program(
            fixed,
            inputs,
            torch_tensorrt.shapes_of(inputs, candidate.batch_size, _seen(source), torch_tensorrt.bounds_of(fixed)),
            scheme=candidate.quantization.scheme,
            sparse=candidate.pruning.structure == Sparse24.structure,
            optimization_level=int(candidate.runtime.knobs.get(_LEVEL.name, _LEVEL.default)),
        )
        found = partition(fixed, compiled)
        if (why := refuse_partition(found, MOST_FALLBACK)) is not None:
            raise UnsupportedError(why)
        (bundle / PARTITION).write_text(found.model_dump_json(indent=2))
        tensors = [tensor.to(source.target.device) for tensor in positional(example, inputs)]
        axes = dynamic_axes(inputs, candidate.batch_size) if inputs.varies else None
        torch_tensorrt.package(compiled, tensors, axes, bundle / MODEL)

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        import torch

        from evaluators.target import device_of, probe_targets

        wanted = manifest.candidate.target
        if wanted not in (here := [target.name for target in probe_targets()]):
            raise UnsupportedError(
                f"the engines are for {wanted}, and this machine has {', '.join(here)}: build it there"
            )
        torch.set_num_threads(manifest.candidate.runtime.threads)
        model = torch_tensorrt.open_package(bundle / MODEL)
        return DeviceRunner(lambda tensors: list(model(*tensors)), manifest, device_of(wanted))

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        from evaluators.diagnosis.tensorrt import Partition, diagnosis

        found = Partition.model_validate_json((folder / PARTITION).read_bytes())
        return diagnosis(found, manifest.candidate.quantization.scheme)


def read_program(folder: Path, scheme: str) -> Any:
    """Read ``exported.pt2``, with modelopt's operators where the scheme put them into it, and move it to the GPU."""
    import torch
    from torch.export.passes import move_to_device_pass

    with converting("torch cannot read the exported model"):
        if scheme.startswith("static_"):
            import modelopt.torch.quantization  # noqa: F401 - registers tensorrt::quantize_op
        return move_to_device_pass(torch.export.load(folder / PROGRAM), "cuda")


def _seen(source: SourceModel) -> list[list[tuple[int, ...]]]:
    """Return the shapes of the inputs of some calibration batches of one example each."""
    inputs = source.profile.inputs
    if not inputs.varies:
        return []
    batches = source.calibration(1, _CALIBRATION_BATCHES)
    return [[tuple(tensor.shape) for tensor in positional(batch, inputs)] for batch in batches]
