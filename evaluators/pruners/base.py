"""Pruner: one structure of pruning, applied in place to a float module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.parameters import Choice, Number, Parameter
from evaluators.profile import WorkloadProfile

RECOVERY_STEPS = Choice(
    "recovery_steps", (0, 50, 150, 500), 150, "training steps of distillation from the original model after pruning"
)


class Pruner(ABC):
    """What a pruner declares — capability as data — and the one thing that it does.

    Attributes:
        structure: the word used in candidates.
        amount: the share of what it removes, as a searched number.
        parameters: its other knobs; their defaults are the known-good recipe.
    """

    structure: ClassVar[str]
    amount: ClassVar[Number]
    parameters: ClassVar[tuple[Parameter, ...]] = ()

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """Return why the model cannot be pruned this way, or None if it can."""
        return None

    def parameters_for(self, profile: WorkloadProfile) -> tuple[Parameter, ...]:
        """Return the knobs that make a difference to this model, recovery included."""
        return (*self.parameters, RECOVERY_STEPS)

    @abstractmethod
    def prune(self, module: Any, example: Any, amount: float, values: dict[str, Scalar]) -> dict[str, Any]:
        """Prune ``module`` in place and return the plan: what goes, as JSON.

        ``example`` is a small batch of real inputs in the user's own structure.

        Raises:
            UnsupportedError: nothing can be removed at these settings, or the model does not allow it.
        """
