"""Quantizers in the exported form for ExecuTorch, ``exported.pt2``: float, and int8 as XNNPACK computes it (PT2E)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.traits import convolutional
from evaluators.source import SourceModel
from evaluators.stages.export import export_again, positional
from evaluators.target import Target

PROGRAM = "exported.pt2"
_BACKENDS = ("executorch",)
_MOST_EXAMPLES = 128

DELEGATE = Choice("delegate", ("xnnpack", "coreml"), "xnnpack", "the library that computes what it can of the graph")
_PER_CHANNEL = Choice("per_channel", (True, False), True, "one weight scale per output channel instead of per tensor")


class ExecuTorchFloat32(Quantizer):
    """The float model as it was exported."""

    scheme: ClassVar[str] = "fp32"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    parameters: ClassVar[tuple[Parameter, ...]] = (DELEGATE,)

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        """Core ML's delegate runs on macOS only."""
        return self.parameters if target.system.startswith("Darwin") else (DELEGATE.narrowed(("xnnpack",)),)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        shutil.copyfile(source.exported(), folder / PROGRAM)


class ExecuTorchStaticInt8(Quantizer):
    """int8 weights and activations of what XNNPACK computes; ranges come from calibration data."""

    scheme: ClassVar[str] = "static_int8"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    requires: ClassVar[tuple[str, ...]] = ("torchao",)
    parameters: ClassVar[tuple[Parameter, ...]] = (_PER_CHANNEL,)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _quantize(source, folder, per_channel=bool(values["per_channel"]), dynamic=False)


class ExecuTorchDynamicInt8(Quantizer):
    """int8 weights of linear layers, a scale for each output channel; their inputs are quantized at every call.

    Needs no calibration. XNNPACK has no dynamic products for weights with one scale.
    """

    scheme: ClassVar[str] = "dynamic_int8"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    requires: ClassVar[tuple[str, ...]] = ("torchao",)

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        if "Linear" not in profile.layers:
            return "XNNPACK quantizes Linear layers dynamically, and the model has none"
        return super().refuse(profile, target)

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """Between convolutions there is little to quantize dynamically."""
        return not convolutional(profile)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _quantize(source, folder, per_channel=True, dynamic=True)


def _quantize(source: SourceModel, folder: Path, *, per_channel: bool, dynamic: bool) -> None:
    """Quantize the exported model for XNNPACK and export it again, with its quantize operators in it."""
    import torch

    with converting("torchao cannot quantize the exported model for XNNPACK"), torch.no_grad():
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        configuration = get_symmetric_quantization_config(is_per_channel=per_channel, is_dynamic=dynamic)
        quantizer: Any = XNNPACKQuantizer()
        quantizer.set_global(configuration)
        prepared = prepare_pt2e(torch.export.load(source.exported()).module(), quantizer)
        for batch in source.calibration(limit=1 if dynamic else _MOST_EXAMPLES):
            prepared(*positional(batch, source.profile.inputs))
        converted = convert_pt2e(prepared)
    if not any("dequantize_per" in str(node.target) for node in converted.graph.nodes):
        raise UnsupportedError("XNNPACK's quantizer found no operator in the model that it can quantize")
    example = source.example(source.batch_size or 2)
    torch.export.save(export_again(converted, example, source.profile, source.batch_size), folder / PROGRAM)
