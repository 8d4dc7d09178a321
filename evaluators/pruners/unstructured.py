"""Unstructured pruning: the smallest weights of the whole model become zero.

Dense kernels are no faster for it, and files are no smaller until somebody compresses them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Number
from evaluators.profile import WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData

_LAYERS = ("Conv1d", "Conv2d", "Conv3d", "Linear")


class Unstructured(Pruner):
    """Global magnitude pruning of convolution and linear weights (Han et al., 2015)."""

    structure = "unstructured"
    amount = Number("amount", 0.1, 0.9, 0.1, 0.5, "share of all convolution and linear weights that become zero")

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """A model without convolution or linear layers has nothing to prune."""
        if not any(profile.layers.get(layer) for layer in _LAYERS):
            return f"the model has no {', '.join(_LAYERS)} layer"
        return None

    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Scalar], *,
        data: PruningData | None = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Set the globally smallest weights to zero."""
        import torch
        from torch.nn.utils import prune

        wanted = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
        pairs = [(layer, "weight") for layer in module.modules() if isinstance(layer, wanted)]
        if not pairs:
            raise UnsupportedError("there is no convolution or linear weight to prune")
        prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=amount)
        for layer, name in pairs:
            prune.remove(layer, name)  # type: ignore[no-untyped-call]
        zeros = sum(int((layer.weight == 0).sum()) for layer, _ in pairs)
        total = sum(layer.weight.numel() for layer, _ in pairs)
        return {"structure": self.structure, "zeros": zeros, "weights": total}
