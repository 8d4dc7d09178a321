"""Importance: how much each single weight counts, by its magnitude, by the loss, or by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Choice
from evaluators.pruners.data import PruningData
from evaluators.structure import call

MAGNITUDE, TAYLOR, RANDOM = "magnitude", "taylor", "random"
TAYLOR_BATCHES = 4
SEED = 0

UNITS_BY = Choice(
    "importance", (MAGNITUDE, TAYLOR), MAGNITUDE, "what goes first: the smallest weights, or what the loss feels least"
)


def is_taylor(values: dict[str, Scalar]) -> bool:
    """Whether the loss decides."""
    return values.get("importance") == TAYLOR


def element_scores(module: Any, importance: str, data: PruningData | None) -> Callable[[Any], Any]:
    """Return a function from a parameter of ``module`` to the importance of each of its elements.

    ``magnitude`` is the square of a weight; ``taylor`` the first-order change of the loss without it, ``|w · dL/dw|``
    (Molchanov et al., 2019); ``random`` draws it, always the same way.
    """
    import torch

    if importance == RANDOM:
        generator = torch.Generator().manual_seed(SEED)
        return lambda weight: torch.rand(weight.shape, generator=generator)
    if importance == MAGNITUDE:
        return lambda weight: weight.detach().square()
    accumulate_gradients(module, data)
    gradients = {parameter: parameter.grad for parameter in module.parameters()}
    forget_gradients(module)
    return lambda weight: (weight.detach() * gradients[weight]).abs()


def accumulate_gradients(module: Any, data: PruningData | None) -> None:
    """Leave the gradient of the loss over a few batches in every parameter, zero where the loss does not see it."""
    import torch

    if data is None:
        raise UnsupportedError("importance taylor needs data for the loss")
    module.requires_grad_(True)
    for inputs, targets in data.batches(TAYLOR_BATCHES):
        with torch.enable_grad():
            data.loss(call(module, inputs), targets).backward()
    for parameter in module.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def forget_gradients(module: Any) -> None:
    """Take the gradients away again."""
    module.zero_grad(set_to_none=True)
    module.requires_grad_(False)


def best(scores: Sequence[float], count: int) -> list[int]:
    """Return the positions of the ``count`` highest scores in ascending order; the first of equals stays."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])
