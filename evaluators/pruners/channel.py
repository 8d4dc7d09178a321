"""Channel pruning: whole channels leave the model through Torch-Pruning's dependency graph, and shapes shrink."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Choice, Number, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData
from evaluators.structure import call, flatten

_ALIGNMENTS = (8, 16, 32)
_SHAPELESS = ("_ElementWiseOp", "_ReshapeOp")


class Channel(Pruner):
    """Removes the channels of least group magnitude, the same share in every layer (Fang et al., DepGraph, 2023).

    A first try may touch every dependency group; if the model's own code does not follow (hard-coded shapes, attention
    heads), a second one touches only groups of convolution, linear and batch-norm layers that are no part of attention.
    """

    structure = "channel"
    amount = Number("amount", 0.1, 0.8, 0.1, 0.5, "share of the channels of each layer that is removed")
    parameters = (Choice("alignment", _ALIGNMENTS, 8, "channels left are a multiple of this"),)

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """Something must be wide enough to lose a whole block of channels."""
        if not profile.widths:
            return "the model has no inner convolution or linear layer whose channels could go"
        if max(profile.widths) <= _ALIGNMENTS[0]:
            return f"no layer is wider than {_ALIGNMENTS[0]} channels, the smallest alignment"
        return None

    def parameters_for(self, profile: WorkloadProfile) -> tuple[Parameter, ...]:
        """An alignment as wide as the widest layer removes nothing."""
        alignment = self.parameters[0]
        if not isinstance(alignment, Choice):
            raise TypeError("alignment must be a choice")
        widest = max(profile.widths, default=0)
        fitting = [value for value in _ALIGNMENTS if value < widest] or [_ALIGNMENTS[0]]
        return (alignment.narrowed(fitting), *super().parameters_for(profile)[1:])

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
                history = _prune(trial, example, amount, int(values["alignment"]), cautious)
                problem = _broken(module, trial, example)
            except Exception as error:  # Torch-Pruning's tracing fails in many ways; each is a property of the model
                problem = f"{type(error).__name__}: {error}"
            after = _parameters(trial)
            if problem is None and after >= before:
                problem = f"{amount:.0%} of the channels at alignment {values['alignment']} is nothing"
            if problem is None:
                module.__dict__.update(trial.__dict__)
                return {"structure": self.structure, "removed": history, "parameters": [before, after]}
            reasons.append(problem)
        raise UnsupportedError(f"the model's channels cannot be removed: {reasons[0]}")


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _prune(module: Any, example: Any, amount: float, alignment: int, cautious: bool) -> list[list[Any]]:
    """Prune in place and return the history: ``[layer name, whether output channels, indices]``."""
    import torch_pruning as pruning

    module.requires_grad_(True)
    ratios = {
        layer: 1 - (kept_width(width, amount, alignment) + 0.01) / width for layer, width in _wide_layers(module)
    }  # Torch-Pruning truncates what is kept
    pruner = pruning.pruner.BasePruner(
        module,
        example,
        importance=pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.0,
        pruning_ratio_dict=ratios,
        ignored_layers=_fixed_layers(module, example),
        forward_fn=call,
    )
    for group in pruner.step(interactive=True):
        if not cautious or _plain(group):
            group.prune()
    history = [[name, bool(is_out), [int(i) for i in indices]] for name, is_out, indices in pruner.DG.pruning_history()]
    module.requires_grad_(False)
    return history


def kept_width(width: int, amount: float, alignment: int) -> int:
    """Return how many of ``width`` channels stay: the nearest multiple of ``alignment``, at least one, at most all."""
    nearest = round(width * (1 - amount) / alignment) * alignment
    return min(width, max(alignment, nearest))


def _wide_layers(module: Any) -> list[tuple[Any, int]]:
    import torch

    found: list[tuple[Any, int]] = []
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.conv._ConvNd):
            found.append((layer, layer.out_channels))
        elif isinstance(layer, torch.nn.Linear):
            found.append((layer, layer.out_features))
    return found


def _plain(group: Any) -> bool:
    """Whether a dependency group holds only layers whose widths nobody hard-codes, and one linear producer at most.

    Query, key and value share a group of three producers whose width the model's code divides into heads.
    """
    import torch

    plain = (torch.nn.modules.conv._ConvNd, torch.nn.Linear, torch.nn.modules.batchnorm._BatchNorm, torch.nn.PReLU)
    linear_producers = 0
    for dependency, _ in group:
        layer = dependency.target.module
        if not isinstance(layer, plain) and type(layer).__name__ not in _SHAPELESS:
            return False
        linear_producers += isinstance(layer, torch.nn.Linear) and "out_channels" in dependency.handler.__name__
    return linear_producers <= 1


def _fixed_layers(module: Any, example: Any) -> list[Any]:
    """Return the layers that make the model's outputs: their widths are the task's, not ours."""
    import torch

    wanted = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    seen: list[tuple[Any, int]] = []

    def remember(layer: Any, _: Any, output: Any) -> None:
        seen.append((layer, output.shape[-1 if isinstance(layer, torch.nn.Linear) else 1]))

    hooks = [layer.register_forward_hook(remember) for layer in module.modules() if isinstance(layer, wanted)]
    try:
        with torch.no_grad():
            outputs = call(module, example)
    finally:
        for hook in hooks:
            hook.remove()
    fixed = []
    for tensor in flatten(outputs, "output")[1].values():
        widths = set(tensor.shape[1:])
        matching = [layer for layer, width in seen if width in widths]
        fixed += matching[-1:] or [layer for layer, _ in seen[-1:]]
    return fixed


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
