"""Weights of torch's modules in 8 and 4 bits: which of them a scheme stores so, and the schemes of weights only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from evaluators.candidate import Scalar
from evaluators.parameters import Choice, Parameter
from evaluators.quantizers.weight_only import WeightOnly
from evaluators.source import SourceModel
from evaluators.stages.packed import Grain

if TYPE_CHECKING:
    from torch import nn

GROUP_SIZE = Choice("group_size", (32, 128), 128, "inputs of an output whose 4-bit weights share a scale")
BITS = {"weight_int8": 8, "weight_int4": 4}
"""The schemes that quantize weights only, and the bits that they keep."""


class EagerWeightInt8(WeightOnly):
    """Linear layers with int8 weights, computed in bfloat16, and embeddings stored in int8. Needs no calibration."""

    scheme: ClassVar[str] = "weight_int8"
    backends: ClassVar[tuple[str, ...]] = ("eager",)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        from evaluators.quantizers.torch_recipe import Recipe

        recipe = Recipe(self.scheme, group_size=int(values.get("group_size", 0)), packed=True)
        recipe.write(source.weights(), folder, source.module())


class EagerWeightInt4(EagerWeightInt8):
    """Linear layers with int4 weights, a scale for each group of inputs; embeddings stored in int8."""

    scheme: ClassVar[str] = "weight_int4"
    parameters: ClassVar[tuple[Parameter, ...]] = (GROUP_SIZE,)


def quantize_weights(module: nn.Module, scheme: str, group_size: int) -> nn.Module:
    """Return ``module`` with its linear layers' weights in the bits of ``scheme``; it is changed in place."""
    from evaluators.quantizers.weight_layers import with_weights_in

    return with_weights_in(module, BITS[scheme], group_size)


def grains_of(module: nn.Module, scheme: str, group_size: int) -> dict[str, Grain]:
    """Return how each weight is stored that ``scheme`` computes with in 8 bits or fewer, by its name.

    Tables of embeddings are looked up and not computed with; they are stored in 8 bits by all these schemes.
    """
    found: dict[str, Grain] = {}
    for name, layer in module.named_modules():
        for leaf, grain in _grains(layer, scheme, group_size).items():
            found[f"{name}.{leaf}" if name else leaf] = grain
    return found


def _grains(layer: nn.Module, scheme: str, group_size: int) -> dict[str, Grain]:
    from torch import nn

    kind = type(layer)
    if kind is nn.Embedding:
        return {"weight": Grain(8, "row")}
    if isinstance(layer, nn.Linear) and scheme in BITS:
        from evaluators.quantizers.weight_layers import fitting_group, takes

        group = fitting_group(layer, group_size) if BITS[scheme] == 4 else None
        return {"weight": Grain(8, "row") if group is None else Grain(4, group)} if takes(layer) else {}
    if kind is nn.Linear:
        return {"weight": Grain(8, "row")}
    if scheme == "static_int8" and kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        return {"weight": Grain(8, "row")}
    if scheme == "dynamic_int8" and kind in (nn.LSTM, nn.GRU):
        weights = [name for name, _ in layer.named_parameters(recurse=False) if name.startswith("weight_")]
        return dict.fromkeys(weights, Grain(8, "tensor"))
    return {}
