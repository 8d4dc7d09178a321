"""Quantizers of weights that were trained for int8: one stage trains them, each backend's static int8 does the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.parameters import Choice, Parameter, defaults
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.exported import InductorStaticInt8
from evaluators.quantizers.onnx import OnnxStaticInt8
from evaluators.quantizers.openvino import OpenVinoStaticInt8
from evaluators.quantizers.torch_fx import EagerStaticInt8
from evaluators.source import SourceModel
from evaluators.target import Target

QAT_STEPS = Choice("qat_steps", (100, 300), 100, "training steps with weights and activations rounded to int8")
KERNEL_KNOBS = frozenset(
    ("engine", "reduce_range", "activation_type", "format", "operators", "preset", "float_precision")
)
"""The knobs of static int8 that decide which code runs; those that decide on accuracy are what the weights learnt."""

LEAST_EXAMPLES = 128
_RECURRENT = ("LSTM", "GRU", "RNN")


def _kernel_knobs(parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    return tuple(parameter for parameter in parameters if parameter.name in KERNEL_KNOBS)


class QatInt8(Quantizer):
    """What all backends have in common: the trained weights are quantized as ``static`` does it.

    Attributes:
        static: the backend's quantizer; knobs of it that are not offered here have their known-good values.
    """

    scheme: ClassVar[str] = "qat_int8"
    static: ClassVar[Quantizer]

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        static = cls.static
        cls.backends, cls.requires, cls.needs, cls.devices = (
            static.backends, static.requires, static.needs, static.devices
        )  # fmt: skip
        cls.parameters = (QAT_STEPS, *_kernel_knobs(static.parameters))

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        """There must be layers to train, and examples to train on; and static int8 must be possible."""
        recurrent = [layer for layer in profile.layers if layer.startswith(_RECURRENT)]
        if recurrent:
            return f"the rounding of recurrent layers is not trained, and the model has {recurrent[0]}"
        if not any(layer.startswith("Conv") or layer.endswith("Linear") for layer in profile.layers):
            return "the model has no convolution or linear layer whose rounding could be trained"
        if not profile.has_train and profile.calibration_examples < LEAST_EXAMPLES:
            return (
                f"there is no train split, and calibration has {profile.calibration_examples} examples; training needs "
                f"{LEAST_EXAMPLES}"
            )
        return self.static.refuse(profile, target)

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        return (QAT_STEPS, *_kernel_knobs(self.static.parameters_for(profile, target)))

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """Static int8 is tried first: where it loses nothing, training gains nothing."""
        return False

    def training_steps(self, values: dict[str, Scalar]) -> int:
        return int(values["qat_steps"])

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        known_good = defaults(self.static.parameters_for(source.profile, source.target))
        chosen = {name: value for name, value in values.items() if name in known_good}
        self.static.quantize(source, known_good | chosen, folder)


class EagerQatInt8(QatInt8):
    """Trained weights for torch's own static int8."""

    static: ClassVar[Quantizer] = EagerStaticInt8()


class InductorQatInt8(QatInt8):
    """Trained weights for static int8 through PT2E."""

    static: ClassVar[Quantizer] = InductorStaticInt8()


class OnnxQatInt8(QatInt8):
    """Trained weights for onnxruntime's static int8."""

    static: ClassVar[Quantizer] = OnnxStaticInt8()


class OpenVinoQatInt8(QatInt8):
    """Trained weights for NNCF's static int8."""

    static: ClassVar[Quantizer] = OpenVinoStaticInt8()
