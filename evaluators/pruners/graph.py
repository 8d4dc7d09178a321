"""Torch-Pruning's dependency graph: which channels hang together, how much each counts, and taking them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evaluators.pruners.data import PruningData
from evaluators.pruners.importance import RANDOM, SEED, TAYLOR, accumulate_gradients, forget_gradients
from evaluators.pruners.widths import kept_under, kept_width
from evaluators.structure import call, flatten

BN_SCALE = "bn_scale"
_SHAPELESS = ("_ElementWiseOp", "_ReshapeOp")

History = list[list[Any]]
"""What went, as ``[layer name, whether output channels, indices]``."""


def remove_channels(
    module: Any, example: Any, widths: Mapping[str, int], alignment: int, *, importance: str, cautious: bool,
    data: PruningData | None,
) -> History:  # fmt: skip
    """Leave every layer in ``widths`` so many output channels, the most important ones, and return the history.

    Layers that hang together get the width of the first of them; one is never left less than ``alignment``.
    """
    import torch
    import torch_pruning as pruning

    if importance == TAYLOR:
        accumulate_gradients(module, data)
    module.requires_grad_(True)
    layers = dict(module.named_modules())
    now = dict(wide_layers(module))
    ratios = {
        layers[name]: 1 - (min(max(width, alignment), now[name]) + 0.01) / now[name] for name, width in widths.items()
    }  # Torch-Pruning truncates what is kept
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        pruner = pruning.pruner.BasePruner(
            module,
            example,
            importance=_importance(importance),
            pruning_ratio=0.0,
            pruning_ratio_dict=ratios,
            ignored_layers=fixed_layers(module, example),
            forward_fn=call,
        )
        for group in pruner.step(interactive=True):
            if not cautious or _plain(group):
                group.prune()
    history = [[name, bool(is_out), [int(i) for i in indices]] for name, is_out, indices in pruner.DG.pruning_history()]
    forget_gradients(module)
    return history


def uniform_widths(module: Any, amount: float, alignment: int) -> dict[str, int]:
    """Return how many output channels every layer keeps, if all lose the same share."""
    return {name: kept_width(width, amount, alignment) for name, width in wide_layers(module)}


def global_widths(
    module: Any, example: Any, amount: float, alignment: int, *, importance: str, cautious: bool,
    data: PruningData | None,
) -> dict[str, int]:  # fmt: skip
    """Return how many output channels every layer keeps, if the worst of all layers together go.

    Importance is relative to the mean of its group, so that groups of large weights do not outweigh the others.
    """
    import torch
    import torch_pruning as pruning

    if importance == TAYLOR:
        accumulate_gradients(module, data)
    module.requires_grad_(True)
    graph = pruning.DependencyGraph().build_dependency(module, example, forward_fn=call)
    judge, names = _importance(importance), {layer: name for name, layer in module.named_modules()}
    groups, scores = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for group in graph.get_all_groups(ignored_layers=fixed_layers(module, example)):
            found = judge(group) if not cautious or _plain(group) else None
            if found is not None:
                groups.append([names[layer] for layer in _producers(graph, group) if layer in names])
                scores.append(found.tolist())
    forget_gradients(module)
    widths = dict(wide_layers(module))
    for producers, width in zip(groups, kept_under(scores, amount, alignment), strict=True):
        widths |= {name: width for name in producers if name in widths}
    return widths


def wide_layers(module: Any) -> list[tuple[str, int]]:
    """Return the convolution and linear layers by name, with their output widths."""
    import torch

    found: list[tuple[str, int]] = []
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.modules.conv._ConvNd):
            found.append((name, layer.out_channels))
        elif isinstance(layer, torch.nn.Linear):
            found.append((name, layer.out_features))
    return found


def _importance(name: str) -> Callable[[Any], Any]:
    from torch_pruning.pruner import importance

    made: Callable[[Any], Any] = {
        TAYLOR: importance.GroupTaylorImportance,
        BN_SCALE: importance.BNScaleImportance,
        RANDOM: importance.RandomImportance,
    }.get(name, importance.GroupMagnitudeImportance)()
    return made


def _producers(graph: Any, group: Any) -> list[Any]:
    return [
        dependency.target.module for dependency, _ in group if graph.is_out_channel_pruning_fn(dependency.handler)
    ]  # fmt: skip


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


def fixed_layers(module: Any, example: Any) -> list[Any]:
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
