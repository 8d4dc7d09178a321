"""Layers that keep their weights in 8 or 4 bits and compute in float, for torch on processors.

Products are in bfloat16: torch's kernels for such weights are vectorized for it, and some twenty times slower in
float32 (``int8mm_kernel.cpp``, ``int4mm_kernel.cpp``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.stages.packed import Grain, rounded

INT4_GROUPS = (256, 128, 64, 32)
"""The numbers of columns that torch's kernel for 4 bits can have share a scale."""

_INT4_ROWS = 16  # the kernel takes multiples of so many outputs
_MOST_INLINED = 8  # constants that inductor writes into its code, where its kernels for int8 do not find them


class Int8Linear(nn.Module):
    """A linear layer with weights in int8, a scale for each output."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        whole, scales = rounded(linear.weight, Grain(8, "row"))
        self.register_buffer("weight", whole)
        self.register_buffer("scale", scales.to(torch.bfloat16))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        product = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale).to(x.dtype)
        return _finished(product, x, self.bias)


class Int4Linear(nn.Module):
    """A linear layer with weights in int4, a scale for each ``group_size`` inputs of each output."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear, group_size: int) -> None:
        super().__init__()
        whole, scales = rounded(linear.weight, Grain(4, group_size))
        self.group_size = group_size
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole.to(torch.int32) + 8, 1)
        groups = scales.reshape(linear.out_features, -1).T
        self.register_buffer("weight", packed)
        zeros = torch.zeros_like(groups)
        self.register_buffer("scale", torch.stack([groups, zeros], dim=-1).to(torch.bfloat16).contiguous())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.weight, self.group_size, self.scale)
        return _finished(product.to(x.dtype), x, self.bias)


class Int8Embedding(nn.Module):
    """An embedding whose table is in int8, a scale for each row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        whole, scales = rounded(embedding.weight, Grain(8, "row"))
        self.register_buffer("weight", whole)
        self.register_buffer("scale", scales[:, None])

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight) * nn.functional.embedding(ids, self.scale)


def takes(layer: nn.Module) -> bool:
    """Whether the weights of a layer are quantized: plain linear layers with more than a few outputs.

    A subclass may do anything in its forward, as that of ``MultiheadAttention`` does not call it at all.
    """
    return type(layer) is nn.Linear and layer.out_features > _MOST_INLINED


def fitting_group(linear: nn.Linear, group_size: int) -> int | None:
    """Return the largest group of inputs up to ``group_size`` that the kernel for 4 bits takes, or None."""
    if linear.out_features % _INT4_ROWS:
        return None
    fits = (size for size in INT4_GROUPS if size <= group_size and not linear.in_features % size)
    return next(fits, None)


def with_int8_tables(module: nn.Module) -> nn.Module:
    """Return ``module`` with the tables of its embeddings in int8; it is changed in place."""
    chosen = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Embedding}
    for name, layer in chosen.items():
        module = _replaced(module, name, Int8Embedding(layer)) if layer.max_norm is None else module
    return module


def with_weights_in(module: nn.Module, bits: int, group_size: int) -> nn.Module:
    """Return ``module`` with the weights of its linear layers in 8 or 4 bits; it is changed in place.

    A layer that the kernel for 4 bits does not take has 8.
    """
    chosen = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and takes(layer)}
    for name, layer in chosen.items():
        group = fitting_group(layer, group_size) if bits == 4 else None
        module = _replaced(module, name, Int8Linear(layer) if group is None else Int4Linear(layer, group))
    return module


def _replaced(module: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    if not name:
        return layer.eval()
    module.set_submodule(name, layer.eval())
    return module


def _finished(product: Tensor, x: Tensor, bias: Tensor | None) -> Tensor:
    result = product.reshape(*x.shape[:-1], product.shape[-1])
    return result if bias is None else result + bias
