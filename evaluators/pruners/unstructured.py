"""Unstructured pruning: single weights become zero.

Shapes stay: dense kernels are no faster for it, and files are no smaller until somebody compresses them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Choice, Number, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData
from evaluators.pruners.importance import MAGNITUDE, RANDOM, element_scores

_LAYERS = ("Conv1d", "Conv2d", "Conv3d", "Linear")


class Unstructured(Pruner):
    """Pruning of single convolution and linear weights (Han et al., 2015)."""

    structure: ClassVar[str] = "unstructured"
    amount: ClassVar[Number] = Number(
        "amount", 0.1, 0.9, 0.1, 0.5, "share of convolution and linear weights that become zero: it pays in compressed "
        "size, not in time on dense kernels",
    )  # fmt: skip
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Choice("importance", (MAGNITUDE, RANDOM), MAGNITUDE, "the smallest weights go, or any", unsaid=MAGNITUDE),
        Choice("scope", ("global", "layer"), "global", "the share is that of the model, or of each layer",
               unsaid="global"),
    )  # fmt: skip
    pays: ClassVar[str] = "in compressed size; not in time on dense kernels, nor in size on disk"

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """A model without convolution or linear layers has nothing to prune."""
        if not any(profile.layers.get(layer) for layer in _LAYERS):
            return f"the model has no {', '.join(_LAYERS)} layer"
        return None

    def knobs_for(self, profile: WorkloadProfile) -> tuple[Parameter, ...]:
        """The scope makes no difference to a single layer."""
        alone = sum(profile.layers.get(layer, 0) for layer in _LAYERS) == 1
        return self.parameters[:1] if alone else self.parameters

    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Scalar], *,
        data: PruningData | None = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Set the least important weights to zero."""
        import torch
        from torch.nn.utils import prune

        wanted = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)
        pairs = [(layer, "weight") for layer in module.modules() if isinstance(layer, wanted)]
        if not pairs:
            raise UnsupportedError("there is no convolution or linear weight to prune")
        score = element_scores(module, RANDOM, data) if values.get("importance") == RANDOM else None
        scopes = [pairs] if values.get("scope", "global") == "global" else [[pair] for pair in pairs]
        for scope in scopes:
            chosen = {pair: score(pair[0].weight) for pair in scope} if score else None
            prune.global_unstructured(scope, prune.L1Unstructured, importance_scores=chosen, amount=amount)
        for layer, name in pairs:
            prune.remove(layer, name)  # type: ignore[no-untyped-call]
        zeros = sum(int((layer.weight == 0).sum()) for layer, _ in pairs)
        total = sum(layer.weight.numel() for layer, _ in pairs)
        return {"structure": self.structure, "zeros": zeros, "weights": total}
