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
from evaluators.quantizers.traits import (
    convolutional,
    linear_or_recurrent,
    narrowed_samples,
    samples,
    saturates,
    transformer,
)
from evaluators.sensitivity import CONVOLUTIONS
from evaluators.source import SourceModel
from evaluators.target import Target

_KINDS = (*CONVOLUTIONS, "Linear")
_SAMPLES = samples(128)
_ENGINE = "oneDNN's kernels beside FBGEMM's, one of them alone, or QNNPACK's, which are made for ARM"

_PER_CHANNEL = Choice("per_channel", (True, False), True, "one weight scale per output channel instead of per tensor")
_ENGINES = Choice("engine", ("x86", "fbgemm", "onednn", "qnnpack"), "x86", _ENGINE)


class EagerDynamicInt8(Quantizer):
    """int8 weights of linear and, on processors, recurrent layers; their inputs are quantized at every call.

    Needs no calibration. It is torch's own on processors, and torchao's on CUDA.
    """

    scheme: ClassVar[str] = "dynamic_int8"
    backends: ClassVar[tuple[str, ...]] = ("eager",)
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    parameters: ClassVar[tuple[Parameter, ...]] = (Choice("engine", ("x86", "qnnpack"), "x86", _ENGINE),)

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        """ARM has QNNPACK's kernels only, and CUDA has others altogether."""
        return self.parameters if target.device == "cpu" and _default_engine(target) == "x86" else ()

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
        if source.target.device == "cuda":
            Recipe(self.scheme, engine=TORCHAO).write(source.weights(), folder)
            return
        engine = str(values.get("engine", _default_engine(source.target)))
        Recipe(self.scheme, engine=engine, packed=True).write(source.weights(), folder, source.module())


class EagerStaticInt8(Quantizer):
    """int8 weights and activations; the ranges of the activations come from calibration data."""

    scheme: ClassVar[str] = "static_int8"
    backends: ClassVar[tuple[str, ...]] = ("eager",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Choice("calibration", ("histogram", "minmax"), "histogram", "how an activation's range is chosen"),
        _SAMPLES,
        _ENGINES,
        _PER_CHANNEL,
        Choice("symmetric", (False, True), False, "ranges of activations with zero in their middle"),
        Choice("reduce_range", (True, False), True, "7-bit activations, for processors whose 8-bit products saturate"),
        FLOAT_SHARE,
    )

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        left_out = set() if saturates(target) else {"reduce_range"}
        if _default_engine(target) != "x86":
            left_out.add("engine")
        own = {_SAMPLES.name: narrowed_samples(_SAMPLES, profile), _ENGINES.name: _engines(target)}
        if _default_engine(target) == "qnnpack" and _everything(profile):  # torch's own recipe for this engine
            own[_PER_CHANNEL.name] = replace(_PER_CHANNEL, default=False)
        offered = (own.get(parameter.name, parameter) for parameter in self.parameters)
        left = (item for item in offered if item is not None and item.name not in left_out)
        return with_share(left, profile, _KINDS)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        calibration = str(values["calibration"])
        profile = source.profile
        recipe = Recipe(
            self.scheme,
            engine=str(values.get("engine", _default_engine(source.target))),
            everything=_everything(profile),
            per_channel=bool(values.get("per_channel", True)),
            packed=True,
            kept_float=kept_layers(source, values, _KINDS),
        )
        with converting("torch cannot trace and quantize the model"):
            prepared = observed(
                source.module(), profile.inputs, recipe, calibration,
                reduce_range=bool(values.get("reduce_range", False)), symmetric=bool(values.get("symmetric", False)),
            )  # fmt: skip
            limit = int(values.get(_SAMPLES.name, _SAMPLES.default))
            activations = calibrate(prepared, source.calibration(limit=limit))
            require_float_modules(convert(prepared), recipe.kept_float)
        replace(recipe, activations=activations).write(source.weights(), folder, source.module())


def _everything(profile: WorkloadProfile) -> bool:
    """Whether all operators may run in int8: not the normalizations of a transformer, not token ids."""
    floats = all(tensor.dtype.startswith("float") for tensor in profile.inputs.tensors)
    return floats and convolutional(profile) and not transformer(profile)


def _engines(target: Target) -> Choice | None:
    """Return the engines worth trying: oneDNN's alone where 8-bit products do not saturate, else QNNPACK's.

    QNNPACK sums products in 32 bits everywhere; oneDNN without VNNI sums pairs of them in 16.
    """
    if _default_engine(target) != "x86":
        return None
    return _ENGINES.narrowed(("x86", "fbgemm", "qnnpack" if saturates(target) else "onednn"))


def _default_engine(target: Target) -> str:
    return "qnnpack" if target.has("neon") else "x86"
