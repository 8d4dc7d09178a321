"""Pruner: one structure of pruning, applied in place to a float module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.parameters import Number, Parameter
from evaluators.profile import Prunable, WorkloadProfile
from evaluators.pruners.data import PruningData
from evaluators.pruners.recovery import recovery_for
from evaluators.target import Target


class Pruner(ABC):
    """What a pruner declares — capability as data — and the one thing that it does.

    Attributes:
        structure: the word used in candidates.
        amount: the share of what it removes, as a searched number.
        parameters: its other knobs; their defaults are the known-good recipe.
        left_out: why a knob, or values of it, are not offered where they are not, by the knob's name.
        needs: features that the target must have, any one of which is enough.
        pays: what it is good for, and what not, in one sentence.
    """

    structure: ClassVar[str]
    amount: ClassVar[Number]
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    left_out: ClassVar[Mapping[str, str]] = MappingProxyType({})
    needs: ClassVar[tuple[str, ...]] = ()
    pays: ClassVar[str] = ""

    def refuse_target(self, target: Target) -> str | None:
        """Return why pruning so is of no use on ``target``, or None if it may be."""
        if self.needs and not any(target.has(feature) for feature in self.needs):
            return f"{target.name} has none of {', '.join(self.needs)}"
        return None

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """Return why the model cannot be pruned this way, or None if it can."""
        if type(self).look is Pruner.look:
            return None
        found = profile.prunable.get(self.structure)
        return "the workload was profiled by an earlier version: profile it again" if found is None else found.why_not

    def look(self, module: Any, example: Any) -> Prunable | None:
        """Return what it finds in the model, for ``refuse`` to read from the profile; None if it needs not look.

        ``module`` is a copy of the model in eval mode, and must be left as it was.
        """
        return None

    def parameters_for(self, profile: WorkloadProfile) -> tuple[Parameter, ...]:
        """Return the knobs that make a difference to this model, recovery included."""
        return (*self.knobs_for(profile), *recovery_for(profile))

    def knobs_for(self, profile: WorkloadProfile) -> tuple[Parameter, ...]:
        """Return its own knobs that make a difference to this model."""
        return self.parameters

    def amount_for(self, profile: WorkloadProfile) -> Number:
        """Return the amounts that differ for this model."""
        return self.amount

    def refuse_value(self, amount: float, knob: str, value: Scalar, profile: WorkloadProfile) -> str | None:
        """Return why a value of a knob does not go with an amount, or None if it does.

        One value of each knob goes with every amount.
        """
        return None

    def reads_data(self, values: dict[str, Scalar]) -> bool:
        """Whether what it removes depends on ``data``; without this, ``prune`` is given none."""
        return False

    def steps(self, values: dict[str, Scalar]) -> int:
        """Return in how many steps it prunes; with more than one, ``between`` is called between them."""
        return 1

    @abstractmethod
    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Scalar], *,
        data: PruningData | None = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Prune ``module`` in place and return the plan: what goes, as JSON.

        Args:
            module: the float model in eval mode.
            example: a small batch of real inputs in the user's own structure.
            amount: the share that goes.
            values: the knobs; one that is missing has its unsaid value.
            data: batches and a loss, where ``reads_data`` asks for them.
            between: called with the module after every step but the last, to let it recover; it leaves shapes, eval
                mode and zeros as they are.

        Raises:
            UnsupportedError: nothing can be removed at these settings, or the model does not allow it.
        """
