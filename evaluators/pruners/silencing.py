"""Silencing: units whose weights are zero answer nothing, so who reads them shows, and so does a wrong cut.

A unit is a hidden unit of a recurrent layer, a head of attention, or an inner unit of a perceptron. With the weights
that make it set to zero, a model answers exactly as it would without it. That finds the layers that read it, whatever
the model's own code does in between, and proves of a smaller model that it is the same one without these units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from evaluators.errors import UnsupportedError
from evaluators.structure import call, flatten

Rows = Sequence[tuple[Any, Sequence[int]]]
"""Parameters, and which of their rows make the units."""

TOLERANCE = 1e-3
"""Of the largest output: sums of fewer terms are rounded otherwise."""


@contextmanager
def silenced(rows: Rows) -> Iterator[None]:
    """Within it, these rows of the parameters are zero."""
    import torch

    saved = [parameter.detach().clone() for parameter, _ in rows]
    with torch.no_grad():
        for parameter, chosen in rows:
            parameter[list(chosen)] = 0.0
    try:
        yield
    finally:
        with torch.no_grad():
            for (parameter, _), before in zip(rows, saved, strict=True):
                parameter.copy_(before)


def answers(module: Any, example: Any) -> dict[str, Any]:
    """Return the model's outputs by name, computed layer by layer: torch's fused encoder hides what goes in between."""
    import torch

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            return flatten(call(module, example), "output")[1]
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


class Probe:
    """A model and a batch on which is watched what its linear and recurrent layers are given."""

    def __init__(self, module: Any, example: Any) -> None:
        self.module, self.example = module, example

    def readers(self, rows: Rows, patterns: Mapping[str, tuple[int, Sequence[int]]]) -> dict[str, str]:
        """Return the layers whose input consists of the units, by name, with the pattern that they stand in there.

        Args:
            rows: what makes some of the units.
            patterns: by name, the width of an input that consists of the units, and where those of ``rows`` stand.
        """
        before = self._before
        with silenced(rows):
            after = self._inputs()
        found = {}
        for layer, largest in after.items():
            zero = {i for i, value in enumerate(largest) if value == 0.0}
            fresh = {i for i in zero if before[layer][i] != 0.0}
            for name, (width, silent) in patterns.items():
                read = width == len(largest) and zero >= set(silent) and not fresh.isdisjoint(silent)
                if read and len(zero) < width:
                    found[layer] = name
                    break
        return found

    @cached_property
    def _before(self) -> dict[str, list[float]]:
        return self._inputs()

    def _inputs(self) -> dict[str, list[float]]:
        """Return the largest value of every feature that linear and recurrent layers are given."""
        import torch

        largest: dict[str, Any] = {}

        def hook(name: str) -> Any:
            def note(_: Any, inputs: tuple[Any, ...]) -> None:
                found = inputs[0].detach().abs().flatten(0, -2).amax(0)
                largest[name] = torch.maximum(largest[name], found) if name in largest else found

            return note

        handles = [
            layer.register_forward_pre_hook(hook(name)) for name, layer in self.module.named_modules()
            if isinstance(layer, torch.nn.Linear | torch.nn.RNNBase)
        ]  # fmt: skip
        try:
            answers(self.module, self.example)
        finally:
            for handle in handles:
                handle.remove()
        return {name: found.tolist() for name, found in largest.items()}


def differs(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Return how outputs differ from what they should be, or None if they do not."""
    for name, tensor in wanted.items():
        other = found[name]
        if other.shape != tensor.shape:
            return f"{name} has shape {tuple(other.shape)} instead of {tuple(tensor.shape)}"
        if not tensor.is_floating_point():
            continue
        scale, apart = float(tensor.abs().max()), float((other - tensor).abs().max())
        if not apart <= TOLERANCE * max(scale, 1e-6):
            return f"{name} is {apart:.2g} away from that of the model with these units silenced (largest: {scale:.2g})"
    return None


def adopt(module: Any, smaller: Any, example: Any, rows: Rows, what: str) -> None:
    """Make ``module`` what ``smaller`` is, after seeing that it answers as ``module`` does with ``rows`` silenced.

    Raises:
        UnsupportedError: it does not, or does not run at all.
    """
    try:
        with silenced(rows):
            wanted = answers(module, example)
        problem = differs(answers(smaller, example), wanted)
    except (RuntimeError, ValueError, AttributeError, TypeError, IndexError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    if problem is not None:
        raise UnsupportedError(f"the model's code does not follow when {what}: {problem}")
    module.__dict__.update(smaller.__dict__)


def keep_rows(layer: Any, kept: Sequence[int]) -> None:
    """Leave a linear layer these outputs."""
    import torch

    layer.weight = torch.nn.Parameter(layer.weight.detach()[list(kept)].clone(), requires_grad=False)
    if layer.bias is not None:
        layer.bias = torch.nn.Parameter(layer.bias.detach()[list(kept)].clone(), requires_grad=False)
    layer.out_features = len(kept)


def keep_columns(layer: Any, kept: Sequence[int]) -> None:
    """Leave a linear or recurrent layer these inputs."""
    import torch

    names = ["weight"] if isinstance(layer, torch.nn.Linear) else ["weight_ih_l0"]
    if getattr(layer, "bidirectional", False):
        names.append("weight_ih_l0_reverse")
    for name in names:
        weight = getattr(layer, name).detach()[:, list(kept)].clone()
        setattr(layer, name, torch.nn.Parameter(weight, requires_grad=False))
    setattr(layer, "in_features" if isinstance(layer, torch.nn.Linear) else "input_size", len(kept))
