"""Quantizers in the exported form for inductor that quantize weights only: linear layers in 8 or 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from evaluators.candidate import Scalar
from evaluators.libraries import converting
from evaluators.parameters import Parameter
from evaluators.quantizers.exported import PROGRAM
from evaluators.quantizers.torch_weights import GROUP_SIZE, quantize_weights
from evaluators.quantizers.weight_only import WeightOnly
from evaluators.source import SourceModel
from evaluators.stages.export import export_program


class InductorWeightInt8(WeightOnly):
    """Linear layers with int8 weights, computed in bfloat16, and tables in int8. Needs no calibration."""

    scheme: ClassVar[str] = "weight_int8"
    backends: ClassVar[tuple[str, ...]] = ("inductor",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import torch

        from evaluators.quantizers.weight_layers import with_int8_tables

        with converting("torch cannot quantize the model's weights"), torch.no_grad():
            module = quantize_weights(source.module(), self.scheme, int(values.get("group_size", 0)))
            module = with_int8_tables(module)
        example = source.example(source.batch_size or 2)
        torch.export.save(export_program(module, example, source.profile, source.batch_size), folder / PROGRAM)


class InductorWeightInt4(InductorWeightInt8):
    """Linear layers with int4 weights, a scale for each group of inputs; tables in int8. Needs no calibration."""

    scheme: ClassVar[str] = "weight_int4"
    parameters: ClassVar[tuple[Parameter, ...]] = (GROUP_SIZE,)
