"""Quantizers in the module form for eager: torch's own int8, dynamic and static (FX)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from evaluators.candidate import Scalar
from evaluators.libraries import converting
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.kept_float import FLOAT_SHARE, kept_layers, require_float_modules, with_share
from evaluators.quantizers.torch_ao import TORCHAO, refuse_dynamic
from evaluators.quantizers.torch_recipe import Recipe, calibrate, convert, observed
from evaluators.quantizers.traits import convolutional, linear_or_recurrent, saturates, transformer
from evaluators.sensitivity import CONVOLUTIONS
from evaluators.source import SourceModel
from evaluators.target import Target

_MOST_EXAMPLES = {"histogram": 128, "minmax": 256}
_KINDS = (*CONVOLUTIONS, "Linear")


class EagerDynamicInt8(Quantizer):
    """int8 weights of linear and, on processors, recurrent layers; their inputs are quantized at every call.

    Needs no calibration. It is torch's own on processors, and torchao's on CUDA.
    """

    scheme: ClassVar[str] = "dynamic_int8"
    backends: ClassVar[tuple[str, ...]] = ("eager",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """Between convolutions there is little to quantize, and scales found anew for each call cost time."""
        return not convolutional(profile)

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        if target.device == "cuda":
            return refuse_dynamic("int8", profile, target)
        if not linear_or_recurrent(profile):
            return "torch quantizes Linear, LSTM and GRU layers dynamically, and the model has none"
        return super().refuse(profile, target)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        engine = TORCHAO if source.target.device == "cuda" else _default_engine(source.target)
        Recipe(self.scheme, engine=engine).write(source.weights(), folder)


class EagerStaticInt8(Quantizer):
    """int8 weights and activations; the ranges of the activations come from calibration data."""

    scheme: ClassVar[str] = "static_int8"
    backends: ClassVar[tuple[str, ...]] = ("eager",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Choice("calibration", ("histogram", "minmax"), "histogram", "how an activation's range is chosen"),
        Choice("engine", ("x86", "fbgemm"), "x86", "oneDNN's kernels, or FBGEMM's, faster on small batches"),
        Choice("reduce_range", (True, False), True, "7-bit activations, for processors whose 8-bit products saturate"),
        FLOAT_SHARE,
    )

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        left_out = set() if saturates(target) else {"reduce_range"}
        if _default_engine(target) != "x86":
            left_out.add("engine")
        left = (parameter for parameter in self.parameters if parameter.name not in left_out)
        return with_share(left, profile, _KINDS)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        calibration = str(values["calibration"])
        profile = source.profile
        recipe = Recipe(
            self.scheme,
            engine=str(values.get("engine", _default_engine(source.target))),
            everything=_everything(profile),
            kept_float=kept_layers(source, values, _KINDS),
        )
        with converting("torch cannot trace and quantize the model"):
            reduce_range = bool(values.get("reduce_range", False))
            prepared = observed(source.module(), profile.inputs, recipe, calibration, reduce_range=reduce_range)
            activations = calibrate(prepared, source.calibration(limit=_MOST_EXAMPLES[calibration]))
            require_float_modules(convert(prepared), recipe.kept_float)
        replace(recipe, activations=activations).write(source.weights(), folder)


def _everything(profile: WorkloadProfile) -> bool:
    """Whether all operators may run in int8: not the normalizations of a transformer, not token ids."""
    floats = all(tensor.dtype.startswith("float") for tensor in profile.inputs.tensors)
    return floats and convolutional(profile) and not transformer(profile)


def _default_engine(target: Target) -> str:
    return "qnnpack" if target.has("neon") else "x86"
