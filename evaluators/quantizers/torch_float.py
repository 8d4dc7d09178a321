"""Quantizers in the module form for eager: as float, and in bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from evaluators.candidate import Scalar
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.torch_recipe import Recipe
from evaluators.quantizers.traits import BFLOAT16
from evaluators.source import SourceModel
from evaluators.target import Target


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

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """Without matrix units for it, bfloat16 is slower than fp32 on most processors."""
        return target.has("amx_bf16")

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        Recipe(self.scheme).write(source.weights(), folder)
