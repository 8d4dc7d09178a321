"""Channel pruning: whole channels leave the model through Torch-Pruning's dependency graph, and shapes shrink."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.errors import ParetuneError, UnsupportedError
from evaluators.parameters import Choice, Number, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData
from evaluators.pruners.graph import BN_SCALE, History, global_widths, remove_channels, uniform_widths, wide_layers
from evaluators.pruners.importance import MAGNITUDE, RANDOM, TAYLOR, is_taylor
from evaluators.pruners.widths import ALIGNMENT, fitting, kept_width
from evaluators.structure import call, flatten

__all__ = ["Channel", "kept_width"]

_IMPORTANCE = Choice(
    "importance", (MAGNITUDE, TAYLOR, BN_SCALE, RANDOM), MAGNITUDE,
    "what goes first: the smallest weights, what the loss feels least, the smallest batch-norm scales, or any",
    unsaid=MAGNITUDE,
)  # fmt: skip
_SCOPE = Choice(
    "scope", ("uniform", "global"), "uniform", "every layer loses the same share, or the worst of all layers go",
    unsaid="uniform",
)  # fmt: skip
_STEPS = Choice(
    "steps", (1, 3), 1, "removed at once, or in so many steps, each judged anew after recovery from the one before",
    unsaid=1,
)  # fmt: skip
_RECURRENT = ("LSTM", "GRU", "RNN")


class Channel(Pruner):
    """Removes the channels of least importance of their dependency group (Fang et al., DepGraph, 2023).

    A first try may touch every dependency group; if the model's own code does not follow (hard-coded shapes, attention
    heads), a second one touches only groups of convolution, linear and batch-norm layers that are no part of attention.
    """

    structure: ClassVar[str] = "channel"
    amount: ClassVar[Number] = Number(
        "amount", 0.1, 0.8, 0.1, 0.5, "share of the channels of each layer that is removed"
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (ALIGNMENT, _IMPORTANCE, _SCOPE, _STEPS)
    pays: ClassVar[str] = "in time and size, both about with the square of what is left"

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """Something must be wide enough to lose a whole block of channels."""
        if not profile.widths:
            recurrent = any(layer in profile.layers for layer in _RECURRENT)
            advice = "; its recurrent layers are for structure hidden" if recurrent else ""
            return f"the model has no inner convolution or linear layer whose channels could go{advice}"
        if max(profile.widths) <= int(ALIGNMENT.values[0]):
            return f"no layer is wider than {ALIGNMENT.values[0]} channels, the smallest alignment"
        return None

    def knobs_for(self, profile: WorkloadProfile) -> tuple[Parameter, ...]:
        """What needs batch norms, several layers, or wide ones is left out where there are none."""
        normalized = any(layer.startswith("BatchNorm") for layer in profile.layers)
        importance = [value for value in _IMPORTANCE.values if normalized or value != BN_SCALE]
        scope = (_SCOPE,) if len(profile.widths) > 1 else ()
        return (fitting(ALIGNMENT, max(profile.widths, default=0)), _IMPORTANCE.narrowed(importance), *scope, _STEPS)

    def refuse_value(self, amount: float, knob: str, value: Scalar, profile: WorkloadProfile) -> str | None:
        """An alignment that rounds every layer's share up to all of it removes nothing."""
        if knob != ALIGNMENT.name or any(kept_width(each, amount, int(value)) < each for each in profile.widths):
            return None
        return f"{amount:.0%} of the channels at alignment {value} is nothing"

    def reads_data(self, values: dict[str, Scalar]) -> bool:
        return is_taylor(values)

    def steps(self, values: dict[str, Scalar]) -> int:
        return int(values.get(_STEPS.name, 1))

    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Scalar], *,
        data: PruningData | None = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Remove channels; every surviving width is a multiple of ``alignment``."""
        reasons: list[str] = []
        before = _parameters(module)
        for cautious in (False, True):
            trial = copy.deepcopy(module)
            try:
                history, problem = self._in_steps(module, trial, example, amount, values, cautious, data, between)
            except ParetuneError:
                raise
            except Exception as error:  # Torch-Pruning's tracing fails in many ways; each is a property of the model
                history, problem = [], f"{type(error).__name__}: {error}"
            after = _parameters(trial)
            if problem is None and after >= before:
                problem = f"{amount:.0%} of the channels at alignment {values['alignment']} is nothing"
            if problem is None:
                module.__dict__.update(trial.__dict__)
                return {"structure": self.structure, "removed": history, "parameters": [before, after]}
            reasons.append(problem)
        raise UnsupportedError(f"the model's channels cannot be removed: {reasons[0]}")

    def _in_steps(
        self, module: Any, trial: Any, example: Any, amount: float, values: dict[str, Scalar], cautious: bool,
        data: PruningData | None, between: Callable[[Any], None] | None,
    ) -> tuple[History, str | None]:  # fmt: skip
        """Prune ``trial`` step by step; return what went, and why it is no longer the model that it was, if so."""
        importance, alignment = str(values.get(_IMPORTANCE.name, MAGNITUDE)), int(values["alignment"])
        steps, history, original = self.steps(values), [], dict(wide_layers(module))
        for step in range(1, steps + 1):
            share = amount * step / steps
            widths = uniform_widths(module, share, alignment)
            if values.get(_SCOPE.name) == "global":
                left = 1 - (1 - share) / (1 - amount * (step - 1) / steps)
                widths = global_widths(
                    trial, example, left, alignment, importance=importance, cautious=cautious, data=data
                )
            now = dict(wide_layers(trial))
            widths = {name: min(width, now[name]) for name, width in widths.items() if name in original}
            history += remove_channels(
                trial, example, widths, alignment, importance=importance, cautious=cautious, data=data
            )
            if (problem := _broken(module, trial, example)) is not None:
                return history, problem
            if between is not None and step < steps:
                between(trial)
        return history, None


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _broken(original: Any, pruned: Any, example: Any) -> str | None:
    """Return why the pruned model no longer runs or answers in other shapes, or None."""
    import torch

    with torch.no_grad():
        wanted = flatten(call(original, example), "output")[1]
        try:
            found = flatten(call(pruned.eval(), example), "output")[1]
        except RuntimeError as error:
            return str(error).splitlines()[0]
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            return f"{name} has shape {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
    return None
