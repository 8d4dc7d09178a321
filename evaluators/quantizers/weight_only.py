"""What schemes that quantize weights alone have in common on every backend."""

from __future__ import annotations

from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.traits import refuse_weight_only
from evaluators.target import Target


class WeightOnly(Quantizer):
    """Linear layers with weights of few bits and activations in float; for models whose weights are in such layers."""

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        return refuse_weight_only(profile) or super().refuse(profile, target)

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """It pays where weights are read more often than they are computed with: large models at small batches."""
        return False
