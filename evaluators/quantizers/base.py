"""Quantizer: one scheme of quantization, for the backends that take its result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from evaluators.candidate import Scalar
from evaluators.parameters import Parameter
from evaluators.profile import WorkloadProfile
from evaluators.source import SourceModel
from evaluators.target import Target


class Quantizer(ABC):
    """What a quantizer declares — capability as data — and the one thing that it does.

    Attributes:
        scheme: ``fp32``, ``bf16``, ``dynamic_int8``, ``static_int8``, …; one quantizer per backend and scheme.
        backends: names of the backends that build from its result.
        requires: distributions that must be installed besides the backend's own.
        needs: features that the target must have, any one of which is enough.
        devices: torch's words for the devices that it serves; empty for all that its backends serve.
        parameters: its knobs; their defaults are the known-good recipe.
        left_out: why a knob, or values of it, are not offered where they are not, by the knob's name.
    """

    scheme: ClassVar[str]
    backends: ClassVar[tuple[str, ...]]
    requires: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ()
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    left_out: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        """Return why this scheme cannot be used for the model on ``target``, or None if it can."""
        if self.devices and target.device not in self.devices:
            return f"{self.scheme} is made for {', '.join(self.devices)} here, and {target.name} is {target.device}"
        for distribution in self.requires:
            if target.version_of(distribution) is None:
                return f"{distribution} is not installed: pip install {distribution}"
        if self.needs and not any(target.has(feature) for feature in self.needs):
            return f"{target.name} has none of {', '.join(self.needs)}"
        return None

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        """Return the knobs that make a difference to this model on ``target``."""
        return self.parameters

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """Whether a practitioner would try this scheme first for such a model; then it comes before the sampler."""
        return True

    def training_steps(self, values: dict[str, Scalar]) -> int:
        """Return for how many steps the weights learn to be rounded to int8 before ``quantize``; 0 for not at all."""
        return 0

    @abstractmethod
    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        """Write the quantized model into ``folder``, in the form that its backends build from.

        Raises:
            UnsupportedError: the model cannot be quantized this way.
        """
