"""Quantizers in the Core ML form: how a package is to be made of the float model, as ``recipe.json``.

Core ML stores weights in fewer bits and computes in float16 unless activations are quantized too. A package has the
shapes of its inputs in its program, so the float model is converted and compressed in the build, for its batch size.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.frozen import Frozen
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.source import SourceModel
from evaluators.target import Target

RECIPE = "recipe.json"
_BACKENDS = ("coreml",)

_DEPLOYMENT = Choice(
    "deployment", ("ios17", "ios18"), "ios17",
    "oldest system that runs the package: iOS 17 and macOS 14, or iOS 18 and macOS 15 with its newer operators",
)  # fmt: skip
_BITS = Choice("bits", (4, 6, 8), 6, "bits of an index into the table of a tensor's 16, 64 or 256 values")


class Recipe(Frozen):
    """How a package is made: what it computes in, how its weights are stored, and the system that it is for.

    Attributes:
        compute: the type of activations that are not quantized.
        weights: ``float`` as ``compute`` says, ``int8`` with a scale per output channel, or ``palettized``.
        bits: of a palettized weight; null with the others.
        activations: ``int8`` where they are quantized after calibration.
        deployment: the oldest system, in the words of ``coremltools.target``.
    """

    compute: Literal["fp32", "fp16"]
    weights: Literal["float", "int8", "palettized"] = "float"
    bits: int | None = None
    activations: Literal["float", "int8"] = "float"
    deployment: str


def read_recipe(folder: Path) -> Recipe:
    """Read what a quantizer of this module wrote."""
    return Recipe.model_validate_json((folder / RECIPE).read_bytes())


class CoreMlFloat32(Quantizer):
    """The float model, computed in float32: on the processor or the GPU, never on the Neural Engine."""

    scheme: ClassVar[str] = "fp32"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    parameters: ClassVar[tuple[Parameter, ...]] = (_DEPLOYMENT,)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _write(Recipe(compute="fp32", deployment=str(values["deployment"])), folder)


class CoreMlFloat16(Quantizer):
    """Weights and activations in float16, which all compute units of Apple silicon take."""

    scheme: ClassVar[str] = "fp16"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    parameters: ClassVar[tuple[Parameter, ...]] = (_DEPLOYMENT,)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _write(Recipe(compute="fp16", deployment=str(values["deployment"])), folder)


class CoreMlWeightInt8(Quantizer):
    """Weights in int8 with a scale for each output channel; computed in float16."""

    scheme: ClassVar[str] = "weight_int8"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    parameters: ClassVar[tuple[Parameter, ...]] = (_DEPLOYMENT,)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _write(Recipe(compute="fp16", weights="int8", deployment=str(values["deployment"])), folder)


class CoreMlPalettized(Quantizer):
    """Weights as indices into a table of values that k-means chose for each tensor; computed in float16."""

    scheme: ClassVar[str] = "palettized"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    parameters: ClassVar[tuple[Parameter, ...]] = (_BITS, _DEPLOYMENT)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        deployment, bits = str(values["deployment"]), int(values["bits"])
        _write(Recipe(compute="fp16", weights="palettized", bits=bits, deployment=deployment), folder)


class CoreMlStaticInt8(Quantizer):
    """Weights and activations in int8; coremltools finds the activations' ranges by running the model, on macOS."""

    scheme: ClassVar[str] = "static_int8"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    parameters: ClassVar[tuple[Parameter, ...]] = (_DEPLOYMENT,)

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        if (why := needs_macos(target.system)) is not None:
            return f"the ranges of activations are found by running the model with Core ML: {why}"
        return super().refuse(profile, target)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import platform

        if (why := needs_macos(platform.system())) is not None:
            raise UnsupportedError(f"static_int8 runs the model with Core ML to find the ranges of activations: {why}")
        deployment = str(values["deployment"])
        _write(Recipe(compute="fp16", weights="int8", activations="int8", deployment=deployment), folder)


def needs_macos(system: str) -> str | None:
    """Return why Core ML cannot run a model on ``system``, as ``platform.system()`` names it, or None on macOS."""
    if system.startswith("Darwin"):
        return None
    return f"Core ML runs on macOS only, and this is {system.partition(' ')[0] or 'an unknown system'}"


def _write(recipe: Recipe, folder: Path) -> None:
    (folder / RECIPE).write_text(recipe.model_dump_json(indent=2))
