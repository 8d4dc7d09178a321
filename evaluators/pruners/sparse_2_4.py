"""2:4 sparsity: two of every four input channels of a weight are zero, for sparse matrix units."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Number
from evaluators.profile import WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData

if TYPE_CHECKING:
    from torch import Tensor

_LAYERS = ("Conv1d", "Conv2d", "Conv3d", "Linear")
_GROUP, _KEPT = 4, 2


class Sparse24(Pruner):
    """Zeroes the two smallest of every four weights; recovery leaves them zero."""

    structure: ClassVar[str] = "sparse_2_4"
    amount: ClassVar[Number] = Number("amount", 0.5, 0.5, 0.5, 0.5, "two of every four input channels become zero")
    needs: ClassVar[tuple[str, ...]] = ("sparse_2_4",)
    pays: ClassVar[str] = (
        "in time on TensorRT, which is told to use the sparse units; elsewhere in compressed size only"
    )

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """There must be convolution or linear layers."""
        if not any(profile.layers.get(layer) for layer in _LAYERS):
            return f"the model has no {', '.join(_LAYERS)} layer"
        return None

    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Scalar], *,
        data: PruningData | None = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Zero two of every four input channels in every layer whose input channels are a multiple of four."""
        import torch

        changed = []
        with torch.no_grad():
            for name, layer in module.named_modules():
                if type(layer).__name__ in _LAYERS and (sparse := sparse_2_4(layer.weight)) is not None:
                    layer.weight.copy_(sparse)
                    changed.append(name)
        if not changed:
            raise UnsupportedError("no layer's input channels are a multiple of four")
        return {"structure": self.structure, "layers": changed}


def sparse_2_4(weight: Tensor) -> Tensor | None:
    """Return a weight with the two smallest of every four input channels set to zero, or None if four do not divide.

    ``weight`` has shape (outputs, inputs, …), as linear layers and convolutions have; the groups run along the inputs,
    as the sparse matrix units take them (Mishra et al. 2021, arXiv:2104.08378).
    """
    import torch

    outputs, inputs = weight.shape[:2]
    if inputs % _GROUP:
        return None
    groups = weight.reshape(outputs, inputs // _GROUP, _GROUP, *weight.shape[2:])
    largest = groups.abs().topk(_KEPT, dim=2).indices
    kept = torch.zeros_like(groups).scatter(2, largest, 1.0)
    return (groups * kept).reshape(weight.shape)
