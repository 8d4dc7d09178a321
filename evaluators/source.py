"""SourceModel: the float model that a quantizer starts from — pruned and recovered — with its calibration data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluators.profile import WorkloadProfile
from evaluators.sensitivity import LayerSensitivity
from evaluators.target import Target


class SourceModel(ABC):
    """What quantizers and backends may ask of the model under trial. Shared conversions are made once and cached.

    ``batch_size`` is None where one conversion serves every batch size (``profile.dynamic_batch``); otherwise
    conversions are made for exactly that batch size. ``target`` is that of the candidate.
    """

    profile: WorkloadProfile
    batch_size: int | None
    target: Target

    @abstractmethod
    def module(self) -> Any:
        """Return a fresh ``nn.Module`` in eval mode with the trained, pruned and recovered weights."""

    @abstractmethod
    def weights(self) -> Path:
        """Return the folder with ``plan.json`` and ``weights.safetensors`` that rebuild the module."""

    @abstractmethod
    def example(self, batch_size: int) -> Any:
        """Return ``batch_size`` real calibration inputs as one batch in the user's own structure (torch tensors)."""

    @abstractmethod
    def calibration(self, batch_size: int = 16, limit: int = 256) -> Iterator[Any]:
        """Yield batches of real calibration inputs in the user's own structure, at most ``limit`` examples.

        Where ``self.batch_size`` is set, batches have exactly that size whatever is asked.
        """

    @abstractmethod
    def sensitivity(self) -> tuple[LayerSensitivity, ...]:
        """Return the layers of the module, those first that int8 costs most, measured on calibration inputs.

        Raises:
            UnsupportedError: the model cannot be measured layer by layer.
        """

    @abstractmethod
    def exported(self) -> Path:
        """Return the ``.pt2`` file of the model captured by ``torch.export`` (float, dynamic axes kept)."""

    @abstractmethod
    def onnx(self) -> Path:
        """Return the ``.onnx`` file of the float model; input and output names are those of the profile."""
