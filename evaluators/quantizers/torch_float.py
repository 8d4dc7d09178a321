"""Quantizers in the module form for eager: as float, and in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from evaluators.candidate import Scalar
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.torch_recipe import Recipe
from evaluators.quantizers.traits import BFLOAT16
from evaluators.source import SourceModel


class EagerFloat32(Quantizer):
    """The float model as it is."""

    scheme: ClassVar[str] = "fp32"
    backends: ClassVar[tuple[str, ...]] = ("eager",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        Recipe(self.scheme).write(source.weights(), folder)


class EagerBfloat16(Quantizer):
    """Weights and activations in bfloat16; inputs and outputs stay float32."""

    scheme: ClassVar[str] = "bf16"
    backends: ClassVar[tuple[str, ...]] = ("eager",)
    needs: ClassVar[tuple[str, ...]] = BFLOAT16

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        Recipe(self.scheme).write(source.weights(), folder)
