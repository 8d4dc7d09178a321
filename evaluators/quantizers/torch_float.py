"""Quantizers in the module form for eager: as float, in 16 bits, and in fp8."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from evaluators.candidate import Scalar
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.torch_ao import TORCHAO, refuse_dynamic
from evaluators.quantizers.torch_recipe import Recipe
from evaluators.quantizers.traits import BFLOAT16, convolutional, multiplies_bfloat16
from evaluators.source import SourceModel
from evaluators.target import Target


class EagerFloat32(Quantizer):
    """The float model as it is."""

    scheme: ClassVar[str] = "fp32"
    backends: ClassVar[tuple[str, ...]] = ("eager",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        Recipe(self.scheme).write(source.weights(), folder)


class EagerTensorFloat32(EagerFloat32):
    """The float model; products of float32 are computed with 10 bits of mantissa on the GPU's matrix units."""

    scheme: ClassVar[str] = "tf32"
    needs: ClassVar[tuple[str, ...]] = ("tf32",)


class EagerFloat16(EagerFloat32):
    """Weights and activations in float16; inputs and outputs stay float32."""

    scheme: ClassVar[str] = "fp16"
    needs: ClassVar[tuple[str, ...]] = ("fp16",)


class EagerBfloat16(EagerFloat32):
    """Weights and activations in bfloat16; inputs and outputs stay float32."""

    scheme: ClassVar[str] = "bf16"
    needs: ClassVar[tuple[str, ...]] = BFLOAT16

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        return multiplies_bfloat16(target)


class EagerDynamicFloat8(Quantizer):
    """fp8 weights of linear layers; their inputs are quantized at every call. Needs no calibration."""

    scheme: ClassVar[str] = "dynamic_fp8"
    backends: ClassVar[tuple[str, ...]] = ("eager",)
    requires: ClassVar[tuple[str, ...]] = (TORCHAO,)
    devices: ClassVar[tuple[str, ...]] = ("cuda",)

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """Between convolutions there is little to quantize, and scales found anew for each call cost time."""
        return not convolutional(profile)

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        return super().refuse(profile, target) or refuse_dynamic("fp8", profile, target)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        Recipe(self.scheme, engine=TORCHAO).write(source.weights(), folder)
